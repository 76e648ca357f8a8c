"""Mixtures of all coordinates: the whole bound, its rise, recovery, and what must not matter."""

import numpy as np
import pytest
from brute_mixture import (
    Labelled,
    best,
    components_part,
    labels,
    one_coordinate,
    rand_index,
    sites,
    some_base,
)
from scipy.special import logsumexp

from expressway.models import gene_mixtures
from expressway.models.dirichlet import REQUEST, Prior, values
from expressway.models.gene_mixtures import (
    Block,
    Mixtures,
    Sites,
    Starts,
    covariance,
    model,
    seen_by,
)
from expressway.models.mixture_ascent import started

# Labels of components with fewer than 1e-9 genes are dropped, 30 a block: as many nats. Rounding
# of sums is below.
DROPPED = 2e-7


def fit(of: Sites, blocks, priors, *, starts: int, seed: int, warm=None) -> Mixtures:
    given = model(of, blocks, priors)
    return gene_mixtures.fit(of, given, Starts(starts, seed), warm=warm)


def sizes(found: Mixtures, block: int = 0) -> np.ndarray:
    """Genes of components that have half a gene."""
    size = found.blocks[block].state.totals.size
    return np.sort(size[size > 0.5])[::-1]


def label(found: Mixtures, block: int = 0) -> np.ndarray:
    return np.argmax(found.blocks[block].values.responsibility, axis=0)


def product(q: list[Block], each: list[Labelled], of: Sites) -> float:
    """The bound of a product of q over blocks, from its definition."""
    g, p = of.field.shape
    total, home = 0.0, {}
    for block, b in zip(q, each, strict=True):
        total += labels(b, block.state.components)
        total += components_part(block.state.components, block.base)
        home |= {c: (block.coordinates, i, b) for i, c in enumerate(block.coordinates)}
    mean = np.array([np.sum(home[c][2].r * home[c][2].mean[:, :, home[c][1]], 1) for c in range(p)])
    for a in range(g):
        for c in range(p):
            own, i, b = home[c]
            total += of.field[a, c] * mean[c, a]
            for e in range(p):
                both = mean[c, a] * mean[e, a]
                if e in own:
                    k = home[e][1]
                    both = b.r[a] @ (b.covariance[a, :, i, k] + b.mean[a, :, i] * b.mean[a, :, k])
                total -= 0.5 * of.precision[a, c, e] * both
    return float(total)


PARTITIONS = [((0,), (1,), (2,)), ((0, 2), (1,)), ((1,), (0, 2)), ((0, 1, 2),)]


@pytest.mark.parametrize("blocks", PARTITIONS)
def test_the_bound_of_several_blocks(blocks):
    """Blocks that saw each other at different times, and components at no optimum."""
    rng = np.random.default_rng(len(blocks))
    of = sites(8, 3, rng)
    mean = rng.normal(size=(8, 3))
    made, each = [], []
    for coordinates in blocks:
        seen = seen_by(coordinates, of, mean)
        base = some_base(len(coordinates), rng, 4)
        state = started(seen, base, 3, rng)
        made.append(gene_mixtures._block(coordinates, base, state, seen))
        # Components that lost their genes, 1e-9 of one, have none.
        each.append(best(state.components, seen, state.active()))
        mean[:, list(coordinates)] = made[-1].values.mean.T
    found = gene_mixtures._elbo(made, of, mean)
    assert found == pytest.approx(product(made, each, of), rel=1e-10)  # rounding


@pytest.mark.parametrize("blocks", PARTITIONS)
def test_the_bound_of_a_fit(blocks):
    """As its definition, with every block's labels and values at their best in turn."""
    rng = np.random.default_rng(len(blocks))
    of = sites(8, 3, rng)
    priors = (Prior(4), Prior(3, 2.0, 0.5, 0.3, 1.0, 1.5, 0.2), REQUEST._replace(truncation=4))
    found = fit(of, blocks, priors, starts=2, seed=0)
    moved, mean = of.shifted(found.center), found.mean - found.center
    each = []
    for block in found.blocks:
        seen = seen_by(block.coordinates, moved, mean)
        each.append(best(block.state.components, seen))
        new = np.einsum("gj,gjd->gd", each[-1].r, each[-1].mean)
        mean[:, list(block.coordinates)] = new
    rise = product(list(found.blocks), each, moved) - found.elbo
    # A sweep of a thing that has converged: no worse, and no more than some times ENOUGH.
    assert -1e-7 < rise < 0.1


