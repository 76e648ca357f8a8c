"""Refreshed Gaussian likelihoods: bounds that rise, and their fixed point."""

from itertools import pairwise

import numpy as np
import pytest
from brute_mixture import rand_index

from expressway.models import gene_clusters
from expressway.models.dirichlet import Prior, values
from expressway.models.expected_counts import Counts, counts, expected
from expressway.models.gene_clusters import Clustered, definite, refreshed
from expressway.models.gene_mixtures import Sites, Starts, model, seen_by

ALONE = ((0,), (1,), (2,))
# Labels of components with fewer than 1e-9 genes are dropped, 30 a block: as many nats.
DROPPED = 2e-7


def cluster(of, sites: Sites, blocks, priors, *, starts: int, seed: int, rounds=12) -> Clustered:
    given = model(sites, blocks, priors)
    return gene_clusters.cluster(of, sites, given, Starts(starts, seed), rounds)


def optimum(of: Counts, mean: np.ndarray, steps: int = 60) -> np.ndarray:
    """Of each gene's likelihood, by Newton's steps of at most 1, log dispersions in [-6, 3]."""
    for _ in range(steps):
        at = expected(of, mean, np.zeros_like(mean))
        value, vector = np.linalg.eigh(at.curvature)
        inner = np.einsum("gab,ga->gb", vector, at.gradient) / np.maximum(np.abs(value), 0.1)
        mean = mean + np.clip(np.einsum("gab,gb->ga", vector, inner), -1, 1)
        mean[:, :-1] = np.clip(mean[:, :-1], -8, 8)
        mean[:, -1] = np.clip(mean[:, -1], -6, 3)
    return mean


def simulated(seed: int, g: int = 60, n: int = 40, low: float = 2.0) -> tuple[Counts, Sites, dict]:
    """Two clusters of levels, two of slopes, one of dispersions; Gaussian likelihoods at optima."""
    rng = np.random.default_rng(seed)
    x = np.linspace(-1, 1, n)
    z = np.column_stack([np.ones(n), x / np.sqrt(np.mean(x**2))])
    which = {"level": rng.integers(2, size=g), "slope": rng.integers(2, size=g)}
    b = np.column_stack([low + 1.5 * which["level"], 0.6 * which["slope"]])
    b = b + 0.02 * rng.normal(size=b.shape)
    offset = 0.2 * rng.normal(size=n)
    y = rng.poisson(rng.gamma(4.0, np.exp(offset + b @ z.T) / 4.0)).astype(float)
    of = counts(y, offset, z)
    start = np.column_stack([np.log(y.mean(axis=1) + 0.1), np.zeros(g), np.full(g, -1.0)])
    mean = optimum(of, start)
    at = expected(of, mean, np.zeros_like(mean))
    made = definite(Sites(at.gradient, at.curvature))
    field = at.gradient + np.einsum("gab,gb->ga", made.precision, mean)
    return of, Sites(field, made.precision), which


@pytest.fixture(scope="module")
def found() -> tuple[Counts, Clustered, dict]:
    of, sites, which = simulated(0)
    return of, cluster(of, sites, ALONE, (Prior(8),) * 3, starts=1, seed=0), which


def rises(told: Clustered) -> None:
    """Bounds of the Gaussian likelihoods within a refresh; those of counts from one to the next."""
    kinds = [kind for kind, _, _ in told.bounds]
    first = [0, *(i for i, kind in enumerate(kinds) if kind == "refresh"), len(kinds)]
    assert kinds[0] == "start"
    of_counts = []
    for begin, end in pairwise(first):
        own = np.array([value for _, value, _ in told.bounds[begin:end]])
        assert np.min(np.diff(own), initial=0.0) > -DROPPED
        real = np.array([value for _, _, value in told.bounds[begin:end]])
        assert np.all(np.isnan(real[:-1]))
        assert np.isfinite(real[-1])
        of_counts.append(real[-1])
    assert np.all(np.diff(of_counts) > 0)
    assert len(of_counts) > 1


def test_bounds_rise(found):
    _, told, which = found
    rises(told)
    assert told.bounds[-1][1] == told.mixtures.elbo
    assert told.two_step.elbo == next(v for _, v, real in told.bounds if np.isfinite(real))
    for k, name in enumerate(("level", "slope")):
        label = np.argmax(told.mixtures.blocks[k].values.responsibility, axis=0)
        assert rand_index(label, which[name]) > 0.9


@pytest.mark.parametrize(
    ("seed", "low", "blocks"),
    [(1, -1.0, ALONE), (3, 4.0, ALONE), (4, -2.5, ((0, 1), (2,)))],
)
def test_bounds_rise_for_few_counts_too(seed, low, blocks):
    """Down to genes of a count or none, whose log dispersions have no likelihood to speak of."""
    of, sites, _ = simulated(seed, g=16, n=30, low=low)
    told = cluster(of, sites, blocks, (Prior(truncation=6),) * 3, starts=1, seed=0, rounds=3)
    rises(told)
    assert np.all(np.isfinite(told.mixtures.mean))


def test_one_prior_for_all_refreshes(found):
    """Bounds of counts are compared: of one model, not of one whose prior follows the data."""
    _, told, _ = found
    for one, two in zip(told.two_step.blocks, told.mixtures.blocks, strict=True):
        np.testing.assert_array_equal(one.base.rate, two.base.rate)
        np.testing.assert_array_equal(one.base.mean, two.base.mean)
        np.testing.assert_array_equal(one.base.precision, two.base.precision)


