"""Tables of a fitted analysis, as users read them: log2 units, names instead of positions."""

from collections.abc import Sequence
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd

from expressway._types import Bool, Float, Int
from expressway.core import linear
from expressway.core.lowrank import LowRank
from expressway.core.solve import Status
from expressway.models.deseq import DESeqFit
from expressway.models.gene_covariance import Drawn, Normal
from expressway.models.gene_ranks import Intervals, Ranks
from expressway.models.results import Many, Results
from expressway.models.shrinkage import Shrunken
from expressway.models.status import MEANINGS, codes, touches
from expressway.models.survival import CALLS, Survival

from .contrast import Differences


def results_table(fit: DESeqFit, results: Results, genes: pd.Index) -> pd.DataFrame:
    """One row a gene: what was found for one contrast.

    ``base_mean`` is the mean of normalised counts; fold change and standard error are log2;
    ``stat`` is their ratio, or as `models.wald.against` has it; ``p_adj`` Benjamini-Hochberg after
    independent filtering; ``status`` says why a number is missing or doubtful
    (`models.status.MEANINGS`).
    """
    return pd.DataFrame(
        {
            "base_mean": fit.gene.base_mean,
            "log2_fold_change": results.wald.log2_fold_change,
            "lfc_se": results.wald.se,
            "stat": results.wald.stat,
            "p_value": results.wald.p_value,
            "p_adj": results.adjusted.p_adj,
            "dispersion": fit.gene.dispersion,
            "status": pd.Categorical(results.status, categories=list(MEANINGS)),
        },
        index=pd.Index(genes, name="gene"),
    )


def contrasts_table(
    fit: DESeqFit, found: Many, wanted: Differences, genes: pd.Index
) -> anndata.AnnData:
    """Contrasts × genes: the columns of `results_table` as layers, and what is true of a contrast.

    ``obs``: level, tested (genes with an adjusted p-value), up and down (those below alpha of the
    fit's settings) and filter_threshold. ``layers["status"]`` holds places in ``uns["status"]``;
    ``uns`` also has what was tested: lfc_threshold (log2) and alternative.
    """
    called = found.p_adj < fit.settings.alpha
    change = found.wald.log2_fold_change
    contrasts = {
        "level": wanted.levels,
        "tested": np.sum(~np.isnan(found.p_adj), axis=1),
        "up": np.sum(called & (change > 0), axis=1),
        "down": np.sum(called & (change < 0), axis=1),
        "filter_threshold": found.threshold,
    }
    layers = {
        "log2_fold_change": change,
        "lfc_se": found.wald.se,
        "stat": found.wald.stat,
        "p_value": found.wald.p_value,
        "p_adj": found.p_adj,
        "status": found.status,
    }
    var = {"base_mean": fit.gene.base_mean, "dispersion": fit.gene.dispersion}
    return anndata.AnnData(
        obs=pd.DataFrame(contrasts, index=pd.Index(wanted.names, name="contrast")),
        var=pd.DataFrame(var, index=pd.Index(genes, name="gene")),
        layers=layers,
        uns={
            "status": list(MEANINGS),
            "lfc_threshold": float(found.tested.value),
            "alternative": found.tested.alternative,
        },
    )


def intervals_table(
    results: Results, of: Normal, ends: Intervals, ranks: Ranks, genes: pd.Index
) -> pd.DataFrame:
    """One row a gene: intervals of its fold change (log2) and of its rank.

    ``status`` as in `results_table`, or ``not_definite``: the information is not positive definite.
    """
    status = np.where(of.status == Drawn.NOT_DEFINITE, "not_definite", results.status)
    return pd.DataFrame(
        {
            "log2_fold_change": results.wald.log2_fold_change,
            "lower": ends.lower / np.log(2),
            "upper": ends.upper / np.log(2),
            "probability_up": ends.above,
            "rank": ranks.rank,
            "rank_lower": ranks.lower,
            "rank_upper": ranks.upper,
            "probability_top": ranks.top,
            "status": pd.Categorical(status, categories=[*MEANINGS, "not_definite"]),
        },
        index=pd.Index(genes, name="gene"),
    )


def shrunken_table(
    fit: DESeqFit,
    results: Results,
    found: Shrunken,
    contrast: Float[np.ndarray, "p"],
    genes: pd.Index,
) -> pd.DataFrame:
    """One row a gene: the posterior of its fold change (log2), and what the data alone say.

    ``status`` as in `results_table`, but never ``low_count``: no gene is filtered.
    """
    shared = linear.quadratic(fit.gene.unsupported, contrast)
    separated = touches(shared, np.asarray(contrast @ contrast))
    no_counts = np.asarray(results.status == "no_counts", bool)
    words = np.array(list(MEANINGS), dtype=object)
    status = words[codes(fit, separated, no_counts, np.zeros_like(no_counts))]
    status = np.where(found.status == Status.OK, status, "not_converged")
    table = {
        "base_mean": fit.gene.base_mean,
        "log2_fold_change": found.log2_fold_change,
        "posterior_sd": found.posterior_sd,
        "lfc_se": found.se,
        "lower": found.lower,
        "upper": found.upper,
        "lfsr": found.lfsr,
        "s_value": found.s_value,
        "log2_fold_change_mle": results.wald.log2_fold_change,
        "lfc_se_mle": results.wald.se,
        "status": pd.Categorical(status, categories=list(MEANINGS)),
    }
    return pd.DataFrame(table, index=pd.Index(genes, name="gene"))


