"""Iteratively reweighted least squares: its root, its stops."""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from expressway.core.cohort import Pooled, samples
from expressway.core.irls import LARGE, Equation, Irls
from expressway.core.solve import Status, solve
from expressway.models import nb


def iterated(y, x, offset, alpha, start, passes=400):
    """DESeq2's iteration for one gene, to its fixed point (src/DESeq2.cpp, fitBeta)."""
    beta = start
    for _ in range(passes):
        mu = np.maximum(np.exp(offset + x @ beta), 0.5)
        w = mu / (1 + alpha * mu)
        z = np.log(mu) - offset + (y - mu) / mu
        ridge = 1e-6 / np.log(2) ** 2 * np.eye(x.shape[1])
        beta = np.linalg.solve((x.T * w) @ x + ridge, (x.T * w) @ z)
    return beta


def counts(genes, n, seed):
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), np.arange(n) % 2, rng.normal(size=n)])
    offset = rng.normal(0, 0.3, (n, 1))
    beta = np.column_stack([rng.uniform(0, 6, genes), rng.normal(0, 0.7, (genes, 2))])
    alpha = rng.uniform(0.01, 0.6, genes)
    mu = np.exp(offset + x @ beta.T)
    y = rng.negative_binomial(1 / alpha, 1 / (1 + alpha * mu))
    return samples(y, x)._replace(offset=offset), alpha


def test_root_is_the_fixed_point_of_the_fields_iteration():
    s, alpha = counts(genes=60, n=14, seed=3)
    s.y[s.x[:, 1] == 1, :3] = 0  # a group of zeros: held by the clipped means
    start = np.linalg.lstsq(s.x, np.log(s.y * np.exp(-s.offset) + 0.1), rcond=None)[0].T
    fit = solve(Irls(), nb.equation, start, alpha, Pooled(s), penalty=nb.ridge_equation)
    np.testing.assert_array_equal(fit.status, Status.OK)
    expected = [
        iterated(s.y[:, g], s.x, s.offset[:, 0], alpha[g], start[g]) for g in range(len(alpha))
    ]
    # Both stop within 1e-7 squared of a standard error; a group of zeros has information near 1.
    np.testing.assert_allclose(fit.theta, expected, rtol=1e-9, atol=1e-9)
    assert np.median(fit.steps) <= 6
    assert np.max(fit.steps) <= 30


class Problem(NamedTuple):
    """What each gene's toy equation needs."""

    center: Any
    ratio: Any
    """Newton's matrix over Fisher's."""


def linear_equation(beta, hyper, s):
    """score = ratio × (center - beta): Fisher's information says 1, the derivative says ratio."""
    rows = jnp.sum(s.weight)
    p = beta.shape[1]
    eye = jnp.broadcast_to(jnp.eye(p), (beta.shape[0], p, p))
    ratio = hyper.ratio[:, None]
    return Equation(
        score=rows * ratio * (hyper.center - beta),
        info=rows * eye,
        newton=rows * ratio[..., None] * eye,
    )


def run(center, ratio, start=0.0, solver=None):
    center = np.asarray(center, float)
    g = len(center)
    cohort = Pooled(samples(np.zeros((2, g)), np.ones((2, 1))))
    center = np.column_stack([center, 1 - center])
    hyper = Problem(center, np.broadcast_to(np.asarray(ratio, float), g))
    start = np.broadcast_to(np.asarray(start, float), center.shape)
    return solve(solver or Irls(), linear_equation, start, hyper, cohort), center


def test_linear_equation_takes_one_step_and_a_look():
    fit, center = run([0.5, 0.9, 0.1], 1.0)
    # The solution is exact but for rounding.
    np.testing.assert_allclose(fit.theta, center, rtol=1e-14, atol=1e-15)
    np.testing.assert_array_equal(fit.status, Status.OK)
    assert np.all(fit.steps <= 2)


def test_long_steps_are_shortened():
    """The first goes 1 + log 16 of 16, where a mean too low by exp(16) would send it too far."""
    fit, center = run([16.0], 1.0)
    np.testing.assert_allclose(fit.theta, center, rtol=1e-14)
    assert 2 < fit.steps[0] <= 8


def test_overdispersed_gene_with_an_outlier_comes_back_in_few_steps():
    """Fisher's first step overshoots to a log mean of 12 and comes back by one a step."""
    y = np.full((24, 1), 60.0)
    y[5] = 2e4
    x = np.column_stack([np.ones(24), np.arange(24) % 2, np.arange(24) // 12])
    start = np.linalg.lstsq(x, np.log(y[:, 0] + 0.1), rcond=None)[0][None]
    alpha = np.array([6.0])
    fit = solve(Irls(), nb.equation, start, alpha, Pooled(samples(y, x)))
    np.testing.assert_array_equal(fit.status, Status.OK)
    assert fit.steps[0] <= 12
    end = nb.equation(fit.theta, alpha, samples(y, x))
    # A decrement of 1e-14 before the last step of Newton.
    np.testing.assert_allclose(end.score, 0.0, atol=1e-9)


def test_newton_finishes_what_fisher_scoring_does_slowly():
    # Fisher scoring alone multiplies the error by .7 or -.7 a step: 80 steps to 1e-12.
    fit, center = run([3.0, -2.0], [0.3, 1.7])
    np.testing.assert_allclose(fit.theta, center, rtol=1e-13)
    np.testing.assert_array_equal(fit.status, Status.OK)
    assert np.all(fit.steps <= 20)


def test_solution_that_repels_fisher_scoring_is_not_converged():
    ratio = np.array([1.0, 1.8, 1.95, 3.0])
    fit, center = run(np.full(4, 2.0), ratio, start=[2.0 + 1e-4, -1.0])
    assert list(fit.status[:2]) == [Status.OK, Status.OK]
    assert Status.OK not in fit.status[2:]
    # Newton finds the third all the same, and says so in the state alone.
    np.testing.assert_allclose(fit.theta[2], center[2], rtol=1e-13)


def test_coefficient_that_runs_away_stops_at_once():
    fit, _ = run([LARGE + 1.0, 3.0], 1.0)
    assert list(fit.status) == [Status.NOT_FINITE, Status.OK]
    assert fit.steps[0] == 1
    assert np.all(np.abs(fit.theta) <= LARGE)


def test_equation_not_finite_ends_at_once_and_disturbs_no_other():
    fit, center = run([3.0, np.nan, -2.0, np.inf], 1.0)
    bad = np.array([False, True, False, True])
    np.testing.assert_array_equal(fit.status, np.where(bad, Status.NOT_FINITE, Status.OK))
    assert np.all(fit.steps[bad] == 1)
    assert np.all(np.isfinite(fit.theta))
    np.testing.assert_allclose(fit.theta[~bad], center[~bad], rtol=1e-14, atol=1e-15)


def test_singular_information_ends_at_once():
    fit, _ = run([3.0, 2.0], [1.0, 0.0])  # Newton's matrix 0: only Fisher's is used there
    assert fit.status[0] == Status.OK
    s, alpha = counts(genes=2, n=6, seed=4)
    doubled = s._replace(x=s.x[:, [0, 1, 1]])
    fit = solve(Irls(), nb.equation, np.zeros((2, 3)), alpha, Pooled(doubled))
    assert Status.OK not in fit.status
    assert np.all(np.isfinite(fit.theta))


def test_gives_up_at_the_limit():
    fit, _ = run([3.0], 0.3, solver=Irls(max_steps=3))
    assert fit.status[0] == Status.NOT_CONVERGED
    assert fit.steps[0] == 3
