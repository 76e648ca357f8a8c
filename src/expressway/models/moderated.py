"""F tests of nested linear models for every gene, plain and moderated.

Moderated: residual variances are squeezed towards a common one, as in limma. Sources: Smyth 2004
(Statistical Applications in Genetics and Molecular Biology 3:3), equation numbers below are its
own, and limma 3.54 (``fitFDist``, ``squeezeVar``, ``classifyTestsF``).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import special

from expressway._errors import InputError
from expressway._types import Bool, Float, Int
from expressway.core.nested import basis

# limma fitFDist: variances below this share of their median are raised to it.
LEAST = 1e-5
# Newton's method on 1/trigamma, which is convex and nearly a line: far starts halve their distance.
TRIGAMMA_STEPS = 60
# A residual below this share of the data's own length is rounding of sums of some hundred terms.
ROUNDING = 1e-13
# Singular values of what is left of an orthonormal basis: below this share of the largest a
# combination of the design's columns has no observation left.
SINGULAR = 1e-9


class Moderated(NamedTuple):
    """Residual variances squeezed towards a common one.

    ``1 / variance ~ chi²(d0) / (d0 s0²)`` over genes (eq. 2).
    """

    prior_freedom: float
    """d0; infinite where variances differ no more than chance has it, 0 where nothing is known."""
    prior_variance: float | Float[np.ndarray, "g"]
    """s0², of each gene if it is a curve; NaN where no gene has a variance."""
    variance: Float[np.ndarray, "g"]
    """Posterior ``(d0 s0² + d s²) / (d0 + d)`` of each gene, NaN where its variance is."""


def squeeze(
    variance: Float[np.ndarray, "g"],
    freedom: Float[np.ndarray, "g"],
    covariate: Float[np.ndarray, "g"] | None = None,
    of_prior: Bool[np.ndarray, "g"] | None = None,
) -> Moderated:
    """Prior of residual variances by moments of their logarithms, and posterior variances.

    With ``e = log s² - digamma(d/2) + log(d/2)`` (natural log) the prior's d0 solves
    ``trigamma(d0/2) = var(e) - mean trigamma(d/2)``; where the right side is not positive d0 is
    infinite and s0² the mean of the variances (section 6.2, and limma 3.54 from there on).

    Parameters
    ----------
    variance
        Residual variance s² of each gene. Variances below 1e-5 times their median count as that
        in the estimate of the prior; posterior variances are of the variances as given.
    freedom
        Residual degrees of freedom d of each gene. Genes with a variance of NaN or no freedom are
        left out of the estimate; those without freedom have the prior's variance.
    covariate
        What the prior's variance depends on, a logarithm of the mean say: the mean of e is then a
        natural cubic spline of it with 4 coefficients (fewer for less than 30 genes), and var(e)
        is about that (limma 3.54 fitFDist). Finite.
    of_prior
        Genes that the prior is estimated from; all when not given.
    """
    some = np.isfinite(variance) & (freedom > 0)
    some &= True if of_prior is None else of_prior
    if covariate is None or np.sum(some) < 2:
        d0, s0 = _prior(variance[some], freedom[some])
    else:
        d0, s0 = _prior_along(variance[some], freedom[some], covariate[some], covariate)
    if np.isinf(d0):
        posterior = np.zeros_like(variance) + s0
    else:
        own = np.where(freedom > 0, freedom * variance, 0.0)
        weight = d0 + np.maximum(freedom, 0.0)
        posterior = np.divide(
            d0 * s0 + own, weight, out=np.full_like(variance, np.nan), where=weight > 0
        )
    unknown = np.isnan(variance) & (freedom > 0)
    return Moderated(d0, s0, np.where(unknown, np.nan, posterior))


def _prior(
    variance: Float[np.ndarray, "k"], freedom: Float[np.ndarray, "k"]
) -> tuple[float, float]:
    """Degrees of freedom and variance of the prior."""
    if len(variance) < 2:
        return 0.0, float(variance[0]) if len(variance) else np.nan
    raised, e = _logarithms(variance, freedom)
    excess = float(np.var(e, ddof=1) - np.mean(special.polygamma(1, freedom / 2)))
    if excess <= 0:
        return np.inf, float(np.mean(raised))
    half0 = _inverse_trigamma(excess)
    return 2 * half0, float(np.exp(np.mean(e) + special.digamma(half0) - np.log(half0)))


def _prior_along(
    variance: Float[np.ndarray, "k"],
    freedom: Float[np.ndarray, "k"],
    covariate: Float[np.ndarray, "k"],
    everywhere: Float[np.ndarray, "g"],
) -> tuple[float, Float[np.ndarray, "g"]]:
    """Degrees of freedom, and variance at every gene's covariate."""
    k = len(variance)
    size = min(1 + (k >= 3) + (k >= 6) + (k >= 30), len(np.unique(covariate)))
    if size < 2:
        d0, s0 = _prior(variance, freedom)
        return d0, np.full_like(everywhere, s0)
    basis = _natural(covariate, everywhere, size)
    own = _natural(covariate, covariate, size)
    _, e = _logarithms(variance, freedom)
    weight, _, rank, _ = np.linalg.lstsq(own, e)
    rest = np.sum((e - own @ weight) ** 2) / (k - rank) if k > rank else np.nan
    excess = float(rest - np.mean(special.polygamma(1, freedom / 2)))
    mean = basis @ weight
    if not excess > 0:
        return np.inf, np.exp(mean)
    half0 = _inverse_trigamma(excess)
    return 2 * half0, np.exp(mean + special.digamma(half0) - np.log(half0))


