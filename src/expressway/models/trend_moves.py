"""The trend and the prior on frozen sets of genes: their exact roots, and how these move.

`trend` follows R's iterations to their stopping rules; here is the equation they solve, the
gamma GLM's ``sum x (alpha - mu) / mu² = 0`` with ``mu = x'a``, ``x = (1, 1 / mean)``, over the
genes of its last fit.
"""

from typing import NamedTuple

import numpy as np
from scipy import special

from expressway._types import Array, Float, Int

from . import trend
from .moments import MIN_DISPERSION
from .trend import MAD, Trend

# Newton's method from R's answer, which is within 1e-4 standard errors.
STEPS = 20
# Of m genes the m^.8 next to a median tell how it moves: the rate of kernel regression.
NEIGHBOURS = 0.8


class Members(NamedTuple):
    """Frozen sets of genes."""

    trend: Int[np.ndarray, "k"]
    """Whose dispersions the trend is fitted to."""
    residuals: Int[np.ndarray, "m"]
    """Whose distances from the trend the prior is estimated from."""


def members(of: Trend, mean: Float[np.ndarray, "g"], alpha: Float[np.ndarray, "g"]) -> Members:
    """Both sets as the fit had them."""
    return Members(trend.members(of, mean, alpha), np.flatnonzero(alpha >= 100 * MIN_DISPERSION))


def root(
    of: Trend, who: Members, mean: Float[np.ndarray, "g"], alpha: Float[np.ndarray, "g"]
) -> Float[np.ndarray, "2"]:
    """The trend's coefficients for dispersions near those it was fitted to."""
    some = who.trend
    if of.kind == "mean":
        return np.array([np.mean(alpha[some]), 0.0])
    x, y = _design(mean[some]), alpha[some]
    a = np.array([of.asymptotic, of.extra])
    for _ in range(STEPS):
        score, slope = _equation(a, x, y)
        step = np.linalg.solve(slope, score)
        a = a - step
        if np.all(np.abs(step) <= 1e-14 * np.abs(a)):
            break
    return a


def _design(mean: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k 2"]:
    return np.column_stack([np.ones_like(mean), 1.0 / mean])


def _equation(
    a: Float[np.ndarray, "2"], x: Float[np.ndarray, "k 2"], y: Float[np.ndarray, "k"]
) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2 2"]]:
    """The gamma GLM's score and its derivative."""
    mu = x @ a
    score = x.T @ ((y - mu) / mu**2)
    return score, -(x * ((2 * y - mu) / mu**3)[:, None]).T @ x


class Moves(NamedTuple):
    """Derivatives of log dispersions and log means, and of what is made of them."""

    log_alpha: Float[np.ndarray, "g n"]
    log_mean: Float[np.ndarray, "g n"]


def root_moves(
    of: Trend,
    who: Members,
    mean: Float[np.ndarray, "g"],
    alpha: Float[np.ndarray, "g"],
    moves: Moves,
) -> Float[np.ndarray, "2 n"]:
    """Derivative of `root` in the weight of each sample."""
    some = who.trend
    d_alpha = alpha[some][:, None] * moves.log_alpha[some]
    if of.kind == "mean":
        level = np.mean(d_alpha, axis=0)
        return np.stack([level, np.zeros_like(level)])
    x, y = _design(mean[some]), alpha[some]
    a = root(of, who, mean, alpha)
    mu = x @ a
    d_inverse = -x[:, 1:] * moves.log_mean[some]
    own = -x * (a[1] * (2 * y - mu) / mu**3)[:, None]
    own[:, 1] += (y - mu) / mu**2
    pushed = (x / mu[:, None] ** 2).T @ d_alpha + own.T @ d_inverse
    return -np.linalg.solve(_equation(a, x, y)[1], pushed)


def fitted_moves(
    a: Float[np.ndarray, "2"],
    d_a: Float[Array, "2 n"],
    mean: Float[np.ndarray, "g"],
    log_mean: Float[np.ndarray, "g n"],
) -> Float[np.ndarray, "g n"]:
    """Derivative of the log of the trend at each gene's mean."""
    inverse = 1.0 / mean
    change = d_a[0] + inverse[:, None] * (d_a[1] - a[1] * log_mean)
    return change / (a[0] + a[1] * inverse)[:, None]


def prior_variance(residual: Float[np.ndarray, "m"], df: int) -> float:
    """The prior variance of residuals from the trend, for more than three degrees of freedom."""
    away = np.abs(residual - np.median(residual))
    return max((MAD * np.median(away)) ** 2 - float(special.polygamma(1, df / 2)), 0.25)


def prior_moves(
    residual: Float[np.ndarray, "m"], d_residual: Float[np.ndarray, "m n"]
) -> Float[np.ndarray, "n"]:
    """Derivative of the prior variance where it is not at its floor.

    A median moves as the mean of what is there moves: the derivative of the median of many
    residuals is the average of the derivatives of those next to it, and likewise that of the median
    of distances from it. It is a smoothed one: the median of few genes moves in jumps.
    """
    m = len(residual)
    count = max(int(np.ceil(m**NEIGHBOURS)), min(m, 10))

    def next_to(values: Float[np.ndarray, "m"], at: float) -> Int[np.ndarray, "k"]:
        return np.argsort(np.abs(values - at), kind="stable")[:count]

    center = float(np.median(residual))
    d_center = np.mean(d_residual[next_to(residual, center)], axis=0)
    away = np.abs(residual - center)
    reach = float(np.median(away))
    some = next_to(away, reach)
    side = np.sign(residual[some] - center)
    d_reach = np.mean(side[:, None] * (d_residual[some] - d_center), axis=0)
    return 2.0 * MAD**2 * reach * d_reach
