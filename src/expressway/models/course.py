"""Samples in time: curves by group, sets of samples to leave out, curves on a grid."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from expressway._errors import InputError
from expressway._types import Float, Int

from .curves import SINGULAR, Frame, Posterior, information_left
from .spline import Basis, evaluate
from .timecourse import Fold

Of = Literal["times", "samples", "replicates"]
# Genes whose curves are evaluated at once.
BLOCK = 4096


class Plan(NamedTuple):
    """When samples were taken, and of which group and replicate."""

    time: Float[np.ndarray, "n"]
    group: Int[np.ndarray, "n"]
    """Place in ``groups``."""
    groups: tuple[str, ...]
    """Names; one empty name where there are none."""
    replicate: Int[np.ndarray, "n"] | None
    """Number of each sample's replicate series, if there are such."""
    sample: tuple[str, ...]
    """Names."""


def design(
    basis: Basis, time: Float[np.ndarray, "n"], group: Int[np.ndarray, "n"], groups: int
) -> Float[np.ndarray, "n _"]:
    """A curve for each group: the basis beside itself, 0 for samples of other groups."""
    values = evaluate(basis, time)
    return np.hstack([values * (group == k)[:, None] for k in range(groups)])


def folds(plan: Plan, size: int, of: Of, among: Sequence[float | int], most: int) -> list[Fold]:
    """All sets of so many time points, samples or replicate series to leave out.

    Parameters
    ----------
    plan
        The samples.
    size
        How many are left out together.
    of
        What. Times are left out with all samples of all groups at them.
    among
        Times that may be left out, for ``of="times"``.
    most
        Sets at most; of more, as many are taken at equal distances in their order.

    Raises
    ------
    InputError
        There are not so many.
    """
    units: list[tuple[str, np.ndarray]]
    if of == "times":
        units = [(f"{t:g}", np.flatnonzero(plan.time == t)) for t in among]
    elif of == "samples":
        units = [(name, np.array([i])) for i, name in enumerate(plan.sample)]
    elif plan.replicate is None:
        msg = "leaving replicates out needs the column that numbers them (replicate=)"
        raise InputError(msg)
    else:
        series = np.unique(plan.replicate)
        units = [(f"replicate {i + 1}", np.flatnonzero(plan.replicate == i)) for i in series]
    if not 1 <= size < len(units) + (of == "times"):
        msg = f"{size} {of} to leave out together of {len(units)}; needed are fewer, at least 1"
        raise InputError(msg)
    number = math.comb(len(units), size)
    some = min(number, most)
    found = []
    for i in range(some):
        place = i * (number - 1) // max(some - 1, 1)
        each = [units[j] for j in _combination(len(units), size, place)]
        name = "+".join(name for name, _ in each)
        found.append(Fold(name, np.concatenate([rows for _, rows in each])))
    return found


def _combination(n: int, size: int, place: int) -> list[int]:
    """What `itertools.combinations` of n gives in a place, without those before it."""
    found: list[int] = []
    for item in range(n):
        having = math.comb(n - item - 1, size - len(found) - 1)
        if place < having:
            found.append(item)
            if len(found) == size:
                break
        else:
            place -= having
    return found


class Comparable(NamedTuple):
    """Folds without which every curve can be estimated, and those without which one cannot."""

    folds: list[Fold]
    excluded: list[tuple[Fold, Float[np.ndarray, "q"]]]
    """With the smallest eigenvalue of what is left of ``Q'WQ``, Q orthonormal, in each frame."""


def comparable(
    frames: Sequence[Frame], given: Sequence[Fold], information: float = 0.0
) -> Comparable:
    """Folds whose errors can be compared between several bases.

    They leave a share of the information of all samples, in every direction and with each basis: a
    curve that nothing holds at the times left out has an error of any size.

    Parameters
    ----------
    frames
        Of curves with each basis.
    given
        The folds.
    information
        The share; designs must be regular at least.
    """
    found = Comparable([], [])
    for fold in given:
        weight = fold.weight(len(frames[0].u))
        left = np.array([information_left(frame, weight) for frame in frames])
        if np.min(left) > max(information, SINGULAR):
            found.folds.append(fold)
        else:
            found.excluded.append((fold, left))
    return found


class Grid(NamedTuple):
    """Times at which curves are shown."""

    time: Float[np.ndarray, "m"]
    indicator: np.ndarray
    """Whether a time has a column of its own: no curve leads there."""


def grid(basis: Basis, time: Float[np.ndarray, "n"], points: int) -> Grid:
    """Equally spaced times between the boundaries, and the times of samples."""
    own = np.array(basis.indicators)
    spaced = np.zeros(0)
    if basis.kind != "factor":
        spaced = np.linspace(basis.lower, basis.upper, points)
    found = np.unique(np.concatenate([spaced, time, own]))
    return Grid(found, np.isin(found, own))


class Band(NamedTuple):
    """Curves with pointwise intervals."""

    mean: Float[np.ndarray, "g m"]
    lower: Float[np.ndarray, "g m"]
    upper: Float[np.ndarray, "g m"]


def rows_at(
    basis: Basis, frame: Frame, time: Float[np.ndarray, "m"], group: int, groups: int
) -> Float[np.ndarray, "m c"]:
    """What curves of a group at these times are of level and coordinates."""
    values = design(basis, time, np.full(len(time), group), groups)
    return np.column_stack([np.ones(len(time)), frame.at(values)])


def band(known: Posterior, rows: Float[np.ndarray, "m c"], level: float) -> Band:
    """Curves ``rows @ coefficients`` and the interval that has each value with a probability.

    Parameters
    ----------
    known
        The coefficients.
    rows
        From `rows_at`; a difference of two of them for a difference of groups.
    level
        The probability.
    """
    parts = []
    for first in range(0, max(len(known.mean), 1), BLOCK):
        some = slice(first, first + BLOCK)
        mean = known.mean[some] @ rows.T
        variance = np.sum((rows @ known.covariance[some]) * rows, axis=2)
        reach = stats.t.ppf(0.5 + level / 2, known.freedom[some])[:, None] * np.sqrt(variance)
        parts.append((mean, mean - reach, mean + reach))
    return Band(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def draws(
    known: Posterior, rows: Float[np.ndarray, "m c"], number: int, rng: np.random.Generator
) -> Float[np.ndarray, "s g m"]:
    """Curves drawn from what is known of their coefficients."""
    g, c = known.mean.shape
    values, vectors = np.linalg.eigh(known.covariance)
    root = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
    normal = (root @ rng.normal(size=(number, g, c, 1)))[..., 0]
    finite = np.isfinite(known.freedom)
    freedom = np.where(finite, known.freedom, 1.0)
    shrink = np.sqrt(rng.chisquare(freedom, size=(number, g)) / freedom)
    spread = np.where(finite, 1.0 / shrink, 1.0)
    return (known.mean + normal * spread[..., None]) @ rows.T
