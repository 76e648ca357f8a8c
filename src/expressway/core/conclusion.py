"""A quantity of a solution with its standard error: what a conclusion rests on."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Int

from .inverse import linear_solve
from .system import System


class Conclusion(NamedTuple):
    """A quantity, its standard error, and their ratio."""

    estimate: float
    standard_error: float
    statistic: float


class Influential(NamedTuple):
    """The smallest set found, or that none was."""

    found: bool
    observations: Int[np.ndarray, "k"]
    """In the order in which they were chosen; where none was found, those that were tried last."""
    before: Conclusion
    after: Conclusion
    """Of the refit without them."""
    predicted: int
    """How many observations first-order scores of the whole fit ask for; -1 if all do not do."""
    method: str
    """How the set was found: "first-order", "greedy" or "exhaustive"."""
    smallest: bool
    """Every smaller set was tried, by a Newton step without it (exact for least squares)."""
    refits: int
    reason: str


class Question(NamedTuple):
    """What is asked of a solution."""

    system: System
    quantity: Callable[[Any], Any]
    standard_error: str
    index: Any


def concluded(asked: Question, inverse: Any, t: Any, h: Any, held: Any) -> tuple[Any, Any]:
    """Estimate and standard error, differentiable in t and h.

    With ``x = A⁻ᵀ dphi/dt``: sandwich ``sqrt(sum_n (w_n x' g_n)²)``, Hessian ``sqrt(dphi' x)``.
    """
    system, quantity, kind, index = asked
    estimate, slope = jax.value_and_grad(lambda t: quantity(system.forward(t)))(t)

    def transposed(v: Any) -> Any:
        if system.symmetric:
            return system.push(t, h, held, v)
        return jax.vjp(lambda t: system.raw(t, h, held), t)[1](v)[0]

    x = linear_solve(_Turned(inverse), transposed, slope, symmetric=system.symmetric)
    if kind == "hessian":
        return estimate, jnp.sqrt(slope @ x)
    by_weight = jax.grad(lambda h: x @ system.raw(t, h, held))(h)
    return estimate, jnp.sqrt(jnp.sum((h * by_weight)[index] ** 2))


def no_product(v: Any) -> Any:
    """What a factorisation does not look at."""
    return v


class _Turned(NamedTuple):
    """The inverse of the transpose."""

    inverse: Any

    def solve(self, product: Any, b: Any) -> Any:
        return self.inverse.transposed(product, b)

    def transposed(self, product: Any, b: Any) -> Any:
        return self.inverse.solve(product, b)
