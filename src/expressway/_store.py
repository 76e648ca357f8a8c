"""Where an analysis lies in an AnnData: plain arrays and tables, so that it pickles and saves.

Under a key, "de" by default: ``varm[key]`` the results of a contrast; ``varm[key_genes]`` the
quantities on the way; ``varm[key_quasi]`` those of a quasi-likelihood test;
``varm[key_shrunken]`` shrunken fold changes; ``varm[key_beta]`` the coefficients, natural log;
``varm[key_covariance]``,
``varm[key_unsupported]`` and ``varm[key_positive]`` their matrices, flattened (of a wide design,
whose run of columns is ``uns[key]["wide"]``, the parts of arrows one after the other, and the
inverse information, of which the covariance is made);
``obsm[key_samples]`` size factors; ``obsm[key_design]`` the design matrix; ``uns[key]`` everything
else. Names of coefficients stand in ``uns`` only: a slash in them must not become a name in an
h5ad file.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import anndata
import jax
import numpy as np
import pandas as pd
from scipy import sparse

from expressway import io
from expressway._types import Float
from expressway.core.arrow import Arrow, Span, Wide
from expressway.core.cohort import Samples
from expressway.core.lowrank import LowRank, covariance
from expressway.core.solve import Status
from expressway.core.sparse import library_size
from expressway.io.agreement import Column, of_columns
from expressway.io.design import Design
from expressway.io.factors import is_number
from expressway.models import deseq, nb, results, trend

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
    inputs: io.Inputs = io.NOTHING
    """What it was given beside counts and design, by name."""


def store_fit(adata: anndata.AnnData, key: str, fit: deseq.DESeqFit, origin: Origin) -> None:
    """Put a fit into an AnnData, in place of an earlier one."""
    coded = origin.coded
    if f"{key}_quasi" in adata.varm:  # of another fit
        del adata.varm[f"{key}_quasi"]
    adata.varm[f"{key}_genes"] = io.genes_table(fit, adata.var_names)
    adata.varm[f"{key}_beta"] = fit.gene.beta
    x = coded.matrix
    wide = isinstance(x, Wide)
    adata.varm[f"{key}_covariance"] = _flat(fit.gene.inverse if wide else fit.gene.covariance)
    adata.varm[f"{key}_unsupported"] = _flat(fit.gene.unsupported)
    adata.varm[f"{key}_positive"] = _flat(fit.gene.positive)
    adata.obsm[f"{key}_design"] = x.sparse() if isinstance(x, Wide) else x
    adata.uns[key] = {
        "design": coded.formula,
        "layer": origin.layer or "",
        "coefficients": list(coded.names),
        "levels": {factor: list(levels) for factor, levels in coded.levels.items()},
        "reference": dict(origin.reference),
        "trend": {k: np.array(v) if np.ndim(v) else v for k, v in fit.trend._asdict().items()},
        "prior_variance": fit.prior_variance,
        "samples": fit.samples,
        "linear_means": fit.linear_means,
        "weighted": fit.weighted,
        "inputs": {k: v or "" for k, v in origin.inputs._asdict().items()},
        "cooks_cutoff": fit.cooks_cutoff,
        "settings": {k: "" if v is None else v for k, v in fit.settings._asdict().items()},
    }
    if isinstance(x, Wide):
        adata.uns[key]["wide"] = dataclasses.asdict(x.span)


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
    inputs = io.Inputs(**{k: str(v) or None for k, v in stored.get("inputs", {}).items()})
    layer = str(stored["layer"]) or None
    origin = Origin(_design(adata, key, reference), reference, layer, inputs)
    table: Any = adata.varm[f"{key}_genes"]
    p = len(origin.coded.names)
    unsupported, positive = (
        np.asarray(adata.varm[f"{key}_{m}"]) for m in ("unsupported", "positive")
    )
    span = _span(stored)
    if span is None:
        unsupported, positive = unsupported.reshape(-1, p, p), positive.reshape(-1, p + 1, p + 1)
    else:
        unsupported, positive = _low_rank(unsupported, p, span), _arrow(positive, p, span)
    settings: Any = {k: None if v == "" else v for k, v in stored["settings"].items()}
    gene = deseq.Gene(
        **{name: table[name].to_numpy() for name in _GENE},
        dispersion_status=_codes(table["dispersion_status"]),
        beta=np.asarray(adata.varm[f"{key}_beta"]),
        covariance=_covariance(adata, key),
        inverse=np.full((adata.n_vars, 0, 0), np.nan),  # for Cook's distances, which are done
        beta_status=_codes(table["coefficients_status"]),
        unsupported=unsupported,
        positive=positive,
    )
    fit = deseq.DESeqFit(
        gene=gene,
        trend=trend.stored(stored["trend"]),
        prior_variance=float(stored["prior_variance"]),
        samples=int(stored["samples"]),
        linear_means=bool(stored["linear_means"]),
        cooks_cutoff=float(stored["cooks_cutoff"]),
        **{name: _column(table, name) for name in _FIT},
        settings=deseq.Settings(**settings),
        weighted=bool(stored.get("weighted", False)),
    )
    return fit, origin


def store_results(
    adata: anndata.AnnData,
    key: str,
    table: pd.DataFrame,
    found: results.Results,
    name: str,
    test: Mapping[str, Any] | None = None,
) -> None:
    """Put the table of a contrast into an AnnData, in place of an earlier one.

    ``test`` says which it is (text and numbers), Wald's if it is not given.
    """
    adata.varm[key] = table.copy()
    adata.uns[key] |= {
        "contrast": name,
        "filter_threshold": found.adjusted.threshold,
        "test": dict(test) if test else {"kind": "wald"},
        "lfc_threshold": float(found.threshold.value),
        "alternative": found.threshold.alternative,
    }


def store_quasi(adata: anndata.AnnData, key: str, numbers: pd.DataFrame) -> None:
    """Put each gene's numbers of a quasi-likelihood test into an AnnData."""
    adata.varm[f"{key}_quasi"] = numbers.set_axis(adata.var_names)


