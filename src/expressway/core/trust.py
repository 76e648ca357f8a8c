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

from .functions import Functions
from .system import System


class _Whole(NamedTuple):
    """``t = R z`` with a full matrix."""

    r: Float[Array, "d d"]

    def forward(self, z: Any) -> Any:
        return self.r @ z

    def back(self, v: Any) -> Any:
        return self.r.T @ v


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


def scaling(f: Functions, t: Any) -> Any:
    """R with ``R R' = |H|⁻¹``: eigenvalues by their absolute values, small ones raised."""
    if f.structure == "matrix-free":
        return _Plain()
    if f.structure == "block":
        values, vectors = np.linalg.eigh(f.blocks(t))
        return _Parts(jnp.asarray(_scaled(values, vectors)), f.system.theta.block_index())
    matrix = f.matrix(t)
    try:
        lower = scipy.linalg.cholesky(matrix, lower=True)
        r = scipy.linalg.solve_triangular(lower, np.eye(len(lower)), lower=True).T
        if np.all(np.isfinite(r)) and np.max(np.abs(r)) < 1e8 * np.min(np.max(np.abs(r), axis=0)):
            return _Whole(jnp.asarray(r))
    except scipy.linalg.LinAlgError:
        pass
    values, vectors = np.linalg.eigh(matrix)
    return _Whole(jnp.asarray(_scaled(values, vectors)))


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
    negative: Any
    boundary: Any
    products: Any


class _Search(NamedTuple):
    z: Any
    hz: Any
    residual: Any
    direction: Any
    square: Any
    negative: Any
    boundary: Any
    done: Any
    products: Any


def steihaug(f: Functions, root: Any, t: Any, gradient: Any, radius: float) -> _Move:
    """The step that conjugate gradients reach in the trust region."""
    compiled = _compiled(f.system)
    return compiled(root, t, f.h, f.held, jnp.asarray(gradient), radius)


@functools.lru_cache(maxsize=64)
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
            s.negative | negative,
            s.boundary | out,
            out | (square <= goal),
            s.products + 1,
        )

    start = _Search(zero, zero, -b, -b, first, no, no, first == 0.0, 0)
    end = jax.lax.while_loop(more, body, start)
    gain = -(b @ end.z + 0.5 * end.z @ end.hz)
    return _Move(
        step=root.forward(end.z),
        length=jnp.sqrt(end.z @ end.z),
        gain=gain,
        decrement=jnp.sqrt(jnp.maximum(-(b @ end.z), 0.0)),
        negative=end.negative,
        boundary=end.boundary,
        products=end.products,
    )
