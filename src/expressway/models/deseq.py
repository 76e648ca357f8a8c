"""Differential expression of counts with DESeq2's statistics, written once against a cohort.

Love, Huber & Anders 2014, Genome Biology 15:550. The stages, in order: size factors, moments,
means, gene-wise dispersions, trend and prior, maximum a posteriori dispersions, coefficients,
outliers and the refit of the genes whose outliers were replaced.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Bool, Float, Int
from expressway.core import linear
from expressway.core.arrow import Arrow, Wide
from expressway.core.cohort import Ask, Cohort, Pooled, Samples, meanwhile, rows_of, samples
from expressway.core.lowrank import LowRank
from expressway.core.order import Groups

from . import dispersion, nb, outliers, trend
from .size_factors import Method, log_counts, normalised

Watch = Callable[[str], None]


# Runs a stage of a name and returns its result: timed, shown, or read back from a checkpoint.
Stage = Callable[[str, Callable[[], Any]], Any]


def at_once(name: str, compute: Callable[[], Any]) -> Any:  # noqa: ARG001
    """Run a stage and nothing else."""
    return compute()


STAGES = (
    "size factors",
    "moments",
    "means",
    "gene-wise dispersions",
    "MAP dispersions",
    "coefficients",
    "covariance",
    "outliers",
)


class Settings(NamedTuple):
    """Choices of an analysis; the defaults are DESeq2's."""

    size_factors: Method = "ratio"
    prior_variance: float | None = None
    """Variance of log dispersion around the trend (natural log); estimated when not given."""
    replace_outliers: bool = True
    min_replicates: int = 7
    """Samples a design cell needs for its outliers to be replaced."""
    keep_if_larger: bool = True
    """In a two-group design an outlier's gene keeps its p-value if three samples have more counts.

    It needs single samples' counts: where rows are not at hand it is off.
    """
    independent_filtering: bool = True
    alpha: float = 0.1
    """False-discovery rate at which the independent filter maximises the number of genes."""


DEFAULTS = Settings()


class Gene(NamedTuple):
    """What the pipeline knows of each gene; NaN where nothing can be known."""

    base_mean: Float[np.ndarray, "g"]
    """Mean of normalised counts."""
    base_variance: Float[np.ndarray, "g"]
    dispersion_gene_wise: Float[np.ndarray, "g"]
    dispersion_trend: Float[np.ndarray, "g"]
    dispersion_map: Float[np.ndarray, "g"]
    dispersion: Float[np.ndarray, "g"]
    """MAP, or gene-wise for dispersion outliers."""
    dispersion_outlier: Bool[np.ndarray, "g"]
    dispersion_status: Int[np.ndarray, "g"]
    beta: Float[np.ndarray, "g p"]
    """Coefficients, natural log."""
    covariance: Float[np.ndarray, "g p p"] | LowRank
    """Of the coefficients, natural log."""
    inverse: Float[np.ndarray, "g p p"] | LowRank
    """``(X'WX + ridge)⁻¹``, of which the hat matrix is made."""
    beta_status: Int[np.ndarray, "g"]
    boxed: Bool[np.ndarray, "g"]
    """Coefficients came from the box-constrained solver."""
    unsupported: Float[np.ndarray, "g p p"] | LowRank
    """Projector on directions in which the likelihood rises for ever (separation), else 0."""
    positive: Float[np.ndarray, "g q q"] | Arrow
    """``Z'Z``, Z = (1, X), over the samples with a count, none of them replaced."""


class DESeqFit(NamedTuple):
    """A fitted analysis: immutable, picklable, without the rows."""

    gene: Gene
    trend: trend.Trend
    prior_variance: float
    samples: int
    linear_means: bool
    """Means of the dispersion stages came from linear regression, not from the GLM."""
    cooks_cutoff: float
    max_cooks: Float[np.ndarray, "g"]
    """Over samples in cells of three or more; NaN where rows are not at hand or no cell is."""
    flagged: Float[np.ndarray, "g"]
    """Samples with a Cook's distance above the cutoff."""
    outlier: Bool[np.ndarray, "g"]
    """Genes whose p-value is withheld."""
    replaced: Bool[np.ndarray, "g"]
    """Genes refitted after their outliers were replaced."""
    settings: Settings


