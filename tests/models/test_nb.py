"""Every statistic of the pipeline: a plain loop, autodiff, additivity, independence of genes.

The fit itself is tested against R elsewhere; here is what is summed.
"""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from expressway.core.cohort import Samples
from expressway.models import moments, nb, outliers, profile

N, G, P = 12, 9, 3
# A loop over twelve rows adds the same terms in another order: rounding of terms that cancel.
LOOP = 1e-11
# Derivatives of the same expressions by another route: rounding.
AUTODIFF = 1e-10


@pytest.fixture(params=["one offset", "an offset a gene"])
def s(request):
    rng = np.random.default_rng(7)
    columns = 1 if request.param == "one offset" else G
    x = np.column_stack([np.ones(N), np.arange(N) % 2, rng.normal(size=N)])
    y = rng.negative_binomial(3, 3 / (3 + np.exp(rng.uniform(-2, 6, G))), (N, G)) * 1.0
    y[:, 2] = 0
    y[::3, 5] = 0
    weight = rng.uniform(0.5, 1.5, N)
    weight[4] = 0  # an empty row: here with a count, which must not matter either
    return Samples(
        y=y,
        x=x,
        offset=rng.normal(0, 0.4, (N, columns)),
        precision=rng.uniform(0.2, 1, (N, columns)),
        weight=weight,
        cell=np.arange(N) % 2,
    )


RNG = np.random.default_rng(8)
# Means from .05 to 500: clipped at .5 in some rows, not in others.
BETA = np.column_stack([RNG.uniform(-2.5, 5, G), RNG.normal(0, 0.8, (G, 2))])
ALPHA = 10 ** RNG.uniform(-3, 0.5, G)
SHAPE = profile.Shape(BETA, RNG.normal(-2, 1, G), RNG.uniform(0, 2, G))
LINEAR = profile.Shape(np.abs(BETA) * [3.0, 1.0, -1.0], SHAPE.prior_mean, SHAPE.prior_precision)
CENTER = RNG.uniform(1, 90, G)
INVERSE = np.eye(P) * 0.03 + 0.01
FITTED = outliers.Fitted(
    BETA, ALPHA, INVERSE[None] * RNG.uniform(0.5, 1.5, (G, 1, 1)), ALPHA / 2 + 0.04
)
CUTOFF = 0.4


def cells(s):
    """Both cells, one of them also replaceable."""
    return s.cell[[1, 6]], s.cell[[6]]


STATISTICS = {
    "equation": (nb.equation, (BETA, ALPHA)),
    "likelihood": (nb.likelihood, (BETA, ALPHA)),
    "information": (nb.information, (BETA, ALPHA)),
    "profile_glm": (profile.profile_glm, (np.log(ALPHA), SHAPE)),
    "profile_linear": (profile.profile_linear, (np.log(ALPHA), LINEAR)),
    "moments": (moments.moments, ()),
    "spread": (moments.spread, (CENTER, LINEAR.beta)),
    "flags": (outliers.flags, (FITTED,)),
}


def evaluated(name, s, genes=None):
    """The statistic of some genes, as numpy arrays."""
    fn, args = STATISTICS[name]
    shared = (CUTOFF, *cells(ALL_ROWS)) if name == "flags" else ()
    if genes is not None:
        args = jax.tree.map(lambda a: a[genes], args)
    return jax.tree.map(np.asarray, jax.jit(fn)(*args, *shared, s))


ALL_ROWS = Samples(
    *(None, np.column_stack([np.ones(N), np.arange(N) % 2, np.zeros(N)])),
    *[None] * 3,
    np.arange(N) % 2,
)


def full(s):
    """Offset and precision of every gene."""
    return (np.broadcast_to(a, (N, G)) for a in (s.offset, s.precision))


def outer_sum(w, s):
    total = np.zeros((G, P, P))
    for i in range(N):
        total += w[i][:, None, None] * np.outer(s.x[i], s.x[i])
    return total


# --- (a) a plain loop -------------------------------------------------------------------------


