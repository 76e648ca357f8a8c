"""What the analysis that `de` stored owes to each sample, and how sure it is of a ranking."""

import anndata
import pandas as pd

from expressway import _rows, _steps, _store, io
from expressway._types import Array
from expressway.io.contrast import ContrastSpec
from expressway.models import gene_covariance, gene_ranks


def influence(
    adata: anndata.AnnData,
    contrast: ContrastSpec | None = None,
    *,
    key: str = "de",
    kind: str = "conditional",
    exact: bool = False,
) -> anndata.AnnData:
    """Samples × genes: what leaving each sample out would change, and which calls survive it.

    Parameters
    ----------
    adata
        As `de` left it, with its counts; it stays as it is.
    contrast
        As for `de`.
    key
        Name under which `de` stored its results.
    kind
        ``"conditional"``: size factors and dispersions are kept. ``"pipeline"``: dispersions and
        their trend are fitted again too. What else is kept is listed in ``uns["frozen"]``.
    exact
        Fit everything again without each sample. Otherwise changes are predicted from derivatives
        of the fit and one step of Newton's method, and only calls in doubt are fitted again.

    Returns
    -------
    AnnData
        Layers log2_fold_change, lfc_se and stat: the value without the sample less that with it.
        NaN for genes without a fit and where nothing can be estimated without the sample.
        ``layers["exact"]``: pairs whose call was judged by a refit. ``var``: the contrast's table
        and most_influential (the sample without which stat changes most),
        change_log2_fold_change, change_stat (without it), call (by Wald's test of no change,
        whatever was tested last; survives: it is called without any single sample too; lost;
        untestable; not_called), lost_without (the sample, where a call is lost), losses (how many
        samples' absence loses it). A call without a sample is judged by ``uns["stat_cut"]``, the
        statistic at which adjusted p-values pass alpha.

    Raises
    ------
    io.InputError
        As for `contrast`; the counts or, for ``"pipeline"``, some of the genes are not there; or
        the design has too many columns.
    """
    fit, origin = _store.load_fit(adata, key)
    wanted = io.contrast(origin.coded, contrast)
    sizes = _store.log_sizes(adata, key)
    cohort = _rows.cohort(adata, origin.coded, origin.layer, sizes, origin.inputs)
    found = _steps.influence(fit, wanted, cohort, kind, exact=exact)
    table, _ = _steps.test(fit, wanted, adata.var_names)
    about = {"contrast": wanted.name, "kind": kind}
    return io.influence_table(found, table, pd.DataFrame(adata.obs).copy(), about)


def intervals(
    adata: anndata.AnnData,
    contrast: ContrastSpec | None = None,
    *,
    key: str = "de",
    interval: float = 0.9,
    kind: str = "fisher",
    clusters: str | None = None,
    top: int = 100,
    by: str = "magnitude",
    draws: int = 1000,
    seed: int | Array = 0,
) -> pd.DataFrame:
    """Table of intervals: of each gene's fold change, and of its rank among the genes.

    Coefficients are normal about their estimates (`models.gene_covariance`), genes independent.
    Intervals of fold changes have a closed form, those of ranks come from draws.

    Parameters
    ----------
    adata
        As `de` left it; it stays as it is. Counts are needed unless the kind is ``"fisher"``.
    contrast
        As for `de`.
    key
        Name under which `de` stored its results.
    interval
        Level of the intervals.
    kind
        ``"fisher"``: the covariance of the standard errors; ``"hessian"``: from the observed
        information; ``"sandwich"``: from the scatter of samples, whatever the distribution of
        counts. The latter is too small where samples are few (`docs/draws.md`).
    clusters
        Column of ``obs``, for ``"sandwich"``: samples of one value are not independent.
    top
        How many genes are "the top": probability_top is of being one of them.
    by
        Genes are ranked by the ``"magnitude"`` of fold changes, or by fold changes from the
        largest ("up") or from the least ("down").
    draws
        Draws of ranks: a probability of .5 is known to within .016 with 1,000.
    seed
        Of the draws: a number, or a JAX key.

    Returns
    -------
    DataFrame
        Index gene; log2_fold_change, lower, upper (log2), probability_up (of a fold change above
        0), rank (median; 1 is the first), rank_lower, rank_upper, probability_top, status. Genes
        with an adjusted p-value are ranked: neither those that were filtered, which have noise
        only to be first with, nor outliers, nor genes without counts, nor those not converged.

    Raises
    ------
    io.InputError
        As for `contrast`; a choice cannot be used; or counts are needed and not there, or the
        design has too many columns for the kind.
    """
    choices = gene_ranks.Choices(draws, interval, top, by)
    gene_ranks.check(choices)
    fit, origin = _store.load_fit(adata, key)
    wanted = io.contrast(origin.coded, contrast)
    rows = None
    if kind != "fisher":
        sizes = _store.log_sizes(adata, key)
        rows = _rows.cohort(adata, origin.coded, origin.layer, sizes, origin.inputs)
    labels = _rows.labels(adata, clusters)
    of = gene_covariance.normal(fit, kind, cohort=rows, clusters=labels)
    return _steps.intervals(fit, wanted, of, choices, seed, adata.var_names)
