"""Whether a table holds counts, or values of expression."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import scipy.sparse as sp

from expressway._errors import InputError

Counts = np.ndarray | sp.csr_matrix | sp.csr_array | sp.csc_matrix | sp.csc_array
Labels = Sequence[str] | pd.Index

# As R reads them: "None" or "null" may be the name of a level.
MISSING = ("", "NA", "NaN", "nan")
# Numbers looked at at once: what is made on the way is as large.
_PIECE = 2**20


class _Defect(NamedTuple):
    """What a number must not be, and what to do about it."""

    name: str
    found: Callable[[np.ndarray], np.ndarray]
    advice: str


_DEFECTS = (
    _Defect("missing or infinite", lambda x: ~np.isfinite(x), "leave that gene or sample out"),
    _Defect("negative", lambda x: x < 0, "give raw counts, not log or corrected values"),
    _Defect(
        "not a whole number",
        lambda x: x != np.floor(x),
        "give raw counts, not normalised ones; round estimated counts first",
    ),
)
# Mostly the logarithm of 0.
_INFINITE = _Defect(
    "infinite", np.isinf, "add an offset before taking logarithms, or leave the cell empty"
)
_NO_NUMBER = "write numbers with a decimal point; leave empty, or NA, what is missing"


def check_counts(x: Counts, genes: Labels, samples: Labels, where: str) -> None:
    """Refuse what is not a samples × genes matrix of counts with unique labels.

    Floats that hold whole numbers are counts. Of a sparse matrix only stored values are read.

    Parameters
    ----------
    x
        Samples × genes.
    where
        What the message names as the place of the mistake: a file, say.

    Raises
    ------
    InputError
        Names the first offending gene and sample (sample by sample) and how many there are.
    """
    check_labels(genes, samples, where)
    if isinstance(x, np.ndarray) and x.dtype == object:
        _refuse_text(x, genes, samples, where)
    refuse_defects(x, genes, samples, where)


def as_expression(x: Counts, genes: Labels, samples: Labels, where: str) -> Counts:
    """The same matrix as doubles: real numbers, of either sign, and NaN where one is missing.

    Sparse matrices stay sparse. Text that says a number is that number, text of `MISSING` is NaN.

    Parameters
    ----------
    x, genes, samples, where
        As for `check_counts`.

    Raises
    ------
    InputError
        Names the first gene and sample with another text or an infinite number.
    """
    check_labels(genes, samples, where)
    if isinstance(x, np.ndarray) and x.dtype == object:
        x = _numbers(x, genes, samples, where)
    if x.dtype.kind not in "iuf":
        message = f"{where}: expression must be numbers, but is of type {x.dtype}; convert it"
        raise InputError(message)
    _refuse(x, "value", (_INFINITE,), genes, samples, where)
    real: Any = x
    return real.astype(np.float64, copy=False)


def check_labels(genes: Labels, samples: Labels, where: str) -> None:
    """Refuse labels that occur twice, and a table without genes or samples.

    Raises
    ------
    InputError
        Names the first label that does.
    """
    refuse_repeats("gene", pd.Index(genes), where)
    refuse_repeats("sample", pd.Index(samples), where)
    if len(genes) == 0 or len(samples) == 0:
        message = (
            f"{where}: {len(samples)} samples and {len(genes)} genes; at least one each is needed"
        )
        raise InputError(message)


def refuse_defects(x: Counts, genes: Labels, samples: Labels, where: str) -> None:
    """Refuse values that are no counts; labels as those of the rows and columns of ``x``.

    Raises
    ------
    InputError
        Names the first gene and sample and how many there are.
    """
    if x.dtype.kind not in "iuf":
        message = f"{where}: counts must be numbers, but are of type {x.dtype}; convert them"
        raise InputError(message)
    values = x if isinstance(x, np.ndarray) else x.data
    if all(map(_sound, _pieces(values))):
        return
    _refuse(x, "count", _DEFECTS, genes, samples, where)


def is_missing(value: object) -> bool:
    """Whether a cell says that there is no value."""
    return value is None or value is pd.NA or str(value).strip() in MISSING


def refuse_repeats(kind: str, labels: pd.Index, where: str) -> None:
    """Refuse labels that occur twice.

    Raises
    ------
    InputError
        Names the first.
    """
    repeats = labels[labels.duplicated()].unique()
    if len(repeats):
        message = (
            f"{where}: {kind} {repeats[0]} appears more than once ({len(repeats)} {kind}s do); "
            "rename, add up or remove the repeats"
        )
        raise InputError(message)


def some(names: pd.Index, most: int = 3) -> str:
    """The first few of some names, for a message."""
    return ", ".join(map(str, names[:most])) + (", …" if len(names) > most else "")


def _pieces(values: np.ndarray) -> Iterator[np.ndarray]:
    """Parts of an array along the axis on which it lies in one piece."""
    if values.ndim == 2 and values.flags.f_contiguous:
        values = values.T
    size = max(1, _PIECE // max(values[:1].size, 1))
    for first in range(0, len(values), size):
        yield values[first : first + size]


def _sound(values: np.ndarray) -> bool:
    """Whether all are whole, finite and not negative."""
    if values.dtype.kind == "u":
        return True
    if values.dtype.kind == "i":
        return bool(np.all(values >= 0))
    return bool(np.all((values >= 0) & (values < np.inf) & (values == np.floor(values))))


def _refuse(
    x: Counts, word: str, defects: Sequence[_Defect], genes: Labels, samples: Labels, where: str
) -> None:
    """Refuse numbers with one of the defects; `word` is what messages call a number."""
    values = x if isinstance(x, np.ndarray) else x.data
    for defect in defects:
        bad = defect.found(values)
        if bad.any():
            place, value = _first(x, bad, genes, samples, where)
            message = (
                f"{place}: {word} {value} is {defect.name} ({np.count_nonzero(bad)} such); "
                f"{defect.advice}"
            )
            raise InputError(message)


def _refuse_text(x: np.ndarray, genes: Labels, samples: Labels, where: str) -> None:
    bad = np.isnan(_parsed(x))
    if bad.any():
        place, value = _first(x, bad, genes, samples, where)
        name = "missing" if is_missing(value) else "not a number"
        message = (
            f"{place}: count '{value}' is {name} ({np.count_nonzero(bad)} such); "
            "every count must be a whole number"
        )
        raise InputError(message)


def _numbers(x: np.ndarray, genes: Labels, samples: Labels, where: str) -> np.ndarray:
    """Doubles of a table with some text; NaN for what is missing."""
    numbers = _parsed(x)
    unsure = np.isnan(numbers)
    unsure[unsure] = [not is_missing(value) for value in x[unsure]]
    # pandas takes True for 1.
    bad = unsure | np.vectorize(lambda value: isinstance(value, bool | np.bool_), [bool])(x)
    if bad.any():
        place, value = _first(x, bad, genes, samples, where)
        message = (
            f"{place}: value '{value}' is not a number ({np.count_nonzero(bad)} such); {_NO_NUMBER}"
        )
        raise InputError(message)
    return numbers


def _parsed(x: np.ndarray) -> np.ndarray:
    """The numbers that texts say, and NaN for other texts."""
    numbers = pd.to_numeric(pd.Series(x.ravel()), errors="coerce")
    return np.array(numbers, dtype=float).reshape(x.shape)


def _first(
    x: Counts, bad: np.ndarray, genes: Labels, samples: Labels, where: str
) -> tuple[str, object]:
    """Return in words where the first cell marked in `bad` (stored cells, if sparse) is, and it."""
    if isinstance(x, np.ndarray):
        row, column = np.argwhere(bad)[0]
        value = x[row, column]
    else:
        stored: Any = x.tocoo()
        rows, columns, values = stored.row[bad], stored.col[bad], stored.data[bad]
        first = np.lexsort((columns, rows))[0]
        row, column, value = rows[first], columns[first], values[first]
    return f"{where}: gene {genes[column]}, sample {samples[row]}", value
