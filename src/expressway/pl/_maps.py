"""Maps of colours: cells, the names of rows and columns, and the bar."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import QuadMesh
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from expressway._types import Float

from . import _panels, _style, _ticks

NAME = 90.0  # points: longer names lose their middle
_ABSENT = "#E4E4E4"
_LOWEST = 1.6  # inches: the least height of a map, so that its bar has room for a title
_MARGIN = 1.6  # inches of a figure's width that are not the map's
_RIGHT, _BAR = 0.9, 2.6  # inches of a bar with its numbers and title, and its length at most


class Shades(NamedTuple):
    """From the colour of the lowest value shown to that of the largest."""

    low: float
    high: float
    extend: str = "neither"
    """At which end of the bar values lie beyond it, in matplotlib's words."""


def axes(ax: Axes | None, rows: Sequence[object], columns: Sequence[object]) -> Axes:
    """Return the Axes given, or those of a new figure that a map fits, styled, with its names.

    As many rows and columns are named as there is room for; columns upright where that is narrow.
    """
    texts = _texts(columns)
    widest = max((_panels.length(text, _panels.TICK) for text in texts), default=0.0)
    if ax is None:
        width = float(np.clip(_MARGIN + 0.26 * len(columns), 3.4, _panels.PAGE))
        upright = _narrow(widest, width - _MARGIN, len(columns))
        below = (widest if upright else _panels.TICK) / 72 + 0.5
        height = float(np.clip(0.18 * len(rows), _LOWEST, 7.2)) + below
        (ax,) = _panels.grid(1, 1, (width, height), same_y=False)
    else:
        _style.axes(ax)
        inches = ax.get_window_extent().width / _panels.whole(ax).dpi
        upright = _narrow(widest, inches, len(columns))
    _ticks.place(ax, "x", range(len(texts)), texts, height=upright, last=False)
    ax.tick_params(axis="x", rotation=90 if upright else 0, length=0)
    _ticks.place(ax, "y", range(len(rows)), _texts(rows), height=True, last=False)
    ax.tick_params(axis="y", length=0)
    return ax


class Sheet(NamedTuple):
    """A map of samples (columns), and where it stands in a figure of its own."""

    ax: Axes
    named: bool
    """Samples are named: there is room for all names."""
    inches: tuple[float, float, float, float] | None
    """Left of the map, below it, its width and height; None where the Axes were given."""


def samples(
    ax: Axes | None,
    names: Sequence[str],
    rows: Sequence[str] | None = None,
    bars: Sequence[str] = (),
) -> Sheet:
    """Return the Axes given, or those of a new figure that a map fits, styled, with its names.

    Rows are samples too, in a square map, unless they are named; bars of these names are to stand
    above it. The layout of a new figure is
    reckoned from the widths of the names: to find it by drawing takes longer than the drawing.
    """
    inches = None
    if ax is None:
        named = len(names) <= _MOST
        left = _texts(rows) if rows is not None else _texts(names) if named else []
        beside = max(0.2, _widest([*left, *_texts(bars)]) / 72) + 0.15
        width = float(np.clip(0.2 * len(names), 1.5, _panels.PAGE - beside - _RIGHT))
        below = depth(names, width) if named else 0.35
        height = width if rows is None else float(np.clip(0.16 * len(rows), _LOWEST, 7.0))
        inches = (beside, below, width, height)
        figure = Figure(figsize=(beside + width + _RIGHT, below + height), dpi=200)
        ax = figure.add_axes(_within(inches, figure))
    _style.axes(ax)
    ax.tick_params(labelsize=_panels.TICK)
    named = name_samples(ax, names)
    some = _texts(rows) if rows is not None else _texts(names) if named else []
    _ticks.place(ax, "y", range(len(some)), some, height=True, last=False)
    ax.tick_params(axis="y", length=0)
    return Sheet(ax, named, inches)


def _within(
    inches: tuple[float, float, float, float], figure: Figure
) -> tuple[float, float, float, float]:
    """Return a rectangle in parts of a figure."""
    width, height = figure.get_size_inches()
    left, below, wide, high = inches
    return left / width, below / height, wide / width, high / height


def _widest(texts: Sequence[str]) -> float:
    return max((_panels.length(text, _panels.TICK) for text in texts), default=0.0)


def finish(sheet: Sheet, mesh: QuadMesh, shades: Shades, label: str, up: float) -> None:
    """Draw the bar of a map of samples, above which a figure of its own has so many points."""
    ax, inches = sheet.ax, sheet.inches
    if inches is None:
        bar(ax, mesh, shades, label)
        return
    figure = _panels.whole(ax)
    left, below, width, height = inches
    figure.set_size_inches(figure.get_figwidth(), below + height + up / 72 + 0.05)
    ax.set_position(_within(inches, figure))
    high = min(height, _BAR)
    place = (left + width + 0.12, below + height - high, 0.12, high)
    beside = figure.add_axes(_within(place, figure))
    made = figure.colorbar(mesh, cax=beside, extend=shades.extend, extendfrac=0.03)
    _trim(made, shades, _panels.shortened(label, 72 * height + 10, _panels.TITLE))


