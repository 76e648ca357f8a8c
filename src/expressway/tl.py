"""Analyses of an AnnData: a table is returned, and stored where `get` finds it."""

from collections.abc import Mapping

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

from expressway import io
from expressway.core.cohort import Pooled, samples
from expressway.io.contrast import Contrast, ContrastSpec
from expressway.models import deseq, results

from . import _store


def de(
    adata: anndata.AnnData,
    design: str,
    contrast: ContrastSpec | None = None,
    *,
    reference: Mapping[str, str] | None = None,
    layer: str | None = None,
    settings: deseq.Settings = deseq.DEFAULTS,
    key: str = "de",
    watch: deseq.Watch = lambda _: None,
) -> pd.DataFrame:
    """Table of differential expression between samples, by DESeq2's statistics.

    Negative-binomial GLMs with median-of-ratios size factors, Cox-Reid dispersions shrunken
    towards a trend, Cook's outlier handling, Wald tests and independent filtering (Love, Huber &
    Anders 2014, Genome Biology 15:550).

    Parameters
    ----------
    adata
        Samples × genes, raw counts in ``X`` (dense or sparse). Results are added to it:
        ``varm[key]``, ``varm[f"{key}_genes"]``, ``obsm[f"{key}_samples"]``, ``uns[key]``; `get`
        reads them.
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
    watch
        Called with the name of each stage as it begins.

    Returns
    -------
    DataFrame
        Index gene; base_mean (normalised counts), log2_fold_change, lfc_se (log2), stat, p_value,
        p_adj, dispersion, status.

    Raises
    ------
    ValueError
        Counts, design or contrast cannot be used: one line that says what is wrong and what to
        do (`io.InputError` where it is about the input).
    """
    clock = io.Clock(watch)
    with clock.stage("design"):
        coded = io.design(design, adata.obs, _reference(contrast) | dict(reference or {}))
        wanted = io.contrast(coded, contrast)
        rows = samples(_counts(adata, layer), coded.matrix)
    fit, cohort = deseq.fit(Pooled(rows), deseq.cells(coded.matrix), settings, clock.stage)
    with clock.stage("tests"):
        _store.store_fit(adata, key, fit, coded, layer)
        _store.store_samples(adata, key, cohort)
        table = _test(adata, key, fit, cohort, wanted)
    adata.uns[key] |= {"seconds": clock.seconds, "warnings": list(coded.warnings)}
    return table


def contrast(
    adata: anndata.AnnData, contrast: ContrastSpec | None = None, *, key: str = "de"
) -> pd.DataFrame:
    """Table for another contrast of the analysis that `de` stored, without a refit.

    Parameters
    ----------
    adata
        As `de` left it, or read back from h5ad.
    contrast
        As for `de`.
    key
        Name under which `de` stored its results; ``varm[key]`` becomes the new table.

    Raises
    ------
    io.InputError
        No analysis is stored there, or the contrast does not exist.
    """
    fit, coded, layer = _store.load_fit(adata, key)
    cohort = Pooled(samples(_counts(adata, layer), coded.matrix))
    return _test(adata, key, fit, cohort, io.contrast(coded, contrast))


def _test(
    adata: anndata.AnnData, key: str, fit: deseq.DESeqFit, cohort: Pooled, wanted: Contrast
) -> pd.DataFrame:
    takers = results.Takers(wanted.constant, wanted.members)
    found = results.results(fit, cohort, wanted.vector, takers)
    table = io.results_table(fit, found, adata.var_names)
    _store.store_results(adata, key, table, found, wanted.name)
    return table


def _counts(adata: anndata.AnnData, layer: str | None) -> np.ndarray:
    """Checked counts, samples × genes."""
    if layer is not None and layer not in adata.layers:
        msg = f"there is no layer {layer!r}; the layers are {', '.join(adata.layers) or 'none'}"
        raise io.InputError(msg)
    x = adata.X if layer is None else adata.layers[layer]
    io.check_counts(x, adata.var_names, adata.obs_names, "adata.X" if layer is None else layer)
    return x.toarray() if sparse.issparse(x) else np.asarray(x)


def _reference(contrast: ContrastSpec | None) -> dict[str, str]:
    """The reference level that a (factor, level, reference level) contrast asks for."""
    if contrast is None or isinstance(contrast, str) or not isinstance(contrast[0], str):
        return {}
    return {contrast[0]: str(contrast[2])} if len(contrast) == 3 else {}
