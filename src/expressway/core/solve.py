"""`solve`: the one loop around every solver, wherever the rows live."""

import functools
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Bool, Int

from .cohort import Ask, Cohort, Pooled, blocks, compiled, each, rows_of

# Steps before the unfinished genes are packed together. Most genes need four or five: fewer steps
# pack more often, more steps compute more finished genes.
STEPS_A_PASS = 4
# Genes in a block where there are no rows, only sums.
SMALL_BLOCK = 1024


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

    def _replace(self, **settings: Any) -> "Solver":
        """The same with other settings: a solver is a NamedTuple."""
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
    run = _run_of(solver, statistic, penalty)
    if isinstance(theta0, Known):
        state, sums = solver.init(theta0.theta), theta0.sums
        state, _ = _in_blocks(functools.partial(_step, run.solver), state, sums)
    else:
        state = solver.init(theta0)
    state = jax.tree.map(np.array, state)
    advance = _packed if isinstance(cohort, Pooled) else _rounds
    steps = np.zeros(len(index), dtype=np.int64)
    if len(index):
        state, steps = advance(run, state, hyper, cohort, index)
    return _fit(run, solver, state, hyper, steps)


def _run_of(solver, statistic, penalty) -> "_Run":
    # Functions are compiled for a solver, however many steps it may take.
    return _Run(solver._replace(max_steps=0), solver.max_steps, statistic, penalty)


def _fit(run: "_Run", solver: Solver, state: Any, hyper: Any, steps: Any) -> Fit:
    outcome = jax.tree.map(np.asarray, solver.outcome(state))
    return Fit(
        theta=outcome.theta,
        hyper=hyper,
        status=outcome.status,
        state=state,
        steps=steps,
        statistic=run.statistic.__name__,
        penalty=None if run.penalty is None else run.penalty.__name__,
    )


class Problem(NamedTuple):
    """What `solve` takes: solver, statistic, start and penalty; all genes have the same hyper."""

    solver: Any
    statistic: Callable[..., Any]
    theta0: Any
    penalty: Callable[..., Any] | None = None


def relay(
    first: Problem,
    second: Problem,
    hyper: Any,
    cohort: Cohort,
    genes: Int[np.ndarray, "g"],
) -> tuple[Fit, Fit, Int[np.ndarray, "k"]]:
    """Fit of every gene, fit by a second solver of those the first gave up, and which those are.

    Where rows are elsewhere a gene goes to the second as soon as the first gives it up, and both
    share their messages.
    """
    if isinstance(cohort, Pooled):
        fit = _solved(first, first.theta0, hyper, cohort, genes)
        left = np.flatnonzero(fit.status != Status.OK)
        start = rows_of(second.theta0, left)
        return fit, _solved(second, start, rows_of(hyper, left), cohort, genes[left]), left
    both = (first, second)
    runs = [_run_of(p.solver, p.statistic, p.penalty) for p in both]
    states = [jax.tree.map(np.array, p.solver.init(p.theta0)) for p in both]
    steps = [np.zeros(len(genes), dtype=np.int64) for _ in both]
    waiting = [np.arange(len(genes)), np.arange(0)]
    left = waiting[1]
    while len(waiting[0]) or len(waiting[1]):
        live = [k for k in (0, 1) if len(waiting[k])]
        asks = [_ask(runs[k], states[k], hyper, genes, waiting[k]) for k in live]
        ended = waiting[0]
        for k, sums in zip(live, cohort.sums(*asks), strict=True):
            waiting[k] = _moved(runs[k], states[k], hyper, steps[k], waiting[k], sums)
        ended = np.setdiff1d(ended, waiting[0])
        failed = ended[first.solver.outcome(states[0]).status[ended] != Status.OK]
        waiting[1] = np.union1d(waiting[1], failed)
        left = np.union1d(left, failed)
    fit = _fit(runs[0], first.solver, states[0], hyper, steps[0])
    state, of_left = rows_of(states[1], left), rows_of(hyper, left)
    return fit, _fit(runs[1], second.solver, state, of_left, steps[1][left]), left


