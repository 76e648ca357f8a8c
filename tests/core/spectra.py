"""Matrices of known difficulty, and answers with digits to spare."""

import functools
from typing import NamedTuple

import numpy as np

from expressway.core import operator
from expressway.core.threads import one_each

SIZE = 120
NAMES = ("narrow", "rank", "wide", "square")


class Case(NamedTuple):
    a: np.ndarray
    lower: float
    operator: operator.Operator


@functools.cache
@one_each()
def case(name, dtype=np.float64, *, size=SIZE):
    """Condition 35; rank 30 + 1e-2 I; log-uniform to 1e4; BB' of condition 2e7."""
    rng = np.random.default_rng(0)
    basis, _ = np.linalg.qr(rng.normal(size=(size, size)))
    few = size // 4
    if name == "square":
        other = np.random.default_rng(5).normal(size=(size, size))
        a = other @ other.T
    else:
        spectrum = {
            "narrow": np.linspace(1, 35, size),
            "rank": np.r_[rng.uniform(1, 100, few), np.zeros(size - few)] + 1e-2,
            "wide": np.logspace(0, 4, size),
        }[name]
        a = (basis * spectrum) @ basis.T
    a = ((a + a.T) / 2).astype(dtype)
    exact = a.astype(np.float64)
    values = np.linalg.eigvalsh(exact)
    # What eigvalsh may be off by: 30 eps |A|. A bound as near as can be is the hardest one.
    lower = float(values[0] - 30 * 2.2e-16 * values[-1])
    return Case(exact, lower, operator.matrix(a, lower=lower))


def rows(n=4, dtype=np.float64, *, size=SIZE, seed=1):
    return np.random.default_rng(seed).normal(size=(n, size)).astype(dtype)


@one_each()
def solved(a, b):
    """``A⁻¹ b`` to about 1e-18: refined with residuals in extended precision."""
    b = b.astype(np.longdouble)
    x = np.zeros_like(b)
    for _ in range(4):
        residual = (b - x @ a.astype(np.longdouble)).astype(np.float64)
        x = x + np.linalg.solve(a, residual.T).T
    return x
