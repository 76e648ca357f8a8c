"""Trimmed means over groups of samples: by sorting where rows are at hand, else by sums alone.

No maximum and no single value needs to leave a site: public thresholds go down, counts below them
come back, until exactly k values lie outside on each side; then one sum of the values.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Float, Int

from .cohort import Cohort, Samples, compiled

# Thresholds a round trip, for each side of each group.
THRESHOLDS = 32
# A bracket this narrow, relative to its upper end, holds equal values (ties) but for rounding.
WIDTH = 4e-16
# Values below this share of the group's total count as zero: it is out of reach of any sum.
FLOOR = 1e-30


class Groups(NamedTuple):
    """Groups of samples with the same design row; no rows: one group of all samples."""

    rows: Float[np.ndarray, "u p"]
    count: Int[np.ndarray, "u"]  # pyright: ignore[reportIncompatibleMethodOverride]


def members(rows: Float[Array, "u p"], s: Samples) -> Float[Array, "n v"]:
    """Which samples belong to which group: 1 or 0; empty rows to none."""
    if rows.shape[0] == 0:
        inside = jnp.ones((s.x.shape[0], 1))
    else:
        inside = jnp.all(s.x[:, None, :] == rows[None, :, :], axis=-1) * 1.0
    return inside * (s.weight > 0)[:, None]


def trimmed_mean(
    cohort: Cohort,
    values: Callable[..., Float[Array, "n g u"]],
    args: tuple[Any, ...],
    groups: Groups,
    cut: Int[np.ndarray, "u"],
    genes: Int[np.ndarray, "g"],
) -> Float[np.ndarray, "g u"]:
    """Mean of each gene's values in each group without the ``cut`` smallest and largest.

    Parameters
    ----------
    cohort
        Where the rows live.
    values
        Module-level function ``values(*args, samples)``: non-negative values, one for each group
        (last axis; 1 when they are the same for all groups).
    args
        Per-gene arguments of ``values``.
    groups, cut
        Groups, and how many values to drop at each end in each.
    genes
        Indices of the genes.
    """
    if cohort.at_hand:
        found = cohort.collect(_sorted, *args, shared=(values, groups.rows, cut), genes=genes)
    else:
        found = _bracketed(cohort, values, args, groups, cut, genes)
    return found / (groups.count - 2 * cut)


def _sorted(*args_and_shared: Any) -> Float[np.ndarray, "g u"]:
    """Sum of the values that are left, by sorting each group's rows."""
    *args, values, rows, cut, s = args_and_shared
    inside = np.asarray(compiled(members)(rows, s)) > 0
    v = np.asarray(compiled(values)(*args, s))
    total = []
    for u in range(inside.shape[1]):
        mine = np.sort(v[inside[:, u], :, min(u, v.shape[2] - 1)], axis=0)
        total.append(mine[cut[u] : len(mine) - cut[u]].sum(axis=0))
    return np.stack(total, axis=-1)


class Below(NamedTuple):
    """How many values of each group lie below each threshold, and their sum."""

    count: Float[Array, "g u t"]  # pyright: ignore[reportIncompatibleMethodOverride]
    sum: Float[Array, "g u t"]


@functools.cache
def below(values: Callable[..., Float[Array, "n g u"]]) -> Callable[..., Below]:
    """The statistic that counts and sums values below thresholds."""

    def statistic(
        args: tuple[Any, ...],
        thresholds: Float[Array, "g u t"],
        rows: Float[Array, "v p"],
        s: Samples,
    ) -> Below:
        v = values(*args, s)
        inside = members(rows, s)[:, None, :]

        def one(threshold: Float[Array, "g u"]) -> Below:
            hit = inside * (v < threshold[None])
            return Below(jnp.sum(hit, axis=0), jnp.sum(hit * v, axis=0))

        found = jax.lax.map(one, jnp.moveaxis(thresholds, -1, 0))
        return Below(*(jnp.moveaxis(a, 0, -1) for a in found))

    statistic.__name__ = f"below_{values.__name__}"
    return statistic


