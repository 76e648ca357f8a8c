"""Counts where a fit can use them: by gene, in memory or in a scratch file.

Files hold counts by sample, mostly; a fit wants them by gene, many times. What lies on disk
(h5ad, zarr) is therefore read twice, in parts: once to check and count it, once to put each count
where it belongs. What does not fit into the memory that is left goes to a scratch file, of which
blocks of genes are read again. Nothing is made dense as a whole that is not dense already.
"""

import re
import tempfile
import threading
import weakref
from collections.abc import Iterator
from typing import Any, NamedTuple

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
import zarr
from anndata.abc import CSCDataset, CSRDataset

from expressway._errors import InputError
from expressway.core.sparse import Sparse, Stored

from .check import Counts, check_labels, refuse_defects

OnDisk = CSRDataset | CSCDataset | h5py.Dataset | zarr.Array
_ON_DISK = (CSRDataset, CSCDataset, h5py.Dataset, zarr.Array)
# Numbers read from disk at once.
_PART = 2**21
# Bytes that a fit needs beside the counts, at the least: compiled functions, a few blocks of
# genes, results. What the process has already (imports) counts apart.
WORKING = 450e6


class Part(NamedTuple):
    """Some of the samples, or of the genes, of a table."""

    first_row: int
    first_column: int
    values: Any
    """A NumPy array or a SciPy matrix."""


def by_gene(
    x: Counts | OnDisk, genes: pd.Index, samples: pd.Index, where: str, free: float = np.inf
) -> np.ndarray | Sparse:
    """Checked counts in a form of which blocks of genes can be had.

    A NumPy array and a SciPy matrix by columns are used as they are, of whatever type.

    Parameters
    ----------
    x
        Samples × genes: NumPy array, SciPy matrix, or on disk.
    genes, samples
        Their labels.
    where
        What messages name as the place of a mistake.
    free
        Bytes that counts may take; more than that goes to a scratch file.

    Raises
    ------
    InputError
        They are no counts.
    """
    check_labels(genes, samples, where)
    if isinstance(x, np.ndarray):
        refuse_defects(x, genes, samples, where)
        return x
    columns: Any = x
    if isinstance(x, sp.csc_matrix | sp.csc_array) and columns.has_canonical_format:
        refuse_defects(x, genes, samples, where)
        return Sparse(columns.data, columns.indices, columns.indptr.astype(int), len(samples))
    seen = _looked_through(x, genes, samples, where)
    size, stored = len(samples) * len(genes), int(seen.positive.sum())
    kind = np.dtype(np.int32 if seen.largest < 2**31 else np.int64)
    if 2 * stored > size and size * kind.itemsize <= free:
        return _dense(x, (len(samples), len(genes)), kind)
    in_file = stored * (kind.itemsize + 4) > free
    return _sparse(x, len(samples), seen.positive, kind, in_file=in_file)


def on_disk(x: object) -> bool:
    """Whether counts are read from a file when they are looked at."""
    return isinstance(x, _ON_DISK)


