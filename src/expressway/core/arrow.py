"""Designs of many columns, of which most are never non-zero together, and their matrices.

The dummies of a factor of a thousand levels have disjoint support: a row has at most one of them.
With such a run of L columns beside a border of q others, ``X'WX`` is an arrow: the border's
``q × q``, a cross part ``q × L``, and a diagonal of L. Eliminating the run first leaves the
Schur complement ``S = B - C D⁻¹ C'`` of the border, so that a gene costs ``O(L q²)`` instead of
``(q + L)³``. A ridge keeps the form, and so does the identity in frozen coordinates.

Everything here has the names of `core.linear`, which sends matrices of these types here.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from expressway._types import Array, Bool, Float, Int

from . import linear

# Fewer disjoint columns are quicker as dense matrices, which compile and run in vector lanes.
MANY = 16
# Loops over columns of the border are written out up to here.
UNROLLED = 6


@jax.tree_util.register_static
@dataclass(frozen=True)
class Span:
    """Which columns are the disjoint ones: ``start`` … ``stop - 1``."""

    start: int
    stop: int

    @property
    def count(self) -> int:
        """How many there are."""
        return self.stop - self.start


class Wide(NamedTuple):
    """A design of which a run of neighbouring columns has at most one entry in a row.

    It stands where a matrix ``n × p`` stands: ``x @ b``, ``a @ x`` and ``x.shape``.
    """

    border: Float[Array, "n q"]
    """The other columns, in their order."""
    value: Float[Array, "n"]
    """The row's entry in the run; 0 for none."""
    level: Int[Array, "n"]
    """In which column of the run it is, counted from its first; any where there is none."""
    span: Span

    # NumPy's arrays leave products to the methods below.
    __array_ufunc__ = None

    @property
    def shape(self) -> tuple[int, int]:
        """Of the matrix that it stands for."""
        return self.border.shape[0], self.border.shape[1] + self.span.count

    def __matmul__(self, b: Any) -> jax.Array:
        """``x b`` of a matrix of p rows."""
        rest, run = split(jnp.asarray(b).T, self.span)
        return self.border @ rest.T + self.value[:, None] * run.T[self.level]

    def __rmatmul__(self, a: Any) -> jax.Array:
        """``a x`` of a matrix of n columns."""
        a = jnp.asarray(a)
        return join(a @ self.border, _by_level(self, a.T * self.value[:, None]).T, self.span)

    def sparse(self) -> sparse.csc_matrix:
        """The same as a SciPy matrix."""
        n, (rows,) = self.shape[0], np.nonzero(self.value)
        entries = (np.asarray(self.value)[rows], (rows, np.asarray(self.level)[rows]))
        run = sparse.csc_matrix(entries, shape=(n, self.span.count))
        border = sparse.csc_matrix(np.asarray(self.border))
        start = self.span.start
        return sparse.csc_matrix(sparse.hstack([border[:, :start], run, border[:, start:]]))


class Arrow(NamedTuple):
    """Symmetric matrices with a border, and a diagonal elsewhere."""

    border: Float[Array, "g q q"]
    cross: Float[Array, "g q l"]
    diagonal: Float[Array, "g l"]
    span: Span


class ArrowFactor(NamedTuple):
    """What solves systems of an arrow."""

    lower: Float[Array, "g q q"]
    """Cholesky factor of the border's Schur complement."""
    weight: Float[Array, "g q l"]
    """``C D⁻¹``."""
    diagonal: Float[Array, "g l"]
    """D; NaN where it is not positive."""
    span: Span


class LowRank(NamedTuple):
    """Symmetric matrices ``diag(d) + F K F'``: inverses of arrows, projectors, covariances."""

    diagonal: Float[Array, "g p"]
    factor: Float[Array, "g p m"]
    core: Float[Array, "g m m"]


def wide(columns: sparse.csc_matrix, many: int = MANY) -> Wide | Float[np.ndarray, "n p"]:
    """The design of these columns; a plain matrix where too few are disjoint.

    The run is the longest of neighbouring columns with disjoint support: a factor's dummies, or
    those of an interaction. With a border of more than half its length little is gained.
    """
    columns = columns.copy()
    columns.eliminate_zeros()
    n, p = columns.shape
    last = np.full(n, -1)  # column of each row's last entry so far
    left, best = 0, Span(0, 0)
    for j in range(p):
        rows = columns.indices[columns.indptr[j] : columns.indptr[j + 1]]
        left = max(left, int(last[rows].max(initial=-1)) + 1)
        last[rows] = j
        if j + 1 - left > best.count:
            best = Span(left, j + 1)
    if best.count < many or p - best.count > best.count // 2:
        return columns.toarray()
    run = sparse.csr_matrix(columns[:, best.start : best.stop])
    rows = np.diff(run.indptr) > 0
    value, level = np.zeros(n), np.zeros(n, dtype=int)
    value[rows], level[rows] = run.data, run.indices
    ends = [columns[:, : best.start], columns[:, best.stop :]]
    return Wide(sparse.csc_matrix(sparse.hstack(ends)).toarray(), value, level, best)


