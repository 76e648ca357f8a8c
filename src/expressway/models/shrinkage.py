"""Shrunken fold changes: of a coefficient, or of any contrast, by a prior on it.

**apeglm** (Zhu, Ibrahim & Love 2019, Bioinformatics 35:2084): a Cauchy prior, heavy-tailed, so that
large fold changes stay while those of noisy genes go to 0. **normal** (Love, Huber & Anders 2014,
Genome Biology 15:550): DESeq2's first prior. Both keep the fit's dispersions and size factors.

A contrast c that is not a coefficient becomes one: the design times a matrix B has coefficients
``(c'b, N'b)`` with N an orthonormal basis of what is orthogonal to c (`core.nested.leading`).
"""

from typing import NamedTuple, get_args

import numpy as np

from expressway._errors import InputError
from expressway._types import Bool, Float, Int
from expressway.core.cohort import Cohort, Pooled
from expressway.core.order import Groups
from expressway.core.solve import Status

from . import cauchy_prior, deseq, normal_prior
from .cells import groups
from .deseq import DESeqFit
from .posterior import Choices as Choices
from .posterior import Kind as Kind
from .posterior import Part


class Shrunken(NamedTuple):
    """Posterior of one contrast for every gene; log2, NaN for genes without a fit."""

    log2_fold_change: Float[np.ndarray, "g"]
    """Mode."""
    posterior_sd: Float[np.ndarray, "g"]
    """Laplace's: from the inverse curvature at the mode."""
    se: Float[np.ndarray, "g"]
    """DESeq2's lfcSE: of ``"apeglm"`` the same, of ``"normal"`` the ridge sandwich."""
    lower: Float[np.ndarray, "g"]
    upper: Float[np.ndarray, "g"]
    lfsr: Float[np.ndarray, "g"]
    """Probability that the sign is false or, given a threshold, the fold change small."""
    s_value: Float[np.ndarray, "g"]
    """Mean of all ``lfsr`` that are not larger."""
    status: Int[np.ndarray, "g"]
    """`core.solve.Status`; OK for genes without a fit."""
    two_modes: Bool[np.ndarray, "g"]
    """The posterior has two modes, of which this is the higher one."""
    prior_scale: float
    """Scale of the Cauchy distribution, or standard deviation of the normal one; log2."""


def shrink(
    fit: DESeqFit,
    cohort: Cohort,
    contrast: Float[np.ndarray, "p"],
    choices: Choices = Choices(),  # noqa: B008 (immutable)
    cells: Groups | None = None,
) -> Shrunken:
    """Shrunken fold changes of one contrast.

    Genes whose outlying counts were replaced are shrunk on their replaced counts (R's lfcShrink
    takes the counts as they were). Genes without a finite maximum-likelihood fold change get one.

    Intervals and ``lfsr`` are of Laplace's approximation of the posterior (`posterior.laplace`), as
    R's are, or of the posterior itself (`marginal`); s-values are running means of sorted ``lfsr``
    (Stephens 2017, Biostatistics 18:275), over all genes with a fit.

    Parameters
    ----------
    fit, cohort
        What `deseq.fit` returned.
    contrast
        Weight of each coefficient.
    cells
        Design cells as the fit had them; not needed where rows are in this process.

    Raises
    ------
    InputError
        A choice cannot be used, the contrast is a coefficient without a prior, the design has too
        many columns, or the rows are not those of the fit.
    """
    check(choices)
    parts = _parts(fit, cohort, contrast, choices, cells)
    fn = cauchy_prior.shrunken if choices.kind == "apeglm" else normal_prior.shrunken
    found = fn(fit, parts, contrast, choices)
    g = len(fit.gene.base_mean)
    status, two = np.zeros(g, dtype=int), np.zeros(g, dtype=bool)
    numbers = np.full((5, g), np.nan)
    lfsr = np.full(g, np.nan)
    for part, of in zip(parts, found.modes, strict=True):
        status[part.place], two[part.place] = of.status, of.two_modes
        good = of.status == Status.OK
        place = part.place[good]
        each = (of.mode, of.sd, of.se, of.ends.lower, of.ends.upper)
        numbers[:, place] = [one[good] / np.log(2) for one in each]
        lfsr[place] = of.ends.lfsr[good]
    mode, sd, se, lower, upper = numbers
    return Shrunken(
        log2_fold_change=mode,
        posterior_sd=sd,
        se=se,
        lower=lower,
        upper=upper,
        lfsr=lfsr,
        s_value=s_values(lfsr),
        status=status,
        two_modes=two,
        prior_scale=float(found.scale / np.log(2)),
    )


