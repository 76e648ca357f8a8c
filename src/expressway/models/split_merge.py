"""Moves that split and merge components, judged by the bound over all genes.

A move is proposed on the genes of the components concerned, then tried on all genes; one that does
not raise their evidence lower bound is not taken.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from expressway._types import Float

from .dirichlet import Base, Components, Seen, Totals, Values, values
from .mixture_ascent import EMPTY, Mixed, begin, climb, empty

# Cycles at most.
LONG = 400
# A component of fewer genes is not split.
FEWEST = 4.0
# What a bound must rise by for a move to be taken, in nats: more than sums of 1e5 terms round.
RISE = 1e-3
# Moves whose bound on the genes concerned, with the sticks of two components alone, loses more than
# this are not tried on all genes: the other sticks do not change it by as much.
HOPELESS = -1.0
# Genes from which cuts are proposed.
PROPOSE = 3000
# Cycles of a proposal, how many of them go on, and for how long.
GLANCE, PROMISING, SHORT = 2, 2, 8
# Cycles of a trial on all genes, each with how many nats it may then be behind to go on; and of
# what was accepted.
TRIALS, AFTER = ((2, 8.0), (4, 2.0), (8, 0.5), (30, 0.0)), 6
# Genes whose responsibility is below this do not take part in a proposal.
CONCERNED = 0.02
CUTS = np.array([0.08, 0.25, 0.5, 0.75, 0.92])
# With several coordinates along each of two axes.
FEWER = np.array([0.25, 0.5, 0.75])


# What is known of components whose moves failed.
Failed = list[tuple[float, ...]]


class Move(NamedTuple):
    """Totals in which components ``gone`` are replaced by those of ``new``."""

    gone: tuple[int, ...]
    new: Totals
    gain: float
    """In the bound of the genes concerned."""


class Searched(NamedTuple):
    """Where a search ended, and the bound after each of its moves."""

    state: Mixed
    events: list[tuple[str, float]]


def search(
    state: Mixed, seen: Seen, base: Base, rng: np.random.Generator, failed: Failed | None = None
) -> Searched:
    """Splits and merges until none raises the bound.

    Parameters
    ----------
    state
        To start from.
    seen
        Likelihoods of all genes.
    base
        The prior.
    rng
        For the genes that cuts are proposed from.
    failed
        Moves that failed before, to which those of this search are added.
    """
    failed = [] if failed is None else failed
    state = climb(state, seen, base, LONG)
    events: list[tuple[str, float]] = []
    while True:
        before = len(events)
        for kind, moves in (("merge", _merges), ("split", _splits)):
            some = moves(state, seen, base, rng, failed)
            failed += [_signature(state, move.gone) for move in some if move.gain < HOPELESS]
            some = [move for move in some if move.gain >= HOPELESS]
            for together in _batches(some):
                trial = _tried(state, together, seen, base)
                if trial is not None:
                    state = trial
                    events.append((kind, state.elbo))
                    break
                if len(together) == 1:
                    failed.append(_signature(state, together[0].gone))
        if len(events) == before:
            return Searched(climb(state, seen, base, LONG), events)


def _batches(moves: list[Move]) -> Iterator[list[Move]]:
    """All moves that gain and do not touch each other at once, then each alone."""
    together: list[Move] = []
    for move in moves:
        if move.gain > 0 and not any(set(move.gone) & set(other.gone) for other in together):
            together.append(move)
    while len(together) > 1:
        yield together
        together = together[: len(together) // 2]
    for move in moves:
        yield [move]


def _signature(state: Mixed, gone: tuple[int, ...]) -> tuple[float, ...]:
    """What a component is known by while others change."""
    t = state.totals
    found: list[float] = [float(len(gone))]
    for j in gone:
        found += [float(t.size[j]), *t.first[j].tolist(), *t.second[j].tolist()]
    return tuple(found)


def _known(signature: tuple[float, ...], failed: Failed) -> bool:
    """Whether a move of these components failed before they changed by a hundredth."""
    a = np.array(signature)
    near = 0.01 * (np.abs(a) + abs(a[1]) * 0.1)
    return any(len(a) == len(b) and np.all(np.abs(a - np.array(b)) <= near) for b in failed)


def _tried(state: Mixed, moves: list[Move], seen: Seen, base: Base) -> Mixed | None:
    """The mixture after some moves, where that raises the bound of all genes."""
    totals = Totals(*(part.copy() for part in state.totals))
    for move in moves:
        places = [*move.gone, *np.flatnonzero(totals.size <= EMPTY)]
        if len(move.new.size) > len(places):
            continue
        for part in totals:
            part[list(move.gone)] = 0.0
        for i, place in enumerate(places[: len(move.new.size)]):
            for part, own in zip(totals, move.new, strict=True):
                part[place] = own[i]
    trial = begin(totals, seen, base)
    for cycles, behind in TRIALS:
        trial = climb(trial, seen, base, cycles)
        if trial.elbo > state.elbo + RISE:
            return climb(trial, seen, base, AFTER)
        if trial.elbo < state.elbo - behind:
            break
    return None


def _concerned(
    r: Float[np.ndarray, "j g"], gone: tuple[int, ...], seen: Seen, rng: np.random.Generator
) -> Seen:
    """Genes of some components, counted as often as they belong to them; at most `PROPOSE`."""
    own = np.sum(r[list(gone)], axis=0)
    some = np.flatnonzero(own > CONCERNED)
    each = 1.0
    if len(some) > PROPOSE:
        each = len(some) / PROPOSE
        some = np.sort(rng.choice(some, PROPOSE, replace=False))
    return seen.some(some)._replace(weight=own[some] * seen.weight[some] * each)


def _alone(start: Totals, seen: Seen, base: Base, cycles: int = SHORT) -> Mixed:
    """A mixture of few components on the genes concerned."""
    return climb(begin(start, seen, base), seen, base, cycles, 0.05)


def _splits(
    state: Mixed,
    seen: Seen,
    base: Base,
    rng: np.random.Generator,
    failed: Failed,
) -> list[Move]:
    """The best way to cut each component in two, those that gain most first."""
    if np.all(state.totals.size > EMPTY):
        return []
    r = values(state.components, seen, state.active()).responsibility
    pair = base._replace(truncation=2)
    found = []
    for j in state.active().tolist():
        if state.totals.size[j] < FEWEST or _known(_signature(state, (j,)), failed):
            continue
        genes = _concerned(r, (j,), seen, rng)
        if len(genes.field[0]) < 2:
            continue
        whole = values(_only(state.components, j), genes, np.array([0]))
        one = _alone(_sums(genes, whole, np.ones((1, len(genes.field[0]))), 2), genes, pair)
        sides = [np.stack([side, 1.0 - side]) for side in _cuts(genes, whole)]
        begun = [_sums(genes, whole, each, 2) for each in sides]
        tried = [
            _alone(totals, genes, pair, GLANCE) for totals in begun if np.min(totals.size) >= 1.0
        ]
        # The most promising go on.
        tried.sort(key=lambda two: -two.elbo)
        ends = [climb(two, genes, pair, SHORT, 0.05) for two in tried[:PROMISING]]
        best: Move | None = None
        for two in ends:
            if best is None or two.elbo - one.elbo > best.gain:
                best = Move((j,), two.totals, two.elbo - one.elbo)
        if best is not None:
            found.append(best)
    return sorted(found, key=lambda move: -move.gain)


def _only(q: Components, j: int) -> Components:
    """One component as if it were all."""
    return q._replace(
        mean=q.mean[[j]],
        variance=q.variance[[j]],
        shape=q.shape[[j]],
        rate=q.rate[[j]],
        taken=np.zeros(0),
        left=np.zeros(0),
    )


def _cuts(genes: Seen, whole: Values) -> Iterator[Float[np.ndarray, "g"]]:
    """Sides on which genes of a component fall: by place along its main axes, and by distance."""
    mean = whole.mean
    weight = genes.weight / np.sum(genes.weight)
    center = mean @ weight
    off = mean - center[:, None]
    scale = np.sqrt(np.maximum(np.einsum("aag->a", genes.precision) / mean.shape[1], 1e-12))
    scaled = off * scale[:, None]
    axes = [np.ones(1)]
    if len(mean) > 1:
        _, vectors = np.linalg.eigh((scaled * weight) @ scaled.T)
        axes = [vectors[:, -1], vectors[:, -2]]
    for axis in axes:
        along = axis @ scaled
        order = np.argsort(along)
        reached = np.cumsum(weight[order])
        for cut in CUTS if len(mean) == 1 else FEWER:
            yield (along > along[order[min(np.searchsorted(reached, cut), len(order) - 1)]]) * 1.0
    distance = np.sum(scaled**2, axis=0)
    order = np.argsort(distance)
    reached = np.cumsum(weight[order])
    yield (distance > distance[order[min(np.searchsorted(reached, 0.8), len(order) - 1)]]) * 1.0


def _sums(genes: Seen, whole: Values, sides: Float[np.ndarray, "s g"], j: int) -> Totals:
    """Totals of parts of a component's genes."""
    mean, variance = whole.mean, whole.variance
    weight = sides * genes.weight
    totals = empty(j, len(mean))
    totals.size[: len(sides)] = np.sum(weight, axis=1)
    totals.first[: len(sides)] = weight @ mean.T
    totals.second[: len(sides)] = weight @ (mean**2 + variance).T
    return totals


