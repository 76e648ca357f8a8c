"""The basis figure: the functions of time that curves are made of."""

from collections.abc import Iterable

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from expressway._types import Float

from . import _panels, _style, _time

# A function that starts or ends by a step this many times its next one does so by a jump.
_JUMP = 3.0


def basis(
    table: pd.DataFrame,
    times: Iterable[float | int],
    *,
    xlabel: str = "time",
    shorten_gaps: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Axes with the functions of a basis against time, and the samples' times as a rug.

    A function that is not zero at one time only (the indicator of that time) is drawn as a stem,
    any other as a line, dark to light in the table's order.

    Parameters
    ----------
    table
        Index time, a fine grid in which the indicators' times are; a column a function.
    times
        Of the samples, in the unit of the index.
    xlabel
        Title of the axis of time, with its unit.
    shorten_gaps
        Draw stretches without samples that are longer than three times the median one as if they
        were just that long, marked by two strokes in the axis, where that saves a quarter of it.
    ax
        Where to draw; by default a figure of its own.

    Raises
    ------
    ValueError
        The table has no rows or no columns, or its index is not numbers.
    """
    time, value = _numbers(table)
    samples = np.unique(np.array(list(times), dtype=float))

    own = ax is None
    if ax is None:
        (ax,) = _panels.grid(1, 1, (5.6, 3.4), same_y=False)
    else:
        _style.axes(ax)
    lone = np.count_nonzero(value, axis=0) == 1
    shade = matplotlib.colormaps["viridis"](np.linspace(0, 0.88, max(1, np.count_nonzero(~lone))))
    handles: list[Line2D] = []
    for i, column in enumerate(np.flatnonzero(~lone)):
        (line,) = ax.plot(
            time,
            _without_zeros(value[:, column]),
            color=shade[i],
            linestyle=_panels.look(i % 2).dash,  # neighbours differ without colour, too
            linewidth=1.4,
            zorder=3,
        )
        line.set_label(str(table.columns[column]))
        handles.append(line)
    if lone.any():
        handles.append(_stems(ax, table.loc[:, lone], time, value[:, lone]))
    ax.axhline(0, color=_style.MUTED, linewidth=0.6, zorder=0)
    margin = 0.06 * (np.ptp(value) or 1.0)
    ax.set_ylim(min(value.min(), 0.0) - margin, value.max() + margin)
    _time.axis([ax], samples, time, shorten=shorten_gaps)
    ax.plot(
        samples,
        np.zeros(len(samples)),
        transform=ax.get_xaxis_transform(),
        linestyle="",
        marker=2,  # a tick upwards
        markersize=6,
        markeredgewidth=0.8,
        color=_style.INK,
        clip_on=False,
        zorder=2,
    )
    _style.titles(ax, xlabel, "basis function")
    if own:
        _panels.legend(ax, handles)
    else:
        labels = [_panels.plain(str(handle.get_label())) for handle in handles]
        ax.legend(handles, labels, frameon=False, fontsize=_panels.TICK, labelcolor=_style.INK)
    return ax


def _numbers(table: pd.DataFrame) -> tuple[Float[np.ndarray, "m"], Float[np.ndarray, "m p"]]:
    """Return the times and the values of a table of functions, by time."""
    if table.empty:
        message = (
            f"the table of basis functions has {len(table)} rows and {len(table.columns)} columns;"
            " it needs a row for each time of a grid and a column for each function."
        )
        raise ValueError(message)
    if not pd.api.types.is_numeric_dtype(table.index):
        message = (
            f"the index of the table of basis functions is {table.index.dtype}; it needs to be"
            " times, as numbers. Set it by table.set_index('time')."
        )
        raise ValueError(message)
    table = table.sort_index()
    return table.index.to_numpy(dtype=float), np.nan_to_num(table.to_numpy(dtype=float))


def _without_zeros(value: Float[np.ndarray, "m"]) -> Float[np.ndarray, "m"]:
    """Return a function that is missing where it stays at zero, and where it jumps to it."""
    padded = np.concatenate([[0.0, 0.0], value, [0.0, 0.0]])
    zero = padded == 0
    step = np.abs(np.diff(padded))
    before, after = ~zero[1:-3], ~zero[3:-1]
    down = before & (step[1:-2] <= _JUMP * step[:-3])
    up = after & (step[2:-1] <= _JUMP * step[3:])
    return np.where((value == 0) & ~(before & after) & ~down & ~up, np.nan, value)


def _stems(
    ax: Axes, table: pd.DataFrame, time: Float[np.ndarray, "m"], value: Float[np.ndarray, "m k"]
) -> Line2D:
    """Draw the indicators of single times; return their entry in the legend."""
    row = np.argmax(value != 0, axis=0)
    height = value[row, np.arange(len(row))]
    ax.vlines(time[row], 0, height, color=_style.ACCENT, linewidth=1.2, zorder=4)
    (marks,) = ax.plot(
        time[row],
        height,
        linestyle="",
        marker="o",
        markersize=5,
        color=_style.ACCENT,
        markeredgewidth=0,
        zorder=4,
        clip_on=False,
    )
    marks.set_label(str(table.columns[0]) if len(row) == 1 else "indicators")
    return marks
