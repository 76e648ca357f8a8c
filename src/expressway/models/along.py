"""Designs of curves along pseudotime: bases of functions of it, and samples on lineages.

The log mean of a gene is ``x_n' b``: a level, and functions of the sample's pseudotime. With
several lineages each has functions of its own, multiplied by the sample's weight in it (Van den
Berge et al. 2020, Nature Communications 11:1201). Times have the user's unit.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PPoly

from expressway._errors import InputError
from expressway._types import Float

from . import spline
from .frame import Frame as Frame
from .frame import at as at
from .frame import frame as frame
from .frame import raw_moments as raw_moments
from .frame import raw_slope as raw_slope

# Fewest columns beside the level; a cubic polynomial has three.
LEAST = {"rbf": 1, "spline": 3, "natural": 1, "cyclic": 1}
# In `spline.basis` these are called:
SPLINES = {"spline": "b-spline", "natural": "natural", "cyclic": "cyclic"}
# Neighbouring radial functions overlap at this many spacings, so that their sums are smooth.
OVERLAP = 1.5


class Curve(NamedTuple):
    """A basis of functions of pseudotime; `values` gives its columns, all but the constant."""

    kind: str
    """``"rbf"``, ``"spline"``, ``"natural"`` or ``"cyclic"``."""
    centers: tuple[float, ...]
    """Of radial functions, one each."""
    length: float | None
    """Their length-scale l."""
    basis: spline.Basis | None
    """Of the other kinds, with one column more than the curve."""
    lower: float
    """First time, and the last; of a cyclic curve, one period later."""
    upper: float

    @property
    def columns(self) -> int:
        """Number of columns, the constant not among them."""
        return len(self.centers) if self.basis is None else self.basis.columns - 1


def parse(text: str) -> tuple[str, int]:
    """Kind of a basis and its number of columns beside the level, from ``"rbf:3"``.

    Raises
    ------
    InputError
        If the text is no kind and number, or there are fewer columns than the kind has.
    """
    kind, _, number = text.partition(":")
    if kind in LEAST and number.isascii() and number.isdecimal() and int(number) >= LEAST[kind]:
        return kind, int(number)
    msg = (
        f"basis {text!r}; give rbf:M, spline:M (cubic, M at least {LEAST['spline']}), natural:M or "
        "cyclic:M with M the number of columns beside the level, such as rbf:3"
    )
    raise InputError(msg)


def curve(
    kind: str,
    number: int,
    times: Float[np.ndarray, "n"],
    *,
    centers: Sequence[float | int] | None = None,
    length: float | int | None = None,
) -> Curve:
    """Basis for samples at these times.

    Radial functions are ``exp(-(t - c)² / (2 l²))``. The others are cubic splines with interior
    knots at quantiles of the distinct times, so that each piece has samples.

    Parameters
    ----------
    kind
        ``"rbf"``; ``"spline"``, cubic B-splines; ``"natural"``, linear beyond the boundaries;
        ``"cyclic"``, periodic.
    number
        Columns beside the constant, which is in the span of the splines but not of these columns.
    times
        Pseudotimes of the samples, in any order.
    centers
        Centres c of radial functions; by default in the middles of equal parts of the range.
    length
        Length-scale l of radial functions, by default `OVERLAP` times the (mean) spacing of the
        centres; of a cyclic basis the period, by default the range of the times.

    Raises
    ------
    InputError
        If a time is not finite, all are the same, there are fewer distinct ones (modulo the
        period) than columns and a constant, or the arguments contradict each other.
    """
    parse(f"{kind}:{number}")
    _refuse_shape(kind, number, centers, length)
    missing = np.flatnonzero(~np.isfinite(times))
    if not len(times) or len(missing):
        msg = (
            f"pseudotime is missing or infinite for {len(missing)} of {len(times)} samples; "
            "give each sample a finite one, or leave the sample out"
        )
        raise InputError(msg)
    lower, upper = float(np.min(times)), float(np.max(times))
    if lower == upper:
        msg = f"pseudotime is {lower:g} for all {len(times)} samples; give times that differ"
        raise InputError(msg)
    period = None if kind != "cyclic" else upper - lower if length is None else float(length)
    _refuse_few(f"{kind}:{number}", times, period)
    if kind != "rbf":
        basis = spline.basis(times, number + 1, kind=SPLINES[kind], knots="quantile", period=period)
        return Curve(kind, (), None, basis, basis.lower, basis.upper)
    spacing = (upper - lower) / number
    if centers is None:
        placed = lower + spacing * (np.arange(number) + 0.5)
    else:
        placed = np.array(centers, float)
        spacing = np.ptp(placed) / (number - 1) if number > 1 else spacing
    scale = float(OVERLAP * spacing if length is None else length)
    return Curve(kind, tuple(float(c) for c in placed), scale, None, lower, upper)


def values(curve: Curve, t: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n m"]:
    """Columns of the basis at these times, without the constant.

    The columns of a spline sum to 1, so that all but the first span the same with a constant.

    Raises
    ------
    InputError
        If a spline that is not cyclic has no value at a time because it is outside its range.
    """
    if curve.basis is None:
        away, scale = _radial(curve, t)
        return np.exp(-0.5 * (away / scale) ** 2)
    _refuse_outside(curve, t)
    return spline.evaluate(curve.basis, t)[:, 1:]


def slopes(curve: Curve, t: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n m"]:
    """Derivatives of `values` in time, per unit of time; fails as that does.

    Between two knots a spline is a cubic, which its values at four points determine.
    """
    if curve.basis is None:
        away, scale = _radial(curve, t)
        return -away / scale**2 * np.exp(-0.5 * (away / scale) ** 2)
    _refuse_outside(curve, t)
    breaks = np.array([curve.lower, *curve.basis.knots, curve.upper])
    left, width = breaks[:-1], np.diff(breaks)
    u = np.linspace(0, 1, 4)
    nodes = np.clip(left[:, None] + width[:, None] * u, curve.lower, curve.upper)
    at = spline.evaluate(curve.basis, nodes.ravel())[:, 1:].reshape(len(left), 4, -1)
    # Highest power first, of the time since the piece began.
    cubic = np.linalg.inv(np.vander(u)) @ at / (width[:, None] ** np.arange(3, -1, -1))[:, :, None]
    pieces = PPoly(np.swapaxes(cubic, 0, 1), breaks)
    return pieces.derivative()(t, extrapolate="periodic" if curve.kind == "cyclic" else True)


class Lineages(NamedTuple):
    """Where samples are along each of the lineages, and how far they belong to it."""

    times: Float[np.ndarray, "n l"]
    """Pseudotimes, finite. Where the weight is 0, one of the lineage's other samples."""
    weights: Float[np.ndarray, "n l"]
    """Of each sample they sum to 1."""
    names: tuple[str, ...]
    """``""`` where there is one lineage and no name for it."""