# Names that fit beside one another on a page, upright.
_MOST = int(72 * (_panels.PAGE - 2.2) / (1.15 * _panels.TICK))


def depth(names: Sequence[str], width: float) -> float:
    """Return how many inches names take below an axis of so many inches."""
    texts = _texts(names)
    upright = _narrow(_widest(texts), 0.85 * width, len(texts))
    return (_widest(texts) / 72 if upright else 0.1) + 0.15


def name_samples(ax: Axes, names: Sequence[str]) -> bool:
    """Write names under x = 0, 1, …, upright where it is narrow, none where they do not fit.

    Return whether they are written.
    """
    fits = len(names) <= _MOST
    some = _texts(names) if fits else []
    # A layout that is to come may take some of the width.
    inches = 0.85 * ax.get_window_extent().width / _panels.whole(ax).dpi
    upright = _narrow(_widest(some), inches, len(some))
    _ticks.place(ax, "x", range(len(some)), some, height=upright, last=False)
    ax.tick_params(axis="x", rotation=90 if upright else 0, length=0)
    return fits


def _texts(names: Sequence[object]) -> list[str]:
    """Return names as a map writes them."""
    return [
        _panels.plain(_panels.shortened(_panels.written(name), NAME, _panels.TICK))
        for name in names
    ]


def _narrow(widest: float, inches: float, n: int) -> bool:
    """Return whether texts, one of so many points, do not fit side by side."""
    return bool(widest + 4 > 72 * inches / max(n, 1))


def cells(ax: Axes, value: Float[np.ndarray, "m n"], label: str) -> None:
    """Draw a map and its bar: values of both signs about a white zero; grey where there is none.

    A few values that are more than three times as large as all others have the last colour of the
    bar, which then says how large the largest is.
    """
    known = np.abs(value[np.isfinite(value)])
    signed = bool(np.any(value < 0))
    top = _panels.ceiling(np.append(known, 0.0))
    largest = known.max(initial=0.0)
    end = float(min(top, largest)) or 1.0
    clipped = end < largest
    extend = ("both" if signed else "max") if clipped else "neither"
    shades = Shades(-end if signed else 0.0, end, extend)
    mesh = squares(ax, value, shades, rim=0.3)
    text = f"{label}; largest {_ticks.brief(largest)}" if clipped else label
    bar(ax, mesh, shades, text)


def squares(
    ax: Axes,
    value: Float[np.ndarray, "m n"],
    shades: Shades,
    *,
    rim: float = 0.0,
    near: bool = False,
) -> QuadMesh:
    """Draw the cells of a map, the first row on top, with a white rim of so many points.

    Dark is large, or small where near is what matters.
    """
    ax.set_facecolor(_ABSENT)
    mesh = ax.pcolormesh(
        np.arange(value.shape[1] + 1) - 0.5,
        np.arange(value.shape[0] + 1) - 0.5,
        np.ma.masked_invalid(value),
        cmap="RdBu_r" if shades.low < 0 else "YlGnBu_r" if near else "YlGnBu",
        norm=Normalize(shades.low, shades.high),
        edgecolors="white" if rim else "none",
        linewidth=rim,
        rasterized=True,
    )
    ax.set_xlim(-0.5, value.shape[1] - 0.5)
    ax.set_ylim(value.shape[0] - 0.5, -0.5)
    ax.spines[:].set_visible(False)
    return mesh


def bar(
    ax: Axes,
    mesh: QuadMesh,
    shades: Shades,
    label: str,
) -> None:
    """Draw the bar of a map's colours."""
    made = _panels.whole(ax).colorbar(
        mesh,
        ax=ax,
        extend=shades.extend,
        extendfrac=0.03,
        fraction=0.06,
        pad=0.03,
        aspect=18,
    )
    figure = _panels.whole(ax)
    figure.draw_without_rendering()  # a layout, which the label's length will not change
    room = ax.get_window_extent().height * 72 / figure.dpi
    _trim(made, shades, _panels.shortened(label, room, _panels.TITLE))


def _trim(made: Colorbar, shades: Shades, label: str) -> None:
    """Give a bar its numbers and title."""
    made.outline.set_visible(False)
    _ticks.numbers(made.ax, "y", shades.high)
    made.ax.tick_params(labelsize=_panels.TICK, color=_style.INK, labelcolor=_style.INK)
    made.set_label(label, fontsize=_panels.TITLE, color=_style.INK, parse_math=False)
