"""How far each sample moves each gene of the analysis that `de` stored."""

import anndata
import pandas as pd

from expressway import _rows, _steps, _store


def cooks(adata: anndata.AnnData, *, key: str = "de") -> pd.DataFrame:
    """Table of Cook's distances, samples × genes.

    ``(y - mu)² / V / p × h / (1 - h)²`` with V = mu + robust dispersion × mu², p coefficients and
    h the hat diagonal (Love, Huber & Anders 2014, methods; DESeq2 R/core.R,
    calculateCooksDistance). A count is an outlier where it is above
    ``adata.uns[key]["cooks_cutoff"]``. Counts that were replaced are judged as they were.

    Parameters
    ----------
    adata
        As `de` left it, with its counts; it stays as it is.
    key
        Name under which `de` stored its results.

    Returns
    -------
    DataFrame
        Index sample, a column a gene; NaN for genes without a fit.

    Raises
    ------
    io.InputError
        No analysis is stored there, samples or counts are not there or changed since.
    """
    fit, origin = _store.load_fit(adata, key)
    cohort = _rows.cohort(
        adata, origin.coded, origin.layer, _store.log_sizes(adata, key), origin.inputs
    )
    index = pd.Index(adata.obs_names, name="sample")
    return pd.DataFrame(_steps.cooks(fit, cohort), index, pd.Index(adata.var_names, name="gene"))
