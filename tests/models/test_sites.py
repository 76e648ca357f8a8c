"""Pooled against sites, one with a single sample and one that lacks levels.

The numbers must not depend on where the rows lie: estimates agree to 1e-10 (|x| + SE), log p to
1e-9, status words are the same. Stopping rules are so tight that one more step changes nothing.
"""

import formulaic
import numpy as np
import pytest

from expressway import datasets
from expressway.core.cohort import Pooled, Samples, samples
from expressway.core.irls import Irls
from expressway.core.scalar import Interval, Scalar
from expressway.core.solve import Status, solve
from expressway.models import deseq, moments, nb, profile
from expressway.models.cells import groups as groups_of
from expressway.models.results import Takers, results
from expressway.run import Sites

CLOSE = 1e-10  # of |x| + SE
# Round trips of a fit, with refit and tests.
ROUNDS = 100


def split(rows: Samples) -> Sites:
    """Sites of 1, 4, 4 and so on, which compile once; the second has one level of each factor."""
    n = len(rows.x)
    parts = np.split(np.arange(n), [1, *range(5, n, 4)])
    return Sites([Samples(*(np.asarray(field)[part] for field in rows)) for part in parts])


def check(rows: Samples, settings: deseq.Settings) -> deseq.DESeqFit:
    """Fit both ways and compare every field of the fit and of the results."""
    groups = groups_of(rows.x)
    one, _ = deseq.fit(Pooled(rows), groups, settings)
    several, sites = deseq.fit(split(rows), groups, settings)
    n, p = rows.x.shape
    compare(one.gene, several.gene, np.sqrt(2 / (n - p)))
    for field in ("flagged", "outlier", "replaced"):
        np.testing.assert_array_equal(getattr(one, field), getattr(several, field))
    assert one.trend.kind == several.trend.kind
    np.testing.assert_allclose(one.trend[:2], several.trend[:2], rtol=1e-10)
    assert several.prior_variance == pytest.approx(one.prior_variance, rel=1e-10)
    assert 0 < sites.rounds < ROUNDS
    for vector in np.eye(p):
        everyone = Takers(1.0, np.zeros(p))
        a, b = (results(f, vector, everyone) for f in (one, several))
        np.testing.assert_array_equal(a.status, b.status)
        for x, y in ((a.wald.p_value, b.wald.p_value), (a.adjusted.p_adj, b.adjusted.p_adj)):
            np.testing.assert_array_equal(np.isnan(x), np.isnan(y))
            positive = x > 0  # z beyond 38 underflows
            np.testing.assert_array_equal(positive, y > 0)
            assert np.all(np.abs(np.log(x[positive]) - np.log(y[positive])) <= 1e-9)
    return one


def compare(a: deseq.Gene, b: deseq.Gene, log_alpha_se: float) -> None:
    """Every field of a gene."""
    error = np.sqrt(np.einsum("gpp->gp", a.covariance))
    scale = {
        "base_mean": 0.0,
        "base_variance": 0.0,
        "beta": error,
        "covariance": error[:, :, None] * error[:, None, :],
        "inverse": error[:, :, None] * error[:, None, :],
        "unsupported": 1.0,
        "positive": 1.0,
    }
    for field in a._fields:
        x, y = getattr(a, field), getattr(b, field)
        if field in scale:
            close(x, y, scale[field], field)
        elif x.dtype.kind == "f":
            close(np.log(x), np.log(y), log_alpha_se, field)
        else:
            np.testing.assert_array_equal(x, y, err_msg=field)


def close(x: np.ndarray, y: np.ndarray, scale: np.ndarray | float, field: str) -> None:
    np.testing.assert_array_equal(np.isnan(x), np.isnan(y), err_msg=field)
    far = np.abs(x - y) > CLOSE * (np.abs(x) + scale)
    assert not np.any(far), (field, np.flatnonzero(far.reshape(len(x), -1).any(axis=1)))


