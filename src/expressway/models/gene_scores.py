"""Sums over samples that covariances of coefficients are made of (`gene_covariance`)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Float, Int
from expressway.core import linear
from expressway.core.cohort import Samples
from expressway.core.linear import weighted_crossproduct, weighted_sum
from expressway.core.special import gamma_ratio, log1p

from . import sensitivity
from .joint import SHIFT
from .means import mean, row_weight

# Trapezoid rule over log t (`curvature`): its error is exp(-π² / STEP) = 5e-15, the integrand
# being analytic within π/2 of the real axis; ends at which nothing of 1e-15 is left.
STEP = 0.3
NODES = np.exp(np.arange(np.log(1e-12), np.log(40.0), STEP))


class Spread(NamedTuple):
    """What sandwiches are made of."""

    bread: Float[Array, "g p p"]
    """``H⁻¹``; 0 for coordinates at a bound."""
    middle: Float[Array, "g p p"]
    """``sum w_n² s_n s_n'``."""


def clipped(at: sensitivity.Solved, numbers: Float[Array, "m"], s: Samples) -> Spread:
    """Of DESeq2's estimating equation, or the likelihood's for genes that `boxed` finished.

    Parameters
    ----------
    at
        Coefficients, and which equation they solve.
    numbers
        One of each cluster, whose number is the rows' ``cell``; none if rows are independent.
    """
    move = sensitivity.moving(at, s)
    both = move.free[:, :, None] & move.free[:, None, :]
    bread = jnp.where(both, linear.inverse(move.factor), 0.0)
    return Spread(bread, _middle(s.weight[:, None] * move.score, numbers, s))


class Middle(NamedTuple):
    """``sum w_n² s_n s_n'`` in (beta, log alpha)."""

    middle: Float[Array, "g q q"]


def unclipped(theta: Float[Array, "g q"], numbers: Float[Array, "m"], s: Samples) -> Middle:
    """Of the likelihood of coefficients and dispersion, at ``(beta, log alpha - SHIFT)``.

    With ``r = 1 / alpha``: ``s = (y - mu) / (1 + alpha mu)`` in the linear predictor, and
    ``r [log(1 + alpha mu) - psi(y + r) + psi(r)] + s`` in log alpha.
    """
    beta, alpha = theta[:, :-1], jnp.exp(theta[:, -1] + SHIFT)[None]
    mu = mean(beta, s)
    rows = row_weight(s)
    left = (s.y - mu) / (1.0 + alpha * mu)
    r = jnp.broadcast_to(1.0 / alpha, s.y.shape)
    one = jnp.ones((1, 1))
    # One element a lane: differences keep their digits at small alpha.
    ratio = gamma_ratio(s.y.reshape(1, -1), r.reshape(-1), one).digamma.reshape(s.y.shape)
    last = rows * (r * (log1p(alpha * mu) - ratio) + left)
    first = rows * left
    if numbers.shape[0] == 0:
        corner = weighted_sum(last, last)
        across = (first * last).T @ s.x
    else:
        by_x, by_last = _summed(first, numbers, s), _clustered(last, numbers, s)
        corner = jnp.sum(by_last * by_last, axis=0)
        across = jnp.einsum("mgp,mg->gp", by_x, by_last)
    inside = _middle(first, numbers, s)
    above = jnp.concatenate([inside, across[:, :, None]], axis=2)
    below = jnp.concatenate([across, corner[:, None]], axis=1)
    return Middle(jnp.concatenate([above, below[:, None]], axis=1))


def _middle(
    score: Float[Array, "n g"], numbers: Float[Array, "m"], s: Samples
) -> Float[Array, "g p p"]:
    if numbers.shape[0] == 0:
        return weighted_crossproduct(score * score, s.x)
    summed = _summed(score, numbers, s)
    return jnp.einsum("mgp,mgr->gpr", summed, summed)


def _summed(
    score: Float[Array, "n g"], numbers: Float[Array, "m"], s: Samples
) -> Float[Array, "m g p"]:
    """Scores of the coefficients, by cluster."""
    x = jnp.asarray(s.x)
    columns = [_clustered(score * x[:, k][:, None], numbers, s) for k in range(x.shape[1])]
    return jnp.stack(columns, axis=2)


def _clustered(
    v: Float[Array, "n g"], numbers: Float[Array, "m"], s: Samples
) -> Float[Array, "m g"]:
    """Sums over the rows of each cluster; padding rows are in none."""
    member = (s.cell[None] == jnp.arange(numbers.shape[0])[:, None]).astype(v.dtype)
    return member @ v


class Curvature(NamedTuple):
    """Information on log alpha, summed over rows."""

    expected: Float[Array, "g"]


def curvature(theta: Float[Array, "g q"], s: Samples) -> Curvature:
    """Expectation of the second derivative of minus the log-likelihood in log alpha.

    It is ``r² E[psi'(r) - psi'(y + r)] - mu / (1 + alpha mu)``, ``r = 1 / alpha``, where, by the
    integral of trigamma (NIST DLMF 5.9.12) and the generating function of y::

        E[psi'(r) - psi'(y + r)] = ∫ t e^(-r t) / u [1 - (1 + alpha mu u)^(-r)] dt,   u = 1 - e^(-t)

    over t > 0, by the trapezoid rule in log t. Mixed derivatives with beta have expectation 0. The
    difference loses digits where ``alpha mu`` is small in all samples, half of them at 1e-4.
    """
    beta, alpha = theta[:, :-1], jnp.exp(theta[:, -1] + SHIFT)[None]
    mu = mean(beta, s)
    rows = row_weight(s)
    load, r = alpha * mu, 1.0 / alpha
    nodes = jnp.asarray(NODES)

    def add(k: Int[Array, ""], total: Float[Array, "n g"]) -> Float[Array, "n g"]:
        t = nodes[k] * alpha
        rise = -jnp.expm1(-t)
        # r² t² e^(-r t) / (1 - e^(-t)), of the same size as the node whatever r is.
        share = nodes[k] ** 2 * jnp.exp(-nodes[k]) / rise
        return total - share * jnp.expm1(-r * log1p(load * rise))

    total = STEP * jax.lax.fori_loop(0, len(NODES), add, jnp.zeros_like(mu))
    return Curvature(weighted_sum(jnp.broadcast_to(rows, mu.shape), total - mu / (1.0 + load)))
