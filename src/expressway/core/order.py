"""Trimmed means over groups of samples: by sorting where rows are at hand, else by sums alone.

No maximum and no single value needs to leave a site: public thresholds go down, counts and sums
below them come back, until exactly k values lie outside on each side.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Bool, Float, Int

from .arrow import MANY, Span, Wide
from .cohort import Cohort, Samples, compiled

# Thresholds a round trip, for each side of each group: as many as make a message of a few
# megabytes, of three sizes so that little is compiled.
THRESHOLDS = (1024, 256, 64)
MESSAGE = 2**17
# Decades below the largest possible value that the first thresholds span.
DECADES = 12
# A bracket ends when no place of the values inside moves the trimmed sum by this share of it ...
TOLERANCE = 1e-10
# Equal values differ from their mean by rounding, of sums over all samples.
TIED = 1e-12
# ... or when it lies below this share of the largest possible value: zeros.
FLOOR = 1e-30
# Above every value, and finite, since it is multiplied by 0 where a sample is in another group.
EVERYTHING = 1e300


class Groups(NamedTuple):
    """Groups of samples: design cells, or all samples if no cell is named."""

    cells: Int[np.ndarray, "c"]
    size: Int[np.ndarray, "u"]


def members(cells: Int[Array, "c"], s: Samples) -> Float[Array, "n u"]:
    """Which samples belong to which group, 1 or 0; one group of all where no cell is named."""
    if cells.shape[0] == 0:
        return (s.weight > 0)[:, None] * 1.0
    return (s.cell[:, None] == cells[None, :]) * 1.0


Values = Callable[..., Float[Array, "n g"]]


def trimmed_mean(
    cohort: Cohort,
    values: Values,
    args: tuple[Any, ...],
    groups: Groups,
    cut: Int[np.ndarray, "u"],
    most: Float[np.ndarray, "g u"],
    genes: Int[np.ndarray, "g"],
) -> Float[np.ndarray, "g u"]:
    """Mean of each gene's values in each group without the ``cut`` smallest and largest.

    Parameters
    ----------
    cohort
        Where the rows live.
    values
        Module-level function ``values(*args, inside, samples)`` with non-negative values, inside
        being each sample's group (`members`).
    args
        Per-gene arguments of ``values``.
    groups, cut
        Groups, and how many values to drop at each end in each.
    most
        A bound that no value of the gene in the group exceeds.
    genes
        Indices of the genes.
    """
    if cohort.at_hand:
        found = cohort.collect(_sorted, *args, shared=(values, groups.cells, cut), genes=genes)
    else:
        # A threshold above the bound itself, so that a value equal to it lies below one.
        found = _bracketed(cohort, values, args, groups, cut, most * (1 + 1e-6), genes)
        found = np.where(np.isfinite(most), found, np.nan)
    return found / (groups.size - 2 * cut)


def _sorted(*args_and_shared: Any) -> Float[np.ndarray, "g u"]:
    """Sum of the values that are left, by sorting each group's rows; cells are in order."""
    *args, values, cells, cut, s = args_and_shared
    inside, groups = _inside(cells, s)
    v = np.asarray(compiled(values)(*args, inside, s))
    total = []
    for u, rows in enumerate(groups):
        mine = np.sort(v[rows], axis=0)
        total.append(mine[cut[u] : len(mine) - cut[u]].sum(axis=0))
    return np.stack(total, axis=-1)


def _inside(cells: Int[np.ndarray, "c"], s: Samples) -> tuple[Any, list[np.ndarray]]:
    """What `members` says, as a wide design where groups are many, and the rows of each group."""
    if len(cells) < MANY:
        inside = np.asarray(compiled(members)(cells, s))
        return inside, [inside[:, u] > 0 for u in range(inside.shape[1])]
    cell = np.asarray(s.cell)
    at = np.minimum(np.searchsorted(cells, cell), len(cells) - 1)
    there = cells[at] == cell
    rows = np.flatnonzero(there)
    rows = rows[np.argsort(at[rows], kind="stable")]
    groups = np.split(rows, np.searchsorted(at[rows], np.arange(1, len(cells))))
    return Wide(np.zeros((len(cell), 0)), there * 1.0, at, Span(0, len(cells))), groups


class Below(NamedTuple):
    """How many values of each group lie below each threshold, and their sum."""

    number: Float[Array, "g u 2 t"]
    total: Float[Array, "g u 2 t"]


@functools.cache
def below(values: Values) -> Callable[..., Below]:
    """The statistic that counts and sums values below ascending thresholds, over rows."""

    def statistic(
        args: tuple[Any, ...],
        thresholds: Float[Array, "g u 2 t"],
        cells: Int[Array, "c"],
        s: Samples,
    ) -> Below:
        inside = members(cells, s)
        v = values(*args, inside, s)

        def gene(at: Float[Array, "u 2 t"], mine: Float[Array, "n"]) -> Below:
            """Values go into bins between thresholds; what is below is the sum of bins so far."""

            def ends(at: Float[Array, "t"], belongs: Float[Array, "n"]) -> Below:
                bin_ = jnp.searchsorted(at, mine, side="right")
                parts = jnp.stack([belongs, belongs * mine], axis=-1)
                bins = jnp.zeros((at.shape[0] + 1, 2)).at[bin_].add(parts)
                number, total = jnp.cumsum(bins, axis=0)[:-1].T
                return Below(number, total)

            return jax.vmap(lambda a, m: jax.vmap(lambda e: ends(e, m))(a))(at, inside.T)

        return jax.vmap(gene)(thresholds, v.T)

    statistic.__name__ = statistic.__qualname__ = f"below_{values.__name__}"
    return statistic


