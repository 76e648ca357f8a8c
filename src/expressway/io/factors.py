"""Factors: the levels of a table's columns, and how a design codes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import formulaic
import numpy as np
import pandas as pd
from formulaic.utils.variables import Variable
from pandas.api.types import is_bool_dtype, is_numeric_dtype

from expressway._errors import InputError
from expressway._types import Float


@dataclass(frozen=True)
class CodedFactor:
    """How a design codes one factor.

    Attributes
    ----------
    column
        Of the sample table; the expression itself where it mixes several columns.
    levels
        In the order of the rows of `code`.
    reference
        The level whose code is zero, or the first where no code is.
    code
        The columns that stand for each of k levels where the intercept is already spanned.
    """

    column: str
    levels: tuple[str, ...]
    reference: str
    code: Float[np.ndarray, "k c"]


def is_number(values: pd.Series) -> bool:
    """Return whether a column is a covariate unless the formula says C(column)."""
    return is_numeric_dtype(values) and not is_bool_dtype(values)


def as_category(values: pd.Series) -> tuple[pd.Series, tuple[str, ...]]:
    """Return a factor with its levels in order, and the names of levels without a sample."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        kept = values.cat.remove_unused_categories()
        dropped = values.cat.categories.difference(kept.cat.categories, sort=False)
        return kept, tuple(map(str, dropped))
    if not is_number(values):
        values = values.map(str)
    levels = list(values.unique())
    if all(_is_numeral(level) for level in levels):
        levels.sort(key=float)
    else:
        levels.sort(key=lambda level: (level.casefold(), level))
    return values.astype(pd.CategoricalDtype(levels)), ()


def reference_first(values: pd.Series, reference: str) -> pd.Series:
    """Return categories with the level whose text is `reference` moved first."""
    levels = {str(level): level for level in values.cat.categories}
    if reference not in levels:
        message = (
            f"column {values.name} has no level {reference} to be the reference; "
            f"it has {', '.join(levels)}"
        )
        raise InputError(message)
    first = levels.pop(reference)
    return values.cat.reorder_categories([first, *levels.values()])


def coded_factors(spec: formulaic.ModelSpec) -> dict[str, CodedFactor]:
    """Return the factors of a design by their expression in the formula, in its order."""
    found = {}
    for term in spec.structure or ():
        for factor in (factor for scoped in term.scoped_terms for factor in scoped.factors):
            state = spec.factor_contrasts.get(factor.factor.factor)
            if state is None or factor.factor.expr in found:
                continue
            data = [
                str(v)
                for v in factor.factor.variables or ()
                if v.source == "data" and Variable.Role.VALUE in v.roles
            ]
            levels = tuple(map(str, state.levels))
            code = np.asarray(state.get_coding_matrix(reduced_rank=True), dtype=float)
            zero = np.flatnonzero(~code.any(axis=1))
            found[factor.factor.expr] = CodedFactor(
                column=data[0] if len(data) == 1 else factor.factor.expr,
                levels=levels,
                reference=levels[zero[0]] if zero.size else levels[0],
                code=code,
            )
    return found


def check_levels(
    formula: str, levels: Mapping[str, Sequence[str]], factor: str, wanted: Sequence[str]
) -> None:
    """Refuse levels that a design's factor does not have, or the factor.

    Parameters
    ----------
    levels
        Of each factor of the design.

    Raises
    ------
    InputError
        One does not exist.
    """
    if factor not in levels:
        message = (
            f"{factor} is not a factor of the design {formula}, whose factors are "
            f"{', '.join(levels) or 'none'}; of a covariate, name the coefficient"
        )
        raise InputError(message)
    for level in wanted:
        if level not in levels[factor]:
            message = f"factor {factor} has no level {level}; it has {', '.join(levels[factor])}"
            raise InputError(message)


def _is_numeral(level: object) -> bool:
    try:
        float(str(level))
    except ValueError:
        return False
    return True
