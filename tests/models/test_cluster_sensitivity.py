"""Derivatives of sizes and co-clustering, against central differences of mixtures fitted again."""

import numpy as np
import pytest

from expressway._errors import InputError
from expressway.models import cluster_sensitivity as cs
from expressway.models import expected_counts, sample_scores
from expressway.models import gene_mixtures as gm
from expressway.models import mixture_globals as mg
from expressway.models import mixture_response as mr
from expressway.models.dirichlet import Prior
from expressway.models.expected_counts import counts, expected
from expressway.models.gene_clusters import refreshed

ALONE, JOINT = ((0,), (1,), (2,)), ((0, 2), (1,))
PRIORS = tuple(Prior(8, 1.5, 1.0, m, 1.5, 2.0, 0.05) for m in (0.0, 0.1, -0.1))
# Steps of central differences in logarithms of prior numbers and in weights, and in parameters.
STEP, SMALL = 0.02, 1e-5
# Coordinate ascent stops where a sweep brings so many nats, to about 1e-4 genes of its end: over
# two steps 3e-3. Differences of third order are below 1e-3 of a derivative.
TIGHT, NOISE, CURVED = 1e-9, 5e-3, 3e-3


def drawn(g, seed=0):
    """Likelihoods of genes of unequal clusters that overlap, coordinates correlated."""
    rng = np.random.default_rng(seed)
    label = rng.choice(3, p=[0.5, 0.3, 0.2], size=(g, 3))
    x = np.array([0.0, -0.9, 1.1])[label] + 0.1 * rng.normal(size=(g, 3))
    a = rng.normal(size=(g, 3, 3))
    scale = np.exp(0.5 * rng.normal(size=(g, 1, 1)))
    precision = 4.0 * a @ a.transpose(0, 2, 1) + 10.0 * scale * np.eye(3)
    error = np.linalg.solve(
        np.linalg.cholesky(precision).transpose(0, 2, 1), rng.normal(size=(g, 3, 1))
    )
    return gm.Sites((precision @ (x[:, :, None] + error))[:, :, 0], precision)


class Case:
    """Mixtures at a tight end of coordinate ascent, and again with something changed."""

    def __init__(self, blocks):
        self.blocks, self.sites = blocks, drawn(300)
        start = gm.Starts(2)
        self.rough = gm.fit(self.sites, gm.model(self.sites, blocks, PRIORS), start)
        self.optimum = cs.optimum(self.rough, self.sites)
        self.mixtures = self.again(self.sites, PRIORS, self.rough)

    def again(self, sites, priors, warm=None):
        warm = self.mixtures if warm is None else warm
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gm, "ENOUGH", TIGHT)
            patch.setattr(gm, "FEW", 2000)
            of = gm.model(self.sites, self.blocks, priors)
            return gm.fit(sites, of, gm.Starts(), warm=warm, moves=False)

    def values(self, asked, mixtures):
        """Quantities by their definitions."""
        found = []
        for each in asked:
            r = mixtures.blocks[each.block].values.responsibility
            if each.kind == "genes":
                found.append(np.sum(r[each.which[0]]))
            elif each.kind == "pairs":
                both = r.T @ r
                found.append(0.5 * (np.sum(both) - np.trace(both)))
            else:
                found.append(r[:, each.which[0]] @ r[:, each.which[1]])
        return np.array(found)

    def slope(self, asked, change):
        """Central differences; ``change(step)`` are likelihoods and priors."""
        ends = [self.values(asked, self.again(*change(x))) for x in (STEP, -STEP)]
        return (ends[0] - ends[1]) / (2.0 * STEP)


@pytest.fixture(scope="module")
def alone():
    return Case(ALONE)


@pytest.fixture(scope="module")
def joint():
    return Case(JOINT)


@pytest.fixture(params=["alone", "joint"])
def case(request):
    return request.getfixturevalue(request.param)


def central(fn, at, step=SMALL):
    rows = step * np.eye(len(at))
    return np.array([(fn(at + row) - fn(at - row)) / (2.0 * step) for row in rows]).T


def assert_close(found, expected, share=1e-6):
    """Central differences with a step of 1e-5: errors of 1e-10 and rounding / 1e-5."""
    np.testing.assert_allclose(found, expected, rtol=0, atol=share * np.max(np.abs(expected)))


def assert_near(found, expected, asked):
    """To the noise of fits: of pairs as many times that of sizes as there are genes in one."""
    size = np.array([150.0 if each.kind == "pairs" else 1.0 for each in asked])
    room = NOISE * size + CURVED * np.abs(expected)
    assert np.all(np.abs(found - expected) <= room), (found - expected) / room


