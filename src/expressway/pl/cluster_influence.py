"""The cluster influence figure: how far clusters move without each time or sample."""

from collections.abc import Hashable

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from expressway._types import Float

from . import _maps, _panels, _style


def cluster_influence(
    table: pd.DataFrame,
    *,
    kind: str = "time",
    label: str = "shift",
    ax: Axes | None = None,
) -> Axes:
    """Axes with a map of the shifts of clusters (rows) without each time or sample (columns).

    Shifts of both signs have colours about a white zero. A few shifts that are more than three
    times as large as all others have the last colour of the bar, which then says how large the
    largest is. What the table lacks is grey. Columns are in the order of the table, times in
    theirs.

    Parameters
    ----------
    table
        Columns kind (``"time"`` or ``"sample"``), left_out (its name), cluster (number), shift.
    kind
        Of the rows to show.
    label
        Title of the bar of colours, with the unit of the shifts.
    ax
        Where to draw; by default a figure of its own.

    Raises
    ------
    ValueError
        A column is missing, no row is of this kind, or two are of the same left-out and cluster.
    """
    _panels.check(table, "influence", "kind", "left_out", "cluster", "shift")
    rows = _panels.where(table, "kind", kind)
    if rows.empty:
        message = (
            f"no row of the table of influence is of kind {kind!r}; there are "
            f"{', '.join(map(repr, map(str, _panels.distinct(table, 'kind')))) or 'none'}. "
            "Name one of these."
        )
        raise ValueError(message)
    if (twice := rows.duplicated(["left_out", "cluster"])).any():
        first = rows[twice].iloc[0]
        message = (
            f"several shifts of cluster {first['cluster']} without {first['left_out']}; the table "
            "of influence needs one row each. Select one analysis."
        )
        raise ValueError(message)

    left, clusters = _sorted(rows, "left_out"), _sorted(rows, "cluster")
    shift = _matrix(rows, left, clusters)
    ax = _maps.axes(ax, clusters, left)
    _style.titles(ax, f"{kind} left out", "cluster")
    _maps.cells(ax, shift, label)
    return ax


def _sorted(table: pd.DataFrame, name: str) -> list[Hashable]:
    """Return the distinct values of a column, in order if they are numbers."""
    values = _panels.distinct(table, name)
    try:
        return sorted(values, key=lambda value: float(str(value)))
    except ValueError:
        return values


def _matrix(
    rows: pd.DataFrame, left: list[Hashable], clusters: list[Hashable]
) -> Float[np.ndarray, "k m"]:
    """Return the shifts, NaN where there is none."""
    shift = np.full((len(clusters), len(left)), np.nan)
    row = {cluster: i for i, cluster in enumerate(clusters)}
    column = {name: j for j, name in enumerate(left)}
    for cluster, name, value in zip(
        rows["cluster"], rows["left_out"], _panels.number(rows, "shift"), strict=True
    ):
        shift[row[cluster], column[name]] = value
    return shift
