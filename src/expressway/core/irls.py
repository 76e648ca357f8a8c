"""Iteratively reweighted least squares, batched over genes."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Bool, Float, Int

from .linear import cholesky, solve
from .solve import Outcome, Status

# DESeq2 src/DESeq2.cpp fitBeta, `large`: a coefficient past it (natural log) is running away.
LARGE = 30.0
# Below a decrement of .01 (a tenth of a standard error) Newton's step replaces Fisher's.
NEAR = 1e-2
# Newton: the error after the step is the square of 1e-7 standard errors. Fisher: linear.
NEWTON_DONE = 1e-14
FISHER_DONE = 1e-22
# Fisher scoring multiplies the error by 1 - eigenvalue. At 1.89, a hundred steps (DESeq2's limit)
# reduce a first error of 1e-3 to 1e-8, the change of deviance at which DESeq2 stops.
REPELS = 1.89


class Equation(NamedTuple):
    """Estimating equation ``score(beta) = 0`` and two matrices to solve it with."""

    score: Float[Array, "g p"]
    info: Float[Array, "g p p"]
    """Fisher's (expected) information: safe far away."""
    newton: Float[Array, "g p p"]
    """Minus the derivative of the score: quadratic convergence near the solution."""


class IrlsState(NamedTuple):
    """Coefficients at which the next sums are wanted, and how far the last step went."""

    trial: Float[Array, "g p"]
    decrement: Float[Array, "g"]
    fisher: Bool[Array, "g"]
    """Newton's step has been of no help: Fisher's to the end."""
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
            fisher=np.zeros(g, bool),
            status=np.full(g, Status.NOT_CONVERGED),
            finished=np.zeros(g, bool),
        )

    def step(self, state: IrlsState, sums: Equation) -> IrlsState:
        """One step of Fisher scoring, or of Newton near the solution."""
        by_fisher = solve(cholesky(sums.info), sums.score)
        decrement = jnp.einsum("gp,gp->g", by_fisher, sums.score)
        near = decrement < NEAR
        fisher = state.fisher | (near & (decrement > state.decrement))
        newton = near & ~fisher
        by_newton = solve(cholesky(sums.newton), sums.score)
        trial = state.trial + jnp.where(newton[:, None], by_newton, by_fisher)
        good = jnp.all(jnp.isfinite(trial), axis=-1) & jnp.all(jnp.abs(trial) <= LARGE, axis=-1)
        small = decrement < jnp.where(newton, NEWTON_DONE, FISHER_DONE)
        # All eigenvalues of info⁻¹ newton below REPELS, or Fisher scoring circles too long.
        stable = jnp.isfinite(cholesky(REPELS * sums.info - sums.newton)[:, -1, -1])
        status = jnp.where(small & good & stable, Status.OK, state.status)
        status = jnp.where(good, status, Status.NOT_FINITE)
        return IrlsState(
            trial=jnp.where(good[:, None], trial, state.trial),
            decrement=decrement,
            fisher=fisher,
            status=status,
            finished=small | ~good,
        )

    def done(self, state: IrlsState) -> Bool[Array, "g"]:
        """Genes that arrived or ran away."""
        return state.finished

    def outcome(self, state: IrlsState) -> Outcome:
        """Coefficients."""
        return Outcome(state.trial, state.status)
