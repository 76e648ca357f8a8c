"""Least squares of every gene against loops, weights against copies, derivatives against JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from expressway.models import curves as cv
from expressway.models import mixture as mx
from expressway.models.curves import Curves
from expressway.models.spline import basis, evaluate

TIMES = np.repeat([0.0, 3, 6, 9, 12, 18, 24, 30, 36, 48, 60, 72, 120, 168], 3)
LATE = (72.0, 120.0, 168.0)
# Sums over 42 samples, times the condition number of the design, at most 100.
ROUNDING = 1e-12


def design(df=5, times=TIMES, late=LATE):
    return evaluate(basis(times, df, indicators=late), times)


def expression(x, genes=8, seed=0, noise=0.3):
    rng = np.random.default_rng(seed)
    return 5 + rng.normal(size=(genes, x.shape[1])) @ x.T + noise * rng.normal(size=(genes, len(x)))


def course(genes=8, *, df=5, spread=0.0, missing=0.0, seed=0):
    """Curves of genes, some values missing."""
    x = design(df)
    y = expression(x, genes, seed)
    seen = None
    if missing:
        seen = (np.random.default_rng(seed + 1).random(y.shape) > missing).astype(float)
        seen[:, ::3] = 1.0  # one at each time
        y = y * seen
    return Curves(y, seen, cv.frame(x), spread), x


def looped(y, seen, x, weight):
    """Gene by gene, on the basis itself: coefficients, precision of errors, (X'WX)⁻¹."""
    parts = []
    for g in range(len(y)):
        w = weight if seen is None else weight * seen[g]
        inverse = np.linalg.inv(x.T @ (w[:, None] * x))
        beta = inverse @ x.T @ (w * y[g])
        r = y[g] - x @ beta
        parts.append((beta, (np.sum(w) - x.shape[1]) / np.sum(w * r**2), inverse))
    return [np.array(each) for each in zip(*parts, strict=True)]


def weights(n, seed=0):
    """Some samples counted twice, some in part, some not at all; one or more at each time."""
    found = np.random.default_rng(seed).choice([0.0, 0.4, 1.0, 1.0, 1.0, 2.0], n)
    found[::3] = np.maximum(found[::3], 0.4)
    return found


@pytest.mark.parametrize("df", [4, 7])
def test_a_frame(df):
    x = design(df)
    f = cv.frame(x)
    d = f.u.shape[1]
    assert d == x.shape[1] - 1  # the constant is dropped
    np.testing.assert_allclose(f.u.T @ f.u, np.eye(d), atol=1e-13)
    np.testing.assert_allclose(np.sum(f.u, axis=0), 0, atol=1e-13)
    beta = np.random.default_rng(0).normal(size=(x.shape[1], 3))
    values = x @ beta
    centred = values - np.mean(values, axis=0)
    # Coordinates of a curve, its length, and back.
    coordinates = f.turn @ beta
    np.testing.assert_allclose(f.u @ coordinates, centred, atol=1e-12)
    np.testing.assert_allclose(
        np.linalg.norm(coordinates, axis=0), np.linalg.norm(centred, axis=0), rtol=1e-12
    )
    again = x @ (f.back @ coordinates)
    np.testing.assert_allclose(again - np.mean(again, axis=0), centred, atol=1e-11)
    np.testing.assert_allclose(f.at(x), f.u, atol=1e-12)
    # At other times.
    grid = np.linspace(0, 60, 13)
    there = evaluate(basis(TIMES, df, indicators=LATE), grid)
    np.testing.assert_allclose(
        f.at(there) @ coordinates, there @ beta - np.mean(values, axis=0), atol=1e-11
    )
    assert np.all(np.max(f.u, axis=0) >= -np.min(f.u, axis=0))  # the largest entry is positive


def test_a_frame_of_groups_and_of_dependent_columns():
    x = design(4)
    group = np.arange(len(x)) % 2
    both = np.hstack([x * (group == k)[:, None] for k in (0, 1)])
    f = cv.frame(both)
    assert f.u.shape[1] == 2 * x.shape[1] - 1
    assert cv.frame(np.hstack([x, x @ np.ones((7, 2))])).u.shape[1] == x.shape[1] - 1
    # A level of one group is a curve.
    level = np.where(group == 0, 1.0, 0.0) - 0.5
    np.testing.assert_allclose(f.u @ (f.u.T @ level), level, atol=1e-12)


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_least_squares(missing, seed):
    stage, x = course(missing=missing, seed=seed)
    weight = np.ones(len(x)) if seed == 0 else weights(len(x), seed)
    beta, tau, inverse = looped(stage.y, stage.seen, x, weight)
    found = stage.fit(weight)
    f = stage.frame
    assert np.all(found.usable)
    np.testing.assert_allclose(
        found.coefficients[:, :1] + found.coefficients[:, 1:] @ f.u.T, beta @ x.T, atol=1e-11
    )
    np.testing.assert_allclose(found.coefficients[:, 1:], beta @ f.turn.T, atol=1e-11)
    np.testing.assert_allclose(found.tau, tau, rtol=1e-11)
    covariance = f.turn @ inverse @ f.turn.T
    shape = np.broadcast_to(found.inverse[:, 1:, 1:], covariance.shape)
    np.testing.assert_allclose(shape, covariance, atol=ROUNDING * np.max(covariance))
    residual = stage.y - beta @ x.T
    if missing:
        residual *= stage.seen
    np.testing.assert_allclose(found.residual, residual, atol=1e-11)
    w = weight if stage.seen is None else weight * stage.seen
    expected = np.broadcast_to(np.sum(w, axis=-1) - x.shape[1], 8)
    np.testing.assert_allclose(found.freedom, expected, rtol=1e-13)


@pytest.mark.parametrize("missing", [0.0, 0.1])
@pytest.mark.parametrize("spread", [0.0, 0.1, 30.0])
def test_precision(missing, spread):
    stage, x = course(missing=missing, spread=spread)
    weight = weights(len(x), 1)
    _, tau, inverse = looped(stage.y, stage.seen, x, weight)
    found = stage.observed(weight)
    turn = stage.frame.turn
    covariance = turn @ inverse @ turn.T / tau[:, None, None] + spread * np.eye(len(turn))
    np.testing.assert_allclose(
        found.precision @ covariance,
        np.broadcast_to(np.eye(len(turn)), covariance.shape),
        atol=1e-10,
    )
    np.testing.assert_allclose(
        found.precision, found.precision.swapaxes(1, 2), rtol=1e-9, atol=1e-15
    )


def test_the_published_first_stage(data):
    """Coefficients, precision of errors and information of the published code."""
    z = np.load(data / "reference" / "shoemaker500.df7.k10.npz")
    turn = z["transform"]
    f = cv.Frame(z["unrot"], turn, np.linalg.pinv(turn), np.mean(z["X"], axis=0))
    stage = Curves(z["Y"], None, f, 0.0)
    found = stage.fit(np.ones(42))
    # The agreement asked for.
    np.testing.assert_allclose(found.coefficients[:, 1:], z["beta"] @ turn.T, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found.tau, z["yinfo"], rtol=1e-10)
    expected = np.linalg.inv(turn @ np.linalg.inv(z["binfo"]) @ turn.T)
    size = np.max(expected, axis=(1, 2), keepdims=True)
    precision = stage.observed(np.ones(42)).precision
    np.testing.assert_allclose(precision / size, expected / size, rtol=0, atol=1e-10)
    # Our own frame of the same basis is a rotation of theirs.
    own = cv.frame(z["X"])
    np.testing.assert_allclose(own.u @ own.u.T, f.u @ f.u.T, atol=1e-12)


@pytest.mark.parametrize("missing", [0.0, 0.1])
def test_a_weight_is_a_number_of_copies(missing):
    """Weight 2 is the sample twice, weight 0 is without it, in the same coordinates."""
    stage, x = course(missing=missing, spread=0.2)
    n = len(x)
    weight = np.ones(n)
    weight[[3, 17]] = 2.0
    weight[[5, 6, 30]] = 0.0
    rows = np.repeat(np.arange(n), weight.astype(int))
    f = stage.frame
    copies = stage._replace(
        y=stage.y[:, rows],
        seen=None if stage.seen is None else stage.seen[:, rows],
        frame=f._replace(u=f.u[rows]),
    )
    one, other = stage.observed(weight), copies.observed(np.ones(len(rows)))
    # u of the copies is not orthonormal; but for rounding nothing depends on that.
    np.testing.assert_allclose(one.estimate, other.estimate, atol=1e-11)
    np.testing.assert_allclose(one.precision, other.precision, rtol=1e-9, atol=1e-9)
    first, second = stage.fit(weight), copies.fit(np.ones(len(rows)))
    np.testing.assert_allclose(first.tau, second.tau, rtol=1e-11)
    np.testing.assert_allclose(first.freedom, second.freedom, rtol=1e-13)


def test_any_basis_of_the_same_curves():
    """Coordinates turn, what they say of curves does not."""
    stage, x = course(missing=0.1, spread=0.3)
    a = np.random.default_rng(5).normal(size=(x.shape[1], x.shape[1]))
    other = stage._replace(frame=cv.frame(x @ a))
    weight = weights(len(x), 4)
    one, two = stage.observed(weight), other.observed(weight)
    q = other.frame.u.T @ stage.frame.u
    # Rounding, times the condition number of the other basis.
    np.testing.assert_allclose(q @ q.T, np.eye(len(q)), atol=1e-10)
    np.testing.assert_allclose(two.estimate, one.estimate @ q.T, atol=1e-9)
    np.testing.assert_allclose(two.precision, q @ one.precision @ q.T, rtol=1e-7, atol=1e-8)
    assert stage.conditioning(weight) == pytest.approx(other.conditioning(weight), rel=1e-9)


def test_order_of_genes_is_nothing():
    stage, x = course(12, missing=0.1, spread=0.3)
    order = np.random.default_rng(0).permutation(12)
    weight = weights(len(x))
    for found, each in zip(stage.some(order).observed(weight), stage.observed(weight), strict=True):
        np.testing.assert_allclose(found, each[order], rtol=1e-12, atol=1e-12)


def stages(weight, y, seen, z, spread):
    """Estimates and precisions as a function of weights, by JAX."""
    each = weight[None] * seen
    information = jnp.einsum("gn,ni,nj->gij", each, z, z)
    inverse = jnp.linalg.inv(information)
    beta = jnp.einsum("gij,gj->gi", inverse, (y * each) @ z)
    r = y - beta @ z.T
    variance = jnp.sum(each * r**2, axis=1) / (jnp.sum(each, axis=1) - z.shape[1])
    covariance = (
        variance[:, None, None] * inverse[:, 1:, 1:] + spread * jnp.eye(z.shape[1] - 1)[None]
    )
    precision = jnp.linalg.inv(covariance)
    return jnp.einsum("gij,gj->gi", precision, beta[:, 1:]), beta[:, 1:], precision


@pytest.mark.parametrize(("missing", "spread"), [(0.0, 0.0), (0.0, 0.2), (0.1, 0.0), (0.1, 0.2)])
def test_changes(missing, spread):
    """``d(L x)`` and ``dL`` of each sample's weight: `Change.pull` is ``dL x + L dx``."""
    stage, x = course(4, missing=missing, spread=spread)
    seen = np.ones_like(stage.y) if stage.seen is None else stage.seen
    pull, _, precision = jax.jit(jax.jacfwd(stages))(
        np.ones(len(x)), stage.y, seen, stage.frame.design, spread
    )
    changes = list(stage.changes())
    assert len(changes) == len(x)
    held = mx.half(stage.frame.u.shape[1])
    for n, change in enumerate(changes):
        for found, expected in (
            (change.pull, pull[..., n]),
            (change.half, held.of(np.asarray(precision[..., n]))),
        ):
            size = np.max(np.abs(expected))
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * max(size, 1.0))


