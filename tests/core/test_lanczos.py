"""Roots of matrices that are known by their products: errors, bounds, closed spaces, refusals."""

import numpy as np
import pytest
from matfree import decomp, funm

from expressway._errors import Indefinite, Unfinished
from expressway.core import lanczos
from expressway.core.operator import Operator, matrix

SIZE = 300


def spectrum(name: str) -> np.ndarray:
    """Eigenvalues, from the smallest."""
    if name == "condition 35":
        return np.geomspace(1.0, 35.0, SIZE)
    if name == "low rank":
        return np.concatenate([np.full(SIZE - 60, 1e-2), np.geomspace(1.0, 300.0, 60)])
    if name == "log-uniform":
        return np.geomspace(1.0, 1e4, SIZE)
    # That of BB', B square: the smallest as 1 / SIZE² of the largest.
    return np.sort(np.linalg.svd(np.random.default_rng(3).normal(size=(SIZE, SIZE)))[1] ** 2)


@pytest.fixture(scope="module")
def basis() -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(0).normal(size=(SIZE, SIZE)))[0]


def known(values: np.ndarray, basis: np.ndarray, z: np.ndarray) -> np.ndarray:
    """``A^(-1/2) z`` by what A was made of."""
    return (z @ basis / np.sqrt(values)) @ basis.T


def counted(a: np.ndarray, lower: float | None) -> tuple[Operator, list[int]]:
    """An operator of NumPy products, and how many there were."""
    calls: list[int] = []

    def rows(v: np.ndarray) -> np.ndarray:
        calls.append(len(v))
        return np.asarray(v) @ a

    return Operator(len(a), a.dtype, "matrix", rows, lower=lower), calls


@pytest.mark.parametrize("name", ["condition 35", "low rank", "log-uniform", "square"])
@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("rtol", [1e-2, 1e-4, 1e-8])
def test_bound_is_above_the_error(name: str, block: int, rtol: float, basis: np.ndarray):
    """Whatever the spectrum: error below bound, bound below what was asked for."""
    values = spectrum(name)
    a = (basis * values) @ basis.T
    z = np.random.default_rng(1).normal(size=(3, SIZE))
    exact = known(values, basis, z)
    for lower in (values[0], None):
        operator, calls = counted(0.5 * (a + a.T), lower)
        found = lanczos.inverse_root(operator, z, rtol, block=block)
        error = np.linalg.norm(found.rows - exact, axis=1) / np.linalg.norm(exact, axis=1)
        assert found.certified == (lower is not None)
        assert np.all(error <= found.bound)
        assert np.all(found.bound <= rtol)
        assert found.matvecs == sum(calls)


def test_bound_holds_after_every_step(basis: np.ndarray):
    """Not only where it is met; and the textbook recurrence goes wrong where this does not."""
    values = spectrum("low rank")
    a = (basis * values) @ basis.T
    z = np.random.default_rng(2).normal(size=(2, SIZE))
    exact = known(values, basis, z)
    before = np.inf
    for steps in (5, 10, 20, 40, 60, 80):
        found = lanczos.inverse_root(matrix(a, values[0]), z, 1e-9, steps=steps, block=1)
        error = np.linalg.norm(found.rows - exact, axis=1) / np.linalg.norm(exact, axis=1)
        assert np.all(error <= found.bound)
        assert np.max(error) < before
        before = max(float(np.max(error)), 1e-13)
    # Sixty large eigenvalues and one more: closed, so exact but for rounding (eps κ is 7e-12).
    assert np.max(error) < 1e-11


def test_second_row_does_not_live_on_the_first_ones_basis(basis: np.ndarray):
    """With a basis that the first row left, a second one alone would be off by its whole length."""
    values = spectrum("low rank")
    a = (basis * values) @ basis.T
    z = np.random.default_rng(5).normal(size=(6, SIZE))
    operator, calls = counted(a, values[0])
    found = lanczos.inverse_root(operator, z, 1e-6, block=1)
    exact = known(values, basis, z)
    error = np.linalg.norm(found.rows - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert np.all(error <= found.bound)
    assert np.all(found.bound <= 1e-6)
    # Later rows profit all the same.
    assert len(calls) < 6 * lanczos.inverse_root(operator, z[:1], 1e-6).matvecs


def test_closed_space_is_exact():
    """An invariant space after two steps, a zero row, equal rows: nothing is divided by zero."""
    values = np.array([2.0] * 100 + [5.0] * 100)
    operator, _ = counted(np.diag(values), 2.0)
    z = np.random.default_rng(4).normal(size=(3, 200))
    z[1] = z[0]
    z[2] = 0.0
    found = lanczos.inverse_root(operator, z, 1e-10)
    # Rounding of products of order one, over 200 terms.
    np.testing.assert_allclose(found.rows, z / np.sqrt(values), rtol=0, atol=1e-13)
    assert found.matvecs == 2


def test_float32(basis: np.ndarray):
    """Stays in float32, and says what that costs."""
    values = spectrum("low rank")
    a = ((basis * values) @ basis.T).astype(np.float32)
    z = np.random.default_rng(1).normal(size=(3, SIZE)).astype(np.float32)
    exact_values, exact_basis = np.linalg.eigh(a.astype(float))
    exact = known(exact_values, exact_basis, z.astype(float))
    found = lanczos.inverse_root(matrix(a, 0.99 * exact_values[0]), z, 1e-2)
    error = np.linalg.norm(found.rows - exact, axis=1) / np.linalg.norm(exact, axis=1)
    assert found.rows.dtype == np.float32
    assert np.all(error <= found.bound)
    with pytest.raises(Unfinished, match="rounding of float32"):
        lanczos.inverse_root(matrix(a, 0.99 * exact_values[0]), z, 1e-6)


def test_indefinite_is_refused(basis: np.ndarray):
    values = spectrum("condition 35")
    values[0] = -3.0
    with pytest.raises(Indefinite, match=r"Ritz value -\d.*prior_precision above"):
        lanczos.inverse_root(matrix((basis * values) @ basis.T), np.ones((1, SIZE)), 1e-6)


def test_little_memory_is_said(basis: np.ndarray):
    values = spectrum("log-uniform")
    operator = matrix((basis * values) @ basis.T, 1.0)
    with pytest.raises(Unfinished, match="memory") as failed:
        lanczos.inverse_root(operator, np.ones((2, SIZE)), 1e-8, memory=2 * 40 * SIZE * 8)
    assert np.all(failed.value.point.bound > 1e-8)  # what was reached is not lost


def test_one_vector_is_matfrees_recurrence(basis: np.ndarray):
    """Another implementation of the same mathematics, on a spectrum that keeps orthogonality."""
    a = (basis * spectrum("condition 35")) @ basis.T
    z, m = np.random.default_rng(6).normal(size=SIZE), 12
    _, t, *_ = decomp.tridiag_sym(m)(lambda v: a @ v, z)
    root = funm.dense_funm_sym_eigh(lambda x: x ** (-0.5))(t)[:, 0]
    found = lanczos.inverse_root(matrix(a, 1.0), z[None], 1e-9, steps=m)
    # Lengths agree to the rounding of T's entries.
    np.testing.assert_allclose(
        np.linalg.norm(found.rows), np.linalg.norm(z) * np.linalg.norm(root), rtol=1e-12
    )
