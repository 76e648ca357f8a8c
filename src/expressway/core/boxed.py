"""Minimum inside a box by a projected Newton method, batched over genes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Bool, Float, Int

from .arrow import Arrow
from .irls import within
from .linear import cholesky, frozen, product, repeat, solve
from .scalar import ARMIJO, ROUNDING
from .solve import Outcome, Status

# Newton's decrement below which its steps are better than Fisher's: two standard errors.
NEAR = 4.0
# After a step along which this share of the slope is left, the next is twice as bold.
STEEP = 0.25
# Below this decrement (a tenth of a standard error) Newton's step is right as it is.
SMALL = 1e-2
# A refused step is shortened to between these shares of itself.
SHORTER = (0.1, 0.6)


class Score(NamedTuple):
    """Objective, its gradient and two positive definite curvatures at the trial point."""

    loss: Float[Array, "g"]
    gradient: Float[Array, "g p"]
    info: Float[Array, "g p p"] | Arrow
    """The second derivative."""
    fisher: Float[Array, "g p p"] | Arrow
    """Its expectation."""


class BoxedState(NamedTuple):
    """Best point, its gradient, and the trial on the way from it."""

    trial: Float[Array, "g p"]
    best: Float[Array, "g p"]
    loss: Float[Array, "g"]
    gradient: Float[Array, "g p"]
    direction: Float[Array, "g p"]
    length: Float[Array, "g"]
    grown: Float[Array, "g"]
    """How many times longer than it would be the first trial of a step is."""
    refused: Bool[Array, "g"]
    """The trial is a shortened step."""
    decrement: Float[Array, "g"]
    status: Int[Array, "g"]
    finished: Bool[Array, "g"]


class Boxed(NamedTuple):
    """Newton's method for ``|theta_j| <= bound``: a quadratic model in the box, then a search.

    The step is the minimum of the model ``g'd + d'Hd / 2`` among points of the box, found by
    stopping at each bound on the way and going on along it (Kim, Sra & Dhillon 2010, SIAM J. Sci.
    Comput. 32, freeze coordinates instead: where columns are nearly dependent, a projected step
    then rises). H is the second derivative near the minimum and Fisher's information far away,
    with long steps shortened as in `irls`. With an infinite bound there is no box.
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
            grown=np.ones(g),
            refused=np.zeros(g, bool),
            decrement=np.full(g, np.inf),
            status=np.full(g, Status.NOT_CONVERGED),
            finished=np.zeros(g, bool),
        )

    def step(self, state: BoxedState, sums: Score) -> BoxedState:
        """Accept the trial and turn, or halve the step."""
        moved = state.trial - state.best
        expected = jnp.einsum("gp,gp->g", state.gradient, moved)
        slack = ROUNDING * jnp.abs(sums.loss)
        direction, decrement, first = self._direction(state.trial, sums)
        # The decrement is NaN where the gradient is, or the curvature not positive definite.
        finite = jnp.isfinite(sums.loss) & jnp.isfinite(decrement)
        accept = finite & (sums.loss <= state.loss + ARMIJO * expected + slack)
        broken = ~accept & jnp.isinf(state.loss)
        best = jnp.where(accept[:, None], state.trial, state.best)
        direction = jnp.where(accept[:, None], direction, state.direction)
        # The minimum along a refused step: of the cubic that has loss and slope at both its ends.
        slope = jnp.einsum("gp,gp->g", sums.gradient, moved)
        share = jnp.clip(_cubic(sums.loss - state.loss, expected, slope), *SHORTER)
        # Towards a minimum far off or at the bound, steps are as long as each other: double them.
        # After a shortened step the next begins at twice its length, not at the whole.
        ahead = (slope < STEEP * expected) & (decrement > SMALL)
        grown = jnp.where(ahead, 2.0 * state.grown, 1.0)
        grown = jnp.where(state.refused, jnp.where(decrement > SMALL, 2 * state.length, 1.0), grown)
        length = jnp.minimum(first * grown, self._room(state.trial, direction))
        length = jnp.where(accept, length, state.length * share)
        grown = jnp.where(accept, jnp.maximum(grown, 1.0), 0.5)
        decrement = jnp.where(accept, decrement, state.decrement)
        trial = jnp.clip(best + length[:, None] * direction, -self.bound, self.bound)
        # The last step is shortened away: no descent is left at this precision.
        arrived = (accept & (decrement < 1e-14)) | (~accept & (length < 1e-12))
        at_bound = jnp.any(jnp.abs(best) >= self.bound, axis=-1)
        status = jnp.where(arrived, jnp.where(at_bound, Status.AT_BOUND, Status.OK), state.status)
        return BoxedState(
            trial=trial,
            best=jnp.where((arrived & accept)[:, None], trial, best),  # the last step, unseen
            loss=jnp.where(accept, sums.loss, state.loss),
            gradient=jnp.where(accept[:, None], sums.gradient, state.gradient),
            direction=direction,
            length=length,
            grown=grown,
            refused=~accept,
            decrement=decrement,
            status=jnp.where(broken, Status.NOT_FINITE, status),
            finished=arrived | broken,
        )

    def _direction(
        self, at: Float[Array, "g p"], sums: Score
    ) -> tuple[Float[Array, "g p"], Float[Array, "g"], Float[Array, "g"]]:
        """Step to the model's minimum in the box, its decrement, and the share to try first."""
        # One after the other they would be compiled twice.
        both = self._inside(
            jnp.concatenate([at, at]),
            jnp.concatenate([sums.gradient, sums.gradient]),
            jax.tree.map(lambda *a: jnp.concatenate(a), sums.info, sums.fisher),
        )
        newton, fisher = both[: len(at)], both[len(at) :]
        decrement = -jnp.einsum("gp,gp->g", newton, sums.gradient)
        by_fisher = -jnp.einsum("gp,gp->g", fisher, sums.gradient)
        near = ~(decrement > NEAR) | ~jnp.isfinite(by_fisher)
        direction = jnp.where(near[:, None], newton, fisher)
        return (
            direction,
            jnp.where(near, decrement, by_fisher),
            jnp.where(near, 1.0, within(fisher)),
        )

    def _inside(
        self,
        at: Float[Array, "g p"],
        gradient: Float[Array, "g p"],
        curvature: Float[Array, "g p p"] | Arrow,
    ) -> Float[Array, "g p"]:
        """Minimum of the model: along Newton's steps from bound to bound, at most p of them."""
        side = jnp.sign(at) * (jnp.abs(at) >= self.bound)
        free = side * gradient >= 0  # descent does not leave the box

        def onward(_: int | Int[Array, ""], carry: tuple[jax.Array, ...]) -> tuple:
            step, free, _ = carry
            slope = gradient + product(curvature, step)
            more = _free_step(slope, curvature, free)
            share = self._shares(at + step, more)
            least = jnp.min(share, axis=-1, keepdims=True)
            still = free & ((share > least) | (least >= 1))
            return step + jnp.minimum(least, 1.0) * more, still, jnp.any(least < 1)

        def stopped(carry: tuple[jax.Array, ...]) -> jax.Array:
            """Whether the last step of any gene met a bound."""
            return carry[2]

        start = (jnp.zeros_like(at), free, jnp.array(True))
        most = at.shape[-1] + 1 if np.isfinite(self.bound) else 1
        return repeat(curvature, most, onward, start, stopped)[0]

    def _room(self, at: Float[Array, "g p"], direction: Float[Array, "g p"]) -> Float[Array, "g"]:
        """How many times a step fits into the box; at least once."""
        return jnp.maximum(jnp.min(self._shares(at, direction), axis=-1), 1.0)

    def _shares(self, at: Float[Array, "g p"], step: Float[Array, "g p"]) -> Float[Array, "g p"]:
        """How many times each coordinate's step fits."""
        room = jnp.where(step > 0, self.bound, -self.bound) - at
        still = step == 0
        return jnp.where(still, jnp.inf, jnp.maximum(room / jnp.where(still, 1.0, step), 0.0))

    def done(self, state: BoxedState) -> Bool[Array, "g"]:
        """Genes at a minimum of the box, or not finite at the start."""
        return state.finished

    def outcome(self, state: BoxedState) -> Outcome:
        """Best points."""
        return Outcome(state.best, state.status)


def _cubic(
    rise: Float[Array, "g"], begin: Float[Array, "g"], end: Float[Array, "g"]
) -> Float[Array, "g"]:
    """Share of a step at which the cubic through both ends, with their slopes, is least."""
    a = begin + end - 3.0 * rise
    root = jnp.sqrt(jnp.maximum(a**2 - begin * end, 0.0))
    share = 1.0 - (end + root - a) / (end - begin + 2.0 * root)
    return jnp.where(jnp.isfinite(share), share, 0.0)


def _free_step(
    gradient: Float[Array, "g p"],
    curvature: Float[Array, "g p p"] | Arrow,
    free: Bool[Array, "g p"],
) -> Float[Array, "g p"]:
    step = -solve(cholesky(frozen(curvature, free)), jnp.where(free, gradient, 0.0))
    return jnp.where(free, step, 0.0)
