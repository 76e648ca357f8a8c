"""Expected log-likelihoods of counts against SciPy, finite differences, dense sums and sampling."""

import numpy as np
import pytest
from scipy import stats

from expressway.models import expected_counts
from expressway.models.expected_counts import Counts, Expected, counts, expected


def problem(
    g: int = 6, n: int = 30, k: int = 2, seed: int = 0
) -> tuple[Counts, np.ndarray, np.ndarray]:
    """Counts, means and variances; a gene of zeros."""
    rng = np.random.default_rng(seed)
    z = np.column_stack([np.ones(n), rng.normal(size=(n, k - 1))])
    offset = 0.3 * rng.normal(size=n)
    mean = np.column_stack([rng.normal(1.0, 1.0, g), 0.5 * rng.normal(size=(g, k))])
    mean[:, -1] = rng.normal(-1.0, 0.7, g)
    mu, r = np.exp(offset + mean[:, :k] @ z.T), np.exp(-mean[:, -1:])
    y = rng.poisson(rng.gamma(r, mu / r)).astype(float)
    y[-1] = 0.0
    return counts(y, offset, z), mean, rng.uniform(0.02, 0.2, (g, k + 1)) ** 2


def log_likelihood(of: Counts, at: np.ndarray) -> np.ndarray:
    """By SciPy, whose r and p are 1 / alpha and 1 / (1 + alpha mu)."""
    mu = np.exp(of.offset + at[:, :-1] @ of.z.T)
    alpha = np.exp(at[:, -1:])
    return np.sum(stats.nbinom.logpmf(of.y, 1 / alpha, 1 / (1 + alpha * mu)), axis=1)


def at(of: Counts, mean: np.ndarray) -> Expected:
    return expected(of, mean, np.zeros_like(mean))


def test_without_uncertainty():
    of, mean, _ = problem()
    np.testing.assert_allclose(at(of, mean).value, log_likelihood(of, mean), rtol=1e-12)


@pytest.mark.parametrize("uncertain", [False, True])
def test_derivatives_by_differences(uncertain):
    """Gradient of the expectation in means is the expected gradient: sums share their nodes."""
    of, mean, variance = problem()
    variance = variance * uncertain
    found = expected(of, mean, variance)
    step = 1e-4
    for c in range(mean.shape[1]):
        up, down = (expected(of, mean + s * np.eye(3)[c], variance) for s in (step, -step))
        slope = (up.value - down.value) / (2 * step)
        # Third derivatives of hundreds times 1e-9.
        np.testing.assert_allclose(found.gradient[:, c], slope, rtol=1e-6, atol=1e-5)
        # Minus the curvature, whatever is different in the other direction.
        bend = -(up.gradient - down.gradient) / (2 * step)
        np.testing.assert_allclose(found.curvature[:, c], bend, rtol=1e-6, atol=1e-5)
    np.testing.assert_array_equal(found.curvature, found.curvature.swapaxes(1, 2))


def dense(of: Counts, mean: np.ndarray, variance: np.ndarray, number: int = 60) -> np.ndarray:
    """Expectation by many nodes over each linear predictor and log alpha."""
    node, weight = np.polynomial.hermite_e.hermegauss(number)
    weight = weight / weight.sum()
    eta = of.offset + mean[:, :-1] @ of.z.T
    sd = np.sqrt(variance[:, :-1] @ (of.z**2).T)
    total = np.zeros(len(mean))
    for a, w in zip(node, weight, strict=True):
        alpha = np.exp(mean[:, -1] + a * np.sqrt(variance[:, -1]))[:, None]
        for b, v in zip(node, weight, strict=True):
            mu = np.exp(eta + b * sd)
            each = stats.nbinom.logpmf(of.y, 1 / alpha, 1 / (1 + alpha * mu))
            total += w * v * np.sum(each, axis=1)
    return total


