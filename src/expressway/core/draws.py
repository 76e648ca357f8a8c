"""Draws of parameters from the asymptotic distribution of a fit.

Of N(theta, C) with ``C = A⁻¹``, A the information summed over all observations (Hessian,
Gauss-Newton, Fisher; plus a prior's precision), or with the sandwich
``C = A⁻¹ (sum_n g_n g_n') A⁻¹``. Routes, all exact in distribution but for the error that is
reported:

- **cholesky**: ``x = L⁻ᵀ z``, ``A = L L'``, where A can be formed;
- **lanczos**: ``x = A^(-1/2) z`` from products with A (`core.lanczos`);
- **perturb-and-solve**: ``x = A⁻¹ (J' H^(1/2) e1 + √δ e2)``, whose right-hand side has covariance
  ``A = J' H J + δ``, by conjugate gradients (Papandreou & Yuille 2010, Gaussian Sampling by Local
  Perturbations, NIPS): a few vectors of memory;
- **solve**, for the sandwich: ``x = A⁻¹ sum_n e_n g_n`` with one normal number e_n for each
  observation (or cluster) has covariance ``A⁻¹ (sum_n g_n g_n') A⁻¹`` exactly; no root is needed.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import jax
import numpy as np
import scipy.linalg
from scipy.linalg.lapack import dpocon  # pyright: ignore[reportAttributeAccessIssue]

from expressway._errors import Indefinite, InputError, Unfinished
from expressway._types import Array, Float, Int

from . import conjugate, lanczos
from .functions import DENSE
from .lanczos import MEMORY, rounding_of
from .nystrom import Nystrom, adapted
from .operator import Operator
from .source import Source

Kind = Literal["hessian", "gauss-newton", "fisher", "sandwich"]
Method = Literal["cholesky", "lanczos", "perturb-and-solve"]
# Columns of a matrix that are formed together.
TOGETHER = 256
# So few vectors in memory are no basis.
FEW = 64
# Share of the memory that a preconditioner may take: three arrays of its size are made.
SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Draws:
    """Draws of parameters.

    Attributes
    ----------
    theta
        Parameters like those of the fit, with draws as first axis.
    deviations
        The same as vectors: what each draw adds to the fit, in unconstrained coordinates.
    error_bound
        Of each draw: what its deviation may be off, relative to its length.
    certified
        Whether that is a bound (a lower bound of the spectrum is known) or an estimate.
    matvecs
        Products with A that all draws took together.
    method, kind
        The route, and what A is.
    damping
        The multiple of the identity that is part of A: prior precisions.
    basis
        Most vectors held at once.
    """

    theta: Any = field(repr=False)
    deviations: Float[np.ndarray, "n d"] = field(repr=False)
    error_bound: Float[np.ndarray, "n"] = field(repr=False)
    certified: bool
    matvecs: int
    method: str
    kind: str
    damping: float
    basis: int

    def __str__(self) -> str:
        """One line."""
        count, size = self.deviations.shape
        what = "at most" if self.certified else "estimated at"
        return (
            f"{count} draws of {size:,} parameters ({self.kind}, damping {self.damping:g}) by "
            f"{self.method}: relative error {what} {np.max(self.error_bound):.1e}, "
            f"{self.matvecs:,} products"
        )


class Moved(NamedTuple):
    """Deviations, and how they were found."""

    rows: Float[np.ndarray, "n d"]
    bound: Float[np.ndarray, "n"]
    certified: bool
    matvecs: int
    basis: int
    method: str


def draw(  # noqa: PLR0913 — the arguments of `expressway.draws`
    source: Source,
    key: Array,
    n: int,
    *,
    kind: Kind = "hessian",
    rtol: float = 1e-3,
    prior_precision: float | int = 0.0,
    clusters: Any = None,
    method: Method | None = None,
    bread: Kind | None = None,
    memory: float | int = MEMORY,
) -> Draws:
    """Draws of a fit's parameters; arguments as of `expressway.draws`."""
    checked(n, rtol, prior_precision, memory)
    if kind not in get_args(Kind):
        msg = f"kind {kind!r}, needed is one of {', '.join(get_args(Kind))}"
        raise InputError(msg)
    if clusters is not None and kind != "sandwich":
        msg = f'clusters are for kind="sandwich", and kind is {kind!r}: leave one of them out'
        raise InputError(msg)
    if kind == "sandwich":
        operator = source.operator(bread or "hessian", prior_precision)
        moved = _sandwich(
            source, operator, weights(key, n, source.observations, clusters), rtol, memory
        )
    else:
        operator = source.operator(kind, prior_precision)
        moved = _moved(operator, key, n, rtol, method, memory)
    return Draws(
        source.shaped(moved.rows),
        moved.rows,
        moved.bound,
        moved.certified,
        moved.matvecs,
        moved.method,
        kind,
        operator.damping,
        moved.basis,
    )