def store_shrunken(
    adata: anndata.AnnData, key: str, table: pd.DataFrame, about: Mapping[str, Any]
) -> None:
    """Put the table of shrunken fold changes into an AnnData, in place of an earlier one."""
    adata.varm[f"{key}_shrunken"] = table.copy()
    adata.uns[key] |= {"shrunken": dict(about)}


def store_samples(
    adata: anndata.AnnData, key: str, rows: Samples, log_sizes: Float[np.ndarray, "n"]
) -> None:
    """Put size factors and library sizes into an AnnData."""
    library = library_size(rows.y).astype(int)
    sizes = io.samples_table(log_sizes, library, adata.obs_names)
    adata.obsm[f"{key}_samples"] = sizes


def log_sizes(adata: anndata.AnnData, key: str) -> Float[np.ndarray, "n"]:
    """Logarithms of the size factors that `store_samples` put there.

    Raises
    ------
    InputError
        There are none: the samples are elsewhere.
    """
    if f"{key}_samples" not in adata.obsm:
        msg = f"the samples of the analysis {key!r} are not here: this needs their counts"
        raise io.InputError(msg)
    table: Any = adata.obsm[f"{key}_samples"]
    return np.log(table["size_factor"].to_numpy(float))


def coefficients(adata: anndata.AnnData, key: str) -> pd.DataFrame:
    """Each coefficient of each gene and its standard error (see `io.coefficients_table`)."""
    names = [str(name) for name in adata.uns[key]["coefficients"]]
    beta = np.asarray(adata.varm[f"{key}_beta"])
    return io.coefficients_table(beta, _covariance(adata, key), names, adata.var_names)


