"""Exact leave-one-out of a fitted analysis: the same estimating equations with a weight of 0.

Warm-started from the fit. What a sample's absence cannot change (see `influence.FROZEN`) stays, as
do numbers of samples in formulas, so that the derivatives of `influence` are those of what is
computed here.
"""

from enum import IntEnum
from typing import Any, NamedTuple

import numpy as np

from expressway._types import Bool, Float, Int
from expressway.core.boxed import Boxed
from expressway.core.cohort import Cohort, Pooled, rows_of
from expressway.core.solve import Status, solve

from . import nb, weights
from .deseq import DESeqFit, counts
from .influence import First, Part, first, means_of, mode, moves_of_all, parts, refuse_brought
from .influence import pipeline as pipeline_influence
from .means import BOX
from .trend import Trend
from .trend_moves import root, shifted


class Reason(IntEnum):
    """Why there is no exact number, or how it was found."""

    OK = 0
    NOT_ASKED = 1
    RANK = 2
    """Without the sample the design loses a column: a level has no samples left (of weight)."""
    NO_COUNTS = 3
    """Without the sample the gene has no counts."""
    NOT_CONVERGED = 4
    NO_TREND = 5
    """Without the sample no positive coefficients of the trend fit its genes."""


STUCK = (Status.NOT_CONVERGED, Status.NOT_FINITE)


class LeftOut(NamedTuple):
    """Change of each contrast when a sample is left out: without it less with it; natural log.

    NaN where ``reason`` is not OK.
    """

    estimate: Float[np.ndarray, "q n g"]
    se: Float[np.ndarray, "q n g"]
    stat: Float[np.ndarray, "q n g"]
    reason: Int[np.ndarray, "n g"]


def conditional(
    fit: DESeqFit,
    cohort: Cohort,
    contrasts: Float[np.ndarray, "q p"] | None = None,
    pairs: Bool[np.ndarray, "n g"] | None = None,
    weight: float = 0.0,
) -> LeftOut:
    """Exact changes with dispersions kept (see `influence.conditional`).

    Parameters
    ----------
    fit, cohort, contrasts
        As for `influence.conditional`.
    pairs
        Samples and genes wanted; all when not given.
    weight
        How often the sample counts instead of once.
    """
    wanted = np.eye(fit.gene.beta.shape[1]) if contrasts is None else np.asarray(contrasts, float)
    found = _nothing(len(wanted), fit)
    for part in parts(fit, cohort)[0]:
        for n in range(fit.samples):
            asked = np.ones(len(part.at), bool) if pairs is None else pairs[n, part.place]
            left = weighted(part.cohort, n, weight)
            some = _to_fit(part, left, n, np.flatnonzero(asked), found)
            if fit.weighted and len(some):
                fits = weights.full(left, part.at[some])
                found.reason[n, part.place[some[~fits]]] = Reason.RANK
                some = some[fits]
            if len(some):
                place = part.place[some]
                alpha = fit.gene.dispersion[place]
                end = coefficients(fit, left, part.at[some], place, alpha)
                before = _fitted(fit, place, wanted)
                _put(found, before, n, place, _tests(left, end, alpha, part.at[some], wanted))
    return found


