"""What each sample says about moving moments: its expected log-likelihood's derivative.

The Gaussian likelihoods of a gene (`gene_clusters`) are sums over samples n of weights w_n (1)
times ``dL_n = -E d²l_n`` and ``dh_n = E dl_n + dL_n m`` around the posterior mean m. Where its mean
moves by ``dm`` and its covariance by ``dV``, a quantity that answers to the field by ``dm`` and to
the precision by ``-(dV + dm m' + m dm') / 2`` has the derivative in w_n

    sum_g dm_g'E dl_gn - tr(dL_gn dV_g) / 2.

The expectations are those of `expected_counts`, sample by sample.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import digamma, zeta

from expressway._types import Bool, Float

from .expected_counts import LEAST, MOST, MOST_ALPHA, NODES, NODES_ALPHA, Counts

# Nodes for every gene, as for those that know least.
MANY = NODES[-1][1]


class Terms(NamedTuple):
    """Expected derivatives of each sample's log-likelihood in its log mean and log dispersion."""

    slope: Float[np.ndarray, "g n"]
    slope_alpha: Float[np.ndarray, "g n"]
    bend: Float[np.ndarray, "g n"]
    """Of minus it, second ones: in the log mean."""
    mixed: Float[np.ndarray, "g n"]
    bend_alpha: Float[np.ndarray, "g n"]


def _nodes(number: int) -> tuple[np.ndarray, np.ndarray]:
    at, weight = np.polynomial.hermite_e.hermegauss(number)
    return at, weight / np.sum(weight)


def terms(
    of: Counts, genes: slice, mean: Float[np.ndarray, "g c"], variance: Float[np.ndarray, "g c"]
) -> Terms:
    """Of some genes, under ``N(mean, diag variance)`` of their values; formulas of `expected`."""
    y, k = of.y[genes], of.z.shape[1]
    eta = of.offset + mean[:, :k] @ of.z.T
    sd = np.sqrt(variance[:, :k] @ (of.z**2).T)
    found = Terms(*(np.zeros_like(eta) for _ in Terms._fields))
    for at_a, share_a in zip(*_nodes(NODES_ALPHA), strict=True):
        a = np.clip(mean[:, k] + at_a * np.sqrt(variance[:, k]), LEAST, MOST_ALPHA)
        first, second = _ratio(of, genes, np.exp(-a))
        found.slope_alpha[:] -= share_a * first
        found.bend_alpha[:] -= share_a * (first + second)
        r = np.exp(-a)[:, None]
        total = y + r
        for at, share in zip(*_nodes(MANY), strict=True):
            weight = share * share_a
            u = np.minimum(eta + at * sd + a[:, None], MOST)
            e = np.exp(u)
            over, soft = e / (1.0 + e), np.log1p(e)
            reached = total * over
            bend = reached * (1.0 - over)
            found.slope[:] += weight * (y - reached)
            found.bend[:] += weight * bend
            found.mixed[:] += weight * (bend - r * over)
            found.slope_alpha[:] += weight * (y - reached + r * soft)
            found.bend_alpha[:] += weight * (bend - 2.0 * r * over + r * soft)
    return found


def _ratio(
    of: Counts, genes: slice, r: Float[np.ndarray, "g"]
) -> tuple[Float[np.ndarray, "g n"], Float[np.ndarray, "g n"]]:
    """``r (digamma(y + r) - digamma(r))`` and ``r² (trigamma(y + r) - trigamma(r))``.

    Once for each of a gene's distinct counts.
    """
    y = of.y[genes]
    start = of.start[genes.start : genes.start + len(y) + 1]
    value = of.value[start[0] : start[-1]]
    own = np.repeat(r, np.diff(start))
    number = np.repeat(np.arange(len(y)), np.diff(start))
    first = own * (digamma(value + own) - digamma(r)[number])
    second = own**2 * (zeta(2.0, value + own) - zeta(2.0, r)[number])
    slope, bend = np.zeros_like(y), np.zeros_like(y)
    for i, row in enumerate(y):
        mine = slice(start[i] - start[0], start[i + 1] - start[0])
        seen = row > 0
        at = np.searchsorted(value[mine], row[seen])
        slope[i, seen], bend[i, seen] = first[mine][at], second[mine][at]
    return slope, bend


def derivatives(
    of: Terms,
    z: Float[np.ndarray, "n k"],
    free: Bool[np.ndarray, "g"],
    mean: Float[np.ndarray, "o g c"],
    spread: dict[tuple[int, int], Float[np.ndarray, "o g"]],
) -> Float[np.ndarray, "o n"]:
    """Derivatives in the weight of each sample of some quantities, by some genes.

    Parameters
    ----------
    of
        The samples' terms.
    z
        Design.
    free
        Genes whose precision of log dispersion is that of their counts.
    mean
        How the genes' means move for each quantity: k coefficients and log dispersion.
    spread
        And entries (a, b), a <= b, of their covariances.
    """
    k = z.shape[1]
    total = mean[:, :, k] @ of.slope_alpha
    for i in range(k):
        total += (mean[:, :, i] @ of.slope) * z[:, i]
    for (a, b), moved in spread.items():
        half = 0.5 if a == b else 1.0
        if a < k and b < k:
            total -= half * (moved @ of.bend) * z[:, a] * z[:, b]
        elif a < k:
            total -= half * ((moved * free) @ of.mixed) * z[:, a]
        else:
            total -= half * ((moved * free) @ of.bend_alpha)
    return total