class _Bracket(NamedTuple):
    """Two ends around each wanted rank and what lies below them: lower, upper on the last axis.

    The axis before it: the cut of the smallest values, and that of the largest.
    """

    end: Float[np.ndarray, "g u 2 2"]
    number: Float[np.ndarray, "g u 2 2"]
    total: Float[np.ndarray, "g u 2 2"]


def _bracketed(
    cohort: Cohort,
    values: Values,
    args: tuple[Any, ...],
    groups: Groups,
    cut: Int[np.ndarray, "u"],
    most: Float[np.ndarray, "g u"],
    genes: Int[np.ndarray, "g"],
) -> Float[np.ndarray, "g u"]:
    """Sum of the values that are left, from counts and sums below public thresholds.

    The k smallest lie below the first cut, all but the k largest below the second.
    """
    rank = np.stack([cut, groups.size - cut], axis=-1) * np.ones((len(genes), 1, 1))
    bracket = _Bracket(*(np.zeros((*rank.shape, 2)) for _ in range(3)))
    bracket.end[..., 1] = EVERYTHING
    waiting = np.arange(len(genes))
    while len(waiting):
        now = _Bracket(*(a[waiting] for a in bracket))
        at = _thresholds(now, most[waiting])
        sums = cohort.sum(
            below(values),
            tuple(a[waiting] for a in args),
            at,
            shared=(groups.cells,),
            genes=genes[waiting],
        )
        new = _tightened(now, at, sums, rank[waiting])
        for whole, part in zip(bracket, new, strict=True):
            whole[waiting] = part
        waiting = waiting[~_settled(new, rank[waiting], most[waiting])]
    smallest = _sum_of_smallest(bracket, rank)
    return smallest[..., 1] - smallest[..., 0]


def _thresholds(now: _Bracket, most: Float[np.ndarray, "g u"]) -> Float[np.ndarray, "g u 2 t"]:
    """Thresholds in each bracket: over decades below its upper end, later evenly spaced.

    Two enclose the mean of the values inside: where these are equal to each other (zeros, or the
    two that are left of four) it is their value. The last threshold is the upper end itself, which
    in the first round is above everything.
    """
    limit = most[..., None, None]
    lower, upper = now.end[..., :1], np.minimum(now.end[..., 1:], limit)
    count = next((t for t in THRESHOLDS if t * lower.size <= MESSAGE), THRESHOLDS[-1])
    step = np.arange(1, count + 1) / count
    decades = upper * 10.0 ** (-DECADES * (1 - step))
    at = np.where(lower == 0, decades, lower + (upper - lower) * step)
    inside = np.maximum(now.number[..., 1:] - now.number[..., :1], 1.0)
    mean = (now.total[..., 1:] - now.total[..., :1]) / inside
    around = mean * np.array([1 - TIED, 1 + TIED])
    around[..., 1:] = np.maximum(around[..., 1:], FLOOR * limit)
    at[..., :2] = np.clip(around, lower, upper)
    at[..., -1] = now.end[..., 1]
    return np.sort(at, axis=-1)


def _tightened(
    now: _Bracket, at: Float[np.ndarray, "g u 2 t"], sums: Below, rank: Float[np.ndarray, "g u 2"]
) -> _Bracket:
    """The two neighbouring thresholds with the wanted rank between them."""
    new = (at, sums.number, sums.total)
    ends = _Bracket(
        *(
            np.concatenate([old[..., :1], inner], axis=-1)
            for old, inner in zip(now, new, strict=True)
        )
    )
    low = np.sum(ends.number <= rank[..., None], axis=-1, keepdims=True) - 1
    low = np.clip(low, 0, at.shape[-1] - 1)
    pair = np.concatenate([low, low + 1], axis=-1)
    return _Bracket(*(np.take_along_axis(a, pair, axis=-1) for a in ends))


def _sum_of_smallest(b: _Bracket, rank: Float[np.ndarray, "g u 2"]) -> Float[np.ndarray, "g u 2"]:
    """Sum of as many smallest values as the rank says; those in the bracket count alike."""
    inside = np.maximum(b.number[..., 1] - b.number[..., 0], 1.0)
    share = (rank - b.number[..., 0]) / inside
    return b.total[..., 0] + share * (b.total[..., 1] - b.total[..., 0])


def _settled(
    b: _Bracket, rank: Float[np.ndarray, "g u 2"], most: Float[np.ndarray, "g u"]
) -> Bool[np.ndarray, "g"]:
    """Genes whose trimmed sums no longer depend on where in the brackets their values lie."""
    exact = np.any(b.number == rank[..., None], axis=-1)
    smallest = _sum_of_smallest(b, rank)
    left = (smallest[..., 1] - smallest[..., 0])[..., None]
    upper = b.end[..., 1]
    loose = (upper - b.end[..., 0]) * (b.number[..., 1] - b.number[..., 0])
    # Said of what is open, so that a gene with values that are not finite ends too.
    zero = most == 0  # nothing but zeros: their sum is known
    open_ = (loose > TOLERANCE * left) & (upper > FLOOR * most[..., None]) & ~zero[..., None]
    return np.all(exact | ~open_, axis=(1, 2))
