"""Influence of samples: derivatives against refits at weights 1 ± h, and against autodiff."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expressway._errors import InputError
from expressway.core.arrow import Span, Wide
from expressway.core.cohort import Pooled, Samples, samples
from expressway.models import deseq, influence, leave_out, nb
from expressway.models.cells import groups
from expressway.models.leave_out import Reason

# Solvers leave errors of 1e-14 standard errors: noise of 1e-10, and h² = 1e-8
# of a third derivative.
STEP = 1e-4
CONTRASTS = np.array([[0.0, 0.0, 1.0], [1.0, 0.5, 0.5]])


class Case(NamedTuple):
    rows: Samples
    fit: deseq.DESeqFit
    cohort: Pooled


def simulated(n, g, p, seed):
    """Counts of two conditions and, at p = 3, two batches; some genes of few counts."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), np.arange(n) % 2, np.arange(n) // 2 % 2])[
        :, [0, *range(2, p), 1]
    ]
    beta = np.column_stack([rng.uniform(0, 7, g), rng.normal(0, 0.7, (g, p - 1))])
    alpha = np.exp(rng.normal(-2, 0.7, g)) + 0.5 * np.exp(-beta[:, 0])
    alpha[[8, 9]] *= 30  # dispersion outliers
    size = rng.uniform(0.6, 1.6, n)
    mu = np.exp(x @ beta.T) * size[:, None]
    y = rng.negative_binomial(1 / alpha, 1 / (1 + alpha * mu)) * 1.0
    return samples(y, x)


@functools.cache
def case(n=12, g=60, p=3, seed=1) -> Case:
    rows = simulated(n, g, p, seed)
    y = rows.y.copy()
    y[rows.x[:, -1] == 1, 0] = 0  # separated: means are raised there
    y[3, [1, 3]] = 40 * y[3, [1, 3]] + 1000  # outliers
    rows = rows._replace(y=y)
    settings = deseq.Settings(size_factors="poscounts", min_replicates=3)
    fit, cohort = deseq.fit(Pooled(rows), groups(rows.x), settings)
    return Case(rows, fit, cohort)


def slopes(exact, fit, cohort, contrasts, n):
    """Central differences of exact fits in the weight of a sample."""
    pairs = np.zeros((fit.samples, cohort.genes), bool)
    pairs[n] = True
    up, down = (exact(fit, cohort, contrasts, pairs, 1 + h) for h in (STEP, -STEP))
    return [(a - b)[:, n] / (2 * STEP) for a, b in zip(up[:3], down[:3], strict=True)]


@pytest.fixture(scope="module")
def conditional():
    c = case()
    return influence.conditional(c.fit, c.cohort, CONTRASTS)


def test_data_reach_every_branch():
    c = case()
    mu = np.exp(c.cohort.rows.offset + c.rows.x @ c.fit.gene.beta.T)
    assert np.any(mu < 0.5)
    assert np.any(c.fit.replaced)
    assert np.any(c.fit.gene.dispersion_outlier)


@pytest.mark.parametrize("n", [0, 3, 10])
def test_conditional_equals_differences_of_fits(conditional, n):
    c = case()
    expected = slopes(leave_out.conditional, c.fit, c.cohort, CONTRASTS, n)
    for name, slope in zip(("estimate", "se", "stat"), expected, strict=True):
        found = getattr(conditional, name)[:, n]
        # h² times third derivatives of order ten.
        np.testing.assert_allclose(found, slope, rtol=1e-6, atol=1e-7, err_msg=name)


def test_conditional_equals_autodiff(conditional):
    """By the implicit function theorem, every derivative of the equations by jax."""
    c = case()
    s, gene = c.cohort.rows, c.fit.gene
    for g in (7, 20, 41):
        alpha = gene.dispersion[g : g + 1]

        def rows(w, g=g):
            return s._replace(y=s.y[:, g : g + 1], weight=w)

        def root(beta, w, alpha=alpha, rows=rows):
            e = nb.ridge_equation(beta[None], alpha, nb.equation(beta[None], alpha, rows(w)))
            return e.score[0]

        def test(beta, w, alpha=alpha, rows=rows):
            info = nb.information(beta[None], alpha, rows(w)).info[0]
            inverse = jnp.linalg.inv(info + nb.RIDGE * jnp.eye(3))
            estimate = CONTRASTS @ beta
            se = jnp.sqrt(jnp.einsum("qi,ij,qj->q", CONTRASTS, inverse @ info @ inverse, CONTRASTS))
            return estimate, se, estimate / se

        beta, w = jnp.asarray(gene.beta[g]), jnp.ones(len(s.weight))
        by_beta, by_weight = jax.jacobian(root, (0, 1))(beta, w)
        moves = -jnp.linalg.solve(by_beta, by_weight)
        parts = jax.jacobian(test, (0, 1))(beta, w)
        for name, (db, dw) in zip(("estimate", "se", "stat"), parts, strict=True):
            found = getattr(conditional, name)[:, :, g]
            np.testing.assert_allclose(found, db @ moves + dw, rtol=1e-8, atol=1e-10)


