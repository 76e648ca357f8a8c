"""R's smoothers against R."""

import numpy as np
import pytest

from expressway.core.smooth import loess, lowess

# Sums of m terms in another order than R's: m roundings of the largest value. lowess amplifies
# them by the robustness weights of residuals near zero (up to fifty-fold on the steps).
LOESS, LOWESS = 1e-13, 1e-12 * 50


@pytest.mark.parametrize("name", ["noisy_monotone", "steps", "plateau"])
def test_lowess_equals_r(reference, name):
    stored = reference("lowess")
    case = stored["lowess"][name]
    x, y, fitted = (np.array(case[key], float) for key in ("x", "y", "fitted"))
    scale = np.max(np.abs(y))
    np.testing.assert_allclose(lowess(x, y, stored["f"]) / scale, fitted / scale, atol=LOWESS)


@pytest.mark.parametrize("name", ["smooth", "jagged", "uneven", "wide", "short"])
def test_loess_equals_r(reference, name):
    case = reference("loess")["curves"][name]
    x, y, at, fitted = (np.array(case[key], float) for key in ("x", "y", "at", "fitted"))
    scale = np.max(np.abs(y))
    np.testing.assert_allclose(loess(x, y, at, case["span"]) / scale, fitted / scale, atol=LOESS)


def test_lines_and_parabolas_pass_through():
    x = np.linspace(0, 3, 60) ** 1.5
    # Both reproduce what they fit locally: rounding of values up to 60.
    np.testing.assert_allclose(lowess(x, 3 - 2 * x, 0.3), 3 - 2 * x, atol=1e-12)
    parabola = 1 + x - 2 * x**2
    np.testing.assert_allclose(loess(x, parabola, x[1:-1], 0.4), parabola[1:-1], atol=1e-11)


def test_lowess_with_outliers_equals_r(reference):
    # Around an outlier whole windows lose their weight: R leaves such points as they are.
    case = reference("loess")["lowess_outliers"]
    x, y, fitted = (np.array(case[key], float) for key in ("x", "y", "fitted"))
    ours = lowess(x, y, case["span"])
    np.testing.assert_allclose(ours, fitted, rtol=LOWESS)
    assert ours[17] == y[17]


def test_constant_stays_constant():
    x = np.arange(30.0)
    for value in (0.0, 7.0):
        np.testing.assert_allclose(lowess(x, np.full(30, value), 0.2), value, atol=1e-13)
        np.testing.assert_allclose(loess(x, np.full(30, value), x, 0.5), value, atol=1e-13)
