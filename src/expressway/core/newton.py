"""Newton's method to a certificate: an optimum by trust region, a root by damped steps.

Optima: Newton-CG trust region (Steihaug 1983, SIAM J. Numer. Anal. 20:626) in coordinates
``t = R z`` in which the Hessian at an earlier point, ``(R R')⁻¹``, is the identity. Conjugate
gradients then need few products; when they need many, R is made anew. Roots: Newton's steps,
shortened until the natural monotonicity test holds (Deuflhard 2011, Newton Methods for Nonlinear
Problems, section 3.3), which does not depend on how equations are scaled.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from expressway._errors import Saddle, SingularJacobian, Unfinished
from expressway._types import Array, Float

from . import trust
from .functions import (
    Closed,
    Functions,
    Spectrum,
    applied,
    columns,
    eigenvalues,
    finite,
    inverted,
    singular_values,
)
from .system import System
from .trust import scaling, spectral

# Steps after which it is given up.
MOST = 200
# An eigenvalue or singular value below this share of the largest: derivatives would have no digits.
SINGULAR = 1e-13
# Squared Newton decrement, relative to the objective: the squared error of the next point.
DONE = 1e-20
# Where rounding stops the decrement above DONE, it must be below this; else the fit is unfinished.
STALLED = 1e-12
# A step, relative to the parameters, below which the Hessian is that of before: 13 digits.
SAME = 1e-13
# Below minus this share of the largest an eigenvalue is negative.
NEGATIVE = 1e-9
# Newton's step, relative to the parameters, at an optimum; one at infinity is always a step away.
SHORT = 1e-6
# Products of conjugate gradients since the Hessian was formed, after which it is formed anew.
MANY = 8


class Certificate(NamedTuple):
    """What says that a point is a solution."""

    gradient_norm: float
    """Largest absolute entry of the gradient, or of the equation."""
    decrement: float
    """Newton's: ``sqrt(g' H⁻¹ g)``, the distance to the optimum in standard errors where the
    objective is a negative log-likelihood; for an equation the length of Newton's step."""
    smallest: float
    """Smallest eigenvalue of the Hessian; of an equation's Jacobian the smallest singular value."""
    largest: float
    """Of the same kind; of a dense Hessian a bound, its largest absolute row sum."""
    kind: str
    """What `smallest` is: "eigenvalue", "Ritz value" (an upper bound), or "singular value"."""
    steps: int
    products: int
    """Products with the Hessian; one formed counts as many as it has columns."""


class Point(NamedTuple):
    """Where a solver is."""

    t: Float[np.ndarray, "d"]
    radius: float
    steps: int
    products: int


class Found(NamedTuple):
    """A solution, its certificate and the inverse of the Jacobian there; None if singular."""

    t: Float[Array, "d"]
    certificate: Certificate
    inverse: Any
    weakest: Float[np.ndarray, "d"]
    """The direction of the smallest eigenvalue or singular value."""


