"""Where DESeq2's gradient ascent stops on a flat profile of log dispersion.

With few residual degrees of freedom many profiles are nearly flat: DESeq2's ascent then stops on
the way to the optimum (gain of a step below 1e-6), or gives up after 100 steps and takes the best
of a grid. Trend, prior and, through them, every p-value depend on these values, so they are
reproduced. The ascent runs on an interpolant: most take a few short steps, for which two nodes
downhill of the start are enough; the profiles of the others are evaluated on nodes over the whole
range.

Source: DESeq2 1.38 ``src/DESeq2.cpp`` (fitDisp, fitDispGrid) and ``R/core.R``
(estimateDispersionsGeneEst).
"""

from typing import NamedTuple

import numpy as np

from expressway._types import Bool, Float, Int
from expressway.core.hermite import Interpolant

# src/DESeq2.cpp, fitDisp: Armijo's epsilon; bounds of a proposal; a step's gain that ends it.
_ARMIJO = 1e-4
_LOWEST, _HIGHEST = -30.0, 10.0
_TOLERANCE = 1e-6
_STEPS = 100
_GRID = 20


def nodes(max_dispersion: float) -> Float[np.ndarray, "m"]:
    """Nodes in log alpha: half a unit apart, where profiles bend on a scale of one; wider below.

    The interpolant's error is ``h^6 / 46080`` times a sixth derivative of order one: below 1e-6,
    and its slope's far below the 1e-3 at which the ascent stops.
    """
    top = np.log(max_dispersion)
    near = np.arange(top, -13.0, -0.5)
    far = np.arange(near[-1] - 1.0, -23.0, -1.0)
    return np.concatenate([near, far])[::-1].copy()


# Nodes downhill of the start, and the steepest slope with which the first step stays among them.
WINDOW = (0.5, 1.0)


class Stop(NamedTuple):
    """Where the ascent of each gene ended."""

    log_alpha: Float[np.ndarray, "g"]
    initial_loss: Float[np.ndarray, "g"]
    loss: Float[np.ndarray, "g"]
    steps: Int[np.ndarray, "g"]
    beyond: Bool[np.ndarray, "g"]
    """It looked beyond the first or the last node."""


def ascend(
    profile: Interpolant, start: Float[np.ndarray, "g"], lowest: float, *, inside: bool = False
) -> Stop:
    """Ascent of every gene from its start: unit steps of the gradient, halved or grown a tenth.

    Where it is of use only inside the nodes it ends when it looks beyond them.
    """
    everyone = np.arange(len(start))
    a = start.copy()
    loss, slope = profile.at(a, everyone)
    initial = loss.copy()
    step = np.ones_like(a)
    accepted = np.zeros(len(a), dtype=int)
    steps = np.zeros(len(a), dtype=int)
    beyond = np.zeros(len(a), dtype=bool)
    live = everyone
    for _ in range(_STEPS):
        if not len(live):
            break
        steps[live] += 1
        uphill = -slope[live]
        step[live] = _clipped(a[live], step[live], uphill)
        proposal = a[live] + step[live] * uphill
        beyond[live] |= (proposal < profile.nodes[live, 0]) | (proposal > profile.end[live])
        new_loss, new_slope = profile.at(proposal, live)
        accept = new_loss <= loss[live] - step[live] * _ARMIJO * uphill**2
        step[live[~accept]] /= 2
        moved = live[accept]
        gain = loss[moved] - new_loss[accept]
        a[moved], loss[moved] = proposal[accept], new_loss[accept]
        accepted[moved] += 1
        ended = (gain < _TOLERANCE) | (a[moved] < lowest)
        on = moved[~ended]
        slope[on] = new_slope[accept][~ended]
        step[on] = np.minimum(step[on] * 1.1, 1.0)
        step[on[accepted[on] % 5 == 0]] /= 2
        live = np.setdiff1d(live, moved[ended], assume_unique=True)
        if inside:
            live = live[~beyond[live]]
    return Stop(a, initial, loss, steps, beyond)


def _clipped(
    a: Float[np.ndarray, "k"], step: Float[np.ndarray, "k"], uphill: Float[np.ndarray, "k"]
) -> Float[np.ndarray, "k"]:
    safe = np.where(uphill == 0, 1.0, uphill)
    step = np.where(a + step * uphill < _LOWEST, (_LOWEST - a) / safe, step)
    return np.where(a + step * uphill > _HIGHEST, (_HIGHEST - a) / safe, step)


def grid(profile: Interpolant, lower: float, upper: float) -> Float[np.ndarray, "g"]:
    """Best of twenty values over the whole range, then of twenty around it."""
    g = len(profile.loss)
    coarse = np.broadcast_to(np.linspace(lower, upper, _GRID), (g, _GRID))
    best = _best(profile, coarse)
    spacing = (upper - lower) / (_GRID - 1)
    return _best(profile, best[:, None] + np.linspace(-spacing, spacing, _GRID))


def _best(profile: Interpolant, values: Float[np.ndarray, "g m"]) -> Float[np.ndarray, "g"]:
    g, m = values.shape
    loss = profile.at(values.ravel(), np.repeat(np.arange(g), m))[0].reshape(g, m)
    return values[np.arange(g), np.argmin(loss, axis=1)]


class Found(NamedTuple):
    """What DESeq2 would report of each gene."""

    alpha: Float[np.ndarray, "g"]
    beyond: Bool[np.ndarray, "g"]
    """Its ascent, or the grid after it, looked beyond the nodes."""


def gene_wise(
    profile: Interpolant,
    start: Float[np.ndarray, "g"],
    bounds: tuple[float, float],
    *,
    inside: bool = False,
) -> Found:
    """Dispersions (not their logs) that DESeq2 would report, from its start.

    The start is kept when the log-likelihood does not rise by 1e-6 of its size; a gene whose
    ascent took one step or all hundred takes the grid's value, unless it is at the lower bound.
    """
    lower, upper = bounds
    stop = ascend(profile, np.log(start), np.log(lower / 10), inside=inside)
    alpha = np.minimum(np.exp(stop.log_alpha), upper)
    still = stop.initial_loss - stop.loss < _TOLERANCE * np.abs(stop.initial_loss)
    alpha = np.where(still, start, alpha)
    by_grid = ((stop.steps == 1) | (stop.steps == _STEPS)) & (alpha > 10 * lower)
    some = np.flatnonzero(by_grid)
    if not inside:
        alpha[some] = np.exp(grid(profile.take(some), np.log(lower), np.log(upper)))
    return Found(np.clip(alpha, lower, upper), stop.beyond | by_grid)
