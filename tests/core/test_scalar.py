"""The one-dimensional solver on objectives whose minima are known."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expressway.core.cohort import Pooled, samples
from expressway.core.scalar import Curve, Interval, Scalar
from expressway.core.solve import Status, solve

LOWER, UPPER = np.log(1e-8), np.log(10.0)
# The last step is taken unseen below 1e-7: the error it leaves is of the order of its square.
CLOSE = 1e-12


@functools.cache  # one objective, one compilation
def curve_of(objective):
    """A statistic: the objective of each gene and its derivatives, times the rows' weight."""

    def statistic(a, hyper, s):
        rows = jnp.sum(s.weight)
        parts = objective, jax.grad(objective), jax.grad(jax.grad(objective))
        return Curve(*(rows * jax.vmap(part)(a, *hyper) for part in parts))

    return statistic


def minimise(objective, start, *hyper, bounds=(LOWER, UPPER)):
    start = np.asarray(start, float)
    g = len(start)
    cohort = Pooled(samples(np.zeros((1, g)), np.ones((1, 1))))
    interval = Interval(start, np.full(g, bounds[0]), np.full(g, bounds[1]))
    hyper = tuple(np.broadcast_to(np.asarray(h, float), g) for h in hyper)
    return solve(Scalar(), curve_of(objective), interval, hyper, cohort)


def quadratic(a, center, height):
    return 0.5 * height * (a - center) ** 2


def test_quadratic():
    center = np.linspace(-12, 2, 9)
    height = 10 ** np.linspace(-3, 4, 9)
    near = minimise(quadratic, center + 0.3, center, height)
    np.testing.assert_array_equal(near.status, Status.OK)
    assert np.all(near.steps <= 2)  # one step to the minimum, one look that it is
    far = minimise(quadratic, np.where(center < -5, 2.0, -18.0), center, height)
    np.testing.assert_array_equal(far.status, Status.OK)
    # While |slope| exceeds twice the curvature, Newton in t: upwards it at most doubles t.
    assert np.all(far.steps <= 4 + 20 / np.log(2))
    for fit in (near, far):
        np.testing.assert_allclose(fit.theta, center, rtol=CLOSE)


def dispersion_like(a, y, mu):
    """Negative-binomial profile of one count: its minimum in a solves one equation."""
    alpha = jnp.exp(a)
    r = 1 / alpha
    gamma = jax.lax.lgamma(y + r) - jax.lax.lgamma(r) - y * jnp.log(r)
    return -(gamma - (y + r) * jnp.log1p(alpha * mu))


def test_slope_vanishes_at_the_result():
    y, mu = np.array([30.0, 3.0, 250.0, 40.0]), np.array([12.0, 20.0, 90.0, 5.0])
    slope_of = jax.jit(jax.vmap(jax.grad(dispersion_like)))
    for start in (-6.0, -2.0, 0.0, 2.0):
        fit = minimise(dispersion_like, np.full(4, start), y, mu)
        np.testing.assert_array_equal(fit.status, Status.OK)
        slope = slope_of(fit.theta, y, mu)
        # Library lgamma at r = 1 rounds to 1e-14 of the terms; curvatures are near 1.
        np.testing.assert_allclose(slope, 0, atol=1e-10)
        assert np.all(fit.steps <= 12)


def tail(a, height):
    """Falls to its infimum at t = 0 linearly in t = exp(a): underdispersed genes."""
    return height * jnp.log1p(jnp.exp(a))


def test_flat_tail_ends_at_the_bound_in_a_handful_of_steps():
    starts = np.array([2.0, 0.0, -3.0, -8.0, -15.0])
    for height in (1e-3, 1.0, 1e4):
        fit = minimise(tail, starts, height)
        np.testing.assert_array_equal(fit.status, Status.AT_BOUND)
        np.testing.assert_array_equal(fit.theta, LOWER)
        # Newton in a would need one step a unit: up to twenty.
        assert np.all(fit.steps <= 7)


def two_wells(a, shallow):
    return (a**2 - 4) ** 2 + shallow * a


@pytest.mark.parametrize("shallow", [-1.0, 0.0, 1.0])
def test_two_minima_give_the_one_downhill_from_the_start(shallow):
    wells = np.roots([4, 0, -16, shallow]).real
    left, right = wells.min(), wells.max()
    starts = np.array([-3.0, -1.5, -0.8, 0.8, 1.5, 3.0])
    fit = minimise(two_wells, starts, shallow, bounds=(-5.0, 5.0))
    np.testing.assert_array_equal(fit.status, Status.OK)
    # np.roots is exact to rounding of its coefficients.
    np.testing.assert_allclose(fit.theta, np.where(starts < 0, left, right), rtol=1e-11)
    assert np.all(fit.steps <= 15)


def test_optimum_outside_ends_at_the_bound():
    fit = minimise(quadratic, [0.0, 0.0, -30.0, 30.0], [9.0, -40.0, 9.0, -40.0], 1.0)
    np.testing.assert_array_equal(fit.theta, [UPPER, LOWER, UPPER, LOWER])
    np.testing.assert_array_equal(fit.status, Status.AT_BOUND)
    assert np.all(fit.steps <= 4 + (UPPER - LOWER) / np.log(2))  # t at most doubles in a step
    assert np.all(fit.steps[[0, 1, 3]] <= 6)


def test_start_outside_is_put_inside():
    fit = minimise(quadratic, [50.0, -50.0], -1.0, 2.0)
    np.testing.assert_allclose(fit.theta, -1.0, rtol=CLOSE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_objective_not_finite_ends_at_once(bad):
    fit = minimise(quadratic, [1.0, 1.0, 1.0], [0.5, bad, -2.0], 1.0)
    np.testing.assert_array_equal(fit.status, [Status.OK, Status.NOT_FINITE, Status.OK])
    assert fit.steps[1] == 1
    np.testing.assert_allclose(fit.theta[[0, 2]], [0.5, -2.0], rtol=CLOSE)
    assert np.isfinite(fit.theta[1])


def barrier(a, edge):
    """Not a number left of the edge; its minimum is one to the right of it."""
    return a - jnp.log(a - edge)


def test_trial_that_is_not_finite_is_pulled_back():
    fit = minimise(barrier, [2.0, -0.9], [-1.0, -1.0])
    np.testing.assert_array_equal(fit.status, Status.OK)
    np.testing.assert_allclose(fit.theta, 0.0, atol=CLOSE)


def test_digits_survive_a_large_constant():
    fit = minimise(lambda a, c: quadratic(a, c, 1.0) + 1e7, [1.5, -3.0], [0.25, -0.5])
    np.testing.assert_array_equal(fit.status, Status.OK)
    # The slope carries the digits; the loss (1e7, rounded to 2e-9) must not stop the descent.
    np.testing.assert_allclose(fit.theta, [0.25, -0.5], rtol=CLOSE)


def test_gives_up_at_the_limit():
    interval = Interval(*(np.array([v]) for v in (0.0, LOWER, UPPER)))
    cohort = Pooled(samples(np.zeros((1, 1)), np.ones((1, 1))))
    hyper = (np.array([-15.0]), np.array([1.0]))
    fit = solve(Scalar(max_steps=1), curve_of(quadratic), interval, hyper, cohort)
    assert fit.status[0] == Status.NOT_CONVERGED
    assert fit.steps[0] == 1
