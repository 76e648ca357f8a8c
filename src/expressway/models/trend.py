"""Dispersion trend and prior: arithmetic on genes, no rows.

Sources: Love, Huber & Anders 2014 (Genome Biology 15:550, methods) and DESeq2 1.38 ``R/core.R``
(parametricDispersionFit, estimateDispersionsFit, estimateDispersionsPriorVar).
"""

from typing import Literal, NamedTuple

import numpy as np
from scipy import special

from expressway._errors import InputError
from expressway._types import Bool, Float, Int
from expressway.core.smooth import loess

from .moments import MIN_DISPERSION

Kind = Literal["parametric", "mean"]
# R stats::mad, constant: 1 / the normal's upper quartile, to five digits.
MAD = 1.4826


class Trend(NamedTuple):
    """Dispersion as a function of the mean of normalised counts, ``asymptotic + extra / mean``."""

    asymptotic: float
    extra: float
    kind: Kind
    residual_variance: float
    """MAD² of ``log alpha - log trend`` (natural log) over the genes used."""

    def at(self, mean: Float[np.ndarray, "g"]) -> Float[np.ndarray, "g"]:
        """Dispersion at each mean."""
        return self.asymptotic + self.extra / mean


class TrendError(ValueError):
    """The parametric trend does not fit these genes."""


def fit_trend(
    mean: Float[np.ndarray, "g"], alpha: Float[np.ndarray, "g"], kind: Kind = "parametric"
) -> Trend:
    """Parametric trend, or its mean fallback, over genes with dispersion above 1e-6.

    The fallback (``kind == "mean"``) is the mean of dispersions above 1e-7, trimmed by .001 at
    both ends. DESeq2 would fall back to a local regression.

    Raises
    ------
    InputError
        If no gene has a dispersion above 1e-6.
    """
    used = alpha > 100 * MIN_DISPERSION
    if not np.any(used):
        msg = (
            "no gene has a dispersion above 1e-6, so no trend can be fitted; "
            "the counts vary no more than Poisson counts: check that they are raw counts"
        )
        raise InputError(msg)
    asymptotic, extra = 0.0, 0.0
    if kind == "parametric":
        try:
            asymptotic, extra = parametric(mean[used], alpha[used])
        except TrendError:
            kind = "mean"
    if kind == "mean":
        asymptotic = float(np.mean(alpha[_trimmed(alpha)]))
    bare = Trend(asymptotic, extra, kind, np.nan)
    residual = np.log(alpha) - np.log(bare.at(mean))
    above = alpha >= 100 * MIN_DISPERSION
    spread = MAD * np.median(np.abs(residual[above] - np.median(residual[above])))
    return bare._replace(residual_variance=float(spread**2))


def parametric(mean: Float[np.ndarray, "g"], alpha: Float[np.ndarray, "g"]) -> tuple[float, float]:
    """``a0, a1`` of ``alpha = a0 + a1 / mean``: gamma GLM, identity link, iterated.

    Genes outside (1e-4, 15) times the last fit are left out of the next, until
    ``sum log² (change of the coefficients) < 1e-6``, at most eleven times.

    Raises
    ------
    TrendError
        If a coefficient is not positive or the iteration does not settle.
    """
    coefficients, _ = _iterated(mean, alpha)
    return float(coefficients[0]), float(coefficients[1])


def _trimmed(alpha: Float[np.ndarray, "g"]) -> Int[np.ndarray, "k"]:
    """Genes of which the mean is the fallback."""
    some = np.flatnonzero(alpha > 10 * MIN_DISPERSION)
    cut = int(0.001 * len(some))
    return some[np.argsort(alpha[some], kind="stable")][cut : len(some) - cut]


def members(
    trend: Trend, mean: Float[np.ndarray, "g"], alpha: Float[np.ndarray, "g"]
) -> Int[np.ndarray, "k"]:
    """The genes whose dispersions `fit_trend` fitted in the end."""
    if trend.kind == "mean":
        return _trimmed(alpha)
    used = np.flatnonzero(alpha > 100 * MIN_DISPERSION)
    return used[_iterated(mean[used], alpha[used])[1]]


