"""The optimum as a differentiable function of hyperparameters.

``theta(h)`` solves ``G(theta, h) = 0``, so ``d theta = -(dG/dtheta)⁻¹ dG[dh]`` (the implicit
function theorem). The rule below says just that, of a function that calls itself: differentiated
again, it differentiates its own solve, to any order, forward and reverse. The factorisation is an
output of the same function, whose own derivative is never needed, so every order uses the one there
is.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from expressway._types import Array, Float

from . import newton
from .inverse import LU, Blocks, Cholesky, linear_solve
from .solution import Solution, Stage
from .system import kept

# Newton's steps of a warm start, and the step, relative to the parameters, at which they end:
# they converge quadratically, so that the next is below rounding.
STEPS = 50
SHORT = 1e-10
HALVINGS = 20


def implicit(fit: Solution) -> Callable[[Any], Any]:
    """The solution as a JAX function of the hyperparameters.

    Parameters
    ----------
    fit
        A solution, `theta_hat(fit.hyper)` of which is stored and costs nothing. Elsewhere the
        problem is solved anew, warm, by damped Newton steps.

    Returns
    -------
    Callable
        ``theta_hat(hyper)``, pytrees as they were solved. ``jax.jvp``, ``vjp``, ``jacfwd``,
        ``jacrev``, ``hessian``, ``jit``, ``vmap`` and their compositions apply. Where no solution
        is found it raises `Unfinished`; inside ``jit`` and ``vmap``, which cannot raise, it is NaN.

    Raises
    ------
    SingularJacobian
        The solution has no derivative: along which direction.

    Notes
    -----
    Of a staged problem a tuple: each stage is a function of hyperparameters and earlier stages, so
    that derivatives are substituted forward, stage by stage.
    """
    solved = [_solved(stage) for stage in fit.stages]
    first = fit.stages[0].system.hyper

    def theta_hat(hyper: Any) -> Any:
        first.vector(hyper)  # names what has the wrong shape
        thetas: list[Any] = []
        for stage, function in zip(fit.stages, solved, strict=True):
            given = (hyper, *thetas) if thetas else hyper
            t, _ = function(stage.system.hyper.vector(given))
            thetas.append(stage.system.forward(t))
        return tuple(thetas) if fit.staged else thetas[0]

    return theta_hat


def _solved(stage: Stage) -> Callable[[Any], Any]:
    """``h -> (t, inverse there)`` of one stage."""
    system, held = stage.system, stage.functions.held
    t0, h0, inverse0 = jnp.asarray(stage.found.t), stage.functions.h, stage.inverse
    fixed = np.asarray(h0)

    @jax.custom_jvp
    def solved(h: Any) -> Any:
        if not isinstance(h, Tracer):
            if np.array_equal(np.asarray(h), fixed):
                return t0, inverse0
            return _checked(stage, _compiled(stage)(h), h)
        same = jnp.all(h == h0)
        return jax.lax.cond(same, lambda _: (t0, inverse0), functools.partial(_moved, stage), h)

    @solved.defjvp
    def rule(primals: Any, tangents: Any) -> Any:
        (h,), (dh,) = primals, tangents
        t, inverse = solved(h)
        right = jax.jvp(lambda h: system.raw(t, h, held), (h,), (dh,))[1]
        product = functools.partial(system.push, t, h, held)
        dt = linear_solve(inverse, product, -right, symmetric=system.symmetric)
        return (t, inverse), (dt, jax.tree.map(_no_tangent, inverse))

    return solved


def _no_tangent(a: Any) -> Any:
    if jnp.issubdtype(a.dtype, jnp.inexact):
        return jnp.zeros_like(a)
    return np.zeros(a.shape, jax.dtypes.float0)


@kept
def _compiled(stage: Stage) -> Callable[[Any], Any]:
    return jax.jit(functools.partial(_moved, stage))


def _checked(stage: Stage, found: Any, h: Any) -> Any:
    """What was found.

    Raises
    ------
    Unfinished
        Warm steps did not arrive, nor did a solve from the stored point.
    """
    if bool(jnp.all(jnp.isfinite(found[0]))):
        return found
    there = stage.moved(h, stage.found.t)
    return jnp.asarray(there.t), newton.regular(there, stage.system)


def _moved(stage: Stage, h: Float[Array, "p"]) -> Any:
    """Damped Newton steps from the stored solution, and the inverse where they end.

    The natural monotonicity test, with the stored factorisation as preconditioner: a step is
    halved while ``|A0⁻¹ G|`` does not fall. NaN where it never does.
    """
    system, held = stage.system, stage.functions.held
    inverse0 = stage.inverse
    zero_order = functools.partial(system.raw, h=h, c=held)

    def scaled(t: Any, g: Any) -> Any:
        return inverse0.solve(functools.partial(system.push, t, h, held), g)

    def more(carry: Any) -> Any:
        _, _, step, done = carry
        return (step < STEPS) & ~done

    def body(carry: Any) -> Any:
        t, g, step, _ = carry
        product = functools.partial(system.push, t, h, held)
        move = -_newton(inverse0, product, g, symmetric=system.symmetric)
        now = _norm(scaled(t, g))

        def worse(state: Any) -> Any:
            share, _, ahead = state
            return ~(ahead <= (1 - 0.1 * share) * now) & (share > 0.5**HALVINGS)

        def halve(state: Any) -> Any:
            share = 0.5 * state[0]
            g = zero_order(t + share * move)
            return share, g, _norm(scaled(t, g))

        first = halve((jnp.asarray(2.0), g, now))
        share, g, ahead = jax.lax.while_loop(worse, halve, first)
        good = ahead <= now
        length = _norm(move) / (1.0 + _norm(t))
        t = jnp.where(good | (length < SHORT), t + share * move, jnp.nan)
        return t, g, step + 1, ~(length > SHORT) | jnp.isnan(t[0] if t.size else 0.0)

    t0 = jnp.asarray(stage.found.t)
    start = (t0, zero_order(t0), 0, jnp.asarray(False))
    t, _, _steps, done = jax.lax.while_loop(more, body, start)
    inverse = refactored(inverse0, functools.partial(system.push, t, h, held), t)
    # A stationary point that is no minimum has no Cholesky factor.
    good = [jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves(inverse)]
    return jnp.where(functools.reduce(jnp.logical_and, good, done), t, jnp.nan), inverse


def _newton(inverse0: Any, product: Any, g: Any, *, symmetric: bool) -> Any:
    """``A⁻¹ g`` by conjugate gradients or GMRES preconditioned with the stored inverse.

    Factorisations are not called in loops: batched, they lock up on some machines (jaxlib 0.10).
    """
    if isinstance(inverse0, Cholesky | Blocks | LU):
        precondition = functools.partial(inverse0.solve, product)
        if symmetric:
            solve = jax.scipy.sparse.linalg.cg
            return solve(product, g, M=precondition, tol=1e-12, maxiter=2 * g.size + 20)[0]
        solve = jax.scipy.sparse.linalg.gmres
        restart = min(g.size, 40)
        return solve(product, g, M=precondition, tol=1e-12, restart=restart, maxiter=20)[0]
    return inverse0.solve(product, g)


def refactored(inverse: Any, product: Any, t: Any) -> Any:
    """The inverse of the same kind, of the matrix of other products."""
    if isinstance(inverse, Cholesky):
        return Cholesky(jnp.linalg.cholesky(_columns(product, t)))
    if isinstance(inverse, LU):
        return LU(*jax.scipy.linalg.lu_factor(_columns(product, t)))
    if isinstance(inverse, Blocks):
        _count, size = inverse.place.shape
        hot = jnp.zeros((size, t.size))
        hot = hot.at[jnp.arange(size)[:, None], inverse.place.T].set(1.0)
        found = jax.vmap(product)(hot)[:, inverse.place]
        return Blocks(jnp.linalg.inv(jnp.transpose(found, (1, 2, 0))), inverse.place)
    return inverse


def _columns(product: Any, t: Any) -> Any:
    return jax.vmap(product)(jnp.eye(t.size)).T


def _norm(a: Any) -> Any:
    return jnp.sqrt(jnp.sum(a * a))
