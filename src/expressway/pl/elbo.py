"""The ELBO figure: how the lower bounds rose, and at which events."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from expressway._types import Float

from . import _panels, _style

_SIZE = (4.8, 2.3)  # inches, of a panel


class _Event(NamedTuple):
    """How an event is marked."""

    colour: str
    marker: str
    text: str


_EVENTS = {
    "split": _Event("#D55E00", "^", "split"),
    "merge": _Event("#009E73", "v", "merge"),
    "refresh": _Event("#7A7A7A", "D", "refresh"),
}
_BREAKS = ("start", "refresh")


def elbo(table: pd.DataFrame) -> np.ndarray:
    """Array of one or two Axes: the ELBO by step, with its events, and that of the counts.

    The first is of the pseudo-observations. At a start and at a refresh (dotted line) these are
    new, so that the line begins anew: values on either side do not compare. Early values that are
    more than three times as far below the largest as all others are below the panel. The second
    panel, where any is known, is of the negative-binomial counts.

    Parameters
    ----------
    table
        Columns step, event (``"start"``, ``"sweep"``, ``"split"``, ``"merge"``, ``"refresh"``),
        elbo, and nb_elbo, missing where it was not evaluated.

    Raises
    ------
    ValueError
        A column is missing, or there is no step with an ELBO.
    """
    _panels.check(table, "the ELBO", "step", "event", "elbo", "nb_elbo")
    step, value, counts = (_panels.number(table, name) for name in ("step", "elbo", "nb_elbo"))
    if not np.isfinite(step + value).any():
        message = (
            f"none of {len(table)} rows of the table of the ELBO has a step and an ELBO; it needs "
            "one at least."
        )
        raise ValueError(message)

    event = table["event"].to_numpy(dtype=object)
    known = np.isfinite(step + counts)
    n = 2 if known.any() else 1
    panels = _panels.grid(n, 1, (_SIZE[0], n * _SIZE[1] + 0.6), same_y=False)
    begin = np.isin(event, _BREAKS)
    top = panels[0]
    pieces = np.split(np.arange(len(step)), np.flatnonzero(begin[1:]) + 1)
    for rows in pieces:
        top.plot(step[rows], value[rows], color=_style.SECOND, linewidth=1.3, zorder=3)
    for name, mark in _EVENTS.items():
        here = event == name
        top.plot(
            step[here],
            value[here],
            color=mark.colour,
            marker=mark.marker,
            linestyle="",
            markersize=4,
            markeredgecolor="white",
            markeredgewidth=0.4,
            zorder=4,
        )
    _height(top, value)
    if n == 2:
        panels[1].plot(
            step[known],
            counts[known],
            color=_style.SECOND,
            marker="o",
            markersize=3.5,
            markeredgewidth=0,
            linewidth=0.6,
            zorder=3,
        )
        _height(panels[1], counts)
    reach = step[np.isfinite(step)]
    margin = 0.04 * np.ptp(reach) or 1.0
    for ax, name in zip(panels, ("of pseudo-observations", "of counts"), strict=False):
        ax.set_xlim(reach.min() - margin, reach.max() + margin)
        for at in step[event == "refresh"]:
            ax.axvline(at, color=_style.MUTED, linewidth=0.6, linestyle=(0, (1.2, 1.2)), zorder=0)
        _panels.title(ax, f"ELBO {name}", _SIZE[0] - 0.6)
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, steps=[1, 2, 5, 10]))
    _panels.axis_titles(top, "step", "ELBO (natural logarithm)")
    present = [mark for name, mark in _EVENTS.items() if np.any(event == name)]
    if present:
        looks = [(_panels.Look(mark.colour, "-", mark.marker), mark.text) for mark in present]
        _panels.legend(top, [_panels.key(style, text, line=False) for style, text in looks])
    return _panels.array(panels)


def _height(ax: Axes, value: Float[np.ndarray, "_"]) -> None:
    """Set the limits of an ELBO: all of it, or without a few values far below the others."""
    value = value[np.isfinite(value)]
    below = value.max() - value
    low = value.max() - min(_panels.ceiling(below), float(below.max()))
    margin = 0.08 * (value.max() - low) or 1.0
    ax.set_ylim(low - margin, value.max() + margin)
    ax.locator_params(axis="y", nbins=5)
    ax.yaxis.set_major_formatter(_in_full)


def _in_full(value: float, _: float | int | None = None) -> str:
    """Return a number as a tick writes it: a million that rises by tens needs all its digits."""
    return f"{value:,.10g}".replace("-", "\N{MINUS SIGN}")
