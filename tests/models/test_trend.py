import numpy as np
import pytest

from expressway._errors import InputError
from expressway.models import trend

SETS = ("two_against_one", "two_against_two", "three_against_two")


@pytest.mark.parametrize("name", ["plain", "wild", "flat"])
def test_parametric_trend_is_r_s(name, reference):
    inputs = reference("trend")["trends"][name]
    ours = trend.parametric(np.array(inputs["means"]), np.array(inputs["disps"]))
    # The same iteration; solved by least squares here, by QR in R.
    np.testing.assert_allclose(ours, [inputs["asymptDisp"], inputs["extraPois"]], rtol=1e-9)


def test_trend_that_rises_falls_back_to_local_regression(reference):
    inputs = reference("trend")["trends"]["rising"]
    assert inputs["error"]  # R gives up too
    mean, alpha = np.array(inputs["means"]), np.array(inputs["disps"])
    with pytest.raises(trend.TrendError):
        trend.parametric(mean, alpha)
    fit = trend.fit_trend(mean, alpha)
    assert fit.kind == "local"
    np.testing.assert_array_equal(fit.at(mean), trend.fit_trend(mean, alpha, "local").at(mean))
    # Too few genes for a local quadratic: their mean.
    assert trend.fit_trend(mean[::20], alpha[::20]).kind == "mean"


def test_mean_trend_is_r_s(reference):
    inputs = reference("trend")["trends"]["rising"]
    mean, alpha = np.array(inputs["means"]), np.array(inputs["disps"])
    fit = trend.fit_trend(mean, alpha, "mean")
    # A thousandth of 80 genes is none: the plain mean.
    np.testing.assert_allclose(fit.at(mean), alpha.mean(), rtol=1e-12)
    np.testing.assert_array_equal(fit.log_slope(mean), 0.0)


def test_genes_at_the_lower_bound_do_not_count(reference):
    inputs = reference("trend")["trends"]["plain"]
    mean, alpha = np.array(inputs["means"]), np.array(inputs["disps"])
    more = trend.fit_trend(np.append(mean, [10.0, 1e4]), np.append(alpha, [1e-8, 5e-7]))
    assert more == trend.fit_trend(mean, alpha)
    with pytest.raises(InputError, match="no gene has a dispersion above 1e-6"):
        trend.fit_trend(mean, np.full_like(alpha, 1e-8))


def test_prior_variance_takes_the_sampling_variance_off():
    # trigamma(2) = pi² / 6 - 1 (Abramowitz & Stegun 6.4.10).
    alpha = np.ones(5)
    found = trend.prior_variance(alpha, alpha, 2.0, df=4)
    assert found == pytest.approx(3 - np.pi**2 / 6, rel=1e-12)
    assert trend.prior_variance(alpha, alpha, 0.3, df=4) == 0.25


@pytest.mark.parametrize("name", SETS)
def test_prior_variance_of_few_degrees_lies_within_r_s_spread_over_seeds(name, reference):
    r = reference("prior_seeds")[name]
    fitted = np.full(len(r["residual"]), 0.1)
    alpha = fitted * np.exp(r["residual"])
    ours = trend.prior_variance(alpha, fitted, np.nan, r["df"])
    assert len(r["prior_variance"]) == 20
    assert min(r["prior_variance"]) <= ours <= max(r["prior_variance"])
    # Not a draw: the same twice, whatever the state of any generator.
    np.random.default_rng(1).normal(size=10)
    assert trend.prior_variance(alpha, fitted, np.nan, r["df"]) == ours


def test_matched_variance_finds_a_known_variance():
    rng = np.random.default_rng(3)
    for truth in (0.5, 2.0):
        chi2 = np.log(rng.chisquare(3, 20000) / 3)
        residual = rng.normal(0, np.sqrt(truth), 20000) + chi2
        # Its smoothing over a fifth of [0, 8] leaves a bias, in R too: it is no better than this.
        assert trend.matched_variance(residual, 3) == pytest.approx(truth, rel=0.2)


def test_dispersion_outliers_are_two_residual_sd_above():
    fitted = np.full(3, 0.1)
    alpha = fitted * np.exp([1.9, 2.1, -5.0])
    np.testing.assert_array_equal(
        trend.dispersion_outliers(alpha, fitted, 1.0), [False, True, False]
    )
