"""The recurrence of conjugate gradients, for many rows at once.

All rows that are not done share one product a step; each has its own coefficients and its own end.
Who runs it watches the steps, and says which rows are done.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._errors import Indefinite, InputError
from expressway._types import Float, Int

from .nystrom import Nystrom, split, width
from .operator import Operator

# Bytes that the arrays of rows under iteration may take.
MEMORY = 2**30
# Arrays of rows: right-hand sides, solutions, residuals, directions, products, and one on its way.
_COPIES = 6
# Rows from which a product gains nothing by more of them, unless they are short: numbers in all.
_MANY, _NUMBERS = 128, 2**19
# Fewer rows than that are not packed further: a product costs the same.
_NARROW = 4


class Step(NamedTuple):
    """What one step was, for the rows that took part."""

    which: Int[np.ndarray, "m"]
    """Which rows."""
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


def fitting(operator: Operator) -> int:
    """Rows that are iterated at once: a power of two, of short rows many."""
    rows = MEMORY // (_COPIES * operator.size * np.dtype(operator.dtype).itemsize)
    enough = max(_MANY, _NUMBERS // operator.size)
    return 1 << (min(max(rows, 1), enough).bit_length() - 1)


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
    p, rho, _ = weighed(preconditioner, r)
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
        z, after, squared = weighed(preconditioner, r)
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
    return z, rest, jnp.sum(root * root, axis=1, dtype=jnp.float64)


def weighed(preconditioner: Nystrom | None, r: Any) -> tuple[Any, np.ndarray, np.ndarray]:
    """``P⁻¹ r``, ``r' P⁻¹ r`` as a sum of squares, ``|r|²``."""
    squared = np.asarray(_dots(r, r))
    if preconditioner is None:
        return r, squared, squared
    z, rest, inside = _parts(preconditioner, r)
    outside = np.asarray(_dots(rest, rest)) / preconditioner.damping
    return z, np.asarray(inside, np.float64) + outside, squared
