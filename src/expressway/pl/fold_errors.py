"""The fold errors figure: exact errors of folds against those that were predicted."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from expressway._types import Bool, Float

from . import _panels, _style, _ticks

_PREDICTIONS = {"ij": "jackknife", "corrected": "jackknife, corrected"}
# Errors beyond the axis that are written in numbers, the largest ones; and the letters of a name.
_WRITTEN = 5
_NAME = 60.0  # points
_MARKERS = ("o", "s", "D", "P", "X", "p", "h")
_MARK = 16.0  # square points


class _Frame(NamedTuple):
    """Of both axes."""

    low: float
    edge: float
    """Where errors above the top are drawn."""
    top: float
    margin: float


class _Folds(NamedTuple):
    """Folds of which one prediction and the exact error are known."""

    name: np.ndarray
    left: np.ndarray
    predicted: Float[np.ndarray, "_"]
    exact: Float[np.ndarray, "_"]
    trusted: Bool[np.ndarray, "_"]


def fold_errors(table: pd.DataFrame, *, error: str = "squared") -> np.ndarray:
    """Array of Axes: exact errors of folds against the jackknife's, and the corrected ones.

    Both axes are alike, and the line is where they are equal. Colours and marks tell how much
    was left out; hollow marks are folds whose prediction is not to be trusted. A few errors that
    are more than three times as far from the lowest as all others stand at the edge as triangles,
    the largest of them with the fold's name and the errors that are beyond the axis (predicted /
    exact, if both are). A prediction that no fold has gets no panel.

    Parameters
    ----------
    table
        A row a fold: columns df, leave_out, left_out (its name), exact, trusted, and ij,
        corrected or both.
    error
        What the errors are, ``"squared"``, ``"absolute"`` or ``"deviance"``, for the axis titles.

    Raises
    ------
    ValueError
        A column is missing, no fold has both an exact error and a prediction, or ``error`` is
        none of the three.
    """
    _panels.check(table, "folds", "df", "leave_out", "left_out", "exact", "trusted")
    measure = _panels.measure(error)
    kinds = {name: _folds(table, name) for name in _PREDICTIONS}
    kinds = {name: folds for name, folds in kinds.items() if len(folds.exact)}
    if not kinds:
        message = (
            f"none of {len(table)} folds has both an exact error and a prediction; the table of "
            "folds needs numbers in exact and in ij or corrected. Cross-validate exactly, too."
        )
        raise ValueError(message)

    frame = _frame(list(kinds.values()))
    width = {1: 3.9, 2: 6.8}[len(kinds)]
    panels = _panels.grid(len(kinds), len(kinds), (width, 4.0), same_y=True)
    left = {text for folds in kinds.values() for text in folds.left}
    styles = {text: _look(i) for i, text in enumerate(sorted(left, key=lambda t: (len(t), t)))}
    ends = (frame.low - frame.margin, frame.edge + frame.margin)
    for ax, (name, folds) in zip(panels, kinds.items(), strict=True):
        ax.plot(ends, ends, color=_style.MUTED, linewidth=0.8, zorder=1)
        ax.set_aspect("equal", adjustable="box")
        _draw(ax, folds, styles, frame)
        _panels.title(ax, _PREDICTIONS[name], width / len(kinds) - 0.5)
        ax.locator_params(nbins=6)
        for axis in ("x", "y"):
            _ticks.numbers(ax, axis, frame.edge)
        ax.set_xlim(ends)
        ax.set_ylim(ends)
    _panels.axis_titles(panels[0], f"predicted {measure}", f"exact {measure}")
    _panels.legend(panels[0], _keys(list(kinds.values()), styles))
    _panels.settle(panels[0])
    for ax, folds in zip(panels, kinds.values(), strict=True):
        _write(ax, folds, frame)
    return _panels.array(panels)


def _look(i: int) -> _panels.Look:
    """Return how folds are drawn: by no triangle."""
    return _panels.look(i)._replace(marker=_MARKERS[i % len(_MARKERS)])


def _folds(table: pd.DataFrame, name: str) -> _Folds:
    """Return the folds that a panel can show."""
    predicted, exact = _panels.number(table, name), _panels.number(table, "exact")
    known = np.isfinite(predicted + exact)
    return _Folds(
        name=table["left_out"].astype(str).to_numpy(dtype=object)[known],
        left=np.array([_panels.written(value) for value in table["leave_out"]], dtype=object)[
            known
        ],
        predicted=predicted[known],
        exact=exact[known],
        trusted=_panels.flag(table, "trusted", default=False)[known],
    )


def _frame(kinds: list[_Folds]) -> _Frame:
    """Return what both axes of all panels show."""
    value = np.concatenate([part for folds in kinds for part in (folds.predicted, folds.exact)])
    top = _panels.ceiling(value)
    inner = value[value <= top]
    low, high = float(inner.min()), float(inner.max())
    spread = high - low or 0.1 * abs(high) or 1.0
    return _Frame(low, high + (0.08 * spread if np.isfinite(top) else 0.0), top, 0.06 * spread)


def _markers(folds: _Folds, frame: _Frame) -> np.ndarray:
    """Return triangles for folds beyond the axes, and nothing for others."""
    return np.select([folds.exact > frame.top, folds.predicted > frame.top], ["^", ">"], "")


def _draw(ax: Axes, folds: _Folds, styles: dict[str, _panels.Look], frame: _Frame) -> None:
    """Draw the folds of one panel."""
    beyond = _markers(folds, frame)
    for left, style in styles.items():
        for trusted in (True, False):
            for marker in np.unique(beyond):
                rows = (folds.left == left) & (folds.trusted == trusted) & (beyond == marker)
                if not rows.any():
                    continue
                ax.scatter(
                    np.minimum(folds.predicted, frame.edge)[rows],
                    np.minimum(folds.exact, frame.edge)[rows],
                    s=1.5 * _MARK if marker else _MARK,
                    marker=marker or style.marker,
                    facecolors=style.colour if trusted else "none",
                    edgecolors=style.colour,
                    linewidths=0.8,
                    alpha=0.8,
                    clip_on=not marker,
                    zorder=3,
                )


def _keys(kinds: list[_Folds], styles: dict[str, _panels.Look]) -> list[Line2D]:
    """Return what the legend says."""
    keys = [_panels.key(style, f"leave out {left}", line=False) for left, style in styles.items()]
    if not all(folds.trusted.all() for folds in kinds):
        hollow = _panels.key(_panels.Look(_style.INK, "-", "o"), "not trusted", line=False)
        hollow.set(markerfacecolor="none", markeredgewidth=0.8)
        keys.append(hollow)
    return keys


def _write(ax: Axes, folds: _Folds, frame: _Frame) -> None:
    """Write the names and errors of the largest folds beyond the axes; the layout is final.

    Of the places beside and below a triangle that are free of texts and triangles, the one that
    hides the fewest folds is taken; a text that has none is left out.
    """
    beyond = np.flatnonzero(_markers(folds, frame) != "")
    largest = beyond[np.argsort(-np.maximum(folds.exact, folds.predicted)[beyond])][:_WRITTEN]
    marks = np.minimum(np.column_stack([folds.predicted, folds.exact]), frame.edge)
    points = ax.transData.transform(marks) * 72 / _panels.whole(ax).dpi
    extent = ax.get_window_extent()
    left, right = np.array([extent.x0, extent.x1]) * 72 / _panels.whole(ax).dpi
    taken = [_box(points[row] - 3.5, np.full(2, 7.0)) for row in beyond]
    for row in largest:
        errors = [float(folds.predicted[row]), float(folds.exact[row])]
        numbers = " / ".join(_ticks.brief(error) for error in errors if error > frame.top)
        name = _panels.shortened(str(folds.name[row]), _NAME, _panels.TICK)
        text = f"{name}: {numbers}"
        size = np.array([_panels.length(text, _panels.TICK), 8.0])
        best: tuple[int, Bbox] | None = None
        for offset in _offsets(size):
            box = _box(points[row] + offset, size)
            if box.x0 < left or box.x1 > right or box.count_overlaps(taken):
                continue
            under = np.abs(points - points[row] - offset - size / 2) < size / 2
            hidden = int(np.count_nonzero(under.all(axis=1)))
            if best is None or hidden < best[0]:
                best = (hidden, box)
        if best is None:
            continue
        taken.append(best[1])
        ax.annotate(
            text,
            (marks[row, 0], marks[row, 1]),
            xytext=(best[1].x0 - points[row][0], best[1].y0 - points[row][1] + 2),
            textcoords="offset points",
            fontsize=_panels.TICK,
            color=_style.INK,
            parse_math=False,
            zorder=4,
        )


def _offsets(size: Float[np.ndarray, "2"]) -> list[Float[np.ndarray, "2"]]:
    """Return where the lower left corner of a text may be, from its triangle (points)."""
    beside = [np.array([x, -4.0 - down]) for down in (0.0, 9.0) for x in (5.0, -5.0 - size[0])]
    return [*beside, *(np.array([-size[0] / 2, y]) for y in (-13.0, 5.0))]


def _box(corner: Float[np.ndarray, "2"], size: Float[np.ndarray, "2"]) -> Bbox:
    return Bbox([corner, corner + size])
