"""Finding the clusters of a mixture with known precisions: seeds, ascent, Newton's method.

And how many there are: the likelihood of genes that were left out, exactly by folds, and predicted
for each gene by one step of Newton's method without it.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from expressway._errors import Saddle, SingularJacobian, Unfinished
from expressway._types import Float, Int
from expressway.core import newton
from expressway.core.newton import Certificate, Point
from expressway.core.threads import side_by_side

from .mixture import (
    RIDGE,
    Mixture,
    Terms,
    closed,
    half,
    members,
    of_vector,
    value_gradient,
)
from .mixture import terms as terms

logger = logging.getLogger(__name__)

# Steps of expectation-maximisation from each seed, before the best are solved.
ASCENT = 20
# Starts that are finished, the best after these steps: first with more of them, while F falls by
# this share, up to so many times as many for each cluster (one of Newton's steps costs as much as
# one for each cluster).
FINISHED = 3
LONGER = 0.25
FALLS = 1e-4
# Draws of k-means++ from which the best next centre is taken (Arthur & Vassilvitskii 2007, greedy).
TRIALS = 4
# Newton's steps before it is looked whether clusters coincide, and at most.
FIRST = 60
STEPS = 300
# Smallest eigenvalue of the Hessian, as a share of the largest, below which they do. Where clusters
# differ it is of the order of the smallest weight, where they coincide it is rounding.
SINGULAR = 1e-8
# By which F, relative to itself, may be worse for clusters that are made one: rounding, and what is
# left to the optimum.
SAME = 1e-9
# Weight of a cluster that dies out.
DEAD = 1e-9


class Start(NamedTuple):
    """One start: its seed, and F where it ended."""

    seed: int
    after_ascent: float
    objective: float
    """NaN where it was not among the best after `ASCENT`, or did not end at an optimum."""
    note: str


class Clusters(NamedTuple):
    """A mixture at an optimum, what certifies it, and where else starts ended."""

    mixture: Mixture
    objective: float
    certificate: Certificate
    starts: tuple[Start, ...]


def fit(t: Terms, k: int, starts: int = 20, seed: int = 0, ridge: float = RIDGE) -> Clusters:
    """The best of several optima of the mixture's objective.

    Each start: centres by k-means++ in the metric of the model (``(x - c)' L_g (x - c)``), steps of
    expectation-maximisation; the best few then by Newton's method in a trust region, to a gradient
    of rounding.

    With more clusters than the genes tell apart, F is least where some coincide (Lindsay 1983, Ann.
    Stat. 11:86: the best of all mixing distributions has few points). Those are made one, and there
    are fewer than were asked for.

    Parameters
    ----------
    t
        The genes.
    k
        Number of clusters.
    starts
        How many.
    seed
        Of the first; start i has seed + i.
    ridge
        Of the centroids.

    Raises
    ------
    ValueError
        There are more clusters than genes, or no start ends at an optimum.
    """
    g = int(np.sum(np.any(t.half != 0, axis=1)))
    if not 1 <= k <= g:
        msg = f"{k} clusters of {g} genes; needed are 1 to {g}"
        raise ValueError(msg)

    def begin(number: int) -> _Begun:
        mixture = ascent(seeds(t, k, np.random.default_rng(number)), t, ASCENT, ridge)
        return _Begun(value_gradient(mixture.vector(), t, ridge)[0], number, mixture)

    def finish(start: _Begun) -> Clusters | str:
        try:
            return distinct(_longer(start, t, ridge), t, ridge)
        except (Unfinished, Saddle, SingularJacobian) as error:
            return str(error)

    begun = side_by_side(begin, range(seed, seed + (starts if k > 1 else 1)))
    begun.sort(key=lambda each: each[:2])
    best: Clusters | None = None
    told: list[Start] = []
    while begun and best is None:
        some, begun = begun[:FINISHED], begun[FINISHED:]
        for start, found in zip(some, side_by_side(finish, some), strict=True):
            value, number, _ = start
            if isinstance(found, str):
                told.append(Start(number, value, np.nan, found))
                continue
            told.append(Start(number, value, found.objective, ""))
            if best is None or found.objective < best.objective:
                best = found
    told += [Start(each.seed, each.value, np.nan, "not among the best") for each in begun]
    if best is None:
        msg = f"no start found {k} clusters: {told[0].note}; ask for fewer clusters"
        raise ValueError(msg)
    return best._replace(starts=tuple(told))


class _Begun(NamedTuple):
    """A start after a few steps."""

    value: float
    seed: int
    mixture: Mixture


def _longer(start: _Begun, t: Terms, ridge: float) -> Mixture:
    """More steps of expectation-maximisation, while they lead anywhere."""
    value, _, mixture = start
    for _ in range(1 + int(LONGER * len(mixture.weight))):
        mixture = ascent(mixture, t, ASCENT, ridge)
        before, value = value, value_gradient(mixture.vector(), t, ridge)[0]
        if before - value < FALLS * max(1.0, abs(value)):
            break
    return mixture


def distinct(start: Mixture, t: Terms, ridge: float = RIDGE) -> Clusters:
    """The optimum that is reached from a mixture; clusters that coincide there are made one.

    Raises
    ------
    Unfinished, Saddle, SingularJacobian
        None is reached, or it is none that the genes determine.
    """
    for steps in (FIRST, STEPS):
        seen: list[Point] = []
        try:
            found = solve(start, t, ridge, steps, seen.append)
        except (Unfinished, Saddle):
            if steps == STEPS:
                raise
            start = of_vector(seen[-1].t, t.pull.shape[1])
        else:
            if found.certificate.smallest > SINGULAR * found.certificate.largest:
                return found
            start = found.mixture
        fewer = merged(start, t, ridge)
        if len(fewer.weight) < len(start.weight):
            return distinct(fewer, t, ridge)
    msg = "two clusters cannot be told apart, the Hessian is singular"
    raise SingularJacobian(msg)


def merged(mixture: Mixture, t: Terms, ridge: float = RIDGE) -> Mixture:
    """The nearest clusters made one, again and again, while F is no worse for it."""
    value = value_gradient(mixture.vector(), t, ridge)[0]
    while len(mixture.weight) > 1:
        fewer = ascent(_joined(mixture), t, ASCENT, ridge)
        if value_gradient(fewer.vector(), t, ridge)[0] > value + SAME * max(1.0, abs(value)):
            break
        mixture = fewer
    return mixture


def _joined(mixture: Mixture) -> Mixture:
    """The two nearest clusters made one; one that dies out is near all."""
    c, p = mixture.centroids, mixture.weight
    away = np.linalg.norm(c[:, None] - c, axis=2)
    away[np.minimum(p[:, None], p) < DEAD] = 0.0
    np.fill_diagonal(away, np.inf)
    one, other = divmod(int(np.argmin(away)), len(c))
    pair = [one, other]
    rest = np.setdiff1d(np.arange(len(c)), pair)
    both = p[pair] @ c[pair] / np.sum(p[pair])
    weight = np.append(p[rest], np.sum(p[pair]))
    return Mixture(np.vstack([c[rest], both]), np.log(weight))


def solve(
    start: Mixture,
    t: Terms,
    ridge: float = RIDGE,
    steps: int = STEPS,
    watch: Callable[[Point], None] = lambda _: None,
) -> Clusters:
    """The optimum that Newton's method in a trust region reaches from a mixture.

    Raises
    ------
    Unfinished, Saddle
        None is reached.
    """
    k, d = start.centroids.shape
    problem = closed(t, k, ridge)
    found = newton.minimise(problem, Point(start.vector(), 0.0, 0, 0), steps, watch)
    theta = np.asarray(found.t)
    return Clusters(of_vector(theta, d), problem.both(theta)[0], found.certificate, ())


def seeds(t: Terms, k: int, rng: np.random.Generator) -> Mixture:
    """Estimates of k genes as centroids: greedy k-means++ in the metric of the model."""
    x = t.observed.estimate
    h = half(x.shape[1])
    square = np.sum(x * t.pull, axis=1)

    def distance(c: Float[np.ndarray, "m d"]) -> Float[np.ndarray, "g m"]:
        far = square[:, None] - 2 * t.pull @ c.T + t.half @ (h.twice * h.product(c, c)).T
        return np.maximum(far, 0.0)

    known = np.flatnonzero(np.any(t.half != 0, axis=1))
    chosen = [int(rng.choice(known))]
    nearest = distance(x[chosen])[:, 0]
    while len(chosen) < k:
        total = np.sum(nearest)
        share = nearest / total if total > 0 else None
        tried = rng.choice(len(x), size=TRIALS, p=share)
        each = np.minimum(nearest[:, None], distance(x[tried]))
        best = int(np.argmin(np.sum(each, axis=0)))
        chosen.append(int(tried[best]))
        nearest = each[:, best]
    return Mixture(x[chosen], np.full(k, -np.log(k)))


def ascent(start: Mixture, t: Terms, steps: int, ridge: float = RIDGE) -> Mixture:
    """Steps of expectation-maximisation; F never rises.

    ``c_k = (Σ_g r_gk L_g + ridge I)⁻¹ Σ_g r_gk L_g x_g``, ``p_k = mean of r_gk``.
    """
    d = start.centroids.shape[1]
    h = half(d)
    mixture = start
    for _ in range(steps):
        r = members(mixture, t).responsibility
        held = h.whole(r.T @ t.half, d) + ridge * np.eye(d)
        centroids = np.linalg.solve(held, (r.T @ t.pull)[:, :, None])[:, :, 0]
        # A cluster without genes keeps a weight that has a logarithm.
        share = np.maximum(np.mean(r, axis=0), 1e-12)
        mixture = Mixture(centroids, np.log(share / np.sum(share)))
    return mixture


class HeldOut(NamedTuple):
    """Likelihood of genes that the clusters were not fitted to, up to a constant of the data."""

    clusters: int
    train: Float[np.ndarray, "g"]
    """``log Σ_k p_k exp(x'L c_k - ½ c_k'L c_k)`` with all genes."""
    predicted: Float[np.ndarray, "g"]
    """Without the gene, by one step of Newton's method."""
    exact: Float[np.ndarray, "g"] | None
    """Clusters fitted again without the gene's fold, from where they were."""


def held_out(
    found: Clusters, t: Terms, folds: list[Int[np.ndarray, "_"]] | None, ridge: float = RIDGE
) -> HeldOut:
    """Likelihood of left-out genes.

    Leaving gene g out moves the optimum of the sum over genes to ``theta + (G H)⁻¹ s``, s the
    gradient of the gene's own term ``-log Σ_k ...``. The gene's log-likelihood is evaluated there.

    Parameters
    ----------
    found
        Clusters of all genes.
    t
        All genes.
    folds
        Sets of genes that are left out together in exact refits; none when not given.
    ridge
        Of the centroids.
    """
    k, d = found.mixture.centroids.shape
    theta = found.mixture.vector()
    problem = closed(t, k, ridge)
    inverse = np.linalg.inv(problem.matrix(theta))
    g = len(t.pull)
    now = members(found.mixture, t)
    r = now.responsibility
    predicted = np.empty(g)
    size = max(1, 2**21 // len(theta))
    for first in range(0, g, size):
        rows = slice(first, min(first + size, g))
        toward = t.pull[rows, None, :] - found.mixture.centroids @ t.observed.precision[rows]
        slope = (r[rows, :, None] * toward).reshape(len(r[rows]), -1)
        odds = (r[rows] - found.mixture.weight)[:, 1:]
        step = -np.column_stack([slope, odds]) @ inverse / g
        centroids = (theta[: k * d] + step[:, : k * d]).reshape(-1, k, d)
        odds = np.column_stack([np.zeros(len(step)), theta[k * d :] + step[:, k * d :]])
        odds -= np.logaddexp.reduce(odds, axis=1, keepdims=True)
        pulled = np.sum(centroids * t.pull[rows, None, :], axis=2)
        held = np.sum(centroids * (centroids @ t.observed.precision[rows]), axis=2)
        predicted[rows] = np.logaddexp.reduce(odds + pulled - 0.5 * held, axis=1)
    exact = None
    if folds is not None:
        exact = np.full(g, np.nan)
        for left in folds:
            kept = np.setdiff1d(np.arange(g), left)
            try:
                again = solve(found.mixture, terms(t.observed.some(kept)), ridge)
            except (Unfinished, Saddle):
                continue
            exact[left] = members(again.mixture, terms(t.observed.some(left))).log_likelihood
    return HeldOut(k, now.log_likelihood, predicted, exact)