def lineages(
    times: Float[np.ndarray, "n l"],
    weights: Float[np.ndarray, "_ _"] | None = None,
    names: Sequence[str] | None = None,
) -> Lineages:
    """Lineages with checked times and with weights that sum to 1, as tradeSeq has them.

    A time with weight 0 is replaced by the first that has weight in this lineage: it says nothing,
    may be missing, and must not widen the range of the lineage's curve.

    Parameters
    ----------
    times
        Pseudotime of each sample in each lineage.
    weights
        Weight of each sample in each lineage, at least 0; may be left out for one lineage.
    names
        Of the lineages; by default ``"1"``, ``"2"`` …

    Raises
    ------
    InputError
        If weights are negative or not finite, have another shape, or are all 0 for a sample or a
        lineage; if a time with weight is not finite; if names are not one for each, all different.
    """
    n, several = times.shape
    if not n or not several:
        msg = f"pseudotimes of {n} samples in {several} lineages; give at least one of each"
        raise InputError(msg)
    w = _weights(times, weights)
    bare = ("",) if several == 1 else tuple(str(j + 1) for j in range(several))
    called = bare if names is None else tuple(names)
    if len(called) != several or len(set(called)) < several:
        msg = f"names {', '.join(called)} of {several} lineages; give each one name of its own"
        raise InputError(msg)
    missing, lineage = np.nonzero((w > 0) & ~np.isfinite(times))
    if len(missing):
        where = f" in lineage {called[lineage[0]]}" if several > 1 else ""
        msg = (
            f"pseudotime is missing or infinite for {len(np.unique(missing))} of {n} samples, "
            f"first for number {missing[0] + 1}{where}; give a finite one, or leave those out"
        )
        raise InputError(msg)
    instead = times[np.argmax(w > 0, axis=0), np.arange(several)]
    return Lineages(np.where(w > 0, times, instead), w, called)


