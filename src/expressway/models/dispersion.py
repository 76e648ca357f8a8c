"""Gene-wise and maximum a posteriori dispersions by Cox-Reid adjusted profile likelihood.

Sources: Love, Huber & Anders 2014 (Genome Biology 15:550, methods, "Estimation of dispersions") and
DESeq2 1.38 ``R/core.R`` (estimateDispersionsGeneEst, estimateDispersionsMAP), ``src/DESeq2.cpp``
(fitDisp).
"""

from typing import NamedTuple

import numpy as np

from expressway._types import Bool, Float, Int, Shaped
from expressway.core.cohort import Cohort, rows_of
from expressway.core.hermite import Interpolant
from expressway.core.scalar import Curve
from expressway.core.solve import Fit, Resumed, Status

from . import ascent
from .moments import MIN_DISPERSION, max_dispersion
from .profile import Profiles, Shape, with_prior

# DESeq2 R/core.R, dispTol: an ascent whose first step gains less stops where it started.
TOLERANCE = 1e-6
# Curvature in log alpha below which DESeq2's ascent is still more than 1e-3 away when its slope
# falls below the square root of its tolerance.
FLAT = 1.0
# Most genes are done after five looks; those that are not are worth a look at all nodes, unless the
# profile is so sharp where they are that Newton's steps lead straight on.
LOOKS = 5
SHARP = 10.0
# Nodes for the mode: this far apart at most, and a little beyond both ends; where the gene-wise
# value is at its bound, to this many prior standard deviations below the trend; never farther than.
SPACING, PAD, REACH, FARTHEST = 1.2, 0.05, 3.0, 8.0
# Where the profile is known at the start: one node so much further than Newton's step, and not
# nearer than to keep the digits of differences.
BEYOND, LEAST = 1.25, 1e-3


class Dispersions(NamedTuple):
    """Dispersions of a set of genes and why each fit stopped."""

    alpha: Float[np.ndarray, "g"]
    status: Int[np.ndarray, "g"]
    seen: Curve
    """The profile there; NaN where it was not looked at."""


class Means(NamedTuple):
    """Coefficients that give each gene's means while its dispersion is fitted."""

    beta: Float[np.ndarray, "g p"]
    linear: bool
    """Of normalised counts (least squares), not of their log (GLM)."""


def gene_wise(
    cohort: Cohort,
    means: Means,
    initial: Float[np.ndarray, "g"],
    n: int,
    genes: Int[np.ndarray, "g"],
) -> Dispersions:
    """Gene-wise dispersions: the local optimum of the adjusted profile from DESeq2's start.

    A gene started at the lower bound whose first step would gain less than 1e-6 stays there,
    even where a better optimum lies inside, as in DESeq2. Genes with a nearly flat profile get
    the value at which DESeq2's ascent stops (`ascent`), the others their optimum. Both, and genes
    that need more than a few looks, are evaluated on nodes, in one sum.
    """
    g = len(genes)
    shape = Shape(means.beta, np.zeros(g), np.zeros(g))
    profiles = Profiles(cohort, means.linear, shape, n, genes)
    log_start = np.log(initial)
    first = profiles.search(log_start, np.arange(g), looks=1).state
    square = first.slope**2
    free = np.flatnonzero((square >= TOLERANCE) | (initial > 10 * MIN_DISPERSION))
    led = profiles.search(Resumed(rows_of(first, free)), free, looks=LOOKS)
    found = _minimum(led)
    # The gain of DESeq2's first step is at least Armijo's 1e-4 of the squared slope.
    still = square[free] < 1e4 * TOLERANCE
    left = found.status == Status.NOT_CONVERGED
    lost = left & (found.curvature < SHARP)
    tabled = lost | still | _flat(found)
    near = tabled & ~left & (np.abs(first.slope[free]) <= ascent.WINDOW[-1])
    bounds = (MIN_DISPERSION, max_dispersion(n))
    alpha, status = initial.copy(), np.full(g, int(Status.AT_BOUND))
    slow, seen = np.zeros(g, bool), (first.loss, first.slope, first.curvature)

    def ascended(
        table: Interpolant, some: Int[np.ndarray, "k"], *, inside: bool = False
    ) -> Bool[np.ndarray, "k"]:
        """Whether the ascent of some of the free genes stayed where the table has nodes."""
        at = free[some]
        slow[at] = True
        alpha[at], beyond = ascent.gene_wise(table, initial[at], bounds, inside=inside)
        return ~beyond

    if np.any(near):
        some = np.flatnonzero(near)
        known = Curve(*(a[free[some]] for a in (first.loss, first.slope, first.curvature)))
        window = profiles.downhill(log_start[free[some]], known, free[some])
        stayed = ascended(window, some, inside=True)
        tabled[some[stayed]] = False
    some = np.flatnonzero(tabled)
    table = profiles.table(ascent.nodes(bounds[1]), free[some])
    begin = np.array(led.state.trial)
    begin[lost] = table.take(np.flatnonzero(lost[some])).downhill(found.log_alpha[lost])
    more = _minimum(profiles.search(begin[left], free[left]))
    found = _Minimum(*(_put(a, left, b) for a, b in zip(found, more, strict=True)))
    flat = np.flatnonzero((still | _flat(found))[some])
    ascended(table.take(flat), some[flat])
    status[free] = found.status
    risen = first.loss[free] - found.loss >= TOLERANCE * np.abs(first.loss[free])
    moved = free[risen & ~slow[free]]
    at = np.searchsorted(free, moved)
    alpha[moved] = np.exp(found.log_alpha[at])
    there = (found.loss, found.slope, found.curvature)
    seen = [_put(whole, moved, part[at]) for whole, part in zip(seen, there, strict=True)]
    seen = Curve(*(np.where(slow, np.nan, whole) for whole in seen))
    return Dispersions(_bounded(alpha, n), status, seen)


