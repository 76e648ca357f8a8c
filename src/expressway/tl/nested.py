"""Tests of nested designs in the analysis that `de` stored."""

from collections.abc import Callable

import anndata
import pandas as pd

from expressway import _rows, _steps, _store, io
from expressway.core.nested import without
from expressway.io.contrast import ContrastSpec


def lrt(
    adata: anndata.AnnData,
    reduced: str | None = None,
    contrast: ContrastSpec | None = None,
    *,
    key: str = "de",
) -> pd.DataFrame:
    """Table of likelihood-ratio tests of a reduced design, as DESeq2's nbinomLRT has them.

    Does the full design explain a gene's counts better than the reduced one, at the same
    dispersion? Twice the difference of log-likelihoods, and the upper tail of chi².

    Parameters
    ----------
    adata
        As `de` left it, or read back from h5ad, or with some of the genes: its counts are needed.
    reduced
        Formula of the reduced design, nested in the full one: ``"~ cell"``. When not given, the
        hypothesis is that the contrast is 0.
    contrast
        As for `de`: of its fold change and standard error, whatever is tested.
    key
        Name under which `de` stored its results; ``varm[key]`` becomes the new table.

    Returns
    -------
    DataFrame
        As of `de`; stat and p_value are of the test. ``uns[key]["test"]`` says which it is.

    Raises
    ------
    io.InputError
        As for `contrast`; the reduced formula is not nested in the design; the counts are not
        there.

    Notes
    -----
    A gene without counts in the samples that the contrast compares has fold change 0, but keeps the
    test's p-value (DESeq2 R/results.R, cleanContrast).
    """
    return _tested(adata, reduced, contrast, key, _steps.likelihood_ratio)


def ql(
    adata: anndata.AnnData,
    reduced: str | None = None,
    contrast: ContrastSpec | None = None,
    *,
    key: str = "de",
) -> pd.DataFrame:
    """Table of quasi-likelihood F tests with moderated dispersion, as edgeR's glmQLFTest has them.

    Dispersions are those of the trend that `de` fitted. What a gene varies beyond it, the residual
    deviance by degree of freedom, is squeezed towards a curve of mean expression (Lund et al. 2012,
    Statistical Applications in Genetics and Molecular Biology 11:5, article 8), so that the
    uncertainty of a gene's dispersion is in its p-value: for few samples, and for single cells.
    Genes with fewer than ten normalised counts in most samples are tested cautiously, where edgeR's
    users leave them out (`models.quasi.quasi_likelihood`).

    Parameters
    ----------
    adata, reduced, contrast, key
        As for `lrt`. The prior of the variances is of the genes that are here.

    Returns
    -------
    DataFrame
        As of `de`; stat is F. Fold change and standard error are those of `de`'s fit.
        ``varm[f"{key}_quasi"]`` has each gene's deviance, df_residual, variance_prior, variance
        (posterior; F's denominator) and df_total (of it); ``uns[key]["test"]`` the prior's df.

    Raises
    ------
    io.InputError
        As for `lrt`; or fewer than two genes have residual degrees of freedom.
    """
    return _tested(adata, reduced, contrast, key, _steps.quasi_likelihood)


def _tested(
    adata: anndata.AnnData,
    reduced: str | None,
    contrast: ContrastSpec | None,
    key: str,
    test: Callable[..., _steps.Nested],
) -> pd.DataFrame:
    """Table of a test, stored too."""
    fit, origin = _store.load_fit(adata, key)
    wanted = io.contrast(origin.coded, contrast)
    sizes = _store.log_sizes(adata, key)
    if reduced is None:
        matrix = without(wanted.vector)
    else:
        obs = _store.sample_table(adata, key)
        matrix = io.nested(origin.coded, reduced, obs, origin.reference)
    cohort = _rows.cohort(adata, origin.coded, origin.layer, sizes, origin.inputs)
    found = test(fit, cohort, matrix)
    table, rest = _steps.tested(fit, wanted, adata.var_names, found.other)
    said = found.stored | {"reduced": reduced or ""}
    _store.store_results(adata, key, table, rest, wanted.name, said)
    if found.table is not None:
        _store.store_quasi(adata, key, found.table)
    return table
