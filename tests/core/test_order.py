"""Trimmed means: sorting equals NumPy, brackets equal sorting, in a bounded number of rounds."""

from itertools import pairwise

import numpy as np
import pytest

from expressway.core.cohort import Pooled, Samples, samples
from expressway.core.order import Groups, trimmed_mean
from expressway.run import Sites

# Rounds of the bracketed path: one of decades, then at least 64-fold narrowing until the values are
# apart, or lie between the two thresholds around their mean.
ROUNDS = 6
# Brackets end when the trimmed sum is known to 1e-10 of itself (order.TOLERANCE), two ends.
CLOSE = 2e-10


def itself(inside, s):
    return s.y * np.e**-s.offset


def by_group(center, inside, s):
    return (itself(inside, s) - inside @ center.T) ** 2


def bound(y, groups):
    """No value exceeds the largest."""
    return y.max(axis=0)[:, None] * np.ones(len(groups.size))


def expected_of(v, inside, cut):
    """Mean without the cut smallest and largest, for each gene: R's mean(x, trim), k values."""
    mine = np.sort(v[inside], axis=0)
    return mine[cut : len(mine) - cut].mean(axis=0)


def two_groups(y):
    """Rows with group sizes 7 and the rest, and their design rows."""
    n = y.shape[0]
    x = np.column_stack([np.ones(n), np.arange(n) >= 7])
    return samples(y, x), Groups(np.array([0, 1]), np.array([7, n - 7]))


def split(s, *ends):
    edges = [0, *ends, s.y.shape[0]]
    return Sites([Samples(*(a[i:j] for a in s)) for i, j in pairwise(edges)])


def awkward():
    """Sixteen samples of genes with ties, zeros, equal values, outliers and wide ranges."""
    rng = np.random.default_rng(0)
    y = rng.negative_binomial(2, 0.05, (16, 12)).astype(float)
    y[:, 1] = rng.integers(0, 3, 16)  # many ties, many zeros
    y[:, 2] = 7
    y[:, 3] = 0
    y[:7, 4] = 0  # one group of zeros
    y[3, 5] = 1e9  # a huge outlier
    y[12, 6], y[:7, 6] = 1e15, 3
    y[:, 7] = 10.0 ** rng.uniform(-9, 9, 16)
    y[:, 8] = 1e6 + 1e-6 * np.arange(16)  # neighbours
    y[:, 9] = np.where(np.arange(16) % 5 == 0, 41, 0)  # all but a few are zero
    y[:, 10] = 1 + np.arange(16) * 2.0**-52  # neighbouring doubles
    return y


@pytest.fixture(params=[(2, 2), (0, 3), (3, 0), (1, 4)])
def cut(request):
    return np.array(request.param)


@pytest.mark.parametrize("ends", [(5, 6), (1,), (3, 9, 12), tuple(range(1, 16))])
def test_brackets_equal_sorting(cut, ends):
    y = awkward()
    s, groups = two_groups(y)
    genes = np.arange(y.shape[1])
    inside = np.arange(16) < 7
    expected = np.stack([expected_of(y, inside, cut[0]), expected_of(y, ~inside, cut[1])], axis=-1)
    sorted_ = trimmed_mean(Pooled(s), itself, (), groups, cut, bound(y, groups)[genes], genes)
    # Sums of at most nine values in another order: rounding.
    np.testing.assert_allclose(sorted_, expected, rtol=1e-14)
    sites = split(s, *ends)
    bracketed = trimmed_mean(sites, itself, (), groups, cut, bound(y, groups)[genes], genes)
    np.testing.assert_allclose(bracketed, expected, rtol=CLOSE)
    assert sites.rounds <= ROUNDS


