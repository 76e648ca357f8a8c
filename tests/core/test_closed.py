"""Objectives whose derivatives are written out, and the scaling of Newton's steps by Cholesky."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from expressway._errors import Saddle, Unfinished
from expressway.core import newton, trust
from expressway.core.flat import Flat
from expressway.core.functions import Closed
from expressway.core.newton import Point
from expressway.core.problem import Objective

RNG = np.random.default_rng(0)


def closed(fn, d, template=None):
    """The objective, its derivatives by JAX."""
    value, hessian = jax.jit(jax.value_and_grad(fn)), jax.jit(jax.hessian(fn))

    def both(t):
        f, g = value(t)
        return float(f), np.asarray(g)

    flat = Flat({"x": np.zeros(d)} if template is None else template, "theta")
    return Closed(both, lambda t: np.asarray(hessian(t)), flat)


def minimise(f, start, steps=200):
    return newton.minimise(f, Point(np.asarray(start, float), 0.0, 0, 0), steps, lambda _: None)


def valley(t):
    return jnp.sum(10.0 * (t[1:] - t[:-1] ** 2) ** 2 + (1 - t[:-1]) ** 2)


def test_its_values():
    f = closed(valley, 4)
    t, v = RNG.normal(size=(2, 4))
    # By hand: 10 (t_i+1 - t_i²)² + (1 - t_i)².
    gap = t[1:] - t[:-1] ** 2
    gradient = np.append(-40 * t[:-1] * gap - 2 * (1 - t[:-1]), 0.0) + np.append(0.0, 20 * gap)
    hessian = np.diag(
        np.append(2 + 80 * t[:-1] ** 2 - 40 * gap, 0) + np.append(0, 20.0 * np.ones(3))
    )
    hessian -= np.diag(40 * t[:-1], 1) + np.diag(40 * t[:-1], -1)
    value = np.sum(10 * gap**2 + (1 - t[:-1]) ** 2)
    found, slope = f.both(jnp.asarray(t))  # JAX's arrays, too
    assert found == pytest.approx(float(value), rel=1e-14)  # rounding, here and below
    np.testing.assert_allclose(slope, gradient, rtol=1e-13)
    np.testing.assert_allclose(f.gradient(t), gradient, rtol=1e-13)
    np.testing.assert_allclose(f.matrix(t), hessian, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(f.product(t, v), hessian @ v, rtol=1e-12)
    assert f.symmetric
    assert f.structure == "dense"


def test_its_blocks():
    f = closed(lambda t: jnp.sum(jnp.cosh(t)) * jnp.sum(t**2), 6, {"a": np.zeros((3, 2))})
    t = RNG.normal(size=6)
    whole = f.matrix(t)
    blocks = [whole[i : i + 2, i : i + 2] for i in (0, 2, 4)]
    np.testing.assert_array_equal(f.blocks(t), blocks)


def test_the_optimum_is_that_of_the_compiled_solver():
    d = 9
    a, b = RNG.normal(size=(d + 3, d)), RNG.normal(size=d + 3)

    def fn(t):
        return jnp.sum(jnp.log(jnp.cosh(a @ t - 2 * b))) + 0.1 * jnp.sum(t**4)

    f = closed(fn, d)
    found = minimise(f, np.ones(d))
    other = Objective(lambda t, _: fn(t)).solve(jnp.ones(d), ())
    # Both end where rounding of the gradient (1e-15) leaves them, over curvatures of .1 and more.
    np.testing.assert_allclose(found.t, other.theta, atol=1e-12)
    ours, theirs = found.certificate, other.certificate
    assert ours.gradient_norm < 1e-13
    assert ours.smallest == pytest.approx(theirs.smallest, rel=1e-8)
    assert ours.largest >= np.linalg.eigvalsh(f.matrix(found.t))[-1] * (1 - 1e-12)
    assert ours.kind == "eigenvalue"


def test_a_curved_valley_is_followed_to_its_end():
    found = minimise(closed(valley, 6), -1.2 * np.ones(6))
    # Of two minima the one where all are 1; rounding over the smallest curvature, .5.
    np.testing.assert_allclose(found.t, 1.0, rtol=1e-12)
    assert found.certificate.steps < 60


def test_from_where_the_hessian_is_indefinite():
    def two(t):
        return jnp.sum((t**2 - 1) ** 2) + 0.3 * t[0] * t[1]

    f = closed(two, 3)
    start = np.array([0.1, -0.05, 0.02])
    assert np.all(np.linalg.eigvalsh(f.matrix(start)) < 0)
    found = minimise(f, start)
    assert np.linalg.eigvalsh(f.matrix(np.asarray(found.t)))[0] > 1
    other = scipy.optimize.minimize(two, start, method="Nelder-Mead", options={"xatol": 1e-6})
    assert f.both(found.t)[0] <= other.fun + 1e-9  # Nelder-Mead's, of its squared distance


def test_points_that_are_no_optimum_are_refused():
    with pytest.raises(Saddle, match=r"saddle.*theta\['x'\]\[1\]"):
        minimise(closed(lambda t: t[0] ** 2 - t[1] ** 2, 2), np.zeros(2))
    with pytest.raises(Unfinished, match="not at an optimum after 25 steps"):
        minimise(closed(lambda t: jnp.sum(jnp.exp(-t)), 2), np.zeros(2), 25)
    with pytest.raises(ValueError, match="objective is nan at the start"):
        minimise(closed(lambda t: jnp.sum(jnp.log(t)), 2), -np.ones(2))
    with pytest.raises(ValueError, match=r"gradient of theta\['x'\]\[1\] is inf"):
        minimise(closed(lambda t: jnp.sum(jnp.sqrt(t)), 2), np.array([1.0, 0.0]))


def test_an_unfinished_solve_is_gone_on_from():
    f = closed(valley, 6)
    with pytest.raises(Unfinished) as caught:
        minimise(f, -1.2 * np.ones(6), 5)
    begun = caught.value.point
    assert f.both(begun.t)[0] < f.both(-1.2 * np.ones(6))[0]
    found = newton.minimise(f, begun._replace(steps=0), 200, lambda _: None)
    np.testing.assert_allclose(found.t, 1.0, rtol=1e-12)  # as above


def scaled(matrix):
    """By eigenvectors: what `scaling` does where Cholesky's factor is not clear."""
    values, vectors = np.linalg.eigh(matrix)
    size = np.maximum(np.abs(values), 1e-12 * np.max(np.abs(values)))
    return trust._Spectral(vectors / np.sqrt(size), values / size)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e6])
