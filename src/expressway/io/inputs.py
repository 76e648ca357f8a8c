"""What a user brings beside counts and design, by its names in an AnnData."""

from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd

from expressway._errors import InputError
from expressway._types import Bool, Float, Int
from expressway.core.cohort import Samples
from expressway.models.deseq import Given, Settings

from .load import on_disk


class Inputs(NamedTuple):
    """Names of what an analysis is given beside counts and design; nothing when not given."""

    size_factors: str | None = None
    """Column of ``obs``: the samples' size factors, which are then not estimated."""
    control_genes: str | None = None
    """Column of ``var``, true or false: the genes of which size factors are made."""
    offsets: str | None = None
    """Layer of positive numbers by which counts are divided beside size factors: average lengths of
    transcripts (tximport), or any matrix of normalisation. The size of a gene's row is of no
    consequence."""
    precision: str | None = None
    """Layer of observation weights, 0 or more; each gene's are divided by its largest."""


NOTHING = Inputs()


def chosen(settings: Settings, inputs: Inputs) -> Settings:
    """The settings that go with inputs: size factors in a column are given ones.

    Raises
    ------
    InputError
        Size factors are to be given and no column is named, or are named and to be estimated in
        another way than the default one; or iteration or given ones come with what they do not
        take.
    """
    method, column = settings.size_factors, inputs.size_factors
    if column is None and method == "given":
        message = (
            "size factors are to be given, but no column is named; name the column of obs "
            "(Python: tl.Inputs(size_factors='column'); --size-factors-column)"
        )
    elif column is not None and method in ("iterate", "poscounts"):
        message = (
            f"size factors are in column {column!r} and to be estimated by {method}; give one of "
            "the two"
        )
    elif column is not None and inputs.control_genes is not None:
        message = (
            f"size factors are in column {column!r}, so control genes have no use; give one of "
            "the two"
        )
    elif method == "iterate" and any(inputs):
        named = next(name for name in inputs if name is not None)
        message = (
            f"size factors by iteration take no {named!r}: leave it out, or take size factors "
            "ratio or poscounts"
        )
    else:
        return settings if column is None else settings._replace(size_factors="given")
    raise InputError(message)


def check_inputs(adata: anndata.AnnData, inputs: Inputs, owner: str = "adata") -> None:
    """Refuse names of what is not there or has not the values it needs; layers are not read.

    Parameters
    ----------
    owner
        What messages call the AnnData.

    Raises
    ------
    InputError
        See `rows_with` and `given`; values of layers are looked at there only.
    """
    _size_factors(adata, inputs, owner)
    control_genes(adata, inputs, owner)
    for name in (inputs.offsets, inputs.precision):
        if name is not None and name not in adata.layers:
            message = f"{owner} has no layer {name!r}; its layers are {_listed(adata.layers)}"
            raise InputError(message)


def control_genes(
    adata: anndata.AnnData, inputs: Inputs, owner: str = "adata"
) -> Bool[np.ndarray, "g"] | None:
    """Which genes are control genes; None when not given.

    Raises
    ------
    InputError
        There is no such column, it holds other values than true and false, or no gene is one.
    """
    name = inputs.control_genes
    if name is None:
        return None
    if name not in adata.var:
        message = f"{owner}.var has no column {name!r}; its columns are {_listed(adata.var)}"
        raise InputError(message)
    values = pd.Series(adata.var[name])
    if not values.isin([True, False]).all():
        gene = adata.var_names[int((~values.isin([True, False])).to_numpy().argmax())]
        message = (
            f"{owner}.var[{name!r}] must be true for control genes and false for others, but is "
            f"{values[gene]!r} for gene {gene}"
        )
        raise InputError(message)
    found = values.astype(bool).to_numpy()
    if not found.any():
        message = f"{owner}.var[{name!r}] names no control gene; at least one is needed"
        raise InputError(message)
    return found


def given(adata: anndata.AnnData, inputs: Inputs) -> Given:
    """What `models.deseq.fit` is to know of the inputs."""
    found = control_genes(adata, inputs)
    return Given(
        controls=None if found is None else np.flatnonzero(found),
        offsets=inputs.offsets is not None,
        weighted=inputs.precision is not None,
    )