def pipeline(
    fit: DESeqFit,
    cohort: Cohort,
    contrasts: Float[np.ndarray, "q p"] | None = None,
    pairs: Bool[np.ndarray, "n g"] | None = None,
    weight: float = 0.0,
) -> LeftOut:
    """Exact changes with dispersions and their trend fitted again (see `influence.pipeline`).

    Dispersions that do not move there stay here. All genes are fitted again for each sample wanted,
    as the trend comes from all; tests only of the genes wanted. A gene that is left without
    counts is left out of the trend. Changes are from the same equations with all samples.
    """
    wanted = np.eye(fit.gene.beta.shape[1]) if contrasts is None else np.asarray(contrasts, float)
    every, before = parts(fit, cohort)
    refuse_brought(fit, every[0].cohort)
    begin = first(fit, every[0].cohort, before)
    again = _Again(
        fit, begin, moves_of_all(fit, begin).settled, pipeline_influence(fit, cohort).held
    )
    found = _nothing(len(wanted), fit)
    of_fit = _of_all(again, begin.part.cohort)
    whole = [
        _tests(part.cohort, *_ends(again, of_fit, fit.trend, part), part.at, wanted)
        for part in every
    ]
    for n in range(fit.samples):
        asked = [p.place >= 0 if pairs is None else pairs[n, p.place] for p in every]
        if not any(np.any(a) for a in asked):
            continue
        start = moved = None
        for part, here, old in zip(every, asked, whole, strict=True):
            left = weighted(part.cohort, n, weight)
            some = _to_fit(part, left, n, np.flatnonzero(here), found)
            if len(some):
                if start is None:
                    rows = weighted(begin.part.cohort, n, weight)
                    start = _of_all(again, rows)
                    # The fit's own trend follows R's stopping rules: moved by the difference.
                    moved = shifted(fit.trend, start.coefficients - of_fit.coefficients)
                if moved is None:
                    found.reason[n, part.place[some]] = Reason.NO_TREND
                    continue
                new = Part(left, part.at[some], part.place[some])
                end = _tests(left, *_ends(again, start, moved, new), new.at, wanted)
                _put(found, _Tests(*(a[..., some] for a in old)), n, new.place, end)
    return found


class _Again(NamedTuple):
    """What pipeline refits have in common."""

    fit: DESeqFit
    begin: First
    settled: Bool[np.ndarray, "k"]
    """Gene-wise dispersions that move."""
    held: Bool[np.ndarray, "g"]
    """Genes whose last dispersion does not."""


class _Start(NamedTuple):
    """What was fitted from all genes."""

    weight: float
    """Of all samples together."""
    coefficients: Float[np.ndarray, "2"]
    """Of the trend (`trend_moves.root`)."""
    beta: Float[np.ndarray, "k p"]
    """Of the means, and the means of normalised counts: genes with their own counts."""
    center: Float[np.ndarray, "k"]


def _of_all(again: _Again, cohort: Pooled) -> _Start:
    """Gene-wise dispersions and trend from rows with other weights."""
    fit, begin = again.fit, again.begin
    weight = float(np.sum(cohort.rows.weight))
    counted = cohort.sum(counts, genes=begin.part.at).total > 0
    some = np.flatnonzero(counted)
    part = Part(cohort, begin.part.at[some], begin.part.place[some])
    means = means_of(fit, part, np.asarray(begin.means.beta)[some], weight)
    beta, mean, alpha = np.array(begin.means.beta), begin.mean.copy(), begin.alpha.copy()
    beta[some], mean[some] = means.beta, means.center
    free = np.flatnonzero(again.settled[some])
    none = np.zeros(len(free))
    at = Part(cohort, part.at[free], part.place[free])
    alpha[some[free]] = mode(fit, at, means.beta[free], alpha[some[free]], (none, none))
    a = root(fit.trend, begin.who[counted[begin.who]], mean, alpha)
    return _Start(weight, a, beta, mean)


def _ends(
    again: _Again, start: _Start, trend: Trend, part: Part
) -> tuple[nb.Coefficients, Float[np.ndarray, "k"]]:
    """Coefficients and dispersions of some genes, with the trend given."""
    fit, place = again.fit, part.place
    if np.any(fit.replaced[place]):
        means = means_of(fit, part, fit.gene.beta[place], start.weight)
        beta, center = means.beta, means.center
    else:
        own = np.searchsorted(again.begin.part.place, place)
        beta, center = start.beta[own], start.center[own]
    level = trend.at(center)
    precision = np.where(fit.gene.dispersion_outlier[place], 0.0, 1.0 / fit.prior_variance)
    alpha = fit.gene.dispersion[place].copy()
    free = np.flatnonzero(~again.held[place])
    at = Part(part.cohort, part.at[free], place[free])
    prior = (np.log(level)[free], precision[free])
    alpha[free] = mode(fit, at, beta[free], alpha[free], prior)
    return coefficients(fit, part.cohort, part.at, place, alpha), alpha


def weighted(cohort: Pooled, n: int, weight: float) -> Pooled:
    """The cohort with another weight of a sample."""
    whole = np.array(cohort.rows.weight, float)
    whole[n] = weight
    return Pooled(cohort.rows._replace(weight=whole))


