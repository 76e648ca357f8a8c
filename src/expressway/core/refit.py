"""Exact refits at many hyperparameters at once, each started near its solution.

One factorisation serves all of them: ``t <- t - A0⁻¹ G(t, h_b)`` with that of the stored solution
(simplified Newton) multiplies each error by about the share of curvature that was changed, so few
sweeps of batched gradients do, and no Hessian is formed. What does not contract is solved by
itself.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._errors import Unfinished
from expressway._types import Array, Float, Int

from .inverse import each_row
from .rows import Rows, score_of
from .solution import Solution, Stage
from .system import System, kept

# The error that is left, relative to how far the solution moved; to its size, where rounding is.
EXACT, ROUNDING = 1e-9, 4e-16
# A sweep that leaves more than this share of the step: on its own, Newton's method is faster.
SLOW = 0.5
SWEEPS = 60
# Sets up to this share of the observations: their gradients are taken off that of all.
FEW = 0.05


class Left(NamedTuple):
    """Sets of observations that are left out."""

    sets: Sequence[Int[np.ndarray, "_"]]
    place: Int[np.ndarray, "n"]
    """Where the weights are in the vector of hyperparameters."""
    weight: Float[np.ndarray, "n"]

    def hypers(self, h: Float[Array, "p"], some: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k p"]:
        """Hyperparameters with the weights of some of the sets at zero."""
        found = np.repeat(np.asarray(h)[None], len(some), axis=0)
        for row, number in zip(found, some, strict=True):
            row[self.place[self.sets[number]]] = 0.0
        return found


def refitted(
    fit: Solution, left: Left, starts: Sequence[Float[np.ndarray, "b _"]], number: int = 0
) -> list[Float[np.ndarray, "b _"]]:
    """Parameters of each stage (user's coordinates) without each set of observations.

    Parameters
    ----------
    fit
        The stored solution.
    left, starts
        What is left out, and where each stage starts (unconstrained).
    number
        What the first set is called in a message.

    Raises
    ------
    Unfinished
        Without a set there is no solution near: which.
    """
    found: list[np.ndarray] = []
    h0 = fit.stages[0].functions.h
    for stage, start in zip(fit.stages, starts, strict=True):

        def hypers(some: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k p"]:
            return np.concatenate([left.hypers(h0, some), *(u[some] for u in found)], axis=1)

        sweep = _sweep_of(fit, stage, left, hypers)
        t = _solved(stage, sweep, hypers, start, number)
        system = stage.system
        found.append(t if system.plain else np.asarray(_forward(system)(t)))
    return found


def _sweep_of(fit: Solution, stage: Stage, left: Left, hypers: Any) -> Callable[[Any, Any], Any]:
    """``(t, which sets) -> steps``: by gradients at other weights, or less those of a few rows."""
    rows = getattr(fit.problem, "rows", None)
    longest = max(len(s) for s in left.sets)
    if rows is None or longest > FEW * rows.count:
        whole = _sweep(stage)
        return lambda t, some: whole(t, hypers(some))
    at, gone = np.zeros((len(left.sets), longest), int), np.zeros((len(left.sets), longest))
    for i, chosen in enumerate(left.sets):
        at[i, : len(chosen)], gone[i, : len(chosen)] = chosen, left.weight[chosen]
    less = functools.partial(_without_rows(stage, rows), rows.data)
    return lambda t, some: less(t, at[some], gone[some])


def _solved(
    stage: Stage, sweep: Any, hypers: Any, start: Float[np.ndarray, "b d"], number: int
) -> Float[np.ndarray, "b d"]:
    """Sweeps over all that has not arrived; alone, what contracts slowly."""
    t, origin = np.array(start), np.asarray(stage.found.t)
    size = len(t)
    active, last = np.arange(size), np.full(size, np.inf)
    hard: list[int] = []
    for _ in range(SWEEPS):
        # One shape, whatever is left: nothing compiles twice.
        at = np.resize(active, size)
        step = np.asarray(sweep(t[at], at))[: len(active)]
        length = np.linalg.norm(step, axis=1)
        share = length / last[active]
        good = np.isfinite(length) & (share < SLOW)
        t[active[good]] += step[good]
        moved = np.linalg.norm(t[active] - origin, axis=1)
        scale = np.linalg.norm(t[active], axis=1)
        share = np.minimum(np.where(np.isfinite(last[active]), share, SLOW), SLOW)
        tolerance = EXACT * moved + ROUNDING * np.sqrt(t.shape[1]) * (1.0 + scale)
        done = length * share / (1.0 - share) <= tolerance
        # Rounding, not convergence, ends a sweep that no longer shortens a step this small.
        still = length <= 1e-12 * (1.0 + scale)
        hard += active[~good & ~still].tolist()
        last[active] = length
        active = active[good & ~done & ~(still & ~good)]
        if not len(active):
            break
    for b in [*hard, *active.tolist()]:
        t[b] = _alone(stage, hypers(np.array([b]))[0], t[b], origin, number + b)
    return t


def _alone(
    stage: Stage, h: np.ndarray, start: np.ndarray, origin: np.ndarray, number: int
) -> np.ndarray:
    """One of them by the full solver, from where it is or from the stored solution."""
    f = stage.functions._replace(h=jnp.asarray(h))
    good = np.all(np.isfinite(start)) and np.isfinite(f.both(start)[0])
    try:
        return np.asarray(stage.moved(h, start if good else origin).t)
    except Unfinished as error:
        msg = f"set {number}: without these observations there is no solution near: {error}"
        raise Unfinished(msg, error.point) from error


@kept
def _forward(system: System) -> Any:
    """Unconstrained coordinates to the user's, of a batch."""
    return jax.jit(jax.vmap(lambda t: system.constrained.vector(system.forward(t))))


@kept
def _sweep(stage: Stage) -> Any:
    """``-A0⁻¹ G`` of a batch, each with its own hyperparameters."""
    system = stage.system

    def steps(held: Any, inverse: Any, product: Any, t: Any, h: Any) -> Any:
        g = jax.vmap(lambda t, h: system.raw(t, h, held))(t, h)
        return -each_row(inverse, _product(system, held, *product), g)

    return _with_arrays(stage, steps)


@kept
def _without_rows(stage: Stage, rows: Rows) -> Any:
    """As `_sweep`, of a sum over observations: the gradient of all less those of a few.

    Weights are shared by the batch then, and do not grow with it.
    """
    system = stage.system
    term = score_of(system, rows)

    def steps(held: Any, inverse: Any, point: Any, data: Any, t: Any, at: Any, gone: Any) -> Any:
        hyper = system.hyper.tree(point[1]).hyper

        def one(t: Any, at: Any, gone: Any) -> Any:
            some = jax.tree.map(lambda a: a[at], data)
            scores = jax.vmap(lambda row: term(t, hyper, row))(some)
            return system.raw(t, point[1], held) - gone @ scores

        g = jax.vmap(one)(t, at, gone)
        return -each_row(inverse, _product(system, held, *point), g)

    return _with_arrays(stage, steps)


def _with_arrays(stage: Stage, steps: Any) -> Any:
    """The compiled function, given the arrays of a stage."""
    point = jnp.asarray(stage.found.t), stage.functions.h
    return functools.partial(jax.jit(steps), stage.functions.held, stage.inverse, point)


def _product(system: System, held: Any, t: Any, h: Any) -> Any:
    return functools.partial(system.push, t, h, held)
