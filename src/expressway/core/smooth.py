"""Smoothers of a curve, as R has them: `lowess` and `loess` of one variable."""

import numpy as np

from expressway._types import Float


def lowess(
    x: Float[np.ndarray, "m"], y: Float[np.ndarray, "m"], span: float
) -> Float[np.ndarray, "m"]:
    """Robust locally linear smooth at each x (increasing): R's ``lowess(x, y, f = span)``.

    Cleveland 1979 (JASA 74:829) with tricube weights and three robustifying passes of bisquare
    weights on residuals over six times their median; every x is fitted (R's delta, a hundredth
    of the range, is below the spacing of fifty points).
    """
    m = len(x)
    near = max(min(m, int(span * m + 1e-7)), 2)
    distance = np.abs(x[:, None] - x[None, :])
    reach = np.sort(distance, axis=1)[:, near - 1][:, None]
    # clowess: weight 1 within .001 of the reach, 0 beyond .999 of it.
    ratio = np.where(distance <= 0.001 * reach, 0.0, distance / reach)
    kernel = np.where(distance <= 0.999 * reach, (1 - ratio**3) ** 3, 0.0)
    fitted, robust = y, np.ones(m)
    for _ in range(4):
        weight = kernel * robust
        total = weight.sum(axis=1, keepdims=True)
        alone = total[:, 0] <= 0  # all neighbours are outliers: clowess leaves the value itself
        weight = weight / np.where(alone[:, None], 1.0, total)
        center = weight @ x
        gap = x - center
        square = np.sum(weight * (x[None, :] - center[:, None]) ** 2, axis=1)
        steep = np.sqrt(square) > 0.001 * (x[-1] - x[0])
        slope = np.where(steep, gap / np.where(steep, square, 1.0), 0.0)
        lever = 1 + slope[:, None] * (x[None, :] - center[:, None])
        fitted = np.where(alone, y, np.sum(weight * lever * y, axis=1))
        residual = np.abs(y - fitted)
        scale = 6 * np.median(residual)
        if scale <= 1e-7 * np.mean(residual):  # both 0: an exact fit
            break
        share = np.clip(residual / scale, 0, 1)
        robust = np.where(share <= 0.001, 1.0, np.where(share <= 0.999, (1 - share**2) ** 2, 0.0))
    return fitted


def loess(
    x: Float[np.ndarray, "m"],
    y: Float[np.ndarray, "m"],
    at: Float[np.ndarray, "k"],
    span: float,
) -> Float[np.ndarray, "k"]:
    """Locally quadratic smooth at other points: R's ``predict(loess(y ~ x, span = span), at)``.

    Cleveland & Grosse 1991 (Statistics and Computing 1:47): fits with tricube weights at the
    vertices of a k-d tree whose cells hold a fifth of the span, and between them the cubic that
    meets their values and slopes. x is increasing, and ``at`` inside its range.
    """
    m = len(x)
    near, cell = int(m * span + 1e-5), int(m * span * 0.2)
    margin = 0.005 * (x[-1] - x[0])  # of the tree's bounding box
    vertices = np.array([x[0] - margin, *sorted(x[_cuts(0, m - 1, cell)]), x[-1] + margin])
    fits = np.array([_local_quadratic(x, y, v, near) for v in vertices])
    left = np.searchsorted(vertices, at, side="right") - 1
    h = vertices[left + 1] - vertices[left]
    t = (at - vertices[left]) / h
    f0, f1 = fits[left, 0], fits[left + 1, 0]
    d0, d1 = h * fits[left, 1], h * fits[left + 1, 1]
    gap = f1 - f0
    return f0 + t * (d0 + t * ((3 * gap - 2 * d0 - d1) + t * (d0 + d1 - 2 * gap)))


def _cuts(first: int, last: int, cell: int) -> list[int]:
    """Points at which the k-d tree cuts the points first … last until a cell holds few."""
    if last - first + 1 <= cell:
        return []
    middle = (first + last) // 2
    return [middle, *_cuts(first, middle, cell), *_cuts(middle + 1, last, cell)]


def _local_quadratic(
    x: Float[np.ndarray, "m"], y: Float[np.ndarray, "m"], at: float, near: int
) -> tuple[float, float]:
    """Value and slope at a point of a quadratic fitted to its neighbours, tricube weights."""
    distance = np.abs(x - at)
    reach = np.sort(distance)[near - 1]
    root = np.sqrt(np.clip(1 - (distance / reach) ** 3, 0, None) ** 3)
    basis = np.vander(x - at, 3, increasing=True)
    value, slope, _ = np.linalg.lstsq(basis * root[:, None], y * root, rcond=None)[0]
    return float(value), float(slope)
