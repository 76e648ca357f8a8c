"""Trends and transforms against R's DESeq2: from its own gene-wise dispersions, and whole."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from expressway._errors import InputError
from expressway.core.cohort import Pooled, samples
from expressway.models import deseq, rlog, transforms, trend, vst
from expressway.models.cells import groups

CASES = ("small", "two_group")
GENES = 50


class Case(NamedTuple):
    y: np.ndarray
    design: np.ndarray
    r: dict[str, Any]


@pytest.fixture(params=CASES)
def case(request, reference) -> Case:
    counts = np.array(reference(request.param)["counts"][:GENES]).T
    design = np.array(reference(request.param)["design_matrix"], float)
    return Case(counts, design, reference("transforms")[request.param])


def numbers(values):
    return np.array(values, float)


def from_r(case: Case, kind: str) -> transforms.Basis:
    """Ours from R's gene-wise dispersions: R's stop up to 1e-3 from their optima."""
    r = case.r["trends"][kind]
    mean, alpha = numbers(r["mean"]), numbers(r["gene_wise"])
    counted = np.flatnonzero(np.isfinite(alpha))
    sized = transforms.sized(Pooled(samples(case.y, np.ones((len(case.y), 1)))), "ratio")
    found = trend.fit_trend(mean[counted], alpha[counted], kind)
    return transforms.Basis(sized.cohort, mean, counted, found)


# Local regression: R's eigenvectors are good to 3e-8 (`test_locfit`); logarithms of the trend vary
# by ten. The others: rounding of sums.
RELATIVE = {"parametric": 1e-11, "mean": 1e-11, "local": 1e-7}


@pytest.mark.parametrize("kind", list(RELATIVE))
def test_trend_and_vst_are_r_s(case, kind):
    r = case.r["trends"][kind]
    assert r["fitted_kind"] == kind
    basis = from_r(case, kind)
    at, tolerance = basis.counted, RELATIVE[kind]
    np.testing.assert_allclose(basis.trend.at(basis.mean[at]), numbers(r["trend"])[at], tolerance)
    assert basis.trend.residual_variance == pytest.approx(
        r["residual_variance"], rel=10 * tolerance
    )
    value = basis.cohort.collect(transforms.counts).value
    of = transforms.fit_vst(basis)
    # Values near 0 are differences of values near 10.
    np.testing.assert_allclose(of.at(value), r["vst"], rtol=tolerance, atol=10 * tolerance)


def test_rlog_is_r_s(case):
    found = transforms.fit_rlog(from_r(case, "parametric"))
    assert found.rlog.prior_variance == pytest.approx(case.r["rlog_prior_variance"], rel=1e-10)
    # Stopped at the same step: rounding of a few steps.
    np.testing.assert_allclose(found.value.T, case.r["rlog"], rtol=1e-10, atol=1e-11)


def test_rlog_stops_where_r_s_does(monkeypatch):
    """It is not the maximum of the posterior, from which R is as much as 1.3 % away here."""
    rng = np.random.default_rng(2)
    y = rng.negative_binomial(2, 0.02, (6, 30)) * 1.0
    args = y, np.zeros((6, 1)), np.full(30, 0.5), 0.3
    stopped = rlog.transform(*args)
    monkeypatch.setattr(rlog, "TOLERANCE", 1e-14)
    found = rlog.transform(*args)
    assert 1e-4 < np.max(np.abs(found.effect - stopped.effect)) < 0.1

    # The converged one solves the equations with a ridge on each coefficient.
    level, effect = found.intercept * np.log(2), found.effect * np.log(2)
    mu = np.exp(level + effect)
    score = (y - mu) / (1 + 0.5 * mu)
    ridge = 1 / (0.3 * np.log(2) ** 2)
    np.testing.assert_allclose(score, ridge * effect, atol=1e-6)
    np.testing.assert_allclose(score.sum(axis=0), rlog.LOOSE / np.log(2) ** 2 * level, atol=1e-6)


def test_whole_runs_are_r_s(case):
    """Our own gene-wise dispersions: R's ascent stops up to 1e-3 from the optima."""
    sized = transforms.sized(Pooled(samples(case.y, case.design)), "ratio")
    np.testing.assert_allclose(
        np.exp(sized.cohort.rows.offset[:, 0]), case.r["size_factors"], 1e-12
    )
    basis = transforms.basis(sized, groups(case.design), deseq.DEFAULTS)
    value = transforms.fit_vst(basis).at(basis.cohort.collect(transforms.counts).value)
    # A mean of fifty dispersions: a few 1e-4 of them, of values of about 5.
    np.testing.assert_allclose(value, case.r["vst_design"], rtol=3e-4)
    close = np.isclose(
        transforms.fit_rlog(basis).value.T, case.r["rlog_design"], rtol=3e-4, atol=1e-3
    )
    # A gene near R's stop may take a step more.
    assert np.mean(close) > 0.98


