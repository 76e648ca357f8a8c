"""Curves in a panel: an estimate with its interval, and faint lines of many."""

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.transforms import Transform

from expressway._types import Float

from . import _panels, _style, _ticks


class Faint(NamedTuple):
    """How the many are drawn."""

    colour: str
    alpha: float


def lone_times(curves: pd.DataFrame) -> Float[np.ndarray, "_"]:
    """Return the times at which a curve has an estimate of its own, joined to no other."""
    time = _panels.number(curves, "time")
    return np.unique(time[_panels.flag(curves, "indicator", default=False)])


def groups(*tables: pd.DataFrame | None) -> dict[Hashable, _panels.Look]:
    """Return how each group is drawn, in the order in which the tables name them."""
    named = [_panels.distinct(table, "group") for table in tables if table is not None]
    found = dict.fromkeys(group for names in named for group in names)
    return {group: _panels.look(i) for i, group in enumerate(found)}


def estimate(ax: Axes, rows: pd.DataFrame, style: _panels.Look, transform: Transform) -> None:
    """Draw one curve with its interval; isolated estimates, aside, as points with error bars."""
    time, mean, lower, upper = (
        _panels.number(rows, name) for name in ("time", "mean", "lower", "upper")
    )
    order = np.argsort(time, kind="stable")
    alone = _panels.flag(rows, "indicator", default=False)[order]
    time, mean, lower, upper = time[order], mean[order], lower[order], upper[order]
    if np.count_nonzero(~alone & np.isfinite(mean)) < 2:
        alone = np.ones(len(time), dtype=bool)
    if not alone.all():
        _joined(ax, style, *(part[~alone] for part in (time, mean, lower, upper)))
    if alone.any():
        _isolated(ax, style, transform, *(part[alone] for part in (time, mean, lower, upper)))


def _joined(
    ax: Axes,
    style: _panels.Look,
    time: Float[np.ndarray, "m"],
    mean: Float[np.ndarray, "m"],
    lower: Float[np.ndarray, "m"],
    upper: Float[np.ndarray, "m"],
) -> None:
    """Draw a line on a white rim in its band."""
    ax.fill_between(time, lower, upper, color=style.colour, alpha=0.2, linewidth=0, zorder=2)
    ax.plot(time, mean, color="white", linewidth=2.6, alpha=0.8, zorder=3)
    ax.plot(time, mean, color=style.colour, linestyle=style.dash, linewidth=1.3, zorder=4)


def _isolated(
    ax: Axes,
    style: _panels.Look,
    transform: Transform,
    time: Float[np.ndarray, "m"],
    mean: Float[np.ndarray, "m"],
    lower: Float[np.ndarray, "m"],
    upper: Float[np.ndarray, "m"],
) -> None:
    """Draw hollow points with error bars."""
    ax.vlines(time, lower, upper, color=style.colour, linewidth=1.0, transform=transform, zorder=4)
    ax.plot(
        time,
        mean,
        color="white",
        marker=style.marker,
        markersize=4.5,
        markeredgecolor=style.colour,
        markeredgewidth=1.1,
        linestyle="",
        transform=transform,
        zorder=5,
    )


def faint(
    ax: Axes,
    rows: pd.DataFrame,
    who: str,
    *,
    alone: Float[np.ndarray, "_"],
    style: Faint,
    transform: Transform,
) -> None:
    """Draw many curves, one for each value of a column, rasterised; dashes at isolated times."""
    code = pd.factorize(rows[who])[0]
    time, value = _panels.number(rows, "time"), _panels.number(rows, "value")
    order = np.lexsort((time, code))
    code, time, value = code[order], time[order], value[order]
    single = np.isin(time, alone)
    joined = ~single & np.isfinite(value)
    at = np.column_stack([time[joined], value[joined]])
    pieces = np.split(at, np.flatnonzero(np.diff(code[joined])) + 1)
    if len(at):
        how = {"colors": style.colour, "linewidths": 0.5, "alpha": style.alpha}
        ax.add_collection(LineCollection(pieces, **how, rasterized=True, zorder=1))
    if single.any():
        ax.plot(
            time[single],
            value[single],
            color=style.colour,
            marker="_",
            markersize=4,
            markeredgewidth=0.5,
            linestyle="",
            alpha=style.alpha,
            rasterized=True,
            transform=transform,
            zorder=1,
        )


def span(inner: Float[np.ndarray, "_"], outer: Float[np.ndarray, "_"]) -> Float[np.ndarray, "2"]:
    """Return the lowest and the largest value to show.

    All inner ones, and outer ones that are beyond those by no more than their range. Missing
    values do not count; with none at all it is -1 and 1.
    """
    inner, outer = inner[np.isfinite(inner)], outer[np.isfinite(outer)]
    if len(inner) and (reach := np.ptp(inner)) > 0:
        outer = outer.clip(inner.min() - reach, inner.max() + reach)
    every = np.concatenate([inner, outer])
    return np.array([every.min(), every.max()]) if len(every) else np.array([-1.0, 1.0])


def limits(ax: Axes, ends: Float[np.ndarray, "2"]) -> None:
    """Set the limits of the values, with a margin."""
    margin = 0.06 * np.ptp(ends) or 1.0
    ax.set_ylim(ends[0] - margin, ends[1] + margin)
    _ticks.numbers(ax, "y", float(np.abs(ends).max()))


def zero(ax: Axes, at: float = 0.0) -> None:
    """Draw the line of no change."""
    ax.axhline(at, color=_style.MUTED, linewidth=0.6, zorder=0)
