"""Curves of every gene by weighted least squares: estimates, their precision, and how both move.

Values ``y_gn = level_g + u_n' x_g + error``, errors independent with variance ``1 / tau_g``. The
columns of U span what a basis of functions of time can say, less its mean over the samples, and are
orthonormal; so ``|x_g|`` is the length of the centred fitted curve over the samples, whatever the
basis (Giordano et al. 2019, AISTATS, supplement; there ``x_g = T beta_g``, T from the singular
value decomposition of the centred basis, which is `Frame.turn`).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from expressway._types import Bool, Float, Int

from .mixture import Change, Observed, half

# Directions of a centred basis below this share of the largest are its constant.
NULL = 1e-10
# Residuals below this share of a gene's values are rounding: it has no variance to estimate.
ROUNDING = 1e-12
# Smallest eigenvalue of the information that is left, all samples' being one, below which a
# design is singular: coefficients would have fewer than three digits.
SINGULAR = 1e-12


class Frame(NamedTuple):
    """Coordinates of centred curves: orthonormal at the samples."""

    u: Float[np.ndarray, "n d"]
    """Curves at the samples: ``level + u x``."""
    turn: Float[np.ndarray, "d p"]
    """``x = turn beta`` for a curve with basis coefficients beta."""
    back: Float[np.ndarray, "p d"]
    """A curve's basis coefficients, up to a constant."""
    center: Float[np.ndarray, "p"]
    """Mean of the basis over the samples."""

    @property
    def design(self) -> Float[np.ndarray, "n c"]:
        """Ones beside U: orthogonal columns."""
        return np.column_stack([np.ones(len(self.u)), self.u])

    def at(self, basis: Float[np.ndarray, "m p"]) -> Float[np.ndarray, "m d"]:
        """What u is at other times, given the basis there."""
        return (basis - self.center) @ self.back


def frame(basis: Float[np.ndarray, "n p"]) -> Frame:
    """Coordinates of the curves that a basis, of which the constant is one, has at the samples.

    Parameters
    ----------
    basis
        At the samples, one row each.
    """
    center = np.mean(basis, axis=0)
    u, s, v = np.linalg.svd(basis - center, full_matrices=False)
    kept = s > NULL * s[0]
    # The sign of a singular vector is arbitrary: the largest entry of each is positive.
    largest = np.argmax(np.abs(u), axis=0)
    sign = np.sign(u[largest, np.arange(len(s))])[kept]
    u, s, v = u[:, kept] * sign, s[kept], v[kept] * sign[:, None]
    return Frame(u, s[:, None] * v, v.T / s, center)


class Fitted(NamedTuple):
    """Weighted least squares of every gene, with the mean-field posterior.

    Coefficients ~ N(coefficients, inverse / tau), error precision ~ Gamma(sum w / 2, rate sum w /
    (2 tau)) (flat priors; the fixed point of both has ``tau = (sum w - c) / sum w r²``).
    """

    coefficients: Float[np.ndarray, "g c"]
    """Level first."""
    tau: Float[np.ndarray, "g"]
    inverse: Float[np.ndarray, "#g c c"]
    """``(Z'WZ)⁻¹``, one for all genes where no value is missing."""
    freedom: Float[np.ndarray, "g"]
    """Sum of weights less the number of coefficients."""
    residual: Float[np.ndarray, "g n"]
    """0 where a value is missing."""
    determined: Bool[np.ndarray, "g"]
    """Whether there are enough values for the coefficients and their error."""
    usable: Bool[np.ndarray, "g"]
    """And these are not met exactly."""


class Posterior(NamedTuple):
    """What is known of the coefficients of curves: level first, then coordinates in a frame."""

    mean: Float[np.ndarray, "g c"]
    covariance: Float[np.ndarray, "g c c"]
    freedom: Float[np.ndarray, "g"]
    """Of Student's t distribution; infinite for a normal one."""