def test_genes_that_cannot_be_fitted():
    """They have precision 0, whichever weights are left, and others do not notice."""
    x = design(5)
    y = expression(x, 6)
    seen = np.ones_like(y)
    y[0] = 7.0  # constant
    y[1] = 3 * x[:, 1] - x[:, 2]  # met exactly
    y[2], seen[2] = 0.0, 0.0  # nothing
    seen[3, 8:] = 0.0  # fewer values than coefficients
    seen[4, TIMES == 120] = 0.0  # a time with a column of its own has none
    stage = Curves(y * seen, seen, cv.frame(x), 0.1)
    found = stage.fit(np.ones(len(x)))
    np.testing.assert_array_equal(found.usable, [False] * 5 + [True])
    np.testing.assert_array_equal(found.determined, [True, True, False, False, False, True])
    observed = stage.observed(np.ones(len(x)))
    assert np.all(observed.precision[:5] == 0)
    assert np.all(observed.estimate[:5] == 0)
    alone = stage.some(np.array([5]))
    np.testing.assert_allclose(
        observed.precision[5:], alone.observed(np.ones(len(x))).precision, atol=1e-13
    )
    for change, own in zip(stage.changes(), alone.changes(), strict=True):
        assert np.all(change.pull[:5] == 0)
        assert np.all(change.half[:5] == 0)
        np.testing.assert_allclose(change.pull[5:], own.pull, rtol=1e-10, atol=1e-12)
    # Without a value missing a constant gene is seen, too; by its size its rounding is nothing.
    for level in (0.0, 1.0, 1e-8, 1e8):
        bare = Curves(np.full((1, len(x)), level), None, cv.frame(x), 0.1)
        assert not bare.fit(np.ones(len(x))).usable[0]
    # And a gene that is constant without a fold.
    spike = np.zeros((1, len(x)))
    spike[0, TIMES == 9] = [1.0, 2.0, 3.0]
    weight = np.where(TIMES == 9, 0.0, 1.0)
    assert Curves(spike, None, cv.frame(x), 0.1).fit(np.ones(len(x))).usable[0]
    assert np.all(Curves(spike, None, cv.frame(x), 0.1).observed(weight).precision == 0)
    # Or a design that is singular without it.
    weight = np.where(TIMES == 168, 0.0, 1.0)
    assert not np.any(stage.fit(weight).usable)