def design(curves: Sequence[Curve], of: Lineages) -> Float[np.ndarray, "n K"]:
    """Columns of the model: a level, then the weighted basis of each lineage.

    The second and later lineages have a column of their weight, their own level, before it.

    Parameters
    ----------
    curves
        One for each lineage.
    of
        Where the samples are.
    """
    at = [values(c, of.times[:, j]) for j, c in enumerate(curves)]
    return _columns(1.0, of.weights, at)


def design_slopes(curves: Sequence[Curve], of: Lineages) -> Float[np.ndarray, "n K"]:
    """Derivatives of `design` in the times of each sample, those of all lineages moving as one."""
    at = [slopes(c, of.times[:, j]) for j, c in enumerate(curves)]
    return _columns(0.0, of.weights, at)


def names(curves: Sequence[Curve]) -> list[str]:
    """Names of the columns of `design`.

    ``level``, ``basis[1]`` … for one lineage. For several, ``basis[1:2]`` is the second column of
    the first lineage, and ``lineage[2]`` the level of the second.
    """
    if len(curves) == 1:
        return ["level", *(f"basis[{i + 1}]" for i in range(curves[0].columns))]
    found = ["level"]
    for j, each in enumerate(curves, start=1):
        found += [f"lineage[{j}]"] if j > 1 else []
        found += [f"basis[{j}:{i + 1}]" for i in range(each.columns)]
    return found


def rows_at(
    curves: Sequence[Curve], lineage: int, t: Float[np.ndarray, "m"]
) -> Float[np.ndarray, "m K"]:
    """Rows of `design` for samples that belong wholly to one lineage, at these times of it.

    Parameters
    ----------
    curves
        One for each lineage.
    lineage
        Its place among them, from 0.
    t
        Times in that lineage.
    """
    times = np.tile([c.lower for c in curves], (len(t), 1))
    times[:, lineage] = t
    weights = np.zeros(times.shape)
    weights[:, lineage] = 1.0
    return design(curves, Lineages(times, weights, ()))


def _radial(curve: Curve, t: Float[np.ndarray, "n"]) -> tuple[Float[np.ndarray, "n m"], float]:
    """Distances of times from the centres, with their sign, and the length-scale."""
    if curve.length is None:
        msg = "a curve with neither splines nor a length-scale"
        raise ValueError(msg)
    return t[:, None] - np.array(curve.centers), curve.length


def _columns(
    level: float, weights: Float[np.ndarray, "n l"], bases: list[np.ndarray]
) -> Float[np.ndarray, "n K"]:
    """Columns of a design from those of each lineage's basis; ``level`` is 0 for derivatives."""
    parts = [np.full((len(weights), 1), level)]
    for j, (weight, basis) in enumerate(zip(weights.T, bases, strict=True)):
        if j:
            parts.append(level * weight[:, None])
        parts.append(weight[:, None] * basis)
    return np.hstack(parts)


