"""Groups of samples: their levels and colours, legends, and bars beside a map."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple, cast

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.transforms import (
    Affine2D,
    Affine2DBase,
    ScaledTranslation,
    Transform,
    blended_transform_factory,
)

from expressway._types import Float, Int

from . import _panels, _style

Groups = pd.DataFrame | pd.Series | None

# A column of more different numbers is continuous.
_FEW = 12
# A legend of more levels is longer than what it explains.
_MOST = 14
_NAME = 90.0  # points: longer names lose their middle
_SIZE = 7.5
_LINE = 1.45  # line height of a legend, in its font's size
_ABSENT = "#D0D0D0"
_BAR, _GAP = 7.0, 2.5  # points


class Column(NamedTuple):
    """What a column of the sample table says of each sample."""

    name: str
    codes: Int[np.ndarray, "n"]
    """Place in the levels; -1 where the value is missing."""
    levels: tuple[str, ...]
    colours: tuple[str, ...]
    numbers: Float[np.ndarray, "n"] | None = None
    """Values of a column that is continuous."""

    def colour(self) -> list[str]:
        """Return the colour of each sample."""
        return [self.colours[code] if code >= 0 else _ABSENT for code in self.codes]

    def marker(self) -> list[str]:
        """Return the marker of each sample."""
        if self.numbers is not None:
            return ["o" if code >= 0 else "x" for code in self.codes]
        return [_panels.look(int(code)).marker if code >= 0 else "x" for code in self.codes]

    def keys(self, *, colour: bool = True, marker: bool = True) -> list[Line2D]:
        """Return the legend's entries: the column's name, then its levels."""
        continuous = self.numbers is not None
        name = _panels.shortened(self.name, 1.5 * _NAME, _SIZE)
        if len(self.levels) > _MOST and not continuous:
            return [_key(f"{name}: {len(self.levels)} levels", "", _style.INK)]
        entries = [_key(f"{name}:", "", _style.INK)]
        count = len(self.levels)
        shown = np.linspace(0, count - 1, 4).round().astype(int) if continuous else range(count)
        for i in map(int, shown):
            shade = self.colours[i] if colour else "#777777"
            sign = "o" if continuous else _panels.look(i).marker
            entries.append(_key(self.levels[i], sign if marker else "s", shade))
        if np.any(self.codes < 0):
            entries.append(_key("missing", "x" if marker else "s", _ABSENT))
        return entries


def columns(groups: Groups, samples: pd.Index, most: int) -> list[Column]:
    """Return the columns of a table of groups, in the order of the samples.

    Raises
    ------
    ValueError
        A sample is not in the table, or it has more columns than a figure can show.
    """
    if groups is None:
        return []
    table = groups.to_frame(groups.name or "group") if isinstance(groups, pd.Series) else groups
    if table.shape[1] > most:
        message = (
            f"groups has {table.shape[1]} columns ({', '.join(map(str, table.columns))}); this "
            f"figure shows {most}: choose, as in adata.obs[['dex']]."
        )
        raise ValueError(message)
    if not table.index.is_unique or not samples.isin(table.index).all():
        absent = samples[~samples.isin(table.index)]
        what = f"no row {absent[0]}" if len(absent) else "rows of one name"
        message = f"groups has {what}; its index must name each sample once, as adata.obs does."
        raise ValueError(message)
    table = table.loc[samples]
    return [_column(table.iloc[:, j]) for j in range(table.shape[1])]


def _column(values: pd.Series) -> Column:
    """Return a column coded: categories keep their order unless all are numbers."""
    name = str(values.name)
    known = pd.Series(values.dropna())
    if isinstance(known.dtype, pd.CategoricalDtype):
        distinct: list[Hashable] = [v for v in known.cat.categories if (known == v).any()]
        ordered = bool(known.cat.ordered)
    else:
        distinct, ordered = list(known.unique()), False
    numbers = _numbers(distinct)
    if numbers is not None and not ordered:
        order = np.argsort(numbers, kind="stable")
        distinct, numbers = [distinct[i] for i in order], numbers[order]
    place = {value: i for i, value in enumerate(distinct)}
    codes = np.array([place.get(value, -1) for value in values], dtype=int)
    written = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in distinct]
    levels = tuple(_panels.shortened(text, _NAME, _SIZE) for text in written)
    if (
        numbers is not None
        and len(levels) > _FEW
        and isinstance(values.dtype, np.dtype)
        and values.dtype.kind in "fiu"
    ):
        shade = 0.85 * (numbers - numbers[0]) / (numbers[-1] - numbers[0])
        return Column(name, codes, levels, _sampled("viridis", shade), values.to_numpy(float))
    return Column(name, codes, levels, _palette(len(levels), steps=numbers is not None))


def _numbers(values: Sequence[Hashable]) -> Float[np.ndarray, "k"] | None:
    """Return values as numbers, where all are or read as such."""
    try:
        found = np.array([float(str(value)) for value in values])
    except ValueError:
        return None
    return found if len(found) and np.isfinite(found).all() else None


def _palette(count: int, *, steps: bool) -> tuple[str, ...]:
    """Return colours: the house's; steps of one scale for numbers; a scale's where they end."""
    if steps and count > 2:
        return _sampled("viridis", np.linspace(0.0, 0.85, count))
    if count <= 7:
        return tuple(_panels.look(i).colour for i in range(count))
    if count <= 20:
        return _sampled("tab20", (np.arange(count) + 0.5) / 20)
    return _sampled("turbo", np.linspace(0.03, 0.97, count))


def _sampled(name: str, at: np.ndarray) -> tuple[str, ...]:
    return tuple(to_hex(colour) for colour in mpl.colormaps[name](at))


def _key(text: str, marker: str, colour: str) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="",
        marker=marker,
        color=colour,
        markersize=4.5,
        markeredgewidth=1.0 if marker == "x" else 0.0,
        label=text,
    )


def above(ax: Axes) -> Transform:
    """Return the transform of x in data units and y in points above the axes."""
    return blended_transform_factory(ax.transData, _points(ax))


def _points(ax: Axes) -> Transform:
    inches, top = _panels.whole(ax).dpi_scale_trans, cast("Affine2DBase", ax.transAxes)
    return Affine2D().scale(1 / 72) + inches + ScaledTranslation(0, 1, top)


def legends(ax: Axes, parts: Sequence[Sequence[Line2D]], up: float = 2.0) -> float:
    """Put a legend of each part above the axes, the first on top, from so many points up.

    Return the top, in points.
    """
    room = ax.get_window_extent().width * 72 / _panels.whole(ax).dpi
    place = blended_transform_factory(ax.transAxes, _points(ax))
    last: Legend | None = None
    for part in reversed(parts):
        if not part:
            continue
        texts = [str(key.get_label()) for key in part]
        widths = [_panels.length(text, _SIZE) + 1.95 * _SIZE for text in texts]
        rows = next(
            r for r in range(1, len(part) + 1) if _wide(widths, r) <= room or r == len(part)
        )
        count = -(-len(part) // rows)
        order = [i for column in range(count) for i in range(column, len(part), count)]
        if last is not None:
            ax.add_artist(last)
        last = ax.legend(
            handles=[part[i] for i in order],
            labels=[_panels.plain(texts[i]) for i in order],
            loc="lower left",
            bbox_to_anchor=(0.0, up),
            bbox_transform=place,
            ncols=count,
            frameon=False,
            fontsize=_SIZE,
            labelcolor=_style.INK,
            handlelength=0.8,
            handletextpad=0.4,
            columnspacing=0.9,
            borderaxespad=0.0,
            borderpad=0.1,
            labelspacing=_LINE - 1.15,
        )
        up += rows * _LINE * _SIZE + 1.5
    return up


def _wide(widths: Sequence[float], rows: int) -> float:
    """Return the width of a legend of so many rows, whose columns are as wide as they must be."""
    count = -(-len(widths) // rows)
    return sum(max(widths[column::count]) for column in range(count))


def bars(ax: Axes, found: Sequence[Column], order: Int[np.ndarray, "n"]) -> float:
    """Draw a bar of each column above a map, samples in this order; return its top, in points."""
    up = _GAP
    for column in reversed(found):
        shades = np.array(column.colour(), dtype=object)[order]
        edges = np.flatnonzero(shades[1:] != shades[:-1]) + 1  # one bar for neighbours alike
        first = np.concatenate([[0], edges])
        last = np.concatenate([edges, [len(shades)]])
        ax.broken_barh(
            list(zip(first - 0.5, last - first, strict=True)),
            (up, _BAR),
            facecolors=list(shades[first]),
            linewidth=0,
            transform=above(ax),
            clip_on=False,
        )
        ax.annotate(
            _panels.shortened(column.name, _NAME, _panels.TICK),
            (-0.5, up + _BAR / 2),
            xycoords=above(ax),
            xytext=(-3, 0),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=_panels.TICK,
            color=_style.INK,
            parse_math=False,
            annotation_clip=False,
        )
        up += _BAR + _GAP
    return up
