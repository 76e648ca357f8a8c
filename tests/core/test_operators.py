"""Operators: products against matrices that loops over observations make."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from expressway import constraints, losses, operators
from expressway._errors import InputError
from expressway.core.fitted import source
from expressway.core.problem import Equation, Objective, Weighted

RNG = np.random.default_rng(0)
N = 23
X = RNG.normal(size=(N, 2))
CLASS = RNG.integers(0, 3, N)
COUNT = RNG.poisson(3.0, N)
WEIGHT = RNG.integers(0, 4, N).astype(float)
NETWORK = {
    "first": 0.5 * RNG.normal(size=(2, 3)),
    "second": RNG.normal(size=(3, 3)),
    "shift": np.zeros(3),
}
KINDS = ("hessian", "gauss_newton", "fisher", "empirical_fisher")
NB = losses.negative_binomial(0.4)


def network(theta, x):
    return jnp.tanh(x @ theta["first"]) @ theta["second"] + theta["shift"]


def mean(theta, x):
    return x @ theta["beta"] + jnp.log(theta["level"])


def dense(model, loss, data, theta, weight, forward=lambda theta: theta):
    """The four matrices by a loop over observations, in NumPy from dense derivatives."""
    t, tree = ravel_pytree(theta)
    outputs = lambda t, x: jnp.ravel(model(forward(tree(t)), x))  # noqa: E731
    shape = np.shape(model(forward(theta), data[0][0]))
    of = lambda f, y: loss(jnp.reshape(f, shape), y)  # noqa: E731
    total = lambda t, x, y: of(outputs(t, x), y)  # noqa: E731
    slope, twice = jax.jit(jax.jacfwd(outputs)), jax.jit(jax.hessian(total))
    score, bend = jax.jit(jax.grad(total)), jax.jit(jax.hessian(of))
    found = {kind: np.zeros((t.size, t.size)) for kind in KINDS}
    for x, y, w in zip(*data, weight, strict=True):
        j, f, g = np.asarray(slope(t, x)), outputs(t, x), np.asarray(score(t, x, y))
        found["hessian"] += w * np.asarray(twice(t, x, y))
        found["gauss_newton"] += w * j.T @ np.asarray(bend(f, y)) @ j
        found["fisher"] += w * j.T @ np.asarray(loss.information(f)) @ j
        found["empirical_fisher"] += w * np.outer(g, g)
    return found


def rows(operator):
    return np.asarray(operator.rows(np.eye(operator.size)))


@pytest.fixture(scope="module")
def classes():
    objective = Objective.supervised(network, losses.categorical, (X, CLASS), 0.3)
    return objective, dense(network, losses.categorical, (X, CLASS), NETWORK, np.ones(N))


@pytest.mark.parametrize("kind", KINDS)
def test_products_are_those_of_dense_matrices(classes, kind):
    objective, matrices = classes
    make = getattr(operators, kind)
    size = len(matrices[kind])
    expected = matrices[kind] + 0.3 * np.eye(size)
    whole = make(objective, NETWORK)
    # Sums of 23 terms of order one: rounding is 1e-15 of the largest, cancelled to entries of .01.
    np.testing.assert_allclose(rows(whole), expected, rtol=1e-12, atol=1e-13)
    assert whole.damping == 0.3
    assert whole.lower == (None if kind == "hessian" else 0.3)
    # Mini-batches that do and do not divide 23, the last one filled by going back.
    for batch in (1, 5) if kind == "fisher" else (5,):
        part = make(objective, NETWORK, batch_size=batch, prior_precision=0.2)
        v = RNG.normal(size=(2, size))
        np.testing.assert_allclose(
            part.rows(v), v @ (expected + 0.2 * np.eye(size)), rtol=1e-11, atol=1e-12
        )
        assert part.damping == 0.5
    np.testing.assert_allclose(whole @ np.ones(size), expected.sum(1), rtol=1e-11, atol=1e-12)


def test_gauss_newton_is_fisher_for_canonical_losses_only(classes):
    np.testing.assert_allclose(
        classes[1]["gauss_newton"], classes[1]["fisher"], rtol=1e-12, atol=1e-14
    )
    theta = {"beta": np.array([0.3, -0.2]), "level": np.array(2.0)}
    objective = Objective.supervised(
        mean, NB, (X, COUNT), constraints={"beta": None, "level": constraints.positive}
    )
    free = {"beta": theta["beta"], "level": np.log(2.0)}
    forward = lambda t: {"beta": t["beta"], "level": jnp.exp(t["level"])}  # noqa: E731
    expected = dense(mean, NB, (X, COUNT), free, WEIGHT, forward)
    assert np.abs(expected["gauss_newton"] / expected["fisher"] - 1.0).max() > 0.01
    hyper = Weighted(jnp.asarray(WEIGHT), ())
    for kind in KINDS:
        found = getattr(operators, kind)(objective, theta, hyper=hyper, batch_size=7)
        np.testing.assert_allclose(rows(found), expected[kind], rtol=1e-11, atol=1e-12)
        assert found.lower is None
    twice = operators.fisher(objective, theta, (np.tile(X, (2, 1)), np.tile(COUNT, 2)))
    once = operators.fisher(objective, theta)
    np.testing.assert_allclose(rows(twice), 2 * rows(once), rtol=1e-12)


def test_many_vectors_are_multiplied_in_parts(classes, monkeypatch):
    monkeypatch.setattr("expressway.core.minibatch.BYTES", 8 * 2000)
    found = operators.gauss_newton(classes[0], NETWORK)
    v = RNG.normal(size=(7, found.size))
    expected = v @ (classes[1]["gauss_newton"] + 0.3 * np.eye(found.size))
    np.testing.assert_allclose(found.rows(v), expected, rtol=1e-11, atol=1e-12)
    assert found.noise(jax.random.key(0), 7).shape == v.shape


def test_single_precision_stays(classes):
    theta = jax.tree.map(lambda a: jnp.asarray(a, dtype=jnp.float32), NETWORK)
    trained = classes[0].trained(theta)
    assert {leaf.dtype for leaf in jax.tree.leaves(trained.theta)} == {np.dtype(np.float32)}
    for kind in ("hessian", "gauss_newton"):
        found = getattr(operators, kind)(classes[0], theta)
        product = found.rows(np.eye(found.size))
        assert product.dtype == found.dtype == np.float32
        # Rounding of single precision is 6e-8, of sums of 23 terms of order one.
        np.testing.assert_allclose(
            product, rows(getattr(operators, kind)(classes[0], NETWORK)), atol=2e-5, rtol=0
        )
    noise = found.noise(jax.random.key(1), 2)
    assert noise.dtype == np.float32
    assert classes[0].rows.data[1].dtype == CLASS.dtype


@pytest.mark.parametrize("kind", ["gauss_newton", "fisher", "empirical_fisher"])
def test_noise_has_the_matrix_as_covariance(kind):
    theta = {"beta": np.array([0.3, -0.2]), "level": np.array(2.0)}
    objective = Objective.supervised(mean, NB, (X, COUNT), 0.5)
    hyper = Weighted(jnp.asarray(WEIGHT), ())
    found = getattr(operators, kind)(objective, theta, hyper=hyper, batch_size=7)
    count = 4000
    z = np.asarray(found.noise(jax.random.key(2), count))
    root = np.linalg.cholesky(rows(found))
    white = np.linalg.solve(root, z.T)
    error = white @ white.T / count - np.eye(3)
    # Wishart: sum of squares of sqrt(count) error, off-diagonal counted twice and of variance 1,
    # diagonal of variance 2: half of it is chi-square of 6; 1 in 10,000 is above 28.
    assert 0.5 * count * np.sum(error**2) < 28.0


def test_other_losses(classes):
    def own(f, y):
        return jax.nn.logsumexp(f) - f[y]

    def bounded(f, y):
        return jnp.sum(jnp.log1p((f - y) ** 2))

    objective = Objective.supervised(network, own, (X, CLASS), 0.3)
    found = operators.gauss_newton(objective, NETWORK, batch_size=10)
    reference = operators.gauss_newton(classes[0], NETWORK)
    np.testing.assert_allclose(rows(found), rows(reference), rtol=1e-12, atol=1e-13)
    assert found.lower == 0.3
    z = np.asarray(found.noise(jax.random.key(3), 4000))
    white = np.linalg.solve(np.linalg.cholesky(rows(found)), z.T)
    error = white @ white.T / 4000 - np.eye(found.size)
    # As above, 18 · 19 / 2 = 171 degrees of freedom: 1 in 10,000 is above 245.
    assert 0.5 * 4000 * np.sum(error**2) < 245.0
    wild = operators.gauss_newton(
        Objective.supervised(network, bounded, (X, 9 * RNG.normal(size=(N, 3))), 0.3), NETWORK
    )
    assert wild.lower is None
    assert wild.noise is None
    with pytest.raises(InputError, match=r"ew\.losses"):
        operators.fisher(objective, NETWORK)


def test_functions_that_are_not_sums():
    fn = lambda t, h: jnp.sum(jnp.cosh(t)) + h * t[0] * t[1]  # noqa: E731
    t = np.array([0.1, 0.2, 0.3], dtype=np.float32)
    found = operators.hessian(Objective(fn), t, hyper=0.5, prior_precision=1.0)
    expected = np.diag(np.cosh(t) + 1.0) + 0.5 * np.eye(3)[[1, 0, 2]] * [1, 1, 0]
    np.testing.assert_allclose(rows(found), expected, rtol=1e-6)  # single precision
    assert found.dtype == np.float32
    with pytest.raises(InputError, match="sums over observations"):
        operators.empirical_fisher(Objective(fn), t, hyper=0.5)
    with pytest.raises(InputError, match=r"Objective\.supervised"):
        operators.gauss_newton(Objective(fn), t)


def test_mistakes_are_named_in_one_line(classes):
    cases = [
        ({"theta": {**NETWORK, "first": np.zeros((3, 3))}}, "theta does not fit the model"),
        ({"theta": {"first": np.zeros((2, 3))}}, "theta does not fit the model"),
        ({"hyper": Weighted(jnp.ones(3), ())}, "weights for 23 observations"),
        ({"prior_precision": -1.0}, "prior_precision is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
    ]
    for changed, message in cases:
        given = {"theta": NETWORK, **changed}
        with pytest.raises(InputError, match=message) as error:
            operators.fisher(classes[0], **given)
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="needed are two"):
        Objective.supervised(network, losses.categorical, X)
    with pytest.raises(InputError, match="prior_precision is -2"):
        Objective.supervised(network, losses.categorical, (X, CLASS), -2.0)
    with pytest.raises(InputError, match="rows of 18 parameters"):
        operators.fisher(classes[0], NETWORK).rows(np.zeros((2, 3)))


def nb_term(theta, hyper, row):
    return NB(mean(theta, row[0]), row[1])


@pytest.fixture(scope="module")
def solved():
    objective = Objective.supervised(
        mean, NB, (X, COUNT), constraints={"beta": None, "level": constraints.positive}
    )
    start = {"beta": np.zeros(2), "level": np.array(1.0)}
    return objective.solve(start, Weighted(jnp.asarray(WEIGHT), ()))


def test_a_solution_as_a_source(solved):
    s = source(solved)
    free = {"beta": solved.theta["beta"], "level": jnp.log(solved.theta["level"])}
    forward = lambda t: {"beta": t["beta"], "level": jnp.exp(t["level"])}  # noqa: E731
    expected = dense(mean, NB, (X, COUNT), free, WEIGHT, forward)
    for kind in ("hessian", "gauss-newton", "fisher"):
        found = s.operator(kind, 0.5)
        matrix = expected[kind.replace("-", "_")] + 0.5 * np.eye(3)
        np.testing.assert_allclose(rows(found), matrix, rtol=1e-11, atol=1e-12)
        assert found.damping == 0.5
    assert s.observations == N
    g = np.asarray(s.scores(np.eye(N)))
    kept = np.where(WEIGHT > 0, WEIGHT, 1.0)[:, None]
    middle = (g / np.sqrt(kept)).T @ (g / np.sqrt(kept))
    np.testing.assert_allclose(middle, expected["empirical_fisher"], rtol=1e-11, atol=1e-12)
    drawn = s.shaped(np.array([[0.0, 0.1, 0.0], [0.0, 0.0, -9.0]]))
    # Unconstrained coordinates: the level's is its logarithm.
    np.testing.assert_allclose(drawn["beta"][0], solved.theta["beta"] + np.array([0, 0.1]))
    np.testing.assert_allclose(drawn["level"], solved.theta["level"] * np.exp([0.0, -9.0]))
    with pytest.raises(InputError, match="kind 'other'"):
        s.operator("other", 0.0)


def test_trained_points_and_equations(classes, solved):
    theta = jax.tree.map(lambda a: jnp.asarray(a, dtype=jnp.float32), NETWORK)
    trained = classes[0].trained(theta)
    s = source(trained)
    assert s.dtype == np.float32
    gradient = np.sum(s.scores(np.ones((1, N))), axis=0) + 0.3 * ravel_pytree(theta)[0]
    # Single precision, sums of 23 terms of order one.
    np.testing.assert_allclose(trained.gradient_norm, np.linalg.norm(gradient), rtol=1e-5)
    drawn = s.shaped(np.zeros((2, 18)))
    np.testing.assert_array_equal(drawn["first"][1], theta["first"])
    assert drawn["first"].dtype == np.float32
    equation = Equation.additive(jax.grad(nb_term), (X, COUNT))
    other = source(equation.solve(solved.theta))
    assert other.scores(np.ones((2, N))).shape == (2, 3)
    with pytest.raises(InputError, match="equation"):
        other.operator("hessian", 0.0)
