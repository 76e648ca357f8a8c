"""Draws of all coefficients of all genes at once, from the normal distribution of their estimates.

``theta = center + L z`` with ``L L' = C`` (`gene_covariance`) and z independent standard normal
numbers. Genes are independent given what they share (size factors, the dispersions' prior), which
the draws do not move.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from expressway._errors import InputError
from expressway._types import Array, Float, Int
from expressway.core.cohort import Cohort
from expressway.core.lowrank import LowRank
from expressway.core.threads import side_by_side

from .deseq import DESeqFit
from .gene_covariance import PIVOT, Drawn, factored, normal
from .joint import MaximumLikelihood

# Genes that share a stream of random numbers.
BLOCK = 64
# Numbers drawn at once: a megabyte stays in a core's cache.
SCRATCH = 2**17
# What a stream is for, so that no two uses of a key share numbers.
COEFFICIENTS, RANKS = 1, 2


class GeneDraws(NamedTuple):
    """Draws of the parameters of some genes, natural log."""

    theta: Float[np.ndarray, "n g q"]
    """A draw, a gene, a parameter: coefficients, and log alpha if it was fitted with them. NaN
    where `status` says so. A view: draws of one parameter are neighbours in memory, so that
    ``np.quantile(theta, …, axis=0)`` reads what it needs in order."""
    status: Int[np.ndarray, "g"]
    """`gene_covariance.Drawn`."""
    kind: str
    method: str
    """``"cholesky"``; ``"low-rank"`` for designs of many columns."""
    genes: Int[np.ndarray, "g"]
    """Places of the genes in the fit."""

    def along(self, contrast: Float[np.ndarray, "p"]) -> Float[np.ndarray, "n g"]:
        """Draws of a contrast of the coefficients: coherent with those of other contrasts."""
        return self.theta[:, :, : len(contrast)] @ np.asarray(contrast, float)


def draws(
    fit: DESeqFit | MaximumLikelihood,
    key: Array,
    n: int,
    *,
    kind: str = "fisher",
    cohort: Cohort | None = None,
    genes: Int[np.ndarray, "k"] | None = None,
    clusters: Array | None = None,
) -> GeneDraws:
    """Draws of all parameters of every gene; they take ``8 n g q`` bytes.

    The numbers depend on the key, n, and the gene's place in the fit: not on which genes are asked
    for, nor on the number of threads.

    Parameters
    ----------
    fit
        What `deseq.fit` or `nb.fit` returned. Of the former coefficients are drawn at given
        dispersions, of the latter log alpha too where it was fitted.
    key
        JAX key.
    n
        How many.
    kind, cohort, genes, clusters
        As for `gene_covariance.normal`.

    Raises
    ------
    InputError
        As for `gene_covariance.normal`, or n is below 1.
    """
    if n < 1:
        msg = f"the number of draws must be 1 or more, but is {n}"
        raise InputError(msg)
    count = len(fit.gene.beta if isinstance(fit, DESeqFit) else fit.beta)
    wanted = np.arange(count) if genes is None else np.asarray(genes)
    places, back = np.unique(wanted, return_inverse=True)
    of = normal(fit, kind, cohort=cohort, genes=places, clusters=clusters)
    status = of.status
    if isinstance(of.covariance, LowRank):
        method, root = "low-rank", _low_rank(of.covariance)
    else:
        method = "cholesky"
        factor, least = factored(of.covariance)
        size = np.max(np.einsum("gqq->gq", of.covariance), axis=1, initial=0.0)
        # What a sandwich of few clusters has below 0 is rounding.
        bad = (status < Drawn.NO_FIT) & ~(least >= -PIVOT * size)
        status = np.where(bad, Drawn.NOT_DEFINITE, status)
        factor[status >= Drawn.NO_FIT] = np.nan
        root = _Dense(factor)
    theta = _filled(of.center, root, places, key, n)
    if not np.array_equal(places, wanted):
        theta, status = theta[back], status[back]
    return GeneDraws(np.moveaxis(theta, 2, 0), status, kind, method, wanted)


def stream(key: Array, use: int, number: int) -> np.random.Generator:
    """NumPy's generator of a JAX key, one of many that are independent."""
    entropy = [int(word) for word in np.asarray(jax.random.key_data(key)).ravel()]
    seed = np.random.SeedSequence(entropy, spawn_key=(use, number))
    return np.random.Generator(np.random.SFC64(seed))


