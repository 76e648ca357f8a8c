"""Gene-wise and maximum a posteriori dispersions by Cox-Reid adjusted profile likelihood.

Sources: Love, Huber & Anders 2014 (Genome Biology 15:550, methods, "Estimation of dispersions"),
Cox & Reid 1987 (JRSS B 49), McCarthy, Chen & Smyth 2012 (NAR 40:4288), and DESeq2 1.38
``R/core.R`` (estimateDispersionsGeneEst, estimateDispersionsMAP), ``src/DESeq2.cpp`` (fitDisp).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Bool, Float, Int, Shaped
from expressway.core import linear
from expressway.core.arrow import Arrow
from expressway.core.cohort import Cohort, Samples, rows_of
from expressway.core.hermite import Interpolant
from expressway.core.linear import weighted_crossproduct, weighted_sum
from expressway.core.scalar import Curve, Interval, Scalar
from expressway.core.solve import Fit, Resumed, Status, solve
from expressway.core.special import gamma_ratio, log1p

from . import ascent
from .nb import MIN_MU, mean, row_weight

# DESeq2 R/core.R, minDisp.
MIN_DISPERSION = 1e-8
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


def max_dispersion(n: int) -> float:
    """DESeq2's upper bound, max(10, n samples)."""
    return float(max(10, n))


class Moments(NamedTuple):
    """Sums over samples of normalised counts q = y / size factor."""

    mean: Float[Array, "g"]
    """Sum of q."""
    inverse_size: Float[Array, "g"]
    """Sum of 1 / size factor."""
    normal: Float[Array, "g p p"] | Arrow
    """``X'X``."""
    linear: Float[Array, "g p"]
    """``X'q``."""
    log: Float[Array, "g p"]
    """``X' log(q + .1)`` (natural log): DESeq2's start for the coefficients."""
    positive: Float[Array, "g q q"] | Arrow
    """``Z'Z``, Z = (1, X), over the rows with a count: q = p + 1."""
    total: Float[Array, "g p"]
    """Sum of x."""


def moments(s: Samples) -> Moments:
    """First sums of normalised counts, over rows."""
    present = s.weight[:, None]
    inverse = jnp.exp(-s.offset)
    q = s.y * inverse

    def of_each(alike: Float[Array, "..."]) -> Float[Array, "..."]:
        """For every gene what may be the same for all."""
        return jnp.broadcast_to(alike, (s.y.shape[1], *alike.shape[1:]))

    return Moments(
        mean=weighted_sum(present, q),
        inverse_size=of_each(weighted_sum(present, inverse)),
        normal=jax.tree.map(of_each, weighted_crossproduct(present, s.x)),
        linear=(present * q).T @ s.x,
        log=(present * log1p(q - 0.9)).T @ s.x,
        positive=weighted_crossproduct(present * (s.y > 0), linear.with_ones(s.x)),
        total=of_each(present.T @ s.x),
    )


class Spread(NamedTuple):
    """Sums over samples of squared deviations of normalised counts."""

    square: Float[Array, "g"]
    """Sum of (q - mean)²."""
    excess: Float[Array, "g"]
    """Sum of ((q - m)² - m) / m², m = max(1, fitted by least squares)."""


def spread(center: Float[Array, "g"], linear: Float[Array, "g p"], s: Samples) -> Spread:
    """Second sums of normalised counts, over rows."""
    present = s.weight[:, None]
    q = s.y * jnp.exp(-s.offset)
    m = jnp.maximum(1.0, s.x @ linear.T)
    return Spread(
        square=weighted_sum(present, (q - center[None]) ** 2),
        excess=weighted_sum(present, ((q - m) ** 2 - m) / m**2),
    )


class Profile(NamedTuple):
    """Sums over samples at fixed means; derivatives are in log alpha."""

    loss: Float[Array, "g"]
    slope: Float[Array, "g"]
    curvature: Float[Array, "g"]
    info: Float[Array, "g p p"] | Arrow
    """``X'WX``, ``W = mu / (1 + alpha mu)``, for the Cox-Reid term."""
    info_slope: Float[Array, "g p p"] | Arrow
    info_curvature: Float[Array, "g p p"] | Arrow


