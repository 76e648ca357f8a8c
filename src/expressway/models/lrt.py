"""Likelihood-ratio tests of nested negative-binomial designs, as DESeq2's nbinomLRT has them.

Love, Huber & Anders 2014 (Genome Biology 15:550) and DESeq2 1.38 ``R/core.R`` (nbinomLRT,
fitNbinomGLMs, fitNbinomGLMsOptim). Dispersions are those of the full design; the reduced design's
coefficients are fitted at them.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import special

from expressway._types import Array, Float, Int
from expressway.core import linear
from expressway.core.cohort import Cohort, Samples
from expressway.core.linear import weighted_sum
from expressway.core.order import Groups

from . import nb
from .deseq import DESeqFit
from .means import MIN_MU, mean, row_weight
from .moments import Moments, moments
from .parts import parts, smaller

# Squares of rows that differ by more than a millionth of their length.
EQUAL = 1e-12


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
    fit: DESeqFit,
    cohort: Cohort,
    matrix: Float[np.ndarray, "p q"],
    cells: Groups | None = None,
) -> LikelihoodRatio:
    """Tests that a design ``x C`` is as good as the full design x, at the fit's dispersions.

    Of genes with replaced counts the replaced ones are tested, and genes without a count after
    replacement have statistic 0 and p = 1. Three peculiarities are DESeq2's: coefficients are of
    its estimating equation (`nb.equation`), while means in the likelihood are not raised to .5;
    they are for genes that the box-constrained solver finished; and a design of one column that is
    the same in every row has the logarithm of the mean of normalised counts as its coefficient, not
    the likelihood's optimum. A statistic can therefore be below 0; p is 1 there.

    Parameters
    ----------
    fit, cohort
        What `deseq.fit` returned.
    matrix
        C, the hypothesis: `core.nested.coordinates` of a reduced design, or `core.nested.without`
        a contrast.
    cells
        Design cells, as `deseq.fit` had them; not needed where rows are in memory.

    Raises
    ------
    InputError
        If the matrix is of no nested design, or the rows are not those of the fit.
    """
    gene = fit.gene
    stat, status = np.full(len(gene.base_mean), np.nan), np.zeros(len(gene.base_mean), dtype=int)
    for part in parts(fit, cohort, cells):
        alpha = gene.dispersion[part.place]
        own = nb.Coefficients(*(a[part.place] for a in (gene.beta, gene.beta_status, gene.boxed)))
        less = smaller(part.cohort, matrix)
        end = _coefficients(less, alpha, part.at, fit.samples)
        difference = _deviance(less, end, alpha, part.at)
        difference -= _deviance(part.cohort, own, alpha, part.at)
        stat[part.place], status[part.place] = difference, end.status
    stat[fit.replaced & (gene.base_mean == 0)] = 0.0
    freedom = matrix.shape[0] - matrix.shape[1]
    p_value = special.chdtrc(freedom, np.maximum(stat, 0.0))
    return LikelihoodRatio(stat, np.where(fit.outlier, np.nan, p_value), freedom, status)


def _coefficients(
    cohort: Cohort, alpha: Float[np.ndarray, "k"], genes: Int[np.ndarray, "k"], n: int
) -> nb.Coefficients:
    """Coefficients of the reduced design."""
    sums = cohort.sum(moments, genes=genes)
    constant = _constant(sums, n)
    if constant:
        # DESeq2 R/core.R, fitNbinomGLMs, justIntercept.
        mean = cohort.sum(level, genes=genes)
        beta = np.log(mean.total / mean.weight)[:, None] / constant
        return nb.Coefficients(beta, np.zeros(len(genes), int), np.zeros(len(genes), bool))
    return nb.coefficients(cohort, linear.solved_alike(sums.normal, sums.log), alpha, genes)


def _constant(sums: Moments, n: int) -> float:
    """What a design of one column has in every row; 0 where rows differ.

    By Cauchy and Schwarz ``n sum x² = (sum x)²`` for equal x only, so that totals tell.
    """
    if sums.total.shape[1] != 1 or not len(sums.total):
        return 0.0
    square, total = float(linear.diagonal(sums.normal)[0, 0]), float(sums.total[0, 0])
    # Squares that differ by less are sums of equal terms in another order.
    return total / n if n * square - total**2 <= EQUAL * n * square else 0.0


def _deviance(
    cohort: Cohort,
    end: nb.Coefficients,
    alpha: Float[np.ndarray, "k"],
    genes: Int[np.ndarray, "k"],
) -> Float[np.ndarray, "k"]:
    """Deviance with the means that DESeq2 takes (fitNbinomGLMsOptim raises them)."""
    floor = np.where(end.boxed, MIN_MU, 0.0)
    return cohort.sum(deviance, end.beta, alpha, floor, genes=genes).deviance
