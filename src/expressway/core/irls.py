"""Iteratively reweighted least squares, batched over genes."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Bool, Float, Int

from .arrow import Arrow
from .linear import cholesky, definite, solve
from .solve import Outcome, Status

# DESeq2 src/DESeq2.cpp fitBeta, `large`: a coefficient past it (natural log) is running away.
LARGE = 30.0
# Below a decrement of .1 (a third of a standard error) Newton's step replaces Fisher's.
NEAR = 1e-1
# Where Newton's step made the decrement larger, it is tried again below this share of it.
AGAIN = 1e-2
# Newton: the error after the step is the square of 1e-7 standard errors. Fisher: linear.
NEWTON_DONE = 1e-14
FISHER_DONE = 1e-22
# A step that moves a coefficient further overshoots: where means are far below the counts, Fisher's
# step goes to exp(step) times the right place, and comes back by one a step.
LONG = 1.0
# Along the last step the slope has turned by this share of what it was: the step was too long.
TURNED = -0.25
# What a shortened step may grow by: at once to the whole would circle.
LONGER = 1.5
# Fisher scoring multiplies the error by 1 - eigenvalue. At 1.89, a hundred steps (DESeq2's limit)
# reduce a first error of 1e-3 to 1e-8, the change of deviance at which DESeq2 stops.
REPELS = 1.89


class Equation(NamedTuple):
    """Estimating equation ``score(beta) = 0`` and two matrices to solve it with."""

    score: Float[Array, "g p"]
    info: Float[Array, "g p p"] | Arrow
    """Fisher's (expected) information: safe far away."""
    newton: Float[Array, "g p p"] | Arrow
    """Minus the derivative of the score: quadratic convergence near the solution."""


class IrlsState(NamedTuple):
    """Coefficients at which the next sums are wanted, and how far the last step went."""

    trial: Float[Array, "g p"]
    decrement: Float[Array, "g"]
    move: Float[Array, "g p"]
    """The step to the trial point."""
    slope: Float[Array, "g"]
    """The score along it, where it began."""
    length: Float[Array, "g"]
    """Share of Fisher's step that it was."""
    near: Float[Array, "g"]
    """Decrement below which Newton's step is taken."""
    status: Int[Array, "g"]
    finished: Bool[Array, "g"]


class Irls(NamedTuple):
    """Fisher scoring, finished by Newton's method.

    A gene whose step is not finite or that passes ``LARGE`` stops at once, and one whose solution
    repels Fisher scoring is not converged: the field's iteration cannot finish them, `boxed` can.
    """

    max_steps: int = 40

    def init(self, theta0: Float[Array, "g p"]) -> IrlsState:
        """State at the start."""
        g = theta0.shape[0]
        return IrlsState(
            trial=np.asarray(theta0),
            decrement=np.full(g, np.inf),
            move=np.zeros_like(theta0),
            slope=np.full(g, np.inf),
            length=np.ones(g),
            near=np.full(g, NEAR),
            status=np.full(g, Status.NOT_CONVERGED),
            finished=np.zeros(g, bool),
        )

    def step(self, state: IrlsState, sums: Equation) -> IrlsState:
        """One step of Fisher scoring, or of Newton near the solution."""
        # All systems at once: one after the other they would be compiled thrice.
        repelled = jax.tree.map(lambda i, n: REPELS * i - n, sums.info, sums.newton)
        together = jax.tree.map(lambda *a: jnp.concatenate(a), sums.info, sums.newton, repelled)
        factor = cholesky(together)
        g = len(sums.score)
        both = jax.tree.map(lambda a: a[: 2 * g], factor)
        steps = solve(both, jnp.concatenate([sums.score, sums.score]))
        by_fisher, by_newton = steps[:g], steps[g:]
        decrement = jnp.einsum("gp,gp->g", by_fisher, sums.score)
        # The equation bends where a mean is clipped: a step of Newton across it may go wrong.
        wrong = (state.decrement < state.near) & (decrement > state.decrement)
        near = jnp.where(wrong, AGAIN * state.decrement, state.near)
        newton = decrement < near
        full = jnp.where(newton[:, None], by_newton, by_fisher)
        share = self._length(state, sums.score)
        length = jnp.where(newton, 1.0, jnp.minimum(share, within(by_fisher)))
        move = length[:, None] * full
        beyond = state.trial + full
        good = jnp.all(jnp.isfinite(beyond), axis=-1) & jnp.all(jnp.abs(beyond) <= LARGE, axis=-1)
        small = decrement < jnp.where(newton, NEWTON_DONE, FISHER_DONE)
        # All eigenvalues of info⁻¹ newton below REPELS, or Fisher scoring circles too long.
        stable = definite(jax.tree.map(lambda a: a[2 * g :], factor))
        status = jnp.where(small & good & stable, Status.OK, state.status)
        status = jnp.where(good, status, Status.NOT_FINITE)
        return IrlsState(
            trial=jnp.where(good[:, None], state.trial + move, state.trial),
            decrement=decrement,
            move=move,
            slope=jnp.einsum("gp,gp->g", move, sums.score),
            length=share,
            near=near,
            status=status,
            finished=small | ~good,
        )

    def _length(self, state: IrlsState, score: Float[Array, "g p"]) -> Float[Array, "g"]:
        """Share of Fisher's step: less after one that went too far, and then slowly more."""
        turned = jnp.einsum("gp,gp->g", state.move, score) / state.slope
        shorter = state.length / (1.0 - jnp.minimum(turned, 0.0))
        return jnp.where(turned < TURNED, shorter, jnp.minimum(LONGER * state.length, 1.0))

    def done(self, state: IrlsState) -> Bool[Array, "g"]:
        """Genes that arrived or ran away."""
        return state.finished

    def outcome(self, state: IrlsState) -> Outcome:
        """Coefficients."""
        return Outcome(state.trial, state.status)


def within(step: Float[Array, "g p"]) -> Float[Array, "g"]:
    """Share of each of Fisher's steps to take: where a coefficient goes far, 1 + its logarithm."""
    furthest = jnp.max(jnp.abs(step), axis=-1)
    return jnp.where(furthest > LONG, LONG * (1.0 + jnp.log(furthest / LONG)) / furthest, 1.0)
