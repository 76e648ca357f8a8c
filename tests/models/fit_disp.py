"""DESeq2's ascent of one gene's log dispersion, in plain Python on the exact profile.

Transcribed from DESeq2 1.38 ``src/DESeq2.cpp`` (fitDisp, fitDispGrid) and ``R/core.R``
(estimateDispersionsGeneEst); shares no code with the package.
"""

import math
from typing import NamedTuple

import numpy as np


class Gene(NamedTuple):
    """What the profile of one gene is made of."""

    y: np.ndarray
    mu: np.ndarray
    x: np.ndarray
    prior: tuple[float, float] | None = None
    """Mean and variance of log dispersion."""


class Stop(NamedTuple):
    """Where the ascent ended; ``steps`` is R's dispGeneIter or dispIter."""

    a: float
    steps: int
    first: float
    last: float


def posterior(a: float, gene: Gene) -> float:
    """Log posterior at log dispersion a, up to a constant."""
    alpha = math.exp(a)
    w = 1 / (1 / gene.mu + alpha)
    total = -0.5 * np.linalg.slogdet((gene.x.T * w) @ gene.x)[1]
    # lgamma(y + r) - lgamma(r) - y log r, r = 1 / alpha, without cancellation.
    total += sum(np.log1p(alpha * np.arange(count)).sum() for count in gene.y)
    total -= np.sum((gene.y + 1 / alpha) * np.log1p(alpha * gene.mu))
    if gene.prior:
        total -= (a - gene.prior[0]) ** 2 / (2 * gene.prior[1])
    return float(total)


def slope(a: float, gene: Gene) -> float:
    """Derivative of `posterior`."""
    alpha = math.exp(a)
    w = 1 / (1 / gene.mu + alpha)
    normal, change = (gene.x.T * w) @ gene.x, (gene.x.T * (-alpha * w**2)) @ gene.x
    total = -0.5 * np.trace(np.linalg.solve(normal, change))
    for count in gene.y:
        k = alpha * np.arange(count)
        total += np.sum(k / (1 + k))
    share = alpha * gene.mu / (1 + alpha * gene.mu)
    total += np.sum(np.log1p(alpha * gene.mu) / alpha - (gene.y + 1 / alpha) * share)
    if gene.prior:
        total -= (a - gene.prior[0]) / gene.prior[1]
    return float(total)


def ascend(a: float, gene: Gene, lowest: float) -> Stop:
    """The fitDisp loop."""
    lp, dlp, kappa, accepted = posterior(a, gene), slope(a, gene), 1.0, 0
    first, steps = lp, 0
    while steps < 100:
        steps += 1
        if a + kappa * dlp < -30:
            kappa = (-30 - a) / dlp
        if a + kappa * dlp > 10:
            kappa = (10 - a) / dlp
        proposed = posterior(a + kappa * dlp, gene)
        if -proposed > -lp - kappa * 1e-4 * dlp**2:
            kappa /= 2
            continue
        accepted += 1
        a, change, lp = a + kappa * dlp, proposed - lp, proposed
        if change < 1e-6 or a < lowest:
            break
        dlp = slope(a, gene)
        kappa = min(kappa * 1.1, 1.0)
        if accepted % 5 == 0:
            kappa /= 2
    return Stop(a, steps, first, lp)


def grid(gene: Gene, lower: float, upper: float) -> float:
    """The log dispersion of fitDispGrid."""
    coarse = np.linspace(lower, upper, 20)
    best = coarse[np.argmax([posterior(a, gene) for a in coarse])]
    delta = coarse[1] - coarse[0]
    fine = np.linspace(best - delta, best + delta, 20)
    return float(fine[np.argmax([posterior(a, gene) for a in fine])])


def gene_wise(alpha: float, gene: Gene, highest: float) -> float:
    """The dispersion that estimateDispersionsGeneEst reports, from its start."""
    stop = ascend(math.log(alpha), gene, math.log(1e-9))
    found = min(math.exp(stop.a), highest)
    if stop.last < stop.first + abs(stop.first) / 1e6:
        found = alpha
    if stop.steps in (1, 100) and found > 1e-7:
        found = math.exp(grid(gene, math.log(1e-8), math.log(highest)))
    return min(max(found, 1e-8), highest)
