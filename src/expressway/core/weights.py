"""Weights of observations among the hyperparameters, and what each observation adds."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Float

from .inverse import each_row
from .rows import Rows, Weighted, score_of
from .solution import Solution, Stage
from .system import System, kept


def linear_response(fit: Solution, quantity: Callable[[Any], Any] | None = None) -> Any:
    """Linear-response covariance of a variational fit: ``J H⁻¹ J'``.

    For an objective KL(q_eta || p), the covariance under the posterior of what has the mean
    ``quantity(eta)`` under q, corrected for what a factorised q leaves out (Giordano, Broderick &
    Jordan 2018, Covariances, Robustness and Variational Bayes, JMLR 19:51, eq. 9). H is the
    Hessian, J the derivative of the quantity. Of a negative log-likelihood it is the delta method.

    Parameters
    ----------
    fit
        A minimum.
    quantity
        Function of theta, its result an array; theta as a vector (ravel_pytree) when not given.
    """
    stage = fit.stages[-1]
    if len(fit.stages) > 1 or not stage.system.symmetric:
        msg = "linear response is of one objective's minimum, not of an equation or stages"
        raise ValueError(msg)
    system, t = stage.system, jnp.asarray(stage.found.t)
    of = quantity or system.constrained.vector
    slope = jax.jacrev(lambda t: jnp.ravel(of(system.forward(t))))(t)
    return slope @ solved_many(stage, slope).T


def solved_many(stage: Stage, rows: Float[Array, "m d"]) -> Float[Array, "m d"]:
    """``A⁻¹`` times each row."""
    product = stage.functions.product
    t = jnp.asarray(stage.found.t)
    return each_row(stage.inverse, functools.partial(product, t), jnp.asarray(rows))


def weights_of(fit: Solution, name: str | None) -> tuple[Any, Callable[[Any], Any]]:
    """The weights, and hyperparameters with other weights in their place."""
    hyper = fit.hyper
    if isinstance(hyper, Weighted) and name is None:
        return hyper.weight, lambda w: hyper._replace(weight=w)
    if name is None:
        if isinstance(hyper, jax.Array | np.ndarray) and hyper.ndim == 1:
            return hyper, lambda w: w
        msg = (
            f"the hyperparameters ({jax.tree.structure(hyper)}) are not weights; say which are: "
            'jackknife(fit, weights="name"), or use Objective.additive'
        )
        raise ValueError(msg)
    if isinstance(hyper, dict) and name in hyper:
        found = hyper[name]
        place: Callable[[Any], Any] = lambda w: {**hyper, name: w}  # noqa: E731
    elif isinstance(hyper, tuple) and name in getattr(hyper, "_fields", ()):
        found = getattr(hyper, name)
        place = lambda w: hyper._replace(**{name: w})  # pyright: ignore  # noqa: E731
    else:
        msg = f"the hyperparameters ({jax.tree.structure(hyper)}) have no {name!r} to weight with"
        raise ValueError(msg)
    if np.ndim(found) != 1:
        msg = f"{name!r} has shape {np.shape(found)}, needed is one weight for each observation"
        raise ValueError(msg)
    return found, place


def scores(fit: Solution) -> Float[Array, "n d"]:
    """Gradient of each observation's term in unconstrained coordinates, not weighted."""
    stage, rows = fit.stages[0], fit.problem.rows
    return _scores(stage.system, rows)(stage.found.t, fit.hyper.hyper, rows.data)


@kept
def _scores(system: System, rows: Rows) -> Callable[..., Any]:
    return jax.jit(jax.vmap(score_of(system, rows), in_axes=(None, None, 0)))


def in_users(stage: Stage, moves: Float[Array, "m d"]) -> Float[Array, "m e"]:
    """Moves in unconstrained coordinates as moves of the user's parameters."""
    system = stage.system
    if system.plain:
        return moves
    t = jnp.asarray(stage.found.t)

    def user(v: Any) -> Any:
        def forward(t: Any) -> Any:
            return system.constrained.vector(system.forward(t))

        return jax.jvp(forward, (t,), (v,))[1]

    return jax.jit(jax.vmap(user))(moves)
