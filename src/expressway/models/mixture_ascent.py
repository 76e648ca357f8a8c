"""Coordinate ascent of one mixture, made faster by extrapolation; the bound never falls."""

from typing import NamedTuple

import numpy as np

from expressway._types import Float, Int

from .dirichlet import Base, Components, Seen, Totals, components, local

# Counts below which a component has no genes: its share of the bound is then below rounding.
EMPTY = 1e-9


class Mixed(NamedTuple):
    """A mixture in coordinate ascent: components, and what genes make of them."""

    components: Components
    totals: Totals
    elbo: float

    def active(self) -> Int[np.ndarray, "a"]:
        """Places of the components that have genes."""
        return np.flatnonzero(self.totals.size > EMPTY)

    @property
    def concentration(self) -> float:
        """``E c``."""
        shape, rate = self.components.concentration
        return shape / rate


def judged(
    totals: Totals,
    seen: Seen,
    base: Base,
    precision: Float[np.ndarray, "j d"],
    concentration: float,
) -> Mixed:
    """One cycle: components from totals, then the genes' labels and values from components."""
    q = components(totals, base, precision, concentration)
    found = local(q, seen, np.flatnonzero(totals.size > EMPTY))
    return Mixed(q, found.totals, found.evidence - q.divergence)


def begin(totals: Totals, seen: Seen, base: Base) -> Mixed:
    """A mixture from totals alone, components sorted by size."""
    order = totals.order()
    sorted_ = Totals(*(part[order] for part in totals))
    return judged(sorted_, seen, base, _precision(sorted_, base), 1.0)


def _precision(totals: Totals, base: Base) -> Float[np.ndarray, "j d"]:
    """``E s`` of components that know their mean."""
    count = np.maximum(totals.size, 1e-12)[:, None]
    within = np.maximum(totals.second - totals.first**2 / count, 0.0)
    return (base.shape + 0.5 * totals.size[:, None]) / (base.rate + 0.5 * within)


def climb(state: Mixed, seen: Seen, base: Base, cycles: int, enough: float = 1e-2) -> Mixed:
    """Cycles until the bound rises by less than ``enough`` nats in one.

    After two cycles the totals are extrapolated along what the cycles did (SQUAREM: Varadhan &
    Roland 2008, Scand. J. Statist. 35:335), counts and variances by their logarithms; where that
    does not raise the bound the cycle's own end stands.
    """
    path = [state]
    for _ in range(cycles):
        last = path[-1]
        after = judged(last.totals, seen, base, last.components.precision, last.concentration)
        path.append(after)
        if after.elbo - last.elbo < enough:
            return after
        if len(path) == 3:
            further = _extrapolated(path)
            if further is not None:
                trial = judged(further, seen, base, _precision(further, base), after.concentration)
                if trial.elbo > after.elbo:
                    path[-1] = trial
            path = path[-1:]
    return path[-1]


def _extrapolated(path: list[Mixed]) -> Totals | None:
    """Totals further along; None where components came or went."""
    active = path[-1].active()
    points = [_coordinates(step.totals, active) for step in path]
    first, second = points[1] - points[0], points[2] - points[1]
    change = second - first
    size = float(np.sqrt(np.sum(change**2)))
    length = float(np.sqrt(np.sum(first**2))) / size if size > 0 else 1.0
    if not np.isfinite(length) or length <= 1.0:
        return None
    point = points[0] + 2.0 * length * first + length**2 * change
    old = path[-1].totals
    log_count, mean, log_within = np.split(point, [1, 1 + old.first.shape[1]], axis=1)
    if np.max(np.abs(point - points[2])) > 10.0:
        return None
    count = np.exp(log_count)
    count *= np.sum(old.size[active]) / np.sum(count)
    totals = Totals(*(part.copy() for part in old))
    totals.size[active] = count[:, 0]
    totals.first[active] = count * mean
    totals.second[active] = count * (mean**2 + np.exp(log_within))
    return totals


def _coordinates(totals: Totals, active: np.ndarray) -> Float[np.ndarray, "a c"]:
    count = np.maximum(totals.size[active], EMPTY)[:, None]
    mean = totals.first[active] / count
    within = np.maximum(totals.second[active] / count - mean**2, 1e-300)
    return np.concatenate([np.log(count), mean, np.log(within)], axis=1)


def started(seen: Seen, base: Base, k: int, rng: np.random.Generator) -> Mixed:
    """A mixture whose k components begin at the estimates of genes far from each other.

    k-means++ (Arthur & Vassilvitskii 2007) in units of each gene's own standard errors, at most
    1: components much wider than errors are found by splits.
    """
    g = seen.field.shape[1]
    own = np.maximum(np.einsum("aag->ag", seen.precision), 1e-6)
    place = seen.field / own
    scale = np.sqrt(np.minimum(own, np.median(own, axis=1)[:, None]))
    center = [int(rng.integers(g))]
    near = np.full(g, np.inf)
    label = np.zeros(g, int)
    for j in range(k):
        if j:
            weight = np.minimum(near, 1e6)
            if not np.sum(weight) > 0:
                break
            center.append(int(rng.choice(g, p=weight / np.sum(weight))))
        distance = np.sum(((place - place[:, [center[j]]]) * scale) ** 2, axis=0)
        label[distance < near] = j
        near = np.minimum(near, distance)
    return labelled(seen, base, label)


def labelled(seen: Seen, base: Base, labels: Int[np.ndarray, "g"]) -> Mixed:
    """A mixture that starts from labels of genes; those of the smallest groups are pooled."""
    d = len(seen.field)
    often = np.bincount(labels)
    rank = np.empty(len(often), int)
    rank[np.argsort(-often, kind="stable")] = np.arange(len(often))
    label = np.minimum(rank[labels], base.truncation - 1)
    own = np.maximum(np.einsum("aag->ag", seen.precision), 1e-6)
    place = seen.field / own
    totals = empty(base.truncation, d)
    sure = 1.0 / own
    mean = np.sum(own * place, axis=1) / np.sum(own, axis=1)
    for j in range(label.max() + 1):
        some = label == j
        within = own[:, some]
        at = np.sum(within * place[:, some], axis=1) / np.maximum(np.sum(within, axis=1), 1e-12)
        at = at if np.any(some) else mean
        weight = within / np.maximum(np.sum(within, axis=1, keepdims=True), 1e-12)
        spread = np.sum(weight * ((place[:, some] - at[:, None]) ** 2 - sure[:, some]), axis=1)
        n = np.sum(some)
        totals.size[j] = n
        totals.first[j] = n * at
        totals.second[j] = n * (at**2 + np.maximum(spread, base.rate / base.shape * 0.1))
    return begin(totals, seen, base)


def empty(j: int, d: int) -> Totals:
    """Totals of components without genes."""
    return Totals(np.zeros(j), np.zeros((j, d)), np.zeros((j, d)))
