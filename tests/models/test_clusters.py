"""Clusters are found: the best of the starts, an optimum, distinct; and genes left out are told."""

import numpy as np
import pytest
import scipy.optimize
from scipy.special import logsumexp

from expressway._errors import SingularJacobian, Unfinished
from expressway.models import clusters as cl
from expressway.models import mixture as mx
from expressway.models.mixture import Mixture, Observed


def apart(g, k, d, *, seed=0, far=3.0, told=1.0):
    """Genes of at most 2 d clusters, some standard errors from the origin, and their clusters."""
    rng = np.random.default_rng(seed)
    centroids = far * np.vstack([np.eye(d), -np.eye(d)])[:k]
    label = np.concatenate([np.arange(k), rng.integers(0, k, g - k)])
    precision = rng.gamma(8, 1 / 8, size=(g, 1, 1)) * np.eye(d)
    error = rng.normal(size=(g, d)) / np.sqrt(precision[:, 0, :1])
    return mx.terms(Observed(centroids[label] + error, told * precision)), label


def closer(*, seed=1):
    """Clusters that overlap, so that starts end at several optima."""
    return apart(120, 6, 3, seed=seed, far=1.2)[0]


def best(found, t):
    return np.argmax(mx.members(found.mixture, t).responsibility, axis=1)


def test_an_optimum_that_no_start_is_better_than():
    t = closer()
    found = cl.fit(t, 6, starts=10, seed=3)
    theta = found.mixture.vector()
    value, gradient = mx.value_gradient(theta, t)
    assert value == found.objective
    assert np.linalg.norm(gradient) < 1e-12  # asked for is 1e-8
    assert np.linalg.eigvalsh(mx.hessian(theta, t))[0] > 0
    assert found.certificate.gradient_norm < 1e-12
    assert [start.seed for start in found.starts] != sorted(start.seed for start in found.starts)
    assert sorted(start.seed for start in found.starts) == list(range(3, 13))
    after = [start.after_ascent for start in found.starts]
    assert after == sorted(after)  # the best after some steps are finished
    ended = np.array([start.objective for start in found.starts])
    assert np.sum(np.isfinite(ended)) >= cl.FINISHED
    assert found.objective == np.nanmin(ended)
    # Newton's method is never worse than where it starts, and those that are left do not pass it.
    finite = np.isfinite(ended)
    assert np.all(ended[finite] <= np.array(after)[finite] + 1e-12)
    for start in found.starts:
        assert start.note == ("" if np.isfinite(start.objective) else "not among the best")
    # Nor is any of those that were finished, alone.
    for start in found.starts[: cl.FINISHED]:
        alone = cl.fit(t, 6, starts=1, seed=start.seed)
        assert alone.objective == start.objective
        assert found.objective <= alone.objective


def test_deterministic():
    t = closer()
    one, again, other = (cl.fit(t, 6, starts=3, seed=seed) for seed in (0, 0, 50))
    np.testing.assert_array_equal(one.mixture.vector(), again.mixture.vector())
    assert one.starts == again.starts or str(one.starts) == str(again.starts)  # NaN is not NaN
    assert one.starts[0].after_ascent != other.starts[0].after_ascent


def test_clusters_that_are_apart_are_found():
    t, label = apart(80, 5, 3, far=8.0)
    found = cl.fit(t, 5, starts=10)
    got = best(found, t)
    pairs = {(a, b) for a, b in zip(got, label, strict=True)}
    assert len(pairs) == 5  # one to one
    np.testing.assert_allclose(
        np.sort(found.mixture.weight), np.sort(np.bincount(label) / 80), rtol=1e-6
    )


def test_one_cluster_is_the_weighted_mean():
    t, _ = apart(30, 2, 3)
    x, precision = t.observed
    found = cl.fit(t, 1)
    assert len(found.starts) == 1
    assert found.mixture.weight == pytest.approx([1.0])
    expected = np.linalg.solve(
        np.sum(precision, axis=0) + mx.RIDGE * np.eye(3), np.einsum("gij,gj->i", precision, x)
    )
    np.testing.assert_allclose(found.mixture.centroids[0], expected, rtol=1e-12)


def test_another_optimiser_finds_the_same():
    t, _ = apart(60, 3, 2, far=2.5)
    start = cl.seeds(t, 3, np.random.default_rng(0))
    found = cl.solve(start, t)
    other = scipy.optimize.minimize(
        lambda theta: mx.value_gradient(theta, t),
        cl.ascent(start, t, 20).vector(),
        jac=True,
        method="BFGS",
        options={"gtol": 1e-8},
    )
    assert found.objective <= other.fun + 1e-13  # rounding
    # BFGS's gradient over the smallest curvature, .05.
    np.testing.assert_allclose(found.mixture.vector(), other.x, atol=1e-6)


