"""Analyses of an AnnData: a table is returned, and stored where `get` finds it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import anndata
import numpy as np
import pandas as pd

from expressway import io
from expressway._types import Array
from expressway.core.cohort import Cohort, Pooled, Tell, in_silence, samples
from expressway.io.contrast import ContrastSpec
from expressway.models import course, deseq, gene_covariance, gene_ranks
from expressway.models.cells import groups
from expressway.models.deseq import Settings as Settings

from . import _steps, _store, clustering
from . import timecourse as courses

logger = logging.getLogger(__name__)


def de(
    adata: anndata.AnnData,
    design: str,
    contrast: ContrastSpec | None = None,
    *,
    reference: Mapping[str, str] | None = None,
    layer: str | None = None,
    settings: deseq.Settings = deseq.DEFAULTS,
    key: str = "de",
    memory: str | float | None = None,
    watch: deseq.Watch = lambda _: None,
    tell: Tell = in_silence,
    where: Callable[[Pooled], Cohort] | None = None,
) -> pd.DataFrame:
    """Table of differential expression between samples, by DESeq2's statistics.

    Negative-binomial GLMs with median-of-ratios size factors, Cox-Reid dispersions shrunken
    towards a trend, Cook's outlier handling, Wald tests and independent filtering (Love, Huber &
    Anders 2014, Genome Biology 15:550).

    Parameters
    ----------
    adata
        Samples × genes, raw counts in ``X``, which stays as it is: dense or sparse, of any integer
        or float type, in memory or on disk (h5ad opened with ``backed="r"``, zarr). Results are
        added: ``varm[key]``, ``varm[f"{key}_genes"]``, ``obsm[f"{key}_samples"]``, ``uns[key]``
        and others; `get` reads them. A view becomes an AnnData of its own.
    design
        Formula over columns of ``obs``: ``"~ cell + dex"``.
    contrast
        (factor, level, reference level), a coefficient's name, or one weight a coefficient; the
        last coefficient when not given. Others can be tested afterwards with `contrast`.
    reference
        Column to the level that others are compared with. Where it says nothing of a factor, the
        contrast's reference level is taken, else the first level.
    layer
        Layer that holds the counts instead of ``X``.
    settings
        Choices of the analysis.
    key
        Name under which results are stored.
    memory
        What the process may take: "1GB", or bytes; as much as it needs when not given. Counts on
        disk, and sparse ones by row, go to a scratch file where they would take more.
    watch
        Called with the name of each stage as it begins.
    tell
        Called with how many genes are finished of how many, as a stage goes over them.
    where
        What spreads genes over other processes (``run.dask.over(client)``); none when not given.

    Returns
    -------
    DataFrame
        Index gene; base_mean (normalised counts), log2_fold_change, lfc_se (log2), stat, p_value,
        p_adj, dispersion, status.

    Raises
    ------
    io.InputError
        Counts, design, contrast or settings cannot be used: one line that says what is wrong and
        what to do. The AnnData is then as it was.

    Notes
    -----
    Doubts about the design, and a trend that fell back to the mean, are logged as warnings and
    stored in ``uns[key]["warnings"]``.
    """
    clock = io.Clock(watch)
    _steps.check_settings(settings)
    with clock.stage("design"):
        origin = _origin(adata, design, contrast, reference, layer)
        wanted = io.contrast(origin.coded, contrast)
        for doubt in origin.coded.warnings:
            logger.warning("%s", doubt)
    with clock.stage("counts"):
        limit = io.parse_bytes(memory) if isinstance(memory, str) else memory or np.inf
        counts = _steps.counts(adata, layer, memory=limit)
        pooled = Pooled(samples(counts, origin.coded.matrix), tell)
    spread = where(pooled) if where else pooled
    fit, cohort = deseq.fit(spread, groups(origin.coded.matrix), settings, clock.run)
    doubts = [*origin.coded.warnings, *_steps.trend_doubts(fit)]
    with clock.stage("tests"):
        table, found = _steps.test(fit, wanted, adata.var_names)
    _store.store_fit(adata, key, fit, origin)
    _store.store_samples(adata, key, cast("Pooled", cohort).rows)
    _store.store_results(adata, key, table, found, wanted.name)
    adata.uns[key] |= {"seconds": clock.seconds, "warnings": doubts}
    return table


def contrast(
    adata: anndata.AnnData, contrast: ContrastSpec | None = None, *, key: str = "de"
) -> pd.DataFrame:
    """Table for another contrast of the analysis that `de` stored, without a refit.

    Parameters
    ----------
    adata
        As `de` left it, or read back from h5ad, or with some of the genes. The counts are not
        needed: a coordinator of several sites has none.
    contrast
        As for `de`.
    key
        Name under which `de` stored its results; ``varm[key]`` becomes the new table.

    Raises
    ------
    io.InputError
        No analysis is stored there, samples were taken away or changed since, or the contrast
        does not exist.
    """
    fit, origin = _store.load_fit(adata, key)
    wanted = io.contrast(origin.coded, contrast)
    table, found = _steps.test(fit, wanted, adata.var_names)
    _store.store_results(adata, key, table, found, wanted.name)
    return table


def contrasts(
    adata: anndata.AnnData,
    factor: str,
    reference: str | None = None,
    *,
    levels: Sequence[str] | None = None,
    key: str = "de",
) -> anndata.AnnData:
    """Contrasts × genes: levels of a factor against one of them, from one fit in one pass.

    Numbers agree with `contrast` of each level to rounding, statuses exactly.

    Parameters
    ----------
    adata
        As for `contrast`; it stays as it is.
    factor
        Of the design.
    reference
        The level that the others are compared with; the design's reference level when not given.
    levels
        All others when not given.
    key
        Name under which `de` stored its results.

    Returns
    -------
    AnnData
        Layers log2_fold_change, lfc_se, stat, p_value, p_adj, and status, of which the words are
        ``uns["status"]``; ``obs`` has level, tested, up, down (genes, at the fit's alpha) and
        filter_threshold of each contrast.

    Raises
    ------
    io.InputError
        As for `contrast`.
    """
    fit, origin = _store.load_fit(adata, key)
    wanted = io.differences(origin.coded, factor, reference, levels)
    return _steps.tests(fit, wanted, adata.var_names)


def influence(
    adata: anndata.AnnData,
    contrast: ContrastSpec | None = None,
    *,
    key: str = "de",
    kind: str = "conditional",
    exact: bool = False,
) -> anndata.AnnData:
    """Samples × genes: what leaving each sample out would change, and which calls survive it.

    Parameters
    ----------
    adata
        As `de` left it, with its counts; it stays as it is.
    contrast
        As for `de`.
    key
        Name under which `de` stored its results.
    kind
        ``"conditional"``: size factors and dispersions are kept. ``"pipeline"``: dispersions and
        their trend are fitted again too. What else is kept is listed in ``uns["frozen"]``.
    exact
        Fit everything again without each sample. Otherwise changes are predicted from derivatives
        of the fit and one step of Newton's method, and only calls in doubt are fitted again.

    Returns
    -------
    AnnData
        Layers log2_fold_change, lfc_se and stat: the value without the sample less that with it.
        NaN for genes without a fit and where nothing can be estimated without the sample.
        ``layers["exact"]``: pairs whose call was judged by a refit. ``var``: the contrast's table
        and most_influential (the sample without which stat changes most),
        change_log2_fold_change, change_stat (without it), call (survives: it is called without
        any single sample too; lost; untestable; not_called), lost_without (the sample, where a
        call is lost), losses (how many samples' absence loses it). A call without a sample is
        judged by ``uns["stat_cut"]``, the statistic at which adjusted p-values pass alpha.

    Raises
    ------
    io.InputError
        As for `contrast`; the counts or, for ``"pipeline"``, some of the genes are not there; or
        the design has too many columns.
    """
    fit, origin = _store.load_fit(adata, key)
    wanted = io.contrast(origin.coded, contrast)
    cohort = _steps.cohort(adata, origin.coded, origin.layer, _store.log_sizes(adata, key))
    found = _steps.influence(fit, wanted, cohort, kind, exact=exact)
    table, _ = _steps.test(fit, wanted, adata.var_names)
    about = {"contrast": wanted.name, "kind": kind}
    return io.influence_table(found, table, pd.DataFrame(adata.obs).copy(), about)


def intervals(
    adata: anndata.AnnData,
    contrast: ContrastSpec | None = None,
    *,
    key: str = "de",
    interval: float = 0.9,
    kind: str = "fisher",
    clusters: str | None = None,
    top: int = 100,
    by: str = "magnitude",
    draws: int = 1000,
    seed: int | Array = 0,
) -> pd.DataFrame:
    """Table of intervals: of each gene's fold change, and of its rank among the genes.

    Coefficients are normal about their estimates (`models.gene_covariance`), genes independent.
    Intervals of fold changes have a closed form, those of ranks come from draws.

    Parameters
    ----------
    adata
        As `de` left it; it stays as it is. Counts are needed unless the kind is ``"fisher"``.
    contrast
        As for `de`.
    key
        Name under which `de` stored its results.
    interval
        Level of the intervals.
    kind
        ``"fisher"``: the covariance of the standard errors; ``"hessian"``: from the observed
        information; ``"sandwich"``: from the scatter of samples, whatever the distribution of
        counts. The latter is too small where samples are few (`docs/draws.md`).
    clusters
        Column of ``obs``, for ``"sandwich"``: samples of one value are not independent.
    top
        How many genes are "the top": probability_top is of being one of them.
    by
        Genes are ranked by the ``"magnitude"`` of fold changes, or by fold changes from the
        largest ("up") or from the least ("down").
    draws
        Draws of ranks: a probability of .5 is known to within .016 with 1,000.
    seed
        Of the draws: a number, or a JAX key.

    Returns
    -------
    DataFrame
        Index gene; log2_fold_change, lower, upper (log2), probability_up (of a fold change above
        0), rank (median; 1 is the first), rank_lower, rank_upper, probability_top, status. Genes
        with an adjusted p-value are ranked: neither those that were filtered, which have noise
        only to be first with, nor outliers, nor genes without counts, nor those not converged.

    Raises
    ------
    io.InputError
        As for `contrast`; a choice cannot be used; or counts are needed and not there, or the
        design has too many columns for the kind.
    """
    choices = gene_ranks.Choices(draws, interval, top, by)
    gene_ranks.check(choices)
    fit, origin = _store.load_fit(adata, key)
    wanted = io.contrast(origin.coded, contrast)
    rows = None
    if kind != "fisher":
        sizes = _store.log_sizes(adata, key)
        rows = _steps.cohort(adata, origin.coded, origin.layer, sizes)
    labels = _steps.labels(adata, clusters)
    of = gene_covariance.normal(fit, kind, cohort=rows, clusters=labels)
    return _steps.intervals(fit, wanted, of, choices, seed, adata.var_names)


def check(
    adata: anndata.AnnData,
    design: str,
    contrasts: Sequence[ContrastSpec | None] = (None,),
    *,
    each: tuple[str, str] | None = None,
    reference: Mapping[str, str] | None = None,
    settings: deseq.Settings = deseq.DEFAULTS,
) -> None:
    """Nothing, where `de` with the first contrast and `contrast` with the others would work.

    And, given ``each``, `contrasts` of that factor and reference level. A look at the sample
    table, before counts are read: what they will need is compiled meanwhile.

    Raises
    ------
    io.InputError
        The design, one of the contrasts or a setting cannot be used.
    """
    _steps.check_settings(settings)
    origin = _origin(adata, design, contrasts[0], reference, None)
    for spec in contrasts:
        io.contrast(origin.coded, spec)
    if each is not None:
        io.differences(origin.coded, *each)
    deseq.expect(origin.coded.matrix, groups(origin.coded.matrix))


def timecourse(
    adata: anndata.AnnData,
    time: str,
    *,
    df: int | Sequence[int] | None = None,
    clusters: int | Sequence[int] = 10,
    group: str | None = None,
    replicate: str | None = None,
    leave_out: int | Sequence[int] = 1,
    of: course.Of = "times",
    among: Sequence[float | int] | None = None,
    cv: courses.CV = "both",
    test_genes: int = 0,
    counts: bool = False,
    layer: str | None = None,
    settings: courses.Settings = courses.DEFAULTS,
    start: courses.Courses | None = None,
    watch: deseq.Watch = lambda _: None,
) -> courses.Courses:
    """Curves of every gene over time, clusters of the curves, and cross-validation.

    Spline regression of each gene (weighted least squares, or negative-binomial for counts), then
    a mixture of the centred curves with the precision that each gene has (`models.mixture`); the
    smoothness is chosen by leaving out time points, predicted by the infinitesimal jackknife and
    fitted again (Giordano et al. 2019, AISTATS).

    Parameters
    ----------
    adata
        Samples × genes: expression, or counts. Gets ``var["cluster"]``,
        ``var["cluster_probability"]`` and ``uns["timecourse"]`` (df and the table of errors).
    time
        Column of ``obs``: numbers, of any unit.
    df
        Columns of the spline, the constant among its span; several to choose from. When not
        given, 4 to 8 as far as there are distinct times (where knots are given, theirs).
    clusters
        How many; several to choose from, by the likelihood of genes left out.
    group
        Column of ``obs``: each group has its own curve, and genes are clustered by all of them.
    replicate
        Column of ``obs`` that says which series a sample belongs to, for ``of="replicates"``.
    leave_out
        How many time points (samples, replicate series) are left out together; several sizes are
        tried one after the other, and the first decides on df.
    of
        What is left out.
    among
        Times that may be left out; all that are part of the spline when not given.
    cv
        ``"jackknife"``: predicted errors, ``"exact"`` and ``"both"``: also refitted; ``"none"``.
    test_genes
        How many genes, drawn at random, are held out of clustering to test it.
    counts
        ``X`` has counts.
    layer
        Layer to use instead of ``X``.
    settings
        Further choices; ``timecourse.PUBLISHED`` has those of the published code.
    start
        An analysis whose clusters are gone on from, where it has the same df and number.
    watch
        Called with the name of each stage as it begins.

    Returns
    -------
    Courses
        ``clusters()``, ``curves()``, ``influence()``, ``cv``, ``differential``, ``leave_out()``,
        ``save()`` and more.

    Raises
    ------
    io.InputError
        The data or a choice cannot be used: one line that says why and what to do.
    """
    found = courses.analyse(
        adata,
        time,
        df=df,
        clusters=clusters,
        group=group,
        replicate=replicate,
        leave_out=leave_out,
        of=of,
        among=among,
        cv=cv,
        test_genes=test_genes,
        counts=counts,
        layer=layer,
        settings=settings,
        start=start,
        watch=watch,
    )
    table = found.clusters()
    adata.var["cluster"] = table["cluster"].to_numpy(float, na_value=np.nan)
    adata.var["cluster_probability"] = table["probability"].to_numpy(float)
    adata.uns["timecourse"] = {"df": found.chosen, "cv": found.cv.copy()}
    return found


def cluster(
    adata: anndata.AnnData,
    along: str | Sequence[str],
    *,
    basis: str = "rbf:3",
    centers: Sequence[float | int] | None = None,
    length: float | int | None = None,
    weights: str | Sequence[str] | None = None,
    design: str | None = None,
    covariates: str | None = None,
    size_factors: str | Sequence[float] | np.ndarray = "auto",
    time_sd: str | Sequence[str] | None = None,
    orthonormal: bool = True,
    prior: clustering.Prior | Mapping[str, clustering.Prior] | None = None,
    layer: str | None = None,
    settings: clustering.Settings = clustering.DEFAULTS,
    watch: deseq.Watch = lambda _: None,
) -> clustering.Clusters:
    """Genes clustered by the coefficients of their curves along time or pseudotime.

    Negative-binomial curves, ``log mean = log size factor + x(t)'b_g``; each coefficient and the
    log dispersion has a Dirichlet-process mixture of normals over genes, and so have all
    coefficients together (modules). By coordinate-ascent variational inference with splits and
    merges (`models.gene_clusters`).

    Parameters
    ----------
    adata
        Samples × genes, raw counts in ``X``. Gets ``var["module"]`` and
        ``var["module_probability"]``.
    along
        Column of ``obs`` with time or pseudotime; several for several lineages.
    basis
        ``"rbf:3"``: three radial functions; ``"spline:5"``, ``"natural:4"``, ``"cyclic:4"``. The
        number is of columns beside the level.
    centers, length
        Of radial functions, in the unit of time; equally spaced when not given.
    weights
        Columns with the samples' weights in each lineage: they multiply the basis.
    design
        A formula of your own instead of a basis: ``"~ bs(pseudotime, df=4)"``.
    covariates
        Formula of what else changes means, ``"~ batch"``: not clustered.
    size_factors
        ``"ratio"``, ``"poscounts"``, ``"library"``, ``"none"``, a column of ``obs``, or the factors
        themselves. ``"auto"``: ratio if 100 genes have no zero, none with fewer than 100 genes,
        else library.
    time_sd
        Column with the standard deviation of each sample's pseudotime (one a lineage): its
        uncertainty is added to that of the coefficients.
    orthonormal
        Whether coefficients are those of an orthonormal basis. Those of a raw basis are often not
        identified.
    prior
        Of the mixtures; by name of coordinate (``level``, ``basis[1]``, …, ``log_dispersion``,
        ``default``) where they differ. ``clustering.REQUEST`` has wide components only.
    layer
        Layer that holds the counts instead of ``X``.
    settings
        Further choices.
    watch
        Called with the name of each stage as it begins.

    Returns
    -------
    Clusters
        ``coefficients()``, ``clusters()``, ``modules()``, ``components()``, ``curves()``,
        ``again(prior)``, ``sensitivity()``, ``save()`` and more.

    Raises
    ------
    io.InputError
        The data or a choice cannot be used: one line that says why and what to do.
    """
    found = clustering.analyse(
        adata,
        along,
        basis=basis,
        centers=centers,
        length=length,
        weights=weights,
        design=design,
        covariates=covariates,
        size_factors=size_factors,
        time_sd=time_sd,
        orthonormal=orthonormal,
        prior=prior,
        layer=layer,
        settings=settings,
        watch=watch,
    )
    table = found.modules()
    adata.var["module"] = table["module"].to_numpy(float, na_value=np.nan)
    adata.var["module_probability"] = table["probability"].to_numpy(float)
    return found


def _origin(
    adata: anndata.AnnData,
    formula: str,
    contrast: ContrastSpec | None,
    reference: Mapping[str, str] | None,
    layer: str | None,
) -> _store.Origin:
    """The design, with the reference level that a (factor, level, reference level) asks for."""
    given = dict(reference or {})
    obs = pd.DataFrame(adata.obs)
    coded = io.design(formula, obs, given)
    base = _steps.base_level(contrast, coded, given)
    if base:
        given |= base
        coded = io.design(formula, obs, given)
    return _store.Origin(coded, given, layer)