class Influences(NamedTuple):
    """What leaving each sample out changes of a contrast, log2, and what becomes of the calls."""

    log2_fold_change: Float[np.ndarray, "n g"]
    lfc_se: Float[np.ndarray, "n g"]
    stat: Float[np.ndarray, "n g"]
    calls: Survival
    held: Bool[np.ndarray, "g"]
    frozen: tuple[str, ...]


def influence_table(
    found: Influences, table: pd.DataFrame, obs: pd.DataFrame, about: dict[str, str]
) -> anndata.AnnData:
    """Samples × genes: changes as layers, a row a gene in ``var``.

    ``var``: the columns of `results_table`; ``most_influential``, the sample without which the
    statistic changes most, and ``change_log2_fold_change`` and ``change_stat`` without it; ``call``
    (`models.survival.CALLS`), ``lost_without``, the sample without which the statistic is weakest,
    if the call is lost, and ``losses``, the number of samples without which it is.
    ``layers["exact"]``: pairs whose call was judged by a refit.
    """
    names = np.append(obs.index.to_numpy(dtype=object), "")
    stat = np.where(np.isfinite(found.stat), np.abs(found.stat), -1.0)
    most = np.where(np.max(stat, axis=0) > 0, np.argmax(stat, axis=0), -1)
    at = (np.maximum(most, 0), np.arange(len(most)))
    calls = found.calls
    lost = list(CALLS).index("lost")
    new = {
        "most_influential": names[most],
        "change_log2_fold_change": np.where(most >= 0, found.log2_fold_change[at], np.nan),
        "change_stat": np.where(most >= 0, found.stat[at], np.nan),
        "call": pd.Categorical.from_codes(calls.call, list(CALLS)),
        "lost_without": names[np.where(calls.call == lost, calls.worst, -1)],
        "losses": calls.losses,
        "dispersion_held": found.held,
    }
    return anndata.AnnData(
        obs=obs,
        var=pd.concat([table, pd.DataFrame(new, index=table.index)], axis=1),
        layers={
            "log2_fold_change": found.log2_fold_change,
            "lfc_se": found.lfc_se,
            "stat": found.stat,
            "exact": calls.exact,
        },
        uns={**about, "frozen": list(found.frozen), "stat_cut": calls.cut},
    )


def survival_table(found: anndata.AnnData) -> pd.DataFrame:
    """One row a gene of `influence_table`: its call in words, and the most influential sample.

    ``call``: survives, "lost without SAMPLE" (the one without which the statistic is weakest),
    untestable, not_called.
    """
    var = pd.DataFrame(found.var)
    pairs = zip(var["call"].astype(str), var["lost_without"].astype(str), strict=True)
    words = [f"{call} without {sample}" if sample else call for call, sample in pairs]
    table = var[["losses", "most_influential", "change_log2_fold_change", "change_stat"]].copy()
    table.insert(0, "call", np.array(words, dtype=object))
    return pd.DataFrame(table)


def genes_table(fit: DESeqFit, genes: pd.Index) -> pd.DataFrame:
    """One row a gene: the quantities on the way.

    Dispersions (gene-wise, trend, MAP, final), the largest Cook's distance over samples in design
    cells of three or more, and the number of samples above its cutoff.
    """
    gene = fit.gene
    fitted = ~np.isnan(gene.dispersion)
    table = {
        "base_mean": gene.base_mean,
        "base_variance": gene.base_variance,
        "dispersion_gene_wise": gene.dispersion_gene_wise,
        "dispersion_trend": gene.dispersion_trend,
        "dispersion_map": gene.dispersion_map,
        "dispersion": gene.dispersion,
        "dispersion_outlier": gene.dispersion_outlier,
        "max_cooks": fit.max_cooks,
        "flagged": fit.flagged.astype(int),
        "outlier": fit.outlier,
        "replaced": fit.replaced,
        "boxed": gene.boxed,
        "coefficients_status": _words(gene.beta_status, fitted),
        "dispersion_status": _words(gene.dispersion_status, fitted),
    }
    return pd.DataFrame(table, index=pd.Index(genes, name="gene"))


def coefficients_table(
    beta: Float[np.ndarray, "g p"],
    covariance: Float[np.ndarray, "g p p"] | LowRank,
    names: Sequence[str],
    genes: pd.Index,
) -> pd.DataFrame:
    """One row a gene: each coefficient (``log2:NAME``) and its standard error (``se:NAME``), log2.

    Parameters
    ----------
    beta, covariance
        Coefficients and their covariance, natural log.
    names
        Of the coefficients.
    """
    se = np.sqrt(linear.diagonal(covariance)) / np.log(2)
    table = {}
    for j, name in enumerate(names):
        table[f"log2:{name}"] = beta[:, j] / np.log(2)
        table[f"se:{name}"] = se[:, j]
    return pd.DataFrame(table, index=pd.Index(genes, name="gene"))


def samples_table(
    log_size_factors: Float[np.ndarray, "n"], library: Int[np.ndarray, "n"], samples: pd.Index
) -> pd.DataFrame:
    """One row a sample: size factor and library size (sum of its counts)."""
    return pd.DataFrame(
        {"size_factor": np.exp(log_size_factors), "library_size": library},
        index=pd.Index(samples, name="sample"),
    )


def _words(status: Int[np.ndarray, "g"], fitted: Bool[np.ndarray, "g"]) -> pd.Categorical:
    """What solvers said of each gene; nothing of genes that they did not see."""
    return pd.Categorical.from_codes(np.where(fitted, status, -1), [s.name.lower() for s in Status])
