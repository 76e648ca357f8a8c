"""Cook's distances: which counts are outliers, their replacement, which genes are filtered.

Sources: Love, Huber & Anders 2014 (Genome Biology 15:550, methods, "Handling outliers") and DESeq2
1.38 ``R/core.R`` (calculateCooksDistance, robustMethodOfMomentsDisp, trimmedCellVariance,
replaceOutliers, recordMaxCooks).
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import special

from expressway._types import Array, Float, Int
from expressway.core import linear
from expressway.core.arrow import Wide
from expressway.core.cohort import Cohort, Samples, compiled
from expressway.core.lowrank import LowRank
from expressway.core.order import Groups, members, trimmed_mean

from .nb import MIN_MU, mean

# DESeq2 R/core.R, trimmedCellVariance: trim and scale for cells of <= 3, <= 23 and more samples.
_TRIM = (1 / 3, 1 / 4, 1 / 8)
_SCALE = (2.04, 1.86, 1.51)
# DESeq2 R/core.R, robustMethodOfMomentsDisp, minDisp.
FLOOR = 0.04
REPLICATES = 3
REPLACEMENT_TRIM = 0.2


def normalised(inside: Float[Array, "n u"] | Wide, s: Samples) -> Float[Array, "n g"]:  # noqa: ARG001
    """Normalised counts."""
    return s.y * jnp.exp(-s.offset)


def squared_error(
    center: Float[Array, "g u"], inside: Float[Array, "n u"] | Wide, s: Samples
) -> Float[Array, "n g"]:
    """Squared deviations of normalised counts from the centre of each sample's group."""
    return (normalised(inside, s) - inside @ center.T) ** 2


class Bulk(NamedTuple):
    """Mean and variance of each gene's normalised counts over all samples."""

    mean: Float[np.ndarray, "g"]
    variance: Float[np.ndarray, "g"]


def robust_dispersion(
    cohort: Cohort, bulk: Bulk, cells: Groups, genes: Int[np.ndarray, "g"]
) -> Float[np.ndarray, "g"]:
    """Dispersion that single outliers do not move: ``(v - mean) / mean²``, at least .04.

    v is the largest over design cells of three samples or more of the scaled trimmed mean of
    squared deviations from the trimmed mean; without such cells, of all samples taken as one,
    with trim 1/8.
    """
    n = int(np.sum(cells.size))
    large = cells.size >= REPLICATES
    if np.any(large):
        groups = Groups(cells.cells[large], cells.size[large])
        kind = np.digitize(groups.size, [3.5, 23.5])
    else:
        groups, kind = everyone(n), np.array([2])
    cut = np.floor(groups.size * np.take(_TRIM, kind)).astype(int)
    most = n * bulk.mean[:, None] * np.ones(len(cut))
    center = trimmed_mean(cohort, normalised, (), groups, cut, most, genes)
    # |q - center| <= |q - mean| + |mean - center|, and (q - mean)² is at most the sum of squares.
    reach = np.sqrt((n - 1) * bulk.variance)[:, None] + np.abs(bulk.mean[:, None] - center)
    error = trimmed_mean(cohort, squared_error, (center,), groups, cut, reach**2, genes)
    variance = np.max(error * np.take(_SCALE, kind), axis=1)
    return np.maximum((variance - bulk.mean) / bulk.mean**2, FLOOR)


def replacement(
    cohort: Cohort, bulk: Bulk, n: int, genes: Int[np.ndarray, "g"]
) -> Float[np.ndarray, "g"]:
    """Mean of normalised counts over all samples, trimmed by .2 at both ends."""
    cut, most = np.array([int(n * REPLACEMENT_TRIM)]), n * bulk.mean[:, None]
    return trimmed_mean(cohort, normalised, (), everyone(n), cut, most, genes)[:, 0]


def everyone(n: int) -> Groups:
    """All samples as one group."""
    return Groups(np.zeros(0, dtype=int), np.array([n]))


class Fitted(NamedTuple):
    """What Cook's distances need of the fit of each gene."""

    beta: Float[Array, "g p"]
    alpha: Float[Array, "g"]
    inverse: Float[Array, "g p p"] | LowRank
    """``(X'WX + ridge)⁻¹``."""
    robust: Float[Array, "g"]


