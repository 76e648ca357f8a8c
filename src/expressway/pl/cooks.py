"""The figure of Cook's distances: which samples move many genes, and which counts are outliers."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

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
    boxes = [_box(value[i, known[i]]) for i in range(n)]
    drawn = [i for i in range(n) if known[i].any()]
    thin = n > 60
    line = {"color": _style.INK, "linewidth": 0.4 if thin else 0.7}
    ax.bxp(
        [boxes[i] for i in drawn],
        positions=drawn,
        widths=0.8 if thin else 0.6,
        showfliers=False,
        showcaps=False,
        patch_artist=True,
        manage_ticks=False,
        boxprops={"facecolor": _SHADE, "edgecolor": _style.INK, "linewidth": line["linewidth"]},
        medianprops={"color": _style.SECOND, "linewidth": 0.8 if thin else 1.4},
        whiskerprops=line,
    )
    at, gene = np.nonzero(known & (value > limit))
    cloud = _style.Cloud(at.astype(float), value[at, gene], np.full(len(at), "o"))
    _style.scatter(ax, cloud, _style.ACCENT)
    _style.logarithmic(ax, "y")
    low = min((boxes[i]["whislo"] for i in drawn), default=0.1)
    high = max((boxes[i]["whishi"] for i in drawn), default=1.0)
    high = max(high, 1.0, limit if limit < np.inf else 0.0, value[known].max(initial=0.0))
    ax.set_ylim(low / 1.6, high * 1.6)
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


def _box(value: np.ndarray) -> dict[str, float]:
    """Return what `Axes.bxp` draws."""
    if not len(value):
        return {}
    low, first, median, third, high = np.quantile(value, _QUANTILES)
    return {"whislo": low, "q1": first, "med": median, "q3": third, "whishi": high}
