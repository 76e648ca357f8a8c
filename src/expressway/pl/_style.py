"""What the figures share: palette, axes, legend, the genes drawn and their names."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, LogLocator
from matplotlib.transforms import Bbox

from expressway._types import Bool, Float, Int

from ._text import shortened

# Vermillion and blue of Okabe and Ito's palette for the colour-blind (2008), on greys.
ACCENT = "#D55E00"
SECOND = "#0072B2"
MUTED = "#A6A6A6"
INK = "#222222"

# Points, as journals ask.
_TITLE = 9.0
_TICK = 8.0
_LEGEND = 7.5
_NAME = 6.5
_NEAR = 3.5  # from a dot to its name; a name farther off has a leader
_WIDE = 3.5  # inches: from here a legend has two columns
# Square points.
_DOT = 4.0
_TRIANGLE = 14.0
_RING = 20.0
_SHARE = 0.82  # of a figure, that an axis has at least
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Genes(NamedTuple):
    """The genes of a results table that a figure can draw, one row a gene."""

    name: np.ndarray  # strings
    mean: Float[np.ndarray, "g"]
    change: Float[np.ndarray, "g"]
    stat: Float[np.ndarray, "g"]
    p_value: Float[np.ndarray, "g"]
    significant: Bool[np.ndarray, "g"]

    def where(self, keep: Bool[np.ndarray, "g"]) -> "Genes":
        """Return some of the genes."""
        return Genes(
            self.name[keep],
            self.mean[keep],
            self.change[keep],
            self.stat[keep],
            self.p_value[keep],
            self.significant[keep],
        )


class Cloud(NamedTuple):
    """Where genes are drawn, in data units, and as what."""

    x: Float[np.ndarray, "g"]
    y: Float[np.ndarray, "g"]
    marker: np.ndarray  # matplotlib's, one letter each

    def where(self, keep: Bool[np.ndarray, "g"]) -> "Cloud":
        """Return some of the points."""
        return Cloud(self.x[keep], self.y[keep], self.marker[keep])


class Entry(NamedTuple):
    """One line of a legend."""

    marker: str
    colour: str
    text: str


def columns(table: pd.DataFrame, *names: str) -> list[Float[np.ndarray, "g"]]:
    """Return columns as numbers; ValueError when the table lacks one."""
    if absent := [name for name in names if name not in table.columns]:
        message = (
            f"the table has no column {', '.join(absent)}; it has "
            f"{', '.join(map(str, table.columns)) or 'none'}. Pass a table as tl.de makes it."
        )
        raise ValueError(message)
    return [table[name].to_numpy(dtype=float, na_value=np.nan) for name in names]


def tested(results: pd.DataFrame, alpha: float) -> Genes:
    """Return the genes with a mean above 0 and a fold change; significant is p_adj < alpha."""
    mean, change, stat, p_value, p_adj = columns(
        results, "base_mean", "log2_fold_change", "stat", "p_value", "p_adj"
    )
    name = results.index.to_numpy(dtype=str)
    genes = Genes(name, mean, change, stat, p_value, p_adj < alpha)
    return genes.where((mean > 0) & ~np.isnan(change))


def edge(change: Float[np.ndarray, "g"]) -> float:
    """Return the largest size of fold change that an axis shows: the rest stands at its edge.

    1.5 times the 99.9 % quantile of the sizes, or the largest where that is less; 1 where there
    is no change to show.
    """
    size = np.abs(change)
    if not len(size):
        return 1.0
    return float(min(size.max(), 1.5 * np.quantile(size, 0.999))) or 1.0


def axes(ax: Axes | None) -> Axes:
    """Return the Axes given, or those of a new figure as wide as a journal's column, styled."""
    if ax is None:
        ax = Figure(figsize=(4.8, 3.9), dpi=200, layout="constrained").subplots()
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(INK)
    ax.tick_params(which="both", labelsize=_TICK, color=INK, labelcolor=INK)
    return ax


def power_of_ten(value: float, _: int | None = None) -> str:
    """Return a tick's text: 0.01, 1, 1,000, 10⁶; plain text, as formulas are slow to set."""
    exponent = round(np.log10(value))
    if not np.isclose(value, 10.0**exponent):
        return f"{value:,g}"
    if -4 < exponent < 6:
        return f"{10.0**exponent:,g}"
    return "10" + str(exponent).translate(_RAISED)


def logarithmic(ax: Axes, name: str) -> None:
    """Give an axis (x or y) a log scale; only powers of ten have numbers if there are two."""
    axis = {"x": ax.xaxis, "y": ax.yaxis}[name]
    (ax.set_xscale if name == "x" else ax.set_yscale)("log")
    axis.set_major_formatter(FuncFormatter(power_of_ten))
    axis.set_minor_locator(_Sparse(subs=range(2, 10)))
    axis.set_minor_formatter(_Between(power_of_ten))


