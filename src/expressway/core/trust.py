"""The trust-region step of an objective: Steihaug's conjugate gradients in scaled coordinates.

In ``t = R z`` the Hessian at an earlier point, ``(R R')⁻¹``, is the identity.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg

from expressway._types import Array, Float

from .functions import ROUNDING, Closed, Functions
from .system import System, kept

# Parameters up to which the Hessian is formed for every step.
SMALL = 300
# Squared ratio of the pivots of a matrix that needs no eigenvalues to be seen positive definite.
CLEARLY = 1e-9


class _Whole(NamedTuple):
    """``t = R z`` with a full matrix."""

    r: Float[Array, "d d"]

    def forward(self, z: Any) -> Any:
        return self.r @ z

    def back(self, v: Any) -> Any:
        return self.r.T @ v


class _Spectral(NamedTuple):
    """``t = R z`` with the Hessian where the iterate is: in z it is a diagonal of ±1, or nearer 0.

    The step in the trust region is then a matter of one number, and no function is compiled for it.
    """

    r: Float[np.ndarray, "d d"]
    curve: Float[np.ndarray, "d"]

    def back(self, v: Any) -> Any:
        return self.r.T @ np.asarray(v)


class _Parts(NamedTuple):
    """``t = R z`` block by block."""

    r: Float[Array, "k b b"]
    index: Any

    def forward(self, z: Any) -> Any:
        return jnp.zeros_like(z).at[self.index].set(jnp.einsum("kij,kj->ki", self.r, z[self.index]))

    def back(self, v: Any) -> Any:
        v = jnp.asarray(v)
        return jnp.zeros_like(v).at[self.index].set(jnp.einsum("kij,ki->kj", self.r, v[self.index]))


class _Plain(NamedTuple):
    """``t = z``."""

    def forward(self, z: Any) -> Any:
        return z

    def back(self, v: Any) -> Any:
        return v


def spectral(f: Functions | Closed) -> bool:
    """Whether the Hessian is formed for every step: a small one costs less than it saves."""
    return isinstance(f, Closed) or (f.structure == "dense" and f.theta.size <= SMALL)


def scaling(f: Functions | Closed, t: Any) -> Any:
    """R with ``R R' = |H|⁻¹``: eigenvalues by their absolute values, small ones raised."""
    if f.structure == "matrix-free":
        return _Plain()
    if f.structure == "block":
        values, vectors = np.linalg.eigh(f.blocks(t))
        return _Parts(jnp.asarray(_scaled(values, vectors)), f.theta.block_index())
    matrix = f.matrix(t)
    if isinstance(f, Closed) or spectral(f):
        definite = _definite(matrix)
        if definite is not None:
            return definite
        values, vectors = np.linalg.eigh(matrix)
        r = _scaled(values, vectors)
        most = np.max(np.abs(values), initial=0.0)
        # What is rounding has no curvature to divide by.
        curve = np.where(np.abs(values) > ROUNDING * most, values * np.sum(r**2, axis=0), 1.0)
        return _Spectral(r, curve)
    try:
        lower = scipy.linalg.cholesky(matrix, lower=True)
        r = scipy.linalg.solve_triangular(lower, np.eye(len(lower)), lower=True).T
        if np.all(np.isfinite(r)) and np.max(np.abs(r)) < 1e8 * np.min(np.max(np.abs(r), axis=0)):
            return _Whole(jnp.asarray(r))
    except scipy.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(matrix)
    return _Whole(jnp.asarray(_scaled(values, vectors)))


def _definite(matrix: Float[np.ndarray, "d d"]) -> _Spectral | None:
    """The scaling of a matrix that is clearly positive definite, without its eigenvectors."""
    lapack: Any = scipy.linalg.lapack
    lower, failed = lapack.dpotrf(matrix, lower=1)
    if failed:
        return None
    pivots = np.diag(lower)
    # Smaller ones may be rounding, and what eigenvalues are raised to is decided by eigenvalues.
    if not np.min(pivots) ** 2 > CLEARLY * np.max(pivots) ** 2:
        return None
    inverse = np.tril(lapack.dtrtri(lower, lower=1)[0])
    # Pivots may hide it: the smallest eigenvalue is at least 1 / trace of the inverse.
    if np.sum(inverse**2) * np.max(np.diag(matrix)) * CLEARLY > 1.0:
        return None
    return _Spectral(inverse.T, np.ones(len(matrix)))


