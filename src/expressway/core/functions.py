"""A system at fixed hyperparameters: values, products, factorisations, the ends of its spectrum."""

import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.sparse.linalg

from expressway._types import Array, Float

from .flat import Flat
from .inverse import LU, Blocks, Cholesky, Conjugate, Inverse, Krylov
from .system import System

Structure = Literal["dense", "block", "matrix-free"]
# More parameters than this are solved without forming the Hessian, if nothing else is said.
DENSE = 3000
# So few parameters that Lanczos has no room.
FEW = 10
# A pivot below this share of the largest is rounding.
ROUNDING = 1e-15


def structure_of(system: System, asked: str | None) -> Structure:
    """How the Jacobian is treated: as asked, else by size.

    Raises
    ------
    ValueError
        No such structure.
    """
    if asked is None:
        return "dense" if system.theta.size <= DENSE else "matrix-free"
    if asked not in ("dense", "block", "matrix-free"):
        msg = f"structure {asked!r}, needed is dense, block or matrix-free"
        raise ValueError(msg)
    return asked  # pyright: ignore[reportReturnType]


class Functions(NamedTuple):
    """A system at fixed hyperparameters."""

    system: System
    h: Float[Array, "p"]
    held: Any
    structure: Structure

    @property
    def theta(self) -> Flat:
        """How parameters lie in a vector, and what they are called."""
        return self.system.theta

    @property
    def symmetric(self) -> bool:
        """Whether the Jacobian is a Hessian."""
        return self.system.symmetric

    def both(self, t: Any) -> tuple[float, Float[np.ndarray, "d"]]:
        """Objective and gradient; of an equation half its squared norm, and itself."""
        value, gradient = self.system.both(t, self.h, self.held)
        return float(value), np.asarray(gradient)

    def gradient(self, t: Any) -> Float[np.ndarray, "d"]:
        """Gradient, or equation."""
        return self.both(t)[1]

    def product(self, t: Any, v: Any) -> Any:
        """Jacobian times a vector."""
        return self.system.product(t, self.h, self.held, v)

    def matrix(self, t: Any) -> Float[np.ndarray, "d d"]:
        """Jacobian."""
        found = np.asarray(self.system.jacobian(t, self.h, self.held))
        return 0.5 * (found + found.T) if self.symmetric else found

    def blocks(self, t: Any) -> Float[np.ndarray, "k b b"]:
        """Its diagonal blocks."""
        return np.asarray(self.system.blocks(t, self.h, self.held))


class Closed(NamedTuple):
    """An objective whose derivatives are written out: nothing is compiled for it."""

    value_gradient: Callable[[Float[np.ndarray, "d"]], tuple[float, Float[np.ndarray, "d"]]]
    hessian: Callable[[Float[np.ndarray, "d"]], Float[np.ndarray, "d d"]]
    theta: Flat
    structure: Structure = "dense"
    symmetric: bool = True

    def both(self, t: Any) -> tuple[float, Float[np.ndarray, "d"]]:
        """Objective and gradient."""
        return self.value_gradient(np.asarray(t))

    def gradient(self, t: Any) -> Float[np.ndarray, "d"]:
        """Gradient."""
        return self.both(t)[1]

    def product(self, t: Any, v: Any) -> Any:
        """Hessian times a vector."""
        return self.matrix(t) @ v

    def matrix(self, t: Any) -> Float[np.ndarray, "d d"]:
        """Hessian."""
        return self.hessian(np.asarray(t))

    def blocks(self, t: Any) -> Float[np.ndarray, "k b b"]:
        """Its diagonal blocks."""
        return self.matrix(t)[
            self.theta.block_index()[:, :, None], self.theta.block_index()[:, None]
        ]


def finite(f: Functions | Closed, t: Any, value: float, gradient: np.ndarray) -> None:
    """Nothing, where all is finite.

    Raises
    ------
    ValueError
        It is not: where.
    """
    if not np.isfinite(value):
        msg = f"the objective is {value} at the start; start where it is finite"
        raise ValueError(msg)
    if not np.all(np.isfinite(gradient)):
        at = int(np.flatnonzero(~np.isfinite(gradient))[0])
        what = "gradient" if f.symmetric else "equation"
        msg = (
            f"the {what} of {f.theta.label(at)} is {gradient[at]} where that is "
            f"{float(t[at]):.6g}; start elsewhere, or write the function so that it is finite there"
        )
        raise ValueError(msg)


def inverted(f: Functions | Closed, t: Any, matrix: Float[np.ndarray, "d d"] | None = None) -> Any:
    """Factorisation at a point, where a dense matrix may be at hand."""
    if f.structure == "matrix-free":
        return Conjugate() if f.symmetric else Krylov()
    if f.structure == "block":
        blocks = f.blocks(t)
        try:
            inverse = np.linalg.inv(blocks)
        except np.linalg.LinAlgError:
            inverse = np.linalg.pinv(blocks)
        return Blocks(jnp.asarray(inverse), jnp.asarray(f.theta.block_index()))
    matrix = f.matrix(t) if matrix is None else matrix
    if f.symmetric:
        try:
            return Cholesky(jnp.asarray(scipy.linalg.cholesky(matrix, lower=True)))
        except scipy.linalg.LinAlgError:
            pass
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # singular: see below
        factors, pivots = scipy.linalg.lu_factor(matrix, check_finite=False)
    # On a singular matrix a step of least length, by a little added where the pivot is zero.
    scale = np.max(np.abs(factors), initial=0.0) or 1.0
    zero = np.flatnonzero(np.abs(np.diag(factors)) < ROUNDING * scale)
    factors[zero, zero] = ROUNDING * scale
    return LU(jnp.asarray(factors), jnp.asarray(pivots))


