"""Counts and sample tables from files."""

import csv
import gzip
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp

from expressway._errors import InputError

Counts = np.ndarray | sp.csr_matrix | sp.csr_array | sp.csc_matrix | sp.csc_array
Labels = Sequence[str] | pd.Index

# The first of these that occurs in the header counts
_CSV_DELIMITERS, _DELIMITERS = ",\t;", "\t,;"
# As R reads them: "None" or "null" may be the name of a level.
_MISSING = ("", "NA", "NaN", "nan")
_MTX_ROWS = ("features.tsv", "genes.tsv", "rows.txt")
_MTX_COLUMNS = ("barcodes.tsv", "cols.txt")


class _Sheet(NamedTuple):
    """A labelled matrix as it stands in a file: which axis is which is not known yet."""

    values: Counts
    rows: pd.Index
    columns: pd.Index


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


def read_counts(counts: str | Path, samples: str | Path | None = None) -> ad.AnnData:
    """Return the counts of a file as samples × genes, in the order of the sample table.

    Parameters
    ----------
    counts
        `.h5ad` (samples × genes), `.mtx` with its labels in files beside it (`features.tsv` or
        `genes.tsv`, and `barcodes.tsv`), or delimited text with labels in its first row and
        column. In the latter two the axis that carries the names of the sample table is samples;
        both may be gzipped.
    samples
        Delimited text, one row a sample, the name in the first column. Only an `.h5ad` file,
        which has its own table, can do without; given both, columns of `samples` win.

    Returns
    -------
    AnnData
        Whole numbers stay integers, sparse counts stay sparse (CSR).

    Raises
    ------
    InputError
        A file that cannot be read; samples missing on one side; counts refused by `check_counts`.
    """
    counts, samples = Path(counts), None if samples is None else Path(samples)
    if counts.suffix == ".h5ad":
        return _read_h5ad(counts, samples)
    if samples is None:
        message = f"{counts}: a sample table is needed beside it; only .h5ad files hold their own"
        raise InputError(message)
    table = _read_samples(samples)
    is_mtx = counts.name.endswith((".mtx", ".mtx.gz"))
    sheet = _read_mtx(counts) if is_mtx else _read_text(counts)
    sheet = _samples_by_genes(sheet, table.index, counts, samples)
    check_counts(sheet.values, sheet.columns, sheet.rows, str(counts))
    x = sheet.values[_order(table.index, sheet.rows, samples, counts)]
    if not isinstance(x, np.ndarray):
        x = x.tocsr()
    return ad.AnnData(x, obs=table, var=pd.DataFrame(index=sheet.columns))


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
    _refuse_repeats("gene", pd.Index(genes), where)
    _refuse_repeats("sample", pd.Index(samples), where)
    if len(genes) == 0 or len(samples) == 0:
        message = (
            f"{where}: {len(samples)} samples and {len(genes)} genes; at least one each is needed"
        )
        raise InputError(message)
    if isinstance(x, np.ndarray) and x.dtype == object:
        _refuse_text(x, genes, samples, where)
    if x.dtype.kind not in "iuf":
        message = f"{where}: counts must be numbers, but are of type {x.dtype}; convert them"
        raise InputError(message)
    values = x if isinstance(x, np.ndarray) else x.data
    if np.all((values >= 0) & (values < np.inf) & (values == np.floor(values))):
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


def _refuse_repeats(kind: str, labels: pd.Index, where: str) -> None:
    repeats = labels[labels.duplicated()].unique()
    if len(repeats):
        message = (
            f"{where}: {kind} {repeats[0]} appears more than once ({len(repeats)} {kind}s do); "
            "rename, add up or remove the repeats"
        )
        raise InputError(message)


def _refuse_text(x: np.ndarray, genes: Labels, samples: Labels, where: str) -> None:
    numbers = pd.to_numeric(pd.Series(x.ravel()), errors="coerce")
    bad = np.isnan(np.asarray(numbers, dtype=float)).reshape(x.shape)
    if bad.any():
        sample, gene, value = _first(x, bad)
        name = "missing" if value is None or str(value).strip() in _MISSING else "not a number"
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


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while `path` is read into one line that names it."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError as error:
        message = f"{path}: no such file"
        raise InputError(message) from error
    except pd.errors.EmptyDataError as error:
        message = f"{path}: no rows below the header"
        raise InputError(message) from error
    except UnicodeDecodeError as error:
        message = f"{path}: not a text file; give csv, tsv (or .gz of them), .mtx or .h5ad"
        raise InputError(message) from error
    # AnnData's constructor answers HDF5 files of other programs with a TypeError
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        reason = " ".join(str(error).split())
        message = f"{path}: cannot be read: {reason}"
        raise InputError(message) from error


