"""`expressway federated simulate`: folders in, folders out."""

import json
import re

import anndata
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from typer.testing import CliRunner

from expressway import datasets, federated, pl, run, tl
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


FIRST = ("condition", "treated", "control")
NODES = pd.DataFrame({"mean": [1.0, 30.0, 1000.0], "dispersion": [1.5, 0.2, 0.02]})


@pytest.fixture
def brought(sites, tmp_path):
    """The sites as Python has them, with what files bring, which are beside the counts."""
    adata, folder = sites
    rng = np.random.default_rng(5)
    adata.layers["length"] = rng.uniform(500, 2000, adata.shape)
    adata.layers["weight"] = rng.choice([0.4, 1.0], adata.shape)
    adata.layers["weight"][[0, 15]] = 1.0
    adata.var["control"] = np.arange(150) % 3 > 0
    parts = dict(zip("abc", np.split(np.arange(16), [7, 8]), strict=True))
    found = {name: adata[part].copy() for name, part in parts.items()}
    for name, own in found.items():
        for layer in ("length", "weight"):
            own.to_df(layer=layer).T.iloc[::-1].to_csv(folder / name / f"{layer}.csv")
    (tmp_path / "controls.txt").write_text("\n".join(adata.var_names[adata.var["control"]]))
    NODES.to_csv(tmp_path / "trend.csv", index=False)
    return found


def same(path, expected):
    written = pd.read_csv(path, index_col="gene")
    assert list(written["status"]) == list(expected["status"])
    # Ten significant digits are written.
    pd.testing.assert_frame_equal(
        written.drop(columns="status"), expected.drop(columns="status"), rtol=1e-9, atol=0
    )


def test_what_files_bring_and_settings(sites, brought, tmp_path):
    out = tmp_path / "out"
    names = {
        "control_genes": str(tmp_path / "controls.txt"),
        "offsets": "length.csv",
        "weights": "weight.csv",
        "trend": str(tmp_path / "trend.csv"),
    }
    options = [f"--{name.replace('_', '-')}={value}" for name, value in names.items()]
    options += ["--cooks-cutoff", "inf", "--no-refit", "--no-filter", "--alpha", "0.2"]
    options += ["--lfc-threshold", "0.3", "--alternative", "greater", "--figures", ""]
    result = simulate(sites[1], out, *options)
    assert result.exit_code == 0, result.output
    inputs = tl.Inputs(control_genes="control", offsets="length", precision="weight")
    settings = tl.Settings(
        cooks_cutoff=np.inf, replace_outliers=False, independent_filtering=False, alpha=0.2
    )
    done = federated.simulate(
        brought, DESIGN[1], FIRST, inputs=inputs, settings=settings, trend=NODES
    )
    limit = {"lfc_threshold": 0.3, "alternative": "greater"}
    same(out / "results.csv", tl.contrast(done.adata, FIRST, **limit))
    record = json.loads((out / "run.json").read_text())
    assert record["input"] == {"sites": str(sites[1])} | names
    assert limit.items() < record["test"].items()
    told = {"cooks_cutoff": "inf", "replace_outliers": False, "independent_filtering": False}
    assert (told | {"alpha": 0.2, "trend": "given"}).items() < record["settings"].items()
    assert record["rounds"] == done.rounds
    for name in "abc":
        left = pd.read_csv(out / "sites" / name / "samples.csv", index_col="sample")
        own = federated.stays(done, name).samples
        pd.testing.assert_frame_equal(left, own, rtol=1e-9)


@pytest.fixture(scope="module")
def done():
    adata = datasets.simulate(genes=150, samples=16, batches=2, seed=3)
    parts = dict(zip("abc", np.split(np.arange(16), [7, 8]), strict=True))
    return federated.simulate({k: adata[p].copy() for k, p in parts.items()}, DESIGN[1], FIRST)


@pytest.fixture
def ask(sites, done, tmp_path, monkeypatch):
    """Ask for tests of a fit that is there: other tests are about the fit."""
    monkeypatch.setattr(federated, "simulate", lambda *_, **__: done)

    def asked(*options):
        out = tmp_path / "out"
        before = dict(done.ledger.rounds)
        command = ["federated", "simulate", str(sites[1]), *DESIGN[:2]]
        result = CliRunner().invoke(app, [*command, "--out", str(out), *options])
        assert result.exit_code == 0, result.output
        record = json.loads((out / "run.json").read_text())
        rounds = {k: n - before.get(k, 0) for k, n in done.ledger.rounds.items()}
        return out, record, {k: n for k, n in rounds.items() if n}, result.stdout

    return asked


def test_quasi_likelihood_and_shrunken_fold_changes(ask, done):
    options = ["--test", "ql", "--reduced", "~ 1", "--shrink", "normal", "--figures", ""]
    out, record, rounds, printed = ask(*DESIGN[2:], *options)
    same(out / "results.csv", federated.ql(done, "~ 1", FIRST))
    same(out / "shrunken.csv", federated.shrink(done, FIRST, kind="normal"))
    assert set(rounds) == {"quasi-likelihood test", "shrinkage"}
    assert record["tested"]["test"]["freedom"] == 2
    asked = {"kind": "ql", "reduced": "~ 1", "shrink": "normal"}
    assert asked.items() < record["test"].items()
    assert "condition treated vs control: quasi-likelihood F against ~ 1\n" in printed


