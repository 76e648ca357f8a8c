"""Wald tests of contrasts of coefficients."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from scipy import special

from expressway._types import Array, Float
from expressway.core.cohort import Samples


class Wald(NamedTuple):
    """Estimate, standard error, statistic and two-sided p-value of one contrast, by gene."""

    log2_fold_change: Float[np.ndarray, "g"]
    se: Float[np.ndarray, "g"]
    """On the log2 scale."""
    stat: Float[np.ndarray, "g"]
    p_value: Float[np.ndarray, "g"]


def wald(
    beta: Float[np.ndarray, "g p"],
    covariance: Float[np.ndarray, "g p p"],
    contrast: Float[np.ndarray, "p"],
) -> Wald:
    """Wald tests of ``contrast' beta = 0``: ``z = c'b / sqrt(c'Vc)``, p = 2 Q(|z|).

    Parameters
    ----------
    beta
        Coefficients, natural log.
    covariance
        Of the coefficients, natural log.
    contrast
        One weight a coefficient.
    """
    estimate = beta @ contrast
    se = np.sqrt(np.einsum("p,gpq,q->g", contrast, covariance, contrast))
    stat = np.divide(estimate, se, out=np.full_like(se, np.nan), where=se > 0)
    return Wald(estimate / np.log(2), se / np.log(2), stat, 2 * special.ndtr(-np.abs(stat)))


class Counted(NamedTuple):
    """Counts in the samples that take part in a contrast."""

    total: Float[Array, "g"]


def counts_in(constant: Float[Array, ""], columns: Float[Array, "p"], s: Samples) -> Counted:
    """Counts of rows with ``|constant + x columns| > 1e-9``, summed.

    A gene without any has fold change 0 and p = 1 (DESeq2 R/results.R, contrastAllZero).
    """
    takes_part = jnp.abs(constant + s.x @ columns) > 1e-9
    return Counted(jnp.sum(jnp.where((takes_part & (s.weight > 0))[:, None], s.y, 0.0), axis=0))