class Frozen(NamedTuple):
    """What a refit keeps from the fit of all genes."""

    trend: trend.Trend
    prior_variance: float


def fit(
    cohort: Cohort,
    cells: Groups,
    settings: Settings = DEFAULTS,
    stage: Stage = at_once,
) -> tuple[DESeqFit, Cohort]:
    """Fit of every gene, and the cohort with its size factors.

    Parameters
    ----------
    cohort
        Raw counts and design.
    cells
        Design cells (rows with equal design) and how many samples are in each.
    settings
        Choices of the analysis.
    stage
        Runs each stage: ``stage(name, compute)`` returns what ``compute()`` returns.

    Raises
    ------
    InputError
        If no size factors exist, or no gene varies more than Poisson counts.
    """
    if isinstance(cohort, Pooled):
        expect(cohort.rows.x, cells)
    counted = stage("size factors", lambda: cohort.sum(log_counts))
    cohort = normalised(cohort, counted, settings.size_factors)
    genes = np.flatnonzero(counted.total > 0)
    gene, frozen = _fit_genes(cohort, genes, cells, settings, stage)
    found = stage("outliers", lambda: _find_outliers(cohort, gene, genes, cells, settings))
    if np.any(found.replace):

        def again(name: str, compute: Callable[[], Any]) -> Any:
            return stage(f"refit: {name}", compute)

        gene = _refit(cohort, gene, found, cells, settings, frozen, again)
    n, p = int(np.sum(cells.size)), cohort.coefficients
    result = DESeqFit(
        gene=gene,
        trend=frozen.trend,
        prior_variance=frozen.prior_variance,
        samples=n,
        linear_means=len(cells.size) == p,
        cooks_cutoff=outliers.cutoff(n, p),
        max_cooks=found.largest,
        flagged=found.flagged,
        outlier=found.outlier,
        replaced=found.replace,
        settings=settings,
    )
    return result, cohort


def expect(design: Float[Array, "n p"] | Wide, cells: Groups) -> None:
    """Begin to compile what a fit with this design needs; it will be asked for soon."""
    n, p = design.shape
    if not isinstance(design, Wide):
        _compile_meanwhile(n, p, len(cells.size) == p)


@functools.cache
def _compile_meanwhile(n: int, p: int, linear: bool) -> None:
    """Compile, while the first stages run, what the later ones need for tables of this size.

    The compiled functions know a table's shape only, so a gene of ones will do.
    """
    cohort = Pooled(samples(np.ones((n, 1)), np.eye(n, p)))
    beta, alpha, inverse = np.zeros((1, p)), np.ones(1), np.zeros((1, p, p))
    gene = outliers.Fitted(beta, alpha, inverse, alpha)
    nowhere = np.zeros(0, dtype=int)

    def first() -> None:
        dispersion.one_look(cohort, dispersion.Means(beta, linear=linear), n)

    def second() -> None:
        nb.one_look(cohort)
        cohort.sum(nb.information, beta, alpha)
        cohort.collect(outliers.distances, gene, shared=(1.0, nowhere, nowhere))

    for fn in (first, second):
        meanwhile(fn)


class _Moments(NamedTuple):
    """What the first sums of normalised counts say of each gene."""

    bulk: outliers.Bulk
    linear: Float[np.ndarray, "k p"]
    """Least squares of normalised counts on the design."""
    begin: Float[np.ndarray, "k p"]
    """Least squares of log(normalised counts + .1): where coefficients start."""
    initial: Float[np.ndarray, "k"]
    """Where dispersions start."""
    unsupported: Float[np.ndarray, "k p p"] | LowRank
    positive: Float[np.ndarray, "k q q"] | Arrow


def _moments(cohort: Cohort, n: int, genes: Int[np.ndarray, "k"]) -> _Moments:
    sums = cohort.sum(dispersion.moments, genes=genes)
    by_least_squares = linear.solved_alike(sums.normal, sums.linear)
    begin = linear.solved_alike(sums.normal, sums.log)
    center = sums.mean / n
    tried = nb.directions(sums.normal, sums.positive, sums.total)
    asks = [Ask(dispersion.spread, (center, by_least_squares), genes=genes)]
    if len(tried.genes):
        asks.append(Ask(nb.sides, (tried.direction,), genes=genes[tried.genes]))
    second, *found = cohort.sums(*asks)
    against = found[0].against if found else np.zeros(0)
    return _Moments(
        bulk=outliers.Bulk(center, second.square / (n - 1)),
        linear=by_least_squares,
        begin=begin,
        initial=dispersion.start(sums, second, n, cohort.coefficients),
        unsupported=nb.unsupported(tried, against, len(genes)),
        positive=sums.positive,
    )


