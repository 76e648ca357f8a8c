"""Expected negative-binomial log-likelihoods under normal uncertainty, by quadrature.

``y_gn ~ NB(mu, alpha)`` with ``log mu = offset_n + z_n'b_g``, ``a_g = log alpha_g`` (natural
logarithms), ``b_g ~ N(m, diag v)`` and ``a_g`` normal and independent. The linear predictor of a
sample is then normal, and each expectation is a Gauss-Hermite sum over it and ``a_g``.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import digamma, gammaln, zeta

from expressway._types import Float, Int
from expressway.core.threads import side_by_side

# Numbers of an array that stays in a core's cache.
CACHE = 40_000
# Nodes over the linear predictor, by its largest standard deviation, so that the expectation of its
# exponential has an error below 1e-5, and over log alpha.
NODES, NODES_ALPHA = ((0.3, 3), (0.8, 5), (np.inf, 9)), 3
# Log dispersions are followed from here, as of counts below 1e6 nobody can tell 1e-8 from 0, to
# where all but one count in 1e8 would be zero.
LEAST, MOST_ALPHA = float(np.log(1e-8)), 20.0
# And linear predictors up to here, before exponentials overflow.
MOST = 300.0


class Counts(NamedTuple):
    """Counts of genes, once as a table and once as how often each count occurs."""

    y: Float[np.ndarray, "g n"]
    offset: Float[np.ndarray, "n"]
    """Natural logarithm of size factors."""
    z: Float[np.ndarray, "n k"]
    """Design."""
    start: Int[np.ndarray, "_"]
    """Where each gene begins in the two below, and the end."""
    value: Float[np.ndarray, "u"]
    """Distinct counts of a gene above 0, one gene after the other."""
    times: Float[np.ndarray, "u"]
    constant: Float[np.ndarray, "g"]
    """``sum lgamma(y + 1)``."""


class Expected(NamedTuple):
    """Of the log-likelihood of each gene: expectation, and that of its derivatives.

    In (b, log alpha): c = k + 1.
    """

    value: Float[np.ndarray, "g"]
    gradient: Float[np.ndarray, "g c"]
    curvature: Float[np.ndarray, "g c c"]
    """Of minus the log-likelihood."""


def counts(
    y: Float[np.ndarray, "g n"], offset: Float[np.ndarray, "n"], z: Float[np.ndarray, "n k"]
) -> Counts:
    """With the distinct counts of every gene."""
    start, value, times = [0], [], []
    for row in y:
        own, often = np.unique(row[row > 0], return_counts=True)
        value.append(own)
        times.append(often.astype(float))
        start.append(start[-1] + len(own))
    flat = np.concatenate([np.zeros(0), *value])
    often = np.concatenate([np.zeros(0), *times])
    index = np.array(start)
    return Counts(y, offset, z, index, flat, often, _by_gene(index, often * gammaln(flat + 1.0)))


def _by_gene(start: np.ndarray, terms: np.ndarray) -> np.ndarray:
    """Sums of each gene's terms."""
    total = np.concatenate([np.zeros(1), np.cumsum(terms)])
    return total[start[1:]] - total[start[:-1]]


