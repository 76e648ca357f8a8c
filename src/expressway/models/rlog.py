"""The regularised logarithm: log2 of normalised counts, each sample's shrunken to the gene's level.

Love, Huber & Anders 2014 (Genome Biology 15:550, methods, "Regularized logarithm"). DESeq2 1.38
``R/rlog.R`` (rlogData), ``R/core.R`` (matchWeightedUpperQuantileForVariance, fitNbinomGLMs),
``src/DESeq2.cpp`` (fitBeta).
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from expressway._types import Bool, Float

from .means import MIN_MU

# rlogData: of the deviance, relative; fitNbinomGLMs: steps; fitBeta: a coefficient given up.
TOLERANCE, STEPS, LARGE = 1e-4, 100, 30.0
# rlogData: precision of the prior on intercepts, log2 scale.
LOOSE = 1e-6
# Share of the log fold changes in the tails that the prior is matched to.
TAIL = 0.05


class Rlog(NamedTuple):
    """What the transformation of new samples needs."""

    intercept: Float[np.ndarray, "g"]
    """log2; -inf for genes without a count."""
    alpha: Float[np.ndarray, "g"]
    """Dispersion of each gene: that of the trend at its mean; NaN without a count."""
    prior_variance: float
    """Of a sample's log2 fold change from the gene's level."""


def prior_variance(
    q: Float[np.ndarray, "n g"], mean: Float[np.ndarray, "g"], alpha: Float[np.ndarray, "g"]
) -> float:
    """Variance of a normal whose upper quantile is that of log2 fold changes from the mean.

    Of ``|log2(q + .5) - log2(mean + .5)|``, at .95, weighted by one over ``1 / mean + alpha``: the
    quantile of Hmisc's wtd.quantile with weights that add up to their number.

    Parameters
    ----------
    q, mean, alpha
        Normalised counts of the genes with a count, their means and dispersions.
    """
    change = np.abs(np.log2(q + 0.5) - np.log2(mean + 0.5)[None]).ravel()
    weight = np.broadcast_to(1 / (1 / mean + alpha), q.shape).ravel()
    order = np.argsort(change)
    cumulative = np.cumsum(weight[order])
    cumulative *= len(order) / cumulative[-1]
    place = 1 + (len(order) - 1) * (1 - TAIL)
    ends = np.array([np.floor(place), min(np.floor(place) + 1, len(order))])
    at = np.minimum(np.searchsorted(cumulative, ends), len(order) - 1)
    low, high = change[order[at]]
    quantile = low + (place % 1) * (high - low)
    return float((quantile / special.ndtri(1 - TAIL / 2)) ** 2)


class _Genes(NamedTuple):
    """Some genes that a GLM with a ridge is fitted to; natural log."""

    y: Float[np.ndarray, "n k"]
    offset: Float[np.ndarray, "n k"]
    alpha: Float[np.ndarray, "k"]


class Levels(NamedTuple):
    """Coefficients, log2."""

    intercept: Float[np.ndarray, "k"]
    effect: Float[np.ndarray, "n k"]


def transform(
    y: Float[np.ndarray, "n k"],
    offset: Float[np.ndarray, "n #k"],
    alpha: Float[np.ndarray, "k"],
    variance: float,
    intercept: Float[np.ndarray, "k"] | None = None,
) -> Levels:
    """Intercept and an effect of every sample, of genes with a count, under the prior.

    DESeq2's iteration and its stop, at a relative change of the deviance of 1e-4: some steps
    before it would converge.

    Parameters
    ----------
    y, offset, alpha
        Counts, log size factors, dispersions.
    variance
        Of the effects, log2 scale.
    intercept
        Kept, if given: log2.
    """
    shape = np.broadcast_to(offset, y.shape)
    ridge = 1 / (variance * np.log(2) ** 2)
    if intercept is None:
        level = np.log(np.mean(y * np.exp(-shape), axis=0))
        effect = np.zeros(y.shape)
    else:
        level, shape = np.zeros(y.shape[1]), shape + np.log(2) * intercept
        effect = np.log(y * np.exp(-shape) + 0.1)
    found = _iterate(_Genes(y, shape, alpha), level, effect, ridge, free=intercept is None)
    base = found.intercept / np.log(2) if intercept is None else intercept
    return Levels(base, found.effect / np.log(2))


def _iterate(
    of: _Genes,
    level: Float[np.ndarray, "k"],
    effect: Float[np.ndarray, "n k"],
    ridge: float,
    *,
    free: bool,
) -> Levels:
    """Iterated least squares; genes that stop are left as they are."""
    level, effect = level.copy(), effect.copy()
    some = np.arange(of.y.shape[1])
    constant = _constant(of)
    deviance = np.zeros(len(some))
    mu = np.maximum(np.exp(of.offset + level + effect), MIN_MU)
    for step in range(STEPS):
        now = _Genes(of.y[:, some], of.offset[:, some], of.alpha[some])
        new = _solved(now, mu, ridge, free=free)
        level[some], effect[:, some] = new.intercept, new.effect
        kept = ~_lost(new)
        mu = np.maximum(np.exp(now.offset + new.intercept + new.effect), MIN_MU)
        before, deviance = deviance, _deviance(now, mu) + constant[some]
        change = np.abs(deviance - before) / (np.abs(deviance) + 0.1)
        going = kept & ~((change < TOLERANCE) & (step > 0))
        some, mu, deviance = some[going], mu[:, going], deviance[going]
        if not len(some):
            break
    return Levels(level, effect)


def _lost(new: Levels) -> Bool[np.ndarray, "k"]:
    """Genes whose coefficients DESeq2 gives up."""
    size = np.maximum(np.abs(new.intercept), np.max(np.abs(new.effect), axis=0))
    return ~(size <= LARGE)


def _solved(of: _Genes, mu: Float[np.ndarray, "n k"], ridge: float, *, free: bool) -> Levels:
    """One step: ``(X'WX + ridge)⁻¹ X'Wz`` with a column of ones, if free, and one a sample.

    Each sample's effect is eliminated: what is left of its weight w is ``w ridge / (w + ridge)``.
    """
    w = mu / (1 + of.alpha * mu)
    z = np.log(mu) - of.offset + (of.y - mu) / mu
    left = w * ridge / (w + ridge)
    level = np.sum(left * z, axis=0) / (np.sum(left, axis=0) + LOOSE / np.log(2) ** 2)
    if not free:
        level = np.zeros_like(level)
    return Levels(level, w * (z - level) / (w + ridge))


def _constant(of: _Genes) -> Float[np.ndarray, "k"]:
    """The part of minus twice the log-likelihood that no mean changes."""
    size = 1 / of.alpha
    log = special.gammaln(of.y + size) - special.gammaln(size) - special.gammaln(of.y + 1)
    return -2 * np.sum(log, axis=0)


def _deviance(of: _Genes, mu: Float[np.ndarray, "n k"]) -> Float[np.ndarray, "k"]:
    """The other part."""
    am = of.alpha * mu
    log = of.y * (np.log(am) - np.log1p(am)) - np.log1p(am) / of.alpha
    return -2 * np.sum(log, axis=0)
