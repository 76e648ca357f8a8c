"""First sums of normalised counts, and where dispersions start.

Sources: DESeq2 1.38 ``R/core.R`` (roughDispEstimate, momentsDispEstimate).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from expressway._types import Array, Float
from expressway.core import linear
from expressway.core.arrow import Arrow
from expressway.core.cohort import Samples
from expressway.core.linear import weighted_crossproduct, weighted_sum
from expressway.core.special import log1p

# DESeq2 R/core.R, minDisp.
MIN_DISPERSION = 1e-8


def max_dispersion(n: int) -> float:
    """DESeq2's upper bound, max(10, n samples)."""
    return float(max(10, n))


class Moments(NamedTuple):
    """Sums over samples of normalised counts q = y / size factor."""

    mean: Float[Array, "g"]
    """Sum of q, times observation weights."""
    inverse_size: Float[Array, "g"]
    """Sum of 1 / size factor."""
    normal: Float[Array, "g p p"] | Arrow
    """``X'X``."""
    linear: Float[Array, "g p"]
    """``X'q``."""
    log: Float[Array, "g p"]
    """``X' log(q + .1)`` (natural log): DESeq2's start for the coefficients."""
    positive: Float[Array, "g q q"] | Arrow
    """``Z'Z``, Z = (1, X), over the rows with a count of weight above 0: q = p + 1."""
    total: Float[Array, "g p"]
    """Sum of x."""


def moments(s: Samples) -> Moments:
    """First sums of normalised counts, over rows.

    As in DESeq2 observation weights matter to the mean only (R/core.R, getBaseMeansAndVariances),
    not to least squares, from which estimates start.
    """
    present = s.weight[:, None]
    inverse = jnp.exp(-s.offset)
    q = s.y * inverse

    def of_each(alike: Float[Array, "..."]) -> Float[Array, "..."]:
        """For every gene what may be the same for all."""
        return jnp.broadcast_to(alike, (s.y.shape[1], *alike.shape[1:]))

    return Moments(
        mean=weighted_sum(present, s.precision * q),
        inverse_size=of_each(weighted_sum(present, inverse)),
        normal=jax.tree.map(of_each, weighted_crossproduct(present, s.x)),
        linear=(present * q).T @ s.x,
        log=(present * log1p(q - 0.9)).T @ s.x,
        positive=weighted_crossproduct(
            present * ((s.y > 0) & (s.precision > 0)), linear.with_ones(s.x)
        ),
        total=of_each(present.T @ s.x),
    )


class Spread(NamedTuple):
    """Sums over samples of squared deviations of normalised counts."""

    square: Float[Array, "g"]
    """Sum of (v q - mean)², v observation weights."""
    excess: Float[Array, "g"]
    """Sum of ((q - m)² - m) / m², m = max(1, fitted by least squares)."""


def spread(center: Float[Array, "g"], linear: Float[Array, "g p"], s: Samples) -> Spread:
    """Second sums of normalised counts, over rows."""
    present = s.weight[:, None]
    q = s.y * jnp.exp(-s.offset)
    m = jnp.maximum(1.0, s.x @ linear.T)
    return Spread(
        square=weighted_sum(present, (s.precision * q - center[None]) ** 2),
        excess=weighted_sum(present, ((q - m) ** 2 - m) / m**2),
    )


def start(
    sums: Moments, second: Spread, n: int, p: int, weight: float | None = None
) -> Float[np.ndarray, "g"]:
    """DESeq2's start: min(rough, moments), within the bounds.

    rough = ``sum ((q - m)² - m) / m² / (n - p)``, floored at 0; moments =
    ``(variance - mean(1 / size factor) × mean) / mean²``. Means divide by the sum of the rows'
    weights, where it is not n.
    """
    total = n if weight is None else weight
    center = sums.mean / total
    variance = second.square / (n - 1)
    rough = np.maximum(second.excess / (n - p), 0.0)
    by_moments = (variance - sums.inverse_size / total * center) / center**2
    return np.clip(np.minimum(rough, by_moments), MIN_DISPERSION, max_dispersion(n))
