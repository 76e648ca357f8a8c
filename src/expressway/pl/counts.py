"""The figure of single genes: their normalised counts by group."""

from typing import overload

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expressway._types import Float

from . import _groups, _maps, _panels, _style

# DESeq2 R/plots.R, plotCounts, pc: added so that zeros have a place on a log axis.
_ADDED = 0.5
_SPREAD = 0.32
_GOLDEN = (5**0.5 - 1) / 2
_SIZE = (3.4, 3.2)  # inches
# Of a panel, and of what is left of it, above it, and about all.
_PANEL = (1.85, 1.6)
_LEFT, _ABOVE, _AROUND = 0.5, 0.35, 0.25


@overload
def counts(
    normalised: pd.Series,
    groups: pd.DataFrame | pd.Series,
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes: ...


@overload
def counts(normalised: pd.DataFrame, groups: pd.DataFrame | pd.Series) -> np.ndarray: ...


def counts(
    normalised: pd.Series | pd.DataFrame,
    groups: pd.DataFrame | pd.Series,
    *,
    title: str | None = None,
    ax: Axes | None = None,
) -> Axes | np.ndarray:
    """Axes with the normalised counts of a gene plus ½ (log scale), by group; an array of several.

    A point a sample, beside one another within a group: in an order that is always the same. Lines
    are means of the groups' normalised counts. A column of many different numbers has an axis of
    numbers instead.

    Parameters
    ----------
    normalised
        Count divided by size factor, of each sample: a column of ``get.normalised(adata)``, or
        several, which get a panel each.
    groups
        Of each sample, index as that of `normalised`: the first column has a place on the axis
        and a colour for each value, a second one a marker.
    title
        Of one gene; by default its name, that of `normalised`.
    ax
        Where to draw one gene; by default a figure of its own.

    Raises
    ------
    ValueError
        Groups of other samples, no gene, or one of which no sample has a value.
    """
    found = _groups.columns(groups, normalised.index, 2)
    if not found:
        message = "groups has no column; the first one says where on the axis a sample is drawn."
        raise ValueError(message)
    keys = [column.keys(colour=False) for column in found[1:]]
    if isinstance(normalised, pd.Series):
        if ax is None:
            ax = Figure(figsize=_SIZE, dpi=200, layout="constrained").subplots()
        _style.axes(ax)
        name = str(normalised.name) if title is None else title
        _gene(ax, normalised.to_numpy(float), found, name)
        _style.titles(ax, found[0].name, _TITLE)
        _groups.legends(ax, keys, 16.0)
        return ax
    count = normalised.shape[1]
    if not count:
        message = "there are no genes; pass columns of get.normalised(adata)."
        raise ValueError(message)
    made = _grid(count, found[0], 0.35 if keys else 0.1)
    for j, panel in enumerate(made):
        _gene(panel, normalised.iloc[:, j].to_numpy(float), found, str(normalised.columns[j]))
    _panels.axis_titles(made[0], found[0].name, _TITLE)
    if keys:
        _panels.legend(made[0], keys[0])
    return _panels.array(made)


_TITLE = "normalised count + ½"


def _grid(count: int, column: _groups.Column, top: float) -> list[Axes]:
    """Return panels of one size: to find a layout by drawing takes longer than the drawing."""
    wide = _panels.columns_for(count, 3)
    high = -(-count // wide)
    below = _AROUND + _maps.depth(column.levels, _PANEL[0])
    width = _AROUND + wide * (_LEFT + _PANEL[0]) + 0.1
    height = below + high * (_ABOVE + _PANEL[1]) + top
    figure = Figure(figsize=(width, height), dpi=200)
    made = []
    for j in range(count):
        row, place = divmod(j, wide)
        left = _AROUND + _LEFT + place * (_LEFT + _PANEL[0])
        bottom = below + (high - 1 - row) * (_ABOVE + _PANEL[1])
        size = (_PANEL[0] / width, _PANEL[1] / height)
        ax = _style.axes(figure.add_axes((left / width, bottom / height, *size)))
        ax.tick_params(labelsize=_panels.TICK, labelbottom=j + wide >= count)
        made.append(ax)
    return made


def _gene(ax: Axes, value: Float[np.ndarray, "n"], found: list[_groups.Column], name: str) -> None:
    """Draw one gene."""
    main = found[0]
    known = np.isfinite(value) & (main.codes >= 0)
    if not known.any():
        message = (
            f"none of {len(value)} samples has a count of {name} and a group: nothing to draw."
        )
        raise ValueError(message)
    colour, marker = main.colour(), found[-1].marker()
    x = np.zeros(len(value)) if main.numbers is None else main.numbers
    for code in range(len(main.levels) if main.numbers is None else 0):
        here = np.flatnonzero(known & (main.codes == code))
        if not len(here):
            continue
        order = here[np.argsort(value[here], kind="stable")]
        step = (np.arange(1, len(here) + 1) * _GOLDEN) % 1 - 0.5 if len(here) > 1 else 0.0
        x[order] = code + step * 2 * _SPREAD
        mean = value[here].mean() + _ADDED
        ends = (code - 0.4, code + 0.4)
        ax.hlines(mean, *ends, color=_style.INK, linewidth=1.2, zorder=3)
    some = np.flatnonzero(known)
    for kind in dict.fromkeys(marker[i] for i in some):
        here = [i for i in some if marker[i] == kind]
        ax.scatter(
            x[here],
            value[here] + _ADDED,
            s=20 if len(some) <= 60 else 9,
            marker=kind,
            c=[colour[i] for i in here],
            alpha=0.8,
            linewidths=0.9 if kind == "x" else 0.3,
            edgecolors=None if kind == "x" else "white",
            zorder=2,
        )
    _style.logarithmic(ax, "y")
    low, high = value[some].min() + _ADDED, value[some].max() + _ADDED
    margin = max((high / low) ** 0.08, 1.12)
    ax.set_ylim(low / margin, high * margin)
    if main.numbers is not None:
        ends = main.numbers[some].min(), main.numbers[some].max()
        margin = 0.05 * (ends[1] - ends[0]) or 1.0
        ax.set_xlim(ends[0] - margin, ends[1] + margin)
    else:
        ax.set_xlim(-0.6, len(main.levels) - 0.4)
        _maps.name_samples(ax, list(main.levels))
    _panels.title(ax, name, ax.get_window_extent().width / _panels.whole(ax).dpi)