def maximum_a_posteriori(
    cohort: Cohort,
    means: Means,
    wise: Dispersions,
    prior: tuple[Float[np.ndarray, "g"], float],
    n: int,
    genes: Int[np.ndarray, "g"],
) -> Dispersions:
    """Dispersions at the mode of likelihood × Cox-Reid term × log-normal prior.

    The mode lies between the gene-wise value and the trend: nodes there, in one sum, tell where.
    One node is enough where Newton's step from the gene-wise value, where the profile is known,
    is short: a little beyond its end.

    Parameters
    ----------
    cohort, means, genes
        As for `gene_wise`, whose means are used again.
    wise
        Gene-wise dispersions: the start, unless they are below a tenth of the trend.
    prior
        Trend value of each gene, and the prior variance of log dispersion (natural log).
    n
        Number of samples.
    """
    trend, variance = prior
    initial = wise.alpha
    far = initial <= 0.1 * trend
    begin = np.log(np.where(far, trend, initial))
    shape = Shape(means.beta, np.log(trend), np.full(len(genes), 1.0 / variance))
    profiles = Profiles(cohort, means.linear, shape, n, genes)
    # A gene-wise value at the lower bound says nothing of how far below the trend the mode is.
    inside = initial > 10 * MIN_DISPERSION
    least = np.where(inside, FARTHEST, np.clip(REACH * np.sqrt(variance), 1.0, FARTHEST))
    end = np.where(far, np.maximum(np.log(trend) - least, np.log(initial)), np.log(trend))
    lower, upper = np.minimum(begin, end) - PAD, np.maximum(begin, end) + PAD
    nodes = _even(lower, upper)
    known = with_prior(begin, shape, wise.seen)
    beyond = -BEYOND * known.slope / known.curvature
    close = ~far & (known.curvature > 0) & (np.abs(beyond) < SPACING / 2)
    nodes[close] = np.nan
    nodes[close, 0] = (begin + np.where(beyond < 0, -1, 1) * np.maximum(np.abs(beyond), LEAST))[
        close
    ]
    table = profiles.on(nodes, np.arange(len(genes)))
    table = table.joined(close, begin, *map(np.asarray, known))
    found = _minimum(profiles.search(table.downhill(begin), np.arange(len(genes))))
    seen = Curve(found.loss, found.slope, found.curvature)
    return Dispersions(_bounded(np.exp(found.log_alpha), n), found.status, seen)


def one_look(cohort: Cohort, means: Means, n: int) -> None:
    """Evaluate the profile of every gene once: what is slow about it is to compile it."""
    g = cohort.genes
    everyone, zero = np.arange(g), np.zeros(g)
    shape = Shape(means.beta, zero, zero)
    Profiles(cohort, means.linear, shape, n, everyone).at(zero, everyone)


class _Minimum(NamedTuple):
    """Minimum of each profile, and what is known there."""

    log_alpha: Float[np.ndarray, "g"]
    loss: Float[np.ndarray, "g"]
    slope: Float[np.ndarray, "g"]
    curvature: Float[np.ndarray, "g"]
    status: Int[np.ndarray, "g"]


def _minimum(fit: Fit) -> _Minimum:
    state = fit.state
    return _Minimum(fit.theta, state.loss, state.slope, state.curvature, fit.status)


def _even(lower: Float[np.ndarray, "g"], upper: Float[np.ndarray, "g"]) -> Float[np.ndarray, "g m"]:
    """Evenly spaced nodes between each gene's ends, NaN behind the last."""
    last = np.ceil((upper - lower) / SPACING).astype(int)
    step = np.arange(last.max(initial=1) + 1)
    nodes = lower[:, None] + step * ((upper - lower) / last)[:, None]
    nodes[step > last[:, None]] = np.nan
    return nodes


def _flat(found: _Minimum) -> Bool[np.ndarray, "g"]:
    """Profiles on which DESeq2's ascent stops before the optimum, or at the bound."""
    return (found.curvature < FLAT) | (found.status == Status.AT_BOUND)


def _put(
    whole: Shaped[np.ndarray, "g"],
    at: Bool[np.ndarray, "g"] | Int[np.ndarray, "k"],
    part: Shaped[np.ndarray, "k"],
) -> Shaped[np.ndarray, "g"]:
    """The same with some replaced."""
    whole = whole.copy()
    whole[at] = part
    return whole


def _bounded(alpha: Float[np.ndarray, "g"], n: int) -> Float[np.ndarray, "g"]:
    return np.clip(alpha, MIN_DISPERSION, max_dispersion(n))
