"""The clusters figure: mean curves of clusters over the curves of their genes."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from expressway._types import Float

from . import _lines, _panels, _time

# Curves of genes in a panel.
_DRAWN = 200
_COLUMNS = 5
# Inches, by columns.
_WIDTH = {1: 4.2, 2: 5.8, 3: _panels.PAGE, 4: _panels.PAGE, 5: _panels.PAGE}
_HEIGHT = {1: 3.2, 2: 2.2, 3: 1.7, 4: 1.35, 5: 1.1}
# Share of the members' values that the axis need not show, at either end.
_BEYOND = 0.02


class _Members(NamedTuple):
    """Genes of the clusters, as numbers, one a row of the table."""

    cluster: np.ndarray
    gene: np.ndarray
    table: pd.DataFrame

    def size(self, cluster: int) -> int:
        """Return how many genes a cluster has."""
        return len(np.unique(self.gene[self.cluster == cluster]))

    def some(self, cluster: int) -> pd.DataFrame:
        """Return the rows of a cluster's genes, evenly chosen if they are many."""
        here = np.flatnonzero(self.cluster == cluster)
        genes = np.unique(self.gene[here])  # numbered in the table's order
        if len(genes) > _DRAWN:
            genes = genes[np.linspace(0, len(genes) - 1, _DRAWN).round().astype(int)]
            here = here[np.isin(self.gene[here], genes)]
        return self.table.take(here)


def clusters(
    curves: pd.DataFrame,
    members: pd.DataFrame,
    *,
    times: Iterable[float | int] | None = None,
    sizes: Mapping[str, int] | None = None,
    ylabel: str = "centred expression",
    xlabel: str = "time",
    share_y: bool = True,
    shorten_gaps: bool = True,
) -> np.ndarray:
    """Array of Axes, one a cluster, the largest first: its curve and interval over its genes'.

    At most 200 genes are drawn in a panel, chosen evenly in the table's order; the title counts
    all. An axis of values shows the clusters' curves and all but 4 % of the members' values, and
    intervals as far as they go beyond those by no more than their range.

    Parameters
    ----------
    curves
        Columns name (number of the cluster), group, time, mean, lower, upper; and, if there are
        isolated estimates, indicator: True for those, which are drawn as hollow points with error
        bars and joined to nothing.
    members
        Fitted curves of the genes: columns name (number of the cluster), gene, group, time, value.
    times
        Of the samples, by default those of members.
    sizes
        How many genes each cluster has, where not all are among the members.
    ylabel
        Title of the axes of values, with their unit.
    xlabel
        Title of the axes of time, with its unit.
    share_y
        One axis of values for all panels.
    shorten_gaps
        Draw stretches without samples that are longer than three times the median one as if they
        were just that long, marked by two strokes in the axis, where that saves a quarter of it.

    Raises
    ------
    ValueError
        A column is missing, there is no cluster, or members are of a cluster without a curve.
    """
    _panels.check(curves, "curves", "name", "group", "time", "mean", "lower", "upper")
    _panels.check(members, "members", "name", "gene", "group", "time", "value")
    names = _panels.distinct(curves, "name")
    found = _Members(
        pd.Index(names, dtype=object).get_indexer(pd.Index(members["name"].to_numpy(dtype=object))),
        pd.factorize(members["gene"])[0],
        members,
    )
    lost = dict.fromkeys(map(str, members["name"].to_numpy(dtype=object)[found.cluster < 0]))
    if not names or lost:
        message = (
            f"the table of curves has none of cluster {', '.join(lost) or 'any'}; it needs one of "
            "each cluster that members are of. Pass the rows of the same clusters in both tables."
        )
        raise ValueError(message)

    counted = [found.size(i) if sizes is None else sizes[str(n)] for i, n in enumerate(names)]
    order = np.argsort(-np.array(counted), kind="stable")
    columns = _panels.columns_for(len(names), _COLUMNS)
    size = (_WIDTH[columns], -(-len(names) // columns) * _HEIGHT[columns] + 0.6)
    panels = _panels.grid(len(names), columns, size, same_y=share_y)
    styles = _lines.groups(curves, members)
    alone = _lines.lone_times(curves)
    spans = []
    for ax, i in zip(panels, order, strict=True):
        rows = found.some(int(i))
        mine = _panels.where(curves, "name", names[i])
        for j, (group, style) in enumerate(styles.items()):
            transform = _panels.dodged(ax, j, len(styles))
            faint = _lines.Faint(
                style.colour if len(styles) > 1 else "#777777",
                float(np.clip(10 / max(counted[i], 1), 0.12, 0.5)),
            )
            one = _panels.where(rows, "group", group)
            _lines.faint(ax, one, "gene", alone=alone, style=faint, transform=transform)
            _lines.estimate(ax, _panels.where(mine, "group", group), style, transform)
        _lines.zero(ax)
        genes = f"{counted[i]:,} gene" + ("s" if counted[i] != 1 else "")
        _panels.title(ax, f"cluster {names[i]}: {genes}", size[0] / columns - _taken(share_y))
        spans.append(_span(mine, rows))
        ax.locator_params(axis="y", nbins=5)
    for ax, span in zip(panels, spans, strict=True):
        every = np.concatenate(spans) if share_y else span
        _lines.limits(ax, np.array([every.min(), every.max()]))
    shown = np.concatenate([_panels.number(curves, "time"), _panels.number(members, "time")])
    known = _panels.number(members, "time") if times is None else np.array(list(times), dtype=float)
    _time.axis(panels, known, shown, shorten=shorten_gaps)
    _panels.axis_titles(panels[0], xlabel, ylabel)
    if len(styles) > 1:
        keys = [_panels.key(s, str(group), marker=False) for group, s in styles.items()]
        _panels.legend(panels[0], keys)
    return _panels.array(panels)


def _taken(share_y: bool) -> float:
    """Return the inches of a column that are not its panel's."""
    return 0.2 if share_y else 0.5


def _span(curves: pd.DataFrame, members: pd.DataFrame) -> Float[np.ndarray, "2"]:
    """Return the lowest and the largest value of a cluster to show."""
    value = _panels.number(members, "value")
    value = value[np.isfinite(value)]
    ends = np.quantile(value, [_BEYOND, 1 - _BEYOND]) if len(value) else np.array([])
    lower, upper = (_panels.number(curves, name) for name in ("lower", "upper"))
    inner = np.concatenate([ends, _panels.number(curves, "mean")])
    return _lines.span(inner, np.concatenate([lower, upper]))
