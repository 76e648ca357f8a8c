"""Results of one contrast from a fitted analysis."""

from typing import NamedTuple

import jax
import numpy as np

from expressway._types import Array, Float
from expressway.core import linear

from .deseq import DESeqFit
from .multiple_testing import Adjusted, benjamini_hochberg, independent_filter
from .status import statuses
from .wald import Wald, wald

# Sums of rounded terms of both signs: their number times 2e-16, and some.
ROUNDING = 1e-12


class Takers(NamedTuple):
    """Which samples a contrast compares: those with ``|constant + x columns| > 1e-9``."""

    constant: float
    columns: Float[np.ndarray, "p"]


class Results(NamedTuple):
    """Wald test of a contrast for every gene."""

    wald: Wald
    adjusted: Adjusted
    status: Array


def results(
    fit: DESeqFit,
    contrast: Float[np.ndarray, "p"],
    takers: Takers,
) -> Results:
    """Wald tests with Cook's filter, independent filtering and adjusted p-values.

    Parameters
    ----------
    fit
        What `deseq.fit` returned.
    contrast
        Weight of each coefficient.
    takers
        Samples that take part: a gene without counts in any has fold change 0 and p = 1 (DESeq2
        R/results.R, contrastAllZero). It has none when ``(constant + x columns)²`` adds up to 0
        over its samples with a count.
    """
    test = wald(fit.gene.beta, fit.gene.covariance, contrast)
    empty_after = fit.replaced & (fit.gene.base_mean == 0)
    marks = np.append(takers.constant, takers.columns)
    positive = fit.gene.positive
    size = linear.quadratic(jax.tree.map(np.abs, positive), np.abs(marks))
    inside = linear.quadratic(positive, marks)
    # Marks are 0 or of order 1: what is left of terms that cancel is rounding.
    no_counts = (inside <= ROUNDING * size) & (fit.gene.base_mean > 0)
    nothing = no_counts | empty_after
    p_value = np.where(fit.outlier, np.nan, np.where(no_counts, 1.0, test.p_value))
    test = Wald(
        log2_fold_change=np.where(nothing, 0.0, test.log2_fold_change),
        se=np.where(empty_after, 0.0, test.se),
        stat=np.where(nothing, 0.0, test.stat),
        p_value=np.where(empty_after, 1.0, p_value),
    )
    mean = fit.gene.base_mean
    if fit.settings.independent_filtering:
        adjusted = independent_filter(test.p_value, mean, fit.settings.alpha)
    else:
        p_adj = benjamini_hochberg(test.p_value)
        adjusted = Adjusted(p_adj, np.zeros(len(mean), bool), 0.0)
    return Results(test, adjusted, statuses(fit, contrast, no_counts, adjusted))
