"""Derivatives of an optimum against closed forms, and against finely solved differences."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expressway._errors import Saddle, SingularJacobian, Unfinished
from expressway.core.implicit import implicit
from expressway.core.problem import Equation, Objective, Weighted
from expressway.core.staged import Staged

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 3))
Y = X @ np.array([1.0, -0.5, 0.2]) + RNG.normal(size=30)


def test_curvature_that_depends_on_the_parameter():
    # exp(h) t²/2 - h t is least at t = h exp(-h), whose derivative k is (-1)^k (h - k) exp(-h).
    fit = Objective(lambda t, h: 0.5 * jnp.exp(h) * t**2 - h * t).solve(0.0, 0.3)
    function = implicit(fit)
    for k in range(5):
        expected = (-1) ** k * (0.3 - k) * np.exp(-0.3)
        np.testing.assert_allclose(function(0.3), expected, rtol=1e-13)
        function = jax.grad(function) if k % 2 else jax.jacfwd(function)


@pytest.fixture(scope="module")
def ridge():
    fit = Objective(lambda t, h: 0.5 * jnp.sum((Y - X @ t) ** 2) + 0.5 * h * jnp.sum(t**2)).solve(
        jnp.zeros(3), 2.0
    )
    return implicit(fit)


def test_ridge_regression_in_its_penalty(ridge):
    # theta = A⁻¹ X'y, A = X'X + h: derivative k is (-1)^k k! A^{-k} theta.
    for at in (2.0, 5.0):  # the stored point, and one that is solved anew
        inverse = np.linalg.inv(X.T @ X + at * np.eye(3))
        theta = inverse @ X.T @ Y
        np.testing.assert_allclose(ridge(at), theta, rtol=1e-12)
        np.testing.assert_allclose(jax.jacfwd(ridge)(at), -inverse @ theta, rtol=1e-12)
        second = 2 * inverse @ inverse @ theta
        for order in (jax.hessian, lambda f: jax.jacrev(jax.jacfwd(f))):
            np.testing.assert_allclose(order(ridge)(at), second, rtol=1e-11)
        third = -6 * inverse @ inverse @ inverse @ theta
        mixed = jax.jacfwd(jax.jacrev(jax.jacfwd(ridge)))
        np.testing.assert_allclose(jax.jit(mixed)(at), third, rtol=1e-10)


def test_maps_over_hyperparameters(ridge):
    at = jnp.array([2.0, 3.0, 7.0])
    for function in (ridge, jax.hessian(ridge)):
        batched = jax.jit(jax.vmap(function))(at)
        for one, h in zip(batched, at, strict=True):
            np.testing.assert_allclose(one, function(h), rtol=1e-11)


def test_weighted_least_squares_in_its_weights():
    def term(t, hyper, row):
        x, y = row
        return 0.5 * (y - x @ t) ** 2

    fit = Objective.additive(term, (X, Y)).solve(jnp.zeros(3))
    theta_hat = implicit(fit)

    def of_weights(w):
        return theta_hat(Weighted(w, ()))

    ones = jnp.ones(30)
    inverse = np.linalg.inv(X.T @ X)
    theta = inverse @ X.T @ Y
    first = inverse @ (X * (Y - X @ theta)[:, None]).T
    # A(w) theta(w) = b(w): second derivatives are -A⁻¹ (dA_i dtheta_j + dA_j dtheta_i).
    cross = np.einsum("id,dj->ij", X, first)
    second = -np.einsum("ki,ij->kij", inverse @ X.T, cross)
    second = second + np.swapaxes(second, 1, 2)
    for jacobian in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jacobian(of_weights)(ones), first, atol=1e-14)
    for order in (
        jax.jacfwd(jax.jacrev(of_weights)),
        jax.jacrev(jax.jacfwd(of_weights)),
        jax.jit(jax.jacrev(jax.jacrev(of_weights))),
        jax.hessian(of_weights),
    ):
        np.testing.assert_allclose(order(ones), second, atol=1e-14)


def test_logistic_regression_against_solved_differences():
    s = np.sign(Y)

    def fn(t, h):
        return jnp.sum(jax.nn.softplus(-s * (X @ t) * h["slope"])) + h["ridge"] * jnp.sum(t**2)

    problem = Objective(fn)
    at = {"slope": 1.0, "ridge": 0.5}
    fit = problem.solve(jnp.zeros(3), at)
    hessian = jax.hessian(implicit(fit))(at)
    e = 1e-3

    def solved(a, b):
        return np.asarray(problem.solve(fit.theta, {"slope": 1 + a, "ridge": 0.5 + b}).theta)

    mixed = (solved(e, e) - solved(e, -e) - solved(-e, e) + solved(-e, -e)) / (4 * e * e)
    # Truncation is e² times a fourth derivative of order one; rounding 1e-15 / e² = 1e-9.
    np.testing.assert_allclose(hessian["slope"]["ridge"], mixed, atol=1e-5)
    np.testing.assert_allclose(hessian["ridge"]["slope"], mixed, atol=1e-5)


@pytest.mark.parametrize("structure", ["dense", "matrix-free"])
def test_an_equation_that_is_no_gradient(structure):
    # theta = M(h)⁻¹ b with M far from symmetric.
    m = np.array([[2.0, 1.5, 0.0], [-1.0, 1.0, 0.3], [0.2, -0.8, 3.0]])
    b = np.array([1.0, 2.0, 3.0])
    fit = Equation(lambda t, h: m @ t + h * t - b).solve(jnp.zeros(3), 0.5, structure=structure)
    inverse = np.linalg.inv(m + 0.5 * np.eye(3))
    theta_hat = implicit(fit)
    np.testing.assert_allclose(jax.jacfwd(theta_hat)(0.5), -inverse @ inverse @ b, rtol=1e-10)
    np.testing.assert_allclose(jax.jacrev(theta_hat)(0.5), -inverse @ inverse @ b, rtol=1e-10)
    second = 2 * inverse @ inverse @ inverse @ b
    np.testing.assert_allclose(jax.hessian(theta_hat)(0.5), second, rtol=1e-10)


def test_blocks_and_what_is_not_formed_have_the_derivatives_of_the_dense_problem():
    x = RNG.normal(size=(8, 2))
    problem = Objective(lambda t, h: jnp.sum(jnp.cosh(jnp.sum(t * x, 1) - h) + jnp.sum(t**2, 1)))
    dense = implicit(problem.solve(jnp.zeros((8, 2)), 0.7))
    for structure in ("block", "matrix-free"):
        other = implicit(problem.solve(jnp.zeros((8, 2)), 0.7, structure=structure))
        np.testing.assert_allclose(other(0.9), dense(0.9), atol=1e-11)
        np.testing.assert_allclose(jax.hessian(other)(0.7), jax.hessian(dense)(0.7), atol=1e-11)
        np.testing.assert_allclose(jax.jacrev(other)(0.9), jax.jacrev(dense)(0.9), atol=1e-11)


def test_stages_are_differentiated_one_after_the_other():
    # theta_1 = h², theta_2 = theta_1³ h.
    staged = Staged(
        Objective(lambda t, h: 0.5 * (t - h**2) ** 2),
        Objective(lambda t, hyper: 0.5 * jnp.sum((t - hyper[1] ** 3 * hyper[0]) ** 2)),
    )
    fit = staged.solve((0.0, jnp.zeros(1)), 1.2)
    np.testing.assert_allclose(fit.theta[1], [1.2**7], rtol=1e-14)
    first, second = jax.hessian(implicit(fit))(1.2)
    np.testing.assert_allclose(first, 2.0, rtol=1e-13)
    np.testing.assert_allclose(second, [42 * 1.2**5], rtol=1e-13)


def test_no_derivative_no_solution():
    flat = Objective(lambda t, h: (t["a"] + t["b"] - h) ** 2).solve({"a": 0.0, "b": 0.0}, 1.0)
    with pytest.raises(SingularJacobian, match=r"theta\['a'\] .*theta\['b'\]"):
        implicit(flat)
    fit = Equation(lambda t, h: t**2 - h).solve(1.0, 2.0)
    theta_hat = implicit(fit)
    with pytest.raises(Unfinished, match="no root found"):
        theta_hat(-1.0)
    assert np.isnan(jax.jit(theta_hat)(-1.0))
    # Warm steps end on a maximum, where the curvature is negative: it is none.
    turned = Objective(lambda t, h: 0.5 * h * t**2 + 0.01 * t**4).solve(0.1, 1.0)
    assert np.isnan(jax.jit(implicit(turned))(-1.0))
    with pytest.raises(Saddle, match="a saddle"):
        implicit(turned)(-1.0)
    with pytest.raises(ValueError, match="hyper has shape"):
        theta_hat(jnp.zeros(2))
