"""The time-course verb: kinds of data and choices, and mistakes."""

import logging

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from expressway import tl
from expressway._errors import InputError
from expressway.models.spline import evaluate
from expressway.timecourse import Settings
from expressway.timecourse import run as steps_run
from simulated_course import TIMES, run, simulated


@pytest.fixture(scope="module")
def adata() -> anndata.AnnData:
    return simulated()


def test_what_the_verb_leaves_in_the_data(adata, tmp_path):
    copy = adata.copy()
    found = tl.timecourse(copy, "time", df=5, clusters=4, cv="jackknife")
    table = found.clusters()
    np.testing.assert_array_equal(copy.var["cluster"], table["cluster"].astype(float))
    np.testing.assert_array_equal(copy.var["cluster_probability"], table["probability"])
    assert copy.uns["timecourse"]["df"] == 5
    copy.write_h5ad(tmp_path / "a.h5ad")
    again = anndata.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(again.var["cluster"], copy.var["cluster"])
    np.testing.assert_allclose(again.uns["timecourse"]["cv"]["ij"], found.cv["ij"])
    np.testing.assert_array_equal(copy.X, adata.X)


def test_deterministic(adata):
    one, two = (run(adata, cv="both") for _ in range(2))
    pd.testing.assert_frame_equal(one.clusters(), two.clusters(), rtol=0, atol=0)
    pd.testing.assert_frame_equal(one.cv, two.cv, rtol=0, atol=0)
    other = run(adata, settings=Settings(starts=3, seed=9))
    assert set(other.starts["seed"]) == {9, 10, 11}