def _scaled(values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    size = np.abs(values)
    most = np.max(size, axis=-1, keepdims=True)
    # A flat direction is not made a million times longer than the steepest one.
    size = np.maximum(size, np.where(most > 0, 1e-12 * most, 1.0))
    return vectors / np.sqrt(size)[..., None, :]


class _Move(NamedTuple):
    step: Any
    length: Any
    gain: Any
    decrement: Any
    boundary: Any
    products: Any


class _Search(NamedTuple):
    z: Any
    hz: Any
    residual: Any
    direction: Any
    square: Any
    boundary: Any
    done: Any
    products: Any


def step(f: Functions | Closed, root: Any, t: Any, gradient: Any, radius: float) -> _Move:
    """The step in the trust region: exact, or where conjugate gradients lead."""
    if isinstance(root, _Spectral) or isinstance(f, Closed):
        return _exact(root, gradient, radius)
    compiled = _compiled(f.system)
    return compiled(root, t, f.h, f.held, jnp.asarray(gradient), radius)


def _exact(frame: _Spectral, gradient: np.ndarray, radius: float) -> _Move:
    """``z = -b / (curve + mu)``: the least mu >= 0 that is inside and makes the model convex."""
    b, curve = frame.back(gradient), frame.curve
    lowest = float(np.min(curve))

    def at(mu: float) -> np.ndarray:
        below = curve + mu
        return np.where(b == 0.0, 0.0, -b / np.where(below == 0.0, 1e-300, below))

    inside = lowest > 0.0 and float(np.linalg.norm(at(0.0))) <= radius
    mu = 0.0
    if not inside:
        low = max(0.0, -lowest)
        high = low + float(np.linalg.norm(b)) / radius + 1e-12
        with np.errstate(over="ignore"):  # infinitely far is outside
            for _ in range(60):
                mu = 0.5 * (low + high)
                low, high = (mu, high) if np.linalg.norm(at(mu)) > radius else (low, mu)
        mu = high
    z = at(mu)
    return _Move(
        step=frame.r @ z,
        length=np.linalg.norm(z),
        gain=-(b @ z + 0.5 * np.sum(curve * z**2)),
        decrement=np.sqrt(max(-(b @ z), 0.0)),
        boundary=not inside,
        products=0,
    )


@kept
def _compiled(system: System) -> Callable[..., _Move]:
    return jax.jit(functools.partial(_search, system))


def _search(system: System, root: Any, t: Any, h: Any, held: Any, gradient: Any, radius: Any):
    def product(z: Any) -> Any:
        return root.back(system.push(t, h, held, root.forward(z)))

    b = root.back(gradient)
    first = b @ b
    # Superlinear: a residual of the gradient's own order, and never below what rounding allows.
    goal = jnp.maximum(jnp.minimum(1e-2, jnp.sqrt(first)), 1e-10) ** 2 * first
    zero = jnp.zeros_like(b)
    no = jnp.asarray(False)

    def more(s: _Search) -> Any:
        return ~s.done & (s.products < 10 * b.size + 20)

    def body(s: _Search) -> _Search:
        hd = product(s.direction)
        curvature = s.direction @ hd
        size = s.direction @ s.direction
        # In scaled coordinates curvature is of order one, and rounding below this.
        negative = curvature <= (0.0 if isinstance(root, _Plain) else 1e-14) * size
        ahead = s.square / jnp.where(negative, 1.0, curvature)
        beyond = jnp.sum((s.z + ahead * s.direction) ** 2) >= radius**2
        out = negative | beyond
        # To the boundary: the root with |z + share d| = radius.
        zd, zz = s.z @ s.direction, s.z @ s.z
        share = (-zd + jnp.sqrt(jnp.maximum(zd**2 + size * (radius**2 - zz), 0.0))) / size
        length = jnp.where(out, share, ahead)
        z, hz = s.z + length * s.direction, s.hz + length * hd
        residual = s.residual - length * hd
        square = residual @ residual
        return _Search(
            z,
            hz,
            residual,
            residual + square / s.square * s.direction,
            square,
            s.boundary | out,
            out | (square <= goal),
            s.products + 1,
        )

    start = _Search(zero, zero, -b, -b, first, no, first == 0.0, 0)
    end = jax.lax.while_loop(more, body, start)
    gain = -(b @ end.z + 0.5 * end.z @ end.hz)
    return _Move(
        step=root.forward(end.z),
        length=jnp.sqrt(end.z @ end.z),
        gain=gain,
        decrement=jnp.sqrt(jnp.maximum(-(b @ end.z), 0.0)),
        boundary=end.boundary,
        products=end.products,
    )
