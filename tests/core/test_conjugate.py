"""Conjugate gradients for many rows, against dense solutions."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from spectra import NAMES, SIZE, case, rows, solved

from expressway._errors import Indefinite, InputError
from expressway.core import conjugate, nystrom, operator

KEY = jax.random.key(0)


def errors(a, found, x):
    """Relative, in the 2-norm and the norm of A."""
    e = np.asarray(found.rows).astype(np.longdouble) - x
    norm = np.sqrt(np.sum(e * e, 1) / np.sum(x * x, 1))
    return norm, np.sqrt(np.sum((e @ a) * e, 1) / np.sum((x @ a) * x, 1))


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, np.float64) for name in NAMES), ("wide", np.float32)]
)
def test_bounds_are_above_the_errors(name, dtype):
    a, _, held = case(name, dtype)
    b = rows(4, dtype)
    x = solved(a, b)
    preconditioner = nystrom.nystrom(held, 40, KEY)
    spent = {}
    for rtol in (1e-2, 1e-8):
        for p in (None, preconditioner):
            found = conjugate.solve(held, b, rtol, preconditioner=p)
            norm, energy = errors(a, found, x)
            assert found.certified
            assert np.all(found.bound >= norm)
            assert np.all(found.energy >= energy)
            spent[rtol, p is None] = found.matvecs
            # As asked for, unless rounding times the condition is above it.
            reach = 8 * float(np.finfo(dtype).eps) * np.linalg.cond(a)
            assert np.all(found.bound <= max(rtol, reach))
    if dtype == np.float64 and name in ("rank", "wide"):
        assert spent[1e-8, False] < 0.7 * spent[1e-8, True]


def test_rows_that_are_done_leave():
    a, _, held = case("wide")
    values, vectors = np.linalg.eigh(a)
    # Twelve eigenvectors take a step each, three rows take all; one is zero.
    b = np.concatenate([vectors[:, :12].T * values[:12, None], rows(3), np.zeros((1, SIZE))])
    seen = []

    def counting(v):
        seen.append(len(v))
        return held.rows(v)

    before = conjugate._plus._cache_size()
    found = conjugate.solve(replace(held, rows=counting), b, 1e-6)
    # One program for a number of slots: 16 and 4.
    assert conjugate._plus._cache_size() - before <= 2
    assert set(seen) == {16, 4}
    assert seen.count(16) <= 6
    assert found.matvecs < sum(seen)
    norm, _ = errors(a, conjugate.Solved(found.rows[:15], *found[1:]), solved(a, b[:15]))
    assert np.all(norm <= found.bound[:15])
    assert found.bound.max() <= 1e-6
    assert found.bound[15] == 0
    np.testing.assert_array_equal(found.rows[15], 0)


def test_batches_that_fit_memory_give_the_same(monkeypatch):
    held = case("narrow").operator
    whole = conjugate.solve(held, rows(9), 1e-6)
    monkeypatch.setattr(conjugate, "MEMORY", 4 * 6 * SIZE * 8)
    assert conjugate.fitting(held) == 4
    parts = conjugate.solve(held, rows(9), 1e-6)
    # Each is within its bound of the solution.
    np.testing.assert_allclose(whole.rows, parts.rows, atol=2e-6 * abs(whole.rows).max())
    assert parts.matvecs == whole.matvecs


def test_negative_curvature_is_named():
    a = case("narrow").a - 2 * np.eye(SIZE)
    with pytest.raises(Indefinite, match=r"Rayleigh quotient -.*gauss-newton"):
        conjugate.solve(operator.matrix(a), rows(), 1e-8)
    # A bound that the products disprove is no bound.
    with pytest.raises(Indefinite, match="not positive definite"):
        conjugate.solve(operator.matrix(a - 10 * np.eye(SIZE), lower=1e-3), rows(), 1e-8)
    held = case("narrow").operator
    with pytest.raises(InputError, match="not finite"):
        conjugate.solve(replace(held, rows=lambda v: v * jnp.nan), rows(), 1e-8)


def test_without_a_bound_it_is_an_estimate():
    a, _, held = case("wide")
    bare = operator.matrix(a)
    b = rows()
    x = solved(a, b)
    for p in (None, nystrom.nystrom(held, 40, KEY)):
        found = conjugate.solve(bare, b, 1e-4, preconditioner=p)
        norm, _ = errors(a, found, x)
        assert not found.certified
        # Ritz values have found the end of this spectrum long before.
        assert np.all(norm < found.bound)
        assert np.all(found.bound <= 1e-4)


def test_steps_may_run_out():
    a, _, held = case("wide")
    found = conjugate.solve(held, rows(), 1e-8, max_steps=30)
    norm, _ = errors(a, found, solved(a, rows()))
    assert np.all(found.bound > 1e-8)
    assert np.all(found.bound >= norm)


def test_perturb_and_solve():
    rng = np.random.default_rng(3)
    factor = rng.normal(size=(40, SIZE))
    a = factor.T @ factor + 0.1 * np.eye(SIZE)

    def noise(key, n):
        white = np.random.default_rng(int(jax.random.key_data(key)[1]))
        return white.normal(size=(n, 40)) @ factor + 0.1**0.5 * white.normal(size=(n, SIZE))

    held = replace(operator.matrix(a, lower=0.1), noise=noise, kind="gauss-newton", damping=0.1)
    found = conjugate.perturb_and_solve(held, KEY, 4, 1e-6)
    norm, energy = errors(a, found, solved(a, np.asarray(noise(KEY, 4))))
    assert np.all(norm <= found.bound)
    assert np.all(energy <= found.energy)
    assert np.all(found.bound <= 1e-6)
    with pytest.raises(InputError, match="no factor"):
        conjugate.perturb_and_solve(replace(held, noise=None), KEY, 4, 1e-6)
