"""Predictions against the delta method written out, and calibration by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from expressway import losses
from expressway._errors import InputError
from expressway.core import prediction
from expressway.core.fitted import source
from expressway.core.jackknife import jackknife
from expressway.core.prediction import predict, scores
from expressway.core.predictor import predictor
from expressway.core.problem import Objective

RNG = np.random.default_rng(0)
N, D = 40, 3
X = RNG.normal(size=(N, D))
Y = (RNG.uniform(size=N) < 0.5).astype(int)
NEW = RNG.normal(size=(11, D))


def model(theta, x):
    return x @ theta


def curved(theta, x):
    return jnp.stack([x @ theta, jnp.sinh(theta[0]) * x[1]])


@pytest.fixture(scope="module")
def fit():
    objective = Objective.supervised(model, losses.bernoulli, (X, Y), 0.5)
    return objective.solve(np.zeros(D))


def covariance(fit):
    p = 1 / (1 + np.exp(-X @ fit.theta))
    return np.linalg.inv((X * (p * (1 - p))[:, None]).T @ X + 0.5 * np.eye(D))


def slopes(fit):
    first = np.cosh(fit.theta[0]) * NEW[:, 1]
    return np.stack([NEW, np.stack([first, 0 * first, 0 * first], axis=1)], axis=1)


@pytest.mark.parametrize("kind", ["hessian", "fisher", "sandwich"])
def test_variances_without_draws_are_those_of_the_delta_method(fit, kind, monkeypatch):
    of, at = source(fit), predictor(fit, curved, NEW, batch_size=4)
    c, rows = covariance(fit), slopes(fit)
    if kind == "sandwich":
        c = jackknife(fit).covariance()
    expected = np.einsum("mcd,de,mce->mc", rows, c, rows)
    found = predict(of, at, kind=kind)
    # Condition numbers below a hundred: rounding.
    np.testing.assert_allclose(found.variance, expected, rtol=1e-11)
    assert found.certified
    assert np.all(found.variance_lower <= expected * (1 + 1e-14))
    assert np.all(found.variance_upper >= expected * (1 - 1e-14))
    np.testing.assert_allclose(found.mean[:, 0], NEW @ fit.theta, rtol=1e-13)
    half = scipy.stats.norm.ppf(0.95) * np.sqrt(expected)
    np.testing.assert_allclose(found.upper - found.mean, half, rtol=1e-9)
    # Iterated, a few inputs at a time.
    monkeypatch.setattr(prediction, "DENSE", 0)
    monkeypatch.setattr(prediction, "BYTES", 8 * 2 * N * 3)
    found = predict(of, at, kind=kind, rtol=1e-3)
    np.testing.assert_allclose(found.variance, expected, rtol=2e-3)  # what was asked for, twice
    assert found.certified == (kind == "fisher")
    if kind == "fisher":
        assert np.all(found.variance_lower <= expected)
        assert np.all(found.variance_upper >= expected)
        np.testing.assert_allclose(
            found.upper - found.mean, scipy.stats.norm.ppf(0.95) * np.sqrt(found.variance_upper)
        )


def test_clusters_and_mistakes(fit):
    of, at = source(fit), predictor(fit, model, NEW)
    label = np.arange(N) % 7
    c = jackknife(fit).covariance(label)
    found = predict(of, at, kind="sandwich", clusters=label)
    expected = np.einsum("md,de,me->m", NEW, c, NEW)
    np.testing.assert_allclose(found.variance[:, 0], expected, rtol=1e-11)
    for given, message in (
        ({"how": "draws"}, "needs draws"),
        ({"interval": 90.0}, "interval is 90"),
        ({"clusters": label}, "clusters are for"),
        ({"draws": np.zeros((3, D)), "kind": "fisher"}, "kind given with draws"),
        ({"draws": np.zeros((1, D))}, "1 draw has no variance"),
        ({"kind": "sandwich", "clusters": label[:3]}, "3 cluster labels for 40"),
    ):
        with pytest.raises(InputError, match=message):
            predict(of, at, **given)
    with pytest.raises(InputError, match="cannot be called"):
        predictor(fit, lambda theta, x: theta["beta"] @ x, NEW)


def test_draws_linearised_and_pushed_through(fit):
    of, at = source(fit), predictor(fit, curved, NEW, batch_size=4)
    draws = RNG.normal(size=(50, D)) @ np.linalg.cholesky(covariance(fit)).T
    theta = np.asarray(fit.theta) + draws
    pushed = np.stack([NEW @ theta.T, NEW[:, 1:2] * np.sinh(theta[:, 0])], axis=-1)
    pushed = np.swapaxes(pushed, 0, 1)
    found = predict(of, at, how="draws", draws=draws, loss=losses.bernoulli)
    np.testing.assert_allclose(found.mean, pushed.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.variance, pushed.var(0, ddof=1), rtol=1e-11)
    np.testing.assert_allclose(found.lower, np.quantile(pushed, 0.05, axis=0), rtol=1e-11)
    p = 1 / (1 + np.exp(-pushed))
    np.testing.assert_allclose(found.probabilities, p.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.probability_sd, p.std(0, ddof=1), rtol=1e-11)
    linear = predict(of, at, draws=draws)
    moved = np.einsum("mcd,bd->bmc", slopes(fit), draws)
    np.testing.assert_allclose(linear.variance, moved.var(0, ddof=1), rtol=1e-11)
    np.testing.assert_allclose(linear.mean, at.outputs)
    assert linear.probabilities is None


def test_outputs_in_single_precision():
    theta = {"w": jnp.ones((D, 2), jnp.float32)}
    objective = Objective.supervised(lambda t, x: x @ t["w"], losses.categorical, (X, Y), 1.0)
    trained = objective.trained(theta)
    at = predictor(trained, lambda t, x: x @ t["w"], NEW.astype(np.float32))
    assert at.outputs.dtype == at.gradients(0, 2).dtype == np.float32
    deviations = np.zeros((2, 6), np.float32)
    assert at.at(deviations).dtype == at.along(deviations).dtype == np.float32
    assert at.gradients(1, 4).shape == (6, 6)
    found = predict(source(trained), at, kind="gauss-newton")
    p = np.asarray(jax.nn.softmax(X @ np.ones((D, 2)), axis=1))
    a = sum(
        np.kron(np.outer(x, x), np.diag(q) - np.outer(q, q)) for x, q in zip(X, p, strict=True)
    ) + np.eye(6)
    rows = np.stack([np.kron(NEW, [1, 0]), np.kron(NEW, [0, 1])], axis=1)
    expected = np.einsum("mcd,de,mce->mc", rows, np.linalg.inv(a), rows)
    # Rounding of single precision times a condition number of about fifty.
    np.testing.assert_allclose(found.variance, expected, rtol=1e-5)
    assert np.all(found.variance_lower <= expected)
    assert np.all(found.variance_upper >= expected)


def test_scores_by_hand():
    p = np.array([[0.9, 0.1], [0.6, 0.4], [0.3, 0.7], [0.45, 0.55]])
    found = scores(p, np.array([0, 1, 1, 1]), bins=10)
    assert found.accuracy == 0.75
    assert found.log_likelihood == pytest.approx(np.mean(np.log([0.9, 0.4, 0.7, 0.55])))
    # Bins (.8, .9], (.5, .6] with .6 and .55, (.6, .7].
    error = (0.1 + abs(1.0 - 1.15) + 0.3) / 4
    assert found.expected_calibration_error == pytest.approx(error)
    np.testing.assert_array_equal(found.count, [0, 0, 0, 0, 0, 2, 1, 0, 1, 0])
    assert found.confidence[5] == pytest.approx(0.575)
    one = scores(p[:, 1:], np.array([0, 1, 1, 1]), bins=10)
    assert one.log_likelihood == pytest.approx(found.log_likelihood)
    with pytest.raises(InputError, match="classes 0 to 1"):
        scores(p, np.array([0, 1, 2, 1]))