@pytest.mark.parametrize(
    "name",
    [
        "two_group",
        pytest.param("batch", marks=pytest.mark.slow),
        pytest.param("replicates", marks=pytest.mark.slow),
        "continuous",
        "interaction",
    ],
)
def test_reference_cases(name, case):
    c = case(name)
    one = check(c.rows, deseq.Settings(keep_if_larger=False))
    assert np.any(one.replaced) == (name == "replicates")
    assert np.any(one.outlier) == (name not in ("replicates", "continuous"))


def simulated() -> Samples:
    """Outliers, three batches, and samples in such an order that a site lacks levels."""
    adata = datasets.simulate(600, 24, seed=3, batches=3, outliers=40)
    x = formulaic.model_matrix("~ batch + condition", adata.obs).to_numpy(dtype=float)
    order = np.lexsort(x.T)
    return samples(adata.X[order], x[order])


def test_many_simulated_genes_with_refit():
    rows = simulated()
    settings = deseq.Settings("poscounts", min_replicates=4, keep_if_larger=False)
    one = check(rows, settings)
    assert np.sum(one.replaced) >= 20
    # The second site has neither treated samples nor the third batch.
    np.testing.assert_array_equal(np.any(rows.x[1:5], axis=0), [True, True, False, False])


def test_rows_of_sites_are_not_at_hand(case):
    rows = case("two_group").rows
    # The rule that looks at single counts is off: a gene that pooled keeps is an outlier.
    kept, _ = deseq.fit(Pooled(rows), groups_of(rows.x))
    lost, _ = deseq.fit(split(rows), groups_of(rows.x))
    assert np.sum(lost.outlier & ~kept.outlier) == 3
    assert not np.any(kept.outlier & ~lost.outlier)
    assert np.all(np.isnan(lost.max_cooks))


@pytest.mark.parametrize("name", ["two_group", "batch", "continuous"])
def test_one_more_step_changes_no_coefficient(name, fitted):
    f = fitted(name)
    gene = f.fit.gene
    genes = np.flatnonzero((gene.beta_status == Status.OK) & ~gene.boxed & (gene.base_mean > 0))
    beta, error = gene.beta[genes], np.sqrt(np.einsum("gpp->gp", gene.covariance[genes]))
    again = solve(
        Irls(max_steps=1),
        nb.equation,
        beta,
        gene.dispersion[genes],
        f.cohort,
        penalty=nb.ridge_equation,
        genes=genes,
    )
    assert np.all(again.steps == 1)
    assert np.all(np.abs(again.state.trial - beta) <= CLOSE * (np.abs(beta) + error))


@pytest.mark.parametrize("name", ["two_group", "interaction", "small"])
def test_one_more_step_changes_no_map_dispersion(name, case, fitted):
    f, c = fitted(name), case(name)
    gene = f.fit.gene
    genes = np.flatnonzero(gene.base_mean > 0)
    sums = f.cohort.sum(moments.moments, genes=genes)
    linear = np.linalg.solve(sums.normal, sums.linear[..., None])[..., 0]
    shape = profile.Shape(
        linear,
        np.log(gene.dispersion_trend[genes]),
        np.full(len(genes), 1 / f.fit.prior_variance),
    )
    n, p = c.rows.x.shape
    log_alpha = np.log(gene.dispersion_map[genes])
    bounds = np.log([moments.MIN_DISPERSION, moments.max_dispersion(n)])
    interval = Interval(log_alpha, *(np.full(len(genes), bound) for bound in bounds))
    again = solve(
        Scalar(max_steps=1),
        profile.profile_linear,
        interval,
        shape,
        f.cohort,
        penalty=profile.adjusted,
        genes=genes,
    )
    moved = np.abs(again.state.trial - log_alpha)
    assert np.all(moved <= CLOSE * (np.abs(log_alpha) + np.sqrt(2 / (n - p))))