def minimise(
    f: Functions | Closed, point: Point, max_steps: int, watch: Callable[[Point], None]
) -> Found:
    """The optimum that descent reaches.

    Raises
    ------
    Unfinished
        The steps are used up, or the objective falls without end; the last point comes with it.
    Saddle
        The gradient vanishes where the Hessian has a negative eigenvalue.
    """
    t, radius = np.asarray(point.t), point.radius
    value, gradient = f.both(t)
    finite(f, t, value, gradient)
    frame, since, refreshed = scaling(f, t), 0, point.steps
    products = point.products + columns(f)
    # Newton's step, or the gradient's length where it is not known.
    radius = radius or max(1.0, float(np.linalg.norm(frame.back(gradient))))
    step, decrement = point.steps, np.nan
    for step in range(point.steps, max_steps + 1):
        if refreshed != step and (since > MANY or spectral(f)):
            frame, since, refreshed = scaling(f, t), 0, step
            products += columns(f)
        move = trust.step(f, frame, t, gradient, radius)
        products, since = products + int(move.products), since + int(move.products)
        decrement = float(move.decrement)
        tiny = decrement**2 <= DONE * max(1.0, abs(value))
        watch(Point(np.asarray(t), radius, step, products))
        short = float(np.linalg.norm(move.step)) <= SHORT * (1.0 + float(np.linalg.norm(t)))
        if tiny and short:
            return _polished(f, t, step, products)
        if step == max_steps:
            break
        trial = t + np.asarray(move.step)
        new_value, new_gradient = f.both(trial)
        gain, expected = value - new_value, float(move.gain)
        # Below rounding of the objective its gradient tells whether a step was good.
        lost = 1e-13 * max(1.0, abs(value))
        if expected > 10 * lost:
            ratio = gain / expected
        else:
            smaller = np.linalg.norm(frame.back(new_gradient)) < np.linalg.norm(
                frame.back(gradient)
            )
            ratio = 1.0 if smaller else -1.0
        if not (np.isfinite(new_value) and np.all(np.isfinite(new_gradient))):
            ratio = -1.0
        length = float(move.length)
        if ratio < 0.25:
            radius = 0.25 * min(length, radius)
            since = MANY + 1 if ratio < 0 and since > 1 else since
        elif ratio > 0.75 and bool(move.boundary):
            radius = 2.0 * radius
        if ratio > 1e-4:
            t, value, gradient = trial, new_value, new_gradient
        elif short and expected <= 10 * lost and decrement**2 <= STALLED * max(1.0, abs(value)):
            return _polished(f, t, step, products)
        elif radius < 1e-14:
            break
    left = Point(np.asarray(t), radius, max_steps, products)
    msg = (
        f"not at an optimum after {step} steps: gradient norm {np.max(np.abs(gradient)):.3g}, "
        f"Newton decrement {decrement:.3g}, objective {value:.6g}; solve again with more steps "
        "(max_steps=), or see whether it has a minimum"
    )
    raise Unfinished(msg, left)


def root(
    f: Functions | Closed, point: Point, max_steps: int, watch: Callable[[Point], None]
) -> Found:
    """The root that damped Newton steps reach.

    Raises
    ------
    Unfinished
        The steps are used up, or no step brings it nearer; the last point comes with it.
    """
    t, products = jnp.asarray(point.t), point.products
    residual, share, length, step = f.gradient(t), 1.0, np.inf, point.steps
    for step in range(point.steps, max_steps + 1):
        finite(f, t, 0.0, residual)
        inverse = inverted(f, t)
        products += columns(f)
        solve = functools.partial(applied, f, inverse, t)
        move = -solve(residual)
        last, length = length, float(np.linalg.norm(move))
        size = max(1.0, float(np.linalg.norm(t)))
        watch(Point(np.asarray(t), share, step, products))
        if length <= 1e-13 * size or (last < 1e-9 * size and length > 0.25 * last):
            return _rooted(f, t, step, products, length)
        if not np.isfinite(length) or step == max_steps:
            break
        share = min(1.0, 2.0 * share)
        while share > 1e-10:
            trial = t + share * move
            new = f.gradient(trial)
            if np.all(np.isfinite(new)):
                ahead = float(np.linalg.norm(solve(new)))
                if ahead <= (1 - 0.5 * share) * length or ahead <= 1e-14 * size:
                    break
            share *= 0.5
        else:
            break
        t, residual = trial, new
    msg = (
        f"no root found in {step} steps: largest equation {np.max(np.abs(residual)):.3g}, "
        f"Newton's step {length:.3g} long; start nearer, or see whether it has a root"
    )
    raise Unfinished(msg, Point(np.asarray(t), share, max_steps, products))