def test_what_is_known_of_curves():
    """The posterior under flat priors is Student's t of least squares: its intervals hold."""
    x = design(5)
    rng = np.random.default_rng(8)
    truth = rng.normal(size=(4000, x.shape[1])) @ x.T
    y = truth + rng.gamma(2, size=(4000, 1)) * rng.normal(size=truth.shape)
    stage = Curves(y, None, cv.frame(x), 0.5)  # the spread is between genes: not in it
    known = stage.posterior()
    _, tau, inverse = looped(y[:2], None, x, np.ones(len(x)))
    covariance = stage.frame.turn @ inverse @ stage.frame.turn.T / tau[:, None, None]
    np.testing.assert_allclose(known.covariance[:2, 1:, 1:], covariance, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(known.freedom, 42 - x.shape[1])
    z = stage.frame.design[10]
    mean, se = known.mean @ z, np.sqrt(np.einsum("i,gij,j->g", z, known.covariance, z))
    for level in (0.5, 0.95):
        inside = np.abs(mean - truth[:, 10]) < stats.t.ppf(0.5 + level / 2, known.freedom) * se
        # Five standard errors of a share of 4000.
        assert np.mean(inside) == pytest.approx(level, abs=5 * np.sqrt(level * (1 - level) / 4000))


@pytest.mark.parametrize("missing", [0.0, 0.15])
@pytest.mark.parametrize("centre", ["fit", "mean"])
def test_errors(missing, centre):
    stage, x = course(missing=missing)
    rng = np.random.default_rng(1)
    curve = rng.normal(size=(8, len(x)))
    rows = np.flatnonzero(TIMES == 12)
    weight = np.ones(len(x))
    weight[rows] = 0.0
    found = stage.errors(rows, weight, curve, centre)
    for g in range(8):
        there = np.ones(len(x), bool) if stage.seen is None else stage.seen[g] > 0
        if centre == "mean":
            level = np.mean(stage.y[g, there])
        else:
            kept = there & (weight > 0)
            level = np.mean(stage.y[g, kept] - curve[g, kept])
        for i, row in enumerate(rows):
            expected = stage.y[g, row] - level - curve[g, row] if there[row] else np.nan
            np.testing.assert_allclose(found[g, i], expected, atol=1e-12)
    assert np.any(np.isnan(found)) == (missing > 0)


def test_what_is_left_of_the_information():
    """Of the curve that loses most, as a share of what all samples say of it."""
    stage, x = course(df=8)
    ones = np.ones(len(x))
    assert stage.conditioning(ones) == pytest.approx(1.0, rel=1e-12)
    assert stage.conditioning(2 * ones) == pytest.approx(2.0, rel=1e-12)
    weight = weights(len(x))
    whole, left = x.T @ x, x.T @ (weight[:, None] * x)
    # Generalised eigenvalues do not depend on the basis.
    values = np.linalg.eigvals(np.linalg.solve(whole, left)).real
    assert stage.conditioning(weight) == pytest.approx(np.min(values), rel=1e-8)
    # A time with a column of its own: nothing is left without it.
    assert abs(stage.conditioning(np.where(TIMES == 168, 0.0, 1.0))) < cv.SINGULAR
