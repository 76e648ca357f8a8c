"""Covariance of the coefficients of every gene, for draws and intervals: three kinds.

Estimates theta solve ``sum_n w_n s_n(theta) = 0`` (ridge aside), s_n the score of sample n and w_n
how often it counts. With H minus the derivative of that sum (natural logarithms throughout):

=========  =====================================================================================
fisher     what standard errors are made of: H replaced by its expectation I. DESeq2's
           ``(I + ridge)⁻¹ I (I + ridge)⁻¹`` for its coefficients, ``I⁻¹`` for maximum likelihood
hessian    ``H⁻¹``, the observed information
sandwich   ``H⁻¹ B H⁻¹``, ``B = sum_n w_n² s_n s_n'``: right also where counts are not
           negative binomial, given the mean (White 1982, Econometrica 50:1); with clusters of
           samples, scores are summed within each first. No correction for few samples
=========  =====================================================================================

Dispersions are given for DESeq2's coefficients, and parameters beside them for maximum likelihood.
"""

from enum import IntEnum
from typing import Literal, NamedTuple, get_args

import jax
import numpy as np

from expressway._errors import InputError
from expressway._types import Array, Bool, Float, Int
from expressway.core.arrow import Wide
from expressway.core.cohort import Cohort, Pooled, compiled, rows_of
from expressway.core.draws import numbered
from expressway.core.lowrank import LowRank

from . import influence
from .deseq import DESeqFit
from .gene_scores import clipped, curvature, unclipped
from .joint import SHIFT, MaximumLikelihood, joint
from .means import BOX

Kind = Literal["fisher", "hessian", "sandwich"]
# Of a matrix with a unit diagonal: a pivot below this is rounding.
PIVOT = 1e-12


class Drawn(IntEnum):
    """What became of a gene."""

    OK = 0
    HELD = 1
    """A coefficient at its bound, or a flat dispersion, does not move; the others do."""
    NO_FIT = 2
    """Nothing was fitted: NaN."""
    NOT_DEFINITE = 3
    """The information is not positive definite, so there is no covariance: NaN."""


class Normal(NamedTuple):
    """The normal distribution of the parameters of each gene, natural log."""

    center: Float[np.ndarray, "g q"]
    """The estimates: coefficients, and log alpha if it was fitted with them (q = p + 1)."""
    covariance: Float[np.ndarray, "g q q"] | LowRank
    """NaN where `status` says so."""
    status: Int[np.ndarray, "g"]
    """Of each gene one of `Drawn`."""


def normal(
    fit: DESeqFit | MaximumLikelihood,
    kind: str = "fisher",
    *,
    cohort: Cohort | None = None,
    genes: Int[np.ndarray, "k"] | None = None,
    clusters: Array | None = None,
) -> Normal:
    """Normal distribution of the parameters of each gene.

    Parameters
    ----------
    fit
        What `deseq.fit` or `nb.fit` (of all genes of the cohort) returned.
    kind
        See above.
    cohort
        The rows it was fitted to, with size factors. Not needed for ``"fisher"`` of a `DESeqFit`
        and ``"hessian"`` of a `MaximumLikelihood`.
    genes
        Their indices; all when not given.
    clusters
        Of each sample a label, for ``"sandwich"``: samples of a donor are not independent.

    Raises
    ------
    InputError
        The kind is none, rows are needed and not there or not those of the fit, or clusters cannot
        be used.
    """
    if kind not in get_args(Kind):
        msg = f"kind must be one of {', '.join(get_args(Kind))}, but is {kind}"
        raise InputError(msg)
    if clusters is not None and kind != "sandwich":
        msg = f"clusters matter to kind 'sandwich' only, but kind is {kind!r}: leave them out"
        raise InputError(msg)
    count = len(fit.gene.beta if isinstance(fit, DESeqFit) else fit.beta)
    some = np.arange(count) if genes is None else np.asarray(genes)
    if np.any((some < 0) | (some >= count)):
        msg = (
            f"genes must be indices from 0 to {count - 1}, but go from {some.min()} to {some.max()}"
        )
        raise InputError(msg)
    of = _deseq if isinstance(fit, DESeqFit) else _likelihood
    return of(fit, kind, cohort, some, clusters)  # pyright: ignore[reportArgumentType]