def _polished(f: Functions | Closed, t: Any, steps: int, products: int) -> Found:
    """Newton's steps with the Hessian where it is, until they no longer bring it nearer."""
    inverse, spectrum = _judged(f, t)
    products += columns(f)
    gradient = f.gradient(t)
    size = float(np.max(np.abs(gradient)))
    if inverse is None:
        nothing = Certificate(
            size, np.nan, spectrum.smallest, spectrum.largest, spectrum.kind, steps, products
        )
        return Found(jnp.asarray(t), nothing, None, spectrum.direction)
    for _ in range(3):
        step = applied(f, inverse, t, gradient)
        decrement = float(np.sqrt(max(gradient @ step, 0.0)))
        trial = np.asarray(t) - step
        new = f.gradient(trial)
        ahead = float(np.sqrt(max(new @ applied(f, inverse, t, new), 0.0)))
        if not ahead < 0.25 * decrement:
            break
        t, gradient, steps = trial, new, steps + 1
        if float(np.linalg.norm(step)) > SAME * (1.0 + float(np.linalg.norm(t))):
            inverse = inverted(f, t)
            products += columns(f)
    decrement = float(np.sqrt(max(gradient @ applied(f, inverse, t, gradient), 0.0)))
    certificate = Certificate(
        float(np.max(np.abs(gradient), initial=0.0)),
        decrement,
        spectrum.smallest,
        spectrum.largest,
        spectrum.kind,
        steps,
        products,
    )
    return Found(jnp.asarray(t), certificate, inverse, spectrum.direction)


def _rooted(f: Functions | Closed, t: Any, steps: int, products: int, length: float) -> Found:
    """A root with its certificate."""
    residual = f.gradient(t)
    spectrum = singular_values(f, t)
    certificate = Certificate(
        float(np.max(np.abs(residual), initial=0.0)),
        length,
        spectrum.smallest,
        spectrum.largest,
        spectrum.kind,
        steps,
        products,
    )
    rounding = SINGULAR * spectrum.largest
    inverse = None if spectrum.smallest <= rounding else inverted(f, t)
    return Found(jnp.asarray(t), certificate, inverse, spectrum.direction)


def judged(f: Functions | Closed, t: Any) -> Found:
    """A point found elsewhere, with its certificate.

    Raises
    ------
    Saddle
        The Hessian has a negative eigenvalue there.
    """
    if not f.symmetric:
        inverse = inverted(f, t)
        length = float(np.linalg.norm(applied(f, inverse, t, f.gradient(t))))
        return _rooted(f, t, 0, columns(f), length)
    inverse, spectrum = _judged(f, t)
    gradient = f.gradient(t)
    decrement = np.nan
    if inverse is not None:
        decrement = float(np.sqrt(max(gradient @ applied(f, inverse, t, gradient), 0.0)))
    largest = float(np.max(np.abs(gradient), initial=0.0))
    certificate = Certificate(
        largest, decrement, spectrum.smallest, spectrum.largest, spectrum.kind, 0, columns(f)
    )
    return Found(jnp.asarray(t), certificate, inverse, spectrum.direction)


def _judged(f: Functions | Closed, t: Any) -> tuple[Any, Spectrum]:
    """Inverse of a positive definite Hessian, None for a singular one, and its ends.

    Raises
    ------
    Saddle
        An eigenvalue is negative.
    """
    matrix = f.matrix(t) if f.structure == "dense" else None
    spectrum = eigenvalues(f, t, matrix)
    rounding = SINGULAR * spectrum.largest
    if spectrum.smallest < -max(NEGATIVE * spectrum.largest, rounding):
        msg = (
            f"a saddle: the gradient vanishes, but the Hessian has the {spectrum.kind} "
            f"{spectrum.smallest:.3g} along {f.theta.labels(spectrum.direction)}; "
            "start elsewhere, for example a step along it"
        )
        raise Saddle(msg)
    singular = spectrum.smallest <= rounding
    return (None if singular else inverted(f, t, matrix)), spectrum


def regular(found: Found, system: System) -> Any:
    """The inverse of the Jacobian at a solution.

    Raises
    ------
    SingularJacobian
        It has none: along which direction.
    """
    if found.inverse is None:
        c = found.certificate
        msg = (
            f"the {'Hessian' if system.symmetric else 'Jacobian'} is singular: {c.kind} "
            f"{c.smallest:.3g} of {c.largest:.3g} along {system.theta.labels(found.weakest)}, "
            "which the data do not determine; add a penalty, or hold a parameter fixed"
        )
        raise SingularJacobian(msg)
    return found.inverse
