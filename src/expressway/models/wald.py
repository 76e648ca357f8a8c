"""Wald tests of contrasts of coefficients."""

from typing import NamedTuple

import numpy as np
from scipy import special

from expressway._types import Float
from expressway.core import linear
from expressway.core.lowrank import LowRank


class Wald(NamedTuple):
    """Estimate, standard error, statistic and two-sided p-value by gene, of q contrasts or one."""

    log2_fold_change: Float[np.ndarray, "*q g"]
    se: Float[np.ndarray, "*q g"]
    """On the log2 scale."""
    stat: Float[np.ndarray, "*q g"]
    p_value: Float[np.ndarray, "*q g"]


def wald(
    beta: Float[np.ndarray, "g p"],
    covariance: Float[np.ndarray, "g p p"] | LowRank,
    contrast: Float[np.ndarray, "p"],
) -> Wald:
    """Wald tests of ``contrast' beta = 0``.

    Parameters
    ----------
    beta
        Coefficients, natural log.
    covariance
        Of the coefficients, natural log.
    contrast
        One weight a coefficient.
    """
    return of(beta @ contrast, linear.quadratic(covariance, contrast))


def of(estimate: Float[np.ndarray, "*q g"], variance: Float[np.ndarray, "*q g"]) -> Wald:
    """Wald tests of estimates c'b with variance c'Vc: ``z = c'b / sqrt(c'Vc)``, p = 2 Q(|z|)."""
    se = np.sqrt(variance)
    stat = np.divide(estimate, se, out=np.full_like(se, np.nan), where=se > 0)
    return Wald(estimate / np.log(2), se / np.log(2), stat, 2 * special.ndtr(-np.abs(stat)))