def _logarithms(
    variance: Float[np.ndarray, "k"], freedom: Float[np.ndarray, "k"]
) -> tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]]:
    """Variances raised to their floor, and their logarithms e, less what chance takes from them."""
    middle = np.median(variance)
    raised = np.maximum(variance, LEAST * (middle if middle > 0 else 1.0))
    half = freedom / 2
    return raised, np.log(raised) - special.digamma(half) + np.log(half)


def _natural(
    x: Float[np.ndarray, "k"], at: Float[np.ndarray, "g"], size: int
) -> Float[np.ndarray, "g m"]:
    """Natural cubic splines on quantiles of x, of so many dimensions, at other points.

    The span that R's ``splines::ns(x, df = size, intercept = TRUE)`` has: boundary knots at the
    range, ``size - 2`` within, lines outside (Hastie, Tibshirani & Friedman 2009, The Elements of
    Statistical Learning, eq. 5.4).
    """
    low, high = np.min(x), np.max(x)
    knots = np.unique(np.quantile(x, np.linspace(0, 1, size)))
    t, knots = (at - low) / (high - low), (knots - low) / (high - low)

    def beyond(knot: float) -> np.ndarray:
        cubes = np.maximum(t - knot, 0.0) ** 3 - np.maximum(t - 1.0, 0.0) ** 3
        return cubes / (1.0 - knot)

    last = beyond(float(knots[-2]))
    bent = [beyond(float(knot)) - last for knot in knots[:-2]]
    return np.column_stack([np.ones_like(t), t, *bent])


def _inverse_trigamma(x: float) -> float:
    """Where trigamma is x, by Newton's method on ``1 / trigamma`` (Smyth 2004, appendix)."""
    y = 0.5 + 1 / x
    for _ in range(TRIGAMMA_STEPS):
        at = special.polygamma(1, y)
        step = float(at * (1 - at / x) / special.polygamma(2, y))
        y += step
        if -step < 1e-12 * y:  # from the right and never across: the function is convex
            break
    return y


class FTest(NamedTuple):
    """F test of a full against a reduced model for every gene, plain and moderated.

    NaN for genes without a test: the design has lost a column to missing values, there is no
    residual freedom, or the reduced model is exact already, as for a constant gene.
    """

    f: Float[np.ndarray, "g"]
    """Infinite where the full model is exact and the reduced one is not."""
    p_value: Float[np.ndarray, "g"]
    moderated_f: Float[np.ndarray, "g"]
    """With the posterior variance as its denominator."""
    moderated_p_value: Float[np.ndarray, "g"]
    numerator: int
    """Degrees of freedom of the hypothesis: columns of the full less those of the reduced."""
    freedom: Float[np.ndarray, "g"]
    """Residual degrees of freedom, 0 where there are none or the design has lost a column. The
    moderated test has the prior's in addition."""
    prior: Moderated


def f_test(
    y: Float[np.ndarray, "g n"],
    full: Float[np.ndarray, "n p"],
    reduced: Float[np.ndarray, "n q"],
    weight: Float[np.ndarray, "n"] | None = None,
) -> FTest:
    """F tests by weighted least squares.

    ``F = (RSS_reduced - RSS_full) / (p - q) / s²`` with ``s² = RSS_full / d`` and ``d = sum of
    weights - p``: weights are numbers of times, not precisions. The moderated F divides by the
    posterior variance of `squeeze` and has d0 more degrees of freedom in its denominator, as
    ``eBayes`` has it for F statistics (not bounded by the freedom of all genes together, as limma's
    t tests are). limma's F of genes with missing values takes the correlations of the complete
    design's coefficients; here each gene has its own design's. Genes without a test are left out of
    the prior, constant ones too, of which limma makes the smallest of its variances.

    Parameters
    ----------
    y
        Values of each gene, NaN where missing. Genes with the same values missing are fitted
        together.
    full, reduced
        Designs. The columns of the reduced one are combinations of the full one's; it may have
        none.
    weight
        How often each sample counts; 0 is left out. Once each when not given.

    Raises
    ------
    InputError
        If the designs are not nested, their columns depend on one another, a weight is negative or
        a value is infinite.
    """
    columns, q = basis(full, reduced), reduced.shape[1]
    weight = np.ones(len(full)) if weight is None else weight
    _expect_numbers(y, weight)
    numerator = columns.shape[1] - q
    rest, explained, freedom = _squares(y, columns, q, weight)
    none = np.full_like(rest, np.nan)
    variance = np.divide(rest, freedom, out=none, where=freedom > 0)
    prior = squeeze(variance, freedom)
    between = explained / numerator
    f, moderated = _ratio(between, variance), _ratio(between, prior.variance)
    return FTest(
        f=f,
        p_value=upper_tail(f, numerator, freedom),
        moderated_f=moderated,
        moderated_p_value=upper_tail(moderated, numerator, freedom + prior.prior_freedom),
        numerator=numerator,
        freedom=freedom,
        prior=prior,
    )


