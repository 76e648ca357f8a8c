"""The figure of Cook's distances: which samples move many genes, and which counts are outliers."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from expressway._types import Float

from . import _maps, _panels, _style

_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# Distances below are of counts that are fitted to rounding.
_LEAST = 1e-12
_HEIGHT = 3.4  # inches


def cooks(
    distances: pd.DataFrame,
    cutoff: float | None = None,
    *,
    ax: Axes | None = None,
) -> Axes:
    """Axes with a box of each sample's Cook's distances over genes (log scale).

    Boxes are quartiles with the median, whiskers go from the 5 % to the 95 % quantile. A dot is a
    count whose distance is above the cutoff. A sample whose box stands above the others moves many
    genes: look at its quality. Distances of 0 and missing ones are not drawn.

    Parameters
    ----------
    distances
        Samples × genes, as `tl.cooks` makes it.
    cutoff
        Above it a count is an outlier: ``adata.uns["de"]["cooks_cutoff"]``.
    ax
        Where to draw; by default a figure of its own.

    Raises
    ------
    ValueError
        There is no sample.
    """
    names = [str(name) for name in distances.index]
    n = len(names)
    if not n:
        message = "there are no samples; pass distances as tl.cooks makes them."
        raise ValueError(message)
    value = distances.to_numpy(float)
    known = np.isfinite(value) & (value > _LEAST)
    limit = np.inf if cutoff is None else cutoff

    if ax is None:
        width = float(np.clip(1.0 + 0.28 * n, 3.4, _panels.PAGE))
        (ax,) = _panels.grid(1, 1, (width, _HEIGHT), same_y=False)
    else:
        _style.axes(ax)
    boxes = np.array([_box(value[i, known[i]]) for i in range(n)])
    some = np.flatnonzero(known.any(axis=1))
    low, first, median, third, high = boxes[some].T
    thin, half = (0.4, 0.4) if n > 60 else (0.7, 0.3)
    for start, end in ((low, first), (third, high)):
        ax.vlines(some, start, end, color=_style.INK, linewidth=thin, zorder=1)
    ax.bar(
        some,
        third - first,
        2 * half,
        bottom=first,
        color=_SHADE,
        edgecolor=_style.INK,
        linewidth=thin,
        zorder=2,
    )
    ax.hlines(median, some - half, some + half, color=_style.SECOND, linewidth=2 * thin, zorder=3)
    at, gene = np.nonzero(known & (value > limit))
    cloud = _style.Cloud(at.astype(float), value[at, gene], np.full(len(at), "o"))
    _style.scatter(ax, cloud, _style.ACCENT)
    _style.logarithmic(ax, "y")
    lowest = low.min(initial=0.1)
    highest = np.concatenate([high, value[known], [1.0, limit if limit < np.inf else 0.0]]).max()
    ax.set_ylim(lowest / 1.6, highest * 1.6)
    ax.set_xlim(-0.6, n - 0.4)
    entries = []
    if cutoff is not None:
        ax.axhline(cutoff, color=_style.ACCENT, linewidth=0.9, zorder=3)
        entries.append(_style.Entry("-", _style.ACCENT, f"cutoff {cutoff:.3g}"))
        of = f", of {len(np.unique(gene)):,} genes" if len(at) else ""
        text = f"counts above it: {len(at):,}{of}"
        entries.append(_style.Entry("o", _style.ACCENT, text))
        _style.legend(ax, entries)
    shown = _maps.name_samples(ax, names)
    _style.titles(ax, "" if shown else f"{n:,} samples", "Cook's distance")
    return ax


_SHADE = "#DCE7F0"


def _box(value: Float[np.ndarray, "k"]) -> Float[np.ndarray, "5"]:
    """Return the ends of a box and its whiskers, and the median."""
    return np.quantile(value, _QUANTILES) if len(value) else np.full(5, np.nan)
