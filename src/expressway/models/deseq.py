"""Differential expression of counts with DESeq2's statistics, written once against a cohort.

Love, Huber & Anders 2014, Genome Biology 15:550. The stages, in order: size factors, moments,
means, gene-wise dispersions, trend and prior, maximum a posteriori dispersions, coefficients,
outliers and the refit of the genes whose outliers were replaced.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Bool, Float, Int
from expressway.core.cohort import Cohort, Samples
from expressway.core.order import Groups

from . import dispersion, nb, outliers, trend
from .size_factors import Method, size_factors

Stage = Callable[[str], AbstractContextManager[Any]]
Watch = Callable[[str], None]
STAGES = (
    "size factors",
    "moments",
    "means",
    "gene-wise dispersions",
    "trend and prior",
    "MAP dispersions",
    "coefficients",
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
    covariance: Float[np.ndarray, "g p p"]
    """Of the coefficients, natural log."""
    beta_status: Int[np.ndarray, "g"]
    boxed: Bool[np.ndarray, "g"]
    """Coefficients came from the box-constrained solver."""
    unsupported: Float[np.ndarray, "g p p"]
    """Projector on directions in which the likelihood rises for ever (separation), else 0."""


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
    stage: Stage = lambda _: nullcontext(),
) -> tuple[DESeqFit, Cohort]:
    """Fit of every gene, and the cohort with its size factors.

    Parameters
    ----------
    cohort
        Raw counts and design.
    cells
        Distinct design rows and how many samples have each.
    settings
        Choices of the analysis.
    stage
        Called with the name of each stage, entered as a context around it (progress, clocks).

    Raises
    ------
    ValueError
        If no size factors exist, or no gene varies more than Poisson counts.
    """
    with stage("size factors"):
        cohort, counted = size_factors(cohort, settings.size_factors)
    n, p = int(np.sum(cells.count)), cells.rows.shape[1]
    genes = np.flatnonzero(counted.total > 0)
    gene, frozen = _fit_genes(cohort, genes, cells, settings, stage)
    with stage("outliers"):
        found = _find_outliers(cohort, gene, genes, cells, settings)
    refitted = np.flatnonzero(found.replace)
    if len(refitted):
        with stage("refit of replaced genes"):
            gene = _refit(cohort, gene, refitted, cells, settings, frozen)
    result = DESeqFit(
        gene=gene,
        trend=frozen.trend,
        prior_variance=frozen.prior_variance,
        samples=n,
        linear_means=len(cells.count) == p,
        cooks_cutoff=outliers.cutoff(n, p),
        max_cooks=found.largest,
        flagged=found.flagged,
        outlier=found.outlier,
        replaced=found.replace,
        settings=settings,
    )
    return result, cohort


def _fit_genes(
    cohort: Cohort,
    genes: Int[np.ndarray, "k"],
    cells: Groups,
    settings: Settings,
    stage: Stage,
    frozen: Frozen | None = None,
) -> tuple[Gene, Frozen]:
    """All stages between size factors and outliers, for the genes with a count."""
    n, p = int(np.sum(cells.count)), cells.rows.shape[1]
    with stage("moments"):
        sums = cohort.sum(dispersion.moments, genes=genes)
        linear = np.linalg.solve(sums.normal, sums.linear[..., None])[..., 0]
        center = sums.mean / n
        second = cohort.sum(dispersion.spread, center, linear, genes=genes)
        begin = np.linalg.solve(sums.normal, sums.log[..., None])[..., 0]
        initial = dispersion.start(sums, second, n, p)
    with stage("means"):
        if len(cells.count) == p:
            means = dispersion.Means(linear, linear=True)
        else:
            by_glm = nb.coefficients(cohort, begin, initial, genes)
            means = dispersion.Means(by_glm.beta, linear=False)
    with stage("gene-wise dispersions"):
        wise = dispersion.gene_wise(cohort, means, initial, n, genes)
    with stage("trend and prior"):
        frozen = frozen or _prior(center, wise.alpha, n - p, settings)
        fitted = frozen.trend.at(center)
        prior = (fitted, frozen.prior_variance)
    with stage("MAP dispersions"):
        best = dispersion.maximum_a_posteriori(cohort, means, wise.alpha, prior, n, genes)
        above = trend.dispersion_outliers(wise.alpha, fitted, frozen.trend.residual_variance)
        alpha = np.where(above, wise.alpha, best.alpha)
    with stage("coefficients"):
        glm = nb.coefficients(cohort, begin, alpha, genes)
        unsupported = nb.unsupported(cohort, genes)
    found = Gene(
        base_mean=center,
        base_variance=second.square / (n - 1),
        dispersion_gene_wise=wise.alpha,
        dispersion_trend=fitted,
        dispersion_map=best.alpha,
        dispersion=alpha,
        dispersion_outlier=above,
        dispersion_status=np.where(above, wise.status, best.status),
        beta=glm.beta,
        covariance=glm.covariance,
        beta_status=glm.status,
        boxed=glm.boxed,
        unsupported=unsupported,
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
    for zero in (whole.base_mean, whole.base_variance, whole.unsupported):
        zero[missing] = 0.0
    return whole


class _Found(NamedTuple):
    largest: Float[np.ndarray, "g"]
    flagged: Float[np.ndarray, "g"]
    outlier: Bool[np.ndarray, "g"]
    replace: Bool[np.ndarray, "g"]


def _find_outliers(
    cohort: Cohort, gene: Gene, genes: Int[np.ndarray, "k"], cells: Groups, settings: Settings
) -> _Found:
    """Cook's flags of every gene, and which genes are refitted or lose their p-value."""
    n, p = int(np.sum(cells.count)), cells.rows.shape[1]
    fitted = _fitted(cohort, gene, genes, cells)
    many = cells.count >= settings.min_replicates
    replaceable = cells.rows[many & settings.replace_outliers]
    replicated = cells.rows[cells.count >= outliers.REPLICATES]
    limit = outliers.cutoff(n, p)
    flags = cohort.sum(outliers.flags, fitted, shared=(limit, replicated, replaceable), genes=genes)
    replace = (flags.all > 0) & (len(replaceable) > 0)
    kept = flags.replicated - (flags.replaceable if len(replaceable) else 0.0)
    outlier = kept > 0
    largest = np.full(len(genes), np.nan)
    if cohort.at_hand:
        largest, above = cohort.collect(outliers.largest, fitted, shared=(replicated,), genes=genes)
        if settings.keep_if_larger and len(cells.count) == p == 2:
            outlier &= above < 3
    parts = _Found(largest, flags.all, outlier, replace)
    wholes = _Found(*(np.zeros(cohort.genes, a.dtype) for a in parts))
    wholes.largest[:] = np.nan
    for whole, part in zip(wholes, parts, strict=True):
        whole[genes] = part
    return wholes


