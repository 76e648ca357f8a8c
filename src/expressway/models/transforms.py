"""Transformed counts: what they are fitted to, and their values; where rows are at hand.

Normalised counts, their logarithm, the variance-stabilising transformation (`vst`) and the
regularised logarithm (`rlog`). The trend of dispersions comes of the gene-wise ones of a design, or
of the design ``~ 1`` ("blind": as if nothing were known of the samples). DESeq2's ``vst()`` takes a
trend of 1,000 genes; ours is that of all, as of its ``varianceStabilizingTransformation``.
"""

from functools import partial
from typing import NamedTuple, cast

import numpy as np

from expressway._errors import InputError
from expressway._types import Float, Int
from expressway.core.cohort import Pooled, Samples
from expressway.core.order import Groups

from . import rlog as regularised
from . import vst as stabilised
from .genes import NOTHING, Given, Settings, gene_wise, trend_of
from .rlog import Rlog
from .size_factors import Method, log_counts, normalise, normalised, reference
from .trend import Trend
from .vst import Table, Vst

# DESeq2 R/rlog.R, sparseTest: genes with more normalised counts than this; the share of them in one
# sample that is too much; the share of such genes that is.
COUNTED, IN_ONE, OF_GENES = 100.0, 0.9, 0.1

# Rows bring no matrix of normalisation.
_NO_MATRIX = np.zeros(1)


class Sized(NamedTuple):
    """Rows with size factors, and what gives new rows theirs."""

    cohort: Pooled
    log_reference: Float[np.ndarray, "g"]
    """Log geometric means of the genes used; -inf of others. The median of ``log y - reference``
    is a row's log size factor, also that of these rows."""
    counted: Int[np.ndarray, "k"]
    """Genes with a count."""


def sized(cohort: Pooled, method: Method) -> Sized:
    """The rows with their size factors.

    Raises
    ------
    InputError
        There are none.
    """
    if method not in ("ratio", "poscounts"):
        msg = (
            f"size factors of a transform must be ratio or poscounts, but are {method}: new "
            "samples get theirs by the same medians"
        )
        raise InputError(msg)
    counted = cohort.sum(log_counts)
    new = cast("Pooled", normalised(cohort, counted, method))
    bare = reference(counted, method)
    # Poscounts' own are scaled to a geometric mean of 1.
    scale = (
        np.asarray(cohort.map(normalise, shared=(bare, _NO_MATRIX)).rows.offset) - new.rows.offset
    )
    return Sized(new, bare + float(scale[0, 0]), np.flatnonzero(counted.total > 0))


def sized_by(cohort: Pooled, log_reference: Float[np.ndarray, "g"]) -> Pooled:
    """Rows with size factors from the geometric means of others.

    DESeq2 (``estimateSizeFactors(geoMeans=)``) scales them to a geometric mean of 1, so that a
    sample's depend on the others beside it; these do not.

    Raises
    ------
    InputError
        A sample has no counts in the genes used.
    """
    return cohort.map(normalise, shared=(log_reference, _NO_MATRIX))


class Basis(NamedTuple):
    """What transformations start from."""

    cohort: Pooled
    mean: Float[np.ndarray, "g"]
    """Of normalised counts."""
    counted: Int[np.ndarray, "k"]
    trend: Trend


def basis(of: Sized, cells: Groups, settings: Settings, given: Given = NOTHING) -> Basis:
    """The dispersion trend of rows and their design.

    Raises
    ------
    InputError
        No trend can be fitted.
    """
    wise = gene_wise(of.cohort, of.counted, cells)
    counted = wise.first.bulk.mean
    trend = trend_of(counted, wise.dispersions.alpha, settings.trend, given)
    mean = np.zeros(of.cohort.genes)
    mean[of.counted] = counted
    return Basis(of.cohort, mean, of.counted, trend)


def fit_vst(of: Basis) -> Vst:
    """The variance-stabilising transformation.

    Raises
    ------
    InputError
        See `vst.fit_vst`.
    """
    # Of gene × sample factors DESeq2 takes geometric means over genes.
    sizes = np.mean(np.asarray(of.cohort.rows.offset), axis=1)
    largest = float(np.max(of.cohort.collect(_shape, genes=of.counted).largest))
    return stabilised.fit_vst(of.trend, Table(of.mean, largest, float(np.mean(np.exp(-sizes)))))


