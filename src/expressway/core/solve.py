"""`solve`: the one loop around every solver, wherever the rows live."""

import functools
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Bool, Int

from .cohort import LARGEST, Cohort, Pooled, blocks, compiled, rows_of

# Steps between two looks at which genes are done. Most genes need four or five: fewer steps
# repack more often, more steps compute more finished genes.
STEPS_A_CALL = 4
# The last genes run in a block of their own size: a second shape to compile, and worth it.
STRAGGLERS = 128


class Status(IntEnum):
    """Why a solver stopped on one gene."""

    OK = 0
    NOT_CONVERGED = 1
    AT_BOUND = 2
    NOT_FINITE = 3


class Outcome(NamedTuple):
    """What a solver says of each gene."""

    theta: Any
    status: Int[Array, "g"]


@runtime_checkable
class Solver(Protocol):
    """How an iterate moves. It never sees data: one step takes one set of sums.

    A solver is a NamedTuple of settings (hashable). Its state is a NamedTuple of arrays with genes
    leading, among them ``trial``, the point at which the next sums are wanted.
    """

    @property
    def max_steps(self) -> int:
        """Evaluations after which a gene is given up."""
        ...

    def init(self, theta0: Any) -> Any:
        """State at the start."""
        ...

    def step(self, state: Any, sums: Any) -> Any:
        """State after the sums at ``state.trial``; the line search lives here."""
        ...

    def done(self, state: Any) -> Bool[Array, "g"]:
        """Genes that need no more sums."""
        ...

    def outcome(self, state: Any) -> Outcome:
        """Estimates and why each gene stopped."""
        ...


class Fit(NamedTuple):
    """The result of a solve: immutable, picklable, without the rows."""

    theta: Any
    hyper: Any
    status: Int[np.ndarray, "g"]
    state: Any
    """The solver's last state: its certificate (objective, slope or decrement)."""
    steps: Int[np.ndarray, "g"]
    """Evaluations each gene took."""
    statistic: str
    penalty: str | None


def solve(
    solver: Solver,
    statistic: Callable[..., Any],
    theta0: Any,
    hyper: Any,
    cohort: Cohort,
    *,
    penalty: Callable[..., Any] | None = None,
    genes: Int[np.ndarray, "k"] | None = None,
) -> Fit:
    """Fit of every gene: the point where the solver is done with the sums of a statistic.

    Parameters
    ----------
    solver
        How iterates move.
    statistic
        ``statistic(theta, hyper, samples)``, additive over samples.
    theta0, hyper
        Pytrees whose leaves have the genes to fit as first axis; ``theta0`` may be `Known`.
    cohort
        Where the rows live.
    penalty
        ``penalty(theta, hyper, sums) -> sums``: what is added once, after the rows were summed
        (prior, ridge, Cox-Reid term, all functions of totals), never at a site.
    genes
        Indices of the genes to fit; all when not given.

    Returns
    -------
    Fit
        With numpy leaves. A gene that fails has a status, never an exception.
    """
    index = np.arange(cohort.genes) if genes is None else np.asarray(genes)
    # Functions are compiled for a solver, however many steps it may take.
    kernel = solver._replace(max_steps=0)
    if isinstance(theta0, Known):
        state, sums = solver.init(theta0.theta), theta0.sums
        state = _in_blocks(functools.partial(_step, kernel, None), state, hyper, sums)
    else:
        state = solver.init(theta0)
    state = jax.tree.map(np.array, state)
    advance = _packed if isinstance(cohort, Pooled) else _rounds
    steps = np.zeros(len(index), dtype=np.int64)
    if len(index):
        run = _Run(kernel, solver.max_steps, statistic, penalty)
        state, steps = advance(run, state, hyper, cohort, index)
    outcome = jax.tree.map(np.asarray, solver.outcome(state))
    name = None if penalty is None else penalty.__name__
    return Fit(
        theta=outcome.theta,
        hyper=hyper,
        status=outcome.status,
        state=state,
        steps=steps,
        statistic=statistic.__name__,
        penalty=name,
    )


class Known(NamedTuple):
    """A start at which the penalised sums are known (`evaluate`): a solver needs one look less."""

    theta: Any
    sums: Any


class _Run(NamedTuple):
    """What is iterated."""

    solver: Any
    max_steps: int
    statistic: Callable[..., Any]
    penalty: Callable[..., Any] | None