def _open(path: Path) -> TextIOWrapper:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _read_delimited(path: Path, missing: Sequence[str]) -> pd.DataFrame:
    """Return a delimited file, indexed by its first column, with column names as they stand."""
    with _reading(path):
        with _open(path) as file:
            line = file.readline().rstrip("\r\n")
        if not line:
            message = f"{path}: the file is empty, or its first line is"
            raise InputError(message)
        is_csv = path.name.removesuffix(".gz").endswith(".csv")
        delimiters = _CSV_DELIMITERS if is_csv else _DELIMITERS
        delimiter = next((found for found in delimiters if found in line), delimiters[0])
        header = next(csv.reader([line], delimiter=delimiter))
        frame = pd.read_csv(
            path,
            sep=delimiter,
            header=None,
            skiprows=1,
            dtype={0: str},
            keep_default_na=False,
            na_values={column: missing for column in range(1, len(header) + 1)},
            low_memory=False,
        )
    # R's write.table leaves out the name of the first column
    if len(header) == frame.shape[1] - 1:
        header = ["", *header]
    if len(header) != frame.shape[1]:
        message = f"{path}: the header has {len(header)} fields, the rows {frame.shape[1]}"
        raise InputError(message)
    frame = frame.set_index(0)
    frame.index.name = header[0] or None
    frame.columns = pd.Index(header[1:], dtype=object)
    return frame


def _read_samples(path: Path) -> pd.DataFrame:
    table = _read_delimited(path, _MISSING)
    _refuse_repeats("sample", table.index, str(path))
    _refuse_repeats("column", table.columns, str(path))
    return table


def _read_text(path: Path) -> _Sheet:
    frame = _read_delimited(path, ())
    return _Sheet(frame.to_numpy(), frame.index.rename(None), frame.columns)


def _read_mtx(path: Path) -> _Sheet:
    with _reading(path):
        stored: Any = scipy.io.mmread(path)
    values = stored if isinstance(stored, np.ndarray) else sp.csr_matrix(stored)
    rows, columns = _read_labels(path, _MTX_ROWS), _read_labels(path, _MTX_COLUMNS)
    if stored.shape != (len(rows), len(columns)):
        message = (
            f"{path}: the matrix is {' x '.join(map(str, stored.shape))}, but the files beside "
            f"it name {len(rows)} rows and {len(columns)} columns"
        )
        raise InputError(message)
    return _Sheet(values, rows, columns)


def _read_labels(path: Path, names: Sequence[str]) -> pd.Index:
    """Return the first column of the first of `names` that lies beside a `.mtx` file."""
    stem = path.name.removesuffix(".gz").removesuffix(".mtx")
    prefixes = (stem.removesuffix("matrix"), f"{stem}_", "")
    candidates = [
        path.with_name(f"{prefix}{name}{suffix}")
        for prefix in prefixes
        for name in names
        for suffix in ("", ".gz")
    ]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        message = f"{path}: its labels are missing; put one of {', '.join(names)} beside it"
        raise InputError(message)
    with _reading(found), _open(found) as file:
        return pd.Index([line.rstrip("\r\n").split("\t")[0] for line in file], dtype=object)


def _read_h5ad(path: Path, samples: Path | None) -> ad.AnnData:
    with _reading(path), warnings.catch_warnings():
        # Old formats and repeated names: the first is harmless, the second refused below.
        warnings.simplefilter("ignore")
        adata = ad.read_h5ad(path)
    x = adata.X
    if not isinstance(x, Counts):
        message = f"{path}: X is empty or no matrix; put the counts into it"
        raise InputError(message)
    check_counts(x, adata.var_names, adata.obs_names, str(path))
    if not isinstance(x, np.ndarray):
        adata.X = x.tocsr()
    if samples is None:
        return adata
    table = _read_samples(samples)
    adata = adata[_order(table.index, adata.obs_names, samples, path)].copy()
    kept = [column for column in adata.obs.columns if column not in table.columns]
    adata.obs = table.join(pd.DataFrame(adata.obs)[kept])
    return adata


def _samples_by_genes(sheet: _Sheet, names: pd.Index, counts: Path, samples: Path) -> _Sheet:
    """Return the sheet with samples as rows: the axis that more of `names` are found on."""
    in_rows, in_columns = sheet.rows.isin(names).sum(), sheet.columns.isin(names).sum()
    if in_rows == in_columns:
        message = (
            f"{samples}: {in_rows} of its samples ({_some(names)}) are rows of {counts} "
            f"({_some(sheet.rows)}) and {in_columns} are columns ({_some(sheet.columns)}); "
            "one axis must carry the sample names of the table's first column"
        )
        raise InputError(message)
    if in_rows > in_columns:
        return sheet
    return _Sheet(sheet.values.T, sheet.columns, sheet.rows)


def _order(wanted: pd.Index, found: pd.Index, samples: Path, counts: Path) -> np.ndarray:
    """Return where the samples of the table stand among those of the counts."""
    for names, others, here, there in (
        (wanted, found, samples, counts),
        (found, wanted, counts, samples),
    ):
        missing = names.difference(others, sort=False)
        if len(missing):
            message = (
                f"{here}: {len(missing)} of its samples ({_some(missing)}) are not in {there}; "
                "add them there or remove them here"
            )
            raise InputError(message)
    return found.get_indexer(wanted)


def _some(names: pd.Index) -> str:
    """Return the first few of `names`."""
    return ", ".join(map(str, names[:3])) + (", …" if len(names) > 3 else "")
