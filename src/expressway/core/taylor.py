"""Taylor series of a solution along directions of its hyperparameters, of any order.

``theta(e)`` solves ``G(theta(e), h + e d) = 0``. Coefficient k of G is linear in coefficient k of
theta: ``A theta_k + r_k = 0``, where A is the Jacobian at the solution and r_k is coefficient k of
G with theta_k left out. So one factorisation serves all orders, and one pass of series arithmetic
(`series`) finds r_1, theta_1, r_2, theta_2 … one after the other: work grows with the square of the
order. Source of the recursion: Giordano, Jordan & Broderick 2019, A Higher-Order Swiss Army
Infinitesimal Jackknife (arXiv:1907.12116), appendix A, there by nested derivatives.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Float

from .implicit import implicit, refactored
from .inverse import LU, Blocks, Cholesky
from .series import Tape
from .solution import Solution, Stage
from .system import System, kept

# Terms that fall more slowly than by this from one to the next: the series may not converge.
RATIO = 0.7
# The remaining distance to the solution, as a share of that of the prediction from the start.
LEFT = 0.5
# Smallest eigenvalue of the Jacobian at the prediction, in units of that at the stored solution.
THIN = 0.1
# Entries of an array of derivatives.
LARGEST = 10**7


class Trust(NamedTuple):
    """Whether a series may be extrapolated to a point, and why not."""

    trusted: bool
    reason: str
    ratio: float
    """By which terms fall from one to the next: ``(|term_K| / |term_1|)^(1 / (K - 1))``, in the
    norm of the Hessian where there is one. 0 for order 1, which has one term."""
    smallest: float
    """Smallest singular value of ``A0⁻¹ A1``: A1 is the Jacobian at the prediction; 0 is singular.
    NaN where matrices are not formed."""
    left: float
    """``|A0⁻¹ G(prediction)| / |A0⁻¹ G(start)|`` at the new hyperparameters: 0 is a solution."""


class Series:
    """The series of a solution; made by `taylor`.

    Attributes
    ----------
    fit, order
        The solution, and the highest order.
    """

    def __init__(self, fit: Solution, order: int) -> None:
        if order < 1:
            msg = f"order {order}, needed is 1 or more"
            raise ValueError(msg)
        self.fit, self.order = fit, order
        for stage in fit.stages:
            _ = stage.inverse

    def terms(self, delta: Any) -> Any:
        """Terms 1 … order of ``theta(hyper + delta) = theta + sum_k term_k``.

        Parameters
        ----------
        delta
            A change of all hyperparameters, a pytree like them. Several directions at once by
            ``jax.vmap(series.terms)``.

        Returns
        -------
        pytree
            Like theta, each leaf with the order as first axis: term k is
            ``D^k theta [delta, …, delta] / k!``.
        """
        return self._compiled(self.fit.stages[0].system.hyper.vector(delta))

    def derivatives(self, delta: Any) -> Any:
        """``d^k theta(hyper + e delta) / d e^k`` at e = 0 for k = 1 … order: terms times k!."""
        factorial = np.array([math.factorial(k) for k in range(1, self.order + 1)], float)

        def scaled(a: Any) -> Any:
            return a * factorial.reshape(-1, *[1] * (a.ndim - 1))

        return jax.tree.map(scaled, self.terms(delta))

    def __call__(self, hyper: Any) -> Any:
        """``theta + sum_k term_k``: the prediction at other hyperparameters."""
        flat = self.fit.stages[0].system.hyper
        terms = self._compiled(flat.vector(hyper) - self.fit.stages[0].functions.h)
        return jax.tree.map(lambda a, b: a + jnp.sum(b, axis=0), self.fit.theta, terms)

    def mixed(self, *deltas: Any) -> Any:
        """The mixed derivative ``D^m theta [delta_1, …, delta_m]`` in m directions.

        By polarisation: ``2^m m!`` times it is the sum over signs s of ``s_1 … s_m`` times
        derivative m along ``sum_i s_i delta_i``.

        Raises
        ------
        ValueError
            There are more directions than the series has orders.
        """
        count = len(deltas)
        if not 1 <= count <= self.order:
            msg = f"{count} directions of a series of order {self.order}; make one of that order"
            raise ValueError(msg)
        flat = self.fit.stages[0].system.hyper
        vectors = jnp.stack([flat.vector(delta) for delta in deltas])
        # Changing all signs changes nothing: the first stays positive.
        signs = np.array([(1.0, *s) for s in itertools.product((1.0, -1.0), repeat=count - 1)])
        terms = jax.vmap(self._compiled)(jnp.asarray(signs) @ vectors)
        share = np.prod(signs, axis=1) / 2 ** (count - 1)
        return jax.tree.map(lambda a: jnp.tensordot(share, a[:, count - 1], 1), terms)

    def array(self, order: int) -> Any:
        """All derivatives of an order, where they are few.

        A pytree of theta's leaves, each followed by ``order`` axes of hyperparameters, in the
        order of the flat vector (that of ``ravel_pytree``).

        Raises
        ------
        ValueError
            It would have more than ten million numbers.
        """
        system = self.fit.stages[0].system
        size = sum(s.system.constrained.size for s in self.fit.stages) * system.hyper.size**order
        if size > LARGEST:
            msg = (
                f"derivatives of order {order} in {system.hyper.size} hyperparameters are {size:,} "
                f"numbers, at most {LARGEST:,} are formed; ask for directions (terms, mixed)"
            )
            raise ValueError(msg)
        theta_hat = implicit(self.fit)
        function: Any = lambda h: theta_hat(system.hyper.tree(h))  # noqa: E731
        for _ in range(order):
            function = jax.jacfwd(function)
        return jax.jit(function)(system.hyper.vector(self.fit.hyper))

    def trust(self, hyper: Any) -> Trust:
        """Whether to believe the prediction at other hyperparameters.

        Three signs that one must not: terms that hardly fall (a ratio above .7), a Jacobian that
        is nearly singular at the prediction (a tenth of what it was), and an equation that the
        prediction solves hardly better than the start (by less than half).
        """
        flat = self.fit.stages[0].system.hyper
        h1 = flat.vector(hyper)
        found = _trust(self, h1 - self.fit.stages[0].functions.h, h1)
        ratio, smallest, left = (float(np.asarray(a)) for a in found)
        reasons = []
        if not ratio <= RATIO:
            reasons.append(f"terms hardly fall: ratio {ratio:.2g}")
        if smallest < THIN:
            reasons.append(f"nearly singular there: {smallest:.2g} of the curvature is left")
        if not left <= LEFT:
            reasons.append(f"the equation is not solved: {left:.2g} of the distance is left")
        return Trust(not reasons, "; ".join(reasons) or "ok", ratio, smallest, left)

    def correct(self, hyper: Any, **options: Any) -> Solution:
        """The solution at other hyperparameters: Newton's steps from the prediction.

        From the stored solution where the prediction is not finite or outside of constraints.
        Options and errors as for `solve`.
        """
        prediction = self(hyper)
        finite = all(bool(jnp.all(jnp.isfinite(a))) for a in jax.tree.leaves(prediction))
        return self.fit.again(hyper, prediction if finite else None, **options)

    @functools.cached_property
    def flat(self) -> Callable[[Any], Any]:
        """Sums of terms of a batch of directions, vectors in and a vector for each stage out."""
        arrays = tuple(_Arrays(*_arrays(stage)) for stage in self.fit.stages)
        return functools.partial(
            _moves(self.fit.stages[-1].system, _systems(self.fit), self.order), arrays
        )

    @functools.cached_property
    def _compiled(self) -> Callable[[Any], Any]:
        arrays = tuple(_Arrays(*_arrays(stage)) for stage in self.fit.stages)
        return functools.partial(
            _terms(self.fit.stages[-1].system, _systems(self.fit), self.order, self.fit.staged),
            arrays,
        )


def taylor(fit: Solution, order: int = 3) -> Series:
    """The Taylor series of a solution in its hyperparameters.

    Parameters
    ----------
    fit
        The solution; of a staged problem, all stages move.
    order
        Highest order.

    Raises
    ------
    SingularJacobian
        The solution has no derivative: along which direction.
    """
    return Series(fit, order)


class _Arrays(NamedTuple):
    t: Any
    h: Any
    held: Any
    inverse: Any


def _arrays(stage: Stage) -> tuple[Any, ...]:
    f = stage.functions
    return jnp.asarray(stage.found.t), f.h, f.held, stage.inverse


def coefficients(
    systems: tuple[System, ...], arrays: tuple[_Arrays, ...], order: int, delta: Float[Array, "p"]
) -> tuple[list[Any], list[Any]]:
    """Coefficients 0 … order of each stage's parameters, unconstrained and as the user's vector."""
    tapes, forwards = [], []
    for system, a in zip(systems, arrays, strict=True):
        tape = Tape(system.program, [True, True] + [False] * len(a.held))
        for cell, value in zip(tape.inputs[2:], a.held, strict=True):
            cell.set(0, value)
        tapes.append(tape)
        forwards.append(Tape(_forward(system), [True]))
    free: list[list[Any]] = [[] for _ in systems]
    user: list[list[Any]] = [[] for _ in systems]
    for k in range(order + 1):
        for i, (system, a) in enumerate(zip(systems, arrays, strict=True)):
            tape, forward = tapes[i], forwards[i]
            own = {0: arrays[0].h, 1: delta}.get(k)
            tape.inputs[1].set(k, own if i == 0 else _joined(own, delta, [u[k] for u in user[:i]]))
            if k == 0:
                value = a.t
            else:
                tape.inputs[0].set(k, None)
                tape.advance(k)
                right = tape.outputs[0].at(k)
                product = functools.partial(system.push, a.t, a.h, a.held)
                none = jnp.zeros_like(a.t)
                value = none if right is None else -a.inverse.solve(product, right)
            tape.inputs[0].set(k, value)
            if k < order:
                tape.advance(k)
            forward.inputs[0].set(k, value)
            forward.advance(k)
            found = forward.outputs[0].at(k)
            free[i].append(value)
            user[i].append(jnp.zeros(forward.outputs[0].aval.shape) if found is None else found)
    return free, user


def _joined(own: Any, like: Any, thetas: list[Any]) -> Any:
    """A later stage's hyperparameters: the first ones and the parameters of earlier stages."""
    return jnp.concatenate([jnp.zeros_like(like) if own is None else own, *thetas])