def _to_fit(
    part: Part, left: Pooled, n: int, asked: Int[np.ndarray, "k"], found: LeftOut
) -> Int[np.ndarray, "m"]:
    """Which of the genes asked for can be fitted without a sample; reasons for the others."""
    if not len(asked):
        return asked
    x = np.asarray(left.rows.x)[np.asarray(left.rows.weight) > 0]
    if np.linalg.matrix_rank(x) < x.shape[1]:
        found.reason[n, part.place[asked]] = Reason.RANK
        return asked[:0]
    counted = left.sum(counts, genes=part.at[asked]).total > 0
    found.reason[n, part.place[asked]] = np.where(counted, Reason.OK, Reason.NO_COUNTS)
    return asked[counted]


def coefficients(
    fit: DESeqFit,
    left: Pooled,
    at: Int[np.ndarray, "k"],
    place: Int[np.ndarray, "k"],
    alpha: Float[np.ndarray, "k"],
) -> nb.Coefficients:
    """Coefficients of some genes without a sample, of the equation that each of them solves."""
    beta = fit.gene.beta[place].copy()
    boxed = fit.gene.boxed[place]
    status = np.zeros(len(place), dtype=int)
    easy, hard = np.flatnonzero(~boxed), np.flatnonzero(boxed)
    if len(easy):
        found = nb.coefficients(left, beta[easy], alpha[easy], at[easy])
        beta[easy], status[easy], boxed[easy] = found.beta, found.status, found.boxed
    if len(hard):
        solver, penalty = Boxed(bound=BOX), nb.ridge_likelihood
        again = solve(
            solver, nb.likelihood, beta[hard], alpha[hard], left, penalty=penalty, genes=at[hard]
        )
        beta[hard], status[hard] = again.theta, again.status
    return nb.Coefficients(beta, status, boxed)


class _Tests(NamedTuple):
    estimate: Float[np.ndarray, "q k"]
    se: Float[np.ndarray, "q k"]
    status: Int[np.ndarray, "k"]


def _tests(
    left: Pooled,
    end: nb.Coefficients,
    alpha: Float[np.ndarray, "k"],
    at: Int[np.ndarray, "k"],
    contrasts: Float[np.ndarray, "q p"],
) -> _Tests:
    spread = nb.covariance(left, end.beta, alpha, at).covariance
    return _Tests(contrasts @ end.beta.T, _errors(spread, contrasts), end.status)


def _fitted(
    fit: DESeqFit, place: Int[np.ndarray, "k"], contrasts: Float[np.ndarray, "q p"]
) -> _Tests:
    """The tests of all samples."""
    spread = rows_of(fit.gene.covariance, place)
    estimate = contrasts @ fit.gene.beta[place].T
    return _Tests(estimate, _errors(spread, contrasts), fit.gene.beta_status[place])


def _errors(covariance: Any, contrasts: Float[np.ndarray, "q p"]) -> Float[np.ndarray, "q k"]:
    """Standard errors of contrasts."""
    return np.sqrt(np.einsum("qi,kij,qj->qk", contrasts, covariance, contrasts, optimize=True))


def _nothing(contrasts: int, fit: DESeqFit) -> LeftOut:
    """Nothing found yet."""
    shape = (fit.samples, len(fit.gene.base_mean))
    empty = (np.full((contrasts, *shape), np.nan) for _ in range(3))
    return LeftOut(*empty, reason=np.full(shape, int(Reason.NOT_ASKED)))


def _put(
    found: LeftOut, before: _Tests, n: int, place: Int[np.ndarray, "k"], after: _Tests
) -> None:
    """Changes of some genes without a sample, in place."""
    stuck = np.isin(after.status, STUCK) | np.isin(before.status, STUCK)
    pairs = (
        (found.estimate, before.estimate, after.estimate),
        (found.se, before.se, after.se),
        (found.stat, before.estimate / before.se, after.estimate / after.se),
    )
    for whole, old, new in pairs:
        whole[:, n, place] = np.where(stuck, np.nan, new - old)
    found.reason[n, place[stuck]] = Reason.NOT_CONVERGED