def _deseq(
    fit: DESeqFit,
    kind: str,
    cohort: Cohort | None,
    some: Int[np.ndarray, "k"],
    clusters: Array | None,
) -> Normal:
    """Of DESeq2's coefficients."""
    gene = fit.gene
    center = gene.beta[some].copy()
    fitted = np.all(np.isfinite(center), axis=1) & (gene.base_mean[some] > 0)
    status = np.where(fitted, Drawn.OK, Drawn.NO_FIT)
    if kind == "fisher":
        whole = rows_of(gene.covariance, some)
        leaf = whole.diagonal if isinstance(whole, LowRank) else whole
    else:
        rows = _rows(cohort, kind, len(gene.beta), fit.samples)
        of_all = np.full((len(gene.beta), center.shape[1], center.shape[1]), np.nan)
        labels = None if clusters is None else numbered(clusters, fit.samples)
        wanted = np.zeros(len(gene.beta), bool)
        wanted[some] = True
        for part in influence.parts(fit, rows)[0]:
            keep = wanted[part.place]
            at, place = part.at[keep], part.place[keep]
            found = _grouped(part.cohort, labels).collect(
                compiled(clipped),
                influence.solved(fit, place),
                shared=(_numbers(labels),),
                genes=at,
            )
            of_all[place] = found.bread
            if kind == "sandwich":
                of_all[place] = _both(found.bread, found.middle)
        whole = leaf = of_all[some]
        held = np.any(np.abs(center) >= BOX, axis=1) & gene.boxed[some] & fitted
        status = np.where(held, Drawn.HELD, status)
    bad = fitted & ~np.all(np.isfinite(leaf.reshape(len(leaf), -1)), axis=1)
    status = np.where(bad, Drawn.NOT_DEFINITE, status)
    return _without(center, whole, status)


def _likelihood(
    fit: MaximumLikelihood,
    kind: str,
    cohort: Cohort | None,
    some: Int[np.ndarray, "k"],
    clusters: Array | None,
) -> Normal:
    """Of plain maximum likelihood."""
    p, q = fit.beta.shape[1], fit.information.shape[2]
    center = np.column_stack([fit.beta, fit.log_alpha])[some]
    fitted = np.all(np.isfinite(center), axis=1)
    moves = np.column_stack([np.abs(fit.beta) < BOX, ~fit.flat])[some, :q] & fitted[:, None]
    at = some[fitted]
    theta = center[fitted] - np.eye(p + 1)[p] * SHIFT
    information = fit.information[some]
    if kind == "fisher":
        rows = _rows(cohort, kind, len(fit.beta))
        information = np.full((len(some), q, q), np.nan)
        information[fitted] = 0.0
        information[np.ix_(fitted, range(p), range(p))] = rows.sum(
            joint, theta, None, genes=at
        ).fisher
        if q > p:
            information[fitted, p, p] = rows.sum(curvature, theta, genes=at).expected
    inverted, sure = inverse(information, moves)
    if kind == "sandwich":
        rows = _rows(cohort, kind, len(fit.beta))
        labels = None if clusters is None else numbered(clusters, rows.rows.x.shape[0])
        rows = _grouped(rows, labels)
        shared = (_numbers(labels),)
        middle = rows.collect(compiled(unclipped), theta, shared=shared, genes=at).middle
        inverted[fitted] = _both(inverted[fitted], middle[:, :q, :q])
    status = np.where(np.all(moves, axis=1), Drawn.OK, Drawn.HELD)
    status = np.where(sure, status, Drawn.NOT_DEFINITE)
    status = np.where(fitted, status, Drawn.NO_FIT)
    return _without(center[:, :q], inverted, status)


def _without(
    center: Float[np.ndarray, "g q"], whole: np.ndarray | LowRank, status: Int[np.ndarray, "g"]
) -> Normal:
    """NaN for genes that have no distribution."""
    nothing = status >= Drawn.NO_FIT
    center[nothing] = np.nan

    def emptied(a: np.ndarray) -> np.ndarray:
        a = np.array(a)
        a[nothing] = np.nan
        return a

    return Normal(center, jax.tree.map(emptied, whole), status)


