"""The posterior-predictive check: statistics of genes as observed and as the model expects them."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D

from expressway._types import Bool

from . import _panels, _style

_STATISTICS = {"zeros": "share of zeros", "sd": "sd of log1p normalised count"}
_WIDTH = {1: 3.6, 2: 6.4}
# Intervals in a panel; more would be one surface.
_DRAWN = 300
_DOT = 4.0  # square points


def predictive(table: pd.DataFrame) -> np.ndarray:
    """Array of Axes, one a statistic: observed against expected, and where it should be.

    One point a gene, vermillion where the observed value is outside its 90 % interval; the title
    says how many are, which for a model that fits is a tenth at most (fewer where the statistic
    takes few values). Bars are the intervals, of at most 300 genes, evenly chosen by their
    expectation. The line is where both are the same. A few values that are more than three times
    as far from the lowest as all others stand at the edge as triangles.

    Parameters
    ----------
    table
        Columns gene, statistic (``"zeros"``, the share of zeros; ``"sd"``, the standard deviation
        of log1p of the normalised count), observed, expected, lower, upper.

    Raises
    ------
    ValueError
        A column is missing, or no gene has both an observed and an expected value.
    """
    _panels.check(
        table, "the predictive check", "gene", "statistic", "observed", "expected", "lower", "upper"
    )
    known = np.isfinite(_panels.number(table, "observed") + _panels.number(table, "expected"))
    rows = table.take(np.flatnonzero(known))
    names = [name for name in _STATISTICS if (rows["statistic"] == name).any()]
    if not names:
        message = (
            f"none of {len(table)} rows of the predictive check has an observed and an expected "
            f"value of {' or '.join(map(repr, _STATISTICS))}; it needs one at least."
        )
        raise ValueError(message)

    n = len(names)
    panels = _panels.grid(n, n, (_WIDTH[n], 3.6), same_y=False)
    for ax, name in zip(panels, names, strict=True):
        part = _panels.where(rows, "statistic", name)
        outside = _draw(ax, part, share=name == "zeros")
        _panels.title(ax, f"{_STATISTICS[name]}: {_said(outside)}", _WIDTH[n] / n - 0.6)
    _panels.axis_titles(panels[0], "expected", "observed")
    _panels.legend(panels[0], _keys())
    return _panels.array(panels)


def _said(outside: Bool[np.ndarray, "g"]) -> str:
    """Return how many genes are outside their interval."""
    n = np.count_nonzero(outside)
    genes = f"{len(outside):,} gene" + ("s" if len(outside) != 1 else "")
    return f"{n:,} of {genes} ({n / len(outside):.1%}) outside".replace("%", " %")


def _draw(ax: Axes, part: pd.DataFrame, *, share: bool) -> Bool[np.ndarray, "g"]:
    """Draw one statistic; return which genes are outside their interval."""
    observed, expected, lower, upper = (
        _panels.number(part, name) for name in ("observed", "expected", "lower", "upper")
    )
    outside = (observed < lower) | (observed > upper)
    top = 1.0 if share else _panels.ceiling(np.concatenate([observed, expected]))
    largest = float(max(observed.max(), expected.max()))
    high = min(top, largest) or 1.0
    edge = 1.04 * high if high < largest else high
    ax.set_aspect("equal")
    low = 0.0 if share else min(observed.min(), expected.min(), high)
    margin = 0.04 * (edge - low) or 1.0
    ax.set_xlim(low - margin, edge + margin)
    ax.set_ylim(low - margin, edge + margin)
    ax.plot([low, high], [low, high], color=_style.INK, linewidth=0.7, zorder=3)

    order = np.argsort(expected, kind="stable")
    some = order[np.linspace(0, len(order) - 1, min(_DRAWN, len(order))).round().astype(int)]
    some = some[np.isfinite(lower[some] + upper[some]) & (expected[some] <= high)]
    ends = np.stack([np.column_stack([expected, lower]), np.column_stack([expected, upper])], 1)
    how = {"colors": _style.SECOND, "linewidths": 0.5, "alpha": 0.25, "rasterized": True}
    ax.add_collection(LineCollection(list(ends[some]), **how, zorder=1))
    far = (observed > high) | (expected > high)
    x, y = (np.where(value > high, edge, value) for value in (expected, observed))
    for colour, chosen in ((_style.SECOND, ~outside), (_style.ACCENT, outside)):
        cloud = _style.Cloud(x[chosen], y[chosen], np.where(far, "^", "o")[chosen])
        _style.scatter(ax, cloud, colour)
    ax.locator_params(nbins=6)
    return outside


def _keys() -> list[Line2D]:
    """Return the entries of the legend."""
    inside, outside = (
        _panels.key(_panels.Look(colour, "-", "o"), text, line=False)
        for colour, text in (
            (_style.SECOND, "in the 90 % interval"),
            (_style.ACCENT, "outside it"),
        )
    )
    same = Line2D([], [], color=_style.INK, linewidth=0.7, label="observed = expected")
    return [inside, outside, same]
