"""The MA figure: how far genes change, against how much they are expressed."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from . import _style


def ma(
    results: pd.DataFrame,
    *,
    contrast: str | None = None,
    alpha: float = 0.1,
    label: int | Sequence[str] = 10,
    ax: Axes | None = None,
) -> Axes:
    """Axes with log2 fold changes against means of normalised counts (log scale).

    Genes with ``p_adj < alpha`` have the accent colour; a missing ``p_adj`` is not significant.
    Fold changes beyond 1.5 times the 99.9 % quantile of their sizes stand at the edge as
    triangles. Genes without a fold change, or with a mean of zero, are not drawn.

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
    edge = _style.edge(genes.change)
    beyond = [genes.change > edge, genes.change < -edge]
    cloud = _style.Cloud(
        x=genes.mean,
        y=genes.change.clip(-edge, edge),
        marker=np.select(beyond, ["^", "v"], "o"),
    )

    own = ax is None
    ax = _style.axes(ax)
    _style.logarithmic(ax, "x")
    ax.set_ylim(-1.06 * edge, 1.06 * edge)
    ax.axhline(0, color=_style.INK, linewidth=0.8, zorder=3)
    entries = _style.scatter_genes(ax, cloud, genes, alpha)
    if number := np.count_nonzero(beyond):
        entries.append(_style.Entry("^", _style.INK, f"beyond the axis: {number:,}"))
    _style.titles(ax, "mean of normalised counts", _style.change_title(contrast))
    _style.legend(ax, entries)
    _style.write_names(ax, cloud, genes.name, _style.to_name(genes, label), own=own)
    return ax