def inverse(
    a: Float[np.ndarray, "g q q"], moves: Bool[np.ndarray, "g q"]
) -> tuple[Float[np.ndarray, "g q q"], Bool[np.ndarray, "g"]]:
    """Inverses in the coordinates that move, 0 in the others, and where they exist.

    A matrix is positive definite here if no pivot of it, its diagonal scaled to 1, is below 1e-12.
    """
    both = moves[:, :, None] & moves[:, None, :]
    size = np.einsum("gqq->gq", a)
    usable = np.all(np.isfinite(a), axis=(1, 2)) & np.all((size > 0) | ~moves, axis=1)
    scale = np.sqrt(np.where(moves & usable[:, None], size, 1.0))
    scale = scale[:, :, None] * scale[:, None, :]
    eye = np.eye(a.shape[1])
    alike = np.where(
        both & usable[:, None, None], np.where(usable[:, None, None], a, 0) / scale, eye
    )
    sure = usable & (factored(alike)[1] > PIVOT)
    alike[~sure] = eye
    return np.where(both, np.linalg.inv(alike) / scale, 0.0), sure


def factored(
    a: Float[np.ndarray, "g q q"],
) -> tuple[Float[np.ndarray, "g q q"], Float[np.ndarray, "g"]]:
    """Lower factors L with ``L L' = a``, and the least pivots; all genes at once.

    Pivots below 1e-12 of their diagonal entry, in which a matrix that is semidefinite has nothing
    left but rounding, leave a column of zeros.
    """
    rest, factor = a.copy(), np.zeros_like(a)
    size = np.einsum("gqq->gq", a).copy()
    least = np.full(len(a), np.inf)
    for j in range(a.shape[1]):
        pivot = rest[:, j, j]
        least = np.minimum(least, pivot)
        some = pivot > PIVOT * size[:, j]
        over = np.where(some, 1.0 / np.sqrt(np.where(some, pivot, 1.0)), 0.0)
        factor[:, j:, j] = rest[:, j:, j] * over[:, None]
        rest[:, j:, j:] -= factor[:, j:, j, None] * factor[:, None, j:, j]
    return factor, least


def _both(
    a: Float[np.ndarray, "g q q"], b: Float[np.ndarray, "g q q"]
) -> Float[np.ndarray, "g q q"]:
    """``a b a``, symmetric to the last digit."""
    found = a @ b @ a
    return 0.5 * (found + found.swapaxes(1, 2))


def _rows(cohort: Cohort | None, kind: str, genes: int, count: int | None = None) -> Pooled:
    """The rows, where they are those of the fit.

    Raises
    ------
    InputError
        They are not, or not here, or their design is wide.
    """
    if not isinstance(cohort, Pooled):
        msg = f"kind {kind!r} needs the rows of the fit in this process: pass its cohort"
        raise InputError(msg)
    x = cohort.rows.x
    n = x.shape[0]
    if cohort.genes != genes or n != (n if count is None else count):
        of = f"{genes} genes" if count is None else f"{count} samples x {genes} genes"
        msg = (
            f"these are {n} samples x {cohort.genes} genes, but the fit is of {of}: pass the "
            "cohort it was made from"
        )
        raise InputError(msg)
    if isinstance(x, Wide):
        msg = (
            f"kind {kind!r} needs a dense design, but this one has {x.shape[1]} columns, most of "
            "them levels of one factor: take kind 'fisher' of a DESeq fit"
        )
        raise InputError(msg)
    return cohort


def _numbers(labels: Int[np.ndarray, "n"] | None) -> Float[np.ndarray, "m"]:
    """As many zeros as there are clusters."""
    return np.zeros(0 if labels is None else int(labels.max()) + 1)


def _grouped(cohort: Pooled, labels: Int[np.ndarray, "n"] | None) -> Pooled:
    """The same rows, with their cluster's number as that of their cell."""
    if labels is None:
        return cohort
    return Pooled(cohort.rows._replace(cell=labels), cohort.tell)
