"""The posterior-predictive check: statistics of genes as observed and as the model expects them."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from expressway._types import Bool, Float, Int

from . import _lines, _panels, _style

_STATISTICS = {"zeros": "share of zeros", "sd": "sd of log1p normalised count"}
_WIDTH = {1: 3.6, 2: 6.8}
# Intervals in a panel: more would hide the genes.
_DRAWN = 40


def predictive(table: pd.DataFrame) -> np.ndarray:
    """Array of Axes, one a statistic: observed against expected, and where it should be.

    One point a gene, vermillion where the observed value is outside its 90 % interval; the title
    says which share, for a model that fits a tenth at most (less where the statistic takes few
    values). Bars are the intervals, of at most 40 genes, evenly along the axis. The
    line is where both are the same. A few standard deviations that are more than three times as
    far from the lowest as all others stand at the edge as triangles.

    Parameters
    ----------
    table
        Columns gene, statistic (``"zeros"``, the share of zeros; ``"sd"``, the standard deviation
        of log1p of the normalised count), observed, expected, lower, upper.

    Raises
    ------
    ValueError
        A column is missing, or no gene has an observed and an expected value and an interval.
    """
    _panels.check(
        table, "the predictive check", "gene", "statistic", "observed", "expected", "lower", "upper"
    )
    values = [_panels.number(table, name) for name in ("observed", "expected", "lower", "upper")]
    rows = table.take(np.flatnonzero(np.isfinite(values).all(axis=0)))
    names = [name for name in _STATISTICS if (rows["statistic"] == name).any()]
    if not names:
        message = (
            f"none of {len(table)} rows of the predictive check has an observed and an expected "
            f"value and an interval of {' or '.join(map(repr, _STATISTICS))}; one at least needs "
            "them."
        )
        raise ValueError(message)

    n = len(names)
    panels = _panels.grid(n, n, (_WIDTH[n], 3.6), same_y=False)
    for ax, name in zip(panels, names, strict=True):
        part = _panels.where(rows, "statistic", name)
        outside = _draw(ax, part, share=name == "zeros")
        said = f"{_STATISTICS[name]}: {100 * outside.mean():.1f} % outside"
        _panels.title(ax, said, _WIDTH[n] / n - 0.6)
    genes = rows["gene"].nunique()
    many = f"{genes:,} gene" + ("s" if genes != 1 else "")
    _panels.axis_titles(panels[0], f"expected ({many})", "observed")
    _panels.legend(panels[0], _keys())
    return _panels.array(panels)


def _draw(ax: Axes, part: pd.DataFrame, *, share: bool) -> Bool[np.ndarray, "g"]:
    """Draw one statistic; return which genes are outside their interval."""
    observed, expected, lower, upper = (
        _panels.number(part, name) for name in ("observed", "expected", "lower", "upper")
    )
    outside = (observed < lower) | (observed > upper)
    top = np.inf if share else _panels.ceiling(np.concatenate([observed, expected]))
    inside = (observed <= top) & (expected <= top)
    some = _along(np.where(inside, expected, np.inf))
    inner = np.concatenate([observed[inside], expected[inside]])
    low, high = _lines.span(inner, np.concatenate([lower[some], upper[some]]))
    far = ~inside
    edge = high + (0.04 * (high - low) if far.any() else 0.0)
    margin = 0.04 * (edge - low) or 0.5
    ax.set_aspect("equal")
    ax.set_xlim(low - margin, edge + margin)
    ax.set_ylim(low - margin, edge + margin)
    ax.plot([low, high], [low, high], color=_style.INK, linewidth=0.5, zorder=3)

    ends = np.stack([np.column_stack([expected, lower]), np.column_stack([expected, upper])], 1)
    how = {"colors": _style.SECOND, "linewidths": 0.7, "alpha": 0.8, "rasterized": True}
    # Under the genes, where these are few; many would hide them.
    over = 2.5 if len(part) > _DRAWN else 1.5
    ax.add_collection(LineCollection(list(ends[some]), **how, zorder=over))
    x, y = (np.where(value > top, edge, value) for value in (expected, observed))
    for colour, chosen in ((_style.MUTED, ~outside), (_style.ACCENT, outside)):
        cloud = _style.Cloud(x[chosen], y[chosen], np.where(far, "^", "o")[chosen])
        _style.scatter(ax, cloud, colour)
    ax.locator_params(nbins=6)
    return outside


def _along(expected: Float[np.ndarray, "g"]) -> Int[np.ndarray, "_"]:
    """Return the rows of a few genes, evenly along their expectations; infinite ones have none."""
    order = np.argsort(expected, kind="stable")[: np.count_nonzero(np.isfinite(expected))]
    if len(order) <= _DRAWN:
        return order
    value = expected[order]
    return order[np.unique(np.searchsorted(value, np.linspace(value[0], value[-1], _DRAWN)))]


def _keys() -> list[Line2D]:
    """Return the entries of the legend."""
    dots = [
        _panels.key(_panels.Look(colour, "-", "o"), text, line=False)
        for colour, text in ((_style.MUTED, "gene in its interval"), (_style.ACCENT, "outside it"))
    ]
    interval = Line2D([], [], color=_style.SECOND, linewidth=0.8, label="90 % interval")
    same = Line2D([], [], color=_style.INK, linewidth=0.7, label="observed = expected")
    return [*dots, interval, same]
