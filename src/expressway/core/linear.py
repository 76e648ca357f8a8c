"""What statistics and solvers ask of matrices, one a gene: of dense ones, with genes as the lanes.

Batched LAPACK calls inside a compiled loop block one another on small thread pools (jaxlib 0.10
on two cores stops for ever), and cost more than the arithmetic for matrices of a few columns.

The same verbs hold for the matrices of designs with many columns; `core.arrow` registers them.
What is linear in the entries (sums, multiples, some of the genes) is `jax.tree.map` of both forms.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Bool, Float, Int

_Index = int | Int[Array, ""]
_Pair = tuple[jax.Array, jax.Array]


def weighted_sum(w: Float[Array, "n #g"], v: Float[Array, "n g"]) -> Float[Array, "g"]:
    """``sum_n w_ng v_ng`` as a matrix product.

    XLA's own sum over the first axis takes three times as long, and what is summed is computed
    within it one lane at a time.
    """
    if w.shape[1] == 1:
        return w[:, 0] @ v
    return jnp.ones(v.shape[0]) @ (w * v)


def weighted_crossproduct(w: Float[Array, "n g"], x: Any) -> Any:
    """``sum_n w_ng x_n x_n'`` of each gene: dense, or an arrow where the design is wide."""
    return _crossproduct(x, w)


@functools.singledispatch
def _crossproduct(x: Float[Array, "n p"], w: Float[Array, "n g"]) -> Any:
    """One matrix product for all genes, of the half that differs."""
    row, column = np.triu_indices(x.shape[1])
    half = (x[:, row] * x[:, column]).T @ w
    place = np.zeros((x.shape[1], x.shape[1]), dtype=int)
    place[row, column] = place[column, row] = np.arange(len(row))
    return jnp.moveaxis(half[place], -1, 0)


@functools.singledispatch
def with_ones(x: Float[Array, "n p"]) -> Any:
    """``(1, x)``: a design with a column of ones before it."""
    return jnp.column_stack([jnp.ones(x.shape[0]), x])


@functools.singledispatch
def without_first(a: Float[np.ndarray, "g q q"]) -> Any:
    """The crossproduct of a design from that of `with_ones` of it."""
    return a[:, 1:, 1:]


@functools.singledispatch
def distinct(x: Float[np.ndarray, "n p"]) -> tuple[Int[np.ndarray, "n"], Int[np.ndarray, "u"]]:
    """Number of each row among the distinct rows of a design, and how often each of them is."""
    _, number, size = np.unique(x, axis=0, return_inverse=True, return_counts=True)
    return number.reshape(x.shape[0]), size


@functools.singledispatch
def ridged(a: Float[Array, "g p p"], ridge: float) -> Any:
    """``a + ridge I``."""
    return a + ridge * jnp.eye(a.shape[-1])[None]


@functools.singledispatch
def raised(a: Float[Array, "g p p"], diagonal: Float[Array, "g p"]) -> Any:
    """Matrices with something added to each entry of their diagonals."""
    return a + diagonal[:, :, None] * jnp.eye(a.shape[-1])[None]


@functools.singledispatch
def product(a: Float[Array, "g p p"], v: Float[Array, "g p"]) -> Float[Array, "g p"]:
    """``a v``."""
    return jnp.einsum("gpq,gq->gp", a, v)


@functools.singledispatch
def frozen(a: Float[Array, "g p p"], free: Bool[Array, "g p"]) -> Any:
    """The matrix with rows and columns that are not free made those of the identity."""
    both = free[:, :, None] & free[:, None, :]
    return jnp.where(both, a, jnp.eye(free.shape[-1])[None])


@functools.singledispatch
def repeat(
    a: Float[Array, "g p p"],  # noqa: ARG001
    count: int,
    body: Any,
    start: Any,
    more: Any,  # noqa: ARG001
) -> Any:
    """``carry = body(i, carry)`` so many times; with many columns only while ``more(carry)``."""
    return jax.lax.fori_loop(0, count, body, start)


