"""Taylor series of optima against closed forms and derivatives found another way."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expressway.core import constraints
from expressway.core.implicit import implicit
from expressway.core.problem import Equation, Objective
from expressway.core.staged import Staged
from expressway.core.taylor import taylor

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 4))
S = np.sign(X[:, 0] + RNG.normal(size=40))


@pytest.fixture(scope="module")
def blog():
    # Giordano's example of sensitivity to hyperparameters: dimensions 4 and 3.
    rng = np.random.RandomState(42)
    a = rng.random_sample((4, 4))
    a = a @ a.T + np.eye(4)

    def fn(t, h):
        return 0.5 * t @ a @ t + jnp.mean(t - 0.5) ** 5 * jnp.mean(h - 0.5) ** 5

    return Objective(fn).solve(jnp.zeros(4), jnp.zeros(3))


@pytest.fixture(scope="module")
def logistic():
    def fn(t, h):
        return jnp.sum(h["w"] * jax.nn.softplus(-S * (X @ t))) + jnp.exp(h["log ridge"]) * t @ t

    hyper = {"w": jnp.ones(40), "log ridge": -0.5}
    return Objective(fn).solve(jnp.zeros(4), hyper)


@pytest.mark.parametrize("structure", ["dense", "matrix-free"])
def test_ridge_regression_to_order_eight(structure):
    y = X @ np.arange(4.0) + 1
    problem = Objective(lambda t, h: 0.5 * jnp.sum((y - X @ t) ** 2) + 0.5 * h * t @ t)
    fit = problem.solve(jnp.zeros(4), 3.0, structure=structure)
    inverse = np.linalg.inv(X.T @ X + 3 * np.eye(4))
    series = taylor(fit, 8)
    found, expected = series.terms(2.0), fit.theta
    for k in range(8):
        expected = -2.0 * inverse @ expected
        np.testing.assert_allclose(found[k], expected, rtol=1e-10)
    np.testing.assert_allclose(
        series.derivatives(1.0)[3], 24 * np.linalg.matrix_power(inverse, 4) @ fit.theta, rtol=1e-10
    )


def test_terms_are_the_derivatives_of_the_implicit_function(blog):
    delta = 0.1 * RNG.normal(size=3)
    series, theta_hat = taylor(blog, 3), implicit(blog)
    terms = series.terms(delta)
    function = lambda e: theta_hat(e * delta)  # noqa: E731
    for k in range(3):
        function = jax.jacfwd(function)
        np.testing.assert_allclose(
            terms[k], function(0.0) / math.factorial(k + 1), rtol=1e-10, atol=1e-18
        )
    array = series.array(2)
    np.testing.assert_allclose(array @ delta @ delta / 2, terms[1], rtol=1e-10, atol=1e-18)


def test_mixed_derivatives(logistic):
    series, theta_hat = taylor(logistic, 3), implicit(logistic)
    hyper = logistic.hyper
    move = [
        {"w": RNG.normal(size=40), "log ridge": 0.0},
        {"w": np.zeros(40), "log ridge": 1.0},
        {"w": RNG.normal(size=40), "log ridge": 0.4},
    ]

    def at(*e):
        return theta_hat(
            jax.tree.map(
                lambda h, *d: h + sum(x * y for x, y in zip(e, d, strict=True)), hyper, *move
            )
        )

    zero = (0.0, 0.0, 0.0)
    two = jax.jacfwd(jax.jacfwd(at, 0), 1)(*zero)
    np.testing.assert_allclose(series.mixed(*move[:2]), two, rtol=1e-11)
    three = jax.jacfwd(jax.jacfwd(jax.jacfwd(at, 0), 1), 2)(*zero)
    np.testing.assert_allclose(series.mixed(*move), three, rtol=1e-10)
    with pytest.raises(ValueError, match="4 directions of a series of order 3"):
        series.mixed(*move, move[0])


def test_directions_are_batched_and_one_function_is_compiled(logistic):
    series = taylor(logistic, 3)
    moves = {"w": RNG.normal(size=(5, 40)), "log ridge": RNG.normal(size=5)}
    batch = jax.vmap(series.terms)(moves)
    for i in range(5):
        one = series.terms({"w": moves["w"][i], "log ridge": moves["log ridge"][i]})
        np.testing.assert_allclose(batch[i], one, rtol=1e-11)


def test_errors_fall_by_the_order(logistic):
    gone = {"w": np.ones(40), "log ridge": -0.5}
    gone["w"][:2] = 0.0
    exact = logistic.again(gone).theta
    errors = [np.abs(taylor(logistic, k)(gone) - exact).max() for k in range(1, 6)]
    ratio = np.array(errors[1:]) / errors[:-1]
    assert np.all(ratio < 0.5)
    corrected = taylor(logistic, 2).correct(gone)
    np.testing.assert_allclose(corrected.theta, exact, rtol=1e-11)


def test_trust(logistic):
    series = taylor(logistic, 3)
    near = {"w": np.ones(40), "log ridge": -0.45}
    assert series.trust(near).trusted
    far = {"w": np.where(np.arange(40) < 34, 0.0, 1.0), "log ridge": -9.0}
    trust = series.trust(far)
    assert not trust.trusted
    assert trust.smallest < 0.1
    assert "curvature" in trust.reason
    assert trust.ratio > 0.7


def test_constrained_parameters():
    def fn(t, h):
        counts = jnp.array([1.0, 2.0, 3.0])
        scale = jnp.array([[2.0, 0.3], [0.3, 1.0]])
        return (
            5 * jnp.log(t["sd"])
            + h / t["sd"] ** 2
            - jnp.sum(counts * jnp.log(t["p"]))
            + h * t["p"][0] ** 2
            + jnp.trace(t["S"] @ scale)
            - h * jnp.linalg.slogdet(t["S"])[1]
        )

    kinds = {
        "sd": constraints.positive,
        "p": constraints.simplex,
        "S": constraints.positive_definite,
    }
    start = {"sd": 2.0, "p": jnp.ones(3) / 3, "S": jnp.eye(2)}
    fit = Objective(fn, kinds).solve(start, 3.0)
    terms = taylor(fit, 2).terms(1.0)
    # sd = sqrt(2 h / 5), S = h scale⁻¹.
    np.testing.assert_allclose(fit.theta["sd"], np.sqrt(1.2), rtol=1e-12)
    np.testing.assert_allclose(terms["sd"][0], np.sqrt(0.4) / 2 / np.sqrt(3), rtol=1e-11)
    np.testing.assert_allclose(terms["sd"][1], -np.sqrt(0.4) / 8 * 3**-1.5, rtol=1e-11)
    inverse = np.linalg.inv([[2.0, 0.3], [0.3, 1.0]])
    np.testing.assert_allclose(terms["S"][0], inverse, rtol=1e-11)
    np.testing.assert_allclose(terms["S"][1], 0.0, atol=1e-12)
    np.testing.assert_allclose(np.sum(terms["p"], axis=1), 0.0, atol=1e-14)
    with pytest.raises(ValueError, match="outside of its constraint"):
        Objective(fn, kinds).solve({**start, "sd": -1.0}, 3.0)


def test_an_equation_that_is_no_gradient():
    m = np.array([[2.0, 1.5], [-1.0, 1.0]])
    fit = Equation(lambda t, h: m @ t + h * t - jnp.ones(2)).solve(jnp.zeros(2), 0.5)
    inverse = np.linalg.inv(m + 0.5 * np.eye(2))
    terms, expected = taylor(fit, 4).terms(0.3), np.asarray(fit.theta)
    for k in range(4):
        expected = -0.3 * inverse @ expected
        np.testing.assert_allclose(terms[k], expected, rtol=1e-12)


@pytest.fixture(scope="module")
def staged():
    """Regressions by group, then a mean of their slopes weighted by their curvature."""
    x = RNG.normal(size=(6, 10, 2))
    y = np.einsum("gnd,d->gn", x, np.array([1.0, -0.5])) + RNG.normal(size=(6, 10))

    def first(t, w):
        return jnp.sum(w[None] * (y - jnp.einsum("gnd,gd->gn", x, t)) ** 2) + jnp.sum(t**4)

    def second(t, hyper):
        w, slopes = hyper
        return jnp.sum(jnp.log(jnp.cosh(slopes - t[None]))) + 0.1 * jnp.sum(w) * jnp.sum(t**2)

    problem = Staged(Objective(first), Objective(second))
    start = (jnp.zeros((6, 2)), jnp.zeros(2))
    return first, second, problem.solve(start, jnp.ones(10), structure=("block", "dense"))


def test_stages_are_the_joint_problem(staged):
    """The dense Jacobian of both stages together, block-triangular, solved as a whole."""
    first, second, fit = staged

    def joint(v, w):
        a, b = v[:12].reshape(6, 2), v[12:]
        top = jax.grad(first)(a, w)
        return jnp.concatenate([jnp.ravel(top), jax.grad(second)(b, (w, a))])

    at = jnp.concatenate([jnp.ravel(fit.theta[0]), fit.theta[1]])
    ones = jnp.ones(10)
    dense = jax.jacfwd(joint)(at, ones)
    assert np.all(dense[:12, 12:] == 0)
    move = RNG.normal(size=10)
    expected = -np.linalg.solve(dense, jax.jacfwd(joint, 1)(at, ones) @ move)
    terms = taylor(fit, 2).terms(move)
    found = np.concatenate([np.ravel(terms[0][0]), terms[1][0]])
    np.testing.assert_allclose(found, expected, rtol=1e-11)
    whole = Equation(joint).solve(at, ones)
    second_order = taylor(whole, 2).terms(move)[1]
    found = np.concatenate([np.ravel(terms[0][1]), terms[1][1]])
    np.testing.assert_allclose(found, second_order, rtol=1e-9, atol=1e-13)


def test_wrong_use(blog):
    with pytest.raises(ValueError, match="order 0"):
        taylor(blog, 0)
    with pytest.raises(ValueError, match="at most 10,000,000"):
        taylor(blog).array(20)
    with pytest.raises(ValueError, match=r"hyper has shape \(2,\), needed is \(3,\)"):
        taylor(blog).terms(jnp.zeros(2))
