"""Results of contrasts from a fitted analysis."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from scipy import sparse

from expressway._errors import InputError
from expressway._types import Array, Bool, Float, Int
from expressway.core import linear
from expressway.core.cohort import blocks, each, rows_of
from expressway.core.solve import Status

from .deseq import DESeqFit
from .multiple_testing import Adjusted, benjamini_hochberg, ladder, on_ladder
from .status import codes, statuses, touches
from .wald import NONE, Threshold, Wald, against, of, wald

# Sums of rounded terms of both signs: their number times 2e-16, and some.
ROUNDING = 1e-12
# Genes whose quadratic forms are computed at once, for each contrast.
BLOCK = 256


class Squares(NamedTuple):
    """Which samples a contrast compares: ``sum sign ((1, x) marks)²`` is 0 for all others.

    It is positive for those it compares. So products of columns can tell them, of factors that
    have no interaction, and still all that is needed is sums over samples.
    """

    sign: Float[np.ndarray, "m"]
    marks: Float[np.ndarray, "m q"]


class Takers(NamedTuple):
    """Which samples a contrast compares: those with ``|constant + x columns| > 1e-9``."""

    constant: float
    columns: Float[np.ndarray, "p"]
    squares: Squares | None = None
    """What tells them instead."""


class Other(NamedTuple):
    """A test of every gene other than Wald's: of nested designs, say."""

    stat: Float[np.ndarray, "g"]
    p_value: Float[np.ndarray, "g"]
    """NaN where there is none."""
    failed: Bool[np.ndarray, "g"] | None = None
    """Genes whose test needed a fit that did not converge."""
    of_contrast: bool = True
    """Whether genes without counts in the samples that the contrast compares have p = 1. Those of
    tests of nested designs keep their own (DESeq2 R/results.R, cleanContrast)."""


class Results(NamedTuple):
    """Test of every gene, and a contrast of it."""

    wald: Wald
    """Fold change and standard error are of the contrast, statistic and p-value of the test."""
    adjusted: Adjusted
    status: Array
    threshold: Threshold = NONE


def results(
    fit: DESeqFit,
    contrast: Float[np.ndarray, "p"],
    takers: Takers,
    other: Other | None = None,
    threshold: Threshold = NONE,
) -> Results:
    """Tests with Cook's filter, independent filtering and adjusted p-values.

    Parameters
    ----------
    fit
        What `deseq.fit` returned.
    contrast
        Weight of each coefficient.
    takers
        Samples that take part: a gene without counts in any has fold change 0 and p = 1 (DESeq2
        R/results.R, contrastAllZero), or under a threshold the p of 0 beside its standard error.
        It has none when ``(constant + x columns)²`` adds up to 0 over its samples with a count.
    other
        The test, if it is not Wald's of the contrast.
    threshold
        Of log2 fold changes, and what is claimed of them.

    Raises
    ------
    InputError
        Another test and a threshold.
    """
    no_counts = _empty(fit, takers)
    test = wald(fit.gene.beta, fit.gene.covariance, contrast)
    if other is not None:
        if threshold != NONE:
            msg = (
                f"thresholds are of Wald tests: {threshold.alternative} {threshold.value:g} cannot "
                "be asked of this one; leave the threshold out, or test by Wald's"
            )
            raise InputError(msg)
        test = test._replace(stat=other.stat, p_value=other.p_value)
    ruled = _ruled(fit, test, no_counts, threshold)
    if other is not None and not other.of_contrast:
        own = _ruled(fit, test, np.zeros_like(no_counts), threshold)
        ruled = ruled._replace(stat=own.stat, p_value=own.p_value)
    adjusted = _adjusting(fit)(ruled.p_value)
    if other is not None and other.failed is not None:
        status = np.where(other.failed, Status.NOT_CONVERGED, fit.gene.beta_status)
        fit = fit._replace(gene=fit.gene._replace(beta_status=status))
    return Results(ruled, adjusted, statuses(fit, contrast, no_counts, adjusted), threshold)


def _empty(fit: DESeqFit, takers: Takers) -> Bool[np.ndarray, "g"]:
    """Genes with counts, but none in the samples that a contrast compares."""
    positive = fit.gene.positive
    if takers.squares is None:
        marks = np.append(takers.constant, takers.columns)
        inside = linear.quadratic(positive, marks)
        size = linear.quadratic(jax.tree.map(np.abs, positive), np.abs(marks))
    else:
        sign, marks = takers.squares.sign, sparse.csr_matrix(takers.squares.marks)
        inside = sign @ linear.quadratics(positive, marks)
        size = np.abs(sign) @ linear.quadratics(jax.tree.map(np.abs, positive), abs(marks))
    return _nothing(inside, size) & _fitted(fit)


