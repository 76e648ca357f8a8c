"""Options of `expressway de`: what it writes is what the Python verbs give."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from expressway import datasets, get, pl, tl
from expressway.cli import folder

FORMULA = "~ batch + condition"
FIRST = ("condition", "treated", "control")
DESIGN = ["--design", FORMULA, "--contrast", *FIRST]
NAME = "condition treated vs control"
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
    lengths = data.to_df(layer="length").T
    lengths.drop("gene_7").to_csv(place / "short.csv")
    lengths.drop(columns="sample_4").to_csv(place / "narrow.csv")
    (lengths - lengths.loc["gene_9", "sample_2"]).to_csv(place / "negative.csv")
    controls = data.var_names[data.var["control"]]
    (place / "controls.txt").write_text("\n".join(controls) + "\n")
    (place / "strangers.txt").write_text("gene_1\nnobody\n")
    NODES.to_csv(place / "trend.tsv", sep="\t", index=False)
    (place / "empty.csv").write_text("")
    (place / "words.csv").write_text("mean,dispersion\n1,2\n3,much\n")
    (place / "other.csv").write_text("mu,alpha\n1,1\n")
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
    ("kind", "shrink", "says"),
    [
        ("lrt", "apeglm", "likelihood ratio against ~ 1"),
        ("ql", "normal", "quasi-likelihood F against ~ 1"),
    ],
)
def test_nested_tests_and_shrunken_fold_changes(kind, shrink, says, ask, fitted):
    options = ["--test", kind, "--reduced", "~ 1", "--shrink", shrink, "--also", BATCH]
    out, record, printed = ask(*DESIGN, *options)
    for name, spec in ((NAME, FIRST), ("batch batch_2 vs batch_1", BATCH)):
        suffix = f"_{name.replace(' ', '_')}.csv"
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
        monkeypatch.setattr(pl, name, lambda *_, **__: Figure(dpi=20).subplots())
    monkeypatch.setattr(pl, "counts", lambda *_: Figure(dpi=20).subplots(1, 2))
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


@pytest.fixture(scope="module")
def lanes(data, files):
    """Two groups of the same design, and one of too few samples."""
    other = datasets.simulate(genes=200, samples=8, batches=2, seed=4)
    parts = {"A": data, "B/b": other, "C": other[:2]}
    obs = [one.obs.assign(lane=lane) for lane, one in parts.items()]
    for lane, one in zip(parts, obs, strict=True):
        one.index = [f"{lane}{i}" for i in range(len(one))]
    x = np.concatenate([np.asarray(one.X) for one in parts.values()])
    whole = anndata.AnnData(x, obs=pd.concat(obs), var=data.var[[]])
    whole.to_df().T.to_csv(files / "lanes.csv")
    whole.obs.rename_axis("sample").to_csv(files / "of_lanes.csv")
    return whole


def test_an_analysis_within_each_group(lanes, ask):
    options = ["--within", "lane", "--lfc-threshold", 0.5, "--alpha", 0.2, "--memory", "1MB"]
    out, record, printed = ask(*DESIGN, *options, counts="lanes.csv", samples="of_lanes.csv")
    settings, test = tl.Settings(alpha=0.2), {"lfc_threshold": 0.5}
    expected = tl.de_each(lanes, "lane", FORMULA, FIRST, settings=settings, test=test)
    for lane, name in (("A", "results_A.csv"), ("B/b", "results_B_b.csv")):
        rows = expected.results["lane"] == lane
        same(out / name, expected.results[rows].drop(columns="lane"))
    groups = pd.read_csv(out / "groups.csv", index_col="lane", keep_default_na=False)
    assert list(groups["results"]) == ["results_A.csv", "results_B_b.csv", ""]
    pd.testing.assert_frame_equal(
        groups.drop(columns="results"), expected.groups, check_column_type=False
    )
    assert "condition" in groups.loc["C", "why"]
    assert record["within"] == "lane"
    assert record["contrast"] == NAME
    assert record["test"]["lfc_threshold"] == 0.5
    assert record["settings"]["alpha"] == 0.2
    assert list(record["seconds"]) == ["reading", "analyses", "tables", "total"]
    assert f"lanes.csv: 3 groups of lane\n  A  {groups.loc['A', 'up']:>8} up" in printed


# In braces: the folder of the files.
@pytest.mark.parametrize(
    ("options", "line"),
    [
        (
            "--reduced ~batch",
            "the reduced design '~batch' goes with the tests lrt and ql (--test lrt); Wald's test "
            "is of a contrast",
        ),
        (
            "--test lrt --reduced ~nothing",
            "the formula names column nothing, which the sample table does not have; it has "
            "condition, batch, size_factor",
        ),
        (
            "--test ql --reduced ~condition+batch",
            "reduced formula '~condition+batch' spans all columns of the design '~ batch + "
            "condition': nothing is left to test; leave the terms out of it that are to be tested",
        ),
        (
            "--test ql --lfc-threshold 1",
            "a threshold of fold changes goes with Wald's test, not with ql; leave it out",
        ),
        (
            "--test lrt --alternative less",
            "a threshold of fold changes goes with Wald's test, not with lrt; leave it out",
        ),
        (
            "--alternative lessAbs",
            "lfc_threshold must be above 0 for the alternative lessAbs, but is 0.0",
        ),
        (
            "--lfc-threshold inf",
            "lfc_threshold, a log2 fold change, must be 0 or above, but is inf",
        ),
        (
            "--influence conditional --lfc-threshold 1",
            "--influence conditional is about calls of Wald's test of no change, not of "
            "--lfc-threshold 1; leave one of the two out",
        ),
        (
            "--influence pipeline --alternative greater",
            "--influence pipeline is about calls of Wald's test of no change, not of "
            "--alternative greater; leave one of the two out",
        ),
        (
            "--influence conditional --test ql",
            "--influence conditional is about calls of Wald's test of no change, not of --test "
            "ql; leave one of the two out",
        ),
        (
            "--each batch batch_1 --test lrt",
            "--each batch batch_1 is by Wald's test, not by --test lrt; leave one of the two out, "
            "or name each contrast with --also",
        ),
        (
            "--groups condition=treated dose=high",
            "dose is not a factor of the design ~ batch + condition, whose factors are batch, "
            "condition; of a covariate, name the coefficient",
        ),
        (
            "--groups condition=treated treated",
            "group 'treated' cannot be read: needs FACTOR=LEVEL,LEVEL, several with spaces "
            "between (strain=wt minute=120,180), or all",
        ),
        (
            "--minus nothing",
            "no coefficient is named nothing; there are Intercept, batch[T.batch_2], "
            "condition[T.treated]",
        ),
        (
            "--plus Intercept --minus Intercept",
            "contrast of lists: coefficient Intercept is named twice; name it once, or give one "
            "weight a coefficient",
        ),
        (
            "--within lane",
            "there is no column 'lane' in obs; the columns are condition, batch, size_factor",
        ),
        *(
            (
                f"--within batch --figures png {option}",
                f"--within batch gives a table for each group, without {said}; leave it out, or "
                "analyse one group at a time",
            )
            for option, said in (
                ("--shrink normal", "--shrink"),
                ("--report", "--report"),
                ("--figures svg", "--figures"),
                (f"--also {BATCH}", "a second contrast"),
            )
        ),
        ("--figures png,gif", "--figures png,gif: gif is none of png, pdf, svg"),
        (
            "--trend {}/none.csv",
            "--trend {}/none.csv: needs parametric, local, mean or a file of means and dispersions",
        ),
        (
            "--trend {}/empty.csv",
            "--trend {}/empty.csv: cannot be read as a table (Could not determine delimiter)",
        ),
        (
            "--trend {}/other.csv",
            "--trend {}/other.csv: needs the columns mean and dispersion; it has mu, alpha",
        ),
        (
            "--trend {}/words.csv",
            "--trend {}/words.csv: dispersion much in row 2; needed are positive numbers",
        ),
        (
            "--offsets {}/short.csv",
            "{}/short.csv: 1 of the 200 genes are not in it (gene_7; it has gene_1, gene_2, "
            "gene_3, …); give a row and a column for each",
        ),
        (
            "--weights {}/narrow.csv",
            "{}/narrow.csv: 1 of the 8 samples are not in it (sample_4; it has sample_1, "
            "sample_2, sample_3, …); give a row and a column for each",
        ),
        ("--offsets {}/none.csv", "{}/none.csv: no such file"),
        (
            "--control-genes {}/strangers.txt",
            "{}/strangers.txt: 1 of its 2 genes are not in the counts (nobody); name genes of "
            "the counts, one a line",
        ),
        (
            "--size-factors iterate --weights {}/weight.csv",
            "size factors by iteration take no 'weights': leave it out, or take size factors "
            "ratio or poscounts",
        ),
        (
            "--size-factors poscounts --size-factors-column size_factor",
            "size factors are in column 'size_factor' and to be estimated by poscounts; give one "
            "of the two",
        ),
        (
            "--size-factors-column size_factor --control-genes {}/controls.txt",
            "size factors are in column 'size_factor', so control genes have no use; give one of "
            "the two",
        ),
        (
            "--cooks-cutoff 0",
            "cooks_cutoff must be above 0 (inf: no count is an outlier), but is 0.0",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(options, line, files, refused, tmp_path):
    words = options.replace("{}", str(files)).split()
    tables = (files / "counts.csv", files / "samples.csv")
    said = refused(*tables, *DESIGN, "--out", tmp_path / "out", *words)
    assert said == line.replace("{}", str(files))


def test_values_that_a_matrix_must_not_have(files, refused, tmp_path):
    tables = (files / "counts.csv", files / "samples.csv")
    options = ["--offsets", files / "negative.csv", "--out", tmp_path / "out"]
    line = refused(*tables, *DESIGN, *options)
    assert "every value must be finite and above 0" in line


@pytest.mark.parametrize(
    ("option", "value"),
    [("--test", "t"), ("--alternative", "more"), ("--shrink", "ashr"), ("--tables", "tsv")],
)
def test_a_word_that_is_no_choice_is_refused(option, value, run):
    result = run("counts.csv", *DESIGN, "--out", "out", option, value)
    assert result.exit_code == 2
    assert f"Error: Invalid value for '{option}': " in result.stderr
    assert f"'{value}' is not one of" in result.stderr
