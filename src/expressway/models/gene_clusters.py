"""Mixtures over coefficients of counts: Gaussian likelihoods, refreshed around the posterior.

The negative-binomial likelihood of a gene's values ``(b, log alpha)`` is first its Gaussian
approximation at the gene-wise optimum, and the mixtures are found from that (`gene_mixtures`). Then
the approximation is made again around the posterior, ``L = -E d²l``, ``h = E dl + L E x``: where
that no longer changes, the lower bound with the negative-binomial likelihood itself is stationary
in each gene's normal moments (Khan & Lin 2017, AISTATS: conjugate-computation variational
inference; the expectations of Opper & Archambeau 2009). That bound is by quadrature, a gene's
posterior taken as the normal of the same moments; it decides when to stop.
"""

from typing import NamedTuple

import numpy as np

from expressway._types import Float

from .dirichlet import Prior
from .expected_counts import Counts, Expected, expected, some
from .gene_mixtures import Mixtures, Sites, Starts, fit

# Rounds of refreshing, at most, and how often one is repeated with shorter steps.
ROUNDS, SHORTER = 12, 4
# Nats a gene that a round must bring for another to follow.
ENOUGH = 1e-4
# And below this, splits and merges are tried again.
SETTLED = 1e-2
# Shifts of means, in standard deviations, and relative ones of variances, after which expectations
# are computed again: the third order of a Taylor series is then below 1e-5 nats a gene.
NEAR = 0.02
# Precision of a log dispersion whose likelihood is not concave there; the mixture holds it.
FLAT = 1e-2
# Smallest eigenvalue, of a matrix with a diagonal of ones, below which precisions are no precision.
DEFINITE = 1e-8


class Clustered(NamedTuple):
    """Mixtures, the Gaussian likelihoods that they were found from, and the bounds."""

    sites: Sites
    mixtures: Mixtures
    bounds: tuple[tuple[str, float, float], ...]
    """Events: bound of the Gaussian likelihoods, and that of the counts (NaN where it was not
    computed). The first is comparable between one refresh and the next."""
    two_step: Mixtures
    """Those found before any refresh."""


def definite(sites: Sites) -> Sites:
    """With precisions that are positive definite.

    Where one is not, its log dispersion (last) is taken as independent of the coefficients, of
    which the observed information always is.
    """
    precision = sites.precision.copy()
    corner = precision[:, -1, -1]
    diagonal = np.einsum("gaa->ga", precision)
    scale = 1.0 / np.sqrt(np.maximum(diagonal, 1e-300))
    alike = precision * scale[:, :, None] * scale[:, None, :]
    alike = np.where(np.isfinite(alike), alike, 0.0)
    bad = (corner < FLAT) | (np.linalg.eigvalsh(alike)[:, 0] < DEFINITE)
    precision[bad, -1, :-1] = precision[bad, :-1, -1] = 0.0
    precision[bad, -1, -1] = np.maximum(corner[bad], FLAT)
    return sites._replace(precision=precision)


def refreshed(at: Expected, mean: Float[np.ndarray, "g c"]) -> Sites:
    """Gaussian likelihoods from expected derivatives around a posterior mean."""
    made = definite(Sites(at.gradient, at.curvature))
    field = at.gradient + np.einsum("gac,gc->ga", made.precision, mean)
    return Sites(field, made.precision)


def cluster(
    of: Counts | None,
    sites: Sites,
    blocks: tuple[tuple[int, ...], ...],
    priors: tuple[Prior, ...],
    *,
    start: Starts,
    rounds: int = ROUNDS,
) -> Clustered:
    """Mixtures of all blocks.

    Parameters
    ----------
    of
        Counts, for refreshing; None for the two steps alone.
    sites
        Gaussian likelihoods from the gene-wise fits.
    blocks, priors, start
        As for `gene_mixtures.fit`.
    rounds
        Of refreshing, at most.
    """
    found = first = fit(sites, blocks, priors, start=start)
    told = [(kind, value, np.nan) for kind, value in found.trace]
    if of is None or not rounds:
        return Clustered(sites, found, tuple(told), first)
    around = Around(found.mean, found.variance, expected(of, found.mean, found.variance))
    at = around.at
    own = at.value + found.inner()
    bound = float(np.sum(own)) - found.divergence()
    told[-1] = (*told[-1][:2], bound)
    pace = np.ones(len(own))
    moves = False
    for _ in range(rounds):
        toward = refreshed(at, found.mean)
        for _ in range(SHORTER):
            next_sites = _between(sites, toward, pace)
            trial = fit(next_sites, blocks, priors, start=start, warm=found, moves=moves)
            ahead, there = _followed(of, around, trial)
            trial_own = there.value + trial.inner()
            trial_bound = float(np.sum(trial_own)) - trial.divergence()
            if trial_bound > bound:
                break
            pace = np.where(trial_own >= own, pace, 0.5 * pace)
        else:
            if moves:
                break
            moves = True
            continue
        rise = trial_bound - bound
        told += [
            ("refresh" if i == 0 else kind, value, np.nan)
            for i, (kind, value) in enumerate(trial.trace)
        ]
        told[-1] = (*told[-1][:2], trial_bound)
        sites, found, at, own, bound = next_sites, trial, there, trial_own, trial_bound
        around = ahead
        pace = np.minimum(1.0, 2.0 * pace)
        if rise < ENOUGH * len(own) and moves:
            break
        # Moves are dear: they are tried once the likelihoods have settled.
        moves = rise < SETTLED * len(own)
    return Clustered(sites, found, tuple(told), first)


class Around(NamedTuple):
    """Expectations of each gene, and the moments around which they were last computed."""

    mean: Float[np.ndarray, "g c"]
    variance: Float[np.ndarray, "g c"]
    at: Expected


def _followed(of: Counts, around: Around, to: Mixtures) -> tuple[Around, Expected]:
    """Expectations at other moments: by quadrature where these moved, else by their Taylor series.

    ``E' = E + g'd - (d'Ld + sum L_cc dv_c) / 2`` for shifts d of means and dv of variances: with
    those below `NEAR` its error is of third order in them.
    """
    shift = to.mean - around.mean
    grown = to.variance / around.variance - 1.0
    far = np.any(np.abs(shift) > NEAR * np.sqrt(around.variance), axis=1)
    far |= np.any(np.abs(grown) > NEAR, axis=1)
    old = around.at
    bent = np.einsum("gab,gb->ga", old.curvature, shift)
    own = np.einsum("gaa->ga", old.curvature)
    value = old.value + np.sum((old.gradient - 0.5 * bent) * shift, axis=1)
    value -= 0.5 * np.sum(own * (to.variance - around.variance), axis=1)
    gradient, curvature = old.gradient - bent, old.curvature.copy()
    places = np.flatnonzero(far)
    mean, variance = around.mean.copy(), around.variance.copy()
    kept = Expected(old.value.copy(), old.gradient.copy(), old.curvature.copy())
    if len(places):
        new = expected(some(of, places), to.mean[places], to.variance[places])
        mean[places], variance[places] = to.mean[places], to.variance[places]
        value[places], gradient[places], curvature[places] = new
        kept.value[places], kept.gradient[places], kept.curvature[places] = new
    return Around(mean, variance, kept), Expected(value, gradient, curvature)


def _between(old: Sites, new: Sites, share: Float[np.ndarray, "g"]) -> Sites:
    """From one to the other, each gene by its share."""
    a, b = share[:, None], share[:, None, None]
    return Sites(
        old.field + a * (new.field - old.field),
        old.precision + b * (new.precision - old.precision),
    )
