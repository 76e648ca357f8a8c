"""The axis of time: ticks at the samples' times, and long stretches without samples shortened."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, NullLocator

from expressway._types import Float

from . import _panels, _style, _ticks

# A stretch without samples is shown no wider than this many times the median one,
_LONG = 3.0
# where the axis gets shorter by this much at least.
_WORTH = 0.25
# More times than these, or numbers of more letters, are not written: round numbers are.
_MANY = 40
_LETTERS = 5
_MARGIN = 0.05  # at either end, as a share of the axis
_DOWN = 3  # a tick, as a marker
_SLANTED = [(-0.6, -1.0), (0.6, 1.0)]  # a stroke, as a marker


def axis(
    panels: Sequence[Axes],
    times: Float[np.ndarray, "_"],
    shown: Float[np.ndarray, "_"],
    *,
    shorten: bool,
) -> None:
    """Make x the time in panels, the same in all.

    Parameters
    ----------
    panels
        All that a figure has.
    times
        Of the samples.
    shown
        Times that must be in view.
    shorten
        Whether long stretches without samples may be drawn shorter; two strokes mark each.
    """
    known = np.unique(times[np.isfinite(times)])
    shown = np.concatenate([known, shown[np.isfinite(shown)]])
    shown = np.array([shown.min(), shown.max()]) if len(shown) else np.array([0.0, 1.0])
    drawn, cut = _shortened(known) if shorten else (known, np.array([]))
    scale = _scale(known, drawn, float(np.ptp(shown))) if len(cut) else None
    width = np.ptp(shown) - (np.ptp(known) - np.ptp(drawn)) if len(known) else np.ptp(shown)
    margin = _MARGIN * width or 1.0
    written = 0 < len(known) <= _MANY and max(len(f"{t:g}") for t in known) <= _LETTERS
    for ax in panels:
        if scale is not None:
            ax.set_xscale("function", functions=scale)
        ax.set_xlim(shown[0] - margin, shown[-1] + margin)
        if written:
            if ax.xaxis.get_tick_params()["labelbottom"]:
                _ticks.place(ax, "x", known)
            else:
                ax.xaxis.set_major_locator(NullLocator())
            _marks(ax, known, marker=_DOWN, markersize=2, markeredgewidth=0.6, color=_style.INK)
        else:
            ax.xaxis.set_major_locator(MaxNLocator("auto", steps=[1, 2, 2.5, 5, 10]))
            ax.xaxis.set_major_formatter(_ticks.plain)
        if len(cut):
            _strokes(ax, cut)


def _scale(
    known: Float[np.ndarray, "n"], drawn: Float[np.ndarray, "n"], beyond: float
) -> tuple[Callable[[np.ndarray], np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """Return the scale of an axis and its inverse: as it was beyond the samples.

    It is linear between samples, so that only what lies under the strokes is out of scale. A
    smooth one would bend curves beside them, too.
    """
    times = np.concatenate([[known[0] - beyond], known, [known[-1] + beyond]])
    places = np.concatenate([[drawn[0] - beyond], drawn, [drawn[-1] + beyond]])
    return (lambda t: np.interp(t, times, places), lambda p: np.interp(p, places, times))


def _shortened(
    known: Float[np.ndarray, "n"],
) -> tuple[Float[np.ndarray, "n"], Float[np.ndarray, "_"]]:
    """Return where times are drawn, and the middles of the stretches that were shortened."""
    if not 3 < len(known) <= _MANY:
        return known, np.array([])
    stretch = np.diff(known)
    short = np.minimum(stretch, _LONG * np.median(stretch))
    if np.sum(short) > (1 - _WORTH) * np.sum(stretch):
        return known, np.array([])
    middle = (known[1:] + known[:-1]) / 2
    return known[0] + np.concatenate([[0.0], np.cumsum(short)]), middle[short < stretch]


def _strokes(ax: Axes, at: Float[np.ndarray, "_"]) -> None:
    """Break the axis at some times."""
    for aside, colour, width in (
        (0.0, "white", 3.0),
        (-1.5, _style.INK, 0.7),
        (1.5, _style.INK, 0.7),
    ):
        stroke = {"marker": _SLANTED, "markersize": 6, "markeredgewidth": width}
        _marks(ax, at, aside=aside, zorder=5, color=colour, **stroke)


def _marks(ax: Axes, at: Float[np.ndarray, "_"], *, aside: float = 0.0, **how: Any) -> None:
    """Mark times on the axis: one artist, where as many ticks would be slow to draw."""
    ax.plot(
        at,
        np.zeros(len(at)),
        linestyle="",
        transform=_panels.aside(ax, ax.get_xaxis_transform(), aside),
        clip_on=False,
        **how,
    )