def test_likelihood_ratios_of_groups_and_sums(ask, done, monkeypatch):
    for name in ("dispersion", "ma", "p_values", "volcano"):
        monkeypatch.setattr(pl, name, lambda *_, **__: Figure(dpi=20).subplots())
    groups = ["condition=treated batch=batch_2", "condition=control"]
    sums = ["--plus", "batch[T.batch_2]", "--minus", "Intercept"]
    more = ["--test", "lrt", "--figures", "", "--report", "--tables", "parquet"]
    out, record, rounds, printed = ask("--groups", *groups, *sums, *more)
    specs = {
        "condition=treated batch=batch_2 vs condition=control": (
            {"condition": "treated", "batch": "batch_2"},
            {"condition": "control"},
        ),
        "-Intercept + batch[T.batch_2]": (["batch[T.batch_2]"], ["Intercept"]),
    }
    assert list(record["contrasts"]) == list(specs)
    for name, spec in specs.items():
        written = pd.read_parquet(out / record["contrasts"][name]["results"])
        pd.testing.assert_frame_equal(written, federated.lrt(done, None, spec), rtol=1e-9)
        assert f"{name}: likelihood ratio\n" in printed
    assert set(rounds) == {"likelihood-ratio test"}
    left = pd.read_parquet(out / "disclosure.parquet")
    assert "likelihood-ratio test" in set(left.index)
    assert "likelihood ratio" in (out / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            "--reduced ~batch",
            "the reduced design '~batch' goes with the tests lrt and ql (--test lrt); Wald's test "
            "is of a contrast",
        ),
        (
            "--test ql --alternative less",
            "a threshold of fold changes goes with Wald's test, not with ql; leave it out",
        ),
        (
            "--alternative lessAbs",
            "lfc_threshold must be above 0 for the alternative lessAbs, but is 0.0",
        ),
        (
            "--groups condition=treated dose=high",
            "dose is not a factor of the design ~ batch + condition, whose factors are batch, "
            "condition; of a covariate, name the coefficient",
        ),
        ("--figures gif", "--figures gif: gif is none of png, pdf, svg"),
        (
            "--trend none.csv",
            "--trend none.csv: needs parametric, local, mean or a file of means and dispersions",
        ),
        (
            "--control-genes {}/strangers.txt",
            "{}/strangers.txt: 1 of its 2 genes are not in the counts (nobody); name genes of "
            "the counts, one a line",
        ),
        ("--offsets none.csv", "{}/hospitals/a/none.csv: no such file"),
        (
            "--offsets short.csv",
            "{}/hospitals/b/short.csv: 1 of the 150 genes are not in it (gene_4; it has gene_1, "
            "gene_2, gene_3, …); give a row and a column for each",
        ),
        (
            "--size-factors iterate --weights weight.csv",
            "size factors by iteration take no 'weights': leave it out, or take size factors "
            "ratio or poscounts",
        ),
        (
            "--cooks-cutoff -1",
            "cooks_cutoff must be above 0 (inf: no count is an outlier), but is -1.0",
        ),
    ],
)
def test_options_that_cannot_be_are_refused_in_one_line(options, line, sites, brought, tmp_path):
    for name, own in brought.items():
        table = own.to_df(layer="length").T
        (table.drop("gene_4") if name == "b" else table).to_csv(sites[1] / name / "short.csv")
    (tmp_path / "strangers.txt").write_text("gene_1\nnobody\n")
    words = options.replace("{}", str(tmp_path)).split()
    design = DESIGN if "--groups" not in words else DESIGN[:2]
    command = ["federated", "simulate", str(sites[1]), *design, "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(app, [*command, *words])
    assert result.exit_code == 2
    assert result.output == f"error: {line.replace('{}', str(tmp_path))}\n"
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out.stages").exists()


def test_stages_with_other_files_are_not_resumed(sites, brought, tmp_path, monkeypatch):
    files = {"--control-genes": tmp_path / "controls.txt", "--trend": tmp_path / "trend.csv"}
    options = [str(word) for pair in files.items() for word in pair]

    def ends(self, request):
        raise KeyboardInterrupt

    monkeypatch.setattr(run.Site, "answer", ends)
    out = tmp_path / "out"
    assert simulate(sites[1], out, *options).exit_code == 130
    assert simulate(sites[1], out, *options, "--resume").exit_code == 130
    other = {"--control-genes": "gene_1\ngene_2\n", "--trend": "mean,dispersion\n1,1\n"}
    for option, path in files.items():
        text = path.read_text()
        path.write_text(other[option])
        result = simulate(sites[1], out, *options, "--resume")
        assert result.exit_code == 2
        assert "holds stages of another run" in result.output
        path.write_text(text)