def check(choices: Choices) -> None:
    """Refuse choices that cannot be used.

    Raises
    ------
    InputError
        One cannot.
    """
    if choices.kind not in get_args(Kind):
        msg = f"shrinkage is one of {', '.join(get_args(Kind))}, but {choices.kind!r} was given"
    elif not 0 < choices.interval < 1:
        msg = f"the level of an interval must lie between 0 and 1, but is {choices.interval}"
    elif not 0 <= choices.threshold < np.inf:
        msg = f"the threshold must be a log2 fold change of 0 or more, but is {choices.threshold}"
    elif choices.exact and choices.kind != "apeglm":
        msg = f"exact intervals are of kind apeglm, but kind is {choices.kind}: leave exact out"
    else:
        return
    raise InputError(msg)


def s_values(lfsr: Float[np.ndarray, "g"]) -> Float[np.ndarray, "g"]:
    """Mean of each gene's and all smaller ``lfsr``: the false sign rate of genes up to it.

    Equal ones come in their order, as in R's apeglm (svalue); NaN stays.
    """
    order = np.argsort(lfsr, kind="stable")  # NaN last
    running = np.empty_like(lfsr)
    running[order] = np.cumsum(lfsr[order]) / np.arange(1, len(lfsr) + 1)
    return running


def _parts(
    fit: DESeqFit,
    cohort: Cohort,
    contrast: Float[np.ndarray, "p"],
    choices: Choices,
    cells: Groups | None,
) -> list[Part]:
    """Genes as they were fitted: those with their own counts, those with replaced ones."""
    g, p = fit.gene.beta.shape
    if not isinstance(fit.gene.covariance, np.ndarray):
        msg = (
            f"shrinkage needs a dense design, but this one has {p} columns, most of them levels of "
            "one factor: leave that factor out or analyse fewer of its levels"
        )
        raise InputError(msg)
    if cohort.genes != g or cohort.coefficients != p:
        msg = (
            f"these are {cohort.genes} genes and {cohort.coefficients} coefficients, but the fit "
            f"is of {g} and {p}: pass the cohort it was made from"
        )
        raise InputError(msg)
    touched = np.flatnonzero(contrast)
    if choices.kind == "normal" and len(touched) == 1 and touched[0] in choices.free:
        msg = (
            f"coefficient {touched[0] + 1} is the intercept, a level and no difference: there is "
            "no sense in shrinking it to 0; name another coefficient or a contrast"
        )
        raise InputError(msg)
    fitted = np.all(np.isfinite(fit.gene.beta), axis=1) & (fit.gene.base_mean > 0)
    own = np.flatnonzero(fitted & ~fit.replaced)
    found = [Part(cohort, own, own)] if len(own) else []
    if np.any(fit.replaced & fitted):
        if cells is None:
            if not isinstance(cohort, Pooled):
                msg = "the fit replaced counts: to find them again, give its design cells"
                raise InputError(msg)
            cells = groups(np.asarray(cohort.rows.x))
        new = deseq.replaced(fit, cohort, cells)
        some = np.flatnonzero(fitted[new.genes])
        found.append(Part(new.cohort, some, new.genes[some]))
    return found
