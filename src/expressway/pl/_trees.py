"""Trees of a hierarchical clustering, drawn above a map."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from expressway._types import Float

from . import _groups, _style

_HEIGHT = 26.0  # points


def tree(ax: Axes, merges: Float[np.ndarray, "m 4"], up: float) -> float:
    """Draw the tree of `scipy.cluster.hierarchy.linkage`, so many points up; return its height.

    Leaves are at 0, 1, … in the order of `leaves_list`; heights are proportional to distances.
    """
    n = len(merges) + 1
    scale = _HEIGHT / (float(merges[-1, 2]) or 1.0)
    at = np.zeros(2 * n - 1)
    height = np.zeros(2 * n - 1)
    at[_order(merges)] = np.arange(n)
    lines = np.zeros((n - 1, 4, 2))
    for i, (left, right, distance, _) in enumerate(merges):
        a, b, new = int(left), int(right), n + i
        at[new], height[new] = (at[a] + at[b]) / 2, distance * scale
        x = [at[a], at[a], at[b], at[b]]
        lines[i] = np.column_stack([x, [height[a], height[new], height[new], height[b]]])
    lines[:, :, 1] += up
    shown = LineCollection(
        list(lines),
        colors=_style.INK,
        linewidths=0.6 if n <= 60 else 0.35,
        transform=_groups.above(ax),
        clip_on=False,
    )
    ax.add_collection(shown, autolim=False)
    return _HEIGHT


def _order(merges: Float[np.ndarray, "m 4"]) -> list[int]:
    """Return the leaves from left to right."""
    n = len(merges) + 1
    found: list[int] = []
    left = [2 * n - 2]
    while left:
        node = left.pop()
        if node < n:
            found.append(node)
        else:
            left.extend([int(merges[node - n, 1]), int(merges[node - n, 0])])
    return found
