import gzip
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import scipy.sparse as sp

from expressway.io import InputError, check_counts, read_counts

GENES = ["g1", "g2", "g3"]
SAMPLES = ["s1", "s2"]
COUNTS = np.array([[1, 0, 3], [4, 5, 0]])  # samples x genes
TABLE = "sample,dex\ns1,untrt\ns2,trt\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write(tmp_path / "samples.csv", TABLE)


def write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def write_mtx(folder: Path, genes: str = "genes.tsv", barcodes: str = "barcodes.tsv") -> Path:
    write(folder / genes, "g1\tA\ng2\tB\ng3\tC\n")
    write(folder / barcodes, "s1\ns2\n")
    scipy.io.mmwrite(folder / "matrix.mtx", sp.coo_matrix(COUNTS.T))
    return folder / "matrix.mtx"


def message(counts: Path, samples: Path | None) -> str:
    with pytest.raises(InputError) as caught:
        read_counts(counts, samples)
    text = str(caught.value)
    assert "\n" not in text
    return text


def assert_read(adata: ad.AnnData) -> None:
    x = adata.X.toarray() if sp.issparse(adata.X) else adata.X
    np.testing.assert_array_equal(x, COUNTS)
    assert list(adata.var_names) == GENES
    assert list(adata.obs_names) == SAMPLES
    assert list(adata.obs["dex"]) == ["untrt", "trt"]


GENES_BY_SAMPLES = "gene,s1,s2\ng1,1,4\ng2,0,5\ng3,3,0\n"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("c.csv", GENES_BY_SAMPLES),
        ("c.csv", ",s2,s1\ng1,4,1\ng2,5,0\ng3,0,3\n"),
        ("c.csv", "sample,g1,g2,g3\ns2,4,5,0\ns1,1,0,3\n"),
        ("c.csv", "\ufeff" + GENES_BY_SAMPLES),
        ("c.csv", '"gene","s1","s2"\r\n"g1",1,4\r\n"g2",0,5\r\n"g3",3,0\r\n'),
        ("c.csv", "s1,s2\ng1,1,4\ng2,0,5\ng3,3,0\n"),
        ("c.csv", GENES_BY_SAMPLES.replace(",", ";")),
        ("c.csv.gz", GENES_BY_SAMPLES),
        ("c.tsv", GENES_BY_SAMPLES.replace(",", "\t")),
        ("c.tsv.gz", GENES_BY_SAMPLES.replace(",", "\t")),
        ("c.txt", GENES_BY_SAMPLES.replace(",", "\t")),
    ],
)
def test_text(tmp_path: Path, table: Path, name: str, text: str) -> None:
    adata = read_counts(write(tmp_path / name, text), table)
    assert_read(adata)
    assert adata.X.dtype.kind == "i"


def test_order_follows_the_sample_table(tmp_path: Path) -> None:
    table = write(tmp_path / "samples.tsv", "sample\tdex\ns2\ttrt\ns1\tuntrt\n")
    adata = read_counts(write(tmp_path / "c.csv", GENES_BY_SAMPLES), table)
    assert list(adata.obs_names) == ["s2", "s1"]
    np.testing.assert_array_equal(adata.X, COUNTS[::-1])


def test_the_axis_with_more_sample_names_is_samples(tmp_path: Path, table: Path) -> None:
    text = GENES_BY_SAMPLES.replace("g1", "s1")
    assert list(read_counts(write(tmp_path / "c.csv", text), table).var_names) == ["s1", "g2", "g3"]


def test_whole_floats_are_counts(tmp_path: Path, table: Path) -> None:
    assert_read(read_counts(write(tmp_path / "c.csv", GENES_BY_SAMPLES.replace("5", "5.0")), table))


def test_names_that_look_like_something_else_stay_text(tmp_path: Path) -> None:
    table = write(tmp_path / "samples.csv", "sample,dex,age\n01,None,3\nNA,null,4\n")
    adata = read_counts(write(tmp_path / "c.csv", "gene,NA,01\n7157,1,2\nNA,3,4\n"), table)
    assert list(adata.obs_names) == ["01", "NA"]
    assert list(adata.var_names) == ["7157", "NA"]
    assert list(adata.obs["dex"]) == ["None", "null"]
    np.testing.assert_array_equal(adata.X, [[2, 4], [1, 3]])
    assert adata.obs["age"].dtype == np.int64


def test_missing_values_in_the_sample_table_are_kept(tmp_path: Path) -> None:
    table = write(tmp_path / "samples.csv", "sample,dex,age\ns1,NA,3\ns2,trt,\n")
    obs = read_counts(write(tmp_path / "c.csv", GENES_BY_SAMPLES), table).obs
    np.testing.assert_array_equal(obs.isna(), [[True, False], [False, True]])


@pytest.mark.parametrize(
    ("genes", "barcodes"),
    [
        ("genes.tsv", "barcodes.tsv"),
        ("features.tsv.gz", "barcodes.tsv.gz"),
        ("matrix_rows.txt", "matrix_cols.txt"),
    ],
)
def test_mtx(tmp_path: Path, table: Path, genes: str, barcodes: str) -> None:
    adata = read_counts(write_mtx(tmp_path, genes, barcodes), table)
    assert_read(adata)
    assert isinstance(adata.X, sp.csr_matrix)
    assert adata.X.dtype.kind == "i"