def split(v: Array, span: Span) -> tuple[jax.Array, jax.Array]:
    """Border and run of what has the columns as last axis."""
    v = jnp.asarray(v)
    rest = jnp.concatenate([v[..., : span.start], v[..., span.stop :]], axis=-1)
    return rest, v[..., span.start : span.stop]


def join(rest: Array, run: Array, span: Span) -> jax.Array:
    """What `split` took apart."""
    at = span.start
    return jnp.concatenate([rest[..., :at], run, rest[..., at:]], axis=-1)


def _by_level(x: Wide, v: Float[Array, "n g"]) -> Float[Array, "l g"]:
    """Sums of rows over the levels of the run."""
    return jax.ops.segment_sum(v, x.level, x.span.count)


@linear._crossproduct.register(Wide)
def _crossproduct(x: Wide, w: Float[Array, "n g"]) -> Arrow:
    inside = w * x.value[:, None]

    def of(column: Float[Array, "n"]) -> Float[Array, "l g"]:
        return _by_level(x, inside * column[:, None])

    q = x.border.shape[1]
    if q > UNROLLED:
        cross = jax.lax.map(of, jnp.asarray(x.border).T)
    else:
        parts = [of(x.border[:, k]) for k in range(q)]
        cross = jnp.stack(parts) if q else jnp.zeros((0, x.span.count, w.shape[1]))
    return Arrow(
        border=linear.weighted_crossproduct(w, x.border),
        cross=jnp.moveaxis(cross, -1, 0),
        diagonal=of(x.value).T,
        span=x.span,
    )


@linear.with_ones.register(Wide)
def _with_ones(x: Wide) -> Wide:
    span = Span(x.span.start + 1, x.span.stop + 1)
    return x._replace(border=linear.with_ones(x.border), span=span)


@linear.without_first.register(Arrow)
def _without_first(a: Arrow) -> Arrow:
    span = Span(a.span.start - 1, a.span.stop - 1)
    return Arrow(a.border[:, 1:, 1:], a.cross[:, 1:], a.diagonal, span)


@linear.distinct.register(Wide)
def _distinct(x: Wide) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "u"]]:
    level = np.where(x.value != 0, x.level, -1)
    return linear.distinct(np.column_stack([level, x.value, x.border]))


@linear.ridged.register(Arrow)
def _ridged(a: Arrow, ridge: float) -> Arrow:
    return a._replace(border=linear.ridged(a.border, ridge), diagonal=a.diagonal + ridge)


@linear.product.register(Arrow)
def _product(a: Arrow, v: Float[Array, "g p"]) -> Float[Array, "g p"]:
    rest, run = split(v, a.span)
    above = jnp.einsum("gij,gj->gi", a.border, rest) + jnp.einsum("gil,gl->gi", a.cross, run)
    below = jnp.einsum("gil,gi->gl", a.cross, rest) + a.diagonal * run
    return join(above, below, a.span)


@linear.frozen.register(Arrow)
def _frozen(a: Arrow, free: Bool[Array, "g p"]) -> Arrow:
    rest, run = split(free, a.span)
    both = rest[:, :, None] & run[:, None, :]
    return a._replace(
        border=linear.frozen(a.border, rest),
        cross=jnp.where(both, a.cross, 0.0),
        diagonal=jnp.where(run, a.diagonal, 1.0),
    )


@linear.repeat.register(Arrow)
def _repeat(a: Arrow, count: int, body: Any, start: Any, more: Any) -> Any:  # noqa: ARG001
    def inside(state: Any) -> Bool[Array, ""]:
        return (state[0] < count) & more(state[1])

    return jax.lax.while_loop(inside, lambda s: (s[0] + 1, body(s[0], s[1])), (0, start))[1]


@linear.cholesky.register(Arrow)
def _cholesky(a: Arrow) -> ArrowFactor:
    diagonal = jnp.where(a.diagonal > 0, a.diagonal, jnp.nan)
    weight = a.cross / diagonal[:, None, :]
    schur = a.border - jnp.einsum("gil,gjl->gij", weight, a.cross)
    lower = linear.cholesky(schur) if schur.shape[-1] else schur
    return ArrowFactor(lower, weight, diagonal, a.span)


@linear.definite.register(ArrowFactor)
def _definite(factor: ArrowFactor) -> Bool[Array, "g"]:
    found = jnp.all(jnp.isfinite(factor.diagonal), axis=-1)
    return found & linear.definite(factor.lower) if factor.lower.shape[-1] else found


