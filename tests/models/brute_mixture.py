"""Mixtures from their definition: every term of the bound written out; shares no code with it.

Also random genes with Gaussian likelihoods.
"""

from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.special import digamma, gammaln, xlogy

from expressway.models.dirichlet import Base, Components, Seen
from expressway.models.gene_mixtures import Sites


class Labelled(NamedTuple):
    """``q(z = j) = r[g, j]``, ``q(x | z = j)`` normal."""

    r: np.ndarray
    mean: np.ndarray
    """g j d."""
    covariance: np.ndarray
    """g j d d."""


def log_sticks(q: Components) -> np.ndarray:
    """``E log pi``, stick by stick."""
    own = digamma(q.taken) - digamma(q.taken + q.left)
    rest = digamma(q.left) - digamma(q.taken + q.left)
    return np.array([(own[j] if j < len(own) else 0.0) + sum(rest[:j]) for j in range(len(q.mean))])


def best(q: Components, seen: Seen, active: np.ndarray | None = None) -> Labelled:
    """The best q(x, z) for given components: Bayes's rule, a gene and component at a time."""
    g, (j, d) = len(seen.weight), q.mean.shape
    log = np.zeros((g, j))
    mean, covariance = np.zeros((g, j, d)), np.zeros((g, j, d, d))
    pi = log_sticks(q)
    for a in range(g):
        for b in range(j):
            s = q.shape[b] / q.rate[b]
            precision = seen.precision[:, :, a] + np.diag(s)
            h = seen.field[:, a] + s * q.mean[b]
            covariance[a, b] = np.linalg.inv(precision)
            mean[a, b] = covariance[a, b] @ h
            log[a, b] = pi[b] - 0.5 * np.linalg.slogdet(precision)[1] + 0.5 * h @ mean[a, b]
            log_s = digamma(q.shape[b]) - np.log(q.rate[b])
            log[a, b] += 0.5 * np.sum(log_s - s * (q.mean[b] ** 2 + q.variance[b]))
    if active is not None:
        log[:, np.setdiff1d(np.arange(j), active)] = -np.inf
    r = np.exp(log - log.max(axis=1, keepdims=True))
    return Labelled(r / r.sum(axis=1, keepdims=True), mean, covariance)


def likelihood(of: Labelled, seen: Seen) -> float:
    """``E sum_g f'x - x'Lx / 2``."""
    total = 0.0
    for g, r in enumerate(of.r):
        precision = seen.precision[:, :, g]
        for j, share in enumerate(r):
            m, v = of.mean[g, j], of.covariance[g, j]
            square = m @ precision @ m + np.trace(precision @ v)
            total += share * (seen.field[:, g] @ m - 0.5 * square)
    return float(total)


def labels(of: Labelled, q: Components) -> float:
    """``E log p(x, z | components) - log q(x, z)``."""
    pi = log_sticks(q)
    total = 0.0
    for g, r in enumerate(of.r):
        total -= float(np.sum(xlogy(r, r)))
        for j, share in enumerate(r):
            m, v = of.mean[g, j], of.covariance[g, j]
            total += share * (pi[j] + stats.multivariate_normal(m, v).entropy())
            s = q.shape[j] / q.rate[j]
            log_s = digamma(q.shape[j]) - np.log(q.rate[j])
            off = (m - q.mean[j]) ** 2 + np.diag(v) + q.variance[j]
            total += share * 0.5 * np.sum(log_s - np.log(2 * np.pi) - s * off)
    return float(total)