def _fit_genes(
    cohort: Cohort,
    genes: Int[np.ndarray, "k"],
    cells: Groups,
    settings: Settings,
    stage: Stage,
    frozen: Frozen | None = None,
) -> tuple[Gene, Frozen]:
    """All stages between size factors and outliers, for the genes with a count."""
    n, p = int(np.sum(cells.size)), cohort.coefficients
    first = stage("moments", lambda: _moments(cohort, n, genes))
    if len(cells.size) == p:
        means = dispersion.Means(first.linear, linear=True)
        begin = nearby = first.begin
    else:
        by_glm = stage("means", lambda: nb.coefficients(cohort, first.begin, first.initial, genes))
        means = dispersion.Means(by_glm.beta, linear=False)
        # The same fixed point from nearer by; where it was not reached, from DESeq2's start.
        nearby = by_glm.beta
        begin = np.where(by_glm.boxed[:, None], first.begin, nearby)
    wise = stage(
        "gene-wise dispersions",
        lambda: dispersion.gene_wise(cohort, means, first.initial, n, genes),
    )
    if frozen is None:
        frozen = _prior(first.bulk.mean, wise.alpha, n - p, settings)
    fitted = frozen.trend.at(first.bulk.mean)
    prior = (fitted, frozen.prior_variance)
    best = stage(
        "MAP dispersions",
        lambda: dispersion.maximum_a_posteriori(cohort, means, wise, prior, n, genes),
    )
    above = trend.dispersion_outliers(wise.alpha, fitted, frozen.trend.residual_variance)
    alpha = np.where(above, wise.alpha, best.alpha)
    glm = stage("coefficients", lambda: nb.coefficients(cohort, begin, alpha, genes, nearby))
    spread = stage("covariance", lambda: nb.covariance(cohort, glm.beta, alpha, genes))
    found = Gene(
        base_mean=first.bulk.mean,
        base_variance=first.bulk.variance,
        dispersion_gene_wise=wise.alpha,
        dispersion_trend=fitted,
        dispersion_map=best.alpha,
        dispersion=alpha,
        dispersion_outlier=above,
        dispersion_status=np.where(above, wise.status, best.status),
        beta=glm.beta,
        covariance=spread.covariance,
        inverse=spread.inverse,
        beta_status=glm.status,
        boxed=glm.boxed,
        unsupported=first.unsupported,
        positive=first.positive,
    )
    return _spread_out(found, genes, cohort.genes), frozen


def _prior(
    mean: Float[np.ndarray, "k"], alpha: Float[np.ndarray, "k"], df: int, settings: Settings
) -> Frozen:
    fitted = trend.fit_trend(mean, alpha)
    variance = settings.prior_variance
    if variance is None:
        variance = trend.prior_variance(alpha, fitted.at(mean), fitted.residual_variance, df)
    return Frozen(fitted, variance)


def _spread_out(found: Gene, genes: Int[np.ndarray, "k"], total: int) -> Gene:
    """The same for all genes of the cohort: NaN, 0 or False for those not fitted."""

    def widen(part: np.ndarray) -> np.ndarray:
        empty = np.nan if part.dtype.kind == "f" else 0
        whole = np.full((total, *part.shape[1:]), empty, dtype=part.dtype)
        whole[genes] = part
        return whole

    whole = jax.tree.map(widen, found)
    missing = np.isnan(whole.base_mean)
    matrices = jax.tree.leaves((whole.unsupported, whole.positive))
    for zero in (whole.base_mean, whole.base_variance, *matrices):
        zero[missing] = 0.0
    return whole


class _Found(NamedTuple):
    largest: Float[np.ndarray, "g"]
    flagged: Float[np.ndarray, "g"]
    outlier: Bool[np.ndarray, "g"]
    replace: Bool[np.ndarray, "g"]
    robust: Float[np.ndarray, "g"]
    """Robust dispersion that Cook's distances used."""


