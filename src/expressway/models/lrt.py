"""Likelihood-ratio tests of nested negative-binomial designs, as DESeq2's nbinomLRT has them.

Love, Huber & Anders 2014 (Genome Biology 15:550) and DESeq2 1.38 ``R/core.R`` (nbinomLRT,
fitNbinomGLMs, fitNbinomGLMsOptim). Dispersions are those of the full design; the reduced design's
coefficients are fitted at them.
"""

from typing import NamedTuple, cast

import jax.numpy as jnp
import numpy as np
from scipy import sparse, special

from expressway._errors import InputError
from expressway._types import Array, Float, Int
from expressway.core import linear, nested
from expressway.core.arrow import Wide, wide
from expressway.core.cohort import Cohort, Pooled, Samples
from expressway.core.linear import weighted_sum

from . import nb
from .cells import groups
from .deseq import DESeqFit, replaced
from .influence import Part
from .means import MIN_MU, mean, row_weight
from .moments import moments


class LikelihoodRatio(NamedTuple):
    """Likelihood-ratio test of a reduced design for every gene; NaN for genes without a fit."""

    stat: Float[np.ndarray, "g"]
    """Twice the difference of log-likelihoods (natural log)."""
    p_value: Float[np.ndarray, "g"]
    """Upper tail of chi²; NaN too where a sample's Cook's distance withholds it (full design)."""
    freedom: int
    """Columns of the full design less those of the reduced one."""
    status: Int[np.ndarray, "g"]
    """`core.solve.Status` of the reduced design's coefficients; OK for genes without a fit."""


class Deviance(NamedTuple):
    """What a fit lacks of the greatest log-likelihood that means could reach, twice."""

    deviance: Float[Array, "g"]


def deviance(
    beta: Float[Array, "g p"], alpha: Float[Array, "g"], floor: Float[Array, "g"], s: Samples
) -> Deviance:
    """Deviance with means raised to a floor, summed over rows.

    With ``r = 1 / alpha``: ``2 sum y log(y / m) - (y + r) log((y + r) / (m + r))``. At one
    dispersion its difference between two designs is that of twice their log-likelihoods, without
    what they have in common: factorials and gamma functions, of which nothing would be left.
    """
    m = jnp.maximum(mean(beta, s), floor[None])
    r = (1.0 / alpha)[None]
    # y log y is 0 at 0, and so is its derivative.
    log = jnp.log(jnp.where(s.y > 0, s.y, 1.0) / m)
    term = s.y * log - (s.y + r) * jnp.log1p((s.y - m) / (m + r))
    return Deviance(2.0 * weighted_sum(row_weight(s), term))


class Level(NamedTuple):
    """What the mean of normalised counts is made of, summed over rows."""

    total: Float[Array, "g"]
    weight: Float[Array, "g"]


def level(s: Samples) -> Level:
    """Weighted sums of normalised counts and of the weights."""
    q = s.y * jnp.exp(-s.offset)
    return Level(weighted_sum(row_weight(s), q), weighted_sum(row_weight(s), jnp.ones_like(q)))