def components_part(q: Components, base: Base) -> float:
    """``E log p - log q`` of means, precisions, sticks and concentration."""
    c_shape, c_rate = q.concentration
    c, log_c = c_shape / c_rate, digamma(c_shape) - np.log(c_rate)
    a, b = base.concentration
    total = stats.gamma(c_shape, scale=1 / c_rate).entropy()
    total += a * np.log(b) - gammaln(a) + (a - 1) * log_c - b * c
    for taken, left in zip(q.taken, q.left, strict=True):
        total += stats.beta(taken, left).entropy()
        total += log_c + (c - 1) * (digamma(left) - digamma(taken + left))
    for j in range(len(q.mean)):
        for k in range(q.mean.shape[1]):
            m, v = q.mean[j, k], q.variance[j, k]
            total += stats.norm(m, np.sqrt(v)).entropy()
            total += 0.5 * np.log(base.precision[k] / (2 * np.pi))
            total -= 0.5 * base.precision[k] * ((m - base.mean[k]) ** 2 + v)
            shape, rate = q.shape[j, k], q.rate[j, k]
            s, log_s = shape / rate, digamma(shape) - np.log(rate)
            total += stats.gamma(shape, scale=1 / rate).entropy()
            total += base.shape[k] * np.log(base.rate[k]) - gammaln(base.shape[k])
            total += (base.shape[k] - 1) * log_s - base.rate[k] * s
    return float(total)


def bound(of: Labelled, q: Components, seen: Seen, base: Base) -> float:
    """``E log p - log q`` of everything, one mixture."""
    return likelihood(of, seen) + labels(of, q) + components_part(q, base)


def precisions(g: int, d: int, rng: np.random.Generator, none: float = 0.15) -> np.ndarray:
    """Of errors that differ between genes and are correlated; zero for a share of them."""
    half = rng.normal(size=(g, d, d)) + 1.5 * np.eye(d)
    found = half @ half.swapaxes(1, 2) * np.exp(2.0 * rng.normal(size=(g, 1, 1)) + 2.0)
    found[rng.random(g) < none] = 0.0
    return found


def sites(g: int, p: int, rng: np.random.Generator) -> Sites:
    """Genes around a few places in every coordinate."""
    place = rng.normal(size=(3, p)) * np.exp(rng.normal(size=p))
    x = place[rng.integers(3, size=(g, p)), np.arange(p)] + 0.1 * rng.normal(size=(g, p))
    precision = precisions(g, p, rng)
    noise = np.einsum("gab,gb->ga", _roots(precision), rng.normal(size=(g, p)))
    return Sites(np.einsum("gab,gb->ga", precision, x) + noise, precision)


def seen(g: int, d: int, rng: np.random.Generator) -> Seen:
    """The same, as one block sees it."""
    made = sites(g, d, rng)
    return Seen(
        np.ascontiguousarray(made.field.T),
        np.ascontiguousarray(made.precision.transpose(1, 2, 0)),
        np.ones(g),
    )


def _roots(precision: np.ndarray) -> np.ndarray:
    value, vector = np.linalg.eigh(precision)
    return vector * np.sqrt(np.maximum(value, 0.0))[:, None, :]


def some_base(d: int, rng: np.random.Generator, truncation: int) -> Base:
    """A prior of no symmetry."""
    return Base(
        truncation,
        (float(rng.uniform(0.5, 3)), float(rng.uniform(0.5, 3))),
        rng.normal(size=d),
        rng.uniform(0.1, 2.0, d),
        rng.uniform(0.7, 3.0, d),
        rng.uniform(0.02, 0.5, d),
    )


def one_coordinate(estimate: np.ndarray, error: np.ndarray) -> Sites:
    """From estimates of one coordinate and standard errors."""
    return Sites((estimate / error**2)[:, None], (1 / error**2)[:, None, None])


def rand_index(a: np.ndarray, b: np.ndarray) -> float:
    """Adjusted for chance (Hubert & Arabie 1985)."""
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1.0)

    def pairs(n: np.ndarray) -> float:
        return float(np.sum(n * (n - 1) / 2))

    both, one, two = pairs(table), pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    by_chance = one * two / pairs(np.array([len(a)]))
    most = 0.5 * (one + two)
    return 1.0 if most == by_chance else (both - by_chance) / (most - by_chance)