class _Sparse(LogLocator):
    """Minor ticks, where the axis spans no more than three powers of ten: many are slow to draw."""

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """Return where the ticks are."""
        return list(super().tick_values(vmin, vmax)) if vmax / vmin <= 1e3 else []


class _Between(FuncFormatter):
    """Numbers at minor ticks, where the axis spans less than two powers of ten."""

    def format_ticks(self, values: Any) -> list[str]:
        """Return the text of all ticks."""
        axis = self.axis
        low, high = np.log10(np.abs(axis.get_view_interval())) if axis is not None else (0.0, 9.0)
        few = np.floor(high) - np.ceil(low) < 1
        value = np.asarray(values, float)
        step = np.round(value / 10.0 ** np.floor(np.log10(np.abs(value))))
        # 1, 2, 5, 10 where there are two of them in sight, as others would meet.
        main = np.isin(step, (2, 5))
        inside = np.count_nonzero(main & (value >= 10.0**low) & (value <= 10.0**high))
        some = main if inside + (np.floor(high) >= np.ceil(low)) > 1 else np.ones(len(value), bool)
        return [self(v) if few and s else "" for v, s in zip(values, some, strict=True)]


def titles(ax: Axes, x: str, y: str) -> None:
    """Write the titles of both axes as they stand: a dollar sign in a name is no formula.

    A title that is longer than the axis loses its middle.
    """
    figure = ax.get_figure(root=True)
    size = (np.inf, np.inf) if figure is None else _SHARE * 72 * figure.get_size_inches()
    x, y = (shortened(text, room, _TITLE) for text, room in zip((x, y), size, strict=True))
    ax.set_xlabel(x, fontsize=_TITLE, color=INK, parse_math=False)
    ax.set_ylabel(y, fontsize=_TITLE, color=INK, parse_math=False)


def change_title(contrast: str | None) -> str:
    """Return the title of an axis of fold changes."""
    return "log₂ fold change" + (f" ({contrast})" if contrast else "")


def scatter(ax: Axes, cloud: Cloud, colour: str) -> None:
    """Draw points as one picture (rasterised), so that a PDF of 20,000 genes stays small."""
    for marker in np.unique(cloud.marker):
        here = cloud.where(cloud.marker == marker)
        dot = marker == "o"
        ax.scatter(
            here.x,
            here.y,
            s=_DOT if dot else _TRIANGLE,
            marker=str(marker),
            color=colour,
            alpha=0.6 if dot else 0.9,
            linewidths=0,
            rasterized=True,
            clip_on=dot,  # the edge must not cut a triangle in half
            zorder=2,
        )


def scatter_genes(ax: Axes, cloud: Cloud, genes: Genes, alpha: float) -> list[Entry]:
    """Draw genes, the significant ones last and in the accent colour; return what to say of it."""
    for colour, chosen in ((MUTED, ~genes.significant), (ACCENT, genes.significant)):
        scatter(ax, cloud.where(chosen), colour)
    up = np.count_nonzero(genes.significant & (genes.change > 0))
    down = np.count_nonzero(genes.significant) - up
    return [
        Entry("o", ACCENT, f"adjusted p < {alpha:g}: {up:,} up, {down:,} down"),
        Entry("o", MUTED, f"other genes: {np.count_nonzero(~genes.significant):,}"),
    ]


def legend(ax: Axes, entries: Sequence[Entry]) -> None:
    """Put a legend above the axes, where it hides no gene."""
    handles = [
        Line2D(
            [],
            [],
            linestyle="-" if marker == "-" else "",
            marker="" if marker == "-" else marker,
            markersize=4,
            color=colour,
            label=text,
        )
        for marker, colour, text in entries
    ]
    ax.legend(
        handles=handles,
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=2 if ax.get_window_extent().width > _WIDE * ax.figure.dpi else 1,
        frameon=False,
        fontsize=_LEGEND,
        labelcolor=INK,
        handlelength=1.2,
        handletextpad=0.5,
        columnspacing=1.2,
        borderaxespad=0.2,
    )


def to_name(genes: Genes, label: int | Sequence[str]) -> Int[np.ndarray, "k"]:
    """Return the rows of the genes asked for, or of the significant ones of smallest p-value."""
    if isinstance(label, int):
        order = np.lexsort((-np.abs(genes.stat), genes.p_value))
        return order[genes.significant[order]][:label]
    if absent := sorted(set(label) - set(genes.name)):
        message = (
            f"cannot label {', '.join(absent)}: no such gene with values to draw. "
            "Name genes as the table's index does."
        )
        raise ValueError(message)
    return np.flatnonzero(np.isin(genes.name, list(label)))


