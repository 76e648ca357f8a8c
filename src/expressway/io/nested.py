"""Hypotheses about a design: the matrix of a reduced formula's columns in the full design's."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from expressway._errors import InputError
from expressway._types import Float
from expressway.core import nested as spans
from expressway.core.arrow import Wide

from .agreement import Column, every_combination, of_columns
from .design import Design, design, design_columns
from .factors import is_number
from .formulas import refuse_code


def nested(
    full: Design,
    formula: str,
    samples: pd.DataFrame,
    reference: Mapping[str, str] | None = None,
) -> Float[np.ndarray, "p q"]:
    """Return C with ``X C = X0``: the columns of a reduced formula in those of a design.

    What counts is the span of the reduced design: ``~ 0 + cell`` is the same hypothesis as
    ``~ cell``.

    Parameters
    ----------
    full
        Design of these samples.
    formula
        Of the reduced design.
    samples, reference
        As the full design was made with; levels of columns that the reduced formula does not name
        are passed over.

    Raises
    ------
    InputError
        The formula cannot be read or evaluated, one of its columns is no combination of the full
        design's, or it leaves nothing to test.
    """
    used = design_columns(formula, samples)
    base = {
        column: level
        for column, level in (reference or {}).items()
        if column in used and (used[column] or not is_number(pd.Series(samples[column])))
    }
    reduced = design(formula, samples, base)
    larger, smaller = _dense(full), _dense(reduced)
    strange = spans.outside(larger, smaller) > spans.OUTSIDE
    terms = [str(t) for t, at in reduced.spec.term_indices.items() if np.any(strange[list(at)])]
    if terms:
        message = (
            f"reduced formula '{formula}' is not nested in the design '{full.formula}', which has "
            f"no columns for {', '.join(terms)}; leave that out of the reduced formula, or fit a "
            "design that has it"
        )
        raise InputError(message)
    if len(reduced.names) >= len(full.names):
        message = (
            f"reduced formula '{formula}' spans all columns of the design '{full.formula}': "
            "nothing is left to test; leave the terms out of it that are to be tested"
        )
        raise InputError(message)
    return spans.coordinates(larger, smaller)


def nested_across(
    formula: str,
    reduced: str,
    columns: Mapping[str, Column],
    reference: Mapping[str, str] | None = None,
) -> Float[np.ndarray, "p q"]:
    """Return what `nested` does, of samples at several sites, of which names only are known.

    Parameters
    ----------
    formula, columns, reference
        What the sites agreed on.
    reduced
        Formula of the reduced design.

    Raises
    ------
    InputError
        As for `nested`; the reduced formula names a column that the design does not use, or has a
        transform that would be fitted to all samples.
    """
    table = every_combination(columns)
    full = of_columns(columns, formula, reference or {})
    refuse_code(reduced)
    try:
        used = design_columns(reduced, table)
    except InputError as error:
        if "sample table does not have" not in str(error):
            raise
        message = (
            f"reduced formula '{reduced}' is not nested in the design '{formula}': it names a "
            f"column that the design does not use; it uses {', '.join(columns)}"
        )
        raise InputError(message) from None
    for column, coded in used.items():
        if coded and not columns[column].levels:
            message = (
                f"reduced formula '{reduced}' is not nested in the design '{formula}': it makes a "
                f"factor of {column}, which the design has as numbers"
            )
            raise InputError(message)
    return _without_fits(nested(full, reduced, table, reference), reduced, table)


def _without_fits(
    found: Float[np.ndarray, "p q"], reduced: str, table: pd.DataFrame
) -> Float[np.ndarray, "p q"]:
    """The matrix, unless transforms of the formula were fitted to a table of no samples."""
    fitted = sorted(map(str, design(reduced, table).spec.transform_state))
    if fitted:
        message = (
            f"{', '.join(fitted)} would be fitted to all samples together, which sites do not "
            "show; leave it out of the reduced formula"
        )
        raise InputError(message)
    return found


def _dense(of: Design) -> Float[np.ndarray, "n p"]:
    """The design matrix."""
    x = of.matrix
    return x.sparse().toarray() if isinstance(x, Wide) else x