def test_leaving_out_is_a_fit_without_the_row(conditional):
    c = case()
    n = 5
    left = leave_out.conditional(c.fit, c.cohort, CONTRASTS)
    own = np.flatnonzero(~c.fit.replaced & ~c.fit.gene.boxed)
    kept = np.delete(np.arange(len(c.rows.y)), n)
    cut = Samples(*(a[kept] for a in c.cohort.rows))
    alpha = c.fit.gene.dispersion[own]
    beta = nb.coefficients(Pooled(cut), c.fit.gene.beta[own], alpha, own).beta
    spread = nb.covariance(Pooled(cut), beta, alpha, own).covariance
    change = CONTRASTS @ (beta - c.fit.gene.beta[own]).T
    np.testing.assert_allclose(left.estimate[:, n, own], change, rtol=1e-9, atol=1e-11)
    se = np.sqrt(np.einsum("qi,gij,qj->qg", CONTRASTS, spread, CONTRASTS))
    before = np.sqrt(np.einsum("qi,gij,qj->qg", CONTRASTS, c.fit.gene.covariance[own], CONTRASTS))
    np.testing.assert_allclose(left.se[:, n, own], se - before, rtol=1e-8, atol=1e-11)
    assert np.all(left.reason[n] == Reason.OK)


def test_blocks_and_parts_of_genes_change_nothing(conditional):
    c = case()
    pairs = np.zeros(conditional.leverage.shape, bool)
    pairs[2, [5, 4, 33]] = pairs[7, 9] = True
    some = leave_out.conditional(c.fit, c.cohort, CONTRASTS, pairs)
    whole = leave_out.conditional(c.fit, c.cohort, CONTRASTS)
    np.testing.assert_array_equal(some.reason == Reason.OK, pairs)
    np.testing.assert_allclose(some.stat[:, pairs], whole.stat[:, pairs], rtol=1e-11, atol=1e-12)
    assert np.all(np.isnan(some.stat[:, ~pairs]))


def test_weights_along_which_nothing_changes_add_up_to_nothing(conditional):
    """All weights twice as large leave coefficients where they are, but for the ridge."""
    assert np.nanmax(np.abs(np.sum(conditional.estimate, axis=1))) < 1e-4


def test_a_level_that_vanishes_is_said_and_not_crashed_on():
    rows = simulated(7, 30, 2, 3)
    x = np.column_stack([np.ones(7), np.arange(7) % 2, np.arange(7) == 6])
    fit, cohort = deseq.fit(Pooled(samples(rows.y + 1, x)), groups(x))
    left = leave_out.conditional(fit, cohort, np.eye(3))
    assert np.all(left.reason[6] == Reason.RANK)
    assert np.all(np.isnan(left.stat[:, 6]))
    assert np.all(left.reason[:6] == Reason.OK)
    assert np.all(np.isfinite(influence.conditional(fit, cohort, np.eye(3)).stat))


def test_a_gene_counted_once_is_said():
    rows = simulated(8, 30, 2, 4)
    y = rows.y + 1
    y[:, 3] = 0
    y[2, 3] = 9
    y[:, 5] = 0
    settings = deseq.Settings(size_factors="poscounts")
    fit, cohort = deseq.fit(Pooled(samples(y, rows.x)), groups(rows.x), settings)
    left = leave_out.conditional(fit, cohort)
    assert left.reason[2, 3] == Reason.NO_COUNTS
    assert np.all(left.reason[:, 5] == Reason.NOT_ASKED)
    assert np.all(np.isnan(influence.conditional(fit, cohort).stat[:, :, 5]))


def test_what_has_no_rows_or_too_many_columns_is_refused():
    c = case()
    with pytest.raises(InputError, match="12 samples x 3 genes, but the fit is of 12 x 60"):
        influence.conditional(c.fit, Pooled(c.rows._replace(y=c.rows.y[:, :3])))
    wide = Wide(np.ones((12, 1)), np.ones(12), np.arange(12), Span(1, 13))
    with pytest.raises(InputError, match="needs a dense design, but this one has 13 columns"):
        influence.conditional(c.fit, Pooled(c.rows._replace(x=wide)))
