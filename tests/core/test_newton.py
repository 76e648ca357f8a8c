"""Solving to a certificate, and refusing what is no solution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expressway._errors import NotAnOptimum, Saddle, Unfinished
from expressway.core.problem import Equation, Objective
from expressway.core.staged import Staged

RNG = np.random.default_rng(0)
X = RNG.normal(size=(50, 3))
S = np.sign(X[:, 0] + RNG.normal(size=50))


def logistic(t, ridge):
    return jnp.sum(jax.nn.softplus(-S * (X @ t))) + ridge * t @ t


def valley(t, h):
    return jnp.sum(h * (t[1:] - t[:-1] ** 2) ** 2 + (1 - t[:-1]) ** 2)


@pytest.mark.parametrize("structure", ["dense", "matrix-free"])
def test_a_curved_valley_is_followed_to_its_end(structure):
    fit = Objective(valley).solve(-1.2 * jnp.ones(6), 100.0, structure=structure)
    np.testing.assert_allclose(fit.theta, 1.0, rtol=1e-12)
    certificate = fit.certificate
    assert certificate.gradient_norm < 1e-10
    assert certificate.decrement < 1e-10
    values = np.linalg.eigvalsh(jax.hessian(valley)(jnp.ones(6), 100.0))
    np.testing.assert_allclose(certificate.smallest, values[0], rtol=1e-2)
    assert certificate.smallest > values[0] * (1 - 1e-8)


def test_more_parameters_than_are_formed_at_every_step():
    a = RNG.normal(size=(320, 301)) / 10

    def fn(t, h):
        return jnp.sum(jnp.log(jnp.cosh(a @ t - h))) + 0.5 * jnp.sum(t**2) + 0.1 * jnp.sum(t**4)

    h = jnp.asarray(5 * RNG.normal(size=320))
    dense = Objective(fn).solve(jnp.zeros(301), h)
    free = Objective(fn).solve(jnp.zeros(301), h, structure="matrix-free")
    np.testing.assert_allclose(dense.theta, free.theta, atol=1e-11)
    # The Hessian is formed now and then, products with it do the rest.
    assert dense.certificate.products < 8 * 301
    np.testing.assert_allclose(dense.certificate.smallest, free.certificate.smallest, rtol=1e-2)


def test_blocks():
    x = RNG.normal(size=(9, 2))

    def apart(t, h):
        return jnp.sum(jnp.cosh(jnp.sum(t["a"] * x, 1) - h)) + jnp.sum(
            (t["a"] - t["b"]) ** 4 + t["b"] ** 2
        )

    start = {"a": jnp.ones((9, 2)), "b": jnp.zeros((9, 2))}
    dense = Objective(apart).solve(start, 1.0)
    block = Objective(apart).solve(start, 1.0, structure="block")
    for name in start:
        np.testing.assert_allclose(block.theta[name], dense.theta[name], atol=1e-10)
    np.testing.assert_allclose(block.certificate.smallest, dense.certificate.smallest, rtol=1e-8)
    assert block.certificate.products < dense.certificate.products
    joined = Objective(lambda t, h: apart(t, h) + jnp.sum(t["a"]) ** 2)
    with pytest.raises(ValueError, match="entries outside of the blocks"):
        joined.solve(start, 1.0, structure="block")
    with pytest.raises(ValueError, match="same first axis"):
        Objective(lambda t, h: t["a"] @ t["a"] + t["b"] ** 2).solve(
            {"a": jnp.ones(3), "b": 1.0}, structure="block"
        )


def test_additive_terms_are_their_sum():
    data = (X, S)
    problem = Objective.additive(
        lambda t, h, row: jax.nn.softplus(-row[1] * (row[0] @ t)), data, lambda t, h: h * t @ t
    )
    fit = problem.solve(jnp.zeros(3), 0.3)
    np.testing.assert_allclose(
        fit.theta, Objective(logistic).solve(jnp.zeros(3), 0.3).theta, rtol=1e-12
    )
    assert fit.hyper.weight.shape == (50,)
    with pytest.raises(ValueError, match="same first axis"):
        Objective.additive(lambda t, h, row: t, (X, S[:3]))

    def broken(t, h, row):
        return jnp.log(row[1]) * t[0]

    with pytest.raises(ValueError, match=rf"observation {int(np.argmax(S < 0))} is not finite"):
        Objective.additive(broken, data).solve(jnp.zeros(3))


def test_roots():
    def equation(t, h):
        return {"a": t["a"] * h + jnp.sin(t["b"]) - 1, "b": t["b"] ** 3 + t["a"] - 2}

    fit = Equation(equation).solve({"a": 1.0, "b": 0.5}, 2.0)
    for value in equation(fit.theta, 2.0).values():
        assert abs(value) < 1e-14
    jacobian = np.array([[2.0, np.cos(fit.theta["b"])], [1.0, 3 * fit.theta["b"] ** 2]])
    smallest = np.linalg.svd(jacobian, compute_uv=False)[-1]
    np.testing.assert_allclose(fit.certificate.smallest, smallest, rtol=1e-12)
    # Far away, Newton's whole step would leave: arctan.
    far = Equation(lambda t, h: jnp.arctan(t - h)).solve(jnp.full(1, 30.0), 2.0)
    np.testing.assert_allclose(far.theta, 2.0, rtol=1e-12)


@pytest.mark.parametrize("structure", ["dense", "matrix-free"])
def test_saddles_and_what_has_no_end_are_refused(structure):
    with pytest.raises(Saddle, match=r"a saddle: .* -2 along theta\[1\]"):
        Objective(lambda t, h: t[0] ** 2 - t[1] ** 2).solve(jnp.zeros(2), structure=structure)
    with pytest.raises(Saddle, match=r"a saddle: .* -2 along theta\[1\]"):
        Objective(lambda t, h: t[0] ** 2 - t[1] ** 2).solve(
            jnp.array([1.0, 0.0]), structure=structure
        )
    # Beside the saddle it is left for the minimum.
    fit = Objective(lambda t, h: t[0] ** 2 - t[1] ** 2 + t[1] ** 4).solve(
        jnp.array([0.1, 1e-3]), structure=structure
    )
    np.testing.assert_allclose(np.abs(fit.theta), [0, np.sqrt(0.5)], atol=1e-10)
    for endless in (lambda t, h: jnp.exp(-t[0]), lambda t, h: t[0]):
        with pytest.raises(Unfinished, match=r"not at an optimum after .* gradient norm"):
            Objective(endless).solve(jnp.zeros(1), structure=structure, max_steps=60)


def test_what_is_not_finite_is_named():
    with pytest.raises(ValueError, match=r"theta\['b'\]\[1\] starts at nan"):
        Objective(lambda t, h: t["b"] @ t["b"]).solve({"b": jnp.array([0.0, jnp.nan])})
    with pytest.raises(ValueError, match=r"the objective is -?inf"):
        Objective(lambda t, h: jnp.sum(jnp.log(t))).solve(jnp.zeros(2))
    with pytest.raises(ValueError, match=r"gradient of theta\[1\] is inf where that is 0"):
        Objective(lambda t, h: jnp.sum(jnp.sqrt(t))).solve(jnp.array([1.0, 0.0]))
    with pytest.raises(ValueError, match="hyper is nan"):
        Objective(logistic).solve(jnp.zeros(3), jnp.nan)
    with pytest.raises(ValueError, match="returned shapes"):
        Objective(lambda t, h: t).solve(jnp.zeros(2))
    with pytest.raises(ValueError, match="one equation for each of the 2"):
        Equation(lambda t, h: t[:1]).solve(jnp.zeros(2))
    with pytest.raises(ValueError, match=r"theta\['x'\] is str"):
        Objective(lambda t, h: 0.0).solve({"x": "y"})
    with pytest.raises(ValueError, match="structure 'sparse'"):
        Objective(logistic).solve(jnp.zeros(3), 1.0, structure="sparse")


def test_a_point_found_elsewhere_is_certified():
    fit = Objective(logistic).solve(jnp.zeros(3), 0.5)
    again = Objective(logistic).at(fit.theta, 0.5)
    assert again.certificate.gradient_norm < 1e-12
    with pytest.raises(NotAnOptimum, match=r"not an optimum: gradient norm .* Newton decrement"):
        Objective(logistic).at(jnp.zeros(3), 0.5)


def test_saved_and_loaded(tmp_path):
    fit = Objective(logistic).solve(jnp.zeros(3), 0.5)
    fit.save(tmp_path / "fit.npz")
    loaded = Objective(logistic).load(tmp_path / "fit.npz", jnp.zeros(3), 1.0)
    np.testing.assert_array_equal(loaded.theta, fit.theta)
    assert loaded.hyper == 0.5
    with pytest.raises(
        ValueError, match="holds 3 parameters and 1 hyperparameters, needed are 3 and 0"
    ):
        Objective(lambda t, h: logistic(t, 0.5)).load(tmp_path / "fit.npz", jnp.zeros(3))
    with pytest.raises(NotAnOptimum):
        Objective(lambda t, h: logistic(t, 2 * h)).load(tmp_path / "fit.npz", jnp.zeros(3), 1.0)


def test_stages_are_saved_and_loaded(tmp_path):
    staged = Staged(Objective(logistic), Objective(lambda t, h: jnp.sum((t - h[1] * h[0]) ** 2)))
    fit = staged.solve((jnp.zeros(3), jnp.zeros(3)), 0.5)
    fit.save(tmp_path / "fit.npz")
    loaded = staged.load(tmp_path / "fit.npz", (jnp.zeros(3), jnp.zeros(3)), 1.0)
    for one, other in zip(loaded.theta, fit.theta, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_unfinished_solve_goes_on_from_its_checkpoint(tmp_path):
    path = tmp_path / "point.npz"
    start = -1.2 * jnp.ones(6)
    with pytest.raises(Unfinished, match="max_steps") as stopped:
        Objective(valley).solve(start, 100.0, max_steps=10, checkpoint=path)
    assert np.all(np.isfinite(stopped.value.point.t))
    whole = Objective(valley).solve(start, 100.0)
    rest = Objective(valley).solve(start, 100.0, checkpoint=path)
    np.testing.assert_allclose(rest.theta, whole.theta, rtol=1e-12)
    assert rest.certificate.steps <= whole.certificate.steps + 5
    with pytest.raises(ValueError, match="another problem or other hyperparameters"):
        Objective(valley).solve(start, 50.0, checkpoint=path)


def test_stages_need_a_start_each():
    staged = Staged(Objective(logistic), Objective(lambda t, h: jnp.sum((t - h[1]) ** 2)))
    with pytest.raises(ValueError, match="1 starts for 2 stages"):
        staged.solve((jnp.zeros(3),), 0.5)
    with pytest.raises(ValueError, match="weights in hyper"):
        Staged(Objective.additive(lambda t, h, row: t, X))
