"""The loop around every solver: pooled and federated agree, genes are alone, little compiles."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expressway.core import cohort as cohorts
from expressway.core.boxed import Boxed
from expressway.core.cohort import Pooled, Samples, samples
from expressway.core.irls import Irls
from expressway.core.scalar import Curve, Interval, Scalar
from expressway.core.solve import Resumed, Status, _neighbours, solve
from expressway.models import nb, profile
from expressway.run import Sites

GENES = 60
# Same sums in another order, then Newton to the end: the contract of style rule 21.
SITES = 1e-10


def rows(genes=GENES, n=13, seed=0):
    """Samples, and each gene's dispersion and coefficients (the truth, but for groups of zeros)."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), np.arange(n) % 2])
    alpha = rng.uniform(0.02, 0.8, genes)
    beta = np.column_stack([rng.uniform(1, 7, genes), rng.normal(0, 0.8, genes)])
    offset = rng.normal(0, 0.2, (n, 1))
    y = rng.negative_binomial(1 / alpha, 1 / (1 + alpha * np.exp(offset + x @ beta.T)))
    y[x[:, 1] == 1, :: genes // 6] = 0
    return samples(y * 1.0, x)._replace(offset=offset), np.column_stack([alpha, beta])


def split(s, *ends):
    edges = [0, *ends, s.y.shape[0]]
    return Sites([Samples(*(a[i:j] for a in s)) for i, j in pairwise(edges)])


def by_irls(cohort, truth, genes=None):
    alpha, start = truth[:, 0], truth[:, 1:]
    return solve(Irls(), nb.equation, start, alpha, cohort, penalty=nb.ridge_equation, genes=genes)


def by_boxed(cohort, truth, genes=None, start=None, steps=None):
    solver, alpha = Boxed(bound=nb.BOX), truth[:, 0]
    solver = solver if steps is None else solver._replace(max_steps=steps)
    start = truth[:, 1:] if start is None else start
    penalty = nb.ridge_likelihood
    return solve(solver, nb.likelihood, start, alpha, cohort, penalty=penalty, genes=genes)


def by_scalar(cohort, truth, genes=None):
    g = len(truth)
    ends = np.full(g, np.log(1e-8)), np.full(g, np.log(13.0))
    shape = profile.Shape(truth[:, 1:], np.full(g, -1.0), np.full(g, 0.3))
    return solve(
        Scalar(),
        profile.profile_glm,
        Interval(np.full(g, -2.0), *ends),
        shape,
        cohort,
        penalty=profile.adjusted,
        genes=genes,
    )


@pytest.fixture(params=[by_irls, by_boxed, by_scalar])
def fit_by(request):
    return request.param


def same(a, b, rtol):
    np.testing.assert_array_equal(a.status, b.status)
    np.testing.assert_array_equal(a.steps, b.steps)
    np.testing.assert_allclose(a.theta, b.theta, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("ends", [(6, 7), (1, 12)])
def test_pooled_equals_three_sites(fit_by, ends):
    s, truth = rows()
    pooled, sites = fit_by(Pooled(s), truth), split(s, *ends)
    federated = fit_by(sites, truth)
    same(pooled, federated, SITES)
    assert np.mean(pooled.status == Status.OK) > 0.9
    # One round trip a step of the slowest gene: all unfinished genes share a message.
    assert sites.rounds == federated.steps.max()
    assert pooled.statistic == federated.statistic
    assert pooled.penalty == federated.penalty is not None


@pytest.mark.parametrize("federated", [False, True])
def test_a_gene_that_fails_disturbs_no_other(fit_by, federated):
    s, truth = rows()
    make = (lambda s: split(s, 6, 7)) if federated else Pooled
    clean = fit_by(make(s), truth)
    bad = [0, 7, GENES - 1]
    y = s.y.copy()
    y[3, bad] = np.nan
    fit = fit_by(make(s._replace(y=y)), truth)
    np.testing.assert_array_equal(fit.status[bad], Status.NOT_FINITE)
    np.testing.assert_array_equal(fit.steps[bad], 1)
    assert np.all(np.isfinite(fit.theta))
    others = np.setdiff1d(np.arange(GENES), bad)
    np.testing.assert_array_equal(fit.theta[others], clean.theta[others])
    np.testing.assert_array_equal(fit.status[others], clean.status[others])
    np.testing.assert_array_equal(fit.steps[others], clean.steps[others])


@pytest.mark.parametrize("federated", [False, True])
def test_order_and_choice_of_genes_change_nothing(fit_by, federated):
    s, truth = rows()
    cohort = split(s, 6, 7) if federated else Pooled(s)
    whole = fit_by(cohort, truth)
    genes = np.random.default_rng(1).permutation(GENES)[:41]
    part = fit_by(cohort, truth[genes], genes)
    np.testing.assert_array_equal(part.status, whole.status[genes])
    np.testing.assert_array_equal(part.steps, whole.steps[genes])
    # Matrix products round differently in other columns; Newton ends at the same point.
    np.testing.assert_allclose(part.theta, whole.theta[genes], rtol=1e-12, atol=1e-12)


def test_blocks_change_nothing(fit_by, monkeypatch):
    s, truth = rows(genes=300)
    with monkeypatch.context() as changed:
        changed.setattr(cohorts, "BLOCK_ELEMENTS", 2**18)
        whole = fit_by(Pooled(s), truth)
    assert Pooled(s).block < 300
    assert 300 % Pooled(s).block  # the last block is not full
    same(fit_by(Pooled(s), truth), whole, 1e-12)  # rounding, as above


@pytest.mark.parametrize("federated", [False, True])
def test_a_search_goes_on_where_it_left_off(federated):
    s, truth = rows()
    cohort = split(s, 6, 7) if federated else Pooled(s)
    whole = by_boxed(cohort, truth)
    first = by_boxed(cohort, truth, steps=2)
    assert np.all(first.status == Status.NOT_CONVERGED)
    rest = by_boxed(cohort, truth, start=Resumed(first.state))
    np.testing.assert_array_equal(first.steps + rest.steps, whole.steps)
    np.testing.assert_array_equal(rest.theta, whole.theta)
    # Where everything is done nothing is evaluated.
    again = by_boxed(cohort, truth, start=Resumed(whole.state))
    np.testing.assert_array_equal(again.steps, 0)
    np.testing.assert_array_equal(again.theta, whole.theta)


def test_padding_takes_no_other_genes():
    """Gaps as many as repeats at the end: first and last are as far apart as neighbours are."""
    whole = np.arange(20) * 10
    for at in ([10, 12, 12], [3, 5, 6, 6], [4, 5, 6], [7], [7, 7], [0, 2, 3, 5, 5, 5]):
        places = np.array(at)
        np.testing.assert_array_equal(whole[_neighbours(places)], whole[places])


def test_zero_genes():
    s, truth = rows()
    nobody = np.array([], dtype=int)
    for cohort in (Pooled(s), split(s, 6, 7)):
        for fit in (by_irls(cohort, truth[:0], nobody), by_scalar(cohort, truth[:0], nobody)):
            assert fit.theta.shape[0] == len(fit.status) == len(fit.steps) == 0


def test_penalty_is_added_once():
    s, truth = rows()

    def heavy(beta, hyper, f):
        ridge = 5.0 * jnp.eye(2)[None]
        loss, gradient = f.loss + 2.5 * jnp.sum(beta**2, 1), f.gradient + 5 * beta
        return type(f)(loss, gradient, f.info + ridge, f.fisher + ridge)

    solver, alpha, start = Boxed(bound=nb.BOX), truth[:, 0], truth[:, 1:]
    pooled = solve(solver, nb.likelihood, start, alpha, Pooled(s), penalty=heavy)
    sites = solve(solver, nb.likelihood, start, alpha, split(s, 6, 7), penalty=heavy)
    same(pooled, sites, SITES)
    gradient = nb.likelihood(pooled.theta, alpha, s).gradient
    # At the optimum the score is the ridge's; a decrement of 1e-14 leaves 1e-7 of a root of the
    # information (1e2).
    np.testing.assert_allclose(gradient, -5 * pooled.theta, atol=1e-5)


def counted_statistic(traces):
    def statistic(a, center, s):
        traces.append(s.y.shape)
        rows = jnp.sum(s.weight)
        away = a - center
        return Curve(rows * away**2 / 2, rows * away, rows * jnp.ones_like(a))

    return statistic


def quadratic_fit(statistic, genes, n=12):
    cohort = Pooled(samples(np.zeros((n, genes)), np.ones((n, 1))))
    center = np.linspace(-3, 2, genes)
    interval = Interval(center + 0.7, np.full(genes, -9.0), np.full(genes, 9.0))
    fit = solve(Scalar(), statistic, interval, center, cohort)
    # A quadratic is solved to rounding.
    np.testing.assert_allclose(fit.theta, center, atol=1e-12)


def test_one_trace_a_shape():
    traces = []
    statistic = counted_statistic(traces)
    for genes in (300, 40, 129, 7, 300):
        quadratic_fit(statistic, genes)
    quadratic_fit(statistic, 300, n=11)  # padded to the same size
    assert len(traces) == 1
    quadratic_fit(statistic, 300, n=13)
    assert len(traces) == 2


def test_few_genes_and_many_share_a_trace(monkeypatch):
    monkeypatch.setattr(cohorts, "BLOCK_ELEMENTS", 2**18)
    traces = []
    statistic = counted_statistic(traces)
    for genes in (500, 40, 129, 7, 5000):
        quadratic_fit(statistic, genes)
    assert len(traces) == 1


def test_sites_trace_once_a_site_shape():
    traces = []
    statistic = counted_statistic(traces)
    s = samples(np.zeros((11, 50)), np.ones((11, 1)))
    center = np.linspace(-3, 2, 50)
    interval = Interval(center + 0.7, np.full(50, -9.0), np.full(50, 9.0))
    for _ in range(2):
        solve(Scalar(), statistic, interval, center, split(s, 4, 8))  # 4, 4 and 3 rows: one size
    assert len(traces) == 1


def test_result_is_numpy_and_the_start_is_untouched():
    s, truth = rows()
    start, given = truth[:, 1:], truth.copy()
    fit = solve(Irls(), nb.equation, start, truth[:, 0], Pooled(s), penalty=nb.ridge_equation)
    np.testing.assert_array_equal(truth, given)
    for leaf in jax.tree.leaves((fit.theta, fit.status, fit.state, fit.steps)):
        assert isinstance(leaf, np.ndarray)