def test_mtx_gz_with_a_prefix_and_samples_as_rows(tmp_path: Path, table: Path) -> None:
    write(tmp_path / "GSM1_features.tsv", "s2\ns1\n")
    write(tmp_path / "GSM1_barcodes.tsv", "g1\ng2\ng3\n")
    scipy.io.mmwrite(tmp_path / "m.mtx", sp.coo_matrix(COUNTS[::-1]))
    write(tmp_path / "GSM1_matrix.mtx.gz", (tmp_path / "m.mtx").read_text())
    assert_read(read_counts(tmp_path / "GSM1_matrix.mtx.gz", table))


@pytest.mark.parametrize("store", [np.asarray, sp.csr_matrix, sp.csc_matrix, np.float32])
def test_h5ad(tmp_path: Path, table: Path, store: type) -> None:
    obs = pd.DataFrame({"dex": ["no", "no"], "age": [1, 2]}, index=SAMPLES[::-1])
    adata = ad.AnnData(store(COUNTS[::-1]), obs=obs, var=pd.DataFrame(index=GENES))
    adata.write_h5ad(tmp_path / "c.h5ad")
    alone = read_counts(tmp_path / "c.h5ad", None)
    assert list(alone.obs_names) == SAMPLES[::-1]
    joined = read_counts(tmp_path / "c.h5ad", table)
    assert_read(joined)
    assert list(joined.obs["age"]) == [2, 1]
    assert not sp.issparse(adata.X) or isinstance(joined.X, sp.csr_matrix)


@pytest.mark.parametrize("name", ["c.csv", "c.mtx", "c.h5ad"])
def test_absent_file(tmp_path: Path, table: Path, name: str) -> None:
    assert message(tmp_path / name, table) == f"{tmp_path / name}: no such file"


def test_absent_sample_table(tmp_path: Path) -> None:
    counts = write(tmp_path / "c.csv", GENES_BY_SAMPLES)
    assert message(counts, tmp_path / "s.csv") == f"{tmp_path / 's.csv'}: no such file"
    assert "c.csv: a sample table is needed" in message(counts, None)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "the file is empty"),
        ("gene,s1,s2\n", "no rows below the header"),
        ("gene,s1,s2\ng1,1,2\ng2,1,2,3\n", "line 3, saw 4"),
        ("s1\ng1,1,2\n", "the header has 1 fields, the rows 3"),
        ("gene,s1,s2\ng1,1,2\ng2,,2\n", "gene g2, sample s1: count '' is missing (1 such)"),
        ("gene,s1,s2\ng1,1,2\ng2,1\n", "gene g2, sample s2: count '' is missing"),
        ("gene,s1,s2\ng1,NA,2\ng2,NA,2\n", "gene g1, sample s1: count 'NA' is missing (2 such)"),
        ("gene,s1,s2\ng1,1,2\ng2,1,x2\n", "gene g2, sample s2: count 'x2' is not a number"),
        ("gene,s1,s2\ng1,1,2\ng2,1,inf\n", "gene g2, sample s2: count inf is missing or infinite"),
        ("gene,s1,s2\ng1,1,-2\ng2,-1,2\n", "gene g2, sample s1: count -1 is negative (2 such)"),
        ("gene,s1,s2\ng1,1,2.5\ng2,1,2\n", "gene g1, sample s2: count 2.5 is not a whole number"),
        ("gene,s1,s2\ng1,1,2\ng1,1,2\n", "gene g1 appears more than once (1 genes do)"),
        ("gene,s1,s1\ng1,1,2\ng2,1,2\n", "sample s1 appears more than once"),
        ("gene,s1\ng1,1\n", "1 of its samples (s2) are not in"),
        ("gene,s1,s2,s3\ng1,1,2,3\n", "1 of its samples (s3) are not in"),
        ("gene,a,b,c,d\ng1,1,2,3,4\n", "0 are columns (a, b, c, …)"),
        ("gene,s1,s2\ns1,1,2\ns2,1,2\n", "2 of its samples (s1, s2) are rows"),
    ],
)
def test_refused_text(tmp_path: Path, table: Path, text: str, expected: str) -> None:
    got = message(write(tmp_path / "c.csv", text), table)
    assert expected in got
    assert "c.csv" in got


def test_samples_missing_on_either_side_name_both_files(tmp_path: Path, table: Path) -> None:
    counts = write(tmp_path / "c.csv", "gene,s1,s3\ng1,1,2\n")
    assert message(counts, table).startswith(f"{table}: 1 of its samples (s2) are not in {counts}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sample,dex\ns1,a\ns1,b\n", "sample s1 appears more than once"),
        ("sample,dex,dex\ns1,a,b\ns2,a,b\n", "column dex appears more than once"),
        ("", "the file is empty"),
        ("sample,dex\n", "no rows below the header"),
        ("sample,dex\ns1,a\ns2,b,c\n", "line 3, saw 3"),
    ],
)
def test_refused_sample_table(tmp_path: Path, text: str, expected: str) -> None:
    counts = write(tmp_path / "c.csv", GENES_BY_SAMPLES)
    got = message(counts, write(tmp_path / "samples.csv", text))
    assert got.startswith(str(tmp_path / "samples.csv"))
    assert expected in got