def partition(p: int, rng: np.random.Generator) -> tuple[tuple[int, ...], ...]:
    """Each coordinate alone, or some together."""
    group = rng.integers(p, size=p) if rng.random() < 0.6 else np.arange(p)
    return tuple(tuple(np.flatnonzero(group == k).tolist()) for k in np.unique(group))


@pytest.mark.parametrize("seed", range(30))
def test_the_bound_never_falls(seed):
    rng = np.random.default_rng(seed)
    g = [1, 2, 3, 12, 25][seed % 5]
    p = int(rng.integers(1, 5))
    of, blocks = sites(g, p, rng), partition(p, rng)
    truncation = [1, 2, 30][seed % 3]
    some = [
        Prior(truncation),
        REQUEST._replace(truncation=truncation),
        Prior(truncation, 0.2, 5.0, 1.0, 3.0, 0.6, 0.01),
    ]
    priors = tuple(some[int(rng.integers(3))] for _ in range(p))
    found = fit(of, blocks, priors, starts=int(rng.integers(1, 3)), seed=seed)
    trace = np.array([value for _, value in found.trace])
    assert np.all(np.isfinite(trace))
    assert np.min(np.diff(trace), initial=0.0) > -DROPPED
    assert found.elbo == trace[-1]
    assert found.elbo >= max(trace) - DROPPED
    assert {kind for kind, _ in found.trace} <= {"start", "sweep", "split", "merge"}
    for block in found.blocks:
        assert np.sum(block.state.totals.size) == pytest.approx(g, rel=1e-9)
        np.testing.assert_allclose(block.values.responsibility.sum(axis=0), 1.0, rtol=1e-12)
    assert np.all(found.variance > 0)
    # Warm, from its end and for another truncation, too.
    for other in (truncation, 3)[: 1 + seed % 2]:
        changed = tuple(prior._replace(truncation=other) for prior in priors)
        again = fit(of, blocks, changed, starts=0, seed=seed, warm=found)
        trace = np.array([value for _, value in again.trace])
        assert np.min(np.diff(trace), initial=0.0) > -DROPPED
        if other == truncation:
            # It begins from sums over genes alone, and stops at ENOUGH.
            assert again.elbo > found.elbo - 0.1


def data(
    k: int, separation: float, seed: int, g: int = 500
) -> tuple[Sites, np.ndarray, np.ndarray, np.ndarray]:
    """Unequal errors; places so many typical widths apart; also labels, places, variances."""
    rng = np.random.default_rng(seed)
    z = rng.integers(k, size=g)
    error = 0.2 * np.exp(0.4 * rng.normal(size=g))
    width = np.hypot(0.2, 0.05)
    place = separation * width * np.arange(k) - 1.0
    estimate = place[z] + np.hypot(0.05, error) * rng.normal(size=g)
    return one_coordinate(estimate, error), z, place, error**2 + 0.05**2


