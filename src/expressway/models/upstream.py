"""How dispersions of one gene move when a sample counts more (see `sensitivity`).

A log dispersion is the root of the slope S of its adjusted profile: with K = dS/d log alpha, and
the means that the profile stands on solving an equation of their own, it moves by
``-(dS/dw_n + T d means/dw_n) / K``, T the derivative of S in the coefficients of the means.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp

from expressway._types import Array, Bool, Float
from expressway.core import linear
from expressway.core.cohort import Samples
from expressway.core.linear import weighted_crossproduct, weighted_sum
from expressway.core.scalar import Curve
from expressway.core.special import digamma_difference, log1p

from . import profile
from .means import MIN_MU, mean, row_weight
from .moments import MIN_DISPERSION
from .sensitivity import Effect, Solved, moving, tested

# A dispersion this near (log alpha) to the root of its equation is one: others are where an ascent
# stopped early, the start, or a bound, and do not move smoothly.
SETTLED = 1e-4

Along = Callable[[Float[Array, "g p"]], Float[Array, "n g"]]


class Upstream(NamedTuple):
    """What one dispersion of each gene comes from."""

    means: Solved
    """Coefficients of the means, and the dispersions they were fitted with."""
    log_alpha: Float[Array, "g"]
    prior_precision: Float[Array, "g"]
    """Of the prior on log alpha; 0 for gene-wise dispersions."""
    level: Float[Array, "g"]
    """Of the trend, at the gene's mean."""
    tilt: Float[Array, "g"]
    """Derivative of its logarithm in log mean."""


class Rows(NamedTuple):
    """Numbers of rows that formulas use, whatever the weights; and the largest dispersion."""

    samples: Float[Array, ""]
    residual: Float[Array, ""]
    """n - p."""
    largest: Float[Array, ""]


class Base(NamedTuple):
    """Mean of normalised counts, and the start of the dispersion."""

    mean: Float[Array, "g"]
    log_mean: Float[Array, "n g"]
    """Its derivative."""
    log_start: Float[Array, "n g"]
    """That of the start (`moments.start`)."""


def base(rows: Rows, s: Samples) -> Base:
    """Derivatives of what `moments` finds; of the minimum of two starts, that of the smaller."""
    weight = s.weight[:, None]
    total = jnp.sum(s.weight)
    inverse = jnp.exp(-s.offset)
    q = s.y * inverse
    center = weighted_sum(weight, q) / total
    d_center = (q - center[None]) / total
    inside, solved = _least_squares(q, s)
    m = jnp.maximum(1.0, inside)
    away = q - m
    excess = jnp.maximum(weighted_sum(weight, (away**2 - m) / m**2) / rows.residual, 0.0)
    bend = jnp.where(inside > 1.0, weight * (1.0 / m**2 - 2.0 * away * q / m**3), 0.0)
    d_excess = ((away**2 - m) / m**2 + solved(bend.T @ s.x)) / rows.residual
    square = (q - center[None]) ** 2
    variance = weighted_sum(weight, square) / (rows.samples - 1.0)
    size = weighted_sum(weight, jnp.broadcast_to(inverse, q.shape)) / total
    by_moments = (variance - size * center) / center**2
    d_moments = square / (rows.samples - 1.0) - size[None] * d_center
    d_moments = d_moments - (inverse - size[None]) / total * center[None]
    d_moments = d_moments / center[None] ** 2 - 2.0 * (by_moments / center)[None] * d_center
    start = jnp.minimum(excess, by_moments)
    d_start = jnp.where((excess < by_moments)[None], d_excess, d_moments)
    free = (start > MIN_DISPERSION) & (start < rows.largest)
    d_log = jnp.where(free[None], d_start / jnp.where(free, start, 1.0)[None], 0.0)
    return Base(center, d_center / center[None], d_log)


def _least_squares(q: Float[Array, "n g"], s: Samples) -> tuple[Float[Array, "n g"], Along]:
    """Fitted values of normalised counts, and ``t' d coefficients / d w_n`` for any t."""
    normal = weighted_crossproduct(s.weight[:, None], s.x)
    inverted = linear.inverse(linear.cholesky(normal))[0]
    fitted = s.x @ (inverted @ ((s.weight[:, None] * q).T @ s.x).T)
    left = q - fitted
    return fitted, lambda t: left * (s.x @ (inverted @ t.T))


class Moved(NamedTuple):
    """Slope and curvature of the adjusted profile, and the slope's derivatives in weights."""

    curve: Curve
    slope: Float[Array, "n g"]


