"""The flat functions of a problem: vectors in, vectors out, each compiled once."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import eval_jaxpr
from jax.extend import core

from expressway._types import Array, Float

from .coordinates import Coordinates
from .flat import Flat

Vector = Float[Array, "d"]
Hyper = Float[Array, "p"]
# Columns of a Hessian that are computed together.
COLUMNS = 256


def kept(make: Callable[..., Any]) -> Callable[..., Any]:
    """A function of a system, or of a stage, whose results are kept with it.

    A cache of its own would keep the data of problems that are long forgotten. The first argument
    has a dictionary ``kept``; the others are told apart by what they are.
    """

    @functools.wraps(make)
    def found(owner: Any, *args: Any) -> Any:
        key = (make, *args)
        if key not in owner.kept:
            owner.kept[key] = make(owner, *args)
        return owner.kept[key]

    return found


class System:
    """An objective's gradient, or an equation, as a function of two vectors.

    ``gradient(t, h, c)`` with t the parameters (unconstrained coordinates), h the hyperparameters
    and c the arrays that the user's function holds: they are arguments, not constants, so that XLA
    does not fold data into programs.

    Parameters
    ----------
    fn
        ``fn(theta, hyper)``, a scalar if symmetric, else a pytree like theta.
    theta, hyper
        Templates.
    constraints
        Pytree of bijectors, a prefix of theta, or None.
    symmetric
        Whether fn is an objective: its gradient is solved for, and the Jacobian is symmetric.

    Raises
    ------
    ValueError
        What fn returns has the wrong shape, or a template cannot be flattened.
    """

    def __init__(
        self, fn: Callable[..., Any], theta: Any, hyper: Any, constraints: Any, *, symmetric: bool
    ) -> None:
        self.symmetric, self.coordinates = symmetric, Coordinates(theta, constraints)
        self.kept: dict[Any, Any] = {}
        self.constrained, self.theta = self.coordinates.constrained, self.coordinates.free
        self.hyper = Flat(hyper, "hyper")

        def flat(t: Vector, h: Hyper) -> Any:
            found = fn(self.forward(t), self.hyper.tree(h))
            return _scalar(found) if symmetric else self._like_theta(found)

        shapes = (jax.ShapeDtypeStruct((f.size,), float) for f in (self.theta, self.hyper))
        program = jax.make_jaxpr(flat)(*shapes)
        self.held = tuple(program.consts)
        self._bare = program.jaxpr

    @property
    def plain(self) -> bool:
        """Whether parameters are their own coordinates: no constraints."""
        return self.coordinates.constraints is None

    def forward(self, t: Vector) -> Any:
        """Parameters as the user knows them."""
        return self.coordinates.forward(t)

    def start(self, theta: Any) -> Vector:
        """Unconstrained coordinates of parameters; errors as of `Coordinates.start`."""
        return self.coordinates.start(theta)

    def _value(self, t: Vector, h: Hyper, c: Any) -> Any:
        return eval_jaxpr(self._bare, c, t, h)[0]

    def raw(self, t: Vector, h: Hyper, c: Any) -> Vector:
        """The gradient or equation, not compiled: to be part of something larger."""
        return jax.grad(self._value)(t, h, c) if self.symmetric else self._value(t, h, c)

    def push(self, t: Vector, h: Hyper, c: Any, v: Vector) -> Vector:
        """The Jacobian in t times a vector: forward over reverse, not compiled."""
        return jax.jvp(lambda t: self.raw(t, h, c), (t,), (v,))[1]

    @functools.cached_property
    def both(self) -> Callable[..., tuple[Any, Vector]]:
        """Objective and its gradient; half the squared norm of an equation, and the equation."""
        if self.symmetric:
            return jax.jit(jax.value_and_grad(self._value))

        def equation(t: Vector, h: Hyper, c: Any) -> tuple[Any, Vector]:
            found = self._value(t, h, c)
            return 0.5 * jnp.sum(found**2), found

        return jax.jit(equation)

    @functools.cached_property
    def product(self) -> Callable[..., Vector]:
        """`push`, compiled."""
        return jax.jit(self.push)

    @functools.cached_property
    def jacobian(self) -> Callable[..., Float[Array, "d d"]]:
        """The Jacobian in t, formed from products with many vectors at once."""

        def columns(t: Vector, h: Hyper, c: Any) -> Any:
            push = functools.partial(self.push, t, h, c)
            whole = jnp.eye(self.theta.size)
            if self.theta.size <= COLUMNS:
                return jax.vmap(push)(whole).T
            return jax.lax.map(push, whole, batch_size=COLUMNS).T

        return jax.jit(columns)

    @functools.cached_property
    def blocks(self) -> Callable[..., Float[Array, "k b b"]]:
        """Diagonal blocks of the Jacobian, if nothing is outside of them: b products."""
        index = self.theta.block_index()

        def of(t: Vector, h: Hyper, c: Any) -> Any:
            one = jnp.zeros((index.shape[1], self.theta.size))
            for column in range(index.shape[1]):
                one = one.at[column, index[:, column]].set(1.0)
            found = jax.vmap(functools.partial(self.push, t, h, c))(one)
            return jnp.transpose(found[:, index], (1, 2, 0))

        return jax.jit(of)

    @functools.cached_property
    def cross(self) -> Callable[..., Vector]:
        """Derivative of the gradient along a direction in h."""

        def along(t: Vector, h: Hyper, c: Any, dh: Hyper) -> Vector:
            return jax.jvp(lambda h: self.raw(t, h, c), (h,), (dh,))[1]

        return jax.jit(along)

    @functools.cached_property
    def program(self) -> core.ClosedJaxpr:
        """The gradient as a jaxpr of t, h and what is held."""
        shapes = [jax.ShapeDtypeStruct((f.size,), float) for f in (self.theta, self.hyper)]
        held = [jax.ShapeDtypeStruct(np.shape(a), jnp.asarray(a).dtype) for a in self.held]
        return jax.make_jaxpr(lambda t, h, *c: self.raw(t, h, c))(*shapes, *held)

    def _like_theta(self, found: Any) -> Vector:
        try:
            vector = Flat(found, "G").vector(found)
        except ValueError:
            vector = jnp.zeros(0)
        if jax.tree.structure(found) != jax.tree.structure(
            self.constrained.tree(np.zeros(self.constrained.size))
        ) or vector.shape != (self.theta.size,):
            got = [np.shape(leaf) for leaf in jax.tree.leaves(found)]
            msg = (
                f"the equation returned shapes {got}, needed is one equation for each of the "
                f"{self.theta.size} free parameters, in the structure of theta"
            )
            raise ValueError(msg)
        return vector


def _scalar(found: Any) -> Any:
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(found)]
    if shapes != [()]:
        msg = f"the objective returned shapes {shapes}, needed is one number: sum its terms"
        raise ValueError(msg)
    return jnp.asarray(jax.tree.leaves(found)[0], dtype=float)