def write_names(
    ax: Axes,
    cloud: Cloud,
    names: np.ndarray,
    rows: Int[np.ndarray, "k"],
    *,
    own: bool,
    circled: bool = True,
) -> None:
    """Ring genes and write their names beside them, first come first placed.

    Call it last: the layout and the limits must be final. Of the places tried round a point, those
    are out that leave the axes, touch a line, a ring or another name, or whose leader crosses a
    line or a name; the one that hides the fewest points, then the nearest, is taken. A name
    without a free place is left out. The layout of a figure of our own stays as it is then.
    """
    figure = ax.get_figure(root=True)
    if not len(rows) or figure is None:
        return
    figure.draw_without_rendering()  # settles the layout, and with it the pixels used below
    if own:
        figure.set_layout_engine("none")
    pixel = figure.dpi / 72  # pixels a point
    dots = ax.transData.transform(np.column_stack([cloud.x, cloud.y]))
    frame = ax.get_window_extent()
    lines = [line.get_transform().transform_path(line.get_path()) for line in ax.lines]
    rings = [_box(dots[row], np.full(2, np.sqrt(_RING) * pixel)) for row in rows]
    written: list[Bbox] = []
    for row, ring in zip(rows, rings, strict=True):
        name, at = str(names[row]), (float(cloud.x[row]), float(cloud.y[row]))
        size = _text_size(ax, name) + 2 * pixel
        # A name close to another gene's ring would read as that gene's.
        full = [
            *written,
            ring,
            *(other.padded(1.5 * pixel) for other in rings if other is not ring),
        ]
        barred = written + [other for other in rings if not other.overlaps(ring)]
        best: tuple[float, float, np.ndarray] | None = None
        for reach, centre in _around(dots[row], size, pixel):
            if best and reach / 4 >= best[0]:
                break  # what comes is farther off
            box, leader = _box(centre, size), Path([dots[row], centre])
            if (
                not (frame.x0 <= box.x0 and box.x1 <= frame.x1)
                or not (frame.y0 <= box.y0 and box.y1 <= frame.y1)
                or box.count_overlaps(full)
                or any(leader.intersects_bbox(other) for other in barred)
                or any(line.intersects_bbox(box) or line.intersects_path(leader) for line in lines)
            ):
                continue
            hidden = np.count_nonzero((np.abs(dots - centre) < size / 2).all(axis=1))
            if best is None or hidden + reach / 4 < best[0]:
                best = (hidden + reach / 4, reach, centre)
        if best:
            _, reach, centre = best
            written.append(_box(centre, size))
            lines.append(Path([dots[row], centre]))
            if circled:
                ax.scatter(*at, s=_RING, c="none", edgecolors=INK, linewidths=0.5, zorder=4)
            _write(ax, name, at, (centre - dots[row]) / pixel, leader=reach > _NEAR)


def _around(
    point: Float[np.ndarray, "2"], size: Float[np.ndarray, "2"], pixel: float
) -> Iterator[tuple[float, Float[np.ndarray, "2"]]]:
    """Yield places for a box round a point: how far off (points), and its centre (pixels)."""
    for reach in (_NEAR, 9.0, 16.0, 25.0, 36.0, 50.0):
        for angle in np.linspace(0, 2 * np.pi, 12, endpoint=False):
            direction = np.array([np.cos(angle), np.sin(angle)])
            yield reach, point + direction * (size / 2 + reach * pixel)


def _box(centre: Float[np.ndarray, "2"], size: Float[np.ndarray, "2"]) -> Bbox:
    return Bbox([centre - size / 2, centre + size / 2])


def _text_size(ax: Axes, text: str) -> Float[np.ndarray, "2"]:
    """Return the width and height of a gene's name in pixels."""
    probe = ax.text(0, 0, text, fontsize=_NAME, parse_math=False)
    extent = probe.get_window_extent()
    probe.remove()
    return np.array([extent.width, extent.height])


def _write(
    ax: Axes, text: str, at: tuple[float, float], offset: Float[np.ndarray, "2"], *, leader: bool
) -> None:
    """Write a name at an offset (points) from its gene."""
    line = {"arrowstyle": "-", "linewidth": 0.4, "color": INK, "shrinkA": 0, "shrinkB": 2.5}
    ax.annotate(
        text,
        at,
        xytext=(offset[0], offset[1]),
        textcoords="offset points",
        ha="center",
        va="center",
        fontsize=_NAME,
        color=INK,
        parse_math=False,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.7, "pad": 0.5},
        arrowprops=line if leader else None,
        zorder=4,
    )
