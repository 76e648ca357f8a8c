"""The volcano figure: how sure a change is, against how large."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from . import _style


def volcano(
    results: pd.DataFrame,
    *,
    contrast: str | None = None,
    alpha: float = 0.1,
    label: int | Sequence[str] = 10,
    ax: Axes | None = None,
) -> Axes:
    """Axes with -log10 of the p-values against log2 fold changes.

    Genes with ``p_adj < alpha`` have the accent colour; a missing ``p_adj`` is not significant.
    Fold changes beyond 1.5 times the 99.9 % quantile of their sizes stand at the edge as
    triangles. A p-value of 0, too small for a float, is drawn as a triangle at the smallest
    p-value above 0 (at the smallest normal float when there is none). Genes without a fold
    change or a p-value are not drawn.

    Parameters
    ----------
    results
        Results table: index gene, columns base_mean, log2_fold_change, stat, p_value, p_adj.
    contrast
        What is compared, for the axis title, such as ``"trt vs untrt"``.
    alpha
        False discovery rate at which a gene counts as significant.
    label
        How many of the significant genes to name, by p-value, or the genes to name.
    ax
        Where to draw, names placed for its present size; by default a figure of its own.

    Raises
    ------
    ValueError
        A column is missing, or a gene to label has nothing to draw.
    """
    genes = _style.tested(results, alpha)
    genes = genes.where(~np.isnan(genes.p_value))
    edge = _style.edge(genes.change)
    beyond = [genes.change > edge, genes.change < -edge]
    zero = genes.p_value == 0
    smallest = genes.p_value[~zero].min(initial=1.0) if not zero.all() else np.finfo(float).tiny
    cloud = _style.Cloud(
        x=genes.change.clip(-edge, edge),
        y=-np.log10(genes.p_value.clip(smallest)),
        marker=np.select([zero, *beyond], ["^", ">", "<"], "o"),
    )

    own = ax is None
    ax = _style.axes(ax)
    ax.set_xlim(-1.06 * edge, 1.06 * edge)
    ax.set_ylim(0, 1.06 * cloud.y.max(initial=1.0))
    ax.axvline(0, color=_style.INK, linewidth=0.8, zorder=1)
    entries = _style.scatter_genes(ax, cloud, genes, alpha)
    if number := np.count_nonzero(beyond):
        entries.append(_style.Entry(">", _style.INK, f"beyond the axis: {number:,}"))
    if number := np.count_nonzero(zero):
        entries.append(_style.Entry("^", _style.INK, f"p = 0, drawn at {smallest:.0e}: {number:,}"))
    _style.titles(ax, _style.change_title(contrast), "\N{MINUS SIGN}log₁₀ p-value")
    _style.legend(ax, entries)
    _style.write_names(ax, cloud, genes.name, _style.to_name(genes, label), own=own)
    return ax
