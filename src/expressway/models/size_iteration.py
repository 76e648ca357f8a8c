"""Size factors by maximum likelihood, iterated with dispersions (DESeq2's ``type = "iterate"``).

Of data in which every gene has a zero somewhere. In turn: dispersions of a design of one level at
the size factors s, with their mean as trend; then the s that maximise the likelihood of the 95 %
of the genes that fit best, genes' levels and dispersions kept, of geometric mean 1. Source: DESeq2
1.38 ``R/methods.R`` (estimateSizeFactorsIterate), whose optimiser (L-BFGS-B on differences) stops
some 1e-6 away from the maximum; here it is the maximum.

Samples meet in one number only: with the mean of ``u = log s`` held at 0, every sample's derivative
of its own part of the likelihood is the same multiplier.
"""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.scipy.special import gammaln

from expressway._errors import InputError
from expressway._types import Array, Float, Int
from expressway.core.cohort import Cohort, Samples
from expressway.core.linear import weighted_sum
from expressway.core.order import Groups
from expressway.core.special import gamma_ratio, log1p

from . import dispersion, trend
from .genes import gene_wise
from .means import MIN_MU
from .size_factors import centred, log_sizes
from .weights import unweighted

# R/methods.R, estimateSizeFactorsIterate: niter, Q, and the change that ends it.
_ROUNDS, _LEFT_OUT, _CHANGE = 10, 0.05, 1e-4
# Changes of the set of genes; each raises the likelihood, so that there are few.
_SETS = 50
# Steps of a sample's Newton iteration; the mean of u at which the multiplier is found.
_STEPS, _ROUNDING = 100, 1e-13


class Step(NamedTuple):
    """One maximisation over size factors, as every sample needs to know it."""

    genes: Int[np.ndarray, "k"]
    """The genes of which the likelihood is."""
    level: Float[np.ndarray, "k"]
    """Means of their normalised counts."""
    alpha: Float[np.ndarray, "k"]
    multiplier: float
    """What the derivative of each sample's log-likelihood is at its size factor."""


def begun(s: Samples) -> dict[str, Array]:
    """The rows with size factors of 1."""
    return {"offset": np.zeros((s.y.shape[0], 1))}


def anchored(s: Samples) -> dict[str, Array]:
    """The rows with their size factors as observation weights: where the next step begins.

    Weights are not looked at in a step, and are taken off in the end.
    """
    return {"precision": np.exp(s.offset)}


def one_level(s: Samples) -> dict[str, Array]:
    """The rows in a design of one level, without weights."""
    column = np.ones((s.y.shape[0], 1))
    return {"x": column, "precision": column}


class LogLikelihood(NamedTuple):
    """Log-likelihood of each gene, summed over rows."""

    value: Float[Array, "g"]


def log_likelihood(level: Float[Array, "g"], alpha: Float[Array, "g"], s: Samples) -> LogLikelihood:
    """Log-likelihood at size factors, natural log, with nothing left away.

    Means are size factors times levels; these are raised so that at the size factors that the step
    began with (`anchored`) no mean is below .5.
    """
    r = 1.0 / alpha
    floor = MIN_MU / _anchor(s)
    mean = jnp.exp(s.offset) * jnp.maximum(level[None], floor)
    weight = s.weight[:, None]
    load = alpha[None] * mean
    rest = s.y * jnp.log(mean / (1.0 + load)) - r[None] * log1p(load) - gammaln(s.y + 1.0)
    return LogLikelihood(gamma_ratio(s.y, r, weight).log + weighted_sum(weight, rest))


def _anchor(s: Samples) -> Float[Array, "n 1"]:
    """Size factors that the step began with; 1 of rows of padding."""
    return jnp.where(s.precision > 0, s.precision, 1.0)


class Change(NamedTuple):
    """Squared changes of log size factors, summed over rows."""

    square: Float[Array, "g"]


def change(s: Samples) -> Change:
    """Squared changes since the step began; the same for every gene."""
    square = s.weight[:, None] * (s.offset - jnp.log(_anchor(s))) ** 2
    return Change(jnp.sum(jnp.broadcast_to(square, s.y.shape), axis=0))