def looped_equation(s):
    offset, precision = full(s)
    score, info, newton = np.zeros((G, P)), np.zeros((G, P, P)), np.zeros((G, P, P))
    for i in range(N):
        for g in range(G):
            x, y, a = s.x[i], s.y[i, g], ALPHA[g]
            rows = s.weight[i] * precision[i, g]
            mu = np.exp(offset[i, g] + x @ BETA[g])
            m = max(mu, 0.5)
            w = m / (1 + a * m)
            z = np.log(m) - offset[i, g] + (y - m) / m
            seen = w if mu < 0.5 else m * (1 + a * y) / (1 + a * m) ** 2
            score[g] += rows * w * (z - x @ BETA[g]) * x
            info[g] += rows * w * np.outer(x, x)
            newton[g] += rows * seen * np.outer(x, x)
    return score, info, newton


def looped_likelihood(s):
    offset, precision = full(s)
    loss, gradient, info = np.zeros(G), np.zeros((G, P)), np.zeros((G, P, P))
    fisher = np.zeros((G, P, P))
    for i in range(N):
        for g in range(G):
            x, y, a = s.x[i], s.y[i, g], ALPHA[g]
            rows = s.weight[i] * precision[i, g]
            eta = offset[i, g] + x @ BETA[g]
            mu = np.exp(eta)
            loss[g] += rows * ((y + 1 / a) * np.log(1 + a * mu) - y * eta - y * np.log(a))
            gradient[g] += rows * (mu - y) / (1 + a * mu) * x
            info[g] += rows * mu * (1 + a * y) / (1 + a * mu) ** 2 * np.outer(x, x)
            fisher[g] += rows * mu / (1 + a * mu) * np.outer(x, x)
    return loss, gradient, info, fisher


def looped_information(s):
    offset, precision = full(s)
    m = np.maximum(np.exp(offset + s.x @ BETA.T), 0.5)
    return (outer_sum(s.weight[:, None] * precision * m / (1 + ALPHA * m), s),)


def looped_profile(mu, s):
    _, precision = full(s)
    mu = np.maximum(mu, 0.5)
    loss, slope, curvature = np.zeros((3, G))
    weights = np.zeros((3, N, G))
    for i in range(N):
        for g in range(G):
            a, y, m = ALPHA[g], s.y[i, g], mu[i, g]
            r, rows = 1 / a, s.weight[i] * precision[i, g]
            log, w = np.log(1 + a * m), m / (1 + a * m)
            first = special.digamma(y + r) - special.digamma(r)
            second = special.polygamma(1, y + r) - special.polygamma(1, r)
            gamma = special.gammaln(y + r) - special.gammaln(r)
            loss[g] -= rows * (gamma - y * np.log(r) - (y + r) * log)
            slope[g] -= rows * (r * (log - first) + (y - m) / (1 + a * m))
            curvature[g] -= rows * (
                r * (first - log) + r * r * second + w - a * m * (y - m) / (1 + a * m) ** 2
            )
            inside = s.weight[i] * (precision[i, g] > 0.01)  # rows of some weight
            weights[:, i, g] = inside * np.array([w, -a * w**2, -a * w**2 + 2 * a**2 * w**3])
    return loss, slope, curvature, *(outer_sum(w, s) for w in weights)


def looped_profile_glm(s):
    return looped_profile(np.exp(s.offset + s.x @ BETA.T), s)


def looped_profile_linear(s):
    return looped_profile(np.exp(s.offset) * (s.x @ LINEAR.beta.T), s)


def looped_moments(s):
    offset, precision = full(s)
    mean, inverse, cross = np.zeros(G), np.zeros(G), np.zeros((G, P, P))
    linear, log, total = np.zeros((3, G, P))
    positive = np.zeros((G, P + 1, P + 1))
    for i in range(N):
        for g in range(G):
            w, x, size = s.weight[i], s.x[i], np.exp(offset[i, g])
            q = w * s.y[i, g] / size
            mean[g] += precision[i, g] * q
            inverse[g] += w / size
            cross[g] += w * np.outer(x, x)
            linear[g] += q * x
            log[g] += w * np.log(s.y[i, g] / size + 0.1) * x
            z = np.append(1.0, x)
            positive[g] += (w * np.outer(z, z)) if s.y[i, g] * precision[i, g] > 0 else 0.0
            total[g] += w * x
    return mean, inverse, cross, linear, log, positive, total


def looped_spread(s):
    offset, precision = full(s)
    square, excess = np.zeros((2, G))
    for i in range(N):
        for g in range(G):
            q, m = s.y[i, g] / np.exp(offset[i, g]), max(1.0, s.x[i] @ LINEAR.beta[g])
            square[g] += s.weight[i] * (precision[i, g] * q - CENTER[g]) ** 2
            excess[g] += s.weight[i] * ((q - m) ** 2 - m) / m**2
    return square, excess