def checked(n: int, rtol: float, prior_precision: float | int, memory: float | int) -> None:
    """Nothing, where the arguments of draws make sense; else `InputError`."""
    for name, value, least in (
        ("n", n, 1),
        ("rtol", rtol, 1e-15),
        ("prior_precision", prior_precision, 0.0),
        ("memory", memory, 1.0),
    ):
        if not (np.isfinite(value) and value >= least):
            msg = f"{name} is {value}, needed is a number from {least:g}"
            raise InputError(msg)


def weights(key: Array, n: int, observations: int, clusters: Any) -> Float[np.ndarray, "n m"]:
    """Standard normal numbers, one for each draw and observation; the same within a cluster."""
    if not observations:
        msg = (
            'kind="sandwich" needs the observations: write the problem as a sum over them '
            "(Objective.additive, Objective.supervised, Equation.additive)"
        )
        raise InputError(msg)
    if clusters is None:
        return np.asarray(jax.random.normal(key, (n, observations), dtype=float))
    number = numbered(clusters, observations)
    each = np.asarray(jax.random.normal(key, (n, int(number.max()) + 1), dtype=float))
    return each[:, number]


def numbered(clusters: Any, observations: int) -> Int[np.ndarray, "m"]:
    """The number of each observation's cluster.

    Raises
    ------
    InputError
        Labels are not one for each observation, or all the same: the gradients of all observations
        together vanish at an optimum, and intervals would have no width.
    """
    if len(clusters) != observations:
        msg = f"{len(clusters)} cluster labels for {observations} observations; give one each"
        raise InputError(msg)
    names, number = np.unique(np.asarray(clusters), return_inverse=True)
    if len(names) < 2:
        msg = (
            f"all {observations} observations are in one cluster; a sandwich needs at least two: "
            "leave clusters out if observations are independent"
        )
        raise InputError(msg)
    return number.reshape(observations)


def formed(operator: Operator) -> Float[np.ndarray, "d d"]:
    """The matrix, from products with the columns of the identity; doubles."""
    d = operator.size
    whole = np.zeros((d, d))
    for first in range(0, d, TOGETHER):
        last = min(first + TOGETHER, d)
        some = np.zeros((last - first, d), dtype=operator.dtype)
        some[np.arange(last - first), np.arange(first, last)] = 1.0
        whole[first:last] = np.asarray(operator.rows(some))
    return 0.5 * (whole + whole.T)


class Factor(NamedTuple):
    """Cholesky's, with a bound of what rounding does to results."""

    lower: Float[np.ndarray, "d d"]
    rounding: float


def factored(operator: Operator) -> Factor:
    """Of the matrix formed.

    Raises
    ------
    Indefinite
        It is not positive definite: its smallest eigenvalue.
    """
    a = formed(operator)
    norm = float(np.max(np.sum(np.abs(a), axis=0)))
    if not np.isfinite(norm):
        msg = f"the {operator.kind} is not finite at the fit; solve it again from another start"
        raise InputError(msg)
    try:
        lower = scipy.linalg.cholesky(a, lower=True)
    except scipy.linalg.LinAlgError:
        values = scipy.linalg.eigvalsh(a)
        raise Indefinite.of(float(values[0]), "eigenvalue", operator.kind) from None
    reciprocal, _ = dpocon(lower, norm, uplo="L")
    condition = 1.0 / max(float(reciprocal), 1e-300)
    return Factor(lower, rounding_of(operator.dtype, condition))


