"""The co-clustering figure: how probable it is that two genes share a module."""

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from expressway._types import Float, Int

from . import _maps, _panels, _style, _ticks

# Genes in the map.
_DRAWN = 400
_SIZE = (4.8, 4.2)  # inches


class _Genes(NamedTuple):
    """The genes of the map, in its order."""

    probability: Float[np.ndarray, "g k"]
    module: Int[np.ndarray, "g"]
    names: list[Hashable]
    """Of the modules, by number."""


def co_clustering(
    probabilities: pd.DataFrame | Float[np.ndarray, "g k"],
    labels: pd.Series | np.ndarray | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Axes with a map of the probability that two genes share a module, genes by module.

    It is r_g·r_h, with r_g the probabilities of the gene's modules: those of two genes are taken
    as independent. The diagonal is of two genes like this one. Modules come by number and
    are parted by lines; within one, the genes that share most with it come first. Of more than
    400 genes about 400 are drawn, evenly chosen, of each module in proportion to its size and one
    at least.

    Parameters
    ----------
    probabilities
        Of each gene (row) for each module (column); a row sums to 1. Genes without any (missing
        values) are left out.
    labels
        The module of each gene, in the order of the rows; by default the number (from 1) of the
        most probable column. Genes without one are left out.
    ax
        Where to draw; by default a figure of its own.

    Raises
    ------
    ValueError
        No gene has a module, or there are not as many labels as genes.
    """
    found = _ordered(np.asarray(probabilities, dtype=float), labels)
    drawn = _some(found)
    shared = np.clip(drawn.probability @ drawn.probability.T, 0.0, 1.0)

    if ax is None:
        (ax,) = _panels.grid(1, 1, _SIZE, same_y=False)
    else:
        _style.axes(ax)
    shades = _maps.Shades(0.0, 1.0)
    mesh = _maps.squares(ax, shared, shades)
    n = len(shared)
    bounds = np.flatnonzero(np.diff(drawn.module)) + 0.5
    for draw in (ax.hlines, ax.vlines):
        draw(bounds, -0.5, n - 0.5, color=_style.INK, linewidth=0.3, alpha=0.6, zorder=3)
    edges = np.concatenate([[-0.5], bounds, [n - 0.5]])
    texts = [
        _panels.shortened(_panels.written(name), _maps.NAME, _panels.TICK) for name in found.names
    ]
    _ticks.place(ax, "y", (edges[1:] + edges[:-1]) / 2, texts, height=True, last=False)
    ax.set_xticks([])
    ax.tick_params(axis="y", length=0)
    total = len(found.module)
    genes = f"{total:,} gene" + ("s" if total != 1 else "")
    _style.titles(ax, genes if n == total else f"{n:,} of {genes}", "module")
    _maps.bar(ax, mesh, shades, "probability of the same module")
    return ax


def _ordered(
    probability: Float[np.ndarray, "g k"], labels: pd.Series | np.ndarray | None
) -> _Genes:
    """Return the genes with a module, sorted by it; first those that share most with the others."""
    total = len(probability)
    known = np.asarray(np.isfinite(probability).all(axis=1))
    if labels is None:
        label = np.full(total, np.nan, dtype=object)
        if probability.shape[1]:
            label[known] = np.argmax(probability[known], axis=1) + 1
    else:
        label = np.array(labels, dtype=object)
        if len(label) != total:
            message = (
                f"there are {len(label)} labels of {total} genes; each gene needs one. Pass "
                "them in the order of the rows of the probabilities."
            )
            raise ValueError(message)
    known &= ~pd.isna(label)
    if not known.any():
        message = (
            f"none of {total} genes has a module and probabilities; one gene at least needs them."
        )
        raise ValueError(message)
    probability = probability[known]
    module, names = pd.factorize(label[known], sort=True)
    # The columns need not be those of the labels, so a gene is compared with its module's average.
    own = np.empty(len(module))
    for i in range(len(names)):
        here = module == i
        own[here] = probability[here] @ probability[here].mean(axis=0)
    order = np.lexsort((-own, module))
    return _Genes(probability[order], module[order], list(names))


def _some(genes: _Genes) -> _Genes:
    """Return the genes to draw."""
    total = len(genes.module)
    if total <= _DRAWN:
        return genes
    sizes = np.bincount(genes.module)
    share = np.maximum(np.floor(sizes * _DRAWN / total), 1).astype(int)
    starts = np.cumsum(sizes) - sizes
    rows = np.concatenate(
        [
            start + np.linspace(0, size - 1, count).round().astype(int)
            for start, size, count in zip(starts, sizes, share, strict=True)
        ]
    )
    return genes._replace(probability=genes.probability[rows], module=genes.module[rows])