def cooks(fit: Fitted, s: Samples) -> Float[Array, "n g"]:
    """Cook's distances ``(y - mu)² / V / p × h / (1 - h)²``, V = mu + robust mu².

    h is the hat diagonal ``w x'(X'WX + ridge)⁻¹x`` with means in w raised to .5 and observation
    weights in w; residuals are not weighted (DESeq2 R/core.R, calculateCooksDistance).
    """
    mu = mean(fit.beta, s)
    m = jnp.maximum(mu, MIN_MU)
    hat = s.precision * m / (1.0 + fit.alpha[None] * m) * linear.hat(fit.inverse, s.x)
    residual = (s.y - mu) ** 2 / (mu + fit.robust[None] * mu**2)
    return jnp.where(s.weight[:, None] > 0, residual / s.x.shape[1] * hat / (1.0 - hat) ** 2, 0.0)


class Flags(NamedTuple):
    """How many samples of each gene have a Cook's distance above the cutoff."""

    all: Float[Array, "g"]
    replicated: Float[Array, "g"]
    """In design cells with three samples or more."""
    replaceable: Float[Array, "g"]
    """In cells with as many samples as replacement asks for, among the replicated."""


def flags(
    fit: Fitted,
    cutoff: Float[Array, ""],
    replicated: Int[Array, "u"],
    replaceable: Int[Array, "v"],
    s: Samples,
) -> Flags:
    """Counts of flagged samples, over rows."""
    flagged = (cooks(fit, s) > cutoff) * 1.0
    return Flags(
        all=jnp.sum(flagged, axis=0),
        replicated=_in_cells(replicated, s) @ flagged,
        replaceable=_in_cells(replaceable, s) @ flagged,
    )


def _in_cells(cells: Int[Array, "u"], s: Samples) -> Float[Array, "n"]:
    """Samples in any of the cells: none if there are none."""
    return jnp.sum(members(cells, s), axis=1) if cells.shape[0] else jnp.zeros(s.x.shape[0])


class Distances(NamedTuple):
    """What Cook's distances of all samples say of each gene; where rows are at hand."""

    largest: Float[np.ndarray, "g"]
    """Over design cells with three samples or more; NaN if there are none."""
    above: Int[np.ndarray, "g"]
    """Samples with more counts than the sample with the largest distance of all."""
    flags: Flags


def distances(
    fit: Fitted,
    cutoff: float,
    replicated: Int[np.ndarray, "u"],
    replaceable: Int[np.ndarray, "v"],
    s: Samples,
) -> Distances:
    """Flags as `flags` has them, and what is not a sum."""
    distance = np.asarray(compiled(cooks)(fit, s))
    cell = np.asarray(s.cell)
    judged, replaced = np.isin(cell, replicated), np.isin(cell, replaceable)
    top = np.full(distance.shape[1], np.nan)
    if np.any(judged):
        top = distance[judged].max(axis=0)
    outlying = np.take_along_axis(s.y, distance.argmax(axis=0)[None, :], axis=0)
    present = np.asarray(s.weight)[:, None] > 0
    flagged = distance > cutoff
    parts = (flagged, flagged[judged], flagged[replaced])
    flags = Flags(*(np.sum(part, axis=0, dtype=float) for part in parts))
    return Distances(top, np.sum(present & (s.y > outlying), axis=0), flags)


def by_gene(fit: Fitted, s: Samples) -> Float[np.ndarray, "g n"]:
    """Cook's distances, a row a gene; where rows are at hand."""
    return np.asarray(compiled(cooks)(fit, s)).T


def replaced(
    fit: Fitted,
    value: Float[np.ndarray, "g"],
    cutoff: float,
    replaceable: Int[np.ndarray, "u"],
    s: Samples,
) -> dict[str, Any]:
    """Counts of each row with the flagged ones replaced by ``value × size factor``, truncated."""
    flagged = np.asarray(compiled(cooks)(fit, s)) > cutoff
    rows = np.isin(np.asarray(s.cell), replaceable)
    new = np.trunc(value * np.exp(s.offset))
    return {"y": np.where(flagged & rows[:, None], new, s.y)}


def cutoff(n: int, p: int) -> float:
    """The .99 quantile of F(p, n - p)."""
    return float(special.fdtri(p, n - p, 0.99))
