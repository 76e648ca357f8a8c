"""What figures of several panels share: grids, titles that fit, groups, axes cut short."""

from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation, Transform

from expressway._types import Bool, Float

from . import _style
from ._text import length as length
from ._text import shortened as shortened

PAGE = 7.2  # inches: two columns of a journal
# Points.
TITLE = 8.0
TICK = 7.0
_AXIS = 9.0
_SMALLEST = 6.0
_HANDLE = 26.0  # a legend's line, and the space about it

# Okabe and Ito's palette for the colour-blind (2008), less its yellow, which is faint on white.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#222222")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X")
Dash = Literal["-"] | tuple[int, tuple[float, ...]]
_DASHES: tuple[Dash, ...] = ("-", (0, (4, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))

# An axis is cut short where a tenth of the values at most are this many times as far from the
# lowest value as all the others, and twice as large.
_FEW = 0.1
_FAR = 3.0
_LARGER = 2.0

ERRORS = {
    "squared": "mean squared error",
    "absolute": "mean absolute error",
    "deviance": "mean deviance",
}


class Look(NamedTuple):
    """How a group is drawn: told apart by any of the three."""

    colour: str
    dash: Dash
    marker: str


def look(i: int) -> Look:
    """Return how the group number i is drawn."""
    # Seven colours and four dashes: 28 groups differ.
    return Look(_COLOURS[i % len(_COLOURS)], _DASHES[i % len(_DASHES)], _MARKERS[i % len(_MARKERS)])


def check(table: pd.DataFrame, what: str, *names: str) -> None:
    """Raise ValueError when a table lacks a column."""
    if absent := [name for name in names if name not in table.columns]:
        message = (
            f"the table of {what} has no column {', '.join(absent)}; it has "
            f"{', '.join(map(str, table.columns)) or 'none'}. It needs {', '.join(names)}."
        )
        raise ValueError(message)


def number(table: pd.DataFrame, name: str) -> Float[np.ndarray, "_"]:
    """Return a column as finite numbers or NaN; all NaN where the table lacks it."""
    if name not in table.columns:
        return np.full(len(table), np.nan)
    value = table[name].to_numpy(dtype=float, na_value=np.nan)
    return np.where(np.isfinite(value), value, np.nan)


def flag(table: pd.DataFrame, name: str, default: bool) -> Bool[np.ndarray, "_"]:
    """Return a column of yes and no; the default where it is missing."""
    if name not in table.columns:
        return np.full(len(table), default)
    return table[name].astype("boolean").fillna(default).to_numpy(dtype=bool)


def distinct(table: pd.DataFrame, name: str) -> list[Hashable]:
    """Return the values of a column, each once, in the table's order, without missing ones."""
    return list(np.asarray(pd.factorize(table[name].to_numpy(dtype=object))[1], dtype=object))


def where(table: pd.DataFrame, name: str, value: object) -> pd.DataFrame:
    """Return the rows that have a value in a column."""
    return table.take(np.flatnonzero(table[name].to_numpy(dtype=object, na_value=None) == value))


def measure(error: str) -> str:
    """Return what an axis of errors is called; ValueError for an unknown error."""
    if error not in ERRORS:
        message = f"error is {error!r}; it must be one of {', '.join(map(repr, ERRORS))}."
        raise ValueError(message)
    return ERRORS[error]


def columns_for(n: int, most: int) -> int:
    """Return the number of columns of a grid of n panels, square or one column wider."""
    root = min(most, int(np.ceil(np.sqrt(n))))
    return min(root, root + 1, key=lambda c: -n % c if c <= most else n)


def grid(n: int, columns: int, size: tuple[float, float], *, same_y: bool) -> list[Axes]:
    """Return the Axes of n panels, row by row, in a figure of this size (inches).

    All panels will have the same x, and y if it says so: only the outer ones have numbers. They
    are not tied together, which makes drawing slow; who calls sets the limits of each.
    """
    figure = Figure(figsize=size, dpi=200, layout="constrained")
    spec = figure.add_gridspec(-(-n // columns), columns)
    made: list[Axes] = []
    for i in range(n):
        ax = _style.axes(figure.add_subplot(spec[i // columns, i % columns]))
        ax.set_autoscale_on(False)
        ax.tick_params(
            labelsize=TICK,
            labelbottom=i + columns >= n,
            labelleft=i % columns == 0 or not same_y,
        )
        made.append(ax)
    return made


def array(made: Sequence[Axes]) -> np.ndarray:
    """Return Axes as an array."""
    found = np.empty(len(made), dtype=object)
    found[:] = made
    return found


def whole(ax: Axes) -> Figure:
    """Return the figure of an Axes."""
    figure = ax.get_figure(root=True)
    if figure is None:
        message = "the Axes given belong to no figure: make them by Figure().subplots()."
        raise ValueError(message)
    return figure


def settle(ax: Axes) -> None:
    """Make the layout of a figure final."""
    figure = whole(ax)
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def title(ax: Axes, text: str, room: float) -> None:
    """Write a panel's title into so many inches: smaller, then in two lines, then shortened."""
    points = 72 * room
    size = float(np.clip(TITLE * points / max(length(text, TITLE), 1.0), _SMALLEST, TITLE))
    first = text
    while length(first, size) > points and len(first) > 1:
        first = first[:-1]
    if len(first) < len(text):
        words = max(first.rfind(mark) for mark in " _-.:;|/") + 1
        first = first[:words] if words > len(first) / 2 else first
    rest = text[len(first) :].strip()
    ax.set_title(
        f"{first.strip()}\n{shortened(rest, points, size)}" if rest else text,
        loc="left",
        fontsize=size,
        color=_style.INK,
        pad=4,
        y=1.0,  # above the axes at once, without a search for what is in the way
        parse_math=False,
    )


def axis_titles(ax: Axes, x: str, y: str) -> None:
    """Write the titles that all panels share."""
    figure = whole(ax)
    for write, text, room in (
        (figure.supxlabel, x, figure.get_figwidth()),
        (figure.supylabel, y, figure.get_figheight()),
    ):
        short = shortened(text, 72 * room - 10, _AXIS)
        write(short, fontsize=_AXIS, color=_style.INK, parse_math=False)


def legend(ax: Axes, handles: Sequence[Artist]) -> None:
    """Put one legend above all panels, in as many columns as fit."""
    figure = whole(ax)
    room = 72 * figure.get_figwidth() - 10
    texts = [shortened(str(h.get_label()), room - _HANDLE, TITLE) for h in handles]
    widest = max(length(text, TITLE) for text in texts) + _HANDLE + 6
    rows = -(-len(texts) // max(1, int(room // widest)))
    columns = -(-len(texts) // rows)
    order = [i for column in range(columns) for i in range(column, len(texts), columns)]
    figure.legend(
        handles=[handles[i] for i in order],  # legends go down columns; this one is read by rows
        labels=[plain(texts[i]) for i in order],
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        fontsize=TITLE,
        labelcolor=_style.INK,
        handlelength=2.0,
        handletextpad=0.5,
        columnspacing=1.0,
        borderaxespad=0.2,
    )


def plain(text: str) -> str:
    """Return a text whose dollar signs are no formula."""
    return text.replace("$", r"\$")


def key(style: Look, text: str, *, line: bool = True, marker: bool = True) -> Line2D:
    """Return a legend's entry of a group."""
    return Line2D(
        [],
        [],
        color=style.colour,
        linestyle=style.dash if line else "",
        linewidth=1.3,
        marker=style.marker if marker else "",
        markersize=3.5,
        markeredgewidth=0,
        label=text,
    )


def aside(ax: Axes, transform: Transform, points: float) -> Transform:
    """Return a transform that goes on to the right by points."""
    return transform + ScaledTranslation(points / 72, 0, whole(ax).dpi_scale_trans)


def dodged(ax: Axes, i: int, n: int, step: float = 2.0) -> Transform:
    """Return the transform that moves the i-th of n marks at one place aside, by points."""
    return aside(ax, ax.transData, (i - (n - 1) / 2) * min(step, 10.0 / n))


def ceiling(values: Float[np.ndarray, "_"]) -> float:
    """Return the largest value that an axis shows: infinite, or less than a few far ones.

    Values are few where they are one, or a tenth of all; far where they are three times as far
    from the lowest as all the others and twice as large.
    """
    value = np.sort(values[np.isfinite(values)])
    n = len(value)
    if n < 4:
        return float("inf")
    most = max(1, int(_FEW * n))
    far, rest = value[n - most :], value[n - most - 1 : n - 1]  # each, and the next below it
    apart = (far - value[0] > _FAR * (rest - value[0])) & (far > _LARGER * rest)
    return float(rest[np.argmax(apart)]) if apart.any() else float("inf")


def written(value: object) -> str:
    """Return the name of something, which may be a number."""
    return f"{value:g}" if isinstance(value, int | float | np.number) else str(value)