def test_values_of_each_group():
    y = awkward()
    s, groups = two_groups(y)
    s = s._replace(offset=np.linspace(-0.4, 0.5, 16)[:, None])
    genes, cut = np.array([0, 1, 4, 7, 9]), np.array([1, 2])
    args = (np.random.default_rng(1).uniform(0, 30, (5, 2)),)
    q = y[:, genes] * np.exp(-s.offset)
    inside = np.arange(16) < 7
    expected = np.stack(
        [
            expected_of((q - args[0][:, u]) ** 2, mine, cut[u])
            for u, mine in enumerate((inside, ~inside))
        ],
        axis=-1,
    )
    most = (np.max(q, axis=0) + np.max(args[0])).reshape(-1, 1) ** 2 * np.ones(2)
    # (q - centre)² is rounded relative to q², which is up to 1e3 times larger here.
    pooled = trimmed_mean(Pooled(s), by_group, args, groups, cut, most, genes)
    np.testing.assert_allclose(pooled, expected, rtol=1e-11)
    sites = trimmed_mean(split(s, 4, 5), by_group, args, groups, cut, most, genes)
    np.testing.assert_allclose(sites, pooled, rtol=CLOSE)


def test_no_rows_make_one_group_of_everyone():
    y = awkward()
    s, _ = two_groups(y)
    groups, cut = Groups(np.zeros(0, int), np.array([16])), np.array([3])
    genes = np.array([0, 3, 5, 7, 11])
    expected = expected_of(y[:, genes], np.ones(16, bool), 3)[:, None]
    for c in (Pooled(s), split(s, 1, 9)):
        found = trimmed_mean(c, itself, (), groups, cut, bound(y, groups)[genes], genes)
        np.testing.assert_allclose(found, expected, rtol=CLOSE)


def test_samples_of_other_groups_count_nowhere():
    y = awkward()
    s, groups = two_groups(y)
    one = Groups(groups.cells[1:], groups.size[1:])
    expected = expected_of(y, np.arange(16) >= 7, 2)[:, None]
    for c in (Pooled(s), split(s, 3, 12)):
        found = trimmed_mean(c, itself, (), one, np.array([2]), bound(y, one), np.arange(12))
        np.testing.assert_allclose(found, expected, rtol=CLOSE)


def test_rounds_do_not_grow_with_genes():
    rounds = []
    for genes in (3, 60, 600):
        y = np.random.default_rng(genes).gamma(0.3, 100, (16, genes))
        s, groups = two_groups(y)
        sites = split(s, 5, 6)
        trimmed_mean(
            sites, itself, (), groups, np.array([1, 2]), bound(y, groups), np.arange(genes)
        )
        rounds.append(sites.rounds)
    # Gamma values of neighbours: most brackets separate them in four or five rounds.
    assert max(rounds) <= 9


def test_values_not_finite_end_and_disturb_no_other():
    y = awkward()
    s, groups = two_groups(y)
    cut, genes = np.array([1, 2]), np.arange(12)
    clean = trimmed_mean(split(s, 5), itself, (), groups, cut, bound(y, groups)[genes], genes)
    for bad in (np.nan, np.inf):
        y[2, 0] = bad
        broken, _ = two_groups(y)
        sites = split(broken, 5)
        with np.errstate(invalid="ignore"):
            found = trimmed_mean(sites, itself, (), groups, cut, bound(y, groups)[genes], genes)
        np.testing.assert_array_equal(found[1:], clean[1:])
        assert not np.isfinite(found[0, 0])
        assert sites.rounds <= ROUNDS


def test_genes_are_independent():
    y = awkward()
    s, groups = two_groups(y)
    cut, order = np.array([2, 3]), np.random.default_rng(2).permutation(12)
    for c in (Pooled(s), split(s, 5, 6)):
        whole = trimmed_mean(c, itself, (), groups, cut, bound(y, groups), np.arange(12))
        permuted = trimmed_mean(c, itself, (), groups, cut, bound(y, groups)[order], order)
        # Sums over few rows in the same order, but in other vector lanes.
        np.testing.assert_allclose(permuted, whole[order], rtol=1e-14)
