"""Moves of components: the bound over all genes rises, and wrong mixtures are put right."""

import numpy as np
import pytest
from brute_mixture import best, bound, rand_index, seen, some_base

from expressway.models import split_merge
from expressway.models.dirichlet import Base, Seen, Totals, values
from expressway.models.mixture_ascent import EMPTY, Mixed, begin, climb, empty, started
from expressway.models.split_merge import search

# Labels of components with fewer than 1e-9 genes are dropped, 30 at most: as many nats.
DROPPED = 1e-7


def clear(
    place: np.ndarray, each: int, rng: np.random.Generator, truncation: int = 12
) -> tuple[Seen, Base, np.ndarray]:
    """Genes at some places (k d), standard errors about .2, and a prior that allows for them."""
    k, d = place.shape
    z = np.repeat(np.arange(k), each)
    error = 0.2 * np.exp(0.3 * rng.normal(size=(d, len(z))))
    x = place[z].T + np.hypot(error, 0.05) * rng.normal(size=error.shape)
    precision = np.zeros((d, d, len(z)))
    precision[np.arange(d), np.arange(d)] = 1 / error**2
    width = np.full(d, 0.1)
    base = Base(truncation, (1.0, 1.0), np.zeros(d), width, np.full(d, 2.0), np.full(d, 0.08))
    return Seen(x / error**2, precision, np.ones(len(z))), base, z


def labelled(label: np.ndarray, genes: Seen, base: Base) -> Mixed:
    """A mixture that begins at given labels, values at their estimates."""
    totals = empty(base.truncation, len(genes.field))
    own = np.einsum("aag->ag", genes.precision)
    x = genes.field / own
    for j in np.unique(label):
        some = label == j
        totals.size[j] = np.sum(some)
        totals.first[j] = np.sum(x[:, some], axis=1)
        totals.second[j] = np.sum(x[:, some] ** 2 + 1 / own[:, some], axis=1)
    return begin(totals, genes, base)


def label(state: Mixed, genes: Seen) -> np.ndarray:
    return np.argmax(values(state.components, genes, state.active()).responsibility, axis=0)


def number(state: Mixed) -> int:
    return int(np.sum(state.totals.size > 0.5))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_one_component_is_split(d):
    rng = np.random.default_rng(d)
    genes, base, z = clear(rng.permutation(np.arange(4 * d) * 2.0).reshape(4, d), 30, rng)
    start = climb(labelled(np.zeros(120, int), genes, base), genes, base, 50)
    assert number(start) == 1
    found = search(start, genes, base, rng)
    assert number(found.state) == 4
    assert rand_index(label(found.state, genes), z) == 1.0
    assert found.state.elbo > start.elbo + 50
    assert {kind for kind, _ in found.events} >= {"split"}


@pytest.mark.parametrize("d", [1, 2])
def test_components_of_one_place_are_merged(d):
    """Each of two places cut in three by chance."""
    rng = np.random.default_rng(d)
    genes, base, z = clear(np.arange(2)[:, None] * 3.0 * np.ones((2, d)), 40, rng)
    start = labelled(3 * z + rng.integers(3, size=80), genes, base)
    found = search(start, genes, base, rng)
    assert number(found.state) == 2
    assert rand_index(label(found.state, genes), z) == 1.0


def test_a_wrong_cut_is_put_right():
    """One component over two places, two over one."""
    rng = np.random.default_rng(0)
    place = np.array([[-3.0], [-1.5], [4.0]])
    genes, base, z = clear(place, 40, rng)
    x = genes.field[0] / genes.precision[0, 0]
    wrong = np.where(z < 2, 0, np.where(x > 4.0, 1, 2))
    found = search(labelled(wrong, genes, base), genes, base, rng)
    assert number(found.state) == 3
    assert rand_index(label(found.state, genes), z) > 0.95  # two places at five standard errors


def test_cycles_alone_do_not_do_it():
    """What moves are for: from one component they stay there."""
    rng = np.random.default_rng(1)
    genes, base, _ = clear(np.array([[0.0], [3.0]]), 40, rng)
    start = labelled(np.zeros(80, int), genes, base)
    assert number(climb(start, genes, base, 300)) == 1
    assert number(search(start, genes, base, rng).state) == 2


