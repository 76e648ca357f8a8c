"""Which genes change over time, and between groups."""

from typing import Any

import numpy as np
import pandas as pd

from expressway._types import Float
from expressway.core.nested import coordinates
from expressway.models.course import Plan, design
from expressway.models.lrt import likelihood_ratio
from expressway.models.moderated import f_test
from expressway.models.multiple_testing import benjamini_hochberg, independent_filter

from .steps import Analysis, Data, OneFit, Settings


def reduced_designs(of: Plan, matrix: Float[np.ndarray, "n p"]) -> dict[str, np.ndarray]:
    """Designs without change: in time, between groups, between groups except in level."""
    k = len(of.groups)
    levels = (of.group[:, None] == np.arange(k)).astype(float)
    found = {"time": levels}
    if k > 1:
        common = sum(np.split(matrix, k, axis=1))
        found["group"] = np.asarray(common)
        # Levels beside the common curve, whose span has the constant already.
        found["shape"] = np.hstack([np.asarray(common), levels[:, 1:]])
    return found


def _counted_tests(
    given: Data, analysis: Analysis, matrix: Float[np.ndarray, "n p"], settings: Settings
) -> pd.DataFrame:
    """Likelihood-ratio tests of curves of counts."""
    mean = analysis.fit.gene.base_mean
    found: dict[str, Any] = {"base_mean": mean}
    for name, small in reduced_designs(given.plan, matrix).items():
        test = likelihood_ratio(*analysis, coordinates(matrix, small))
        found[f"stat_{name}"], found[f"p_value_{name}"] = test.stat, test.p_value
        found[f"p_adj_{name}"] = independent_filter(test.p_value, mean, settings.alpha).p_adj
    return pd.DataFrame(found, index=pd.Index(given.genes, name="gene"))


def differential(given: Data, one: OneFit, settings: Settings) -> pd.DataFrame:
    """Which genes change over time and between groups.

    F tests of expression, plain and with moderated variances; likelihood-ratio tests of counts.
    """
    of = given.plan
    matrix = design(one.basis, of.time, of.group, len(of.groups))
    if one.analysis is not None:
        return _counted_tests(given, one.analysis, matrix, settings)
    with np.errstate(invalid="ignore"):
        number = np.sum(np.isfinite(given.y), axis=1)
    found: dict[str, Any] = {
        "mean": np.nansum(given.y, axis=1) / np.where(number > 0, number, np.nan)
    }
    for name, small in reduced_designs(of, matrix).items():
        test = f_test(given.y, matrix, small)
        found |= {
            f"f_{name}": test.f,
            f"p_value_{name}": test.p_value,
            f"p_adj_{name}": benjamini_hochberg(test.p_value),
            f"moderated_f_{name}": test.moderated_f,
            f"moderated_p_value_{name}": test.moderated_p_value,
            f"moderated_p_adj_{name}": benjamini_hochberg(test.moderated_p_value),
        }
    return pd.DataFrame(found, index=pd.Index(given.genes, name="gene"))
