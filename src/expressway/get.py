"""Tables that an analysis left in an AnnData; each call returns a copy."""

from collections.abc import Mapping
from typing import Any

import anndata
import pandas as pd

from expressway import io
from expressway.models.trend import Trend, stored

from . import _rows, _store


def de(adata: anndata.AnnData, *, key: str = "de") -> pd.DataFrame:
    """Results of the last contrast tested: one row a gene (see `tl.de`)."""
    return _table(adata.varm, key, key).rename_axis("gene")


def shrunken(adata: anndata.AnnData, *, key: str = "de") -> pd.DataFrame:
    """Shrunken fold changes of the last contrast shrunk: one row a gene (see `tl.shrink`)."""
    name = f"{key}_shrunken"
    if key in adata.uns and name not in adata.varm:
        msg = f"nothing is shrunken of the analysis {key!r}; run expressway.tl.shrink first"
        raise io.InputError(msg)
    return _table(adata.varm, name, key).rename_axis("gene")


def genes(adata: anndata.AnnData, *, key: str = "de") -> pd.DataFrame:
    """Quantities on the way: dispersions, Cook's distances, coefficients.

    Columns as in `io.genes_table` and `io.coefficients_table`.
    """
    table = _table(adata.varm, f"{key}_genes", key).rename_axis("gene")
    return pd.concat([table, _store.coefficients(adata, key)], axis=1)


def samples(adata: anndata.AnnData, *, key: str = "de") -> pd.DataFrame:
    """Size factor and library size (sum of counts) of each sample."""
    return _table(adata.obsm, f"{key}_samples", key).rename_axis("sample")


def normalised(adata: anndata.AnnData, *, key: str = "de") -> pd.DataFrame:
    """Counts divided by size factors, samples × genes (see `tl.de`).

    Raises
    ------
    io.InputError
        No analysis is stored there, samples or counts are not there or changed since.
    """
    _, origin = _store.load_fit(adata, key)
    cohort = _rows.cohort(
        adata, origin.coded, origin.layer, _store.log_sizes(adata, key), origin.inputs
    )
    index = pd.Index(adata.obs_names, name="sample")
    return pd.DataFrame(_rows.normalised(cohort), index, pd.Index(adata.var_names, name="gene"))


def trend(adata: anndata.AnnData, *, key: str = "de") -> Trend:
    """Dispersion as a function of the mean: ``.at(mean)``, and what it is made of."""
    if key not in adata.uns:
        msg = f"no analysis is stored under {key!r}; run expressway.tl.de first"
        raise io.InputError(msg)
    return stored(adata.uns[key]["trend"])


def _table(store: Mapping[str, Any], name: str, key: str) -> pd.DataFrame:
    if name not in store:
        msg = f"no analysis is stored under {key!r}; run expressway.tl.de first"
        raise io.InputError(msg)
    return store[name].copy()
