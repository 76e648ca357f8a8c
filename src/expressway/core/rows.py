"""Problems that are sums over observations: the terms, the data, the weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Float

from .system import System


class Weighted(NamedTuple):
    """Hyperparameters of a sum over observations."""

    weight: Float[Array, "n"]
    """How often each observation counts: 1."""
    hyper: Any
    """The others."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Observations of an additive problem, and what each adds.

    ``term(theta, hyper, row)`` is called with one row of the data.
    """

    term: Callable[..., Any]
    data: Any
    penalty: Callable[..., Any] | None
    count: int

    def total(self, theta: Any, hyper: Weighted) -> Any:
        """``sum_n weight_n term_n + penalty``."""
        terms = jax.vmap(lambda row: self.term(theta, hyper.hyper, row))(self.data)
        total = jax.tree.map(lambda a: jnp.tensordot(hyper.weight, a, 1), terms)
        if self.penalty is None:
            return total
        return jax.tree.map(jnp.add, total, self.penalty(theta, hyper.hyper))


def rows_of(term: Callable[..., Any], data: Any, penalty: Callable[..., Any] | None) -> Rows:
    """Rows of data whose leaves have one first axis; `ValueError` where they have not."""
    data = jax.tree.map(jnp.asarray, data)
    counts = {np.shape(leaf)[0] if np.shape(leaf) else 0 for leaf in jax.tree.leaves(data)}
    if len(counts) != 1 or 0 in counts:
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(data)]
        msg = f"data have shapes {shapes}, needed is the same first axis of observations in all"
        raise ValueError(msg)
    return Rows(term, data, penalty, counts.pop())


def score_of(system: System, rows: Rows) -> Callable[..., Any]:
    """``score(t, hyper, row)``: one observation's part of the gradient or equation."""

    def term(t: Any, hyper: Any, row: Any) -> Any:
        found = rows.term(system.forward(t), hyper, row)
        return found if system.symmetric else system.constrained.vector(found)

    return jax.grad(term) if system.symmetric else term


def checked(rows: Rows | None, theta: Any, hyper: Any) -> None:
    """Nothing, where every observation's term is finite at the start.

    Raises
    ------
    ValueError
        One is not: which.
    """
    if rows is None:
        return
    if np.shape(hyper.weight) != (rows.count,):
        msg = f"{np.shape(hyper.weight)} weights for {rows.count} observations; give one for each"
        raise ValueError(msg)
    terms = jax.jit(jax.vmap(lambda row: rows.term(theta, hyper.hyper, row)))(rows.data)
    for leaf in jax.tree.leaves(terms):
        wrong = ~np.all(np.isfinite(np.asarray(leaf).reshape(rows.count, -1)), axis=1)
        if np.any(wrong):
            msg = (
                f"the term of observation {int(np.flatnonzero(wrong)[0])} is not finite at the "
                f"start ({int(np.sum(wrong))} of {rows.count}); start elsewhere, or leave it out"
            )
            raise ValueError(msg)
