"""Clusters of curves as a function of the samples' weights: derivative, folds, influence."""

import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.special import logsumexp

import expressway as ew
from expressway.models import clusters as cl
from expressway.models import count_curves as cc
from expressway.models import curves as cv
from expressway.models import mixture as mx
from expressway.models import timecourse as tc
from expressway.models.curves import Curves
from expressway.models.spline import basis, evaluate

TIMES = np.repeat(np.arange(8.0), 3)
N = len(TIMES)
ONE = np.ones(N)
K = 3
# Kinds of first stages.
KINDS = ["plain", "spread", "missing", "counts"]


def design(df=4):
    return evaluate(basis(TIMES, df), TIMES)


def truth(genes, seed, x):
    """Curves of K clusters, and the cluster of each gene."""
    rng = np.random.default_rng(seed)
    curves = rng.normal(size=(K, x.shape[1])) @ x.T
    label = np.concatenate([np.arange(K), rng.integers(0, K, genes - K)])
    return curves[label], label


def expression(genes=40, seed=0, *, missing=0.0, spread=0.0, df=4, noise=0.25):
    rng = np.random.default_rng(seed + 100)
    x = design(df)
    y = (
        truth(genes, seed, x)[0]
        + rng.normal(7, 2, (genes, 1))
        + noise * rng.normal(size=(genes, N))
    )
    seen = None
    if missing:
        seen = (rng.random(y.shape) > missing).astype(float)
        seen[:, ::3] = 1.0  # one at each time
        y = y * seen
    return Curves(y, seen, cv.frame(x), spread)


def counted(genes=25, seed=0):
    rng = np.random.default_rng(seed + 100)
    x = design()
    alpha, offset = np.exp(rng.normal(-3, 0.5, genes)), rng.normal(0, 0.2, N)
    mean = np.exp(offset + rng.uniform(4, 6, (genes, 1)) + truth(genes, seed, x)[0])
    y = rng.negative_binomial(1 / alpha[:, None], 1 / (1 + alpha[:, None] * mean)).astype(float)
    return cc.count_curves(y, offset, alpha, cv.frame(x), 0.05)


def stage_of(kind):
    if kind == "counts":
        return counted()
    return expression(
        missing=0.15 * (kind == "missing"), spread=0.1 * (kind in ("spread", "missing"))
    )


@pytest.fixture(scope="module")
def fitted():
    """Each kind of stage with its clusters."""
    stages = {kind: stage_of(kind) for kind in KINDS}
    return {kind: (stage, tc.fit(stage, K, starts=5)) for kind, stage in stages.items()}


def again(stage, found, weight):
    """Free parameters at other weights, solved to rounding."""
    t = mx.terms(stage.observed(weight))
    return cl.solve(found.clusters.mixture, t).mixture.vector()


@pytest.mark.parametrize("kind", KINDS)
def test_the_derivative_is_that_of_refits(fitted, kind):
    stage, found = fitted[kind]
    assert found.sensitivity.shape == (len(found.clusters.mixture.vector()), N)
    step = 1e-4
    for n in (0, 10, 23):
        weights = [ONE + each * step * (np.arange(N) == n) for each in (-1, 1)]
        low, high = (again(stage, found, weight) for weight in weights)
        numeric = (high - low) / (2 * step)
        # The third derivative times step², 1e-8, and rounding of 1e-13 over the step.
        size = np.max(np.abs(found.sensitivity))
        np.testing.assert_allclose(found.sensitivity[:, n], numeric, rtol=0, atol=1e-6 * size)


@pytest.mark.parametrize("kind", KINDS)
def test_it_predicts_small_changes_of_all_weights(fitted, kind):
    stage, found = fitted[kind]
    direction = np.random.default_rng(0).normal(size=N)
    theta = found.clusters.mixture.vector()
    np.testing.assert_array_equal(found.at(ONE), theta)
    errors = []
    for size in (1e-2, 1e-3):
        weight = ONE + size * direction
        errors.append(np.linalg.norm(found.at(weight) - again(stage, found, weight)))
    # Of second order: a tenth of the way has a hundredth of the error.
    assert errors[1] < 0.02 * errors[0]
    assert errors[0] > 0


@pytest.mark.parametrize("kind", ["missing", "counts"])
@pytest.mark.parametrize("part", [1, 24 * 9 * 7])
def test_the_derivative_in_parts(fitted, kind, part, monkeypatch):
    stage, found = fitted[kind]
    monkeypatch.setattr(tc, "PART", part)
    other = tc.differentiated(stage, found.clusters)
    size = np.max(np.abs(found.sensitivity))
    # Sums in another order, times the condition number of the Hessian, some hundred.
    np.testing.assert_allclose(other.sensitivity, found.sensitivity, atol=1e-11 * size)


