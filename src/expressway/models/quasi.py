"""Quasi-likelihood F tests of nested negative-binomial designs, as edgeR's glmQLFTest has them.

Lund, Nettleton, McCarthy & Smyth 2012 (Statistical Applications in Genetics and Molecular Biology
11:5, article 8) and edgeR 3.40 (``glmQLFit``, ``glmQLFTest``, ``.residDF``): dispersions are the
trend's, what a gene has beyond it is its quasi-likelihood dispersion s², the residual deviance by
degree of freedom, and s² is squeezed towards a curve of mean expression as limma's variances are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import special

from expressway._errors import InputError
from expressway._types import Array, Bool, Float, Int
from expressway.core import linear
from expressway.core.arrow import Arrow
from expressway.core.boxed import Boxed, Score
from expressway.core.cohort import Ask, Cohort, Samples
from expressway.core.linear import weighted_crossproduct
from expressway.core.order import Groups
from expressway.core.solve import Fit, Status, solve

from . import nb
from .deseq import DESeqFit
from .joint import ARRIVED
from .lrt import deviance
from .means import BOX, mean
from .moderated import Moderated, squeeze, upper_tail
from .moments import moments
from .parts import Part, parts, smaller

# Beside a mean of 1e6 one of 1e-4 must find room: twice DESeq2's box, which is sixty powers of two.
BOUND = 2 * BOX
# Of coefficients, natural log: means of groups without counts end near 1e-8, their curvature is no
# smaller, and a deviance is raised by 1e-7 at most.
SLIGHT = 1e-9
# Where means of groups without counts start below others, natural log: near where the ridge leaves
# them, which would take Newton's method a step for each unit.
DOWN = 16.0
# edgeR R/glmQLFit.R: a mean below it, of no counts, is fitted exactly.
ZERO = 1e-4
# A dispersion at which variances of means of 1e6 exceed Poisson's by a millionth.
POISSON = 1e-12
# edgeR R/aveLogCPM.R, prior.count: keeps logarithms of small means apart from minus infinity.
PRIOR_COUNT = 2.0
# edgeR R/filterByExpr.R, min.total.count. Users of edgeR leave such genes out beforehand; here they
# are tested, but say nothing of the prior: their deviances vary too little.
FEW = 15.0
# edgeR R/filterByExpr.R, min.count and its samples: a gene is expressed that has ten counts in as
# many samples as speak for a coefficient, of which beyond ten seven tenths suffice.
EXPRESSED = 10.0
MANY, SHARE = 10.0, 0.7
# Eigenvalues of a crossproduct of columns of length one below this are rounding.
DEPENDENT = 1e-10


class Quasi(NamedTuple):
    """F test of a reduced design for every gene; NaN for genes without a fit."""

    stat: Float[np.ndarray, "g"]
    """Difference of deviances, by degree of freedom of the test and posterior variance."""
    p_value: Float[np.ndarray, "g"]
    """Upper tail of F; not below that of Poisson counts where variances fall below theirs."""
    numerator: int
    """Columns of the full design less those of the reduced one."""
    denominator: Float[np.ndarray, "g"]
    """Degrees of freedom of the posterior variance."""
    deviance: Float[np.ndarray, "g"]
    """Residual deviance of the full design."""
    freedom: Float[np.ndarray, "g"]
    """Its degrees of freedom, without samples that are fitted exactly."""
    prior: Moderated
    """Of ``deviance / freedom``; the variance of the prior is a curve of mean expression."""
    failed: Bool[np.ndarray, "g"]
    """Coefficients of a design did not converge."""


class Zeros(NamedTuple):
    """Number of rows that are fitted exactly."""

    zeros: Float[Array, "g"]


def zeros(beta: Float[Array, "g p"], s: Samples) -> Zeros:
    """Rows without a count whose mean is below 1e-4, summed."""
    return Zeros(jnp.sum(_exact(beta, s), axis=0, dtype=float))


class Rest(NamedTuple):
    """Crossproduct of the design without rows that are fitted exactly."""

    normal: Float[Array, "g p p"] | Arrow


def rest(beta: Float[Array, "g p"], s: Samples) -> Rest:
    """``X'X`` over rows that `zeros` does not count."""
    return Rest(weighted_crossproduct(s.weight[:, None] * ~_exact(beta, s), s.x))


