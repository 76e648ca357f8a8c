"""Leaving out: predictions against exact refits, and exact refits against solving anew."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expressway.core import constraints, folds
from expressway.core.jackknife import jackknife
from expressway.core.problem import Equation, Objective, Weighted
from expressway.core.staged import Staged
from expressway.core.weights import linear_response

RNG = np.random.default_rng(0)
N, D = 60, 3
X = RNG.normal(size=(N, D))
Y = (RNG.uniform(size=N) < 1 / (1 + np.exp(-X @ np.array([1.0, -0.5, 0.0])))).astype(float)
GROUP = np.arange(N) % 12


def term(t, hyper, row):
    x, y = row
    return jax.nn.softplus(x @ t) - y * (x @ t)


PROBLEM = Objective.additive(term, (X, Y), lambda t, h: 0.05 * t @ t)


@pytest.fixture(scope="module")
def jack():
    return jackknife(PROBLEM.solve(jnp.zeros(D)))


def without(chosen):
    weight = np.ones(N)
    weight[chosen] = 0.0
    return PROBLEM.solve(jnp.zeros(D), Weighted(jnp.asarray(weight), ())).theta


def test_influence_is_the_derivative_in_the_weights(jack):
    t = np.asarray(jack.fit.theta)
    mean = 1 / (1 + np.exp(-X @ t))
    hessian = (X * (mean * (1 - mean))[:, None]).T @ X + 0.1 * np.eye(D)
    expected = -np.linalg.solve(hessian, (X * (mean - Y)[:, None]).T).T
    np.testing.assert_allclose(jack.influence(), expected, rtol=1e-11, atol=1e-14)
    squares = jack.influence(lambda t: {"norm": t @ t, "first": t[:1]})
    np.testing.assert_allclose(squares["norm"], 2 * expected @ t, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(squares["first"], expected[:, :1], rtol=1e-10, atol=1e-14)


def test_refits_are_exact(jack):
    sets = [np.array([0]), np.arange(10), np.flatnonzero(GROUP == 3)]
    found = jack.refit(sets)
    for chosen, theta in zip(sets, found, strict=True):
        np.testing.assert_allclose(theta, without(chosen), rtol=1e-9)
    # Half of the observations: far from the stored fit.
    half = [np.arange(0, N, 2), np.arange(1, N, 2)]
    for chosen, theta in zip(half, jack.leave_out(half, corrected=True), strict=True):
        np.testing.assert_allclose(theta, without(chosen), rtol=1e-9)


def test_predictions_get_better_with_the_order(jack):
    exact = jack.refit()
    errors = [np.abs(jack.leave_out(order=k) - exact).max() for k in (1, 2, 3, 4)]
    assert errors[0] < 0.15 * np.abs(exact - jack.fit.theta[None]).max() + 0.02
    assert np.all(np.array(errors[1:]) < 0.5 * np.array(errors[:-1]))
    masks = np.eye(N, dtype=bool)
    np.testing.assert_allclose(jack.leave_out(masks), jack.leave_out(), rtol=1e-14)
    pairs = folds.leave_k_out(8, 2)
    linear = jack.leave_out(pairs)
    moves = jack.leave_out() - jack.fit.theta[None]
    for (i, j), theta in zip(pairs, linear, strict=True):
        np.testing.assert_allclose(theta, jack.fit.theta + moves[i] + moves[j], rtol=1e-12)


def test_cross_validation(jack):
    exact, ij = jack.cross_validate(exact=True), jack.cross_validate()
    losses = [float(term(without([i]), (), (X[i], Y[i]))) for i in range(N)]
    np.testing.assert_allclose(exact.per_observation, losses, rtol=1e-8)
    np.testing.assert_allclose(exact.loss, np.mean(losses), rtol=1e-9)
    np.testing.assert_allclose(exact.standard_error, np.std(losses, ddof=1) / np.sqrt(N), rtol=1e-8)
    assert exact.training < exact.loss
    assert abs(ij.loss - exact.loss) < 0.1 * (exact.loss - exact.training)
    grouped = jack.cross_validate(folds.by_group(GROUP), exact=True)
    assert grouped.per_fold.shape == (12,)
    some = jack.cross_validate([[0, 1], [1, 2]], lambda t, row: (row[1] - row[0] @ t) ** 2)
    assert np.sum(np.isfinite(some.per_observation)) == 3
    assert jack.cross_validate(5, order=2).per_fold.shape == (5,)


def test_covariances(jack):
    rows = np.asarray(jack.influence())
    np.testing.assert_allclose(jack.covariance(), rows.T @ rows, rtol=1e-12)
    summed = np.stack([rows[g == GROUP].sum(0) for g in range(12)])
    np.testing.assert_allclose(jack.covariance(GROUP), summed.T @ summed, rtol=1e-12)
    draws = jack.bootstrap(jax.random.key(0), 4000)
    # 4,000 draws: a relative error of a variance of sqrt(2 / 4000) = 2 %.
    np.testing.assert_allclose(np.var(draws, axis=0), np.diag(jack.covariance()), rtol=0.15)
    draws = jack.bootstrap(jax.random.key(1), 4000, kind="bayesian", clusters=GROUP)
    np.testing.assert_allclose(np.var(draws, axis=0), np.diag(jack.covariance(GROUP)), rtol=0.25)
    mean = 1 / (1 + np.exp(-X @ np.asarray(jack.fit.theta)))
    hessian = (X * (mean * (1 - mean))[:, None]).T @ X + 0.1 * np.eye(D)
    np.testing.assert_allclose(linear_response(jack.fit), np.linalg.inv(hessian), rtol=1e-10)


def test_linear_response_gives_back_correlation():
    # Mean field of a bivariate normal: variances 1 / precision, linear response the true ones.
    precision = np.array([[2.0, 0.9], [0.9, 1.0]])

    def divergence(eta, h):
        m, log_sd = eta["mean"], eta["log sd"]
        energy = 0.5 * m @ precision @ m + 0.5 * jnp.diag(precision) @ jnp.exp(2 * log_sd)
        return energy - jnp.sum(log_sd)

    fit = Objective(divergence).solve({"mean": jnp.ones(2), "log sd": jnp.zeros(2)})
    found = linear_response(fit, lambda eta: eta["mean"])
    np.testing.assert_allclose(found, np.linalg.inv(precision), rtol=1e-11)


def test_intervals_of_the_jackknife_plus():
    x = RNG.normal(size=(40, 2))
    y = x @ np.array([1.0, 2.0]) + RNG.normal(size=40)
    fit = Objective.additive(lambda t, h, row: 0.5 * (row[1] - row[0] @ t) ** 2, (x, y))
    jack = jackknife(fit.solve(jnp.zeros(2)))
    new = RNG.normal(size=(3, 2))
    found = jack.jackknife_plus(lambda t, x: x @ t, new, (x, y), level=0.8)
    for i in range(3):
        low, high = [], []
        for n in range(40):
            keep = np.arange(40) != n
            theta = np.linalg.lstsq(x[keep], y[keep])[0]
            error = abs(y[n] - x[n] @ theta)
            low.append(new[i] @ theta - error)
            high.append(new[i] @ theta + error)
        # The 33rd of 40: ceil(.8 × 41).
        np.testing.assert_allclose(found.lower[i], -np.sort(-np.array(low))[32], rtol=1e-8)
        np.testing.assert_allclose(found.upper[i], np.sort(high)[32], rtol=1e-8)


def test_weights_anywhere_and_constraints():
    def fn(t, h):
        scaled = (Y - X @ t["beta"]) / t["sd"]
        return h["w"] @ (0.5 * scaled**2 + jnp.log(t["sd"])) + h["ridge"] * t["beta"] @ t["beta"]

    problem = Objective(fn, {"beta": None, "sd": constraints.positive})
    hyper = {"w": jnp.ones(N), "ridge": 0.1}
    fit = problem.solve({"beta": jnp.zeros(D), "sd": 1.0}, hyper)
    jack = jackknife(fit, "w")
    exact, linear = jack.refit(), jack.leave_out()
    gone = {"w": jnp.ones(N).at[4].set(0.0), "ridge": 0.1}
    alone = problem.solve({"beta": jnp.zeros(D), "sd": 1.0}, gone).theta
    np.testing.assert_allclose(exact["sd"][4], alone["sd"], rtol=1e-9)
    np.testing.assert_allclose(linear["sd"], exact["sd"], atol=5e-3)
    np.testing.assert_allclose(linear["beta"], exact["beta"], atol=2e-2)
    loss = jack.cross_validate(
        4, lambda t, n: (jnp.asarray(Y)[n] - jnp.asarray(X)[n] @ t["beta"]) ** 2
    )
    assert 0.1 < loss.loss < 0.5
    with pytest.raises(ValueError, match="no loss is known"):
        jack.cross_validate(4)
    with pytest.raises(ValueError, match="are not weights"):
        jackknife(fit)
    with pytest.raises(ValueError, match="have no 'v'"):
        jackknife(fit, "v")


def test_estimating_equations():
    # Huber's location: the score is bounded.
    data = RNG.normal(size=30)
    data[0] = 50.0
    fit = Equation.additive(lambda t, h, y: jnp.tanh(y - t), data).solve(0.0)
    jack = jackknife(fit)
    slope = np.sum(1 / np.cosh(data - float(fit.theta)) ** 2)
    np.testing.assert_allclose(
        jack.influence(), np.tanh(data - float(fit.theta)) / slope, rtol=1e-11
    )
    exact = Equation.additive(lambda t, h, y: jnp.tanh(y - t), data[1:]).solve(0.0)
    np.testing.assert_allclose(jack.refit()[0], exact.theta, rtol=1e-9)


def test_stages_move_together():
    y = RNG.normal(size=(4, 20)) + np.arange(4)[:, None]
    staged = Staged(
        Objective(lambda t, w: jnp.sum(w[None] * (y - t[:, None]) ** 2)),
        Objective(lambda t, hyper: jnp.sum(jnp.log(jnp.cosh(hyper[1] - t)))),
    )
    fit = staged.solve((jnp.zeros(4), 0.0), jnp.ones(20), structure=("block", "dense"))
    jack = jackknife(fit)
    weight = jnp.ones(20).at[7].set(0.0)
    alone = staged.solve((jnp.zeros(4), 0.0), weight)
    exact, linear = jack.refit(), jack.leave_out(order=2)
    np.testing.assert_allclose(exact[0][7], alone.theta[0], rtol=1e-9)
    np.testing.assert_allclose(exact[1][7], alone.theta[1], rtol=1e-9)
    np.testing.assert_allclose(linear[1][7], alone.theta[1], atol=1e-3)
    assert jack.covariance().shape == (5, 5)


def test_folds():
    assert [len(s) for s in folds.k_fold(10, 3, jax.random.key(0))] == [4, 3, 3]
    assert np.array_equal(
        np.sort(np.concatenate(folds.k_fold(10, 3, jax.random.key(0)))), np.arange(10)
    )
    assert len(folds.leave_k_out(7, 2)) == 21
    assert [s.tolist() for s in folds.by_group("abab")] == [[0, 2], [1, 3]]
    times = [0, 0, 3, 3, 6, 9]
    assert [s.tolist() for s in folds.by_time(times, 2)] == [[0, 1, 2, 3], [4, 5]]
    assert [s.tolist() for s in folds.by_time(times, 1, [0, 3])] == [[0, 1], [2, 3]]
    for wrong, message in (
        ([[0, 0]], "distinct indices"),
        ([[12]], "has index 12"),
        ([range(5)], "not all of them"),
        ([], "no sets"),
        (np.ones((2, 3), bool), "a mask of shape"),
        ([[0.5]], "needed are indices"),
    ):
        with pytest.raises(ValueError, match=message):
            folds.checked(wrong, 5)
    with pytest.raises(ValueError, match="at most 1,000,000"):
        folds.leave_k_out(1000, 5)
    with pytest.raises(ValueError, match="1 folds of 10"):
        folds.k_fold(10, 1)
