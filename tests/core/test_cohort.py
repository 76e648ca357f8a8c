"""Where rows live: sums add, padding is nothing, fields are replaced."""

from itertools import pairwise
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from expressway.core import cohort
from expressway.core.cohort import Cohort, Pooled, Samples, samples
from expressway.run import Sites


class Totals(NamedTuple):
    """Some sums a gene."""

    log: Any
    cross: Any


def totals(scale, shared, s):
    """Terms that are not 0 on an empty row unless its weight is."""
    terms = s.weight[:, None] * s.precision * jnp.log1p(s.y + scale[None]) * jnp.exp(s.offset)
    return Totals(jnp.sum(terms + s.weight[:, None] * shared, axis=0), (terms**2).T @ (s.x + 1.0))


def looped(scale, shared, s):
    n, g = s.y.shape
    log, cross = np.zeros(g), np.zeros((g, s.x.shape[1]))
    offset, precision = (np.broadcast_to(a, (n, g)) for a in (s.offset, s.precision))
    for i in range(n):
        terms = s.weight[i] * precision[i] * np.log1p(s.y[i] + scale) * np.exp(offset[i])
        log += terms + s.weight[i] * shared
        cross += np.outer(terms**2, s.x[i] + 1.0)
    return Totals(log, cross)


def rows(n=11, genes=37, columns=1, seed=0):
    rng = np.random.default_rng(seed)
    y = rng.poisson(20, (n, genes))
    x = np.column_stack([np.ones(n), rng.normal(size=n)])
    return Samples(
        y=y,
        x=x,
        offset=rng.normal(0, 0.3, (n, columns)),
        precision=rng.uniform(0.5, 1, (n, columns)),
        weight=rng.uniform(0.5, 1.5, n),
        cell=np.arange(n) % 3,
    )


def split(s, *ends):
    """Rows cut before each of the ends."""
    edges = [0, *ends, s.y.shape[0]]
    return [Samples(*(a[i:j] for a in s)) for i, j in pairwise(edges)]


SCALE = np.linspace(0.5, 2, 37)
# Sums of eleven terms of one sign: rounding only (style rule 20 asks for 1e-10).
ROUNDING = 1e-13


def assert_same(found, expected, rtol=ROUNDING):
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("columns", [1, 37])
@pytest.mark.parametrize("ends", [(), (1,), (4, 5), (2, 3, 9), tuple(range(1, 11))])
def test_sum_is_additive_over_any_split(ends, columns):
    s = rows(columns=columns)
    expected = looped(SCALE, 3.0, s)
    assert_same(Pooled(s).sum(totals, SCALE, shared=(3.0,)), expected)
    sites = Sites(split(s, *ends))
    assert_same(sites.sum(totals, SCALE, shared=(3.0,)), expected)
    assert sites.rounds == 1


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 8, 9, 31, 33, 63, 65, 200])
def test_padding_rows_do_nothing(n):
    s = rows(n)
    pooled = Pooled(s)
    # Up to 200 terms.
    assert_same(pooled.sum(totals, SCALE, shared=(3.0,)), looped(SCALE, 3.0, s), rtol=1e-12)
    padded = pooled.take(np.arange(37))
    total = padded.y.shape[0]
    assert n <= total <= max(1.25 * n, n + 3)
    for name, field in padded._asdict().items():
        assert np.all(np.asarray(field)[n:] == (-1 if name == "cell" else 0))
    for field, given in zip(padded, s, strict=True):
        np.testing.assert_array_equal(np.asarray(field)[:n], given)


@pytest.mark.parametrize(
    "genes", [[3], [36], [0, 1, 2, 3], [35, 36], [5, 4, 3], [30, 2, 17], [7, 7, 9], [1, 2, 4, 3]]
)
@pytest.mark.parametrize("columns", [1, 37])
def test_genes_choose_a_subset(genes, columns):
    s, genes = rows(columns=columns), np.array(genes)
    whole = looped(SCALE, 3.0, s)
    for c in (Pooled(s), Sites(split(s, 3, 4))):
        found = c.sum(totals, SCALE[genes], shared=(3.0,), genes=genes)
        assert_same(found, (a[genes] for a in whole))


