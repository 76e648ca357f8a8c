"""Tests of the analysis that `de` stored, without a refit."""

from collections.abc import Sequence

import anndata
import pandas as pd

from expressway import _steps, _store, io
from expressway.io.contrast import ContrastSpec


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
