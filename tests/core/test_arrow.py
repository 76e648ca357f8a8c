"""Wide designs and their arrows against the dense matrices they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import sparse

from expressway.core import arrow, linear
from expressway.core.arrow import Arrow, Wide
from expressway.core.lowrank import LowRank

G = 6
# The same sums in another order; systems here have conditions below 1e4.
ROUNDING = 1e-11


def design(q=3, levels=17, each=4, start=1, seed=0, covariate=True, slopes=False):
    """Dummies of a factor behind `start` columns of a border of q, as dense columns."""
    rng = np.random.default_rng(seed)
    level = np.repeat(np.arange(-1, levels), each)
    rng.shuffle(level)
    n = len(level)
    border = rng.integers(0, 2, (n, q)) * 1.0
    if q:
        border[:, 0] = 1
        if covariate:
            border[:, -1] = rng.normal(size=n)
    run = (level[:, None] == np.arange(levels)) * 1.0
    run = run * rng.normal(size=(n, 1)) if slopes else run
    return np.column_stack([border[:, :start], run, border[:, start:]])


CASES = {
    "intercept first": {"q": 1},
    "batch and covariate": {"q": 3, "start": 2},
    "border on both sides": {"q": 3, "start": 1},
    "border behind": {"q": 2, "start": 0},
    "a covariate's slope in each level": {"q": 2, "start": 2, "slopes": True},
    "long border": {"q": 8, "start": 3},
}


@pytest.fixture(params=CASES)
def dense(request):
    return design(**CASES[request.param])


def wide(dense):
    x = arrow.wide(sparse.csc_matrix(dense))
    assert isinstance(x, Wide)
    return x


def matrix(a):
    """The matrices that an arrow, or a sum of low rank, stands for."""
    if isinstance(a, LowRank):
        low = a.factor @ a.core @ np.swapaxes(a.factor, 1, 2)
        return low + np.asarray(a.diagonal)[:, :, None] * np.eye(a.diagonal.shape[1])
    q, count = a.cross.shape[1:]
    run = np.asarray(a.diagonal)[:, :, None] * np.eye(count)
    whole = np.block([[a.border, a.cross], [np.swapaxes(a.cross, 1, 2), run]])
    at, start = np.arange(q + count), a.span.start
    order = np.concatenate([at[:start], at[q:], at[start:q]])
    return whole[:, order][:, :, order]


def weights(n, seed=1):
    return np.random.default_rng(seed).uniform(0.1, 2, (n, G))


def assert_close(a, b, tolerance=ROUNDING):
    np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance * np.max(np.abs(b)))


def test_stands_for_its_matrix(dense):
    x = wide(dense)
    assert x.shape == dense.shape
    np.testing.assert_array_equal(x.sparse().toarray(), dense)
    rng = np.random.default_rng(2)
    b, a = rng.normal(size=(dense.shape[1], G)), rng.normal(size=(G, dense.shape[0]))
    assert_close(x @ b, dense @ b)
    assert_close(a @ x, a @ dense)
    assert_close(jax.jit(lambda a, x: a @ x)(a, x), a @ dense)
    assert_close(jax.jit(lambda x, b: x @ b)(x, b), dense @ b)
    ones = linear.with_ones(x)
    np.testing.assert_array_equal(ones.sparse().toarray(), linear.with_ones(dense))
    number, size = linear.distinct(x)
    assert sorted(size) == sorted(linear.distinct(dense)[1])
    for k in range(len(size)):
        assert np.ptp(dense[number == k], axis=0).max() == 0


@jax.jit  # one program, not one for each operation
def verbs(w, x, more, v, free):
    """Matrices, the first with one column more, and its product with vectors."""
    info = linear.weighted_crossproduct(w, x)
    bigger = linear.weighted_crossproduct(w, more)
    made = (info, linear.ridged(info, 0.3), linear.frozen(info, free))
    return made, bigger, linear.product(info, v)


def test_linear_verbs(dense):
    x, w = wide(dense), weights(len(dense))
    rng = np.random.default_rng(3)
    v, free = rng.normal(size=(G, dense.shape[1])), rng.random((G, dense.shape[1])) < 0.6
    made, bigger, product = verbs(w, x, linear.with_ones(x), v, free)
    others, _, expected = verbs(w, dense, linear.with_ones(dense), v, free)
    for mine, other in zip(made, others, strict=True):
        assert isinstance(mine, Arrow)
        assert_close(matrix(mine), other)
    assert_close(matrix(linear.without_first(bigger)), others[0])
    np.testing.assert_array_equal(matrix(made[2]), linear.frozen(matrix(made[0]), free))
    assert_close(product, expected)
    info, dense_info = (jax.tree.map(np.asarray, each[0]) for each in (made, others))
    assert_close(linear.quadratic(info, v[0]), linear.quadratic(dense_info, v[0]))


@jax.jit  # one program, not one for each operation
def answers(parts, b):
    factor = linear.cholesky(parts[0])
    found = (
        linear.solve(factor, b),
        linear.log_determinant(factor),
        *linear.traces(factor, *parts[1:]),
    )
    return found, linear.definite(factor)


def test_systems(dense):
    x, n = wide(dense), len(dense)
    crossproduct = jax.jit(linear.weighted_crossproduct)
    forms = {}
    b = np.random.default_rng(4).normal(size=(G, dense.shape[1]))
    for name, design in (("wide", x), ("dense", dense)):
        parts = [crossproduct(weights(n, seed), design) for seed in (1, 5, 6)]
        found, definite = answers(parts, b)
        forms[name] = (
            *found,
            linear.solved_alike(
                jax.tree.map(lambda a: np.broadcast_to(np.asarray(a[:1]), a.shape), parts[0]), b
            ),
        )
        assert np.all(definite)
    for mine, expected in zip(forms["wide"], forms["dense"], strict=True):
        assert_close(mine, expected, 1e-10)  # condition 1e4 and sums of thousands


def test_covariances(dense):
    x, w = wide(dense), weights(len(dense))
    ridge = 0.02  # far larger than DESeq2's, so that what is of second order in it shows
    found = linear.sandwich(jax.tree.map(np.asarray, linear.weighted_crossproduct(w, x)), ridge)
    info = np.asarray(linear.weighted_crossproduct(w, dense))
    expected = linear.sandwich(info, ridge)
    c = np.random.default_rng(7).normal(size=(5, dense.shape[1]))
    for mine, other in zip(found, expected, strict=True):
        assert_close(matrix(mine), other)
        assert_close(linear.diagonal(mine), linear.diagonal(other))
        assert_close(linear.quadratic(mine, c[0]), linear.quadratic(other, c[0]))
        many = [linear.quadratic(other, row) for row in c]
        for form in (mine, other):
            assert_close(linear.quadratics(form, sparse.csr_matrix(c)), many)
        assert_close(jax.jit(linear.hat)(mine, x), linear.hat(other, dense))


@pytest.mark.parametrize("field", ["border", "cross", "diagonal"])
def test_derivatives(field):
    """Of the log determinant, in each part of the arrow."""
    dense = design(q=3, start=1)
    info = linear.weighted_crossproduct(weights(len(dense)), wide(dense))

    def log_determinant(part):
        return jnp.sum(linear.log_determinant(linear.cholesky(info._replace(**{field: part}))))

    slope = matrix(info._replace(**{field: jax.grad(log_determinant)(getattr(info, field))}))
    slope = (slope + np.swapaxes(slope, 1, 2)) / 2  # of the border one triangle is read
    inverse = np.linalg.inv(matrix(info))
    at = matrix(Arrow(*(jnp.full_like(a, a is getattr(info, field)) for a in info[:3]), info.span))
    twice = 2.0 if field == "cross" else 1.0  # an entry of the cross part stands in two places
    assert_close(slope * at, twice * inverse * at, 1e-10)


def test_not_positive_definite_is_that_gene_alone():
    dense = design()
    info = jax.tree.map(np.array, linear.weighted_crossproduct(weights(len(dense)), wide(dense)))
    info.diagonal[1, 3] = -1.0
    info.diagonal[2, 4] = 0.0
    info.border[3, -1, -1] = -1e3
    info.cross[4, 0, 2] = np.nan
    factor = linear.cholesky(info)
    good = [True, False, False, False, False, True]
    np.testing.assert_array_equal(linear.definite(factor), good)
    solution = linear.solve(factor, np.ones((G, dense.shape[1])))
    np.testing.assert_array_equal(np.isfinite(solution).all(axis=1), good)


def test_empty_border():
    dense = design(q=0, start=0, levels=20)
    dense = dense[dense.any(axis=1)]
    x, w = wide(dense), weights(len(dense))
    info = linear.weighted_crossproduct(w, x)
    factor = linear.cholesky(info)
    b = np.ones((G, dense.shape[1]))
    other = linear.weighted_crossproduct(w, dense)
    assert_close(linear.solve(factor, b), b / np.asarray(linear.diagonal(np.asarray(other))))
    assert_close(linear.log_determinant(factor), linear.log_determinant(linear.cholesky(other)))
    assert np.all(linear.definite(factor))
    second = [linear.weighted_crossproduct(weights(len(dense), 5), form) for form in (x, dense)]
    twin = linear.traces(linear.cholesky(other), other, second[1])
    for mine, expected in zip(linear.traces(factor, info, second[0]), twin, strict=True):
        assert_close(mine, expected)
    found = linear.sandwich(jax.tree.map(np.asarray, info), 0.1)
    for mine, expected in zip(found, linear.sandwich(np.asarray(other), 0.1), strict=True):
        assert_close(matrix(mine), expected)
        assert_close(linear.hat(mine, x), linear.hat(expected, dense))


@pytest.mark.parametrize("covariate", [False, True])
def test_null_spaces(covariate):
    dense = design(q=3, start=2, covariate=covariate)
    x, n = wide(dense), len(dense)
    rng = np.random.default_rng(9)
    y = rng.poisson(0.8, (n, 40))
    level = dense[:, 2:19]
    y[:, :20] *= (level @ np.ones(17) > 0)[:, None]  # no count in the reference level
    y[level[:, 3] > 0, 10:30] = 0
    y[dense[:, 1] > 0, 25:35] = 0  # nor where a column of the border is
    y[:, 39] = 0
    y[0, 39] = 1
    found = []
    for form in (x, dense):
        normal = linear.weighted_crossproduct(np.ones((n, 40)), form)
        positive = linear.weighted_crossproduct((y > 0) * 1.0, form)
        arrays = jax.tree.map(np.asarray, (normal, positive))
        total = np.asarray(np.ones((40, n)) @ form)
        found.append(linear.least_against(*arrays, total, 1e-9))
    (some, direction, onto), (expected, other, projector) = found
    np.testing.assert_array_equal(some, expected)
    assert len(some) > 25
    assert_close(matrix(onto), projector, 1e-9)
    assert_close(direction, other, 1e-8)  # of systems with rank to decide


def test_few_disjoint_columns_stay_dense():
    assert isinstance(arrow.wide(sparse.csc_matrix(design(levels=15))), np.ndarray)
    assert isinstance(arrow.wide(sparse.csc_matrix(design(levels=16))), Wide)
    crossed = np.column_stack([design(levels=16), design(levels=16, seed=5)[:, 1:18]])
    # A border longer than half the run.
    assert isinstance(arrow.wide(sparse.csc_matrix(crossed)), np.ndarray)