class Shape(NamedTuple):
    """What a dispersion fit of each gene holds fixed."""

    beta: Float[Array, "g p"]
    """Coefficients that give the means: log-linear, or of normalised counts if linear."""
    prior_mean: Float[Array, "g"]
    """Log dispersion the prior is centred on."""
    prior_precision: Float[Array, "g"]
    """1 / prior variance of log dispersion; 0 for none."""


def profile_glm(log_alpha: Float[Array, "g"], shape: Shape, s: Samples) -> Profile:
    """Profile sums with means ``exp(offset + x beta)``, raised to .5."""
    return _profile(log_alpha, jnp.maximum(mean(shape.beta, s), MIN_MU), s)


def profile_linear(log_alpha: Float[Array, "g"], shape: Shape, s: Samples) -> Profile:
    """Profile sums with means ``size factor × x beta``, raised to .5.

    DESeq2 uses them where distinct design rows number exactly p (group means).
    """
    return _profile(log_alpha, jnp.maximum(jnp.exp(s.offset) * (s.x @ shape.beta.T), MIN_MU), s)


def _profile(log_alpha: Float[Array, "g"], mu: Float[Array, "n g"], s: Samples) -> Profile:
    """Negative log-likelihood in log alpha and its derivatives, summed over rows.

    With r = 1 / alpha and D f = f(y + r) - f(r)::

        loss      = -sum [D lgamma - y log r - (y + r) log(1 + alpha mu)]
        slope     = -sum [r (log(1 + alpha mu) - D digamma) + (y - mu) / (1 + alpha mu)]
        curvature = -sum [r (D digamma - log(1 + alpha mu)) + r² D trigamma
                          + mu / (1 + alpha mu) - alpha mu (y - mu) / (1 + alpha mu)²]

    the loss up to ``lgamma(y + 1) - y log mu``, as DESeq2 leaves it. W = mu / (1 + alpha mu) has
    derivatives ``-alpha W²`` and ``-alpha W² + 2 alpha² W³``.
    """
    alpha = jnp.exp(log_alpha)
    r = 1.0 / alpha
    rows = row_weight(s)
    ratio = gamma_ratio(s.y, r, rows)
    log = log1p(alpha[None] * mu)
    over = 1.0 / (1.0 + alpha[None] * mu)
    w = mu * over
    left = (s.y - mu) * over
    # What a gene has in common comes after the sums: fewer functions of rows are computed twice.
    gap = r * (weighted_sum(rows, log) - ratio.digamma)
    square = _times(alpha, weighted_crossproduct(rows * w * w, s.x))
    cube = _times(alpha**2, weighted_crossproduct(rows * w * w * w, s.x))
    return Profile(
        loss=weighted_sum(rows, (s.y + r[None]) * log) - ratio.log,
        slope=-gap - weighted_sum(rows, left),
        curvature=gap - r * r * ratio.trigamma - weighted_sum(rows, w - alpha[None] * w * left),
        info=weighted_crossproduct(rows * w, s.x),
        info_slope=jax.tree.map(jnp.negative, square),
        info_curvature=jax.tree.map(lambda c, s: 2.0 * c - s, cube, square),
    )


def _times(by: Float[Array, "g"], a: Float[Array, "g p p"] | Arrow) -> Any:
    """Each gene's matrix times a number."""
    return jax.tree.map(lambda part: part * by.reshape(-1, *[1] * (part.ndim - 1)), a)


def adjusted(log_alpha: Float[Array, "g"], shape: Shape, f: Profile) -> Curve:
    """The profile with the Cox-Reid term and the normal prior on log alpha, both of the totals.

    Adds ``log det(X'WX) / 2 + (log alpha - prior mean)² × prior precision / 2``.
    """
    factor = linear.cholesky(f.info)
    slope, curvature = linear.traces(factor, f.info_slope, f.info_curvature)
    curve = Curve(
        loss=f.loss + 0.5 * linear.log_determinant(factor),
        slope=f.slope + 0.5 * slope,
        curvature=f.curvature + 0.5 * curvature,
    )
    return with_prior(log_alpha, shape, curve)


def with_prior(log_alpha: Float[Array, "g"], shape: Shape, curve: Curve) -> Curve:
    """A profile with the normal prior on log alpha."""
    away = log_alpha - shape.prior_mean
    return Curve(
        loss=curve.loss + 0.5 * shape.prior_precision * away**2,
        slope=curve.slope + shape.prior_precision * away,
        curvature=curve.curvature + shape.prior_precision,
    )


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


