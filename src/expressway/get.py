"""Tables that an analysis left in an AnnData."""

import anndata
import pandas as pd

from expressway import io


def de(adata: anndata.AnnData, *, key: str = "de") -> pd.DataFrame:
    """Results of the last contrast tested: one row a gene (see `tl.de`)."""
    return _table(adata.varm, key, key)


def genes(adata: anndata.AnnData, *, key: str = "de") -> pd.DataFrame:
    """Quantities on the way: dispersions, Cook's distances, coefficients (see io.genes_table)."""
    return _table(adata.varm, f"{key}_genes", key)


def samples(adata: anndata.AnnData, *, key: str = "de") -> pd.DataFrame:
    """Size factor and library size of each sample."""
    return _table(adata.obsm, f"{key}_samples", key)


def _table(store, name: str, key: str) -> pd.DataFrame:
    if name not in store:
        msg = f"no analysis is stored under {key!r}; run expressway.tl.de first"
        raise io.InputError(msg)
    return store[name]
