"""Brackets of ``g' A⁻¹ g``, a variance of a prediction: no draws, no root.

Conjugate gradients for ``A x = g`` from x = 0 are a Gauss rule for that integral of 1/t over the
spectrum (Golub & Meurant 2010, *Matrices, Moments and Quadrature with Applications*, chapter 12).
With step lengths alpha_j, rho_j = r_j' P⁻¹ r_j (P = I without a preconditioner) and
beta_j = rho_j / rho_(j-1), after k steps

    lower = sum_(j<k) alpha_j rho_j                                          (Gauss)
    upper = lower + gamma_k rho_k                                            (Gauss-Radau)
    gamma_0 = 1 / mu,  gamma_j = t / (mu t + beta_j),  t = gamma_(j-1) - alpha_(j-1)

where mu is a proven lower bound of the spectrum of P^-1/2 A P^-1/2 (Meurant & Tichý 2013, Numerical
Algorithms 62, 163-191, their simple recurrence). The first is what the error's energy has fallen
by, summed, and needs no orthogonality of residuals: it stays true when rounding delays convergence.

Rounding. (a) In floating point conjugate gradients act as exact ones of a matrix whose eigenvalues
lie within some eps |A| of A's (Greenbaum 1989), so the node is moved down by that much, half of mu
at most. (b) Where t is not positive, the node is a Ritz value to rounding, and gamma starts anew at
1 / mu, which is a bound at every step. (c) Products are those of A + E, |E| <= c eps |A|, which
change the value by x'E x to first order: ``c eps (|A| |x|² + lower)`` is taken from the lower bound
and added to the upper one; where the products are those of a factor and its transpose, J'(J x),
x'E x is an error of J x times J x, and it is ``c eps (|A|^(1/2) |x| lower^(1/2) + lower)``. That is
also where brackets stop shrinking. |x| is the largest of the iterates'.

What one step gains is alpha_j r_j'p_j, with alpha_j the minimum along p_j: the same as
alpha_j rho_j, but also true where the preconditioner is applied with rounding.
"""

from typing import Any, NamedTuple

import numpy as np

from expressway._types import Array, Bool, Float

from .conjugate import ROUNDING, Spectrum, Step, fitting, run
from .nystrom import Nystrom
from .operator import Operator


class Brackets(NamedTuple):
    """``lower <= g' A⁻¹ g <= upper``, a number a row."""

    lower: Float[np.ndarray, "n"]
    upper: Float[np.ndarray, "n"]
    """Infinite where no lower bound of the spectrum is proven."""
    matvecs: int
    """Products of A with a vector."""
    certified: bool
    """There is a proven bound, so an upper bound."""


def brackets(
    operator: Operator,
    g: Float[Array, "n d"],
    rtol: float,
    *,
    preconditioner: Nystrom | None = None,
    max_steps: int | None = None,
) -> Brackets:
    """Lower and upper bounds of ``g' A⁻¹ g`` for each row g.

    Parameters
    ----------
    operator
        Positive definite; `Operator.lower` gives the upper bounds (with a preconditioner: that it
        is below A).
    rtol
        A row ends when ``upper - lower <= rtol * lower`` or rounding is all that is between them;
        without a proven bound, when the smallest Ritz value in its place says so.
    max_steps
        Of a batch of rows; 20 d where not given. Bounds hold after any number of steps.

    Raises
    ------
    Indefinite
        A product shows an eigenvalue that is not positive.
    """
    rows = np.asarray(g, operator.dtype)
    lower, upper, matvecs = np.zeros(len(rows)), np.zeros(len(rows)), 0
    together = fitting(operator)
    for i in range(0, len(rows), together):
        part = rows[i : i + together]
        rules = Rules(operator, part, preconditioner, rtol)
        ran = run(operator, np.zeros_like(part), part, preconditioner, rules, max_steps)
        matvecs += ran.matvecs
        lower[i : i + together], upper[i : i + together] = rules.lower, rules.upper
    return Brackets(lower, upper, matvecs, operator.lower is not None)


class Rules:
    """The Gauss and Gauss-Radau rules of rows under iteration, brought forward by each step."""

    def __init__(
        self, operator: Operator, g: np.ndarray, preconditioner: Nystrom | None, rtol: float
    ) -> None:
        self.rtol, self.spectrum = rtol, Spectrum(operator, preconditioner, len(g))
        self.lower = np.zeros(len(g))
        self.upper = np.where(g.any(axis=1), np.inf, 0.0)
        self._sum, self._size, self._gamma = (np.full(len(g), a) for a in (0.0, 0.0, np.inf))

    def __call__(self, step: Step) -> Bool[np.ndarray, "m"]:
        """Bring the rules forward; which rows' brackets are narrow enough."""
        rows, spectrum = step.which, self.spectrum
        spectrum.learn(step, rows)
        self._sum[rows] += step.gain
        total = self._sum[rows]
        # With a preconditioner, iterates may be longer than the solution on their way.
        self._size[rows] = np.maximum(self._size[rows], step.size)
        noise = spectrum.rounding(self._size[rows], total)
        self.lower[rows] = np.maximum(total - noise, 0.0)
        if spectrum.known:
            gap = self._radau(step, spectrum.floor[rows]) * step.after
            self.upper[rows] = total + gap + noise
            return (gap <= noise) | (
                self.upper[rows] - self.lower[rows] <= self.rtol * self.lower[rows]
            )
        done = self._guess(step, total, noise)
        if spectrum.learn_ends(rows[done]):
            done = self._guess(step, total, noise)
        return done

    def _radau(self, step: Step, node: Float[np.ndarray, "m"]) -> Any:
        """Gamma after this step: what the residual is multiplied by."""
        spectrum = self.spectrum
        wide = ROUNDING * spectrum.eps * spectrum.growth / spectrum.scale
        mu = np.maximum(node - wide, node / 2)
        rest = np.minimum(self._gamma[step.which], 1 / mu) - step.alpha
        with np.errstate(divide="ignore", invalid="ignore"):
            gamma = rest / (mu * rest + step.after / step.before)
        gamma = np.where((rest > 0) & (step.alpha > 0), gamma, 1 / mu)
        self._gamma[step.which] = gamma
        return gamma

    def _guess(self, step: Step, total: Any, noise: Any) -> Bool[np.ndarray, "m"]:
        """Whether the error would be small if the smallest Ritz value were the spectrum's end."""
        floor = self.spectrum.floor[step.which]
        floor = np.where(np.isfinite(floor), floor, self.spectrum.growth / self.spectrum.scale)
        return step.after / floor <= np.maximum(self.rtol * total, noise)