def test_dense_quadrature():
    of, mean, variance = problem()
    exact = dense(of, mean, variance)
    found = expected(of, mean, variance)
    np.testing.assert_allclose(found.value, exact, atol=1e-4 * 30)  # of each of 30 samples
    assert np.max(np.abs(found.value - exact)) < 1e-3
    # It matters: at the means the likelihood is another.
    assert np.min(np.abs(log_likelihood(of, mean) - exact)[:-1]) > 0.02


def test_how_wide_it_may_be():
    """Standard deviations of .5: errors as they are said to be, relative to the expectation."""
    of, mean, _ = problem(k=1, n=8)
    for wide, most in (((0.25, 0.0), 1e-6), ((0.0, 0.25), 1e-4), ((0.25, 0.25), 2e-4)):
        variance = np.broadcast_to(np.array(wide), mean.shape).copy()
        exact = dense(of, mean, variance, 100)
        found = expected(of, mean, variance).value
        np.testing.assert_allclose(found, exact, atol=most * 8, rtol=most)


def test_sampling():
    """Coefficients drawn themselves, so that samples' linear predictors depend on each other."""
    of, mean, variance = problem(g=3, n=12)
    variance = variance * 4
    rng = np.random.default_rng(1)
    found = expected(of, mean, variance)
    draws = np.array(
        [
            log_likelihood(of, mean + np.sqrt(variance) * rng.normal(size=mean.shape))
            for _ in range(3000)
        ]
    )
    error = draws.std(axis=0) / np.sqrt(3000)
    assert np.all(np.abs(draws.mean(axis=0) - found.value) < 4.5 * error)
    # As means differ from the likelihood at the mean by more than that, this can fail.
    assert np.max(np.abs(log_likelihood(of, mean) - found.value) / error) > 6