def mixture(theta, x, precision):
    """The second stage as a function of the first's results, in JAX."""
    c = theta["centroid"]
    odds = jnp.concatenate([jnp.zeros(1), theta["log_odds"]])
    inner = jnp.einsum("gi,gij,kj->gk", x, precision, c)
    inner = inner - 0.5 * jnp.einsum("ki,gij,kj->gk", c, precision, c)
    each = logsumexp((odds - logsumexp(odds))[None] + inner, axis=1)
    return -(jnp.sum(each) - 0.5 * mx.RIDGE * jnp.sum(c**2)) / len(x)


def engine_of(stage):
    """The same two stages for the estimation core: `ew.Staged` of objectives."""
    z, y, spread = stage.frame.design, stage.y, stage.spread
    d = z.shape[1] - 1
    seen = np.ones_like(y) if stage.seen is None else stage.seen

    def first(beta, weight):
        return 0.5 * jnp.sum(weight[None] * seen * (y - beta @ z.T) ** 2)

    def covariance(beta, weight):
        each = weight[None] * seen
        inverse = jnp.linalg.inv(jnp.einsum("gn,ni,nj->gij", each, z, z))
        left = jnp.sum(each * (y - beta @ z.T) ** 2, axis=1)
        return inverse * (left / (jnp.sum(each, axis=1) - d - 1))[:, None, None]

    def second(theta, hyper):
        weight, beta = hyper
        known = covariance(beta, weight)[:, 1:, 1:] + spread * jnp.eye(d)[None]
        return mixture(theta, beta[:, 1:], jnp.linalg.inv(known))

    return ew.Staged(ew.Objective(first), ew.Objective(second))


def test_the_estimation_core_finds_the_same(fitted):
    """What is written out here is what the engine computes from objectives alone."""
    stage, found = fitted["missing"]
    m = found.clusters.mixture
    beta = stage.fit(ONE).coefficients
    start = (
        jnp.asarray(beta),
        {"centroid": m.centroids, "log_odds": m.vector()[m.centroids.size :]},
    )
    both = engine_of(stage).solve(start, jnp.ones(N), structure=("block", "dense"))
    np.testing.assert_allclose(both.theta[0], beta, atol=1e-8)
    moved = ew.jackknife(both).influence()[1]
    expected = np.concatenate(
        [np.asarray(moved[name]).reshape(N, -1) for name in ("centroid", "log_odds")], axis=1
    ).T
    size = np.max(np.abs(expected))
    # Two solutions, each to a gradient of rounding over the smallest curvature of 1e-3.
    np.testing.assert_allclose(found.sensitivity, expected, rtol=0, atol=1e-9 * size)


def by_hand(stage, theta, seen_by, curve_weight, rows, error, leak=False):
    """Mean error of each gene: level, and its probabilities' mean of centroids."""
    d = stage.frame.u.shape[1]
    m = mx.of_vector(theta, d)
    found = []
    for g in range(len(stage.y)):
        x, precision = seen_by.estimate[g], seen_by.precision[g]
        score = m.log_weight + [x @ precision @ c - 0.5 * c @ precision @ c for c in m.centroids]
        p = np.exp(score - np.max(score))
        curve = stage.frame.u @ (p / np.sum(p) @ m.centroids)
        there = np.ones(N, bool) if stage.seen is None else stage.seen[g] > 0
        if leak:
            level = np.mean(stage.y[g, there])
        else:
            used = there & (curve_weight > 0)
            level = np.mean((stage.y[g] - curve)[used])
        left = (stage.y[g] - level - curve)[rows][there[rows]]
        size = np.abs(left) if error == "absolute" else left**2
        found.append(np.mean(size) if len(size) else np.nan)
    return np.array(found)