def parse_bytes(text: str) -> float:
    """Bytes of "1GB", "800 MB", "1.5G": powers of ten.

    Raises
    ------
    InputError
        It says something else.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kKMGT])B?\s*", text)
    if not found:
        message = f"memory {text!r}: needs a number and a unit, for example 800MB or 2GB"
        raise InputError(message)
    return float(found[1]) * 1000.0 ** ("KMGT".index(found[2].upper()) + 1)


class _Seen(NamedTuple):
    """What the first look at a table says."""

    positive: np.ndarray
    """Of each gene, samples with a count."""
    largest: float


def _looked_through(x: Any, genes: pd.Index, samples: pd.Index, where: str) -> _Seen:
    positive, largest = np.zeros(len(genes), dtype=np.int64), 0.0
    for part in parts(x):
        values = part.values
        rows = slice(part.first_row, part.first_row + values.shape[0])
        columns = slice(part.first_column, part.first_column + values.shape[1])
        refuse_defects(values, genes[columns], samples[rows], where)
        positive[columns] += np.asarray((values != 0).sum(axis=0)).ravel()
        largest = max(largest, float(values.max()))
    return _Seen(positive, largest)


def parts(x: Any) -> Iterator[Part]:
    """All of a table: some rows at a time, or some columns where they lie together."""
    n, g = x.shape
    if isinstance(x, CSCDataset | sp.csc_matrix | sp.csc_array):
        size = max(1, int(_PART * g / max(_stored(x), 1)))
        for first in range(0, g, size):
            columns: Any = x[:, first : min(first + size, g)]
            columns.sum_duplicates()
            yield Part(0, first, columns)
        return
    if isinstance(x, np.ndarray):
        size = max(1, _PART // max(g, 1))
    elif isinstance(x, h5py.Dataset | zarr.Array):
        size, whole = max(1, _PART // max(g, 1)), (x.chunks or (1,))[0]
        size = max(whole, size - size % whole)
    else:
        size = max(1, int(_PART * n / max(_stored(x), 1)))
    for first in range(0, n, size):
        part: Any = x[first : min(first + size, n)]
        if not isinstance(part, np.ndarray):
            part.sum_duplicates()
        yield Part(first, 0, part)


def _stored(x: Any) -> int:
    """Numbers that a sparse table holds."""
    return int(x.group["data"].shape[0] if on_disk(x) else x.nnz)


def _dense(x: Any, shape: tuple[int, int], kind: np.dtype) -> np.ndarray:
    """All counts as one array that lies by gene."""
    found = np.empty(shape, kind, order="F")
    for part in parts(x):
        v = part.values
        rows = slice(part.first_row, part.first_row + v.shape[0])
        columns = slice(part.first_column, part.first_column + v.shape[1])
        found[rows, columns] = v if isinstance(v, np.ndarray) else v.toarray()
    return found


def _sparse(x: Any, samples: int, positive: np.ndarray, kind: np.dtype, *, in_file: bool) -> Sparse:
    """The counts that are not 0, those of a gene together, in memory or in a file."""
    starts = np.concatenate([[0], np.cumsum(positive)])
    make = _File if in_file else np.empty
    data, indices = make(int(starts[-1]), kind), make(int(starts[-1]), np.dtype(np.int32))
    place = starts[:-1].copy()
    for part in parts(x):
        found: Any = sp.csc_array(part.values)
        found.eliminate_zeros()
        columns = slice(part.first_column, part.first_column + found.shape[1])
        count = np.diff(found.indptr)
        sample = (found.indices + part.first_row).astype(np.int32)
        for whole, own in ((data, found.data.astype(kind)), (indices, sample)):
            if isinstance(whole, _File):
                whole.put(place[columns], found.indptr, own)
            else:
                at = np.repeat(place[columns] - found.indptr[:-1], count) + np.arange(len(own))
                whole[at] = own
        place[columns] += count
    return Sparse(data, indices, starts, samples)


class _File(Stored):
    """Numbers in a file that is gone when nobody holds it any more."""

    def __init__(self, length: int, kind: np.dtype) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
        weakref.finalize(self, self._file.close)
        self._kind, self._lock = kind, threading.Lock()
        self._file.truncate(length * kind.itemsize)

    def __getitem__(self, at: slice, /) -> np.ndarray:
        found = np.empty(max(at.stop - at.start, 0), self._kind)
        with self._lock:
            self._file.seek(at.start * self._kind.itemsize)
            left: Any = found.view(np.uint8)
            while len(left):
                left = left[self._file.readinto(left) :]
        return found

    def put(self, places: np.ndarray, starts: np.ndarray, numbers: np.ndarray) -> None:
        """Write ``numbers[starts[i] : starts[i + 1]]`` at each place."""
        for i in np.flatnonzero(np.diff(starts)):
            self._file.seek(int(places[i]) * self._kind.itemsize)
            self._file.write(numbers[starts[i] : starts[i + 1]].tobytes())
