"""Why a result is missing or doubtful: one word a gene."""

import numpy as np

from expressway._types import Array, Bool, Float
from expressway.core import linear
from expressway.core.solve import Status

from .deseq import DESeqFit
from .multiple_testing import Adjusted

# A contrast touches a direction of separation when its share of it is above rounding.
_TOUCHES = 1e-6

MEANINGS = {
    "ok": "nothing to report",
    "all_zero": "no counts (after replacement of outliers, if any): nothing is estimated",
    "no_counts": "no counts in the samples that the contrast compares: fold change 0, p = 1",
    "outlier": "a sample's Cook's distance is above the cutoff: the p-value is withheld",
    "not_converged": "coefficients or dispersion did not converge: the numbers are not to be used",
    "low_count": "mean below the independent filter's threshold: no adjusted p-value",
    "separated": "a group has no counts, so the fold change has no finite maximum-likelihood value",
    "at_bound": "the dispersion or a coefficient is at the limit of its range",
    "replaced": "an outlying count was replaced and the gene refitted",
}


def statuses(
    fit: DESeqFit,
    contrast: Float[np.ndarray, "p"],
    no_counts: Bool[np.ndarray, "g"],
    adjusted: Adjusted,
) -> Array:
    """One of `MEANINGS` for each gene: the first that applies, most serious first."""
    gene = fit.gene
    diverged = np.isin(gene.beta_status, (Status.NOT_CONVERGED, Status.NOT_FINITE)) | np.isin(
        gene.dispersion_status, (Status.NOT_CONVERGED, Status.NOT_FINITE)
    )
    touched = linear.quadratic(gene.unsupported, contrast)
    separated = touched > _TOUCHES * (contrast @ contrast)
    at_bound = (gene.beta_status == Status.AT_BOUND) | (gene.dispersion_status == Status.AT_BOUND)
    word = np.full(len(gene.base_mean), "ok", dtype=object)
    for name, applies in (
        ("replaced", fit.replaced),
        ("at_bound", at_bound),
        ("separated", separated),
        ("low_count", adjusted.filtered),
        ("not_converged", diverged),
        ("outlier", fit.outlier),
        ("no_counts", no_counts),
        ("all_zero", gene.base_mean == 0),
    ):
        word[applies] = name
    return word
