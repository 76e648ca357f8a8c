"""A solution, or a point taken as it is, as draws of parameters see it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from expressway._errors import InputError
from expressway._types import Float

from . import minibatch, operators
from .coordinates import Coordinates, precision
from .operator import Operator
from .problem import Objective
from .solution import Solution
from .source import Source
from .trained import Trained
from .weights import scores as each_score

_KINDS: dict[str, Callable[..., Operator]] = {
    "hessian": operators.hessian,
    "gauss-newton": operators.gauss_newton,
    "fisher": operators.fisher,
    "empirical-fisher": operators.empirical_fisher,
}


def source(fit: Solution | Trained) -> Source:
    """What draws need of a fit: operators, scores, and parameters from vectors.

    Vectors are of unconstrained coordinates, so that parameters made of them keep to their
    constraints. Weights of observations count in operators and scores.

    Parameters
    ----------
    fit
        A solution of one objective or equation, or a trained point. An equation has scores only:
        its Jacobian is no information matrix.

    Raises
    ------
    InputError
        A solution of several stages.
    """
    coordinates, t = place(fit)
    problem = fit.problem

    def operator(kind: str, damping: float) -> Operator:
        if not isinstance(problem, Objective):
            msg = 'an equation has no information matrix; take kind "sandwich", or an objective'
            raise InputError(msg)
        if kind not in _KINDS:
            msg = f"kind {kind!r}, needed is one of {', '.join(_KINDS)}"
            raise InputError(msg)
        return _KINDS[kind](problem, fit.theta, hyper=fit.hyper, prior_precision=damping)

    return Source(
        operator=operator,
        scores=_scores(fit),
        observations=0 if problem.rows is None else problem.rows.count,
        shaped=lambda deviations: shaped(coordinates, t, fit.theta, deviations),
        dtype=coordinates.dtype,
    )


def place(fit: Solution | Trained) -> tuple[Coordinates, Float[Any, "d"]]:
    """Unconstrained coordinates, and where the fit is in them; errors as of `source`."""
    if isinstance(fit, Solution):
        if fit.staged:
            msg = "this is a solution of several stages; take that of one objective or equation"
            raise InputError(msg)
        (stage,) = fit.stages
        return stage.system.coordinates, jnp.asarray(stage.found.t)
    coordinates = Coordinates(fit.theta, fit.problem.constraints, precision(fit.theta))
    return coordinates, coordinates.start(fit.theta)


def _scores(fit: Solution | Trained) -> Callable[[Any], Any] | None:
    problem = fit.problem
    if problem.rows is None:
        return None
    if isinstance(fit, Trained) or isinstance(problem, Objective):
        return minibatch.scores(minibatch.point_of(problem, fit.theta, hyper=fit.hyper))
    each = jnp.asarray(each_score(fit)) * jnp.asarray(fit.hyper.weight)[:, None]
    return lambda weights: jnp.asarray(weights) @ each


def shaped(
    coordinates: Coordinates, t: Float[Any, "d"], theta: Any, deviations: Float[Any, "b d"]
) -> Any:
    """Parameters with a leading axis b; each leaf in the precision that theta's has."""
    moved = t[None] + jnp.asarray(deviations, dtype=coordinates.dtype)
    if coordinates.constraints is None:
        found = coordinates.free.trees(np.asarray(moved))
    else:
        found = jax.jit(jax.vmap(coordinates.forward))(moved)
    return jax.tree.map(lambda a, b: a.astype(jnp.result_type(b)), found, theta)
