"""Where an analysis lies in an AnnData: plain arrays and tables, so that it pickles and saves.

Under a key, "de" by default: ``varm[key]`` the results of a contrast; ``varm[key_genes]`` the
quantities on the way; ``varm[key_beta]`` the coefficients, natural log; ``varm[key_covariance]``,
``varm[key_unsupported]`` and ``varm[key_positive]`` their matrices, flattened;
``obsm[key_samples]`` size factors; ``obsm[key_design]`` the design matrix; ``uns[key]`` everything
else. Names of coefficients stand in ``uns`` only: a slash in them must not become a name in an
h5ad file.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd

from expressway import io
from expressway.core.cohort import Samples
from expressway.core.solve import Status
from expressway.core.sparse import library_size
from expressway.io.agreement import Column, of_columns
from expressway.io.design import Design
from expressway.io.factors import is_number
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


class Origin(NamedTuple):
    """What an analysis was made from, beside the counts."""

    coded: Design
    reference: Mapping[str, str]
    """Reference levels that the design was made with."""
    layer: str | None
    """Layer of the counts."""


def store_fit(adata: anndata.AnnData, key: str, fit: deseq.DESeqFit, origin: Origin) -> None:
    """Put a fit into an AnnData, in place of an earlier one."""
    g, coded = adata.n_vars, origin.coded
    adata.varm[f"{key}_genes"] = io.genes_table(fit, adata.var_names)
    adata.varm[f"{key}_beta"] = fit.gene.beta
    adata.varm[f"{key}_covariance"] = fit.gene.covariance.reshape(g, -1)
    adata.varm[f"{key}_unsupported"] = fit.gene.unsupported.reshape(g, -1)
    adata.varm[f"{key}_positive"] = fit.gene.positive.reshape(g, -1)
    adata.obsm[f"{key}_design"] = coded.matrix
    adata.uns[key] = {
        "design": coded.formula,
        "layer": origin.layer or "",
        "coefficients": list(coded.names),
        "levels": {factor: list(levels) for factor, levels in coded.levels.items()},
        "reference": dict(origin.reference),
        "trend": fit.trend._asdict(),
        "prior_variance": fit.prior_variance,
        "samples": fit.samples,
        "linear_means": fit.linear_means,
        "cooks_cutoff": fit.cooks_cutoff,
        "settings": {k: "" if v is None else v for k, v in fit.settings._asdict().items()},
    }


def load_fit(adata: anndata.AnnData, key: str) -> tuple[deseq.DESeqFit, Origin]:
    """The fit that `store_fit` put there, and what it was made from.

    Raises
    ------
    InputError
        There is none, or ``obs`` no longer gives the design it was made with.
    """
    if key not in adata.uns or f"{key}_genes" not in adata.varm:
        msg = f"no analysis is stored under {key!r}; run expressway.tl.de first"
        raise io.InputError(msg)
    stored: dict[str, Any] = adata.uns[key]
    reference = {str(column): str(level) for column, level in stored["reference"].items()}
    origin = Origin(_design(adata, key, reference), reference, str(stored["layer"]) or None)
    table: Any = adata.varm[f"{key}_genes"]
    p = len(origin.coded.names)
    settings: Any = {k: None if v == "" else v for k, v in stored["settings"].items()}
    gene = deseq.Gene(
        **{name: table[name].to_numpy() for name in _GENE},
        dispersion_status=_codes(table["dispersion_status"]),
        beta=np.asarray(adata.varm[f"{key}_beta"]),
        covariance=np.asarray(adata.varm[f"{key}_covariance"]).reshape(-1, p, p),
        inverse=np.full((adata.n_vars, p, p), np.nan),  # for Cook's distances, which are done
        beta_status=_codes(table["coefficients_status"]),
        unsupported=np.asarray(adata.varm[f"{key}_unsupported"]).reshape(-1, p, p),
        positive=np.asarray(adata.varm[f"{key}_positive"]).reshape(-1, p + 1, p + 1),
    )
    fit = deseq.DESeqFit(
        gene=gene,
        trend=trend.Trend(**stored["trend"]),
        prior_variance=float(stored["prior_variance"]),
        samples=int(stored["samples"]),
        linear_means=bool(stored["linear_means"]),
        cooks_cutoff=float(stored["cooks_cutoff"]),
        **{name: _column(table, name) for name in _FIT},
        settings=deseq.Settings(**settings),
    )
    return fit, origin


def store_results(
    adata: anndata.AnnData, key: str, table: pd.DataFrame, found: results.Results, name: str
) -> None:
    """Put the table of a contrast into an AnnData, in place of an earlier one."""
    adata.varm[key] = table.copy()
    adata.uns[key] |= {"contrast": name, "filter_threshold": found.adjusted.threshold}


def store_samples(adata: anndata.AnnData, key: str, rows: Samples) -> None:
    """Put size factors and library sizes into an AnnData."""
    library = library_size(rows.y).astype(int)
    sizes = io.samples_table(np.asarray(rows.offset)[:, 0], library, adata.obs_names)
    adata.obsm[f"{key}_samples"] = sizes


def coefficients(adata: anndata.AnnData, key: str) -> pd.DataFrame:
    """Each coefficient of each gene and its standard error (see `io.coefficients_table`)."""
    names = [str(name) for name in adata.uns[key]["coefficients"]]
    beta = np.asarray(adata.varm[f"{key}_beta"])
    covariance = np.asarray(adata.varm[f"{key}_covariance"]).reshape(-1, len(names), len(names))
    return io.coefficients_table(beta, covariance, names, adata.var_names)


def _design(adata: anndata.AnnData, key: str, reference: Mapping[str, str]) -> Design:
    """The design of a stored analysis, made again: its matrix alone cannot name contrasts."""
    stored: dict[str, Any] = adata.uns[key]
    if "columns" in stored:
        columns = {
            name: Column(bool(one["number"]), tuple(map(str, one["levels"])))
            for name, one in stored["columns"].items()
        }
        return of_columns(columns, str(stored["design"]), reference)
    obs = pd.DataFrame(adata.obs).copy()
    for factor, levels in stored["levels"].items():
        # h5ad turns text into categories in another order.
        if factor in obs and not is_number(pd.Series(obs[factor])):
            obs[factor] = pd.Categorical(obs[factor].map(str), [str(level) for level in levels])
    if adata.n_obs == int(stored["samples"]):
        coded = io.design(str(stored["design"]), obs, reference)
        same = list(coded.names) == list(stored["coefficients"])
        if same and np.allclose(coded.matrix, adata.obsm[f"{key}_design"]):
            return coded
    msg = f"the samples changed since the analysis {key!r}: run expressway.tl.de again"
    raise io.InputError(msg)


def _column(table: pd.DataFrame, name: str) -> np.ndarray:
    """A column; NaN where there is none, as of the largest Cook's distance of several sites."""
    return table[name].to_numpy() if name in table else np.full(len(table), np.nan)


def _codes(words: pd.Series) -> np.ndarray:
    """Solvers' codes; that of genes they did not see is 0, as `deseq.fit` has it."""
    return np.array(
        [0 if pd.isna(word) else Status[str(word).upper()] for word in words], dtype=int
    )
