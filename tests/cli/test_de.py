import json
import logging
import os
import re
import signal
import subprocess
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

import expressway
from expressway import pl, tl
from expressway.cli import folder

DESIGN = ["--design", "~ batch + condition"]
CONTRAST = ["--contrast", "condition", "treated", "control"]
DRAWN = (
    *("cooks", "counts", "dispersion", "heatmap", "ma"),
    *("p_values", "pca", "sample_distances", "volcano"),
)
FIGURES = {f"figures/{name}.png" for name in DRAWN}
FILES = {
    "genes.csv",
    "results.csv",
    "run.json",
    "samples.csv",
}


@pytest.fixture(autouse=True)
def blank_figures(monkeypatch):
    """Figures have their own tests, and take longer than all else here."""
    for name in (*DRAWN, "ranks"):
        monkeypatch.setattr(pl, name, lambda *_, **__: Figure(dpi=20).subplots())
    monkeypatch.setattr(pl, "counts", lambda *_: Figure(dpi=20).subplots(1, 2))


def files_in(path):
    return {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}


def test_a_run_writes_the_tables_that_python_returns(adata, write, run, tmp_path):
    out = tmp_path / "new" / "out"
    result = run(*write(), *DESIGN, *CONTRAST, "--out", out, "--figures", "png")
    assert result.exit_code == 0, result.output
    assert files_in(out) == FILES | FIGURES
    expected = tl.de(adata.copy(), "~ batch + condition", ("condition", "treated", "control"))
    written = pd.read_csv(out / "results.csv", index_col="gene")
    # Ten significant digits are written.
    pd.testing.assert_frame_equal(
        written.drop(columns="status"), expected.drop(columns="status"), rtol=6e-10, atol=0
    )
    assert list(written["status"]) == list(expected["status"])
    genes = pd.read_csv(out / "genes.csv", index_col="gene")
    assert np.allclose(
        genes["log2:condition[T.treated]"],
        written["log2_fold_change"],
        rtol=1e-9,  # both are rounded to ten digits
        equal_nan=True,
    )
    samples = pd.read_csv(out / "samples.csv", index_col="sample")
    assert list(samples["library_size"]) == list(adata.X.sum(axis=1))


def test_each_level_against_one(adata, write, run, tmp_path):
    out = tmp_path / "out"
    result = run(*write(), *DESIGN, "--each", "condition", "control", "--out", out)
    assert result.exit_code == 0, result.output
    assert files_in(out) == FILES | {"contrasts.csv", "contrasts.h5ad"}
    assert set(json.loads((out / "run.json").read_text())["files"]) == files_in(out)
    found = anndata.read_h5ad(out / "contrasts.h5ad")
    table = pd.read_csv(out / "contrasts.csv", index_col="contrast")
    assert list(table.index) == list(found.obs_names) == ["condition treated vs control"]
    assert list(table.columns) == ["level", "tested", "up", "down", "filter_threshold"]
    # The factor's first level is another without --each.
    expected = tl.de(adata.copy(), "~ batch + condition", ("condition", "treated", "control"))
    for layer in ("log2_fold_change", "p_adj"):
        np.testing.assert_allclose(found.layers[layer][0], expected[layer], rtol=1e-9)
    written = pd.read_csv(out / "results.csv", index_col="gene")
    np.testing.assert_allclose(written["p_value"], expected["p_value"], rtol=6e-10)


def test_each_of_no_factor_is_refused_before_the_fit(write, run, tmp_path):
    out = tmp_path / "out"
    result = run(*write(), *DESIGN, "--each", "batch", "none", "--out", out)
    assert result.exit_code == 2
    assert "no level none" in result.stderr
    assert not out.exists()