@pytest.mark.parametrize("kind", ["spread", "missing"])
@pytest.mark.parametrize("error", ["squared", "absolute"])
@pytest.mark.parametrize("leak", [False, True])
def test_errors_of_a_fold(fitted, kind, error, leak):
    stage, found = fitted[kind]
    rows = np.flatnonzero(TIMES == 3)
    fold = tc.Fold("3", rows)
    weight = fold.weight(N)
    np.testing.assert_array_equal(weight, TIMES != 3)
    settings = tc.Settings(error=error, leak=leak)
    test = expression(7, 5, missing=0.3, spread=0.1)
    (left,) = tc.cross_validate(stage, found, [fold], settings, test)
    without, whole = stage.observed(weight), stage.observed(ONE)
    judged = whole if leak else without
    theta = found.clusters.mixture.vector()
    expected = {
        "train": (theta, whole, ONE),
        "ij": (theta - np.sum(found.sensitivity[:, rows], axis=1), judged, weight),
        "exact": (again(stage, found, weight), judged, weight),
    }
    assert set(left.theta) == set(left.error) == {"train", "ij", "corrected", "exact"}
    for name, (value, seen_by, used) in expected.items():
        np.testing.assert_allclose(left.theta[name], value, atol=1e-9)
        np.testing.assert_allclose(
            left.error[name], by_hand(stage, value, seen_by, used, rows, error, leak), atol=1e-9
        )
    # Genes held out: never clustered, their curves without the fold.
    of_test = test.observed(ONE if leak else weight)
    np.testing.assert_allclose(
        left.test, by_hand(test, theta, of_test, weight, rows, error, leak), atol=1e-9
    )
    # Here the prediction is near, and the correction nearer.
    away = {name: np.linalg.norm(left.theta[name] - left.theta["exact"]) for name in left.theta}
    assert away["corrected"] < 1e-3 * away["ij"]
    assert away["ij"] < 0.5 * away["train"]
    assert left.trusted
    assert left.note == ""


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_fold_says_of_itself(fitted, kind):
    stage, found = fitted[kind]
    folds = [tc.Fold(f"{t}", np.flatnonzero(t == TIMES)) for t in (1.0, 4.0)]
    for left, fold in zip(tc.cross_validate(stage, found, folds), folds, strict=True):
        assert left.fold is fold
        weight = fold.weight(N)
        t = mx.terms(stage.observed(weight))
        predicted = found.at(weight)
        hessian, gradient = mx.hessian(predicted, t), mx.value_gradient(predicted, t)[1]
        assert left.curvature == pytest.approx(np.linalg.eigvalsh(hessian)[0], rel=1e-6)
        far = np.linalg.norm(predicted - found.clusters.mixture.vector())
        step = np.linalg.norm(np.linalg.solve(hessian, gradient))
        assert left.ratio == pytest.approx(step / far, rel=1e-6)
        assert left.conditioning == pytest.approx(stage.conditioning(weight), rel=1e-12)
        ends = [np.mean(left.error[name]) for name in ("ij", "corrected")]
        near = abs(ends[0] - ends[1]) <= tc.AGREE * ends[1]
        assert left.trusted == (left.conditioning >= tc.LEFT and left.curvature > 0 and near)
        # The exact refit is at an optimum.
        assert np.linalg.norm(mx.value_gradient(left.theta["exact"], t)[1]) < 1e-10


def test_less_is_computed_where_less_is_asked(fitted):
    stage, found = fitted["spread"]
    fold = tc.Fold("2", np.flatnonzero(TIMES == 2))
    ask = tc.Settings(exact=False, corrected=False)
    (left,) = tc.cross_validate(stage, found, [fold], ask)
    assert set(left.error) == {"train", "ij"}
    assert left.test is None
    # Without a correction Newton's next step decides.
    assert left.trusted == (
        left.ratio <= tc.RATIO and left.curvature > 0 and left.conditioning >= tc.LEFT
    )
    (more,) = tc.cross_validate(stage, found, [fold], ask._replace(corrected=True))
    assert set(more.error) == {"train", "ij", "corrected"}


def test_a_fold_that_leaves_little_is_not_trusted(fitted):
    stage, found = fitted["spread"]
    rows = np.flatnonzero(TIMES >= 4)
    (left,) = tc.cross_validate(stage, found, [tc.Fold("late", rows)])
    assert left.conditioning < tc.LEFT
    assert not left.trusted


def test_a_refit_that_does_not_arrive_says_so(fitted, monkeypatch):
    stage, found = fitted["spread"]
    monkeypatch.setattr(tc, "STEPS", 1)
    (left,) = tc.cross_validate(stage, found, [tc.Fold("0", np.flatnonzero(TIMES == 0))])
    assert left.note.startswith("not at an optimum after 1 steps")
    assert np.all(np.isfinite(left.theta["exact"]))
    assert np.all(np.isfinite(left.error["exact"]))


def test_a_gene_without_values_at_a_fold(fitted):
    """It has no error there, and hinders no other."""
    stage, found = fitted["missing"]
    rows = np.flatnonzero(TIMES == 3)
    seen = stage.seen.copy()
    seen[4, rows] = 0.0
    fold = tc.Fold("3", rows)
    bare = stage._replace(y=stage.y * seen, seen=seen)
    one = tc.differentiated(bare, cl.solve(found.clusters.mixture, mx.terms(bare.observed(ONE))))
    (left,) = tc.cross_validate(bare, one, [fold])
    for error in left.error.values():
        assert np.isnan(error[4])
        assert np.sum(np.isnan(error)) == 1
    assert np.isfinite(left.ratio)