def _find_outliers(
    cohort: Cohort, gene: Gene, genes: Int[np.ndarray, "k"], cells: Groups, settings: Settings
) -> _Found:
    """Cook's flags of every gene, and which genes are refitted or lose their p-value."""
    n, p = int(np.sum(cells.size)), cohort.coefficients
    limit = outliers.cutoff(n, p)
    replicated = cells.cells[cells.size >= outliers.REPLICATES]
    replaceable = _replaceable(cells, settings)
    shared = (limit, replicated, replaceable)
    # With the least dispersion there is a distance is largest: only genes flagged then need more.
    fitted = _fitted(gene, genes)
    some = np.arange(len(genes))
    if not cohort.at_hand:
        some = np.flatnonzero(cohort.sum(outliers.flags, fitted, shared=shared, genes=genes).all)
    bulk = outliers.Bulk(gene.base_mean[genes[some]], gene.base_variance[genes[some]])
    robust = outliers.robust_dispersion(cohort, bulk, cells, genes[some])
    fitted = rows_of(fitted, some)._replace(robust=robust)
    if cohort.at_hand:
        found = cohort.collect(outliers.distances, fitted, shared=shared, genes=genes)
        largest, above, flags = found
    else:
        largest, above = np.full(len(some), np.nan), np.zeros(len(some))
        flags = cohort.sum(outliers.flags, fitted, shared=shared, genes=genes[some])
    outlier = flags.replicated - flags.replaceable > 0
    if settings.keep_if_larger and len(cells.size) == p == 2:
        outlier &= above < 3
    replace = (flags.all > 0) & (len(replaceable) > 0)
    parts = _Found(largest, flags.all, outlier, replace, robust)
    wholes = _Found(*(np.zeros(cohort.genes, a.dtype) for a in parts))
    wholes.largest[:] = np.nan
    for whole, part in zip(wholes, parts, strict=True):
        whole[genes[some]] = part
    return wholes


def _replaceable(cells: Groups, settings: Settings) -> Int[np.ndarray, "u"]:
    """Cells whose outliers are replaced."""
    return cells.cells[(cells.size >= settings.min_replicates) & settings.replace_outliers]


def _fitted(gene: Gene, genes: Int[np.ndarray, "k"]) -> outliers.Fitted:
    """What Cook's distances need of some genes, with the least robust dispersion."""
    least = np.full(len(genes), outliers.FLOOR)
    return outliers.Fitted(
        gene.beta[genes], gene.dispersion[genes], rows_of(gene.inverse, genes), least
    )


def _refit(
    cohort: Cohort,
    gene: Gene,
    found: _Found,
    cells: Groups,
    settings: Settings,
    frozen: Frozen,
    stage: Stage,
) -> Gene:
    """Genes fitted again with their outliers replaced; size factors, trend and prior kept.

    A gene without a count after replacement has base mean 0, coefficients 0 and variances 0.
    """
    n, p = int(np.sum(cells.size)), cohort.coefficients
    refitted = np.flatnonzero(found.replace)
    fitted = _fitted(gene, refitted)._replace(robust=found.robust[refitted])
    bulk = outliers.Bulk(gene.base_mean[refitted], gene.base_variance[refitted])
    value = stage("replacement", lambda: outliers.replacement(cohort, bulk, n, refitted))
    shared = (outliers.cutoff(n, p), _replaceable(cells, settings))
    new = cohort.map(outliers.replaced, fitted, value, shared=shared, genes=refitted)
    left = np.flatnonzero(stage("counts", lambda: new.sum(counts)).total > 0)
    again, _ = _fit_genes(new, left, cells, settings, stage, frozen)
    empty = np.setdiff1d(np.arange(len(refitted)), left)
    again.beta[empty] = 0.0
    for part in jax.tree.leaves((again.covariance, again.inverse)):
        part[empty] = 0.0
    again = again._replace(positive=rows_of(gene.positive, refitted))

    def put(whole: np.ndarray, part: np.ndarray) -> np.ndarray:
        updated = whole.copy()
        updated[refitted] = part
        return updated

    return jax.tree.map(put, gene, again)


class Counts(NamedTuple):
    """Counts of each gene, summed over rows."""

    total: Float[Array, "g"]


def counts(s: Samples) -> Counts:
    """Counts of each gene, summed over rows."""
    return Counts(jnp.sum(s.weight[:, None] * s.y, axis=0))
