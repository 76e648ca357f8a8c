"""Clusters of estimates whose uncertainty is known: a Gaussian mixture with a precision a gene.

Gene g has estimates ``x_g`` (d numbers, say spline coefficients) of known precision ``L_g``. Of the
cluster k that it belongs to it has the centroid ``c_k``, and clusters have weights ``p_k``:
``x_g | k ~ N(c_k, L_g⁻¹)``. What does not depend on centroids and weights is left out of

    F = -(1/G) [ Σ_g log Σ_k p_k exp(x_g' L_g c_k - ½ c_k' L_g c_k) - ½ RIDGE Σ_k |c_k|² ]

(Giordano et al. 2019, AISTATS, section 4 and supplement: MAP clusters of a regression's
coefficients). To which cluster a gene belongs is summed out. F has a value, gradient and Hessian in
closed form, as matrix products over genes, and so have their derivatives in estimates and
precisions, from which the sensitivity to an earlier stage comes. F is not convex: see `fit`.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from scipy.special import log_softmax

from expressway._types import Float, Int
from expressway.core.flat import Flat
from expressway.core.functions import Closed

# Of centroids, as published.
RIDGE = 1e-5
# Numbers in one part of an array with an entry for each gene and parameter.
PART = 2**21


class Observed(NamedTuple):
    """Estimates of each gene and their precision."""

    estimate: Float[np.ndarray, "g d"]
    precision: Float[np.ndarray, "g d d"]
    """Symmetric."""

    def some(self, genes: slice | np.ndarray) -> "Observed":
        """Of some of the genes."""
        return Observed(self.estimate[genes], self.precision[genes])


class Mixture(NamedTuple):
    """Clusters: centroids and natural logarithms of their weights."""

    centroids: Float[np.ndarray, "k d"]
    log_weight: Float[np.ndarray, "k"]

    @property
    def weight(self) -> Float[np.ndarray, "k"]:
        """Share of the genes; they sum to one."""
        return np.exp(self.log_weight)

    def vector(self) -> Float[np.ndarray, "m"]:
        """Free parameters: centroids, and ``log(p_k / p_1)`` of all clusters but the first."""
        odds = self.log_weight[1:] - self.log_weight[0]
        return np.concatenate([self.centroids.ravel(), odds])


def of_vector(theta: Float[np.ndarray, "m"], d: int) -> Mixture:
    """The mixture that has these free parameters.

    Parameters
    ----------
    theta
        As `Mixture.vector` makes it: k d + k - 1 numbers.
    d
        Length of a centroid.
    """
    k = (len(theta) + 1) // (d + 1)
    odds = np.concatenate([[0.0], theta[k * d :]])
    return Mixture(theta[: k * d].reshape(k, d), log_softmax(odds))


class Terms(NamedTuple):
    """What of the genes the objective and its derivatives need, in the form products want.

    A symmetric matrix is its upper half, entries off the diagonal doubled in one of the factors of
    a product: half the arithmetic.
    """

    observed: Observed
    pull: Float[np.ndarray, "g d"]
    """``L_g x_g``."""
    half: Float[np.ndarray, "g h"]
    """Upper half of ``L_g``."""

    def some(self, genes: slice) -> "Terms":
        """Of some of the genes."""
        return Terms(self.observed.some(genes), self.pull[genes], self.half[genes])


class _Half(NamedTuple):
    """Where the upper half of a d × d matrix lies, and how often an entry is in the whole."""

    row: Int[np.ndarray, "h"]
    column: Int[np.ndarray, "h"]
    twice: Float[np.ndarray, "h"]

    def of(self, whole: Float[np.ndarray, "_ d d"]) -> Float[np.ndarray, "_ h"]:
        """The upper half of matrices."""
        return whole[:, self.row, self.column]

    def product(
        self, a: Float[np.ndarray, "_ d"], b: Float[np.ndarray, "_ d"]
    ) -> Float[np.ndarray, "_ h"]:
        """The upper half of ``½ (a b' + b a')``."""
        if a is b:
            return a[:, self.row] * a[:, self.column]
        return 0.5 * (a[:, self.row] * b[:, self.column] + b[:, self.row] * a[:, self.column])

    def whole(self, half: Float[np.ndarray, "_ h"], d: int) -> Float[np.ndarray, "_ d d"]:
        """Matrices of their upper halves."""
        found = np.empty((len(half), d, d))
        found[:, self.row, self.column] = half
        found[:, self.column, self.row] = half
        return found


def half(d: int) -> _Half:
    """Where the upper half of a d × d matrix lies."""
    row, column = np.triu_indices(d)
    return _Half(row, column, np.where(row == column, 1.0, 2.0))


def terms(observed: Observed) -> Terms:
    """What does not depend on the mixture, computed once."""
    x, precision = observed
    pull = (precision @ x[:, :, None])[:, :, 0]
    return Terms(observed, pull, half(x.shape[1]).of(precision))


class Membership(NamedTuple):
    """To which cluster genes belong, given a mixture."""

    log_likelihood: Float[np.ndarray, "g"]
    """``log Σ_k p_k exp(...)`` of the module's formula."""
    responsibility: Float[np.ndarray, "g k"]
    """Probability of each cluster."""


