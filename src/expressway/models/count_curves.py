"""Curves of every gene from counts: negative-binomial regression with dispersions given.

``log mu_gn = offset_n + level_g + u_n' x_g`` (natural logarithms), variance ``mu + alpha mu²``, and
the frame of `curves`: ``|x_g|`` is the length of the centred curve over the samples. Each gene has
an information matrix of its own, the observed one at its optimum. Size factors and dispersions are
those of the analysis of all samples, also where samples are left out.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from expressway._types import Float, Int

from . import nb
from .curves import Frame, Posterior, information_left
from .mixture import Change, Observed, half

# Newton's steps for a gene's level, given its curve; from the ratio of sums a handful are enough.
LEVEL_STEPS = 20
# Newton's steps after which a gene is given up; from the optimum of other weights five will do.
STEPS = 100
# Newton's decrement, squared, at which it is there: that of the next point is its square,
THERE = 1e-12
# the longest step of a linear predictor, and what rounding makes of a sum, relative to it.
LONGEST = 5.0
ROUNDING = 1e-12


class Point(NamedTuple):
    """Counts at an optimum."""

    inverse: Float[np.ndarray, "g c c"]
    """Of the observed information."""
    score: Float[np.ndarray, "g n"]
    """``(y - mu) / (1 + alpha mu)``."""
    observed: Float[np.ndarray, "g n"]
    """``mu (1 + alpha y) / (1 + alpha mu)²``: minus the score's derivative."""
    slope: Float[np.ndarray, "g n"]
    """Its derivative in the linear predictor."""


