"""The cross-validation figure: errors of curves by their degrees of freedom."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.transforms import ScaledTranslation, Transform

from . import _panels, _style, _ticks


class _Kind(NamedTuple):
    """One kind of error: its column, its name in the legend, and how it is drawn."""

    column: str
    text: str
    style: _panels.Look


_KINDS = (
    _Kind("train", "training", _panels.Look("#8A8A8A", (0, (1.2, 1.2)), "o")),
    _Kind("ij", "jackknife", _panels.Look("#56B4E9", (0, (4, 1.5)), "s")),
    _Kind("corrected", "jackknife, corrected", _panels.Look("#0072B2", "-", "D")),
    _Kind("exact", "exact cross-validation", _panels.Look("#D55E00", "-", "o")),
    _Kind("test", "held-out genes", _panels.Look("#009E73", (0, (5, 1.2, 1.2, 1.2)), "^")),
)
_COLUMNS = 3
_CHOSEN = "#F0E442"  # of the same palette; good for a surface, not for a line


class _Height(NamedTuple):
    """Of the axis of errors."""

    low: float
    high: float
    top: float
    """Errors above it stand at the edge."""

    @property
    def range(self) -> float:
        """What is shown, never 0."""
        return self.high - self.low or 0.1 * abs(self.high) or 1.0

    @property
    def edge(self) -> float:
        """Where errors above the top are drawn."""
        return self.high + (0.05 * self.range if np.isfinite(self.top) else 0.0)


class _Beyond(NamedTuple):
    """An error beyond the axis."""

    x: float
    y: float
    """Where it is drawn."""
    error: float
    line: int
    """How many others are written above it."""


def cross_validation(table: pd.DataFrame, *, error: str = "squared") -> np.ndarray:
    """Array of Axes, one for each value of leave_out: errors against degrees of freedom.

    Bars are one standard error to either side; marks stand side by side, a few points from their
    place. The chosen row has a yellow stripe. A few errors that are more than three times as far
    from the lowest as all others (of a design that is nearly singular without some times) stand
    at the edge as triangles, beside their numbers.

    Parameters
    ----------
    table
        Columns df, leave_out, and of train, ij, corrected, exact and test those that are known,
        each with its standard error (train_se, ...) if that is known; chosen, True for the row
        that was chosen. If there are several numbers of clusters (column clusters), they have
        panels of their own, or are the axis where all rows have the same df.
    error
        What the errors are, ``"squared"``, ``"absolute"`` or ``"deviance"``, for the axis title.

    Raises
    ------
    ValueError
        A column is missing, there is no error to draw, or ``error`` is none of the three.
    """
    _panels.check(table, "errors", "df", "leave_out")
    measure = _panels.measure(error)
    table = table.dropna(subset=["df", "leave_out"])
    kinds = [k for k in _KINDS if np.isfinite(_panels.number(table, k.column)).any()]
    if not kinds:
        message = (
            "the table of errors has none to draw; it needs numbers in one of its columns "
            f"{', '.join(kind.column for kind in _KINDS)}."
        )
        raise ValueError(message)

    across, parts = _parts(table, kinds)
    columns = _panels.columns_for(len(parts), _COLUMNS)
    width = {1: 4.8, 2: 6.4}.get(columns, _panels.PAGE)
    height = {1: 2.9, 2: 2.5}.get(columns, 2.2) * -(-len(parts) // columns) + 0.8
    panels = _panels.grid(len(parts), columns, (width, height), same_y=True)
    scale = _height(table, kinds)
    at = np.unique(_panels.number(table, across))
    at = at[np.isfinite(at)]
    step = float(np.min(np.diff(at))) if len(at) > 1 else 1.0
    beside = (0.7 if len(at) > 1 else 2.0) * step
    for ax, (name, part) in zip(panels, parts.items(), strict=True):
        ax.set_xlim(at[0] - beside, at[-1] + beside)
        ax.set_ylim(scale.low - 0.05 * scale.range, scale.edge + 0.05 * scale.range)
        _draw(ax, part, across, kinds, scale)
        for chosen in _panels.number(part, across)[_panels.flag(part, "chosen", default=False)]:
            ax.axvspan(chosen - step / 2, chosen + step / 2, color=_CHOSEN, alpha=0.45, lw=0)
        _panels.title(ax, name, width / columns - 0.25)
        _ticks.place(ax, "x", at)
        _ticks.numbers(ax, "y", scale.edge)
    name = "degrees of freedom" if across == "df" else "number of clusters"
    _panels.axis_titles(panels[0], name, measure)
    _legend(panels[0], kinds, any(_panels.flag(table, "chosen", default=False)))
    return _panels.array(panels)


def _parts(table: pd.DataFrame, kinds: list[_Kind]) -> tuple[str, dict[str, pd.DataFrame]]:
    """Return the column that is the axis, and the rows of each panel that has any error."""
    several = "clusters" in table.columns and table["clusters"].nunique() > 1
    across = "clusters" if several and table["df"].nunique() == 1 else "df"
    by = ["leave_out"] + (["clusters"] if several and across == "df" else [])
    found: dict[str, pd.DataFrame] = {}
    for keys, part in table.groupby(by):
        left, clusters = (*(keys if isinstance(keys, tuple) else (keys,)), None)[:2]
        if any(np.isfinite(_panels.number(part, kind.column)).any() for kind in kinds):
            more = "" if clusters is None else f", {_panels.written(clusters)} clusters"
            found[f"leave out {_panels.written(left)}{more}"] = part.sort_values(across)
    return across, found


def _height(table: pd.DataFrame, kinds: list[_Kind]) -> _Height:
    """Return what the axis of errors shows."""
    value = np.concatenate([_panels.number(table, kind.column) for kind in kinds])
    se = np.concatenate([_panels.number(table, f"{kind.column}_se") for kind in kinds])
    value, se = value[np.isfinite(value)], np.nan_to_num(se[np.isfinite(value)])
    top = _panels.ceiling(value)
    value, se = value[value <= top], se[value <= top]
    # A bar goes no farther beyond the errors than they are apart.
    longest = np.ptp(value) or np.inf
    se = np.minimum(se, longest)
    low, high = max(np.min(value - se), value.min() - longest / 2), np.max(value + se)
    return _Height(float(low), float(high), top)


def _draw(ax: Axes, part: pd.DataFrame, across: str, kinds: list[_Kind], scale: _Height) -> None:
    """Draw all errors of one panel."""
    x = _panels.number(part, across)
    stacked: dict[float, int] = {}
    for i, kind in enumerate(kinds):
        value, se = _panels.number(part, kind.column), _panels.number(part, f"{kind.column}_se")
        known = np.isfinite(value)
        beyond = known & (value > scale.top)
        inside = known & ~beyond
        transform = _panels.dodged(ax, i, len(kinds), 2.2)
        style = kind.style
        ax.plot(
            x[known],
            np.where(beyond, scale.edge, value)[known],
            color=style.colour,
            linestyle=style.dash,
            linewidth=1.2,
            transform=transform,
            zorder=3,
        )
        ax.vlines(
            x[inside],
            (value - se)[inside],
            (value + se)[inside],
            color=style.colour,
            linewidth=0.8,
            transform=transform,
            zorder=3,
        )
        ax.plot(
            x[inside],
            value[inside],
            color=style.colour,
            linestyle="",
            marker=style.marker,
            markersize=3.6,
            markeredgewidth=0,
            transform=transform,
            zorder=4,
        )
        for row in np.flatnonzero(beyond):
            line = stacked[x[row]] = stacked.get(x[row], -1) + 1
            mark = _Beyond(x[row], scale.edge, value[row], line)
            _beyond(ax, mark, style.colour, transform)


def _beyond(ax: Axes, mark: _Beyond, colour: str, transform: Transform) -> None:
    """Write an error that is beyond the axis at its edge, below those already there."""
    down = -9.0 * mark.line  # points
    moved = ScaledTranslation(0, down / 72, _panels.whole(ax).dpi_scale_trans)
    ax.plot(
        mark.x,
        mark.y,
        color=colour,
        marker="^",
        markersize=5.5,
        markeredgecolor="white",
        markeredgewidth=0.5,
        transform=transform + moved,
        clip_on=False,
        zorder=6,
    )
    start, end = ax.get_xlim()
    leftmost = mark.x < start + 0.2 * (end - start)
    ax.annotate(
        _ticks.brief(mark.error),
        (mark.x, mark.y),
        xytext=(9 if leftmost else -9, down),
        textcoords="offset points",
        ha="left" if leftmost else "right",
        va="center",
        fontsize=_panels.TICK,
        color=_style.INK,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        zorder=6,
    )


def _legend(ax: Axes, kinds: list[_Kind], chosen: bool) -> None:
    """Put a legend above the panels."""
    keys = [_panels.key(kind.style, kind.text) for kind in kinds]
    stripe = [Patch(color=_CHOSEN, alpha=0.45, lw=0, label="chosen")] if chosen else []
    _panels.legend(ax, [*keys, *stripe])
