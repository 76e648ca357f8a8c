"""A preconditioner that must be below its matrix."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg
from spectra import NAMES, SIZE, case, rows

from expressway._errors import Indefinite, InputError
from expressway.core import nystrom, operator

KEY = jax.random.key(0)


def dense(found):
    u = np.asarray(found.vectors, np.float64)
    return (u.T * np.asarray(found.values)) @ u + float(found.damping) * np.eye(u.shape[1])


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, np.float64) for name in NAMES), ("rank", np.float32), ("wide", np.float32)],
)
def test_is_below_the_matrix(name, dtype):
    a, _, held = case(name, dtype)
    found = nystrom.nystrom(held, 40, KEY)
    values = linalg.eigh(a, dense(found), eigvals_only=True)
    # eigh of the pair is off by some 1e-16 times the condition of P, up to 2e7 (the proof has 0).
    assert values[0] >= found.floor - 1e-16 * np.linalg.cond(a)
    # Rounding is 8 eps |A|, twice that with the guess of |A|, against the damping.
    assert found.floor > 1 / (1 + 20 * np.finfo(dtype).eps * np.linalg.cond(a))
    assert values[-1] < 0.99 * np.linalg.cond(a)
    u = np.asarray(found.vectors, np.float64)
    # Sums of 120 products, and vectors rounded to their precision.
    np.testing.assert_allclose(u @ u.T, np.eye(len(u)), atol=32 * np.finfo(dtype).eps)
    assert np.all(np.diff(found.values) <= 0)
    if name == "rank":
        # Of rank 30: nothing is left but rounding, 1e-6 of 100 against 1e-2 in float32.
        assert values[-1] < (1 + 1e-9 if dtype == np.float64 else 1.01)


def test_powers_are_those_of_the_matrix():
    found = nystrom.nystrom(case("wide").operator, 20, KEY)
    v = rows(3)
    values, basis = np.linalg.eigh(dense(found))
    for fn, power in ((found.solve, -1), (found.inverse_root, -0.5), (found.root, 0.5)):
        expected = v @ ((basis * values**power) @ basis.T)
        # Condition 1e4: eigh gives its power to 1e-12.
        np.testing.assert_allclose(fn(v), expected, rtol=1e-9, atol=1e-11 * abs(expected).max())
    single = nystrom.nystrom(case("wide", np.float32).operator, 20, KEY).solve(v.astype(np.float32))
    assert single.dtype == np.float32


def test_rank_is_doubled_on_products_that_are_there():
    seen = []
    held = case("wide").operator

    def counting(v):
        seen.append(np.asarray(v))
        return held.rows(v)

    counted = replace(held, rows=counting)
    found = nystrom.adapted(counted, KEY, first=8, most=32, ratio=1.0)
    assert [len(v) for v in seen] == [8, 8, 16]
    assert len(found.values) == 32
    blocks = np.concatenate(seen)
    # All test vectors are different: a rank of 32 is one of 32 directions.
    assert np.linalg.matrix_rank(blocks) == 32
    # Near what fresh vectors give: the values' sum differs by the sketch, a tenth at most here.
    fresh = nystrom.nystrom(held, 32, jax.random.key(1))
    assert found.values.sum() == pytest.approx(float(fresh.values.sum()), rel=0.1)
    # The rank is known after 32 + 32 vectors, at most half of the size.
    few = nystrom.adapted(case("rank").operator, KEY)
    assert len(few.values) == 32
    assert few.values[-1] < 1e-6


def test_what_it_cannot_do_is_refused():
    a, _, held = case("narrow")
    for bad in (None, 0.0, -1.0):
        with pytest.raises(InputError, match="lower bound"):
            nystrom.nystrom(replace(held, lower=bad), 10, KEY)
    with pytest.raises(InputError, match="rank 0"):
        nystrom.nystrom(held, 0, KEY)
    with pytest.raises(Indefinite, match="not positive definite"):
        nystrom.nystrom(operator.matrix(a - 20 * np.eye(SIZE), lower=0.1), 60, KEY)
    with pytest.raises(InputError, match="not finite"):
        nystrom.nystrom(replace(held, rows=lambda v: v * jnp.nan), 10, KEY)


def test_nothing_but_damping():
    found = nystrom.nystrom(operator.matrix(3 * np.eye(SIZE), lower=3.0), 10, KEY)
    v = rows(2)
    # What rounding leaves of G is below 1e-14.
    np.testing.assert_allclose(found.solve(v), v / 3, rtol=1e-12)
