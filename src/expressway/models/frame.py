"""Coordinates of a design in which estimates of coefficients hardly depend on each other.

Neighbouring functions of time are nearly dependent: three radial ones on the unit interval can have
condition number 450, and standard errors of their coefficients are then a hundred times those of
the curve. So coefficients b are estimated of ``z = x forward⁻¹``, whose columns are orthogonal, and
mapped back: those of x are ``raw @ b``, and the curve is the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.linalg import solve_triangular

from expressway._errors import InputError
from expressway._types import Float

# Columns of length 1 are dependent at this ratio of singular values: six digits are left of raw.
SINGULAR = 1e-10
# Entries of a null vector below this are rounding at that ratio: the column is not part of it.
PART = 1e-4


class Frame(NamedTuple):
    """Coordinates of a design in which coefficients are estimated."""

    z: Float[np.ndarray, "n K"]
    """``z'z = n I``, the first column ones; or the design itself."""
    raw: Float[np.ndarray, "K K"]
    """Coefficients of the design are ``raw @ b``; upper triangular."""
    forward: Float[np.ndarray, "K K"]
    """Its inverse: ``x = z @ forward``; the diagonal is positive."""
    condition: float
    """Of the design x: its largest over its smallest singular value."""
    orthonormal: bool


def frame(x: Float[np.ndarray, "n K"], names: Sequence[str], *, orthonormal: bool = True) -> Frame:
    """Frame of a design, by its QR decomposition.

    Parameters
    ----------
    x
        The design; its first column, the level, is ones.
    names
        Of its columns.
    orthonormal
        Whether z is orthonormal; if not, z is x.

    Raises
    ------
    InputError
        If the first column is not ones, or columns are dependent: of those scaled to length 1 a
        singular value is at most `SINGULAR` of the largest.
    """
    if not np.all(x[:, 0] == 1):
        msg = f"the first column of the design, {names[0]}, is not 1 everywhere; put ones first"
        raise InputError(msg)
    _refuse_dependent(x, names)
    singular = np.linalg.svd(x, compute_uv=False)
    condition = float(singular[0] / singular[-1])
    if not orthonormal:
        return Frame(x, np.eye(x.shape[1]), np.eye(x.shape[1]), condition, False)
    q, r = np.linalg.qr(x)
    root, sign = np.sqrt(len(x)), np.sign(np.diag(r))
    z, forward = q * sign * root, sign[:, None] * r / root
    z[:, 0] = 1.0
    forward[0, 0] = 1.0
    raw = np.asarray(solve_triangular(forward, np.eye(len(forward))))
    return Frame(z, raw, forward, condition, True)


def at(frame: Frame, rows: Float[np.ndarray, "m K"]) -> Float[np.ndarray, "m K"]:
    """Rows of z for rows of the design."""
    return rows @ frame.raw


def raw_slope(frame: Frame, rows: Float[np.ndarray, "m K"]) -> Float[np.ndarray, "m K"]:
    """Derivatives of rows of z for those of rows of the design: the map is linear."""
    return at(frame, rows)


def raw_moments(
    frame: Frame, mean: Float[np.ndarray, "g K"], covariance: Float[np.ndarray, "g K K"]
) -> tuple[Float[np.ndarray, "g K"], Float[np.ndarray, "g K K"]]:
    """Means and covariances of coefficients of the design, from those of coefficients of z."""
    return mean @ frame.raw.T, frame.raw @ covariance @ frame.raw.T


def _refuse_dependent(x: Float[np.ndarray, "n K"], names: Sequence[str]) -> None:
    """Raise if columns are dependent, with the names of those that are."""
    length = np.linalg.norm(x, axis=0)
    r = np.linalg.qr(x / np.where(length > 0, length, 1.0), mode="r")
    _, singular, right = np.linalg.svd(r)  # as many right vectors as columns, also of few rows
    kept = np.count_nonzero(singular > SINGULAR * singular[0])
    if kept == x.shape[1]:
        return
    part = np.any(np.abs(right[kept:]) > PART, axis=0)
    listed = ", ".join(name for name, one in zip(names, part, strict=True) if one)
    msg = (
        f"columns of the design that lie in the span of its others: {listed}; "
        "take fewer basis functions, or a shorter length"
    )
    raise InputError(msg)