def looped_flags(s):
    offset, precision = full(s)
    counts = np.zeros((3, G))
    groups = cells(ALL_ROWS)
    for i in range(N):
        x = s.x[i]
        inside = [s.cell[i] in cells for cells in groups]
        for g in range(G):
            mu = np.exp(offset[i, g] + x @ BETA[g])
            m = max(mu, 0.5)
            hat = precision[i, g] * m / (1 + ALPHA[g] * m) * x @ FITTED.inverse[g] @ x
            variance = mu + FITTED.robust[g] * mu**2
            cook = (s.y[i, g] - mu) ** 2 / variance / P * hat / (1 - hat) ** 2
            if s.weight[i] > 0 and cook > CUTOFF:
                counts[:, g] += [1, *inside]
    return tuple(counts)


LOOPS = {name: globals()[f"looped_{name}"] for name in STATISTICS}


def for_statistic(name, s):
    """Rows the statistic is tried on: a design of two cells for Cook's distances."""
    return s._replace(x=ALL_ROWS.x) if name == "flags" else s


@pytest.mark.parametrize("name", STATISTICS)
def test_equals_a_loop(name, s):
    s = for_statistic(name, s)
    found, expected = evaluated(name, s), LOOPS[name](s)
    for part, a, b in zip(found._fields, found, expected, strict=True):
        # Relative to the largest gene's entry of the same part: terms cancel in others.
        np.testing.assert_allclose(a, b, rtol=LOOP, atol=LOOP * np.max(np.abs(b)), err_msg=part)


def test_the_data_reach_both_sides_of_every_branch(s):
    mu = np.exp(s.offset + s.x @ BETA.T)
    assert 0.1 < np.mean(mu < 0.5) < 0.9
    linear = np.exp(s.offset) * (s.x @ LINEAR.beta.T)
    assert 0.02 < np.mean(linear < 0.5) < 0.9
    flags = evaluated("flags", for_statistic("flags", s))
    assert 0 < flags.replaceable.sum() < flags.replicated.sum() <= flags.all.sum() < N * G


# --- (b) autodiff -----------------------------------------------------------------------------


def per_gene(fn, theta):
    """Derivative of each gene's values in its own parameters (genes are independent)."""
    full = jax.jit(jax.jacfwd(fn))(theta)
    return jnp.stack([full[(g, ..., g, *[slice(None)] * (theta.ndim - 1))] for g in range(G)])


def test_likelihood_is_differentiated(s):
    def part(field):
        return lambda beta: getattr(nb.likelihood(beta, ALPHA, s), field)

    found = nb.likelihood(BETA, ALPHA, s)
    gradient, info = per_gene(part("loss"), BETA), per_gene(part("gradient"), BETA)
    scale = np.max(np.abs(info))
    np.testing.assert_allclose(found.gradient, gradient, rtol=AUTODIFF, atol=AUTODIFF * scale)
    np.testing.assert_allclose(found.info, info, rtol=AUTODIFF, atol=AUTODIFF * scale)


def test_equation_is_differentiated(s):
    found = nb.equation(BETA, ALPHA, s)
    slope = per_gene(lambda beta: nb.equation(beta, ALPHA, s).score, BETA)
    scale = np.max(np.abs(slope))
    np.testing.assert_allclose(found.newton, -slope, rtol=AUTODIFF, atol=AUTODIFF * scale)
    # Without clipped means the equation is the likelihood's gradient.
    high = s._replace(offset=s.offset + 12)
    np.testing.assert_allclose(
        nb.equation(BETA, ALPHA, high).score,
        -nb.likelihood(BETA, ALPHA, high).gradient,
        rtol=AUTODIFF,
        atol=1e-9,  # terms of 1e3 cancel
    )


