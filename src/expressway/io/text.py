"""Text files of tables, in parts, and what goes wrong with files in one line."""

import csv
import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

import pandas as pd

from expressway._errors import InputError

# The first of these that occurs in the header counts
_CSV_DELIMITERS, _DELIMITERS = ",\t;", "\t,;"
# Counts of a text file in one part: what the parser holds is several times as large.
_PART = 2**22


@contextmanager
def reading(path: Path) -> Iterator[None]:
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


def open_text(path: Path) -> TextIOWrapper:
    """Open a text file, compressed or not."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def read_delimited(
    path: Path, missing: Sequence[str], rows: int | None = None
) -> Iterator[pd.DataFrame]:
    """Return a delimited file in parts of some rows, indexed by its first column.

    Names of columns are as they stand.
    """
    with reading(path):
        with open_text(path) as file:
            line = file.readline().rstrip("\r\n")
        if not line:
            message = f"{path}: the file is empty, or its first line is"
            raise InputError(message)
        is_csv = path.name.removesuffix(".gz").endswith(".csv")
        delimiters = _CSV_DELIMITERS if is_csv else _DELIMITERS
        delimiter = next((found for found in delimiters if found in line), delimiters[0])
        header = next(csv.reader([line], delimiter=delimiter))
        parts = pd.read_csv(
            path,
            sep=delimiter,
            header=None,
            skiprows=1,
            dtype={0: str},
            keep_default_na=False,
            na_values={column: missing for column in range(1, len(header) + 1)},
            low_memory=False,
            chunksize=rows or max(1, _PART // len(header)),
        )
        with parts:
            for frame in parts:
                yield _labelled(frame, header, path)


def _labelled(frame: pd.DataFrame, header: list[str], path: Path) -> pd.DataFrame:
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
