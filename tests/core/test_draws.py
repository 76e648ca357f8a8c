"""Draws have the covariance they should, by every route and of every kind."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from expressway._errors import Indefinite, InputError
from expressway.core.draws import Draws, draw
from expressway.core.operator import Operator
from expressway.core.source import Source

OBSERVATIONS, SIZE, COUNT = 30, 12, 20_000
DAMPING = 0.3


@pytest.fixture(scope="module")
def slopes() -> np.ndarray:
    """Gradients of observations."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(OBSERVATIONS, SIZE)) * np.geomspace(3.0, 0.1, SIZE)


def source(g: np.ndarray, damping: float = DAMPING, lower: float | None = DAMPING) -> Source:
    """A fit with information ``g'g + damping``; its scores are twice as wide as that says."""

    def noise(key: jax.Array, b: int) -> jax.Array:
        one, two = jax.random.split(key)
        wide = jax.random.normal(one, (b, len(g))) @ jnp.asarray(g)
        return wide + jnp.sqrt(damping) * jax.random.normal(two, (b, g.shape[1]))

    whole = jnp.asarray(g.T @ g + damping * np.eye(g.shape[1]))
    operator = Operator(
        g.shape[1], np.dtype(float), "gauss-newton", lambda v: v @ whole, damping, lower, noise
    )
    return Source(
        lambda kind, more: operator,
        lambda weights: 2.0 * np.asarray(weights) @ g,
        len(g),
        lambda moves: {"beta": 1.0 + moves},
        np.dtype(float),
    )


def judged(x: np.ndarray, covariance: np.ndarray) -> float:
    """P-value of a chi-square of all entries of the covariance of draws whose mean is 0.

    Whitened, entries off the diagonal have variance 1 / n, those on it 2 / n.
    """
    white = np.linalg.solve(np.linalg.cholesky(covariance), x.T).T
    n, d = white.shape
    s = white.T @ white / n - np.eye(d)
    upper = np.triu_indices(d, 1)
    total = n * np.sum(s[upper] ** 2) + n / 2 * np.sum(np.diag(s) ** 2)
    return float(stats.chi2.sf(total, d * (d + 1) / 2))


def fine(p: float) -> bool:
    """Not one of the 1 in 1,000 ends; seeds are fixed, so what passes once passes always."""
    return 1e-3 < p < 1 - 1e-3


@pytest.mark.parametrize("method", ["cholesky", "lanczos", "perturb-and-solve"])
def test_covariance_is_the_inverse(method: str, slopes: np.ndarray):
    a = slopes.T @ slopes + DAMPING * np.eye(SIZE)
    found = draw(source(slopes), jax.random.key(1), COUNT, kind="gauss-newton", method=method)
    assert found.method == method
    assert found.certified
    assert np.all(found.error_bound <= 1e-3)
    assert fine(judged(found.deviations, np.linalg.inv(a)))
    # The test can fail: a covariance 5 % wider is seen.
    assert not fine(judged(found.deviations, 1.05 * np.linalg.inv(a)))
    np.testing.assert_array_equal(found.theta["beta"], 1.0 + found.deviations)


@pytest.mark.parametrize("clustered", [False, True])
def test_sandwich(clustered: bool, slopes: np.ndarray):
    """Of ``H⁻¹ (sum g g') H⁻¹``, exactly: the map from random weights to draws says so, too."""
    labels = np.repeat(np.arange(10), 3) if clustered else None
    a = slopes.T @ slopes + DAMPING * np.eye(SIZE)
    g = 2.0 * slopes
    g = g.reshape(10, 3, SIZE).sum(1) if clustered else g
    bread = np.linalg.inv(a)
    exact = bread @ g.T @ g @ bread
    found = draw(source(slopes), jax.random.key(2), COUNT, kind="sandwich", clusters=labels)
    assert found.method == "solve"
    keep = slice(0, 8)  # ten clusters give a covariance of rank ten
    assert fine(judged(found.deviations[:, keep], exact[keep, keep]))
    # Draws are linear in the weights: those of unit weights give the covariance, to rounding.
    unit = np.asarray(source(slopes).scores(np.eye(OBSERVATIONS)))
    if clustered:
        unit = unit.reshape(10, 3, SIZE).sum(1)
    moves = unit @ bread
    np.testing.assert_allclose(moves.T @ moves, exact, rtol=1e-9, atol=1e-12)


def test_large_matrices_go_by_products():
    """Beyond 3,000 parameters nothing is formed, a little memory means conjugate gradients."""
    rng = np.random.default_rng(3)
    g = rng.normal(size=(40, 4000)) * 0.3
    few = 100
    one = draw(source(g), jax.random.key(0), few, kind="gauss-newton", rtol=1e-2)
    two = draw(
        source(g), jax.random.key(0), few, kind="gauss-newton", rtol=1e-2, memory=250 * 4000 * 8
    )
    assert (one.method, two.method) == ("lanczos", "perturb-and-solve")
    for found in (one, two):
        x = found.deviations
        assert np.all(found.error_bound <= 1e-2)
        chi = np.sum(x * (x @ g.T @ g + DAMPING * x))
        # Of 400,000 normal numbers: sd √(2 · 4e5) = 894; four of them.
        assert abs(chi - few * 4000) < 4 * np.sqrt(2 * few * 4000)
        # And along the data, where the prior alone would be 100 times as wide.
        _, singular, along = np.linalg.svd(g, full_matrices=False)
        y = x @ along.T
        values = singular**2 + DAMPING
        assert fine(judged(y, np.diag(1 / values)))
        assert found.matvecs < 4 * few


def test_refusals(slopes: np.ndarray):
    key = jax.random.key(0)
    with pytest.raises(Indefinite, match=r"eigenvalue -.*prior_precision above 2"):
        draw(source(slopes, -2.5, None), key, 3, kind="gauss-newton")
    with pytest.raises(InputError, match="rtol is -1"):
        draw(source(slopes), key, 3, kind="gauss-newton", rtol=-1.0)
    with pytest.raises(InputError, match=r"clusters are for kind=.sandwich"):
        draw(source(slopes), key, 3, kind="gauss-newton", clusters=np.arange(OBSERVATIONS))
    with pytest.raises(InputError, match="5 cluster labels for 30"):
        draw(source(slopes), key, 3, kind="sandwich", clusters=np.arange(5))


def test_says_what_it_is(slopes: np.ndarray):
    found: Draws = draw(source(slopes), jax.random.key(0), 7, kind="gauss-newton")
    assert str(found).startswith("7 draws of 12 parameters (gauss-newton, damping 0.3) by cholesky")
