"""`expressway federated simulate`: folders in, folders out."""

import json
import re

import anndata
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from expressway import datasets, run
from expressway.cli import app

DESIGN = ["--design", "~ batch + condition", "--contrast", "condition", "treated", "control"]


@pytest.fixture
def sites(tmp_path):
    """The samples of two sites and a third with a single one."""
    adata = datasets.simulate(genes=150, samples=16, batches=2, seed=3)
    folder = tmp_path / "hospitals"
    for name, part in zip(("a", "b", "c"), np.split(np.arange(16), [7, 8]), strict=True):
        (folder / name).mkdir(parents=True)
        own = adata[part]
        own.to_df().T.to_csv(folder / name / "counts.csv.gz")
        own.obs.rename_axis("sample").to_csv(folder / name / "samples.csv")
    return adata, folder


def simulate(folder, out, *more):
    command = ["federated", "simulate", str(folder), *DESIGN, "--out", str(out), *more]
    return CliRunner().invoke(app, command)


def test_from_folders_to_folders(sites, tmp_path):
    adata, folder = sites
    out = tmp_path / "out"
    result = simulate(folder, out, "--also", "batch[T.batch_2]")
    assert result.exit_code == 0, result.output
    names = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()}
    expected = {"genes.csv", "run.json", "disclosure.csv", "cells.csv", "fit.h5ad"}
    stays = {f"sites/{s}/{name}" for s in "abc" for name in ("samples.csv", "fitted.h5ad")}
    assert expected | stays <= names
    assert "results_condition_treated_vs_control.csv" in names
    record = json.loads((out / "run.json").read_text())
    assert set(record["files"]) == names
    assert record["rounds"] == sum(record["rounds_by_stage"].values()) <= 100
    assert set(record["bytes_up"]) == set(record["bytes_down"]) == {"a", "b", "c"}
    assert record["samples"] == 16
    assert re.search(rf"{record['rounds']} rounds; [\d.]+ MB from the sites", result.output)
    left = pd.read_csv(out / "disclosure.csv")
    assert set(left["site"]) == {"a", "b", "c"}
    assert left["round"].max() == record["rounds"]
    columns = pd.read_csv(out / "genes.csv").columns
    assert "flagged" in columns
    assert "max_cooks" not in columns
    fitted = anndata.read_h5ad(out / "sites" / "b" / "fitted.h5ad")
    assert fitted.shape == (1, 150)
    assert list(fitted.obs_names) == list(adata.obs_names[7:8])
    assert not (tmp_path / "out.stages").exists()


def test_an_end_in_the_middle_is_resumed(sites, tmp_path, monkeypatch):
    folder, out = sites[1], tmp_path / "out"
    whole = simulate(folder, tmp_path / "whole")
    assert whole.exit_code == 0
    answer, asked = run.Site.answer, []

    def until_coefficients(self, request):
        asked.append(request.round)
        if request.round > 20:
            raise KeyboardInterrupt
        return answer(self, request)

    monkeypatch.setattr(run.Site, "answer", until_coefficients)
    ended = simulate(folder, out)
    assert ended.exit_code == 130
    assert "the same command with --resume goes on" in ended.output
    assert not out.exists()
    asked.clear()

    def counted(self, request):
        asked.append(request.round)
        return answer(self, request)

    monkeypatch.setattr(run.Site, "answer", counted)
    resumed = simulate(folder, out, "--resume")
    assert resumed.exit_code == 0, resumed.output
    first, second = (json.loads((tmp_path / d / "run.json").read_text()) for d in ("whole", "out"))
    assert second["rounds_by_stage"] == first["rounds_by_stage"]
    assert second["bytes_up"] == first["bytes_up"]
    assert len(asked) < 3 * first["rounds"]  # three sites; finished stages are not asked again
    for name in ("results.csv", "genes.csv"):
        assert (tmp_path / "whole" / name).read_text() == (out / name).read_text()
    assert not (tmp_path / "out.stages").exists()


def test_stages_of_other_data_are_not_resumed(sites, tmp_path, monkeypatch):
    folder, out = sites[1], tmp_path / "out"

    def ends(self, request):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(run.Site, "answer", ends)
        assert simulate(folder, out).exit_code == 130
    table = pd.read_csv(folder / "a" / "counts.csv.gz", index_col=0)
    (table + 1).to_csv(folder / "a" / "counts.csv.gz")
    result = simulate(folder, out, "--resume")
    assert result.exit_code == 2
    assert "holds stages of another run" in result.output


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--min-sites", "4"], "3 sites; at least 4 are needed (--min-sites)"),
        (["--min-samples", "5"], "design cell 'batch=batch_1 condition=control' has 4 samples"),
        (["--design", "~ nothing"], "site a: the formula names column nothing"),
        (["--also", "nothing"], "nothing"),
    ],
)
def test_refusals_are_one_line(more, says, sites, tmp_path):
    result = simulate(sites[1], tmp_path / "out", *more)
    assert result.exit_code == 2
    assert says in result.output
    assert result.output.startswith("error: ")
    assert result.output.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_sites_with_other_genes(sites, tmp_path):
    folder = sites[1]
    table = pd.read_csv(folder / "a" / "counts.csv.gz", index_col=0)
    table.iloc[:100].to_csv(folder / "a" / "counts.csv.gz")
    refused = simulate(folder, tmp_path / "out")
    assert "sites differ in their genes: 100 are at every site" in refused.output
    result = simulate(folder, tmp_path / "out", "--common-genes")
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["genes"] == 100
    assert record["genes_left_out"] == {"a": 0, "b": 50, "c": 50}