def test_the_order_of_samples_and_genes_is_nothing(adata):
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(18), rng.permutation(100)
    one = run(adata, cv="jackknife")
    two = run(adata[rows][:, columns], cv="jackknife", settings=Settings(starts=6))
    a, b = (each.fit().found.clusters.objective for each in (one, two))
    assert a == pytest.approx(b, rel=1e-10)
    genes = one.clusters().index
    pd.testing.assert_frame_equal(one.clusters(), two.clusters().loc[genes], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(one.cv["ij"], two.cv["ij"], rtol=1e-6)
    pd.testing.assert_frame_equal(
        one.differential, two.differential.loc[genes], rtol=1e-8, atol=1e-300
    )


@pytest.mark.parametrize("form", ["float32", "sparse", "layer", "int"])
def test_forms_of_expression(adata, form):
    given = adata.copy()
    given.X = np.round(adata.X * 64)  # what all forms hold exactly
    expected = run(given, settings=Settings(starts=3, spread=400.0))
    if form == "layer":
        given.layers["raw"], given.X = given.X, np.zeros_like(given.X)
    else:
        given.X = {
            "float32": lambda x: x.astype(np.float32),
            "sparse": sp.csr_matrix,
            "int": lambda x: x.astype(int),
        }[form](given.X)
    layer = "raw" if form == "layer" else None
    got = run(given, settings=Settings(starts=3, spread=400.0), layer=layer)
    pd.testing.assert_frame_equal(expected.clusters(), got.clusters())


def test_one_bad_gene_stops_no_other(adata):
    clean = run(adata, cv="both", df=(4, 5))
    bad = np.tile(adata.X[:, :1], 6)
    bad[:, 0] = 5.0
    bad[:, 1] = np.nan
    bad[:, 2] = 5.0
    bad[3, 2] = np.nan
    bad[4:, 3] = np.nan
    bad[adata.obs["time"] < 6, 4] = np.nan  # three times are left
    bad[:, 5] = np.nan
    bad[2, 5] = 1.0
    obs = adata.obs
    names = [f"bad_{i}" for i in range(6)]
    more = anndata.AnnData(
        np.hstack([bad[:, :3], adata.X, bad[:, 3:]]),
        obs=obs,
        var=pd.DataFrame(index=[*names[:3], *adata.var_names, *names[3:]]),
    )
    found = run(more, cv="both", df=(4, 5))
    table = found.clusters()
    status = table["status"][names]
    assert list(status) == ["constant", "too_few_values", "constant", *["too_few_values"] * 3]
    assert table.loc[names, ["cluster", "probability", "distance"]].isna().all(axis=None)
    assert set(table.loc[names, "used"]) == {""}
    expected = clean.clusters()
    pd.testing.assert_frame_equal(table.loc[expected.index], expected, rtol=1e-9)
    pd.testing.assert_frame_equal(found.cv, clean.cv, rtol=1e-9)
    assert found.differential.loc[names, "f_time"].isna().all()
    assert found.differential.loc[expected.index, "p_adj_time"].notna().all()
    with pytest.raises(InputError, match="gene bad_0 has no curve: its status is constant"):
        found.curves(genes=["bad_0"])
    with pytest.raises(InputError, match="gene bad_5 has no curve: its status is too_few_values"):
        found.draws(["bad_5"])
    assert len(found.values(names)) == 18 + 0 + 17 + 4 + 6 + 1
    assert set(found.curves()["name"]) == {"1", "2", "3", "4", *adata.var_names}


def test_replicates_and_samples_left_out(adata):
    of = run(adata, cv="both", of="samples")
    assert list(of.folds["left_out"]) == list(adata.obs_names)
    assert of.cv["folds"].iloc[0] == 18
    series = run(adata, cv="both", of="replicates", replicate="replicate")
    assert list(series.folds["left_out"]) == ["replicate 1", "replicate 2"]
    some = run(
        adata, cv="jackknife", of="samples", leave_out=3, settings=Settings(starts=2, most_folds=9)
    )
    assert len(some.folds) == 9
    # The least that can be said of predictions: a sample moves clusters less than a series.
    assert of.folds["trusted"].mean() > 0.9


@pytest.mark.parametrize("cv", ["none", "jackknife", "exact", "both"])
def test_what_of_cross_validation_is_computed(adata, cv):
    found = run(adata, cv=cv)
    if cv == "none":
        assert len(found.cv) == len(found.folds) == 0
        return
    assert np.isfinite(found.cv["exact"].iloc[0]) == (cv != "jackknife")
    assert np.isfinite(found.cv["corrected"].iloc[0])
    plain = run(adata, cv=cv, settings=Settings(starts=3, corrected=False))
    assert np.isnan(plain.cv["corrected"].iloc[0])
    assert plain.cv["ij"].iloc[0] == pytest.approx(found.cv["ij"].iloc[0], rel=1e-10)


def test_folds_of_some_times(adata):
    found = run(adata, cv="jackknife", leave_out=2, among=[2.0, 3.0, 6.0])
    assert list(found.folds["left_out"]) == ["2+3", "2+6", "3+6"]
    late = run(adata, cv="jackknife", settings=Settings(starts=3, indicators=(8.0, 10.0)))
    assert list(late.folds["left_out"]) == ["0", "1", "2", "3", "4", "5", "6"]


def test_a_fold_that_makes_the_design_singular(adata, caplog):
    ask = {"cv": "both", "df": (4, 6), "leave_out": 2, "among": [3.0, 5.0, 8.0, 10.0]}
    with caplog.at_level(logging.WARNING):
        found = run(adata, **ask)
    said = [record.message for record in caplog.records if "cannot be compared" in record.message]
    assert len(said) == 1
    assert "5 of 6 folds of 2 times cannot be compared: without 8+10 the smallest" in said[0]
    assert "of the design with df 6 is" in said[0]
    both = found.folds[found.folds["left_out"] == "8+10"]
    assert not both["comparable"].any()
    singular = both[both["df"] == 6].iloc[0]
    assert singular["note"].startswith("not compared")
    assert abs(singular["conditioning"]) < 1e-12
    assert not singular["trusted"]
    assert np.isnan(singular["exact"])
    message = r"5 of 6 .*without 8\+10 the smallest eigenvalue of the design with df 6"
    with pytest.raises(InputError, match=message) as caught:
        run(adata, **ask, settings=Settings(starts=1, singular="refuse"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "settings",
    [
        Settings(kind="natural", starts=3),
        Settings(kind="cyclic", starts=3),
        Settings(kind="cyclic", starts=3, period=24.0),
        Settings(knots="quantile", starts=3),
        Settings(knots=(2.0, 5.0), starts=3),
        Settings(degree=2, starts=3),
        Settings(indicators=(8.0, 10.0), starts=3),
    ],
)
def test_kinds_of_curves(adata, settings):
    given = settings.knots == (2.0, 5.0)
    df = 6 if given else 5
    found = run(adata, df=None if given else df, settings=settings, cv="jackknife")
    one = found.fit()
    assert one.basis.kind == settings.kind
    assert found.chosen == df
    assert one.basis.columns == df + len(settings.indicators)
    x = evaluate(one.basis, adata.obs["time"].to_numpy())
    y = adata.X[:, 0]
    curve = found.curves(genes=["gene_1"]).query("kind == 'gene'").set_index("time")
    fitted = pd.Series(x @ np.linalg.lstsq(x, y)[0], adata.obs["time"]).groupby(level=0).first()
    np.testing.assert_allclose(curve["mean"].loc[fitted.index], fitted, atol=1e-9)
    assert np.all(curve["indicator"].loc[list(settings.indicators)])
    if settings.kind == "cyclic":
        period = settings.period or 10.0
        assert curve["mean"].loc[period] == pytest.approx(curve["mean"].loc[0.0], abs=1e-10)
    assert len(found.draws(["gene_1"], 2)) > 0
    assert len(found.influence()) > 0


def test_time_as_a_factor(adata):
    found = run(adata, df=None, settings=Settings(kind="factor", starts=3), cv="both", of="samples")
    curve = found.curves(genes=["gene_5"]).query("kind == 'gene'")
    means = pd.Series(adata.X[:, 4], adata.obs["time"]).groupby(level=0).mean()
    np.testing.assert_array_equal(curve["time"], means.index)
    np.testing.assert_allclose(curve["mean"], means, atol=1e-10)
    assert found.cv["folds"].iloc[0] == 18
    # Without a whole time there is no curve there.
    times = run(adata, df=None, settings=Settings(kind="factor", starts=3), cv="both")
    assert times.cv["folds"].iloc[0] == 0
    assert len(times.folds) == 9
    # Its F test of time is the analysis of variance.
    assert found.differential["f_time"].notna().all()


@pytest.mark.parametrize(
    ("times", "settings", "expected"),
    [
        (9, Settings(starts=1), [4, 5, 6, 7, 8]),
        (6, Settings(starts=1), [4, 5, 6]),
        (9, Settings(starts=1, indicators=(8.0, 10.0)), [4, 5, 6, 7]),
        (5, Settings(starts=1, kind="natural"), [4, 5]),
        (9, Settings(starts=1, kind="factor"), [9]),
        (9, Settings(starts=1, knots=(3.0,)), [5]),
    ],
)
def test_df_as_far_as_times_bear(adata, times, settings, expected):
    some = adata[adata.obs["time"].isin(TIMES[:times]), :30]
    ask = {"cv": "jackknife", "of": "samples", "settings": settings._replace(corrected=False)}
    found = run(some, df=None, clusters=2, **ask)
    assert list(found.fits) == expected
    assert found.chosen in expected


def test_the_number_of_clusters_is_chosen(adata):
    for cv in ("both", "jackknife"):
        found = run(adata, clusters=(2, 3, 4), cv=cv, among=[3.0])
        assert list(found.selection["clusters"]) == [2, 3, 4]
        assert list(found.selection["chosen"]) == [False, False, True]
        assert len(found.fit().found.clusters.mixture.weight) == 4
        assert found.selection["ij"].idxmax() == 2
        assert np.isfinite(found.selection["exact"]).all() == (cv == "both")
        assert np.all(found.selection["train"] >= found.selection["ij"])
        if cv == "both":
            np.testing.assert_allclose(found.selection["exact"], found.selection["ij"], rtol=0.01)


def test_more_clusters_than_there_are(adata, caplog):
    """Those that would coincide are one; the log says so."""
    with caplog.at_level(logging.WARNING):
        found = run(adata, clusters=9, cv="both")
    assert "df 5: 9 clusters asked for, 4 found" in caplog.text
    expected = run(adata, clusters=4, cv="both")
    assert found.fit().found.clusters.objective == pytest.approx(
        expected.fit().found.clusters.objective, rel=1e-9
    )
    np.testing.assert_array_equal(found.clusters()["cluster"], expected.clusters()["cluster"])
    np.testing.assert_allclose(found.cv["exact"], expected.cv["exact"], rtol=1e-6)


def with_obs(column, values):
    def change(adata):
        adata.obs[column] = values

    return change


def with_x(row, column, value):
    def change(adata):
        adata.X = np.asarray(adata.X, float)
        adata.X[row, column] = value

    return change


def nothing(adata):
    pass


SOME_HOURS = [f"{t}h" for t in np.repeat(TIMES, 2)]


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (with_obs("time", SOME_HOURS), {}, "time column 'time' is '0h' for sample sample_1; need"),
        (with_obs("time", [np.nan, *range(17)]), {}, "time column 'time' is missing for sample"),
        (with_obs("time", [np.inf, *range(17)]), {}, "time column 'time' is 'inf' for sample"),
        (lambda a: a.obs.pop("time"), {}, "time column 'time' is not there; the sample table has"),
        (nothing, {"group": "nobody"}, "there is no column 'nobody' in the sample table; it has"),
        (nothing, {"replicate": "nobody"}, "there is no column 'nobody' in the sample table"),
        (
            with_obs("g", [None, *"ab" * 8, "a"]),
            {"group": "g"},
            "'g' has no value for sample sample",
        ),
        (nothing, {"df": 10}, "samples have 9 distinct times; lower df to 9"),
        (nothing, {"df": 3}, "df 3 for a b-spline basis of degree 3.*raise df to 4"),
        (nothing, {"df": (5, 12), "cv": "both"}, "9 distinct times; lower df to 9"),
        (
            with_obs("g", ["a"] * 12 + ["b"] * 6),
            {"group": "g", "df": 5},
            "group a: .*do not determine|group a: .*distinct times|group b: .*3 distinct times",
        ),
        (lambda a: a._inplace_subset_obs(np.arange(0, 18, 2)), {"df": 9}, "9 samples for 9 coeffi"),
        (nothing, {"settings": Settings(indicators=(7.0,))}, "no sample is at indicator time 7"),
        (with_x(2, 3, np.inf), {}, "expression of gene_4 in sample_3 is infinite; needed are"),
        (nothing, {"layer": "nobody"}, "there is no layer 'nobody'; the layers are mean"),
        (nothing, {"counts": True}, "negative|not a whole number"),
        (with_x(slice(None), slice(None), 3.0), {}, "0 genes can be clustered.*100 constant"),
        (nothing, {"df": ()}, "no df or no number of clusters given"),
        (nothing, {"clusters": ()}, "no df or no number of clusters given"),
        (nothing, {"clusters": 0}, "0 clusters of 100 genes; needed are 1 to 100"),
        (nothing, {"clusters": 101}, "101 clusters of 100 genes; needed are 1 to 100"),
        (nothing, {"clusters": (2, 101)}, "101 clusters of 100 genes"),
        (nothing, {"df": (4, 5)}, "choosing among df 4, 5 needs cross-validation"),
        (nothing, {"cv": "both", "of": "replicates"}, "needs the column that numbers them"),
        (nothing, {"cv": "both", "among": [7.0]}, "no sample is at time 7, to be left out; times"),
        (nothing, {"cv": "both", "leave_out": 0}, "0 times to leave out together of 9"),
        (nothing, {"cv": "both", "leave_out": 10}, "10 times to leave out together of 9"),
        (nothing, {"cv": "both", "leave_out": ()}, "how many to leave out together is not given"),
        (nothing, {"test_genes": 100}, "100 genes to hold out of 100; needed are fewer"),
        (nothing, {"test_genes": -1}, "-1 genes to hold out of 100"),
        (nothing, {"test_genes": 99}, "1 genes can be clustered, at least 2 are needed"),
        (nothing, {"settings": Settings(error="cubed")}, "error must be one of squared, absolute"),
        (nothing, {"settings": Settings(singular="no")}, "singular must be one of skip, refuse"),
        (nothing, {"settings": Settings(spread=-0.1)}, "spread must be 0 or more, but is -0.1"),
        (nothing, {"settings": Settings(spread=np.nan)}, "spread must be 0 or more, but is nan"),
        (nothing, {"settings": Settings(ridge=-1.0)}, "ridge must be 0 or more, but is -1.0"),
        (nothing, {"settings": Settings(starts=0)}, "starts must be 1 or more, but is 0"),
        (nothing, {"settings": Settings(seed=-1)}, "seed must be 0 or more, but is -1"),
        (nothing, {"settings": Settings(most_folds=0)}, "most_folds must be 1 or more, but is 0"),
        (nothing, {"settings": Settings(points=-1)}, "points must be 0 or more, but is -1"),
        (nothing, {"settings": Settings(level=1.0)}, "level must lie between 0 and 1"),
        (nothing, {"settings": Settings(alpha=0.0)}, "alpha must lie between 0 and 1"),
        (lambda a: delattr(a, "X"), {}, "X is empty; name one of the layers: mean"),
        (lambda a: a._inplace_subset_var([]), {}, "there are no genes"),
        (
            lambda a: a._inplace_subset_obs([]),
            {},
            "a time is missing or infinite, or there is none",
        ),
        (nothing, {"settings": Settings(kind="wavy")}, "kind 'wavy' of basis; take one of"),
        (nothing, {"settings": Settings(knots="many")}, "knots 'many'; give 'equal'"),
        (
            nothing,
            {"df": None, "settings": Settings(knots=(20.0,))},
            "interior knots 20; they must ascend",
        ),
        (nothing, {"settings": Settings(period=3.0)}, "a period for kind 'b-spline'"),
        (nothing, {"settings": Settings(degree=0)}, "degree 0 of a spline"),
        (
            nothing,
            {"df": (4, 5), "cv": "both", "settings": Settings(kind="factor")},
            "a factor of time has as many columns as follow from that: give no df",
        ),
        (
            nothing,
            {"df": (4, 5), "cv": "both", "settings": Settings(knots=(3.0,))},
            "a spline with given knots has as many columns as follow from that: give no df",
        ),
        (
            nothing,
            {"df": (4, 9), "cv": "both"},
            "no fold can be left out with every df; lower df",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(adata, change, options, message):
    given = adata.copy()
    change(given)
    with pytest.raises(InputError, match=message) as caught:
        run(given, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_choices_that_types_forbid():
    """As `expressway timecourse` may pass them."""
    for of, cv, message in (
        ("mice", "both", "of must be one of times, samples, replicates, but is mice"),
        ("times", "maybe", "cv must be one of both, jackknife, exact, none, but is maybe"),
    ):
        with pytest.raises(InputError, match=message):
            steps_run._check(Settings(), [4], [2], of, cv)
