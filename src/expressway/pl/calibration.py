"""The reliability diagram: how often probabilities of classes are right, against what they say."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes

from expressway._types import Float
from expressway.core.prediction import Scores

from . import _panels, _style

# Bins of fewer observations are hollow: their accuracy is noise.
_FEW = 10
# Square points of the largest bin; others are smaller by the root of their share.
_LARGEST = 40.0
_LEAST = 6.0


def calibration(scores: Mapping[str, Scores]) -> np.ndarray:
    """Array of two Axes: accuracy against confidence of several predictions, and their scores.

    A point is a bin of confidence (the probability of the most probable class), its area grows with
    the number of observations; bars are one standard error of the accuracy. Above the line a
    prediction is too careful, below it too sure. Bins of fewer than ten observations are hollow,
    without a bar. Beside it are accuracy, mean log-likelihood and expected calibration error.

    Parameters
    ----------
    scores
        Of each prediction, by its name.

    Raises
    ------
    ValueError
        There is none, or none has an observation.
    """
    if not scores or not any(found.count.sum() for found in scores.values()):
        message = "no scores with observations; give those of one prediction at least, by name."
        raise ValueError(message)
    left, right = _panels.grid(2, 2, (_panels.PAGE, 3.2), same_y=False)
    looks = {name: _panels.look(i) for i, name in enumerate(scores)}
    lowest = min(_draw(left, found, looks[name]) for name, found in scores.items())
    edge = max(0.0, np.floor(10 * min(lowest, 0.9) - 0.5) / 10)
    left.plot([0, 1], [0, 1], color=_style.INK, linewidth=0.5, zorder=1)
    left.set_xlim(edge, 1.02)
    left.set_ylim(max(0.0, edge - 0.1), 1.02)
    _style.titles(left, "confidence", "accuracy")
    _table(right, scores)
    handles = [_panels.key(look, name, line=False) for name, look in looks.items()]
    _panels.legend(left, handles)
    return _panels.array([left, right])


def _draw(ax: Axes, found: Scores, look: _panels.Look) -> float:
    """Draw the bins of one prediction; return the lowest confidence."""
    full = found.count > 0
    x, y, count = found.confidence[full], found.bin_accuracy[full], found.count[full]
    many = count >= _FEW
    # Of Agresti and Coull (1998): a bin that is always right has an error, too.
    share = (y * count + 2) / (count + 4)
    error = np.sqrt(share * (1 - share) / (count + 4))
    ends: Float[np.ndarray, "2 b"] = np.clip(np.stack([y - error, y + error]), 0, 1)
    ax.vlines(x[many], *ends[:, many], color=look.colour, linewidth=0.8, alpha=0.6, zorder=2)
    ax.plot(x[many], y[many], color=look.colour, linewidth=0.8, alpha=0.6, zorder=2)
    size = _LEAST + _LARGEST * np.sqrt(count / count.max())
    for chosen, inside in ((many, look.colour), (~many, "white")):
        ax.scatter(
            x[chosen],
            y[chosen],
            s=size[chosen],
            marker=look.marker,
            facecolors=inside,
            edgecolors=look.colour,
            linewidths=0.8,
            alpha=0.8,
            clip_on=False,
            zorder=3,
        )
    return float(x.min())


def _table(ax: Axes, scores: Mapping[str, Scores]) -> None:
    """Write the scores, one row a prediction."""
    ax.axis("off")
    names = [_panels.plain(_panels.shortened(name, 110.0, _panels.TITLE)) for name in scores]
    cells = [
        [
            f"{found.accuracy:.4f}",
            f"{found.log_likelihood:.4f}",
            f"{found.expected_calibration_error:.4f}",
        ]
        for found in scores.values()
    ]
    drawn = ax.table(
        cellText=cells,
        rowLabels=names,
        colLabels=["accuracy", "log-\nlikelihood", "calibration\nerror"],
        bbox=[0.36, 0.55 - 0.065 * (len(cells) + 2), 0.64, 0.12 * (len(cells) + 2)],  # pyright: ignore[reportArgumentType]
        cellLoc="right",
        rowLoc="left",
        edges="horizontal",
    )
    drawn.auto_set_font_size(False)
    drawn.set_fontsize(_panels.TITLE)
    for cell in drawn.get_celld().values():
        cell.set_linewidth(0.5)
        cell.set_edgecolor(_style.MUTED)
        cell.set_text_props(color=_style.INK)
