"""One mixture against its definition: bound, divergences, weights, and optima of the updates."""

import numpy as np
import pytest
from brute_mixture import best, bound, components_part, seen, some_base
from scipy import stats
from scipy.integrate import quad
from scipy.special import betaln, expit

from expressway.models import dirichlet, mixture_ascent
from expressway.models.dirichlet import Base, Components, Seen, Totals, components, local, values
from expressway.models.mixture_ascent import Mixed, begin, climb, judged

# Sums of some hundred terms of order one to a hundred.
ROUNDING = 1e-11
SHAPES = [(1, 2), (1, 4), (3, 2), (3, 3), (3, 4), (1, 1)]  # d, truncation


def of(d: int, j: int, g: int = 9, seed: int = 0) -> tuple[Seen, Base, Components]:
    """Genes, a prior, and components in the middle of an ascent."""
    rng = np.random.default_rng(seed)
    genes, base = seen(g, d, rng), some_base(d, rng, j)
    size = rng.uniform(0.3, 5.0, j)
    mean = rng.normal(size=(j, d))
    totals = Totals(size, size[:, None] * mean, size[:, None] * (mean**2 + 0.3))
    q = components(totals, base, rng.uniform(1, 5, (j, d)), 1.3)
    return genes, base, q


def converged(d: int, j: int, g: int = 6, seed: int = 0) -> tuple[Seen, Base, Mixed]:
    """After so many plain cycles that nothing moves."""
    genes, base, q = of(d, j, g, seed)
    state = begin(local(q, genes, np.arange(j)).totals, genes, base)
    for _ in range(3000):
        last = state
        state = judged(last.totals, genes, base, last.components.precision, last.concentration)
        if np.max(np.abs(state.components.mean - last.components.mean)) < 1e-13:
            break
    return genes, base, state


@pytest.mark.parametrize(("d", "j"), SHAPES)
@pytest.mark.parametrize("seed", [0, 1])
def test_the_bound_is_its_definition(d, j, seed):
    genes, base, q = of(d, j, seed=seed)
    found = local(q, genes, np.arange(j))
    expected = bound(best(q, genes), q, genes, base)
    assert found.evidence - q.divergence == pytest.approx(expected, rel=ROUNDING, abs=1e-10)
    state = judged(found.totals, genes, base, q.precision, 1.0)
    expected = bound(best(state.components, genes), state.components, genes, base)
    assert state.elbo == pytest.approx(expected, rel=ROUNDING, abs=1e-10)


def test_a_gene_by_quadrature():
    """Normaliser, responsibilities and moments in one coordinate: sums over z and along x."""
    genes, _, q = of(1, 3)
    found = values(q, genes, np.arange(3))
    weight, s = q.log_weight(), q.precision[:, 0]
    shapes = zip(q.shape[:, 0], q.rate[:, 0], strict=True)
    log_s = np.array([_expected_log(a, b) for a, b in shapes])
    line = np.linspace(-12, 12, 801)
    for g in range(len(genes.weight)):
        field, own = genes.field[0, g], genes.precision[0, 0, g]
        scale = 1 / np.sqrt(own + s)
        x = ((field + s * q.mean[:, 0]) * scale**2)[:, None] + scale[:, None] * line
        off = (x - q.mean) ** 2 + q.variance
        log = (weight + 0.5 * log_s - 0.5 * np.log(2 * np.pi))[:, None] - 0.5 * s[:, None] * off
        top = np.max(log + field * x - 0.5 * own * x**2)
        density = np.exp(log + field * x - 0.5 * own * x**2 - top) * scale[:, None] * 0.03
        total = np.sum(density)
        # Of a normal at equal steps, exact to rounding; the expected log is asked for to 1e-8.
        assert found.log_normaliser[g] == pytest.approx(top + np.log(total), abs=1e-7)
        share = density / total
        np.testing.assert_allclose(found.responsibility[:, g], share.sum(axis=1), atol=1e-7)
        mean = np.sum(share * x)
        assert found.mean[0, g] == pytest.approx(mean, abs=1e-7)
        assert found.variance[0, g] == pytest.approx(np.sum(share * (x - mean) ** 2), abs=1e-7)
        square = own * np.sum(share * x**2)
        assert found.quadratic[g] == pytest.approx(square, rel=1e-7, abs=1e-12)


