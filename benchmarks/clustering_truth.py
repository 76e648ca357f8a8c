"""What is known of simulated clusters of coefficients, and how near methods come to it."""

from typing import NamedTuple

import anndata
import numpy as np

from expressway.core.cohort import Pooled, samples
from expressway.models import nb


class Fits(NamedTuple):
    """Gene-wise maximum likelihood; genes x coordinates, in the order of `names`."""

    estimate: np.ndarray
    """(beta, log alpha), natural logarithm; of flat dispersions the bound, log(1e-8)."""
    error: np.ndarray
    """Standard errors, marginal; infinite where nothing is known: flat dispersions, no counts."""

    @property
    def given(self) -> np.ndarray:
        """Estimates for methods that know no errors.

        Where nothing is known they have the smallest of the others' values: a dispersion is flat
        when counts look like Poisson counts.
        """
        known = np.isfinite(self.error)
        least = np.min(np.where(known, self.estimate, np.inf), axis=0)
        return np.where(known, self.estimate, least)


def names(adata: anndata.AnnData) -> list[str]:
    """Coordinates of simulated genes."""
    return list(adata.uns["truth"])


def labels(adata: anndata.AnnData) -> np.ndarray:
    """True clusters, from 1; genes x coordinates."""
    return np.column_stack([adata.var[f"label_{name}"] for name in names(adata)])


def values(adata: anndata.AnnData) -> np.ndarray:
    """True values; genes x coordinates."""
    return np.column_stack([adata.var[f"true_{name}"] for name in names(adata)])


def genewise(adata: anndata.AnnData) -> Fits:
    """Fits with the true basis and size factors."""
    rows = samples(np.asarray(adata.X), np.asarray(adata.obsm["design"]))
    offset = np.log(np.asarray(adata.obs["size_factor"], float))[:, None]
    fit = nb.fit(Pooled(rows._replace(offset=offset)))
    error = np.sqrt(np.diagonal(_inverse(fit.information), axis1=1, axis2=2))
    return Fits(np.column_stack([fit.beta, fit.log_alpha]), error)


def _inverse(information: np.ndarray) -> np.ndarray:
    """Covariances; a coordinate without information has an infinite variance."""
    at = np.arange(information.shape[-1])
    known = np.all(np.isfinite(information), axis=(1, 2), keepdims=True)
    whole = np.where(known, information, np.eye(len(at)))
    nothing = np.less_equal(whole[:, at, at], 0) | ~known[:, 0]
    whole[:, at, at] = np.where(nothing, 1.0, whole[:, at, at])
    covariance = np.linalg.inv(whole)
    covariance[:, at, at] = np.where(nothing, np.inf, covariance[:, at, at])
    return covariance


def oracle(adata: anndata.AnnData, fits: Fits) -> np.ndarray:
    """The likeliest cluster of each gene, from 1, given its estimate and all true components.

    ``argmax_j log w_j + log Normal(estimate; mean_j, sd_j² + error²)``, one coordinate at a time;
    the largest cluster where nothing is known. Errors are those of the gene-wise fit, so that what
    uses the counts again, at better values of the other coordinates, may do a little better.
    """
    found = []
    for one, x, error in zip(
        adata.uns["truth"].values(), fits.estimate.T, fits.error.T, strict=True
    ):
        known = np.isfinite(error)
        variance = one["sd"] ** 2 + np.where(known, error, 1.0)[:, None] ** 2
        normal = np.log(variance) + (x[:, None] - one["mean"]) ** 2 / variance
        score = np.log(one["weight"]) - np.where(known[:, None], normal, 0.0) / 2
        found.append(1 + np.argmax(score, axis=1))
    return np.column_stack(found)


def coverage(truth: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """Share of intervals that hold the truth."""
    return float(np.mean((lower <= truth) & (truth <= upper)))


def rmse(truth: np.ndarray, estimate: np.ndarray) -> float:
    """Root-mean-square error."""
    return float(np.sqrt(np.mean((estimate - truth) ** 2)))


def sizeable(label: np.ndarray, share: float) -> int:
    """Number of clusters that have at least this share of the genes."""
    return int(np.sum(np.unique(label, return_counts=True)[1] >= share * len(label)))