def _merges(
    state: Mixed,
    seen: Seen,
    base: Base,
    rng: np.random.Generator,
    failed: Failed,
) -> list[Move]:
    """Each component and its nearest neighbour made one, those that gain most first."""
    active = state.active()
    if len(active) < 2:
        return []
    q = state.components
    mean, spread = q.mean[active], 1.0 / q.precision[active]
    gap = (mean[:, None] - mean[None]) ** 2 / (spread[:, None] + spread[None])
    distance = np.sum(gap, axis=2) + np.where(np.eye(len(active)) > 0, np.inf, 0.0)
    r = values(state.components, seen, state.active()).responsibility
    pair = base._replace(truncation=2)
    pairs = {
        tuple(sorted((int(active[i]), int(active[np.argmin(distance[i])]))))
        for i in range(len(active))
    }
    found = []
    for gone in sorted(pairs):
        if _known(_signature(state, gone), failed):
            continue
        both = Totals(*(part[list(gone)] for part in state.totals))
        one = empty(2, mean.shape[1])
        for part, own in zip(one, both, strict=True):
            part[0] = np.sum(own, axis=0)
        genes = _concerned(r, gone, seen, rng)
        if not len(genes.field[0]):
            found.append(Move(gone, Totals(*(part[:1] for part in one)), 0.0))
            continue
        apart = begin(both, genes, pair)
        together = _alone(one, genes, pair)
        found.append(
            Move(gone, Totals(*(part[:1] for part in together.totals)), together.elbo - apart.elbo)
        )
    return sorted(found, key=lambda move: -move.gain)
