"""Influence of samples: derivatives against refits at weights 1 ± h, and against autodiff."""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expressway._errors import InputError
from expressway.core.arrow import Span, Wide
from expressway.core.boxed import Boxed
from expressway.core.cohort import Pooled, Samples, samples
from expressway.core.solve import solve
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
def case(n=12, g=60, p=3, seed=1, kind="parametric") -> Case:
    rows = simulated(n, g, p, seed)
    y = rows.y.copy()
    y[rows.x[:, -1] == 1, 0] = 0  # separated: means are raised there
    y[3, [1, 3]] = 40 * y[3, [1, 3]] + 1000  # outliers
    rows = rows._replace(y=y)
    settings = deseq.Settings(size_factors="poscounts", min_replicates=3, trend=kind)
    given = deseq.Given(trend=lambda mean: 0.05 + 1 / np.sqrt(mean))
    fit, cohort = deseq.fit(Pooled(rows), groups(rows.x), settings, given=given)
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


def test_genes_of_the_boxed_solver_move_with_the_likelihood():
    """No mean is raised there, and coefficients at a bound stay."""
    c = case()
    low = np.flatnonzero(np.any(np.exp(c.rows.x @ c.fit.gene.beta.T) < 0.7, axis=0))[:3]
    genes = np.union1d(low, [0])  # separated: it ends at the bound
    alpha, beta = c.fit.gene.dispersion, c.fit.gene.beta.copy()
    solver, penalty = Boxed(bound=nb.BOX), nb.ridge_likelihood
    start, given = beta[genes], alpha[genes]
    ends = solve(solver, nb.likelihood, start, given, c.cohort, penalty=penalty, genes=genes)
    beta[genes] = ends.theta
    boxed = np.isin(np.arange(60), genes)
    spread = nb.covariance(c.cohort, beta, alpha, np.arange(60)).covariance
    fit = c.fit._replace(gene=c.fit.gene._replace(beta=beta, boxed=boxed, covariance=spread))
    found = influence.conditional(fit, c.cohort, CONTRASTS)
    n = 4
    expected = slopes(leave_out.conditional, fit, c.cohort, CONTRASTS, n)
    for name, slope in zip(("estimate", "se", "stat"), expected, strict=True):
        mine = getattr(found, name)[:, n, genes]
        np.testing.assert_allclose(mine, slope[:, genes], rtol=1e-6, atol=1e-7, err_msg=name)


