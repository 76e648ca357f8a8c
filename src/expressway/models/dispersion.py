"""Gene-wise and maximum a posteriori dispersions by Cox-Reid adjusted profile likelihood.

Sources: Love, Huber & Anders 2014 (Genome Biology 15:550, methods, "Estimation of dispersions"),
Cox & Reid 1987 (JRSS B 49), McCarthy, Chen & Smyth 2012 (NAR 40:4288), and DESeq2 1.38
``R/core.R`` (estimateDispersionsGeneEst, estimateDispersionsMAP), ``src/DESeq2.cpp`` (fitDisp).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Bool, Float, Int, Shaped
from expressway.core import linear
from expressway.core.cohort import Cohort, Samples, rows_of
from expressway.core.hermite import Interpolant
from expressway.core.scalar import Curve, Interval, Scalar
from expressway.core.solve import Known, Status, evaluate, solve
from expressway.core.special import gamma_ratio

from . import ascent
from .nb import MIN_MU, mean, row_weight, weighted_crossproduct

# DESeq2 R/core.R, minDisp.
MIN_DISPERSION = 1e-8
# DESeq2 R/core.R, dispTol: an ascent whose first step gains less stops where it started.
TOLERANCE = 1e-6
# Curvature in log alpha below which DESeq2's ascent is still more than 1e-3 away when its slope
# falls below the square root of its tolerance.
FLAT = 1.0
# Most genes are done after five looks; those that are not are worth a look at all nodes.
LOOKS = 5
# Nodes for the mode: this far apart at most, and a little beyond both ends; where the gene-wise
# value is at its bound, to this many prior standard deviations below the trend; never farther than.
SPACING, PAD, REACH, FARTHEST = 1.2, 0.05, 3.0, 8.0


def max_dispersion(n: int) -> float:
    """DESeq2's upper bound, max(10, n samples)."""
    return float(max(10, n))


class Moments(NamedTuple):
    """Sums over samples of normalised counts q = y / size factor."""

    mean: Float[Array, "g"]
    """Sum of q."""
    inverse_size: Float[Array, "g"]
    """Sum of 1 / size factor."""
    normal: Float[Array, "g p p"]
    """``X'X``."""
    linear: Float[Array, "g p"]
    """``X'q``."""
    log: Float[Array, "g p"]
    """``X' log(q + .1)`` (natural log): DESeq2's start for the coefficients."""
    positive: Float[Array, "g q q"]
    """``Z'Z``, Z = (1, X), over the rows with a count: q = p + 1."""
    total: Float[Array, "g p"]
    """Sum of x."""


def moments(s: Samples) -> Moments:
    """First sums of normalised counts, over rows."""
    present = s.weight[:, None]
    inverse = jnp.broadcast_to(jnp.exp(-s.offset), s.y.shape)
    q = s.y * inverse
    ones = jnp.ones(s.x.shape[0])
    return Moments(
        mean=jnp.sum(present * q, axis=0),
        inverse_size=jnp.sum(present * inverse, axis=0),
        normal=weighted_crossproduct(jnp.broadcast_to(present, s.y.shape), s.x),
        linear=(present * q).T @ s.x,
        log=(present * jnp.log(q + 0.1)).T @ s.x,
        positive=weighted_crossproduct(present * (s.y > 0), jnp.column_stack([ones, s.x])),
        total=jnp.broadcast_to(present, s.y.shape).T @ s.x,
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
        square=jnp.sum(present * (q - center[None]) ** 2, axis=0),
        excess=jnp.sum(present * ((q - m) ** 2 - m) / m**2, axis=0),
    )


class Profile(NamedTuple):
    """Sums over samples at fixed means; derivatives are in log alpha."""

    loss: Float[Array, "g"]
    slope: Float[Array, "g"]
    curvature: Float[Array, "g"]
    info: Float[Array, "g p p"]
    """``X'WX``, ``W = mu / (1 + alpha mu)``, for the Cox-Reid term."""
    info_slope: Float[Array, "g p p"]
    info_curvature: Float[Array, "g p p"]


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
    alpha = jnp.exp(log_alpha)[None]
    r = 1.0 / alpha
    rows = row_weight(s)
    ratio = gamma_ratio(s.y, r[0])
    log = jnp.log1p(alpha * mu)
    over = 1.0 / (1.0 + alpha * mu)
    w = mu * over
    aw = alpha * w
    gap = r * (log - ratio.digamma)
    left = (s.y - mu) * over
    return Profile(
        loss=-jnp.sum(rows * (ratio.log - (s.y + r) * log), axis=0),
        slope=-jnp.sum(rows * (gap + left), axis=0),
        curvature=-jnp.sum(rows * (r * r * ratio.trigamma - gap + w - aw * left), axis=0),
        info=weighted_crossproduct(rows * w, s.x),
        info_slope=weighted_crossproduct(-rows * aw * w, s.x),
        info_curvature=weighted_crossproduct(rows * aw * w * (2 * aw - 1), s.x),
    )


