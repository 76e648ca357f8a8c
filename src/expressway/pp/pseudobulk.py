"""Cells of a sample added up, so that samples can be compared and not cells."""

import logging
from collections.abc import Sequence
from typing import Any

import anndata
import numpy as np
import pandas as pd

from expressway import _rows, io
from expressway._types import Int
from expressway.io.check import Counts
from expressway.io.factors import as_category

logger = logging.getLogger(__name__)

# How many groups a message names.
_NAMED = 5


def pseudobulk(
    adata: anndata.AnnData,
    by: str | Sequence[str],
    *,
    layer: str | None = None,
    min_cells: int = 10,
    min_counts: int = 0,
) -> anndata.AnnData:
    """Samples × genes: counts of the cells of each group added up.

    Cells of one donor are not independent, so tests between donors are of sums over their cells:
    ``pseudobulk(cells, ["donor", "cell_type"])``, then `tl.de` or `tl.de_each`.

    Parameters
    ----------
    adata
        Cells × genes, raw counts: dense or sparse, in memory or on disk. It stays as it is; its
        counts are gone over once, in parts.
    by
        Columns of ``obs``: each combination of their values that has cells is a sample.
    layer
        Layer that holds the counts instead of ``X``.
    min_cells, min_counts
        Groups with fewer cells, or fewer counts in all, are left out: named in a warning and in
        ``uns``.

    Returns
    -------
    AnnData
        ``X``: int64. Samples are named by the values of `by` ("donor1_B cells"), in the order of
        their levels: of categories as they stand, of others as a design orders them. ``obs``: the
        columns of `by`, as categories; every other column that has one value within each group;
        and ``cells``, how many. ``var`` as in ``adata``. ``uns["pseudobulk"]``: by, layer,
        min_cells, min_counts, and left_out, a table of the groups that were, with their cells and
        counts.

    Raises
    ------
    io.InputError
        A column is not there, or a cell has no value in it; there are no counts (negative or not
        whole, say); or no group is left.
    """
    columns = [by] if isinstance(by, str) else list(map(str, by))
    frame = _factors(adata, columns)
    _check_limits(min_cells, min_counts)
    x: Any = _rows.layer_of(adata, layer)
    where = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    if not (isinstance(x, Counts) or io.on_disk(x)):
        msg = f"{where} is {type(x).__name__}; counts must be a NumPy array or a SciPy matrix"
        raise io.InputError(msg)
    group, levels = _groups(frame)
    cells = np.bincount(group, minlength=len(levels))
    enough = cells >= min_cells
    # Sums of what is left out for its cells are made too: how many counts it has is told.
    y = io.sum_rows(x, group, len(levels), adata.var_names, adata.obs_names, where)
    counts = y.sum(axis=1)
    enough &= counts >= min_counts
    names = _names(levels)
    few = ~enough
    left_out = pd.DataFrame({"cells": cells[few], "counts": counts[few]}, index=names[few])
    if not enough.any():
        msg = (
            f"none of the {len(levels):,} groups of {', '.join(columns)} has {min_cells:,} cells "
            f"and {min_counts:,} counts (the largest has {cells.max():,} and {counts.max():,}): "
            "give a smaller min_cells or min_counts, or fewer columns"
        )
        raise io.InputError(msg)
    if len(left_out):
        _tell(left_out, min_cells, min_counts)
    obs = _constant(pd.DataFrame(adata.obs), columns, group, enough)
    obs = pd.concat([levels[enough].reset_index(drop=True), obs], axis=1)
    obs["cells"] = cells[enough]
    obs.index = names[enough]
    for name in columns:
        obs[name] = obs[name].cat.remove_unused_categories()
    about = {
        "by": columns,
        "layer": layer or "",
        "min_cells": min_cells,
        "min_counts": min_counts,
        "left_out": left_out,
    }
    var = pd.DataFrame(adata.var).copy()
    return anndata.AnnData(y[enough], obs=obs, var=var, uns={"pseudobulk": about})


