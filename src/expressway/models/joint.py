"""Coefficients and dispersion of each gene together, by plain maximum likelihood.

The negative-binomial GLM of `nb`, without its clip of means, its ridge and any prior: what time
courses and clustering build on, which need the likelihood's own information matrix.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from expressway._errors import InputError
from expressway._types import Array, Bool, Float, Int
from expressway.core import linear
from expressway.core.arrow import Arrow, Wide
from expressway.core.boxed import Boxed, Score
from expressway.core.cohort import Cohort, Pooled, Samples
from expressway.core.linear import weighted_crossproduct, weighted_sum
from expressway.core.solve import Fit, Status, solve

from . import moments, profile
from .means import BOX, mean, row_weight
from .moments import MIN_DISPERSION
from .size_factors import log_counts

# The solver's box is symmetric: log alpha less this has log(1e-8) as its lower end, exp(23) as its
# upper, which no likelihood of a gene with counts approaches.
SHIFT = float(np.log(MIN_DISPERSION)) + BOX
# Ten times the least dispersion (as DESeq2 has it): at counts below 1e6 nobody can tell it from 0.
FLAT = float(np.log(10 * MIN_DISPERSION))
# Where dispersions start: a start at 0 may stay there, beside a better optimum inside.
START = (0.01, 10.0)
# Where genes that slid to 0 start once more.
AGAIN = 1.0
# Curvature in log alpha, less what the coefficients explain, below this share of it is rounding.
POSITIVE = 1e-8
# A decrement below which nothing is left to gain: 1e-5 standard errors.
ARRIVED = 1e-10


class Joint(NamedTuple):
    """Negative log-likelihood and derivatives in beta and a = log alpha, summed over rows."""

    loss: Float[Array, "g"]
    """Up to ``lgamma(y + 1)``."""
    gradient: Float[Array, "g p"]
    slope: Float[Array, "g"]
    info: Float[Array, "g p p"] | Arrow
    """Second derivative in beta, ``X'UX``, ``U = mu (1 + alpha y) / (1 + alpha mu)²``."""
    cross: Float[Array, "g p"]
    """Mixed derivative, ``X'v``, ``v = alpha mu (y - mu) / (1 + alpha mu)²``: 0 in expectation."""
    curvature: Float[Array, "g"]
    fisher: Float[Array, "g p p"] | Arrow
    """Expectation of ``info``."""


def joint(theta: Float[Array, "g q"], hyper: None, s: Samples) -> Joint:  # noqa: ARG001
    """Sums at ``theta = (beta, log alpha - SHIFT)``: q = p + 1. Means are not raised."""
    beta, log_alpha = theta[:, :-1], theta[:, -1] + SHIFT
    alpha = jnp.exp(log_alpha)[None]
    mu = mean(beta, s)
    over = 1.0 / (1.0 + alpha * mu)
    rows = row_weight(s)
    left = (s.y - mu) * over
    at = profile.at_means(log_alpha, mu, s)
    return Joint(
        loss=at.loss - weighted_sum(rows, s.y * jnp.log(mu)),
        gradient=-(rows * left).T @ s.x,
        slope=at.slope,
        info=weighted_crossproduct(rows * mu * (1.0 + alpha * s.y) * over**2, s.x),
        cross=(rows * alpha * mu * left * over).T @ s.x,
        curvature=at.curvature,
        fisher=weighted_crossproduct(rows * mu * over, s.x),
    )


def descent(theta: Float[Array, "g q"], hyper: None, f: Joint) -> Score:  # noqa: ARG001
    """What the solver takes: curvatures made positive definite where the likelihood is not convex.

    ``info`` is positive definite, so the whole is where the Schur complement
    ``curvature - cross' info⁻¹ cross`` is; where it is not, its size or half that of the slope
    stands for it (a step of two units of log alpha at most). With correlations 0 it is Fisher's.
    """
    info, fisher = (_safe(jnp.asarray(a)) for a in (f.info, f.fisher))
    explained = jnp.einsum("gp,gp->g", f.cross, linear.solve(linear.cholesky(info), f.cross))
    instead = jnp.maximum(0.5 * jnp.abs(f.slope), 1e-12)
    rest = f.curvature - explained
    sure = rest > POSITIVE * jnp.abs(f.curvature)
    rest = jnp.where(sure, rest, jnp.maximum(jnp.abs(rest), instead))
    return Score(
        loss=f.loss,
        gradient=jnp.concatenate([f.gradient, f.slope[:, None]], axis=1),
        info=bordered(info, f.cross, explained + rest),
        fisher=bordered(fisher, 0.0 * f.cross, jnp.maximum(f.curvature, instead)),
    )


def _safe(a: Float[Array, "g p p"]) -> Float[Array, "g p p"]:
    """Definite to rounding where a separated gene has a mean of 1e-9 beside one of 1e5."""
    size = jnp.trace(a, axis1=1, axis2=2)
    return a + 1e-13 * size[:, None, None] * jnp.eye(a.shape[-1])[None]


def bordered(
    a: Float[Array, "g p p"], cross: Float[Array, "g p"], corner: Float[Array, "g"]
) -> Float[Array, "g q q"]:
    """Symmetric matrices with one row and column more: q = p + 1."""
    above = jnp.concatenate([a, cross[:, :, None]], axis=2)
    below = jnp.concatenate([cross, corner[:, None]], axis=1)
    return jnp.concatenate([above, below[:, None]], axis=1)


class Constant(NamedTuple):
    """What the log-likelihood has beside what depends on parameters."""

    log_factorial: Float[Array, "g"]


def constant(s: Samples) -> Constant:
    """``sum lgamma(y + 1)``, over rows."""
    return Constant(weighted_sum(row_weight(s), gammaln(s.y + 1.0)))