def _exact(beta: Float[Array, "g p"], s: Samples) -> Bool[Array, "n g"]:
    return (s.y == 0) & (mean(beta, s) < ZERO) & (s.weight > 0)[:, None]


class Large(NamedTuple):
    """Number of rows with ten normalised counts or more."""

    rows: Float[Array, "g"]


def large(s: Samples) -> Large:
    """Rows with ``y / size factor >= 10``, summed."""
    enough = s.y * jnp.exp(-s.offset) >= EXPRESSED
    return Large(jnp.sum(enough & (s.weight > 0)[:, None], axis=0, dtype=float))


class Given(NamedTuple):
    """What F tests take as known of each gene."""

    alpha: Float[np.ndarray, "g"]
    """Dispersions."""
    covariate: Float[np.ndarray, "g"]
    """Mean expression on a logarithmic scale, that prior variances depend on."""
    start: Float[np.ndarray, "g p"] | None = None
    """Coefficients near the full design's; least squares of log counts when not given."""
    of_prior: Bool[np.ndarray, "g"] | None = None
    """Genes that the prior is estimated from; all when not given, or fewer than two."""
    enough: float = 0.0
    """Rows with ten counts below which a gene's variance is raised to 1."""


class Narrow(NamedTuple):
    """Number of rows with variances below Poisson's."""

    rows: Float[Array, "g"]


def narrow(
    beta: Float[Array, "g p"], alpha: Float[Array, "g"], variance: Float[Array, "g"], s: Samples
) -> Narrow:
    """Rows with ``(1 + alpha mu) s² < 1``, summed (edgeR, isBelowPoissonBound)."""
    below = (1.0 + alpha[None] * mean(beta, s)) * variance[None] < 1.0
    return Narrow(jnp.sum(below & (s.weight > 0)[:, None], axis=0, dtype=float))


def slight(beta: Float[Array, "g p"], alpha: Float[Array, "g"], f: Score) -> Score:  # noqa: ARG001
    """The likelihood with a ridge so slight that it is felt by separated groups only."""
    return Score(
        f.loss + 0.5 * SLIGHT * jnp.sum(beta**2, axis=-1),
        f.gradient + SLIGHT * beta,
        linear.ridged(f.info, SLIGHT),
        linear.ridged(f.fisher, SLIGHT),
    )


def quasi_likelihood(
    fit: DESeqFit,
    cohort: Cohort,
    matrix: Float[np.ndarray, "p q"],
    cells: Groups | None = None,
) -> Quasi:
    """F tests that a design ``x C`` is as good as the full design x, at the trend's dispersions.

    The curve towards which s² is squeezed is of ``log(mean of normalised counts + 2)``, where edgeR
    has the mean log count per million of counts + 2, and of genes with 15 normalised counts in all.
    Deviances of small counts are far below their degrees of freedom, and F would be too large:
    edgeR's users leave such genes out (``filterByExpr``). Here the variance of genes with fewer
    than ten normalised counts in some n / p of the samples is not taken below 1. Genes with
    replaced counts are tested with them, and p-values withheld, as in `lrt`; genes without a count
    after replacement have statistic 0 and p = 1.

    Parameters
    ----------
    fit, cohort, matrix, cells
        As for `lrt.likelihood_ratio`.

    Raises
    ------
    InputError
        As there; or fewer than two genes have residual degrees of freedom.
    """
    gene = fit.gene
    counted = fit.samples * gene.base_mean >= FEW
    least = np.min(gene.base_mean[counted], initial=np.inf)
    each = fit.samples / matrix.shape[0]
    given = Given(
        gene.dispersion_trend,
        # The curve has no slope where it is not known.
        np.log(np.fmax(gene.base_mean, least if np.any(counted) else 0.0) + PRIOR_COUNT),
        gene.beta,
        counted,
        min(each, MANY) + SHARE * max(each - MANY, 0.0),
    )
    found = f_tests(parts(fit, cohort, cells), given, fit.samples, matrix)
    empty = fit.replaced & (gene.base_mean == 0)
    p_value = np.where(fit.outlier, np.nan, np.where(empty, 1.0, found.p_value))
    return found._replace(stat=np.where(empty, 0.0, found.stat), p_value=p_value)


