"""The box-constrained solver on toy objectives and against SciPy's L-BFGS-B."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from expressway.core.boxed import Boxed, Score
from expressway.core.cohort import Pooled, samples
from expressway.core.solve import Status, solve
from expressway.models import nb


@functools.cache  # one objective, one compilation
def score_of(objective, info=None):
    """A statistic: each gene's objective, gradient and curvature, times the rows' weight."""

    def statistic(theta, hyper, s):
        rows = jnp.sum(s.weight)
        curvature = info or jax.hessian(objective)
        parts = objective, jax.grad(objective), curvature, curvature
        return Score(*(rows * jax.vmap(part)(theta, *hyper) for part in parts))

    return statistic


def minimise(objective, start, *hyper, bound=10.0, info=None):
    start = np.asarray(start, float)
    cohort = Pooled(samples(np.zeros((1, len(start))), np.ones((1, 1))))
    hyper = tuple(np.asarray(h, float) for h in hyper)
    return solve(Boxed(bound=bound), score_of(objective, info), start, hyper, cohort)


def quadratic(theta, center, factor):
    return 0.5 * jnp.sum((factor @ (theta - center)) ** 2)


def quadratics(genes, p, seed):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 4, (genes, p)), rng.normal(size=(genes, p, p)) + np.eye(p)


def test_quadratic_inside_takes_few_steps():
    center, factor = quadratics(20, 3, seed=0)
    fit = minimise(quadratic, np.zeros_like(center), center, factor, bound=100.0)
    np.testing.assert_array_equal(fit.status, Status.OK)
    # Far away steps are shortened: three of 1 + log 30 or so, then Newton's.
    assert np.all(fit.steps <= 10)
    # Done at a decrement of 1e-14: errors of 1e-7 of what changes the loss by one, squared once
    # more by the last step; the factor's condition reaches 1e2.
    np.testing.assert_allclose(fit.theta, center, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("p", [1, 2, 5])
def test_constrained_quadratic_is_not_worse_than_scipy(p):
    center, factor = quadratics(40, p, seed=p)
    bound = 3.0
    start = np.random.default_rng(9).uniform(-5, 5, center.shape)  # some outside the box
    fit = minimise(quadratic, start, center, factor, bound=bound)
    assert np.all(np.abs(fit.theta) <= bound)
    outside = np.any(np.abs(center) > bound, axis=1)
    assert np.all(fit.status[~outside] == Status.OK)
    for g in range(len(center)):
        q = factor[g].T @ factor[g]
        best = optimize.lsq_linear(factor[g], factor[g] @ center[g], (-bound, bound), tol=1e-14)
        gradient = q @ (fit.theta[g] - center[g])
        # First-order conditions: zero inside, outward at a bound. 1e-6: gradients of 1e2 with a
        # decrement of 1e-14.
        inside = np.abs(fit.theta[g]) < bound
        assert np.all(np.abs(gradient[inside]) < 1e-6)
        assert np.all(gradient[~inside] * np.sign(fit.theta[g][~inside]) <= 1e-9)
        # Objectives of order 10 equal to rounding: where ours is above, by less than 1e-10 of it.
        assert fit.state.loss[g] <= best.cost * (1 + 1e-10) + 1e-12
        assert fit.status[g] == (Status.OK if np.all(inside) else Status.AT_BOUND)


def counts(genes, n, seed):
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), np.arange(n) % 2, rng.normal(size=n)])
    alpha = rng.uniform(0.01, 1.0, genes)
    beta = np.column_stack([rng.uniform(-1, 5, genes), rng.normal(0, 1, (genes, 2))])
    y = rng.negative_binomial(1 / alpha, 1 / (1 + alpha * np.exp(x @ beta.T)))
    y[x[:, 1] == 1, : genes // 4] = 0  # separated: runs to the bound, but for the ridge
    return samples(y.astype(float), x), alpha


def test_negative_binomial_is_not_worse_than_scipy():
    s, alpha = counts(genes=40, n=10, seed=2)
    start = np.zeros((40, 3))
    for bound in (nb.BOX, 1.0):
        cohort = Pooled(s)
        fit = solve(
            Boxed(bound=bound), nb.likelihood, start, alpha, cohort, penalty=nb.ridge_likelihood
        )
        assert np.all(np.isin(fit.status, [Status.OK, Status.AT_BOUND]))
        for g in range(40):

            def objective(beta, g=g):
                eta = s.x @ beta
                mu = np.exp(eta)
                y, a = s.y[:, g], alpha[g]
                loss = np.sum((y + 1 / a) * np.log1p(a * mu) - y * eta)
                slope = s.x.T @ ((mu - y) / (1 + a * mu))
                return loss + nb.RIDGE / 2 * beta @ beta, slope + nb.RIDGE * beta

            best = optimize.minimize(
                objective,
                start[g],
                jac=True,
                method="L-BFGS-B",
                bounds=[(-bound, bound)] * 3,
                options={"ftol": 1e-15, "gtol": 1e-10, "maxiter": 2000},
            )
            # Sums of ten terms of order 100, rounded: 1e-12 of the loss.
            assert objective(fit.theta[g])[0] <= best.fun + 1e-12 * abs(best.fun) + 1e-12


def tail(theta, height):
    """Falls to its infimum at minus infinity: a separated gene without a ridge."""
    return height * jnp.sum(jnp.exp(theta))


def test_flat_tail_ends():
    fit = minimise(tail, [[3.0, 0.0], [0.0, -4.0]], [1.0, 50.0], bound=20.8)
    np.testing.assert_array_equal(fit.status, Status.AT_BOUND)
    np.testing.assert_array_equal(fit.theta, -20.8)
    # Newton moves one unit a step along exp: 20.8 + 3.
    assert np.all(fit.steps <= 30)


def two_wells(theta, tilt):
    return jnp.sum((theta**2 - 4) ** 2) + tilt * theta[0]


def two_wells_info(theta, tilt):
    return jnp.diag(jnp.maximum(jnp.abs(12 * theta**2 - 16), 1.0))


def test_two_minima_give_the_one_downhill_from_the_start():
    starts = np.array([[-3.0, 3.0], [0.8, -0.8], [-1.5, -1.0], [2.5, 1.0]])
    fit = minimise(two_wells, starts, np.zeros(4), info=two_wells_info)
    np.testing.assert_array_equal(fit.status, Status.OK)
    # A decrement of 1e-14 at a curvature of 32: 2e-8, of which the last step leaves the square.
    np.testing.assert_allclose(fit.theta, 2 * np.sign(starts), rtol=1e-7)
    assert np.all(fit.steps <= 12)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_objective_not_finite_ends_at_once_and_disturbs_no_other(bad):
    center, factor = quadratics(3, 2, seed=5)
    clean = minimise(quadratic, np.zeros((3, 2)), center, factor)
    broken = center.copy()
    broken[1] = bad
    fit = minimise(quadratic, np.zeros((3, 2)), broken, factor)
    assert fit.status[1] == Status.NOT_FINITE
    assert fit.steps[1] == 1
    assert np.all(np.isfinite(fit.theta))
    np.testing.assert_array_equal(fit.theta[[0, 2]], clean.theta[[0, 2]])
    np.testing.assert_array_equal(fit.status[[0, 2]], clean.status[[0, 2]])


def test_infinite_objective_is_not_finite():
    center, factor = quadratics(2, 2, seed=6)
    fit = minimise(lambda *a: quadratic(*a) + jnp.inf, np.zeros((2, 2)), center, factor)
    np.testing.assert_array_equal(fit.status, Status.NOT_FINITE)
    np.testing.assert_array_equal(fit.steps, 1)


def test_curvature_not_positive_definite_is_not_called_a_minimum():
    def flat(theta, center, factor):
        return jnp.diag(jnp.array([1.0, 0.0]))

    center, factor = quadratics(2, 2, seed=6)
    fit = minimise(quadratic, np.zeros((2, 2)), center, factor, info=flat)
    assert Status.OK not in fit.status


def barrier(theta, edge):
    return jnp.sum(theta - jnp.log(theta - edge))


def test_trial_that_is_not_finite_is_halved():
    # From 2.5 above an edge at -1 Newton's step leads beyond the edge.
    fit = minimise(barrier, [[1.5]], [-1.0])
    assert fit.status[0] == Status.OK
    # The minimum is at edge + 1; curvature 1, decrement 1e-14.
    np.testing.assert_allclose(fit.theta, 0.0, atol=1e-7)