def test_the_bound_of_counts(found):
    """Expected log-likelihood under the moments of q, plus what the mixtures say."""
    of, told, _ = found
    m = told.mixtures
    value = expected(of, m.mean, m.variance).value
    assert told.bounds[-1][2] == pytest.approx(np.sum(value + m.inner()) - m.divergence())
    # What the Gaussian likelihoods say of it is that less a constant of each gene.
    moved = told.sites.shifted(m.center)
    mean = m.mean - m.center
    inside = np.sum(moved.field * mean)
    inside -= 0.5 * np.einsum("ga,gab,gb->", mean, moved.precision, mean)
    inside -= 0.5 * np.einsum("gaa,ga->", moved.precision, m.variance)
    assert m.elbo == pytest.approx(inside + np.sum(m.inner()) - m.divergence(), rel=1e-10)


def bound_of_genes(
    of: Counts, told: Clustered, mean: np.ndarray, push: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """Bound of counts and mean of each gene where coordinate k alone is pushed."""
    block = told.mixtures.blocks[k]
    seen = seen_by(block.coordinates, told.sites.shifted(told.mixtures.center), mean)
    seen = seen._replace(field=seen.field + push)
    active = block.state.active()
    v = values(block.state.components, seen, active)
    inner = v.log_normaliser - np.sum(seen.field * v.mean, axis=0) + 0.5 * v.quadratic
    at = told.mixtures.mean.copy()
    at[:, k] = v.mean[0] + told.mixtures.center[k]
    variance = told.mixtures.variance.copy()
    variance[:, k] = v.variance[0]
    return expected(of, at, variance).value + inner, v.mean[0]


def test_a_fixed_point_is_stationary(monkeypatch):
    """The bound of counts, by finite differences in each gene's field, hence mean."""
    monkeypatch.setattr(gene_clusters, "ENOUGH", -1.0)
    of, sites, _ = simulated(5, g=15, n=30, low=1.0)
    priors = (Prior(8, mean=0.0, mean_sd=2.0, rate=0.1),) * 3
    told = cluster(of, sites, ALONE, priors, starts=1, seed=0, rounds=25)
    before = cluster(of, sites, ALONE, priors, starts=1, seed=0, rounds=0)
    slopes = []
    for each in (before, told):
        mean = each.mixtures.mean - each.mixtures.center
        own = []
        for k in range(3):
            step = 1e-3 * np.sqrt(1 / each.mixtures.variance[:, k])
            up, down = (bound_of_genes(of, each, mean, push[None], k) for push in (step, -step))
            # Nats per standard deviation of the mean.
            own.append(
                (up[0] - down[0]) / (up[1] - down[1]) * np.sqrt(each.mixtures.variance[:, k])
            )
        slopes.append(np.abs(own))
    # Expectations' derivatives are those of exact integrals; ours are sums of five and of three
    # nodes, off by 1e-3 where log dispersions are vague.
    assert np.max(slopes[1][:2]) < 0.01
    assert np.max(slopes[1]) < 0.03
    assert np.max(slopes[0]) > 0.1


def test_refreshing_at_a_gaussian_likelihood():
    """Many counts and no uncertainty: Newton's own quadratic."""
    of, sites, _ = simulated(6, g=5, n=200, low=4.0)
    mean = optimum(of, sites.estimates()[0])
    again = refreshed(expected(of, mean, np.zeros_like(mean)), mean)
    np.testing.assert_allclose(again.field, sites.field, rtol=1e-8, atol=1e-6)
    np.testing.assert_allclose(again.precision, sites.precision, rtol=1e-8, atol=1e-8)


def test_precisions_are_made_definite():
    rng = np.random.default_rng(0)
    half = rng.normal(size=(6, 3, 3))
    precision = half @ half.swapaxes(1, 2) + 0.1 * np.eye(3)
    good = precision.copy()
    precision[1, 2, 2] = -3.0
    precision[2, 2, 2] = 0.0
    precision[3, 2, :2] = precision[3, :2, 2] = 50.0
    precision[4, 2, :] = precision[4, :, 2] = 0.0
    found = definite(Sites(np.zeros((6, 3)), precision)).precision
    assert np.all(np.linalg.eigvalsh(found)[:, 0] > 0)
    np.testing.assert_array_equal(found[[0, 5]], good[[0, 5]])
    np.testing.assert_array_equal(found[:, :2, :2], good[:, :2, :2])
    for g in (1, 2, 3, 4):
        np.testing.assert_array_equal(found[g, 2, :2], 0)
        assert found[g, 2, 2] == max(precision[g, 2, 2], gene_clusters.FLAT)


def test_two_steps_alone():
    of, sites, _ = simulated(7, g=12, n=20)
    for counts_, rounds in ((None, 12), (of, 0)):
        told = cluster(counts_, sites, ALONE, (Prior(5),) * 3, starts=1, seed=0, rounds=rounds)
        assert told.mixtures is told.two_step
        assert told.sites is sites
        assert all(np.isnan(real) for _, _, real in told.bounds)


def test_refreshing_raises_what_is_known_of_few_counts():
    """Gaussian likelihoods of genes with few counts are skewed: the true level is nearer after."""
    of, sites, which = simulated(8, g=40, n=20, low=-1.5)
    told = cluster(of, sites, ALONE, (Prior(4),) * 3, starts=1, seed=0, rounds=3)
    truth = -1.5 + 1.5 * which["level"]
    before, after = (np.mean((m.mean[:, 0] - truth) ** 2) for m in (told.two_step, told.mixtures))
    assert after < before
