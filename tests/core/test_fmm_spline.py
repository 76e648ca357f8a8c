import numpy as np

from expressway.core.spline import fmm_spline


def test_cubics_pass_through_and_go_on():
    x = np.array([0.0, 0.4, 1.5, 1.7, 3.0, 4.0])
    at = np.linspace(-1, 6, 30)
    # Ends take the third derivative of the cubic through four points: a cubic's own. Rounding.
    spline = fmm_spline(x, 1 - x + 2 * x**2 - 0.3 * x**3)
    np.testing.assert_allclose(spline(at), 1 - at + 2 * at**2 - 0.3 * at**3, atol=1e-12)


def test_derivatives_meet_at_the_points():
    x = np.sort(np.random.default_rng(1).uniform(0, 5, 12))
    y = np.sin(3 * x)
    spline = fmm_spline(x, y)
    np.testing.assert_allclose(spline(x), y, atol=1e-14)
    inner, near = x[1:-1], 1e-9
    for order in (1, 2):
        left, right = (spline(inner + side * near, order) for side in (-1, 1))
        # Third derivatives of a thousand times 2e-9.
        np.testing.assert_allclose(left, right, atol=1e-5)