def test_files_of_another_kind(tmp_path: Path, table: Path) -> None:
    (tmp_path / "c.xlsx").write_bytes(b"PK\x03\x04\xff\xfe\x00")
    assert "c.xlsx: not a text file" in message(tmp_path / "c.xlsx", table)
    assert "c.csv.gz: cannot be read" in message(_raw(tmp_path / "c.csv.gz", b"a,b"), table)
    cut = gzip.compress(GENES_BY_SAMPLES.encode())[:-12]
    assert "d.csv.gz: cannot be read" in message(_raw(tmp_path / "d.csv.gz", cut), table)
    assert "c.h5ad: cannot be read" in message(write(tmp_path / "c.h5ad", "x"), table)
    with h5py.File(tmp_path / "other.h5ad", "w") as file:
        file["z"] = 1
    assert "other.h5ad: cannot be read" in message(tmp_path / "other.h5ad", table)
    assert "c.mtx: cannot be read" in message(write(tmp_path / "c.mtx", "x"), table)
    assert f"{tmp_path}: cannot be read" in message(tmp_path, table)


def _raw(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_mtx_labels(tmp_path: Path, table: Path) -> None:
    counts = write_mtx(tmp_path)
    write(tmp_path / "barcodes.tsv", "s1\n")
    assert "the matrix is 3 x 2, but the files beside it name 3 rows and 1" in message(
        counts, table
    )
    (tmp_path / "barcodes.tsv").unlink()
    assert "put one of barcodes.tsv, cols.txt beside it" in message(counts, table)


def test_refused_h5ad(tmp_path: Path, table: Path) -> None:
    path = tmp_path / "c.h5ad"
    ad.AnnData(obs=pd.DataFrame(index=SAMPLES)).write_h5ad(path)
    assert "X is empty" in message(path, table)
    counts = COUNTS.astype(float)
    counts[1, 0] = 0.5
    var = pd.DataFrame(index=GENES)
    ad.AnnData(counts, obs=pd.DataFrame(index=SAMPLES), var=var).write_h5ad(path)
    assert f"{path}: gene g1, sample s2: count 0.5 is not a whole" in message(path, table)
    ad.AnnData(COUNTS, obs=pd.DataFrame(index=["s1", "s9"]), var=var).write_h5ad(path)
    assert f"{table}: 1 of its samples (s2) are not in {path}" in message(path, table)


@pytest.mark.parametrize("store", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (-1, "count -1.0 is negative (2 such)"),
        (np.nan, "count nan is missing or infinite (2 such)"),
        (np.inf, "count inf is missing or infinite (2 such)"),
        (0.5, "count 0.5 is not a whole number (2 such)"),
    ],
)
def test_check_counts_names_the_first_offender(store: type, value: float, expected: str) -> None:
    counts = COUNTS.astype(float)
    counts[0, 2] = counts[1, 0] = value
    with pytest.raises(InputError) as caught:
        check_counts(store(counts), GENES, SAMPLES, "adata.X")
    assert str(caught.value).startswith(f"adata.X: gene g3, sample s1: {expected}")


@pytest.mark.parametrize("kind", [np.int32, np.uint16, np.int64, np.float32])
@pytest.mark.parametrize("store", [np.asarray, sp.csr_matrix])
def test_check_counts_accepts(store: type, kind: type) -> None:
    given = store(COUNTS.astype(kind))
    check_counts(given, GENES, SAMPLES, "adata.X")
    left = given.toarray() if sp.issparse(given) else given
    assert left.dtype == kind
    np.testing.assert_array_equal(left, COUNTS)


def test_check_counts_refuses_what_is_no_matrix_of_numbers() -> None:
    with pytest.raises(InputError, match="gene g1 appears more than once"):
        check_counts(COUNTS, ["g1", "g1", "g2"], SAMPLES, "adata.X")
    with pytest.raises(InputError, match="sample s1 appears more than once"):
        check_counts(COUNTS, GENES, ["s1", "s1"], "adata.X")
    with pytest.raises(InputError, match="2 samples and 0 genes"):
        check_counts(COUNTS[:, :0], [], SAMPLES, "adata.X")
    with pytest.raises(InputError, match="of type bool"):
        check_counts(COUNTS > 0, GENES, SAMPLES, "adata.X")
    with pytest.raises(InputError, match="count 'None' is missing"):
        check_counts(np.where(COUNTS == 3, None, COUNTS), GENES, SAMPLES, "adata.X")
    with pytest.raises(InputError, match="of type object"):
        check_counts(COUNTS.astype(object), GENES, SAMPLES, "adata.X")
