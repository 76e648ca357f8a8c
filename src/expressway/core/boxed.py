"""Minimum inside a box by a projected Newton method, batched over genes."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Bool, Float, Int

from .linear import cholesky, solve
from .scalar import ARMIJO, ROUNDING
from .solve import Outcome, Status


class Score(NamedTuple):
    """Objective, its gradient and a positive definite curvature at the trial point."""

    loss: Float[Array, "g"]
    gradient: Float[Array, "g p"]
    info: Float[Array, "g p p"]


class BoxedState(NamedTuple):
    """Best point, its gradient, and the trial on the way from it."""

    trial: Float[Array, "g p"]
    best: Float[Array, "g p"]
    loss: Float[Array, "g"]
    gradient: Float[Array, "g p"]
    direction: Float[Array, "g p"]
    length: Float[Array, "g"]
    decrement: Float[Array, "g"]
    status: Int[Array, "g"]
    finished: Bool[Array, "g"]


class Boxed(NamedTuple):
    """Projected quasi-Newton for ``|theta_j| <= bound``, Armijo search along the projected arc.

    Coordinates at a bound whose gradient, or whose direction, points outwards are frozen and the
    others move by ``info⁻¹ gradient`` of the free block (Kim, Sra & Dhillon 2010, SIAM J. Sci.
    Comput. 32, algorithm 1, with the statistic's own curvature for the quasi-Newton matrix).
    """

    bound: float
    max_steps: int = 200

    def init(self, theta0: Float[Array, "g p"]) -> BoxedState:
        """State at the start, put inside the box."""
        start = np.nan_to_num(np.clip(theta0, -self.bound, self.bound))
        g = start.shape[0]
        return BoxedState(
            trial=start,
            best=start,
            loss=np.full(g, np.inf),
            gradient=np.zeros_like(start),
            direction=np.zeros_like(start),
            length=np.ones(g),
            decrement=np.full(g, np.inf),
            status=np.full(g, Status.NOT_CONVERGED),
            finished=np.zeros(g, bool),
        )

    def step(self, state: BoxedState, sums: Score) -> BoxedState:
        """Accept the trial and turn, or halve the step."""
        expected = jnp.einsum("gp,gp->g", state.gradient, state.trial - state.best)
        slack = ROUNDING * jnp.abs(sums.loss)
        direction, decrement = self._direction(state.trial, sums)
        # The decrement is NaN where the gradient is, or the curvature not positive definite.
        finite = jnp.isfinite(sums.loss) & jnp.isfinite(decrement)
        accept = finite & (sums.loss <= state.loss + ARMIJO * expected + slack)
        broken = ~accept & jnp.isinf(state.loss)
        best = jnp.where(accept[:, None], state.trial, state.best)
        direction = jnp.where(accept[:, None], direction, state.direction)
        length = jnp.where(accept, 1.0, state.length / 2)
        decrement = jnp.where(accept, decrement, state.decrement)
        trial = jnp.clip(best + length[:, None] * direction, -self.bound, self.bound)
        # The last step is halved away: no descent is left at this precision.
        arrived = (accept & (decrement < 1e-14)) | (~accept & (length < 1e-12))
        at_bound = jnp.any(jnp.abs(best) >= self.bound, axis=-1)
        status = jnp.where(arrived, jnp.where(at_bound, Status.AT_BOUND, Status.OK), state.status)
        return BoxedState(
            trial=trial,
            best=best,
            loss=jnp.where(accept, sums.loss, state.loss),
            gradient=jnp.where(accept[:, None], sums.gradient, state.gradient),
            direction=direction,
            length=length,
            decrement=decrement,
            status=jnp.where(broken, Status.NOT_FINITE, status),
            finished=arrived | broken,
        )

    def _direction(
        self, at: Float[Array, "g p"], sums: Score
    ) -> tuple[Float[Array, "g p"], Float[Array, "g"]]:
        """Newton direction of the free coordinates and its decrement, frozen twice."""
        side = jnp.sign(at) * (jnp.abs(at) >= self.bound)
        free = side * sums.gradient >= 0  # descent does not leave the box
        direction = _free_step(sums, free)
        free &= ~(side * direction > 0)  # a direction of NaN stays one
        direction = _free_step(sums, free)
        return direction, -jnp.einsum("gp,gp->g", direction, sums.gradient)

    def done(self, state: BoxedState) -> Bool[Array, "g"]:
        """Genes at a minimum of the box, or not finite at the start."""
        return state.finished

    def outcome(self, state: BoxedState) -> Outcome:
        """Best points."""
        return Outcome(state.best, state.status)


def _free_step(sums: Score, free: Bool[Array, "g p"]) -> Float[Array, "g p"]:
    both = free[:, :, None] & free[:, None, :]
    block = jnp.where(both, sums.info, jnp.eye(free.shape[-1])[None])
    step = -solve(cholesky(block), jnp.where(free, sums.gradient, 0.0))
    return jnp.where(free, step, 0.0)