@pytest.mark.parametrize("kind", KINDS)
def test_leaving_out_is_as_if_samples_were_not_there(fitted, kind):
    """Weight 0: the clusters of data without the rows, in the same coordinates."""
    stage, found = fitted[kind]
    kept = np.flatnonzero(TIMES != 5)
    short = stage._replace(y=stage.y[:, kept], frame=stage.frame._replace(u=stage.frame.u[kept]))
    if kind == "counts":
        short = short._replace(offset=stage.offset[kept])
        # The ridge is by the number of samples; below rounding of what is compared.
        short = short._replace(beta=cc.warm(short, np.ones(len(kept))))
    elif stage.seen is not None:
        short = short._replace(seen=stage.seen[:, kept])
    expected = cl.solve(
        found.clusters.mixture, mx.terms(short.observed(np.ones(len(kept))))
    ).mixture.vector()
    (left,) = tc.cross_validate(stage, found, [tc.Fold("5", np.flatnonzero(TIMES == 5))])
    # The ridges of counts differ by 1e-6 / 21 each, a share of 1e-8 of the information.
    np.testing.assert_allclose(
        left.theta["exact"], expected, atol=1e-6 if kind == "counts" else 1e-9
    )


def test_any_basis_of_the_same_curves():
    """Splines in another basis: the same F, probabilities, errors and predictions."""
    stage = expression(spread=0.1)
    a = np.random.default_rng(5).normal(size=(4, 4))
    other = stage._replace(frame=cv.frame(design() @ a))
    folds = [tc.Fold("1", np.flatnonzero(TIMES == 1))]
    told = []
    for each in (stage, other):
        found = tc.fit(each, K, starts=3)
        r = mx.members(found.clusters.mixture, mx.terms(each.observed(ONE))).responsibility
        shape = found.clusters.mixture.centroids @ each.frame.u.T
        (left,) = tc.cross_validate(each, found, folds)
        told.append((found.clusters.objective, r, shape, left))
    # Rounding, times the condition number of the other basis and of the Hessian.
    assert told[0][0] == pytest.approx(told[1][0], rel=1e-10)
    np.testing.assert_allclose(told[0][1], told[1][1], atol=1e-8)
    np.testing.assert_allclose(told[0][2], told[1][2], atol=1e-8)
    for name in ("train", "ij", "corrected", "exact"):
        np.testing.assert_allclose(told[0][3].error[name], told[1][3].error[name], atol=1e-8)


def test_order_of_genes_is_nothing(fitted):
    stage, found = fitted["missing"]
    order = np.random.default_rng(1).permutation(len(stage.y))
    turned = stage.some(order)
    other = tc.differentiated(turned, found.clusters)
    size = np.max(np.abs(found.sensitivity))
    np.testing.assert_allclose(other.sensitivity, found.sensitivity, atol=1e-11 * size)
    fold = tc.Fold("6", np.flatnonzero(TIMES == 6))
    one = tc.cross_validate(stage, found, [fold])[0].error["exact"]
    two = tc.cross_validate(turned, other, [fold])[0].error["exact"]
    np.testing.assert_allclose(two, one[order], atol=1e-9)


def test_a_fit_is_of_its_parts(fitted):
    stage, found = fitted["spread"]
    t = mx.terms(stage.observed(ONE))
    alone = cl.fit(t, K, starts=5)
    np.testing.assert_array_equal(found.clusters.mixture.vector(), alone.mixture.vector())
    h = mx.hessian(found.clusters.mixture.vector(), t)
    moved = mx.moved(found.clusters.mixture.vector(), t, stage.changes())
    np.testing.assert_allclose(h @ found.sensitivity, -moved, atol=1e-11)


def test_influence(fitted):
    stage, found = fitted["spread"]
    folds = [tc.Fold("all", np.array([], int)), tc.Fold("0", np.flatnonzero(TIMES == 0))]
    none, one = tc.influence(stage, found, folds)
    assert np.all(none.shift == 0)
    assert np.all(none.weight == 0)
    assert np.all(none.moved == 0)
    m = found.clusters.mixture
    after = mx.of_vector(found.at(folds[1].weight(N)), 3)
    curves = (after.centroids - m.centroids) @ stage.frame.u.T
    np.testing.assert_allclose(one.shift, np.sqrt(np.mean(curves**2, axis=1)), rtol=1e-10)
    np.testing.assert_allclose(one.weight, after.weight - m.weight, atol=1e-14)
    assert np.sum(one.weight) == pytest.approx(0, abs=1e-14)
    before, now = (
        np.argmax(mx.members(each, mx.terms(stage.observed(weight))).responsibility, axis=1)
        for each, weight in ((m, ONE), (after, folds[1].weight(N)))
    )
    expected = [np.sum((before == k) & (now != k)) for k in range(K)]
    np.testing.assert_array_equal(one.moved, expected)
