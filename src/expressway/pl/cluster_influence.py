"""The cluster influence figure: how far clusters move without each time or sample."""

from collections.abc import Hashable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize

from expressway._types import Float

from . import _panels, _style, _ticks

_NAME = 90.0  # points: longer names lose their middle
_ABSENT = "#E4E4E4"
_MARGIN = 1.6  # inches of a figure's width that are not the map's


def cluster_influence(
    table: pd.DataFrame,
    *,
    kind: str = "time",
    label: str = "shift",
    ax: Axes | None = None,
) -> Axes:
    """Axes with a map of the shifts of clusters (rows) without each time or sample (columns).

    Shifts of both signs have colours about a white zero. A few shifts that are more than three
    times as large as all others have the last colour of the bar, which then says how large the
    largest is. What the table lacks is grey. Columns are in the order of the table, times in
    theirs.

    Parameters
    ----------
    table
        Columns kind (``"time"`` or ``"sample"``), left_out (its name), cluster (number), shift.
    kind
        Of the rows to show.
    label
        Title of the bar of colours, with the unit of the shifts.
    ax
        Where to draw; by default a figure of its own.

    Raises
    ------
    ValueError
        A column is missing, no row is of this kind, or two are of the same left-out and cluster.
    """
    _panels.check(table, "influence", "kind", "left_out", "cluster", "shift")
    rows = _panels.where(table, "kind", kind)
    if rows.empty:
        message = (
            f"no row of the table of influence is of kind {kind!r}; there are "
            f"{', '.join(map(repr, map(str, _panels.distinct(table, 'kind')))) or 'none'}. "
            "Name one of these."
        )
        raise ValueError(message)
    if (twice := rows.duplicated(["left_out", "cluster"])).any():
        first = rows[twice].iloc[0]
        message = (
            f"several shifts of cluster {first['cluster']} without {first['left_out']}; the table "
            "of influence needs one row each. Select one analysis."
        )
        raise ValueError(message)

    left, clusters = _sorted(rows, "left_out"), _sorted(rows, "cluster")
    shift = _matrix(rows, left, clusters)
    if ax is None:
        width = float(np.clip(_MARGIN + 0.26 * len(left), 3.4, _panels.PAGE))
        height = float(np.clip(1.3 + 0.18 * len(clusters), 2.0, 8.5))
        (ax,) = _panels.grid(1, 1, (width, height), same_y=False)
        room = 72 * (width - _MARGIN) / len(left)
    else:
        _style.axes(ax)
        room = 72 * ax.get_window_extent().width / _panels.whole(ax).dpi / len(left)
    _map(ax, shift, label)
    names = [_panels.shortened(_panels.written(name), _NAME, _panels.TICK) for name in left]
    upright = bool(max(_panels.length(name, _panels.TICK) for name in names) + 4 > room)
    _ticks.place(ax, "x", range(len(left)), names, height=upright, last=False)
    ax.tick_params(axis="x", rotation=90 if upright else 0, length=0)
    texts = [_panels.written(cluster) for cluster in clusters]
    _ticks.place(ax, "y", range(len(clusters)), texts, height=True, last=False)
    ax.tick_params(axis="y", length=0)
    _style.titles(ax, f"{kind} left out", "cluster")
    return ax


def _sorted(table: pd.DataFrame, name: str) -> list[Hashable]:
    """Return the distinct values of a column, in order if they are numbers."""
    values = _panels.distinct(table, name)
    try:
        return sorted(values, key=lambda value: float(str(value)))
    except ValueError:
        return values


def _matrix(
    rows: pd.DataFrame, left: list[Hashable], clusters: list[Hashable]
) -> Float[np.ndarray, "k m"]:
    """Return the shifts, NaN where there is none."""
    shift = np.full((len(clusters), len(left)), np.nan)
    row = {cluster: i for i, cluster in enumerate(clusters)}
    column = {name: j for j, name in enumerate(left)}
    for cluster, name, value in zip(
        rows["cluster"], rows["left_out"], _panels.number(rows, "shift"), strict=True
    ):
        shift[row[cluster], column[name]] = value
    return shift


def _map(ax: Axes, shift: Float[np.ndarray, "k m"], label: str) -> None:
    """Draw the map and its bar of colours."""
    known = np.abs(shift[np.isfinite(shift)])
    signed = bool(np.any(shift < 0))
    top = _panels.ceiling(np.append(known, 0.0))
    largest = known.max(initial=0.0)
    end = float(min(top, largest)) or 1.0
    ax.set_facecolor(_ABSENT)
    mesh = ax.pcolormesh(
        np.arange(shift.shape[1] + 1) - 0.5,
        np.arange(shift.shape[0] + 1) - 0.5,
        np.ma.masked_invalid(shift),
        cmap="RdBu_r" if signed else "YlGnBu",
        norm=Normalize(-end if signed else 0.0, end),
        edgecolors="white",
        linewidth=0.3,
        rasterized=True,
    )
    ax.set_xlim(-0.5, shift.shape[1] - 0.5)
    ax.set_ylim(shift.shape[0] - 0.5, -0.5)
    ax.spines[:].set_visible(False)
    clipped = end < largest
    bar = _panels.whole(ax).colorbar(
        mesh,
        ax=ax,
        extend=("both" if signed else "max") if clipped else "neither",
        extendfrac=0.03,
        fraction=0.06,
        pad=0.03,
        aspect=18,
    )
    bar.outline.set_visible(False)
    _ticks.numbers(bar.ax, "y", end)
    bar.ax.tick_params(labelsize=_panels.TICK, color=_style.INK, labelcolor=_style.INK)
    text = f"{label}; largest {_ticks.brief(largest)}" if clipped else label
    room = 72 * _panels.whole(ax).get_figheight() - 30
    bar.set_label(
        _panels.shortened(text, room, _panels.TITLE),
        fontsize=_panels.TITLE,
        color=_style.INK,
        parse_math=False,
    )