def rows_with(
    rows: Samples, adata: anndata.AnnData, inputs: Inputs, owner: str = "adata", *, alone: bool
) -> Samples:
    """Rows with the offsets and weights that an AnnData brings; size factors are not estimated yet.

    Matrices on disk or sparse are made dense: eight bytes an entry.

    Parameters
    ----------
    rows
        Of the AnnData's samples and genes.
    alone
        Whether these are all samples, so that weights can be divided by their largest.

    Raises
    ------
    InputError
        A column or layer is not there, or has a value that it must not have, with gene and sample.
    """
    check_inputs(adata, inputs, owner)
    sizes = _size_factors(adata, inputs, owner)
    if sizes is not None:
        rows = rows._replace(offset=np.log(sizes)[:, None])
    if inputs.offsets is not None:
        lengths = _layer(adata, inputs.offsets)
        bad = ~((lengths > 0) & np.isfinite(lengths))
        _refuse(bad, lengths, adata, f"{owner}.layers[{inputs.offsets!r}]", "above 0")
        rows = rows._replace(offset=rows.offset + np.log(lengths))
    if inputs.precision is not None:
        weights = _layer(adata, inputs.precision)
        bad = ~((weights >= 0) & np.isfinite(weights))
        _refuse(bad, weights, adata, f"{owner}.layers[{inputs.precision!r}]", "0 or more")
        rows = rows._replace(precision=scaled(weights) if alone else weights)
    return rows


def scaled(weights: Float[np.ndarray, "n g"]) -> Float[np.ndarray, "n g"]:
    """Weights divided by each gene's largest; those of a gene without any stay 0."""
    largest = np.max(weights, axis=0, initial=0.0)
    return weights / np.where(largest > 0, largest, 1.0)


def log_offsets(adata: anndata.AnnData, inputs: Inputs) -> Float[np.ndarray, "n #g"]:
    """Logarithms of the matrix of normalisation, of mean 0 in every gene; 0 where there is none."""
    if inputs.offsets is None:
        return np.zeros((adata.n_obs, 1))
    log = np.log(_layer(adata, inputs.offsets))
    return log - np.mean(log, axis=0)


def _size_factors(
    adata: anndata.AnnData, inputs: Inputs, owner: str
) -> Float[np.ndarray, "n"] | None:
    """Size factors of a column."""
    name = inputs.size_factors
    if name is None:
        return None
    if name not in adata.obs:
        message = f"{owner}.obs has no column {name!r}; its columns are {_listed(adata.obs)}"
        raise InputError(message)
    column = pd.Series(adata.obs[name]).astype(object)
    sizes = np.asarray(pd.to_numeric(column, errors="coerce"), dtype=float)
    bad = np.flatnonzero(~((sizes > 0) & np.isfinite(sizes)))
    if len(bad):
        sample = adata.obs_names[bad[0]]
        message = (
            f"{owner}.obs[{name!r}]: the size factor of sample {sample} is "
            f"{adata.obs[name].iloc[bad[0]]!r} ({len(bad)} such); size factors must be above 0"
        )
        raise InputError(message)
    return sizes


def _layer(adata: anndata.AnnData, name: str) -> Float[np.ndarray, "n g"]:
    """A layer as an array."""
    x: Any = adata.layers[name]
    if on_disk(x):
        x = x[:]
    return np.asarray(x if isinstance(x, np.ndarray) else x.toarray(), float)


def _refuse(
    bad: Bool[np.ndarray, "n g"],
    values: Float[np.ndarray, "n g"],
    adata: anndata.AnnData,
    where: str,
    needed: str,
) -> None:
    """Refuse values of a layer, by gene and sample."""
    if not bad.any():
        return
    at: Int[np.ndarray, 2] = np.argwhere(bad)[0]
    gene, sample = adata.var_names[at[1]], adata.obs_names[at[0]]
    message = (
        f"{where}: gene {gene}, sample {sample}: {values[at[0], at[1]]:g} ({bad.sum()} such); "
        f"every value must be finite and {needed}"
    )
    raise InputError(message)


def _listed(names: Any) -> str:
    return ", ".join(map(str, names)) or "none"
