"""Figures of `mnist.py`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import expressway as ew

ACCENT, SECOND, MUTED, INK = "#D55E00", "#0072B2", "#A6A6A6", "#222222"
COLOURS = (SECOND, ACCENT, "#009E73")
MARKERS = ("o", "s", "^")
_TEXT: dict[str, Any] = {"fontsize": 7, "color": INK, "va": "bottom"}


def calibration(judged: Mapping[str, Any], path: Path) -> None:
    """Accuracy against confidence of the three predictions, and their scores."""
    axes = ew.pl.calibration(judged)
    axes[0].figure.savefig(path)


def uncertain(
    images: np.ndarray, labels: np.ndarray, plain: np.ndarray, linear: Any, path: Path
) -> None:
    """The images whose class is least certain: probabilities, plain and with their intervals."""
    spread = linear.probability_sd.max(axis=1)
    chosen = np.argsort(spread)[::-1][:12]
    figure = Figure(figsize=(7.2, 4.4), dpi=200, layout="constrained")
    cells = figure.add_gridspec(3, 8, width_ratios=[1, 1.25] * 4)
    for k, i in enumerate(chosen):
        row, column = divmod(k, 4)
        _digit(figure.add_subplot(cells[row, 2 * column]), images[i], f"label {labels[i]}")
        ax = figure.add_subplot(cells[row, 2 * column + 1])
        where = np.arange(10)
        ends = linear.probability_lower[i], linear.probability_upper[i]
        colours = np.where(where == labels[i], ACCENT, SECOND)
        ax.barh(where, linear.probabilities[i], color=colours, alpha=0.45, height=0.8)
        ax.hlines(where, *ends, color=colours, lw=1.3)
        ax.plot(plain[i], where, "|", color=INK, ms=5, mew=1)
        ax.set_xlim(0, 1)
        ax.set_ylim(9.6, -0.6)
        _plain_axes(ax)
        ax.set_yticks(where, [str(digit) for digit in where], fontsize=5.5)
        ax.set_xticks([0, 0.5, 1], ["0", ".5", "1"], fontsize=6)
        ax.tick_params(axis="y", length=0)
    said = (
        "probability of each digit: bars and lines, mean and 90 % interval of linearised draws "
        "(vermillion: the label); tick, the plain network"
    )
    figure.supxlabel(said, fontsize=7.5, color=INK)
    figure.savefig(path)


def rotated(
    angles: np.ndarray,
    turned: np.ndarray,
    labels: np.ndarray,
    each: Mapping[str, np.ndarray],
    spread: np.ndarray,
    path: Path,
) -> None:
    """A digit turned round, how sure predictions are of it, and of all images at each angle.

    Parameters
    ----------
    angles, turned, labels
        Degrees, images at each, what they show.
    each
        Probabilities of each prediction: angles by images by classes.
    spread
        Standard deviation of probabilities over linearised draws, of the same shape.
    path
        Where to write.
    """
    figure = Figure(figsize=(7.2, 4.4), dpi=200, layout="constrained")
    strip, below = figure.subfigures(2, 1, height_ratios=[1, 3.0])
    one = _telling(each["plain"], each["linearised draws"], labels)
    ax, step = strip.subplots(), turned.shape[-1] + 2
    shown = np.pad(turned[:, one], ((0, 0), (0, 0), (0, 2)))
    ax.imshow(np.concatenate(shown, axis=1), cmap="gray_r", vmin=0, vmax=1)
    ax.set_axis_off()
    # Room for four lines above, and for what they are on the left.
    ax.set_xlim(-45, len(angles) * step)
    ax.set_ylim(28, -42)
    ax.text(-4, -3, "turned by\nread as\nplain\nlinearised", **_TEXT, ha="right")
    for i, angle in enumerate(angles):
        best = each["plain"][i, one].argmax()
        sure = (each[name][i, one, best] for name in ("plain", "linearised draws"))
        said = "\n".join([f"{angle}°", str(best), *(f"{p:.2f}" for p in sure)])
        ax.text((i + 0.5) * step - 1, -3, said, **_TEXT, ha="center")
    left, right = below.subplots(1, 2)
    truth = np.mean(each["plain"].argmax(axis=2) == labels, axis=1)
    left.plot(angles, truth, color=INK, lw=1.6, label="accuracy")
    for (name, p), colour, marker in zip(each.items(), COLOURS, MARKERS, strict=True):
        sure = p.max(axis=2)
        left.plot(
            angles, sure.mean(axis=1), marker=marker, color=colour, lw=1.2, ms=3.5, label=name
        )
    left.set_ylabel("accuracy, mean confidence", fontsize=9)
    left.set_ylim(0, 1.02)
    left.legend(frameon=False, fontsize=7.5)
    top = np.take_along_axis(spread, each["plain"].argmax(axis=2)[..., None], axis=2)[..., 0]
    low, middle, high = np.quantile(top, [0.25, 0.5, 0.75], axis=1)
    right.fill_between(angles, low, high, color=ACCENT, alpha=0.2, lw=0)
    right.plot(angles, middle, color=ACCENT, marker="s", lw=1.2, ms=3.5)
    right.set_ylabel("sd of the digit's probability\n(median and quartiles)", fontsize=9)
    right.set_ylim(0, None)
    for ax in (left, right):
        ax.set_xlabel("images turned by", fontsize=9)
        ax.set_xticks(angles[::2], [f"{angle}°" for angle in angles[::2]])
        _plain_axes(ax)
    figure.savefig(path)


def _telling(plain: np.ndarray, linear: np.ndarray, labels: np.ndarray) -> int:
    """The image, read rightly upright, of which draws are less sure than the plain network."""
    right = (plain[0].argmax(axis=1) == labels) & (plain[0].max(axis=1) > 0.95)
    wrong = plain.argmax(axis=2) != labels
    gap = np.sum(wrong * (plain.max(axis=2) - linear.max(axis=2)), axis=0)
    return int(np.argmax(np.where(right, gap, -1.0)))


def _digit(ax: Axes, image: np.ndarray, title: str) -> None:
    ax.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    ax.set_axis_off()
    ax.set_title(title, fontsize=7, color=INK, pad=2)


def _plain_axes(ax: Axes) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=7)
