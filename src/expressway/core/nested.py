"""Nested designs, and designs in other coordinates: columns that are combinations of another's."""

import numpy as np

from expressway._errors import InputError
from expressway._types import Array, Float

from .cohort import Samples

# What is left of a column of length one outside the span of others: below this it is rounding.
OUTSIDE = 1e-9


def basis(
    full: Float[np.ndarray, "n p"], reduced: Float[np.ndarray, "n q"]
) -> Float[np.ndarray, "n p"]:
    """Orthonormal basis of the full design's span, the first q columns one of the reduced one's.

    Columns are scaled to length one first, so that units do not matter.

    Raises
    ------
    InputError
        If a design's columns depend on one another, the reduced design has as many columns as the
        full one or more, or one of them is not in the full one's span.
    """
    larger, smaller = _orthonormal(full, "full"), _orthonormal(reduced, "reduced")
    p, q = full.shape[1], reduced.shape[1]
    if q >= p:
        msg = (
            f"the reduced design has {q} columns and the full one {p}: the reduced one must have "
            "fewer; leave out the columns that are tested, or exchange the two"
        )
        raise InputError(msg)
    rest = _left(larger, reduced)
    if np.any(rest > OUTSIDE):
        msg = (
            f"column {int(np.argmax(rest > OUTSIDE))} (from 0) of the reduced design is no "
            "combination of the full design's columns: the reduced design must be nested in the "
            "full one; leave that column out of the reduced design or add it to the full one"
        )
        raise InputError(msg)
    return larger @ np.linalg.qr(larger.T @ smaller, mode="complete")[0]


def outside(
    full: Float[np.ndarray, "n p"], reduced: Float[np.ndarray, "n q"]
) -> Float[np.ndarray, "q"]:
    """Share of each reduced column's length that is outside the full design's span.

    The reduced design is nested where none is above `OUTSIDE`.
    """
    return _left(_orthonormal(full, "full"), reduced)


def coordinates(
    full: Float[np.ndarray, "n p"], reduced: Float[np.ndarray, "n q"]
) -> Float[np.ndarray, "p q"]:
    """Matrix C of a hypothesis with ``full C = reduced``, by least squares.

    Entries are made whole numbers, which those between designs of dummies are, if the columns are
    met no worse for it.

    Raises
    ------
    InputError
        As `basis`.
    """
    basis(full, reduced)
    unit = np.linalg.norm(reduced, axis=0) / np.linalg.norm(full, axis=0)[:, None]
    found = np.linalg.lstsq(_scaled(full), _scaled(reduced))[0] * unit
    whole = np.round(found) + 0.0  # no -0
    near = np.where(np.abs(found - whole) <= OUTSIDE * unit, whole, found)
    missed, before = (np.max(np.abs(full @ c - reduced), initial=0.0) for c in (near, found))
    return near if missed <= before else found


def projected(matrix: Float[Array, "p q"], s: Samples) -> dict[str, Array]:
    """Design of each row times a matrix: a nested design (q < p), or the same in coordinates B⁻¹b.

    To be given to `Cohort.map`.
    """
    return {"x": s.x @ matrix}


def without(contrast: Float[np.ndarray, "p"]) -> Float[np.ndarray, "p q"]:
    """Matrix of the design in which ``c'b = 0``: an orthonormal basis of such b, q = p - 1.

    Coefficients that the contrast does not weigh stay as they are, so that without one coefficient
    its column is left out, and dummies of other levels remain dummies.
    """
    some = np.flatnonzero(contrast)
    rest = np.linalg.svd(contrast[None, some])[2][1:].T
    kept = np.delete(np.eye(len(contrast)), some, axis=1)
    mixed = np.zeros((len(contrast), rest.shape[1]))
    mixed[some] = rest
    return np.hstack([kept, mixed])


def leading(contrast: Float[np.ndarray, "p"]) -> Float[np.ndarray, "p p"]:
    """Matrix B of coordinates in which a contrast is the first coefficient.

    With N of `without`, coefficients of ``x B`` are ``(c'b, N'b)`` and ``b = B (c'b, N'b)``.
    """
    return np.column_stack([contrast / (contrast @ contrast), without(contrast)])


def _left(
    larger: Float[np.ndarray, "n p"], reduced: Float[np.ndarray, "n q"]
) -> Float[np.ndarray, "q"]:
    """As `outside`, of an orthonormal basis."""
    scaled = _scaled(reduced)
    return np.linalg.norm(scaled - larger @ (larger.T @ scaled), axis=0)


def _scaled(x: Float[np.ndarray, "n p"]) -> Float[np.ndarray, "n p"]:
    """Columns of length one; columns of zeros as they are."""
    length = np.linalg.norm(x, axis=0)
    return x / np.where(length > 0, length, 1.0)


def _orthonormal(x: Float[np.ndarray, "n p"], name: str) -> Float[np.ndarray, "n p"]:
    """An orthonormal basis of a design's span."""
    if not np.all(np.isfinite(x)):
        msg = f"the {name} design has entries that are not finite: leave those samples out"
        raise InputError(msg)
    left, value, _ = np.linalg.svd(_scaled(x), full_matrices=False)
    rank = int(np.sum(value > max(x.shape) * np.finfo(float).eps * np.max(value, initial=0.0)))
    if rank < x.shape[1]:
        msg = (
            f"the {name} design has {x.shape[1]} columns of rank {rank}: leave out columns that "
            "depend on others"
        )
        raise InputError(msg)
    return left
