"""Counts, expression and sample tables from files."""

import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import scipy.io
import scipy.sparse as sp
import zarr

from expressway._errors import InputError

from .check import MISSING, Counts, as_expression, check_counts, check_labels, refuse_repeats, some
from .choose import chosen
from .load import on_disk
from .text import open_text, read_delimited, reading

_ANNDATA = (".h5ad", ".zarr")
_MTX_ROWS = ("features.tsv", "genes.tsv", "rows.txt")
_MTX_COLUMNS = ("barcodes.tsv", "cols.txt")


class _Sheet(NamedTuple):
    """A labelled matrix as it stands in a file: which axis is which is not known yet."""

    values: Counts
    rows: pd.Index
    columns: pd.Index


class _Kind(NamedTuple):
    """What the numbers of a file are."""

    name: str
    missing: Sequence[str]
    """Texts that are NaN to the parser, so that columns with gaps are numbers, not objects."""
    checked: Callable[[Counts, pd.Index, pd.Index, str], Counts]
    """The numbers as they are kept; refuses others."""
    layer: str | None = None
    """Of `.h5ad` and `.zarr`, what is read instead of X."""


def read_counts(
    counts: str | Path,
    samples: str | Path | None = None,
    *,
    where: Mapping[str, str] | None = None,
    backed: bool = False,
    layer: str | None = None,
) -> ad.AnnData:
    """Return the counts of a file as samples × genes, in the order of the sample table.

    Parameters
    ----------
    counts
        `.h5ad` or `.zarr` (samples × genes), `.mtx` with its labels in files beside it
        (`features.tsv` or `genes.tsv`, and `barcodes.tsv`), or delimited text with labels in its
        first row and column. In the latter two the axis that carries the names of the sample table
        is samples; both may be gzipped.
    samples
        Delimited text, one row a sample, the name in the first column. Only `.h5ad` and `.zarr`,
        which have their own table, can do without; given both, columns of `samples` win.
    where
        Column of the sample table to the value that samples must have in it to be kept, as text;
        several must all hold, and "C,K" is C or K. Samples that it leaves out need no counts, and
        their counts are neither checked nor kept.
    backed
        Leave the counts of `.h5ad` and `.zarr` on disk, in the order and type they have there: an
        analysis reads them in parts, and refuses them then. With `where` they are read.
    layer
        Layer of `.h5ad` or `.zarr` that holds the counts; it becomes X.

    Returns
    -------
    AnnData
        Whole numbers stay integers, sparse counts stay sparse (CSR).

    Raises
    ------
    InputError
        A file that cannot be read; samples missing on one side; a column or value of `where` that
        is not in the sample table; counts refused by `check_counts`.
    """
    kind = _Kind("counts", (), _checked_counts, layer)
    return _read(Path(counts), samples, where or {}, kind, backed=backed and not where)


def read_expression(
    expression: str | Path,
    samples: str | Path | None = None,
    *,
    where: Mapping[str, str] | None = None,
) -> ad.AnnData:
    """Return real-valued expression as samples × genes, in the order of the sample table.

    Logarithms of intensities or of normalised counts, say: any finite number is taken as it is.

    Parameters
    ----------
    expression, samples, where
        Files and choice of samples as for `read_counts`.

    Returns
    -------
    AnnData
        Doubles; NaN where the file has NaN, NA or nothing. Sparse expression stays sparse (CSR).

    Raises
    ------
    InputError
        As for `read_counts`; a value that is another text or infinite.
    """
    kind = _Kind("expression", MISSING, as_expression)
    return _read(Path(expression), samples, where or {}, kind, backed=False)


def read_samples(path: str | Path) -> pd.DataFrame:
    """Sample table of a delimited file, indexed by the names in its first column.

    Raises
    ------
    InputError
        It cannot be read, or a name occurs twice.
    """
    path = Path(path)
    table = next(read_delimited(path, MISSING, sys.maxsize))
    refuse_repeats("sample", table.index, str(path))
    refuse_repeats("column", table.columns, str(path))
    return table


def has_samples(counts: str | Path) -> bool:
    """Whether files of this kind hold a sample table of their own."""
    return Path(counts).suffix in _ANNDATA


def read_sheet(path: Path, missing: Sequence[str] = MISSING) -> _Sheet:
    """Labelled matrix of delimited text or ``.mtx``, as it stands there; numbers or text.

    Raises
    ------
    InputError
        The file cannot be read.
    """
    is_mtx = path.name.endswith((".mtx", ".mtx.gz"))
    return _read_mtx(path) if is_mtx else _read_text(path, missing)


def _read(
    path: Path, samples: str | Path | None, where: Mapping[str, str], kind: _Kind, *, backed: bool
) -> ad.AnnData:
    """Return the samples of a file for which `where` holds, with their table."""
    samples = None if samples is None else Path(samples)
    if has_samples(path):
        return _read_anndata(path, samples, where, kind, backed=backed)
    if kind.layer is not None:
        message = f"{path} has no layer {kind.layer}: only .h5ad and .zarr have layers"
        raise InputError(message)
    if samples is None:
        message = f"{path}: a sample table is needed beside it; only .h5ad and .zarr hold their own"
        raise InputError(message)
    table = read_samples(samples)
    sheet = read_sheet(path, kind.missing)
    sheet = _samples_by_genes(sheet, table.index, path, samples)
    check_labels(sheet.columns, sheet.rows, str(path))
    kept = table.loc[chosen(table, where, str(samples))]
    order = _order(kept.index, table.index, sheet.rows, samples, path)
    x = sheet.values if _in_order(order, sheet.rows) else sheet.values[order]
    x = kind.checked(x, sheet.columns, kept.index, str(path))
    if not isinstance(x, np.ndarray):
        x = x.tocsr()
    return ad.AnnData(x, obs=kept, var=pd.DataFrame(index=sheet.columns))


