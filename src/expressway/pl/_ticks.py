"""Ticks at values of the data, as many as there is room for."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, Locator, NullFormatter, NullLocator, ScalarFormatter

from expressway._types import Float

from . import _panels

# Numbers in between are written in full.
_SMALL, _LARGE = 1e-3, 1e5
_GAP = 3.5  # points between two texts


class _Written(NamedTuple):
    """Where ticks may be on an axis (x or y), and what is written there."""

    name: str
    at: list[float]
    texts: list[str]


class _Ticks(Locator):
    """Ticks at given values, as many as their texts have room for, the first one always."""

    def __init__(self, ax: Axes, written: _Written, *, height: bool, last: bool) -> None:
        self.ax = ax
        self.written = written
        self.height = height
        self.last = last
        widths = [_panels.length(text, _panels.TICK) + _GAP for text in written.texts]
        self.sizes = np.array([1.1 * _panels.TICK] * len(widths) if height else widths)

    def __call__(self) -> list[float]:
        """Return where the ticks are, at the present size of the axis."""
        along = np.array(self.written.at)
        zero = np.zeros(len(along))
        if self.written.name == "x":
            transform = self.ax.get_xaxis_transform()
            at = transform.transform(np.column_stack([along, zero]))[:, 0]
        else:
            transform = self.ax.get_yaxis_transform()
            at = transform.transform(np.column_stack([zero, along]))[:, 1]
        at = at * 72 / _panels.whole(self.ax).dpi
        end = len(along) - 1
        kept: list[int] = []
        for i in range(end + 1):
            if not kept or self._apart(at, kept[-1], i):
                kept.append(i)
        if self.last and end >= 0 and kept[-1] != end:
            while len(kept) > 1 and not self._apart(at, kept[-1], end):
                kept.pop()
            kept.append(end)
        return [self.written.at[i] for i in kept]

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """Return all values, whatever is in view."""
        del vmin, vmax
        return self.written.at

    def _apart(self, at: Float[np.ndarray, "n"], i: int, j: int) -> bool:
        return bool(abs(at[j] - at[i]) >= (self.sizes[i] + self.sizes[j]) / 2)


def plain(value: float, _: float | int | None = None) -> str:
    """Return a number as a tick writes it."""
    return f"{value:g}".replace("-", "\N{MINUS SIGN}")


def brief(value: float) -> str:
    """Return a number to three digits."""
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def place(
    ax: Axes,
    name: str,
    values: Iterable[float | int],
    texts: Sequence[str] | None = None,
    *,
    height: bool = False,
    last: bool = True,
) -> None:
    """Give an axis (x or y) ticks at values where there is room; the texts are numbers or given."""
    axis = {"x": ax.xaxis, "y": ax.yaxis}[name]
    at = [float(value) for value in values]
    written = [plain(v) for v in at] if texts is None else list(texts)
    named = dict(zip(at, written, strict=True))
    axis.set_major_locator(_Ticks(ax, _Written(name, at, written), height=height, last=last))
    axis.set_major_formatter(FuncFormatter(lambda v, _: named.get(v, "")))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def numbers(ax: Axes, name: str, largest: float) -> None:
    """Let the numbers of an axis (x or y) stand by themselves, without a factor above the axis.

    Its place is the title's. The default writes one for large and small numbers.
    """
    axis = {"x": ax.xaxis, "y": ax.yaxis}[name]
    if _SMALL <= abs(largest) < _LARGE:
        formatter = ScalarFormatter(useOffset=False)
        formatter.set_scientific(False)
        axis.set_major_formatter(formatter)
    else:
        axis.set_major_formatter(plain)
