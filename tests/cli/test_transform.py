"""`expressway transform`."""

import anndata
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from expressway import pp
from expressway.cli import app

# Ten digits in the file.
WRITTEN = {"rtol": 1e-9, "atol": 1e-9}


def call(*arguments):
    return CliRunner().invoke(app, ["transform", *map(str, arguments)])


def refusal(*arguments):
    result = call(*arguments)
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.splitlines()
    return line.removeprefix("error: ")


def table(path):
    return pd.read_csv(path, index_col=0)


@pytest.mark.parametrize("kind", ["vst", "rlog", "normalised", "log"])
def test_a_table_of_each_kind(write, adata, tmp_path, kind):
    out = tmp_path / ("out.csv.gz" if kind == "log" else "out.csv")
    result = call(*write(), "--kind", kind, "--out", out)
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{kind} of 200 genes x 8 samples: {out}\n"
    other = adata.copy()
    verbs = {"vst": pp.vst, "rlog": pp.rlog}
    verbs.get(kind, lambda a: pp.normalise(a, log=kind == "log"))(other)
    found = table(out)
    assert list(found.index) == list(adata.var_names)
    assert list(found.columns) == list(adata.obs_names)
    np.testing.assert_allclose(found.T, other.layers[kind], **WRITTEN)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["counts.csv", out.name, "samples.csv"]


def test_fitted_once_and_used_again(write, adata, tmp_path):
    files, fitted = write("h5ad"), tmp_path / "vst.json"
    nodes = tmp_path / "nodes.csv"
    nodes.write_text("mean,dispersion\n1,2\n100,.2\n10000,.1\n")
    options = ("--design", "~ batch + condition", "--trend", nodes, "--size-factors", "poscounts")
    first = tmp_path / "first.h5ad"
    result = call(*files, *options, "--out", first, "--save", fitted, "--quiet")
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    again = tmp_path / "again.csv"
    assert call(*files, "--use", fitted, "--out", again).exit_code == 0
    layer = anndata.read_h5ad(first).layers["vst"]
    np.testing.assert_allclose(table(again).T, layer, **WRITTEN)
    assert pp.load_transform(fitted).of.trend.kind == "given"


def test_mistakes_are_one_line(write, tmp_path):
    files, out = write(), tmp_path / "out.csv"
    assert "name such a file" in refusal(*files, "--out", tmp_path / "out.txt")
    assert "there is no folder" in refusal(*files, "--out", tmp_path / "a" / "out.csv")
    assert "--trend curve: needs" in refusal(*files, "--trend", "curve", "--out", out)
    line = refusal(*files, "--kind", "log", "--design", "~ batch", "--out", out)
    assert line.startswith("--design goes with --kind vst or rlog")
    line = refusal(*files, "--use", tmp_path / "no.json", "--kind", "vst", "--out", out)
    assert line.startswith("--kind goes with a transformation that is fitted")
    assert "no.json cannot be read" in refusal(*files, "--use", tmp_path / "no.json", "--out", out)
    out.write_text("mine")
    assert "is there already" in refusal(*files, "--out", out)
    assert out.read_text() == "mine"
    assert call(*files, "--kind", "normalised", "--out", out, "--overwrite").exit_code == 0
    assert len(table(out)) == 200
