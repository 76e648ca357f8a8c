"""Local regression of one variable with the defaults of R's locfit 1.5.

Loader 1999 (Local Regression and Likelihood, Springer, chapters 2 and 12): quadratics fitted to
the nearest seven tenths of the points with tricube weights, at the vertices of a tree that halves
cells wider than .8 of the bandwidth at either end; between vertices the cubic that meets their
values and slopes.
"""

from typing import NamedTuple

import numpy as np

from expressway._types import Float

# R locfit, lp(): nn. locfit.raw(): the tree's cut.
NEAREST, CUT = 0.7, 0.8
# Points without which a quadratic is not determined: seven tenths of them, the farthest of which
# has weight 0.
FEWEST = 6


class Curve(NamedTuple):
    """A curve by its vertices."""

    x: Float[np.ndarray, "m"]
    """Increasing."""
    value: Float[np.ndarray, "m"]
    slope: Float[np.ndarray, "m"]
    bend: float
    """Half the second derivative beyond the first and last vertex."""

    def at(self, x: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
        """Value at each x."""
        return self._at(x)[0]

    def slope_at(self, x: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
        """Derivative at each x."""
        return self._at(x)[1]

    def _at(
        self, x: Float[np.ndarray, "k"]
    ) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
        inside = np.clip(x, self.x[0], self.x[-1])
        left = np.clip(np.searchsorted(self.x, inside, side="right") - 1, 0, len(self.x) - 2)
        h = self.x[left + 1] - self.x[left]
        t = (inside - self.x[left]) / h
        f0, gap = self.value[left], self.value[left + 1] - self.value[left]
        d0, d1 = h * self.slope[left], h * self.slope[left + 1]
        square, cube = 3 * gap - 2 * d0 - d1, d0 + d1 - 2 * gap
        value = f0 + t * (d0 + t * (square + t * cube))
        slope = (d0 + t * (2 * square + t * 3 * cube)) / h
        beyond = x - inside
        return value + beyond * (slope + beyond * self.bend), slope + 2 * beyond * self.bend


def locfit(
    x: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"], weight: Float[np.ndarray, "n"]
) -> Curve:
    """Local quadratic: R's ``locfit(y ~ x, weights = weight)``, family gaussian.

    R subtracts the quadratic fitted to all points before it interpolates and adds it afterwards.
    Between vertices that changes nothing; beyond them, where it continues along the slope, the
    curve keeps that quadratic's bend.

    Parameters
    ----------
    x
        `FEWEST` points or more, not all equal.
    y, weight
        A value and a positive weight each.
    """
    near = int(len(x) * NEAREST + 1e-12)  # locfit.c: against rounding
    fits: dict[float, tuple[float, float, float]] = {}

    def reach(at: float) -> float:
        if at not in fits:
            distance = np.abs(x - at)
            h = float(np.partition(distance, near - 1)[near - 1])
            kernel = np.clip(1 - (distance / h) ** 3, 0, None) ** 3 if h > 0 else distance == 0
            fits[at] = (*_quadratic(x - at, y, weight * kernel)[:2], h)
        return fits[at][2]

    low, high = float(np.min(x)), float(np.max(x))
    cells = [(low, high)]
    while cells:
        left, right = cells.pop()
        h = min(reach(left), reach(right))
        if right - left > CUT * h:
            middle = (left + right) / 2
            cells += [(left, middle), (middle, right)]
    vertices = np.array(sorted(fits))
    value, slope, _ = np.array([fits[v] for v in vertices.tolist()]).T
    center = float(np.average(x, weights=weight))
    return Curve(vertices, value, slope, _quadratic(x - center, y, weight)[2])


def _quadratic(
    u: Float[np.ndarray, "n"], y: Float[np.ndarray, "n"], weight: Float[np.ndarray, "n"]
) -> tuple[float, float, float]:
    """Coefficients of 1, u and u² by weighted least squares."""
    some = weight > 0
    scale = np.max(np.abs(u[some])) or 1.0
    root = np.sqrt(weight[some])
    basis = np.vander(u[some] / scale, 3, increasing=True)
    a = np.linalg.lstsq(basis * root[:, None], y[some] * root, rcond=None)[0]
    return float(a[0]), float(a[1] / scale), float(a[2] / scale**2)