@kept
def _forward(system: System) -> Any:
    """The map from unconstrained coordinates to the user's vector, as a jaxpr."""
    shape = jax.ShapeDtypeStruct((system.theta.size,), float)
    return jax.make_jaxpr(lambda t: system.constrained.vector(system.forward(t)))(shape)


def _systems(fit: Solution) -> tuple[System, ...]:
    return tuple(stage.system for stage in fit.stages)


# Compiled once for the systems, whichever solution of theirs is differentiated; kept with the last.


@kept
def _terms(
    _last: System, systems: tuple[System, ...], order: int, staged: bool
) -> Callable[..., Any]:
    """Terms 1 … order as pytrees."""

    def terms(arrays: Any, delta: Any) -> Any:
        _, user = coefficients(systems, arrays, order, delta)
        parts = tuple(
            jax.vmap(system.constrained.tree)(jnp.stack(series[1:]))
            for system, series in zip(systems, user, strict=True)
        )
        return parts if staged else parts[0]

    return jax.jit(terms)


@kept
def _moves(_last: System, systems: tuple[System, ...], order: int) -> Callable[..., Any]:
    """Sums of terms of a batch of directions."""

    def move(arrays: Any, delta: Any) -> Any:
        _, user = coefficients(systems, arrays, order, delta)
        return [functools.reduce(jnp.add, series[1:]) for series in user]

    return jax.jit(jax.vmap(move, in_axes=(None, 0)))