@linear.solve.register(ArrowFactor)
def _solve(factor: ArrowFactor, b: Float[Array, "g p"]) -> Float[Array, "g p"]:
    rest, run = split(b, factor.span)
    rest = rest - jnp.einsum("gil,gl->gi", factor.weight, run)
    rest = linear.solve(factor.lower, rest) if rest.shape[-1] else rest
    run = run / factor.diagonal - jnp.einsum("gil,gi->gl", factor.weight, rest)
    return join(rest, run, factor.span)


@linear.log_determinant.register(ArrowFactor)
def _log_determinant(factor: ArrowFactor) -> Float[Array, "g"]:
    run = jnp.sum(jnp.log(factor.diagonal), axis=-1)
    return run + linear.log_determinant(factor.lower) if factor.lower.shape[-1] else run


@linear.traces.register(ArrowFactor)
def _traces(
    factor: ArrowFactor, first: Arrow, second: Arrow
) -> tuple[Float[Array, "g"], Float[Array, "g"]]:
    """With ``A⁻¹ = E + U K U'``, E the run's ``D⁻¹``, ``U = (I, -C D⁻¹)'``, ``K = S⁻¹``.

    ``tr (A⁻¹F)² = tr (E F)² + 2 tr K U'F E F U + tr (K U'F U)²``.
    """
    w = -factor.weight

    def around(a: Arrow) -> tuple[Float[Array, "g q q"], Float[Array, "g q l"]]:
        """``U'A U``, and the run's rows of ``A U``."""
        below = a.cross + a.diagonal[:, None, :] * w
        above = a.border + jnp.einsum("gil,gjl->gij", a.cross, w)
        return above + jnp.einsum("gil,gjl->gij", w, below), below

    (f, rows), (s, _) = around(first), around(second)
    share = first.diagonal / factor.diagonal
    slope = jnp.sum(share, axis=-1)
    curvature = jnp.sum(second.diagonal / factor.diagonal - share**2, axis=-1)
    if not factor.lower.shape[-1]:
        return slope, curvature
    squared = jnp.einsum("gil,gjl->gij", rows / factor.diagonal[:, None, :], rows)
    inner, outer = linear.traces(factor.lower, f, s - 2.0 * squared)
    return slope + inner, curvature + outer


@linear.solved.register(Arrow)
def _solved(a: Arrow, b: Float[np.ndarray, "g p"]) -> Float[np.ndarray, "g p"]:
    return np.asarray(_once(a, b))


@jax.jit
def _once(a: Arrow, b: Float[Array, "g p"]) -> Float[Array, "g p"]:
    return linear.solve(linear.cholesky(a), b)


def _rows(w: Float[np.ndarray, "g q l"], span: Span) -> Float[np.ndarray, "g p q"]:
    """``U = (I, w)'``, its rows in the order of the columns."""
    eye = np.broadcast_to(np.eye(w.shape[1]), (w.shape[0], w.shape[1], w.shape[1]))
    return np.swapaxes(np.asarray(join(eye, w, span)), 1, 2)


def _on_run(run: Float[np.ndarray, "g l"], span: Span, q: int) -> Float[np.ndarray, "g p"]:
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
    turned = jnp.einsum("gpm,gmk->gpk", a.factor, a.core)
    squared = x._replace(border=x.border**2, value=x.value**2)

    def more(k: int | Int[Array, ""], so_far: Float[Array, "n g"]) -> Float[Array, "n g"]:
        return so_far + (x @ a.factor[:, :, k].T) * (x @ turned[:, :, k].T)

    m = a.factor.shape[-1]
    return jax.lax.fori_loop(0, m, more, squared @ a.diagonal.T, unroll=m <= UNROLLED)


@linear.diagonal.register(LowRank)
def _diagonal(a: LowRank) -> Float[np.ndarray, "g p"]:
    return a.diagonal + np.sum((a.factor @ a.core) * a.factor, axis=2)


@linear.quadratic.register(LowRank)
def _quadratic(a: LowRank, v: Float[np.ndarray, "p"]) -> Float[np.ndarray, "g"]:
    inside = np.einsum("p,gpm->gm", v, a.factor)
    return a.diagonal @ v**2 + np.einsum("gm,gmk,gk->g", inside, a.core, inside)


@linear.quadratic.register(Arrow)
def _arrow_quadratic(a: Arrow, v: Float[np.ndarray, "p"]) -> Float[np.ndarray, "g"]:
    return np.asarray(product_with(a, v)) @ v


def product_with(a: Arrow, v: Float[np.ndarray, "p"]) -> Float[Array, "g p"]:
    """``a v`` of one v for all genes."""
    return linear.product(a, jnp.broadcast_to(v, (a.diagonal.shape[0], len(v))))


@linear.quadratics.register(LowRank)
def _quadratics(a: LowRank, rows: sparse.csr_matrix) -> Float[np.ndarray, "k g"]:
    g, p, m = a.factor.shape
    inside = rows @ np.moveaxis(a.factor, 0, -1).reshape(p, m * g)
    inside = inside.reshape(rows.shape[0], m, g)
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
