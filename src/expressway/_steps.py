"""Steps that an analysis of one table and one of several sites share."""

import logging
from typing import Any, NamedTuple, cast, get_args

import anndata
import jax
import numpy as np
import pandas as pd

from expressway import io
from expressway._types import Array, Float
from expressway.core.cohort import Cohort, Pooled
from expressway.core.order import Groups
from expressway.core.solve import Status
from expressway.io.contrast import Contrast, ContrastSpec
from expressway.io.design import Design
from expressway.models import (
    deseq,
    gene_ranks,
    leave_out,
    lrt,
    nb,
    outliers,
    quasi,
    results,
    shrinkage,
    survival,
    trend,
)
from expressway.models import influence as influences
from expressway.models.cells import groups
from expressway.models.gene_covariance import Normal
from expressway.models.size_factors import Method
from expressway.models.wald import NONE, Threshold

logger = logging.getLogger(__name__)


def takers(wanted: Contrast) -> results.Takers:
    """The samples that a contrast compares."""
    return results.Takers(wanted.constant, wanted.members, wanted.squares)


def test(
    fit: deseq.DESeqFit,
    wanted: Contrast,
    genes: pd.Index,
    threshold: Threshold = NONE,  # noqa: PT028 (not pytest's)
) -> tuple[pd.DataFrame, results.Results]:
    """Table of a contrast, and what else was found of it."""
    return tested(fit, wanted, genes, None, threshold)


def tested(
    fit: deseq.DESeqFit,
    wanted: Contrast,
    genes: pd.Index,
    other: results.Other | None,
    threshold: Threshold = NONE,  # noqa: PT028 (not pytest's)
) -> tuple[pd.DataFrame, results.Results]:
    """As `test`, by another test than Wald's if one is given."""
    found = results.results(fit, wanted.vector, takers(wanted), other, threshold)
    return io.results_table(fit, found, genes), found


class Nested(NamedTuple):
    """A test of nested designs for every gene, and what is kept of it in an AnnData."""

    other: results.Other
    stored: dict[str, Any]
    """Kind of test and its numbers."""
    table: pd.DataFrame | None = None
    """Numbers of each gene, without an index."""


def likelihood_ratio(
    fit: deseq.DESeqFit, cohort: Cohort, matrix: np.ndarray, cells: Groups | None = None
) -> Nested:
    """Likelihood-ratio test of a hypothesis (`models.lrt`)."""
    test = lrt.likelihood_ratio(fit, cohort, matrix, cells)
    failed = np.isin(test.status, (Status.NOT_CONVERGED, Status.NOT_FINITE))
    other = results.Other(test.stat, test.p_value, failed, of_contrast=False)
    return Nested(other, {"kind": "lrt", "freedom": test.freedom})


def quasi_likelihood(
    fit: deseq.DESeqFit, cohort: Cohort, matrix: np.ndarray, cells: Groups | None = None
) -> Nested:
    """Quasi-likelihood F test of a hypothesis (`models.quasi`)."""
    test = quasi.quasi_likelihood(fit, cohort, matrix, cells)
    other = results.Other(test.stat, test.p_value, test.failed, of_contrast=False)
    numbers = {
        "deviance": test.deviance,
        "df_residual": test.freedom,
        "variance_prior": np.where(np.isnan(test.deviance), np.nan, test.prior.prior_variance),
        "variance": np.where(np.isnan(test.deviance), np.nan, test.prior.variance),
        "df_total": test.denominator,
    }
    stored = {"kind": "ql", "freedom": test.numerator, "df_prior": test.prior.prior_freedom}
    return Nested(other, stored, pd.DataFrame(numbers))


def tests(
    fit: deseq.DESeqFit,
    wanted: io.Differences,
    genes: pd.Index,
    threshold: Threshold = NONE,  # noqa: PT028 (not pytest's)
) -> anndata.AnnData:
    """Many contrasts of one fit, contrasts × genes."""
    found = results.many(fit, results.Differences(wanted.vectors, wanted.marks), threshold)
    return io.contrasts_table(fit, found, wanted, genes)


