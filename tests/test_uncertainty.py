"""Draws of fits of every kind, as users call them: against NumPy, and against the jackknife."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import expressway as ew
from expressway._errors import Indefinite, InputError
from expressway.core.draws import Draws

KEY = jax.random.key(0)
N, COUNT = 30, 20_000
RNG = np.random.default_rng(0)
X = np.column_stack([np.ones(N), RNG.normal(size=(N, 2))])
Y = (RNG.uniform(size=N) < 1 / (1 + np.exp(-X @ [0.2, 0.7, -0.4]))).astype(float)
WAITS = RNG.gamma(0.5, 0.2, size=N)
DONOR = np.repeat(np.arange(10), 3)


def fine(x: np.ndarray, covariance: np.ndarray) -> bool:
    """Whether draws have mean 0 and a covariance: chi-squares of both not the 1 in 1,000 highest.

    Whitened, covariances off the diagonal have variance 1 / n, those on it 2 / n.
    """
    white = np.linalg.solve(np.linalg.cholesky(covariance), x.T).T
    n, d = white.shape
    s = white.T @ white / n - np.eye(d)
    total = n / 2 * np.sum(s**2)  # each entry off the diagonal is there twice
    of_mean = n * np.sum(white.mean(0) ** 2)
    p = stats.chi2.sf([total, of_mean], [d * (d + 1) / 2, d])
    return bool(np.min(p) > 1e-3)


def drawn_of(fit: Any, n: int, **options: Any) -> Draws:
    """Draws of a fit that is not of genes."""
    found = ew.draws(fit, KEY, n, **options)
    assert isinstance(found, Draws)
    return found


@functools.cache
def logistic():
    """An additive objective's solution."""

    def term(theta, hyper, row):
        return ew.losses.bernoulli(row[0] @ theta, row[1])

    return ew.Objective.additive(term, (X, Y)).solve(np.zeros(3))


@functools.cache
def moments():
    """Mean and sd of waiting times, both positive, as roots of an equation."""

    def score(theta, hyper, y):
        away = y - theta["mean"]
        return {"mean": away, "sd": away**2 - theta["sd"] ** 2}

    problem = ew.Equation.additive(score, WAITS, constraints=ew.constraints.positive)
    return problem.solve({"mean": 0.3, "sd": 0.3})


@functools.cache
def stages():
    """A mean, and with it a sum of squares around a place that may not be negative."""
    first = ew.Objective(lambda t, w: w @ jnp.square(WAITS - t))
    second = ew.Equation(
        lambda t, h: jnp.sum(h[0] * (jnp.square(WAITS - h[1]) - t)),
        constraints=ew.constraints.positive,
    )
    return ew.Staged(first, second).solve((0.0, 0.3), np.ones(N))


def test_hessian_of_an_objective_is_the_summed_information():
    fit = logistic()
    drawn = drawn_of(fit, COUNT)
    assert (drawn.kind, drawn.method, drawn.certified) == ("hessian", "cholesky", True)
    p = 1 / (1 + np.exp(-X @ fit.theta))
    exact = np.linalg.inv((X * (p * (1 - p))[:, None]).T @ X)
    assert fine(np.asarray(drawn.theta) - np.asarray(fit.theta), exact)
    assert not fine(np.asarray(drawn.theta) - np.asarray(fit.theta), 1.05 * exact)  # it can fail


@pytest.mark.parametrize("clusters", [None, DONOR])
def test_sandwich_of_an_objective(clusters):
    fit = logistic()
    drawn = drawn_of(fit, COUNT, kind="sandwich", clusters=clusters)
    assert fine(
        np.asarray(drawn.theta) - np.asarray(fit.theta), ew.jackknife(fit).covariance(clusters)
    )


@pytest.mark.parametrize("clusters", [None, DONOR])
def test_sandwich_of_an_equation(clusters):
    """In unconstrained coordinates, the logarithms: so that parameters stay positive."""
    fit = moments()
    drawn = drawn_of(fit, COUNT, kind="sandwich", clusters=clusters)
    at = np.array([fit.theta["mean"], fit.theta["sd"]])
    of_logarithms = ew.jackknife(fit).covariance(clusters) / np.outer(at, at)
    theta = np.column_stack([drawn.theta["mean"], drawn.theta["sd"]])
    assert np.min(theta) > 0
    assert np.min(at * (1 + drawn.deviations)) < 0  # what would happen without coordinates
    assert fine(np.log(theta / at), of_logarithms)
    # The order of what is drawn, and of what it is drawn from, is one.
    np.testing.assert_allclose(np.log(theta / at), drawn.deviations, rtol=1e-9, atol=1e-12)


