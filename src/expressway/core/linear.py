"""Small symmetric positive definite systems, one a gene, with genes as the vector lanes.

Batched LAPACK calls inside a compiled loop block one another on small thread pools (jaxlib 0.10
on two cores stops for ever), and cost more than the arithmetic for matrices of a few columns.
"""

import jax
import jax.numpy as jnp

from expressway._types import Array, Float, Int

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


def cholesky(a: Float[Array, "g p p"]) -> Float[Array, "g p p"]:
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


def solve(factor: Float[Array, "g p p"], b: Float[Array, "g p"]) -> Float[Array, "g p"]:
    """X with ``L L' x = b``."""
    return _substitute(factor, b[:, :, None])[:, :, 0]


def inverse(factor: Float[Array, "g p p"]) -> Float[Array, "g p p"]:
    """``(L L')⁻¹``."""
    return _substitute(factor, jnp.broadcast_to(jnp.eye(factor.shape[-1]), factor.shape))


def log_determinant(factor: Float[Array, "g p p"]) -> Float[Array, "g"]:
    """``log det(L L')``."""
    return 2 * jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)


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
