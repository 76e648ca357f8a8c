"""Differential expression within each group of samples: for each cell type, say."""

import logging
from typing import Any, NamedTuple, cast

import anndata
import numpy as np
import pandas as pd

from expressway import io
from expressway.io.contrast import ContrastSpec
from expressway.io.factors import as_category

from .de import de

logger = logging.getLogger(__name__)


class Each(NamedTuple):
    """What was found within each group, and where nothing could be."""

    results: pd.DataFrame
    """A row a gene and group that was analysed, group by group: index gene; first the column that
    the groups are of, then the columns of `de`."""
    groups: pd.DataFrame
    """A row a group: samples; tested (genes with an adjusted p-value), up and down (of those,
    below alpha); why it was not analysed, and doubts about the analysis, empty where there are
    none."""


def de_each(
    adata: anndata.AnnData,
    by: str,
    design: str,
    contrast: ContrastSpec | None = None,
    *,
    key: str = "de_each",
    **options: Any,
) -> Each:
    """Tables of differential expression within each group of samples, each an analysis of its own.

    Size factors, dispersions and their trend are those of a group's own samples, and p-values are
    adjusted among the genes of one group: the false-discovery rate holds within each group. For
    cells, add up those of a sample first::

        bulk = ew.pp.pseudobulk(cells, ["donor", "cell_type"])
        found = ew.tl.de_each(bulk, "cell_type", "~ condition", ("condition", "treated", "control"))

    Parameters
    ----------
    adata
        Samples × genes, raw counts. ``uns[key]`` gets by, design, contrast, settings, results and
        groups.
    by
        Column of ``obs``. Groups come in the order of its levels.
    design, contrast
        As for `de`, of the samples of one group: `by` itself is constant there.
    key
        Name under which results are stored.
    **options
        Passed on to `de`.

    Returns
    -------
    Each
        ``results`` and ``groups``. A group that `de` refuses (too few samples, a level missing, a
        design that is not of full rank) has the reason in ``groups["why"]`` and does not stop the
        others.

    Raises
    ------
    io.InputError
        There is no such column, or a sample has no value in it; or no group can be analysed.
    """
    labels = _labels(adata, by)
    tables, rows, about = [], [], {}
    for level in labels.cat.categories:
        part = _part(adata, np.flatnonzero((labels == level).to_numpy()))
        try:
            table = de(part, design, contrast, key="de", **options)
        except io.InputError as error:
            logger.warning("%s %s is not analysed: %s", by, level, error)
            rows.append({"samples": part.n_obs, "why": str(error)})
            continue
        stored: dict[str, Any] = part.uns["de"]
        about = {name: stored[name] for name in ("design", "contrast", "settings")}
        tables.append(_named(table, by, level, labels))
        rows.append(_row(part, table))
    groups = _groups(rows, labels)
    if not tables:
        msg = (
            f"none of the {len(groups)} groups of {by} can be analysed; of "
            f"{groups.index[0]}: {groups['why'].iloc[0]}"
        )
        raise io.InputError(msg)
    results = pd.concat(tables)
    adata.uns[key] = {"by": by, **about, "results": results.copy(), "groups": groups.copy()}
    return Each(results, groups)


def _labels(adata: anndata.AnnData, by: str) -> pd.Series:
    """The group of each sample, as categories."""
    if by not in adata.obs:
        msg = f"there is no column {by!r} in obs; the columns are {', '.join(map(str, adata.obs))}"
        raise io.InputError(msg)
    values = pd.Series(adata.obs[by])
    if values.isna().any():
        msg = f"sample {adata.obs_names[int(values.isna().argmax())]} has no value in {by!r}"
        raise io.InputError(msg)
    return as_category(values)[0]


def _part(adata: anndata.AnnData, rows: np.ndarray) -> anndata.AnnData:
    """Some of the samples, in memory, without what earlier analyses stored of the others."""
    part, x = adata[rows], cast("Any", adata.X)
    if x is not None:
        x = x[rows] if io.on_disk(x) else cast("Any", part.X).copy()
    return anndata.AnnData(
        X=x,
        obs=pd.DataFrame(part.obs).copy(),
        var=pd.DataFrame(adata.var).copy(),
        layers={name: part.layers[name].copy() for name in adata.layers},
    )


def _named(table: pd.DataFrame, by: str, level: Any, labels: pd.Series) -> pd.DataFrame:
    """The table of a group with the group's column before it."""
    column = pd.Categorical([level] * len(table), categories=labels.cat.categories)
    found = table.copy()
    found.insert(0, by, column)
    return found


def _row(part: anndata.AnnData, table: pd.DataFrame) -> dict[str, Any]:
    """What is told of a group that was analysed."""
    stored: dict[str, Any] = part.uns["de"]
    called = table["p_adj"] < stored["settings"]["alpha"]
    change = table["log2_fold_change"]
    return {
        "samples": part.n_obs,
        "tested": int(table["p_adj"].notna().sum()),
        "up": int((called & (change > 0)).sum()),
        "down": int((called & (change < 0)).sum()),
        "why": "",
        "doubts": "; ".join(map(str, stored["warnings"])),
    }


def _groups(rows: list[dict[str, Any]], labels: pd.Series) -> pd.DataFrame:
    """A row a group; numbers of those that were not analysed are 0."""
    index = pd.Index(labels.cat.categories.map(str), name=labels.name)
    columns = {"samples": 0, "tested": 0, "up": 0, "down": 0, "why": "", "doubts": ""}
    return pd.DataFrame([columns | row for row in rows], index=index)
