"""The Cox-Reid adjusted profile likelihood of log dispersion, at fixed means.

Sources: Love, Huber & Anders 2014 (Genome Biology 15:550, methods, "Estimation of dispersions"),
Cox & Reid 1987 (JRSS B 49), McCarthy, Chen & Smyth 2012 (NAR 40:4288).
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Float, Int
from expressway.core import linear
from expressway.core.arrow import Arrow
from expressway.core.cohort import Cohort, Samples, rows_of
from expressway.core.hermite import Interpolant
from expressway.core.linear import weighted_crossproduct, weighted_sum
from expressway.core.scalar import Curve, Interval, Scalar
from expressway.core.solve import Fit, Resumed, solve
from expressway.core.special import gamma_ratio, log1p

from . import ascent
from .means import MIN_MU, heavy, mean, row_weight
from .moments import MIN_DISPERSION, max_dispersion


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
    return at_means(log_alpha, jnp.maximum(mean(shape.beta, s), MIN_MU), s)


def profile_linear(log_alpha: Float[Array, "g"], shape: Shape, s: Samples) -> Profile:
    """Profile sums with means ``size factor × x beta``, raised to .5.

    DESeq2 uses them where distinct design rows number exactly p (group means).
    """
    return at_means(log_alpha, jnp.maximum(jnp.exp(s.offset) * (s.x @ shape.beta.T), MIN_MU), s)


def at_means(log_alpha: Float[Array, "g"], mu: Float[Array, "n g"], s: Samples) -> Profile:
    """Negative log-likelihood in log alpha and its derivatives, summed over rows.

    With r = 1 / alpha and D f = f(y + r) - f(r)::

        loss      = -sum [D lgamma - y log r - (y + r) log(1 + alpha mu)]
        slope     = -sum [r (log(1 + alpha mu) - D digamma) + (y - mu) / (1 + alpha mu)]
        curvature = -sum [r (D digamma - log(1 + alpha mu)) + r² D trigamma
                          + mu / (1 + alpha mu) - alpha mu (y - mu) / (1 + alpha mu)²]

    the loss up to ``lgamma(y + 1) - y log mu``, as DESeq2 leaves it. W = mu / (1 + alpha mu) has
    derivatives ``-alpha W²`` and ``-alpha W² + 2 alpha² W³``. Sums are weighted by observation
    weights; those of the information are over the rows of some weight instead (`means.heavy`).
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
    inside = heavy(s)
    square = _times(alpha, weighted_crossproduct(inside * w * w, s.x))
    cube = _times(alpha**2, weighted_crossproduct(inside * w * w * w, s.x))
    return Profile(
        loss=weighted_sum(rows, (s.y + r[None]) * log) - ratio.log,
        slope=-gap - weighted_sum(rows, left),
        curvature=gap - r * r * ratio.trigamma - weighted_sum(rows, w - alpha[None] * w * left),
        info=weighted_crossproduct(inside * w, s.x),
        info_slope=jax.tree.map(jnp.negative, square),
        info_curvature=jax.tree.map(lambda c, s: 2.0 * c - s, cube, square),
    )


def _times(by: Float[Array, "g"], a: Float[Array, "g p p"] | Arrow) -> Any:
    """Each gene's matrix times a number."""
    return jax.tree.map(lambda part: part * by.reshape(-1, *[1] * (part.ndim - 1)), a)


def adjusted(log_alpha: Float[Array, "g"], shape: Shape, f: Profile) -> Curve:
    """The profile with the Cox-Reid term and the normal prior on log alpha, both of the totals.

    Adds ``log det(X'WX) / 2 + (log alpha - prior mean)² × prior precision / 2``. Columns of the
    design that are 0 in every row of some weight are left out of X, as in DESeq2 (log_posterior).
    """
    info = f.info if isinstance(f.info, Arrow) else _held(f.info)
    return with_prior(log_alpha, shape, cox_reid(linear.cholesky(info), f))


def _held(a: Float[Array, "g p p"]) -> Float[Array, "g p p"]:
    """The matrix with 1 where its diagonal is 0."""
    eye = jnp.eye(a.shape[-1])[None]
    return a + eye * (a == 0)


def cox_reid(factor: Any, f: Profile) -> Curve:
    """The profile with ``log det(X'WX) / 2``, given the factor of ``X'WX``."""
    slope, curvature = linear.traces(factor, f.info_slope, f.info_curvature)
    return Curve(
        loss=f.loss + 0.5 * linear.log_determinant(factor),
        slope=f.slope + 0.5 * slope,
        curvature=f.curvature + 0.5 * curvature,
    )


def with_prior(log_alpha: Float[Array, "g"], shape: Shape, curve: Curve) -> Curve:
    """A profile with the normal prior on log alpha."""
    away = log_alpha - shape.prior_mean
    return Curve(
        loss=curve.loss + 0.5 * shape.prior_precision * away**2,
        slope=curve.slope + shape.prior_precision * away,
        curvature=curve.curvature + shape.prior_precision,
    )


class Profiles(NamedTuple):
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
