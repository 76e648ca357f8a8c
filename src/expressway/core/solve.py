"""`solve`: the one loop around every solver, wherever the rows live."""

import functools
from collections.abc import Callable
from enum import IntEnum
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Bool, Int

from .cohort import Ask, Cohort, Pooled, Spread, Tally, blocks, each, own_name, rows_of
from .kernel import Kernel

# Genes in a block where there are no rows, only sums.
SMALL_BLOCK = 1024
# Genes in a block of those that a first solver gave up.
FEW = 128


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
        Pytrees whose leaves have the genes to fit as first axis. Instead of a start, `Resumed` is
        where the same solver left off.
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
    return _solved(Problem(solver, statistic, theta0, penalty), hyper, cohort, index)


def _solved(
    p: "Problem", hyper: Any, cohort: Cohort, index: Int[np.ndarray, "k"], block: int | None = None
) -> Fit:
    """Fit of some genes; so many in a block where rows are in memory."""
    run, start = _run_of(p.solver, p.statistic, p.penalty), p.theta0
    state = start.state if isinstance(start, Resumed) else p.solver.init(start)
    state = jax.tree.map(np.array, state)
    steps = np.zeros(len(index), dtype=np.int64)
    if not len(index):
        pass
    elif isinstance(cohort, Pooled):
        state, steps = _packed(cohort, index, state, hyper, run, block or cohort.block)
    elif isinstance(cohort, Spread):
        shared = (run, block or cohort.block)
        state, steps = cohort.over_genes(_packed, state, hyper, shared=shared, genes=index)
    else:
        state, steps = _rounds(run, state, hyper, cohort, index)
    return _fit(run, p.solver, state, hyper, steps)


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
    if isinstance(cohort, Pooled | Spread):
        fit = _solved(first, hyper, cohort, genes)
        left = np.flatnonzero(fit.status != Status.OK)
        few = min(FEW, cohort.block)
        second = second._replace(theta0=rows_of(second.theta0, left))
        return fit, _solved(second, rows_of(hyper, left), cohort, genes[left], few), left
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


class Resumed(NamedTuple):
    """Where a solver left off: `Fit.state`, or some genes of it."""

    state: Any


class _Run(NamedTuple):
    """What is iterated."""

    solver: Any
    max_steps: int
    statistic: Callable[..., Any]
    penalty: Callable[..., Any] | None


def _packed(cohort, index, state, hyper, run, block):
    """Genes in blocks of one shape; when most of a block are done, what is left is packed anew."""
    steps = np.zeros(len(index), dtype=np.int64)
    waiting = np.flatnonzero(~np.asarray(run.solver.done(state)))
    move = _moving(run.solver, run.statistic, run.penalty)
    finished = Tally(cohort.tell, len(waiting))

    def one(at: Int[np.ndarray, "b"], count: int, enough: int) -> Int[np.ndarray, "k"]:
        """Move a block of genes, in place, until few are left; which those are."""
        keep, looks = at[:count], run.max_steps - int(steps[at].max())
        place = _neighbours(at)
        rows = cohort.take(index[at])
        if looks > 1:
            rows = rows._replace(y=jax.device_put(rows.y))
        now, fixed, left = rows_of(state, place), rows_of(hyper, place), keep
        for _ in range(looks):
            steps[keep] += ~np.asarray(run.solver.done(now))[:count]
            now, done = move(now, fixed, rows)
            left = keep[~np.asarray(done)[:count]]
            if len(left) <= enough:
                break
        kept = _neighbours(keep)
        for whole, part in zip(jax.tree.leaves(state), jax.tree.leaves(now), strict=True):
            whole[kept] = np.asarray(part)[:count]
        left = left[steps[left] < run.max_steps]
        finished.add(count - len(left))
        return left

    while len(waiting):
        parts = list(blocks(len(waiting), block))
        enough = block // 2 if len(parts) > 1 else 0
        moved = each(lambda part: one(waiting[part[0]], part[1], enough), parts)  # noqa: B023
        waiting = np.concatenate(moved)
    return state, steps


def _neighbours(at: Int[np.ndarray, "b"]) -> slice | Int[np.ndarray, "b"]:
    """A slice where places are neighbours: nothing is gathered, then.

    A padded block repeats its last place, so that its first and last do not tell.
    """
    first, last = int(at[0]), int(at[-1])
    return slice(first, last + 1) if np.all(np.diff(at) == 1) else at


@functools.cache
def _moving(solver, statistic, penalty):
    """One step of a solver where the rows are: one function to compile."""

    def move(state, hyper, samples):
        state = _advance(solver, penalty, state, hyper, statistic(state.trial, hyper, samples))
        return state, solver.done(state)

    return Kernel(move, own_name(solver, statistic, penalty))


def _advance(solver, penalty, state, hyper, sums):
    """One step for the genes that are not done."""
    if penalty is not None:
        sums = penalty(state.trial, hyper, sums)
    done = solver.done(state)

    def keep(old, new):
        return jnp.where(done.reshape(done.shape + (1,) * (new.ndim - 1)), old, new)

    return jax.tree.map(keep, state, solver.step(state, sums))


@functools.cache
def _stepping(solver, penalty):
    """One step of a solver where there are sums only."""

    def step(state, hyper, sums):
        return _advance(solver, penalty, state, hyper, sums)

    return Kernel(step, own_name(solver, penalty))


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
    step = _stepping(run.solver, run.penalty)
    new = _in_blocks(step, rows_of(state, waiting), rows_of(hyper, waiting), sums)
    for whole, part in zip(jax.tree.leaves(state), jax.tree.leaves(new), strict=True):
        whole[waiting] = part
    steps[waiting] += 1
    unfinished = ~np.asarray(run.solver.done(new)) & (steps[waiting] < run.max_steps)
    return waiting[unfinished]


def _in_blocks(fn, *trees):
    """A function of genes on blocks of one size, so that it compiles once."""
    count = len(jax.tree.leaves(trees)[0])
    parts = [
        jax.tree.map(lambda a, taken=taken: np.asarray(a)[:taken], fn(*rows_of(trees, at)))
        for at, taken in blocks(count, SMALL_BLOCK)
    ]
    return jax.tree.map(lambda *a: np.concatenate(a), *parts)
