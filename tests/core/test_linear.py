"""Small positive definite systems against NumPy."""

import jax
import numpy as np
import pytest

from expressway.core import linear

SIZES = range(1, 13)


@jax.jit
def all_of(a, b):
    """Everything the module says of a system, compiled as one function."""
    factor = linear.cholesky(a)
    found = factor, linear.solve(factor, b), linear.inverse(factor)
    return *found, linear.log_determinant(factor)


def positive_definite(p, genes=7, seed=0):
    """Matrices of condition up to about 1e4, on scales from 1e-3 to 1e6."""
    rng = np.random.default_rng(seed)
    orthogonal, _ = np.linalg.qr(rng.normal(size=(genes, p, p)))
    values = 10 ** rng.uniform(-2, 2, (genes, p))
    scale = 10 ** rng.uniform(-3, 6, (genes, 1, 1))
    a = scale * (orthogonal * values[:, None, :]) @ np.swapaxes(orthogonal, 1, 2)
    return (a + np.swapaxes(a, 1, 2)) / 2


@pytest.mark.parametrize("p", SIZES)
def test_equals_numpy(p):
    a = positive_definite(p)
    b = np.random.default_rng(1).normal(size=a.shape[:2])
    factor, solution, inverted, determinant = (np.asarray(f) for f in all_of(a, b))
    # Backward stable: |error| <= p * 2e-16 * condition (1e4) of the largest entry, 2e-11 at p = 12.
    scale = np.max(np.abs(a), axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(factor @ np.swapaxes(factor, 1, 2) / scale, a / scale, atol=1e-14)
    np.testing.assert_array_equal(factor, np.tril(factor))
    x = np.linalg.solve(a, b[..., None])[..., 0]
    size = np.max(np.abs(x), axis=1, keepdims=True)
    np.testing.assert_allclose(solution / size, x / size, atol=3e-11)
    inverse = np.linalg.inv(a)
    size = np.max(np.abs(inverse), axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(inverted / size, inverse / size, atol=3e-11)
    # The log of the determinant has the error of p relative ones of 2e-12.
    np.testing.assert_allclose(determinant, np.linalg.slogdet(a)[1], rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("p", SIZES)
def test_not_positive_definite_is_nan_for_that_gene_alone(p):
    a = positive_definite(p)
    bad = a.copy()
    bad[1] *= -1
    bad[3, -1, -1] = -1e9  # fails at the last column
    bad[5, 0, 0] = np.nan
    others = [0, 2, 4, 6]
    b = np.ones(a.shape[:2])
    found, clean = (jax.tree.map(np.asarray, all_of(matrices, b)) for matrices in (bad, a))
    for mine, expected in zip(found, clean, strict=True):
        np.testing.assert_array_equal(mine[others], expected[others])
    factor, solution, _, determinant = found
    for gene in (1, 3, 5):
        assert np.isnan(determinant[gene])
        assert np.isnan(factor[gene, -1, -1])
        assert np.all(np.isnan(solution[gene]))
    assert np.all(np.isfinite(solution[others]))
    assert np.all(np.isfinite(determinant[others]))


def test_singular_is_not_finite():
    a = np.stack([np.zeros((2, 2)), np.ones((2, 2)), np.eye(2)])
    solution = np.asarray(linear.solve(linear.cholesky(a), np.array([[1.0, 2.0]] * 3)))
    np.testing.assert_array_equal(np.isfinite(solution).all(axis=1), [False, False, True])


def test_genes_are_independent():
    a, order = positive_definite(4), np.array([5, 0, 6, 3, 1, 2, 4])
    b = np.ones(a.shape[:2])
    for mine, whole in zip(all_of(a[order], b), all_of(a, b), strict=True):
        np.testing.assert_array_equal(mine, whole[order])


@pytest.mark.parametrize("p", [3, 8])  # written out, and as a loop
def test_differentiates(p):
    a = positive_definite(p, genes=1) / 1e3
    slope = jax.jit(jax.jacfwd(lambda a: linear.log_determinant(linear.cholesky(a))))(a)[0, 0]
    # d log det / dA = A^-1, for an A whose lower triangle is read, twice off the diagonal.
    inverse = np.linalg.inv(a[0])
    size = np.max(np.abs(inverse))
    np.testing.assert_allclose((slope + slope.T) / size, 2 * inverse / size, atol=3e-11)
