"""Pytrees of numbers as one vector of doubles, and back."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from expressway._types import Array, Float


class Flat:
    """How pytrees of one structure become vectors.

    Numbers are doubles in the vector and when they come back. Arrays of integers or booleans are
    no numbers to differentiate in (indices, labels): they stay as they are in the template.

    Parameters
    ----------
    tree
        Template: structure and shapes of all that will be flattened.
    name
        What its parts are called in messages: "theta".

    Raises
    ------
    ValueError
        A leaf is not a real number or an array of them.
    """

    def __init__(self, tree: Any, name: str) -> None:
        leaves, self._structure = jax.tree_util.tree_flatten_with_path(tree)
        self.name = name
        self._fixed: list[Any] = []
        self._places: list[tuple[str, tuple[int, ...], int]] = []
        self.size = 0
        for path, leaf in leaves:
            label = name + jax.tree_util.keystr(path)
            shape, kind = _real(leaf, label)
            self._fixed.append(leaf if kind else None)
            count = 0 if kind else int(np.prod(shape))
            self._places.append((label, shape, count))
            self.size += count

    def vector(self, tree: Any) -> Float[Array, "d"]:
        """The vector of a pytree.

        Raises
        ------
        ValueError
            Its structure or a shape is not the template's.
        """
        leaves, structure = jax.tree.flatten(tree)
        if structure != self._structure:
            msg = f"{self.name} is {structure}, needed is {self._structure}, as when it was solved"
            raise ValueError(msg)
        # A call of compiled code takes as long as flattening in JAX, operation by operation.
        lib: Any = jnp if any(isinstance(leaf, Tracer) for leaf in leaves) else np
        parts = []
        for leaf, fixed, (label, shape, _) in zip(leaves, self._fixed, self._places, strict=True):
            if fixed is not None:
                continue
            if np.shape(leaf) != shape:
                msg = f"{label} has shape {np.shape(leaf)}, needed is {shape}"
                raise ValueError(msg)
            parts.append(lib.ravel(lib.asarray(leaf, dtype=float)))
        return lib.concatenate(parts) if parts else lib.zeros(0)

    def tree(self, vector: Float[Array, "d"]) -> Any:
        """The pytree of a vector."""
        leaves, first = [], 0
        for fixed, (_, shape, count) in zip(self._fixed, self._places, strict=True):
            part = vector[first : first + count]
            leaves.append(jnp.reshape(part, shape) if fixed is None else fixed)
            first += count
        return jax.tree.unflatten(self._structure, leaves)

    def trees(self, rows: Float[np.ndarray, "m d"]) -> Any:
        """The pytree of many vectors: each leaf with them as first axis."""
        leaves, first = [], 0
        for fixed, (_, shape, count) in zip(self._fixed, self._places, strict=True):
            part = rows[:, first : first + count].reshape(len(rows), *shape)
            whole = part if fixed is None else np.broadcast_to(fixed, (len(rows), *shape))
            leaves.append(jnp.asarray(whole))
            first += count
        return jax.tree.unflatten(self._structure, leaves)

    def label(self, at: int) -> str:
        """What an entry of the vector is called: ``theta['scale'][3]``."""
        first = np.cumsum([0, *(count for _, _, count in self._places)])
        part = int(np.searchsorted(first, at, side="right")) - 1
        name, dims, _ = self._places[part]
        index = ", ".join(str(i) for i in np.unravel_index(at - first[part], dims))
        return f"{name}[{index}]" if dims else name

    def labels(self, direction: Float[np.ndarray, "d"], most: int = 3) -> str:
        """The largest entries of a direction in words."""
        order = np.argsort(-np.abs(direction))[:most]
        big = [i for i in order if abs(direction[i]) > 0.1 * abs(direction[order[0]])]
        return ", ".join(f"{self.label(int(i))} ({direction[i]:+.2g})" for i in big)

    def block_index(self) -> np.ndarray:
        """Positions in the vector by block: the first axis of every leaf counts blocks.

        Raises
        ------
        ValueError
            The leaves do not have one first axis.
        """
        counts = {shape[0] if shape else 0 for _, shape, count in self._places if count}
        if len(counts) != 1 or 0 in counts:
            shapes = ", ".join(f"{label} {shape}" for label, shape, _ in self._places)
            msg = f"blocks need the same first axis in every part of {self.name}, got {shapes}"
            raise ValueError(msg)
        blocks = counts.pop()
        parts, first = [], 0
        for _, _, count in self._places:
            parts.append(first + np.arange(count).reshape(blocks, -1))
            first += count
        return np.concatenate(parts, axis=1)


def _real(leaf: Any, label: str) -> tuple[tuple[int, ...], bool]:
    """Shape of a leaf, and whether it stays as it is."""
    try:
        shape, kind = np.shape(leaf), jnp.result_type(leaf)
    except TypeError:
        shape, kind = (), None
    if kind is None or not (np.issubdtype(kind, np.number) or kind == np.bool_):
        msg = f"{label} is {type(leaf).__name__}, needed are real numbers or arrays of them"
        raise ValueError(msg)
    if np.issubdtype(kind, np.complexfloating):
        msg = f"{label} is complex; give its real and imaginary part as two parameters"
        raise ValueError(msg)
    return shape, not is_number(leaf)


def is_number(leaf: Any) -> bool:
    """Whether a leaf is differentiated in: no array of integers or booleans."""
    return np.ndim(leaf) == 0 or bool(jnp.issubdtype(jnp.result_type(leaf), np.floating))


def kinds(tree: Any) -> tuple[Any, ...]:
    """Shapes, and the values of what is not a number to differentiate in."""
    return tuple(
        (np.shape(leaf), None if is_number(leaf) else np.asarray(leaf).tobytes())
        for leaf in jax.tree.leaves(tree)
    )