def influence(
    fit: deseq.DESeqFit,
    wanted: Contrast,
    cohort: Pooled,
    kind: str,
    *,
    exact: bool,
) -> io.Influences:
    """Change of a contrast without each sample, and what becomes of the calls.

    Calls are those of the Wald test of no change, without any threshold of fold changes.

    Raises
    ------
    InputError
        The kind is none, or `models.influence` refuses the rows.
    """
    if kind not in get_args(survival.Kind):
        msg = f"kind must be one of {', '.join(get_args(survival.Kind))}, but is {kind}"
        raise io.InputError(msg)
    fn = {"conditional": influences.conditional, "pipeline": influences.pipeline}[kind]
    again = {"conditional": leave_out.conditional, "pipeline": leave_out.pipeline}[kind]
    contrast = wanted.vector[None]
    found = results.results(fit, wanted.vector, takers(wanted))
    moves = fn(fit, cohort, contrast)
    test, called = found.wald, found.adjusted.p_adj < fit.settings.alpha
    limit = survival.cut(test.p_value, found.adjusted.p_adj, fit.settings.alpha)
    whole = again(fit, cohort, contrast) if exact else None

    def refit(pairs: np.ndarray) -> leave_out.LeftOut:
        return again(fit, cohort, contrast, pairs) if whole is None else whole

    step = np.asarray(moves.step.stat)[0]
    calls = survival.survival(test.stat, called, limit, step, refit, thorough=exact)
    changes = moves.step if whole is None else whole
    nothing = found.status == "no_counts"  # fold change 0, with or without any sample
    parts = (changes.estimate[0] / np.log(2), changes.se[0] / np.log(2), changes.stat[0])
    layers = [np.where(nothing, 0.0, part) for part in parts]
    return io.Influences(*layers, calls=calls, held=moves.held, frozen=moves.frozen)


def cooks(fit: deseq.DESeqFit, cohort: Pooled) -> Float[np.ndarray, "n g"]:
    """Cook's distance of every count from the fit that judged it; NaN for genes without a fit.

    A gene whose counts were replaced was judged by the fit before (`deseq.replaced`). Inverses of
    the information and robust dispersions, which a fit does not keep, are computed again.
    """
    x: Any = cohort.rows.x
    cells, gene = groups(x), fit.gene
    known = np.flatnonzero((gene.base_mean > 0) & ~fit.replaced)
    parts = [(known, gene)]
    if np.any(fit.replaced):
        parts.append((np.flatnonzero(fit.replaced), deseq.replaced(fit, cohort, cells).before))
    found = np.full((cohort.rows.x.shape[0], cohort.genes), np.nan)
    for at, one in parts:
        if not len(at):
            continue
        beta, alpha = one.beta[at], one.dispersion[at]
        inverse = nb.covariance(cohort, beta, alpha, at).inverse
        bulk = outliers.Bulk(one.base_mean[at], one.base_variance[at])
        robust = outliers.robust_dispersion(cohort, bulk, cells, at)
        fitted = outliers.Fitted(beta, alpha, inverse, robust)
        found[:, at] = cohort.collect(outliers.by_gene, fitted, genes=at)[:, : len(found)].T
    return found


def intervals(
    fit: deseq.DESeqFit,
    wanted: Contrast,
    of: Normal,
    choices: gene_ranks.Choices,
    seed: int | Array,
    genes: pd.Index,
) -> pd.DataFrame:
    """Intervals of a contrast and of the genes' ranks, among those with an adjusted p-value."""
    found = results.results(fit, wanted.vector, takers(wanted))
    nothing = found.status == "no_counts"  # fold change 0 by rule; nothing is known of it
    estimate, se = (np.where(nothing, np.nan, part) for part in gene_ranks.along(of, wanted.vector))
    ends = gene_ranks.intervals(estimate, se, choices.level)
    taking = np.isfinite(found.adjusted.p_adj) & (found.status != "not_converged")
    random = jax.random.key(seed) if isinstance(seed, int | np.integer) else seed
    some = gene_ranks.Estimates(np.where(taking, estimate, np.nan), se)
    return io.intervals_table(found, of, ends, gene_ranks.ranks(some, random, choices), genes)


def choices_of(
    coded: Design, kind: str, interval: float | int, threshold: float | int, *, exact: bool
) -> shrinkage.Choices:
    """What is wanted of a shrinkage of this design's coefficients.

    Raises
    ------
    InputError
        A choice cannot be used.
    """
    free = tuple(i for i, name in enumerate(coded.names) if name == "Intercept")
    choices = shrinkage.Choices(kind, float(interval), threshold, exact, free)  # pyright: ignore[reportArgumentType]
    shrinkage.check(choices)
    return choices


def shrunken(
    fit: deseq.DESeqFit,
    wanted: Contrast,
    cohort: Cohort,
    choices: shrinkage.Choices,
    genes: pd.Index,
    cells: Groups | None = None,
) -> tuple[pd.DataFrame, shrinkage.Shrunken]:
    """Table of a contrast's shrunken fold changes, and what else was found of them."""
    found = shrinkage.shrink(fit, cohort, wanted.vector, choices, cells)
    takers = results.Takers(wanted.constant, wanted.members)
    test = results.results(fit, wanted.vector, takers)
    return io.shrunken_table(fit, test, found, wanted.vector, genes), found


