"""Sets of observations to leave out: one by one, k at a time, folds, groups, blocks of time."""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np

from expressway._types import Array, Int, Shaped

Sets = Sequence[Int[np.ndarray, "_"]]
# Sets of k observations that are listed at most.
MOST = 10**6


def leave_one_out(n: int) -> list[Int[np.ndarray, "1"]]:
    """Each of n observations by itself."""
    return list(np.arange(n)[:, None])


def leave_k_out(n: int, k: int) -> list[Int[np.ndarray, "k"]]:
    """All sets of k of n observations, in the order of `itertools.combinations`.

    Raises
    ------
    ValueError
        There are more than a million.
    """
    count = math.comb(n, k)
    if not 1 <= k <= n or count > MOST:
        msg = (
            f"{count:,} sets of {k} of {n} observations; at most {MOST:,}: take folds, or draw some"
        )
        raise ValueError(msg)
    return [np.array(found) for found in itertools.combinations(range(n), k)]


def k_fold(n: int, k: int, key: Array | None = None) -> list[Int[np.ndarray, "_"]]:
    """K sets of nearly equal size, in random order by a key, without one in the order given.

    Raises
    ------
    ValueError
        There are fewer than two folds or more than observations.
    """
    if not 2 <= k <= n:
        msg = f"{k} folds of {n} observations; needed are 2 to {n}"
        raise ValueError(msg)
    order = np.arange(n) if key is None else np.asarray(jax.random.permutation(key, n))
    return [np.sort(part) for part in np.array_split(order, k)]


def by_group(labels: Iterable[Any]) -> list[Int[np.ndarray, "_"]]:
    """One set for each distinct label, in sorted order: donors, plates, sites."""
    _, number = np.unique(np.asarray(list(labels)), return_inverse=True)
    return [np.flatnonzero(number == i) for i in range(number.max() + 1)]


def by_time(
    times: Iterable[Any], width: int = 1, among: Iterable[Any] | None = None
) -> list[Int[np.ndarray, "_"]]:
    """Blocks of neighbouring time points, with all observations at them.

    Parameters
    ----------
    times
        Of each observation.
    width
        Distinct times in a block; blocks do not overlap.
    among
        Times that may be left out; all when not given.
    """
    given = np.asarray(list(times), float)
    distinct = np.unique(given if among is None else np.asarray(list(among), float))
    blocks = [distinct[i : i + width] for i in range(0, len(distinct), width)]
    return [np.flatnonzero(np.isin(given, block)) for block in blocks]


def checked(sets: Any, n: int) -> list[Int[np.ndarray, "_"]]:
    """Sets as arrays of indices.

    Parameters
    ----------
    sets
        Sets of indices, or rows of a boolean matrix (sets × observations): true is left out.
    n
        Number of observations.

    Raises
    ------
    ValueError
        A set is empty, has an index twice or one that is none, or leaves nothing.
    """
    matrix: Shaped[np.ndarray, ...] | None = sets if isinstance(sets, np.ndarray) else None
    if matrix is not None and matrix.dtype == np.bool_:
        if matrix.ndim != 2 or matrix.shape[1] != n:
            msg = f"a mask of shape {matrix.shape}, needed is (sets, {n})"
            raise ValueError(msg)
        sets = [np.flatnonzero(row) for row in matrix]
    found = []
    for number, given in enumerate(sets):
        index = np.atleast_1d(np.asarray(given))
        if not np.issubdtype(index.dtype, np.integer) or index.ndim != 1:
            msg = f"set {number} is {given!r:.60}, needed are indices of observations"
            raise ValueError(msg)
        wrong = index[(index < 0) | (index >= n)]
        if len(wrong) or len(np.unique(index)) != len(index) or not 0 < len(index) < n:
            what = (
                f"has index {int(wrong[0])}"
                if len(wrong)
                else f"has {len(index)} indices, {len(np.unique(index))} of them distinct"
            )
            msg = f"set {number} {what}; needed are distinct indices below {n}, not all of them"
            raise ValueError(msg)
        found.append(index)
    if not found:
        msg = "no sets to leave out; give at least one"
        raise ValueError(msg)
    return found