class CountCurves(NamedTuple):
    """Counts of genes and the frame of their curves; a stage of `timecourse`."""

    y: Float[np.ndarray, "g n"]
    offset: Float[np.ndarray, "n"]
    """Natural logarithm of size factors."""
    alpha: Float[np.ndarray, "g"]
    frame: Frame
    spread: float
    """Variance within clusters of each coordinate, added to what is not known of an estimate."""
    beta: Float[np.ndarray, "g c"]
    """Level and coordinates at the optimum for all samples."""

    def some(self, genes: slice | np.ndarray) -> "CountCurves":
        """Some of the genes."""
        return self._replace(y=self.y[genes], alpha=self.alpha[genes], beta=self.beta[genes])

    def fit(self, weight: Float[np.ndarray, "n"]) -> Float[np.ndarray, "g c"]:
        """Level and coordinates with samples counting as often as weights say."""
        if np.all(weight == 1.0):
            return self.beta
        return warm(self, weight)

    def observed(self, weight: Float[np.ndarray, "n"]) -> Observed:
        """Coordinates of each gene's centred curve, and their precision.

        ``L = (C + spread I)⁻¹``, C the coordinates' part of the inverse observed information. A
        gene that cannot be fitted with these weights has precision 0.
        """
        beta = self.fit(weight)
        there = np.all(np.isfinite(beta), axis=1)
        beta = np.where(there[:, None], beta, 0.0)
        precision = self._precision(self._point(beta, weight))
        return Observed(beta[:, 1:].copy(), np.where(there[:, None, None], precision, 0.0))

    def _precision(self, at: Point) -> Float[np.ndarray, "g d d"]:
        d = self.frame.u.shape[1]
        return np.linalg.inv(at.inverse[:, 1:, 1:] + self.spread * np.eye(d))

    def _point(self, beta: Float[np.ndarray, "g c"], weight: Float[np.ndarray, "n"]) -> Point:
        z = self.frame.design
        alpha = self.alpha[:, None]
        mu = np.exp(np.minimum(self.offset + beta @ z.T, 700.0))
        over = 1.0 / (1.0 + alpha * mu)
        observed = mu * (1.0 + alpha * self.y) * over**2
        squares = (z[:, :, None] * z[:, None, :]).reshape(len(z), -1)
        information = ((weight * observed) @ squares).reshape(-1, z.shape[1], z.shape[1])
        inverse = np.linalg.inv(information + np.diag(_ridge(self.frame)))
        slope = observed * (1.0 - alpha * mu) * over
        return Point(inverse, (self.y - mu) * over, observed, slope)

    def posterior(self) -> Posterior:
        """Mean, covariance and degrees of freedom of level and coordinates, given all samples."""
        at = self._point(self.beta, np.ones(len(self.frame.u)))
        return Posterior(self.beta, at.inverse, np.full(len(self.beta), np.inf))

    def changes(self) -> Iterator[Change]:
        """Derivative of estimates and precisions in each sample's weight, at weights of 1.

        With A the observed information, W its weights and s the scores: ``dbeta = A⁻¹ z_n s_n``,
        ``dA = W_n z_n z_n' + sum_m W'_m (z_m' dbeta) z_m z_m'``, ``dL = L (A⁻¹ dA A⁻¹) L`` (its
        coordinates' part).
        """
        z = self.frame.design
        one = np.ones(len(z))
        at = self._point(self.beta, one)
        precision = self._precision(at)
        x = self.beta[:, 1:]
        d = x.shape[1]
        held = half(d)
        toward = at.inverse @ z.T  # g c n: A⁻¹ z
        reach = np.swapaxes(precision @ toward[:, 1:], 1, 2)  # g n d: L A⁻¹ z
        squares = np.ascontiguousarray(reach[:, :, held.row] * reach[:, :, held.column])  # g n h
        between = z @ toward  # g n n: z_m' A⁻¹ z_n
        along = (reach @ x[:, :, None])[:, :, 0]  # g n
        for n in range(len(z)):
            share = at.slope * between[:, :, n] * at.score[:, n, None]
            share[:, n] += at.observed[:, n]
            pull = (np.swapaxes(reach, 1, 2) @ (share * along)[:, :, None])[:, :, 0]
            moved = (share[:, None] @ squares)[:, 0]
            yield Change(pull + reach[:, n] * at.score[:, n, None], moved)

    def conditioning(self, weight: Float[np.ndarray, "n"]) -> float:
        """Smallest eigenvalue of ``Q'WQ``, Q orthonormal columns: the information that is left."""
        return information_left(self.frame, weight)

    def errors(
        self,
        rows: Int[np.ndarray, "_"],
        weight: Float[np.ndarray, "n"],
        curve: Float[np.ndarray, "g n"],
        centre: str,
    ) -> Float[np.ndarray, "g _"]:
        """Deviance residuals at some samples, given level and curve; their square is a deviance.

        Parameters
        ----------
        rows
            The samples.
        weight
            Of the samples from which the level is taken, by maximum likelihood.
        curve
            Centred curve of each gene at all samples, natural logarithm.
        centre
            ``"fit"``: the level is as above. ``"mean"``: it is from all samples.
        """
        each = np.ones_like(weight) if centre == "mean" else weight
        eta = self.offset + curve
        alpha = self.alpha[:, None]
        size = np.exp(eta)
        total = np.sum(each * self.y, axis=1)
        level = np.log(np.maximum(total, 0.5)) - np.log(np.sum(each * size, axis=1))
        for _ in range(LEVEL_STEPS):
            mu = size * np.exp(level)[:, None]
            over = 1.0 / (1.0 + alpha * mu)
            score = np.sum(each * (self.y - mu) * over, axis=1)
            step = score / np.sum(each * mu * over, axis=1)
            # Without a count the level has no finite optimum.
            step = np.where(total > 0, np.clip(step, -1.0, 1.0), 0.0)
            level = level + step
            if np.max(np.abs(step), initial=0.0) < 1e-10:
                break
        return deviance_residual(
            self.y[:, rows], (size * np.exp(level)[:, None])[:, rows], self.alpha
        )


def deviance_residual(
    y: Float[np.ndarray, "g m"], mu: Float[np.ndarray, "g m"], alpha: Float[np.ndarray, "g"]
) -> Float[np.ndarray, "g m"]:
    """Signed root of ``2 (y log(y/mu) - (y + 1/alpha) log((1 + alpha y) / (1 + alpha mu)))``."""
    a = alpha[:, None]
    log_ratio = np.log(np.where(y > 0, y, 1.0) / np.where(y > 0, mu, 1.0))
    share = a * (y - mu) / (1.0 + a * mu)
    # Near -1 it has no digits left, and far from 0 the logarithms have theirs.
    other = np.where(
        share > -0.5, np.log1p(np.maximum(share, -0.5)), np.log1p(a * y) - np.log1p(a * mu)
    )
    deviance = 2.0 * (y * log_ratio - (y + 1.0 / a) * other)
    return np.sign(y - mu) * np.sqrt(np.maximum(deviance, 0.0))


