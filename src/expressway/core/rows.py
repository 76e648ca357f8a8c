"""Problems that are sums over observations: the terms, the data, the weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._errors import InputError
from expressway._types import Array, Float

from .flat import is_number
from .system import System


class Weighted(NamedTuple):
    """Hyperparameters of a sum over observations."""

    weight: Float[Array, "n"]
    """How often each observation counts: 1."""
    hyper: Any
    """The others."""


class Supervised(NamedTuple):
    """What a term is made of that compares a model's outputs with targets."""

    model: Callable[..., Any]
    """``model(theta, input)``, of one input."""
    loss: Callable[..., Any]
    """``loss(outputs, target)``."""
    prior_precision: float
    """Of the penalty ``prior_precision / 2 |theta|²``, which may be 0."""


@dataclass(frozen=True, eq=False)
class Rows:
    """Observations of an additive problem, and what each adds.

    ``term(theta, hyper, row)`` is called with one row of the data.
    """

    term: Callable[..., Any]
    data: Any
    penalty: Callable[..., Any] | None
    count: int
    made: Supervised | None = None

    def total(self, theta: Any, hyper: Weighted) -> Any:
        """``sum_n weight_n term_n + penalty``."""
        terms = jax.vmap(lambda row: self.term(theta, hyper.hyper, row))(self.data)
        total = jax.tree.map(lambda a: jnp.tensordot(hyper.weight, a, 1), terms)
        if self.penalty is None:
            return total
        return jax.tree.map(jnp.add, total, self.penalty(theta, hyper.hyper))


def rows_of(
    term: Callable[..., Any],
    data: Any,
    penalty: Callable[..., Any] | None,
    made: Supervised | None = None,
) -> Rows:
    """Rows of data whose leaves have one first axis; `ValueError` where they have not."""
    data = jax.tree.map(jnp.asarray, data)
    counts = {np.shape(leaf)[0] if np.shape(leaf) else 0 for leaf in jax.tree.leaves(data)}
    if len(counts) != 1 or 0 in counts:
        shapes = [np.shape(leaf) for leaf in jax.tree.leaves(data)]
        msg = f"data have shapes {shapes}, needed is the same first axis of observations in all"
        raise ValueError(msg)
    return Rows(term, data, penalty, counts.pop(), made)


def supervised(
    model: Callable[..., Any], loss: Callable[..., Any], data: Any, prior_precision: float
) -> Rows:
    """Rows of inputs and targets, and what the loss of a model's outputs makes of them.

    Raises
    ------
    InputError
        The data are not inputs and targets, or the prior's precision is negative.
    """
    if not (isinstance(data, tuple | list) and len(data) == 2):
        msg = f"data are a {type(data).__name__}, needed are two: (inputs, targets)"
        raise InputError(msg)
    if not 0.0 <= prior_precision < np.inf:
        msg = f"prior_precision is {prior_precision}, needed is a number >= 0; 0 is no prior"
        raise InputError(msg)

    def term(theta: Any, hyper: Any, row: Any) -> Any:  # noqa: ARG001
        return loss(model(theta, row[0]), row[1])

    def penalty(theta: Any, hyper: Any) -> Any:  # noqa: ARG001
        numbers = (leaf for leaf in jax.tree.leaves(theta) if is_number(leaf))
        return 0.5 * prior_precision * sum(jnp.sum(jnp.square(leaf)) for leaf in numbers)

    made = Supervised(model, loss, float(prior_precision))
    return rows_of(term, tuple(data), penalty if prior_precision else None, made)


def weighted(rows: Rows | None, hyper: Any) -> Any:
    """Hyperparameters with the weights of observations."""
    if rows is None or isinstance(hyper, Weighted):
        return hyper
    return Weighted(jnp.ones(rows.count), hyper)


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
