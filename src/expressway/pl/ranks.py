"""The figure of ranks: how sure it is that a gene is among the first."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from . import _style

# Genes drawn for each one that is among the first: the others' intervals would hide these.
_TIMES = 1.5
_MARGIN = 1.12
# Names stand above a probability of 1: where they begin, points between them, degrees.
_ABOVE, _FOOT, _APART, _SLANT = 1.32, 1.03, 12.0, 35.0
_NAME = 6.5


def ranks(
    table: pd.DataFrame,
    *,
    level: float = 0.9,
    contrast: str | None = None,
    label: int | Sequence[str] = 10,
    ax: Axes | None = None,
) -> Axes:
    """Axes with the probability of being among the first k genes against the median rank.

    Lines are intervals of ranks. Half as many more genes are drawn as are among the first, those of
    the highest probabilities; in the accent colour those that are more likely among them than not.

    Parameters
    ----------
    table
        As `tl.intervals` makes it: index gene, columns rank, rank_lower, rank_upper,
        probability_top. The probabilities of all genes add up to k.
    level
        Of the intervals, for the legend.
    contrast
        What is compared, for the axis title.
    label
        How many of the first genes to name, or the genes to name: those whose names do not meet.
    ax
        Where to draw, names placed for its present size; by default a figure of its own.

    Raises
    ------
    ValueError
        A column is missing, no gene is ranked, or a gene to label is not drawn.
    """
    rank, lower, upper, share = _style.columns(
        table, "rank", "rank_lower", "rank_upper", "probability_top"
    )
    known = np.isfinite(rank)
    if not known.any():
        message = f"none of {len(table)} genes has a rank; pass a table as tl.intervals makes it"
        raise ValueError(message)
    k = round(float(share[known].sum()))
    order = np.lexsort((rank, -share))
    shown = order[known[order]][: round(_TIMES * k)]
    name = table.index.to_numpy(dtype=str)[shown]
    rank, lower, upper, share = (part[shown] for part in (rank, lower, upper, share))
    likely = share > 0.5

    ax = _style.axes(ax)
    _style.logarithmic(ax, "x")
    ax.set_xlim(1 / _MARGIN, max(float(upper.max()), 2.0) * _MARGIN)
    ax.set_ylim(-0.03, _ABOVE)
    ax.set_yticks(np.linspace(0, 1, 6))
    ax.spines["left"].set_bounds(0, 1)
    ax.vlines(k + 0.5, 0, 1, color=_style.INK, linewidth=0.8, zorder=1)
    for colour, some, alpha in ((_style.MUTED, ~likely, 0.3), (_style.ACCENT, likely, 0.4)):
        lines = [
            [(a, y), (b, y)] for a, b, y in zip(lower[some], upper[some], share[some], strict=True)
        ]
        ax.add_collection(LineCollection(lines, colors=colour, linewidths=0.6, alpha=alpha))
        cloud = _style.Cloud(rank[some], share[some], np.full(some.sum(), "o"))
        _style.scatter(ax, cloud, colour)
    beside = f" ({contrast})" if contrast else ""
    _style.titles(ax, f"rank{beside}", f"probability of being among the first {k:,}")
    _style.legend(
        ax,
        [
            _style.Entry("o", _style.ACCENT, f"probability above .5: {likely.sum():,} genes"),
            _style.Entry("o", _style.MUTED, f"other genes drawn: {np.sum(~likely):,}"),
            _style.Entry("-", _style.MUTED, f"{100 * level:g} % interval of the rank"),
            _style.Entry("-", _style.INK, f"rank {k:,}"),
        ],
    )
    _write(ax, name, rank, share, _rows(name, rank, label))
    return ax


def _write(
    ax: Axes, name: np.ndarray, rank: np.ndarray, share: np.ndarray, rows: np.ndarray
) -> None:
    """Write names above the axes' highest probability, slanted, where they do not meet."""
    low, high = np.log(ax.get_xlim())
    apart = _APART / (ax.get_window_extent().width * 72 / ax.figure.dpi) * (high - low)
    last = -np.inf
    for row in rows:
        if np.log(rank[row]) - last < apart:
            continue
        last = np.log(rank[row])
        ax.vlines(rank[row], share[row] + 0.01, _FOOT, color=_style.INK, linewidth=0.4, zorder=4)
        ax.text(
            float(rank[row]),
            _FOOT,
            str(name[row]),
            rotation=_SLANT,
            rotation_mode="anchor",
            ha="left",
            va="bottom",
            fontsize=_NAME,
            color=_style.INK,
            parse_math=False,
        )


def _rows(name: np.ndarray, rank: np.ndarray, label: int | Sequence[str]) -> np.ndarray:
    """Return the rows of the first genes, or of those asked for."""
    if isinstance(label, int):
        return np.argsort(rank, kind="stable")[:label]
    if absent := sorted(set(label) - set(name)):
        message = (
            f"cannot label {', '.join(absent)}: no such gene is drawn. Name genes as the table's "
            "index does, of the first ranks."
        )
        raise ValueError(message)
    return np.flatnonzero(np.isin(name, list(label)))
