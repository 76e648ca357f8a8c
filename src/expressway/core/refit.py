"""Exact refits at many hyperparameters at once, each started near its solution.

One factorisation serves all of them: ``t <- t - A0⁻¹ G(t, h_b)`` with that of the stored solution
(simplified Newton) multiplies each error by about the share of curvature that was changed, so few
sweeps of batched gradients do, and no Hessian is formed. What does not contract is solved by
itself.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from expressway._errors import Unfinished
from expressway._types import Float

from .inverse import each_row
from .solution import Solution, Stage

# The error that is left, relative to how far the solution moved; to its size, where rounding is.
EXACT, ROUNDING = 1e-10, 4e-16
# A sweep that leaves more than this share of the step: on its own, Newton's method is faster.
SLOW = 0.5
SWEEPS = 60


def refitted(
    fit: Solution,
    hypers: Float[np.ndarray, "b p"],
    starts: Sequence[Float[np.ndarray, "b _"]],
    number: int = 0,
) -> list[Float[np.ndarray, "b _"]]:
    """Parameters of each stage (user's coordinates) at each row of hyperparameters.

    Parameters
    ----------
    fit
        The stored solution.
    hypers, starts
        Hyperparameters, and where each stage starts (unconstrained).
    number
        What the first row is called in a message.

    Raises
    ------
    Unfinished
        A row has no solution near: which.
    """
    h, found = hypers, []
    for stage, start in zip(fit.stages, starts, strict=True):
        t = _solved(stage, h, start, number)
        system = stage.system
        forward = jax.jit(jax.vmap(lambda t, s=system: s.constrained.vector(s.forward(t))))
        user = np.asarray(t if system.plain else forward(jnp.asarray(t)))
        found.append(user)
        h = np.concatenate([h, user], axis=1)
    return found


def _solved(stage: Stage, h: np.ndarray, start: np.ndarray, number: int) -> np.ndarray:
    _system, held = stage.system, stage.functions.held
    sweep = _sweep(stage)
    t = np.array(start)
    origin = np.asarray(stage.found.t)
    size = len(t)
    active, last = np.arange(size), np.full(size, np.inf)
    hard: list[int] = []
    for _ in range(SWEEPS):
        # One shape, whatever is left: nothing compiles twice.
        at = np.resize(active, size)
        step = np.asarray(sweep(jnp.asarray(t[at]), jnp.asarray(h[at]), held))[: len(active)]
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
    hard += active.tolist()
    for b in hard:
        t[b] = _alone(stage, h[b], t[b], origin, number + b)
    return t


def _alone(
    stage: Stage, h: np.ndarray, start: np.ndarray, origin: np.ndarray, number: int
) -> np.ndarray:
    """One of them by the full solver, from where it is or from the stored solution."""
    f = stage.functions._replace(h=jnp.asarray(h))
    good = np.all(np.isfinite(start)) and np.isfinite(f.value(jnp.asarray(start)))
    try:
        return np.asarray(stage.moved(h, start if good else origin).t)
    except Unfinished as error:
        msg = f"set {number}: without these observations there is no solution near: {error}"
        raise Unfinished(msg, error.point) from error


@functools.lru_cache(maxsize=16)
def _sweep(stage: Stage) -> Any:
    """``-A0⁻¹ G`` of a batch."""
    system = stage.system
    t0, h0 = jnp.asarray(stage.found.t), stage.functions.h
    inverse = stage.inverse

    def steps(t: Any, h: Any, held: Any) -> Any:
        g = jax.vmap(lambda t, h: system.raw(t, h, held))(t, h)
        return -each_row(inverse, functools.partial(system.push, t0, h0, held), g)

    return jax.jit(steps)
