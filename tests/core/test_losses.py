"""Losses: the likelihoods of SciPy, and information that is the mean of the Hessian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from expressway import losses
from expressway._errors import InputError

F = np.array([0.3, -1.2, 0.9])
COUNTS = np.arange(400.0)  # beyond it both counts of mean below 3 have probability below 1e-16


def counts(law):
    return COUNTS[:, None], law.logpmf(COUNTS[:, None])


CASES = {
    "categorical": (
        losses.categorical,
        F,
        np.arange(3),
        F - scipy.special.logsumexp(F),
    ),
    "bernoulli": (
        losses.bernoulli,
        F[:1],
        np.array([[0.0], [1.0]]),
        scipy.stats.bernoulli(scipy.special.expit(F[0])).logpmf([0, 1]),
    ),
    "poisson": (losses.poisson, F[:1], *counts(scipy.stats.poisson(np.exp(F[0])))),
    "negative binomial": (
        losses.negative_binomial(0.4),
        F[:1],
        *counts(scipy.stats.nbinom(2.5, 1.0 / (1.0 + 0.4 * np.exp(F[0])))),
    ),
    # Ten-point Gauss-Hermite: exact for the constant Hessian.
    "normal": (
        losses.normal(0.7),
        F[:1],
        (F[0] + 0.7 * np.polynomial.hermite_e.hermegauss(10)[0])[:, None],
        None,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_likelihood_information_and_root(name):
    loss, f, targets, log_p = CASES[name]
    values = jax.vmap(lambda y: loss(f, y))(jnp.asarray(targets))
    hessians = jax.vmap(lambda y: jax.hessian(loss)(f, y))(jnp.asarray(targets))
    if log_p is None:
        log_p = scipy.stats.norm(f[0], 0.7).logpdf(targets[:, 0])
        share = np.polynomial.hermite_e.hermegauss(10)[1] / np.sqrt(2 * np.pi)
    else:
        share = np.exp(np.ravel(log_p))
    # Library log-gammas at 400 lose three digits of sixteen.
    np.testing.assert_allclose(values, -np.ravel(log_p), rtol=1e-12, atol=1e-12)
    information = loss.information(f)
    expected = np.tensordot(share, hessians, 1)
    np.testing.assert_allclose(information, expected, rtol=1e-11, atol=1e-14)
    root = np.stack([loss.root(f, e) for e in np.eye(len(f))], axis=1)
    np.testing.assert_allclose(root @ root.T, information, rtol=1e-13, atol=1e-15)
    if name != "normal":
        support = np.eye(3) if name == "categorical" else targets
        np.testing.assert_allclose(loss.mean(f), share @ support, rtol=1e-11)
    assert loss.canonical == np.allclose(hessians, information[None], rtol=1e-9)


def test_several_outputs_scalars_and_single_precision():
    loss = losses.negative_binomial(1e-9)  # nearly Poisson, where log-gammas cancel
    y = np.array([0, 3, 7])
    poisson = losses.poisson(F, y)
    # They differ by about alpha y² / 2 = 3e-8.
    np.testing.assert_allclose(loss(F, y), poisson, atol=1e-7, rtol=0)
    alone = sum(float(loss(jnp.asarray(f), k)) for f, k in zip(F, y, strict=True))
    np.testing.assert_allclose(loss(F, y), alone, rtol=1e-14)
    f32 = jnp.asarray(F, dtype=jnp.float32)
    for each in (loss, losses.normal(2.0), losses.poisson, losses.bernoulli):
        assert each(f32, y).dtype == each.information(f32).dtype == jnp.float32
        assert each.root(f32, f32).dtype == jnp.float32
    assert losses.categorical(f32, 1).dtype == jnp.float32


def test_mistakes_are_named():
    with pytest.raises(InputError, match="one output for each number"):
        losses.bernoulli(jnp.zeros(3), jnp.asarray(1))
    with pytest.raises(InputError, match="one class"):
        losses.categorical(jnp.zeros(3), jnp.asarray(1.0))
    with pytest.raises(InputError, match="sd is 0"):
        losses.normal(0.0)
    with pytest.raises(InputError, match="alpha is -1"):
        losses.negative_binomial(-1.0)