@pytest.mark.parametrize("blocks", [ALONE, JOINT])
def test_derivatives_of_genes(blocks):
    sites, rng = drawn(25, seed=1), np.random.default_rng(2)
    seen = mr.likelihoods(sites.field, sites.precision, blocks)
    widths = [len(block) for block in blocks]
    base = np.concatenate([np.tile([0.0, *[0.0] * d, *[9.0] * d], 3) for d in widths])
    point = base + rng.normal(size=len(base))

    def at(vector):
        parts, first = [], 0
        for d in widths:
            part = vector[first : first + 3 * (1 + 2 * d)].reshape(3, -1)
            parts.append(mr.Natural(part[:, 0], part[:, 1 : d + 1], part[:, d + 1 :]))
            first += part.size
        naturals = tuple(parts)
        rest = mr.at_rest(naturals, blocks, seen, np.zeros_like(sites.field))
        return mr.curved(rest, blocks)

    here = at(point)
    assert_close(here.gradient, central(lambda v: at(v).value, point))
    assert_close(here.hessian, central(lambda v: at(v).gradient, point))


def test_derivatives_of_components(joint):
    of = mg.layout(joint.rough.blocks)
    rng = np.random.default_rng(0)
    t = of.start + 0.1 * rng.normal(size=len(of.start))
    weight = 30.0 * rng.normal(size=len(of.fixed.order))
    here = mg.first(t, of.fixed)
    assert_close(here.slope, central(lambda t: mg.first(t, of.fixed).divergence, t))
    assert_close(here.jacobian, central(lambda t: mg.first(t, of.fixed).natural, t))

    def slope(t):
        at = mg.first(t, of.fixed)
        return at.slope - weight @ at.jacobian

    assert_close(mg.second(t, weight, of.fixed), central(slope, t))
    # Prior numbers themselves, one block after the other.
    found = mg.cross(t, of.fixed)
    for b in range(2):
        for number, name in enumerate(mg.PRIOR):

            def moved(x, name=name, b=b):
                return mg.first(t, changed_fixed(of.fixed, name, b, x[0])).slope

            assert_close(found[:, number, b], central(moved, np.zeros(1))[:, 0])


def changed_fixed(fixed, name, b, x):
    """With one prior number of a block times ``exp(x)``."""
    own = fixed.of_entry[:, b] > 0
    factor = np.where(own, np.exp(x), 1.0)
    concentration = fixed.concentration.copy()
    if name == "concentration_mean":
        concentration[b, 1] *= np.exp(-x)
    elif name == "concentration_shape":
        concentration[b] *= np.exp(x)
    elif name == "mean_sd":
        return fixed._replace(precision=fixed.precision / factor**2)
    elif name == "shape":
        return fixed._replace(shape=fixed.shape * factor)
    else:
        return fixed._replace(rate=fixed.rate * factor)
    return fixed._replace(concentration=concentration)


def test_optimum(case):
    of = case.optimum
    assert of.found.certificate.decrement < 1e-9  # standard errors
    assert of.found.certificate.smallest > 0
    # The bound is that of coordinate ascent, which ends below it.
    t = np.asarray(of.found.t)
    bound = of.curved.value - mg.first(t, of.layout.fixed).divergence
    assert 0 <= bound - case.mixtures.elbo < 1e-6  # a few sweeps of 1e-9 are left
    assert bound >= case.rough.elbo
    asked = cs.quantities(of, ((0, 1),))
    found = cs.sensitivity(case.rough, case.sites, together=((0, 1),))
    assert found.quantities == asked
    assert_near(found.value, case.values(asked, case.mixtures), asked)


PAIRS = ((0, 1), (3, 7))


@pytest.mark.parametrize("name", mg.PRIOR)
def test_prior(case, name):
    block = 0
    found = cs.sensitivity(case.rough, case.sites, together=PAIRS)
    own = case.blocks[block]

    def change(x):
        new = list(PRIORS)
        for c in own:
            p, factor = new[c], np.exp(x)
            if name == "concentration_mean":
                p = p._replace(concentration_rate=p.concentration_rate / factor)
            elif name == "concentration_shape":
                shape, rate = p.concentration_shape * factor, p.concentration_rate * factor
                p = p._replace(concentration_shape=shape, concentration_rate=rate)
            else:
                p = p._replace(**{name: getattr(p, name) * factor})
            new[c] = p
        return case.sites, tuple(new)

    column = found.prior[:, found.prior_numbers.index((block, name))]
    assert_near(column, case.slope(found.quantities, change), found.quantities)


