"""The most influential set against all sets, and where observations mask each other."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from expressway.core.jackknife import jackknife
from expressway.core.problem import Equation, Objective
from expressway.core.staged import Staged


def least_squares(x, y):
    problem = Objective.additive(lambda t, h, row: 0.5 * (row[1] - row[0] @ t) ** 2, (x, y))
    return jackknife(problem.solve(jnp.zeros(x.shape[1])))


def slope(x, y):
    """Estimate and its robust ratio."""
    inverse = np.linalg.inv(x.T @ x)
    beta = inverse @ x.T @ y
    scores = x * (y - x @ beta)[:, None]
    return beta[1], beta[1] / np.sqrt((inverse @ scores.T @ scores @ inverse)[1, 1])


def line(seed, n=24):
    rng = np.random.default_rng(seed)
    x = np.column_stack([np.ones(n), rng.normal(size=n)])
    return x, 0.12 * x[:, 1] + 0.6 * rng.normal(size=n)


def smallest(x, y, flips):
    """All smallest sets of at most three observations whose removal flips, by trying each."""
    for k in (1, 2, 3):
        hits = []
        for gone in itertools.combinations(range(len(y)), k):
            keep = np.setdiff1d(np.arange(len(y)), gone)
            if flips(*slope(x[keep], y[keep])):
                hits.append(gone)
        if hits:
            return hits
    return []


@pytest.fixture(scope="module", params=range(3))
def fitted(request):
    """A line and its fit, which three questions are asked of."""
    x, y = line(request.param)
    return x, y, least_squares(x, y)


@pytest.mark.parametrize("change", ["sign", "significance", "both"])
def test_agrees_with_trying_all_sets(fitted, change):
    x, y, jack = fitted
    estimate, ratio = slope(x, y)
    sign, z = np.sign(estimate), 1.959963984540054
    flips = {
        "sign": lambda b, r: sign * b < 0,
        "significance": lambda b, r: (abs(r) > z) != (abs(ratio) > z),
        "both": lambda b, r: -sign * r > z,
    }[change]
    hits = smallest(x, y, flips)
    found = jack.most_influential(lambda t: t[1], change, most=3)
    np.testing.assert_allclose(found.before[::2], (estimate, ratio), rtol=1e-9)
    assert found.found == bool(hits)
    if hits:
        assert tuple(sorted(found.observations.tolist())) in hits
        assert found.smallest
        keep = np.setdiff1d(np.arange(len(y)), found.observations)
        np.testing.assert_allclose(found.after[::2], slope(x[keep], y[keep]), rtol=1e-8)
    else:
        assert "no set of at most 3" in found.reason


@pytest.fixture(scope="module")
def masked():
    """Four outliers at one place hold the line: each alone, and all their scores, change little."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=60)
    y = -0.3 * x + 0.3 * rng.normal(size=60)
    x[:4] = [6.0, 6.2, 6.1, 5.9]
    y[:4] = 3 + 0.05 * rng.normal(size=4)
    return least_squares(np.column_stack([np.ones(60), x]), y)


def test_observations_that_mask_each_other(masked):
    jack = masked
    for method in ("recursive", "greedy"):
        found = jack.most_influential(lambda t: t[1], method=method)
        assert found.found
        assert set(found.observations.tolist()) == {0, 1, 2, 3}
        assert found.before.estimate > 0 > found.after.estimate
    first = jack.most_influential(lambda t: t[1], method="first-order", most=4)
    # Scores of four do not add up to a change: the four are no answer of theirs.
    assert first.predicted == -1 or first.predicted > 4


def test_claims_of_first_order_scores_are_checked(masked):
    rng = np.random.default_rng(3)
    first = masked.most_influential(lambda t: t[1], "sign", method="first-order", most=3)
    assert not first.found
    assert first.refits == 1
    assert "add up" in first.reason
    x, _ = line(2, 30)
    strong = least_squares(x, 5 * x[:, 1] + 0.1 * rng.normal(size=30))
    none = strong.most_influential(lambda t: t[1], "sign")
    assert not none.found
    assert "no set of at most 3" in none.reason


def test_other_models():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2))
    y = (rng.uniform(size=40) < 1 / (1 + np.exp(-0.4 * x[:, 0]))).astype(float)

    def term(t, h, row):
        return jax.nn.softplus(row[0] @ t) - row[1] * (row[0] @ t)

    fit = Objective.additive(term, (x, y), lambda t, h: 0.01 * t @ t).solve(jnp.zeros(2))
    found = jackknife(fit).most_influential(
        lambda t: t[0] - t[1], "sign", standard_error="hessian", most=12
    )
    assert found.found
    assert found.before.estimate * found.after.estimate < 0
    # The same by weights among the hyperparameters, and as an equation.

    def total(t, w):
        return w @ (jax.nn.softplus(x @ t) - y * (x @ t)) + 0.01 * t @ t

    ones = jnp.ones(40)
    for problem in (Objective(total), Equation(jax.grad(total))):
        jack = jackknife(problem.solve(jnp.zeros(2), ones))
        other = jack.most_influential(lambda t: t[0] - t[1], "sign", most=12)
        assert sorted(other.observations.tolist()) == sorted(found.observations.tolist())
    with pytest.raises(ValueError, match="no Hessian"):
        jack.most_influential(lambda t: t[0], standard_error="hessian")
    with pytest.raises(ValueError, match="needed is one number"):
        jack.most_influential(lambda t: t)
    staged = Staged(Objective(total), Objective(lambda t, h: jnp.sum((t - h[1]) ** 2)))
    with pytest.raises(ValueError, match="staged"):
        jackknife(staged.solve((jnp.zeros(2), jnp.zeros(2)), ones)).most_influential(lambda t: t[0])
