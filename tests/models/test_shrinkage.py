"""Shrunken fold changes: the posterior, priors, R's DESeq2 (``make_shrinkage.R``), real data."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import optimize, special
from test_real import LFC, load

from expressway._errors import InputError
from expressway.core import nested
from expressway.core.boxed import Score
from expressway.core.cohort import Pooled, samples
from expressway.core.solve import Status
from expressway.datasets import simulate
from expressway.models import cauchy_prior, deseq, nb, normal_prior, shrinkage
from expressway.models.cells import groups
from expressway.models.posterior import Part
from expressway.models.shrinkage import Choices, shrink

LN2 = np.log(2)
LAST = np.array([0.0, 1.0])


@pytest.fixture(scope="module")
def simulated():
    """Counts, fit and cohort of two groups of four; one gene has counts in one group only."""
    adata = simulate(genes=200, samples=8, seed=1)
    treated = (adata.obs["condition"] == "treated").to_numpy()
    y = np.asarray(adata.X, float).copy()
    y[:, 7] = np.where(treated, y[:, 7] + 20, 0)
    y[:, 11] = 0
    x = np.column_stack([np.ones(8), treated * 1.0])
    return y, *deseq.fit(Pooled(samples(y, x)), groups(x))


def posterior(y, x, offset, alpha, scale):
    """Minus log posterior of ``b``, written plainly; the last coefficient has the Cauchy prior."""

    def value(b):
        eta, r = offset + x @ b, 1 / alpha
        likelihood = np.sum(y * eta - (y + r) * np.logaddexp(eta, np.log(r)))
        prior = -np.log1p((b[-1] / scale) ** 2) - b[:-1] @ b[:-1] / (2 * 15**2)
        return -likelihood - prior

    return value


def hessian(value, at, h=1e-3):
    """By differences of fourth order."""
    p = len(at)
    steps = {1: 8 / 12, -1: -8 / 12, 2: -1 / 12, -2: 1 / 12}

    def gradient(b):
        return np.array(
            [sum(w * value(b + k * h * e) for k, w in steps.items()) / h for e in np.eye(p)]
        )

    return np.array(
        [sum(w * gradient(at + k * h * e) for k, w in steps.items()) / h for e in np.eye(p)]
    )


def test_modes_are_the_posterior_s(simulated):
    y, fit, cohort = simulated
    ours = shrink(fit, cohort, LAST)
    scale = ours.prior_scale * LN2
    x, offset = np.asarray(cohort.rows.x), np.asarray(cohort.rows.offset)[:, 0]
    for g in [*range(0, 200, 20), 7]:
        value = posterior(y[:, g], x, offset, fit.gene.dispersion[g], scale)
        b = fit.gene.beta[g]
        starts = (b, np.array([np.log(np.mean(y[:, g])), 0.0]), b - ours.log2_fold_change[g] * LN2)
        best = min((optimize.minimize(value, s, tol=1e-14) for s in starts), key=lambda o: o.fun)
        # BFGS with differences finds a minimum to the root of rounding.
        assert abs(best.x[1] - ours.log2_fold_change[g] * LN2) < 1e-5
        sd = np.sqrt(np.linalg.inv(hessian(value, best.x))[1, 1])
        assert ours.posterior_sd[g] * LN2 == pytest.approx(sd, rel=1e-4)
    assert np.isnan(ours.log2_fold_change[11])
    assert ours.status[11] == Status.OK
    assert np.all(ours.status == Status.OK)


def quadrature(value, center, spread):
    """The last of two coefficients' own distribution: places, and the probability up to each."""
    node, weight = np.polynomial.hermite_e.hermegauss(30)
    u = np.linspace(-7.5, 7.5, 151)
    line, log = center[1] + spread * np.sinh(u), []
    best = center[0]
    for t in line[np.argsort(np.abs(u))]:
        of = optimize.minimize_scalar(lambda a, t=t: value(np.array([a, t])), (best, best + 0.1))
        h = 1e-3 * (1 + abs(of.x))
        bend = (value(np.array([of.x + h, t])) + value(np.array([of.x - h, t])) - 2 * of.fun) / h**2
        sd = 1 / np.sqrt(bend)
        term = [value(np.array([of.x + sd * z, t])) - of.fun - z**2 / 2 for z in node]
        log.append(-of.fun + np.log(sd * (weight @ np.exp(-np.array(term)))))
    log = np.array(log)[np.argsort(np.argsort(np.abs(u)))]
    density = np.exp(log - np.max(log)) * np.cosh(u)
    total = np.cumsum(density) - density / 2
    return line, total / total[-1]