def _covariance(adata: anndata.AnnData, key: str) -> Float[np.ndarray, "g p p"] | LowRank:
    """Covariance of the coefficients."""
    stored: dict[str, Any] = adata.uns[key]
    p, flat = len(stored["coefficients"]), np.asarray(adata.varm[f"{key}_covariance"])
    span = _span(stored)
    return (
        flat.reshape(-1, p, p) if span is None else covariance(_low_rank(flat, p, span), nb.RIDGE)
    )


def _span(stored: Mapping[str, Any]) -> Span | None:
    """The run of columns of a wide design."""
    return Span(**{k: int(v) for k, v in stored["wide"].items()}) if "wide" in stored else None


def _flat(matrices: Any) -> np.ndarray:
    """A row a gene."""
    parts = jax.tree.leaves(matrices)
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)


def _low_rank(flat: np.ndarray, p: int, span: Span) -> LowRank:
    q = p - span.count
    parts = np.split(flat, [p, p + p * q], axis=1)
    return LowRank(parts[0], parts[1].reshape(-1, p, q), parts[2].reshape(-1, q, q))


def _arrow(flat: np.ndarray, p: int, span: Span) -> Arrow:
    """Of the design with a column of ones before it."""
    q, count = p - span.count + 1, span.count
    parts = np.split(flat, [q * q, q * q + q * count], axis=1)
    cross = parts[1].reshape(-1, q, count)
    return Arrow(parts[0].reshape(-1, q, q), cross, parts[2], Span(span.start + 1, span.stop + 1))


def _design(adata: anndata.AnnData, key: str, reference: Mapping[str, str]) -> Design:
    """The design of a stored analysis, made again: its matrix alone cannot name contrasts."""
    stored: dict[str, Any] = adata.uns[key]
    if "columns" in stored:
        columns = {
            name: Column(bool(one["number"]), tuple(map(str, one["levels"])))
            for name, one in stored["columns"].items()
        }
        return of_columns(columns, str(stored["design"]), reference)
    obs = sample_table(adata, key)
    if adata.n_obs == int(stored["samples"]):
        coded = io.design(str(stored["design"]), obs, reference)
        same = list(coded.names) == list(stored["coefficients"])
        if same and _alike(coded.matrix, adata.obsm[f"{key}_design"]):
            return coded
    msg = f"the samples changed since the analysis {key!r}: run expressway.tl.de again"
    raise io.InputError(msg)


def sample_table(adata: anndata.AnnData, key: str) -> pd.DataFrame:
    """``obs``, with levels in the order that the stored analysis has them."""
    obs = pd.DataFrame(adata.obs).copy()
    for factor, levels in adata.uns[key]["levels"].items():
        # h5ad turns text into categories in another order.
        if factor in obs and not is_number(pd.Series(obs[factor])):
            obs[factor] = pd.Categorical(obs[factor].map(str), [str(level) for level in levels])
    return obs


def _alike(matrix: Float[np.ndarray, "n p"] | Wide, stored: Any) -> bool:
    """Whether a design is the stored one, to rounding."""
    if not isinstance(matrix, Wide) and not sparse.issparse(stored):
        return np.allclose(matrix, stored)
    x = sparse.csc_matrix(matrix.sparse() if isinstance(matrix, Wide) else matrix)
    stored = sparse.csc_matrix(stored)
    return bool(abs(x - stored).max() <= 1e-8 + 1e-5 * abs(stored).max())


def _column(table: pd.DataFrame, name: str) -> np.ndarray:
    """A column; NaN where there is none, as of the largest Cook's distance of several sites."""
    return table[name].to_numpy() if name in table else np.full(len(table), np.nan)


def _codes(words: pd.Series) -> np.ndarray:
    """Solvers' codes; that of genes they did not see is 0, as `deseq.fit` has it."""
    return np.array(
        [0 if pd.isna(word) else Status[str(word).upper()] for word in words], dtype=int
    )