@functools.singledispatch
def cholesky(a: Float[Array, "g p p"]) -> Any:
    """Lower factor L with ``L L' = a``; NaN for a gene whose matrix is not positive definite."""
    rest = jnp.moveaxis(a, 0, -1)
    p = rest.shape[0]
    index = jnp.arange(p)[:, None]

    def eliminate(j: _Index, carry: _Pair) -> _Pair:
        rest, factor = carry
        column = jnp.where(index >= j, rest[:, j] / jnp.sqrt(rest[j, j])[None], 0.0)
        return rest - column[:, None] * column[None, :], factor.at[:, j].set(column)

    factor = _for_each(p, eliminate, (rest, jnp.zeros_like(rest)))[1]
    return jnp.moveaxis(factor, -1, 0)


@functools.singledispatch
def definite(factor: Float[Array, "g p p"]) -> Bool[Array, "g"]:
    """Whether the matrix is positive definite."""
    return jnp.isfinite(factor[:, -1, -1])


@functools.singledispatch
def solve(factor: Float[Array, "g p p"], b: Float[Array, "g p"]) -> Float[Array, "g p"]:
    """X with ``L L' x = b``."""
    return _substitute(factor, b[:, :, None])[:, :, 0]


@functools.singledispatch
def traces(
    factor: Float[Array, "g p p"], first: Float[Array, "g p p"], second: Float[Array, "g p p"]
) -> tuple[Float[Array, "g"], Float[Array, "g"]]:
    """Two derivatives of log det A, of A's: ``tr A⁻¹F`` and ``tr A⁻¹S - tr (A⁻¹F)²``."""
    if factor.shape[-1] <= UNROLLED:
        return _traces_unrolled(factor, first, second)
    inverted = inverse(factor)
    turned = jnp.einsum("gij,gjk->gik", inverted, first)
    slope = jnp.trace(turned, axis1=-2, axis2=-1)
    return slope, jnp.sum(inverted * second - turned * jnp.swapaxes(turned, 1, 2), (1, 2))


def _traces_unrolled(
    factor: Float[Array, "g p p"], first: Float[Array, "g p p"], second: Float[Array, "g p p"]
) -> tuple[Float[Array, "g"], Float[Array, "g"]]:
    """As `traces`, entry by entry: with ``M = L⁻¹F L⁻ᵀ``, ``tr M`` and ``tr M²``.

    A third of the time that XLA takes for products of small matrices.
    """
    p = factor.shape[-1]
    low, f, s = (_entries(a) for a in (factor, first, second))
    back: list[list[Any]] = [[0.0] * p for _ in range(p)]  # L⁻¹
    for j in range(p):
        back[j][j] = 1.0 / low[j][j]
        for i in range(j + 1, p):
            back[i][j] = -sum(low[i][k] * back[k][j] for k in range(j, i)) / low[i][i]

    def turned(a: list[list[Any]], i: int, j: int) -> Any:
        """An entry of ``L⁻¹A L⁻ᵀ``."""
        return sum(back[i][k] * a[k][m] * back[j][m] for k in range(i + 1) for m in range(j + 1))

    slope = sum(turned(f, i, i) for i in range(p))
    curvature = sum(turned(s, i, i) - turned(f, i, i) ** 2 for i in range(p))
    across = sum((turned(f, i, j) ** 2 for i in range(p) for j in range(i)), jnp.zeros(len(factor)))
    return jnp.asarray(slope), curvature - 2.0 * across


def _entries(a: Float[Array, "g p p"]) -> list[list[jax.Array]]:
    """Rows and columns of matrices, genes in the lanes."""
    p = a.shape[-1]
    return [[jnp.asarray(a)[:, i, j] for j in range(p)] for i in range(p)]


def inverse(factor: Float[Array, "g p p"]) -> Float[Array, "g p p"]:
    """``(L L')⁻¹``."""
    return _substitute(factor, jnp.broadcast_to(jnp.eye(factor.shape[-1]), factor.shape))


@functools.singledispatch
def log_determinant(factor: Float[Array, "g p p"]) -> Float[Array, "g"]:
    """``log det(L L')``."""
    return 2 * jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)


@functools.singledispatch
def solved_alike(
    a: Float[np.ndarray, "g p p"], b: Float[np.ndarray, "g p"]
) -> Float[np.ndarray, "g p"]:
    """``a⁻¹ b``, once, of matrices that are the same for every gene."""
    return np.linalg.solve(a[0], b.T).T if len(b) else np.zeros_like(b)


