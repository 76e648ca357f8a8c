"""Whether a table holds counts."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

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
    """What a count must not be, and what to do about it."""

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
    for defect in _DEFECTS:
        bad = defect.found(values)
        if bad.any():
            sample, gene, value = _first(x, bad)
            message = (
                f"{where}: gene {genes[gene]}, sample {samples[sample]}: count {value} is "
                f"{defect.name} ({np.count_nonzero(bad)} such); {defect.advice}"
            )
            raise InputError(message)


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


def _refuse_text(x: np.ndarray, genes: Labels, samples: Labels, where: str) -> None:
    numbers = pd.to_numeric(pd.Series(x.ravel()), errors="coerce")
    bad = np.isnan(np.asarray(numbers, dtype=float)).reshape(x.shape)
    if bad.any():
        sample, gene, value = _first(x, bad)
        name = "missing" if value is None or str(value).strip() in MISSING else "not a number"
        message = (
            f"{where}: gene {genes[gene]}, sample {samples[sample]}: count '{value}' is {name} "
            f"({np.count_nonzero(bad)} such); every count must be a whole number"
        )
        raise InputError(message)


def _first(x: Counts, bad: np.ndarray) -> tuple[int, int, object]:
    """Return row, column and value of the first cell marked in `bad` (stored cells, if sparse)."""
    if isinstance(x, np.ndarray):
        row, column = np.argwhere(bad)[0]
        return int(row), int(column), x[row, column]
    stored = x.tocoo()
    rows, columns, values = stored.row[bad], stored.col[bad], stored.data[bad]
    first = np.lexsort((columns, rows))[0]
    return int(rows[first]), int(columns[first]), values[first]
