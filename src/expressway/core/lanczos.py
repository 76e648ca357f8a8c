"""``A^(-1/2) z`` for many z at once, from products with A alone: block Lanczos with an error bound.

A basis V of the block Krylov space of z (Saad 2011, Numerical Methods for Large Eigenvalue
Problems, section 6.4) gives ``T = V A V'`` and ``x = V' T^(-1/2) V z``. What it costs is decided by

- **full re-orthogonalisation**: without it a cluster of small eigenvalues, the shape of every
  network's information, is found again and again (Paige 1980);
- **when to stop**: with ``A^(-1/2) = 1/pi ∫ t^(-1/2) (A + t)⁻¹ dt`` the error is an integral of the
  errors of shifted linear systems, whose residuals ``r(t)`` are known from T and the next block. If
  no eigenvalue is below λ::

      |A^(-1/2) z - x|  <=  1/pi ∫ t^(-1/2) / (λ + t) |r(t)| dt

  (Ilić, Turner & Simpson 2010, IMA J. Numer. Anal. 30:1044; Frommer, Güttel & Schweitzer 2014,
  SIAM J. Matrix Anal. Appl. 35:1602). With a λ that is proven it is a certificate; with the
  smallest Ritz value, which is above the smallest eigenvalue, an estimate;
- **what vectors share**: one block serves many z, and the next block starts with the Ritz vectors
  U that the last ones found. Their residuals ``A U - U Θ`` are kept and are part of the bound of
  every later vector: none is taken on trust.

Directions that are rounding are dropped, and a space that has closed gives what is then exact. The
basis lies in the computer's memory; products are made wherever the operator makes them.
"""

import functools
from typing import Any, NamedTuple

import numpy as np
import scipy.linalg

from expressway._errors import Indefinite, Unfinished
from expressway._types import Float

from .operator import Operator
from .threads import one_each

# Vectors of one block: matrix products are efficient from here on, and a block of b vectors needs
# b times the basis for the same degree.
BLOCK = 32
# The basis grows by this factor between two looks at its bound, which cost its size cubed.
LOOK = 1.1
# Rounding of the result, in eps √κ and in eps κ: products err by eps |A|, which moves a smallest
# eigenvalue by that share of it. The largest ratio seen on closed spaces is .24 of eps κ (float32,
# κ 1e2 to 1e6; spectra of `tests/core/test_lanczos.py`).
ROUNDING = (10.0, 0.5)
# Steps of the trapezoidal rule in log t. The integrand is analytic within ±iπ of the real axis: the
# rule's error is exp(-2π²/h), below 1e-17 at .5.
STEP = 0.5
# What the bound's norms, which are not analytic where they vanish, may cost the rule.
MARGIN = 1.02
MEMORY = 2 << 30  # bytes that the basis may take if nothing else is said
SHARE = 0.1  # of the tolerance, that residuals of Ritz vectors may use up in later blocks
# A direction below this multiple of eps and the norm of A is rounding: the space has closed.
CLOSED = 100.0


Rows = np.ndarray


class Roots(NamedTuple):
    """``A^(-1/2) z``, and how near."""

    rows: Float[np.ndarray, "n d"]
    bound: Float[np.ndarray, "n"]
    """Of the error, relative to the length of the row."""
    certified: bool
    """Whether the bound rests on a proven lower bound of the spectrum; else it is an estimate."""
    matvecs: int
    """Products of A with one vector."""
    basis: int
    """Most vectors held at once."""
    smallest: float
    largest: float
    """Extreme Ritz values."""


def _cleaned(v: Rows, w: Rows) -> tuple[Rows, Rows]:
    """Coordinates of rows in a basis, and what is left of them: twice is enough (Parlett)."""
    first = w @ v.T
    w = w - first @ v
    second = w @ v.T
    return first + second, w - second @ v


def _split(w: Rows) -> tuple[Rows, Rows]:
    """Rows as ``R Q`` with orthonormal rows of Q."""
    q, r = np.linalg.qr(w.T)
    return q.T, r.T


