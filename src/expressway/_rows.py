"""What an AnnData holds, checked, as the rows of an analysis."""

from typing import Any

import anndata
import numpy as np
import pandas as pd

from expressway import io
from expressway._types import Float
from expressway.core.cohort import Pooled, samples
from expressway.core.sparse import Sparse, library_size, rows_of_table
from expressway.io.check import Counts
from expressway.io.design import Design


def labels(adata: anndata.AnnData, column: str | None) -> np.ndarray | None:
    """A column of ``obs`` as texts.

    Raises
    ------
    InputError
        There is no such column, or a sample has no value in it.
    """
    if column is None:
        return None
    if column not in adata.obs:
        msg = f"there is no column {column!r}; the columns are {', '.join(map(str, adata.obs))}"
        raise io.InputError(msg)
    values = pd.Series(adata.obs[column])
    if values.isna().any():
        msg = f"sample {adata.obs_names[int(values.isna().argmax())]} has no value in {column!r}"
        raise io.InputError(msg)
    return values.astype(str).to_numpy(dtype=str)


def layer_of(adata: anndata.AnnData, layer: str | None) -> Any:
    """X, or a layer.

    Raises
    ------
    InputError
        There is no such layer.
    """
    if layer is not None and layer not in adata.layers:
        msg = f"there is no layer {layer!r}; the layers are {', '.join(adata.layers) or 'none'}"
        raise io.InputError(msg)
    return adata.X if layer is None else adata.layers[layer]


def expression(adata: anndata.AnnData, layer: str | None) -> Float[np.ndarray, "n g"]:
    """Values of X, or of a layer; missing ones are NaN.

    Raises
    ------
    InputError
        There is no such layer, or X is empty.
    """
    x = layer_of(adata, layer)
    if x is None:
        msg = f"X is empty; name one of the layers: {', '.join(adata.layers) or 'there are none'}"
        raise io.InputError(msg)
    return np.asarray(x if isinstance(x, np.ndarray) else x.toarray(), float)


def counts(
    adata: anndata.AnnData, layer: str | None, owner: str = "adata", memory: float = np.inf
) -> np.ndarray | Sparse:
    """Checked counts, samples × genes, of an AnnData that messages call its owner.

    Parameters
    ----------
    memory
        Bytes that the process may take, of which a fit needs some, too.

    Raises
    ------
    InputError
        They are no counts, or a sample has none.
    """
    name = f"{owner}.X" if layer is None else f"{owner}.layers[{layer!r}]"
    x = layer_of(adata, layer)
    if not (isinstance(x, Counts) or io.on_disk(x)):
        msg = (
            f"{name} is {type(x).__name__}; counts must be a NumPy array or a SciPy matrix, "
            "in memory or on disk (h5ad, zarr)"
        )
        raise io.InputError(msg)
    y = io.by_gene(x, adata.var_names, adata.obs_names, name, _free(memory))
    empty = np.flatnonzero(library_size(y) == 0)
    if 0 < len(empty) < adata.n_obs:
        msg = (
            f"{name}: sample {adata.obs_names[empty[0]]} has no counts ({len(empty)} such): "
            "leave it out"
        )
        raise io.InputError(msg)
    return y


def _free(memory: float) -> float:
    """Bytes left for counts, of all that the process may take; none where the rest takes all."""
    taken = io.resident_memory()
    return np.inf if taken is None else max(memory - taken - io.WORKING, 0.0)


def cohort(
    adata: anndata.AnnData,
    coded: Design,
    layer: str | None,
    log_sizes: np.ndarray,
    inputs: io.Inputs,
) -> Pooled:
    """The rows that an analysis was fitted to, with the offsets and weights it was given.

    Raises
    ------
    InputError
        As for `counts` and `io.rows_with`.
    """
    rows = samples(counts(adata, layer), coded.matrix)
    rows = io.rows_with(rows, adata, inputs, alone=True)
    return Pooled(rows._replace(offset=io.log_offsets(adata, inputs) + log_sizes[:, None]))


def log_sizes(
    adata: anndata.AnnData, offset: Float[np.ndarray, "n #g"], inputs: io.Inputs
) -> Float[np.ndarray, "n"]:
    """Log size factors in the offsets of fitted rows: what a matrix of normalisation leaves."""
    return offset[:, 0] - io.log_offsets(adata[:, :1], inputs)[:, 0]


def normalised(cohort: Pooled) -> Float[np.ndarray, "n g"]:
    """Counts divided by size factors."""
    rows = cohort.rows
    counts = np.asarray(rows_of_table(rows.y, 0, len(rows.weight)), float)
    return counts * np.exp(-np.asarray(rows.offset))
