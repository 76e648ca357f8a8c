"""Options of `expressway de`: what it writes is what the Python verbs give."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from expressway import get, pl, tl
from expressway.cli import folder

FORMULA = "~ batch + condition"
FIRST = ("condition", "treated", "control")
DESIGN = ["--design", FORMULA, "--contrast", *FIRST]
NAME = "condition treated vs control"
BATCHES = "batch batch_2 vs batch_1"
BATCH, CONDITION = "batch[T.batch_2]", "condition[T.treated]"
NODES = pd.DataFrame({"mean": [1000.0, 1.0, 30.0], "dispersion": [0.02, 1.5, 0.2]})
DRAWN = (
    *("cooks", "counts", "dispersion", "heatmap", "ma"),
    *("p_values", "pca", "sample_distances", "volcano"),
)


@pytest.fixture(scope="module")
def data(adata):
    """Counts that the filter has a use for, with an outlier, and what files bring."""
    found, rng = adata.copy(), np.random.default_rng(8)
    found.X[:, 100:] = rng.poisson(0.4, (8, 100))
    found.X[4:, 20:60] *= 2
    found.X[2, 5] = 20_000
    found.layers["length"] = rng.uniform(500, 2000, found.shape)
    found.layers["weight"] = rng.uniform(0.2, 1, found.shape)
    found.var["control"] = np.arange(200) % 3 > 0
    return found


@pytest.fixture(scope="module")
def files(data, tmp_path_factory):
    """The folder of the data's files; genes and samples of the matrices in another order."""
    place = tmp_path_factory.mktemp("files")
    data.to_df().T.to_csv(place / "counts.csv")
    data.obs.rename_axis("sample").to_csv(place / "samples.csv")
    for name in ("length", "weight"):
        data.to_df(layer=name).T.iloc[::-1, ::-1].to_csv(place / f"{name}.csv")
    controls = data.var_names[data.var["control"]]
    (place / "controls.txt").write_text("\n".join(controls) + "\n")
    NODES.to_csv(place / "trend.tsv", sep="\t", index=False)
    return place


@pytest.fixture(scope="module")
def fitted(data):
    found = data.copy()
    tl.de(found, FORMULA, FIRST)
    return found


@pytest.fixture
def ask(files, run, tmp_path):
    """Run the command with some options; return its folder, its record and what it printed."""

    def asked(*options, counts="counts.csv", samples="samples.csv", figures=("--figures", "")):
        out = tmp_path / "out"
        result = run(files / counts, files / samples, *figures, "--out", out, *options)
        assert result.exit_code == 0, result.output
        record = json.loads((out / "run.json").read_text())
        there = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
        assert set(record["files"]) == there
        return out, record, result.stdout

    return asked


def same(path, expected):
    """A written table, all its columns in order."""
    read = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".xlsx": pd.read_excel}[path.suffix]
    written = read(path)
    written = written.set_index("gene") if "gene" in written else written
    words = expected.columns[expected.dtypes == "category"]
    for name in words:
        assert list(written[name]) == list(expected[name])
    # Ten significant digits are written.
    pd.testing.assert_frame_equal(
        *(one.drop(columns=words) for one in (written, expected)),
        rtol=1e-9,
        atol=0,
        check_dtype=False,
    )


@pytest.mark.parametrize(
    ("kind", "shrink", "says", "specs"),
    [
        ("lrt", "apeglm", "likelihood ratio against ~ 1", {NAME: FIRST, BATCHES: BATCH}),
        ("ql", "normal", "quasi-likelihood F against ~ 1", {NAME: FIRST}),
    ],
)
def test_nested_tests_and_shrunken_fold_changes(kind, shrink, says, specs, ask, fitted):
    also = ["--also", BATCH] if BATCHES in specs else []
    options = ["--test", kind, "--reduced", "~ 1", "--shrink", shrink]
    out, record, printed = ask(*DESIGN, *options, *also)
    for name, spec in specs.items():
        suffix = f"_{name.replace(' ', '_')}.csv" if also else ".csv"
        same(out / f"results{suffix}", tl.test(fitted, spec, kind=kind, reduced="~ 1"))
        same(out / f"shrunken{suffix}", tl.shrink(fitted, spec, kind=shrink))
        assert record["contrasts"][name]["results"] == f"results{suffix}"
        assert f"\n{name}: {says}\n" in printed
    limit = {"lfc_threshold": 0.0, "alternative": "greaterAbs"}
    assert record["test"] == {"kind": kind, "reduced": "~ 1", "shrink": shrink} | limit
    assert record["tested"]["test"]["kind"] == kind
    assert record["tested"]["test"]["reduced"] == "~ 1"
    assert record["tested"]["test"]["freedom"] == 2
    assert record["seconds"]["shrinkage"]["wall"] > 0