def _iterated(
    mean: Float[np.ndarray, "g"], alpha: Float[np.ndarray, "g"]
) -> tuple[Float[np.ndarray, "2"], Bool[np.ndarray, "g"]]:
    """Coefficients of `parametric`, and the genes of the last fit."""
    coefficients = np.array([0.1, 1.0])
    x = np.column_stack([np.ones_like(mean), 1.0 / mean])
    for _ in range(11):
        ratio = alpha / (x @ coefficients)
        good = (ratio > 1e-4) & (ratio < 15)
        old = coefficients
        coefficients, converged = _gamma_identity(x[good], alpha[good], coefficients)
        if not np.all(coefficients > 0):
            raise TrendError
        if converged and np.sum(np.log(coefficients / old) ** 2) < 1e-6:
            return coefficients, good
    raise TrendError


def _gamma_identity(
    x: Float[np.ndarray, "g 2"], y: Float[np.ndarray, "g"], start: Float[np.ndarray, "2"]
) -> tuple[Float[np.ndarray, "2"], bool]:
    """Gamma GLM with identity link by iterated least squares, with R's glm.fit's stopping rule."""
    beta, mu = start, x @ start
    deviance = _gamma_deviance(y, mu)
    for _ in range(25):  # R glm.control, maxit
        weighted = x / mu[:, None] ** 2
        new = np.linalg.lstsq(weighted.T @ x, weighted.T @ y, rcond=None)[0]
        mu = x @ new
        for _ in range(25):  # step halving while a mean is not positive
            if np.all(mu > 0):
                break
            new = (new + beta) / 2
            mu = x @ new
        else:
            raise TrendError
        before, deviance, beta = deviance, _gamma_deviance(y, mu), new
        if abs(deviance - before) / (abs(deviance) + 0.1) < 1e-8:  # R glm.control, epsilon
            return beta, True
    return beta, False


def _gamma_deviance(y: Float[np.ndarray, "g"], mu: Float[np.ndarray, "g"]) -> float:
    return float(-2 * np.sum(np.log(y / mu) - (y - mu) / mu))


def prior_variance(
    alpha: Float[np.ndarray, "g"], fitted: Float[np.ndarray, "g"], residual_variance: float, df: int
) -> float:
    """Variance of log dispersion around the trend, without its sampling variance; at least .25.

    ``max(MAD² - trigamma(df / 2), .25)`` with df = n - p residual degrees of freedom. At df <= 3
    the sampling distribution is far from normal and `matched_variance` is used.
    """
    if df <= 3:
        above = alpha >= 100 * MIN_DISPERSION
        return max(matched_variance(np.log(alpha[above] / fitted[above]), df), 0.25)
    return max(residual_variance - float(special.polygamma(1, df / 2)), 0.25)


def matched_variance(residual: Float[np.ndarray, "g"], df: int) -> float:
    """Variance x of a normal whose sum with log(chi²_df / df) matches the residuals.

    Minimises over x in [0, 8] the Kullback-Leibler divergence, smoothed by loess, between
    histograms (bins of .5 on [-10, 10]) of the residuals and of the sum. DESeq2 draws 10,000
    sums at random under a fixed seed; here the bins' probabilities are exact, so the answer is
    deterministic and lies where its answers over many seeds do.
    """
    edges = np.arange(-20, 21) / 2
    observed = np.histogram(residual, edges, density=True)[0]
    # Quantiles of log(chi²/df) at midpoints: the sum's distribution is the normals' average.
    chi2 = np.log(2 * special.gammaincinv(df / 2, (np.arange(1000) + 0.5) / 1000) / df)
    coarse, fine = np.linspace(0, 8, 200), np.linspace(0, 8, 1000)
    divergence = np.array([_divergence(observed, edges, chi2, x) for x in coarse])
    return float(fine[np.argmin(loess(coarse, divergence, fine, span=0.2))])


def _divergence(
    observed: Float[np.ndarray, "b"],
    edges: Float[np.ndarray, "e"],
    log_chi2: Float[np.ndarray, "m"],
    variance: float,
) -> float:
    sd = np.sqrt(max(variance, 1e-12))
    cumulative = special.ndtr((edges[:, None] - log_chi2) / sd).mean(axis=1)
    expected = np.diff(cumulative) / np.diff(edges) / (cumulative[-1] - cumulative[0])
    # The least density that 10,000 draws can show: one draw in a bin.
    small = min(np.min(observed[observed > 0]), 1e-4 / (edges[1] - edges[0]))
    return float(np.sum(observed * np.log((observed + small) / (expected + small))))


def dispersion_outliers(
    alpha: Float[np.ndarray, "g"], fitted: Float[np.ndarray, "g"], residual_variance: float
) -> Bool[np.ndarray, "g"]:
    """Genes more than two residual standard deviations above the trend: they keep their own."""
    return np.log(alpha) > np.log(fitted) + 2 * np.sqrt(residual_variance)
