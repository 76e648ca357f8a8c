"""Brackets of quadratic forms: never on the wrong side."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from spectra import NAMES, SIZE, case, rows, solved

from expressway._errors import Indefinite
from expressway.core import conjugate, nystrom, operator, quadrature

KEY = jax.random.key(0)


def values(a, g):
    return np.sum(solved(a, g) * g, axis=1)


@pytest.mark.parametrize(
    ("name", "dtype"), [*((name, np.float64) for name in NAMES), ("wide", np.float32)]
)
def test_value_is_between_at_every_step(name, dtype):
    a, _, held = case(name, dtype)
    # White rows, and smooth ones: those along large eigenvalues show the preconditioner's rounding.
    g = np.concatenate([rows(2), rows(2) @ a / np.linalg.norm(a)]).astype(dtype)
    value = values(a, g)
    for p in (None, nystrom.nystrom(held, 40, KEY)):
        rules, steps = quadrature.Rules(held, g, p, 0.0), []

        def watch(step, rules=rules, steps=steps):
            done = rules(step)
            at = step.which
            assert np.all(rules.lower[at] <= value[at])
            assert np.all(rules.upper[at] >= value[at])
            steps.append(float(np.max(rules.upper / rules.lower.clip(1e-300))))
            return done

        conjugate.run(held, np.zeros_like(g), g, p, watch, 8 * SIZE)
        # And they do come together, to 8 times rounding times the condition.
        assert steps[-1] < 1 + max(1e-12, 16 * float(np.finfo(dtype).eps) * np.linalg.cond(a))
        assert len(steps) < 8 * SIZE


@pytest.mark.parametrize("rtol", [1e-2, 1e-6])
def test_width_is_what_was_asked_for(rtol):
    a, _, held = case("wide")
    g = np.concatenate([rows(3), np.zeros((1, SIZE))])
    value = values(a, g)
    plain = quadrature.brackets(held, g, rtol)
    helped = quadrature.brackets(held, g, rtol, preconditioner=nystrom.nystrom(held, 40, KEY))
    for found in (plain, helped):
        assert found.certified
        assert np.all(found.upper - found.lower <= rtol * found.lower)
        assert np.all((found.lower <= value) & (value <= found.upper))
        assert found.lower[3] == found.upper[3] == 0
    assert helped.matvecs < 0.7 * plain.matvecs


def test_factored_products_keep_more_digits():
    rng = np.random.default_rng(4)
    factor = (np.logspace(0, -2, 60)[:, None] * rng.normal(size=(60, SIZE))).astype(np.float32)
    mu = 1e-4  # of a largest eigenvalue of some 300: condition 3e6, beyond float32's 8e6 / 4
    exact = factor.astype(np.float64)
    a = exact.T @ exact + mu * np.eye(SIZE)
    held = operator.Operator(
        size=SIZE,
        dtype=np.dtype(np.float32),
        kind="gauss-newton",
        rows=jax.jit(lambda v: (v @ factor.T) @ factor + np.float32(mu) * v),
        damping=mu,
        lower=mu,
    )
    g = (rng.normal(size=(4, 60)) @ exact).astype(np.float32)
    value = values(a, g)
    preconditioner = nystrom.nystrom(held, 60, KEY)
    found = quadrature.brackets(held, g, 1e-3, preconditioner=preconditioner)
    assert np.all((found.lower <= value) & (value <= found.upper))
    assert np.all(found.upper - found.lower <= 1e-3 * found.lower)
    # As sums of d products, they would tell nothing of the sort.
    wide = quadrature.brackets(replace(held, kind="matrix"), g, 1e-3, preconditioner=preconditioner)
    assert np.all(wide.upper - wide.lower > 1e-3 * wide.lower)


def test_without_a_bound_there_is_no_upper_one():
    a, _, _ = case("wide")
    g = rows()
    value = values(a, g)
    found = quadrature.brackets(operator.matrix(a), g, 1e-4)
    assert not found.certified
    assert np.all(np.isinf(found.upper))
    assert np.all(found.lower <= value)
    # The smallest Ritz value has found the end of this spectrum.
    np.testing.assert_allclose(found.lower, value.astype(np.float64), rtol=1e-4)


def test_bounds_hold_when_steps_run_out_and_indefinite_is_refused():
    a, _, held = case("wide")
    g = rows()
    found = quadrature.brackets(held, g, 1e-8, max_steps=5)
    value = values(a, g)
    assert np.all((found.lower < value) & (value < found.upper))
    assert found.matvecs == 5 * len(g)
    with pytest.raises(Indefinite, match="not positive definite"):
        quadrature.brackets(operator.matrix(a - 100 * np.eye(SIZE)), g, 1e-8)