def evaluate(
    statistic: Callable[..., Any],
    penalty: Callable[..., Any],
    theta: Any,
    hyper: Any,
    cohort: Cohort,
    *,
    genes: Int[np.ndarray, "k"] | None = None,
) -> Any:
    """The penalised sums at one point: what a solver would be shown there."""
    if isinstance(cohort, Pooled):
        return cohort.sum(_penalised(statistic, penalty), theta, hyper, genes=genes)
    sums = cohort.sum(statistic, theta, hyper, genes=genes)
    return _in_blocks(compiled(penalty), theta, hyper, sums)


@functools.cache
def _penalised(statistic, penalty):
    """The statistic of a cohort that has all rows, with the penalty: one function to compile."""

    def both(theta, hyper, samples):
        return penalty(theta, hyper, statistic(theta, hyper, samples))

    return both


def _packed(run, state, hyper, cohort, index):
    """Genes in blocks of one shape; after each call the unfinished ones are packed together."""
    steps = np.zeros(len(index), dtype=np.int64)
    waiting, taken = np.arange(len(index)), 0
    while len(waiting) and taken < run.max_steps:
        budget = min(STEPS_A_CALL, run.max_steps - taken)
        taken += budget
        unfinished = []
        size = min(cohort.block, STRAGGLERS) if len(waiting) <= STRAGGLERS else cohort.block
        for position, count in blocks(len(waiting), size):
            at = waiting[position]
            moved, done, used = _run(
                run.solver,
                run.statistic,
                run.penalty,
                budget,
                rows_of(state, at),
                rows_of(hyper, at),
                cohort.take(index[at]),
            )
            keep = at[:count]
            for whole, part in zip(jax.tree.leaves(state), jax.tree.leaves(moved), strict=True):
                whole[keep] = np.asarray(part)[:count]
            steps[keep] += np.asarray(used)[:count]
            unfinished.append(keep[~np.asarray(done)[:count]])
        waiting = np.concatenate(unfinished)
    return state, steps


@functools.partial(jax.jit, static_argnames=("solver", "statistic", "penalty"))
def _run(solver, statistic, penalty, budget, state, hyper, samples):
    """At most ``budget`` steps; finished genes stand still."""

    def unfinished(carry):
        state, _, taken = carry
        return (taken < budget) & ~jnp.all(solver.done(state))

    def body(carry):
        state, used, taken = carry
        sums = statistic(state.trial, hyper, samples)
        new = _advance(solver, penalty, state, hyper, sums)
        return new, used + ~solver.done(state), taken + 1

    used = jnp.zeros(solver.done(state).shape, dtype=jnp.int64)
    state, used, _ = jax.lax.while_loop(unfinished, body, (state, used, 0))
    return state, solver.done(state), used


def _advance(solver, penalty, state, hyper, sums):
    """One step for the genes that are not done."""
    if penalty is not None:
        sums = penalty(state.trial, hyper, sums)
    done = solver.done(state)

    def keep(old, new):
        return jnp.where(done.reshape(done.shape + (1,) * (new.ndim - 1)), old, new)

    return jax.tree.map(keep, state, solver.step(state, sums))


_step = functools.partial(jax.jit, static_argnames=("solver", "penalty"))(_advance)


def _rounds(run, state, hyper, cohort, index):
    """One round trip a step, all unfinished genes in one message."""
    steps = np.zeros(len(index), dtype=np.int64)
    waiting = np.flatnonzero(~np.asarray(run.solver.done(state)))
    for _ in range(run.max_steps):
        if not len(waiting):
            break
        old, with_hyper = rows_of(state, waiting), rows_of(hyper, waiting)
        sums = cohort.sum(run.statistic, old.trial, with_hyper, genes=index[waiting])
        new = _in_blocks(functools.partial(_step, run.solver, run.penalty), old, with_hyper, sums)
        for whole, part in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
            whole[waiting] = part
        steps[waiting] += 1
        waiting = waiting[~np.asarray(run.solver.done(new))]
    return state, steps


def _in_blocks(fn, *trees):
    """A function of genes on blocks of one of two sizes, so that it compiles twice at most."""
    count = len(jax.tree.leaves(trees)[0])
    parts = [
        jax.tree.map(lambda a, taken=taken: np.asarray(a)[:taken], fn(*rows_of(trees, at)))
        for at, taken in blocks(count, STRAGGLERS if count <= STRAGGLERS else LARGEST)
    ]
    return jax.tree.map(lambda *a: np.concatenate(a), *parts)
