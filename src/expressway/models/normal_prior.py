"""Shrinkage by normal priors on coefficients, or on one contrast: DESeq2's first.

Love, Huber & Anders 2014 (Genome Biology 15:550, methods, "Empirical Bayes shrinkage of fold
changes") and DESeq2 1.38 ``R/core.R`` (estimateBetaPriorVar, fitGLMsWithPrior), ``R/lfcShrink.R``.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import special

from expressway._types import Array, Float, Int
from expressway.core import linear, nested
from expressway.core.boxed import Boxed, Score
from expressway.core.cohort import Samples
from expressway.core.irls import Equation, Irls
from expressway.core.solve import Problem, Status, relay

from . import nb
from .deseq import DESeqFit
from .means import BOX
from .posterior import Choices, Found, Mode, Part, laplace

# DESeq2 R/core.R, estimateBetaPriorVar, log2: the variance of a prior as good as none, the largest
# fold change that counts, and the upper share of fold changes that is matched.
NO_PRIOR, LARGEST, UPPER = 1e6, 10.0, 0.05


class Ridged(NamedTuple):
    """Dispersions, and one over the prior variance of each coefficient (natural log)."""

    alpha: Float[Array, "g"]
    ridge: Float[Array, "g p"]


def prior_equation(beta: Float[Array, "g p"], hyper: Ridged, s: Samples) -> Equation:
    """DESeq2's estimating equation without its ridge (`nb.equation`), summed over rows."""
    return nb.equation(beta, hyper.alpha, s)


def with_prior(beta: Float[Array, "g p"], hyper: Ridged, e: Equation) -> Equation:
    """The estimating equation with the prior, added once to the totals."""
    info, newton = (linear.raised(a, hyper.ridge) for a in (e.info, e.newton))
    return Equation(e.score - hyper.ridge * beta, info, newton)


def prior_likelihood(beta: Float[Array, "g p"], hyper: Ridged, s: Samples) -> Score:
    """Negative log-likelihood (`nb.likelihood`), summed over rows."""
    return nb.likelihood(beta, hyper.alpha, s)


def with_log_prior(beta: Float[Array, "g p"], hyper: Ridged, f: Score) -> Score:
    """The likelihood with the prior, added once to the totals."""
    return Score(
        f.loss + 0.5 * jnp.sum(hyper.ridge * beta**2, axis=-1),
        f.gradient + hyper.ridge * beta,
        linear.raised(f.info, hyper.ridge),
        linear.raised(f.fisher, hyper.ridge),
    )


def prior_variance(estimate: Float[np.ndarray, "k"], weight: Float[np.ndarray, "k"]) -> float:
    """Variance of the normal whose upper twentieth of sizes is that of the estimates; log2.

    ``(q / z)²``, q the weighted .95 quantile of sizes, z the normal's .975 quantile. Estimates of
    10 or more are left out; 1e6 if there are no others (DESeq2 R/core.R, estimateBetaPriorVar,
    matchWeightedUpperQuantileForVariance).

    Parameters
    ----------
    estimate
        Maximum-likelihood coefficients, log2.
    weight
        ``1 / (1 / mean + trend)``: one over the variance of a log count.
    """
    if len(estimate) == 1:
        return float(estimate[0] ** 2)
    some = np.abs(estimate) < LARGEST
    if not np.any(some):
        return NO_PRIOR
    size = weighted_quantile(np.abs(estimate[some]), weight[some], 1.0 - UPPER)
    return (size / float(special.ndtri(1.0 - UPPER / 2))) ** 2


def weighted_quantile(
    x: Float[np.ndarray, "k"], weight: Float[np.ndarray, "k"], share: float
) -> float:
    """Quantile of values that count as often as their weights, scaled to add up to their number.

    At place ``1 + (k - 1) share`` between neighbouring whole places (Hmisc's wtd.quantile, normwt).
    """
    order = np.argsort(x, kind="stable")
    x, k = x[order], len(x)
    upto = np.cumsum(weight[order]) * k / np.sum(weight)
    place = 1.0 + (k - 1.0) * share
    low = max(np.floor(place), 1.0)
    ends = np.minimum(np.searchsorted(upto, [low, min(low + 1.0, k)]), k - 1)
    part = place % 1.0
    return float((1.0 - part) * x[ends[0]] + part * x[ends[1]])


