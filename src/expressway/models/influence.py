"""Influence of every sample on every test of a fitted analysis: derivatives in `Samples.weight`.

**Conditional**: dispersions, size factors and everything discrete stay as they are. **Pipeline**:
dispersions move too, and so does the trend that the prior is centred on; `FROZEN` lists what
stays. To first order leaving a
sample out changes a number by minus its derivative; `leave_out` has the exact changes.
"""

from typing import Any, NamedTuple, cast

import numpy as np

from expressway._errors import InputError
from expressway._types import Bool, Float, Int
from expressway.core import linear
from expressway.core.arrow import Wide
from expressway.core.cohort import Cohort, Pooled, compiled, rows_of
from expressway.core.scalar import Interval, Scalar
from expressway.core.solve import solve

from . import moments, nb, profile, sensitivity, trend, trend_moves, upstream
from .cells import groups
from .deseq import DESeqFit, replaced
from .genes import Gene
from .means import BOX, MIN_MU
from .moments import MIN_DISPERSION, max_dispersion

FROZEN = {
    "conditional": (
        "size factors",
        "dispersions",
        "replaced counts",
        "Cook's flags",
        "which equation each gene's coefficients solve",
        "coefficients at a bound",
    ),
    "pipeline": (
        "size factors",
        "replaced counts",
        "Cook's flags",
        "genes the trend is fitted to",
        "prior variance",
        "dispersion outliers",
        "dispersions that solve no equation (at a bound, at their start, where an ascent stopped)",
        "which equation each gene's coefficients solve",
        "coefficients at a bound",
        "numbers of samples in formulas",
    ),
}


# DESeq2's ascent on a flat profile stops some .02 (log alpha) before the optimum: one dispersion in
# four. Within this distance the optimum stands for it; farther off it does not move.
NEAR = 0.1


class Influence(NamedTuple):
    """Derivatives in the weight of each sample, at the weights of the rows; natural log.

    NaN for genes without a fit.
    """

    estimate: Float[np.ndarray, "q n g"]
    """Of each contrast c'b."""
    se: Float[np.ndarray, "q n g"]
    stat: Float[np.ndarray, "q n g"]
    step: sensitivity.Tested
    """What leaving each sample out changes, in one step of Newton's method: q, n, g each. With few
    samples far nearer to the exact change than minus the derivative (`sensitivity.tested`)."""
    leverage: Float[np.ndarray, "n g"]
    """The sample's share of the gene's information."""
    log_alpha: Float[np.ndarray, "n g"]
    """Of the log dispersion that the test uses; 0 where it is held."""
    held: Bool[np.ndarray, "g"]
    """Genes whose dispersion does not move."""
    frozen: tuple[str, ...]
    """What else does not move."""


class Part(NamedTuple):
    """Genes that are fitted from the same kind of rows."""

    cohort: Pooled
    """Its genes are those of ``place``, or all."""
    at: Int[np.ndarray, "k"]
    """Genes of that cohort."""
    place: Int[np.ndarray, "k"]
    """The same genes in the fit."""


def parts(fit: DESeqFit, cohort: Cohort) -> tuple[list[Part], Gene | None]:
    """Genes as they were fitted: those with their own counts, those with replaced ones.

    Also what was fitted of the latter before, if there are any.

    Raises
    ------
    InputError
        Rows are not at hand, the design is wide, or the rows are not those of the fit.
    """
    if not isinstance(cohort, Pooled):
        msg = "influence needs the samples' rows in this process: fit a pooled analysis"
        raise InputError(msg)
    x = cohort.rows.x
    if isinstance(x, Wide):
        msg = (
            f"influence needs a dense design, but this one has {x.shape[1]} columns, most of them "
            "levels of one factor: leave that factor out or analyse fewer of its levels"
        )
        raise InputError(msg)
    if x.shape[0] != fit.samples or cohort.genes != len(fit.gene.base_mean):
        msg = (
            f"these are {x.shape[0]} samples x {cohort.genes} genes, but the fit is of "
            f"{fit.samples} x {len(fit.gene.base_mean)}: pass the cohort it was made from"
        )
        raise InputError(msg)
    fitted = np.all(np.isfinite(fit.gene.beta), axis=1) & (fit.gene.base_mean > 0)
    own = np.flatnonzero(fitted & ~fit.replaced)
    if not np.any(fit.replaced):
        return [Part(cohort, own, own)], None
    new = replaced(fit, cohort, groups(np.asarray(x)))
    some = np.flatnonzero(fitted[new.genes])
    other = cast("Pooled", new.cohort)
    return [Part(cohort, own, own), Part(other, some, new.genes[some])], new.before


def solved(fit: DESeqFit, genes: Int[np.ndarray, "k"]) -> sensitivity.Solved:
    """Coefficients of some genes and the equation that they solve."""
    gene = fit.gene
    boxed, beta = gene.boxed[genes], gene.beta[genes]
    return sensitivity.Solved(
        beta=beta,
        alpha=gene.dispersion[genes],
        floor=np.where(boxed, 0.0, MIN_MU),
        free=~(boxed[:, None] & (np.abs(beta) >= BOX)),
    )


