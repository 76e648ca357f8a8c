"""A symmetric matrix that is known by its products only."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Float

Rows = Float[Array, "b d"]


@dataclass(frozen=True, eq=False)
class Operator:
    """A symmetric matrix A, d × d: a Hessian, an information matrix.

    Attributes
    ----------
    size
        d.
    dtype
        float32 or float64: of the vectors it takes and gives.
    kind
        "hessian", "gauss-newton", "fisher", "empirical-fisher" or "matrix".
    rows
        Products with many vectors at once: row v becomes row ``A v``.
    damping
        The multiple of the identity that is part of A: a prior's precision.
    lower
        A proven lower bound of the spectrum, above 0; None where none is known.
    noise
        ``noise(key, b)``: b independent normal rows of mean 0 and covariance A exactly; None where
        A has no factor at hand.
    """

    size: int
    dtype: Any
    kind: str
    rows: Callable[[Any], Any]
    damping: float = 0.0
    lower: float | None = None
    noise: Callable[[Any, int], Any] | None = None

    def __matmul__(self, v: Float[Array, "d"]) -> Float[Array, "d"]:
        """``A v``."""
        return self.rows(jnp.asarray(v, dtype=self.dtype)[None])[0]

    def bounded(self, lower: float) -> "Operator":
        """The same matrix, with a lower bound of its spectrum that the caller has proven."""
        return replace(self, lower=float(lower))


def matrix(a: Float[Any, "d d"], lower: float | None = None) -> Operator:
    """The operator of a symmetric matrix that is at hand.

    Parameters
    ----------
    a
        float32 or float64.
    lower
        A proven lower bound of its spectrum, if one is known.
    """
    held = jnp.asarray(a)
    return Operator(
        size=held.shape[0],
        dtype=np.dtype(held.dtype),
        kind="matrix",
        rows=lambda v: v @ held,
        lower=lower,
    )
