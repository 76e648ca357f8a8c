"""Differential expression between samples."""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import anndata
import numpy as np
import pandas as pd

from expressway import _rows, _steps, _store, io
from expressway.core.cohort import Cohort, Pooled, Tell, in_silence, samples
from expressway.io.contrast import ContrastSpec
from expressway.models import deseq
from expressway.models.cells import groups

from . import tested

logger = logging.getLogger(__name__)


def de(
    adata: anndata.AnnData,
    design: str,
    contrast: ContrastSpec | None = None,
    *,
    reference: Mapping[str, str] | None = None,
    layer: str | None = None,
    inputs: io.Inputs = io.NOTHING,
    settings: deseq.Settings = deseq.DEFAULTS,
    trend: Any = None,
    test: Mapping[str, Any] | None = None,
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
        (factor, level, reference level), a coefficient's name, one weight a coefficient, a pair of
        lists of coefficients, or a pair of groups to average over (see `contrast`); the last
        coefficient when not given. Others can be tested afterwards with `contrast`.
    reference
        Column to the level that others are compared with. Where it says nothing of a factor, the
        contrast's reference level is taken, else the first level.
    layer
        Layer that holds the counts instead of ``X``.
    inputs
        Names of what else is given (`Inputs`): a column of size factors, a column of control genes,
        a layer of lengths or other normalisation, a layer of observation weights. The two layers
        are held as dense arrays, eight bytes an entry each. Size factors in a column are taken as
        they are; with a layer of normalisation too the product is.
    settings
        Choices of the analysis.
    trend
        A dispersion trend of your own: a function of the mean of normalised counts, or a table of
        nodes, columns mean and dispersion, between which log dispersion is linear in log mean.
    test
        Arguments of `test`, if it is not Wald's of the contrast: ``{"lfc_threshold": 1.0}``,
        ``{"kind": "lrt", "reduced": "~ cell"}``.
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
        Counts, design, contrast, inputs or settings cannot be used: one line that says what is
        wrong and what to do. The AnnData is then as it was.

    Notes
    -----
    Doubts about the design, and a trend of another kind than asked for, are logged as warnings and
    stored in ``uns[key]["warnings"]``.
    """
    clock = io.Clock(watch)
    settings, brought = _steps.with_trend(settings, trend)
    _steps.check_settings(settings)
    if test is not None:
        tested.check_test(**{**tested.DEFAULTS, **test})
    settings = io.chosen(settings, inputs)
    with clock.stage("design"):
        origin = _origin(adata, design, contrast, reference, layer)._replace(inputs=inputs)
        io.check_inputs(adata, inputs)
        wanted = io.contrast(origin.coded, contrast)
        for doubt in origin.coded.warnings:
            logger.warning("%s", doubt)
    with clock.stage("counts"):
        limit = io.parse_bytes(memory) if isinstance(memory, str) else memory or np.inf
        counts = _rows.counts(adata, layer, memory=limit)
        rows = samples(counts, origin.coded.matrix)
        pooled = Pooled(io.rows_with(rows, adata, inputs, alone=True), tell)
    spread = where(pooled) if where else pooled
    given = io.given(adata, inputs)._replace(trend=brought.trend)
    fit, cohort = deseq.fit(spread, groups(origin.coded.matrix), settings, clock.run, given)
    doubts = [*origin.coded.warnings, *_steps.trend_doubts(fit), *_steps.weight_doubts(fit)]
    with clock.stage("tests"):
        table, found = _steps.test(fit, wanted, adata.var_names)
    _store.store_fit(adata, key, fit, origin)
    rows = cast("Pooled", cohort).rows
    sizes = _rows.log_sizes(adata, np.asarray(rows.offset), inputs)
    _store.store_samples(adata, key, rows, sizes)
    _store.store_results(adata, key, table, found, wanted.name)
    if test is not None:
        with clock.stage("tests"):
            table = tested.test(adata, contrast, key=key, **test)
    adata.uns[key] |= {"seconds": clock.seconds, "warnings": doubts}
    return table


def check(
    adata: anndata.AnnData,
    design: str,
    contrasts: Sequence[ContrastSpec | None] = (None,),
    *,
    each: tuple[str, str] | None = None,
    reduced: str | None = None,
    reference: Mapping[str, str] | None = None,
    inputs: io.Inputs = io.NOTHING,
    settings: deseq.Settings = deseq.DEFAULTS,
) -> None:
    """Nothing, where `de` with the first contrast and `contrast` with the others would work.

    And, given ``each``, `contrasts` of that factor and reference level; given ``reduced``, `lrt` of
    that formula. A look at the sample table, before counts are read: what they will need is
    compiled meanwhile.

    Raises
    ------
    io.InputError
        The design, one of the contrasts, the reduced formula, an input or a setting cannot be used.
    """
    _steps.check_settings(settings)
    io.chosen(settings, inputs)
    io.check_inputs(adata, inputs)
    origin = _origin(adata, design, contrasts[0], reference, None)
    for spec in contrasts:
        io.contrast(origin.coded, spec)
    if each is not None:
        io.differences(origin.coded, *each)
    if reduced is not None:
        io.nested(origin.coded, reduced, pd.DataFrame(adata.obs), origin.reference)
    deseq.expect(origin.coded.matrix, groups(origin.coded.matrix))


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
