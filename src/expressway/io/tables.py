"""Tables of a fitted analysis, as users read them: log2 units, names instead of positions."""

import numpy as np
import pandas as pd

from expressway._types import Float, Int
from expressway.core.solve import Status
from expressway.models.deseq import DESeqFit
from expressway.models.results import Results


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
            "status": pd.Categorical(results.status),
        },
        index=pd.Index(genes, name="gene"),
    )


def genes_table(fit: DESeqFit, genes: pd.Index, coefficients: tuple[str, ...]) -> pd.DataFrame:
    """One row a gene: the quantities on the way.

    Dispersions (gene-wise, trend, MAP, final), the largest Cook's distance over samples in design
    cells of three or more, the number of samples above its cutoff, and each coefficient with its
    standard error, log2.
    """
    gene = fit.gene
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
        "coefficients_status": _words(gene.beta_status),
        "dispersion_status": _words(gene.dispersion_status),
    }
    se = np.sqrt(np.diagonal(gene.covariance, axis1=1, axis2=2)) / np.log(2)
    for j, name in enumerate(coefficients):
        table[f"log2:{name}"] = gene.beta[:, j] / np.log(2)
        table[f"se:{name}"] = se[:, j]
    return pd.DataFrame(table, index=pd.Index(genes, name="gene"))


def samples_table(
    log_size_factors: Float[np.ndarray, "n"], library: Float[np.ndarray, "n"], samples: pd.Index
) -> pd.DataFrame:
    """One row a sample: size factor and library size (sum of its counts)."""
    return pd.DataFrame(
        {"size_factor": np.exp(log_size_factors), "library_size": library},
        index=pd.Index(samples, name="sample"),
    )


def _words(status: Int[np.ndarray, "g"]) -> pd.Categorical:
    return pd.Categorical.from_codes(status, [s.name.lower() for s in Status])