def _moved(
    operator: Operator, key: Array, n: int, rtol: float, method: Method | None, memory: float | int
) -> Moved:
    """Rows of N(0, A⁻¹)."""
    room = memory / (operator.size * np.dtype(operator.dtype).itemsize)
    chosen = method
    if chosen is None:
        few = operator.noise is not None and operator.lower is not None and room < 4 * FEW
        chosen = "perturb-and-solve" if few else "lanczos"
        chosen = "cholesky" if operator.size <= DENSE else chosen
    if chosen == "cholesky":
        z = np.asarray(jax.random.normal(key, (n, operator.size), dtype=float))
        factor = factored(operator)
        rows = scipy.linalg.solve_triangular(factor.lower, z.T, lower=True, trans=1).T
        bound = np.full(n, factor.rounding)
        return Moved(rows.astype(operator.dtype), bound, True, operator.size, operator.size, chosen)
    if chosen == "lanczos":
        z = jax.random.normal(key, (n, operator.size), dtype=operator.dtype)
        try:
            found = lanczos.inverse_root(operator, z, rtol, memory=memory)
        except Unfinished:
            if method is not None or operator.noise is None or operator.lower is None:
                raise
            chosen = "perturb-and-solve"
        else:
            return Moved(
                found.rows, found.bound, found.certified, found.matvecs, found.basis, chosen
            )
    if chosen != "perturb-and-solve":
        msg = f"method {method!r}, needed is one of {', '.join(get_args(Method))}"
        raise InputError(msg)
    if operator.noise is None:
        msg = (
            f'the {operator.kind} has no factor to perturb: use kind="gauss-newton" or "fisher" of '
            "a supervised objective with a prior, or more memory (memory=, bytes)"
        )
        raise InputError(msg)
    ahead = preconditioner(operator, key, memory, n)
    found = conjugate.perturb_and_solve(operator, key, n, rtol, preconditioner=ahead)
    return _reached(found, ahead, rtol, chosen)


def preconditioner(
    operator: Operator, key: Array, memory: float | int, rows: int
) -> Nystrom | None:
    """Of rank as memory and the number of rows that it is for allow; None without a proven bound.

    A rank costs a product, and saves each row some.
    """
    if operator.lower is None:
        return None
    most = int(SHARE * memory / (operator.size * np.dtype(operator.dtype).itemsize))
    return adapted(operator, jax.random.fold_in(key, 1), most=max(1, min(512, rows, most)))


def _reached(found: conjugate.Solved, ahead: Nystrom | None, rtol: float, method: str) -> Moved:
    """Solutions as moves.

    Raises
    ------
    Unfinished
        One is not within the tolerance; the error's ``point`` holds all.
    """
    rank = 0 if ahead is None else len(ahead.vectors)
    moved = Moved(
        np.asarray(found.rows), found.bound, found.certified, found.matvecs + rank, rank, method
    )
    if np.any(found.bound > rtol):
        msg = (
            f"relative error {np.max(found.bound):.2g} where rtol is {rtol:.2g}: rounding of "
            f"{found.rows.dtype} allows no less; give a larger rtol, more damping, or float64"
        )
        raise Unfinished(msg, moved)
    return moved


def _sandwich(
    source: Source,
    operator: Operator,
    e: Float[np.ndarray, "n m"],
    rtol: float,
    memory: float | int,
) -> Moved:
    """``A⁻¹ sum_n e_n g_n``."""
    if source.scores is None:
        msg = 'kind="sandwich" needs the gradient of each observation; this fit has none'
        raise InputError(msg)
    ahead = np.asarray(source.scores(e))
    if operator.size <= DENSE:
        factor = factored(operator)
        rows = scipy.linalg.cho_solve((factor.lower, True), ahead.T.astype(float)).T
        bound = np.full(len(rows), factor.rounding)
        size = operator.size
        return Moved(rows.astype(operator.dtype), bound, True, size, size, "solve")
    first = preconditioner(operator, jax.random.key(0), memory, len(ahead))
    found = conjugate.solve(operator, ahead, rtol, preconditioner=first)
    return _reached(found, first, rtol, "solve")