def likelihood_ratio(
    fit: DESeqFit, cohort: Cohort, reduced: Float[np.ndarray, "n q"]
) -> LikelihoodRatio:
    """Tests that the full design is no better than a reduced one, at the fit's dispersions.

    Of genes with replaced counts the replaced ones are tested, and genes without a count after
    replacement have statistic 0 and p = 1. Three peculiarities are DESeq2's: coefficients are of
    its estimating equation (`nb.equation`), while means in the likelihood are not raised to .5;
    they are for genes that the box-constrained solver finished; and a design of one column of ones
    has the logarithm of the mean of normalised counts as its coefficient, not the likelihood's
    optimum. A statistic can therefore be below 0; p is 1 there.

    Parameters
    ----------
    fit, cohort
        What `deseq.fit` returned; rows in this process's memory.
    reduced
        Its columns are combinations of the full design's.

    Raises
    ------
    InputError
        If the designs are not nested, the reduced design's columns depend on one another, or the
        rows are not those of the fit.
    """
    parts = _parts(fit, cohort)
    x = parts[0].cohort.rows.x
    full = x.sparse().toarray() if isinstance(x, Wide) else np.asarray(x, float)
    nested.basis(full, reduced)
    less = wide(sparse.csc_matrix(reduced)) if isinstance(x, Wide) else reduced
    gene, ones = fit.gene, bool(np.all(reduced == 1))
    stat, status = np.full(len(gene.base_mean), np.nan), np.zeros(len(gene.base_mean), dtype=int)
    for part in parts:
        alpha = gene.dispersion[part.place]
        own = nb.Coefficients(*(a[part.place] for a in (gene.beta, gene.beta_status, gene.boxed)))
        smaller = Pooled(part.cohort.rows._replace(x=less), part.cohort.tell)
        end = _coefficients(smaller, alpha, part.at, ones=ones)
        difference = _deviance(smaller, end, alpha, part.at)
        difference -= _deviance(part.cohort, own, alpha, part.at)
        stat[part.place], status[part.place] = difference, end.status
    stat[fit.replaced & (gene.base_mean == 0)] = 0.0
    freedom = full.shape[1] - reduced.shape[1]
    p_value = special.chdtrc(freedom, np.maximum(stat, 0.0))
    return LikelihoodRatio(stat, np.where(fit.outlier, np.nan, p_value), freedom, status)


def _parts(fit: DESeqFit, cohort: Cohort) -> list[Part]:
    """Genes as they were fitted: those with their own counts, those with replaced ones."""
    if not isinstance(cohort, Pooled):
        msg = (
            "a likelihood-ratio test needs the samples' rows in this process to know the designs; "
            "fit a pooled analysis"
        )
        raise InputError(msg)
    x, g = cohort.rows.x, cohort.genes
    n = x.shape[0]
    if n != fit.samples or g != len(fit.gene.base_mean):
        msg = (
            f"these are {n} samples x {g} genes, but the fit is of {fit.samples} x "
            f"{len(fit.gene.base_mean)}: pass the cohort it was made from"
        )
        raise InputError(msg)
    fitted = np.all(np.isfinite(fit.gene.beta), axis=1) & (fit.gene.base_mean > 0)
    own = np.flatnonzero(fitted & ~fit.replaced)
    found = [Part(cohort, own, own)]
    if np.any(fit.replaced):
        new = replaced(fit, cohort, groups(x if isinstance(x, Wide) else np.asarray(x)))
        some = np.flatnonzero(fitted[new.genes])
        found.append(Part(cast("Pooled", new.cohort), some, new.genes[some]))
    return found


def _coefficients(
    cohort: Cohort, alpha: Float[np.ndarray, "k"], genes: Int[np.ndarray, "k"], *, ones: bool
) -> nb.Coefficients:
    """Coefficients of the reduced design."""
    if ones:
        # DESeq2 R/core.R, fitNbinomGLMs, justIntercept.
        mean = cohort.sum(level, genes=genes)
        beta = np.log(mean.total / mean.weight)[:, None]
        return nb.Coefficients(beta, np.zeros(len(genes), int), np.zeros(len(genes), bool))
    sums = cohort.sum(moments, genes=genes)
    return nb.coefficients(cohort, linear.solved_alike(sums.normal, sums.log), alpha, genes)


def _deviance(
    cohort: Cohort,
    end: nb.Coefficients,
    alpha: Float[np.ndarray, "k"],
    genes: Int[np.ndarray, "k"],
) -> Float[np.ndarray, "k"]:
    """Deviance with the means that DESeq2 takes (fitNbinomGLMsOptim raises them)."""
    floor = np.where(end.boxed, MIN_MU, 0.0)
    return cohort.sum(deviance, end.beta, alpha, floor, genes=genes).deviance
