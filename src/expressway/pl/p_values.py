"""The histogram of p-values: flat where nothing changes, a peak at 0 where genes do."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from . import _style


def p_values(
    results: pd.DataFrame,
    *,
    contrast: str | None = None,
    bins: int = 40,
    ax: Axes | None = None,
) -> Axes:
    """Axes with a histogram of the p-values, those of filtered genes in another shade on top.

    Filtered are genes with a p-value and no adjusted one: their mean is below the independent
    filter's threshold. Among the others, genes that do not change have a flat histogram; a hill
    towards 1, or in the middle, says that the model's standard errors are not right.

    Parameters
    ----------
    results
        Results table: index gene, columns p_value, p_adj.
    contrast
        What is compared, for the axis title.
    bins
        Number of bars.
    ax
        Where to draw; by default a figure of its own.

    Raises
    ------
    ValueError
        A column is missing.
    """
    p_value, p_adj = _style.columns(results, "p_value", "p_adj")
    known = np.isfinite(p_value)
    filtered = known & np.isnan(p_adj)
    edges = np.linspace(0, 1, bins + 1)
    tested = np.histogram(p_value[known & ~filtered], edges)[0]
    rest = np.histogram(p_value[filtered], edges)[0]

    ax = _style.axes(ax)
    bar = {"width": 1 / bins, "align": "edge", "linewidth": 0.4, "edgecolor": "white"}
    ax.bar(edges[:-1], tested, color=_style.SECOND, **bar)
    ax.bar(edges[:-1], rest, bottom=tested, color=_style.MUTED, **bar)
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1.05 * max(int((tested + rest).max(initial=0)), 1))
    ax.yaxis.set_major_locator(MaxNLocator("auto", integer=True))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    _style.titles(ax, "p-value" + (f" ({contrast})" if contrast else ""), "genes")
    entries = [_style.Entry("s", _style.SECOND, f"tested: {tested.sum():,}")]
    if filtered.any():
        text = f"filtered by mean count: {rest.sum():,}"
        entries.append(_style.Entry("s", _style.MUTED, text))
    if missing := np.count_nonzero(~known):
        entries.append(_style.Entry("", _style.INK, f"without a p-value: {missing:,}"))
    _style.legend(ax, entries)
    return ax
