"""Dispersion trend and prior: arithmetic on genes, no rows.

Sources: Love, Huber & Anders 2014 (Genome Biology 15:550, methods) and DESeq2 1.38 ``R/core.R``
(parametricDispersionFit, localDispersionFit, estimateDispersionsFit, estimateDispersionsPriorVar).
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, cast

import numpy as np
from scipy import special

from expressway._errors import InputError
from expressway._types import Bool, Float, Int
from expressway.core.locfit import FEWEST, Curve, locfit
from expressway.core.smooth import loess

from .moments import MIN_DISPERSION

Kind = Literal["parametric", "local", "mean", "given"]
Function = Callable[[np.ndarray], np.ndarray | float]
# R stats::mad, constant: 1 / the normal's upper quartile, to five digits.
MAD = 1.4826
# Nodes on which a function that is given is tabulated.
NODES = 512
NOTHING = np.zeros(0)
NOTHING.flags.writeable = False


class Trend(NamedTuple):
    """Dispersion as a function of the mean of normalised counts.

    parametric and mean: ``asymptotic + extra / mean``, where the mean's extra is 0. local: the
    curve of `core.locfit` through nodes of (log mean, log dispersion, slope), beyond which it goes
    on with the slope and a bend. given: log dispersion linear in log mean between nodes, constant
    beyond them. Logarithms are natural.
    """

    asymptotic: float
    """NaN where nodes say what the trend is; likewise extra."""
    extra: float
    kind: Kind
    residual_variance: float
    """MAD² of ``log alpha - log trend`` (natural log) over the genes used."""
    log_mean: Float[np.ndarray, "m"] = NOTHING
    log_dispersion: Float[np.ndarray, "m"] = NOTHING
    slope: Float[np.ndarray, "m"] = NOTHING
    bend: float = 0.0

    def at(self, mean: Float[np.ndarray, "g"]) -> Float[np.ndarray, "g"]:
        """Dispersion at each mean."""
        if not len(self.log_mean):
            return self.asymptotic + self.extra / mean
        return np.exp(self._curve().at(np.log(mean)))

    def log_slope(self, mean: Float[np.ndarray, "g"]) -> Float[np.ndarray, "g"]:
        """Derivative of log dispersion in log mean, at each mean."""
        if not len(self.log_mean):
            return -self.extra / mean / self.at(mean)
        return self._curve().slope_at(np.log(mean))

    def _curve(self) -> "Curve | _Line":
        if self.kind == "local":
            return Curve(self.log_mean, self.log_dispersion, self.slope, float(self.bend))
        return _Line(self.log_mean, self.log_dispersion)


def stored(parts: Mapping[str, Any]) -> Trend:
    """The trend of which a file holds the fields."""
    empty = {"log_mean": NOTHING, "log_dispersion": NOTHING, "slope": NOTHING, "bend": 0.0}
    parts = empty | dict(parts)  # files of version 0.1 have no curves
    return Trend(
        asymptotic=float(parts["asymptotic"]),
        extra=float(parts["extra"]),
        kind=cast("Kind", str(parts["kind"])),
        residual_variance=float(parts["residual_variance"]),
        log_mean=np.asarray(parts["log_mean"], float),
        log_dispersion=np.asarray(parts["log_dispersion"], float),
        slope=np.asarray(parts["slope"], float),
        bend=float(parts["bend"]),
    )


class _Line(NamedTuple):
    """Straight between nodes, constant beyond."""

    x: Float[np.ndarray, "m"]
    value: Float[np.ndarray, "m"]

    def at(self, x: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
        """Value at each x."""
        return np.interp(x, self.x, self.value)

    def slope_at(self, x: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
        """Derivative at each x; at a node that to its right."""
        slopes = np.concatenate([[0.0], np.diff(self.value) / np.diff(self.x), [0.0]])
        return slopes[np.searchsorted(self.x, x, side="right")]


def through(mean: Float[np.ndarray, "m"], dispersion: Float[np.ndarray, "m"]) -> Trend:
    """The trend through nodes that a user gives, in any order; without residual variance.

    Raises
    ------
    InputError
        There is no node, a mean or dispersion is not a positive number, or a mean occurs twice.
    """
    bad = ~((mean > 0) & (dispersion > 0) & np.isfinite(mean) & np.isfinite(dispersion))
    if np.any(bad):
        at = int(np.argmax(bad))
        msg = (
            f"node {at + 1} of the dispersion trend is mean {mean[at]:g}, dispersion "
            f"{dispersion[at]:g}; needed are positive numbers"
        )
        raise InputError(msg)
    order = np.argsort(mean)
    twice = np.flatnonzero(np.diff(mean[order]) == 0)
    if not len(mean) or len(twice):
        found = f"mean {mean[order][twice[0]]:g} twice" if len(twice) else "no nodes"
        msg = f"the dispersion trend has {found}; needed are nodes of different means"
        raise InputError(msg)
    nodes = np.log(mean[order]), np.log(dispersion[order])
    return Trend(np.nan, np.nan, "given", np.nan, *nodes)


def tabulated(function: Function, low: float, high: float) -> Trend:
    """The trend of a user's function on `NODES` means from low to high, evenly spaced in their log.

    Raises
    ------
    InputError
        The function does not give a positive number for each of them.
    """
    mean = np.geomspace(low, high, NODES)
    try:
        value = np.broadcast_to(np.asarray(function(mean), float), mean.shape)
    except (TypeError, ValueError) as error:
        msg = f"the function of the dispersion trend fails on an array of means: {error}"
        raise InputError(msg) from error
    return through(mean, value)


class TrendError(ValueError):
    """The parametric trend does not fit these genes."""


def fit_trend(
    mean: Float[np.ndarray, "g"], alpha: Float[np.ndarray, "g"], kind: Kind = "parametric"
) -> Trend:
    """Trend over genes with dispersion above 1e-6.

    local: local regression (`core.locfit`) of log dispersions on log means, weighted by the
    means. mean: mean of dispersions above 1e-7, trimmed by .001 at both ends. Where the parametric
    one does not fit it is the local one, as in DESeq2; where fewer than six genes, or one mean,
    leave that undetermined, the mean (DESeq2 takes what locfit makes of them).

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
    if kind == "parametric":
        try:
            bare = Trend(*parametric(mean[used], alpha[used]), "parametric", np.nan)
            return with_residuals(bare, mean, alpha)
        except TrendError:
            kind = "local"
    if kind == "local" and np.sum(used) >= FEWEST and np.ptp(mean[used]) > 0:
        curve = locfit(np.log(mean[used]), np.log(alpha[used]), mean[used])
        bare = Trend(np.nan, np.nan, "local", np.nan, *curve)
    else:
        bare = Trend(float(np.mean(alpha[_trimmed(alpha)])), 0.0, "mean", np.nan)
    return with_residuals(bare, mean, alpha)


def with_residuals(
    bare: Trend, mean: Float[np.ndarray, "g"], alpha: Float[np.ndarray, "g"]
) -> Trend:
    """The trend with the residual variance of gene-wise dispersions about it."""
    above = alpha >= 100 * MIN_DISPERSION
    if not np.any(above):
        return bare._replace(residual_variance=0.0)
    residual = np.log(alpha[above]) - np.log(bare.at(mean[above]))
    spread = MAD * np.median(np.abs(residual - np.median(residual)))
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
    """Genes whose mean is the trend of that kind."""
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
    if trend.kind == "parametric":
        used = used[_iterated(mean[used], alpha[used])[1]]
    return used


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
        if not np.any(above):
            return 0.25
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
