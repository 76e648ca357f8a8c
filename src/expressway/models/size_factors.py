"""Size factors by the median of ratios (Anders & Huber 2010, Genome Biology 11:R106, eq. 5).

Beside them rows may bring a matrix of normalisation (average lengths of transcripts, say): its
logarithms are the offsets that raw rows have. Factors of genes × samples are then the matrix times
size factors, of geometric mean 1 in every gene (DESeq2 1.38 ``R/methods.R``, estimateNormFactors,
estimateSizeFactors.DESeqDataSet).
"""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from expressway._errors import InputError
from expressway._types import Array, Float, Int
from expressway.core.cohort import Cohort, Samples

# `iterate` is in `size_iteration`; of `given` the raw rows' offsets are the logarithms.
Method = Literal["ratio", "poscounts", "iterate", "given"]


class LogCounts(NamedTuple):
    """Sums over samples of log counts, zero flags and counts."""

    rows: Float[Array, "g"]
    log: Float[Array, "g"]
    """Sum of log counts over the samples that have any (natural log)."""
    zeros: Float[Array, "g"]
    total: Float[Array, "g"]


def log_counts(s: Samples) -> LogCounts:
    """Sums of log counts, of zero flags and of counts, over rows."""
    present = s.weight[:, None] > 0
    positive = present & (s.y > 0)
    return LogCounts(
        rows=jnp.sum(jnp.broadcast_to(present, s.y.shape), axis=0, dtype=float),
        log=jnp.sum(jnp.where(positive, jnp.log(jnp.where(positive, s.y, 1.0)), 0.0), axis=0),
        zeros=jnp.sum(present & (s.y == 0), axis=0, dtype=float),
        total=jnp.sum(s.y * present, axis=0),
    )


def reference(
    sums: LogCounts, method: Method, controls: Int[np.ndarray, "k"] | None = None
) -> Float[np.ndarray, "g"]:
    """Log geometric mean of each gene: the reference sample; -inf where the gene is not used.

    ``ratio`` uses genes without a zero. ``poscounts`` uses every gene with a count, its log
    counts summed over the positive ones and divided by all samples (DESeq2 R/methods.R,
    estimateSizeFactorsForMatrix). Of either those among the control genes, if there are any.

    Raises
    ------
    InputError
        If no gene can be used.
    """
    able = sums.zeros == 0 if method == "ratio" else sums.total > 0
    used = able
    if controls is not None:
        used = np.zeros(len(able), bool)
        used[controls] = able[controls]
    if not np.any(used):
        raise InputError(_without_reference(sums, method, bool(np.any(able))))
    return np.where(used, sums.log / sums.rows, -np.inf)


def _without_reference(sums: LogCounts, method: Method, others: bool) -> str:
    """Why no gene is used, where others would be or not."""
    if others:
        lack = "has counts in every sample" if method == "ratio" else "has a count"
        return f"no control gene {lack}, so {method} size factors do not exist; name other genes"
    if method == "ratio" and np.any(sums.total > 0):
        return (
            "every gene has a zero in some sample, so ratio size factors do not exist; "
            "use --size-factors poscounts (Python: tl.Settings(size_factors='poscounts'))"
        )
    return "every count is zero: there is nothing to normalise; check the count table"


def normalise(
    log_reference: Float[np.ndarray, "g"], log_mean: Float[np.ndarray, "#g"], s: Samples
) -> dict[str, Array]:
    """Offsets of each row: the median over genes of ``log y - reference``, its own zeros left out.

    Where rows bring a matrix, counts are divided by it first and the median is added to it.

    Parameters
    ----------
    log_reference
        Log geometric mean of each gene.
    log_mean
        Mean over all samples of the offsets that rows bring: one number a gene of a matrix, else 0.

    Raises
    ------
    InputError
        If a sample has no count in any gene that is used.
    """
    used = np.flatnonzero(np.isfinite(log_reference))
    # One offset a row is an earlier size factor: it is found anew.
    matrix = s.offset.shape[1] > 1
    brought = np.asarray(s.offset) - log_mean[None] if matrix else np.zeros((len(s.y), 1))
    size = np.empty((s.y.shape[0], 1))
    for i, row in enumerate(np.asarray(s.y)):
        counts = row[used].astype(float)  # the logarithm of a narrower type is not a double
        positive = counts > 0
        if not np.any(positive):
            msg = "a sample has no counts in the genes used for size factors; leave it out"
            raise InputError(msg)
        log = np.log(counts[positive]) - log_reference[used][positive]
        if matrix:
            log = log - brought[i, used][positive]
        size[i] = np.median(log)
    return {"offset": brought + size}