def _weights(
    times: Float[np.ndarray, "n l"], weights: Float[np.ndarray, "_ _"] | None
) -> Float[np.ndarray, "n l"]:
    """Weights that were given, checked and normalised; ones for one lineage without."""
    n, several = times.shape
    if weights is None and several == 1:
        return np.ones(times.shape)
    if weights is None:
        msg = f"{several} lineages without weights; give each sample a weight in each of them"
    elif weights.shape != times.shape:
        msg = (
            f"weights of {weights.shape[0]} samples in {weights.shape[1]} lineages for pseudotimes "
            f"of {n} in {several}; give each pseudotime one weight"
        )
    elif not np.all(np.isfinite(weights) & (weights >= 0)):
        wrong = weights[~(np.isfinite(weights) & (weights >= 0))]
        msg = (
            f"lineage weights below 0 or not finite: {len(wrong)} of {weights.size}, such as "
            f"{wrong[0]:g}; "
            "give finite ones, 0 where a sample is not on a lineage"
        )
    elif not np.all(np.any(weights > 0, axis=1)):
        none = np.flatnonzero(~np.any(weights > 0, axis=1))
        msg = (
            f"weights are 0 in every lineage for {len(none)} of {n} samples, first for number "
            f"{none[0] + 1}; leave those out"
        )
    elif not np.all(np.any(weights > 0, axis=0)):
        none = np.flatnonzero(~np.any(weights > 0, axis=0))
        msg = f"no sample has weight in lineage {none[0] + 1} of {several}; leave it out"
    else:
        return weights / np.sum(weights, axis=1, keepdims=True)
    raise InputError(msg)


def _refuse_shape(
    kind: str,
    number: int,
    centers: Sequence[float | int] | None,
    length: float | int | None,
) -> None:
    """Raise for centres or a length that are wrong whatever the times are."""
    if centers is not None and kind != "rbf":
        msg = f"centers for {kind}:{number}, which has none; leave them out or take rbf"
    elif length is not None and kind not in ("rbf", "cyclic"):
        msg = f"a length for {kind}:{number}, which has none; leave it out or take rbf"
    elif length is not None and not 0 < length < np.inf:
        msg = f"length {length:g} of {kind}:{number}; it must be above 0 and finite"
    elif centers is not None and len(centers) != number:
        msg = f"{len(centers)} centers for {kind}:{number}; give {number}, or rbf:{len(centers)}"
    elif centers is not None and not (np.all(np.isfinite(centers)) and len(set(centers)) == number):
        msg = f"centers {', '.join(f'{c:g}' for c in centers)}; give finite ones that differ"
    else:
        return
    raise InputError(msg)


def _refuse_few(text: str, times: Float[np.ndarray, "n"], period: float | None) -> None:
    """Raise if there are fewer distinct times than columns, the constant among these."""
    kind, number = parse(text)
    room, modulo = np.unique(times), ""
    if period is not None:  # times that agree to nine digits of the period are one
        room = np.unique(np.round((room - room[0]) / period % 1, 9) % 1)
        modulo = f" modulo {period:g}"
    if len(room) > number:
        return
    fits = max(len(room) - 1, 1)
    msg = (
        f"more basis functions than distinct times: {text} and the level are {number + 1} columns, "
        f"the samples have {len(room)} distinct times{modulo}; "
        f"take {kind if fits >= LEAST[kind] else 'natural'}:{fits}"
    )
    raise InputError(msg)


def _refuse_outside(curve: Curve, t: Float[np.ndarray, "n"]) -> None:
    """Raise for times at which a spline has no value."""
    outside = ~np.isfinite(t)
    if curve.kind != "cyclic":
        outside |= (t < curve.lower) | (t > curve.upper)
    if np.any(outside):
        msg = (
            f"time {t[outside][0]:g} is outside {curve.lower:g} to {curve.upper:g}, where the "
            f"{curve.kind} curve is defined; give times within"
        )
        raise InputError(msg)
