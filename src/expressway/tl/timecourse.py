"""Curves over time and their clusters."""

from collections.abc import Sequence

import anndata
import numpy as np

from expressway import timecourse as courses
from expressway.models import course, deseq


def timecourse(
    adata: anndata.AnnData,
    time: str,
    *,
    df: int | Sequence[int] | None = None,
    clusters: int | Sequence[int] = 10,
    group: str | None = None,
    replicate: str | None = None,
    leave_out: int | Sequence[int] = 1,
    of: course.Of = "times",
    among: Sequence[float | int] | None = None,
    cv: courses.CV = "both",
    test_genes: int = 0,
    counts: bool = False,
    layer: str | None = None,
    settings: courses.Settings = courses.DEFAULTS,
    start: courses.Courses | None = None,
    watch: deseq.Watch = lambda _: None,
) -> courses.Courses:
    """Curves of every gene over time, clusters of the curves, and cross-validation.

    Spline regression of each gene (weighted least squares, or negative-binomial for counts), then
    a mixture of the centred curves with the precision that each gene has (`models.mixture`); the
    smoothness is chosen by leaving out time points, predicted by the infinitesimal jackknife and
    fitted again (Giordano et al. 2019, AISTATS).

    Parameters
    ----------
    adata
        Samples × genes: expression, or counts. Gets ``var["cluster"]``,
        ``var["cluster_probability"]`` and ``uns["timecourse"]`` (df and the table of errors).
    time
        Column of ``obs``: numbers, of any unit.
    df
        Columns of the spline, the constant among its span; several to choose from. When not
        given, 4 to 8 as far as there are distinct times (where knots are given, theirs).
    clusters
        How many; several to choose from, by the likelihood of genes left out.
    group
        Column of ``obs``: each group has its own curve, and genes are clustered by all of them.
    replicate
        Column of ``obs`` that says which series a sample belongs to, for ``of="replicates"``.
    leave_out
        How many time points (samples, replicate series) are left out together; several sizes are
        tried one after the other, and the first decides on df.
    of
        What is left out.
    among
        Times that may be left out; all that are part of the spline when not given.
    cv
        ``"jackknife"``: predicted errors, ``"exact"`` and ``"both"``: also refitted; ``"none"``.
    test_genes
        How many genes, drawn at random, are held out of clustering to test it.
    counts
        ``X`` has counts.
    layer
        Layer to use instead of ``X``.
    settings
        Further choices; ``timecourse.PUBLISHED`` has those of the published code.
    start
        An analysis whose clusters are gone on from, where it has the same df and number.
    watch
        Called with the name of each stage as it begins.

    Returns
    -------
    Courses
        ``clusters()``, ``curves()``, ``influence()``, ``cv``, ``differential``, ``leave_out()``,
        ``save()`` and more.

    Raises
    ------
    io.InputError
        The data or a choice cannot be used: one line that says why and what to do.
    """
    found = courses.analyse(
        adata,
        time,
        df=df,
        clusters=clusters,
        group=group,
        replicate=replicate,
        leave_out=leave_out,
        of=of,
        among=among,
        cv=cv,
        test_genes=test_genes,
        counts=counts,
        layer=layer,
        settings=settings,
        start=start,
        watch=watch,
    )
    table = found.clusters()
    adata.var["cluster"] = table["cluster"].to_numpy(float, na_value=np.nan)
    adata.var["cluster_probability"] = table["probability"].to_numpy(float)
    adata.uns["timecourse"] = {"df": found.chosen, "cv": found.cv.copy()}
    return found
