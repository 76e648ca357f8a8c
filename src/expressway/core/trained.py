"""A point that is taken as it is: a network after training."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .coordinates import Coordinates, precision
from .minibatch import gradient, point_of
from .rows import weighted


@dataclass(frozen=True, eq=False)
class Trained:
    """Parameters that something else found, neither moved nor certified.

    Attributes
    ----------
    problem, theta, hyper
        The objective, its parameters as they were given, and hyperparameters with weights.
    gradient_norm
        Of the whole objective in unconstrained coordinates: how far from an optimum it is.
    """

    problem: Any
    theta: Any
    hyper: Any
    gradient_norm: float


def trained(objective: Any, theta: Any, hyper: Any = ()) -> Trained:
    """A point taken as it is, with its gradient norm.

    Nothing says that it is an optimum, so that its Hessian may be indefinite; its Gauss-Newton
    matrix and Fisher information are not. The gradient is summed over mini-batches, in float32
    where all of theta is.

    Parameters
    ----------
    objective
        An `Objective`.
    theta
        Parameters; precision and structure are kept.
    hyper
        Hyperparameters; with weights of observations if they are `Weighted`.

    Raises
    ------
    ValueError
        Parameters do not fit the model, are not finite or outside of their constraints.
    """
    hyper = weighted(objective.rows, hyper)
    if objective.rows is not None:
        found = gradient(point_of(objective, theta, hyper=hyper))
    else:
        coordinates = Coordinates(theta, objective.constraints, precision(theta))
        slope = jax.grad(lambda t: objective.fn(coordinates.forward(t), hyper))
        found = jax.jit(slope)(coordinates.start(theta))
    norm = float(np.linalg.norm(np.asarray(found, dtype=float)))
    return Trained(objective, jax.tree.map(jnp.asarray, theta), hyper, norm)