def adjusted(log_alpha: Float[Array, "g"], shape: Shape, f: Profile) -> Curve:
    """The profile with the Cox-Reid term and the normal prior on log alpha, both of the totals.

    Adds ``log det(X'WX) / 2 + (log alpha - prior mean)² × prior precision / 2``.
    """
    factor = linear.cholesky(f.info)
    inverse = linear.inverse(factor)
    first = jnp.einsum("gij,gjk->gik", inverse, f.info_slope)
    slope = jnp.trace(first, axis1=-2, axis2=-1)
    curvature = jnp.sum(inverse * f.info_curvature - first * jnp.swapaxes(first, 1, 2), (1, 2))
    away = log_alpha - shape.prior_mean
    return Curve(
        loss=f.loss + 0.5 * linear.log_determinant(factor) + 0.5 * shape.prior_precision * away**2,
        slope=f.slope + 0.5 * slope + shape.prior_precision * away,
        curvature=f.curvature + 0.5 * curvature + shape.prior_precision,
    )


class Dispersions(NamedTuple):
    """Dispersions of a set of genes and why each fit stopped."""

    alpha: Float[np.ndarray, "g"]
    status: Int[np.ndarray, "g"]


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
    first = profiles.at(log_start, np.arange(g))
    square = first.slope**2
    free = np.flatnonzero((square >= TOLERANCE) | (initial > 10 * MIN_DISPERSION))
    found = profiles.minimum(log_start[free], free, looks=LOOKS, sums=rows_of(first, free))
    # The gain of DESeq2's first step is at least Armijo's 1e-4 of the squared slope.
    still = square[free] < 1e4 * TOLERANCE
    left = found.status == Status.NOT_CONVERGED
    tabled = np.flatnonzero(left | still | _flat(found))
    bounds = (MIN_DISPERSION, max_dispersion(n))
    alpha, status = initial.copy(), np.full(g, int(Status.AT_BOUND))
    slow = np.zeros(g, bool)
    if len(tabled):
        table = profiles.table(ascent.nodes(bounds[1]), free[tabled])
        begin = table.take(np.flatnonzero(left[tabled])).downhill(found.log_alpha[left])
        more = profiles.minimum(begin, free[left])
        found = _Minimum(*(_put(a, left, b) for a, b in zip(found, more, strict=True)))
        flat = np.flatnonzero((still | _flat(found))[tabled])
        at = free[tabled[flat]]
        slow[at] = True
        alpha[at] = ascent.gene_wise(table.take(flat), initial[at], bounds)
    status[free] = found.status
    risen = first.loss[free] - found.loss >= TOLERANCE * np.abs(first.loss[free])
    moved = free[risen & ~slow[free]]
    alpha[moved] = np.exp(found.log_alpha[np.searchsorted(free, moved)])
    return Dispersions(_bounded(alpha, n), status)


def maximum_a_posteriori(
    cohort: Cohort,
    means: Means,
    initial: Float[np.ndarray, "g"],
    prior: tuple[Float[np.ndarray, "g"], float],
    n: int,
    genes: Int[np.ndarray, "g"],
) -> Dispersions:
    """Dispersions at the mode of likelihood × Cox-Reid term × log-normal prior.

    The mode lies between the gene-wise value and the trend: nodes there, in one sum, tell where.

    Parameters
    ----------
    cohort, means, genes
        As for `gene_wise`, whose means are used again.
    initial
        Gene-wise dispersions: the start, unless they are below a tenth of the trend.
    prior
        Trend value of each gene, and the prior variance of log dispersion (natural log).
    n
        Number of samples.
    """
    trend, variance = prior
    far = initial <= 0.1 * trend
    begin = np.log(np.where(far, trend, initial))
    shape = Shape(means.beta, np.log(trend), np.full(len(genes), 1.0 / variance))
    profiles = _Profiles(cohort, means.linear, shape, n, genes)
    # A gene-wise value at the lower bound says nothing of how far below the trend the mode is.
    inside = initial > 10 * MIN_DISPERSION
    least = np.where(inside, FARTHEST, np.clip(REACH * np.sqrt(variance), 1.0, FARTHEST))
    end = np.where(far, np.maximum(np.log(trend) - least, np.log(initial)), np.log(trend))
    lower, upper = np.minimum(begin, end) - PAD, np.maximum(begin, end) + PAD
    table, scale = profiles.between(lower, upper)
    found = profiles.minimum(lower + scale * table.downhill((begin - lower) / scale))
    return Dispersions(_bounded(np.exp(found.log_alpha), n), found.status)


