"""Positive definite systems by conjugate gradients: many right-hand sides, bounds of their errors.

All rows that are not done share one product a step and one compiled update; each has its own
coefficients and its own end. With a proven lower bound of the spectrum the errors are bounded from
the true residual r = b - A x of what is returned:

    |e|_A² = r' A⁻¹ r <= |r|² / lower,                       |e|_2 <= |r| / lower,
    |e|_A² <= r' P⁻¹ r / floor,     with A >= floor P,       |e|_2 <= |e|_A / sqrt(lower),

the second with a Nyström preconditioner P (`core.nystrom`). Rounding of the product that r is made
with (some eps |A| |x|) is part of the bounds. Relative errors are to the solution, which is at
least what was found less the bound. Without a proven bound the smallest Ritz value of the row,
which is above the spectrum's end, takes its place: an estimate.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from scipy import linalg

from expressway._errors import Indefinite, InputError
from expressway._types import Array, Bool, Float, Int

from .nystrom import Nystrom, product, split, width
from .operator import Operator

# Bytes that the arrays of rows under iteration may take.
MEMORY = 2**30
# Arrays of rows: right-hand sides, solutions, residuals, directions, products, and one on its way.
_COPIES = 6
# Rows from which a product gains nothing by more of them, unless they are short: numbers in all.
_MANY, _NUMBERS = 128, 2**19
# Error of a product, in units of eps |A| |x|.
ROUNDING = 4.0
# Kinds whose products are those of a factor and its transpose.
_FACTORED = ("gauss-newton", "fisher", "empirical-fisher")
# Rows are iterated to that share of the tolerance, so that rounding does not ask for a restart.
_WITHIN = 0.95
# How often a row is taken up again from its true residual.
_RESTARTS = 5
# Fewer rows than that are not packed further: a product costs the same.
_NARROW = 4


class Solved(NamedTuple):
    """Solutions of ``A x = b``, with bounds of their errors."""

    rows: Float[Array, "n d"]
    bound: Float[np.ndarray, "n"]
    """Of the relative error in the 2-norm; infinite where nothing is known."""
    energy: Float[np.ndarray, "n"]
    """Of the relative error in the norm of A."""
    matvecs: int
    """Products of A with a vector."""
    certified: bool
    """The lower bound of the spectrum is proven; False: the bounds are estimates."""


class Step(NamedTuple):
    """What one step was, for the rows that took part."""

    which: Int[np.ndarray, "m"]
    """Numbers of the rows."""
    alpha: Float[np.ndarray, "m"]
    """Length of the step; 0 where the product was rounding only."""
    gain: Float[np.ndarray, "m"]
    """What the error's squared A-norm fell by."""
    before: Float[np.ndarray, "m"]
    """``r' P⁻¹ r`` before it."""
    after: Float[np.ndarray, "m"]
    """``r' P⁻¹ r`` after it."""
    residual: Float[np.ndarray, "m"]
    """``|r|²`` after it."""
    size: Float[np.ndarray, "m"]
    """``|x|²`` after it."""


Watch = Callable[[Step], Any]


def solve(
    operator: Operator,
    b: Float[Array, "n d"],
    rtol: float,
    *,
    preconditioner: Nystrom | None = None,
    max_steps: int | None = None,
) -> Solved:
    """``A⁻¹`` times each row of b, to a relative error of ``rtol`` in the 2-norm.

    Parameters
    ----------
    operator
        Positive definite. With `Operator.lower` the errors are certified.
    rtol
        A row ends when its bound is below, or rounding lets it fall no more: see `Solved.bound`.
    max_steps
        Of a run of a batch of rows; 20 d where not given.

    Raises
    ------
    Indefinite
        A product shows an eigenvalue that is not positive.
    """
    rows, bounds, energies, matvecs = [], [], [], 0
    together = fitting(operator)
    host = np.asarray(b, operator.dtype)
    for i in range(0, len(host), together):
        batch = _Batch(operator, host[i : i + together], preconditioner, max_steps)
        batch.solve(rtol)
        rows.append(batch.x)
        bounds.append(batch.bound)
        energies.append(batch.energy)
        matvecs += batch.matvecs
    return Solved(
        jnp.asarray(np.concatenate(rows)) if rows else jnp.asarray(host),
        np.concatenate([np.empty(0), *bounds]),
        np.concatenate([np.empty(0), *energies]),
        matvecs,
        operator.lower is not None,
    )