@pytest.mark.parametrize("name", ["profile_glm", "profile_linear"])
@pytest.mark.parametrize("penalised", [False, True])
def test_profile_is_differentiated(name, penalised, s):
    fn, (log_alpha, shape) = STATISTICS[name]
    # The prior on nothing but the dispersion, and every gene's X'WX invertible.
    s = s._replace(weight=np.ones(N))

    def parts(a):
        sums = fn(a, shape, s)
        return profile.adjusted(a, shape, sums) if penalised else sums

    def slope_of(field):
        return per_gene(lambda a: getattr(parts(a), field), jnp.asarray(log_alpha))

    found = parts(log_alpha)
    pairs = [("loss", "slope"), ("slope", "curvature")]
    pairs += [] if penalised else [("info", "info_slope"), ("info_slope", "info_curvature")]
    for field, derivative in pairs:
        mine, auto = getattr(found, derivative), slope_of(field)
        scale = np.max(np.abs(auto))
        # r = 1e3 times differences of order 1e-3: three more digits than AUTODIFF's rounding.
        np.testing.assert_allclose(mine, auto, rtol=1e-9, atol=AUTODIFF * scale, err_msg=field)


def test_ridges_are_differentiated(s):
    e, f = nb.equation(BETA, ALPHA, s), nb.likelihood(BETA, ALPHA, s)
    penalised, ridged = nb.ridge_likelihood(BETA, ALPHA, f), nb.ridge_equation(BETA, ALPHA, e)
    ridge = 1e-6 / np.log(2) ** 2

    def added(beta):
        return nb.ridge_likelihood(beta, ALPHA, f).loss

    # The ridge is 1e-6 beside a loss of 1e3: differences keep six of its digits.
    np.testing.assert_allclose(per_gene(added, BETA), ridge * BETA, rtol=1e-12)
    np.testing.assert_allclose(penalised.gradient - f.gradient, ridge * BETA, atol=1e-11)
    np.testing.assert_allclose(ridged.score - e.score, -ridge * BETA, atol=1e-11)
    for a, b in (
        (penalised.info, f.info),
        (penalised.fisher, f.fisher),
        (ridged.info, e.info),
        (ridged.newton, e.newton),
    ):
        np.testing.assert_allclose(a - b, np.broadcast_to(ridge * np.eye(P), b.shape), atol=1e-10)


# --- (c) additive over rows, (d) independent over genes ---------------------------------------


@pytest.mark.parametrize("name", STATISTICS)
# Parts of five rows and of one: two sizes to compile.
@pytest.mark.parametrize("ends", [(5, 6, 11), (1, 6, 11), tuple(range(1, N))])
def test_additive_over_any_split(name, ends, s):
    s = for_statistic(name, s)
    whole = evaluated(name, s)
    edges = [0, *ends, N]
    parts = [evaluated(name, Samples(*(a[i:j] for a in s))) for i, j in pairwise(edges)]
    total = jax.tree.map(lambda *a: np.sum(a, axis=0), *parts)
    for a, b in zip(total, whole, strict=True):
        # Style rule 20; terms cancel to less than the largest entry.
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12 * np.max(np.abs(b)))


@pytest.mark.parametrize("name", STATISTICS)
def test_empty_rows_do_nothing(name, s):
    s = for_statistic(name, s)
    padded = Samples(*(np.concatenate([a, np.zeros((3, *a.shape[1:]))]) for a in s))
    for a, b in zip(evaluated(name, padded), evaluated(name, s), strict=True):
        np.testing.assert_allclose(a, b, rtol=LOOP, atol=1e-12 * np.max(np.abs(b)))


@pytest.mark.parametrize("name", STATISTICS)
@pytest.mark.parametrize("genes", [[3, 0, 8, 1, 7, 2, 5, 4, 6], [4], [6, 6, 2, 0, 1, 3, 5, 7, 8]])
def test_genes_are_independent(name, genes, s):
    s = for_statistic(name, s)
    cut = s._replace(y=s.y[:, genes])
    if s.offset.shape[1] > 1:
        cut = cut._replace(offset=s.offset[:, genes], precision=s.precision[:, genes])
    part = evaluated(name, cut, np.array(genes))
    for a, b in zip(part, evaluated(name, s), strict=True):
        # The same terms in other vector lanes.
        np.testing.assert_allclose(a, b[genes], rtol=LOOP, atol=1e-12 * np.max(np.abs(b)))


@pytest.mark.parametrize("name", STATISTICS)
def test_a_gene_that_is_not_finite_stays_alone(name, s):
    s = for_statistic(name, s)
    y = s.y.copy()
    y[1, 0] = np.nan
    for a, b in zip(evaluated(name, s._replace(y=y)), evaluated(name, s), strict=True):
        np.testing.assert_array_equal(a[1:], b[1:])