def members(mixture: Mixture, t: Terms) -> Membership:
    """Probability of each cluster for each gene: ``p_k exp(x'Lc_k - ½ c_k'Lc_k)``, normalised."""
    c, h = mixture.centroids, half(mixture.centroids.shape[1])
    score = t.pull @ c.T
    score -= t.half @ (0.5 * h.twice * h.product(c, c)).T
    score += mixture.log_weight
    top = np.max(score, axis=1, keepdims=True)
    score -= top
    np.exp(score, out=score)
    total = np.sum(score, axis=1, keepdims=True)
    score /= total
    return Membership((top + np.log(total))[:, 0], score)


def value_gradient(
    theta: Float[np.ndarray, "m"], t: Terms, ridge: float = RIDGE
) -> tuple[float, Float[np.ndarray, "m"]]:
    """F and its gradient."""
    g, d = t.pull.shape
    mixture = of_vector(theta, d)
    c = mixture.centroids
    found = members(mixture, t)
    r = found.responsibility
    held = half(d).whole(r.T @ t.half, d)  # Σ_g r_gk L_g
    toward = r.T @ t.pull - (held @ c[:, :, None])[:, :, 0] - ridge * c
    odds = (np.sum(r, axis=0) - g * mixture.weight)[1:]
    value = -(np.sum(found.log_likelihood) - 0.5 * ridge * np.sum(c**2)) / g
    return float(value), -np.concatenate([toward.ravel(), odds]) / g


def hessian(
    theta: Float[np.ndarray, "m"], t: Terms, ridge: float = RIDGE
) -> Float[np.ndarray, "m m"]:
    """The Hessian of F.

    With ``z_gk = r_gk L_g (x_g - c_k)`` and ``z_g`` all of them beside ``r_g``, the sum over genes
    of ``z_g z_g'`` less, on the diagonal blocks, ``z_gk z_gk' / r_gk - r_gk L_g``.
    """
    g, d = t.pull.shape
    mixture = of_vector(theta, d)
    c, p = mixture.centroids, mixture.weight
    k, m = len(c), len(theta)
    r = members(mixture, t).responsibility
    whole = np.zeros((m, m))
    within = -half(d).whole(r.T @ t.half, d)
    linear = np.zeros((k, d))
    for rows in _parts(g, m):
        toward = t.pull[rows, None, :] - c @ t.observed.precision[rows]
        share = r[rows]
        stacked = np.empty((len(share), m))
        z = stacked[:, : k * d].reshape(len(share), k, d)
        np.multiply(toward, share[:, :, None], out=z)
        stacked[:, k * d :] = share[:, 1:]
        whole += stacked.T @ stacked
        within += z.transpose(1, 2, 0) @ toward.transpose(1, 0, 2)
        linear += np.sum(z, axis=0)
    number = np.sum(r, axis=0)
    blocks = whole[: k * d, : k * d].reshape(k, d, k, d)
    same = np.arange(k)
    blocks[same, :, same, :] -= within - ridge * np.eye(d)
    odds = np.diag(g * p - number) - g * np.outer(p, p)
    whole[k * d :, k * d :] += odds[1:, 1:]
    beside = whole[: k * d, k * d :].reshape(k, d, k - 1)
    beside[same[1:], :, same[1:] - 1] -= linear[1:]
    whole[k * d :, : k * d] = whole[: k * d, k * d :].T
    return whole / g


def _parts(rows: int, columns: int) -> Iterator[slice]:
    """Slices of rows such that rows × columns stays small."""
    size = max(1, PART // max(columns, 1))
    return (slice(first, min(first + size, rows)) for first in range(0, rows, size))


class Change(NamedTuple):
    """The derivative of estimates and precisions along one direction."""

    pull: Float[np.ndarray, "g d"]
    """``dL x + L dx``."""
    half: Float[np.ndarray, "g h"]
    """Upper half of ``dL``."""


def moved(
    theta: Float[np.ndarray, "m"], t: Terms, changes: Iterable[Change]
) -> Float[np.ndarray, "m q"]:
    """Derivative of the gradient of F along changes of estimates and precisions, a column each."""
    g, d = t.pull.shape
    mixture = of_vector(theta, d)
    c, h = mixture.centroids, half(d)
    r = members(mixture, t).responsibility
    squares = (0.5 * h.twice * h.product(c, c)).T
    columns = []
    for change in changes:
        score = change.pull @ c.T - change.half @ squares
        score -= np.sum(r * score, axis=1, keepdims=True)
        share = r * score
        held = h.whole(share.T @ t.half + r.T @ change.half, d)
        toward = share.T @ t.pull + r.T @ change.pull - (held @ c[:, :, None])[:, :, 0]
        columns.append(np.concatenate([toward.ravel(), np.sum(share, axis=0)[1:]]))
    return np.column_stack(columns) / -g


def closed(t: Terms, k: int, ridge: float = RIDGE) -> Closed:
    """F of genes, for Newton's method."""
    d = t.pull.shape[1]
    template = {"centroid": np.zeros((k, d)), "log_odds": np.zeros(k - 1)}
    return Closed(
        lambda theta: value_gradient(theta, t, ridge),
        lambda theta: hessian(theta, t, ridge),
        Flat(template, "mixture"),
    )