def test_the_record_says_what_was_run(write, run, tmp_path):
    out = tmp_path / "out"
    arguments = write()
    run(*arguments, *DESIGN, *CONTRAST, "--alpha", "0.05", "--figures", "png", "--out", out)
    record = json.loads((out / "run.json").read_text())
    assert record["versions"]["expressway"] == expressway.__version__
    assert list(record["input"].values()) == arguments
    assert (record["genes"], record["samples"]) == (200, 8)
    assert record["design"]["coefficients"][-1] == "condition[T.treated]"
    assert record["design"]["levels"]["condition"] == ["control", "treated"]
    assert record["settings"]["alpha"] == 0.05
    assert record["settings"]["prior_variance"] is None
    assert record["trend"]["kind"] == "parametric"
    assert sum(record["contrasts"]["condition treated vs control"]["status"].values()) == 200
    assert set(record["files"]) == FILES | FIGURES
    seconds = record["seconds"]
    assert list(seconds)[:2] == ["reading", "design"]
    assert list(seconds)[-3:] == ["figures", "tables", "total"]
    assert all(part["wall"] >= 0 and part["cpu"] >= 0 for part in seconds.values())
    assert record["peak_memory_mb"] is None or 50 < record["peak_memory_mb"] < 50_000


@pytest.mark.parametrize(
    "kind",
    ["turned.csv", "mtx", "sparse.h5ad"]
    + [pytest.param(k, marks=pytest.mark.slow) for k in ("tsv", "tsv.gz", "turned.tsv.gz", "h5ad")],
)
def test_every_format_gives_the_same_results(kind, write, run, tmp_path):
    run(*write("csv"), *DESIGN, *CONTRAST, "--out", tmp_path / "csv")
    result = run(*write(kind), *DESIGN, *CONTRAST, "--out", tmp_path / "other")
    assert result.exit_code == 0, result.output
    for name in ("results.csv", "genes.csv", "samples.csv"):
        assert (tmp_path / "csv" / name).read_bytes() == (tmp_path / "other" / name).read_bytes()


def test_several_contrasts_come_from_one_fit(write, run, tmp_path):
    tests = ["batch,batch_2,batch_1", "condition[T.treated]", "0,1,-1", "0, 1, 1"]
    repeated = [word for test in tests for word in ("--also", test)]
    out = tmp_path / "out"
    result = run(*write(), *DESIGN, *CONTRAST, *repeated, "--out", out)
    assert result.exit_code == 0, result.output
    contrasts = json.loads((out / "run.json").read_text())["contrasts"]
    # The coefficient is the first contrast under another name.
    assert len(contrasts) == 4
    names = [one["results"] for one in contrasts.values()]
    assert len({name.casefold() for name in names}) == 4
    assert set(names) < files_in(out)
    difference = pd.read_csv(out / names[2], index_col="gene")["log2_fold_change"]
    genes = pd.read_csv(out / "genes.csv", index_col="gene")
    expected = genes["log2:batch[T.batch_2]"] - genes["log2:condition[T.treated]"]
    # Three numbers of ten digits.
    assert np.allclose(difference, expected, rtol=1e-8, atol=1e-8, equal_nan=True)


