"""Minimum of a smooth function of one variable a gene, inside an interval."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Bool, Float, Int

from .solve import Outcome, Status

ARMIJO = 1e-4
# Losses are sums of up to 1e3 rounded terms: a rise below this share of |loss| is rounding.
ROUNDING = 1e-14
# Where losses agree to this share of |loss|, the smaller slope tells better which is lower.
CLOSE = 1e-11
# A Newton step of 1e-6 leaves an error of about its square: the last step is taken unseen.
STEP = 1e-6


class Interval(NamedTuple):
    """Start and bounds of each gene."""

    start: Float[Array, "g"]
    lower: Float[Array, "g"]
    upper: Float[Array, "g"]


class Curve(NamedTuple):
    """Objective and two derivatives at the trial point."""

    loss: Float[Array, "g"]
    slope: Float[Array, "g"]
    curvature: Float[Array, "g"]


class ScalarState(NamedTuple):
    """Best point so far and the next one to try."""

    trial: Float[Array, "g"]
    best: Float[Array, "g"]
    loss: Float[Array, "g"]
    slope: Float[Array, "g"]
    curvature: Float[Array, "g"]
    lower: Float[Array, "g"]
    """Nothing below is tried: a bound, or a point that was worse."""
    upper: Float[Array, "g"]
    bottom: Float[Array, "g"]
    """The bounds themselves."""
    top: Float[Array, "g"]
    status: Int[Array, "g"]
    finished: Bool[Array, "g"]


class Scalar(NamedTuple):
    """Safeguarded Newton's method for a log-scale parameter, local descent from the start.

    Let a = log t. Where the objective is convex in a, Newton in a; elsewhere Newton in t, whose
    step is ``log(1 + u)``, ``u = -f' / (f'' - f')``. Along a flat tail towards t = 0 the objective
    is linear in t and Newton in a creeps by one unit a step: when a downhill step leaves a fifth
    or more of the slope standing, the next trial is the lower bound at once. A trial that does
    not descend (Armijo) becomes a bound, and is pulled back to a quarter of its step.
    """

    max_steps: int = 60

    def init(self, theta0: Interval) -> ScalarState:
        """State at the start, put inside the bounds."""
        start = np.clip(theta0.start, theta0.lower, theta0.upper)
        nowhere = np.full_like(start, np.inf)
        lower, upper = (np.broadcast_to(a, start.shape) for a in (theta0.lower, theta0.upper))
        return ScalarState(
            trial=start,
            best=start,
            loss=nowhere,
            slope=np.zeros_like(start),
            curvature=np.zeros_like(start),
            lower=lower,
            upper=upper,
            bottom=lower,
            top=upper,
            status=np.full(start.shape, Status.NOT_CONVERGED),
            finished=np.zeros(start.shape, bool),
        )

    def step(self, state: ScalarState, sums: Curve) -> ScalarState:
        """Accept the trial or pull it back; propose the next."""
        moved = state.trial - state.best
        bound = state.loss + ARMIJO * state.slope * moved + ROUNDING * jnp.abs(sums.loss)
        close = sums.loss - state.loss <= CLOSE * jnp.abs(sums.loss)
        accept = (sums.loss <= bound) | (close & (jnp.abs(sums.slope) < jnp.abs(state.slope)))
        best = jnp.where(accept, state.trial, state.best)
        loss = jnp.where(accept, sums.loss, state.loss)
        slope = jnp.where(accept, sums.slope, state.slope)
        lower = jnp.where(~accept & (moved < 0), state.trial, state.lower)
        upper = jnp.where(~accept & (moved > 0), state.trial, state.upper)
        sliding = (moved < 0) & (sums.slope > 0.2 * state.slope) & (sums.curvature < 2 * sums.slope)
        step = jnp.where(sliding, lower - best, _newton(sums))
        trial = jnp.where(accept, jnp.clip(best + step, lower, upper), state.best + moved / 4)
        still = jnp.abs(trial - best) < STEP
        at_bound = accept & (
            ((best <= state.bottom) & (slope >= 0)) | ((best >= state.top) & (slope <= 0))
        )
        broken = ~jnp.isfinite(sums.loss + sums.slope + sums.curvature) & jnp.isinf(state.loss)
        curvature = jnp.where(accept, sums.curvature, state.curvature)
        status = jnp.where(still, Status.OK, state.status)
        status = jnp.where(at_bound, Status.AT_BOUND, status)
        status = jnp.where(broken, Status.NOT_FINITE, status)
        return state._replace(
            trial=trial,
            best=jnp.where(still, trial, best),
            loss=loss,
            slope=slope,
            curvature=curvature,
            lower=lower,
            upper=upper,
            status=status,
            finished=still | at_bound | broken,
        )

    def done(self, state: ScalarState) -> Bool[Array, "g"]:
        """Genes at a minimum, at a bound, or not finite at the start."""
        return state.finished

    def outcome(self, state: ScalarState) -> Outcome:
        """Best points."""
        return Outcome(state.best, state.status)


def _newton(f: Curve) -> Float[Array, "g"]:
    """Newton's step in a = log t, or in t where the objective is not convex in a."""
    in_a = f.curvature > 0.5 * jnp.abs(f.slope)
    curvature = f.curvature - f.slope  # t² f''(t)
    in_t = curvature > 0
    relative = jnp.maximum(-f.slope / jnp.where(in_t, curvature, 1.0), -0.99)
    # Concave in both: a fixed move downhill, as long as a usual Newton step.
    step = jnp.where(in_t, jnp.log1p(relative), -2.0 * jnp.sign(f.slope))
    return jnp.where(in_a, -f.slope / jnp.where(in_a, f.curvature, 1.0), step)