def check_settings(settings: deseq.Settings) -> None:
    """Refuse numbers out of range.

    Raises
    ------
    InputError
        One is.
    """
    if settings.size_factors not in get_args(Method):
        needed = f"size_factors must be one of {', '.join(get_args(Method))}"
        got = settings.size_factors
    elif settings.trend not in get_args(trend.Kind):
        needed = f"trend must be one of {', '.join(get_args(trend.Kind))}"
        got = settings.trend
    elif settings.cooks_cutoff is not None and not settings.cooks_cutoff > 0:
        needed = "cooks_cutoff must be above 0 (inf: no count is an outlier)"
        got = settings.cooks_cutoff
    elif not 0 < settings.alpha < 1:
        needed, got = "alpha must lie between 0 and 1", settings.alpha
    elif settings.prior_variance is not None and not 0 < settings.prior_variance < np.inf:
        needed, got = "the prior variance must be above 0", settings.prior_variance
    elif settings.min_replicates < 3:
        needed, got = "min_replicates must be 3 or more", settings.min_replicates
    else:
        return
    msg = f"{needed}, but is {got}"
    raise io.InputError(msg)


def with_trend(settings: deseq.Settings, value: Any) -> tuple[deseq.Settings, deseq.Given]:
    """Settings, and what is given, of an analysis with a user's own dispersion trend or none.

    Raises
    ------
    InputError
        As for `given_trend`.
    """
    own = given_trend(value)
    if own is None:
        return settings, deseq.NOTHING
    return settings._replace(trend="given"), deseq.Given(trend=own)


def given_trend(value: Any) -> trend.Trend | trend.Function | None:
    """A user's own dispersion trend: a function, or nodes from a table of means and dispersions.

    Parameters
    ----------
    value
        A function mean -> dispersion; a DataFrame with the columns mean and dispersion, or two
        columns; an array of pairs.

    Raises
    ------
    InputError
        It is neither, or a node is no pair of positive numbers.
    """
    if value is None or isinstance(value, trend.Trend):
        return value
    if callable(value):
        return cast("trend.Function", value)
    if isinstance(value, pd.DataFrame) and {"mean", "dispersion"} <= set(value.columns):
        value = value[["mean", "dispersion"]]
    try:
        table = np.asarray(value, float)
    except (TypeError, ValueError):
        table = np.zeros(0)
    if np.shape(table)[1:] != (2,):
        msg = (
            f"trend is {type(value).__name__}; needed is a table with the columns mean and "
            "dispersion, or a function that gives dispersions for means"
        )
        raise io.InputError(msg)
    return trend.through(table[:, 0], table[:, 1])


def weight_doubts(fit: deseq.DESeqFit) -> list[str]:
    """One line, logged too, where weights leave nothing to fit of some genes."""
    count = int(np.sum(np.isnan(fit.gene.dispersion) & (fit.gene.base_mean > 0)))
    if not fit.weighted or not count:
        return []
    doubt = (
        f"observation weights leave no full design of {count:,} gene{'s' if count > 1 else ''}: "
        "nothing is estimated of them (status weights)"
    )
    logger.warning("%s", doubt)
    return [doubt]


def base_level(
    contrast: ContrastSpec | None, coded: Design, given: dict[str, str]
) -> dict[str, str]:
    """The reference level that a (factor, level, reference level) asks for, if it is another."""
    if contrast is None or isinstance(contrast, str) or len(contrast) != 3:
        return {}
    factor, _, base = map(str, contrast)
    # A factor or level that does not exist is for `io.contrast` to refuse.
    later = coded.levels.get(factor, ())[1:]
    return {factor: base} if factor not in given and base in later else {}


def trend_doubts(fit: deseq.DESeqFit) -> list[str]:
    """One line, logged too, where the trend is not of the kind that was asked for."""
    return doubts_of(fit.trend, fit.settings.trend)


def doubts_of(found: trend.Trend, wanted: trend.Kind) -> list[str]:
    """The same of a trend."""
    if found.kind == wanted:
        return []
    said = "a0 + a1 / mean does not fit these genes"
    if wanted == "local":
        said = "cannot be a local regression of so few genes"
    instead = "their mean dispersion" if found.kind == "mean" else "a local regression"
    doubt = f"the dispersion trend {said}: {instead} is used instead"
    logger.warning("%s", doubt)
    return [doubt]
