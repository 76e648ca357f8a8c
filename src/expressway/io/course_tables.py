"""Tables of a time-course analysis."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from expressway._types import Bool, Float, Int
from expressway.models.clusters import Clusters, HeldOut
from expressway.models.course import Band, Grid
from expressway.models.mixture import Observed, members, terms
from expressway.models.timecourse import Fold, Influence, Left

ERRORS = ("train", "ij", "corrected", "exact", "test")


class Scheme(NamedTuple):
    """Folds of one size, without which curves with one df were clustered."""

    df: int
    leave_out: int
    of: str
    left: Sequence[Left]
    excluded: Sequence[tuple[Fold, float]]
    """Folds whose errors cannot be compared, and the share of information that they leave."""


def _errors(left: Left) -> dict[str, Float[np.ndarray, "_"]]:
    """By kind: the mean error of each gene."""
    return left.error | ({} if left.test is None else {"test": left.test})


def cv_table(schemes: Sequence[Scheme], chosen: int | None) -> pd.DataFrame:
    """One row for each df and number of things left out together: mean errors and standard errors.

    ``train``: clusters of all samples, ``ij``: the jackknife's prediction of them without the fold,
    ``corrected`` by Newton's steps, ``exact``: refitted, ``test``: genes held out. Each is the mean
    over genes of their mean over folds, with the standard error of that mean, genes being
    independent. Only folds that are comparable between all df are in it.
    """
    rows = []
    for scheme in schemes:
        row: dict[str, Any] = {
            "df": scheme.df,
            "leave_out": scheme.leave_out,
            "of": scheme.of,
            "folds": len(scheme.left),
            "not_comparable": len(scheme.excluded),
            "trusted": sum(left.trusted for left in scheme.left),
        }
        for kind in ERRORS:
            each = [_errors(left)[kind] for left in scheme.left if kind in _errors(left)]
            row[kind], row[f"{kind}_se"] = _mean(np.array(each)) if each else (np.nan, np.nan)
        rows.append(row)
    table = pd.DataFrame(rows)
    table["chosen"] = table["df"] == chosen if len(table) else []
    return table


def _mean(errors: Float[np.ndarray, "f g"]) -> tuple[float, float]:
    """Mean over genes of their means over folds, and its standard error."""
    there = np.isfinite(errors)
    number = np.sum(there, axis=0)
    each = np.sum(np.where(there, errors, 0.0), axis=0)[number > 0] / number[number > 0]
    if len(each) < 2:
        return (float(np.mean(each)) if len(each) else np.nan), np.nan
    return float(np.mean(each)), float(np.std(each, ddof=1) / np.sqrt(len(each)))


def folds_table(schemes: Sequence[Scheme]) -> pd.DataFrame:
    """One row a fold: errors, and whether the prediction is to be trusted, and why."""
    rows = []
    for scheme in schemes:
        about = {"df": scheme.df, "leave_out": scheme.leave_out, "of": scheme.of}
        for left in scheme.left:
            errors = {kind: _mean(each[None])[0] for kind, each in _errors(left).items()}
            rows.append(
                about
                | {
                    "left_out": left.fold.name,
                    "comparable": True,
                    "conditioning": left.conditioning,
                    "curvature": left.curvature,
                    "ratio": left.ratio,
                    "trusted": left.trusted,
                }
                | {kind: errors.get(kind, np.nan) for kind in ERRORS}
                | {"note": left.note}
            )
        for fold, eigenvalue in scheme.excluded:
            note = "not compared: with some df too little is left to hold the curve"
            rows.append(
                about
                | {"left_out": fold.name, "comparable": False, "conditioning": eigenvalue}
                | {"trusted": False, "note": note}
            )
    return pd.DataFrame(rows)


def membership_table(
    clusters: Clusters,
    observed: Observed,
    at: Int[np.ndarray, "k"],
    trained: int,
    genes: Sequence[str],
    status: Sequence[str],
) -> pd.DataFrame:
    """One row a gene: its cluster, probabilities, and its distance from the centroid.

    ``distance`` is Mahalanobis's, ``sqrt((x - c)' L (x - c))``: for a gene of the cluster about the
    root of the number of coordinates.

    Parameters
    ----------
    clusters
        Of all samples.
    observed
        Clustered genes, then genes held out.
    at
        Their places among all genes.
    trained
        How many were clustered.
    genes, status
        Of all genes.
    """
    r = members(clusters.mixture, terms(observed)).responsibility
    best = np.argmax(r, axis=1)
    away = observed.estimate - clusters.mixture.centroids[best]
    distance = np.sqrt(np.maximum(np.einsum("gi,gij,gj->g", away, observed.precision, away), 0))
    g, k = len(genes), r.shape[1]
    cluster = np.zeros(g, int)
    cluster[at] = best + 1
    probability, far = np.full((g, k), np.nan), np.full(g, np.nan)
    probability[at], far[at] = r, distance
    used = np.full(g, "", dtype=object)
    used[at[:trained]], used[at[trained:]] = "clustered", "held_out"
    table = pd.DataFrame(
        {
            "status": list(status),
            "used": used,
            "cluster": pd.array(np.where(cluster > 0, cluster, -1), dtype="Int64"),
            "probability": np.where(cluster > 0, np.max(probability, axis=1, initial=0), np.nan),
            "distance": far,
        },
        index=pd.Index(list(genes), name="gene"),
    )
    table.loc[cluster == 0, "cluster"] = pd.NA
    each = {f"p_{j + 1}": probability[:, j] for j in range(k)}
    return pd.concat([table, pd.DataFrame(each, index=table.index)], axis=1)


def curves_table(
    kind: str, names: Sequence[str], group: str, grid: Grid, band: Band
) -> pd.DataFrame:
    """One row for each curve and time: mean and interval."""
    m = len(grid.time)
    return pd.DataFrame(
        {
            "kind": kind,
            "name": np.repeat(np.array(list(names), dtype=object), m),
            "group": group,
            "time": np.tile(grid.time, len(names)),
            "indicator": np.tile(grid.indicator, len(names)),
            "mean": band.mean.ravel(),
            "lower": band.lower.ravel(),
            "upper": band.upper.ravel(),
        }
    )


def shifts_table(told: Mapping[str, Sequence[Influence]]) -> pd.DataFrame:
    """One row for each time or sample and cluster: how far leaving it out would move the cluster.

    ``shift``: root mean square over the samples of the change of the centroid's curve;
    ``weight_change``: of the cluster's share of the genes; ``genes_leaving`` it. All predicted.
    """
    rows = [
        {
            "kind": kind,
            "left_out": one.fold.name,
            "cluster": cluster + 1,
            "shift": one.shift[cluster],
            "weight_change": one.weight[cluster],
            "genes_leaving": int(one.moved[cluster]),
        }
        for kind, each in told.items()
        for one in each
        for cluster in range(len(one.shift))
    ]
    return pd.DataFrame(rows)


def selection_table(told: Sequence[HeldOut], chosen: int | None) -> pd.DataFrame:
    """One row a number of clusters: mean log-likelihood of genes, and of genes left out.

    Up to a constant of the data. ``ij``: each gene without itself, predicted; ``exact``: by
    five-fold refits. With standard errors over genes.
    """
    rows = []
    for one in told:
        row: dict[str, Any] = {"clusters": one.clusters}
        for name, each in (("train", one.train), ("ij", one.predicted), ("exact", one.exact)):
            row[name], row[f"{name}_se"] = (np.nan, np.nan) if each is None else _mean(each[None])
        rows.append(row)
    table = pd.DataFrame(rows)
    table["chosen"] = table["clusters"] == chosen if len(table) else []
    return table


def starts_table(clusters: Mapping[int, Clusters]) -> pd.DataFrame:
    """One row a start, for each df: its seed and where it ended."""
    return pd.DataFrame(
        [{"df": df, **start._asdict()} for df, found in clusters.items() for start in found.starts],
        columns=pd.Index(["df", "seed", "after_ascent", "objective", "note"]),
    )


def values_table(
    values: Float[np.ndarray, "g m"],
    names: Sequence[str],
    group: Sequence[str],
    time: Float[np.ndarray, "m"],
    seen: Bool[np.ndarray, "g m"],
) -> pd.DataFrame:
    """One row a value: name, group, time, value; missing ones are not in it."""
    g, m = values.shape
    table = pd.DataFrame(
        {
            "name": np.repeat(np.array(list(names), dtype=object), m),
            "group": np.tile(np.array(list(group), dtype=object), g),
            "time": np.tile(time, g),
            "value": values.ravel(),
        }
    )
    return pd.DataFrame(table[seen.ravel()]).reset_index(drop=True)


def packed(table: pd.DataFrame) -> dict[str, Any]:
    """A table as JSON can hold it, to the last digit."""
    columns = [[str(each), str(table[each].dtype), table[each].tolist()] for each in table]
    return {"index": table.index.tolist(), "name": table.index.name, "columns": columns}


def unpacked(given: Mapping[str, Any]) -> pd.DataFrame:
    """The table that was `packed`."""
    index = pd.Index(given["index"], name=given["name"])
    found = {name: pd.Series(values, index, dtype) for name, dtype, values in given["columns"]}
    return pd.DataFrame(found, index=index)