@functools.partial(jax.jit, static_argnums=0)
def _trust(series: Series, delta: Any, h1: Any) -> Any:
    """Ratio of terms, smallest singular value, remaining distance: the worst of all stages."""
    fit = series.fit
    arrays = tuple(_Arrays(*_arrays(stage)) for stage in fit.stages)
    free, user = coefficients(_systems(fit), arrays, series.order, delta)
    found = []
    for i, (stage, a) in enumerate(zip(fit.stages, arrays, strict=True)):
        terms = jnp.stack(free[i][1:])
        at_start = functools.partial(stage.system.push, a.t, a.h, a.held)
        if stage.system.symmetric:
            square = jnp.sum(terms * jax.vmap(at_start)(terms), axis=1)
        else:
            square = jnp.sum(terms**2, axis=1)
        size = jnp.sqrt(jnp.maximum(square, 0.0))
        order = len(terms)
        fall = size[-1] / jnp.where(size[0] > 0, size[0], 1.0)
        ratio = fall ** (1.0 / (order - 1)) if order > 1 else jnp.asarray(0.0)
        h = h1 if i == 0 else jnp.concatenate([h1, *(jnp.sum(jnp.stack(u), 0) for u in user[:i])])
        t = a.t + jnp.sum(terms, axis=0)
        there = functools.partial(stage.system.push, t, h, a.held)

        def distance(
            t: Any, stage: Stage = stage, a: Any = a, h: Any = h, at: Any = at_start
        ) -> Any:
            step = a.inverse.solve(at, stage.system.raw(t, h, a.held))
            return jnp.sqrt(jnp.sum(step * (at(step) if stage.system.symmetric else step)))

        start = distance(a.t)
        left = jnp.where(start > 0, distance(t) / jnp.where(start > 0, start, 1.0), 0.0)
        found.append((ratio, _thinnest(a.inverse, at_start, there, t), left))
    ratio, smallest, left = (jnp.stack(parts) for parts in zip(*found, strict=True))
    return jnp.max(ratio), jnp.min(smallest), jnp.max(left)


def _thinnest(inverse: Any, product: Any, there: Any, t: Any) -> Any:
    """Smallest singular value of ``A0⁻¹ A1``; of symmetric matrices its smallest eigenvalue."""
    if isinstance(inverse, Cholesky):
        half = functools.partial(jax.scipy.linalg.solve_triangular, inverse.lower, lower=True)
        columns = jax.vmap(there)(jnp.eye(t.size))
        return jnp.linalg.eigvalsh(half(half(columns).T))[0]
    if isinstance(inverse, Blocks):
        now = jnp.linalg.inv(refactored(inverse, there, t).inverse)
        return jnp.min(jnp.linalg.svd(inverse.inverse @ now, compute_uv=False))
    if isinstance(inverse, LU):
        columns = jax.vmap(there)(jnp.eye(t.size)).T
        return jnp.linalg.svd(inverse.solve(product, columns), compute_uv=False)[-1]
    return jnp.asarray(jnp.nan)