class Curves(NamedTuple):
    """Expression of genes and the frame of their curves; a stage of `timecourse`."""

    y: Float[np.ndarray, "g n"]
    """Expression, 0 where it is missing."""
    seen: Float[np.ndarray, "g n"] | None
    """1 where there is a value; None if there are all."""
    frame: Frame
    spread: float
    """Variance within clusters of each coordinate, added to what is not known of an estimate."""

    def some(self, genes: slice | np.ndarray) -> "Curves":
        """Some of the genes."""
        seen = None if self.seen is None else self.seen[genes]
        return self._replace(y=self.y[genes], seen=seen)

    def fit(self, weight: Float[np.ndarray, "n"]) -> Fitted:
        """Weighted least squares of every gene, samples counting as often as weights say."""
        z, y = self.frame.design, self.y
        c = z.shape[1]
        squares = (z[:, :, None] * z[:, None, :]).reshape(len(z), -1)
        each = weight[None] if self.seen is None else self.seen * weight
        information = (each @ squares).reshape(-1, c, c)
        fine = _regular(information, float(len(z)))
        inverse = np.linalg.inv(np.where(fine[:, None, None], information, np.eye(c)))
        total = (y * each) @ z
        beta = total @ inverse[0] if self.seen is None else (inverse @ total[:, :, None])[:, :, 0]
        residual = y - beta @ z.T
        if self.seen is not None:
            residual *= self.seen
        squared = np.sum(each * residual**2, axis=1)
        freedom = np.broadcast_to(np.sum(each, axis=1) - c, squared.shape)
        size = np.sum(each * y**2, axis=1)
        determined = fine & (freedom > 0)
        usable = determined & (squared > ROUNDING**2 * size)
        tau = np.where(usable, freedom / np.where(usable, squared, 1.0), 0.0)
        return Fitted(beta, tau, inverse, freedom, residual, determined, usable)

    def observed(self, weight: Float[np.ndarray, "n"]) -> Observed:
        """Coordinates of each gene's centred curve, and their precision.

        ``L = (C / tau + spread I)⁻¹``, C the coordinates' part of ``(Z'WZ)⁻¹``. A gene that
        cannot be fitted with these weights has precision 0.
        """
        return self._observed(self.fit(weight))

    def _observed(self, fitted: Fitted) -> Observed:
        shape = fitted.inverse[:, 1:, 1:]
        usable = fitted.usable[:, None]
        tau = np.where(usable, fitted.tau[:, None], 1.0)
        values, vectors = np.linalg.eigh(shape)
        scale = np.where(usable, 1.0 / (values / tau + self.spread), 0.0)
        precision = (vectors * scale[:, None, :]) @ np.swapaxes(vectors, 1, 2)
        return Observed(np.where(usable, fitted.coefficients[:, 1:], 0.0), precision)

    def posterior(self) -> Posterior:
        """Mean, covariance and degrees of freedom of level and coordinates, given all samples."""
        fitted = self.fit(np.ones(len(self.frame.u)))
        variance = np.where(fitted.usable, 1.0 / np.where(fitted.usable, fitted.tau, 1.0), np.nan)
        return Posterior(
            fitted.coefficients,
            fitted.inverse * variance[:, None, None],
            np.maximum(fitted.freedom, 1.0),
        )

    def changes(self) -> Iterator[Change]:
        """Derivative of estimates and precisions in each sample's weight, at weights of 1.

        With ``a = C-part of (Z'WZ)⁻¹ z_n`` and residual r: ``dx = a r``, ``dC = -a a'``,
        ``d(1/tau) = (r² - 1/tau) / freedom``, ``dL = -L d(C / tau + spread I) L``.
        """
        fitted = self.fit(np.ones(len(self.frame.u)))
        x, precision = self._observed(fitted)
        shape = fitted.inverse[:, 1:, 1:]
        d = x.shape[1]
        held = half(d)
        inner = precision @ shape @ precision
        inner_pull, inner = (inner @ x[:, :, None])[:, :, 0], held.of(inner)
        variance = 1.0 / np.where(fitted.usable, fitted.tau, 1.0)
        reach = fitted.inverse[:, 1:] @ self.frame.design.T  # (1 or g) d n
        toward = precision @ reach  # g d n: L a
        for n in range(self.y.shape[1]):
            seen = 1.0 if self.seen is None else self.seen[:, n]
            la, residual = toward[:, :, n], fitted.residual[:, n]
            own = seen * fitted.usable * variance
            turned = seen * fitted.usable * (residual**2 - variance) / np.maximum(fitted.freedom, 1)
            along = own * np.sum(la * x, axis=1) + residual * fitted.usable
            yield Change(
                pull=la * along[:, None] - turned[:, None] * inner_pull,
                half=own[:, None] * held.product(la, la) - turned[:, None] * inner,
            )

    def conditioning(self, weight: Float[np.ndarray, "n"]) -> float:
        """Smallest eigenvalue of ``Q'WQ``, Q orthonormal columns: the information that is left.

        Of the coefficient that loses most, as a share of what all samples have.
        """
        return information_left(self.frame, weight)

    def errors(
        self,
        rows: Int[np.ndarray, "_"],
        weight: Float[np.ndarray, "n"],
        curve: Float[np.ndarray, "g n"],
        centre: str,
    ) -> Float[np.ndarray, "g _"]:
        """Values at some samples less level and curve; NaN where a value is missing.

        Parameters
        ----------
        rows
            The samples.
        weight
            Of the samples from which the level is taken: the mean of ``y - curve`` over them.
        curve
            Centred curve of each gene at all samples.
        centre
            ``"fit"``: the level is as above. ``"mean"``: it is the mean of all values, those at
            ``rows`` too (as published).
        """
        each = np.broadcast_to(weight, self.y.shape)
        base = self.y - curve
        if centre == "mean":
            each, base = np.ones_like(self.y), self.y
        if self.seen is not None:
            each = each * self.seen
        total = np.sum(each, axis=1)
        level = np.sum(each * base, axis=1) / np.where(total > 0, total, np.nan)
        found = (self.y - curve - level[:, None])[:, rows]
        return found if self.seen is None else np.where(self.seen[:, rows] > 0, found, np.nan)


def information_left(frame: Frame, weight: Float[np.ndarray, "n"]) -> float:
    """Smallest eigenvalue of ``Q'WQ``, Q the design of a frame with orthonormal columns."""
    q = frame.design / np.linalg.norm(frame.design, axis=0)
    return float(np.linalg.eigvalsh(q.T @ (weight[:, None] * q))[0])


def _regular(information: Float[np.ndarray, "_ c c"], n: float) -> Bool[np.ndarray, "_"]:
    """Whether matrices ``Z'WZ`` of n samples are regular; their diagonal is that of Z."""
    scale = np.ones(information.shape[1])
    scale[0] = np.sqrt(n)
    scaled = information / (scale[:, None] * scale)
    return np.linalg.eigvalsh(scaled)[:, 0] > SINGULAR
