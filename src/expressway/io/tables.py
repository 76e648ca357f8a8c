"""Tables of a fitted analysis, as users read them: log2 units, names instead of positions."""

from collections.abc import Sequence

import anndata
import numpy as np
import pandas as pd

from expressway._types import Bool, Float, Int
from expressway.core import linear
from expressway.core.lowrank import LowRank
from expressway.core.solve import Status
from expressway.models.deseq import DESeqFit
from expressway.models.results import Many, Results
from expressway.models.status import MEANINGS

from .contrast import Differences


def results_table(fit: DESeqFit, results: Results, genes: pd.Index) -> pd.DataFrame:
    """One row a gene: what was found for one contrast.

    ``base_mean`` is the mean of normalised counts; fold change and standard error are log2;
    ``stat`` is their ratio; ``p_adj`` Benjamini-Hochberg after independent filtering; ``status``
    says why a number is missing or doubtful (`models.status.MEANINGS`).
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
    fit's settings) and filter_threshold. ``layers["status"]`` holds places in ``uns["status"]``.
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
        uns={"status": list(MEANINGS)},
    )


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
