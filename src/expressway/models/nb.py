"""The negative-binomial GLM with log link: coefficients given dispersions.

Counts ``y ~ NB(mu, alpha)`` with ``log mu = offset + x beta`` (natural log) and variance
``mu + alpha mu²``. Sources: Love, Huber & Anders 2014 (Genome Biology 15:550, methods) and
DESeq2 1.38 ``R/core.R`` (fitNbinomGLMs, fitNbinomGLMsOptim), ``src/DESeq2.cpp`` (fitBeta).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._errors import InputError
from expressway._types import Array, Bool, Float, Int
from expressway.core import linear
from expressway.core.arrow import Arrow
from expressway.core.boxed import Boxed, Score
from expressway.core.cohort import Cohort, Pooled, Samples
from expressway.core.irls import Equation, Irls
from expressway.core.linear import weighted_crossproduct, weighted_sum
from expressway.core.lowrank import LowRank
from expressway.core.solve import Problem, relay, solve
from expressway.core.special import log1p

from .joint import End, finished, fit_joint
from .joint import MaximumLikelihood as MaximumLikelihood
from .means import BOX as BOX
from .means import MIN_MU as MIN_MU
from .means import mean as mean
from .means import row_weight as row_weight
from .moments import moments
from .size_factors import log_counts

# DESeq2 R/core.R, fitNbinomGLMs: lambda = 1e-6 on the log2 scale.
RIDGE = 1e-6 / np.log(2) ** 2
# Eigenvalues and projections of designs of order one below this are rounding.
SIDE = 1e-9


def equation(beta: Float[Array, "g p"], alpha: Float[Array, "g"], s: Samples) -> Equation:
    """DESeq2's estimating equation, with means raised to ``MIN_MU`` in the working response.

    With ``m = max(mu, .5)``, ``w = m / (1 + alpha m)`` and working response
    ``z = log m - offset + (y - m) / m``, one step of DESeq2's iteration solves
    ``(X'WX + ridge) beta = X'Wz``. Its fixed point is the root of::

        score = X'W (z - X beta) - ridge beta

    The clip is part of the statistic: for a group of zeros it stops the coefficient at
    log(.5) - 1, where the likelihood itself would run to minus infinity and the Wald test
    would lose the gene.

    Returns
    -------
    Equation
        Summed over rows: the score without the ridge, ``X'WX``, and minus the score's derivative,
        whose weights are ``m (1 + alpha y) / (1 + alpha m)²`` where the mean is not clipped and w
        where it is.
    """
    alpha = alpha[None]
    mu = mean(beta, s)
    m = jnp.maximum(mu, MIN_MU)
    raised = jnp.where(mu < MIN_MU, jnp.log(MIN_MU) - s.offset - s.x @ beta.T, 0.0)
    over = 1.0 / (1.0 + alpha * m)
    w = m * over
    observed = jnp.where(mu < MIN_MU, w, w * (1.0 + alpha * s.y) * over)
    rows = row_weight(s)
    return Equation(
        score=(rows * (w * raised + (s.y - m) * over)).T @ s.x,
        info=weighted_crossproduct(rows * w, s.x),
        newton=weighted_crossproduct(rows * observed, s.x),
    )


def ridge_equation(beta: Float[Array, "g p"], alpha: Float[Array, "g"], e: Equation) -> Equation:  # noqa: ARG001
    """The estimating equation with DESeq2's ridge, added once to the totals."""
    info, newton = (linear.ridged(a, RIDGE) for a in (e.info, e.newton))
    return Equation(e.score - RIDGE * beta, info, newton)


def likelihood(beta: Float[Array, "g p"], alpha: Float[Array, "g"], s: Samples) -> Score:
    """Negative log-likelihood (terms in beta only), gradient, observed and Fisher information.

    ``loss = sum log(1 + alpha mu) / alpha + y log(1 + 1 / (alpha mu))``: all terms are positive,
    where the usual form subtracts nearly equal ones and a search along a step sees rounding. It is
    that form less ``y log alpha``; convex in beta, with weights ``mu (1 + alpha y) / (1 + alpha
    mu)²`` in the second derivative and ``mu / (1 + alpha mu)`` in its expectation. Means are not
    raised.
    """
    alpha = alpha[None]
    mu = mean(beta, s)
    over = 1.0 / (1.0 + alpha * mu)
    rows = row_weight(s)
    return Score(
        loss=weighted_sum(rows, log1p(alpha * mu) / alpha + s.y * log1p(1.0 / (alpha * mu))),
        gradient=(rows * ((mu - s.y) * over)).T @ s.x,
        info=weighted_crossproduct(rows * mu * (1.0 + alpha * s.y) * over**2, s.x),
        fisher=weighted_crossproduct(rows * mu * over, s.x),
    )


def ridge_likelihood(beta: Float[Array, "g p"], alpha: Float[Array, "g"], f: Score) -> Score:  # noqa: ARG001
    """The likelihood's penalised form: plus ``ridge |beta|² / 2``, added once to the totals."""
    return Score(
        f.loss + 0.5 * RIDGE * jnp.sum(beta**2, axis=-1),
        f.gradient + RIDGE * beta,
        linear.ridged(f.info, RIDGE),
        linear.ridged(f.fisher, RIDGE),
    )


class Information(NamedTuple):
    """Fisher's information with clipped means, and rows near zero mean, at the estimate."""

    info: Float[Array, "g p p"] | Arrow


def information(beta: Float[Array, "g p"], alpha: Float[Array, "g"], s: Samples) -> Information:
    """``X'WX`` with ``W = m / (1 + alpha m)``, ``m = max(mu, .5)``, summed over rows."""
    m = jnp.maximum(mean(beta, s), MIN_MU)
    return Information(weighted_crossproduct(row_weight(s) * m / (1.0 + alpha[None] * m), s.x))


class Coefficients(NamedTuple):
    """Coefficients of every gene (natural log)."""

    beta: Float[np.ndarray, "g p"]
    status: Int[np.ndarray, "g"]
    boxed: Bool[np.ndarray, "g"]
    """The field's iteration did not finish the gene and the box-constrained solver did it."""


def coefficients(
    cohort: Cohort,
    start: Float[np.ndarray, "g p"],
    alpha: Float[np.ndarray, "g"],
    genes: Int[np.ndarray, "g"],
    nearby: Float[np.ndarray, "g p"] | None = None,
) -> Coefficients:
    """Coefficients given dispersions: `irls`, then `boxed` for the genes it cannot finish.

    Parameters
    ----------
    cohort
        Rows with size factors.
    start
        Start, natural log: DESeq2's is least squares on ``log(normalised count + .1)``.
    alpha
        Dispersions.
    genes
        Their indices in the cohort.
    nearby
        Where `boxed` starts, if not there too: its minimum is the same from everywhere.
    """
    nearby = start if nearby is None else nearby
    easy = Problem(Irls(), equation, start, ridge_equation)
    hard = Problem(Boxed(bound=BOX), likelihood, nearby, ridge_likelihood)
    fit, caught, left = relay(easy, hard, alpha, cohort, genes)
    beta, status = np.array(fit.theta), np.array(fit.status)
    beta[left], status[left] = caught.theta, caught.status
    boxed = np.zeros(len(genes), bool)
    boxed[left] = True
    return Coefficients(beta, status, boxed)


def one_look(cohort: Cohort) -> None:
    """Begin to fit every gene: what is slow about it is to compile it."""
    g, p = cohort.genes, cohort.coefficients
    solve(Irls(max_steps=1), equation, np.zeros((g, p)), np.ones(g), cohort, penalty=ridge_equation)


def fit(
    rows: Samples | Cohort,
    dispersion: Float[np.ndarray, "g"] | float | None = None,
    genes: Int[np.ndarray, "g"] | None = None,
) -> MaximumLikelihood:
    """Coefficients and dispersion of every gene by plain maximum likelihood.

    Nothing of DESeq2: means are not raised, and there is no ridge, Cox-Reid term or prior. Offsets
    are those of the rows (0 in `core.cohort.samples`).

    Parameters
    ----------
    rows
        Samples, or the cohort where they live.
    dispersion
        Given, of each gene or of all: coefficients only are fitted.
    genes
        Their indices; all when not given.

    Returns
    -------
    MaximumLikelihood
        With the observed information of what was fitted. Genes without a finite optimum are at
        the bounds and say so in ``status`` and ``flat``.

    Raises
    ------
    InputError
        A dispersion is not above 0, or a joint fit is wanted of a wide design.
    """
    cohort = Pooled(rows) if isinstance(rows, Samples) else rows
    if dispersion is None:
        return fit_joint(cohort, genes)
    index = np.arange(cohort.genes) if genes is None else np.asarray(genes)
    alpha = np.broadcast_to(np.asarray(dispersion, float), index.shape).copy()
    if not np.all((alpha > 0) & (alpha < np.inf)):
        bad = int(np.flatnonzero(~((alpha > 0) & (alpha < np.inf)))[0])
        msg = f"dispersions must be above 0 and finite, but gene {bad} has {alpha[bad]}"
        raise InputError(msg)
    some = np.flatnonzero(cohort.sum(log_counts, genes=index).total > 0)
    at, alpha = index[some], alpha[some]
    sums = cohort.sum(moments, genes=at)
    start = linear.solved_alike(sums.normal, sums.log)
    found = solve(Boxed(bound=BOX), likelihood, start, alpha, cohort, genes=at)
    ended = End(found.theta, np.log(alpha), found.state.decrement, found.status)
    return finished(cohort, ended, index, some, given=True)


class Covariance(NamedTuple):
    """Covariance of the coefficients (natural log) and what the hat matrix is made of."""

    covariance: Float[np.ndarray, "g p p"] | LowRank
    """``(I + ridge)⁻¹ I (I + ridge)⁻¹``, I Fisher's information with clipped means (DESeq2)."""
    inverse: Float[np.ndarray, "g p p"] | LowRank
    """``(I + ridge)⁻¹``."""


def covariance(
    cohort: Cohort,
    beta: Float[np.ndarray, "g p"],
    alpha: Float[np.ndarray, "g"],
    genes: Int[np.ndarray, "g"],
) -> Covariance:
    """Covariance at given coefficients."""
    info = cohort.sum(information, beta, alpha, genes=genes).info
    return Covariance(*linear.sandwich(info, RIDGE))


class Sides(NamedTuple):
    """Samples on the wrong side of a direction."""

    against: Float[Array, "g"]


def sides(direction: Float[Array, "g p"], s: Samples) -> Sides:
    """Number of rows with ``x d < 0``, those of no observation weight left out."""
    wrong = (s.x @ direction.T < -SIDE) & (s.weight > 0)[:, None] & (s.precision > 0)
    return Sides(jnp.sum(wrong, axis=0, dtype=float))


class Directions(NamedTuple):
    """A direction to try for each gene that may be separated."""

    genes: Int[np.ndarray, "k"]
    direction: Float[np.ndarray, "k p"]
    onto: Float[np.ndarray, "k p p"] | LowRank
    """Projector on the null space it was taken from."""


def directions(
    normal: Float[np.ndarray, "g p p"] | Arrow,
    positive: Float[np.ndarray, "g q q"] | Arrow,
    total: Float[np.ndarray, "g p"],
) -> Directions:
    """Directions in which the likelihood may rise for ever.

    It has no finite maximum when some d has ``x d = 0`` for every sample with a count and
    ``x d <= 0``, not always 0, for the others (Albert & Anderson 1984, Biometrika 71:1). Such d
    lie in the null space N of ``sum x x'`` over samples with a count. The one tried comes nearest,
    by least squares in N, to ``x d = -1`` for every sample without a count; it is always one where
    those samples' rows can move independently, as in a factorial design.

    Parameters
    ----------
    normal, positive, total
        ``sum x x'`` over all rows, ``sum (1, x)(1, x)'`` over those with a count, ``sum x`` over
        all rows (`moments.moments`).
    """
    positive = linear.without_first(positive)
    return Directions(*linear.least_against(normal, positive, total, SIDE))


def unsupported(
    tried: Directions, against: Float[np.ndarray, "k"], count: int
) -> Float[np.ndarray, "g p p"] | LowRank:
    """Projector on each gene's directions of separation; 0 for a gene that has none.

    If the direction tried is one, no direction of its null space is estimable.

    Parameters
    ----------
    tried, against
        Directions, and how many samples lie on their wrong side (`sides`).
    count
        Number of genes.
    """
    separated = (against == 0) & np.any(np.abs(tried.direction) > SIDE, axis=1)

    def of_all(part: np.ndarray) -> np.ndarray:
        whole = np.zeros((count, *part.shape[1:]))
        whole[tried.genes] = part * separated.reshape(-1, *[1] * (part.ndim - 1))
        return whole

    return jax.tree.map(of_all, tried.onto)
