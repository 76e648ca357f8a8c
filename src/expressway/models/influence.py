"""Influence of every sample on every test of a fitted analysis: derivatives in `Samples.weight`.

**Conditional**: dispersions, size factors and everything discrete stay as they are. **Pipeline**:
dispersions, their trend and the prior move too; `FROZEN` lists what stays. To first order leaving a
sample out changes a number by minus its derivative; `leave_out` has the exact changes.
"""

from typing import NamedTuple, cast

import numpy as np

from expressway._errors import InputError
from expressway._types import Bool, Float, Int
from expressway.core.arrow import Wide
from expressway.core.cohort import Cohort, Pooled, compiled

from . import sensitivity
from .cells import groups
from .deseq import DESeqFit, replaced
from .genes import Gene
from .means import BOX, MIN_MU

FROZEN = {
    "conditional": (
        "size factors",
        "dispersions",
        "replaced counts",
        "Cook's flags",
        "which equation each gene's coefficients solve",
        "coefficients at a bound",
    ),
}


class Influence(NamedTuple):
    """Derivatives in the weight of each sample, at the weights of the rows; natural log.

    NaN for genes without a fit.
    """

    estimate: Float[np.ndarray, "q n g"]
    """Of each contrast c'b."""
    se: Float[np.ndarray, "q n g"]
    stat: Float[np.ndarray, "q n g"]
    leverage: Float[np.ndarray, "n g"]
    """The sample's share of the gene's information: a sample left out moves the coefficients about
    ``1 / (1 - share)`` times as far as the derivative says."""
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

    def whole(part: list[np.ndarray]) -> np.ndarray:
        one = np.full((g, *part[0].shape[1:-1], n), np.nan)
        for (place, _), values in zip(found, part, strict=True):
            one[place] = values[..., :n]
        return np.moveaxis(one, 0, -1)

    effects = [effect for _, effect in found]
    return Influence(
        *(whole([e.tested[k] for e in effects]) for k in range(3)),
        leverage=whole([e.leverage for e in effects]),
        log_alpha=whole([e.log_alpha for e in effects]),
        held=held,
        frozen=frozen,
    )