class _Squares(NamedTuple):
    """Sums of squares of each gene, NaN where it has no test."""

    rest: Float[np.ndarray, "g"]
    """Of the full model's residuals; 0 where they are rounding."""
    explained: Float[np.ndarray, "g"]
    """By the full model and not by the reduced one."""
    freedom: Float[np.ndarray, "g"]


def _squares(
    y: Float[np.ndarray, "g n"],
    columns: Float[np.ndarray, "n p"],
    q: int,
    weight: Float[np.ndarray, "n"],
) -> _Squares:
    """Projections on an orthonormal basis of each pattern of missing values."""
    p = columns.shape[1]
    found = _Squares(np.full(len(y), np.nan), np.full(len(y), np.nan), np.zeros(len(y)))
    for genes, present in _alike(y):
        rows = present & (weight > 0)
        root = np.sqrt(weight[rows])[:, None]
        left = float(np.sum(weight[rows])) - p
        # The first q columns of the orthogonal factor span the reduced design again.
        orthonormal, upper = np.linalg.qr(root * columns[rows])
        if left <= 0 or _lost(upper, p):
            continue
        z = y[np.ix_(genes, rows)] * root.T
        on = z @ orthonormal
        rest = np.sum((z - on @ orthonormal.T) ** 2, axis=1)
        explained = np.sum(on[:, q:] ** 2, axis=1)
        rounding = ROUNDING**2 * np.sum(z**2, axis=1)
        nothing = rest + explained <= rounding
        found.freedom[genes] = left
        found.rest[genes] = np.where(nothing, np.nan, np.where(rest <= rounding, 0.0, rest))
        found.explained[genes] = np.where(nothing, np.nan, explained)
    return found


def _expect_numbers(y: Float[np.ndarray, "g n"], weight: Float[np.ndarray, "n"]) -> None:
    """Refuse what would become NaN without a reason."""
    if not np.all((weight >= 0) & (weight < np.inf)):
        bad = int(np.argmin((weight >= 0) & (weight < np.inf)))
        msg = f"weights must be 0 or more and finite, but sample {bad} has {weight[bad]}"
        raise InputError(msg)
    infinite = np.isinf(y)
    if np.any(infinite):
        gene, sample = (int(i) for i in np.argwhere(infinite)[0])
        msg = (
            f"gene {gene} is {y[gene, sample]} in sample {sample}: values must be finite, or NaN "
            "where missing; add a constant before taking logarithms"
        )
        raise InputError(msg)


def _alike(
    y: Float[np.ndarray, "g n"],
) -> Iterator[tuple[Int[np.ndarray, "k"], Bool[np.ndarray, "n"]]]:
    """Genes that have the same values missing, and which values those have."""
    packed = np.packbits(np.isnan(y), axis=1)
    patterns, which, size = np.unique(packed, axis=0, return_inverse=True, return_counts=True)
    together = np.argsort(which.reshape(-1), kind="stable")
    for pattern, genes in zip(patterns, np.split(together, np.cumsum(size))[:-1], strict=True):
        yield genes, np.unpackbits(pattern, count=y.shape[1]) == 0


def _lost(upper: Float[np.ndarray, "m p"], p: int) -> bool:
    """Whether the observations that are left no longer determine p coefficients."""
    if len(upper) < p:
        return True
    value = np.linalg.svd(upper, compute_uv=False)
    return bool(value[-1] <= SINGULAR * value[0])


def _ratio(
    between: Float[np.ndarray, "g"], variance: Float[np.ndarray, "g"]
) -> Float[np.ndarray, "g"]:
    """F: infinite where the variance is 0, NaN where there is none."""
    zero = np.where(np.isnan(between), np.nan, np.inf)
    return np.divide(between, variance, out=zero, where=variance != 0)


def upper_tail(
    f: Float[np.ndarray, "g"], numerator: int, freedom: Float[np.ndarray, "g"]
) -> Float[np.ndarray, "g"]:
    """Upper tail of the F distribution; of chi² over its freedom where the denominator's is inf."""
    tail = special.fdtrc(numerator, freedom, f)
    return np.where(np.isinf(freedom), special.chdtrc(numerator, numerator * f), tail)
