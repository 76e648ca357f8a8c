"""What is made of arrows when a fit is done: inverses, covariances, projectors on null spaces.

They are a diagonal and a product of few columns, ``O(q L)`` numbers a gene (`core.arrow`).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from expressway._types import Array, Float, Int

from . import linear
from .arrow import UNROLLED, Arrow, Span, Wide, join, split


class LowRank(NamedTuple):
    """Symmetric matrices ``diag(d) + F K F'``: inverses of arrows, projectors, covariances."""

    diagonal: Float[Array, "g p"]
    factor: Float[Array, "g p m"]
    core: Float[Array, "g m m"]


def _rows(w: Float[Array, "g q l"], span: Span) -> Float[np.ndarray, "g p q"]:
    """``U = (I, w)'``, its rows in the order of the columns."""
    eye = np.broadcast_to(np.eye(w.shape[1]), (w.shape[0], w.shape[1], w.shape[1]))
    return np.swapaxes(np.asarray(join(eye, w, span)), 1, 2)


def _on_run(run: Float[Array, "g l"], span: Span, q: int) -> Float[np.ndarray, "g p"]:
    """Entries of the run, 0 for the border."""
    return np.asarray(join(np.zeros((len(run), q)), run, span))


@linear.sandwich.register(Arrow)
def _sandwich(info: Arrow, ridge: float) -> tuple[LowRank, LowRank]:
    """``A⁻¹ = E + U K U'``, and ``A⁻¹ - ridge A⁻²``, whose factor is ``(U, E U)``."""
    q = info.border.shape[-1]
    over = 1.0 / (info.diagonal + ridge)
    w = -info.cross * over[:, None, :]
    core = np.linalg.inv(info.border + ridge * np.eye(q) + w @ np.swapaxes(info.cross, 1, 2))
    u = _rows(w, info.span)
    inverted = LowRank(_on_run(over, info.span, q), u, core)
    return covariance(inverted, ridge), inverted


def covariance(inverted: LowRank, ridge: float) -> LowRank:
    """``A⁻¹ (A - ridge) A⁻¹ = A⁻¹ - ridge A⁻²`` from ``A⁻¹``."""
    over, u, core = inverted
    across = -ridge * core
    corner = core + across @ (np.swapaxes(u, 1, 2) @ u) @ core
    return LowRank(
        over - ridge * over**2,
        np.concatenate([u, over[:, :, None] * u], axis=2),
        np.block([[corner, across], [across, np.zeros_like(core)]]),
    )


@linear.hat.register(LowRank)
def _hat(a: LowRank, x: Wide) -> Float[Array, "n g"]:
    factor = jnp.asarray(a.factor)
    turned = jnp.einsum("gpm,gmk->gpk", factor, a.core)
    squared = x._replace(border=x.border**2, value=x.value**2)

    def more(k: int | Int[Array, ""], so_far: Float[Array, "n g"]) -> Float[Array, "n g"]:
        return so_far + (x @ factor[:, :, k].T) * (x @ turned[:, :, k].T)

    m = factor.shape[-1]
    without = squared @ a.diagonal.T
    return jax.lax.fori_loop(0, m, more, without, unroll=m <= UNROLLED) if m else without


@linear.diagonal.register(LowRank)
def _diagonal(a: LowRank) -> Float[np.ndarray, "g p"]:
    return a.diagonal + np.sum((a.factor @ a.core) * a.factor, axis=2)


@linear.quadratic.register(LowRank)
def _quadratic(a: LowRank, v: Float[np.ndarray, "p"]) -> Float[np.ndarray, "g"]:
    some = np.flatnonzero(v)
    inside = np.einsum("p,gpm->gm", v[some], a.factor[:, some])
    return a.diagonal[:, some] @ v[some] ** 2 + np.einsum("gm,gmk,gk->g", inside, a.core, inside)


@linear.quadratics.register(LowRank)
def _quadratics(a: LowRank, rows: sparse.csr_matrix) -> Float[np.ndarray, "k g"]:
    g, p, m = a.factor.shape
    inside = rows @ np.moveaxis(np.asarray(a.factor), 0, -1).reshape(p, m * g)
    inside = inside.reshape(-1, m, g)
    return rows.power(2) @ a.diagonal.T + np.einsum("kmg,gmj,kjg->kg", inside, a.core, inside)


@linear.least_against.register(Arrow)
def _least_against(
    normal: Arrow, positive: Arrow, total: Float[np.ndarray, "g p"], tolerance: float
) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k p"], LowRank]:
    """The null space: levels without a count, and ``(b, -D⁻¹C'b)`` of b in that of the Schur part.

    In a basis of it the least-squares problem is an arrow again.
    """
    span, q = positive.span, positive.border.shape[-1]
    largest = np.maximum(positive.diagonal.max(axis=1), 1.0)
    sizes = np.diagonal(positive.border, axis1=1, axis2=2)
    scale = tolerance * np.maximum(largest, sizes.max(axis=1, initial=0.0))[:, None]
    empty = positive.diagonal <= scale
    over = np.where(empty, 0.0, 1.0 / np.where(empty, 1.0, positive.diagonal))
    w = -positive.cross * over[:, None, :]
    value, vector = np.linalg.eigh(positive.border + w @ np.swapaxes(positive.cross, 1, 2))
    null = value <= scale
    some = np.flatnonzero(np.any(null, axis=1) | np.any(empty, axis=1))
    empty, w, null = empty[some], w[some], null[some]
    basis = vector[some] * null[:, None, :]
    rest = ~null[:, :, None] * np.eye(q)  # the identity where there is no direction
    along = np.swapaxes(w, 1, 2) @ basis  # the run's part of each basis vector
    gram = np.swapaxes(basis, 1, 2) @ basis + np.swapaxes(along, 1, 2) @ along + rest
    core = basis @ np.linalg.inv(gram) @ np.swapaxes(basis, 1, 2)
    onto = LowRank(_on_run(empty * 1.0, span, q), _rows(w, span), core)
    # Of the rows without a count, in the basis.
    left: Any = jax.tree.map(lambda a, b: a[some] - b[some], normal, positive)
    above = left.border @ basis + left.cross @ along
    below = np.swapaxes(left.cross, 1, 2) @ basis + left.diagonal[:, :, None] * along
    border = np.swapaxes(basis, 1, 2) @ above + np.swapaxes(along, 1, 2) @ below + rest
    cross = np.swapaxes(below, 1, 2) * empty[:, None, :]
    each = np.where(empty, left.diagonal, 1.0)
    of_rest, of_run = (np.asarray(part) for part in split(total[some], span))
    wanted = np.einsum("gqj,gq->gj", basis, of_rest) + np.einsum("glj,gl->gj", along, of_run)
    weight = cross / each[:, None, :]
    of_run = np.where(empty, of_run, 0.0)
    schur = border - weight @ np.swapaxes(cross, 1, 2)
    inverted = np.linalg.pinv(schur, rcond=tolerance, hermitian=True)
    wanted = wanted - np.einsum("gil,gl->gi", weight, of_run)
    found = np.einsum("gij,gj->gi", inverted, wanted)
    run = np.where(empty, of_run / each - np.einsum("gil,gi->gl", weight, found), 0.0)
    run = run + np.einsum("glj,gj->gl", along, found)
    direction = join(np.einsum("gqj,gj->gq", basis, found), run, span)
    return some, np.asarray(direction), onto
