"""Clusters of genes along time or pseudotime."""

from collections.abc import Mapping, Sequence

import anndata
import numpy as np

from expressway import clustering
from expressway.models import deseq


def cluster(
    adata: anndata.AnnData,
    along: str | Sequence[str],
    *,
    basis: str = "rbf:3",
    centers: Sequence[float | int] | None = None,
    length: float | int | None = None,
    weights: str | Sequence[str] | None = None,
    design: str | None = None,
    covariates: str | None = None,
    size_factors: str | Sequence[float] | np.ndarray = "auto",
    time_sd: str | Sequence[str] | None = None,
    orthonormal: bool = True,
    prior: clustering.Prior | Mapping[str, clustering.Prior] | None = None,
    layer: str | None = None,
    settings: clustering.Settings = clustering.DEFAULTS,
    watch: deseq.Watch = lambda _: None,
) -> clustering.Clusters:
    """Genes clustered by the coefficients of their curves along time or pseudotime.

    Negative-binomial curves, ``log mean = log size factor + x(t)'b_g``; each coefficient and the
    log dispersion has a Dirichlet-process mixture of normals over genes, and so have all
    coefficients together (modules). By coordinate-ascent variational inference with splits and
    merges (`models.gene_clusters`).

    Parameters
    ----------
    adata
        Samples × genes, raw counts in ``X``. Gets ``var["module"]`` and
        ``var["module_probability"]``.
    along
        Column of ``obs`` with time or pseudotime; several for several lineages.
    basis
        ``"rbf:3"``: three radial functions; ``"spline:5"``, ``"natural:4"``, ``"cyclic:4"``. The
        number is of columns beside the level.
    centers, length
        Of radial functions, in the unit of time; equally spaced when not given.
    weights
        Columns with the samples' weights in each lineage: they multiply the basis.
    design
        A formula of your own instead of a basis: ``"~ bs(pseudotime, df=4)"``.
    covariates
        Formula of what else changes means, ``"~ batch"``: not clustered.
    size_factors
        ``"ratio"``, ``"poscounts"``, ``"library"``, ``"none"``, a column of ``obs``, or the factors
        themselves. ``"auto"``: ratio if 100 genes have no zero, none with fewer than 100 genes,
        else library.
    time_sd
        Column with the standard deviation of each sample's pseudotime (one a lineage): its
        uncertainty is added to that of the coefficients.
    orthonormal
        Whether coefficients are those of an orthonormal basis. Those of a raw basis are often not
        identified.
    prior
        Of the mixtures; by name of coordinate (``level``, ``basis[1]``, …, ``log_dispersion``,
        ``default``) where they differ. ``clustering.REQUEST`` has wide components only.
    layer
        Layer that holds the counts instead of ``X``.
    settings
        Further choices.
    watch
        Called with the name of each stage as it begins.

    Returns
    -------
    Clusters
        ``coefficients()``, ``clusters()``, ``modules()``, ``components()``, ``curves()``,
        ``again(prior)``, ``sensitivity()``, ``save()`` and more.

    Raises
    ------
    io.InputError
        The data or a choice cannot be used: one line that says why and what to do.
    """
    found = clustering.analyse(
        adata,
        along,
        basis=basis,
        centers=centers,
        length=length,
        weights=weights,
        design=design,
        covariates=covariates,
        size_factors=size_factors,
        time_sd=time_sd,
        orthonormal=orthonormal,
        prior=prior,
        layer=layer,
        settings=settings,
        watch=watch,
    )
    table = found.modules()
    adata.var["module"] = table["module"].to_numpy(float, na_value=np.nan)
    adata.var["module_probability"] = table["probability"].to_numpy(float)
    return found
