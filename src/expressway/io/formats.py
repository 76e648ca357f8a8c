"""Tables in the file formats that other programs read: csv, tsv, parquet, Excel."""

import csv
import gzip
import importlib
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd

from expressway._errors import InputError

# Iterations stop at steps of about 1e-10: digits beyond differ from machine to machine.
_FLOAT = "%.10g"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SUFFIXES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet", ".xlsx")
# Excel's specifications and limits.
_ROWS, _COLUMNS, _LETTERS, _SHEET = 1_048_576, 16_384, 32_767, 31


def check_table_path(path: str | Path) -> None:
    """Refuse a file of a kind that `write_table` does not write, or whose package is not there.

    Raises
    ------
    InputError
        Names the suffixes, or what to install.
    """
    suffix = _suffix(Path(path))
    if suffix == ".parquet":
        _package("pyarrow", path)
    elif suffix == ".xlsx":
        _package("xlsxwriter", path)


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a table, in the format that its file's suffix says.

    ``.csv`` and ``.tsv``, also compressed (``.gz``): ten significant digits; a missing number is
    an empty field. ``.parquet``: everything as it is, categories and index too;
    ``pandas.read_parquet`` gives an equal table. ``.xlsx``: see `write_workbook`; its sheet has
    the name of the file. The index is written first, each of its levels as a column.

    Raises
    ------
    InputError
        The suffix is another; a package is missing (``pip install "expressway[tables]"``); or
        the table does not fit into an Excel sheet.
    """
    path = Path(path)
    suffix = _suffix(path)
    if suffix == ".parquet":
        _package("pyarrow", path)
        table.to_parquet(path, engine="pyarrow")
    elif suffix == ".xlsx":
        write_workbook({path.stem: table}, path)
    else:
        columns = [(name, _cells(column)) for name, column in _columns(table)]
        with _text(path) as file:
            delimiter = _DELIMITERS[suffix.removesuffix(".gz")]
            writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
            writer.writerow([name for name, _ in columns])
            writer.writerows(zip(*(cells for _, cells in columns), strict=True))


def write_workbook(tables: Mapping[str, pd.DataFrame], path: str | Path) -> None:
    """Write an Excel workbook, a sheet for each table, under its name.

    Texts are texts: a gene SEPT2 is no date and "=A1" no formula, also after its cell was edited.
    Numbers have 16 digits, a missing one is an empty cell, an infinite one a text (Excel has
    none). Names of sheets lose what Excel does not allow in them and are made different.

    Raises
    ------
    InputError
        There is no table; one does not fit into a sheet (1,048,576 rows with the header, 16,384
        columns, 32,767 letters a cell); or XlsxWriter is missing.
    """
    path = Path(path)
    xlsxwriter = _package("xlsxwriter", path)
    if not tables:
        msg = f"{path}: there is no table to write"
        raise InputError(msg)
    for table in tables.values():
        _check_size(table, path)
    with xlsxwriter.Workbook(path, {"constant_memory": True}) as book:
        text = book.add_format({"num_format": 49})  # Excel's own number of "@", text
        for sheet, table in zip(_sheets(list(tables)), tables.values(), strict=True):
            columns = _columns(table)
            rows = zip(*(_plain(column) for _, column in columns), strict=True)
            page = book.add_worksheet(sheet)
            page.freeze_panes(1, table.index.nlevels)
            for i, row in enumerate(chain([[str(name or "") for name, _ in columns]], rows)):
                for j, value in enumerate(row):
                    if isinstance(value, str):
                        page.write_string(i, j, value, text)
                    elif isinstance(value, bool):
                        page.write_boolean(i, j, value)
                    elif value is not None:
                        page.write_number(i, j, value)


def _suffix(path: Path) -> str:
    """The suffix of a file, with that of its compression."""
    name = path.name.lower()
    found = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)
    if found is None:
        msg = f"{path}: tables are written as {', '.join(_SUFFIXES)}; name the file so"
        raise InputError(msg)
    return found


def _package(name: str, path: str | Path) -> Any:
    """A package that only some users need."""
    try:
        return importlib.import_module(name)
    except ImportError:
        install = 'pip install "expressway[tables]"'
        msg = f"{path}: the package {name} is missing: {install}, or write .csv"
        raise InputError(msg) from None


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    """A text file; compressed, of the same bytes whenever it is written."""
    if path.suffix.lower() != ".gz":
        with path.open("w", encoding="utf-8", newline="") as file:
            yield file
        return
    with (
        path.open("wb") as raw,
        gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
        TextIOWrapper(packed, encoding="utf-8", newline="") as file,
    ):
        yield file


def _columns(table: pd.DataFrame) -> list[tuple[Any, pd.Series]]:
    """Levels of the index, then columns, with their names."""
    index = table.index
    levels = [pd.Series(index.get_level_values(i)) for i in range(index.nlevels)]
    found: list[tuple[Any, pd.Series]] = list(zip(index.names, levels, strict=True))
    return found + [(name, table.iloc[:, j]) for j, name in enumerate(table.columns)]


def _cells(column: pd.Series) -> list[Any]:
    """What a csv says of a column: all its numbers in one formatting, as a table has many."""
    if column.dtype.kind == "f":
        words = (f"{_FLOAT}\n" * len(column) % tuple(column.tolist())).splitlines()
        return ["" if word == "nan" else word for word in words]
    return column.astype(object).where(column.notna(), "").tolist()


def _plain(column: pd.Series) -> list[Any]:
    """Numbers, truth values and texts of Python; None for what is missing."""
    found = column.astype(object).where(column.notna(), None).tolist()
    return [_scalar(value) for value in found]


def _scalar(value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    return str(value)


def _check_size(table: pd.DataFrame, path: Path) -> None:
    """Refuse a table that is larger than a sheet, or has a text longer than a cell."""
    columns = _columns(table)
    if len(table) >= _ROWS or len(columns) > _COLUMNS:
        msg = (
            f"{path}: the table has {len(table):,} rows and {len(columns):,} columns; an Excel "
            f"sheet holds {_ROWS - 1:,} below its header and {_COLUMNS:,}: write .parquet or .csv"
        )
        raise InputError(msg)
    for name, column in columns:
        longest = 0 if column.dtype.kind in "biuf" else column.astype(str).str.len().max()
        if longest > _LETTERS:
            msg = (
                f"{path}: a text in column {name} has {longest:,} letters; an Excel cell holds "
                f"{_LETTERS:,}: write .parquet or .csv"
            )
            raise InputError(msg)


def _sheets(names: list[str]) -> list[str]:
    """Names that sheets can have, no two alike, whatever their case."""
    found: list[str] = []
    for name in names:
        word = re.sub(r"[\[\]:*?/\\\x00-\x1f]", "_", name).strip("' ")[:_SHEET] or "table"
        taken = {other.lower() for other in found}
        number, trial = 1, word
        while trial.lower() in taken:
            number += 1
            trial = f"{word[: _SHEET - len(str(number)) - 1]}_{number}"
        found.append(trial)
    return found