def _fitted(
    cohort: Cohort, gene: Gene, genes: Int[np.ndarray, "k"], cells: Groups
) -> outliers.Fitted:
    """What Cook's distances need, of some genes."""
    n = int(np.sum(cells.count))
    beta, alpha = gene.beta[genes], gene.dispersion[genes]
    robust = outliers.robust_dispersion(cohort, gene.base_mean[genes], cells, n, genes)
    return outliers.Fitted(beta, alpha, nb.inverse_information(cohort, beta, alpha, genes), robust)


def _refit(
    cohort: Cohort,
    gene: Gene,
    refitted: Int[np.ndarray, "k"],
    cells: Groups,
    settings: Settings,
    frozen: Frozen,
) -> Gene:
    """Genes fitted again with their outliers replaced; size factors, trend and prior kept.

    A gene without a count after replacement has base mean 0, coefficients 0 and variances 0.
    """
    n, p = int(np.sum(cells.count)), cells.rows.shape[1]
    fitted = _fitted(cohort, gene, refitted, cells)
    value = outliers.replacement(cohort, cells, n, refitted)
    rows = cells.rows[cells.count >= settings.min_replicates]
    shared = (outliers.cutoff(n, p), rows)
    new = cohort.map(outliers.replaced, fitted, value, shared=shared, genes=refitted)
    left = np.flatnonzero(new.sum(counts).total > 0)
    again, _ = _fit_genes(new, left, cells, settings, lambda _: nullcontext(), frozen)
    empty = np.setdiff1d(np.arange(len(refitted)), left)
    again.beta[empty] = 0.0
    again.covariance[empty] = 0.0

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


def cells(design: Float[np.ndarray, "n p"]) -> Groups:
    """Distinct design rows and how many samples have each."""
    rows, count = np.unique(design, axis=0, return_counts=True)
    return Groups(rows, count)