def conditional(
    fit: DESeqFit, cohort: Cohort, contrasts: Float[np.ndarray, "q p"] | None = None
) -> Influence:
    """Influence of every sample with dispersions kept.

    Parameters
    ----------
    fit, cohort
        What `deseq.fit` returned.
    contrasts
        One a row; the coefficients one by one when not given.

    Raises
    ------
    InputError
        See `parts`.
    """
    wanted = np.eye(fit.gene.beta.shape[1]) if contrasts is None else np.asarray(contrasts, float)
    found = []
    for part in parts(fit, cohort)[0]:
        fn = compiled(sensitivity.frozen)
        effect = part.cohort.collect(fn, solved(fit, part.place), shared=(wanted,), genes=part.at)
        found.append((part.place, effect))
    everyone = np.ones(len(fit.gene.base_mean), bool)
    return gathered(fit, found, everyone, FROZEN["conditional"])


def gathered(
    fit: DESeqFit,
    found: list[tuple[np.ndarray, sensitivity.Effect]],
    held: Bool[np.ndarray, "g"],
    frozen: tuple[str, ...],
) -> Influence:
    """Parts put together, samples before genes; padding rows left away."""
    g, n = len(held), fit.samples

    def whole(part: list[Any]) -> np.ndarray:
        one = np.full((g, *part[0].shape[1:-1], n), np.nan)
        for (place, _), values in zip(found, part, strict=True):
            one[place] = values[..., :n]
        return np.moveaxis(one, 0, -1)

    effects = [effect for _, effect in found]
    return Influence(
        *(whole([e.tested[k] for e in effects]) for k in range(3)),
        step=sensitivity.Tested(*(whole([e.step[k] for e in effects]) for k in range(3))),
        leverage=whole([e.leverage for e in effects]),
        log_alpha=whole([e.log_alpha for e in effects]),
        held=held,
        frozen=frozen,
    )


class First(NamedTuple):
    """What the trend of a fit came from: every gene with its own counts."""

    part: Part
    mean: Float[np.ndarray, "k"]
    alpha: Float[np.ndarray, "k"]
    """Gene-wise dispersions: optima, where the ascent stopped next to one."""
    means: sensitivity.Solved
    who: Int[np.ndarray, "t"]
    """Places among them of those that the trend is fitted to."""


def first(fit: DESeqFit, cohort: Pooled, before: Gene | None) -> First:
    """The same again, from a fit.

    Raises
    ------
    InputError
        These genes do not give the trend of the fit: some were taken away.
    """
    gene = fit.gene
    if before is not None:
        again = np.flatnonzero(fit.replaced)
        names = ("base_mean", "dispersion_gene_wise", "beta")
        parts = (_put(getattr(gene, name), again, getattr(before, name)) for name in names)
        gene = gene._replace(**dict(zip(names, parts, strict=True)))
    at = np.flatnonzero(np.isfinite(gene.dispersion_gene_wise) & (gene.base_mean > 0))
    mean, alpha = gene.base_mean[at], gene.dispersion_gene_wise[at]
    same = fit.trend.kind == "given"
    if not same:
        found = trend.fit_trend(mean, alpha, fit.settings.trend)
        same = np.allclose(found.at(mean), fit.trend.at(mean), rtol=1e-6)
    if not same:
        msg = (
            f"these {cohort.genes} genes do not give the dispersion trend of the fit: genes were "
            "taken away since; fit again, or ask for the conditional influence"
        )
        raise InputError(msg)
    part = Part(cohort, at, at)
    means = means_of(fit, part, gene.beta[at], float(fit.samples))
    none = np.zeros(len(at))
    optimum = mode(fit, part, means.beta, alpha, (none, none))
    near = np.abs(np.log(optimum / alpha)) < NEAR
    who = trend.members(fit.trend, mean, alpha)
    return First(part, mean, np.where(near, optimum, alpha), means.solved, who)


class Means(NamedTuple):
    """Means that dispersions are fitted on."""

    beta: Float[np.ndarray, "k p"]
    solved: sensitivity.Solved
    """The same with the dispersions they were fitted with."""
    center: Float[np.ndarray, "k"]
    """Mean of normalised counts."""


def means_of(fit: DESeqFit, part: Part, begin: Float[np.ndarray, "k p"], weight: float) -> Means:
    """Means of some genes, from rows whose weights have this sum."""
    cohort, n, p = part.cohort, fit.samples, part.cohort.coefficients
    sums = cohort.sum(moments.moments, genes=part.at)
    center = sums.mean / weight
    beta = linear.solved_alike(sums.normal, sums.linear)
    second = cohort.sum(moments.spread, center, beta, genes=part.at)
    alpha = moments.start(sums, second, n, p, weight)
    boxed = np.zeros(len(beta), bool)
    if not fit.linear_means:
        by_glm = nb.coefficients(cohort, begin, alpha, part.at)
        beta, boxed = by_glm.beta, by_glm.boxed
    free = ~(boxed[:, None] & (np.abs(beta) >= BOX))
    solved = sensitivity.Solved(beta, alpha, np.where(boxed, 0.0, MIN_MU), free)
    return Means(beta, solved, center)


