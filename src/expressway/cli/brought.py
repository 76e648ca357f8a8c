"""What files bring beside counts and design, put into an AnnData."""

from pathlib import Path

import anndata

from expressway import io

from .asked import Brought

# Names of the columns and layers that files become.
_CONTROLS, _OFFSETS, _WEIGHTS = "control genes", "offsets", "weights"


def named(brought: Brought) -> io.Inputs:
    """Where `bring` puts them."""
    return io.Inputs(
        size_factors=brought.size_factors,
        control_genes=None if brought.control_genes is None else _CONTROLS,
        offsets=None if brought.offsets is None else _OFFSETS,
        precision=None if brought.weights is None else _WEIGHTS,
    )


def bring(adata: anndata.AnnData, brought: Brought, folder: Path | None = None) -> None:
    """Read the files into the AnnData; matrices of a site are in its own folder.

    Raises
    ------
    InputError
        A file cannot be read, or lacks a gene or sample.
    """
    if brought.control_genes is not None:
        path = brought.control_genes
        adata.var[_CONTROLS] = io.among(io.read_genes(path), adata, path)
    for path, layer in ((brought.offsets, _OFFSETS), (brought.weights, _WEIGHTS)):
        if path is not None:
            adata.layers[layer] = io.read_layer(folder / path if folder else path, adata)
