"""Where an analysis lies in an AnnData: plain arrays and tables, so that it pickles and saves.

Under a key, "de" by default: ``varm[key]`` the results of a contrast; ``varm[key_genes]`` the
quantities on the way; ``varm[key_covariance]`` and ``varm[key_unsupported]`` matrices of the
coefficients, flattened; ``obsm[key_samples]`` size factors; ``uns[key]`` everything else.
"""

from typing import Any

import anndata
import numpy as np
import pandas as pd

from expressway import io
from expressway.core.cohort import Pooled
from expressway.core.solve import Status
from expressway.io.design import Design
from expressway.models import deseq, results, trend

# Columns of the genes table that are fields of `deseq.Gene`, and of `deseq.DESeqFit`.
_GENE = (
    "base_mean",
    "base_variance",
    "dispersion_gene_wise",
    "dispersion_trend",
    "dispersion_map",
    "dispersion",
    "dispersion_outlier",
    "boxed",
)
_FIT = ("max_cooks", "flagged", "outlier", "replaced")


def store_fit(
    adata: anndata.AnnData, key: str, fit: deseq.DESeqFit, coded: Design, layer: str | None
) -> None:
    """Put a fit into an AnnData, in place of an earlier one."""
    g = adata.n_vars
    adata.varm[f"{key}_genes"] = io.genes_table(fit, adata.var_names, coded.names)
    adata.varm[f"{key}_covariance"] = fit.gene.covariance.reshape(g, -1)
    adata.varm[f"{key}_unsupported"] = fit.gene.unsupported.reshape(g, -1)
    adata.uns[key] = {
        "design": coded.formula,
        "layer": layer or "",
        "coefficients": list(coded.names),
        "levels": {factor: list(levels) for factor, levels in coded.levels.items()},
        "trend": fit.trend._asdict(),
        "prior_variance": fit.prior_variance,
        "samples": fit.samples,
        "linear_means": fit.linear_means,
        "cooks_cutoff": fit.cooks_cutoff,
        "settings": {k: "" if v is None else v for k, v in fit.settings._asdict().items()},
    }


def load_fit(adata: anndata.AnnData, key: str) -> tuple[deseq.DESeqFit, Design, str | None]:
    """The fit that `store_fit` put there, its design, and the layer of its counts.

    Raises
    ------
    InputError
        There is none, or ``obs`` no longer gives the design it was made with.
    """
    if key not in adata.uns or f"{key}_genes" not in adata.varm:
        msg = f"no analysis is stored under {key!r}; run expressway.tl.de first"
        raise io.InputError(msg)
    stored: dict[str, Any] = adata.uns[key]
    first = {factor: str(levels[0]) for factor, levels in stored["levels"].items()}
    coded = io.design(str(stored["design"]), adata.obs, first)
    if list(coded.names) != list(stored["coefficients"]):
        msg = f"the samples changed since the analysis {key!r}: run expressway.tl.de again"
        raise io.InputError(msg)
    table: pd.DataFrame = adata.varm[f"{key}_genes"]
    p = len(coded.names)
    beta = table[[f"log2:{name}" for name in coded.names]].to_numpy() * np.log(2)
    settings = {k: None if v == "" else v for k, v in stored["settings"].items()}
    gene = deseq.Gene(
        **{name: table[name].to_numpy() for name in _GENE},
        dispersion_status=_codes(table["dispersion_status"]),
        beta=beta,
        covariance=np.asarray(adata.varm[f"{key}_covariance"]).reshape(-1, p, p),
        beta_status=_codes(table["coefficients_status"]),
        unsupported=np.asarray(adata.varm[f"{key}_unsupported"]).reshape(-1, p, p),
    )
    fit = deseq.DESeqFit(
        gene=gene,
        trend=trend.Trend(**stored["trend"]),
        prior_variance=float(stored["prior_variance"]),
        samples=int(stored["samples"]),
        linear_means=bool(stored["linear_means"]),
        cooks_cutoff=float(stored["cooks_cutoff"]),
        **{name: table[name].to_numpy() for name in _FIT},
        settings=deseq.Settings(**settings),
    )
    return fit, coded, str(stored["layer"]) or None


def store_results(
    adata: anndata.AnnData, key: str, table: pd.DataFrame, found: results.Results, name: str
) -> None:
    """Put the table of a contrast into an AnnData, in place of an earlier one."""
    adata.varm[key] = table
    adata.uns[key] |= {"contrast": name, "filter_threshold": found.adjusted.threshold}


def store_samples(adata: anndata.AnnData, key: str, cohort: Pooled) -> None:
    """Put size factors and library sizes into an AnnData."""
    rows = cohort.rows
    library = np.asarray(rows.y.sum(axis=1), dtype=float).ravel()
    table = io.samples_table(np.asarray(rows.offset)[:, 0], library, adata.obs_names)
    adata.obsm[f"{key}_samples"] = table


def _codes(words: pd.Series) -> np.ndarray:
    return np.array([Status[str(word).upper()] for word in words], dtype=int)