class MaximumLikelihood(NamedTuple):
    """Maximum-likelihood fit of every gene; NaN for genes without a count."""

    beta: Float[np.ndarray, "g p"]
    """Coefficients, natural log; within ±30 log 2."""
    log_alpha: Float[np.ndarray, "g"]
    """Log dispersion (natural log); as given, or not below log(1e-8)."""
    information: Float[np.ndarray, "g q q"]
    """Observed, of (beta, log alpha): q = p + 1. Of flat dispersions the last row and column are 0.

    Of beta alone, q = p, where dispersions were given.
    """
    log_likelihood: Float[np.ndarray, "g"]
    """All of it: comparable with other models of the same counts."""
    decrement: Float[np.ndarray, "g"]
    """Newton's decrement where the solver stopped: twice what is left to gain, to second order."""
    status: Int[np.ndarray, "g"]
    """`core.solve.Status`: AT_BOUND where a coefficient runs away or the dispersion is flat,
    NOT_FINITE for genes without a count."""
    flat: Bool[np.ndarray, "g"]
    """The likelihood rises towards alpha = 0: no interior optimum, the counts are no wider spread
    than Poisson counts."""


def fit_joint(cohort: Cohort, genes: Int[np.ndarray, "k"] | None = None) -> MaximumLikelihood:
    """Fit of beta and log alpha together (see `nb.fit`).

    The likelihood may have a local optimum at alpha = 0 beside one inside. Genes that end at 0 are
    started again at alpha = 1, and the better end is taken.

    Raises
    ------
    InputError
        The design is wide (`core.arrow`): its joint information has no such form.
    """
    if isinstance(cohort, Pooled) and isinstance(cohort.rows.x, Wide):
        msg = (
            f"the design has {cohort.coefficients} columns, most of them one factor's; a joint fit "
            "of coefficients and dispersions needs fewer: give dispersions"
        )
        raise InputError(msg)
    index = np.arange(cohort.genes) if genes is None else np.asarray(genes)
    counted = cohort.sum(log_counts, genes=index)
    some = np.flatnonzero(counted.total > 0)
    start = _start(cohort, int(np.max(counted.rows, initial=0)), index[some])
    fit = _solved(cohort, start, index[some])
    theta, loss = fit.theta.copy(), fit.state.loss.copy()
    decrement, status = fit.state.decrement.copy(), fit.status.copy()
    slid = np.flatnonzero(theta[:, -1] + SHIFT < FLAT)
    other = theta[slid]
    other[:, -1] = np.log(AGAIN) - SHIFT
    again = _solved(cohort, other, index[some[slid]])
    better = again.state.loss < loss[slid]
    for whole, part in (
        (theta, again.theta),
        (decrement, again.state.decrement),
        (status, again.status),
    ):
        whole[slid[better]] = part[better]
    ended = End(theta[:, :-1], theta[:, -1] + SHIFT, decrement, status)
    return finished(cohort, ended, index, some, given=False)


def _start(cohort: Cohort, n: int, genes: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k q"]:
    """Least squares of log counts, and a dispersion by moments."""
    sums = cohort.sum(moments.moments, genes=genes)
    beta = linear.solved_alike(sums.normal, sums.log)
    by_least_squares = linear.solved_alike(sums.normal, sums.linear)
    second = cohort.sum(moments.spread, sums.mean / n, by_least_squares, genes=genes)
    alpha = moments.start(sums, second, n, cohort.coefficients)
    return np.column_stack([beta, np.log(np.clip(alpha, *START)) - SHIFT])


def _solved(cohort: Cohort, start: Float[np.ndarray, "k q"], genes: Int[np.ndarray, "k"]) -> Fit:
    return solve(Boxed(bound=BOX), joint, start, None, cohort, penalty=descent, genes=genes)


class End(NamedTuple):
    """Where a solver stopped."""

    beta: Float[np.ndarray, "k p"]
    log_alpha: Float[np.ndarray, "k"]
    decrement: Float[np.ndarray, "k"]
    status: Int[np.ndarray, "k"]


def finished(
    cohort: Cohort,
    end: End,
    index: Int[np.ndarray, "g"],
    some: Int[np.ndarray, "k"],
    *,
    given: bool,
) -> MaximumLikelihood:
    """Information and likelihood of some genes where they stopped; NaN for the others.

    Parameters
    ----------
    index, some
        All genes wanted, and places among them of those that were fitted.
    given
        Dispersions were given.
    """
    theta = np.column_stack([end.beta, end.log_alpha - SHIFT])
    at = cohort.sum(joint, theta, None, genes=index[some])
    rest = cohort.sum(constant, genes=index[some])
    flat = (end.log_alpha < FLAT) & (not given)
    information = at.info
    if not given:
        information = np.array(bordered(at.info, at.cross, at.curvature))
        information[flat, -1] = information[flat, :, -1] = 0.0
    # The solver's slack is a share of a loss that may happen to be next to 0.
    there = (end.status == Status.NOT_CONVERGED) & (end.decrement < ARRIVED)
    status = np.where(there, Status.OK, end.status)
    found = MaximumLikelihood(
        beta=end.beta,
        log_alpha=end.log_alpha,
        information=information,
        log_likelihood=-at.loss - rest.log_factorial,
        decrement=end.decrement,
        status=np.where(flat, Status.AT_BOUND, status),
        flat=flat,
    )

    def widen(part: np.ndarray) -> np.ndarray:
        empty = {"f": np.nan, "b": False}.get(part.dtype.kind, Status.NOT_FINITE)
        whole = np.full((len(index), *part.shape[1:]), empty, dtype=part.dtype)
        whole[some] = part
        return whole

    return jax.tree.map(widen, found)
