"""Sums over the observations of a data set, a mini-batch at a time."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core

from expressway._errors import InputError
from expressway._types import Array, Float

from .coordinates import Coordinates, cast, precision
from .flat import Flat, kinds
from .rows import Rows, rows_of, weighted
from .threads import side_by_side

# Intermediate numbers of one mini-batch, and fewest observations of it. Measured on two cores with
# a network 784-100-10 at 8,000 rows: 500 to 2,000 observations of 320 numbers are equally fast,
# 8,000 take half as long again (caches).
NUMBERS = 2**19
FEWEST = 64
# Bytes of intermediate numbers of the vectors that are multiplied together, what a cache holds:
# of a convolutional network 8 vectors take half the time a vector of one, 32 more than it.
BYTES = 2**24


class Batch(NamedTuple):
    """Observations that are computed together."""

    data: Any
    weight: Float[Array, "m"]
    first: Any
    """The number of the first; those that an earlier batch has counted have weight 0."""


@dataclass(frozen=True, eq=False)
class Point:
    """An additive objective at a point, and the mini-batches it is summed in.

    Attributes
    ----------
    coordinates, t
        The point in unconstrained coordinates.
    hyper, h
        How hyperparameters lie in a vector, and this vector.
    rows, weight
        Observations, how often each counts.
    size
        Observations of a mini-batch.
    together
        Vectors that are multiplied together.
    kept
        Compiled functions, by what they are of.
    """

    coordinates: Coordinates
    t: Float[Array, "d"]
    hyper: Flat
    h: Float[Array, "p"]
    rows: Rows
    weight: Float[Array, "n"]
    size: int
    together: int
    kept: dict[Any, Any]

    def compiled(self, name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        """``jit(make(self))``, compiled once for an objective and parameters of one shape.

        What make returns may hold the objective's functions and the coordinates, no arrays.
        """
        if name not in self.kept:
            self.kept[name] = jax.jit(make(self))
        return self.kept[name]

    def sum(
        self,
        name: str,
        make: Callable[..., Any],
        zero: Any,
        *args: Any,
        combine: Callable[..., Any] = jnp.add,
    ) -> Any:
        """The sum over mini-batches of ``make(self)(batch, t, h, *args)``, added to zero.

        Or what else combines them. The loop is outside of compiled code: as fast as one inside, and
        factorisations are safe in it.
        """

        def stepping(point: "Point") -> Callable[..., Any]:
            fn, dtype = make(point), point.coordinates.dtype

            def step(total: Any, first: Any, data: Any, weight: Any, mask: Any, *rest: Any) -> Any:
                # The last batch goes back to fill itself: one shape, and no padded copy of data.
                begin = jnp.minimum(first, len(weight) - len(mask))
                cut = functools.partial(
                    jax.lax.dynamic_slice_in_dim, start_index=begin, slice_size=len(mask)
                )
                new = begin + jnp.arange(len(mask)) >= first
                part = jnp.where(new, cut(weight), 0.0)
                batch = Batch(cast(jax.tree.map(cut, data), dtype), part, begin)
                return jax.tree.map(combine, total, fn(batch, *rest))

            return step

        step, total = self.compiled(name, stepping), zero
        mask = np.zeros(self.size, dtype=bool)  # its shape says how large a batch is
        for first in range(0, self.rows.count, self.size):
            total = step(total, first, self.rows.data, self.weight, mask, self.t, self.h, *args)
        return total

    def in_parts(self, product: Callable[[Any], Any], v: Any) -> Float[Array, "b d"]:
        """A product with rows, as many at a time as a cache holds, on all cores.

        What a mini-batch and a few vectors need is too little for one operation to be shared.
        """
        count = len(v)
        if count <= self.together:
            return product(v)
        padded = jnp.pad(v, ((0, -count % self.together), (0, 0)))
        starts = range(0, count, self.together)
        parts = side_by_side(
            lambda first: jax.block_until_ready(product(padded[first : first + self.together])),
            starts,
        )
        return jnp.concatenate(parts)[:count]


def point_of(
    objective: Any, theta: Any, data: Any = None, hyper: Any = (), batch_size: int | None = None
) -> Point:
    """An additive objective at a point.

    Parameters
    ----------
    objective
        An additive `Objective`.
    theta
        Parameters; float32 is computed in where all of them are.
    data
        Instead of the objective's own.
    hyper
        Hyperparameters, with the weights of observations if they are `Weighted`.
    batch_size
        Observations of a mini-batch; chosen by the size of the model when not given.

    Raises
    ------
    InputError
        Parameters do not fit the model; weights, data or the batch size are wrong.
    """
    rows, dtype = objective.rows, precision(theta)
    if data is not None:
        given = tuple(data) if rows.made is not None else data
        rows = rows_of(rows.term, given, rows.penalty, rows.made)
    full = weighted(rows, hyper)
    weight = cast(jnp.asarray(full.weight, dtype=float), dtype)
    if weight.shape != (rows.count,):
        msg = f"{weight.shape} weights for {rows.count} observations; give one for each"
        raise InputError(msg)
    if batch_size is not None and not batch_size >= 1:
        msg = f"batch_size is {batch_size}, needed is a number of observations, at least 1"
        raise InputError(msg)
    key = (jax.tree.structure((theta, full.hyper)), kinds((theta, full.hyper)), dtype.name)
    kept = objective.kept.setdefault(key, {})
    if "coordinates" not in kept:
        kept["coordinates"] = Coordinates(theta, objective.constraints, dtype)
        kept["hyper"] = Flat(full.hyper, "hyper")
    coordinates, flat = kept["coordinates"], kept["hyper"]
    t, h = coordinates.start(theta), jnp.asarray(flat.vector(full.hyper), dtype=dtype)

    def term(t: Any, h: Any, row: Any) -> Any:
        return rows.term(coordinates.forward(t), flat.tree(h), cast(row, dtype))

    try:
        row = jax.tree.map(lambda a: a[0], rows.data)
        program = jax.make_jaxpr(term)(t, h, row).jaxpr
    except InputError:
        raise
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        msg = f"theta does not fit the model: it cannot be called with one observation ({told})"
        raise InputError(msg) from error
    if [var.aval.shape for var in program.outvars] != [()]:
        shapes = [var.aval.shape for var in program.outvars]
        msg = f"what one observation adds has shapes {shapes}, needed is one number"
        raise InputError(msg)
    own = len(jax.tree.leaves(row))
    count = numbers(program, [False] * (len(program.invars) - own) + [True] * own)
    if batch_size is None:
        batch_size = max(FEWEST, NUMBERS // max(count, 1))
    size = min(batch_size, rows.count)
    together = max(1, BYTES // (dtype.itemsize * max(size * count, coordinates.size)))
    return Point(coordinates, t, flat, h, rows, weight, size, together, kept)


def numbers(program: Any, mine: list[bool]) -> int:
    """How many numbers a program computes that depend on some of its arguments."""
    marked = {var for var, own in zip(program.invars, mine, strict=True) if own}
    total = 0
    for equation in program.eqns:
        given = [isinstance(var, core.Var) and var in marked for var in equation.invars]
        if not any(given):
            continue
        marked.update(equation.outvars)
        total += sum(int(np.prod(var.aval.shape)) for var in equation.outvars)
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None and len(inner.invars) == len(given):
                total += numbers(inner, given) * int(equation.params.get("length", 1))
    return total


def weights_positive(point: Point) -> bool:
    """Whether no observation counts less than nothing."""
    return bool(np.all(np.asarray(point.weight) >= 0.0))


def outputs_of(point: Point) -> Callable[..., Any]:
    """``outputs(t, data)`` of a supervised objective: m by what the model returns."""
    model, forward = point.rows.made.model, point.coordinates.forward  # pyright: ignore

    def outputs(t: Any, data: Any) -> Any:
        theta = forward(t)
        return jax.vmap(lambda row: model(theta, row))(data[0])

    return outputs


def losses_of(point: Point) -> Callable[..., Any]:
    """``losses(t, h, data)``: what each observation of a batch adds, not weighted."""
    term, forward, tree = point.rows.term, point.coordinates.forward, point.hyper.tree

    def losses(t: Any, h: Any, data: Any) -> Any:
        theta, hyper = forward(t), tree(h)
        return jax.vmap(lambda row: term(theta, hyper, row))(data)

    return losses


def penalty_of(point: Point) -> Callable[..., Any] | None:
    """``penalty(t, h)``, or None."""
    penalty, forward, tree = point.rows.penalty, point.coordinates.forward, point.hyper.tree
    if penalty is None:
        return None
    return lambda t, h: penalty(forward(t), tree(h))


def gradient(point: Point) -> Float[Array, "d"]:
    """Of the whole objective in unconstrained coordinates."""

    def make(point: Point) -> Callable[..., Any]:
        losses = losses_of(point)

        def of(batch: Batch, t: Any, h: Any) -> Any:
            return jax.grad(lambda t: jnp.sum(batch.weight * losses(t, h, batch.data)))(t)

        return of

    zero = jnp.zeros_like(point.t)
    penalty = penalty_of(point)
    if penalty is not None:
        zero = point.compiled("penalty gradient", lambda _: jax.grad(penalty))(point.t, point.h)
    return point.sum("gradient", make, zero)


def scores(point: Point) -> Callable[[Any], Any]:
    """``scores(weights)``: rows ``sum_n a_n w_n g_n`` for rows of weights a (b by n).

    g_n is the gradient of observation n's loss in unconstrained coordinates, w_n how often it
    counts in the objective.
    """

    def make(point: Point) -> Callable[..., Any]:
        losses = losses_of(point)

        def of(batch: Batch, t: Any, h: Any, a: Any) -> Any:
            _, pull = jax.vjp(lambda t: losses(t, h, batch.data), t)
            part = jax.lax.dynamic_slice_in_dim(a, batch.first, len(batch.weight), axis=1)
            return jax.vmap(lambda w: pull(w)[0])(part * batch.weight[None])

        return of

    def product(a: Any) -> Any:
        return point.sum("scores", make, jnp.zeros((len(a), point.t.size), point.t.dtype), a)

    def summed(weights: Float[Any, "b n"]) -> Float[Array, "b d"]:
        held = jnp.asarray(weights, dtype=point.t.dtype)
        if held.ndim != 2 or held.shape[1] != point.rows.count:
            msg = f"weights are {held.shape}, needed are rows of {point.rows.count} observations"
            raise InputError(msg)
        return point.in_parts(product, held)

    return summed