def perturb_and_solve(
    operator: Operator,
    key: Any,
    n: int,
    rtol: float,
    *,
    preconditioner: Nystrom | None = None,
) -> Solved:
    """``x = A⁻¹ e``, e of covariance A: n rows from N(0, A⁻¹), in a few vectors of memory each.

    Raises
    ------
    InputError
        The operator has no `Operator.noise`.
    """
    if operator.noise is None:
        message = (
            f"perturb-and-solve with a {operator.kind} matrix, which has no factor to draw noise "
            "with: take the Gauss-Newton or Fisher matrix"
        )
        raise InputError(message)
    return solve(operator, operator.noise(key, n), rtol, preconditioner=preconditioner)


def fitting(operator: Operator) -> int:
    """Rows that are iterated at once: a power of two, of short rows many."""
    rows = MEMORY // (_COPIES * operator.size * np.dtype(operator.dtype).itemsize)
    enough = max(_MANY, _NUMBERS // operator.size)
    return 1 << (min(max(rows, 1), enough).bit_length() - 1)


class _Batch:
    """Rows that are solved together: a loop's variables, not a result."""

    def __init__(
        self, operator: Operator, b: np.ndarray, preconditioner: Nystrom | None, most: int | None
    ) -> None:
        self.operator, self.b, self.preconditioner, self.most = operator, b, preconditioner, most
        self.x, self.matvecs = np.zeros_like(b), 0
        self.bound, self.energy = (np.where(b.any(axis=1), np.inf, 0.0) for _ in range(2))
        self.reached = np.zeros(len(b))
        self.spectrum = Spectrum(operator, preconditioner, len(b))

    def solve(self, rtol: float) -> None:
        """Run, look at the true residual, and run again from there where that still helps."""
        todo, residual = np.flatnonzero(self.bound > 0), self.b
        for _ in range(1 + _RESTARTS):
            if not len(todo):
                return
            last = self.bound[todo]
            correction = _Target(self, todo, rtol)
            found = run(
                self.operator,
                self.x[todo],
                residual[todo],
                self.preconditioner,
                correction,
                self.most,
            )
            self.matvecs += found.matvecs
            self.x[todo] = found.rows
            self.matvecs += len(todo)
            residual = self.b.copy()
            residual[todo] -= product(self.operator, self.x[todo])
            self._measure(todo, residual[todo])
            again = (self.bound[todo] > rtol) & (self.bound[todo] < last / 2) & found.moved
            todo = todo[again]

    def _measure(self, rows: np.ndarray, r: np.ndarray) -> None:
        """Bounds of the errors of what was found, from true residuals."""
        self.spectrum.learn_ends(rows)
        x, b, exact = (a.astype(np.float64) for a in (self.x[rows], self.b[rows], r))
        padded = np.zeros((width(len(r)), r.shape[1]), r.dtype)
        padded[: len(r)] = r
        after = _weighed(self.preconditioner, padded)[1][: len(r)]
        found = Found(
            after,
            np.sum(exact**2, axis=1),
            np.sum(x * x, axis=1),
            np.maximum(np.sum(x * (b - exact), axis=1), 0.0),
        )
        errors = self.spectrum.errors(rows, found)
        self.bound[rows], self.energy[rows] = errors.relative(found)
        self.reached[rows] = found.energy


class _Target:
    """Says which rows are as near as was asked for."""

    def __init__(self, batch: _Batch, rows: np.ndarray, rtol: float) -> None:
        self.batch, self.rows, self.rtol = batch, rows, rtol * _WITHIN
        batch.spectrum.restart()

    def __call__(self, step: Step) -> Bool[np.ndarray, "m"]:
        spectrum, rows = self.batch.spectrum, self.rows[step.which]
        spectrum.learn(step, rows)
        self.batch.reached[rows] += step.gain
        found = Found(step.after, step.residual, step.size, self.batch.reached[rows])

        def done() -> np.ndarray:
            errors = spectrum.errors(rows, found)
            # No step makes the true residual less than the rounding of a product.
            return (errors.relative(found)[0] <= self.rtol) | (errors.energy <= errors.noise / 2)

        ended = done()
        return done() if spectrum.learn_ends(rows[ended]) else ended


class Spectrum:
    """What is known of a matrix's ends: proven, or learnt from the steps."""

    def __init__(self, operator: Operator, preconditioner: Nystrom | None, n: int) -> None:
        self.known = operator.lower is not None
        self.eps = float(np.finfo(operator.dtype).eps)
        self.preconditioned = preconditioner is not None
        # Of the matrix, as a multiple of the preconditioned one's.
        self.scale, floor, self.growth = 1.0, operator.lower, 0.0
        if preconditioner is not None:
            self.scale, floor = float(preconditioner.damping), float(preconditioner.floor)
            values = np.asarray(preconditioner.values)
            self.growth = self.scale + float(values.max(initial=0.0))
        self.lower, self.factored = operator.lower, operator.kind in _FACTORED
        self.floor = np.full(n, floor if self.known else np.inf)
        self._ratio, self._history = np.zeros(n), []

    def restart(self) -> None:
        """Coefficients of a run begin."""
        self._ratio[:] = 0.0
        self._history.clear()

    def learn(self, step: Step, rows: Int[np.ndarray, "m"]) -> None:
        """Take the Rayleigh quotients of a step into account: |A| is at least these."""
        with np.errstate(divide="ignore", invalid="ignore"):
            # 1 / alpha + beta / alpha before: the diagonal of Lanczos' matrix.
            diagonal = 1 / step.alpha + self._ratio[rows]
            side = np.sqrt(step.after / step.before) / step.alpha
            self._ratio[rows] = step.after / step.before / step.alpha
        if not self.preconditioned:
            seen = (diagonal + side)[step.alpha > 0]
            self.growth = max(self.growth, float(seen.max(initial=0.0)))
        if not self.known:
            entry = np.full((2, len(self.floor)), np.nan)
            entry[:, rows] = diagonal, side
            self._history.append(entry)

    def learn_ends(self, rows: Int[np.ndarray, "_"]) -> bool:
        """Smallest Ritz values of these rows, where no bound is known; whether any are new."""
        if self.known or not len(rows) or not self._history:
            return False
        entries = np.asarray(self._history)
        for row in rows:
            diagonal, side = entries[np.isfinite(entries[:, :, row]).all(axis=1), :, row].T
            if not len(diagonal):
                continue
            ritz = linalg.eigvalsh_tridiagonal(
                diagonal, side[:-1], select="i", select_range=(0, 0)
            )[0]
            least = self.eps * float(diagonal.max())
            self.floor[row] = max(min(self.floor[row], ritz), least)
        return True

    def errors(self, rows: Int[np.ndarray, "m"], step: "Found") -> "Errors":
        """Bounds of the errors in the norm of A, and the spectrum's lower end, for these rows.

        The second part is what rounding of a product with x may hide. A sum of products of length
        |A| |x| is off by eps |A| |x|, divided by the root of the lower end in the worst case. With
        a factor, ``A = J'J + ..``: an error u of J x becomes J'u, of energy |u|² at most, eps² |A|
        |x|²; that of J' times it is eps |A|^(1/2) |J x|, and |J x| <= |x|_A.
        """
        floor = self.floor[rows]
        # Where nothing is known yet, the largest there can be: what looks done then is looked at.
        floor = np.where(np.isfinite(floor), floor, self.growth / self.scale)
        lower = floor * self.scale if self.lower is None else np.full(len(rows), self.lower)
        energy = np.sqrt(step.residual / lower)
        if self.preconditioned:
            energy = np.minimum(energy, np.sqrt(step.after / floor))
        stretch, size = np.sqrt(self.growth / lower), np.sqrt(step.size)
        if self.factored:
            noise = np.sqrt(self.growth) * size + stretch * np.sqrt(step.energy)
        else:
            noise = np.sqrt(self.growth) * stretch * size
        return Errors(energy, ROUNDING * self.eps * noise, lower)

    def rounding(self, size: Any, value: Any) -> Any:
        """What rounding of products may change ``x'A x = value`` by, |x|² = ``size``."""
        worst = np.sqrt(self.growth * size * value) if self.factored else self.growth * size
        # Products p'q and sums of them: 4 was not enough once at 1e-16, with a hundred steps.
        return ROUNDING * self.eps * (worst + 4 * value)


class Found(NamedTuple):
    """What errors are judged by, a number a row."""

    after: Float[np.ndarray, "m"]
    """``r' P⁻¹ r``."""
    residual: Float[np.ndarray, "m"]
    """``|r|²``."""
    size: Float[np.ndarray, "m"]
    """``|x|²``."""
    energy: Float[np.ndarray, "m"]
    """``x' A x``."""


class Errors(NamedTuple):
    """Bounds of a row's error."""

    energy: Float[np.ndarray, "m"]
    """In the norm of A, from the residual."""
    noise: Float[np.ndarray, "m"]
    """And from rounding."""
    lower: Float[np.ndarray, "m"]

    def relative(self, found: Found) -> tuple[Any, Any]:
        """In the 2-norm and in the norm of A."""
        total = self.energy + self.noise
        return (
            _relative(total / np.sqrt(self.lower), np.sqrt(found.size)),
            _relative(total, np.sqrt(found.energy)),
        )


def _relative(error: Float[np.ndarray, "m"], found: Float[np.ndarray, "m"]) -> Any:
    """Error relative to what is sought, which is at least what was found less the error."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error < found, error / (found - error), np.where(error > 0, np.inf, 0.0))


class Ran(NamedTuple):
    """Where a run of conjugate gradients came to."""

    rows: np.ndarray
    matvecs: int
    moved: np.ndarray
    """False where the first step was rounding already."""


def run(
    operator: Operator,
    x: np.ndarray,
    residual: np.ndarray,
    preconditioner: Nystrom | None,
    watch: Watch,
    most: int | None = None,
) -> Ran:
    """Conjugate gradients from x, with residual ``b - A x``, until ``watch`` says a row is done.

    ``watch`` gets each `Step` and returns for its rows whether they are done. When half of them
    are, the others are packed into half as many rows.
    """
    n, d = x.shape
    out, moved, matvecs = x.copy(), np.zeros(n, bool), 0
    slots = np.full(width(n), -1)
    slots[:n] = np.arange(n)
    held, start = (np.zeros((len(slots), d), operator.dtype) for _ in range(2))
    held[:n], start[:n] = x, residual
    x, r = jax.device_put(held), jax.device_put(start)
    p, rho, _ = _weighed(preconditioner, r)
    active = (slots >= 0) & (rho > 0)
    for _ in range(20 * d if most is None else most):
        if not active.any():
            break
        q = operator.rows(p)
        matvecs += int(active.sum())
        # The length minimises the error along p as it is: r'p is rho but for the rounding of P⁻¹,
        # and with rho in its place the gain would not be what the error falls by.
        slope, curvature = np.asarray(_dots(r, p)), np.asarray(_dots(p, q))
        _judge(operator, p, q, np.where(active, curvature, 1.0))
        moving = active & (curvature > 0) & (slope > 0)
        alpha = np.where(moving, slope / np.where(moving, curvature, 1.0), 0.0)
        x, r = _plus(x, alpha, p), _plus(r, -alpha, q)
        z, after, squared = _weighed(preconditioner, r)
        p = _plus(z, np.where(moving, after / np.where(moving, rho, 1.0), 0.0), p)
        terms = (alpha, alpha * slope, rho, after, squared, np.asarray(_dots(x, x)))
        moved[slots[moving]] = True
        done = watch(Step(slots[active], *(a[active] for a in terms)))
        rho = after
        active[active] = moving[active] & ~done & (after[active] > 0)
        packed = max(width(max(int(active.sum()), 1)), _NARROW)
        if packed <= len(active) // 2:
            _put(out, slots, x)
            (x, r, p, rho), slots, active = _pack((x, r, p, rho), slots, active, packed)
    _put(out, slots, x)
    return Ran(out, matvecs, moved)


def _put(out: np.ndarray, slots: np.ndarray, x: Any) -> None:
    """Write what was found where it belongs."""
    out[slots[slots >= 0]] = np.asarray(x)[slots >= 0]


def _pack(state: Any, slots: np.ndarray, active: np.ndarray, n: int) -> Any:
    """The active rows only, in n slots."""
    kept = np.flatnonzero(active)
    free = np.full(n, -1)
    free[: len(kept)] = slots[kept]

    def packed(a: Any) -> Any:
        less = np.zeros((n, *a.shape[1:]), a.dtype)
        less[: len(kept)] = np.asarray(a)[kept]
        return less if less.ndim == 1 else jax.device_put(less)

    return tuple(map(packed, state)), free, free >= 0


def _judge(operator: Operator, p: Any, q: Any, curvature: np.ndarray) -> None:
    """Raise for a direction along which A is not positive, unless that may be rounding."""
    if not np.isfinite(curvature).all():
        message = "a product of the operator is not finite: check the fit and its data"
        raise InputError(message)
    worst = int(np.argmin(curvature))
    if curvature[worst] > 0:
        return
    v, image = (np.asarray(a)[worst].astype(np.float64) for a in (p, q))
    quotient = float(curvature[worst] / (v @ v))
    stretch = float(np.linalg.norm(image) / np.linalg.norm(v))
    # A matrix that is proven to be positive definite can show this where eps |A| is above it.
    allowed = 1e3 * float(np.finfo(operator.dtype).eps) * stretch
    if operator.lower is None or quotient < operator.lower - max(allowed, 2 * operator.lower):
        raise Indefinite.of(quotient, "Rayleigh quotient", operator.kind)


# Small functions that all steps share: XLA takes longer over one that does all, and for each case.
@jax.jit
def _dots(a: Any, b: Any) -> Any:
    """Inner products of rows, summed in float64."""
    return jnp.sum(a * b, axis=1, dtype=jnp.float64)


@jax.jit
def _plus(a: Any, factor: Any, b: Any) -> Any:
    """``a + factor b``, a factor a row."""
    return a + factor.astype(a.dtype)[:, None] * b


@jax.jit
def _parts(preconditioner: Nystrom, r: Any) -> tuple[Any, Any, Any]:
    """``P⁻¹ r``, what of r is not along the vectors, and ``r' P⁻¹ r`` of what is."""
    vectors, values, damping, _ = preconditioner
    along, rest = split(vectors, r)
    root = along * ((values + damping) ** -0.5).astype(r.dtype)[None]
    scaled = root * ((values + damping) ** -0.5).astype(r.dtype)[None]
    z = rest * jnp.asarray(1 / damping, r.dtype) + scaled @ vectors
    return z, rest, jnp.diagonal(root @ root.T)


def _weighed(preconditioner: Nystrom | None, r: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """``P⁻¹ r``, ``r' P⁻¹ r`` as a sum of squares, ``|r|²``."""
    squared = np.asarray(_dots(r, r))
    if preconditioner is None:
        return r, squared, squared
    z, rest, inside = _parts(preconditioner, r)
    outside = np.asarray(_dots(rest, rest)) / preconditioner.damping
    return z, np.asarray(inside, np.float64) + outside, squared
