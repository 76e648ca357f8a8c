"""Design cells: which samples have equal design rows, known over sites without the rows.

DESeq2's rules on replicates (Cook's distances, replacement, linear means) need to know how many
samples share a design row. A row is told apart by a keyed digest; only digests and, summed over
sites, the number of samples of each are seen.
"""

import hashlib
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Float, Int
from expressway.core.cohort import Samples
from expressway.core.order import Groups


class Sizes(NamedTuple):
    """Samples in each design cell and crossproduct of the design, summed over rows."""

    samples: Float[Array, "g u"]
    normal: Float[Array, "g p p"]


def cell_sizes(cells: Int[Array, "u"], s: Samples) -> Sizes:
    """How many rows are in each cell, and ``X'X``; the same for every gene."""
    present = (s.weight > 0) * 1.0
    inside = (s.cell[:, None] == cells[None, :]) * present[:, None]
    each = jnp.ones((s.y.shape[1], 1))
    return Sizes(
        samples=each * jnp.sum(inside, axis=0)[None],
        normal=each[..., None] * (s.x.T @ (s.x * present[:, None]))[None],
    )


def digests(key: bytes, x: Float[np.ndarray, "n p"]) -> list[str]:
    """Keyed digest of each design row (BLAKE2b of its doubles): equal rows, equal digests."""
    return [
        hashlib.blake2b(row.tobytes(), key=key, digest_size=16).hexdigest()
        for row in np.ascontiguousarray(x + 0.0)  # one zero
    ]


def assign(key: bytes, known: list[str], s: Samples) -> dict[str, Array]:
    """Number of each row's cell in a list of digests."""
    number = {digest: i for i, digest in enumerate(known)}
    return {"cell": np.array([number[d] for d in digests(key, np.asarray(s.x, float))])}


def groups(design: Float[np.ndarray, "n p"]) -> Groups:
    """Design cells of rows that are all here, numbered as `core.cohort.samples` does."""
    size = np.unique(design, axis=0, return_counts=True)[1]
    return Groups(np.arange(len(size)), size)
