"""The variance-stabilising transformation of normalised counts.

Anders & Huber 2010 (Genome Biology 11:R106, methods): ``integral of dq / sqrt(variance(q))``, with
``variance(q) = q / size factor + alpha(q) q²`` along the dispersion trend, scaled to be log2 of
large counts. DESeq2 1.38 ``R/vst.R`` (getVarianceStabilizedData).
"""

from typing import NamedTuple

import numpy as np

from expressway._errors import InputError
from expressway._types import Float
from expressway.core.spline import fmm_spline

from .trend import NOTHING, Trend

# getVarianceStabilizedData: points of the grid; quantiles of genes' means at which a numerical
# integral is log2 of the mean.
POINTS = 1000
QUANTILES = (0.95, 0.999)


class Vst(NamedTuple):
    """The transformation: a function of a normalised count."""

    trend: Trend
    inverse_size: float = 1.0
    """Mean over samples of 1 / size factor."""
    largest: float = 0.0
    """Normalised count up to which the integral was made."""
    scale: float = 1.0
    shift: float = 0.0

    def at(self, q: Float[np.ndarray, "*k"]) -> Float[np.ndarray, "*k"]:
        """The values of normalised counts, about log2 where they are large.

        parametric, ``a0 + a1 / mean``: ``log2((1 + a1 + 2 a0 q + 2 sqrt(a0 q (1 + a1 + a0 q))) /
        (4 a0))``. mean, ``a0``: ``(2 asinh(sqrt(a0 q)) - log(4 a0)) / log 2``. Others: ``shift +
        scale × integral``, by the trapezoidal rule between points even in asinh q and a spline in
        asinh q through the sums.
        """
        a0, a1 = self.trend.asymptotic, self.trend.extra
        if self.trend.kind == "parametric":
            root = np.sqrt(a0 * q * (1 + a1 + a0 * q))
            return np.log2((1 + a1 + 2 * a0 * q + 2 * root) / (4 * a0))
        if self.trend.kind == "mean":
            return (2 * np.arcsinh(np.sqrt(a0 * q)) - np.log(4 * a0)) / np.log(2)
        return self.shift + self.scale * self._integral(q)

    def _integral(self, q: Float[np.ndarray, "*k"]) -> Float[np.ndarray, "*k"]:
        """Of one over the standard deviation, but for a constant."""
        spline = fmm_spline(*_sums(self.trend, self.inverse_size, _grid(self.largest, POINTS)))
        at = np.arcsinh(q)
        found = np.asarray(spline(at))
        beyond = at > spline.x[-1]
        # DESeq2 goes on with the last cubic; counts of new samples may be far larger.
        if np.max(q, initial=0.0) > self.largest:
            step = np.arcsinh(self.largest) / (POINTS - 1)
            more = int(np.ceil((np.max(at) - np.arcsinh(self.largest)) / step)) + 1
            grid = np.sinh(step * np.arange(1, POINTS + more))
            longer = fmm_spline(*_sums(self.trend, self.inverse_size, grid))
            found = np.where(beyond, longer(at), found)
        return found


def _grid(largest: float, points: int) -> Float[np.ndarray, "m"]:
    """Normalised counts above 0, even in their asinh."""
    return np.sinh(np.linspace(0.0, np.arcsinh(largest), points))[1:]


def _sums(
    trend: Trend, inverse_size: float, grid: Float[np.ndarray, "m"]
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Asinh of midpoints, and sums of the integrand up to the ends of their intervals."""
    integrand = 1 / np.sqrt(trend.at(grid) * grid**2 + inverse_size * grid)
    sums = np.cumsum(np.diff(grid) * (integrand[1:] + integrand[:-1]) / 2)
    return np.arcsinh((grid[1:] + grid[:-1]) / 2), sums


class Table(NamedTuple):
    """What a numerical transformation needs of the table it is fitted to."""

    mean: Float[np.ndarray, "g"] = NOTHING
    """Of normalised counts, of every gene, with counts or without."""
    largest: float = 0.0
    """Normalised count."""
    inverse_size: float = 1.0
    """Mean over samples of 1 / size factor."""


def fit_vst(trend: Trend, table: Table) -> Vst:
    """The transformation along a trend.

    Where the integral is numerical, it is scaled to be log2 of the mean at the genes' 95 % and
    99.9 % quantiles, and that is kept for new samples (DESeq2 scales it to each table again).

    Raises
    ------
    InputError
        19 genes of 20 have no counts, so that there is no scale.
    """
    if trend.kind in ("parametric", "mean"):
        return Vst(trend)
    low, high = np.quantile(table.mean, QUANTILES)
    if not 0 < low < high:
        msg = (
            f"of {len(table.mean)} genes, 95 % have a mean of {low:g} or less and 99.9 % of "
            f"{high:g}: no scale for the transformation along a {trend.kind} trend; leave out "
            "genes without counts or use trend='parametric'"
        )
        raise InputError(msg)
    bare = Vst(trend, table.inverse_size, table.largest)
    at = bare._integral(np.array([low, high]))
    scale = float((np.log2(high) - np.log2(low)) / (at[1] - at[0]))
    return bare._replace(scale=scale, shift=float(np.log2(low) - scale * at[0]))
