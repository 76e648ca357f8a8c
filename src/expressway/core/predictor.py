"""A function of parameters at many inputs: its outputs and their derivatives, in mini-batches."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._errors import InputError
from expressway._types import Float

from .coordinates import Coordinates
from .fitted import place, shaped
from .minibatch import BYTES, NUMBERS, numbers
from .solution import Solution
from .source import Predictor
from .trained import Trained


class _Inputs(NamedTuple):
    """Inputs in mini-batches of one size: the last goes back to fill itself."""

    data: Any
    total: int
    size: int

    def cut(self, data: Any, first: Any) -> Any:
        """A batch, in compiled code."""
        begin = jnp.minimum(first, self.total - self.size)
        return jax.tree.map(lambda a: jax.lax.dynamic_slice_in_dim(a, begin, self.size), data)

    def each(self, fn: Callable[..., Any], *args: Any) -> list[Any]:
        """``fn(data, first, *args)`` of every batch, without what the last has twice."""
        parts = []
        for first in range(0, self.total, self.size):
            found = np.asarray(fn(self.data, first, *args))
            parts.append(found[..., max(0, first + self.size - self.total) :, :])
        return parts


def predictor(
    fit: Solution | Trained,
    fn: Callable[[Any, Any], Any],
    inputs: Any,
    batch_size: int | None = None,
) -> Predictor:
    """A function of a fit's parameters at many inputs, as predictions see it.

    Parameters
    ----------
    fit
        A solution of one objective or equation, or a trained point.
    fn
        ``fn(theta, input)`` of one input: a scalar or an array of c outputs, before any link
        (logits, a log mean): that is what is linear in the parameters, nearly.
    inputs
        Pytree of arrays whose first axis is the m inputs.
    batch_size
        Inputs that are computed together; chosen by the size of the function when not given.

    Raises
    ------
    InputError
        The function cannot be called with the parameters and one input, or inputs have no one first
        axis.
    """
    coordinates, t = place(fit)
    data = jax.tree.map(jnp.asarray, inputs)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(data)]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if len(counts) != 1 or 0 in counts:
        msg = f"inputs have shapes {shapes}, needed is the same first axis of inputs in all"
        raise InputError(msg)
    one, c, own = _traced(coordinates, t, fn, jax.tree.map(lambda a: a[0], data))
    count = counts.pop()
    size = min(count, batch_size or max(1, NUMBERS // max(own, c)))
    batches = _Inputs(data, count, size)
    together = max(1, BYTES // (8 * size * max(own, c)))

    @jax.jit
    def value(data: Any, first: Any, theta: Any) -> Any:
        return jax.vmap(lambda row: one(theta, row))(batches.cut(data, first))

    @jax.jit
    def pushed(data: Any, first: Any, t: Any, deviations: Any) -> Any:
        part = batches.cut(data, first)
        _, push = jax.linearize(lambda t: jax.vmap(lambda row: one(forward(t), row))(part), t)
        return jax.vmap(push)(deviations)

    def forward(t: Any) -> Any:
        return _alike(coordinates.forward(t), fit.theta)

    def along(deviations: Float[Any, "b d"]) -> Float[np.ndarray, "b m c"]:
        rows = jnp.asarray(deviations, dtype=coordinates.dtype)
        some = [rows[i : i + together] for i in range(0, len(rows), together)]
        changes = [np.concatenate(batches.each(pushed, t, part), axis=1) for part in some]
        return np.concatenate(changes)

    def at(deviations: Float[Any, "b d"]) -> Float[np.ndarray, "b m c"]:
        # One draw at a time: networks with different weights share no product of matrices.
        theta = shaped(coordinates, t, fit.theta, deviations)
        each = (jax.tree.map(lambda a, i=i: a[i], theta) for i in range(len(deviations)))
        return np.stack([np.concatenate(batches.each(value, part)) for part in each])

    theta = shaped(coordinates, t, fit.theta, np.zeros((1, coordinates.size)))
    return Predictor(
        outputs=np.concatenate(batches.each(value, jax.tree.map(lambda a: a[0], theta))),
        gradients=_gradients(lambda t, row: one(forward(t), row), t, batches, c),
        along=along,
        at=at,
        loss=_loss(fit, fn),
    )


def _loss(fit: Solution | Trained, fn: Callable[..., Any]) -> Any:
    """The loss of a supervised objective whose model the function is."""
    made = None if fit.problem.rows is None else fit.problem.rows.made
    return made.loss if made is not None and made.model is fn else None


def _traced(
    coordinates: Coordinates, t: Any, fn: Callable[..., Any], row: Any
) -> tuple[Callable[..., Any], int, int]:
    """The function with a vector of outputs, how many, and what it computes on the way."""

    def one(theta: Any, row: Any) -> Any:
        return jnp.ravel(fn(theta, row))

    try:
        program = jax.make_jaxpr(lambda t, row: one(coordinates.forward(t), row))(t, row).jaxpr
    except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        msg = f"the function cannot be called with the fit's parameters and one input ({told})"
        raise InputError(msg) from error
    (found,) = program.outvars
    inputs = len(jax.tree.leaves(row))
    own = numbers(program, [False] * (len(program.invars) - inputs) + [True] * inputs)
    return one, int(found.aval.size), own


def _alike(found: Any, theta: Any) -> Any:
    """Leaves in the precision that theta's have."""
    return jax.tree.map(lambda a, b: jnp.asarray(a, dtype=jnp.result_type(b)), found, theta)


def _gradients(
    one: Callable[..., Any], t: Any, batches: _Inputs, c: int
) -> Callable[[int, int], Any]:
    """``gradients(first, last)``: c rows for each input."""
    compiled: dict[int, Callable[..., Any]] = {}

    def of(some: _Inputs) -> Callable[..., Any]:
        def rows(data: Any, first: Any, t: Any) -> Any:
            return jax.vmap(lambda row: jax.jacrev(one)(t, row))(some.cut(data, first))

        return jax.jit(rows)

    def gradients(first: int, last: int) -> Float[np.ndarray, "_ d"]:
        if not 0 <= first < last <= batches.total:
            msg = f"inputs {first} to {last}, there are {batches.total}"
            raise InputError(msg)
        size = last - first
        if size not in compiled:
            compiled[size] = of(batches._replace(size=size))
        return np.asarray(compiled[size](batches.data, first, t)).reshape(size * c, t.size)

    return gradients