def _solved(problem: Problem, theta0: Any, hyper: Any, cohort: Cohort, genes: Any) -> Fit:
    p = problem
    return solve(p.solver, p.statistic, theta0, hyper, cohort, penalty=p.penalty, genes=genes)


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
        sums = statistic(theta, hyper, samples)
        return sums if penalty is None else penalty(theta, hyper, sums)

    return both


def _packed(run, state, hyper, cohort, index):
    """Genes in blocks of one shape; after each pass the unfinished ones are packed together."""
    steps = np.zeros(len(index), dtype=np.int64)
    waiting, taken = np.arange(len(index)), 0
    evaluated = compiled(_penalised(run.statistic, run.penalty))

    def one(budget: int, at: Int[np.ndarray, "b"], count: int) -> Int[np.ndarray, "k"]:
        """Move a block of genes, in place; those that are not finished yet."""
        rows = jax.device_put(cohort.take(index[at]))
        now, fixed = jax.device_put((rows_of(state, at), rows_of(hyper, at)))
        done, used = run.solver.done(now), np.zeros(len(at), dtype=np.int64)
        for _ in range(budget):
            used += ~np.asarray(done)
            now, done = _step(run.solver, now, evaluated(now.trial, fixed, rows))
            if np.all(done):
                break
        keep = at[:count]
        for whole, part in zip(jax.tree.leaves(state), jax.tree.leaves(now), strict=True):
            whole[keep] = np.asarray(part)[:count]
        steps[keep] += used[:count]
        return keep[~np.asarray(done)[:count]]

    while len(waiting) and taken < run.max_steps:
        budget = min(STEPS_A_PASS, run.max_steps - taken)
        taken += budget
        parts = blocks(len(waiting), cohort.block)
        moved = [(budget, waiting[position], count) for position, count in parts]
        waiting = np.concatenate(each(lambda block: one(*block), moved))
    return state, steps


@functools.partial(jax.jit, static_argnames=("solver",))
def _step(solver, state, sums):
    """One step for the genes that are not done, and which are then."""
    done = solver.done(state)

    def keep(old, new):
        return jnp.where(done.reshape(done.shape + (1,) * (new.ndim - 1)), old, new)

    state = jax.tree.map(keep, state, solver.step(state, sums))
    return state, solver.done(state)


def _rounds(run, state, hyper, cohort, index):
    """One round trip a step, all unfinished genes in one message."""
    steps = np.zeros(len(index), dtype=np.int64)
    waiting = np.flatnonzero(~np.asarray(run.solver.done(state)))
    while len(waiting):
        sums = cohort.sums(_ask(run, state, hyper, index, waiting))[0]
        waiting = _moved(run, state, hyper, steps, waiting, sums)
    return state, steps


def _ask(run, state, hyper, index, waiting) -> Ask:
    """What the unfinished genes want to know."""
    trial = rows_of(state.trial, waiting)
    return Ask(run.statistic, (trial, rows_of(hyper, waiting)), genes=index[waiting])


def _moved(run, state, hyper, steps, waiting, sums) -> Int[np.ndarray, "k"]:
    """Move the unfinished genes, in place; those of them that are not finished yet."""
    now = rows_of(state, waiting)
    if run.penalty is not None:
        sums = _in_blocks(compiled(run.penalty), now.trial, rows_of(hyper, waiting), sums)
    new, done = _in_blocks(functools.partial(_step, run.solver), now, sums)
    for whole, part in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
        whole[waiting] = part
    steps[waiting] += 1
    return waiting[~done & (steps[waiting] < run.max_steps)]


def _in_blocks(fn, *trees):
    """A function of genes on blocks of one size, so that it compiles once."""
    count = len(jax.tree.leaves(trees)[0])
    parts = [
        jax.tree.map(lambda a, taken=taken: np.asarray(a)[:taken], fn(*rows_of(trees, at)))
        for at, taken in blocks(count, SMALL_BLOCK)
    ]
    return jax.tree.map(lambda *a: np.concatenate(a), *parts)
