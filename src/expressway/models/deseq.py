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

from expressway._errors import InputError
from expressway._types import Array, Bool, Float, Int
from expressway.core.arrow import Wide
from expressway.core.cohort import Cohort, Pooled, Samples, meanwhile, rows_of, samples
from expressway.core.order import Groups

from . import dispersion, nb, outliers, size_iteration, trend, weights
from .genes import DEFAULTS as DEFAULTS
from .genes import NOTHING as NOTHING
from .genes import Frozen as Frozen
from .genes import Gene as Gene
from .genes import Given as Given
from .genes import Settings as Settings
from .genes import Stage as Stage
from .genes import at_once as at_once
from .genes import bulk, fit_genes
from .size_factors import LogCounts, log_counts, normalised

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
    weighted: bool = False
    """Rows brought observation weights."""


def fit(
    cohort: Cohort,
    cells: Groups,
    settings: Settings = DEFAULTS,
    stage: Stage = at_once,
    given: Given = NOTHING,
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
    given
        What else the analysis is given.

    Raises
    ------
    InputError
        If no size factors exist, or no gene varies more than Poisson counts; if what is given does
        not go together, or a gene's largest weight is not 1.
    """
    if isinstance(cohort, Pooled):
        expect(cohort.rows.x, cells)
    _check(cohort, settings, given)
    n, p = int(np.sum(cells.size)), cohort.coefficients
    counted = stage("size factors", lambda: cohort.sum(log_counts))
    cohort = _sized(cohort, counted, n, settings, stage, given)
    counts = np.flatnonzero(counted.total > 0)
    genes = counts
    if given.weighted:
        genes = counts[stage("weights", lambda: weights.usable(cohort, counts))]
    gene, frozen = fit_genes(cohort, genes, cells, settings, stage, given)
    left = np.setdiff1d(counts, genes)
    if len(left):
        rest = stage("base means", lambda: bulk(cohort, n, left)[2])
        gene.base_mean[left], gene.base_variance[left] = rest
    found = stage("outliers", lambda: _find_outliers(cohort, gene, genes, cells, settings, frozen))
    if np.any(found.replace):

        def again(name: str, compute: Callable[[], Any]) -> Any:
            return stage(f"refit: {name}", compute)

        gene = _refit(cohort, gene, found, cells, settings, frozen, again)
    result = DESeqFit(
        gene=gene,
        trend=frozen.trend,
        prior_variance=frozen.prior_variance,
        samples=n,
        linear_means=len(cells.size) == p and not given.weighted,
        cooks_cutoff=_limit(settings, n, p),
        max_cooks=found.largest,
        flagged=found.flagged,
        outlier=found.outlier,
        replaced=found.replace,
        settings=settings,
        weighted=given.weighted,
    )
    return result, cohort


def _check(cohort: Cohort, settings: Settings, given: Given) -> None:
    """Refuse what does not go together.

    Raises
    ------
    InputError
        It does not.
    """
    iterated = settings.size_factors == "iterate"
    if iterated and (given.offsets or given.weighted or given.controls is not None):
        what = "weights" if given.weighted else "offsets" if given.offsets else "control genes"
        msg = (
            f"size factors by iteration take no {what}: leave the {what} out, or take size "
            "factors ratio or poscounts"
        )
    elif settings.size_factors == "given" and given.controls is not None:
        msg = "size factors are given, so control genes have no use: leave one of the two out"
    elif given.weighted and isinstance(cohort, Pooled) and isinstance(cohort.rows.x, Wide):
        msg = (
            f"observation weights need a dense design, but this one has {cohort.coefficients} "
            "columns, most of them levels of one factor: leave that factor or the weights out"
        )
    else:
        return
    raise InputError(msg)


def _sized(
    cohort: Cohort, counted: LogCounts, n: int, settings: Settings, stage: Stage, given: Given
) -> Cohort:
    """The cohort with size factors, or factors of genes × samples."""
    if settings.size_factors != "iterate":
        method, controls = settings.size_factors, given.controls
        return normalised(cohort, counted, method, controls, offsets=given.offsets)
    genes = np.flatnonzero(counted.total > 0)
    name = "size factors by iteration"
    done = stage(name, lambda: size_iteration.steps(cohort, genes, n))
    return size_iteration.replayed(cohort, done)


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
    mean: Float[np.ndarray, "g"]
    """Of normalised counts, without observation weights; so is the variance."""
    variance: Float[np.ndarray, "g"]


def _find_outliers(
    cohort: Cohort,
    gene: Gene,
    genes: Int[np.ndarray, "k"],
    cells: Groups,
    settings: Settings,
    frozen: Frozen,
) -> _Found:
    """Cook's flags of every gene, and which genes are refitted or lose their p-value."""
    n, p = int(np.sum(cells.size)), cohort.coefficients
    limit = _limit(settings, n, p)
    replicated = cells.cells[cells.size >= outliers.REPLICATES]
    replaceable = _replaceable(cells, settings)
    shared = (limit, replicated, replaceable)
    # With the least dispersion there is a distance is largest: only genes flagged then need more.
    fitted = _fitted(gene, genes)
    some = np.arange(len(genes))
    if not cohort.at_hand:
        some = np.flatnonzero(cohort.sum(outliers.flags, fitted, shared=shared, genes=genes).all)
    plain = outliers.Bulk(gene.base_mean[genes[some]], gene.base_variance[genes[some]])
    if frozen.weighted:
        plain = bulk(cohort.map(weights.unweighted), n, genes[some])[2]
    robust = outliers.robust_dispersion(cohort, plain, cells, genes[some])
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
    parts = _Found(largest, flags.all, outlier, replace, robust, *plain)
    wholes = _Found(*(np.zeros(cohort.genes, a.dtype) for a in parts))
    wholes.largest[:] = np.nan
    for whole, part in zip(wholes, parts, strict=True):
        whole[genes[some]] = part
    return wholes


def _limit(settings: Settings, n: int, p: int) -> float:
    """Cook's distance above which a count is an outlier."""
    given = settings.cooks_cutoff
    return outliers.cutoff(n, p) if given is None else float(given)


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
    plain = outliers.Bulk(found.mean[genes], found.variance[genes])
    value = stage("replacement", lambda: outliers.replacement(cohort, plain, n, genes))
    shared = (_limit(settings, n, p), _replaceable(cells, settings))
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
    kept = Frozen(fit.trend, fit.prior_variance, fit.weighted)
    before, _ = fit_genes(cohort, genes, cells, fit.settings, at_once, kept)
    found = _find_outliers(cohort, before, genes, cells, fit.settings, kept)
    found = found._replace(replace=fit.replaced)
    new = _with_replaced(cohort, before, found, cells, fit.settings, at_once, beside=beside)
    return Replaced(before, new, genes)


class Counts(NamedTuple):
    """Counts of each gene, summed over rows."""

    total: Float[Array, "g"]


def counts(s: Samples) -> Counts:
    """Counts of each gene that have a weight, summed over rows."""
    return Counts(jnp.sum(s.weight[:, None] * s.y * (s.precision > 0), axis=0))