def _bracketed(
    cohort: Cohort,
    values: Callable[..., Float[Array, "n g u"]],
    args: tuple[Any, ...],
    groups: Groups,
    cut: Int[np.ndarray, "u"],
    genes: Int[np.ndarray, "g"],
) -> Float[np.ndarray, "g u"]:
    """Sum of the values that are left, from counts and sums below public thresholds."""
    statistic = below(values)
    everything = np.full((len(genes), len(cut), 1), np.inf)
    total = cohort.sum(statistic, args, everything, shared=(groups.rows,), genes=genes).sum[..., 0]
    # Both sides at once: the k smallest are below the first end, all but the k largest below the
    # second.
    rank = np.stack([cut, groups.count - cut], axis=-1) * np.ones((len(genes), 1, 1))
    bracket = _first_bracket(total, groups.count)
    waiting = np.arange(len(genes))
    narrow = np.maximum(FLOOR * total[..., None], np.finfo(float).tiny)  # all zeros: total 0
    while len(waiting):
        now = Bracket(*(a[waiting] for a in bracket))
        at = _thresholds(now, total[waiting])
        sums = cohort.sum(
            statistic,
            tuple(a[waiting] for a in args),
            at.reshape(len(waiting), len(cut), -1),
            shared=(groups.rows,),
            genes=genes[waiting],
        )
        new = _tightened(now, at, sums, rank[waiting])
        for whole, part in zip(bracket, new, strict=True):
            whole[waiting] = part
        exact = np.any(new.count == rank[waiting][..., None], axis=-1)
        upper = new.end[..., 1]
        # Said of what is not tied, so that a gene with values that are not finite ends too.
        tied = ~((upper - new.end[..., 0] > WIDTH * upper) & (upper > narrow[waiting]))
        waiting = waiting[~np.all(exact | tied, axis=(1, 2))]
    inside = np.maximum(bracket.count[..., 1] - bracket.count[..., 0], 1.0)
    part = (rank - bracket.count[..., 0]) / inside
    smallest = bracket.sum[..., 0] + part * (bracket.sum[..., 1] - bracket.sum[..., 0])
    return smallest[..., 1] - smallest[..., 0]


class Bracket(NamedTuple):
    """Two ends around each wanted rank, and what lies below them; last axis lower, upper."""

    end: Float[np.ndarray, "g u 2 2"]
    count: Float[np.ndarray, "g u 2 2"]  # pyright: ignore[reportIncompatibleMethodOverride]
    sum: Float[np.ndarray, "g u 2 2"]


def _first_bracket(total: Float[np.ndarray, "g u"], count: Int[np.ndarray, "u"]) -> Bracket:
    """From 0 to the group's total, which no value exceeds."""
    empty = np.zeros((*total.shape, 2, 2))
    bracket = Bracket(empty, empty.copy(), empty.copy())
    bracket.end[..., 1] = np.nextafter(total, np.inf)[..., None]
    bracket.count[..., 1] = count[:, None]
    bracket.sum[..., 1] = total[..., None]
    return bracket


def _thresholds(now: Bracket, total: Float[np.ndarray, "g u"]) -> Float[np.ndarray, "g u 2 t"]:
    """Thresholds inside each bracket: over thirty decades at first, then evenly spaced."""
    step = np.arange(1, THRESHOLDS + 1) / (THRESHOLDS + 1)
    lower, upper = now.end[..., :1], now.end[..., 1:]
    decades = np.minimum(upper, total[..., None, None]) * FLOOR ** (1 - step)
    return np.where(lower == 0, decades, lower + (upper - lower) * step)


def _tightened(
    now: Bracket,
    at: Float[np.ndarray, "g u 2 t"],
    sums: Below,
    rank: Float[np.ndarray, "g u 2"],
) -> Bracket:
    """The two neighbouring thresholds with the wanted rank between them."""
    new = Bracket(at, np.reshape(sums.count, at.shape), np.reshape(sums.sum, at.shape))
    ends = Bracket(
        *(
            np.concatenate([old[..., :1], inner, old[..., 1:]], axis=-1)
            for old, inner in zip(now, new, strict=True)
        )
    )
    below_rank = np.sum(ends.count <= rank[..., None], axis=-1, keepdims=True) - 1
    low = np.clip(below_rank, 0, ends.count.shape[-1] - 2)
    pair = np.concatenate([low, low + 1], axis=-1)
    return Bracket(*(np.take_along_axis(a, pair, axis=-1) for a in ends))
