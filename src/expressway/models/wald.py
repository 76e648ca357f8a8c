"""Wald tests of contrasts of coefficients, also against thresholds of the fold change."""

from typing import Literal, NamedTuple, get_args

import numpy as np
from scipy import special

from expressway._errors import InputError
from expressway._types import Float
from expressway.core import linear
from expressway.core.lowrank import LowRank

Alternative = Literal["greaterAbs", "greaterAbs2014", "lessAbs", "greater", "less"]


class Threshold(NamedTuple):
    """What is claimed of log2 fold changes b, by a threshold T.

    ``greaterAbs``: |b| > T; ``greaterAbs2014``: the same by DESeq2's test before 1.44;
    ``lessAbs``: |b| < T; ``greater``: b > T; ``less``: b < -T.
    """

    value: float | int = 0.0
    alternative: str = "greaterAbs"


# The test of b = 0.
NONE = Threshold()


def threshold(value: float | int, alternative: str) -> Threshold:
    """A threshold that tests can be made against.

    Raises
    ------
    InputError
        The alternative is none, the value is below 0 or not finite, or ``lessAbs`` has no value.
    """
    if alternative not in get_args(Alternative):
        needed, got = f"alternative must be one of {', '.join(get_args(Alternative))}", alternative
    elif not 0 <= value < np.inf:
        needed, got = "lfc_threshold, a log2 fold change, must be 0 or above", value
    elif value == 0 and alternative == "lessAbs":
        needed, got = "lfc_threshold must be above 0 for the alternative lessAbs", value
    else:
        return Threshold(float(value), alternative)
    msg = f"{needed}, but is {got}"
    raise InputError(msg)


class Wald(NamedTuple):
    """Estimate, standard error, statistic and p-value by gene, of q contrasts or one."""

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
    stat = _ratio(estimate, se)
    return Wald(estimate / np.log(2), se / np.log(2), stat, 2 * special.ndtr(-np.abs(stat)))


def against(test: Wald, limit: Threshold) -> Wald:
    """The tests of a threshold T, from estimates b and standard errors (DESeq2 R/results.R).

    With Q the upper tail of the normal distribution::

        greaterAbs      p = Q((|b| - T) / se) + Q((|b| + T) / se)       (DESeq2 1.44 and later)
        greaterAbs2014  p = 2 Q((|b| - T) / se), at most 1              (before)
        lessAbs         p = Q((T - |b|) / se)
        greater         p = Q((b - T) / se)
        less            p = Q((-b - T) / se)

    The statistic is the distance beyond the threshold in standard errors, 0 on the wrong side, with
    the sign of b; that of ``lessAbs`` is the distance to the nearer end and has none. What is
    tested is the contrast's own estimate: that of the reversed contrast gives the same p-values,
    ``greater`` and ``less`` exchanged. ``NONE`` changes nothing.
    """
    if limit == NONE:
        return test
    b, se, t = test.log2_fold_change, test.se, limit.value
    size = np.abs(b)
    beyond, within, up, down = (_ratio(d, se) for d in (size - t, t - size, b - t, -b - t))
    match limit.alternative:
        case "greaterAbs":
            stat = np.sign(b) * np.maximum(beyond, 0.0)
            p = special.ndtr(-beyond) + special.ndtr(-_ratio(size + t, se))
        case "greaterAbs2014":
            stat = np.sign(b) * np.maximum(beyond, 0.0)
            p = 2 * special.ndtr(-beyond)
        case "lessAbs":
            stat, p = np.maximum(within, 0.0), special.ndtr(-within)
        case "greater":
            stat, p = np.maximum(up, 0.0), special.ndtr(-up)
        case _:
            stat, p = -np.maximum(down, 0.0), special.ndtr(-down)
    # 0 has no sign.
    return test._replace(stat=stat + 0.0, p_value=np.minimum(p, 1.0))


def _ratio(
    distance: Float[np.ndarray, "*q g"], se: Float[np.ndarray, "*q g"]
) -> Float[np.ndarray, "*q g"]:
    """Distances in standard errors; NaN where there is none."""
    return np.divide(distance, se, out=np.full_like(se, np.nan), where=se > 0)