def test_exact_intervals_and_rates_are_the_posterior_s(simulated):
    y, fit, cohort = simulated
    x, offset = np.asarray(cohort.rows.x), np.asarray(cohort.rows.offset)[:, 0]
    rough, ours = (shrink(fit, cohort, LAST, Choices(exact=exact)) for exact in (False, True))
    np.testing.assert_array_equal(ours.log2_fold_change, rough.log2_fold_change)
    off = []
    for g in [7, *range(0, 200, 40)]:
        value = posterior(y[:, g], x, offset, fit.gene.dispersion[g], ours.prior_scale * LN2)
        sd = ours.posterior_sd[g] * LN2
        center = np.array([fit.gene.beta[g, 0], ours.log2_fold_change[g] * LN2])
        line, total = quadrature(value, center, sd)
        lower, upper = np.interp([0.025, 0.975], total, line) / LN2
        below = np.interp(0.0, line, total)
        lfsr = below if center[1] > 0 else 1 - below
        # Laplace's approximation of one coefficient given the other, with four counts in a group.
        assert abs(ours.lfsr[g] - lfsr) < 0.006
        length = upper - lower
        if g != 7:  # Cauchy's tail, beyond this quadrature
            assert abs(ours.lower[g] - lower) + abs(ours.upper[g] - upper) < 0.06 * length
        off.append(abs(rough.lfsr[g] - lfsr))
    assert max(off) > 0.02  # what a normal approximation makes of it


def test_separated_gene_has_a_finite_fold_change(simulated):
    _, fit, cohort = simulated
    assert fit.gene.unsupported[7, 1, 1] > 0
    cauchy, normal = (
        shrink(fit, cohort, LAST, Choices(kind=kind, free=(0,))) for kind in ("apeglm", "normal")
    )
    # DESeq2's clip stops the estimate without a prior; the likelihood itself would go on for ever,
    # and a heavy tail holds it back later than the clip.
    assert 0 < normal.log2_fold_change[7] < fit.gene.beta[7, 1] / LN2
    assert normal.log2_fold_change[7] < cauchy.log2_fold_change[7] < 30
    assert np.isfinite([normal.posterior_sd[7], cauchy.posterior_sd[7]]).all()


def profile(value, line):
    """Least values for each second coefficient."""
    return [optimize.minimize_scalar(lambda a, t=t: value(np.array([a, t]))).fun for t in line]


def test_the_higher_of_two_modes():
    # Fold changes far from 0 with a narrow prior: a minimum at 0, another at the likelihood's.
    rng = np.random.default_rng(0)
    n, g = 12, 8
    x = np.column_stack([np.ones(n), np.arange(n) % 2])
    far = np.linspace(0.6, 1.6, g)
    y = rng.negative_binomial(5, 5 / (5 + np.exp(4 + x[:, 1:] * far)))
    alpha, scale = np.full(g, 0.2), 0.02
    matrix = nested.leading(LAST) * np.array([scale, 1.0])
    prior = cauchy_prior.Prior(matrix, np.linalg.inv(matrix), scale)
    cohort = Pooled(samples(y, x))
    mle = nb.fit(cohort.rows, dispersion=0.2)
    found = cauchy_prior.modes(
        cauchy_prior.Start(mle.beta, np.linalg.inv(np.asarray(mle.information)), alpha),
        Part(cohort, np.arange(g), np.arange(g)),
        LAST,
        prior,
    )
    assert 0 < np.sum(found.two_modes) < g
    for k in range(0, g, 2):
        value = posterior(y[:, k], x, np.zeros(n), 0.2, scale)
        line = np.concatenate([np.linspace(-0.1, 0.1, 41), np.linspace(0.1, 2.5, 100)])
        assert abs(found.mode[k] - line[np.argmin(profile(value, line))]) < 0.025  # the grid's step


