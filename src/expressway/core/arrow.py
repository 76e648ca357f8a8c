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

# From here on a first run, which compiles, takes no longer than with dense matrices; later ones
# take a ninth of the time (1,500 genes x 88 samples on two cores).
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
        return jnp.asarray(self.border @ rest.T) + self.value[:, None] * run.T[self.level]

    def __rmatmul__(self, a: Any) -> jax.Array:
        """``a x`` of a matrix of n columns."""
        a = jnp.asarray(a)
        run = _by_level(self, jnp.asarray(self.value)[:, None], a.T)[:, 0].T
        return join(a @ self.border, run, self.span)

    def sparse(self) -> sparse.csc_matrix:
        """The same as a SciPy matrix."""
        n, rows = self.shape[0], np.flatnonzero(self.value)
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


def wide(columns: sparse.csc_matrix, many: int = MANY) -> Wide | Float[np.ndarray, "n p"]:
    """The design of these columns; a plain matrix where too few are disjoint.

    The run is the longest of neighbouring columns with disjoint support: a factor's dummies, or
    those of an interaction. With a border of more than half its length little is gained.
    """
    columns = columns.copy()
    columns.eliminate_zeros()
    shape: Any = columns.shape
    n, p = shape
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


def _by_level(
    x: Wide, columns: Float[Array, "n k"], v: Float[Array, "n g"]
) -> Float[Array, "l k g"]:
    """``sum c_nk v_ng`` over the rows of each level of the run.

    A plain loop over rows: XLA's scatter first writes the products down, one column after the
    other, and takes seven times as long.
    """
    level, v = jnp.asarray(x.level), jnp.asarray(v)

    def add(n: int | Int[Array, ""], total: Float[Array, "l k g"]) -> Float[Array, "l k g"]:
        term = jax.lax.dynamic_slice_in_dim(columns, n, 1).T * jax.lax.dynamic_slice_in_dim(v, n, 1)
        so_far = jax.lax.dynamic_slice_in_dim(total, level[n], 1)
        return jax.lax.dynamic_update_slice_in_dim(total, so_far + term[None], level[n], 0)

    shape = (x.span.count, columns.shape[1], v.shape[1])
    return jax.lax.fori_loop(0, v.shape[0], add, jnp.zeros(shape))


@linear._crossproduct.register(Wide)
def _crossproduct(x: Wide, w: Float[Array, "n g"]) -> Arrow:
    value = jnp.asarray(x.value)[:, None]
    sums = _by_level(x, jnp.concatenate([x.border, value], axis=1) * value, w)
    return Arrow(
        border=linear.weighted_crossproduct(w, x.border),
        cross=jnp.transpose(sums[:, :-1], (2, 1, 0)),
        diagonal=sums[:, -1].T,
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


@linear.solved_alike.register(Arrow)
def _solved(a: Arrow, b: Float[np.ndarray, "g p"]) -> Float[np.ndarray, "g p"]:
    return np.asarray(_once(a, b))


@jax.jit
def _once(a: Arrow, b: Float[Array, "g p"]) -> Float[Array, "g p"]:
    return linear.solve(linear.cholesky(a), b)


@linear.quadratic.register(Arrow)
def _quadratic(a: Arrow, v: Float[np.ndarray, "p"]) -> Float[np.ndarray, "g"]:
    run = v[a.span.start : a.span.stop]
    rest = np.concatenate([v[: a.span.start], v[a.span.stop :]])
    turned = 2.0 * (np.asarray(a.cross) @ run) + np.asarray(a.border) @ rest
    return turned @ rest + np.asarray(a.diagonal) @ run**2


@linear.quadratics.register(Arrow)
def _quadratics(a: Arrow, rows: sparse.csr_matrix) -> Float[np.ndarray, "k g"]:
    g, q, count = a.cross.shape
    run = rows[:, a.span.start : a.span.stop]
    rest = sparse.hstack([rows[:, : a.span.start], rows[:, a.span.stop :]]).toarray()
    cross = np.transpose(np.asarray(a.cross), (2, 1, 0)).reshape(count, q * g)
    turned = 2.0 * (run @ cross).reshape(-1, q, g) + np.einsum("ki,gij->kjg", rest, a.border)
    return np.einsum("kj,kjg->kg", rest, turned) + run.power(2) @ a.diagonal.T