@one_each()
def inverse_root(
    operator: Operator,
    z: Float[Any, "n d"],
    rtol: float = 1e-3,
    *,
    memory: float | int = MEMORY,
    steps: int | None = None,
    block: int = BLOCK,
) -> Roots:
    """``A^(-1/2) z`` of many z.

    Parameters
    ----------
    operator
        Positive definite.
    z
        One vector a row.
    rtol
        Bound of each row's error, relative to its length, at which it is done.
    memory
        Bytes that the basis may take.
    steps
        Degree of the polynomials in A after which blocks end, done or not; any if not given.
    block
        Vectors that share a basis.

    Raises
    ------
    Indefinite
        A Ritz value is negative: A is not positive definite.
    Unfinished
        The tolerance is below what rounding allows, or needs a larger basis than memory has; the
        error's ``point`` holds the rows reached (`Roots`).
    """
    z = np.asarray(z, dtype=operator.dtype)
    n = len(z)
    room = max(4, int(memory / (operator.size * np.dtype(operator.dtype).itemsize)) // 2)
    width = max(1, min(n, block, room // 4))
    carried: Carried | None = None
    done: list[Roots] = []
    first, spent = 0, 0
    while first < n:
        some = z[first : first + width]
        part, carried = _block(operator, some, carried, Limits(rtol, steps or np.inf, room))
        spent += part.matvecs
        full = part.basis >= room and steps is None and bool(np.any(part.bound > rtol))
        if full and width > 1:
            width = max(1, width // 4)  # fewer vectors reach a higher degree in the same memory
            continue
        done.append(part)
        first += len(some)
        if np.any(part.bound > rtol) and steps is None:
            break
    found = Roots(
        np.concatenate([part.rows for part in done]),
        np.concatenate([part.bound for part in done]),
        all(part.certified for part in done),
        spent,
        max(part.basis for part in done),
        min(part.smallest for part in done),
        max(part.largest for part in done),
    )
    if steps is None and np.any(found.bound > rtol):
        why = (
            f"a basis of {found.basis} vectors, all that memory={memory:.3g} bytes hold: give more"
            if found.basis >= room
            else f"rounding of {np.dtype(operator.dtype).name}: give a larger rtol, more damping"
            + ("" if operator.dtype == np.float64 else ", or float64")
        )
        worst = float(np.max(found.bound))
        msg = f"relative error {worst:.2g} where rtol is {rtol:.2g}; the limit is {why}"
        raise Unfinished(msg, found)
    return found


class Limits(NamedTuple):
    """What ends a block."""

    rtol: float
    steps: float
    room: int


class Carried(NamedTuple):
    """Ritz vectors that a later block starts with."""

    vectors: Float[np.ndarray, "k d"]
    values: Float[np.ndarray, "k"]
    residuals: Float[np.ndarray, "k d"]
    """``A U - Θ U``."""


class _Space:
    """A basis that grows by blocks, and A in it.

    Attributes
    ----------
    size, known
        Vectors there are, and those whose products with A are known; the rest is the next block.
    t
        ``V A V'`` of the known ones.
    kept
        How many are Ritz vectors of earlier blocks.
    last
        What A does to the newest known vectors in the directions of the next block (by columns).
    """

    def __init__(self, operator: Operator, carried: Carried | None) -> None:
        self.operator = operator
        self._held = np.zeros((0, operator.size), dtype=operator.dtype)
        self.residuals = self._held
        self.t = np.zeros((0, 0))
        if carried is not None:
            self._held, self.residuals = carried.vectors, carried.residuals
            self.t = np.diag(carried.values)
        self.size = self.known = self.kept = len(self._held)
        self.last = np.zeros((0, 0))

    @property
    def v(self) -> Rows:
        """The basis."""
        return self._held[: self.size]

    def append(self, w: Rows, scale: float) -> None:
        """The directions that rows have outside of the basis become its next block."""
        q, r = _split(_cleaned(self.v, w)[1])
        left, values, right = np.linalg.svd(r.astype(float))
        found = int(np.sum(values > CLOSED * np.finfo(w.dtype).eps * scale))
        # Directions that are short beside others of their block have lost digits: cleaned again.
        turned = right[:found].astype(w.dtype) @ q
        fresh, factor = _split(_cleaned(self.v, turned)[1])
        self.last = (left[:, :found] * values[:found] @ factor).T
        if len(self._held) < self.size + found:
            more = np.zeros((max(2 * found, len(self._held)), w.shape[1]), dtype=w.dtype)
            self._held = np.concatenate([self._held, more])
        self._held[self.size : self.size + found] = fresh
        self.size += found

    def multiply(self) -> int:
        """Products of the next block, and the directions they add; how many products."""
        old, new = self.known, self.size
        w = np.asarray(self.operator.rows(self._held[old:new]))
        h = np.asarray(_cleaned(self.v, w)[0], dtype=float)
        t = np.zeros((new, new))
        t[:old, :old] = self.t
        t[old:], t[:, old:] = h, h.T
        t[old:, old:] = 0.5 * (h[:, old:] + h[:, old:].T)
        self.t, self.known = t, new
        self.append(w, float(np.max(np.abs(t))))
        return new - old

    def combined(self, c: Float[np.ndarray, "b k"]) -> Rows:
        """Combinations of the known vectors."""
        return c.astype(self._held.dtype) @ self._held[: self.known]

    def leaks(self, vectors: Float[np.ndarray, "k k"]) -> tuple[np.ndarray, np.ndarray]:
        """What A does to combinations of the basis outside of it: two parts, as columns.

        The length of the whole is at most the sum of those of the parts.
        """
        newest = vectors[self.known - self.last.shape[1] : self.known]
        return self._factor @ vectors[: self.kept], self.last @ newest

    @functools.cached_property
    def _factor(self) -> Float[np.ndarray, "r r"]:
        """R with ``R'R`` the products of the residuals of the Ritz vectors."""
        gram = np.asarray(self.residuals @ self.residuals.T, dtype=float)
        values, vectors = np.linalg.eigh(gram)
        # What rounding makes of a zero must not become shorter.
        return np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T


class Look(NamedTuple):
    """The spectrum of T and what it says of the rows."""

    values: Float[np.ndarray, "k"]
    vectors: Float[np.ndarray, "k k"]
    coefficients: Float[np.ndarray, "b k"]
    """``T^(-1/2) V z``."""
    bound: Float[np.ndarray, "b"]
    """Relative, without rounding."""
    rounding: float
    length: Float[np.ndarray, "b"]
    leaks: tuple[np.ndarray, np.ndarray]
    """Of the Ritz vectors."""
    lower: float


def _block(
    operator: Operator, z: Rows, carried: Carried | None, limits: Limits
) -> tuple[Roots, Carried]:
    """One block to its end: the tolerance, the number of steps, the memory, or a closed space."""
    space, spent, degree = _Space(operator, carried), 0, 0
    _, outside = _cleaned(space.v, z)
    space.append(outside, float(np.max(np.linalg.norm(z, axis=1))))
    space.last = np.zeros((0, 0))  # nothing has been multiplied yet
    inside = np.asarray(_cleaned(space.v, z)[0], dtype=float)
    look: Look | None = None
    while True:
        if space.size > space.known:
            spent, degree = spent + space.multiply(), degree + 1
        closed = space.size == space.known
        full = not closed and space.size + len(z) > limits.room
        ended = closed or full or degree >= limits.steps
        if ended or look is None or space.known >= LOOK * len(look.values):
            look = _look(space, inside)
            # The condition is at least that of the Ritz values: more steps cannot help.
            least = rounding_of(operator.dtype, look.values[-1] / look.values[0])
            hopeless = least > limits.rtol and limits.steps == np.inf
            if ended or hopeless or np.all(look.bound + look.rounding <= limits.rtol):
                break
    found = Roots(
        space.combined(look.coefficients),
        look.bound + look.rounding,
        operator.lower is not None,
        spent,
        limits.room if full else space.size,
        float(look.values[0]),
        float(look.values[-1]),
    )
    return found, _ritz(space, look, limits)


def _look(space: _Space, inside: Float[np.ndarray, "b k"]) -> Look:
    """Spectrum, rows and bound.

    Raises
    ------
    Indefinite
        A Ritz value is not positive.
    """
    operator = space.operator
    values, vectors = scipy.linalg.eigh(space.t, check_finite=False)
    eps = float(np.finfo(operator.dtype).eps)
    leaks = space.leaks(vectors)
    if operator.lower is not None:
        values = np.maximum(values, operator.lower)  # Ritz values are: less is rounding
        lower = operator.lower
    elif values[0] <= CLOSED * eps * values[-1]:
        raise Indefinite.of(float(values[0]), "Ritz value", operator.kind)
    else:
        # Some eigenvalue is as near to the smallest Ritz value as the residual of that is long.
        lower = float(max(values[0] - _lengths(leaks)[0], 0.1 * values[0]))
    z = np.zeros((len(inside), space.known))
    z[:, : inside.shape[1]] = inside
    turned = z @ vectors
    roots = turned / np.sqrt(values)
    length = np.linalg.norm(roots, axis=1)
    error = _integral(leaks, values, turned, lower)
    sure = np.maximum(length - error, 1e-3 * length)
    rounding = rounding_of(operator.dtype, float(values[-1] / lower))
    bound = error / np.maximum(sure, 1e-300)
    return Look(values, vectors, roots @ vectors.T, bound, rounding, length, leaks, lower)


def rounding_of(dtype: Any, condition: float) -> float:
    """Relative error that rounding may leave in ``A^(-1/2) z`` at a condition number κ."""
    eps = float(np.finfo(dtype).eps)
    return eps * (ROUNDING[0] * condition**0.5 + ROUNDING[1] * condition)


def _lengths(parts: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Lengths of columns that are sums of two parts, at most."""
    return np.linalg.norm(parts[0], axis=0) + np.linalg.norm(parts[1], axis=0)


def _integral(
    leaks: tuple[np.ndarray, np.ndarray],
    values: Float[np.ndarray, "k"],
    turned: Float[np.ndarray, "b k"],
    lower: float,
) -> Float[np.ndarray, "b"]:
    """``1/pi ∫ t^(-1/2) / (λ + t) |r(t)| dt`` for each row.

    By the trapezoidal rule in log t, with what is below its first node (where the residual is at
    most that of t = 0) and beyond its last.
    """
    low, high = np.log(1e-6 * lower), np.log(1e3 * max(values[-1], lower))
    nodes = np.exp(np.arange(low, high + STEP, STEP))

    def residual(t: float) -> Float[np.ndarray, "b"]:
        y = (turned / (values + t)).T
        return _lengths((leaks[0] @ y, leaks[1] @ y))

    total = 2.0 * np.sqrt(nodes[0]) / lower * residual(0.0)
    for t in nodes:
        total = total + STEP * np.sqrt(t) / (lower + t) * residual(float(t))
    total = total + 2.0 / np.sqrt(nodes[-1]) * residual(float(nodes[-1]))
    return MARGIN / np.pi * total


def _ritz(space: _Space, look: Look, limits: Limits) -> Carried:
    """Ritz vectors that are worth keeping: with residuals that later blocks can bear.

    A vector of value θ and residual ρ adds about ``ρ / (√(λθ) (√λ + √θ))`` to the error of a row.
    """
    values, lower = look.values, look.lower
    each = _lengths(look.leaks) / (np.sqrt(lower * values) * (np.sqrt(lower) + np.sqrt(values)))
    order = np.argsort(each)
    budget = SHARE * limits.rtol * float(np.median(look.length))
    count = int(np.sum(np.sqrt(np.cumsum(each[order] ** 2)) <= budget))
    chosen = np.sort(order[: min(count, limits.room // 2)])
    turn = look.vectors[:, chosen].T
    vectors = space.combined(turn)
    residuals = turn[:, : space.kept].astype(vectors.dtype) @ space.residuals
    residuals = _cleaned(space.v, residuals)[1]
    newest = turn[:, space.known - space.last.shape[1] :] @ space.last.T
    residuals += newest.astype(vectors.dtype) @ space.v[space.known :]
    return Carried(vectors, values[chosen], residuals)