def test_ascent_never_rises_and_ends_where_newton_does():
    t, _ = apart(60, 3, 2, far=2.5)
    mixture = cl.seeds(t, 3, np.random.default_rng(4))
    values = []
    for _ in range(60):
        values.append(mx.value_gradient(mixture.vector(), t)[0])
        mixture = cl.ascent(mixture, t, 1)
    assert np.all(np.diff(values) <= 1e-13)  # rounding of F
    # The fixed point of the step is the optimum.
    found = cl.solve(mixture, t)
    again = cl.ascent(found.mixture, t, 5)
    np.testing.assert_allclose(again.vector(), found.mixture.vector(), atol=1e-9)


def test_seeds():
    t, label = apart(60, 6, 3, far=30.0)
    x = t.observed.estimate
    one, again = (cl.seeds(t, 6, np.random.default_rng(2)) for _ in range(2))
    np.testing.assert_array_equal(one.centroids, again.centroids)
    # Genes themselves, and where clusters are far apart one of each.
    places = [int(np.flatnonzero(np.all(x == c, axis=1))[0]) for c in one.centroids]
    assert sorted(label[places]) == list(range(6))
    np.testing.assert_allclose(one.weight, 1 / 6, rtol=1e-14)


def test_seeds_are_far_in_the_metric_of_the_model():
    """A gene that is far away but hardly measured is no centre."""
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(20, 1)), 40 + rng.normal(size=(20, 1)), [[1e4]]])
    precision = np.ones((41, 1, 1))
    precision[-1] = 1e-9
    t = mx.terms(Observed(x, precision))
    for seed in range(20):
        found = cl.seeds(t, 2, np.random.default_rng(seed))
        # The first is any gene.
        assert found.centroids[1, 0] != 1e4


def test_genes_without_precision():
    t, _ = apart(40, 3, 2, far=8.0)
    x, precision = t.observed
    none = Observed(
        np.vstack([np.zeros((5, 2)), x]), np.concatenate([np.zeros((5, 2, 2)), precision])
    )
    found, without = cl.fit(mx.terms(none), 3, starts=4), cl.fit(t, 3, starts=8)
    order = [
        int(np.argmin(np.linalg.norm(found.mixture.centroids - c, axis=1)))
        for c in without.mixture.centroids
    ]
    # The ridge is of the sum over genes: not all the same.
    np.testing.assert_allclose(found.mixture.centroids[order], without.mixture.centroids, atol=1e-9)
    np.testing.assert_allclose(found.mixture.weight[order], without.mixture.weight, atol=1e-9)
    with pytest.raises(ValueError, match="41 clusters of 40 genes; needed are 1 to 40"):
        cl.fit(mx.terms(none), 41)


@pytest.mark.parametrize("k", [0, -1, 11])
def test_no_such_number(k):
    t, _ = apart(10, 2, 2)
    with pytest.raises(ValueError, match=f"{k} clusters of 10 genes; needed are 1 to 10"):
        cl.fit(t, k)


def test_identical_genes_are_one_cluster():
    x = np.tile([[1.0, -2.0]], (12, 1))
    t = mx.terms(Observed(x, np.tile(np.eye(2), (12, 1, 1))))
    found = cl.fit(t, 3, starts=2)
    assert len(found.mixture.weight) == 1
    np.testing.assert_allclose(found.mixture.centroids, [[1, -2]], rtol=1e-5)  # the ridge's share


@pytest.mark.parametrize("k", [4, 5, 9])
def test_clusters_that_coincide_are_one(k):
    """More clusters than genes tell apart do not improve F: where they coincide they are one."""
    # Errors are half of what precisions say.
    t, label = apart(60, 3, 2, far=6.0, told=0.25)
    found = cl.fit(t, k, starts=5)
    assert len(found.mixture.weight) == 3
    assert found.objective == pytest.approx(cl.fit(t, 3, starts=5).objective, abs=1e-13)
    # With such precisions a gene between two clusters is counted in part for each.
    sizes = np.sort(np.bincount(label)) / 60
    np.testing.assert_allclose(np.sort(found.mixture.weight), sizes, rtol=0.05)
    for start in found.starts[: cl.FINISHED]:
        assert start.objective >= found.objective - 1e-13
    # A regular optimum, as the jackknife needs it.
    values = np.linalg.eigvalsh(mx.hessian(found.mixture.vector(), t))
    assert values[0] > cl.SINGULAR * values[-1]
    assert np.linalg.norm(mx.value_gradient(found.mixture.vector(), t)[1]) < 1e-12
    # And the best of all mixing distributions (Lindsay 1983): a little weight at another point does
    # not help. It would where the mean over genes of f(x_g | c) / f(x_g) is above 1.
    c = np.stack(np.meshgrid(*[np.linspace(-9, 9, 91)] * 2), axis=-1).reshape(-1, 2)
    inner = t.pull @ c.T - 0.5 * np.einsum("ki,gij,kj->gk", c, t.observed.precision, c)
    log_likelihood = mx.members(found.mixture, t).log_likelihood
    gain = np.exp(logsumexp(inner - log_likelihood[:, None], axis=0)) / 60
    assert np.max(gain) <= 1 + 1e-3  # the ridge, of 1e-5 |c|²/2, moves it


