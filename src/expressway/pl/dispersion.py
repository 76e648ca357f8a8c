"""The dispersion figure: gene-wise and final estimates about their trend."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from expressway.models.trend import Trend

from . import _style

Function = Callable[[np.ndarray], np.ndarray | float]


def dispersion(
    genes: pd.DataFrame, trend: Trend | Function | tuple[float, float], *, ax: Axes | None = None
) -> Axes:
    """Axes with dispersions against means of normalised counts (both log scale).

    Dispersion is the alpha of variance = mean + alpha mean²; its square root is about the
    coefficient of variation of a highly expressed gene. Gene-wise estimates lie under the final
    ones, outliers (which keep their gene-wise estimate) in the accent colour, the trend on top.
    Estimates under a hundredth of the trend's lowest value, most of them at the lower bound of
    the fit, stand at the edge as triangles. Missing values are not drawn.

    Parameters
    ----------
    genes
        Genes table: index gene, columns base_mean, dispersion_gene_wise, dispersion,
        dispersion_outlier.
    trend
        That of a fit (``fit.trend``), dispersion as a function of the mean of normalised counts,
        or (a0, a1) of a0 + a1 / mean.
    ax
        Where to draw; by default a figure of its own.

    Raises
    ------
    ValueError
        A column is missing.
    """
    mean, gene_wise, final, outlier = _style.columns(
        genes, "base_mean", "dispersion_gene_wise", "dispersion", "dispersion_outlier"
    )
    drawn = (mean > 0) & ~np.isnan(gene_wise) & ~np.isnan(final)
    kept, shrunk = drawn & (outlier == 1), drawn & (outlier != 1)

    ax = _style.axes(ax)
    _style.logarithmic(ax, "x")
    _style.logarithmic(ax, "y")
    floor = 0.0
    if drawn.any():
        grid = np.geomspace(mean[drawn].min(), mean[drawn].max(), 200)
        if isinstance(trend, Trend):
            fitted = trend.at(grid)
        elif isinstance(trend, tuple):
            fitted = trend[0] + trend[1] / grid
        else:
            fitted = trend(grid)
        floor = np.min(fitted) / 100
        ax.plot(grid, np.broadcast_to(fitted, grid.shape), color=_style.INK, zorder=3)

    entries = [_style.Entry("-", _style.INK, "trend")]
    below = 0
    for value, rows, colour, text in (
        (gene_wise, shrunk, _style.MUTED, "gene-wise"),
        (final, shrunk, _style.SECOND, "final"),
        (final, kept, _style.ACCENT, "outliers (gene-wise kept)"),
    ):
        low = value[rows] < floor
        cloud = _style.Cloud(mean[rows], value[rows].clip(floor), np.where(low, "v", "o"))
        _style.scatter(ax, cloud, colour)
        entries.append(_style.Entry("o", colour, f"{text}: {np.count_nonzero(rows):,}"))
        below += np.count_nonzero(low)
    if below:
        entries.append(_style.Entry("v", _style.INK, f"below the axis: {below:,}"))
    _style.titles(ax, "mean of normalised counts", "dispersion")
    _style.legend(ax, entries)
    return ax