def test_sandwich_of_stages():
    """The second moves with the first, and keeps to its constraint."""
    fit = stages()
    drawn = drawn_of(fit, COUNT, kind="sandwich")
    first, second = drawn.theta
    scale = np.array([1.0, fit.theta[1]])
    assert np.min(second) > 0
    moves = np.column_stack([first - fit.theta[0], np.log(second / fit.theta[1])])
    assert fine(moves, ew.jackknife(fit).covariance() / np.outer(scale, scale))
    # By hand: influences of a mean and of a mean square around it.
    away = WAITS - WAITS.mean()
    rows = np.column_stack([away, away**2 - np.mean(away**2)]) / N
    assert fine(moves, rows.T @ rows / np.outer(scale, scale))


def test_draws_of_an_objective_stay_inside_constraints():
    def term(theta, hyper, y):
        return y / theta["scale"] + jnp.log(theta["scale"]) - 0.1 * jnp.sum(jnp.log(theta["share"]))

    limits = {"scale": ew.constraints.positive, "share": ew.constraints.simplex}
    problem = ew.Objective.additive(term, WAITS[:4], constraints=limits)
    fit = problem.solve({"scale": 0.3, "share": np.array([0.2, 0.3, 0.5])})
    drawn = drawn_of(fit, 2_000)
    assert drawn.deviations.shape == (2_000, 3)
    assert np.min(drawn.theta["scale"]) > 0
    assert np.min(drawn.theta["share"]) > 0
    # To a few units of rounding.
    np.testing.assert_allclose(np.sum(drawn.theta["share"], axis=1), 1.0, rtol=1e-14)
    # The logarithm of an exponential's scale has information n, exactly.
    assert fine(np.log(drawn.theta["scale"] / fit.theta["scale"])[:, None], np.eye(1) / 4)


def test_a_saddle_is_refused_by_its_eigenvalue():
    problem = ew.Objective.additive(
        lambda t, h, y: y * (jnp.square(t[0]) - 0.5 * jnp.square(t[1])),
        np.ones(4),
    )
    point = problem.trained(np.zeros(2))
    assert point.gradient_norm == 0.0
    # Eigenvalues 8 and -4.
    with pytest.raises(Indefinite, match=r"eigenvalue -4;.*prior_precision above 4"):
        ew.draws(point, KEY, 3, kind="hessian")
    with pytest.raises(Indefinite, match="Ritz value -4"):
        ew.draws(point, KEY, 3, kind="hessian", method="lanczos")
    assert drawn_of(point, 3, kind="hessian", prior_precision=5.0).damping == 5.0


WRONG = [
    (lambda: {"beta": 1.0}, {}, "draws are of a fit, got dict"),
    (moments, {}, "an equation has no information matrix"),
    (moments, {"kind": "hessian"}, "an equation has no information matrix"),
    (stages, {"kind": "fisher"}, "several stages have no information matrix"),
    (logistic, {"kind": "fisher"}, "make the objective by Objective.supervised"),
    (logistic, {"kind": "sandwich", "clusters": DONOR[:5]}, "5 cluster labels for 30"),
    (moments, {"kind": "sandwich", "clusters": DONOR[:5]}, "5 cluster labels for 30"),
    (logistic, {"kind": "sandwich", "clusters": 0 * DONOR}, "in one cluster"),
    (logistic, {"kind": "sandwich", "method": "lanczos"}, "no method 'lanczos'"),
    (logistic, {"clusters": DONOR}, "clusters are for"),
    (logistic, {"bread": "fisher"}, "bread is for"),
    (logistic, {"cohort": X}, "cohort is for fits of genes, and this is a Solution"),
    (logistic, {"n": 0}, "n is 0"),
    (logistic, {"rtol": np.nan}, "rtol is nan"),
]


@pytest.mark.parametrize(("fit", "options", "told"), WRONG)
def test_mistakes_are_named_in_one_line(fit, options, told):
    with pytest.raises(InputError, match=told) as error:
        ew.draws(fit(), KEY, **{"n": 3, **options})
    assert "\n" not in str(error.value)


def test_sandwiches_need_weights():
    alone = ew.Equation(lambda t, h: t - h).solve(1.0, 2.0)
    with pytest.raises(InputError, match="needs the weight of each observation"):
        ew.draws(alone, KEY, 3, kind="sandwich")
    whole = ew.Objective(lambda t, h: jnp.square(t - h)).solve(1.0, 2.0)
    with pytest.raises(InputError, match="needs the observations"):
        ew.draws(whole, KEY, 3, kind="sandwich")