def mode(
    fit: DESeqFit,
    part: Part,
    beta: Float[np.ndarray, "k p"],
    alpha: Float[np.ndarray, "k"],
    prior: tuple[Float[np.ndarray, "k"], Float[np.ndarray, "k"]],
) -> Float[np.ndarray, "k"]:
    """Dispersions at the mode next to those given."""
    low, high = (
        np.full(len(alpha), np.log(a)) for a in (MIN_DISPERSION, max_dispersion(fit.samples))
    )
    found = solve(
        Scalar(),
        profile.profile_linear if fit.linear_means else profile.profile_glm,
        Interval(np.log(alpha), low, high),
        profile.Shape(beta, *prior),
        part.cohort,
        penalty=profile.adjusted,
        genes=part.at,
    )
    return np.exp(found.theta)


def pipeline(
    fit: DESeqFit, cohort: Cohort, contrasts: Float[np.ndarray, "q p"] | None = None
) -> Influence:
    """Influence of every sample with dispersions and their trend moving.

    A trend that the user gave does not move, and a local regression is held as a curve (`frozen`
    says so): genes move along them with their means.

    Parameters
    ----------
    fit, cohort, contrasts
        As for `conditional`.

    Raises
    ------
    InputError
        See `parts`, `first` and `refuse_brought`.
    """
    wanted = np.eye(fit.gene.beta.shape[1]) if contrasts is None else np.asarray(contrasts, float)
    every, before = parts(fit, cohort)
    refuse_brought(fit, every[0].cohort)
    begin = first(fit, every[0].cohort, before)
    shared, rows, _ = moves_of_all(fit, begin)
    fn = compiled(upstream.whole_linear if fit.linear_means else upstream.whole_glm)
    held = np.ones(len(fit.gene.base_mean), bool)
    found = []
    for part in every:
        if part.cohort is begin.part.cohort:
            means = rows_of(begin.means, np.searchsorted(begin.part.at, part.at))
        else:
            means = means_of(fit, part, fit.gene.beta[part.place], float(fit.samples)).solved
        args = (used(fit, part.place, means), solved(fit, part.place))
        whole = part.cohort.collect(fn, *args, shared=(shared, wanted, rows), genes=part.at)
        held[part.place] = ~whole.settled
        found.append((part.place, whole.effect))
    of_trend = "the local dispersion trend" if fit.trend.kind == "local" else ""
    return gathered(fit, found, held, (*FROZEN["pipeline"], *filter(None, [of_trend])))


def refuse_brought(fit: DESeqFit, cohort: Pooled) -> None:
    """Refuse rows with weights, or offsets that differ between genes.

    Raises
    ------
    InputError
        Rows have them: how their dispersions move is not known.
    """
    offsets = cohort.rows.offset.shape[1] > 1
    if offsets or fit.weighted:
        what = "normalisation of genes x samples" if offsets else "observation weights"
        msg = (
            f"influence on dispersions is not known with {what}: ask for the conditional influence "
            "(kind='conditional')"
        )
        raise InputError(msg)


def used(
    fit: DESeqFit, genes: Int[np.ndarray, "k"], means: sensitivity.Solved
) -> upstream.Upstream:
    """Where the dispersion that tests use comes from: the mode, or for outliers gene-wise."""
    own, alpha = fit.gene.dispersion_outlier[genes], fit.gene.dispersion[genes]
    precision = np.where(own, 0.0, 1.0 / fit.prior_variance)
    mean = fit.gene.base_mean[genes]
    of_trend = fit.trend.at(mean), fit.trend.log_slope(mean)
    return upstream.Upstream(means, np.log(alpha), precision, *of_trend)


class OfAll(NamedTuple):
    """What all genes share, and how it moves."""

    shared: upstream.Shared
    rows: upstream.Rows
    settled: Bool[np.ndarray, "k"]
    """Gene-wise dispersions that move."""


def moves_of_all(fit: DESeqFit, begin: First) -> OfAll:
    """How the trend moves."""
    n, p = fit.samples, begin.part.cohort.coefficients
    rows = upstream.Rows(*(np.array(float(v)) for v in (n, n - p, max_dispersion(n))))
    fn = compiled(upstream.wise_linear if fit.linear_means else upstream.wise_glm)
    none = np.zeros(len(begin.alpha))
    up = upstream.Upstream(begin.means, np.log(begin.alpha), none, none + 1.0, none)
    wise = begin.part.cohort.collect(fn, up, shared=(rows,), genes=begin.part.at)
    moves = trend_moves.Moves(wise.log_alpha, wise.log_mean)
    d_a = trend_moves.root_moves(fit.trend, begin.who, begin.mean, begin.alpha, moves)
    return OfAll(upstream.Shared(d_a), rows, wise.settled)


def _put(whole: np.ndarray, at: Int[np.ndarray, "k"], of: np.ndarray) -> np.ndarray:
    """The same with some genes from elsewhere."""
    whole = whole.copy()
    whole[at] = of[at]
    return whole
