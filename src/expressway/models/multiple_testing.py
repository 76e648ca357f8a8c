"""Benjamini-Hochberg adjustment and independent filtering by the mean of normalised counts."""

from typing import NamedTuple

import numpy as np

from expressway._types import Bool, Float, Int
from expressway.core.smooth import lowess

# DESeq2 R/results.R, pvalueAdjustment.
QUANTILES = 50
SPAN = 1 / 5


class Adjusted(NamedTuple):
    """Adjusted p-values and the filter behind them."""

    p_adj: Float[np.ndarray, "g"]
    """NaN where there is no p-value or the gene was filtered."""
    filtered: Bool[np.ndarray, "g"]
    """Genes with a p-value whose mean is below the threshold."""
    threshold: float
    """Mean of normalised counts below which genes were filtered."""


def benjamini_hochberg(p: Float[np.ndarray, "g"]) -> Float[np.ndarray, "g"]:
    """Adjusted p-values of those that are not NaN (Benjamini & Hochberg 1995)."""
    adjusted = np.full(p.shape, np.nan)
    tested = np.flatnonzero(np.isfinite(p))
    ascending = tested[np.argsort(p[tested])]
    m = len(tested)
    each = p[ascending] * (m / np.arange(1, m + 1))
    adjusted[ascending] = np.minimum(np.minimum.accumulate(each[::-1])[::-1], 1.0)
    return adjusted


class Ladder(NamedTuple):
    """Thresholds that independent filtering tries on tests of the same genes."""

    mean: Float[np.ndarray, "g"]
    """Of normalised counts."""
    share: Float[np.ndarray, "m"]
    """Share of the genes below each threshold."""
    threshold: Float[np.ndarray, "m"]
    """Ascending."""
    passed: Int[np.ndarray, "g"]
    """How many of them each gene reaches."""


def ladder(mean: Float[np.ndarray, "g"]) -> Ladder:
    """Fifty thresholds at quantiles of the mean from the share of zero means to .95."""
    lowest = float(np.mean(mean == 0))
    share = np.linspace(lowest, 0.95 if lowest < 0.95 else 1.0, QUANTILES)
    threshold = np.quantile(mean, share)
    return Ladder(mean, share, threshold, np.searchsorted(threshold, mean, side="right"))


def independent_filter(
    p: Float[np.ndarray, "g"], mean: Float[np.ndarray, "g"], alpha: float = 0.1
) -> Adjusted:
    """Adjusted p-values of the genes above the mean that lets most of them through."""
    return on_ladder(p, ladder(mean), alpha)


def on_ladder(p: Float[np.ndarray, "g"], at: Ladder, alpha: float) -> Adjusted:
    """Independent filtering on thresholds that any number of tests share.

    The number of genes with adjusted p < alpha at each is smoothed by lowess (span 1/5); the first
    threshold whose number exceeds the smooth's maximum less its root mean square residual is
    taken, the first of all if no number exceeds ten (Love, Huber & Anders 2014; DESeq2
    R/results.R).
    """
    threshold = float(at.threshold[_choose(_numbers(p, at, alpha), at.share)])
    adjusted = benjamini_hochberg(np.where(at.mean >= threshold, p, np.nan))
    return Adjusted(adjusted, np.isfinite(p) & (at.mean < threshold), threshold)


def _numbers(p: Float[np.ndarray, "g"], at: Ladder, alpha: float) -> Float[np.ndarray, "m"]:
    """How many adjusted p-values are below alpha at each threshold.

    Up to the last ``p m / rank`` that is, m genes being left: genes with p < alpha will do.
    """
    left = np.bincount(at.passed[np.isfinite(p)], minlength=len(at.threshold) + 1)
    left = left[::-1].cumsum()[::-1][1:, None]
    small = np.flatnonzero(p < alpha)
    small = small[np.argsort(p[small])]
    there = at.passed[small] > np.arange(len(at.threshold))[:, None]
    rank = np.cumsum(there, axis=1)
    below = there & (p[small] * (left / np.maximum(rank, 1)) < alpha)
    return np.max(rank * below, axis=1, initial=0) * 1.0


def _choose(number: Float[np.ndarray, "m"], share: Float[np.ndarray, "m"]) -> int:
    if np.max(number) <= 10:
        return 0
    smooth = lowess(share, number, SPAN)
    some = number > 0
    residual = number[some] - smooth[some]
    bar = np.max(smooth) - np.sqrt(np.mean(residual**2))
    above = np.flatnonzero(number > bar)
    return int(above[0]) if len(above) else 0