def _expected_log(shape: float, rate: float) -> float:
    of_s = stats.gamma(shape, scale=1 / rate)
    return quad(lambda u: u * np.exp(u) * of_s.pdf(np.exp(u)), -60, np.log(of_s.isf(1e-16)))[0]


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_moments_of_genes(d):
    """Mixed over components, by dense matrices."""
    genes, _, q = of(d, 4)
    found, whole = values(q, genes, np.arange(4)), local(q, genes, np.arange(4))
    b = best(q, genes)
    mean = np.einsum("gj,gjd->gd", b.r, b.mean)
    second = np.einsum("gj,gjde->gde", b.r, b.covariance + b.mean[..., None] * b.mean[..., None, :])
    np.testing.assert_allclose(found.responsibility, b.r.T, rtol=1e-8, atol=1e-13)  # exponents
    np.testing.assert_allclose(found.mean, mean.T, rtol=1e-9, atol=1e-11)
    spread = np.einsum("gdd->dg", second) - mean.T**2
    np.testing.assert_allclose(found.variance, spread, rtol=1e-8, atol=1e-11)
    quadratic = np.einsum("deg,ged->g", genes.precision, second)
    np.testing.assert_allclose(found.quadratic, quadratic, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(whole.totals.size, b.r.sum(axis=0), rtol=1e-9)
    np.testing.assert_allclose(
        whole.totals.first, np.einsum("gj,gjd->jd", b.r, b.mean), rtol=1e-9, atol=1e-11
    )
    square = np.einsum("gj,gjd->jd", b.r, np.einsum("gjdd->gjd", b.covariance) + b.mean**2)
    np.testing.assert_allclose(whole.totals.second, square, rtol=1e-9)
    assert whole.evidence == pytest.approx(np.sum(found.log_normaliser), rel=1e-12)


def test_genes_in_portions(monkeypatch):
    """And a gene of weight 2 counts as two."""
    genes, _, q = of(2, 3, g=300)
    one = local(q, genes, np.arange(3))
    monkeypatch.setattr(dirichlet, "CACHE", 1)
    parts = local(q, genes, np.arange(3))
    for a, b in zip(one.totals, parts.totals, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    twice = genes.some(np.repeat(np.arange(300), 2))
    double = local(q, genes._replace(weight=np.full(300, 2.0)), np.arange(3))
    np.testing.assert_allclose(
        local(q, twice, np.arange(3)).totals.second, double.totals.second, rtol=1e-12
    )
    assert double.evidence == pytest.approx(2 * one.evidence, rel=1e-12)


def test_only_active_components_have_genes():
    """And the bound is that of q restricted to them."""
    genes, base, q = of(2, 4)
    found = local(q, genes, np.array([0, 2]))
    assert np.all(found.totals.size[[1, 3]] == 0)
    b = best(q, genes)
    r = b.r.copy()
    r[:, [1, 3]] = 0
    r /= r.sum(axis=1, keepdims=True)
    expected = bound(b._replace(r=r), q, genes, base)
    assert found.evidence - q.divergence == pytest.approx(expected, rel=ROUNDING, abs=1e-10)


def test_divergence_by_quadrature():
    """Each factor's divergence is an integral of q log (q / p)."""
    _, base, q = of(1, 3)
    # On the whole line, where sums at equal steps are exact to rounding.
    line = np.linspace(-60, 60, 6001)
    step = line[1] - line[0]
    total = 0.0
    for j in range(3):
        at, scale = q.mean[j, 0], np.sqrt(q.variance[j, 0])
        x = at + scale * line
        mean = stats.norm(at, scale)
        off = mean.logpdf(x) - stats.norm(base.mean[0], base.precision[0] ** -0.5).logpdf(x)
        total += np.sum(mean.pdf(x) * off) * step * scale
        own = (q.shape[j, 0], q.rate[j, 0])
        total += np.sum(_of_gammas(line, own, (base.shape[0], base.rate[0]))) * step
    total += np.sum(_of_gammas(line, q.concentration, base.concentration)) * step
    few = np.linspace(-30, 10, 401)
    c = np.exp(few)
    c_mass = stats.gamma(q.concentration[0], scale=1 / q.concentration[1]).pdf(c) * c * 0.1
    assert np.sum(c_mass) == pytest.approx(1.0, abs=1e-9)
    v, rest = expit(line), expit(-line)
    for taken, left in zip(q.taken, q.left, strict=True):
        log = (taken - 1) * np.log(v) + (left - 1) * np.log(rest) - betaln(taken, left)
        mass = np.exp(log) * v * rest * step
        prior = np.log(c)[:, None] + (c[:, None] - 1) * np.log(rest)
        total += np.sum(c_mass[:, None] * mass * (log - prior))
    assert q.divergence == pytest.approx(total, rel=1e-9)  # of sums that run to -30 or 60
    assert q.divergence == pytest.approx(-components_part(q, base), rel=ROUNDING)


def _of_gammas(line: np.ndarray, of_q, of_p) -> np.ndarray:
    """``q log (q / p)`` over the logarithm of a gamma's variable."""
    x = np.exp(np.maximum(line, -60.0))
    x = np.minimum(x, 1e4)  # where all mass is below
    q, p = (stats.gamma(shape, scale=1 / rate) for shape, rate in (of_q, of_p))
    return np.where(line < np.log(1e4), q.pdf(x) * x * (q.logpdf(x) - p.logpdf(x)), 0.0)


def test_no_divergence_from_itself():
    """Components that know nothing are at their prior, but for sticks."""
    base = Base(1, (1.5, 0.7), np.array([0.3, -1.0]), np.array([0.5, 2.0]), np.ones(2), np.ones(2))
    nothing = Totals(np.zeros(1), np.zeros((1, 2)), np.zeros((1, 2)))
    q = components(nothing, base, np.ones((1, 2)), 1.0)
    assert q.divergence == pytest.approx(0.0, abs=1e-14)
    np.testing.assert_allclose(q.mean[0], base.mean)
    np.testing.assert_allclose(q.variance[0], 1 / base.precision)
    assert q.concentration == base.concentration


def test_expected_log_weights_by_sampling():
    """Weights are broken off one stick, the last component takes what is left."""
    _, _, q = of(1, 4)
    rng = np.random.default_rng(0)
    v = rng.beta(q.taken, q.left, size=(200_000, 3))
    v = np.column_stack([v, np.ones(len(v))])
    pi = v * np.cumprod(np.column_stack([np.ones(len(v)), 1 - v[:, :-1]]), axis=1)
    np.testing.assert_allclose(pi.sum(axis=1), 1.0, rtol=1e-12)
    log = np.log(pi)
    error = log.std(axis=0) / np.sqrt(len(v))
    assert np.all(np.abs(log.mean(axis=0) - q.log_weight()) < 4.5 * error)  # 1e-5 by chance
    assert np.max(error) < 0.01


@pytest.mark.parametrize(("d", "j"), SHAPES)
def test_labels_and_values_are_the_best(d, j):
    """No other q(x, z) of the genes raises the bound."""
    genes, base, q = of(d, j)
    b = best(q, genes)
    top = local(q, genes, np.arange(j)).evidence - q.divergence
    rng = np.random.default_rng(3)
    for size in (1e-3, 0.1, 0.5):
        r = b.r * np.exp(size * rng.normal(size=b.r.shape))
        r /= r.sum(axis=1, keepdims=True)
        scale = np.exp(size * rng.normal(size=(*b.r.shape, 1, 1)))
        for other in (
            b._replace(r=r),
            b._replace(mean=b.mean + size * 0.1 * rng.normal(size=b.mean.shape)),
            b._replace(covariance=b.covariance * scale),
        ):
            if j == 1 and other.r is r:
                continue
            assert bound(other, q, genes, base) < top + 1e-10  # rounding


def _perturbed(q: Components) -> list[tuple[str, np.ndarray | tuple[float, float]]]:
    return [
        (name, getattr(q, name))
        for name in ("mean", "variance", "shape", "rate", "taken", "left", "concentration")
    ]


@pytest.mark.parametrize(("d", "j"), [(1, 1), (1, 2), (1, 4), (3, 2)])
def test_an_optimum_in_every_parameter(d, j):
    """At convergence: slopes by differences are zero, and steps to either side lose."""
    genes, base, state = converged(d, j)
    q = state.components
    b = best(q, genes)
    top = bound(b, q, genes, base)
    assert state.elbo == pytest.approx(top, rel=ROUNDING, abs=1e-9)
    for name, whole in _perturbed(q):
        array = np.array(whole, float)
        for index in np.ndindex(array.shape):
            # Positive ones by their logarithm, means by their standard deviation.
            def at(step: float, index=index, name=name, array=array) -> float:
                moved = array.copy()
                if name == "mean":
                    moved[index] += step * np.sqrt(q.variance[index])
                else:
                    moved[index] *= np.exp(step)
                new = tuple(moved.tolist()) if name == "concentration" else moved
                return bound(b, q._replace(**{name: new}), genes, base)

            up, down = at(1e-4), at(-1e-4)
            # The bound is rounded to 1e-12 or so, over 2e-4; third derivatives times 1e-8.
            assert abs(up - down) / 2e-4 < 2e-6, (name, index)
            assert up + down - 2 * top < 0
            assert max(at(0.3), at(-0.3)) < top


@pytest.mark.parametrize("rounds", [1, 2, 3, 10])
def test_components_never_lower_the_bound(rounds):
    """Given labels, from every start, after any number of rounds; the more the better."""
    for seed in range(10):
        genes, base, q = of(2, 4, seed=seed)
        b = best(q, genes)
        totals = local(q, genes, np.arange(4)).totals
        c = q.concentration[0] / q.concentration[1]
        start = bound(b, q, genes, base)
        found = bound(b, components(totals, base, q.precision, c, rounds), genes, base)
        assert found > start - 1e-10
        if rounds > 1:
            fewer = bound(b, components(totals, base, q.precision, c, rounds - 1), genes, base)
            assert found > fewer - 1e-10


def test_one_component_knows_all():
    """Means with known values and precision: a conjugate normal."""
    base = Base(1, (1.0, 1.0), np.array([0.5]), np.array([2.0]), np.array([4e8]), np.array([1e8]))
    x = np.array([1.0, 2.0, 4.0])
    totals = Totals(np.array([3.0]), np.array([[x.sum()]]), np.array([[np.sum(x**2)]]))
    q = components(totals, base, np.array([[4.0]]), 1.0)
    # The precision's prior is that sure, 1e-8.
    assert q.variance[0, 0] == pytest.approx(1 / (2 + 3 * 4), rel=1e-6)
    assert q.mean[0, 0] == pytest.approx((2 * 0.5 + 4 * x.sum()) / (2 + 3 * 4), rel=1e-6)


def test_very_precise_and_very_vague_genes():
    """Exponents of 1e10 overflow nothing, and a gene that says nothing has the prior's weights."""
    _, _, q = of(2, 3)
    precision = np.stack([np.eye(2) * 1e10, np.zeros((2, 2)), np.eye(2) * 1e-12], axis=-1)
    field = precision[0, 0] * np.ones((2, 1))
    one = Seen(field, precision, np.ones(3))
    found = values(q, one, np.arange(3))
    assert np.all(np.isfinite(found.log_normaliser))
    np.testing.assert_allclose(found.mean[:, 0], 1.0, atol=1e-8)
    log = q.constant() + 0.5 * np.sum(q.precision * q.mean**2 - np.log(q.precision), axis=1)
    np.testing.assert_allclose(
        found.responsibility[:, 1], np.exp(log) / np.sum(np.exp(log)), rtol=1e-12
    )
    np.testing.assert_allclose(found.responsibility[:, 2], found.responsibility[:, 1], rtol=1e-9)


@pytest.mark.parametrize("d", [1, 3])
def test_accelerated_or_not_the_bound_never_falls(d):
    for seed in range(4):
        genes, base, q = of(d, 4, g=30, seed=seed)
        state = begin(local(q, genes, np.arange(4)).totals, genes, base)
        plain, path = state, [state.elbo]
        for _ in range(25):
            plain = judged(
                plain.totals, genes, base, plain.components.precision, plain.concentration
            )
            path.append(plain.elbo)
        # Labels of components with fewer than 1e-9 genes are dropped: as many nats.
        assert np.min(np.diff(path)) > -1e-8
        fast = [climb(state, genes, base, n, 0.0).elbo for n in range(1, 26, 2)]
        assert np.min(np.diff(fast)) > -1e-8
        assert fast[-1] > path[-1] - 0.5


def test_a_bad_extrapolation_is_not_taken(monkeypatch):
    """Wherever it leads: the cycles' own end stands."""

    def astray(path: list[Mixed]) -> Totals:
        # All means moved by a tenth: some nats worse.
        t = path[-1].totals
        return Totals(t.size, t.first + 0.1 * t.size[:, None], t.second)

    genes, base, q = of(1, 3, g=60)
    state = begin(local(q, genes, np.arange(3)).totals, genes, base)
    plain = state
    for _ in range(6):
        plain = judged(plain.totals, genes, base, plain.components.precision, plain.concentration)
    monkeypatch.setattr(mixture_ascent, "_extrapolated", astray)
    path = [climb(state, genes, base, n, 0.0).elbo for n in range(1, 7)]
    assert np.min(np.diff(path)) > -1e-8
    assert path[-1] == pytest.approx(plain.elbo, rel=1e-12)


def test_acceleration_goes_further():
    """In twenty cycles it comes nearer to the optimum than plain cycles do."""
    better = 0
    for seed in range(8):
        genes, base, q = of(1, 3, g=60, seed=seed)
        state = begin(local(q, genes, np.arange(3)).totals, genes, base)
        plain = state
        for _ in range(20):
            plain = judged(
                plain.totals, genes, base, plain.components.precision, plain.concentration
            )
        better += climb(state, genes, base, 20, 0.0).elbo >= plain.elbo - 1e-9
    assert better >= 6