class _Dense(NamedTuple):
    """Lower factors."""

    factor: Float[np.ndarray, "g q q"]

    def times(self, at: slice, z: Float[np.ndarray, "b q n"], out: np.ndarray) -> None:
        np.matmul(self.factor[at], z, out=out)


class _Thin(NamedTuple):
    """Roots ``diag(scale) (I + W diag(stretch) W')`` of a diagonal and few columns."""

    scale: Float[np.ndarray, "g p"]
    axes: Float[np.ndarray, "g p m"]
    stretch: Float[np.ndarray, "g m"]

    def times(self, at: slice, z: Float[np.ndarray, "b p n"], out: np.ndarray) -> None:
        w = self.axes[at]
        np.matmul(w, self.stretch[at][:, :, None] * (w.swapaxes(1, 2) @ z), out=out)
        out += z
        out *= self.scale[at][:, :, None]


def _low_rank(a: LowRank) -> _Thin:
    """Exact roots of ``diag(d) + F K F'``.

    With ``d > 0`` and ``d^(-1/2) F = Q R`` the matrix is ``d^(1/2) (I + Q (R K R') Q') d^(1/2)``,
    whose middle has the eigenvectors ``Q V`` and eigenvalues ``1 + lambda``, those of ``R K R'``
    and 1. Where d is 0 (columns outside the run of levels) a number is added, and taken off in K.
    """
    g, p, m = a.factor.shape
    border = np.flatnonzero(np.all(a.diagonal == 0, axis=0))
    extra = np.zeros((g, p, len(border)))
    extra[:, border, np.arange(len(border))] = 1.0
    wide = np.concatenate([a.factor, extra], axis=2)
    core = np.zeros((g, m + len(border), m + len(border)))
    core[:, :m, :m] = a.core
    at = m + np.arange(len(border))
    size = np.array(a.diagonal)
    diagonal = a.diagonal + np.sum((a.factor @ a.core) * a.factor, axis=2)
    size[:, border] = diagonal[:, border]
    core[:, at, at] = -diagonal[:, border]
    nothing = ~np.all(np.isfinite(size) & (size > 0), axis=1)
    scale = np.sqrt(np.where(nothing[:, None], 1.0, size))
    wide = np.where(nothing[:, None, None], 0.0, wide / scale[:, :, None])
    q, r = np.linalg.qr(wide)
    inside = np.where(nothing[:, None, None], 0.0, r @ core @ r.swapaxes(1, 2))
    value, vector = np.linalg.eigh(0.5 * (inside + inside.swapaxes(1, 2)))
    scale[nothing] = np.nan
    return _Thin(scale, q @ vector, np.sqrt(np.maximum(1.0 + value, 0.0)) - 1.0)


def _filled(
    center: Float[np.ndarray, "g q"],
    root: _Dense | _Thin,
    places: Int[np.ndarray, "g"],
    key: Array,
    n: int,
) -> Float[np.ndarray, "g q n"]:
    """Draws of genes in the order of the fit, blocks of them side by side."""
    g, q = center.shape
    theta = np.empty((g, q, n))
    portion = max(SCRATCH // max(q * n, 1), 1)
    blocks, first = np.unique(places // BLOCK, return_index=True)
    ends = np.append(first, g)

    def fill(i: int) -> None:
        rng = stream(key, COEFFICIENTS, int(blocks[i]))
        own = places[ends[i] : ends[i + 1]] - blocks[i] * BLOCK
        last = int(own[-1]) + 1
        for begin in range(0, last, portion):
            z = rng.standard_normal((min(portion, last - begin), q, n))
            low, high = np.searchsorted(own, [begin, begin + len(z)])
            at = slice(ends[i] + low, ends[i] + high)
            some = z if high - low == len(z) else z[own[low:high] - begin]
            out: Any = theta[at]
            root.times(at, some, out)
            out += center[at][:, :, None]

    side_by_side(fill, range(len(blocks)))
    return theta