def test_conditional_equals_autodiff(conditional):
    """By the implicit function theorem, every derivative of the equations by jax."""
    c = case()
    s, gene = c.cohort.rows, c.fit.gene
    g = 20
    alpha = gene.dispersion[g : g + 1]

    def rows(w):
        return s._replace(y=s.y[:, g : g + 1], weight=w)

    def both(beta, w):
        e = nb.ridge_equation(beta[None], alpha, nb.equation(beta[None], alpha, rows(w)))
        info = nb.information(beta[None], alpha, rows(w)).info[0]
        inverse = jnp.linalg.inv(info + nb.RIDGE * jnp.eye(3))
        se = jnp.sqrt(jnp.einsum("qi,ij,qj->q", CONTRASTS, inverse @ info @ inverse, CONTRASTS))
        estimate = CONTRASTS @ beta
        return e.score[0], (estimate, se, estimate / se)

    derivatives = jax.jit(jax.jacfwd(both, (0, 1)))(gene.beta[g], np.ones(len(s.weight)))
    (by_beta, by_weight), tests = derivatives
    moves = -np.linalg.solve(by_beta, by_weight)
    for name, (db, dw) in zip(("estimate", "se", "stat"), tests, strict=True):
        found = getattr(conditional, name)[:, :, g]
        np.testing.assert_allclose(found, db @ moves + dw, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize(
    ("p", "kind"),
    [
        pytest.param(3, "parametric", marks=pytest.mark.slow),
        (2, "parametric"),
        (2, "mean"),
        (2, "local"),
        (2, "given"),
    ],
)
def test_pipeline_equals_differences_of_fits(p, kind):
    """Of means by the GLM, and by least squares (p = 2: as many cells as coefficients)."""
    c = case(p=p, kind=kind)
    assert c.fit.trend.kind == kind
    assert c.fit.linear_means == (p == 2)
    contrasts = CONTRASTS[:, 3 - p :]
    found = influence.pipeline(c.fit, c.cohort, contrasts)
    moves = np.flatnonzero(~found.held)
    assert len(moves) > 50
    assert np.any(c.fit.replaced[moves])
    assert p == 2 or np.any(c.fit.gene.dispersion_outlier[moves])
    n = 3
    for name, slope in zip(
        ("estimate", "se", "stat"),
        slopes(leave_out.pipeline, c.fit, c.cohort, contrasts, n),
        strict=True,
    ):
        # h² times third derivatives. Dispersions stop at 1e-12: noise of 1e-8, and some.
        kwargs = {"rtol": 1e-5, "atol": 1e-6, "err_msg": name}
        np.testing.assert_allclose(getattr(found, name)[:, n, moves], slope[:, moves], **kwargs)
    held = np.flatnonzero(found.held & np.isfinite(found.stat[0, n]))
    assert np.all(found.log_alpha[:, held] == 0)
    assert ("the local dispersion trend" in found.frozen) == (kind == "local")


def test_pipeline_differs_from_conditional_by_what_dispersions_do(conditional):
    c = case()
    whole = influence.pipeline(c.fit, c.cohort, CONTRASTS)
    np.testing.assert_allclose(whole.leverage, conditional.leverage, rtol=1e-9)
    held = np.flatnonzero(whole.held)
    np.testing.assert_allclose(whole.stat[:, :, held], conditional.stat[:, :, held], rtol=1e-9)
    assert not np.allclose(np.nan_to_num(whole.se), np.nan_to_num(conditional.se), rtol=0.1)


def test_a_step_is_nearer_than_the_derivative(conditional):
    c = case()
    exact = leave_out.conditional(c.fit, c.cohort, CONTRASTS)
    there = exact.reason == Reason.OK
    for name in ("estimate", "se", "stat"):
        change = getattr(exact, name)[:, there]
        by_step = np.abs(getattr(conditional.step, name)[:, there] - change)
        by_slope = np.abs(-getattr(conditional, name)[:, there] - change)
        assert np.median(by_step) < 0.3 * np.median(by_slope)


def test_pipeline_of_a_few_pairs_is_that_of_all():
    c = case()
    pairs = np.zeros((12, 60), bool)
    pairs[2, [5, 1, 33]] = True
    some = leave_out.pipeline(c.fit, c.cohort, CONTRASTS, pairs)
    pairs[2] = True
    whole = leave_out.pipeline(c.fit, c.cohort, CONTRASTS, pairs)
    np.testing.assert_array_equal(some.reason[2] == Reason.OK, np.isin(np.arange(60), [5, 1, 33]))
    few = some.stat[:, 2, [5, 1, 33]]
    np.testing.assert_allclose(few, whole.stat[:, 2, [5, 1, 33]], rtol=1e-10)
    # With all samples nothing changes.
    nothing = leave_out.pipeline(c.fit, c.cohort, CONTRASTS, pairs, weight=1.0)
    np.testing.assert_allclose(np.nan_to_num(nothing.stat), 0, atol=1e-8)


def test_pipeline_needs_the_genes_of_the_trend():
    c = case()
    few = np.arange(0, 60, 2)
    gene = c.fit.gene._replace(
        **{k: v[few] for k, v in c.fit.gene._asdict().items()},
    )
    names = ("max_cooks", "flagged", "outlier", "replaced")
    fit = c.fit._replace(gene=gene, **{name: getattr(c.fit, name)[few] for name in names})
    cohort = Pooled(c.cohort.rows._replace(y=c.cohort.rows.y[:, few]))
    assert np.any(np.isfinite(influence.conditional(fit, cohort, CONTRASTS).stat))
    with pytest.raises(InputError, match="these 30 genes do not give the dispersion trend"):
        influence.pipeline(fit, cohort, CONTRASTS)


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
