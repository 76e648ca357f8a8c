"""Curves of counts: maximum likelihood by another optimiser, derivatives by JAX and by refits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
from jax.scipy.special import gammaln
from scipy import stats

from expressway.models import count_curves as cc
from expressway.models import curves as cv
from expressway.models import mixture as mx
from expressway.models import nb
from expressway.models.spline import basis, evaluate

TIMES = np.repeat(np.arange(7.0), 3)
N = len(TIMES)
GENES = 10
SPREAD = 0.05


def counts(seed=0):
    """Counts of genes, size factors and dispersions; a gene is almost 0, one has a group of 0."""
    rng = np.random.default_rng(seed)
    x = evaluate(basis(TIMES, 4), TIMES)
    offset = rng.normal(0, 0.3, N)
    alpha = np.exp(rng.normal(-2, 1, GENES))
    mean = np.exp(offset + rng.uniform(2, 6, (GENES, 1)) + rng.normal(size=(GENES, 4)) @ x.T)
    y = rng.negative_binomial(1 / alpha[:, None], 1 / (1 + alpha[:, None] * mean)).astype(float)
    y[0] = rng.poisson(0.3, N)
    y[1, TIMES == 3] = 0.0
    return y, offset, alpha, cv.frame(x)


@pytest.fixture(scope="module")
def curves():
    return cc.count_curves(*counts(), SPREAD)


def weights(seed=0):
    found = np.random.default_rng(seed).choice([0.0, 0.5, 1.0, 1.0, 2.0], N)
    found[::3] = np.maximum(found[::3], 0.5)
    return found


def ridge(frame):
    """The pipeline's ridge, of coefficients of columns of mean square 1."""
    return nb.RIDGE * np.array([1.0, *np.full(frame.u.shape[1], 1 / len(frame.u))])


def log_likelihood(beta, weight, y, offset, alpha, z):
    """Of one gene, less the ridge's part elsewhere; natural logarithms."""
    eta = offset + z @ beta
    mu = jnp.exp(eta)
    size = 1 / alpha
    each = (
        gammaln(y + size)
        - gammaln(size)
        - gammaln(y + 1)
        + y * (eta + jnp.log(alpha))
        - (y + size) * jnp.log1p(alpha * mu)
    )
    return jnp.sum(weight * each)


def objective(beta, weight, y, offset, alpha, z, penalty):
    return -log_likelihood(beta, weight, y, offset, alpha, z) + 0.5 * jnp.sum(penalty * beta**2)


value_gradient = jax.jit(jax.value_and_grad(objective))
hessian = jax.jit(jax.hessian(objective))


def of_gene(curves, g, weight):
    return (
        weight,
        curves.y[g],
        curves.offset,
        curves.alpha[g],
        curves.frame.design,
        ridge(curves.frame),
    )


def test_the_likelihood_of_these_tests():
    """It is SciPy's, whose derivatives are not at hand."""
    y, offset, alpha, frame = counts()
    beta = np.random.default_rng(0).normal(size=4)
    mu = np.exp(offset + frame.design @ beta)
    expected = stats.nbinom.logpmf(y[4], 1 / alpha[4], 1 / (1 + alpha[4] * mu))
    found = log_likelihood(beta, np.ones(N), y[4], offset, alpha[4], frame.design)
    assert float(found) == pytest.approx(np.sum(expected), rel=1e-10)


@pytest.mark.parametrize("weighted", [False, True])
def test_maximum_likelihood(curves, weighted):
    weight = weights() if weighted else np.ones(N)
    found = curves.fit(weight)
    for g in range(GENES):
        given = of_gene(curves, g, weight)
        start = np.concatenate([[np.log(np.mean(curves.y[g]) + 0.1)], np.zeros(3)])

        def fn(beta, given=given):
            value, gradient = value_gradient(beta, *given)
            return float(value), np.asarray(gradient)

        other = scipy.optimize.minimize(fn, start, jac=True, method="BFGS")
        value, gradient = fn(found[g])
        assert value <= other.fun + 1e-9 * abs(other.fun)  # BFGS's, of its gradient of 1e-5
        # Newton's decrement below 1e-6: estimates are within 1e-6 standard errors.
        step = np.linalg.solve(hessian(found[g], *given), gradient)
        assert np.sqrt(gradient @ step) < 1e-6


