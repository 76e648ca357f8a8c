"""Unconstrained coordinates of parameters: a vector, and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Float

from .flat import Flat

Vector = Float[Array, "d"]


class Coordinates:
    """How parameters, constrained or not, become vectors and come back.

    Vectors are in the order of ``ravel_pytree`` of the unconstrained parameters.

    Parameters
    ----------
    theta
        Template.
    constraints
        Pytree of bijectors, a prefix of theta, or None.
    dtype
        Of vectors, and of the numbers that come back.

    Raises
    ------
    ValueError
        The template cannot be flattened.
    """

    def __init__(self, theta: Any, constraints: Any, dtype: Any = float) -> None:
        self.constraints, self.dtype = constraints, np.dtype(dtype)
        self.constrained = Flat(theta, "theta")
        free = theta if constraints is None else _each(constraints, theta, "inverse")
        self.free = Flat(free, "theta")

    @property
    def size(self) -> int:
        """Number of unconstrained parameters."""
        return self.free.size

    def forward(self, t: Vector) -> Any:
        """Parameters as the user knows them."""
        free = self.free.tree(t)
        if self.constraints is None:
            return free
        return cast(_each(self.constraints, free, "forward"), self.dtype)

    def start(self, theta: Any) -> Vector:
        """Unconstrained coordinates of parameters.

        Raises
        ------
        ValueError
            Not finite, or outside of the constraints: which entry.
        """
        given = np.asarray(self.constrained.vector(theta))
        if not np.all(np.isfinite(given)):
            at = int(np.flatnonzero(~np.isfinite(given))[0])
            msg = f"{self.constrained.label(at)} starts at {given[at]}, needed is a finite number"
            raise ValueError(msg)
        if self.constraints is None:
            return jnp.asarray(given, dtype=self.dtype)
        t = self.free.vector(_each(self.constraints, theta, "inverse"))
        if not np.all(np.isfinite(t)):
            at = int(np.flatnonzero(~np.isfinite(t))[0])
            msg = f"{self.free.label(at)} starts on or outside of its constraint; start inside"
            raise ValueError(msg)
        return jnp.asarray(t, dtype=self.dtype)


def cast(tree: Any, dtype: Any) -> Any:
    """The same with all floating-point numbers in one precision; integers stay as they are."""

    def one(leaf: Any) -> Any:
        kind = jnp.result_type(leaf)
        return jnp.asarray(leaf, dtype=dtype) if jnp.issubdtype(kind, jnp.floating) else leaf

    return jax.tree.map(one, tree)


def precision(theta: Any) -> np.dtype:
    """float32 where all numbers of theta are, else float64."""
    kinds = {np.dtype(jnp.result_type(leaf)) for leaf in jax.tree.leaves(theta)}
    real = {kind for kind in kinds if jnp.issubdtype(kind, jnp.floating)}
    return np.dtype(np.float32 if real == {np.dtype(np.float32)} else np.float64)


def _each(constraints: Any, tree: Any, way: str) -> Any:
    """Every constrained part of a tree through its bijector."""

    def one(constraint: Any, part: Any) -> Any:
        if constraint is None:
            return part
        return jax.tree.map(lambda a: getattr(constraint, way)(jnp.asarray(a, dtype=float)), part)

    leaf = lambda c: c is None or hasattr(c, "forward")  # noqa: E731
    return jax.tree.map(one, constraints, tree, is_leaf=leaf)