class Prior(NamedTuple):
    """Prior variances of coefficients ``t = B⁻¹ b``."""

    matrix: Float[np.ndarray, "p p"] | None
    """B; none where they are the design's own."""
    inverse: Float[np.ndarray, "p p"]
    weights: Float[np.ndarray, "p"]
    """Of the coefficients t that make the contrast."""
    variance: Float[np.ndarray, "p"]
    """Log2."""


def adapted(
    fit: DESeqFit,
    contrast: Float[np.ndarray, "p"],
    place: Int[np.ndarray, "k"],
    free: tuple[int, ...],
) -> Prior:
    """Prior variances that some genes' maximum-likelihood coefficients tell.

    A contrast that is a coefficient (or its reverse) is shrunk as DESeq2 does: every coefficient
    but the free ones has a prior of its own. R refuses designs with interactions; here theirs are
    coefficients like others. Any other contrast is made a coefficient, and alone has a prior.
    """
    p = len(contrast)
    weight = 1.0 / (1.0 / fit.gene.base_mean[place] + fit.gene.dispersion_trend[place])
    beta = fit.gene.beta[place] / np.log(2)
    touched = np.flatnonzero(contrast)
    if len(touched) == 1 and abs(contrast[touched[0]]) == 1:
        own = [prior_variance(b, weight) for b in beta.T]
        variance = np.where(np.isin(np.arange(p), free), NO_PRIOR, own)
        return Prior(None, np.eye(p), contrast, variance)
    matrix = nested.leading(contrast)
    variance = np.append(prior_variance(beta @ contrast, weight), np.full(p - 1, NO_PRIOR))
    return Prior(matrix, np.linalg.inv(matrix), np.eye(p)[0], variance)


def shrunken(
    fit: DESeqFit,
    parts: list[Part],
    contrast: Float[np.ndarray, "p"],
    choices: Choices,
) -> Found:
    """Root of DESeq2's estimating equation with a ridge; genes it cannot finish go to a box."""
    places = np.concatenate([part.place for part in parts]) if parts else np.zeros(0, dtype=int)
    prior = adapted(fit, contrast, np.sort(places), choices.free)
    modes = tuple(_modes(fit, part, prior, choices) for part in parts)
    of_contrast = float(prior.weights**2 @ prior.variance)
    return Found(modes, np.sqrt(of_contrast) * np.log(2))


def _modes(fit: DESeqFit, part: Part, prior: Prior, choices: Choices) -> Mode:
    """Posterior of some genes."""
    cohort, at = part.cohort, part.at
    if prior.matrix is not None:
        cohort = cohort.map(nested.projected, shared=(prior.matrix,))
    start = fit.gene.beta[part.place] @ prior.inverse.T
    ridge = 1.0 / (prior.variance * np.log(2) ** 2)
    hyper = Ridged(fit.gene.dispersion[part.place], np.tile(ridge, (len(at), 1)))
    easy = Problem(Irls(), prior_equation, start, with_prior)
    hard = Problem(Boxed(bound=BOX), prior_likelihood, start, with_log_prior)
    found, caught, left = relay(easy, hard, hyper, cohort, at)
    theta, status = np.array(found.theta), np.array(found.status)
    theta[left], status[left] = caught.theta, caught.status
    info = cohort.sum(nb.information, theta, hyper.alpha, genes=at).info
    inverse = np.linalg.inv(info + np.diag(ridge))
    variance, sandwich = (
        np.einsum("p,gpq,q->g", prior.weights, a, prior.weights)
        for a in (inverse, inverse @ info @ inverse)
    )
    one_mode = np.zeros(len(at), dtype=bool)
    # A coefficient at the bound is as far as R lets it go.
    status = np.where(status == Status.AT_BOUND, Status.OK, status)
    mode, sd = theta @ prior.weights, np.sqrt(variance)
    return Mode(mode, sd, np.sqrt(sandwich), status, one_mode, laplace(mode, sd, choices))