def f_tests(of: Sequence[Part], given: Given, n: int, matrix: Float[np.ndarray, "p q"]) -> Quasi:
    """As `quasi_likelihood`, of given dispersions.

    Parameters
    ----------
    of
        Rows with offsets, and which genes are tested in them.
    given
        Dispersions, and what else is known of the genes.
    n
        Number of samples.
    matrix
        As for `quasi_likelihood`.
    """
    g, (p, q) = len(given.alpha), matrix.shape
    full = [_full(part, given, n) for part in of]
    less = [smaller(part.cohort, matrix) for part in of]
    reduced = [
        _maximum(small, _start(small, part.at), given.alpha[part.place], part.at)
        for small, part in zip(less, of, strict=True)
    ]
    residual, freedom, change, failed, rows = np.full((5, g), np.nan)
    for part, own, small, end in zip(of, full, less, reduced, strict=True):
        residual[part.place], freedom[part.place] = own.deviance, own.freedom
        change[part.place] = _deviance(small, end, part.at) - own.deviance
        failed[part.place] = _failed(own.fit) | _failed(end)
        rows[part.place] = own.large
    prior = _squeezed(residual, freedom, given)
    raised = np.maximum(prior.variance, np.where(rows < given.enough, 1.0, 0.0))
    prior = prior._replace(variance=raised)
    denominator = np.fmin(freedom + prior.prior_freedom, np.sum(np.isfinite(freedom)) * (n - p))
    f = change / (p - q) / prior.variance
    p_value = upper_tail(np.maximum(f, 0.0), p - q, denominator)
    for part, own, small, end in zip(of, full, less, reduced, strict=True):
        bound = _poisson(part, own, small, end, prior.variance[part.place])
        p_value[part.place] = np.maximum(p_value[part.place], bound)
    return Quasi(f, p_value, p - q, denominator, residual, freedom, prior, failed == 1)


def _squeezed(
    deviance: Float[np.ndarray, "g"], freedom: Float[np.ndarray, "g"], given: Given
) -> Moderated:
    """Variances s² squeezed towards their curve."""
    if np.sum(freedom > 0) < 2:
        msg = (
            "quasi-likelihood tests need two genes with residual degrees of freedom at least; use "
            "likelihood-ratio tests"
        )
        raise InputError(msg)
    nothing = 0.0 * freedom  # NaN of genes without a fit
    variance = np.divide(np.maximum(deviance, 0.0), freedom, out=nothing, where=freedom > 0)
    some = given.of_prior
    if some is not None and np.sum(freedom[some] > 0) < 2:
        some = None
    return squeeze(variance, np.nan_to_num(freedom), given.covariate, some)


class _Full(NamedTuple):
    """Fit of the full design to the genes of a part."""

    fit: Fit
    deviance: Float[np.ndarray, "k"]
    freedom: Float[np.ndarray, "k"]
    large: Float[np.ndarray, "k"]
    """Rows with ten counts."""


def _full(part: Part, given: Given, n: int) -> _Full:
    """Coefficients, deviance, and its degrees of freedom (edgeR R/residDF.R)."""
    cohort, genes, alpha = part.cohort, part.at, given.alpha[part.place]
    near = None if given.start is None else given.start[part.place]
    fit = _maximum(cohort, _start(cohort, genes, near), alpha, genes)
    found, exact, rows = cohort.sums(
        Ask(deviance, (fit.theta, alpha, 0.0 * alpha), genes=genes),
        Ask(zeros, (fit.theta,), genes=genes),
        Ask(large, genes=genes),
    )
    freedom = np.full(len(genes), float(n - cohort.coefficients))
    freedom[exact.zeros == n] = 0.0
    some = np.flatnonzero((exact.zeros > 0) & (exact.zeros < n))
    if len(some):
        left = cohort.sum(rest, fit.theta[some], genes=genes[some]).normal
        freedom[some] = np.maximum(n - exact.zeros[some] - _rank(left), 0.0)
    return _Full(fit, found.deviance, freedom, rows.rows)


