"""The curves figure: fitted curves of genes over their samples."""

from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from expressway._types import Float

from . import _lines, _panels, _time

MOST = 12
# Inches: a figure of so many columns, and the height of a panel.
_WIDTH = {1: 4.2, 2: 5.8, 3: _panels.PAGE, 4: _panels.PAGE}
_HEIGHT = {1: 3.2, 2: 2.2, 3: 1.9, 4: 1.6}


class _Gene(NamedTuple):
    curves: pd.DataFrame
    points: pd.DataFrame
    draws: pd.DataFrame | None


def curves(
    curves: pd.DataFrame,
    points: pd.DataFrame,
    draws: pd.DataFrame | None = None,
    *,
    ylabel: str = "expression",
    xlabel: str = "time",
    shorten_gaps: bool = True,
) -> np.ndarray:
    """Array of Axes, one a gene in the order of the table: its curves, intervals and samples.

    Groups have colours of their own; marks at the same time stand side by side, a point or two
    from it. An axis of values covers means and samples, and intervals and draws as far as they go
    beyond those by no more than their range.

    Parameters
    ----------
    curves
        Columns name (of the gene), group, time, mean, lower, upper; and, if there are isolated
        estimates, indicator: True for those, which are drawn as hollow points with error bars
        and joined to nothing.
    points
        Samples: columns name, group, time, value.
    draws
        Curves from the posterior, drawn thin: columns name, group, draw, time, value.
    ylabel
        Title of the axes of values, with their unit.
    xlabel
        Title of the axes of time, with its unit.
    shorten_gaps
        Draw stretches without samples that are longer than three times the median one as if they
        were just that long, marked by two strokes in the axis, where that saves a quarter of it.

    Raises
    ------
    ValueError
        A column is missing, or there is no gene, or there are more than twelve.
    """
    _panels.check(curves, "curves", "name", "group", "time", "mean", "lower", "upper")
    _panels.check(points, "points", "name", "group", "time", "value")
    if draws is not None:
        _panels.check(draws, "draws", "name", "group", "draw", "time", "value")
    names = _panels.distinct(curves, "name")
    if not 1 <= len(names) <= MOST:
        message = (
            f"the table of curves has {len(names)} genes; a figure shows 1 to {MOST}. Select "
            "genes by curves[curves['name'].isin(...)]."
        )
        raise ValueError(message)

    columns = _panels.columns_for(len(names), 4)
    rows = -(-len(names) // columns)
    size = (_WIDTH[columns], rows * _HEIGHT[columns] + 0.5)
    panels = _panels.grid(len(names), columns, size, same_y=False)
    styles = _lines.groups(curves, points, draws)
    alone = _lines.lone_times(curves)
    for ax, name in zip(panels, names, strict=True):
        gene = _Gene(
            _panels.where(curves, "name", name),
            _panels.where(points, "name", name),
            None if draws is None else _panels.where(draws, "name", name),
        )
        _draw(ax, gene, styles, alone)
        _panels.title(ax, str(name), size[0] / columns - 0.5)
    shown = np.concatenate([_panels.number(curves, "time"), _panels.number(points, "time")])
    _time.axis(panels, _panels.number(points, "time"), shown, shorten=shorten_gaps)
    _panels.axis_titles(panels[0], xlabel, ylabel)
    if len(styles) > 1:
        _panels.legend(panels[0], [_panels.key(s, str(group)) for group, s in styles.items()])
    return _panels.array(panels)


def _draw(
    ax: Axes,
    gene: _Gene,
    styles: dict[Hashable, _panels.Look],
    alone: Float[np.ndarray, "_"],
) -> None:
    """Draw one gene."""
    for i, (group, style) in enumerate(styles.items()):
        transform = _panels.dodged(ax, i, len(styles))
        if gene.draws is not None:
            rows = _panels.where(gene.draws, "group", group)
            thin = _lines.Faint(style.colour, 0.3)
            _lines.faint(ax, rows, "draw", alone=alone, style=thin, transform=transform)
        _lines.estimate(ax, _panels.where(gene.curves, "group", group), style, transform)
        rows = _panels.where(gene.points, "group", group)
        ax.plot(
            _panels.number(rows, "time"),
            _panels.number(rows, "value"),
            color=style.colour,
            linestyle="",
            marker=style.marker,
            markersize=3.2,
            markeredgewidth=0,
            alpha=0.75,
            transform=transform,
            zorder=3,
        )
    ax.locator_params(axis="y", nbins=6)
    inner = [_panels.number(gene.curves, "mean"), _panels.number(gene.points, "value")]
    outer = [_panels.number(gene.curves, name) for name in ("lower", "upper")]
    if gene.draws is not None:
        outer.append(_panels.number(gene.draws, "value"))
    _lines.limits(ax, _lines.span(np.concatenate(inner), np.concatenate(outer)))