class _Minimum(NamedTuple):
    """Minimum of each profile, and what is known there."""

    log_alpha: Float[np.ndarray, "g"]
    loss: Float[np.ndarray, "g"]
    curvature: Float[np.ndarray, "g"]
    status: Int[np.ndarray, "g"]


class _Profiles(NamedTuple):
    """The adjusted profiles of log dispersion of some genes, at their means."""

    cohort: Cohort
    linear: bool
    shape: Shape
    n: int
    genes: Int[np.ndarray, "g"]

    @property
    def statistic(self) -> Callable[..., Profile]:
        """What is summed."""
        return profile_linear if self.linear else profile_glm

    def at(self, log_alpha: Float[np.ndarray, "k"], some: Int[np.ndarray, "k"]) -> Curve:
        """Values at one point for each of some genes, which may be the same ones."""
        shape = rows_of(self.shape, some)
        return evaluate(
            self.statistic, adjusted, log_alpha, shape, self.cohort, genes=self.genes[some]
        )

    def minimum(
        self,
        begin: Float[np.ndarray, "k"],
        some: Int[np.ndarray, "k"] | Bool[np.ndarray, "g"] | None = None,
        *,
        looks: int = Scalar().max_steps,
        sums: Curve | None = None,
    ) -> _Minimum:
        """Local minimum of some genes."""
        some = np.arange(len(self.genes)) if some is None else some
        lower = np.full(len(begin), np.log(MIN_DISPERSION))
        upper = np.full(len(begin), np.log(max_dispersion(self.n)))
        interval = Interval(begin, lower, upper)
        fit = solve(
            Scalar(max_steps=looks),
            self.statistic,
            interval if sums is None else Known(interval, sums),
            rows_of(self.shape, some),
            self.cohort,
            penalty=adjusted,
            genes=self.genes[some],
        )
        return _Minimum(fit.theta, fit.state.loss, fit.state.curvature, fit.status)

    def table(self, nodes: Float[np.ndarray, "m"], some: Int[np.ndarray, "k"]) -> Interpolant:
        """Some genes on nodes that are the same for all."""
        curve = self.at(np.tile(nodes, len(some)), np.repeat(some, len(nodes)))
        last = np.full(len(some), len(nodes) - 1)
        shape = (len(some), len(nodes))
        loss, slope, curvature = (np.asarray(a).reshape(shape) for a in curve)
        return Interpolant(nodes, loss, slope, curvature, last)

    def between(
        self, lower: Float[np.ndarray, "g"], upper: Float[np.ndarray, "g"]
    ) -> tuple[Interpolant, Float[np.ndarray, "g"]]:
        """All genes on nodes 0, 1, 2 … between each one's ends, and the distance of its nodes."""
        count = np.ceil((upper - lower) / SPACING).astype(int) + 1
        scale = (upper - lower) / (count - 1)
        nodes = np.arange(count.max())
        gene, node = np.nonzero(nodes < count[:, None])
        curve = self.at(lower[gene] + node * scale[gene], gene)
        whole = np.full((3, len(count), len(nodes)), np.nan)
        for power, (values, part) in enumerate(zip(whole, curve, strict=True)):
            values[gene, node] = part * scale[gene] ** power
        loss, slope, curvature = whole
        return Interpolant(nodes.astype(float), loss, slope, curvature, count - 1), scale


def _flat(found: _Minimum) -> Bool[np.ndarray, "g"]:
    """Profiles on which DESeq2's ascent stops before the optimum, or at the bound."""
    return (found.curvature < FLAT) | (found.status == Status.AT_BOUND)


def _put(
    whole: Shaped[np.ndarray, "g"], at: Bool[np.ndarray, "g"], part: Shaped[np.ndarray, "k"]
) -> Shaped[np.ndarray, "g"]:
    """The same with some replaced."""
    whole = whole.copy()
    whole[at] = part
    return whole


def _bounded(alpha: Float[np.ndarray, "g"], n: int) -> Float[np.ndarray, "g"]:
    return np.clip(alpha, MIN_DISPERSION, max_dispersion(n))