def test_contrasts_of_groups_and_of_sums(ask, fitted):
    """Without a reduced design each is tested."""
    groups = ["condition=treated batch=batch_2", "condition=control"]
    sums = ["--plus", BATCH, "--plus", CONDITION, "--minus", "Intercept"]
    out, record, printed = ask(*DESIGN[:2], "--groups", *groups, *sums, "--test", "lrt")
    specs = {
        "condition=treated batch=batch_2 vs condition=control": (
            {"condition": "treated", "batch": "batch_2"},
            {"condition": "control"},
        ),
        f"-Intercept + {BATCH} + {CONDITION}": ([BATCH, CONDITION], ["Intercept"]),
    }
    assert list(record["contrasts"]) == list(specs)
    for name, spec in specs.items():
        same(out / record["contrasts"][name]["results"], tl.lrt(fitted, None, spec))
        assert f"\n{name}: likelihood ratio\n" in printed
    assert record["tested"]["test"]["reduced"] == ""
    assert record["tested"]["test"]["freedom"] == 1


@pytest.mark.parametrize(
    ("alternative", "threshold", "tables", "says"),
    [
        ("greaterAbs", 0.5, "csv", "|log2 fold change| > 0.5"),
        ("greaterAbs2014", 0.5, "parquet", "|log2 fold change| > 0.5 (2014)"),
        ("lessAbs", 0.5, "xlsx", "|log2 fold change| < 0.5"),
        ("less", 0.5, "csv", "log2 fold change < -0.5"),
    ],
)
def test_thresholds_and_tables(alternative, threshold, tables, says, ask, fitted):
    limit = {"lfc_threshold": threshold, "alternative": alternative}
    options = ["--lfc-threshold", threshold, "--alternative", alternative, "--tables", tables]
    out, record, printed = ask(*DESIGN, *options)
    expected = tl.contrast(fitted, FIRST, **limit)
    same(out / f"results.{tables}", expected)
    same(out / f"genes.{tables}", get.genes(fitted))
    files = {f"{name}.{tables}" for name in ("results", "genes", "samples")}
    assert set(record["files"]) == files | {"run.json"}
    assert record["contrasts"][NAME]["results"] == f"results.{tables}"
    assert record["tested"] == {"test": {"kind": "wald"}} | limit
    assert limit.items() < record["test"].items()
    assert f"\n{NAME}: {says}\n" in printed


def test_a_change_below_nothing_has_no_sign():
    stored = {"test": {"kind": "wald"}, "lfc_threshold": 0.0, "alternative": "less"}
    assert folder.tested_how(stored) == "log2 fold change < 0"


def test_every_level_has_the_threshold_too(ask, fitted):
    limit = {"lfc_threshold": 0.5, "alternative": "greater"}
    options = ["--lfc-threshold", 0.5, "--alternative", "greater"]
    intervals = ["--intervals", 0.9, "--draws", 20, "--tables", "parquet"]
    each = ["--each", "batch", "batch_1"]
    out, _, printed = ask(*DESIGN, *each, *options, *intervals)
    found = anndata.read_h5ad(out / "contrasts.h5ad")
    expected = tl.contrasts(fitted, "batch", "batch_1", **limit)
    assert expected.layers.keys() == found.layers.keys()
    for layer in expected.layers:
        np.testing.assert_allclose(found.layers[layer], expected.layers[layer], rtol=1e-12)
    assert limit.items() <= dict(found.uns).items()
    table = pd.read_parquet(out / "contrasts.parquet")
    assert list(table["up"]) == list(expected.obs["up"])
    same(out / "results.parquet", tl.contrast(fitted, FIRST, **limit))
    assert "\nintervals.parquet: " in printed
    assert f"\n{NAME}: log2 fold change > 0.5\n" in printed


def test_figures_of_two_kinds_and_a_report(ask, monkeypatch):
    for name in DRAWN:
        monkeypatch.setattr(pl, name, lambda *_, **__: Figure((1, 1), dpi=20).subplots())
    monkeypatch.setattr(pl, "counts", lambda *_: Figure((1, 1), dpi=20).subplots(1, 2))
    options = ["--lfc-threshold", 1.5, "--report"]
    out, record, _ = ask(*DESIGN, *options, figures=("--figures", "png,svg"))
    figures = {path.name for path in (out / "figures").iterdir()}
    assert figures == {f"{name}.{kind}" for name in DRAWN for kind in ("png", "svg")}
    assert (out / "figures" / "ma.png").read_bytes()[1:4] == b"PNG"
    assert (out / "figures" / "ma.svg").read_text().startswith("<?xml")
    text = (out / "report.html").read_text(encoding="utf-8")
    assert "|log2 fold change| &gt; 1.5" in text
    assert text.count("data:image/png;base64,") == len(DRAWN)
    assert {"figures", "report"} < set(record["seconds"])


def test_local_trend_without_a_filter(ask, data, fitted):
    out, record, _ = ask(*DESIGN, "--trend", "local", "--no-filter")
    settings = tl.Settings(trend="local", independent_filtering=False)
    own, usual = data.copy(), tl.contrast(fitted, FIRST)
    expected = tl.de(own, FORMULA, FIRST, settings=settings)
    same(out / "results.csv", expected)
    same(out / "genes.csv", get.genes(own))
    assert record["trend"]["kind"] == record["settings"]["trend"] == "local"
    assert not record["settings"]["independent_filtering"]
    assert (usual["status"] == "low_count").sum() > 50
    assert record["contrasts"][NAME]["status"]["low_count"] == 0


