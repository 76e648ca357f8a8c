"""Time against size, with what grows in proportion for comparison."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from . import _panels, _style


def scaling(table: pd.DataFrame, ax: Axes | None = None) -> Axes:
    """Axes with the seconds of something against the number of parameters, both logarithmic.

    One line a method; at its end is the slope of a straight line through its points, 1
    where time is in proportion to size, as along the grey lines.

    Parameters
    ----------
    table
        Columns parameters, seconds, and method, if there are several.
    ax
        Where to draw; a figure of its own if not given.

    Raises
    ------
    ValueError
        A column is missing, or no row has a positive size and time.
    """
    _panels.check(table, "times", "parameters", "seconds")
    size, seconds = (_panels.number(table, name) for name in ("parameters", "seconds"))
    usable = (size > 0) & (seconds > 0)
    if not usable.any():
        message = (
            f"none of {len(table)} rows has a positive number of parameters and of seconds; one "
            "at least needs both."
        )
        raise ValueError(message)
    rows = table.take(np.flatnonzero(usable))
    if ax is None:
        ax = Figure(figsize=(3.6, 3.0), dpi=200, layout="constrained").add_subplot()
    _style.axes(ax)
    names = _panels.distinct(rows, "method") if "method" in rows.columns else [None]
    for i, name in enumerate(names):
        part = rows if name is None else _panels.where(rows, "method", name)
        _draw(ax, part.sort_values("parameters"), _panels.look(i))
    _style.logarithmic(ax, "x")
    _style.logarithmic(ax, "y")
    ax.margins(0.12)
    # Whole powers of ten: numbers between them would crowd a short axis.
    ends = np.log10(rows["seconds"].to_numpy(dtype=float))
    ax.set_ylim(10 ** np.floor(ends.min() - 0.05), 10 ** np.ceil(ends.max() + 0.15))
    _proportional(ax)
    _style.titles(ax, "parameters", "seconds")
    if names != [None]:
        handles = [_panels.key(_panels.look(i), str(name)) for i, name in enumerate(names)]
        ax.legend(handles=handles, frameon=False, fontsize=_panels.TITLE, loc="upper left")
    return ax


def _draw(ax: Axes, rows: pd.DataFrame, look: _panels.Look) -> None:
    """Draw one method, with its slope."""
    x, y = (rows[name].to_numpy(dtype=float) for name in ("parameters", "seconds"))
    ax.plot(
        x,
        y,
        color=look.colour,
        linestyle=look.dash,
        marker=look.marker,
        markersize=4,
        linewidth=1.3,
        zorder=3,
    )
    if len(np.unique(x)) > 1:
        slope = np.polyfit(np.log(x), np.log(y), 1)[0]
        ax.annotate(
            f"slope {slope:.2f}",
            (x[-1], y[-1]),
            (0, 6),
            textcoords="offset points",
            ha="right",
            fontsize=_panels.TICK,
            color=look.colour,
            annotation_clip=False,
        )


def _proportional(ax: Axes) -> None:
    """Draw lines of slope 1, a factor of ten apart, where the axes are."""
    (left, right), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    first, last = np.log10(bottom / right), np.log10(top / left)
    for power in np.arange(np.floor(first), np.ceil(last) + 1):
        ends = np.array([left, right])
        ax.plot(ends, ends * 10.0**power, color=_style.MUTED, linewidth=0.4, zorder=0)
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
