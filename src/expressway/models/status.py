"""Why a result is missing or doubtful: one word a gene."""

import numpy as np

from expressway._types import Array, Bool, Float, Int
from expressway.core import linear
from expressway.core.solve import Status

from .deseq import DESeqFit
from .multiple_testing import Adjusted

# A contrast touches a direction of separation when its share of it is above rounding.
_TOUCHES = 1e-6

MEANINGS = {
    "ok": "nothing to report",
    "all_zero": "no counts (after replacement of outliers, if any): nothing is estimated",
    "weights": "observation weights leave no counts or no full design: nothing is estimated",
    "no_counts": "no counts in the samples that the contrast compares: fold change 0, Wald p = 1",
    "outlier": "a sample's Cook's distance is above the cutoff: the p-value is withheld",
    "not_converged": "coefficients or dispersion did not converge: the numbers are not to be used",
    "low_count": "mean below the independent filter's threshold: no adjusted p-value",
    "separated": "a group has no counts, so the fold change has no finite maximum-likelihood value",
    "at_bound": "the dispersion or a coefficient is at the limit of its range",
    "replaced": "an outlying count was replaced and the gene refitted",
}


def touches(
    shared: Float[np.ndarray, "*q g"], length: Float[np.ndarray, "*q"]
) -> Bool[np.ndarray, "*q g"]:
    """Whether contrasts have a share of a direction of separation.

    Parameters
    ----------
    shared
        ``c'Πc``, Π each gene's projector on its directions of separation.
    length
        ``c'c``.
    """
    return shared > _TOUCHES * length[..., None]


def statuses(
    fit: DESeqFit,
    contrast: Float[np.ndarray, "p"],
    no_counts: Bool[np.ndarray, "g"],
    adjusted: Adjusted,
) -> Array:
    """One of `MEANINGS` for each gene: the first that applies, most serious first."""
    shared = linear.quadratic(fit.gene.unsupported, contrast)
    separated = touches(shared, np.asarray(contrast @ contrast))
    code = codes(fit, separated, no_counts, adjusted.filtered)
    return np.array(list(MEANINGS), dtype=object)[code]


def codes(
    fit: DESeqFit,
    separated: Bool[np.ndarray, "*q g"],
    no_counts: Bool[np.ndarray, "*q g"],
    filtered: Bool[np.ndarray, "*q g"],
) -> Int[np.ndarray, "*q g"]:
    """Place in `MEANINGS` of what `statuses` says."""
    gene = fit.gene
    diverged = np.isin(gene.beta_status, (Status.NOT_CONVERGED, Status.NOT_FINITE)) | np.isin(
        gene.dispersion_status, (Status.NOT_CONVERGED, Status.NOT_FINITE)
    )
    at_bound = (gene.beta_status == Status.AT_BOUND) | (gene.dispersion_status == Status.AT_BOUND)
    code = np.zeros(no_counts.shape, dtype=np.int8)
    names = list(MEANINGS)
    for name, applies in (
        ("replaced", fit.replaced),
        ("at_bound", at_bound),
        ("separated", separated),
        ("low_count", filtered),
        ("not_converged", diverged),
        ("outlier", fit.outlier),
        ("no_counts", no_counts),
        ("weights", np.isnan(gene.dispersion)),
        ("all_zero", gene.base_mean == 0),
    ):
        code[np.broadcast_to(applies, code.shape)] = names.index(name)
    return code