def expected(
    of: Counts, mean: Float[np.ndarray, "g c"], variance: Float[np.ndarray, "g c"]
) -> Expected:
    """Expectations under ``N(mean, diag variance)`` of each gene's (b, log alpha).

    The likelihood is ``sum_n lgamma(y + r) - lgamma(r) - lgamma(y + 1) + y u - (y + r) log(1 +
    e^u)``, with ``r = 1/alpha`` and ``u = log(alpha mu)``. With s the logistic function of u, its
    derivatives in log mu are ``y - (y + r) s`` and ``-(y + r) s (1 - s)``.
    """
    step = max(CACHE // of.y.shape[1], 1)
    size = of.z.shape[1]
    # Genes that know about as much as each other go together: they take as many nodes.
    sd = np.sqrt(variance[:, :size] @ np.max(of.z**2, axis=0))
    order = np.argsort(sd, kind="stable")
    parts = [order[first : first + step] for first in range(0, len(order), step)]
    squares = (of.z[:, :, None] * of.z[:, None, :]).reshape(len(of.z), -1)

    def part(genes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return _by_rows(of, squares, genes, mean[genes], variance[genes])

    back = np.argsort(order, kind="stable")
    found = [np.concatenate(each)[back] for each in zip(*side_by_side(part, parts), strict=True)]
    value, gradient, curvature = found
    matrix = curvature.reshape(-1, size + 1, size + 1)
    ratio = _gamma_ratio(of, mean[:, -1], variance[:, -1])
    value += ratio[0] - of.constant
    gradient[:, -1] += ratio[1]
    matrix[:, -1, -1] -= ratio[2]
    return Expected(value, gradient, matrix)


def some(of: Counts, genes: Int[np.ndarray, "m"]) -> Counts:
    """Of some genes."""
    places = [np.arange(int(of.start[g]), int(of.start[g + 1])) for g in genes]
    flat = np.concatenate([np.zeros(0, int), *places])
    start = np.concatenate([[0], np.cumsum([len(place) for place in places])]).astype(int)
    return of._replace(
        y=of.y[genes],
        start=start,
        value=of.value[flat],
        times=of.times[flat],
        constant=of.constant[genes],
    )


def _nodes(number: int) -> list[tuple[float, float]]:
    """Of a standard normal, with weights that sum to 1."""
    at, weight = np.polynomial.hermite_e.hermegauss(number)
    return list(zip(at.tolist(), (weight / weight.sum()).tolist(), strict=True))


def _by_rows(
    of: Counts,
    squares: Float[np.ndarray, "n _"],
    genes: Int[np.ndarray, "g"],
    mean: Float[np.ndarray, "g c"],
    variance: Float[np.ndarray, "g c"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All but gamma functions: expectation, gradient, curvature (flat)."""
    y, z = of.y[genes], of.z
    k = z.shape[1]
    eta = of.offset + mean[:, :k] @ z.T
    sd = np.sqrt(variance[:, :k] @ (z**2).T)
    most = float(np.max(sd, initial=0.0))
    nodes = _nodes(next(number for limit, number in NODES if most <= limit))
    zero = np.zeros_like(eta)
    value, slope, curve = zero, zero.copy(), zero.copy()
    slope_a, curve_a = np.zeros(len(y)), np.zeros(len(y))
    mixed = zero.copy()
    u, e, over = np.empty_like(eta), np.empty_like(eta), np.empty_like(eta)
    for at_a, share_a in _nodes(NODES_ALPHA):
        a = np.clip(mean[:, k] + at_a * np.sqrt(variance[:, k]), LEAST, MOST_ALPHA)[:, None]
        r = np.exp(-a)
        total = y + r
        for at, share in nodes:
            weight = share * share_a
            np.multiply(sd, at, out=u)
            u += eta
            u += a
            np.minimum(u, MOST, out=u)
            np.exp(u, out=e)
            np.add(e, 1.0, out=over)
            np.divide(e, over, out=over)  # s
            soft = np.log1p(e, out=e)
            reached = total * over
            bend = reached * (1.0 - over)
            value += weight * (y * u - total * soft)
            slope += weight * (y - reached)
            curve += weight * bend
            left = r * over
            mixed += weight * (bend - left)
            slope_a += weight * np.sum(y - reached + r * soft, axis=1)
            curve_a += weight * np.sum(bend - 2.0 * left + r * soft, axis=1)
    gradient = np.column_stack([slope @ z, slope_a])
    matrix = np.zeros((len(y), k + 1, k + 1))
    matrix[:, :k, :k] = (curve @ squares).reshape(-1, k, k)
    matrix[:, :k, k] = matrix[:, k, :k] = mixed @ z
    matrix[:, k, k] = curve_a
    return np.sum(value, axis=1), gradient, matrix.reshape(len(y), -1)


def _gamma_ratio(
    of: Counts, mean: Float[np.ndarray, "g"], variance: Float[np.ndarray, "g"]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Expectation of ``sum lgamma(y + r) - lgamma(r)`` and of its derivatives in log alpha."""
    number = np.diff(of.start)
    total, slope, curve = (np.zeros(len(mean)) for _ in range(3))
    for at, share in _nodes(NODES_ALPHA):
        r = np.exp(-np.clip(mean + at * np.sqrt(variance), LEAST, MOST_ALPHA))
        own = np.repeat(r, number)
        log = gammaln(of.value + own) - np.repeat(gammaln(r), number)
        first = own * (digamma(of.value + own) - np.repeat(digamma(r), number))
        second = own**2 * (zeta(2.0, of.value + own) - np.repeat(zeta(2.0, r), number))
        total += share * _by_gene(of.start, of.times * log)
        slope -= share * _by_gene(of.start, of.times * first)
        curve += share * _by_gene(of.start, of.times * (first + second))
    return total, slope, curve
