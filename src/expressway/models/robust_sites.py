"""Gaussian likelihoods of genes that know about wrong models and about uncertain pseudotimes.

The gene-wise optimum of ``theta = (b, log alpha)`` (natural logarithms) has covariance ``L⁻¹`` if
counts are negative binomial and times are known, L the observed information. Neither need be so.
What matters here is each sample's part of the gradient, its score ``s_n``, and how that moves with
the sample's time, ``d_n``: with ``log mu = offset_n + z_n'b`` and ``p = alpha mu``,

    in b:          ``s = r z``,  ``d = r z' - w e z``,  ``r = (y - mu) / (1 + p)``
    in log alpha:  ``s = r + [log(1 + p) - psi(y + 1/alpha) + psi(1/alpha)] / alpha``,
                   ``d = -r e p / (1 + p)``

where ``z'`` is the derivative of the row of the design in time, ``e = z'b`` and
``w = mu (1 + alpha y) / (1 + p)²``.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import digamma

from expressway._errors import InputError
from expressway._types import Bool, Float, Int
from expressway.core.threads import side_by_side

from .expected_counts import CACHE, LEAST, MOST, Counts
from .gene_clusters import DEFINITE
from .gene_mixtures import Sites

# Share of the model's variance below which no variance falls, in any direction: the least of a few
# noisy eigenvalues is far below what it estimates.
SHARE = 0.5
# Genes with a direction whose variance is below this share: too few samples say anything there,
# and counts that vary less than the model has it are not what was seen.
SINGULAR = 0.05


def sandwich(
    of: Counts,
    sites: Sites,
    at: Float[np.ndarray, "g c"],
    *,
    clusters: Int[np.ndarray, "n"] | None = None,
) -> Sites:
    """With the precision that estimates have whatever the distribution of counts, given the mean.

    The covariance is ``L⁻¹ B L⁻¹`` with ``B = n / (n - c) sum_n s_n s_n'`` over samples (White
    1982, Econometrica 50:1), c the coordinates with information. Of m clusters, scores are summed
    within each first, and the factor is ``m / (m - 1) (n - 1) / (n - c)`` (Cameron & Miller 2015,
    J. Human Resources 50:317, eq. 12 ff.), which is the other one if every sample is a cluster.

    In no direction is a variance below `SHARE` of the model's: eigenvalues of B relative to L are
    raised to that. If one is below `SINGULAR` (few samples with counts, few clusters), all of that
    gene's are raised to 1, the model's own.

    Parameters
    ----------
    of
        Counts.
    sites
        Gaussian likelihoods with the observed information at the optimum, from the gene-wise fits.
        Coordinates without information (zero rows: flat dispersions) stay so. Genes whose precision
        is otherwise not positive definite, or not finite, stay as they are.
    at
        The optimum (b, log alpha), around which the new likelihoods are.
    clusters
        Of each sample the number of the one it belongs to, in any order: samples of a donor are
        not independent.

    Raises
    ------
    InputError
        If there are no more samples than coordinates, or fewer than two clusters.
    """
    n, c = len(of.z), at.shape[1]
    if n <= c:
        msg = (
            f"{n} samples for {c} coordinates of each gene; their scatter says nothing about "
            "errors: give more samples, fewer functions of time, or take the model's errors"
        )
        raise InputError(msg)
    cut = None if clusters is None else _cut(clusters, n)

    def spread(genes: slice) -> np.ndarray:
        score = scores(_some(of, genes), at[genes])
        if cut is not None:
            score = np.add.reduceat(score[:, :, cut.order], cut.start, axis=2)
        return score @ score.swapaxes(1, 2)

    white = _white(sites.precision)
    own = n - np.sum(white.known, axis=1)
    factor = n / own if cut is None else (n - 1) / own * cut.number / (cut.number - 1)
    between = _finite(_by_genes(of, spread)) * factor[:, None, None]
    # Coordinates without information are left out: as if the model were right about them.
    between[~(white.known[:, :, None] & white.known[:, None, :])] = 0.0
    np.einsum("gaa->ga", between)[~white.known] = 1.0
    relative, axes = np.linalg.eigh(_both(white.inverse, between))
    few = relative[:, 0] < SINGULAR
    relative = np.maximum(relative, np.where(few, 1.0, SHARE)[:, None])
    return _replaced(sites, white, _both(white.root @ axes, 1.0 / relative), at, white.sure)


def displaced(
    of: Counts,
    sites: Sites,
    at: Float[np.ndarray, "g c"],
    errors: Sequence[tuple[Float[np.ndarray, "n K"], Float[np.ndarray, "n"]]],
    *,
    model: Sites | None = None,
) -> Sites:
    """With the variance that the uncertainty of pseudotimes adds to estimates.

    If the time of sample n moves by ``delta_n`` the optimum moves, to first order, by
    ``L⁻¹ sum_n d_n delta_n``; independent errors of standard deviation ``sd_n`` add the covariance
    ``L⁻¹ (sum_n sd_n² d_n d_n') L⁻¹``. That is noise only: times with large errors also make
    curves flatter, which no covariance tells.

    Scores of `sandwich` at times with errors scatter because of these, too: both together count
    independent errors twice.

    Parameters
    ----------
    of
        Counts.
    sites
        Gaussian likelihoods to be widened. Coordinates without information stay so; genes whose
        precision is otherwise not positive definite, or not finite, stay as they are, and so do
        those that errors do not move.
    at
        The optimum (b, log alpha), around which the new likelihoods are.
    errors
        For each lineage the derivatives of the rows of the design in its times, and the standard
        deviations of these, in the same unit of time.
    model
        Gaussian likelihoods with the observed information L, if it is not that of ``sites``.

    Raises
    ------
    InputError
        If derivatives are not those of the design's columns, or a standard deviation is negative
        or not finite.
    """
    for slopes, sd in errors:
        _refuse(of, slopes, sd)

    def spread(genes: slice) -> np.ndarray:
        some = _some(of, genes)
        total = np.zeros((len(some.y), at.shape[1], at.shape[1]))
        for slopes, sd in errors:
            moves = score_slopes(some, at[genes], slopes) * sd
            total += moves @ moves.swapaxes(1, 2)
        return total

    between = _finite(_by_genes(of, spread))
    white = _white(sites.precision)
    known = white if model is None else _white(model.precision)
    both = white.known & known.known
    between[~(both[:, :, None] & both[:, None, :])] = 0.0
    moved = white.sure & known.sure & np.any(between != 0, axis=(1, 2))
    # From the covariance of sites in units where it is 1: 1 + tau, with tau of the extra one.
    turn = known.inverse.swapaxes(1, 2) @ (known.inverse @ white.root)
    extra, axes = np.linalg.eigh(_both(turn.swapaxes(1, 2), between))
    share = 1.0 / (1.0 + np.maximum(extra, 0.0))
    return _replaced(sites, white, _both(white.root @ axes, share), at, moved)


def scores(of: Counts, at: Float[np.ndarray, "g c"]) -> Float[np.ndarray, "g c n"]:
    """Gradient of each sample's log-likelihood in (b, log alpha)."""
    here = _here(of, at)
    out = np.empty((*at.shape, of.y.shape[1]))
    np.multiply(here.rest[:, None], of.z.T, out=out[:, :-1])
    r = 1.0 / here.alpha
    last = np.log1p(here.load)
    some = of.y > 0
    size = np.broadcast_to(r, of.y.shape)[some]
    last[some] -= digamma(of.y[some] + size) - np.broadcast_to(digamma(r), of.y.shape)[some]
    last *= r
    np.add(last, here.rest, out=out[:, -1])
    return out


def score_slopes(
    of: Counts, at: Float[np.ndarray, "g c"], slopes: Float[np.ndarray, "n K"]
) -> Float[np.ndarray, "g c n"]:
    """Derivative of each sample's scores in its time, counts given.

    Parameters
    ----------
    of
        Counts.
    at
        Values (b, log alpha).
    slopes
        Derivatives of the rows of the design in time.
    """
    here = _here(of, at)
    out = np.empty((*at.shape, of.y.shape[1]))
    rise = at[:, :-1] @ slopes.T
    over = 1.0 / (1.0 + here.load)
    curve = here.mu * (1.0 + here.alpha * of.y) * over**2 * rise
    np.multiply(here.rest[:, None], slopes.T, out=out[:, :-1])
    out[:, :-1] -= curve[:, None] * of.z.T
    out[:, -1] = -here.rest * rise * here.load * over
    return out


class _Here(NamedTuple):
    """Of each gene and sample."""

    alpha: Float[np.ndarray, "g 1"]
    mu: Float[np.ndarray, "g n"]
    load: Float[np.ndarray, "g n"]
    """``alpha mu``."""
    rest: Float[np.ndarray, "g n"]
    """Derivative of the log-likelihood in log mu."""


def _here(of: Counts, at: Float[np.ndarray, "g c"]) -> _Here:
    alpha = np.exp(np.maximum(at[:, -1:], LEAST))
    mu = np.exp(np.minimum(of.offset + at[:, :-1] @ of.z.T, MOST))
    load = alpha * mu
    return _Here(alpha, mu, load, (of.y - mu) / (1.0 + load))


class _Cut(NamedTuple):
    """Samples by cluster."""

    order: Int[np.ndarray, "n"]
    start: Int[np.ndarray, "m"]
    """Where clusters begin in that order."""

    @property
    def number(self) -> int:
        return len(self.start)


def _cut(clusters: Int[np.ndarray, "_"], n: int) -> _Cut:
    if len(clusters) != n:
        msg = f"clusters of {len(clusters)} samples for counts of {n}; give each sample one"
        raise InputError(msg)
    order = np.argsort(clusters, kind="stable")
    _, start = np.unique(clusters[order], return_index=True)
    if len(start) < 2:
        msg = (
            f"all {n} samples are in one cluster; errors need at least two: leave clusters out if "
            "samples are independent"
        )
        raise InputError(msg)
    return _Cut(order, start)


def _refuse(of: Counts, slopes: Float[np.ndarray, "_ _"], sd: Float[np.ndarray, "_"]) -> None:
    """Raise for derivatives or standard deviations that cannot be."""
    n = len(of.z)
    wrong = np.flatnonzero(~(np.isfinite(sd) & (sd >= 0)))
    if slopes.shape != of.z.shape or len(sd) != n:
        msg = (
            f"derivatives of {slopes.shape[0]} samples in {slopes.shape[1]} columns, and "
            f"{len(sd)} standard deviations of times, for a design of {n} in {of.z.shape[1]}; give "
            "one derivative for each of its entries and one standard deviation for each sample"
        )
    elif len(wrong):
        msg = (
            f"standard deviation of pseudotime is negative or not finite for {len(wrong)} of {n} "
            f"samples, first for number {wrong[0] + 1}; give 0 where a time is known"
        )
    else:
        return
    raise InputError(msg)


def _some(of: Counts, genes: slice) -> Counts:
    """Counts of some genes as a table; how often they occur is not looked at here."""
    return of._replace(y=of.y[genes])


def _by_genes(of: Counts, spread: Callable[[slice], np.ndarray]) -> Float[np.ndarray, "g c c"]:
    """Matrices of all genes, portions of them side by side."""
    step = max(CACHE // len(of.z), 1)
    parts = [slice(first, first + step) for first in range(0, len(of.y), step)]
    c = of.z.shape[1] + 1
    return np.concatenate([np.zeros((0, c, c)), *side_by_side(spread, parts)])


def _finite(a: Float[np.ndarray, "g c c"]) -> Float[np.ndarray, "g c c"]:
    """With zeros for genes that have no values; they are not `sure` either."""
    return np.where(np.all(np.isfinite(a), axis=(1, 2), keepdims=True), a, 0.0)


class _White(NamedTuple):
    """Coordinates in which a precision is the identity: ``precision = root root'``."""

    known: Bool[np.ndarray, "g c"]
    """Coordinates with information; the others' are as if their precision were 1."""
    sure: Bool[np.ndarray, "g"]
    """Genes whose precision is positive definite in those; of the others it is the identity."""
    root: Float[np.ndarray, "g c c"]
    inverse: Float[np.ndarray, "g c c"]


def _white(precision: Float[np.ndarray, "g c c"]) -> _White:
    eye = np.eye(precision.shape[1])
    diagonal = np.einsum("gaa->ga", precision)
    known = diagonal > 0
    scale = np.sqrt(np.where(known, diagonal, 1.0))
    alike = precision / (scale[:, :, None] * scale[:, None, :])
    alike[~(known[:, :, None] & known[:, None, :])] = 0.0
    np.einsum("gaa->ga", alike)[:] = 1.0
    finite = np.all(np.isfinite(precision), axis=(1, 2))
    alike[~finite] = eye
    value, axes = np.linalg.eigh(alike)
    sure = finite & (value[:, 0] >= DEFINITE)
    value[~sure], axes[~sure] = 1.0, eye
    scale[~sure] = 1.0
    size = np.sqrt(value)[:, None]
    return _White(
        known,
        sure,
        scale[:, :, None] * axes * size,
        (axes / size / scale[:, :, None]).swapaxes(1, 2),
    )


def _both(a: Float[np.ndarray, "g c c"], b: Float[np.ndarray, "g ..."]) -> np.ndarray:
    """``a b a'``, where b may be the diagonal alone; symmetric to the last digit."""
    found = (a * b[:, None] if b.ndim == 2 else a @ b) @ a.swapaxes(1, 2)
    return 0.5 * (found + found.swapaxes(1, 2))


def _replaced(
    sites: Sites,
    white: _White,
    precision: Float[np.ndarray, "g c c"],
    at: Float[np.ndarray, "g c"],
    which: Bool[np.ndarray, "g"],
) -> Sites:
    """Some genes with other precisions, around the optimum; none where nothing is known."""
    precision[~(white.known[:, :, None] & white.known[:, None, :])] = 0.0
    field = np.einsum("gab,gb->ga", precision, np.where(white.known, at, 0.0))
    return Sites(
        np.where(which[:, None], field, sites.field),
        np.where(which[:, None, None], precision, sites.precision),
    )