def test_likelihoods(case):
    """Fields and precisions of all genes at once, along a random direction."""
    rng = np.random.default_rng(5)
    field = rng.normal(size=case.sites.field.shape) + 1.0
    half = rng.normal(size=case.sites.precision.shape)
    precision = half + half.transpose(0, 2, 1)
    asked = cs.quantities(case.optimum, PAIRS)
    total = np.zeros(len(asked))
    # In values less the center.
    inner = field - precision @ case.mixtures.center
    for move in cs.moves(case.optimum, asked):
        m, dm = move.rest.mean, move.mean
        total += np.einsum("ogc,gc->o", dm, inner[move.genes])
        total -= np.einsum("oga,gab,gb->o", dm, precision[move.genes], m)
        for (a, b), spread in move.spread.items():
            total -= (0.5 if a == b else 1.0) * spread @ precision[move.genes, a, b]

    def change(x):
        return gm.Sites(case.sites.field + x * field, case.sites.precision + x * precision), PRIORS

    expected_slope = case.slope(asked, change)
    assert np.max(np.abs(expected_slope)) > 1.0
    assert_near(total, expected_slope, asked)


def made_counts(g=40, n=30, seed=3):
    """Counts with their design, and moments of genes' values."""
    rng = np.random.default_rng(seed)
    z = np.column_stack([np.ones(n), rng.normal(size=n)])
    mean = np.column_stack([1.0 + rng.normal(size=g), 0.5 * rng.normal(size=g), -rng.random(g)])
    mu = np.exp(mean[:, :2] @ z.T)
    shape = np.exp(-mean[:, 2:])
    y = rng.poisson(rng.gamma(shape, mu / shape)).astype(float)
    return counts(y, 0.1 * rng.normal(size=n), z), mean, 0.05 * rng.random((g, 3))


@pytest.fixture
def _many_nodes(monkeypatch):
    """As many for every gene as `sample_scores` takes."""
    monkeypatch.setattr(expected_counts, "NODES", ((np.inf, sample_scores.MANY),))


@pytest.mark.usefixtures("_many_nodes")
def test_samples_add():
    of, mean, variance = made_counts()
    whole, z = expected(of, mean, variance), of.z
    parts = [
        sample_scores.terms(of, s, mean[s], variance[s]) for s in (slice(0, 15), slice(15, 40))
    ]
    t = sample_scores.Terms(*(np.concatenate(each) for each in zip(*parts, strict=True)))
    gradient = np.column_stack([t.slope @ z, np.sum(t.slope_alpha, axis=1)])
    corner = np.sum(t.bend_alpha, axis=1)
    for found, given in (
        (gradient, whole.gradient),
        (np.einsum("gn,na,nb->gab", t.bend, z, z), whole.curvature[:, :2, :2]),
        (t.mixed @ z, whole.curvature[:, :2, 2]),
        (corner, whole.curvature[:, 2, 2]),
    ):
        # Sums of 30 terms, in which logarithms of gamma functions of 1e3 cancel.
        np.testing.assert_allclose(found, given, rtol=0, atol=1e-11 * np.max(np.abs(given)))


@pytest.mark.usefixtures("_many_nodes")
@pytest.mark.parametrize("blocks", [ALONE, JOINT, ((0, 1), (2,))])
def test_weights(blocks):
    """Sums of samples' terms, against fields and precisions of one sample at a time."""
    of, mean, variance = made_counts()
    at = expected(of, mean, variance)
    at.curvature[0, -1, -1] = 0.0  # a dispersion that its counts say nothing of
    sites = refreshed(at, mean)
    flat = sites.precision[:, -1, -1] == cs.FLAT
    assert flat[0]
    mixtures = gm.fit(sites, gm.model(sites, blocks, PRIORS), gm.Starts(1))
    found = cs.sensitivity(mixtures, sites, counts=of, together=((0, 1),))
    best = cs.optimum(mixtures, sites)
    (move,) = cs.moves(best, found.quantities)
    m = move.rest.mean + mixtures.center
    v = np.empty_like(m)
    for part, block in zip(move.rest.blocks, blocks, strict=True):
        v[:, list(block)] = np.einsum("gii->gi", part.spread)
    for n in (0, 11):
        one = counts(of.y[:, [n]], of.offset[[n]], of.z[[n]])
        own = expected(one, m, v)
        precision = own.curvature.copy()
        precision[flat, -1] = precision[flat, :, -1] = 0.0
        total = np.einsum("ogc,gc->o", move.mean, own.gradient)
        for (a, b), spread in move.spread.items():
            total -= (0.5 if a == b else 1.0) * spread @ precision[:, a, b]
        # Sums of a hundred terms of the size of the result.
        np.testing.assert_allclose(found.weight[:, n], total, rtol=1e-9, atol=1e-9)


def test_refused(alone):
    of, _, _ = made_counts()
    with pytest.raises(
        InputError, match="counts of 40 genes with 2 coefficients, likelihoods of 300"
    ):
        cs.sensitivity(alone.rough, alone.sites, counts=of)
    some = alone.rough._replace(blocks=alone.rough.blocks[:2])
    with pytest.raises(InputError, match="put each coordinate into one block"):
        cs.sensitivity(some, alone.sites)