def test_penalty_is_the_prior_and_its_derivatives():
    rng = np.random.default_rng(1)
    theta = jnp.asarray(rng.normal(0, 2, (40, 3)))
    eye = jnp.tile(jnp.eye(3), (40, 1, 1))
    flat = Score(jnp.zeros(40), jnp.zeros((40, 3)), eye, eye)
    score = jax.jit(cauchy_prior.cauchy_penalty)(theta, jnp.ones(40), flat)

    def prior(t):
        return jnp.log1p(t[0] ** 2) + jnp.sum(t[1:] ** 2) / 450

    np.testing.assert_allclose(score.loss, jax.vmap(prior)(theta), rtol=1e-12)
    np.testing.assert_allclose(score.gradient, jax.vmap(jax.grad(prior))(theta), rtol=1e-10)
    # The likelihood's curvature of 1 outweighs the prior's, 1/4 at the least.
    exact = jax.vmap(jax.hessian(prior))(theta) + eye
    np.testing.assert_allclose(score.info, exact, rtol=1e-9, atol=1e-12)
    weak = jax.jit(cauchy_prior.cauchy_penalty)(
        theta, jnp.ones(40), flat._replace(info=0.01 * flat.info, fisher=0.01 * flat.fisher)
    )
    for curvature in (weak.info, weak.fisher):
        assert np.linalg.eigvalsh(curvature).min() > 0