def _checked_counts(x: Counts, genes: pd.Index, samples: pd.Index, where: str) -> Counts:
    check_counts(x, genes, samples, where)
    return x


def _read_text(path: Path, missing: Sequence[str]) -> _Sheet:
    values, rows, columns = [], [], pd.Index([])
    for frame in read_delimited(path, missing):
        part, columns = frame.to_numpy(), frame.columns
        if part.dtype.kind == "i" and part.max(initial=0) < 2**31:
            part = part.astype(np.int32)
        values.append(part)
        rows.append(frame.index.rename(None))
    return _Sheet(np.concatenate(values), rows[0].append(rows[1:]), columns)


def _read_mtx(path: Path) -> _Sheet:
    with reading(path):
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
    with reading(found), open_text(found) as file:
        return pd.Index([line.rstrip("\r\n").split("\t")[0] for line in file], dtype=object)


def _read_anndata(
    path: Path, samples: Path | None, where: Mapping[str, str], kind: _Kind, *, backed: bool
) -> ad.AnnData:
    with reading(path), warnings.catch_warnings():
        # Old formats and repeated names: the first is harmless, the second refused below.
        warnings.simplefilter("ignore")
        adata = _backed(path, kind.layer) if backed else _whole(path, kind.layer)
    stored: Any = adata.X
    if not isinstance(stored, Counts) and not on_disk(stored):
        message = f"{path}: X is empty or no matrix; put the {kind.name} into it"
        raise InputError(message)
    check_labels(adata.var_names, adata.obs_names, str(path))
    table = pd.DataFrame(adata.obs)
    own = table
    if samples is not None:
        table = read_samples(samples)
        own = own[[column for column in own.columns if column not in table.columns]]
    # Joined twice: a sample that is only in the table makes whole numbers of the file doubles.
    mask = chosen(table.join(own) if samples else table, where, str(samples or path))
    order = _order(table.index[mask], table.index, adata.obs_names, samples or path, path)
    if not backed and not _in_order(order, adata.obs_names):
        adata = adata[order].copy()
    if samples is not None:
        adata.obs = table.loc[list(adata.obs_names)].join(own)
    if not backed:
        x: Any = adata.X
        x = kind.checked(x, adata.var_names, adata.obs_names, str(path))
        adata.X = x if isinstance(x, np.ndarray) else x.tocsr()
    return adata


def _whole(path: Path, layer: str | None) -> ad.AnnData:
    adata = ad.read_zarr(path) if path.suffix == ".zarr" else ad.read_h5ad(path)
    if layer is not None:
        _refuse_layer(layer, adata.layers, path)
        adata.X = adata.layers[layer]
    return adata


def _backed(path: Path, layer: str | None) -> ad.AnnData:
    """Counts on disk, tables of samples and genes in memory; nothing else is looked at."""
    if not path.exists():
        raise FileNotFoundError(path)
    store: Any = zarr.open_group(path, mode="r") if path.suffix == ".zarr" else h5py.File(path)
    if layer is not None:
        _refuse_layer(layer, store.get("layers") or (), path)
    x = store.get("X" if layer is None else f"layers/{layer}")
    if isinstance(x, h5py.Group | zarr.Group):
        x = ad.io.sparse_dataset(x)
    obs, var = (cast("pd.DataFrame", ad.io.read_elem(store[name])) for name in ("obs", "var"))
    return ad.AnnData(x, obs=obs, var=var)


def _refuse_layer(layer: str, layers: Iterable[str], path: Path) -> None:
    names = list(layers)
    if layer not in names:
        message = f"{path} has no layer {layer}; its layers are {', '.join(names) or 'none'}"
        raise InputError(message)


def _samples_by_genes(sheet: _Sheet, names: pd.Index, counts: Path, samples: Path) -> _Sheet:
    """Return the sheet with samples as rows: the axis that more of `names` are found on."""
    in_rows, in_columns = sheet.rows.isin(names).sum(), sheet.columns.isin(names).sum()
    if in_rows == in_columns:
        message = (
            f"{samples}: {in_rows} of its samples ({some(names)}) are rows of {counts} "
            f"({some(sheet.rows)}) and {in_columns} are columns ({some(sheet.columns)}); "
            "one axis must carry the sample names of the table's first column"
        )
        raise InputError(message)
    if in_rows > in_columns:
        return sheet
    return _Sheet(sheet.values.T, sheet.columns, sheet.rows)


def _order(
    kept: pd.Index, listed: pd.Index, found: pd.Index, samples: Path, path: Path
) -> np.ndarray:
    """Return where the samples that are kept, of those that a table lists, are in a file."""
    for names, others, here, there in (
        (kept, found, samples, path),
        (found, listed, path, samples),
    ):
        missing = names.difference(others, sort=False)
        if len(missing):
            message = (
                f"{here}: {len(missing)} of its samples ({some(missing)}) are not in {there}; "
                "add them there or remove them here"
            )
            raise InputError(message)
    return found.get_indexer(kept)


def _in_order(order: np.ndarray, found: pd.Index) -> bool:
    """Whether all samples of a file are kept, as they stand there."""
    return np.array_equal(order, np.arange(len(found)))