def test_precision(curves):
    """The inverse of the observed information's inverse and the spread."""
    for weight in (np.ones(N), weights(1)):
        beta = curves.fit(weight)
        found = curves.observed(weight)
        np.testing.assert_array_equal(found.estimate, beta[:, 1:])
        for g in range(GENES):
            inverse = np.linalg.inv(hessian(beta[g], *of_gene(curves, g, weight)))
            covariance = inverse[1:, 1:] + SPREAD * np.eye(3)
            np.testing.assert_allclose(found.precision[g] @ covariance, np.eye(3), atol=1e-9)


def test_what_is_known_of_curves(curves):
    known = curves.posterior()
    np.testing.assert_array_equal(known.mean, curves.beta)
    assert np.all(np.isinf(known.freedom))
    for g in range(GENES):
        expected = np.linalg.inv(hessian(curves.beta[g], *of_gene(curves, g, np.ones(N))))
        np.testing.assert_allclose(known.covariance[g], expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("seed", [0, 1])
def test_warm_is_anew(curves, seed):
    """From the optimum of all samples, or from nothing; also where a gene has hardly a count."""
    weight = weights(seed)
    weight[TIMES == 5] = 0.0
    warm = cc.warm(curves, weight)
    anew = cc.warm(curves._replace(beta=np.zeros_like(curves.beta)), weight)
    error = np.sqrt(np.einsum("gii->gi", curves._point(anew, weight).inverse))
    # Both are within 1e-6 standard errors of the optimum.
    assert np.max(np.abs(warm - anew) / error) < 3e-6
    assert not np.allclose(warm, curves.beta, atol=1e-3)


def test_a_gene_that_does_not_arrive_has_no_precision(curves, monkeypatch):
    monkeypatch.setattr(cc, "STEPS", 2)
    far = curves._replace(beta=curves.beta + np.array([3.0, 8.0, -8.0, 8.0]))
    seen = far.observed(weights(2))
    assert np.all(seen.precision == 0)
    assert np.all(np.isfinite(seen.estimate))


def test_all_weights_one_is_what_was_fitted(curves):
    assert curves.fit(np.ones(N)) is curves.beta


def test_a_weight_is_a_number_of_copies(curves):
    """Weight 2 is the sample twice, weight 0 is without it."""
    weight = np.ones(N)
    weight[[2, 10]] = 2.0
    weight[[4, 15]] = 0.0
    rows = np.repeat(np.arange(N), weight.astype(int))
    f = curves.frame
    copies = curves._replace(
        y=curves.y[:, rows], offset=curves.offset[rows], frame=f._replace(u=f.u[rows])
    )
    # The ridge is by the number of samples, which these have as many of.
    assert len(rows) == N
    one, other = curves.observed(weight), copies._replace(beta=cc.warm(copies, np.ones(N)))
    np.testing.assert_allclose(one.estimate, other.beta[:, 1:], atol=1e-5)
    np.testing.assert_allclose(
        one.precision, other.observed(np.ones(N)).precision, rtol=1e-5, atol=1e-6
    )


def test_changes(curves):
    """``d(L x)`` and ``dL`` in weights, by implicit differentiation of the gene's own optimum."""
    one = np.ones(N)
    z = curves.frame.design
    every_y, every_a = jnp.asarray(curves.y), jnp.asarray(curves.alpha)

    def observed(beta, weight, g):
        # The information as its formula in the parameters, whose derivative is what JAX takes.
        mu = jnp.exp(curves.offset + z @ beta)
        a, y = every_a[g], every_y[g]
        w = weight * mu * (1 + a * y) / (1 + a * mu) ** 2
        inverse = jnp.linalg.inv(jnp.einsum("n,ni,nj->ij", w, z, z) + jnp.diag(ridge(curves.frame)))
        precision = jnp.linalg.inv(inverse[1:, 1:] + SPREAD * jnp.eye(3))
        return precision, precision @ beta[1:]

    @jax.jit
    def moved(beta, g):
        given = (every_y[g], curves.offset, every_a[g], z, ridge(curves.frame))
        cross = jax.jacfwd(jax.grad(objective), 1)(beta, one, *given)
        slope = -jnp.linalg.solve(jax.hessian(objective)(beta, one, *given), cross)
        direct = jax.jacfwd(observed, 1)(beta, one, g)
        through = jax.jacfwd(observed, 0)(beta, one, g)
        return [d + t @ slope for d, t in zip(direct, through, strict=True)]

    expected = [moved(beta, g) for g, beta in enumerate(curves.beta)]
    held = mx.half(3)
    changes = list(curves.changes())
    assert len(changes) == N
    for n, change in enumerate(changes):
        for g in range(GENES):
            precision, pull = (np.asarray(each[..., n]) for each in expected[g])
            size = max(1.0, np.max(np.abs(precision)))
            # Rounding, times the condition number of an almost empty gene's information.
            np.testing.assert_allclose(
                change.half[g], held.of(precision[None])[0], atol=1e-8 * size
            )
            np.testing.assert_allclose(change.pull[g], pull, atol=1e-8 * size)


def test_any_basis_of_the_same_curves(curves):
    y, offset, alpha, frame = counts()
    rng = np.random.default_rng(5)
    x = evaluate(basis(TIMES, 4), TIMES) @ rng.normal(size=(4, 4))
    other = cc.count_curves(y, offset, alpha, cv.frame(x), SPREAD)
    q = other.frame.u.T @ frame.u
    one, two = curves.observed(np.ones(N)), other.observed(np.ones(N))
    # Of the almost empty gene, whose standard errors are some hundred, to 1e-6 of them.
    np.testing.assert_allclose(two.estimate, one.estimate @ q.T, atol=1e-5)
    np.testing.assert_allclose(two.precision, q @ one.precision @ q.T, atol=1e-6)


def test_order_of_genes_is_nothing(curves):
    order = np.random.default_rng(0).permutation(GENES)
    weight = weights(3)
    for found, each in zip(
        curves.some(order).observed(weight), curves.observed(weight), strict=True
    ):
        np.testing.assert_allclose(found, each[order], rtol=1e-9, atol=1e-9)


def test_deviance_residuals():
    rng = np.random.default_rng(0)
    y = np.array([[0.0, 1, 7, 100, 3, 0]] * 3)
    mu = rng.gamma(2, 3, size=y.shape)
    mu[:, 4] = 3.0
    alpha = np.array([1e-6, 0.3, 5.0])
    found = cc.deviance_residual(y, mu, alpha)
    n, p = 1 / alpha[:, None], 1 / (1 + alpha[:, None] * mu)
    # The likelihood is largest where the mean is the count; at a mean of 0 it is 1.
    best = np.where(
        y > 0, stats.nbinom.logpmf(y, n, 1 / (1 + alpha[:, None] * np.maximum(y, 1))), 0
    )
    deviance = 2 * (best - stats.nbinom.logpmf(y, n, p))
    # SciPy's differences of log-gamma of 1e6 have nine digits.
    np.testing.assert_allclose(found**2, deviance, rtol=1e-7, atol=1e-6)
    np.testing.assert_array_equal(np.sign(found), np.sign(y - mu))
    assert np.all(found[:, 4] == 0)


@pytest.mark.parametrize("centre", ["fit", "mean"])
def test_errors(curves, centre):
    """The level is the most likely one, given the curve, of the samples that were kept."""
    rows = np.flatnonzero(TIMES == 2)
    weight = np.ones(N)
    weight[rows] = 0.0
    curve = np.random.default_rng(2).normal(size=(GENES, N))
    found = curves.errors(rows, weight, curve, centre)
    used = np.ones(N) if centre == "mean" else weight
    for g in range(GENES):
        a = curves.alpha[g]

        def lost(level, g=g, a=a):
            mu = np.exp(curves.offset + curve[g] + level)
            return -np.sum(used * stats.nbinom.logpmf(curves.y[g], 1 / a, 1 / (1 + a * mu)))

        level = scipy.optimize.minimize_scalar(lost, (-5, 10), options={"xtol": 1e-10}).x
        mu = np.exp(curves.offset + curve[g] + level)[rows]
        expected = cc.deviance_residual(curves.y[g, rows][None], mu[None], curves.alpha[g : g + 1])
        # The minimum of a function is known to half its digits.
        np.testing.assert_allclose(found[g], expected[0], atol=1e-5)


def test_errors_of_a_gene_without_counts_elsewhere(curves):
    y = curves.y.copy()
    y[2] = np.where(TIMES == 2, 8.0, 0.0)
    rows = np.flatnonzero(TIMES == 2)
    weight = np.where(TIMES == 2, 0.0, 1.0)
    found = curves._replace(y=y).errors(rows, weight, np.zeros((GENES, N)), "fit")
    assert np.all(np.isfinite(found))
    assert np.all(found[2] > 0)