@functools.singledispatch
def sandwich(info: Float[np.ndarray, "g p p"], ridge: float) -> tuple[Any, Any]:
    """``(I + ridge)⁻¹ I (I + ridge)⁻¹`` and ``(I + ridge)⁻¹``."""
    inverted = np.linalg.inv(info + ridge * np.eye(info.shape[-1]))
    return inverted @ info @ inverted, inverted


@functools.singledispatch
def hat(inverted: Float[Array, "g p p"], x: Float[Array, "n p"]) -> Float[Array, "n g"]:
    """``x' A⁻¹ x`` of every row."""
    n, p = x.shape
    outer = (x[:, :, None] * x[:, None, :]).reshape(n, p * p)
    return outer @ inverted.reshape(-1, p * p).T


@functools.singledispatch
def diagonal(a: Float[np.ndarray, "g p p"]) -> Float[np.ndarray, "g p"]:
    """Diagonal of each matrix."""
    return np.diagonal(a, axis1=1, axis2=2)


@functools.singledispatch
def quadratic(a: Float[np.ndarray, "g p p"], v: Float[np.ndarray, "p"]) -> Float[np.ndarray, "g"]:
    """``v' a v``."""
    return np.einsum("p,gpq,q->g", v, a, v)


@functools.singledispatch
def quadratics(a: Float[np.ndarray, "g p p"], rows: Any) -> Float[np.ndarray, "k g"]:
    """``v' a v`` of every row v of a sparse matrix."""
    g, p, _ = a.shape
    turned = (rows @ np.moveaxis(a, 0, -1).reshape(p, p * g)).reshape(rows.shape[0], p, g)
    return np.einsum("kp,kpg->kg", rows.toarray(), turned)


@functools.singledispatch
def least_against(
    normal: Float[np.ndarray, "g p p"],
    positive: Float[np.ndarray, "g p p"],
    total: Float[np.ndarray, "g p"],
    tolerance: float,
) -> tuple[Int[np.ndarray, "k"], Float[np.ndarray, "k p"], Any]:
    """In the null space N of ``positive``, the d nearest to ``x d = 1`` for the other rows.

    Nearest by least squares; ``normal`` and ``total`` are sums over all rows.

    Returns
    -------
    tuple
        Genes that have such a space, their d, and their projectors on N.
    """
    # A sum without the other rows is whole: most genes have none, and there are many.
    whole, part = (np.diagonal(a, axis1=1, axis2=2) for a in (normal, positive))
    tried = np.flatnonzero(np.any(whole - part > tolerance * whole, axis=1))
    value, vector = np.linalg.eigh(positive[tried])
    null = value <= tolerance * np.maximum(value[:, -1:], 1.0)
    empty = np.any(null, axis=1)
    some = tried[empty]
    basis = vector[empty] * null[empty][:, None, :]
    onto = basis @ np.swapaxes(basis, 1, 2)
    without = onto @ (normal - positive)[some] @ onto
    inverted = np.linalg.pinv(without, rcond=tolerance, hermitian=True)
    return some, np.einsum("gpq,gq->gp", inverted @ onto, total[some]), onto


def _substitute(factor: Float[Array, "g p p"], b: Float[Array, "g p m"]) -> Float[Array, "g p m"]:
    """Forward and back substitution, column by column."""
    lower, rest = jnp.moveaxis(factor, 0, -1), jnp.moveaxis(b, 0, -1)
    p = rest.shape[0]
    index = jnp.arange(p)[:, None, None]

    def forward(j: _Index, rest: jax.Array) -> jax.Array:
        x = rest[j] / lower[j, j][None]
        below = jnp.where(index > j, rest - lower[:, j][:, None] * x[None], rest)
        return below.at[j].set(x)

    def back(step: _Index, rest: jax.Array) -> jax.Array:
        j = p - 1 - step
        x = rest[j] / lower[j, j][None]
        above = jnp.where(index < j, rest - lower[j][:, None] * x[None], rest)
        return above.at[j].set(x)

    rest = _for_each(p, forward, rest)
    return jnp.moveaxis(_for_each(p, back, rest), -1, 0)


def _for_each(p, body, carry):
    """A loop over columns, written out while that is quick to compile."""
    return jax.lax.fori_loop(0, p, body, carry, unroll=p <= UNROLLED)


# Unrolled, a loop of p steps is faster and compiles in time proportional to p.
UNROLLED = 6
