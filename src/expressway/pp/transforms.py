"""Transformed counts as layers."""

import logging
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd

from expressway import _rows, _steps, io
from expressway.core.cohort import Pooled, samples
from expressway.models import deseq, transforms
from expressway.models.cells import groups

from .fitted import Kind, Transform

logger = logging.getLogger(__name__)


def vst(
    adata: anndata.AnnData,
    design: str | None = None,
    *,
    trend: Any = None,
    layer: str | None = None,
    to: str = "vst",
    settings: deseq.Settings = deseq.DEFAULTS,
) -> Transform:
    """The variance-stabilising transformation, its values in a layer: about log2 of large counts.

    DESeq2's ``varianceStabilizingTransformation``, whose dispersion trend comes of all genes (its
    ``vst()`` takes 1,000 of them). For figures, distances and clustering; tests are on counts.

    Parameters
    ----------
    adata
        Samples × genes, raw counts in ``X``: dense or sparse, in memory or on disk. The result is
        dense, eight bytes a value: 100,000 cells × 20,000 genes are 16 GB, so choose genes first.
    design
        Formula over columns of ``obs`` for the dispersions; without it blind, ``~ 1``: nothing of
        the samples is used, but what differs between groups counts as dispersion.
    trend
        parametric, local, mean, or your own, as for `tl.de`; by default that of the settings.
    layer
        Layer that holds the counts instead of ``X``.
    to
        Layer for the result.
    settings
        Of these the kind of size factors and of trend.

    Returns
    -------
    Transform
        To `apply` to other samples, save or pickle.

    Raises
    ------
    io.InputError
        Counts, design or settings cannot be used, or there are fewer than two samples.
    """
    begun = _begin(adata, design, _Choices(trend, layer, settings))
    of = transforms.fit_vst(begun.basis)
    fitted = Transform("vst", begun.genes, begun.sized.log_reference, of, design)
    adata.layers[to] = fitted.values(begun.sized.cohort)
    return fitted


def rlog(
    adata: anndata.AnnData,
    design: str | None = None,
    *,
    trend: Any = None,
    layer: str | None = None,
    to: str = "rlog",
    settings: deseq.Settings = deseq.DEFAULTS,
) -> Transform:
    """The regularised logarithm (DESeq2's ``rlog``), log2, its values in a layer.

    A gene's value in a sample is its level plus an effect of the sample, shrunken the more the
    less its counts say. 0 for genes without a count.

    Parameters
    ----------
    adata, design, trend, layer, to, settings
        As for `vst`.

    Returns
    -------
    Transform
        To `apply` to other samples, save or pickle.

    Raises
    ------
    io.InputError
        As for `vst`.
    """
    begun = _begin(adata, design, _Choices(trend, layer, settings))
    found = transforms.fit_rlog(begun.basis)
    for doubt in found.doubts:
        logger.warning("%s", doubt)
    adata.layers[to] = found.value
    return Transform("rlog", begun.genes, begun.sized.log_reference, found.rlog, design)


def normalise(
    adata: anndata.AnnData,
    *,
    log: bool = False,
    layer: str | None = None,
    to: str | None = None,
    settings: deseq.Settings = deseq.DEFAULTS,
) -> Transform:
    """Counts divided by size factors, in a layer: "normalised", or "log", if wanted, log2(1 + x).

    Parameters
    ----------
    adata, layer, settings
        As for `vst`.
    to
        Layer for the result.

    Raises
    ------
    io.InputError
        Counts cannot be used, or no size factors exist.
    """
    _steps.check_settings(settings)
    kind: Kind = "log" if log else "normalised"
    counts = _rows.counts(adata, layer)
    cohort = Pooled(samples(counts, np.ones((adata.n_obs, 1))))
    sized = transforms.sized(cohort, settings.size_factors)
    genes = tuple(map(str, adata.var_names))
    fitted = Transform(kind, genes, sized.log_reference, None, None)
    adata.layers[to or kind] = fitted.values(sized.cohort)
    return fitted


class _Choices(NamedTuple):
    trend: Any
    layer: str | None
    settings: deseq.Settings


class _Begun(NamedTuple):
    genes: tuple[str, ...]
    sized: transforms.Sized
    basis: transforms.Basis


def _begin(adata: anndata.AnnData, design: str | None, choices: _Choices) -> _Begun:
    """Size factors and the dispersion trend."""
    settings, given = choices.settings, deseq.NOTHING
    if isinstance(choices.trend, str):
        settings = settings._replace(trend=choices.trend)
    else:
        settings, given = _steps.with_trend(settings, choices.trend)
    _steps.check_settings(settings)
    transforms.expect_two(adata.n_obs)
    matrix = np.ones((adata.n_obs, 1))
    if design is not None:
        coded = io.design(design, pd.DataFrame(adata.obs))
        for doubt in coded.warnings:
            logger.warning("%s", doubt)
        matrix = coded.matrix
    cohort = Pooled(samples(_rows.counts(adata, choices.layer), matrix))
    sized = transforms.sized(cohort, settings.size_factors)
    basis = transforms.basis(sized, groups(matrix), settings, given)
    for doubt in _steps.doubts_of(basis.trend, settings.trend):
        logger.warning("%s", doubt)
    return _Begun(tuple(map(str, adata.var_names)), sized, basis)
