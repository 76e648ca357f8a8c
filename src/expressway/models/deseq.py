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
from expressway.core.arrow import Wide
from expressway.core.cohort import Cohort, Pooled, Samples, meanwhile, rows_of, samples
from expressway.core.order import Groups

from . import dispersion, nb, outliers, trend
from .genes import DEFAULTS as DEFAULTS
from .genes import Frozen as Frozen
from .genes import Gene as Gene
from .genes import Settings as Settings
from .genes import Stage as Stage
from .genes import at_once as at_once
from .genes import fit_genes
from .size_factors import log_counts, normalised

Watch = Callable[[str], None]


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
    gene, frozen = fit_genes(cohort, genes, cells, settings, stage)
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
    refitted = np.flatnonzero(found.replace)
    new = _with_replaced(cohort, gene, found, cells, settings, stage)
    left = np.flatnonzero(stage("counts", lambda: new.sum(counts)).total > 0)
    again, _ = fit_genes(new, left, cells, settings, stage, frozen)
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


def _with_replaced(
    cohort: Cohort,
    gene: Gene,
    found: _Found,
    cells: Groups,
    settings: Settings,
    stage: Stage,
    *,
    beside: bool = False,
) -> Cohort:
    """Cohort of the genes that have outliers to replace, with their counts replaced."""
    n, p = int(np.sum(cells.size)), cohort.coefficients
    genes = np.flatnonzero(found.replace)
    fitted = _fitted(gene, genes)._replace(robust=found.robust[genes])
    bulk = outliers.Bulk(gene.base_mean[genes], gene.base_variance[genes])
    value = stage("replacement", lambda: outliers.replacement(cohort, bulk, n, genes))
    shared = (outliers.cutoff(n, p), _replaceable(cells, settings))
    if beside:

        def widen(part: np.ndarray) -> np.ndarray:
            """Zeros for other genes: without leverage no distance is above 0."""
            whole = np.zeros((cohort.genes, *part.shape[1:]))
            whole[genes] = part
            return whole

        fitted, value = jax.tree.map(widen, (fitted, value))
        genes = np.arange(cohort.genes)
    return cohort.map(outliers.replaced, fitted, value, shared=shared, genes=genes)


class Replaced(NamedTuple):
    """Genes that a fit gave other counts: as they were, and as they were refitted."""

    before: Gene
    """Of all genes of the cohort, filled where counts were replaced."""
    cohort: Cohort
    """Those genes with their counts replaced."""
    genes: Int[np.ndarray, "k"]


def replaced(fit: DESeqFit, cohort: Cohort, cells: Groups, *, beside: bool = False) -> Replaced:
    """The counts that a fit replaced, found again: a gene's depend on it, trend and prior only.

    Parameters
    ----------
    fit, cohort
        What `fit` returned.
    cells
        As it had them.
    beside
        Keep the cohort's other genes, with their counts.
    """
    genes = np.flatnonzero(fit.replaced)
    kept = Frozen(fit.trend, fit.prior_variance)
    before, _ = fit_genes(cohort, genes, cells, fit.settings, at_once, kept)
    found = _find_outliers(cohort, before, genes, cells, fit.settings)
    found = found._replace(replace=fit.replaced)
    new = _with_replaced(cohort, before, found, cells, fit.settings, at_once, beside=beside)
    return Replaced(before, new, genes)


class Counts(NamedTuple):
    """Counts of each gene, summed over rows."""

    total: Float[Array, "g"]


def counts(s: Samples) -> Counts:
    """Counts of each gene, summed over rows."""
    return Counts(jnp.sum(s.weight[:, None] * s.y, axis=0))