def test_a_comma_in_brackets_belongs_to_a_name(write, run, tmp_path):
    design = ["--design", "~ poly(x, 2)"]
    command = write(samples=lambda obs: obs.assign(x=np.linspace(0, 1, 8) ** 2))
    name = "poly(x, 2)[1]"
    result = run(*command, *design, "--also", name, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert f"\n{name}\n" in result.stdout


def test_names_of_files_differ_and_are_short():
    names = ["a + b", "a - b", "A b", "x" * 300, "é/ü"]
    suffixes = folder.suffixes_of(names)
    assert suffixes[:3] == ["_a_b", "_a_b_2", "_A_b_3"]
    assert len({suffix.casefold() for suffix in suffixes}) == len(names)
    assert max(map(len, suffixes)) < 80


def test_doubts_are_shown_and_recorded(write, run, tmp_path):
    command = write(samples=lambda obs: obs.assign(minute=[0, 1, 2, 0, 1, 2, 0, 1]))
    out = tmp_path / "out"
    result = run(*command, "--design", "~ condition + minute", "--out", out)
    (line,) = result.stderr.splitlines()
    assert line.startswith("warning: column minute enters as a number")
    assert line.removeprefix("warning: ") in json.loads((out / "run.json").read_text())["warnings"]
    assert not logging.getLogger("expressway").handlers


def test_options_reach_the_settings(write, run, tmp_path):
    out = tmp_path / "out"
    options = ["--no-refit", "--no-filter", "--prior-variance", "0.5"]
    result = run(
        *write(), *DESIGN, "--reference", "condition=treated", *options, "--out", out,
        "--size-factors", "poscounts",
    )  # fmt: skip
    assert "condition control vs treated" in result.stdout
    record = json.loads((out / "run.json").read_text())
    assert record["prior_variance"] == 0.5
    assert record["settings"]["size_factors"] == "poscounts"
    assert not record["settings"]["replace_outliers"]
    assert not record["settings"]["independent_filtering"]
    assert re.search(r"low_count \(filtered, no adjusted p\) +0 ", result.stdout)


def cell(gene, sample, value):
    def change(table):
        table = table.astype(object)
        table.iloc[gene, sample] = value
        return table

    return change


def constant_sample(table):
    table = table.copy()
    table.iloc[:, 2] = 0
    return table


def zeros(table):
    table = table.copy()
    for gene in range(len(table)):
        table.iloc[gene, gene % 8] = 0
    return table


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        (cell(4, 1, 2.5), "counts.csv: gene gene_5, sample sample_2: count 2.5 is not a whole"),
        (cell(4, 1, -1), "gene gene_5, sample sample_2: count -1"),
        (cell(4, 1, ""), "gene gene_5, sample sample_2: count '' is missing"),
        (cell(4, 1, "many"), "count 'many' is not a number"),
        (lambda t: t.rename({"gene_5": "gene_4"}), "counts.csv: gene gene_4 appears more"),
        (lambda t: t.drop(columns="sample_3"), "samples.csv: 1 of its samples (sample_3)"),
        (lambda t: t.assign(extra=1), "counts.csv: 1 of its samples (extra)"),
        (lambda t: t.iloc[:0], "counts.csv: no rows"),
        (lambda t: t * 0, "every count is zero"),
        (constant_sample, "sample sample_3 has no counts"),
        (zeros, "poscounts"),
    ],
)
def test_bad_counts_are_refused(counts, words, write, refused, tmp_path):
    line = refused(*write(counts=counts), *DESIGN, *CONTRAST, "--out", tmp_path / "out")
    assert words in line


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (lambda t: t.rename({"sample_5": "sample_4"}), "samples.csv: sample sample_4 appears"),
        (lambda t: t.drop("sample_5"), "(sample_5) are not in"),
        (lambda t: t.drop(columns="condition"), "column condition, which the sample table"),
        (lambda t: t.assign(condition="treated"), "only one level, treated"),
        (lambda t: t.assign(batch=t["condition"]), "not of full rank"),
        (lambda t: t.assign(batch=list("abcdefgh")), "no replicates are left"),
        (lambda t: t.assign(batch=[None, *t["batch"][1:]]), "no value for sample sample_1"),
    ],
)
def test_a_bad_sample_table_is_refused(samples, words, write, refused, tmp_path):
    line = refused(*write(samples=samples), *DESIGN, *CONTRAST, "--out", tmp_path / "out")
    assert words in line


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--contrast", "dose", "treated", "control"], "dose is not a factor of the design"),
        (["--contrast", "condition", "treat", "control"], "no level treat; it has control"),
        (["--contrast", "condition", "treated", "none"], "no level none; it has control"),
        (["--also", "treated"], "no coefficient is named treated"),
        ([*CONTRAST, "--also", "condition,a,b"], "no level a"),
        (["--also", "a,b"], "--also a,b: needs"),
        (["--also", "1,2"], "must hold 3 finite numbers"),
        (["--reference", "condition"], "--reference condition: needs FACTOR=LEVEL"),
        (["--reference", "condition=x"], "no level x to be the reference"),
        (["--alpha", "1.5"], "alpha must lie between 0 and 1"),
        (["--alpha", "nan"], "alpha must lie between 0 and 1"),
        (["--prior-variance", "0"], "prior variance must be above 0"),
        (["--design", "~ batch + (condition"], "cannot be read"),
        (["--design", "condition ~ batch"], "must have one part"),
        (["--design", "~ batch + Condition"], "column Condition"),
    ],
)
def test_bad_options_are_refused(options, words, write, refused, tmp_path):
    assert words in refused(*write(), *DESIGN, *options, "--out", tmp_path / "out")


