"""Maximum likelihood of coefficients and dispersion: its statistic, and fits against SciPy."""

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

from expressway._errors import InputError
from expressway.core.arrow import Span, Wide
from expressway.core.cohort import Pooled, Samples, samples
from expressway.core.solve import Status
from expressway.models import joint, nb

N, G, P = 12, 8, 2


def negative_log_likelihood(theta, y, s):
    """Of one gene, with SciPy's functions; theta = (beta, log alpha)."""
    r = np.exp(-theta[-1])
    eta = s.offset[:, 0] + s.x @ theta[:-1]
    rows = s.weight * s.precision[:, 0]
    gamma = special.gammaln(y + r) - special.gammaln(r) - special.gammaln(y + 1)
    return -np.sum(rows * (gamma + y * (theta[-1] + eta) - (y + r) * np.log1p(np.exp(eta) / r)))


@pytest.fixture(scope="module")
def s():
    rng = np.random.default_rng(3)
    x = np.column_stack([np.ones(N), np.arange(N) % 2])
    mu = np.exp(rng.uniform(1, 6, G))
    y = rng.negative_binomial(3, 3 / (3 + mu), (N, G)) * 1.0
    y[:, 5] = rng.permutation(np.repeat([3.0, 4.0], N // 2))  # less than Poisson's variance
    y[:, 6] = 0
    y[::2, 7] = 0  # separated
    rows = samples(y, x)
    return rows._replace(offset=rng.normal(0, 0.3, (N, 1)))


@pytest.fixture(scope="module")
def weighted(s):
    rng = np.random.default_rng(4)
    return s._replace(weight=rng.uniform(0.5, 2, N), precision=rng.uniform(0.2, 1, (N, 1)))


@pytest.fixture(scope="module")
def theta():
    rng = np.random.default_rng(5)
    return np.column_stack([rng.normal(2, 1, (G, P)), rng.uniform(-5, 1, G) - joint.SHIFT])


def sums(theta, s):
    return jax.tree.map(np.asarray, jax.jit(joint.joint)(theta, None, s))


def full(f):
    """Gradient and information in beta and log alpha."""
    gradient = np.column_stack([f.gradient, f.slope])
    return gradient, np.asarray(joint.bordered(f.info, f.cross, f.curvature))


def test_equals_a_loop(weighted, theta):
    found = sums(theta, weighted)
    for g in range(G):
        point = theta[g] + [0, 0, joint.SHIFT]
        mu = np.exp(weighted.offset[:, 0] + weighted.x @ point[:P])
        rows = weighted.weight * weighted.precision[:, 0]
        fisher = (weighted.x.T * (rows * mu / (1 + np.exp(point[P]) * mu))) @ weighted.x
        y = weighted.y[:, g]
        whole = negative_log_likelihood(point, y, weighted) - rows @ special.gammaln(y + 1)
        # lgamma of SciPy at 1 / alpha of 150: differences of numbers of 600.
        np.testing.assert_allclose(found.loss[g], whole, rtol=1e-11)
        np.testing.assert_allclose(found.fisher[g], fisher, rtol=1e-11)


def test_derivatives_are_autodiffs(weighted, theta):
    gradient, information = full(sums(theta, weighted))
    # Each gene's loss is a function of its own parameters: the gradient of the sum is all of them.
    slope = jax.jit(jax.grad(lambda t: jnp.sum(joint.joint(t, None, weighted).loss)))
    np.testing.assert_allclose(gradient, slope(theta), rtol=1e-9, atol=1e-8)

    def turned(direction):
        return jax.jvp(
            lambda t: jnp.column_stack([(f := joint.joint(t, None, weighted)).gradient, f.slope]),
            (theta,),
            (jnp.broadcast_to(direction, theta.shape),),
        )[1]

    hessian = np.stack([jax.jit(turned)(e) for e in np.eye(P + 1)], axis=1)
    np.testing.assert_allclose(information, hessian, rtol=1e-9, atol=1e-8)


def test_additive_and_independent(weighted, theta):
    whole = sums(theta, weighted)
    parts = [sums(theta, Samples(*(a[i:j] for a in weighted))) for i, j in pairwise([0, 1, 5, N])]
    order = np.array([3, 0, 7, 1])
    few = sums(theta[order], weighted._replace(y=weighted.y[:, order]))
    for a, b, c in zip(whole, jax.tree.map(lambda *p: sum(p), *parts), few, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(c, a[order], rtol=1e-11, atol=1e-11)


@pytest.fixture(scope="module")
def fit(s):
    return nb.fit(Pooled(s))


def test_fit_is_not_worse_than_scipys(s, fit):
    box = [(-nb.BOX, nb.BOX)] * P + [(np.log(1e-8), 10.0)]
    for g in (0, 1, 2, 3, 4, 7):
        y = s.y[:, g]
        starts = [np.r_[np.log(y.mean() + 0.1), 0.0, a] for a in (-3.0, 0.0)]
        ends = [
            optimize.minimize(negative_log_likelihood, t, (y, s), "L-BFGS-B", bounds=box)
            for t in starts
        ]
        # L-BFGS-B stops at 2e-9 of the objective.
        assert -fit.log_likelihood[g] <= min(end.fun for end in ends) + 1e-7


def test_certificate_and_information(s, fit):
    inside = np.flatnonzero(fit.status == Status.OK)
    assert set(inside) >= {0, 1, 2, 3, 4}
    assert np.all(fit.decrement[inside] < 1e-12)
    theta = np.column_stack([fit.beta, fit.log_alpha - joint.SHIFT])[inside]
    gradient, information = full(sums(theta, s._replace(y=s.y[:, inside])))
    np.testing.assert_allclose(gradient, 0, atol=1e-6)
    np.testing.assert_allclose(fit.information[inside], information, rtol=1e-8, atol=1e-8)
    assert np.all(np.linalg.eigvalsh(information) > 0)


def test_flat_separated_and_empty_genes_say_so(s, fit):
    assert fit.flat[5]
    assert fit.status[5] == Status.AT_BOUND
    assert fit.log_alpha[5] == pytest.approx(np.log(1e-8))
    assert np.all(fit.information[5, -1] == 0)
    assert np.all(np.linalg.eigvalsh(fit.information[5, :P, :P]) > 0)
    poisson = nb.fit(s, 1e-8, genes=np.array([5]))
    np.testing.assert_allclose(fit.beta[5], poisson.beta[0], rtol=1e-6)
    assert fit.status[7] == Status.AT_BOUND
    assert np.max(np.abs(fit.beta[7])) == nb.BOX
    assert not fit.flat[7]
    assert fit.status[6] == Status.NOT_FINITE
    assert np.all(np.isnan(fit.beta[6]))
    assert np.all(np.isfinite(fit.information[[0, 1, 2, 3, 4, 5, 7]]))


def test_given_dispersions(s, fit):
    inside = np.array([4, 0, 2])
    given = nb.fit(s, np.exp(fit.log_alpha[inside]), inside)
    np.testing.assert_allclose(given.beta, fit.beta[inside], rtol=1e-6)
    np.testing.assert_allclose(given.log_likelihood, fit.log_likelihood[inside], rtol=1e-10)
    expected = fit.information[inside, :P, :P]
    np.testing.assert_allclose(given.information, expected, rtol=1e-6)


def test_what_cannot_be_fitted_is_refused_in_a_line(s):
    with pytest.raises(InputError, match="gene 1 has -1"):
        nb.fit(s, np.array([1.0, -1.0]), np.array([0, 1]))
    design = Wide(np.ones((N, 1)), np.ones(N), np.arange(N), Span(1, N + 1))
    with pytest.raises(InputError, match="13 columns, most of them one factor's"):
        nb.fit(samples(s.y, design))
