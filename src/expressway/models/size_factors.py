"""Size factors by the median of ratios (Anders & Huber 2010, Genome Biology 11:R106, eq. 5)."""

from typing import Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from expressway._errors import InputError
from expressway._types import Array, Float
from expressway.core.cohort import Cohort, Samples

Method = Literal["ratio", "poscounts"]


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


def reference(sums: LogCounts, method: Method) -> Float[np.ndarray, "g"]:
    """Log geometric mean of each gene: the reference sample; -inf where the gene is not used.

    ``ratio`` uses genes without a zero. ``poscounts`` uses every gene with a count, its log
    counts summed over the positive ones and divided by all samples (DESeq2 R/methods.R,
    estimateSizeFactorsForMatrix).

    Raises
    ------
    InputError
        If no gene can be used.
    """
    used = sums.zeros == 0 if method == "ratio" else sums.total > 0
    if not np.any(used):
        msg = (
            "every gene has a zero in some sample, so ratio size factors do not exist; "
            "use --size-factors poscounts (Python: tl.Settings(size_factors='poscounts'))"
            if method == "ratio" and np.any(sums.total > 0)
            else "every count is zero: there is nothing to normalise; check the count table"
        )
        raise InputError(msg)
    return np.where(used, sums.log / sums.rows, -np.inf)


def normalise(log_reference: Float[np.ndarray, "g"], s: Samples) -> dict[str, Array]:
    """Offsets of each row: the median over genes of ``log y - reference``, its own zeros left out.

    Raises
    ------
    InputError
        If a sample has no count in any gene that is used.
    """
    used = np.flatnonzero(np.isfinite(log_reference))
    offset = np.empty((s.y.shape[0], 1))
    for i, row in enumerate(np.asarray(s.y)):
        counts = row[used].astype(float)  # the logarithm of a narrower type is not a double
        positive = counts > 0
        if not np.any(positive):
            msg = "a sample has no counts in the genes used for size factors; leave it out"
            raise InputError(msg)
        offset[i] = np.median(np.log(counts[positive]) - log_reference[used][positive])
    return {"offset": offset}


class LogSizes(NamedTuple):
    """Sums over samples of log size factors."""

    rows: Float[Array, "g"]
    log: Float[Array, "g"]


def log_sizes(s: Samples) -> LogSizes:
    """Sums of log size factors, over rows; the same for every gene."""
    present = jnp.broadcast_to(s.weight[:, None] > 0, s.y.shape)
    rows = jnp.sum(present, axis=0, dtype=float)
    return LogSizes(rows, jnp.sum(jnp.where(present, s.offset, 0.0), axis=0))


def shifted(by: float, s: Samples) -> dict[str, Array]:
    """Offsets of each row less a constant."""
    return {"offset": s.offset - by}


def normalised(cohort: Cohort, counted: LogCounts, method: Method = "ratio") -> Cohort:
    """Cohort whose offsets are log size factors.

    Those of ``poscounts`` have a geometric mean of 1 (DESeq2 R/methods.R,
    estimateSizeFactorsForMatrix, incomingGeoMeans).

    Parameters
    ----------
    cohort, counted
        Raw counts, and the sums of `log_counts`.
    method
        Which genes make the reference sample.
    """
    cohort = cohort.map(normalise, shared=(reference(counted, method),))
    if method == "poscounts":
        first = cohort.sum(log_sizes, genes=np.arange(1))
        cohort = cohort.map(shifted, shared=(float(first.log[0] / first.rows[0]),))
    return cohort