def test_blocks_change_nothing(monkeypatch):
    s = rows(genes=300, columns=300)
    scale, small = np.linspace(0.5, 2, 300), Pooled(s)
    with monkeypatch.context() as changed:
        changed.setattr(cohort, "BLOCK_ELEMENTS", 2**18)
        whole = Pooled(s).sum(totals, scale, shared=(3.0,))
    assert small.block < 300
    assert 300 % small.block  # the last block is not full
    assert_same(small.sum(totals, scale, shared=(3.0,)), whole)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.float32, np.float64, np.uint16])
def test_counts_of_any_type(kind):
    s = rows()
    assert_same(
        Pooled(s._replace(y=s.y.astype(kind))).sum(totals, SCALE, shared=(3.0,)),
        looped(SCALE, 3.0, s),
    )


def with_sizes(size, s):
    return {"offset": np.log(size) * np.ones((s.y.shape[0], 1)), "y": s.y * 2}


def by_gene(scale, s):
    return {"precision": np.ones(s.y.shape) * scale}


@pytest.mark.parametrize("make", [Pooled, lambda s: Sites(split(s, 3, 4))])
def test_map_replaces_fields_and_leaves_the_cohort(make):
    s = rows()
    before = make(s)
    after = before.map(with_sizes, shared=(2.5,))
    expected = s._replace(offset=np.full((11, 1), np.log(2.5)), y=s.y * 2)
    assert_same(after.sum(totals, SCALE, shared=(3.0,)), looped(SCALE, 3.0, expected))
    assert_same(before.sum(totals, SCALE, shared=(3.0,)), looped(SCALE, 3.0, s))
    assert isinstance(after, Cohort)
    assert after.genes == before.genes == 37


@pytest.mark.parametrize("make", [Pooled, lambda s: Sites(split(s, 3, 4))])
@pytest.mark.parametrize("columns", [1, 37])
def test_map_of_some_genes_is_a_cohort_of_those(make, columns):
    s, genes = rows(columns=columns), np.array([30, 2, 17])
    after = make(s).map(by_gene, SCALE[genes], genes=genes)
    assert after.genes == 3
    cut = s._replace(y=s.y[:, genes], precision=np.ones((11, 3)) * SCALE[genes])
    if columns > 1:
        cut = cut._replace(offset=s.offset[:, genes])
    found = after.sum(totals, SCALE[genes], shared=(3.0,))
    assert_same(found, looped(SCALE[genes], 3.0, cut))


def test_collect_sees_rows_only_where_they_are_at_hand():
    s = rows()

    def middle(s):
        return np.median(np.asarray(s.y)[np.asarray(s.weight) > 0], axis=0)

    assert Pooled(s).at_hand
    np.testing.assert_array_equal(Pooled(s).collect(middle), np.median(s.y, axis=0))
    sites = Sites(split(s, 3))
    assert not sites.at_hand
    with pytest.raises(TypeError, match="stay at their sites"):
        sites.collect(middle)


def test_samples_have_unit_weight_and_no_offset():
    s = samples(np.array([[1, 2], [3, 4], [5, 6]]), np.array([[1], [1], [1]]))
    np.testing.assert_array_equal(s.weight, np.ones(3))
    np.testing.assert_array_equal(s.precision, np.ones((3, 1)))
    np.testing.assert_array_equal(s.offset, np.zeros((3, 1)))
    assert s.x.dtype == float


def test_one_compilation_for_all_blocks_and_cohorts_of_a_size():
    traces = []

    def counted(scale, s):
        traces.append(s.y.shape)
        return jnp.sum(s.y * scale[None], axis=0)

    for n, genes in ((11, 300), (11, 40), (12, 129), (10, 700)):
        Pooled(rows(n, genes)).sum(counted, np.ones(genes))
    assert len(traces) == 1
    Pooled(rows(13, 40)).sum(counted, np.ones(40))
    assert len(traces) == 2


def test_as_many_genes_as_coefficients_or_one():
    """Columns that belong to genes are told from columns of the design by name, not by number."""
    rng = np.random.default_rng(4)
    x = np.column_stack([np.ones(5), np.arange(5.0)])
    for genes in (1, 2):
        y = rng.poisson(9, (5, genes))
        rows = cohort.samples(y, x)._replace(offset=rng.normal(0, 1, (5, genes)))
        taken = cohort.Pooled(rows).take(np.arange(genes))
        assert len({len(part) for part in taken}) == 1
        np.testing.assert_array_equal(np.asarray(taken.x)[:5], x)
        np.testing.assert_array_equal(taken.y[:5], y)
        np.testing.assert_array_equal(taken.offset[:5], rows.offset)
