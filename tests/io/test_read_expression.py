"""Real-valued expression, and samples chosen as a file is read."""

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

from expressway.io import InputError, read_counts, read_expression

GENES = ["g1", "g2", "g3"]
SAMPLES = ["s1", "s2"]
X = np.array([[-1.5, 0.0, np.nan], [4.25, 5.0, 1e-3]])  # samples x genes
TEXT = "gene,s1,s2\ng1,-1.5,4.25\ng2,0,5\ng3,NA,1e-3\n"
TABLE = "sample,Group,day\ns1,C,1\ns2,K,1\n"
MORE = "sample,Group,day\ns3,M,1\ns2,C,2\ns1,C,1\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "samples.csv", TABLE)


def assert_read(adata: ad.AnnData) -> None:
    x = adata.X.toarray() if sp.issparse(adata.X) else adata.X
    assert x.dtype == np.float64
    np.testing.assert_array_equal(x, X)
    assert list(adata.var_names) == GENES
    assert list(adata.obs_names) == SAMPLES
    assert list(adata.obs["Group"]) == ["C", "K"]


def refusal(read, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        read(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("missing", ["NA", "", "NaN", "nan", " NA"])
def test_text(tmp_path: Path, table: Path, missing: str) -> None:
    text = TEXT.replace("NA", missing)
    assert_read(read_expression(write(tmp_path / "x.csv", text), table))
    assert_read(read_expression(write(tmp_path / "x.tsv", text.replace(",", "\t")), table))


def test_samples_as_rows(tmp_path: Path, table: Path) -> None:
    text = "sample,g1,g2,g3\ns2,4.25,5,0.001\ns1,-1.5,0,\n"
    assert_read(read_expression(write(tmp_path / "x.csv", text), table))


def test_whole_numbers_become_doubles(tmp_path: Path, table: Path) -> None:
    adata = read_expression(write(tmp_path / "x.csv", "gene,s1,s2\ng1,1,2\n"), table)
    assert adata.X.dtype == np.float64
    np.testing.assert_array_equal(adata.X, [[1], [2]])


@pytest.mark.parametrize("store", [np.asarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("form", ["h5ad", "zarr"])
def test_anndata(tmp_path: Path, table: Path, store: type, form: str) -> None:
    obs = pd.DataFrame({"Group": ["K", "C"], "lane": [2, 1]}, index=SAMPLES[::-1])
    adata = ad.AnnData(store(X[::-1]), obs=obs, var=pd.DataFrame(index=GENES))
    path = tmp_path / f"x.{form}"
    with warnings.catch_warnings(action="ignore"):  # of zarr defaults to come
        adata.write_h5ad(path) if form == "h5ad" else adata.write_zarr(path)
    joined = read_expression(path, table)
    assert_read(joined)
    assert isinstance(joined.X, np.ndarray if store is np.asarray else sp.csr_matrix)
    assert list(joined.obs["lane"]) == [1, 2]
    assert list(read_expression(path).obs_names) == SAMPLES[::-1]


def test_single_precision_becomes_double(tmp_path: Path) -> None:
    x = X.astype(np.float32)
    names = pd.DataFrame(index=SAMPLES), pd.DataFrame(index=GENES)
    ad.AnnData(x, *names).write_h5ad(tmp_path / "x.h5ad")
    adata = read_expression(tmp_path / "x.h5ad")
    assert adata.X.dtype == np.float64
    np.testing.assert_array_equal(adata.X, x)


def test_mtx(tmp_path: Path, table: Path) -> None:
    write(tmp_path / "genes.tsv", "g1\ng2\ng3\n")
    write(tmp_path / "barcodes.tsv", "s1\ns2\n")
    scipy.io.mmwrite(tmp_path / "x.mtx", sp.coo_matrix(X.T))
    adata = read_expression(tmp_path / "x.mtx", table)
    assert isinstance(adata.X, sp.csr_matrix)
    assert_read(adata)


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("x2", "gene g2, sample s1: value 'x2' is not a number (1 such)"),
        ("null", "gene g2, sample s1: value 'null' is not a number"),
        ("True", "gene g2, sample s1: value 'True' is not a number"),
        ("inf", "gene g2, sample s1: value inf is infinite (1 such)"),
        ("-inf", "gene g2, sample s1: value -inf is infinite"),
        ("0,0\ng2,0", "gene g2 appears more than once"),
    ],
)
def test_refused_cells(tmp_path: Path, table: Path, cell: str, expected: str) -> None:
    text = TEXT.replace("g2,0,5", f"g2,{cell},5")
    path = write(tmp_path / "x.csv", text)
    assert refusal(read_expression, path, table).startswith(f"{path}: {expected}")


def test_refused_anndata(tmp_path: Path) -> None:
    path = tmp_path / "x.h5ad"
    names = pd.DataFrame(index=SAMPLES), pd.DataFrame(index=GENES)
    x = np.where(np.isnan(X), -np.inf, X)
    for store in (np.asarray, sp.csr_matrix):
        ad.AnnData(store(x), *names).write_h5ad(path)
        expected = f"{path}: gene g3, sample s1: value -inf is infinite (1 such); add an offset"
        assert refusal(read_expression, path).startswith(expected)
    ad.AnnData(X > 0, *names).write_h5ad(path)
    assert "expression must be numbers, but is of type bool" in refusal(read_expression, path)
    ad.AnnData(obs=names[0]).write_h5ad(path)
    assert "put the expression into it" in refusal(read_expression, path)


def test_samples_on_one_side(tmp_path: Path, table: Path) -> None:
    path = write(tmp_path / "x.csv", TEXT)
    more = write(tmp_path / "more.csv", MORE)
    assert refusal(read_expression, path, more).startswith(
        f"{more}: 1 of its samples (s3) are not in {path}"
    )
    path = write(tmp_path / "x.csv", "gene,s1,s2,s4\ng1,1,2,3\n")
    for where in ({}, {"Group": "C"}):
        got = refusal(read_expression, path, table, where=where)
        assert got.startswith(f"{path}: 1 of its samples (s4) are not in {table}")


@pytest.mark.parametrize("read", [read_expression, read_counts])
def test_where_with_text(tmp_path: Path, read) -> None:
    more = write(tmp_path / "more.csv", MORE)
    # s3 is not in the file: its row must be left out first.
    path = write(tmp_path / "x.csv", "gene,s1,s2\ng1,1,3\ng2,2,4\n")
    adata = read(path, more, where={"Group": "C"})
    assert list(adata.obs_names) == ["s2", "s1"]
    np.testing.assert_array_equal(adata.X, [[3, 4], [1, 2]])
    assert list(adata.obs["day"]) == [2, 1]
    # s2 is in the file and left out, with what is wrong in it.
    path = write(tmp_path / "x.csv", "gene,s1,s2\ng1,1,inf\ng2,2,-4\n")
    adata = read(path, more, where={"Group": "C", "day": "1"})
    assert list(adata.obs_names) == ["s1"]
    np.testing.assert_array_equal(adata.X, [[1, 2]])
    assert "s3) are not in" in refusal(read, path, more, where={"day": "1"})
    assert refusal(read, path, more, where={"day": "3"}).startswith(f"{more}: column day has no")


@pytest.mark.parametrize("backed", [False, True])
def test_where_with_anndata(tmp_path: Path, backed: bool) -> None:
    obs = pd.DataFrame({"Group": ["C", "K", "C"], "lane": [1, 1, 2]}, index=["a", "b", "c"])
    x = np.arange(6).reshape(3, 2)
    path = tmp_path / "x.h5ad"
    ad.AnnData(x, obs, pd.DataFrame(index=["g1", "g2"])).write_h5ad(path)
    adata = read_counts(path, where={"Group": "C"}, backed=backed)
    np.testing.assert_array_equal(adata.X, x[[0, 2]])
    table = write(tmp_path / "t.csv", "sample,Group,day\nc,K,1\nb,C,1\na,K,2\nd,M,2\n")
    adata = read_counts(path, table, where={"Group": "K", "lane": "1,2"}, backed=backed)
    assert list(adata.obs_names) == ["c", "a"]
    np.testing.assert_array_equal(adata.X, x[[2, 0]])
    assert list(adata.obs["lane"]) == [2, 1]
    assert adata.obs["lane"].dtype.kind == "i"
    assert "d) are not in" in refusal(read_counts, path, table, where={"day": "2"})


def test_a_real_time_course(data: Path) -> None:
    path = data / "shoemaker500_expr.csv.gz"
    adata = read_expression(path, data / "shoemaker500_metadata.csv", where={"Group": "C"})
    assert adata.shape == (42, 500)
    assert adata.X.dtype == np.float64
    assert set(adata.obs["Group"]) == {"C"}
    expected = pd.read_csv(path, index_col=0)[list(adata.obs_names)].T
    assert list(adata.var_names) == list(expected.columns)
    np.testing.assert_array_equal(adata.X, expected)
    both = read_expression(path, data / "shoemaker500_metadata.csv", where={"Group": "C, K"})
    assert set(both.obs["Group"]) == {"C", "K"}
