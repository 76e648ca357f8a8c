import json

import anndata
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from expressway import datasets, io, tl
from expressway.cli import app, each_folder
from expressway.cli.folder import Place


@pytest.fixture
def cells(tmp_path):
    """Three cells of each of the samples of two types, whose counts add up to theirs."""
    parts = []
    for kind, seed in (("B cells", 1), ("T/cells", 2)):
        bulk = datasets.simulate(genes=200, samples=8, seed=seed)
        x = np.asarray(bulk.X)
        obs = bulk.obs[["condition"]].assign(cell_type=kind, donor=list(bulk.obs_names))
        third = [x // 3, x // 3, x - 2 * (x // 3)]
        for i, own in enumerate(third):
            names = [f"{kind}-{name}-{i}" for name in bulk.obs_names]
            var = pd.DataFrame(index=bulk.var_names)
            parts.append(anndata.AnnData(own, obs=obs.set_index(pd.Index(names)), var=var))
    whole = anndata.concat(parts)
    whole.layers["counts"] = whole.X.copy()
    whole.X = np.log1p(whole.X)
    whole.write_h5ad(tmp_path / "cells.h5ad")
    return tmp_path / "cells.h5ad"


def run(*arguments):
    return CliRunner().invoke(app, ["pseudobulk", *map(str, arguments)])


def test_from_cells_to_a_folder_a_type(cells, tmp_path):
    out = tmp_path / "bulk.h5ad"
    options = ["--by", "donor", "--by", "cell_type", "--min-cells", 3]
    result = run(cells, *options, "--layer", "counts", "--out", out)
    assert result.exit_code == 0, result.output
    assert "16 samples x 200 genes of 48 cells" in result.stdout
    bulk = anndata.read_h5ad(out)
    assert (bulk.obs["cells"] == 3).all()
    own = datasets.simulate(genes=200, samples=8, seed=1)
    kind = bulk[bulk.obs["cell_type"] == "B cells"]
    np.testing.assert_array_equal(kind.X, own[kind.obs["donor"].astype(str)].X)

    found = tl.de_each(bulk, "cell_type", "~ condition")
    folder = tmp_path / "results"
    with io.written_folder(folder) as scratch:
        place = Place(scratch, io.Clock())
        each_folder.write_each(bulk, found, place, {"input": {"counts": str(out)}})
    names = ["groups.csv", "results_B_cells.csv", "results_T_cells.csv", "run.json"]
    assert sorted(path.name for path in folder.iterdir()) == names
    record = json.loads((folder / "run.json").read_text())
    assert record["files"] == names
    assert record["within"] == "cell_type"
    groups = pd.read_csv(folder / "groups.csv", index_col=0)
    assert groups["results"].tolist() == names[1:3]
    table = pd.read_csv(folder / "results_T_cells.csv", index_col=0)
    assert len(table) == 200
    assert (table["p_adj"] < 0.1).sum() == groups.loc["T/cells", ["up", "down"]].sum()


def test_groups_are_shown(capsys, tmp_path):
    groups = pd.DataFrame(
        {"samples": [8, 2], "tested": [190, 0], "up": [7, 0], "down": [5, 0], "why": ["", "few"]},
        index=pd.Index(["B", "NK"], name="cell_type"),
    )
    each_folder.show_each(tl.Each(groups, groups), "bulk.h5ad", tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "bulk.h5ad: 2 groups of cell_type"
    assert lines[1].split() == ["B", "7", "up", "5", "down", "of", "190", "genes", "tested"]
    assert lines[2].split() == ["NK", "few"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--by", "donor", "--out", "bulk.csv"], "the sums are written as .h5ad"),
        (["--by", "donor", "--out", "nowhere/bulk.h5ad"], "there is no folder nowhere"),
        (["--by", "donor", "--out", "cells.h5ad"], "cells.h5ad is there already"),
        (["--by", "donor", "--out", "b.h5ad"], "is not a whole number"),
        (["--by", "type", "--layer", "counts", "--out", "b.h5ad"], "no column 'type' in obs"),
        (["--by", "donor", "--layer", "raw", "--out", "b.h5ad"], "its layers are counts"),
    ],
)
def test_mistakes_are_one_line(cells, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    result = run("cells.h5ad", *options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["cells.h5ad"]
