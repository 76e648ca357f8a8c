"""The figure of mixtures: weights, means and spreads of the components of each coefficient."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from expressway._types import Bool, Float

from . import _lines, _panels, _style, _ticks

# Inches, by columns.
_COLUMNS = 3
_WIDTH = {1: 4.2, 2: 5.8, 3: _panels.PAGE}
_HEIGHT = {1: 3.0, 2: 2.2, 3: 1.7}
# Weight from which a component's bell is always shown whole.
_LARGE = 0.1
_REACH = 3.0  # how far the axis goes for a spread, in standard deviations
_BELL = np.linspace(-4, 4, 81)  # and how far it is drawn, so that no step is seen
_UP = 2.0  # points from an interval to its component's number


def component_weights(
    components: pd.DataFrame,
    *,
    mixture: str = "coefficients",
    xlabel: str = "mean of the component (natural logarithm)",
) -> np.ndarray:
    """Array of Axes, one a coefficient: the weight of each component against its mean.

    Bars are intervals of both; the bell has the component's standard deviation and the height of
    its weight. Components that expect less than one gene are not drawn: the title says how many
    are, and the weight that remains for all others, those beyond the table too. Numbers are those
    of the components; one that would be over another is left out. The axis of means goes as far
    as the components' three standard deviations, where that is not beyond their means' range by
    more than this range.

    Parameters
    ----------
    components
        Columns coefficient, mixture, component, genes (expected number), sd, and weight and mean,
        each with _lower and _upper.
    mixture
        Which rows to draw: ``"coefficients"``, each a mixture of its own, or ``"modules"``, the
        joint one.
    xlabel
        Title of the axes of means.

    Raises
    ------
    ValueError
        A column is missing, or no row is of this mixture.
    """
    ends = ["weight", "weight_lower", "weight_upper", "mean", "mean_lower", "mean_upper", "sd"]
    _panels.check(components, "components", "coefficient", "mixture", "component", "genes", *ends)
    rows = _panels.where(components, "mixture", mixture)
    if rows.empty:
        message = (
            f"no row of the table of components is of mixture {mixture!r}; there are "
            f"{', '.join(map(repr, map(str, _panels.distinct(components, 'mixture')))) or 'none'}."
            " Name one of these."
        )
        raise ValueError(message)

    names = _panels.distinct(rows, "coefficient")
    columns = _panels.columns_for(len(names), _COLUMNS)
    size = (_WIDTH[columns], -(-len(names) // columns) * _HEIGHT[columns] + 0.4)
    panels = _panels.grid(len(names), columns, size, same_y=True)
    parts = [_panels.where(rows, "coefficient", name) for name in names]
    kept = [_panels.number(part, "genes") >= 1 for part in parts]
    top = _top(parts, kept)
    for ax, name, part, keep in zip(panels, names, parts, kept, strict=True):
        drawn = part.take(np.flatnonzero(keep))
        ax.set_ylim(-0.03 * top, 1.14 * top)
        ax.locator_params(axis="y", nbins=5)
        _across(ax, drawn)
        ax.tick_params(labelbottom=True)
        for i in np.argsort(-_panels.number(drawn, "sd"), kind="stable"):
            _component(ax, drawn.iloc[int(i)], _panels.look(int(i)))
        _panels.title(ax, _title(str(name), drawn), size[0] / columns - 0.35)
    _panels.axis_titles(panels[0], xlabel, "weight")
    _panels.settle(panels[0])
    for ax, part, keep in zip(panels, parts, kept, strict=True):
        _number(ax, part.take(np.flatnonzero(keep)))
    return _panels.array(panels)


def _top(parts: Sequence[pd.DataFrame], kept: Sequence[Bool[np.ndarray, "_"]]) -> float:
    """Return the largest weight to show."""
    ends = [
        _panels.number(part, name)[keep]
        for part, keep in zip(parts, kept, strict=True)
        for name in ("weight", "weight_upper")
    ]
    known = np.concatenate(ends)
    return float(known[np.isfinite(known)].max(initial=0.0)) or 1.0


def _title(name: str, drawn: pd.DataFrame) -> str:
    """Return what a panel is called."""
    n = len(drawn)
    rest = max(0.0, 1 - float(np.nansum(_panels.number(drawn, "weight"))))
    # A weight that rounds to nothing is said to be small, not to be none.
    left = "< 0.001" if rest < 0.001 else f"{rest:.2g}"
    return f"{name}: {n} component{'s' if n != 1 else ''}, others {left}"


def _across(ax: Axes, drawn: pd.DataFrame) -> None:
    """Set the limits of the means."""
    mean, sd = _panels.number(drawn, "mean"), _panels.number(drawn, "sd")
    outer = [mean - _REACH * sd, mean + _REACH * sd]
    # One mean alone has no range: its spread is it then.
    alone = len(np.unique(mean[np.isfinite(mean)])) < 2
    # A bell of many genes is shown whole, however wide; one of few must not press the others flat.
    large = np.full(len(mean), alone) | (_panels.number(drawn, "weight") >= _LARGE)
    inner = np.concatenate([mean, *(end[large] for end in outer)])
    low, high = _lines.span(inner, np.concatenate(outer))
    margin = 0.06 * (high - low) or 1.0
    ax.set_xlim(low - margin, high + margin)
    ax.locator_params(axis="x", nbins=5)
    _ticks.numbers(ax, "x", max(abs(low), abs(high)))


def _component(ax: Axes, row: pd.Series, style: _panels.Look) -> None:
    """Draw one component: its bell, and its point with both intervals."""
    mean, weight, sd = float(row["mean"]), float(row["weight"]), float(row["sd"])
    bell = weight * np.exp(-(_BELL**2) / 2)
    colour = style.colour
    ax.fill_between(mean + sd * _BELL, 0.0, bell, color=colour, alpha=0.25, linewidth=0, zorder=2)
    ax.vlines(mean, row["weight_lower"], row["weight_upper"], color=colour, linewidth=1.0, zorder=4)
    ax.hlines(weight, row["mean_lower"], row["mean_upper"], color=colour, linewidth=1.0, zorder=4)
    ax.plot(mean, weight, color=colour, marker="o", markersize=3.2, markeredgewidth=0, zorder=5)


def _number(ax: Axes, drawn: pd.DataFrame) -> None:
    """Write the components' numbers over their intervals, the heaviest first, where there is room.

    The layout must be final.
    """
    written: list[Bbox] = []
    frame = ax.get_window_extent()
    point = _panels.whole(ax).dpi / 72
    at = np.column_stack(
        [
            _panels.number(drawn, "mean"),
            np.fmax(_panels.number(drawn, "weight"), _panels.number(drawn, "weight_upper")),
        ]
    )
    places = ax.transData.transform(at)
    dots = ax.transData.transform(np.column_stack([at[:, 0], _panels.number(drawn, "weight")]))
    for i in np.argsort(-_panels.number(drawn, "weight"), kind="stable"):
        text = _panels.written(drawn["component"].iloc[int(i)])
        wide, high = _panels.length(text, _panels.TICK) * point, _panels.TICK * point
        x, y = places[i]
        box = Bbox.from_bounds(x - wide / 2, y + _UP * point, wide, high)
        others = np.delete(dots, i, axis=0)
        if (
            not np.isfinite(places[i]).all()
            or not (frame.x0 <= box.x0 and box.x1 <= frame.x1)
            or box.count_overlaps(written)
            or _touched(box.padded(2 * point), others)
        ):
            continue
        written.append(box)
        ax.annotate(
            text,
            (at[i, 0], at[i, 1]),
            xytext=(0, _UP),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=_panels.TICK,
            color=_style.INK,
            zorder=6,
        )


def _touched(box: Bbox, dots: Float[np.ndarray, "m 2"]) -> bool:
    """Return whether any dot is in a box."""
    return any(box.contains(*dot) for dot in dots)
