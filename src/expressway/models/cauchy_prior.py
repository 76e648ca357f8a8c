"""Shrinkage by a Cauchy prior on one contrast: apeglm.

Zhu, Ibrahim & Love 2019 (Bioinformatics 35:2084), as R's DESeq2 1.38 (lfcShrink, type "apeglm")
calls R's apeglm 1.20 with an adapted scale.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Float, Int
from expressway.core import linear, nested
from expressway.core.boxed import Boxed, Score
from expressway.core.cohort import Cohort
from expressway.core.solve import Status, solve

from . import nb
from .deseq import DESeqFit
from .marginal import Point, Wanted, marginal
from .posterior import Choices, Ends, Found, Mode, Part, laplace

# apeglm R/apeglm.R, prior.no.shrink.scale: standard deviation of the other coefficients' prior.
OTHERS = 15.0
# apeglm R/priorVar.R, min.var and max.var, and the largest scale (R/apeglm.R).
LEAST, MOST, LARGEST = 0.001**2, 20.0**2, 1.0
# A mode is certified within this distance of the optimum, in standard deviations: the solver's last
# decrement is 1e-14 before a last step; sums of 1e4 terms lose what 1e-6 leaves room for.
NEAR = 1e-6
# Where the curvature is negative or nearly 0 a step is at most twenty times, one over this, that to
# the touching parabola's minimum.
LEAST_BEND = 0.05
# Modes further apart than this, in standard deviations, are two.
APART = 1e-3


def prior_variance(estimate: Float[np.ndarray, "k"], se: Float[np.ndarray, "k"]) -> float:
    """Variance A of normal fold changes that were seen with errors; natural log.

    The root of ``sum w (e² - s² - A) = 0`` with ``w = 1 / (2 (A + s²)²)``, Fisher's information of
    A (Efron & Morris 1975, J. Am. Stat. Assoc. 70:311, as in apeglm R/priorVar.R, which stops
    within 1e-4 of the root). At least .001², at most 20².

    Parameters
    ----------
    estimate, se
        Maximum-likelihood fold changes and their standard errors.
    """
    known = np.isfinite(estimate) & np.isfinite(se) & (se > 0)
    square, variance = estimate[known] ** 2, se[known] ** 2

    def excess(a: float) -> float:
        w = 1.0 / (a + variance) ** 2
        return float(np.sum(w * (square - variance - a)) / np.sum(w))

    if not np.any(known) or excess(LEAST) < 0:
        return LEAST
    low, high = np.log(LEAST), np.log(MOST)
    if excess(MOST) > 0:
        return MOST
    for _ in range(60):  # halves log A to within rounding
        middle = (low + high) / 2
        low, high = (middle, high) if excess(np.exp(middle)) > 0 else (low, middle)
    return float(np.exp((low + high) / 2))


def cauchy_penalty(theta: Float[Array, "g p"], alpha: Float[Array, "g"], f: Score) -> Score:  # noqa: ARG001
    """Minus the logarithm of the prior, added once to the totals of `nb.likelihood`.

    ``log(1 + t²) + |others|² / (2 15²)``, t the first coefficient in units of its prior's scale.
    Its second derivative ``2 (1 - t²) / (1 + t²)²`` is negative where ``|t| > 1``. That of the
    parabola that touches it at t and lies above it elsewhere, ``2 / (1 + t²)``, is not, and takes
    its place in Fisher's information. Where the second derivative of all is not positive definite,
    that along the first coefficient (the others at their best) is taken without its sign.
    """
    t = theta[:, 0]
    rise = 1.0 + t**2
    first = jnp.eye(theta.shape[1])[:1]
    wide = (1.0 - first) / OTHERS**2
    touching = 2.0 / rise
    above = linear.raised(f.info, wide + touching[:, None] * first)
    along = 1.0 / linear.solve(linear.cholesky(above), jnp.ones_like(theta) * first)[:, 0]
    bend = along - touching + 2.0 * (1.0 - t**2) / rise**2
    safe = jnp.where(bend > 0, bend, jnp.maximum(-bend, LEAST_BEND * along))
    return Score(
        loss=f.loss + jnp.log1p(t**2) + 0.5 * jnp.sum(wide * theta**2, axis=-1),
        gradient=f.gradient + (touching * t)[:, None] * first + theta * wide,
        info=linear.raised(above, (safe - along)[:, None] * first),
        fisher=linear.raised(f.fisher, wide + touching[:, None] * first),
    )


class Prior(NamedTuple):
    """The prior of a contrast."""

    matrix: Float[np.ndarray, "p p"]
    """B of the coordinates ``t = B⁻¹ b`` whose first is ``c'b / scale``, the others orthonormal."""
    inverse: Float[np.ndarray, "p p"]
    scale: float


def adapted(fit: DESeqFit, contrast: Float[np.ndarray, "p"], part: Int[np.ndarray, "k"]) -> Prior:
    """The prior whose scale some genes' maximum-likelihood fold changes tell.

    Priors of the other coordinates are alike, so that it does not matter which basis they are of;
    of a coefficient they are the other coefficients.
    """
    beta, covariance = fit.gene.beta[part], fit.gene.covariance[part]
    se = np.sqrt(linear.quadratic(covariance, contrast))
    scale = min(np.sqrt(prior_variance(beta @ contrast, se)), LARGEST)
    units = np.append(scale, np.ones(len(contrast) - 1))
    matrix = nested.leading(contrast) * units
    return Prior(matrix, np.linalg.inv(matrix), float(scale))


