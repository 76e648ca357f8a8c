"""Noise that hides whether one sample is among those added up, and a budget for it.

A vector of whole numbers, to which one sample adds at most Delta in Euclidean norm, is published
with noise of variance ``Delta^2 / (2 rho)`` in each number: rho-zero-concentrated differential
privacy (zCDP) of adding or removing that sample (Bun and Steinke 2016, TCC, proposition 1.6; with
discrete noise Canonne, Kamath and Steinke 2020, NeurIPS, theorem 4). The rho of several
publications add up.

Of k sites each adds noise of variance ``Delta^2 / (2 rho (k - 1))``: who knows the noise of one
site is left with that of the others, of the variance asked. Sums of discrete Gaussians are no
discrete Gaussian, but of n with standard deviations of s steps the densities differ by a factor of
``exp(10 n exp(-pi^2 s^2))`` at most (Kairouz, Liu and Steinke 2021, ICML): for ten steps or more
that is 1 to 400 digits, so nobody's noise is less (`LEAST`).
"""

import contextlib
import csv
import math
import os
import secrets
from collections.abc import Iterator
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np

from expressway._types import Int

from .protocol import ProtocolError

# Variance of a site's noise, in squared steps.
LEAST = 100
# In a site's kit.
SPENT = "privacy.csv"


class Spent(NamedTuple):
    """What was published of a site, a row of its ``privacy.csv``."""

    time: str
    """UTC."""
    run: str
    rho: float
    about: str
    """What it was."""


class Account:
    """What a site may still publish.

    Parameters
    ----------
    budget
        Sum of rho over all publications, ever; 0 for none.
    path
        A CSV file of what was spent, begun if it is not there; None where nothing is written.
    """

    def __init__(self, budget: float, path: Path | None = None) -> None:
        self.budget, self._path = budget, path
        self._rows: list[Spent] = []

    @property
    def left(self) -> float:
        """Of the budget. Without one no record is looked at."""
        if not self.budget or (self._path is not None and not self._path.is_file()):
            return self.budget
        with self._open() as rows:
            return self._left(rows)

    def spend(self, run: str, rho: float, about: str) -> None:
        """Write down that this much is published, before it is.

        Raises
        ------
        ProtocolError
            It is more than what is left.
        """
        if not self.budget:
            message = "it publishes nothing (--privacy-budget at the site)"
            raise ProtocolError(message)
        with self._open() as rows:
            left = self._left(rows)
            if rho > left:
                message = (
                    f"a rho of {rho:g} is asked, and {left:.6g} is left of its budget of "
                    f"{self.budget:g} (--privacy-budget at the site)"
                )
                raise ProtocolError(message)
            time = datetime.now(UTC).isoformat(timespec="milliseconds")
            rows.append(Spent(time, run, rho, about))

    def _left(self, rows: list[Spent]) -> float:
        """Of the budget, exactly: ten times 0.1 is 1."""
        spent = sum(Fraction(str(row.rho)) for row in rows)
        return float(max(Fraction(str(self.budget)) - spent, Fraction(0)))

    @contextlib.contextmanager
    def _open(self) -> Iterator[list[Spent]]:
        """What was spent; what is appended is written, and nobody else spends meanwhile."""
        if self._path is None:
            yield self._rows
            return
        import fcntl

        with self._path.open("a+", newline="") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            try:
                rows = [
                    Spent(row["time"], row["run"], float(row["rho"]), row["about"])
                    for row in csv.DictReader(file)
                ]
            except (ValueError, KeyError, TypeError) as error:
                message = "its record of what was published cannot be read; see its privacy.csv"
                raise ProtocolError(message) from error
            before, new = len(rows), not self._path.stat().st_size
            yield rows
            csv.writer(file).writerows([Spent._fields] * new + rows[before:])
            file.flush()
            os.fsync(file.fileno())


def epsilon(rho: float, delta: float) -> float:
    """The epsilon of (epsilon, delta)-differential privacy that rho-zCDP implies.

    ``rho + 2 sqrt(rho log(1 / delta))`` (Bun and Steinke 2016, proposition 1.3).
    """
    return rho + 2.0 * math.sqrt(rho * math.log(1.0 / delta))


def noise(shape: tuple[int, ...], variance: int) -> Int[np.ndarray, "*shape"]:
    """Independent discrete Gaussians, from the random numbers of the operating system.

    Parameters
    ----------
    variance
        Its parameter: a whole number of squared steps.

    Returns
    -------
    An array of integers. It has probability proportional to ``exp(-x^2 / (2 variance))`` at every
    integer x, exactly: floating-point noise would show in its last digits what it is added to.
    """
    count = math.prod(shape)
    return np.array([discrete_gaussian(variance) for _ in range(count)], np.int64).reshape(shape)


def discrete_gaussian(variance: int) -> int:
    """One of them (Canonne, Kamath and Steinke 2020, algorithm 3)."""
    t = math.isqrt(variance) + 1
    while True:
        y = _discrete_laplace(t)
        # (|y| - variance / t)^2 / (2 variance)
        if _bernoulli((abs(y) * t - variance) ** 2, 2 * variance * t * t):
            return y


def _discrete_laplace(t: int) -> int:
    """An integer y with probability proportional to exp(-|y| / t) (algorithm 2 with s = 1)."""
    while True:
        part = secrets.randbelow(t)
        if not _bernoulli(part, t):
            continue
        whole = 0
        while _bernoulli(1, 1):
            whole += 1
        size = part + t * whole
        negative = secrets.randbits(1)
        if not (negative and size == 0):
            return -size if negative else size


def _bernoulli(top: int, bottom: int) -> bool:
    """True with probability exp(-top / bottom) (algorithm 1)."""
    while top > bottom:
        if not _bernoulli(1, 1):
            return False
        top -= bottom
    k = 1
    while secrets.randbelow(bottom * k) < top:
        k += 1
    return k % 2 == 1