def test_files_that_cannot_be_read_are_refused(write, refused, empty_gzip, tmp_path):
    counts, samples = write()
    rest = [*DESIGN, "--out", tmp_path / "out"]
    assert "absent.csv" in refused(tmp_path / "absent.csv", samples, *rest)
    assert "absent.csv" in refused(counts, tmp_path / "absent.csv", *rest)
    assert str(empty_gzip) in refused(empty_gzip, samples, *rest)
    assert "sample table is needed" in refused(counts, *rest)
    assert str(tmp_path) in refused(tmp_path, samples, *rest)


def test_an_earlier_result_is_replaced_only_when_asked(write, run, refused, tmp_path):
    out = tmp_path / "out"
    command = [*write(), *DESIGN, "--out", out]
    assert run(*command, *CONTRAST, "--also", "0,1,1").exit_code == 0
    (out / "notes.txt").write_text("mine")
    assert "--overwrite" in refused(*command)
    first = (out / "run.json").read_bytes()
    assert run(*command, "--overwrite").exit_code == 0
    assert (out / "run.json").read_bytes() != first
    # What the record lists is gone, what the user put there stays.
    assert files_in(out) == FILES | {"notes.txt"}


def test_other_folders_are_left_alone(write, run, refused, tmp_path):
    mine = tmp_path / "mine"
    mine.mkdir()
    assert run(*write(), *DESIGN, "--out", mine).exit_code == 0  # empty: good
    (mine / "run.json").write_text("{}")
    assert "is no record of a run" in refused(*write(), *DESIGN, "--out", mine, "--overwrite")
    (mine / "run.json").unlink()
    assert "holds no results" in refused(*write(), *DESIGN, "--out", mine, "--overwrite")
    assert "is a file" in refused(*write(), *DESIGN, "--out", mine / "genes.csv")
    assert "is a file" in refused(*write(), *DESIGN, "--out", mine / "genes.csv" / "out")