def _ridge(frame: Frame) -> Float[np.ndarray, "c"]:
    """DESeq2's ridge, on columns of the size that the solver sees."""
    scale = np.ones(frame.u.shape[1] + 1)
    scale[1:] = 1.0 / len(frame.u)
    return nb.RIDGE * scale


def warm(curves: CountCurves, weight: Float[np.ndarray, "n"]) -> Float[np.ndarray, "g c"]:
    """Level and coordinates at other weights, by maximum likelihood with DESeq2's ridge.

    By Newton's method from those that the curves have. The objective is convex, and the ridge gives
    it a minimum where the likelihood has none: steps that do not lower it are halved. NaN for
    genes that are not there after `STEPS`.
    """
    beta = curves.beta.copy()
    ridge, z = _ridge(curves.frame), curves.frame.design
    open_ = np.arange(len(beta))
    loss = _loss(curves, weight, beta)
    step, slope, length = np.zeros_like(beta), np.zeros(len(beta)), np.ones(len(beta))
    fresh = np.ones(len(beta), bool)
    for _ in range(STEPS):
        new = open_[fresh[open_]]
        if len(new):
            at = curves.some(new)._point(beta[new], weight)
            score = (weight * at.score) @ z - ridge * beta[new]
            step[new] = (at.inverse @ score[:, :, None])[:, :, 0]
            slope[new] = np.sum(step[new] * score, axis=1)
            # Far away a step of Newton's overshoots exponentially.
            size = np.max(np.abs(step[new] @ z.T), axis=1)
            length[new] = np.minimum(1.0, LONGEST / np.maximum(size, LONGEST))
        trial = beta[open_] + length[open_, None] * step[open_]
        there = _loss(curves.some(open_), weight, trial)
        lost = ROUNDING * np.maximum(1.0, np.abs(loss[open_]))
        good = there <= loss[open_] - 1e-4 * length[open_] * slope[open_] + lost
        moved = open_[good]
        beta[moved], loss[moved] = trial[good], there[good]
        fresh[open_] = good
        length[open_[~good]] *= 0.5
        open_ = open_[~(good & (slope[open_] < THERE))]
        if not len(open_):
            return beta
    beta[open_] = np.nan
    return beta


def _loss(
    curves: CountCurves, weight: Float[np.ndarray, "n"], beta: Float[np.ndarray, "g c"]
) -> Float[np.ndarray, "g"]:
    """Negative log-likelihood with its ridge, terms in beta only."""
    alpha = curves.alpha[:, None]
    eta = np.minimum(curves.offset + beta @ curves.frame.design.T, 700.0)
    terms = (curves.y + 1.0 / alpha) * np.log1p(alpha * np.exp(eta)) - curves.y * eta
    return terms @ weight + 0.5 * np.sum(_ridge(curves.frame) * beta**2, axis=1)


def count_curves(
    y: Float[np.ndarray, "g n"],
    offset: Float[np.ndarray, "n"],
    alpha: Float[np.ndarray, "g"],
    frame: Frame,
    spread: float,
) -> CountCurves:
    """Curves of counts, fitted to all samples.

    Parameters
    ----------
    y
        Counts.
    offset
        Natural logarithm of size factors.
    alpha
        Dispersions.
    frame
        Of the curves.
    spread
        Variance within clusters of each coordinate.
    """
    normalised = np.log(y / np.exp(offset) + 0.1)
    start = np.column_stack([np.mean(normalised, axis=1), normalised @ frame.u])
    curves = CountCurves(y, offset, alpha, frame, spread, start)
    return curves._replace(beta=warm(curves, np.ones(len(offset))))
