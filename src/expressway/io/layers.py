"""Matrices of genes × samples, and lists of genes, from files beside the counts."""

from collections.abc import Sequence
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from expressway._errors import InputError
from expressway._types import Bool, Float

from .check import as_expression, check_labels, some
from .read import read_sheet


def read_layer(path: str | Path, adata: ad.AnnData) -> Float[np.ndarray, "n g"]:
    """Numbers of a file as samples × genes, in the order of an AnnData.

    Which axis is samples is found by the names. Genes and samples that the AnnData lacks are left
    out. The matrix is dense, eight bytes an entry, and so is what the file holds beyond it.

    Parameters
    ----------
    path
        Delimited text with labels in its first row and column (.csv, .tsv, gzipped or not), or
        ``.mtx`` with its labels beside it.
    adata
        Samples × genes.

    Raises
    ------
    InputError
        The file cannot be read or holds what is no finite number, neither axis carries the names of
        the samples, or a sample or gene of the AnnData is not in it.
    """
    path = Path(path)
    values, rows, columns = read_sheet(path)
    if rows.isin(adata.obs_names).sum() < columns.isin(adata.obs_names).sum():
        values, rows, columns = values.T, columns, rows
    for kind, wanted, found in (
        ("sample", adata.obs_names, rows),
        ("gene", adata.var_names, columns),
    ):
        missing = wanted.difference(found, sort=False)
        if len(missing):
            message = (
                f"{path}: {len(missing)} of the {len(wanted)} {kind}s are not in it "
                f"({some(missing)}; it has {some(found)}); give a row and a column for each"
            )
            raise InputError(message)
    check_labels(columns, rows, str(path))
    values = values[rows.get_indexer(adata.obs_names)][:, columns.get_indexer(adata.var_names)]
    numbers = as_expression(values, adata.var_names, adata.obs_names, str(path))
    dense = numbers if isinstance(numbers, np.ndarray) else numbers.toarray()
    bad = np.argwhere(np.isnan(dense))
    if len(bad):
        gene, sample = adata.var_names[bad[0][1]], adata.obs_names[bad[0][0]]
        message = (
            f"{path}: gene {gene}, sample {sample}: a number is missing ({len(bad)} such); every "
            "gene and sample of the counts needs one"
        )
        raise InputError(message)
    return dense


def read_genes(path: str | Path) -> list[str]:
    """Names of genes in a file: one gene a line; empty lines are left out.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    path = Path(path)
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        message = f"{path}: cannot be read as text, one gene a line: {error}"
        raise InputError(message) from error
    return [line.strip() for line in lines if line.strip()]


def among(genes: Sequence[str], adata: ad.AnnData, path: str | Path) -> Bool[np.ndarray, "g"]:
    """Which genes of an AnnData are among some.

    Parameters
    ----------
    path
        The file that names them.

    Raises
    ------
    InputError
        There are none, or one that the AnnData lacks.
    """
    names = pd.Index(list(genes), dtype=object)
    missing = names.difference(adata.var_names, sort=False)
    if not len(names) or len(missing):
        what = f"{len(missing)} of its {len(names)} genes are not in the counts ({some(missing)})"
        message = (
            f"{path}: {what if len(names) else 'no gene'}; name genes of the counts, one a line"
        )
        raise InputError(message)
    return adata.var_names.isin(names)