def test_mean_trend_and_size_factors_of_a_column(ask, data):
    out, record, _ = ask(*DESIGN, "--trend", "mean", "--size-factors-column", "size_factor")
    settings, inputs = tl.Settings(trend="mean"), tl.Inputs(size_factors="size_factor")
    same(out / "results.csv", tl.de(data.copy(), FORMULA, FIRST, settings=settings, inputs=inputs))
    sizes = pd.read_csv(out / "samples.csv", index_col="sample")["size_factor"]
    np.testing.assert_allclose(sizes, data.obs["size_factor"], rtol=1e-9)
    assert record["trend"]["kind"] == record["settings"]["trend"] == "mean"
    assert record["input"]["size_factors"] == "size_factor"
    assert record["settings"]["size_factors"] == "given"


@pytest.mark.parametrize(
    ("options", "settings", "outlying"),
    [
        (
            ["--no-refit", "--cooks-cutoff", "3"],
            {"replace_outliers": False, "cooks_cutoff": 3.0},
            {"outlier": 2},
        ),
        (
            ["--size-factors", "iterate", "--cooks-cutoff", "inf"],
            {"size_factors": "iterate", "cooks_cutoff": np.inf},
            {},
        ),
    ],
)
def test_outliers_and_iteration(options, settings, outlying, ask, data):
    """Of eight samples alike an outlying count would be replaced."""
    out, record, _ = ask("--design", "~ 1", *options)
    own = data.copy()
    same(out / "results.csv", tl.de(own, "~ 1", settings=tl.Settings(**settings)))
    sizes = pd.read_csv(out / "samples.csv", index_col="sample")
    pd.testing.assert_frame_equal(sizes, get.samples(own), rtol=1e-9)
    status = record["contrasts"]["Intercept"]["status"]
    assert {k: status[k] for k in ("outlier", "replaced") if status[k]} == outlying
    told = {k: "inf" if v == np.inf else v for k, v in settings.items()}
    assert told.items() < record["settings"].items()


def test_what_files_bring(ask, data, files, fitted):
    options = {
        "control_genes": ["--control-genes", files / "controls.txt"],
        "offsets": ["--offsets", files / "length.csv"],
        "weights": ["--weights", files / "weight.csv"],
        "trend": ["--trend", files / "trend.tsv"],
    }
    out, record, _ = ask(*DESIGN, *(word for pair in options.values() for word in pair))
    inputs = tl.Inputs(control_genes="control", offsets="length", precision="weight")
    own = data.copy()
    expected = tl.de(own, FORMULA, FIRST, inputs=inputs, trend=NODES)
    same(out / "results.csv", expected)
    same(out / "genes.csv", get.genes(own))
    told = {name: str(pair[1]) for name, pair in options.items()}
    tables = {name: str(files / f"{name}.csv") for name in ("counts", "samples")}
    assert record["input"] == tables | told
    assert record["settings"]["trend"] == record["trend"]["kind"] == "given"
    np.testing.assert_allclose(np.exp(record["trend"]["log_mean"]), [1, 30, 1000])


@pytest.fixture
def lanes(data, files):
    """A group of the data, and one of too few samples."""
    obs = pd.concat([data.obs.assign(lane="A/1"), data.obs[:2].assign(lane="B")])
    obs.index = [f"s{i}" for i in range(10)]
    x = np.concatenate([data.X, data.X[:2]])
    whole = anndata.AnnData(x, obs=obs, var=data.var[[]])
    whole.to_df().T.to_csv(files / "lanes.csv")
    obs.rename_axis("sample").to_csv(files / "of_lanes.csv")
    return whole


def test_an_analysis_within_each_group(lanes, ask):
    options = ["--within", "lane", "--lfc-threshold", 0.5, "--alpha", 0.2, "--memory", "1MB"]
    out, record, printed = ask(*DESIGN, *options, counts="lanes.csv", samples="of_lanes.csv")
    settings, test = tl.Settings(alpha=0.2), {"lfc_threshold": 0.5}
    expected = tl.de_each(lanes, "lane", FORMULA, FIRST, settings=settings, test=test)
    same(out / "results_A_1.csv", expected.results.drop(columns="lane"))
    groups = pd.read_csv(out / "groups.csv", index_col="lane", keep_default_na=False)
    assert list(groups["results"]) == ["results_A_1.csv", ""]
    pd.testing.assert_frame_equal(
        groups.drop(columns="results"), expected.groups, check_column_type=False
    )
    assert groups.loc["A/1", ["up", "down"]].min() > 0
    assert "condition has only one level" in groups.loc["B", "why"]
    assert record["within"] == "lane"
    assert record["contrast"] == NAME
    assert record["test"]["lfc_threshold"] == 0.5
    assert record["settings"]["alpha"] == 0.2
    assert list(record["seconds"]) == ["reading", "analyses", "tables", "total"]
    assert f"lanes.csv: 2 groups of lane\n  A/1{groups.loc['A/1', 'up']:>8} up" in printed