class Fitted(NamedTuple):
    """A regularised logarithm and its values."""

    rlog: Rlog
    value: Float[np.ndarray, "n g"]
    doubts: tuple[str, ...]


def fit_rlog(of: Basis) -> Fitted:
    """The regularised logarithm; 0 for genes without a count, as in DESeq2."""
    shape = of.cohort.collect(_shape, genes=of.counted)
    heavy = shape.share[shape.total > COUNTED] > IN_ONE
    doubts = ()
    if len(heavy) and np.mean(heavy) > OF_GENES:
        doubts = (
            f"in {np.mean(heavy):.0%} of the genes a single sample has 90 % of the counts: counts "
            "are not near negative binomial, as rlog assumes; use vst or logarithms",
        )
    alpha = of.trend.at(of.mean[of.counted])
    q = of.cohort.collect(counts, genes=of.counted).value.T
    variance = regularised.prior_variance(q, of.mean[of.counted], alpha)
    found = of.cohort.collect(partial(_levels, variance), alpha, genes=of.counted)
    g, n = of.cohort.genes, len(q)
    value, intercept = np.zeros((n, g)), np.full(g, -np.inf)
    every = np.full(g, np.nan)
    value[:, of.counted] = found.value.T
    intercept[of.counted], every[of.counted] = found.intercept, alpha
    return Fitted(Rlog(intercept, every, variance), value, doubts)


def apply_rlog(of: Rlog, cohort: Pooled) -> Float[np.ndarray, "n g"]:
    """Values of new rows: intercepts, dispersions and prior are kept, effects are fitted."""
    known = np.flatnonzero(np.isfinite(of.intercept))
    args = of.alpha[known], of.intercept[known]
    found = cohort.collect(partial(_effects, of.prior_variance), *args, genes=known)
    value = np.zeros((cohort.rows.y.shape[0], cohort.genes))
    value[:, known] = found.value.T
    return value


class Values(NamedTuple):
    """Of each gene and row."""

    value: Float[np.ndarray, "g n"]


def counts(s: Samples) -> Values:
    """Normalised counts."""
    y, offset = _rows(s)
    return Values((y * np.exp(-offset)).T)


def logarithms(s: Samples) -> Values:
    """``log2(normalised count + 1)``."""
    return Values(np.log2(counts(s).value + 1))


def stabilise(of: Vst, s: Samples) -> Values:
    """Variance-stabilised values."""
    return Values(of.at(counts(s).value))


class _Levels(NamedTuple):
    value: Float[np.ndarray, "g n"]
    intercept: Float[np.ndarray, "g"]


def _levels(variance: float, alpha: Float[np.ndarray, "g"], s: Samples) -> _Levels:
    found = regularised.transform(*_rows(s), alpha, variance)
    return _Levels((found.intercept + found.effect).T, found.intercept)


def _effects(
    variance: float,
    alpha: Float[np.ndarray, "g"],
    intercept: Float[np.ndarray, "g"],
    s: Samples,
) -> Values:
    found = regularised.transform(*_rows(s), alpha, variance, intercept)
    return Values((found.intercept + found.effect).T)


class _Shape(NamedTuple):
    """Of normalised counts."""

    largest: Float[np.ndarray, "g"]
    total: Float[np.ndarray, "g"]
    share: Float[np.ndarray, "g"]
    """Of the total, in the sample that has most."""


def _shape(s: Samples) -> _Shape:
    q = counts(s).value
    largest, total = q.max(axis=1), q.sum(axis=1)
    return _Shape(largest, total, largest / np.where(total > 0, total, 1.0))


def _rows(s: Samples) -> tuple[Float[np.ndarray, "n g"], Float[np.ndarray, "n #g"]]:
    """Counts and log size factors without padding."""
    real = np.asarray(s.weight) > 0
    return np.asarray(s.y, float)[real], np.asarray(s.offset)[real]


def expect_two(samples: int) -> None:
    """Refuse one sample: it says nothing of dispersions.

    Raises
    ------
    InputError
        There is one.
    """
    if samples < 2:
        msg = (
            "one sample says nothing of dispersions; take two or more, or apply a transformation "
            "that was fitted to others"
        )
        raise InputError(msg)