class LogSizes(NamedTuple):
    """Sums over samples of log size factors."""

    rows: Float[Array, "g"]
    log: Float[Array, "g"]


def log_sizes(s: Samples) -> LogSizes:
    """Sums of log size factors, over rows; the same for every gene."""
    present = jnp.broadcast_to(s.weight[:, None] > 0, s.y.shape)
    rows = jnp.sum(present, axis=0, dtype=float)
    return LogSizes(rows, jnp.sum(jnp.where(present, s.offset, 0.0), axis=0))


def shifted(by: float | Float[np.ndarray, "g"], s: Samples) -> dict[str, Array]:
    """Offsets of each row less a constant, or one of each gene."""
    return {"offset": s.offset - by}


def normalised(
    cohort: Cohort,
    counted: LogCounts,
    method: Method = "ratio",
    controls: Int[np.ndarray, "k"] | None = None,
    *,
    offsets: bool = False,
) -> Cohort:
    """Cohort whose offsets are log size factors, or logs of factors of genes × samples.

    Size factors of ``poscounts`` have a geometric mean of 1 (DESeq2 R/methods.R,
    estimateSizeFactorsForMatrix, incomingGeoMeans), and so have the factors of each gene.

    Parameters
    ----------
    cohort, counted
        Raw counts, and the sums of `log_counts`.
    method
        Which genes make the reference sample. With ``given`` the offsets that rows bring are
        their log size factors, or these plus the logarithms of a matrix.
    controls
        Indices of the genes that may make the reference sample; all when not given.
    offsets
        Whether rows bring logarithms of a matrix.
    """
    log_mean = np.zeros(1)
    if offsets:
        sums = cohort.sum(log_sizes)
        log_mean = sums.log / sums.rows
    if method == "given":
        return cohort.map(shifted, shared=(log_mean,)) if offsets else cohort
    # The logarithms of a matrix, less their means, add nothing to the mean of log counts.
    log_reference = reference(counted, method, controls)
    cohort = cohort.map(normalise, shared=(log_reference, log_mean))
    return centred(cohort) if method == "poscounts" or offsets else cohort


def centred(cohort: Cohort) -> Cohort:
    """Cohort whose log size factors have a mean of 0, whatever else its offsets are made of."""
    first = cohort.sum(log_sizes, genes=np.arange(1))
    return cohort.map(shifted, shared=(float(first.log[0] / first.rows[0]),))


def overall(genes: Int[np.ndarray, "k"], s: Samples) -> dict[str, Array]:
    """Offsets of each row: the log of the mean of its factors over some genes."""
    factor = np.exp(np.asarray(s.offset)[:, genes])
    return {"offset": np.log(np.mean(factor, axis=1, keepdims=True))}


class Inverse(NamedTuple):
    """Sums over samples of inverse size factors."""

    inverse: Float[Array, "g"]


def inverse_sizes(s: Samples) -> Inverse:
    """Sums of inverse size factors, over rows."""
    inverse = jnp.broadcast_to(s.weight[:, None] * jnp.exp(-s.offset), s.y.shape)
    return Inverse(jnp.sum(inverse, axis=0))


def overall_inverse(
    cohort: Cohort, each: Float[np.ndarray, "k"], genes: Int[np.ndarray, "k"]
) -> Float[np.ndarray, "k"]:
    """Sum over samples of ``1 / size factor``, the same for all of some genes.

    With factors of genes × samples a sample's size factor is their mean over these genes, as in
    DESeq2 (R/core.R, momentsDispEstimate).

    Parameters
    ----------
    each
        The sum for each gene, of its own factors.
    """
    if not len(each) or np.all(each == each[0]):
        return each
    means = cohort.map(overall, shared=(genes,))
    return np.full(len(each), means.sum(inverse_sizes, genes=np.arange(1)).inverse[0])
