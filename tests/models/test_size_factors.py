import numpy as np
import pytest

from expressway._errors import InputError
from expressway.core.cohort import Pooled, samples
from expressway.models.size_factors import log_counts, normalised
from expressway.run import Sites


def pooled(y: np.ndarray) -> Pooled:
    return Pooled(samples(y, np.ones((len(y), 1))))


def factors(cohort: Pooled) -> np.ndarray:
    return np.exp(cohort.rows.offset[:, 0])


def size_factors(cohort, method="ratio"):
    """Cohort with size factors, and the sums they came from."""
    sums = cohort.sum(log_counts)
    return normalised(cohort, sums, method), sums


def counts(seed: int, zeros: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    y = rng.poisson(np.exp(rng.normal(3, 1, 80)) * rng.uniform(0.5, 2, (9, 1)))
    return np.where(rng.random(y.shape) < zeros, 0, y)


def test_ratio_is_the_median_of_ratios():
    y = counts(1, 0.05)
    used = np.all(y > 0, axis=0)
    assert 5 < used.sum() < 80
    ratio = y[:, used] / np.exp(np.log(y[:, used]).mean(axis=0))
    np.testing.assert_allclose(factors(size_factors(pooled(y))[0]), np.median(ratio, axis=1), 1e-12)


def test_poscounts_takes_genes_with_zeros_and_has_geometric_mean_one():
    y = counts(2, 0.4)
    assert not np.any(np.all(y > 0, axis=0))
    expected = []
    with np.errstate(divide="ignore"):
        log = np.where(y > 0, np.log(y), 0.0)
    for row, logs in zip(y, log, strict=True):
        expected.append(np.median((logs - log.mean(axis=0))[row > 0]))
    expected = np.exp(np.array(expected) - np.mean(expected))
    found = factors(size_factors(pooled(y), "poscounts")[0])
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.mean(np.log(found)) == pytest.approx(0, abs=1e-14)


@pytest.mark.parametrize("method", ["ratio", "poscounts"])
def test_sites_find_the_same(method):
    rows = samples(counts(3, 0.02), np.ones((9, 1)))
    parts = np.split(np.arange(9), [1, 4])
    sites = Sites([type(rows)(*(np.asarray(f)[i] for f in rows)) for i in parts])
    whole, _ = size_factors(Pooled(rows), method)
    split, sums = size_factors(sites, method)
    found = np.concatenate([site.rows.offset for site in split.sites])
    np.testing.assert_allclose(found, whole.rows.offset, rtol=0, atol=1e-14)
    np.testing.assert_array_equal(sums.total, np.asarray(rows.y).sum(axis=0))
    assert sites.rounds == 1


def test_scale_of_a_sample_is_its_size_factor():
    y = counts(4, 0.0) + 1
    base = factors(size_factors(pooled(y))[0])
    y[3] *= 4
    ratio = factors(size_factors(pooled(y))[0]) / base
    # The reference moves by the ninth root of 4, the sample itself by 4 over that.
    np.testing.assert_allclose(ratio[3] / ratio[0], 4, rtol=1e-12)


def test_ratio_is_refused_where_every_gene_has_a_zero():
    y = np.array([[0, 5, 3], [4, 0, 2], [7, 8, 0]])
    with pytest.raises(InputError, match="use --size-factors poscounts"):
        size_factors(pooled(y))
    assert np.all(np.isfinite(factors(size_factors(pooled(y), "poscounts")[0])))


@pytest.mark.parametrize("method", ["ratio", "poscounts"])
def test_no_counts_at_all(method):
    with pytest.raises(InputError, match="every count is zero"):
        size_factors(pooled(np.zeros((3, 4), int)), method)


def test_sample_without_counts_is_refused():
    y = counts(5, 0.0)
    y[6] = 0
    with pytest.raises(InputError, match="a sample has no counts"):
        size_factors(pooled(y), "poscounts")
