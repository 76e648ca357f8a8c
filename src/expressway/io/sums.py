"""Sums of counts over groups of rows, of a table in memory or on disk that is never dense."""

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from expressway._errors import InputError
from expressway._types import Int

from .check import Counts, refuse_defects, refuse_repeats
from .load import OnDisk, parts

# Doubles hold every whole number up to here.
_EXACT = 2.0**53


def sum_rows(
    x: Counts | OnDisk,
    group: Int[np.ndarray, "n"],
    groups: int,
    genes: pd.Index,
    rows: pd.Index,
    where: str,
) -> Int[np.ndarray, "k g"]:
    """Sums of counts over the rows of each group, exact: int64, groups × genes.

    The table is gone over once, some rows (or columns, where they lie together) at a time; what
    is made on the way is as large as such a part.

    Parameters
    ----------
    x
        Rows × genes: NumPy array, SciPy matrix, or on disk.
    group
        Of each row, from 0; rows of -1 are checked and not summed.
    groups
        How many there are.
    genes, rows
        Labels.
    where
        What messages name as the place of a mistake.

    Raises
    ------
    InputError
        The table does not hold counts; or a gene occurs twice.
    """
    refuse_repeats("gene", genes, where)
    total = np.zeros((groups, len(genes)), np.int64)
    for part in parts(x):
        values: Any = part.values
        at = slice(part.first_row, part.first_row + values.shape[0])
        columns = slice(part.first_column, part.first_column + values.shape[1])
        refuse_defects(values, genes[columns], rows[at], where)
        if values.dtype.kind == "f" and values.size and values.max() > _EXACT:
            message = f"{where}: count {values.max():g} is above 2^53 and not exact; give integers"
            raise InputError(message)
        of = group[at]
        kept = np.flatnonzero(of >= 0)
        present, row = np.unique(of[kept], return_inverse=True)
        shape = (len(present), len(of))
        marks = sp.csr_array((np.ones(len(kept), np.int64), (row, kept)), shape=shape)
        added: Any = marks @ values.astype(np.int64)
        total[present, columns] += added if isinstance(added, np.ndarray) else added.toarray()
    return total