def test_merging_keeps_what_differs():
    t, _ = apart(60, 3, 2, far=6.0)
    fewer = cl.fit(t, 3, starts=5).mixture
    c, p = fewer.centroids, fewer.weight
    split = Mixture(
        np.vstack([c, c[:1] + 1e-7, [[100.0, 100.0]]]),
        np.log(np.concatenate([[p[0] / 3], p[1:], [2 * p[0] / 3], [1e-14]])),
    )
    found = cl.merged(split, t)
    assert len(found.weight) == 3
    np.testing.assert_allclose(np.sort(found.weight), np.sort(p), rtol=1e-9)
    assert len(cl.merged(fewer, t).weight) == 3


def test_what_cannot_be_solved_is_said(monkeypatch):
    """Starts that end at no optimum are told, others go on; if all do, it is refused."""
    t = closer()
    solve, errors = cl.distinct, []

    def failing(*arguments):
        if errors:
            raise errors.pop(0)
        return solve(*arguments)

    monkeypatch.setattr(cl, "distinct", failing)
    monkeypatch.setattr(cl, "side_by_side", lambda fn, items: [fn(item) for item in items])
    errors += [Unfinished("not at an optimum", None), SingularJacobian("singular")]
    found = cl.fit(t, 6, starts=5)
    assert [start.note for start in found.starts[:3]] == ["not at an optimum", "singular", ""]
    assert np.isnan(found.starts[0].objective)
    errors += [Unfinished("not at an optimum", None), SingularJacobian("singular")]
    with pytest.raises(ValueError, match="no start found 6 clusters: not at an optimum; ask for"):
        cl.fit(t, 6, starts=2)


def without(t, g):
    return mx.terms(t.observed.some(np.delete(np.arange(len(t.pull)), g)))


def test_genes_left_out():
    """Predicted is near to exact, each gene without itself, and not what it is with it."""
    t, _ = apart(60, 3, 2, far=2.5)
    found = cl.fit(t, 3, starts=5)
    told = cl.held_out(found, t, [np.array([g]) for g in range(60)])
    assert told.clusters == 3
    # Exactly, by hand.
    for g in (0, 17, 59):
        again = cl.solve(found.mixture, without(t, g))
        expected = mx.members(again.mixture, mx.terms(t.observed.some(np.array([g]))))
        assert told.exact[g] == pytest.approx(expected.log_likelihood[0], abs=1e-12)
    np.testing.assert_allclose(told.train, mx.members(found.mixture, t).log_likelihood)
    moved = told.exact - told.train
    assert np.mean(moved) < 0  # a gene is likelier with clusters that know it
    error = told.predicted - told.exact
    # A step of Newton's errs by the square of its length: of order 1/60, so a few per cent.
    assert np.linalg.norm(error) < 0.1 * np.linalg.norm(moved)
    assert np.mean(told.predicted) == pytest.approx(np.mean(told.exact), abs=0.1 * -np.mean(moved))
    # And all at once or a few at a time is the same.
    assert told.predicted.shape == (60,)
    assert cl.held_out(found, t, None).exact is None


def test_one_step_of_newton_without_a_gene():
    """The prediction is what its formula says, with the gradient of the gene's own term."""
    t, _ = apart(20, 2, 2, far=2.0, seed=5)
    found = cl.fit(t, 2, starts=3)
    theta = found.mixture.vector()
    h = mx.hessian(theta, t)
    told = cl.held_out(found, t, None)
    for g in range(20):
        own = mx.terms(t.observed.some(np.array([g])))
        own_gradient = mx.value_gradient(theta, own, 0.0)[1]
        moved = mx.of_vector(theta + np.linalg.solve(20 * h, own_gradient), 2)
        expected = mx.members(moved, own).log_likelihood[0]
        assert told.predicted[g] == pytest.approx(expected, abs=1e-10)


def test_folds_that_cannot_be_fitted_are_left(monkeypatch):
    t, _ = apart(30, 2, 2)
    found = cl.fit(t, 2, starts=2)

    def never(*_):
        msg = "no"
        raise Unfinished(msg, None)

    monkeypatch.setattr(cl, "solve", never)
    told = cl.held_out(found, t, [np.arange(15), np.arange(15, 30)])
    assert np.all(np.isnan(told.exact))
    assert np.all(np.isfinite(told.predicted))


def test_the_number_of_clusters_by_genes_left_out():
    t, _ = apart(150, 4, 3, far=4.0, seed=2)
    folds = np.array_split(np.random.default_rng(0).permutation(150), 5)
    told = [cl.held_out(cl.fit(t, k, starts=5), t, folds) for k in (1, 2, 3, 4)]
    exact, predicted = (
        [np.mean(getattr(each, name)) for each in told] for name in ("exact", "predicted")
    )
    assert np.argmax(exact) == np.argmax(predicted) == 3