def test_slope_in_variances():
    """Price's theorem: the expectation's derivative in a variance is minus half the curvature.

    Bonnet's, of means, is with the finite differences above.
    """
    of, mean, variance = problem()
    found = expected(of, mean, variance)
    for c in range(3):
        step = 1e-5 * np.eye(3)[c]
        up, down = (expected(of, mean, variance + s * step).value for s in (1, -1))
        slope = (up - down) / 2e-5
        # Sums of five and three nodes are exact for polynomials of degree 9 and 5 only.
        expected_slope = -0.5 * found.curvature[:, c, c]
        np.testing.assert_allclose(slope, expected_slope, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("log_alpha", [-15.0, -18.0, -30.0])
def test_tiny_dispersions(log_alpha):
    """Those of a Poisson distribution."""
    of, mean, _ = problem()
    mean[:, -1] = log_alpha
    found = at(of, mean)
    mu = np.exp(of.offset + mean[:, :2] @ of.z.T)
    poisson = np.sum(stats.poisson.logpmf(of.y, mu), axis=1)
    alpha = np.exp(max(log_alpha, expected_counts.LEAST))
    # First order in alpha, and log-gamma functions near 2e9, rounded to 4e-7, for each count.
    first = 0.5 * alpha * np.sum((of.y - mu) ** 2 - of.y, axis=1)
    np.testing.assert_allclose(found.value, poisson + first, atol=2e-5)
    np.testing.assert_allclose(found.gradient[:, :2], (of.y - mu) @ of.z, rtol=1e-4, atol=1e-4)
    # Derivative of the first order in log alpha.
    np.testing.assert_allclose(found.gradient[:, -1], first, rtol=1e-3, atol=1e-5)
    information = np.einsum("gn,na,nb->gab", mu, of.z, of.z)
    np.testing.assert_allclose(found.curvature[:, :2, :2], information, rtol=1e-4)


@pytest.mark.parametrize("log_alpha", [-18.0, -10.0, -2.0, 1.0])
def test_huge_counts(log_alpha):
    """A million, by sums of logarithms instead of log-gamma functions."""
    rng = np.random.default_rng(0)
    y = np.array([1_000_000.0, 999_000.0, 1_003_000.0, 0.0])
    z, offset = np.ones((4, 1)), np.zeros(4)
    of = counts(y[None], offset, z)
    mean = np.array([[np.log(1e6) + 0.001 * rng.normal(), log_alpha]])
    alpha, mu = np.exp(log_alpha), np.exp(mean[0, 0])
    exact = 0.0
    for count in y:
        steps = np.arange(int(count))
        exact += np.sum(np.log1p(alpha * steps) - np.log1p(steps)) + count * np.log(mu)
        exact -= (count + 1 / alpha) * np.log1p(alpha * mu)
    found = at(of, mean)
    # Terms of 1e7, summed a million times: 1e-9 of each.
    assert found.value[0] == pytest.approx(exact, rel=1e-8, abs=1e-3)
    assert found.gradient[0, 0] == pytest.approx(
        np.sum((y - mu) / (1 + alpha * mu)), rel=1e-8, abs=1e-6
    )
    up, down = (at(of, mean + np.array([0.0, s])).gradient[0, 1] for s in (1e-3, -1e-3))
    assert found.curvature[0, 1, 1] == pytest.approx(-(up - down) / 2e-3, rel=1e-3, abs=1e-3)


def test_genes_of_zeros():
    """Minus log(1 + alpha mu) / alpha for each sample; nothing else."""
    n = 10
    z, offset = np.ones((n, 1)), np.linspace(-1, 1, n)
    of = counts(np.zeros((2, n)), offset, z)
    mean = np.array([[0.5, -1.0], [-20.0, 2.0]])
    found = at(of, mean)
    mu = np.exp(offset + mean[:, :1])
    alpha = np.exp(mean[:, 1:])
    np.testing.assert_allclose(
        found.value, -np.sum(np.log1p(alpha * mu) / alpha, axis=1), rtol=1e-12
    )
    np.testing.assert_allclose(found.gradient[:, 0], -np.sum(mu / (1 + alpha * mu), axis=1))
    assert np.all(np.isfinite(found.curvature))


def test_nothing_overflows():
    """Linear predictors of a thousand, standard deviations of thirty."""
    of, mean, _ = problem()
    mean[0, 0], mean[1, 0], mean[2, -1] = 1000.0, -1000.0, 12.0
    for variance in (0.0, 900.0):
        found = expected(of, mean, np.full_like(mean, variance))
        for part in found:
            assert np.all(np.isfinite(part))


def test_portions_and_orders_of_genes(monkeypatch):
    of, mean, variance = problem(g=11)
    whole = expected(of, mean, variance)
    monkeypatch.setattr(expected_counts, "CACHE", 30 * 3)
    parts = expected(of, mean, variance)
    order = np.random.default_rng(0).permutation(11)
    turned = expected(counts(of.y[order], of.offset, of.z), mean[order], variance[order])
    for one, two, three in zip(whole, parts, turned, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-12, atol=1e-10)
        np.testing.assert_allclose(one[order], three, rtol=1e-11, atol=1e-10)


def test_samples_add(monkeypatch):
    # Some samples alone would take fewer nodes than all of them.
    monkeypatch.setattr(expected_counts, "NODES", ((np.inf, 9),))
    of, mean, variance = problem()
    parts = [
        expected(counts(of.y[:, s], of.offset[s], of.z[s]), mean, variance)
        for s in (slice(0, 1), slice(1, 17), slice(17, 30))
    ]
    whole = expected(of, mean, variance)
    for i, part in enumerate(whole):
        np.testing.assert_allclose(part, sum(p[i] for p in parts), rtol=1e-10, atol=1e-9)


def test_distinct_counts():
    y = np.array([[0.0, 3.0, 3.0, 1.0], [0.0, 0.0, 0.0, 0.0], [2.0, 2.0, 2.0, 2.0]])
    of = counts(y, np.zeros(4), np.ones((4, 1)))
    np.testing.assert_array_equal(of.start, [0, 2, 2, 3])
    np.testing.assert_array_equal(of.value, [1, 3, 2])
    np.testing.assert_array_equal(of.times, [1, 2, 4])
    np.testing.assert_allclose(of.constant, [2 * np.log(6), 0, 4 * np.log(2)], atol=1e-15)