def applied(f: Functions | Closed, inverse: Inverse, t: Any, b: Any) -> Float[np.ndarray, "d"]:
    """``A⁻¹ b``."""
    if isinstance(inverse, Cholesky):
        return scipy.linalg.cho_solve((np.asarray(inverse.lower), True), np.asarray(b))
    return np.asarray(inverse.solve(functools.partial(f.product, t), jnp.asarray(b)))


def columns(f: Functions | Closed) -> int:
    """What a factorisation costs in products."""
    size = f.theta.size
    if f.structure == "block":
        return size // len(f.theta.block_index())
    return size if f.structure == "dense" else 0


class Spectrum(NamedTuple):
    """The ends of a Jacobian's spectrum, and the direction of the smallest."""

    smallest: float
    largest: float
    direction: np.ndarray
    kind: str


def eigenvalues(
    f: Functions | Closed, t: Any, matrix: Float[np.ndarray, "d d"] | None = None
) -> Spectrum:
    """Of a Hessian; of one that is not formed a Ritz value, which is above the smallest."""
    size = len(t)
    if f.structure == "dense" or (f.structure == "matrix-free" and size <= FEW):
        matrix = f.matrix(t) if matrix is None else matrix
        values, vectors = scipy.linalg.eigh(matrix, subset_by_index=(0, 0))
        largest = float(np.max(np.sum(np.abs(matrix), axis=1)))  # at least the largest eigenvalue
        return Spectrum(float(values[0]), largest, vectors[:, 0], "eigenvalue")
    if f.structure == "block":
        _only_blocks(f, t)
        values, vectors = np.linalg.eigh(f.blocks(t))
        block = int(np.argmin(values[:, 0]))
        direction = np.zeros(size)
        direction[f.theta.block_index()[block]] = vectors[block, :, 0]
        largest = float(np.max(values))
        return Spectrum(float(values[block, 0]), largest, direction, "eigenvalue")
    operator: Any = scipy.sparse.linalg.LinearOperator(
        (size, size), lambda v: np.asarray(f.product(t, jnp.asarray(v, dtype=float).reshape(-1)))
    )
    ends: Any = scipy.sparse.linalg.eigsh
    start = np.random.default_rng(0).normal(size=size)
    largest = float(ends(operator, 1, which="LA", tol=1e-2, v0=start)[0][0])
    # The smallest of a matrix is the largest of its distance from the largest: Lanczos finds the
    # end of a spectrum that is well apart, and any Ritz value is above the smallest eigenvalue.
    try:
        values, vectors = ends(operator, 1, which="SA", tol=1e-3, v0=start, maxiter=50 * 20)
    except scipy.sparse.linalg.ArpackNoConvergence as error:
        values, vectors = error.eigenvalues, error.eigenvectors
        if not len(values):
            return Spectrum(_quotient(operator, start), largest, start, "Rayleigh quotient")
    return Spectrum(float(values[0]), largest, vectors[:, 0], "Ritz value")


def _quotient(operator: Any, v: np.ndarray) -> float:
    return float(v @ operator.matvec(v) / (v @ v))


def singular_values(f: Functions | Closed, t: Any) -> Spectrum:
    """Of an equation's Jacobian."""
    if f.structure == "matrix-free":
        return Spectrum(np.nan, np.nan, np.zeros(len(t)), "not known (matrix-free)")
    if f.structure == "block":
        _only_blocks(f, t)
        _, values, right = np.linalg.svd(f.blocks(t))
        block = int(np.argmin(values[:, -1]))
        direction = np.zeros(len(t))
        direction[f.theta.block_index()[block]] = right[block, -1]
        return Spectrum(
            float(values[block, -1]), float(np.max(values)), direction, "singular value"
        )
    _, values, right = scipy.linalg.svd(f.matrix(t))
    return Spectrum(float(values[-1]), float(values[0]), right[-1], "singular value")


def _only_blocks(f: Functions | Closed, t: Any) -> None:
    """Nothing, where the Jacobian has nothing outside of its blocks.

    Raises
    ------
    ValueError
        A product with a random vector says that it has.
    """
    v = np.random.default_rng(0).normal(size=len(t))
    index, blocks = f.theta.block_index(), f.blocks(t)
    expected = np.zeros(len(t))
    expected[index] = np.einsum("kij,kj->ki", blocks, v[index])
    found = np.asarray(f.product(t, jnp.asarray(v)))
    # Both are sums of products of order one; rounding is eight digits below this.
    if np.max(np.abs(found - expected)) > 1e-8 * np.max(np.abs(found)):
        msg = (
            'structure "block": the Jacobian has entries outside of the blocks (one for each '
            'index of the first axis of theta); solve with structure "dense" or "matrix-free"'
        )
        raise ValueError(msg)