def shrunken(
    fit: DESeqFit,
    parts: list[Part],
    contrast: Float[np.ndarray, "p"],
    choices: Choices,
) -> Found:
    """The highest mode of each gene's posterior.

    It may have two: near the likelihood's maximum and near 0. Newton's method starts from both.
    """
    places = np.concatenate([part.place for part in parts]) if parts else np.zeros(0, dtype=int)
    prior = adapted(fit, contrast, np.sort(places))
    gene = fit.gene
    found = [
        modes(
            Start(
                gene.beta[one.place],
                np.asarray(gene.covariance[one.place]),
                gene.dispersion[one.place],
            ),
            one,
            contrast,
            prior,
            choices,
        )
        for one in parts
    ]
    return Found(tuple(found), prior.scale)


class Start(NamedTuple):
    """What was found of some genes without a prior; natural log."""

    beta: Float[np.ndarray, "k p"]
    covariance: Float[np.ndarray, "k p p"]
    alpha: Float[np.ndarray, "k"]

    def pair(
        self, contrast: Float[np.ndarray, "p"]
    ) -> tuple[Float[np.ndarray, "k p"], Float[np.ndarray, "k p"]]:
        """Coefficients as they are, and the nearest to them of which the contrast is 0.

        Nearest by their covariance: ``b - V c (c'b) / (c'Vc)``.
        """
        along = self.covariance @ contrast
        variance = along @ contrast
        usable = (variance > 0) & np.isfinite(variance)
        along = np.where(usable[:, None], along, contrast)
        variance = np.where(usable, variance, contrast @ contrast)
        return self.beta, self.beta - along * (self.beta @ contrast / variance)[:, None]


def modes(
    start: Start,
    part: Part,
    contrast: Float[np.ndarray, "p"],
    prior: Prior,
    choices: Choices = Choices(),  # noqa: B008 (immutable)
) -> Mode:
    """The highest mode of some genes' posteriors."""
    cohort = part.cohort.map(nested.projected, shared=(prior.matrix,))
    k = len(part.at)
    points = np.concatenate(start.pair(contrast)) @ prior.inverse.T
    twice = np.tile(part.at, 2)
    found = solve(
        Boxed(bound=np.inf),
        nb.likelihood,
        points,
        np.tile(start.alpha, 2),
        cohort,
        penalty=cauchy_penalty,
        genes=twice,
    )
    loss = np.where(found.status == Status.OK, found.state.loss, np.inf).reshape(2, k)
    both = found.theta.reshape(2, k, -1)
    theta = np.where((loss[1] < loss[0])[:, None], both[1], both[0])
    sd, status = _certified(cohort, theta, start.alpha, part.at)
    apart = np.abs(both[0, :, 0] - both[1, :, 0]) > APART * sd
    apart &= np.all(np.isfinite(loss), axis=0)
    mode, spread = theta[:, 0] * prior.scale, sd * prior.scale
    ends = laplace(mode, spread, choices)
    if choices.exact:
        good = np.flatnonzero(status == Status.OK)
        point = Point(theta[good], sd[good], start.alpha[good])
        small = choices.threshold * np.log(2) / prior.scale
        wanted = Wanted(choices.interval, float(small), 1.0 / OTHERS**2, prior.scale)
        found = marginal(cohort, point, part.at[good], wanted)
        for whole, some in zip(ends, found, strict=True):
            whole[good] = some
        ends = Ends(ends.lower * prior.scale, ends.upper * prior.scale, ends.lfsr)
    return Mode(mode, spread, spread, status, apart, ends)


def _certified(
    cohort: Cohort,
    theta: Float[np.ndarray, "k p"],
    alpha: Float[np.ndarray, "k"],
    at: Int[np.ndarray, "k"],
) -> tuple[Float[np.ndarray, "k"], Int[np.ndarray, "k"]]:
    """Standard deviation of the first coordinate, and whether this is a mode."""
    sums = cohort.sum(nb.likelihood, theta, alpha, genes=at)
    t, p = theta[:, 0], theta.shape[1]
    wide = np.append(0.0, np.full(p - 1, 1.0 / OTHERS**2))
    gradient = sums.gradient + wide * theta
    gradient[:, 0] += 2.0 * t / (1.0 + t**2)
    curvature = sums.info + np.diag(wide)
    curvature[:, 0, 0] += 2.0 * (1.0 - t**2) / (1.0 + t**2) ** 2
    finite = np.all(np.isfinite(curvature), axis=(1, 2)) & np.all(np.isfinite(theta), axis=1)
    curvature = np.where(finite[:, None, None], curvature, np.eye(p))
    positive = np.linalg.eigvalsh(curvature)[:, 0] > 0
    curvature = np.where(positive[:, None, None], curvature, np.eye(p))
    inverse = np.linalg.inv(curvature)
    away = np.einsum("gp,gpq,gq->g", gradient, inverse, gradient)
    arrived = positive & (away <= NEAR**2)
    status = np.where(finite, np.where(arrived, Status.OK, Status.NOT_CONVERGED), Status.NOT_FINITE)
    return np.sqrt(inverse[:, 0, 0]), status
