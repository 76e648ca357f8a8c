"""The heat map of some genes: how each sample differs from the gene's mean."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.cluster import hierarchy

from expressway._types import Float, Int

from . import _groups, _maps, _style


def heatmap(
    transformed: pd.DataFrame,
    genes: Sequence[str] | pd.Index,
    groups: pd.DataFrame | pd.Series | None = None,
    *,
    label: str = "difference from the gene's mean",
    ax: Axes | None = None,
) -> Axes:
    """Axes with a map of some genes (rows) in all samples, each gene less its mean.

    Genes are in the order of a tree of complete linkage on Euclidean distances; samples are in
    the order of their groups, the first column's before the second's, and of the table within a
    group. Samples are named if there is room for all names. Missing values are grey.

    Parameters
    ----------
    transformed
        Samples × genes: logarithms, or a variance-stabilising transform.
    genes
        Columns of it, such as the index of the genes with the smallest p-values.
    groups
        Of each sample, index as that of `transformed`: a bar for each of up to four columns.
    label
        What the colours mean, for their bar: the unit of `transformed`.
    ax
        Where to draw; by default a figure of its own.

    Raises
    ------
    ValueError
        A gene is not there or there is none, or groups of other samples.
    """
    if absent := [str(gene) for gene in genes if gene not in transformed.columns]:
        message = f"no gene {', '.join(absent[:3])} in the transformed counts: their columns are."
        raise ValueError(message)
    if not len(genes) or not len(transformed):
        message = f"there are {len(genes)} genes of {len(transformed)} samples: name some of each."
        raise ValueError(message)
    found = _groups.columns(groups, transformed.index, 4)
    value = transformed.loc[:, list(genes)].to_numpy(float).T
    value = np.where(np.isfinite(value), value, np.nan)
    known = np.isfinite(value)
    mean = np.sum(np.where(known, value, 0.0), axis=1) / np.maximum(known.sum(axis=1), 1)
    value = value - mean[:, None]
    rows = _clustered(np.where(known, value, 0.0))
    order = np.lexsort([column.codes for column in reversed(found)] or [np.zeros(len(known[0]))])

    names = [str(transformed.index[i]) for i in order]
    sheet = _maps.samples(ax, names, [str(genes[i]) for i in rows], [c.name for c in found])
    ax = sheet.ax
    shown = value[np.ix_(rows, order)]
    end = float(np.quantile(np.abs(value[known]), 0.99)) if known.any() else 1.0
    beyond = bool(np.any(np.abs(value[known]) > end * (1 + 1e-9)))
    shades = _maps.Shades(-(end or 1.0), end or 1.0, "both" if beyond else "neither")
    mesh = _maps.squares(ax, shown, shades, rim=0.3 if len(names) <= 60 else 0.0)
    up = _groups.bars(ax, found, order)
    up = _groups.legends(ax, [column.keys(marker=False) for column in found], up + 1)
    if not sheet.named:
        _style.titles(ax, f"{len(names):,} samples", "")
    _maps.finish(sheet, mesh, shades, label, up)
    return ax


def _clustered(value: Float[np.ndarray, "g n"]) -> Int[np.ndarray, "g"]:
    """Return an order of rows in which those alike are neighbours."""
    if len(value) < 3:
        return np.arange(len(value))
    return hierarchy.leaves_list(hierarchy.linkage(value, "complete", optimal_ordering=True))