def profile_moves(
    log_alpha: Float[Array, "g"],
    mu: Float[Array, "n g"],
    bend: Float[Array, "n g"],
    along: Along,
    s: Samples,
) -> Moved:
    """Derivatives of the slope S of the profile with its Cox-Reid term.

    With ``W = m / (1 + alpha m)``, ``h = x'I⁻¹x``, ``k = x'I⁻¹ (dI/da) I⁻¹x``, a row's weight adds
    to S its own term of the profile's slope and ``-(alpha W² h + W k) / 2`` (of the Cox-Reid term).

    Parameters
    ----------
    mu, bend
        Means, and their derivative in ``x' coefficients``, 0 where they are raised to .5.
    along
        ``t' d coefficients / d w_n``.
    """
    alpha = jnp.exp(log_alpha)
    a = alpha[None]
    m = jnp.maximum(mu, MIN_MU)
    at = profile.at_means(log_alpha, m, s)
    factor = linear.cholesky(at.info)
    inverted = linear.inverse(factor)
    turned = jnp.einsum("gij,gjk,gkl->gil", inverted, at.info_slope, inverted)
    h, k = linear.hat(inverted, s.x), linear.hat(turned, s.x)
    over = 1.0 / (1.0 + a * m)
    w, left = m * over, (s.y - m) * over
    own = (digamma_difference(s.y, 1.0 / alpha) - log1p(a * m)) / a - left
    through = row_weight(s) * bend * over * (a * left - a * w * over * h - 0.5 * over * k)
    slope = s.precision * (own - 0.5 * (a * w**2 * h + w * k)) + along(through.T @ s.x)
    return Moved(profile.cox_reid(factor, at), slope)


def _on_means(
    up: Upstream, rows: Rows, s: Samples, *, by_least_squares: bool
) -> tuple[Moved, Base]:
    """Derivatives of a dispersion's slope, its means moving too."""
    found = base(rows, s)
    if by_least_squares:
        size = jnp.exp(s.offset)
        inside, along = _least_squares(s.y / size, s)
        mu = size * inside
        bend = jnp.where(mu > MIN_MU, size, 0.0)
    else:
        move = moving(up.means, s)
        mu = mean(up.means.beta, s)
        bend = jnp.where(mu > MIN_MU, mu, 0.0)
        along = partial(move.along, x=s.x, log_alpha=found.log_start)

    return profile_moves(up.log_alpha, mu, bend, along, s), found


class Wise(NamedTuple):
    """Derivatives of gene-wise dispersions and means; genes leading."""

    log_alpha: Float[Array, "g n"]
    log_mean: Float[Array, "g n"]
    settled: Bool[Array, "g"]
    """The dispersion solves its equation; others do not move."""


def _wise(up: Upstream, rows: Rows, s: Samples, *, by_least_squares: bool) -> Wise:
    moved, found = _on_means(up, rows, s, by_least_squares=by_least_squares)
    curve = moved.curve
    settled = _settled(up.log_alpha, curve.slope, curve.curvature, rows)
    log_alpha = jnp.where(settled[None], -moved.slope / curve.curvature[None], 0.0)
    return Wise(log_alpha.T, found.log_mean.T, settled)


def wise_glm(up: Upstream, rows: Rows, s: Samples) -> Wise:
    """Derivatives of gene-wise dispersions on means of the GLM."""
    return _wise(up, rows, s, by_least_squares=False)


def wise_linear(up: Upstream, rows: Rows, s: Samples) -> Wise:
    """Derivatives of gene-wise dispersions on means by least squares."""
    return _wise(up, rows, s, by_least_squares=True)


def _settled(
    log_alpha: Float[Array, "g"], slope: Float[Array, "g"], curvature: Float[Array, "g"], rows: Rows
) -> Bool[Array, "g"]:
    """Dispersions that are inside their bounds where the slope is 0."""
    inside = (log_alpha > jnp.log(2 * MIN_DISPERSION)) & (log_alpha < jnp.log(0.999 * rows.largest))
    return inside & (curvature > 0) & (jnp.abs(slope) < SETTLED * curvature)


class Shared(NamedTuple):
    """How what all genes share moves."""

    d_trend: Float[Array, "2 n"]
    """Of the trend's coefficients; 0 where it is held."""


class Whole(NamedTuple):
    """Derivatives of the tests; genes leading."""

    effect: Effect
    settled: Bool[Array, "g"]


def _whole(
    up: Upstream,
    at: Solved,
    shared: Shared,
    contrasts: Float[Array, "q p"],
    rows: Rows,
    s: Samples,
    *,
    by_least_squares: bool,
) -> Whole:
    moved, found = _on_means(up, rows, s, by_least_squares=by_least_squares)
    d_coefficients = shared.d_trend[0][:, None] + shared.d_trend[1][:, None] / found.mean[None]
    d_log_level = d_coefficients / up.level[None] + up.tilt[None] * found.log_mean
    above = up.log_alpha - jnp.log(up.level)
    precision = up.prior_precision
    slope = moved.curve.slope + precision * above
    curvature = moved.curve.curvature + precision
    pulled = moved.slope - precision[None] * d_log_level
    settled = _settled(up.log_alpha, slope, curvature, rows)
    log_alpha = jnp.where(settled[None], -pulled / curvature[None], 0.0)
    return Whole(tested(at, log_alpha.T, contrasts, s), settled)


def whole_glm(up, at, shared, contrasts, rows, s: Samples) -> Whole:
    """Derivatives of tests on means of the GLM."""
    return _whole(up, at, shared, contrasts, rows, s, by_least_squares=False)


def whole_linear(up, at, shared, contrasts, rows, s: Samples) -> Whole:
    """Derivatives of tests on means by least squares."""
    return _whole(up, at, shared, contrasts, rows, s, by_least_squares=True)