@pytest.mark.parametrize("radius", [1e-3, 0.5, 1e3])
def test_a_step_does_not_depend_on_how_it_is_scaled(condition, radius):
    d = 8
    q, _ = np.linalg.qr(RNG.normal(size=(d, d)))
    matrix = (q * np.geomspace(1, condition, d)) @ q.T
    gradient = matrix @ RNG.normal(size=d)
    quick = trust._definite(matrix)
    assert quick is not None
    # R R' is the inverse of the Hessian.
    np.testing.assert_allclose(
        quick.r @ quick.r.T @ matrix, np.eye(d), atol=1e-14 * condition + 1e-13
    )
    np.testing.assert_array_equal(quick.curve, 1.0)
    one, other = (
        trust._exact(quick, gradient, radius),
        trust._exact(scaled(matrix), gradient, radius),
    )
    # Both solve one problem, by factorisations with this condition, the length by 60 bisections.
    close = 1e-10 + 1e-15 * condition
    np.testing.assert_allclose(one.step, other.step, rtol=0, atol=close * np.max(np.abs(one.step)))
    for name in ("length", "gain", "decrement"):
        assert getattr(one, name) == pytest.approx(getattr(other, name), rel=close)
    assert (
        one.boundary
        == other.boundary
        == (radius < np.sqrt(gradient @ np.linalg.solve(matrix, gradient)))
    )
    model = -(gradient @ one.step + 0.5 * one.step @ matrix @ one.step)
    assert one.gain == pytest.approx(model, rel=close)
    # Inside the region it is Newton's step.
    if not one.boundary:
        np.testing.assert_allclose(
            matrix @ one.step, -gradient, rtol=0, atol=close * np.linalg.norm(gradient)
        )
    else:
        assert one.length == pytest.approx(radius, rel=1e-9)


def test_what_is_not_clearly_definite_is_left_to_eigenvalues():
    rng = np.random.default_rng(0)
    for _ in range(2000):
        # In every one, also where the pivots do not show it (3 % of these).
        q, _ = np.linalg.qr(rng.normal(size=(5, 5)))
        for smallest in (-1.0, -1e-9, 0.0, 1e-12):
            matrix = (q * np.array([smallest, 1.0, 2.0, 3.0, 4.0])) @ q.T
            assert trust._definite(matrix) is None
        clear = (q * np.array([1e-4, 1.0, 2.0, 3.0, 4.0])) @ q.T
        assert trust._definite(clear) is not None
    assert trust._definite(np.diag([1.0, np.nan])) is None
    assert trust._definite(np.array([[4.0]])).r == 0.5
    # And `scaling` then has the sign of each direction.
    matrix = (q * np.array([-1.0, 1.0, 2.0, 3.0, 4.0])) @ q.T
    flat = Flat({"x": np.zeros(5)}, "theta")
    f = Closed(lambda t: (0.5 * t @ matrix @ t, matrix @ t), lambda _: matrix, flat)
    frame = trust.scaling(f, np.zeros(5))
    # Eigenvalues over their absolute values, to rounding.
    np.testing.assert_allclose(np.sort(frame.curve), [-1, 1, 1, 1, 1], rtol=1e-13)
