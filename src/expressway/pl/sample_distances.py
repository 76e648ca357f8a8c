"""The figure of distances between samples: which are alike, and which stand apart."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from scipy.cluster import hierarchy
from scipy.spatial.distance import squareform

from expressway._types import Float

from . import _groups, _maps, _style
from ._trees import tree


def sample_distances(
    transformed: pd.DataFrame,
    groups: pd.DataFrame | pd.Series | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Axes with a map of the Euclidean distances between samples, in the order of their tree.

    The tree is of complete linkage (the largest distance between two clusters), as DESeq2's
    vignette has it. Bars above the map have the colours of the groups. Samples are named if there
    is room for all names.

    Parameters
    ----------
    transformed
        Samples × genes, on a scale where variance does not grow with the mean: logarithms, or a
        variance-stabilising transform. Genes with a missing value are left out.
    groups
        Of each sample, index as that of `transformed`: a bar for each of up to four columns.
    ax
        Where to draw; by default a figure of its own.

    Raises
    ------
    ValueError
        There is one sample, no gene without missing values, or groups of other samples.
    """
    found = _groups.columns(groups, transformed.index, 4)
    distance = distances(transformed.to_numpy(float))
    n = len(distance)
    merges = hierarchy.linkage(squareform(distance, checks=False), "complete")
    order = hierarchy.leaves_list(merges)
    names = [str(transformed.index[i]) for i in order]
    sheet = _maps.samples(ax, names, bars=[column.name for column in found])
    ax = sheet.ax
    apart = distance[~np.eye(n, dtype=bool)]
    low, high = float(apart.min()), float(apart.max())
    # From 0, all samples would have nearly one colour.
    shades = _maps.Shades(low, high, "min") if low < high else _maps.Shades(0.0, high or 1.0)
    rim = 0.3 if n <= 60 else 0.0
    mesh = _maps.squares(ax, distance[np.ix_(order, order)], shades, rim=rim, near=True)
    up = _groups.bars(ax, found, order)
    up += tree(ax, merges, up)
    up = _groups.legends(ax, [column.keys(marker=False) for column in found], up + 2)
    if not sheet.named:
        _style.titles(ax, f"{n:,} samples", "")
    _maps.finish(sheet, mesh, shades, "distance", up)
    return ax


def distances(value: Float[np.ndarray, "n g"]) -> Float[np.ndarray, "n n"]:
    """Return the Euclidean distances of rows, over the columns without missing values."""
    if len(value) < 2:
        message = f"there is {len(value)} sample; distances need two or more."
        raise ValueError(message)
    value = value[:, np.isfinite(value).all(axis=0)]
    if not value.shape[1]:
        message = "no gene has a value in every sample: there is nothing to compare."
        raise ValueError(message)
    value = value - value.mean(axis=0)  # products of small numbers lose fewer digits
    product = value @ value.T
    size = np.diagonal(product)
    square = np.maximum(size[:, None] + size[None, :] - 2 * product, 0.0)
    np.fill_diagonal(square, 0.0)
    return np.sqrt((square + square.T) / 2)