def _factors(adata: anndata.AnnData, columns: Sequence[str]) -> pd.DataFrame:
    """The columns as categories."""
    if not columns or len(set(columns)) < len(columns):
        msg = f"by must name one column of obs or several, each once, but is {list(columns)}"
        raise io.InputError(msg)
    if "cells" in columns:
        msg = "by names the column cells, which the result has for their number; rename it"
        raise io.InputError(msg)
    found = {}
    for name in columns:
        if name not in adata.obs:
            there = ", ".join(map(str, adata.obs)) or "none"
            msg = f"there is no column {name!r} in obs; the columns are {there}"
            raise io.InputError(msg)
        values = pd.Series(adata.obs[name])
        missing = values.isna().to_numpy()
        if missing.any():
            msg = (
                f"cell {adata.obs_names[int(missing.argmax())]} has no value in {name!r} "
                f"({int(missing.sum()):,} such): fill it in or leave these cells out"
            )
            raise io.InputError(msg)
        found[name] = as_category(values)[0]
    return pd.DataFrame(found)


def _check_limits(min_cells: int, min_counts: int) -> None:
    for name, value, least in (("min_cells", min_cells, 1), ("min_counts", min_counts, 0)):
        if value < least:
            msg = f"{name} must be {least} or more, but is {value}"
            raise io.InputError(msg)


def _groups(frame: pd.DataFrame) -> tuple[Int[np.ndarray, "n"], pd.DataFrame]:
    """The group of each cell, and the levels of each group, in their order."""
    codes = np.column_stack([frame[name].cat.codes.to_numpy(np.int64) for name in frame])
    found, group = np.unique(codes, axis=0, return_inverse=True)
    levels = {
        name: pd.Categorical.from_codes(found[:, j], dtype=frame[name].dtype)
        for j, name in enumerate(frame)
    }
    return group.reshape(-1), pd.DataFrame(levels)


def _names(levels: pd.DataFrame) -> pd.Index:
    """A name of each group; one that could be of two has a bar where others have a dash."""
    words = [levels[name].map(_word).astype(str) for name in levels]
    for dash in ("_", " | "):
        names = pd.Index([dash.join(parts) for parts in zip(*words, strict=True)])
        if names.is_unique:
            break
    else:
        names = pd.Index([f"{name} ({i + 1})" for i, name in enumerate(names)])
    return names.rename("sample")


def _word(level: Any) -> str:
    """A level as text; whole numbers without a decimal point."""
    return f"{level:.12g}" if isinstance(level, float) else str(level)


def _constant(
    obs: pd.DataFrame, columns: Sequence[str], group: np.ndarray, enough: np.ndarray
) -> pd.DataFrame:
    """A row a group that is kept: the other columns that have one value, or none, within each."""
    first = np.unique(group, return_index=True)[1]
    kept = {}
    used = enough[group]
    for name in obs.columns.drop([*columns, "cells"], errors="ignore"):
        values = pd.Series(obs[name])
        codes = pd.factorize(values)[0]  # -1 where there is none
        if np.array_equal(codes[used], codes[first][group][used]):
            own = values.iloc[first[enough]].reset_index(drop=True)
            if isinstance(own.dtype, pd.CategoricalDtype):
                own = own.cat.remove_unused_categories()
            kept[name] = own
    return pd.DataFrame(kept, index=range(int(enough.sum())))


def _tell(left_out: pd.DataFrame, min_cells: int, min_counts: int) -> None:
    """Say which groups are not there."""
    named = ", ".join(map(str, left_out.index[:_NAMED]))
    more = f" and {len(left_out) - _NAMED:,} more" if len(left_out) > _NAMED else ""
    few = f"fewer than {min_cells:,} cells"
    few += f" or {min_counts:,} counts" if min_counts else ""
    logger.warning("%s", f"left out, with {few}: {named}{more}")
