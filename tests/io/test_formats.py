import gzip
import importlib

import numpy as np
import openpyxl
import pandas as pd
import pytest

from expressway import io
from expressway._errors import InputError


@pytest.fixture
def table() -> pd.DataFrame:
    """Whatever a table of results has, and what spoils it in a spreadsheet."""
    return pd.DataFrame(
        {
            "stat": [1 / 3, np.nan, -1e-300],
            "count": [1, 2**40, 0],
            "maybe": pd.array([1, None, 3], dtype="Int64"),
            "called": [True, False, True],
            "status": pd.Categorical(["ok", None, "outlier"], ["ok", "low_count", "outlier"]),
            "why": ["", "=1+1", "a,\tb"],
        },
        index=pd.Index(["SEPT2", "1e5", "0012"], name="gene"),
    )


def test_parquet_gives_an_equal_table(table, tmp_path):
    io.write_table(table, tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), table)
    grouped = table.assign(group=["a", "a", "b"]).set_index("group", append=True)
    io.write_table(grouped, tmp_path / "table.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "table.parquet"), grouped)


def test_excel_keeps_names_and_numbers(table, tmp_path):
    path = tmp_path / "table.xlsx"
    io.write_table(table, path)
    read = pd.read_excel(path, sheet_name="table", dtype={"gene": str}, keep_default_na=False)
    assert list(read.columns) == ["gene", *table.columns]
    assert read["gene"].tolist() == ["SEPT2", "1e5", "0012"]
    assert read["status"].tolist() == ["ok", "", "outlier"]
    assert read["why"].tolist() == ["", "=1+1", "a,\tb"]  # no formula
    assert read["called"].tolist() == [True, False, True]
    assert read["count"].tolist() == [1, 2**40, 0]
    assert read["maybe"].tolist() == [1, "", 3]
    # Excel's format of numbers: 16 digits.
    np.testing.assert_allclose([read["stat"][0], read["stat"][2]], [1 / 3, -1e-300], rtol=1e-15)
    assert read["stat"][1] == ""
    cell = openpyxl.load_workbook(path)["table"]["A2"]
    assert (cell.value, cell.data_type, cell.number_format) == ("SEPT2", "s", "@")  # "@": text


def test_a_workbook_has_a_sheet_a_table(table, tmp_path):
    names = ["a/b", "a:b", "x" * 40, "X" * 40, ""]
    io.write_workbook(dict.fromkeys(names, table), tmp_path / "several.xlsx")
    read = pd.read_excel(tmp_path / "several.xlsx", sheet_name=None, index_col=0)
    assert list(read) == ["a_b", "a_b_2", "x" * 31, "X" * 29 + "_2", "table"]
    assert all(len(found) == 3 for found in read.values())


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv", "tsv.gz"])
def test_delimited_text_has_ten_digits(table, tmp_path, suffix):
    path = tmp_path / f"table.{suffix}"
    io.write_table(table, path)
    content = path.read_bytes()
    text = (gzip.decompress(content) if suffix.endswith("gz") else content).decode()
    header, first, second, _ = text.splitlines()
    tab = "\t" if suffix.startswith("tsv") else ","
    assert header == tab.join(["gene", *table.columns])
    assert first == tab.join(["SEPT2", "0.3333333333", "1", "1", "True", "ok", ""])
    assert second == tab.join(["1e5", "", "1099511627776", "", "False", "", "=1+1"])
    io.write_table(table, path)
    assert path.read_bytes() == content


def test_levels_of_an_index_are_columns(table, tmp_path):
    table.index = pd.MultiIndex.from_arrays([["B", "B", "T"], table.index], names=["type", "gene"])
    io.write_table(table[["count"]], tmp_path / "table.csv")
    assert (tmp_path / "table.csv").read_text().splitlines()[:2] == ["type,gene,count", "B,SEPT2,1"]


def test_what_cannot_be_written_is_one_line(table, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"table\.ods: tables are written as \.csv, "):
        io.write_table(table, tmp_path / "table.ods")
    many = pd.DataFrame({"x": np.zeros(2**20)})
    with pytest.raises(InputError, match=r"1,048,576 rows .* holds 1,048,575 below its header"):
        io.write_table(many, tmp_path / "table.xlsx")
    long = pd.DataFrame({"x": ["a" * 32_768]})
    with pytest.raises(InputError, match="column x has 32,768 letters"):
        io.write_table(long, tmp_path / "table.xlsx")
    with pytest.raises(InputError, match="no table to write"):
        io.write_workbook({}, tmp_path / "table.xlsx")
    infinite = pd.DataFrame({"x": [np.inf]}, index=pd.Index(["a"], name="gene"))
    io.write_table(infinite, tmp_path / "table.xlsx")
    assert pd.read_excel(tmp_path / "table.xlsx", index_col=0)["x"].tolist() == [np.inf]

    real = importlib.import_module

    def absent(name, *rest):
        if name in ("pyarrow", "xlsxwriter"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    for name, package in (("a.parquet", "pyarrow"), ("a.xlsx", "xlsxwriter")):
        for write in (io.check_table_path, lambda path: io.write_table(table, path)):
            with pytest.raises(
                InputError, match=f"package {package} is missing: pip install"
            ) as caught:
                write(tmp_path / name)
            assert "\n" not in str(caught.value)
    io.check_table_path(tmp_path / "a.csv")
