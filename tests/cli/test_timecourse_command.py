"""`expressway timecourse` as a user runs it."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import expressway as ew
from expressway.cli.app import app
from expressway.cli.timecourse import Basis
from expressway.models.spline import KINDS


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("course")
    adata = ew.datasets.simulate_timecourse(
        60, clusters=3, times=(0, 2, 4, 6, 8, 10, 12), groups=2, df=5
    )
    x = pd.DataFrame(adata.X.T, adata.var_names, adata.obs_names)
    x.iloc[0] = 1.0
    x.iloc[1, 3] = np.nan
    x.to_csv(folder / "expression.csv")
    adata.obs.to_csv(folder / "samples.csv")
    return folder


def run(folder, *more):
    return CliRunner().invoke(
        app,
        [
            "timecourse",
            str(folder / "expression.csv"),
            str(folder / "samples.csv"),
            "--time",
            "time",
            *more,
        ],
    )


@pytest.fixture(scope="module")
def done(tables):
    out = tables / "out"
    return out, run(
        tables,
        *("--where", "group=group_1", "--df", "4:5", "--clusters", "2,3", "--leave-out", "1:2"),
        *("--genes", "gene_2,gene_3", "--test-genes", "5", "--out", str(out)),
    )


def test_folder(done):
    out, result = done
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {
        *("cv.csv", "folds.csv", "clusters.csv", "curves.csv", "differential.csv", "influence.csv"),
        *("starts.csv", "selection.csv", "fit.npz", "run.json", "figures"),
    }
    cv = pd.read_csv(out / "cv.csv")
    assert set(cv["df"]) == {4, 5}
    assert set(cv["leave_out"]) == {1, 2}
    for kind in ("train", "ij", "corrected", "exact", "test"):
        assert np.all(cv[kind] > 0)
        assert np.all(cv[f"{kind}_se"] > 0)
    clusters = pd.read_csv(out / "clusters.csv", index_col=0)
    assert clusters["status"].to_dict()["gene_1"] == "constant"
    assert (clusters["used"] == "held_out").sum() == 5
    probabilities = clusters.filter(regex=r"^p_\d").loc[clusters["cluster"].notna()]
    # Written with ten digits.
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-8)
    curves = pd.read_csv(out / "curves.csv")
    assert set(curves["kind"]) == {"gene", "cluster"}
    assert np.all(curves["lower"] <= curves["upper"])
    figures = {path.stem for path in (out / "figures").iterdir()}
    assert {"basis_df4", "basis_df5", "curves", "clusters", "cross_validation"} <= figures
    assert {"fold_errors", "influence_time", "influence_sample"} <= figures
    record = json.loads((out / "run.json").read_text())
    assert record["fits"]["4"]["certificate"]["gradient_norm"] < 1e-8
    assert "chosen" in result.output


def test_summary_fits_a_terminal(done):
    _, result = done
    assert max(map(len, result.output.splitlines())) <= 80 or "results in" in result.output
    assert "…" not in result.output


def test_goes_on_from_an_earlier_run(tables, done):
    out, _ = done
    found = ew.timecourse.load(out / "fit.npz")
    k = len(found.fit().found.clusters.mixture.weight)
    again = run(
        tables,
        *("--where", "group=group_1", "--df", "4:5", "--clusters", str(k), "--cv", "jackknife"),
        *("--resume", str(out / "fit.npz"), "--test-genes", "5", "--out", str(tables / "again")),
    )
    assert again.exit_code == 0, again.output
    first = pd.read_csv(out / "clusters.csv", index_col=0)
    second = pd.read_csv(tables / "again" / "clusters.csv", index_col=0)
    pd.testing.assert_series_equal(first["cluster"], second["cluster"])
    assert pd.read_csv(tables / "again" / "cv.csv")["exact"].isna().all()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--df", "x"], "--df x: needed are whole numbers"),
        (["--where", "group"], "--where group: needs COLUMN=VALUE"),
        (["--where", "group=none"], "none"),
        (["--indicator-times", "a"], "--indicator-times a: needed are numbers"),
        (["--genes", "nothing"], "there is no gene nothing"),
        (["--group", "nothing"], "there is no column 'nothing'"),
        (["--df", "9"], "distinct times"),
        (["--df", "4", "--among", "1"], "no sample is at time 1"),
        (["--df", "4", "--of", "replicates"], "replicate"),
        (["--resume", "missing.npz"], "missing.npz"),
        (["--basis", "factor", "--df", "4"], "give no df"),
        (["--df", "6", "--leave-out", "3", "--singular", "refuse"], "smallest eigenvalue"),
    ],
)
def test_mistakes_end_in_one_line(tables, tmp_path, more, said):
    result = run(tables, *more, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2
    lines = [line for line in result.output.splitlines() if line.startswith("error:")]
    assert len(lines) == 1
    assert said in lines[0]
    assert not (tmp_path / "out").exists()


def test_time_that_is_no_number(tables, tmp_path):
    samples = pd.read_csv(tables / "samples.csv", index_col=0)
    samples["time"] = samples["time"].astype(str)
    samples.iloc[2, samples.columns.get_loc("time")] = "late"
    samples.to_csv(tmp_path / "samples.csv")
    given = [str(tables / "expression.csv"), str(tmp_path / "samples.csv"), "--time", "time"]
    result = CliRunner().invoke(app, ["timecourse", *given, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert "'late'" in result.output


def test_factor_of_time_cannot_be_cross_validated(tables, tmp_path):
    out = tmp_path / "out"
    result = run(tables, "--basis", "factor", "--clusters", "3", "--out", str(out))
    assert result.exit_code == 0, result.output
    assert "7 of 7 folds of 1 times cannot be compared" in result.output
    assert np.all(pd.read_csv(out / "folds.csv")["conditioning"] < 1e-10)
    assert not (out / "figures" / "cross_validation.png").exists()


def test_every_basis_is_an_option():
    assert set(Basis.__args__) == set(KINDS)
