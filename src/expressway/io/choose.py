"""Samples chosen by what their table says, and columns that must be numbers."""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from expressway._errors import InputError
from expressway._types import Bool, Float

from .check import is_missing, some
from .factors import as_category, is_number

# Names that a message lists.
_LISTED = 10


def chosen(table: pd.DataFrame, where: Mapping[str, str], place: str) -> Bool[np.ndarray, "n"]:
    """Mask of the samples of a table whose columns have the wanted values.

    Parameters
    ----------
    table
        One row a sample.
    where
        Column to value; all must hold. Values are compared as text, in columns of numbers as
        numbers ("1" is 1 and 1.0). "C,K" is C or K, unless a value of the column is that text. A
        missing value is none of them.
    place
        What messages name as the place of the mistake: a file, say.

    Raises
    ------
    InputError
        There is no such column, no such value in it, or no sample for which all hold.
    """
    mask = np.ones(len(table), dtype=bool)
    for column, wanted in where.items():
        if column not in table.columns:
            message = f"{place}: there is no column {column}; it has {some(table.columns, _LISTED)}"
            raise InputError(message)
        mask &= _equal(pd.Series(table[column]), str(wanted), place)
    if not mask.any():
        wanted = " and ".join(f"{column}={value}" for column, value in where.items())
        message = f"{place}: no sample has {wanted}; choose values that occur together"
        raise InputError(message)
    return mask


def numeric(obs: pd.DataFrame, column: str, *, called: str = "column") -> Float[np.ndarray, "n"]:
    """A column of a sample table as numbers, one a sample.

    Text that is a number as a whole ("12", "1e3") counts as that number; "12h" does not.

    Parameters
    ----------
    obs
        One row a sample.
    column
        Its name.
    called
        What messages call it: "time column", say.

    Raises
    ------
    InputError
        There is no such column; a value is missing, no number or not finite: names the first
        sample with one.
    """
    if column not in obs.columns:
        message = (
            f"{called} '{column}' is not there; the sample table has {some(obs.columns, _LISTED)}"
        )
        raise InputError(message)
    values = pd.Series(obs[column])
    if is_number(values):
        numbers = values.to_numpy(dtype=float, na_value=np.nan)
    else:
        numbers = np.array([_number(value) for value in values], dtype=float)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        value = values.iloc[bad[0]]
        found = "missing" if is_missing(value) else f"'{value}'"
        message = (
            f"{called} '{column}' is {found} for sample {obs.index[bad[0]]}; needed are numbers"
        )
        raise InputError(message)
    return numbers


def _equal(values: pd.Series, wanted: str, place: str) -> Bool[np.ndarray, "n"]:
    """Mask of the samples with one of the values that a text with commas names."""
    there = as_category(values.dropna())[0].cat.categories
    number = is_number(values)
    words = list(map(str.strip, wanted.split(",")))
    if wanted in set(map(str, there)):
        words = [wanted]
    mask = np.zeros(len(values), dtype=bool)
    for word in words:
        same = values.map(str) == word
        if number:
            same = values == _number(word)
        found = (same & values.notna()).to_numpy(dtype=bool)
        if not found.any():
            known = some(there, _LISTED)
            message = f"{place}: column {values.name} has no value '{word}'; it has {known}"
            raise InputError(message)
        mask |= found
    return mask


def _number(value: object) -> float:
    """The number that a text says, else NaN."""
    text = str(value)
    try:
        return np.nan if "_" in text else float(text)  # float takes 1_000, a table does not
    except ValueError:
        return np.nan
