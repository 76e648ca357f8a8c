"""The trend on a frozen set of genes: the exact root of its equation, and how it moves.

`trend` follows R's iterations to their stopping rules; here is the equation they solve, the
gamma GLM's ``sum x (alpha - mu) / mu² = 0`` with ``mu = x'a``, ``x = (1, 1 / mean)``, over the
genes of its last fit.
"""

from typing import NamedTuple

import numpy as np

from expressway._types import Float, Int

from .trend import Trend

# Curves that do not move: the user's own, and a local regression.
HELD = ("local", "given")
STEPS = 100
# Share of a coefficient that a step of Fisher's changes before Newton's take over, and at the end.
NEAR, ENOUGH = 1e-2, 1e-13


def root(
    of: Trend,
    who: Int[np.ndarray, "k"],
    mean: Float[np.ndarray, "g"],
    alpha: Float[np.ndarray, "g"],
) -> Float[np.ndarray, "2"]:
    """The trend's coefficients; NaN where no positive ones solve the equation, 0 where it is held.

    Fisher scoring from the fit's, halved where a mean would not be positive, then Newton's method.
    """
    if of.kind in HELD:
        return np.zeros(2)
    if of.kind == "mean":
        return np.array([np.mean(alpha[who]), 0.0])
    x, y = _design(mean[who]), alpha[who]
    a = np.array([of.asymptotic, of.extra])
    for _ in range(STEPS):
        score, slope, info = _equation(a, x, y)
        by_fisher, by_newton = np.linalg.solve(info, score), np.linalg.solve(-slope, score)
        near = np.all(np.abs(by_fisher) < NEAR * np.abs(a))
        step = by_newton if near else by_fisher
        while np.any(x @ (a + step) <= 0):
            step = step / 2
        a = a + step
        if np.all(np.abs(step) <= ENOUGH * np.abs(a)):
            return a if np.all(a > 0) else np.full(2, np.nan)
    return np.full(2, np.nan)


def shifted(of: Trend, by: Float[np.ndarray, "2"]) -> Trend | None:
    """The trend with its coefficients moved, unless they are no longer positive."""
    if of.kind in HELD:
        return of
    new = of._replace(asymptotic=float(of.asymptotic + by[0]), extra=float(of.extra + by[1]))
    positive = new.asymptotic > 0 and (new.extra > 0 or of.kind == "mean")
    return new if positive else None


def _design(mean: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k 2"]:
    return np.column_stack([np.ones_like(mean), 1.0 / mean])


def _equation(
    a: Float[np.ndarray, "2"], x: Float[np.ndarray, "k 2"], y: Float[np.ndarray, "k"]
) -> tuple[Float[np.ndarray, "2"], Float[np.ndarray, "2 2"], Float[np.ndarray, "2 2"]]:
    """The gamma GLM's score, its derivative, and minus the expectation of that."""
    mu = x @ a
    score = x.T @ ((y - mu) / mu**2)
    return score, -(x * ((2 * y - mu) / mu**3)[:, None]).T @ x, (x / mu[:, None] ** 2).T @ x


class Moves(NamedTuple):
    """Derivatives of log dispersions and log means, and of what is made of them."""

    log_alpha: Float[np.ndarray, "g n"]
    log_mean: Float[np.ndarray, "g n"]


def root_moves(
    of: Trend,
    who: Int[np.ndarray, "k"],
    mean: Float[np.ndarray, "g"],
    alpha: Float[np.ndarray, "g"],
    moves: Moves,
) -> Float[np.ndarray, "2 n"]:
    """Derivative of `root` in the weight of each sample."""
    if of.kind in HELD:
        return np.zeros((2, moves.log_mean.shape[1]))
    some = who
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
