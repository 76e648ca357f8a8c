"""Local regression against R's locfit."""

import numpy as np
import pytest

from expressway.core.locfit import locfit

NAMES = ("dispersions", "unsorted", "gaps", "ties", "few", "fewest")


@pytest.mark.parametrize("name", NAMES)
def test_curve_is_r_s(name, reference):
    case = reference("locfit")["curves"][name]
    x, y, weight = (np.array(case[k], float) for k in ("x", "y", "weight"))
    curve = locfit(x, y, weight)
    np.testing.assert_allclose(curve.x, case["vertices"], rtol=1e-14)
    # R's eigenvectors come of rotations that stop when what is left off the diagonal is 3e-8 of it.
    scale = np.max(np.abs(case["fitted"]))
    at, fitted = np.array(case["at"]), np.array(case["fitted"])
    np.testing.assert_allclose(curve.at(at) / scale, fitted / scale, rtol=0, atol=3e-8)


def test_slopes_are_derivatives(reference):
    case = reference("locfit")["curves"]["dispersions"]
    curve = locfit(*(np.array(case[k], float) for k in ("x", "y", "weight")))
    at = np.array(case["at"]) + 0.01  # none at a vertex, where the second derivative jumps
    step = 1e-5
    by_difference = (curve.at(at + step) - curve.at(at - step)) / (2 * step)
    # A central difference: step² for the third derivative, and 1e-16 / step for rounding.
    np.testing.assert_allclose(curve.slope_at(at), by_difference, rtol=1e-8, atol=1e-9)


def test_parabolas_pass_through_and_go_on():
    x = np.linspace(-1, 4, 23) ** 3
    curve = locfit(x, 2 - x + 0.1 * x**2, np.exp(-((x / 50) ** 2)))
    beyond = np.linspace(-30, 90, 50)
    # Rounding of sums of squares of values up to 4e2.
    np.testing.assert_allclose(curve.at(beyond), 2 - beyond + 0.1 * beyond**2, rtol=1e-9)
