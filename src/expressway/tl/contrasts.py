"""Tests of the analysis that `de` stored, without a refit."""

from collections.abc import Sequence

import anndata
import pandas as pd

from expressway import _steps, _store, io
from expressway.io.contrast import ContrastSpec
from expressway.models.wald import threshold


def contrast(
    adata: anndata.AnnData,
    contrast: ContrastSpec | None = None,
    *,
    lfc_threshold: float | int = 0.0,
    alternative: str = "greaterAbs",
    key: str = "de",
) -> pd.DataFrame:
    """Table for another contrast of the analysis that `de` stored, without a refit.

    Parameters
    ----------
    adata
        As `de` left it, or read back from h5ad, or with some of the genes. The counts are not
        needed: a coordinator of several sites has none.
    contrast
        - (factor, level, reference level): other factors at their reference level.
        - The name of a coefficient.
        - One weight a coefficient.
        - A pair of lists of coefficients, ``(["a", "b"], ["c"])``: a + b - c.
        - A pair of groups, ``({"strain": "mut"}, {"strain": "wt", "minute": ["15", "30"]})``: the
          mean over all combinations of levels that the first allows minus that of the second,
          each combination weighing the same; ``{}`` is the mean over all.
        - The last coefficient when not given.
    lfc_threshold
        Of log2 fold changes b: T, 0 or above.
    alternative
        What is claimed: ``"greaterAbs"``, |b| > T, with T = 0 the usual test;
        ``"greaterAbs2014"``, the same by DESeq2's test before 1.44, whose p is larger near T;
        ``"lessAbs"``, |b| < T; ``"greater"``, b > T; ``"less"``, b < -T.
        ``models.wald.against`` has the formulas.
    key
        Name under which `de` stored its results; ``varm[key]`` becomes the new table, and
        ``uns[key]`` says what was tested: contrast, lfc_threshold, alternative.

    Raises
    ------
    io.InputError
        No analysis is stored there, samples were taken away or changed since, the contrast does
        not exist, or the threshold cannot be used.
    """
    limit = threshold(lfc_threshold, alternative)
    fit, origin = _store.load_fit(adata, key)
    wanted = io.contrast(origin.coded, contrast)
    table, found = _steps.test(fit, wanted, adata.var_names, limit)
    _store.store_results(adata, key, table, found, wanted.name)
    return table


def contrasts(
    adata: anndata.AnnData,
    factor: str,
    reference: str | None = None,
    *,
    levels: Sequence[str] | None = None,
    lfc_threshold: float | int = 0.0,
    alternative: str = "greaterAbs",
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
    lfc_threshold, alternative
        As for `contrast`.
    key
        Name under which `de` stored its results.

    Returns
    -------
    AnnData
        Layers log2_fold_change, lfc_se, stat, p_value, p_adj, and status, of which the words are
        ``uns["status"]``; ``obs`` has level, tested, up, down (genes, at the fit's alpha) and
        filter_threshold of each contrast, ``uns`` lfc_threshold and alternative.

    Raises
    ------
    io.InputError
        As for `contrast`.
    """
    limit = threshold(lfc_threshold, alternative)
    fit, origin = _store.load_fit(adata, key)
    wanted = io.differences(origin.coded, factor, reference, levels)
    return _steps.tests(fit, wanted, adata.var_names, limit)
