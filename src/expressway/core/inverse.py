"""Inverses of a Jacobian: factorised once, applied to any number of right-hand sides.

Each is a pytree of arrays, so that compiled functions take it as an argument, and knows how to
solve with the matrix and with its transpose. The iterative one needs the matrix's products at the
time of solving; the others do not look at them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.scipy import linalg
from jax.scipy.sparse.linalg import cg, gmres

from expressway._types import Array, Float, Int

Product = Callable[[Any], Any]
# Residual, relative to the right-hand side, at which iterations end: what derivatives lose by it is
# of this size, and conjugate gradients stop falling soon below.
RESIDUAL = 1e-13
# Right-hand sides that are iterated together.
TOGETHER = 64


@runtime_checkable
class Inverse(Protocol):
    """Solves with a matrix."""

    def solve(self, product: Product, b: Any) -> Any:
        """X with ``A x = b``."""
        ...

    def transposed(self, product: Product, b: Any) -> Any:
        """X with ``A' x = b``; the product is the transpose's."""
        ...


class Cholesky(NamedTuple):
    """Of a symmetric positive definite matrix."""

    lower: Float[Array, "d d"]

    def solve(self, product: Product, b: Any) -> Any:  # noqa: ARG002
        """X with ``L L' x = b``."""
        return linalg.cho_solve((self.lower, True), b)

    def transposed(self, product: Product, b: Any) -> Any:
        """The same: it is symmetric."""
        return self.solve(product, b)


class LU(NamedTuple):
    """Of any regular matrix, with partial pivoting."""

    factors: Float[Array, "d d"]
    pivots: Int[Array, "d"]

    def solve(self, product: Product, b: Any) -> Any:  # noqa: ARG002
        """X with ``A x = b``."""
        return linalg.lu_solve((self.factors, self.pivots), b)

    def transposed(self, product: Product, b: Any) -> Any:  # noqa: ARG002
        """X with ``A' x = b``."""
        return linalg.lu_solve((self.factors, self.pivots), b, trans=1)


class Blocks(NamedTuple):
    """Of a block-diagonal matrix: the inverse of each block."""

    inverse: Float[Array, "k b b"]
    place: Int[Array, "k b"]
    """Positions of each block's coordinates in the vector."""

    def solve(self, product: Product, b: Any) -> Any:  # noqa: ARG002
        """X with ``A x = b``, block by block."""
        return self._apply(self.inverse, b)

    def transposed(self, product: Product, b: Any) -> Any:  # noqa: ARG002
        """X with ``A' x = b``."""
        return self._apply(jnp.swapaxes(self.inverse, 1, 2), b)

    def _apply(self, inverse: Any, b: Any) -> Any:
        return (
            jnp.zeros_like(b).at[self.place].set(jnp.einsum("kij,kj->ki", inverse, b[self.place]))
        )


class Conjugate(NamedTuple):
    """Conjugate gradients for a positive definite matrix that is never formed."""

    def solve(self, product: Product, b: Any) -> Any:
        """X with ``A x = b``, to a relative residual of 1e-13 or as near as rounding lets it."""
        return cg(product, b, tol=RESIDUAL, maxiter=20 * b.size)[0]

    def transposed(self, product: Product, b: Any) -> Any:
        """The same: it is symmetric."""
        return self.solve(product, b)


class Krylov(NamedTuple):
    """GMRES for a matrix that is not symmetric and never formed."""

    def solve(self, product: Product, b: Any) -> Any:
        """X with ``A x = b``, as `Conjugate`."""
        return gmres(product, b, tol=RESIDUAL, restart=min(b.size, 60), maxiter=20 * b.size)[0]

    def transposed(self, product: Product, b: Any) -> Any:
        """X with ``A' x = b``."""
        return self.solve(product, b)


def each_row(inverse: Any, product: Product, rows: Float[Array, "m d"]) -> Float[Array, "m d"]:
    """``A⁻¹`` times each row: in one call where there is a factorisation of the whole."""
    if isinstance(inverse, Cholesky | LU):
        return inverse.solve(product, rows.T).T
    return jax.lax.map(lambda b: inverse.solve(product, b), rows, batch_size=TOGETHER)


def linear_solve(inverse: Any, product: Product, b: Any, *, symmetric: bool) -> Any:
    """``A⁻¹ b``, differentiable to any order in what A and b depend on.

    The factorisation is taken as it is: its derivatives are zero, and those of the solution come
    from the product, by the same factorisation.
    """
    held = jax.lax.stop_gradient(inverse)
    return jax.lax.custom_linear_solve(
        product,
        b,
        solve=lambda product, b: held.solve(product, b),
        transpose_solve=lambda product, b: held.transposed(product, b),
        symmetric=symmetric,
    )