class Differences(NamedTuple):
    """Contrasts of q levels of a factor to one of its levels."""

    vectors: sparse.csr_matrix
    """Weights of the p coefficients, a row each."""
    marks: sparse.csr_matrix
    """Constant and columns of `Takers` for the samples of each level, the other one's last."""


class Many(NamedTuple):
    """Wald tests of q contrasts for every gene."""

    wald: Wald
    p_adj: Float[np.ndarray, "q g"]
    threshold: Float[np.ndarray, "q"]
    """Mean of normalised counts below which genes were filtered."""
    status: Int[np.ndarray, "q g"]
    """Place in `MEANINGS`."""
    tested: Threshold = NONE
    """Of the fold changes."""


def many(fit: DESeqFit, wanted: Differences, tested: Threshold = NONE) -> Many:
    """What `results` finds for each of many contrasts, in one pass over the genes.

    Numbers agree with it to rounding: sums are added in another order.
    """
    some = (at[:count] for at, count in blocks(len(fit.gene.beta), BLOCK))
    parts = each(lambda at: _forms(fit, wanted, at), some)
    variance, shared, nothing = (np.concatenate(a, axis=1) for a in zip(*parts, strict=True))
    # A gene has no counts in either level's samples.
    no_counts = nothing[:-1] & nothing[-1] & _fitted(fit)
    test = _ruled(fit, of(wanted.vectors @ fit.gene.beta.T, variance), no_counts, tested)
    adjusted = each(_adjusting(fit), test.p_value)
    length = np.asarray(wanted.vectors.power(2).sum(axis=1))[:, 0]
    filtered = np.stack([one.filtered for one in adjusted])
    return Many(
        wald=test,
        p_adj=np.stack([one.p_adj for one in adjusted]),
        threshold=np.array([one.threshold for one in adjusted]),
        status=codes(fit, touches(shared, length), no_counts, filtered),
        tested=tested,
    )


def _forms(
    fit: DESeqFit, wanted: Differences, at: Int[np.ndarray, "b"]
) -> tuple[Float[np.ndarray, "q b"], Float[np.ndarray, "q b"], Bool[np.ndarray, "m b"]]:
    """Of some genes: variances, shares of directions of separation, levels without a count."""
    gene = fit.gene
    positive = rows_of(gene.positive, at)
    size = linear.quadratics(jax.tree.map(np.abs, positive), abs(wanted.marks))
    return (
        linear.quadratics(rows_of(gene.covariance, at), wanted.vectors),
        linear.quadratics(rows_of(gene.unsupported, at), wanted.vectors),
        _nothing(linear.quadratics(positive, wanted.marks), size),
    )


def _nothing(
    inside: Float[np.ndarray, "*q g"], size: Float[np.ndarray, "*q g"]
) -> Bool[np.ndarray, "*q g"]:
    """Sums of squared marks that are 0: marks are 0 or of order 1, what cancels leaves rounding."""
    return inside <= ROUNDING * size


def _fitted(fit: DESeqFit) -> Bool[np.ndarray, "g"]:
    """Genes with a count for which something was fitted: weights may rule that out."""
    return (fit.gene.base_mean > 0) & ~np.isnan(fit.gene.dispersion)


def _ruled(
    fit: DESeqFit, test: Wald, no_counts: Bool[np.ndarray, "*q g"], threshold: Threshold
) -> Wald:
    """The tests with DESeq2's rules on outliers and on genes without counts.

    In R's order: a gene without counts in the samples compared has fold change 0, of which a
    threshold is then tested with the standard error that the gene has (``lessAbs`` may find it
    small); a gene without counts after replacement has p = 1 whatever is tested.
    """
    empty_after = fit.replaced & (fit.gene.base_mean == 0)
    nothing = no_counts | empty_after
    test = Wald(
        log2_fold_change=np.where(nothing, 0.0, test.log2_fold_change),
        se=test.se,
        stat=np.where(nothing, 0.0, test.stat),
        p_value=np.where(no_counts, 1.0, test.p_value),
    )
    test = against(test, threshold)
    return Wald(
        log2_fold_change=test.log2_fold_change,
        se=np.where(empty_after, 0.0, test.se),
        stat=np.where(empty_after, 0.0, test.stat),
        p_value=np.where(empty_after, 1.0, np.where(fit.outlier, np.nan, test.p_value)),
    )


def _adjusting(fit: DESeqFit) -> Callable[[Float[np.ndarray, "g"]], Adjusted]:
    """The adjustment of a contrast's p-values."""
    if fit.settings.independent_filtering:
        at = ladder(fit.gene.base_mean)
        return lambda p: on_ladder(p, at, fit.settings.alpha)
    nobody = np.zeros(len(fit.gene.base_mean), bool)
    return lambda p: Adjusted(benjamini_hochberg(p), nobody, 0.0)