def start(sums: Moments, second: Spread, n: int, p: int) -> Float[np.ndarray, "g"]:
    """DESeq2's start: min(rough, moments), within the bounds.

    rough = ``sum ((q - m)² - m) / m² / (n - p)``, floored at 0; moments =
    ``(variance - mean(1 / size factor) × mean) / mean²``.
    """
    center = sums.mean / n
    variance = second.square / (n - 1)
    rough = np.maximum(second.excess / (n - p), 0.0)
    by_moments = (variance - sums.inverse_size / n * center) / center**2
    return np.clip(np.minimum(rough, by_moments), MIN_DISPERSION, max_dispersion(n))


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
    profiles = _Profiles(cohort, means.linear, shape, n, genes)
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
    profiles = _Profiles(cohort, means.linear, shape, n, genes)
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
    _Profiles(cohort, means.linear, shape, n, everyone).at(zero, everyone)


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


class _Profiles(NamedTuple):
    """The adjusted profiles of log dispersion of some genes, at their means."""

    cohort: Cohort
    linear: bool
    shape: Shape
    n: int
    genes: Int[np.ndarray, "g"]

    def at(self, log_alpha: Float[np.ndarray, "k"], some: Int[np.ndarray, "k"]) -> Curve:
        """Values at one point for each of some genes, which may be the same ones."""
        far = np.full(len(log_alpha), np.inf)
        seen = self._solved(Interval(log_alpha, -far, far), some, 1).state
        return Curve(seen.loss, seen.slope, seen.curvature)

    def search(
        self,
        begin: Float[np.ndarray, "k"] | Resumed,
        some: Int[np.ndarray, "k"],
        *,
        looks: int = Scalar().max_steps,
    ) -> Fit:
        """Local minimum of some genes, or where so many looks led."""
        if isinstance(begin, Resumed):
            return self._solved(begin, some, looks)
        lower = np.full(len(begin), np.log(MIN_DISPERSION))
        upper = np.full(len(begin), np.log(max_dispersion(self.n)))
        return self._solved(Interval(begin, lower, upper), some, looks)

    def _solved(self, begin: Interval | Resumed, some: Int[np.ndarray, "k"], looks: int) -> Fit:
        return solve(
            Scalar(max_steps=looks),
            profile_linear if self.linear else profile_glm,
            begin,
            rows_of(self.shape, some),
            self.cohort,
            penalty=adjusted,
            genes=self.genes[some],
        )

    def table(self, nodes: Float[np.ndarray, "m"], some: Int[np.ndarray, "k"]) -> Interpolant:
        """Some genes on nodes that are the same for all."""
        return self.on(np.tile(nodes, (len(some), 1)), some)

    def downhill(
        self, begin: Float[np.ndarray, "k"], known: Curve, some: Int[np.ndarray, "k"]
    ) -> Interpolant:
        """Some genes on a few nodes downhill of a point at which they are known."""
        down = np.where(np.asarray(known.slope) > 0, -1.0, 1.0)[:, None]
        away = self.on(begin[:, None] + down * np.array(ascent.WINDOW), some)

        def joined(point: Float[Array, "k"], rest: Float[np.ndarray, "k m"]) -> np.ndarray:
            both = np.column_stack([np.asarray(point), rest])
            return np.where(down > 0, both, both[:, ::-1])

        return Interpolant(
            joined(begin, away.nodes),
            joined(known.loss, away.loss),
            joined(known.slope, away.slope),
            joined(known.curvature, away.curvature),
            away.last + 1,
        )

    def on(self, nodes: Float[np.ndarray, "k m"], some: Int[np.ndarray, "k"]) -> Interpolant:
        """Some genes on nodes of their own, NaN behind their last ones."""
        there = np.isfinite(nodes)
        gene, _ = np.nonzero(there)
        whole = np.full((3, *nodes.shape), np.nan)
        whole[:, there] = np.asarray(self.at(nodes[there], some[gene]))
        loss, slope, curvature = whole
        return Interpolant(nodes, loss, slope, curvature, np.sum(there, axis=1) - 1)


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