def oracle(of: Sites, z: np.ndarray, place: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Bayes's classifier, true components known."""
    estimate = (of.field / of.precision[:, 0])[:, 0]
    share = np.bincount(z, minlength=len(place)) / len(z)
    log = np.log(share) - 0.5 * (estimate[:, None] - place) ** 2 / variance[:, None]
    return np.argmax(log - logsumexp(log, axis=1, keepdims=True), axis=1)


@pytest.mark.parametrize(("k", "separation"), [(1, 5), (2, 5), (3, 8), (6, 5), (6, 8)])
def test_clusters_are_found(k, separation):
    of, z, place, variance = data(k, separation, seed=10 * k + separation)
    found = fit(of, ((0,),), (Prior(),), starts=1, seed=0)
    assert len(sizes(found)) == k
    reached = rand_index(label(found), z)
    assert reached >= rand_index(oracle(of, z, place, variance), z) - 0.02  # issue 7's target
    mean = np.sort(found.blocks[0].state.components.mean[:k, 0] + found.center[0])
    error = np.sqrt(variance.mean() / (500 / k))
    np.testing.assert_allclose(mean, place, atol=5 * error)


def test_order_place_and_scale_do_not_matter():
    of, _, _, _ = data(4, 6, seed=1, g=80)
    priors = (Prior(),)
    one = fit(of, ((0,),), priors, starts=1, seed=0)
    order = np.random.default_rng(0).permutation(80)
    other = fit(Sites(of.field[order], of.precision[order]), ((0,),), priors, starts=1, seed=0)
    # A start at one component takes no random number. Sums differ by rounding, and with them
    # which cycle is the last: each stops within .02 nats a sweep.
    assert other.elbo == pytest.approx(one.elbo, abs=0.02)
    np.testing.assert_array_equal(label(other), label(one)[order])
    for shift in (100.0,):
        moved = fit(of.shifted(np.array([-shift])), ((0,),), priors, starts=1, seed=0)
        assert moved.elbo == pytest.approx(one.elbo, abs=0.02)
        np.testing.assert_allclose(moved.mean, one.mean + shift, atol=1e-3)
        np.testing.assert_allclose(moved.variance, one.variance, rtol=0.01)
    for scale in (0.01,):
        scaled = Sites(of.field / scale, of.precision / scale**2)
        turned = fit(scaled, ((0,),), priors, starts=1, seed=0)
        # Where cycles are stopped, and which extrapolations are too long, is in natural units.
        assert turned.elbo == pytest.approx(one.elbo, abs=0.02)
        assert rand_index(label(turned), label(one)) == 1.0
        np.testing.assert_allclose(turned.mean, one.mean * scale, atol=0.01 * scale)


def test_a_mirror_does_not_matter():
    of, _, _, _ = data(3, 6, seed=2, g=200)
    one = fit(of, ((0,),), (Prior(),), starts=1, seed=0)
    other = fit(Sites(-of.field, of.precision), ((0,),), (Prior(),), starts=1, seed=0)
    assert other.elbo == pytest.approx(one.elbo, abs=0.02)  # two ways to climb
    assert rand_index(label(one), label(other)) == 1.0


def test_blocks_without_correlation_are_alone():
    """Two coordinates that no gene correlates: each is as if fitted alone."""
    of, _, _, _ = data(2, 8, seed=3, g=90)
    on, _, _, _ = data(3, 8, seed=4, g=90)
    precision = np.zeros((90, 2, 2))
    precision[:, 0, 0], precision[:, 1, 1] = of.precision[:, 0, 0], on.precision[:, 0, 0]
    both = Sites(np.column_stack([of.field, on.field]), precision)
    found = fit(both, ((0,), (1,)), (Prior(),) * 2, starts=1, seed=0)
    alone = [fit(one, ((0,),), (Prior(),), starts=1, seed=0) for one in (of, on)]
    assert found.elbo == pytest.approx(sum(one.elbo for one in alone), abs=0.02)  # ENOUGH
    np.testing.assert_array_equal(label(found, 0), label(alone[0]))
    np.testing.assert_array_equal(label(found, 1), label(alone[1]))
    # Together, they have one label: six of them. Of one start, some are not found.
    joint = fit(both, ((0, 1),), (Prior(),) * 2, starts=6, seed=0)
    assert len(sizes(joint)) == 6
    # A gene between two places may go either way.
    assert rand_index(label(joint), label(alone[0]) * 3 + label(alone[1])) > 0.95


def test_all_genes_alike():
    for g in (1, 2, 50):
        of = one_coordinate(np.full(g, 1.5), np.full(g, 0.2))
        found = fit(of, ((0,),), (Prior(),), starts=3, seed=0)
        assert len(sizes(found)) == 1
        np.testing.assert_allclose(found.mean, 1.5, atol=1e-6)
        assert np.all(found.variance <= 0.2**2)


def test_one_gene_far_away():
    """It has a component of its own, or is in one; the others stay one, and it is not moved."""
    rng = np.random.default_rng(0)
    for far in (3.0, 20.0, 1000.0):
        estimate = np.append(0.2 * rng.normal(size=99), far)
        of = one_coordinate(estimate, np.full(100, 0.2))
        found = fit(of, ((0,),), (Prior(),), starts=2, seed=0)
        assert sizes(found)[0] > 99 - 0.5
        assert len(sizes(found)) <= 2
        if far > 3:
            np.testing.assert_allclose(sizes(found), [99, 1], atol=0.5)
            assert found.mean[-1, 0] == pytest.approx(far, abs=0.2)
        np.testing.assert_allclose(found.mean[:-1, 0].mean(), estimate[:-1].mean(), atol=0.02)


def test_genes_without_information_take_no_component():
    """They have the weights of the others, and change nothing of them."""
    of, _, _, _ = data(3, 8, seed=5, g=100)
    one = fit(of, ((0,),), (Prior(),), starts=1, seed=0)
    nothing = Sites(
        np.vstack([of.field, np.zeros((30, 1))]),
        np.concatenate([of.precision, np.zeros((30, 1, 1))]),
    )
    found = fit(nothing, ((0,),), (Prior(),), starts=1, seed=0)
    assert len(sizes(found)) == 3
    assert rand_index(label(found)[:100], label(one)) == 1.0
    r = found.blocks[0].values.responsibility[:, 100:]
    assert np.ptp(r, axis=1).max() < 1e-12
    np.testing.assert_allclose(
        np.sort(r[:, 0])[-3:], np.sort(sizes(one)) / 100, atol=0.03
    )  # the sticks' prior takes a gene or two


def test_a_minority_that_knows_something():
    """Two clear clusters, and three in five genes with standard errors a hundred times theirs."""
    error = np.where(np.arange(500) % 5 < 2, 0.1, 10.0)
    rng = np.random.default_rng(0)
    z = rng.integers(2, size=500)
    estimate = np.where(z == 1, 1.0, -1.0) + error * rng.normal(size=500)
    found = fit(one_coordinate(estimate, error), ((0,),), (Prior(),), starts=2, seed=0)
    known = error < 1
    assert rand_index(label(found)[known], z[known]) == 1.0


def test_data_driven_priors():
    """Centre, width and errors are medians over genes that know something."""
    rng = np.random.default_rng(1)
    estimate, error = rng.normal(2.0, 0.5, 400), np.full(400, 0.1)
    estimate[:20], error[:20] = 500.0, 1e3
    of = one_coordinate(estimate, error)
    center, _, (base,) = model(of, ((0,),), (Prior(),))
    np.testing.assert_allclose(center, np.median(estimate[20:]))
    np.testing.assert_allclose(base.mean, 0.0)
    np.testing.assert_allclose(base.precision, 1 / (4 * np.var(estimate[20:])), rtol=0.3)
    np.testing.assert_allclose(base.rate, 2 * 0.1**2)
    center, _, (base,) = model(of, ((0,),), (REQUEST,))
    np.testing.assert_allclose([base.mean[0], base.precision[0]], [-center[0], 0.5])
    assert (base.truncation, base.concentration) == (30, (1.0, 1.0))
    assert (base.shape[0], base.rate[0]) == (1.0, 2.0)


def test_estimates():
    rng = np.random.default_rng(0)
    of = sites(10, 3, rng)
    known = np.flatnonzero(np.linalg.eigvalsh(of.precision)[:, 0] > 0.1)
    at, error = of.estimates()
    for g in known:
        inverse = np.linalg.inv(of.precision[g])
        # 1e-9 of the information is added, times the condition number.
        np.testing.assert_allclose(at[g], inverse @ of.field[g], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(error[g], np.sqrt(np.diag(inverse)), rtol=1e-5)
    none = Sites(np.zeros((1, 3)), np.zeros((1, 3, 3)))
    at, error = none.estimates()
    assert np.all(at == 0)
    assert np.all(error > 1e5)
    # One direction known of two.
    flat = Sites(np.ones((1, 2)), np.ones((1, 2, 2)))
    assert np.all(flat.estimates()[1] > 1e3)


def test_seen_by():
    """Likelihood of a block's values, the others at their means: the same up to a constant."""
    rng = np.random.default_rng(2)
    of = sites(6, 4, rng)
    mean = rng.normal(size=(6, 4))
    seen = seen_by((1, 3), of, mean)

    def log(x: np.ndarray, g: int) -> float:
        return of.field[g] @ x - 0.5 * x @ of.precision[g] @ x

    for g in range(6):
        change = rng.normal(size=2)
        x = mean[g].copy()
        x[[1, 3]] = change
        found = seen.field[:, g] @ change - 0.5 * change @ seen.precision[:, :, g] @ change
        own = mean[g, [1, 3]]
        start = seen.field[:, g] @ own - 0.5 * own @ seen.precision[:, :, g] @ own
        assert found - start == pytest.approx(log(x, g) - log(mean[g], g), rel=1e-9, abs=1e-9)


def test_covariance_of_one_component():
    """The exact posterior of a normal model: its mixture is one normal."""
    rng = np.random.default_rng(0)
    of = sites(30, 3, rng)
    found = fit(of, ((0,), (1,), (2,)), (Prior(1),) * 3, starts=1, seed=0)
    s = np.array([block.state.components.precision[0, 0] for block in found.blocks])
    exact = np.linalg.inv(of.precision + np.diag(s))
    np.testing.assert_allclose(covariance(of, found), exact, rtol=1e-9, atol=1e-12)
    # q alone has less variance than that, the more so the more values are correlated.
    assert np.all(found.variance <= np.einsum("gcc->gc", exact) * (1 + 1e-9))


def test_covariance_is_the_answer_to_a_push():
    """Means of two coordinates in mixtures of two, by finite differences of q's fixed point."""
    rng = np.random.default_rng(4)
    of = sites(25, 2, rng)
    found = fit(of, ((0,), (1,)), (Prior(2, rate=0.1),) * 2, starts=2, seed=0)
    assert np.any([np.max(np.min(b.values.responsibility, axis=0)) > 0.05 for b in found.blocks])

    def means(push: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        moved = of.shifted(found.center)
        moved = moved._replace(field=moved.field + push)
        mean, variance = found.mean - found.center, np.zeros_like(found.mean)
        for _ in range(400):
            for k, block in enumerate(found.blocks):
                seen = seen_by((k,), moved, mean)
                v = values(block.state.components, seen, np.arange(2))
                mean = mean.copy()
                mean[:, k], variance[:, k] = v.mean[0], v.variance[0]
        return mean, variance

    at, variance = means(np.zeros(2))
    there = found._replace(mean=at + found.center, variance=variance)
    answer = covariance(of, there)
    a = of.precision * (1 - np.eye(2))
    a[:, np.arange(2), np.arange(2)] = 1 / variance
    settled = np.linalg.eigvalsh(a)[:, 0] > 1e-2
    assert np.sum(settled) > 20
    for k in range(2):
        step = 1e-5 * np.eye(2)[k]
        slope = (means(step)[0] - means(-step)[0]) / 2e-5
        # Differences of 1e-5 in a field, rounded to 1e-15.
        np.testing.assert_allclose(slope[settled], answer[settled, :, k], rtol=1e-4, atol=1e-6)


def test_covariance_beside_the_exact_posterior():
    """Two coordinates, mixtures of two, little correlation: a grid over both values."""
    of = Sites(np.array([[8.0, -3.0]] * 3), np.array([[[20.0, 2.0], [2.0, 10.0]]] * 3))
    found = fit(of, ((0,), (1,)), (Prior(2, 1, 1, 0.0, 1.0, 5.0, 1.0),) * 2, starts=1, seed=0)
    line = np.linspace(-4, 4, 801)
    log = [np.zeros(len(line)), np.zeros(len(line))]
    for k, block in enumerate(found.blocks):
        q = block.state.components
        x = line[:, None] - found.center[k]
        each = q.constant() + q.precision[:, 0] * q.mean[:, 0] * x - 0.5 * q.precision[:, 0] * x**2
        log[k] = logsumexp(each, axis=1)
    x = np.stack(np.meshgrid(line, line, indexing="ij"), axis=-1)
    density = x @ of.field[0] - 0.5 * np.einsum("xya,ab,xyb->xy", x, of.precision[0], x)
    density += log[0][:, None] + log[1][None]
    share = np.exp(density - density.max())
    share /= share.sum()
    mean = np.einsum("xy,xya->a", share, x)
    exact = np.einsum("xy,xya,xyb->ab", share, x - mean, x - mean)
    found_one = covariance(of, found)[0]
    np.testing.assert_allclose(found.mean[0], mean, atol=0.01)
    # Linear response is exact to first order in the correlation, here 2 / sqrt(200) = .14.
    np.testing.assert_allclose(found_one, exact, rtol=0.05, atol=1e-3)


def test_covariance_where_there_is_none():
    """Variances alone, where blocks answer each other without end."""
    of = Sites(np.zeros((2, 2)), np.array([[[1.0, 0.99], [0.99, 1.0]]] * 2))
    found = fit(of, ((0,), (1,)), (Prior(1, mean_sd=1.0),) * 2, starts=1, seed=0)
    wide = found._replace(variance=np.full((2, 2), 4.0))
    np.testing.assert_array_equal(covariance(of, wide), np.diag([4.0, 4.0])[None].repeat(2, 0))


def test_seeds_decide():
    of, _, _, _ = data(3, 4, seed=6, g=60)
    one, two = (fit(of, ((0,),), (Prior(),), starts=2, seed=7) for _ in range(2))
    assert one.trace == two.trace
    assert one.starts == two.starts
    np.testing.assert_array_equal(one.mean, two.mean)
    assert one.starts[0][1] == 1
