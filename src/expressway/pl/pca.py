"""The figure of principal components: which samples are alike."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from expressway._types import Float

from . import _groups, _panels, _style

# Names of more samples would hide them.
_NAMED = 24


def pca(
    transformed: pd.DataFrame,
    groups: pd.DataFrame | pd.Series | None = None,
    *,
    top: int = 500,
    label: bool | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Axes with the first two principal components of samples, both on one scale.

    As DESeq2's plotPCA: of the genes that vary most, centred, not scaled. A component's sign is
    such that its largest weight is positive.

    Parameters
    ----------
    transformed
        Samples × genes, on a scale where variance does not grow with the mean: logarithms, or a
        variance-stabilising transform. Genes with a missing value are left out.
    groups
        Of each sample, index as that of `transformed`: the first column gives colours, the
        second markers. One column gives both.
    top
        How many genes, by variance.
    label
        Name the samples, where there is room; by default if there are 24 at most.
    ax
        Where to draw, names placed for its present size; by default a figure of its own.

    Raises
    ------
    ValueError
        Fewer than three samples, no gene that varies, or groups of other samples.
    """
    found = _groups.columns(groups, transformed.index, 2)
    score, share = components(transformed.to_numpy(float), top)
    own = ax is None
    ax = _style.axes(ax)
    ax.set_aspect("equal", adjustable="datalim")
    n = len(score)
    colour = found[0].colour() if found else [_style.SECOND] * n
    marker = found[-1].marker() if found else ["o"] * n
    size = 40.0 if n <= _NAMED else 26.0 if n <= 60 else 16.0
    for kind in dict.fromkeys(marker):
        here = [i for i in range(n) if marker[i] == kind]
        ax.scatter(
            score[here, 0],
            score[here, 1],
            s=size,
            marker=kind,
            c=[colour[i] for i in here],
            alpha=0.85,
            linewidths=1.0 if kind == "x" else 0.4,
            edgecolors=None if kind == "x" else "white",
            zorder=2,
        )
    ax.margins(0.08)
    _style.titles(ax, *(f"PC{i + 1}: {100 * share[i]:.0f} % of variance" for i in range(2)))
    if len(found) == 2:
        parts = [found[0].keys(marker=False), found[1].keys(colour=False)]
    else:
        parts = [column.keys() for column in found]
    _groups.legends(ax, parts, 4.0)
    if label if label is not None else n <= _NAMED:
        cloud = _style.Cloud(score[:, 0], score[:, 1], np.full(n, "o"))
        names = np.array([_panels.shortened(str(s), 80.0, 6.5) for s in transformed.index])
        _style.write_names(ax, cloud, names, np.arange(n), own=own, circled=False)
    return ax


def components(
    value: Float[np.ndarray, "n g"], top: int
) -> tuple[Float[np.ndarray, "n k"], Float[np.ndarray, "k"]]:
    """Return the samples' scores on all components, and each one's share of the variance.

    Raises
    ------
    ValueError
        As for `pca`.
    """
    if len(value) < 3:
        message = f"there are {len(value)} samples; principal components need three or more."
        raise ValueError(message)
    with np.errstate(invalid="ignore"):
        variance = np.var(value, axis=0)
    variance = np.where(np.isfinite(variance), variance, 0.0)
    some = np.argsort(-variance, kind="stable")[: max(top, 2)]
    some = some[variance[some] > 0]
    if not len(some):
        message = f"none of {value.shape[1]} genes varies between samples: nothing to compare."
        raise ValueError(message)
    centred = value[:, some] - value[:, some].mean(axis=0)
    u, d, v = np.linalg.svd(centred, full_matrices=False)
    sign = np.sign(v[np.arange(len(d)), np.abs(v).argmax(axis=1)])
    score = u * d * sign
    if len(d) == 1:  # of one gene
        score, d = np.column_stack([score, np.zeros(len(u))]), np.append(d, 0.0)
    return score, d**2 / np.sum(d**2)
