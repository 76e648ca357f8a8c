"""`expressway cluster` as a user runs it."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import expressway as ew
from expressway.cli.app import app
from expressway.cli.cluster import Modules, Precision
from expressway.cli.cluster_folder import MOST
from expressway.cli.cluster_screen import shape

COORDINATES = ["level", "basis[1]", "basis[2]", "basis[3]", "log_dispersion"]
TYPES = ["early", "middle", "late"]


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    adata = ew.datasets.simulate_pseudotime(genes=60, cells=80)
    counts = pd.DataFrame(adata.X.T, adata.var_names, adata.obs_names)
    counts.iloc[0] = 0
    counts.iloc[1] = np.isin(np.arange(80), [3, 30, 60]).astype(int)
    counts.to_csv(folder / "counts.csv")
    obs = adata.obs.assign(type=np.array(TYPES)[np.digitize(adata.obs["pseudotime"], [0.3, 0.6])])
    obs.to_csv(folder / "samples.csv")
    bad = obs.assign(constant=1.0, steps=np.resize([0.0, 1.0, 2.0], 80), negative=-1.0)
    bad = bad.assign(one=1.0, none=0.0, missing=bad["pseudotime"].where(bad["steps"] < 2))
    bad.to_csv(folder / "bad.csv")
    (counts * 0).to_csv(folder / "zero.csv")
    counts.assign(cell_3=0.5).to_csv(folder / "halves.csv")
    return folder


def run(folder, *more, counts="counts.csv", samples="samples.csv"):
    given = [str(folder / counts), str(folder / samples), "--along", "pseudotime"]
    return CliRunner().invoke(app, ["cluster", *given, *more])


@pytest.fixture(scope="module")
def done(tables):
    out = tables / "out"
    return out, run(
        tables,
        *("--size-factors", "size_factor", "--cell-types", "type", "--association"),
        *("--genes", "gene_3,gene_2", "--out", str(out)),
    )


def read(out, name):
    return pd.read_csv(out / f"{name}.csv")


def test_folder(done):
    out, result = done
    assert result.exit_code == 0, result.output
    names = {
        *("coefficients", "clusters", "modules", "components", "curves", "elbo", "starts"),
        *("association", "composition"),
    }
    figures = {
        *("modules", "components", "module_components", "co_clustering", "predictive", "elbo"),
        *("composition", "curves"),
    }
    assert {path.name for path in out.iterdir()} == {
        *(f"{name}.csv" for name in names),
        *("fit.npz", "run.json", "figures"),
    }
    assert {path.name for path in (out / "figures").iterdir()} == {f"{f}.png" for f in figures}
    files = json.loads((out / "run.json").read_text())["files"]
    assert set(files) == {str(p.relative_to(out).as_posix()) for p in out.rglob("*") if p.is_file()}


def test_tables(done):
    out, _ = done
    ends = [f"{name}{end}" for name in ("weight", "mean", "sd") for end in ("", "_lower", "_upper")]
    columns = {
        "coefficients": ["gene", "status", *(c + s for c in COORDINATES for s in ("", "_sd"))],
        "clusters": ["gene", "coefficient", "label", "probability", "probability_zero"],
        "modules": ["gene", "module", "probability", "status"],
        "components": ["coefficient", "mixture", "component", "genes", *ends],
        "curves": ["kind", "name", "lineage", "time", "mean", "lower", "upper"],
        "elbo": ["step", "event", "elbo", "nb_elbo"],
        "starts": ["coefficient", "mixture", "components_at_start", "elbo", "components"],
        "association": ["gene", "status", "statistic", "p_value", "p_adj", "df"],
        "composition": ["module", "value", "samples", "mean", "z"],
    }
    for name, wanted in columns.items():
        table = read(out, name)
        assert list(table.columns) == wanted
        numbers = table.select_dtypes("number").to_numpy(float)
        assert not np.any(np.isinf(numbers)), name
    coefficients = read(out, "coefficients")
    assert coefficients["status"].tolist() == ["all_zero", "rarely_seen", *["ok"] * 58]
    assert coefficients["level"].isna().tolist() == [True, True, *[False] * 58]
    clusters = read(out, "clusters")
    assert len(clusters) == 58 * len(COORDINATES)
    assert np.all(clusters.groupby("coefficient")["label"].min() == 1)
    assert set(read(out, "starts")["coefficient"]) == {*COORDINATES, "all"}
    curves = read(out, "curves")
    assert set(curves["kind"]) == {"gene", "module"}
    assert np.all((curves["lower"] <= curves["mean"]) & (curves["mean"] <= curves["upper"]))


def test_composition(tables, done):
    """Means over a module's genes and a type's cells, by their definition."""
    out, _ = done
    found = read(out, "composition")
    assert found["value"].tolist()[:3] == TYPES
    obs = pd.read_csv(tables / "samples.csv", index_col=0)
    counts = pd.read_csv(tables / "counts.csv", index_col=0)
    module = read(out, "modules").set_index("gene")["module"]
    log = np.log1p(counts.loc[module.index[module == 1]] / obs["size_factor"])
    mean = log.mean(axis=0).groupby(obs["type"]).mean()[TYPES]
    own = found[found["module"] == 1]
    # Written with ten digits.
    np.testing.assert_allclose(own["mean"], mean, rtol=1e-8)
    np.testing.assert_allclose(own["z"], (mean - mean.mean()) / mean.std(ddof=0), rtol=1e-6)
    assert own["samples"].tolist() == [int((obs["type"] == t).sum()) for t in TYPES]


def test_record(tables, done):
    out, result = done
    record = json.loads((out / "run.json").read_text())
    assert record["status"] == {"ok": 58, "all_zero": 1, "rarely_seen": 1}
    assert record["samples"] == 80
    assert record["basis"]["condition_number"] > 1
    assert record["settings"]["starts"] == 4
    factors = pd.read_csv(tables / "samples.csv")["size_factor"]
    np.testing.assert_allclose(record["size_factors"], [factors.min(), factors.max()])
    assert list(record["prior"]) == COORDINATES
    assert record["prior"]["level"]["truncation"] == 30
    labels = read(out, "clusters").groupby("coefficient")["label"].max()
    for name in COORDINATES:
        assert record["clusters"][name] >= labels[name]
    assert record["seconds"]["total"]["wall"] > 0
    assert record["peak_memory_mb"] > 0
    (warning,) = record["warnings"]
    assert warning == "no curve is drawn of gene_2 (rarely_seen)"
    assert f"warning: {warning}" in result.output


def test_summary_fits_a_screen(done):
    out, result = done
    lines = result.stdout.splitlines()
    assert len(lines) < 40
    assert all(len(line) <= 80 or str(out) in line for line in lines)
    for text in ("60 genes x 80 samples", "1 all_zero, 1 rarely_seen", "log_dispersion", "1 warn"):
        assert text in result.stdout


def resumed(done, out, *more):
    return CliRunner().invoke(
        app, ["cluster", "--resume", str(done[0] / "fit.npz"), "--out", str(out), *more]
    )


def test_another_prior_for_the_same_fits(done, tmp_path):
    out = tmp_path / "again"
    prior = ("--concentration", "2,1", "--spread-prior", "3,0.1", "--truncation", "1")
    result = resumed(done, out, *prior, "--genes", "gene_4")
    assert result.exit_code == 0, result.output
    record = json.loads((out / "run.json").read_text())
    for found in record["prior"].values():
        assert found["concentration_shape"] == 2
        assert (found["shape"], found["rate"]) == (3, 0.1)
    assert set(record["clusters"].values()) == {1}
    assert set(read(out, "clusters")["label"]) == {1}
    figures = {path.stem for path in (out / "figures").iterdir()}
    assert {"modules", "co_clustering", "curves"} <= figures
    assert not {"predictive", "composition"} & figures
    one, two = (read(folder, "coefficients") for folder in (done[0], out))
    assert one["status"].tolist() == two["status"].tolist()
    # Shrunken otherwise, from the same likelihoods.
    assert one["level"].corr(two["level"]) > 0.98
    assert not np.allclose(one["level"].dropna(), two["level"].dropna(), rtol=1e-4)


def test_the_same_prior_again_changes_nothing(done, tmp_path):
    assert resumed(done, tmp_path / "again").exit_code == 0
    columns = ["gene", "coefficient", "label"]
    one, two = (read(folder, "clusters")[columns] for folder in (done[0], tmp_path / "again"))
    pd.testing.assert_frame_equal(one, two)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--association"], "--association with --resume"),
        (["--basis", "rbf:3", "--seed", "0"], "--basis, --seed with --resume"),
        (["counts.csv"], "COUNTS with --resume"),
        (["--genes", "nothing"], "there is no gene nothing"),
        (["--truncation", "0"], "--truncation 0"),
    ],
)
def test_what_a_fit_has_settled_is_refused(done, tmp_path, more, said):
    result = resumed(done, tmp_path / "out", *more)
    assert_refused(result, said)
    assert not (tmp_path / "out").exists()


def assert_refused(result, said):
    assert result.exit_code == 2, result.output
    lines = result.stderr.splitlines()
    assert lines[-1].startswith("error: ")
    assert all(line.startswith("warning: ") for line in lines[:-1])
    assert said in lines[-1]


TWO = ("--along", "pseudotime,steps", "--weights")


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--along", "nothing"], "'nothing' is not there"),
        (["--along", "missing"], "'missing' is missing for sample cell_3"),
        (["--along", "constant"], "pseudotime is 1 for all 80 samples"),
        (["--along", "steps", "--basis", "rbf:5"], "more basis functions than distinct times"),
        ([*TWO, "one,negative"], "weights below 0"),
        ([*TWO, "one,none"], "no sample has weight in lineage 2"),
        ([*TWO, "one"], "1 weights for 2 pseudotimes"),
        (["--size-factors", "word"], "size factors 'word'"),
        (["--size-factors", "negative"], "not above 0"),
        (["--covariates", "~ nothing"], "column nothing"),
        (["--covariates", "~ constant"], "not of full rank"),
        (["--design", "~ type", "--basis", "rbf:3"], "leave out either it or --basis"),
        (["--along-sd", "negative"], "is negative"),
        (["--basis", "rbf"], "basis 'rbf'"),
        (["--centers", "1,2"], "2 centers for rbf:3"),
        (["--concentration", "1"], "--concentration 1: needed are shape and rate"),
        (["--spread-prior", "0,1"], "--spread-prior 0,1"),
        (["--truncation", "0"], "--truncation 0"),
        (["--seed", "-1"], "seed is -1"),
        (["--level", "1"], "level 1.0"),
        (["--genes", "nothing"], "there is no gene nothing"),
        (["--genes", ",".join(["gene_3"] * (MOST + 1))], f"room for {MOST}"),
        (["--cell-types", "nothing"], "there is no column 'nothing'"),
        (["--cell-types", "constant"], "has 1 values"),
        (["--resume", "missing.npz"], "COUNTS, SAMPLES, --along with --resume"),
    ],
)
def test_mistakes_end_in_one_line(tables, tmp_path, more, said):
    result = run(tables, *more, "--out", str(tmp_path / "out"), samples="bad.csv")
    assert_refused(result, said)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("counts", "said"), [("zero.csv", "every count is zero"), ("halves.csv", "not a whole number")]
)
def test_what_is_no_counts(tables, tmp_path, counts, said):
    assert_refused(run(tables, "--out", str(tmp_path / "out"), counts=counts), said)


@pytest.mark.parametrize(
    ("given", "said"), [([], "there are no COUNTS"), (["counts.csv"], "--along is missing")]
)
def test_what_is_needed(tmp_path, given, said):
    result = CliRunner().invoke(app, ["cluster", *given, "--out", str(tmp_path / "out")])
    assert_refused(result, said)


@pytest.mark.parametrize(
    ("log", "word"),
    [
        ([0, 1, 2, 3], "up"),
        ([3, 2, 2.1, 0], "down"),
        ([0, 2, 3, 1], "peak"),
        ([2, 0, 1, 3], "dip"),
        ([0, 2, 0, 2], ""),
        ([0, 0.05, 0, 0.09], "flat"),
        ([0, 3, 2.9], "up"),
    ],
)
def test_word_of_a_shape(log, word):
    assert shape(np.exp(np.array(log, float))) == word


def test_words_of_options_are_those_of_settings():
    types = ew.clustering.Settings.__annotations__
    assert set(Precision.__args__) == set(types["precision"].__args__)
    assert set(Modules.__args__) == set(types["modules"].__args__)
