"""The stages of every gene: moments, means, dispersions, trend and prior, coefficients.

Between the size factors and the outliers of `deseq`, and again for genes that are refitted.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from expressway._errors import InputError
from expressway._types import Bool, Float, Int
from expressway.core import linear
from expressway.core.arrow import Arrow
from expressway.core.cohort import Ask, Cohort
from expressway.core.lowrank import LowRank
from expressway.core.order import Groups

from . import dispersion, moments, nb, outliers, trend, weights
from .size_factors import Method, overall_inverse
from .trend import Function, Kind, Trend

# Runs a stage of a name and returns its result: timed, shown, or read back from a checkpoint.
Stage = Callable[[str, Callable[[], Any]], Any]


def at_once(name: str, compute: Callable[[], Any]) -> Any:  # noqa: ARG001
    """Run a stage and nothing else."""
    return compute()


class Settings(NamedTuple):
    """Choices of an analysis; the defaults are DESeq2's."""

    size_factors: Method = "ratio"
    """iterate: by maximum likelihood (`size_iteration`); given: rows bring them."""
    trend: Kind = "parametric"
    """Of dispersions on means. given: the one passed along (`Given`). Where the parametric one does
    not fit it is the local one."""
    prior_variance: float | None = None
    """Variance of log dispersion around the trend (natural log); estimated when not given."""
    replace_outliers: bool = True
    cooks_cutoff: float | int | None = None
    """Cook's distance above which a count is an outlier, for the filter of genes and for
    replacement; the .99 quantile of F(p, n - p) when not given. With ``inf`` there are no outliers:
    no gene loses its p-value and no count is replaced. (DESeq2 has a cutoff each, of ``results``
    and of ``replaceOutliers``; its ``cooksCutoff=FALSE`` turns the filter off only.)"""
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


class Given(NamedTuple):
    """What an analysis is given beside counts, design and settings."""

    trend: Trend | Function | None = None
    """Of ``Settings.trend`` "given": nodes (`trend.through`), or a function mean -> dispersion,
    tabulated over the genes' means and ten times beyond both ends."""
    controls: Int[np.ndarray, "c"] | None = None
    """Indices of the genes of which size factors are made; all when not given."""
    offsets: bool = False
    """Rows bring the logarithms of a matrix of normalisation as offsets, one for each gene."""
    weighted: bool = False
    """Rows bring observation weights (`Samples.precision`), each gene's largest being 1."""


NOTHING = Given()


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


class Frozen(NamedTuple):
    """What a refit keeps from the fit of all genes."""

    trend: trend.Trend
    prior_variance: float
    weighted: bool = False


class First(NamedTuple):
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


def bulk(
    cohort: Cohort, n: int, genes: Int[np.ndarray, "k"]
) -> tuple[moments.Moments, moments.Spread, outliers.Bulk]:
    """First and second sums of normalised counts, and their mean and variance."""
    sums = cohort.sum(moments.moments, genes=genes)
    center = sums.mean / n
    by_least_squares = linear.solved_alike(sums.normal, sums.linear)
    second = cohort.sum(moments.spread, center, by_least_squares, genes=genes)
    return sums, second, outliers.Bulk(center, second.square / (n - 1))


def first_sums(
    cohort: Cohort,
    n: int,
    genes: Int[np.ndarray, "k"],
    *,
    weighted: bool = False,
) -> First:
    """Moments, starts and directions of separation, from two sums; three with weights."""
    sums = cohort.sum(moments.moments, genes=genes)
    by_least_squares = linear.solved_alike(sums.normal, sums.linear)
    begin = linear.solved_alike(sums.normal, sums.log)
    center = sums.mean / n
    # What rows without weight say of a direction does not matter.
    inside = cohort.sum(weights.seen, genes=genes) if weighted else sums
    tried = nb.directions(inside.normal, sums.positive, inside.total)
    asks = [Ask(moments.spread, (center, by_least_squares), genes=genes)]
    if len(tried.genes):
        asks.append(Ask(nb.sides, (tried.direction,), genes=genes[tried.genes]))
    second, *found = cohort.sums(*asks)
    against = found[0].against if found else np.zeros(0)
    sums = sums._replace(inverse_size=overall_inverse(cohort, sums.inverse_size, genes))
    return First(
        bulk=outliers.Bulk(center, second.square / (n - 1)),
        linear=by_least_squares,
        begin=begin,
        initial=moments.start(sums, second, n, cohort.coefficients),
        unsupported=nb.unsupported(tried, against, len(genes)),
        positive=sums.positive,
    )


class Wise(NamedTuple):
    """Everything up to gene-wise dispersions."""

    first: First
    means: dispersion.Means
    begin: Float[np.ndarray, "k p"]
    """Where coefficients start."""
    nearby: Float[np.ndarray, "k p"]
    """Where they probably are."""
    dispersions: dispersion.Dispersions


def gene_wise(
    cohort: Cohort,
    genes: Int[np.ndarray, "k"],
    cells: Groups,
    stage: Stage = at_once,
    *,
    weighted: bool = False,
) -> Wise:
    """The stages up to gene-wise dispersions, for genes with a count."""
    n, p = int(np.sum(cells.size)), cohort.coefficients
    first = stage("moments", lambda: first_sums(cohort, n, genes, weighted=weighted))
    if len(cells.size) == p and not weighted:
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
    return Wise(first, means, begin, nearby, wise)


def fit_genes(
    cohort: Cohort,
    genes: Int[np.ndarray, "k"],
    cells: Groups,
    settings: Settings,
    stage: Stage,
    frozen: Frozen | Given = NOTHING,
) -> tuple[Gene, Frozen]:
    """All stages between size factors and outliers, for the genes with a count."""
    n, p = int(np.sum(cells.size)), cohort.coefficients
    weighted = frozen.weighted
    first, means, begin, nearby, wise = gene_wise(cohort, genes, cells, stage, weighted=weighted)
    if isinstance(frozen, Given):
        frozen = _prior(first.bulk.mean, wise.alpha, n - p, settings, frozen)
        frozen = frozen._replace(weighted=weighted)
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


def trend_of(
    mean: Float[np.ndarray, "k"], alpha: Float[np.ndarray, "k"], kind: trend.Kind, given: Given
) -> trend.Trend:
    """The trend of gene-wise dispersions on means, or the one that is given.

    Raises
    ------
    InputError
        The trend is to be the one given and none is, or none can be fitted (`trend.fit_trend`).
    """
    if kind != "given":
        return trend.fit_trend(mean, alpha, kind)
    if given.trend is None:
        msg = "the dispersion trend is to be a given one, but none is given: pass trend=..."
        raise InputError(msg)
    curve = given.trend
    if not isinstance(curve, trend.Trend):
        curve = trend.tabulated(curve, float(np.min(mean)) / 10, float(np.max(mean)) * 10)
    return trend.with_residuals(curve, mean, alpha)


def _prior(
    mean: Float[np.ndarray, "k"],
    alpha: Float[np.ndarray, "k"],
    df: int,
    settings: Settings,
    given: Given,
) -> Frozen:
    fitted = trend_of(mean, alpha, settings.trend, given)
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