def _start(
    cohort: Cohort, genes: Int[np.ndarray, "k"], near: Float[np.ndarray, "k p"] | None = None
) -> Float[np.ndarray, "k p"]:
    """Least squares of log counts, or near given coefficients; groups without counts far down."""
    sums = cohort.sum(moments, genes=genes)
    start = linear.solved_alike(sums.normal, sums.log) if near is None else near.copy()
    tried = nb.directions(sums.normal, sums.positive, sums.total)
    if len(tried.genes):
        wrong = cohort.sum(nb.sides, tried.direction, genes=genes[tried.genes]).against
        start[tried.genes] -= np.where(wrong[:, None] == 0, DOWN * tried.direction, 0.0)
    return start


def _maximum(
    cohort: Cohort,
    start: Float[np.ndarray, "k p"],
    alpha: Float[np.ndarray, "k"],
    genes: Int[np.ndarray, "k"],
) -> Fit:
    """Coefficients at the maximum of the likelihood."""
    solver = Boxed(bound=BOUND)
    return solve(solver, nb.likelihood, start, alpha, cohort, penalty=slight, genes=genes)


def _deviance(cohort: Cohort, fit: Fit, genes: Int[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
    """Deviance of unclipped means."""
    args = (fit.theta, fit.hyper, 0.0 * fit.hyper)
    return cohort.sum(deviance, *args, genes=genes).deviance


def _failed(fit: Fit) -> Bool[np.ndarray, "k"]:
    """Genes that did not come near their maximum."""
    stuck = (fit.status == Status.NOT_CONVERGED) & ~(fit.state.decrement < ARRIVED)
    return stuck | (fit.status == Status.NOT_FINITE)


def _poisson(
    part: Part, own: _Full, small: Cohort, reduced: Fit, variance: Float[np.ndarray, "k"]
) -> Float[np.ndarray, "k"]:
    """Likelihood-ratio p-value of Poisson counts; 0 where variances do not fall below theirs."""
    p_value = np.zeros(len(part.at))
    some = np.flatnonzero(variance < 1)
    args = (own.fit.theta[some], own.fit.hyper[some], variance[some])
    rows = part.cohort.sum(narrow, *args, genes=part.at[some]).rows
    some = some[rows > 0]
    if len(some):
        genes, alpha = part.at[some], np.full(len(some), POISSON)
        full = _maximum(part.cohort, own.fit.theta[some], alpha, genes)
        less = _maximum(small, reduced.theta[some], alpha, genes)
        change = _deviance(small, less, genes) - _deviance(part.cohort, full, genes)
        freedom = part.cohort.coefficients - small.coefficients
        p_value[some] = special.chdtrc(freedom, np.maximum(change, 0.0))
    return p_value


def _rank(normal: Float[np.ndarray, "k p p"] | Arrow) -> Int[np.ndarray, "k"]:
    """Rank of designs from their crossproducts."""
    if isinstance(normal, Arrow):
        # Levels that are there, and what the border has beside them.
        there = normal.diagonal > 0
        weight = np.divide(
            normal.cross,
            normal.diagonal[:, None],
            out=np.zeros_like(normal.cross),
            where=there[:, None],
        )
        border = normal.border - weight @ np.swapaxes(normal.cross, 1, 2)
        return np.sum(there, axis=1) + _independent(
            np.asarray(border), linear.diagonal(normal.border)
        )
    return _independent(np.asarray(normal), linear.diagonal(normal))


def _independent(
    normal: Float[np.ndarray, "k p p"], square: Float[np.ndarray, "k p"]
) -> Int[np.ndarray, "k"]:
    """Rank of crossproducts of columns of squared lengths, scaled to length one."""
    length = np.sqrt(np.where(square > 0, square, 1.0))
    scaled = normal / (length[:, :, None] * length[:, None, :])
    return np.sum(np.linalg.eigvalsh(scaled) > DEPENDENT, axis=1)