def test_nothing_to_split():
    """One normal cluster, however wide, stays one: the bound knows what a component costs."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        x = np.hypot(0.2, [0.0, 0.05, 1.0][seed % 3]) * rng.normal(size=150)
        error = np.full(150, 0.2)
        genes = Seen((x / error**2)[None], (1 / error**2)[None, None], np.ones(150))
        base = Base(10, (1.0, 1.0), np.zeros(1), np.full(1, 0.1), np.full(1, 2.0), np.full(1, 0.08))
        found = search(started(genes, base, 5, rng), genes, base, rng)
        assert number(found.state) == 1


@pytest.mark.parametrize("truncation", [1, 2, 3])
def test_no_more_components_than_there_is_room_for(truncation):
    rng = np.random.default_rng(0)
    genes, base, _ = clear(np.arange(4)[:, None] * 3.0, 20, rng, truncation)
    found = search(labelled(np.zeros(80, int), genes, base), genes, base, rng)
    assert len(found.state.totals.size) == truncation
    assert number(found.state) == truncation
    assert np.sum(found.state.totals.size) == pytest.approx(80, rel=1e-12)


@pytest.mark.parametrize("seed", range(12))
def test_the_bound_of_a_search(seed):
    """It never falls, and where it ends it is what the definition says."""
    rng = np.random.default_rng(seed)
    d, g = [1, 2, 3][seed % 3], [1, 2, 25, 60][seed % 4]
    genes, base = seen(g, d, rng), some_base(d, rng, [1, 2, 6][(seed // 3) % 3])
    start = started(genes, base, min(4, base.truncation), rng)
    found = search(start, genes, base, rng)
    path = [start.elbo, *(value for _, value in found.events), found.state.elbo]
    assert np.min(np.diff(path)) > -DROPPED
    # Each move brought more than rounding would.
    moves = [value for _, value in found.events]
    assert np.min(np.diff(moves), initial=1.0) > split_merge.RISE - DROPPED
    state = found.state
    # Components that have no genes at all could have none.
    q = best(state.components, genes, np.flatnonzero(state.totals.size > 0))
    expected = bound(q, state.components, genes, base)
    assert state.elbo == pytest.approx(expected, rel=1e-9, abs=1e-7)  # rounding of 1e4 terms


def test_no_move_from_its_end_raises_the_bound():
    """A search that goes on from where one ended finds nothing."""
    for seed in range(6):
        rng = np.random.default_rng(seed)
        genes, base = seen(40, 1 + seed % 2, rng), some_base(1 + seed % 2, rng, 8)
        one = search(started(genes, base, 3, rng), genes, base, rng)
        two = search(one.state, genes, base, np.random.default_rng(seed + 100))
        assert two.state.elbo < one.state.elbo + 0.5  # cycles may go on; a new cluster brings more
        assert number(two.state) == number(one.state)


def test_moves_at_once_are_moves():
    """Two merges and a split together end where each alone does; totals are kept."""
    rng = np.random.default_rng(3)
    genes, base, z = clear(np.arange(6)[:, None] * 4.0, 20, rng)
    # Places 0-1 are one component; 2 and 3 are cut in two each.
    wrong = np.select([z < 2, z == 2, z == 3], [0, 1, 3], z + 1)
    cut = rng.random(len(z)) < 0.5
    wrong = np.where((z == 2) & cut, 2, np.where((z == 3) & cut, 4, wrong))
    wrong = np.where(z >= 4, z + 3, wrong)
    found = search(labelled(wrong, genes, base), genes, base, rng)
    assert number(found.state) == 6
    assert rand_index(label(found.state, genes), z) == 1.0
    assert np.sum(found.state.totals.size) == pytest.approx(120, rel=1e-12)


def test_proposals_from_some_genes(monkeypatch):
    """More genes than cuts are proposed from: the moves are judged on all."""
    monkeypatch.setattr(split_merge, "PROPOSE", 40)
    rng = np.random.default_rng(4)
    genes, base, z = clear(np.arange(3)[:, None] * 3.0, 100, rng)
    found = search(labelled(np.zeros(300, int), genes, base), genes, base, rng)
    assert rand_index(label(found.state, genes), z) == 1.0
    assert np.sum(found.state.totals.size) == pytest.approx(300, rel=1e-12)


def test_a_few_genes_far_away_are_a_cluster():
    rng = np.random.default_rng(5)
    genes, base, _ = clear(np.array([[0.0], [5.0]]), 100, rng)
    few = genes.some(np.arange(105))
    found = search(labelled(np.zeros(105, int), few, base), few, base, rng)
    np.testing.assert_allclose(np.sort(found.state.totals.size)[-2:], [5, 100], atol=0.5)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_starts(k):
    """Components at genes far from each other; each gene counted once; alike genes make one."""
    rng = np.random.default_rng(6)
    genes, base, z = clear(np.arange(5)[:, None] * 8.0, 10, rng)
    state = started(genes, base, k, rng)
    assert np.sum(state.totals.size) == pytest.approx(50, rel=1e-12)
    assert number(state) == k
    if k == 5:
        assert rand_index(label(state, genes), z) == 1.0
    alike = Seen(np.full((1, 4), 2.0), np.ones((1, 1, 4)), np.ones(4))
    assert number(started(alike, base, k, rng)) == 1
    assert np.all(np.diff(state.totals.size[state.totals.size > EMPTY]) < 8)


def test_begin_sorts_and_knows_spreads():
    rng = np.random.default_rng(7)
    genes, base, z = clear(np.array([[0.0], [4.0], [9.0]]), 10, rng, 3)
    x = genes.field[0] / genes.precision[0, 0]
    size = np.array([2.0, 20.0, 8.0])
    mean = np.array([[9.0], [0.0], [4.0]])
    state = begin(Totals(size, size[:, None] * mean, size[:, None] * (mean**2 + 0.01)), genes, base)
    order = [1, 2, 0]
    # Drawn to 0 by a prior of a tenth, against tens of a precision of about 20.
    np.testing.assert_allclose(state.components.mean, mean[order], atol=0.1)
    assert rand_index(label(state, genes), z) == 1.0
    assert np.corrcoef(x, state.components.mean[label(state, genes), 0])[0, 1] > 0.99