def sized(
    genes: Int[np.ndarray, "k"],
    level: Float[np.ndarray, "k"],
    alpha: Float[np.ndarray, "k"],
    multiplier: float,
    s: Samples,
) -> dict[str, Array]:
    """Offsets u of each row, at which the derivative of its log-likelihood is the multiplier.

    ``sum (y - m) / (1 + alpha m)`` falls in u, m the means: Newton's method between the last points
    on both sides of the root, one unit a step at most.
    """
    y = np.asarray(s.y)[:, genes].astype(float)
    base = np.maximum(level, MIN_MU / np.asarray(s.precision))
    u = np.array(s.offset, float)
    low, high = np.full_like(u, -np.inf), np.full_like(u, np.inf)
    for _ in range(_STEPS):
        mean = base * np.exp(u)
        over = 1.0 / (1.0 + alpha * mean)
        slope = np.sum((y - mean) * over, axis=1, keepdims=True) - multiplier
        bend = np.sum(mean * (1.0 + alpha * y) * over**2, axis=1, keepdims=True)
        low, high = np.where(slope > 0, u, low), np.where(slope < 0, u, high)
        new = u + np.clip(slope / bend, -1.0, 1.0)
        new = np.where((new <= low) | (new >= high), (low + high) / 2, new)
        new = np.where(np.isfinite(new) & (slope != 0), new, u)
        moved = np.max(np.abs(new - u), initial=0.0)
        u = new
        if moved < _ROUNDING:
            break
    return {"offset": u}


def steps(cohort: Cohort, genes: Int[np.ndarray, "k"], n: int) -> list[Step]:
    """The maximisations that lead to the size factors (`replayed`).

    Parameters
    ----------
    cohort
        Raw counts.
    genes
        Those with a count.
    n
        Number of samples.

    Raises
    ------
    InputError
        The iteration does not settle in ten rounds.
    """
    now = cohort.map(begun)
    found: list[Step] = []
    for _ in range(_ROUNDS):
        level, alpha = _dispersions(now.map(one_level), genes, n)
        now = now.map(anchored)
        found.append(_maximum(now, Step(genes, level, alpha, 0.0)))
        now = _moved(now, found[-1])
        square = float(now.sum(change, genes=np.arange(1)).square[0])
        if len(found) > 1 and square < _CHANGE:
            return found
    msg = (
        f"size factors by iteration have not settled in {_ROUNDS} rounds; use --size-factors "
        "poscounts (Python: tl.Settings(size_factors='poscounts'))"
    )
    raise InputError(msg)


def replayed(cohort: Cohort, done: list[Step]) -> Cohort:
    """The cohort with the size factors that steps lead to."""
    now = cohort.map(begun)
    for step in done:
        now = _moved(now.map(anchored), step)
    return now.map(unweighted)


def _dispersions(
    cohort: Cohort, genes: Int[np.ndarray, "k"], n: int
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Levels of the genes, and their dispersions in a design of one level."""
    wise = gene_wise(cohort, genes, Groups(np.arange(1), np.array([n])))
    mean, alpha = wise.first.bulk.mean, wise.dispersions.alpha
    fitted = trend.fit_trend(mean, alpha, "mean")
    variance = trend.prior_variance(alpha, fitted.at(mean), fitted.residual_variance, n - 1)
    best = dispersion.maximum_a_posteriori(
        cohort, wise.means, wise.dispersions, (fitted.at(mean), variance), n, genes
    )
    above = trend.dispersion_outliers(alpha, fitted.at(mean), fitted.residual_variance)
    return wise.means.beta[:, 0], np.where(above, alpha, best.alpha)


def _maximum(cohort: Cohort, everyone: Step) -> Step:
    """Maximum over size factors of the likelihood of the genes that fit best there."""
    genes, level, alpha, _ = everyone
    step, kept = everyone, np.zeros(0, dtype=int)
    now = cohort
    for _ in range(_SETS):
        value = now.sum(log_likelihood, level, alpha, genes=genes).value
        # Above R's quantile, of genes none of which is exactly at it.
        worst = int(np.floor((len(genes) - 1) * _LEFT_OUT)) + 1
        best = np.sort(np.argsort(value, kind="stable")[worst:])
        if np.array_equal(best, kept):
            break
        kept = best
        step = _balanced(cohort, Step(genes[kept], level[kept], alpha[kept], step.multiplier))
        now = _moved(cohort, step)
    return step


def _balanced(cohort: Cohort, step: Step) -> Step:
    """The step with the multiplier at which log size factors have a mean of 0: by secants."""

    def mean_at(multiplier: float) -> float:
        new = cohort.map(sized, shared=tuple(step._replace(multiplier=multiplier)))
        sums = new.sum(log_sizes, genes=np.arange(1))
        return float(sums.log[0] / sums.rows[0])

    old, before = step.multiplier, mean_at(step.multiplier)
    # A sample of size factor 1 moves its derivative by so much.
    now = old + before * float(np.sum(step.level / (1.0 + step.alpha * step.level)))
    for _ in range(_STEPS):
        here = mean_at(now)
        if abs(here) < _ROUNDING or here == before:
            break
        old, before, now = now, here, now - here * (now - old) / (here - before)
    return step._replace(multiplier=now)


def _moved(cohort: Cohort, step: Step) -> Cohort:
    """The cohort with a step's size factors, of geometric mean 1 to the last digit."""
    return centred(cohort.map(sized, shared=tuple(step)))
