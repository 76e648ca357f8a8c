"""Counts on disk, in memory and in a scratch file are the same counts."""

import warnings

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from expressway import io
from expressway.core.sparse import Sparse, beside, library_size, sparse
from expressway.io import load

N, G = 23, 41
GENES = pd.Index([f"g{j}" for j in range(G)])
SAMPLES = pd.Index([f"s{i}" for i in range(N)])


def table(density: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.poisson(30, (N, G)) * (rng.random((N, G)) < density)


def stored(counts: np.ndarray, form: str, folder) -> object:
    """The counts in a form they come in."""
    x = {"csr": sp.csr_matrix, "csc": sp.csc_array}.get(form[:3], np.asarray)(counts)
    if "h5ad" in form:
        anndata.AnnData(x).write_h5ad(folder / "x.h5ad")
        return anndata.read_h5ad(folder / "x.h5ad", backed="r").X
    if "zarr" in form:
        with warnings.catch_warnings(action="ignore"):  # of defaults to come
            anndata.AnnData(x).write_zarr(folder / "x.zarr")
        x = zarr.open_group(folder / "x.zarr", mode="r")["X"]
        return x if isinstance(x, zarr.Array) else anndata.io.sparse_dataset(x)
    if "chunks" in form:
        file = h5py.File(folder / "x.h5", "w")
        return file.create_dataset("x", data=counts.astype("f4"), chunks=(5, 3), compression="gzip")
    return x


FORMS = ("csr", "csc", "csr h5ad", "csc h5ad", "array h5ad", "csr zarr", "csc zarr", "array zarr")
FORMS += ("array chunks",)


def dense(y) -> np.ndarray:
    return y.columns(np.arange(G)) if isinstance(y, Sparse) else np.asarray(y)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("density", [0.1, 0.9])
@pytest.mark.parametrize("free", [np.inf, 0.0])
def test_counts_are_the_same_wherever_they_come_from_and_go(
    form, density, free, tmp_path, monkeypatch
):
    monkeypatch.setattr(load, "_PART", 50)  # parts of one or two samples
    counts = table(density)
    y = io.by_gene(stored(counts, form, tmp_path), GENES, SAMPLES, "here", free)
    np.testing.assert_array_equal(dense(y), counts)
    np.testing.assert_array_equal(library_size(y), counts.sum(axis=1))
    if form != "csc":
        in_file = isinstance(y, Sparse) and not isinstance(y.data, np.ndarray)
        assert in_file == (free == 0)
        assert isinstance(y, Sparse) == (free == 0 or density < 0.5)


def test_arrays_and_columns_are_used_as_they_are():
    for kind in (np.float32, np.int64, np.uint16):
        x = table(0.5).astype(kind)
        assert io.by_gene(x, GENES, SAMPLES, "here") is x
    x = sp.csc_matrix(table(0.1).astype(np.float32))
    y = io.by_gene(x, GENES, SAMPLES, "here")
    assert isinstance(y, Sparse)
    assert y.data is x.data


def test_stored_zeros_and_repeated_entries():
    """A sparse matrix may hold a 0, and a count in two parts."""
    x = sp.coo_matrix(([2, 3, 0, 4], ([1, 1, 2, 3], [5, 5, 6, 7])), shape=(N, G))
    expected = x.toarray()
    for form in (sp.csr_matrix, sp.csc_matrix):
        rows, columns = np.array([1, 1, 2, 3]), np.array([5, 5, 6, 7])
        raw = form((N, G), dtype=int)
        order, other = (rows, columns) if form is sp.csr_matrix else (columns, rows)
        raw.indptr = np.concatenate(
            [[0], np.cumsum(np.bincount(order, minlength=raw.shape[order is columns]))]
        )
        raw.data, raw.indices = np.array([2, 3, 0, 4]), other.astype(np.int32)
        y = io.by_gene(raw, GENES, SAMPLES, "here")
        np.testing.assert_array_equal(dense(y), expected)


@pytest.mark.parametrize("form", ["csr h5ad", "array h5ad", "csc zarr"])
def test_what_is_no_count_is_named(form, tmp_path, monkeypatch):
    monkeypatch.setattr(load, "_PART", 100)
    counts = table(0.3).astype(float)
    counts[17, 30] = 2.5
    with pytest.raises(
        io.InputError, match=r"here: gene g30, sample s17: count 2.5 is not a whole"
    ):
        io.by_gene(stored(counts, form, tmp_path), GENES, SAMPLES, "here")


def test_rows_and_columns_of_sparse_counts():
    counts = table(0.2)
    y = sparse(counts)
    for genes in ([], [3], [0, 1, 2], [40, 0, 7, 7, 8], np.arange(G)):
        genes = np.array(genes, dtype=int)
        found = y.columns(genes, N + 2)
        np.testing.assert_array_equal(found[:N], counts[:, genes])
        assert not found[N:].any()
    np.testing.assert_array_equal(y.rows(4, 9), counts[4:9])
    both = beside([sparse(counts[:, :11]), sparse(counts[:, 11:])])
    np.testing.assert_array_equal(dense(both), counts)


@pytest.mark.parametrize(
    ("text", "found"), [("1GB", 1e9), ("800 MB", 8e8), ("1.5G", 1.5e9), ("2tb", 2e12)]
)
def test_bytes(text, found):
    assert io.parse_bytes(text.upper()) == found


@pytest.mark.parametrize("text", ["", "GB", "12", "1 parsec", "-1GB"])
def test_no_bytes(text):
    with pytest.raises(io.InputError, match="for example 800MB"):
        io.parse_bytes(text)