def test_a_failure_of_ours_keeps_its_traceback_and_leaves_nothing(
    write, run, tmp_path, monkeypatch
):
    def broken(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(pl, "volcano", broken)
    before = sorted(tmp_path.rglob("*"))
    command = write()
    result = run(*command, *DESIGN, "--figures", "png", "--out", tmp_path / "new" / "out")
    assert isinstance(result.exception, ZeroDivisionError)
    assert set(tmp_path.rglob("*")) - set(before) == {
        tmp_path / "counts.csv",
        tmp_path / "samples.csv",
    }


def test_an_interrupt_while_files_are_exchanged_restores_the_earlier(
    write, run, tmp_path, monkeypatch
):
    out = tmp_path / "out"
    command = [*write(), *DESIGN, "--figures", "png", "--out", out]
    assert run(*command).exit_code == 0
    earlier = {name: (out / name).read_bytes() for name in files_in(out)}
    moves = []
    replace = type(out).replace

    def interrupted(self, target):
        moves.append(target)
        if len(moves) == 10:
            os.kill(os.getpid(), signal.SIGINT)
        return replace(self, target)

    monkeypatch.setattr(type(out), "replace", interrupted)
    result = run(*command, *CONTRAST, "--overwrite")
    assert result.exit_code == 130
    assert result.stderr == "interrupted: nothing was written\n"
    assert {name: (out / name).read_bytes() for name in files_in(out)} == earlier
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts.csv", "out", "samples.csv"]


def test_the_command_is_quiet_where_there_is_no_terminal(write, tmp_path):
    program = "from expressway.cli import app; app()"
    command = [sys.executable, "-c", program, "de", *write(), *DESIGN, "--out", tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    figures = sorted((tmp_path / "out" / "figures").iterdir())
    assert [path.name for path in figures] == [f"{name}.png" for name in DRAWN]
    assert all(path.stat().st_size > 15_000 for path in figures)
    assert result.stderr == ""
    assert "\x1b" not in result.stdout
    assert "\r" not in result.stdout
    assert "results in" in result.stdout


def test_mistakes_in_the_command_line_are_short(run):
    result = run("counts.csv", "samples.csv")
    assert result.exit_code == 2
    assert result.stderr.endswith("Error: Missing option '--design'.\n")
    assert len(result.stderr.splitlines()) == 4
    assert "'--size-factors'" in run("c.csv", *DESIGN, "--out", "o", "--size-factors", "x").stderr


def test_help_fits_80_columns(run):
    result = run("--help")
    assert result.exit_code == 0
    assert "--contrast FACTOR LEVEL REF" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 80


def test_more_memory_than_allowed_is_told_and_stops_nothing(write, run, tmp_path):
    out = tmp_path / "out"
    result = run(*write(), *DESIGN, "--out", out, "--memory", "1MB", "--quiet")
    assert result.exit_code == 0, result.output
    assert files_in(out) == FILES
    assert "more than --memory 1MB" in result.stderr


def test_influence_says_which_calls_survive(adata, write, run, tmp_path):
    out = tmp_path / "out"
    result = run(*write(), *DESIGN, *CONTRAST, "--influence", "conditional", "--out", out)
    assert result.exit_code == 0, result.output
    assert "calls survive without any single sample" in result.output
    assert files_in(out) == FILES | {"influence.csv"}
    fitted = adata.copy()
    contrast = ("condition", "treated", "control")
    tl.de(fitted, "~ batch + condition", contrast)
    expected = tl.influence(fitted, contrast).var
    written = pd.read_csv(out / "influence.csv", index_col="gene")
    words = written["call"].str.partition(" without ")
    assert list(words[0]) == list(expected["call"])
    assert list(words[2]) == list(expected["lost_without"])
    assert np.allclose(written["change_stat"], expected["change_stat"], equal_nan=True)
    record = json.loads((out / "run.json").read_text())
    assert record["seconds"]["influence"]["wall"] > 0
    assert "influence.csv" in record["files"]


def test_intervals_of_fold_changes_and_ranks(adata, write, run, tmp_path):
    out = tmp_path / "out"
    asked = ["--intervals", ".8", "--top", "10", "--draws", "50"]
    result = run(*write(), *DESIGN, *CONTRAST, *asked, "--out", out, "--figures", "png")
    assert result.exit_code == 0, result.output
    assert files_in(out) == FILES | FIGURES | {"intervals.csv", "figures/ranks.png"}
    assert set(json.loads((out / "run.json").read_text())["files"]) == files_in(out)
    written = pd.read_csv(out / "intervals.csv", index_col="gene")
    fitted = adata.copy()
    tl.de(fitted, "~ batch + condition", tuple(CONTRAST[1:]))
    expected = tl.intervals(fitted, tuple(CONTRAST[1:]), interval=0.8, top=10, draws=50)
    for name in expected.columns.drop("status"):
        # Ten significant digits are written.
        np.testing.assert_allclose(written[name], expected[name], rtol=6e-10, err_msg=name)


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (["--top", "5"], "--top 5 goes with --intervals"),
        (["--intervals", "90"], "must lie between 0 and 1"),
    ],
)
def test_intervals_that_cannot_be_are_refused_before_the_fit(asked, says, write, run, tmp_path):
    result = run(*write(), *DESIGN, *asked, "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert says in result.stderr
    assert not (tmp_path / "out").exists()