@pytest.mark.parametrize("kind", ["apeglm", "normal"])
def test_reversed_contrast(simulated, kind):
    _, fit, cohort = simulated
    one, other = (shrink(fit, cohort, s * LAST, Choices(kind=kind, free=(0,))) for s in (1.0, -1.0))
    # Steps end within 1e-7 standard errors, and other coordinates round differently.
    np.testing.assert_allclose(one.log2_fold_change, -other.log2_fold_change, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.lower, -other.upper, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(one.lfsr, other.lfsr, rtol=1e-8, atol=1e-12)


def test_contrast_of_two_coefficients_is_the_coefficient_of_another_design(simulated):
    _, fit, cohort = simulated
    x = np.asarray(cohort.rows.x)
    there = Pooled(cohort.rows._replace(x=np.column_stack([1 - x[:, 1], x[:, 1]])))
    turn = np.array([[1.0, 0.0], [1.0, 1.0]])  # to a mean of each group
    covariance = turn @ fit.gene.covariance @ turn.T
    gene = fit.gene._replace(beta=fit.gene.beta @ turn.T, covariance=covariance)
    other = fit._replace(gene=gene)
    for kind in ("apeglm", "normal"):
        one = shrink(fit, cohort, LAST, Choices(kind=kind, free=(0,)))
        two = shrink(other, there, np.array([-1.0, 1.0]), Choices(kind=kind))
        assert one.prior_scale == pytest.approx(two.prior_scale, rel=1e-9)
        # The wide prior is of the intercept here, of the mean of both groups there. It matters
        # where the likelihood does not: 4 % of a standard deviation where a group has no counts.
        some = (fit.gene.base_mean > 1) & (fit.gene.unsupported[:, 1, 1] < 0.1)
        apart = np.abs(one.log2_fold_change - two.log2_fold_change) / one.posterior_sd
        assert np.max(apart[some]) < 0.01


def test_rates_intervals_and_thresholds(simulated):
    _, fit, cohort = simulated
    plain = shrink(fit, cohort, LAST)
    some = np.isfinite(plain.log2_fold_change)
    z = np.abs(plain.log2_fold_change) / plain.posterior_sd
    np.testing.assert_allclose(plain.lfsr[some], special.ndtr(-z[some]), rtol=1e-12)
    assert np.isnan(plain.s_value[~some]).all()
    reach = 1.959963984540054 * plain.posterior_sd
    np.testing.assert_allclose(plain.upper - plain.lower, 2 * reach, rtol=1e-12)
    far = shrink(fit, cohort, LAST, Choices(threshold=1.0, interval=0.5))
    small = special.ndtr((1 - np.abs(far.log2_fold_change)) / far.posterior_sd)
    np.testing.assert_allclose(far.lfsr, small, rtol=1e-12)
    assert np.all((far.upper - far.lower)[some] < (plain.upper - plain.lower)[some])


def test_s_values_and_quantiles_are_r_s(reference):
    r = reference("shrinkage")
    lfsr, s_value = (np.array(r[name], float) for name in ("lfsr", "s_value"))
    ours = shrinkage.s_values(lfsr)
    known = np.isfinite(lfsr)
    np.testing.assert_allclose(ours[known], s_value[known], rtol=1e-14)
    assert np.isnan(ours[~known]).all()
    for one in r["quantiles"]:
        x, weight = np.array(one["x"], float), np.array(one["weight"], float)
        value = normal_prior.weighted_quantile(x, weight, one["share"])
        assert value == pytest.approx(one["value"], rel=1e-12)


def test_prior_scale_is_the_root():
    rng = np.random.default_rng(2)
    se = rng.uniform(0.1, 1.0, 4000)
    estimate = rng.normal(0, 0.3, 4000) + se * rng.normal(size=4000)
    a = cauchy_prior.prior_variance(np.append(estimate, np.nan), np.append(se, 1.0))
    w = 1 / (2 * (a + se**2) ** 2)
    assert np.sum(w * (estimate**2 - se**2 - a)) == pytest.approx(0, abs=1e-9 * np.sum(w))
    assert a == pytest.approx(0.09, rel=0.2)  # 4,000 genes know it to a tenth
    assert cauchy_prior.prior_variance(0.1 * se, se) == 0.001**2
    assert cauchy_prior.prior_variance(100 + se, se) == 20.0**2


@pytest.mark.parametrize("name", ["two_group", "batch"])
def test_normal_is_r_s(name, case, fitted, reference):
    r = reference("shrinkage")["normal"][name]
    f = fitted(name)
    p = f.cohort.coefficients
    ours = shrink(f.fit, f.cohort, np.eye(p)[-1], Choices(kind="normal", free=(0,)))
    # Coefficients that the quantile falls on agree to 1e-5 or so.
    assert ours.prior_scale**2 == pytest.approx(r["prior_variance"][-1], rel=1e-3)
    lfc, se = (np.array(r[k], float) for k in ("log2FoldChange", "lfcSE"))
    np.testing.assert_array_equal(np.isnan(ours.log2_fold_change), np.isnan(lfc))
    some = np.isfinite(lfc) & (f.fit.gene.base_mean > 1)
    for a, b in ((ours.log2_fold_change, lfc), (ours.se, se)):
        close = np.abs(a - b)[some] <= LFC * (1 + np.abs(b[some]))
        assert np.mean(close) >= 0.995


def test_genes_with_replaced_counts_are_shrunk_on_them(fitted):
    f = next(f for f in map(fitted, ("batch", "two_group", "replicates")) if f.fit.replaced.any())
    x = np.asarray(f.cohort.rows.x)
    new = deseq.replaced(f.fit, f.cohort, groups(x))
    counts = np.asarray(f.cohort.rows.y, float).copy()
    counts[:, new.genes] = np.asarray(new.cohort.rows.y)
    as_replaced = Pooled(f.cohort.rows._replace(y=counts))
    plain = f.fit._replace(replaced=np.zeros_like(f.fit.replaced))
    last = np.eye(x.shape[1])[-1]
    one, other = shrink(f.fit, f.cohort, last), shrink(plain, as_replaced, last)
    # The same sums, genes in other blocks.
    np.testing.assert_allclose(one.log2_fold_change, other.log2_fold_change, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("choices", "contrast", "words"),
    [
        (Choices(kind="ashr"), LAST, "apeglm, normal"),  # pyright: ignore[reportArgumentType]
        (Choices(interval=95.0), LAST, "between 0 and 1"),
        (Choices(threshold=-1.0), LAST, "0 or more"),
        (Choices(kind="normal", exact=True), LAST, "apeglm"),
        (Choices(kind="normal", free=(0,)), np.array([1.0, 0.0]), "intercept"),
    ],
)
def test_refused(simulated, choices, contrast, words):
    _, fit, cohort = simulated
    if choices.kind == "ashr":
        with pytest.raises(InputError, match=words):
            shrinkage.check(choices)
        return
    with pytest.raises(InputError, match=words):
        shrink(fit, cohort, contrast, choices)


def test_normal_on_airway(data):
    airway = load("airway", data)
    theirs = pd.read_csv(data / "reference" / "airway.deseq2.lfcshrink_normal.every5.csv.gz")
    p = airway.cohort.coefficients
    ours = shrink(airway.fit, airway.cohort, np.eye(p)[-1], Choices(kind="normal", free=(0,)))
    expressed = airway.fit.gene.base_mean[::5] > 1
    for a, b in ((ours.log2_fold_change, "log2FoldChange"), (ours.se, "lfcSE")):
        wanted = theirs[b].to_numpy()
        close = np.abs(a[::5] - wanted) <= LFC * (1 + np.abs(wanted))
        assert np.mean(close[expressed]) >= 0.995
