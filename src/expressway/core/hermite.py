"""Quintic Hermite interpolants: a smooth function of one variable a gene, known on a few nodes.

A profile that needs many looks is evaluated once on nodes, in one sum, and looked at there.
"""

from typing import NamedTuple

import numpy as np

from expressway._types import Bool, Float, Int

# Secant steps inside a cell: each gains a digit at the least, and the cell is one of length one.
_SECANTS = 8
# A secant step stays this share of the bracket away from its ends.
_AWAY = 0.02


class Interpolant(NamedTuple):
    """Quintic Hermite interpolant of each gene.

    The error is ``h⁶ / 46080`` times the sixth derivative, h being the distance of nodes.
    """

    nodes: Float[np.ndarray, "g m"]
    """Ascending."""
    loss: Float[np.ndarray, "g m"]
    slope: Float[np.ndarray, "g m"]
    curvature: Float[np.ndarray, "g m"]
    last: Int[np.ndarray, "g"]
    """Each gene's last node; on the nodes after it there is nothing."""

    def take(self, genes: Int[np.ndarray, "k"]) -> "Interpolant":
        """That of some genes."""
        return Interpolant(*(a[genes] for a in self))

    def joined(
        self,
        some: Bool[np.ndarray, "g"],
        node: Float[np.ndarray, "g"],
        loss: Float[np.ndarray, "g"],
        slope: Float[np.ndarray, "g"],
        curvature: Float[np.ndarray, "g"],
    ) -> "Interpolant":
        """One node more for some genes that have one; columns for two are there."""
        before = node < self.nodes[:, 0]

        def both(whole: Float[np.ndarray, "g m"], new: Float[np.ndarray, "g"]) -> np.ndarray:
            whole = whole.copy()
            pair = np.where(before[:, None], np.c_[new, whole[:, 0]], np.c_[whole[:, 0], new])
            whole[some, :2] = pair[some]
            return whole

        return Interpolant(
            both(self.nodes, node),
            both(self.loss, loss),
            both(self.slope, slope),
            both(self.curvature, curvature),
            np.where(some, 1, self.last),
        )

    @property
    def end(self) -> Float[np.ndarray, "g"]:
        """Each gene's last node."""
        return np.take_along_axis(self.nodes, self.last[:, None], axis=1)[:, 0]

    def at(
        self, a: Float[np.ndarray, "k"], genes: Int[np.ndarray, "k"]
    ) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
        """Loss and slope of some genes; beyond the last nodes straight on.

        A steep start throws an ascent far beyond the nodes; it must see there that the loss has
        risen, to turn back.
        """
        beyond = a
        nodes, last = self.nodes[genes], self.last[genes]
        a = np.clip(a, nodes[:, 0], nodes[np.arange(len(a)), last])
        left = np.clip(np.sum(nodes <= a[:, None], axis=1) - 1, 0, last - 1)
        cell = self._cell(genes, left)
        slope = cell.slope(a)
        return cell.loss(a) + (beyond - a) * slope, slope

    def _cell(self, genes: Int[np.ndarray, "k"], left: Int[np.ndarray, "k"]) -> "_Cell":
        """The polynomial between a node and the next."""
        h = self.nodes[genes, left + 1] - self.nodes[genes, left]
        f0, f1 = self.loss[genes, left], self.loss[genes, left + 1]
        d0, d1 = h * self.slope[genes, left], h * self.slope[genes, left + 1]
        c0, c1 = h * h * self.curvature[genes, left], h * h * self.curvature[genes, left + 1]
        gap = f1 - f0 - d0 - c0 / 2
        slope_gap = d1 - d0 - c0
        curve_gap = c1 - c0
        k3 = 10 * gap - 4 * slope_gap + curve_gap / 2
        k4 = -15 * gap + 7 * slope_gap - curve_gap
        k5 = 6 * gap - 3 * slope_gap + curve_gap / 2
        return _Cell(self.nodes[genes, left], h, (f0, d0, c0 / 2, k3, k4, k5))

    def downhill(self, start: Float[np.ndarray, "g"]) -> Float[np.ndarray, "g"]:
        """The nearest minimum downhill from a start, or the last node before which there is none.

        Nearest as the slopes on the nodes tell.
        """
        everyone = np.arange(len(start))
        count = self.nodes.shape[1]
        there = np.arange(count) <= self.last[:, None]
        start = np.clip(start, self.nodes[:, 0], self.end)
        up = self.at(start, everyone)[1] <= 0
        above = there & (self.nodes > start[:, None])
        below = there & (self.nodes < start[:, None])
        turned = np.where(up[:, None], above & (self.slope >= 0), below & (self.slope <= 0))
        found = np.any(turned, axis=1)
        backwards = count - 1 - np.argmax(turned[:, ::-1], axis=1)
        end = np.where(up, np.argmax(turned, axis=1), backwards)
        end = np.where(found, end, np.where(up, self.last, 0))
        before = self.nodes[everyone, np.clip(end - np.where(up, 1, -1), 0, count - 1)]
        far = self.nodes[everyone, end]
        near = np.where(up, np.maximum(before, start), np.minimum(before, start))
        minimum = _root(self._cell(everyone, np.maximum(end - up, 0)), near, far)
        return np.where(found, minimum, far)


class _Cell(NamedTuple):
    """A polynomial of degree five for each gene, with all that is known at both ends of a cell."""

    left: Float[np.ndarray, "k"]
    width: Float[np.ndarray, "k"]
    coefficients: tuple[Float[np.ndarray, "k"], ...]
    """Of powers of the distance from the left node, in widths."""

    def loss(self, a: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
        """Its value."""
        t = (a - self.left) / self.width
        k0, k1, k2, k3, k4, k5 = self.coefficients
        return k0 + t * (k1 + t * (k2 + t * (k3 + t * (k4 + t * k5))))

    def slope(self, a: Float[np.ndarray, "k"]) -> Float[np.ndarray, "k"]:
        """Its derivative."""
        t = (a - self.left) / self.width
        _, k1, k2, k3, k4, k5 = self.coefficients
        return (k1 + t * (2 * k2 + t * (3 * k3 + t * (4 * k4 + t * 5 * k5)))) / self.width


def _root(
    cell: _Cell, near: Float[np.ndarray, "g"], far: Float[np.ndarray, "g"]
) -> Float[np.ndarray, "g"]:
    """Where the slope is 0 between two points of a cell at which it has two signs."""
    slope_near, slope_far = cell.slope(near), cell.slope(far)
    middle = near
    for _ in range(_SECANTS):
        rise = slope_near - slope_far
        share = np.clip(slope_near / np.where(rise == 0, 1.0, rise), _AWAY, 1 - _AWAY)
        middle = near + share * (far - near)
        slope = cell.slope(middle)
        same = slope * slope_far > 0
        # Illinois: an end that stays counts half, so that both ends move.
        slope_near = np.where(same, slope_near / 2, slope)
        near = np.where(same, near, middle)
        slope_far = np.where(same, slope, slope_far / 2)
        far = np.where(same, middle, far)
    return middle