@pytest.mark.parametrize("case", ["two_group"], indirect=True)
def test_new_samples_are_transformed_as_r_has_it(case):
    n = len(case.y)
    old = np.arange(n - n // 3)
    cohort = Pooled(samples(case.y[old], np.ones((len(old), 1))))
    sized = transforms.sized(cohort, "ratio")
    basis = transforms.basis(sized, groups(np.ones((len(old), 1))), deseq.DEFAULTS)
    y = 3 * case.y[len(old) :]
    new = transforms.sized_by(Pooled(samples(y, np.ones((len(y), 1)))), sized.log_reference)
    r = case.r["new"]
    assert basis.trend.kind == r["trend"]
    np.testing.assert_allclose(np.exp(new.rows.offset[:, 0]), r["size_factors"], rtol=1e-12)
    value = transforms.fit_vst(basis).at(new.collect(transforms.counts).value)
    np.testing.assert_allclose(value, r["vst"], rtol=3e-4)  # as of whole runs
    by_rlog = transforms.apply_rlog(transforms.fit_rlog(basis).rlog, new)
    close = np.isclose(by_rlog.T, r["rlog"], rtol=3e-4, atol=1e-3)
    assert np.mean(close) > 0.98
    # The samples it was fitted to keep their size factors, and the function is the same.
    again = transforms.sized_by(cohort, sized.log_reference)
    np.testing.assert_allclose(again.rows.offset, sized.cohort.rows.offset, atol=1e-14)


@pytest.mark.parametrize("method", ["ratio", "poscounts"])
def test_frozen_size_factors_are_their_own(method, reference):
    y = np.array(reference("small")["counts"]).T
    cohort = Pooled(samples(y, np.ones((len(y), 1))))
    sized = transforms.sized(cohort, method)
    again = transforms.sized_by(cohort, sized.log_reference)
    np.testing.assert_allclose(again.rows.offset, sized.cohort.rows.offset, atol=1e-14)
    one = transforms.sized_by(Pooled(samples(y[2:3], np.ones((1, 1)))), sized.log_reference)
    np.testing.assert_allclose(one.rows.offset, sized.cohort.rows.offset[2:3], atol=1e-14)


def test_analyses_along_other_trends_are_r_s(case):
    cohort, cells = Pooled(samples(case.y, case.design)), groups(case.design)
    own = deseq.Given(trend=lambda mean: 0.02 + 0.5 / np.sqrt(mean))
    runs = [("local", deseq.NOTHING, case.r["runs"]["local"])]
    runs += [("mean", deseq.NOTHING, case.r["runs"]["mean"]), ("given", own, case.r["own"])]
    for kind, given, r in runs:
        settings = deseq.Settings(trend=kind, replace_outliers=False)
        if case.design.shape[0] - case.design.shape[1] <= 3:
            settings = settings._replace(prior_variance=r["prior_variance"])
        fit, _ = deseq.fit(cohort, cells, settings, given=given)
        assert fit.trend.kind == kind
        # A median of fifty residuals, some of which R's ascent leaves 1e-3 away.
        assert fit.prior_variance == pytest.approx(r["prior_variance"], rel=5e-3)
        theirs = numbers(r["dispersion"])
        known = np.isfinite(theirs)
        close = np.isclose(fit.gene.dispersion[known], theirs[known], rtol=2e-3)
        assert np.mean(close) > 0.9


def test_a_numerical_vst_is_the_closed_form():
    """The trapezoidal rule on 1,000 points, and the scale: log2 at two quantiles."""
    mean = np.geomspace(1e-3, 1e6, 512)
    by_formula = trend.Trend(0.05, 2.0, "parametric", 0.5)
    by_nodes = trend.through(mean, by_formula.at(mean))
    levels = np.geomspace(0.1, 2e4, 5000)
    of = vst.fit_vst(by_nodes, vst.Table(levels, 1e5, 1.0))
    q = np.geomspace(1.0, 1e5, 200)
    exact = vst.Vst(by_formula).at(q)
    low, high = np.quantile(levels, vst.QUANTILES)
    np.testing.assert_allclose(of.at(np.array([low, high])), np.log2([low, high]), rtol=1e-12)
    # Affinely the same. DESeq2's rule begins at .012, where the integrand is like q^-1/2.
    slope, shift = np.polyfit(exact, of.at(q), 1)
    np.testing.assert_allclose(of.at(q), shift + slope * exact, atol=5e-3)
    # Counts of new samples beyond the grid go on as with a longer one.
    beyond = np.array([3e5, 1e7])
    longer = vst.fit_vst(by_nodes, vst.Table(levels, 1e8, 1.0))
    np.testing.assert_allclose(of.at(beyond), longer.at(beyond), rtol=1e-4)


def test_genes_without_counts_leave_no_scale():
    of = trend.through(np.array([1.0, 10.0]), np.array([0.5, 0.1]))
    with pytest.raises(InputError, match="no scale for the transformation along a given trend"):
        vst.fit_vst(of, vst.Table(np.append(np.zeros(999), 3.0), 9.0, 1.0))


def test_a_weighted_quantile_counts_its_neighbours():
    mean = np.array([1.0, 3.0])
    alpha = np.array([1.0, 1 / 3])
    weight = 1 / (1 / mean + alpha)
    q = np.random.default_rng(3).gamma(2, 2, (8, 2))
    change = np.abs(np.log2(q + 0.5) - np.log2(mean + 0.5)).ravel()
    weights = np.tile(weight, 8)
    order = np.argsort(change)
    cumulative = np.cumsum(weights[order]) * 16 / weights.sum()
    below, above = (change[order][np.argmax(cumulative >= k)] for k in (15, 16 - 1e-9))
    wanted = 0.75 * below + 0.25 * above  # 1 + 15 × .95 = 15.25
    sd = rlog.prior_variance(q, mean, alpha) ** 0.5 * 1.959963984540054
    assert sd == pytest.approx(wanted, rel=1e-12)
