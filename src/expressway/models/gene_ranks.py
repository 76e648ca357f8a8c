"""Intervals of contrasts of every gene, and of the genes' ranks.

A contrast of a normal vector is normal, so that intervals and probabilities of it have closed
forms and need no draws; ranks have none. Draws of one contrast are one number a gene and draw,
``c'b + sqrt(c'Cc) z``: nothing of the size of genes × coefficients × draws is made.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy.special import ndtr, ndtri

from expressway._errors import InputError
from expressway._types import Array, Float, Int
from expressway.core import linear
from expressway.core.threads import side_by_side

from .gene_covariance import Normal
from .gene_draws import RANKS, stream

By = Literal["magnitude", "up", "down"]
# Draws of all genes that share a stream and are ranked together.
CHUNK = 8
# Genes whose ranks are summarised together.
GENES = 256


class Estimates(NamedTuple):
    """A contrast of every gene and its standard error, natural log."""

    estimate: Float[np.ndarray, "g"]
    se: Float[np.ndarray, "g"]


def along(of: Normal, contrast: Float[np.ndarray, "p"]) -> Estimates:
    """``c'b`` and ``sqrt(c'Cc)``; NaN for genes without a distribution.

    Parameters
    ----------
    of
        From `gene_covariance.normal`.
    contrast
        One weight a coefficient; log alpha beside them has none.
    """
    c = np.zeros(of.center.shape[1])
    c[: len(contrast)] = contrast
    variance = linear.quadratic(of.covariance, c)
    return Estimates(of.center @ c, np.sqrt(np.maximum(variance, 0.0)))


class Intervals(NamedTuple):
    """Of a contrast of every gene, in the unit of what was given."""

    lower: Float[np.ndarray, "g"]
    upper: Float[np.ndarray, "g"]
    above: Float[np.ndarray, "g"]
    """Probability of being above the threshold."""
    below: Float[np.ndarray, "g"]
    """Probability of being below minus the threshold."""


def intervals(
    estimate: Float[np.ndarray, "g"],
    se: Float[np.ndarray, "g"],
    level: float = 0.9,
    threshold: float = 0.0,
) -> Intervals:
    """Central intervals of ``N(estimate, se²)``, and probabilities of being beyond a threshold.

    Raises
    ------
    InputError
        The level is not between 0 and 1, or the threshold is negative.
    """
    check(Choices(level=level))
    if not 0 <= threshold < np.inf:
        msg = f"the threshold must be 0 or more, but is {threshold}"
        raise InputError(msg)
    half = ndtri(0.5 + 0.5 * level) * se
    with np.errstate(divide="ignore", invalid="ignore"):
        above, below = ((sign * estimate - threshold) / se for sign in (1.0, -1.0))
    return Intervals(estimate - half, estimate + half, ndtr(above), ndtr(below))


class Choices(NamedTuple):
    """What is asked of ranks."""

    draws: int = 1000
    """A probability p is found to within ``sqrt(p (1 - p) / draws)``, .016 at most for 1,000."""
    level: float = 0.9
    """Of intervals."""
    top: int = 100
    """How many genes are the first."""
    by: str = "magnitude"
    """``"magnitude"``: the largest changes, whatever their sign, are first; ``"up"``: the largest
    values, ``"down"``: the least."""


DEFAULTS = Choices()


class Ranks(NamedTuple):
    """Of every gene among those that take part; 1 is the first. NaN for the others."""

    rank: Float[np.ndarray, "g"]
    """Median over draws."""
    lower: Float[np.ndarray, "g"]
    upper: Float[np.ndarray, "g"]
    """Ends of the central interval: as many draws, or more, are in it as the level says."""
    top: Float[np.ndarray, "g"]
    """Share of draws in which the gene is among the first."""


def ranks(of: Estimates, key: Array, choices: Choices = DEFAULTS) -> Ranks:
    """Ranks of the genes' contrasts, from draws of each.

    What is kept is a rank of every gene and draw, of two bytes (of four for more than 65,535
    genes).

    Parameters
    ----------
    of
        A contrast of every gene; genes with a NaN take no part. Others' ranks depend on who does,
        their draws do not.
    key
        JAX key.
    choices
        How many draws, and what is asked.

    Raises
    ------
    InputError
        A choice is none, or a number is out of range.
    """
    who = np.flatnonzero(np.isfinite(of.estimate) & np.isfinite(of.se))
    estimate, se = of.estimate[who], of.se[who]

    def values(first: int, last: int) -> Float[np.ndarray, "c k"]:
        z = stream(key, RANKS, first // CHUNK).standard_normal((last - first, len(of.se)))
        return estimate + se * (z if len(who) == len(of.se) else z[:, who])

    found = _summarised(values, choices, len(who))
    return _widened(found, who, len(of.se))


def ranks_of(values: Float[np.ndarray, "n g"], choices: Choices = DEFAULTS) -> Ranks:
    """As `ranks`, of draws that are there, as many as there are.

    Those of `GeneDraws.along`, so that ranks in several contrasts come from the same coefficients.

    Raises
    ------
    InputError
        As for `ranks`.
    """
    who = np.flatnonzero(np.all(np.isfinite(values), axis=0))
    choices = choices._replace(draws=len(values))
    found = _summarised(lambda first, last: values[first:last, who], choices, len(who))
    return _widened(found, who, values.shape[1])


def check(choices: Choices) -> None:
    """Refuse numbers out of range.

    Raises
    ------
    InputError
        One is.
    """
    if not 0 < choices.level < 1:
        msg = f"the level of intervals must lie between 0 and 1, but is {choices.level}"
    elif choices.draws < 1:
        msg = f"the number of draws must be 1 or more, but is {choices.draws}"
    elif choices.top < 1:
        msg = f"the number of top genes must be 1 or more, but is {choices.top}"
    elif choices.by not in get_args(By):
        msg = f"genes are ranked by one of {', '.join(get_args(By))}, but by is {choices.by}"
    else:
        return
    raise InputError(msg)


def _summarised(
    values: Callable[[int, int], np.ndarray],
    choices: Choices,
    count: int,
) -> Ranks:
    """Ranks in every draw, then their summary gene by gene."""
    check(choices)
    n, level, top, by = choices
    turn = {"magnitude": lambda v: -np.abs(v), "up": np.negative, "down": np.asarray}[by]
    kind = np.uint16 if count < 2**16 else np.uint32
    places = np.empty((n, count), kind)
    order = (np.arange(count) + 1).astype(kind)

    def place(first: int) -> None:
        v = turn(values(first, min(first + CHUNK, n)))
        for row, at in zip(places[first : first + CHUNK], np.argsort(v, axis=1), strict=True):
            row[at] = order

    side_by_side(place, range(0, n, CHUNK))
    tail = int(np.floor(n * (0.5 - 0.5 * level)))
    found = np.empty((4, count))

    def summarise(first: int) -> None:
        some = np.sort(np.ascontiguousarray(places[:, first : first + GENES].T), axis=1)
        at = slice(first, first + GENES)
        found[0, at] = 0.5 * (some[:, (n - 1) // 2].astype(float) + some[:, n // 2])
        found[1, at], found[2, at] = some[:, tail], some[:, n - 1 - tail]
        found[3, at] = np.mean(some <= top, axis=1)

    side_by_side(summarise, range(0, count, GENES))
    return Ranks(*found)


def _widened(found: Ranks, who: Int[np.ndarray, "k"], count: int) -> Ranks:
    """NaN for genes that take no part."""
    whole = np.full((4, count), np.nan)
    whole[:, who] = found
    return Ranks(*whole)
