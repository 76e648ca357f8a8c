"""The interpolating cubic spline of R's ``splinefun``."""

import numpy as np
from scipy.interpolate import PPoly
from scipy.linalg import solve_banded

from expressway._types import Float


def fmm_spline(x: Float[np.ndarray, "m"], y: Float[np.ndarray, "m"]) -> PPoly:
    """Spline through points (x increasing, four or more): R's ``splinefun(x, y, "fmm")``.

    Forsythe, Malcolm & Moler 1977 (Computer Methods for Mathematical Computations, chapter 4): the
    third derivative of the first and last piece is that of the cubic through the first and last
    four points. Beyond the ends these pieces go on.
    """
    h = np.diff(x)
    first = np.diff(y) / h
    # Third divided differences at both ends.
    second = np.diff(first) / (x[2:] - x[:-2])
    third = (second[[1, -1]] - second[[0, -2]]) / (x[[3, -1]] - x[[0, -4]])
    # s, a sixth of second derivatives: the pieces' slopes meet at inner points.
    bands = np.zeros((3, len(x)))
    bands[0, 1:], bands[2, :-1] = h, h
    bands[1, 1:-1] = 2 * (h[:-1] + h[1:])
    bands[1, [0, -1]] = -h[[0, -1]]
    right = np.concatenate([[h[0] ** 2 * third[0]], np.diff(first), [-(h[-1] ** 2) * third[1]]])
    s = solve_banded((1, 1), bands, right)
    slope = first - h * (2 * s[:-1] + s[1:])
    return PPoly(np.stack([np.diff(s) / h, 3 * s[:-1], slope, y[:-1]]), x)
