"""The time-course verb and its result: on data whose truth is known, and on mistakes."""

import json
import logging

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

from expressway import datasets, timecourse, tl
from expressway._errors import InputError
from expressway.models import mixture as mx
from expressway.models.spline import evaluate
from expressway.timecourse import Settings
from expressway.timecourse import run as steps_run

TIMES = [0, 1, 2, 3, 4, 5, 6, 8, 10]
TABLES = ("cv", "folds", "selection", "starts", "differential")
# What of clusters depends on rounding: their optimum does, by 1e-13 over curvatures of 1e-2.
ROUNDING = 1e-8


def simulated(**options):
    """A time course; the true cluster is "truth" of genes, for the verb writes "cluster"."""
    given = {"genes": 100, "clusters": 4, "times": TIMES, "replicates": 2, "seed": 0, "df": 5}
    adata = datasets.simulate_timecourse(**(given | options))
    adata.var["truth"] = adata.var.pop("cluster").astype(str)
    return adata


def run(adata, **options):
    given = {"df": 5, "clusters": 4, "cv": "none", "settings": Settings(starts=3)}
    return tl.timecourse(adata.copy(), "time", **(given | options))


def same_clusters(found, label):
    """Adjusted Rand index (Hubert & Arabie 1985)."""
    table = pd.crosstab(np.asarray(found), np.asarray(label)).to_numpy()

    def pairs(n):
        return np.sum(n * (n - 1) / 2)

    rows, columns, every = (
        pairs(table.sum(1)),
        pairs(table.sum(0)),
        pairs(np.array([table.sum()])),
    )
    expected = rows * columns / every
    return (pairs(table) - expected) / ((rows + columns) / 2 - expected)


@pytest.fixture(scope="module")
def adata() -> anndata.AnnData:
    return simulated()


@pytest.fixture(scope="module")
def found(adata) -> timecourse.Courses:
    """Three df, folds of one and two times, genes held out."""
    among = [0.0, 2.0, 3.0, 4.0, 8.0, 10.0]
    return run(adata, df=(4, 5, 6), cv="both", leave_out=(1, 2), among=among, test_genes=15)


def test_the_df_of_the_simulation_is_chosen(adata, found):
    assert found.chosen == 5
    errors = found.cv[found.cv["leave_out"] == 1].set_index("df")
    for kind in ("corrected", "exact", "test"):
        assert errors[kind].idxmin() == 5
    # The prediction rules out too few columns; one too many costs it less than a standard error.
    assert errors["ij"][4] > errors["ij"][5] + errors["ij_se"][5]
    assert list(errors.index[errors["chosen"]]) == [5]
    # By the jackknife alone, too; and of other data.
    assert run(adata, df=(4, 5, 6), cv="jackknife").chosen == 5
    assert run(simulated(seed=3, df=6), df=(5, 6, 7), cv="jackknife").chosen == 6


def test_the_clusters_of_the_simulation_are_found(adata, found):
    table = found.clusters()
    assert list(table.index) == list(adata.var_names)
    assert list(table.columns[:5]) == ["status", "used", "cluster", "probability", "distance"]
    assert same_clusters(table["cluster"], adata.var["truth"]) > 0.97
    held = table["used"] == "held_out"
    assert held.sum() == 15
    assert same_clusters(table["cluster"][held], adata.var["truth"][held]) > 0.9
    assert set(table["status"]) == {"ok"}
    each = table.filter(like="p_").to_numpy()
    assert each.shape == (100, 4)
    np.testing.assert_allclose(each.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_array_equal(each.argmax(axis=1) + 1, table["cluster"])
    np.testing.assert_array_equal(each.max(axis=1), table["probability"])
    # Clusters are numbered by their weight.
    weight = found.fit().found.clusters.mixture.weight
    assert list(weight) == sorted(weight, reverse=True)
    # With the spread, which these genes do not have, distances are below the root of 4.
    assert 0.5 < table["distance"].median() < 2


def test_distance_is_mahalanobis(found):
    one = found.fit(4)
    table = found.clusters(4)
    seen = one.stage.observed(np.ones(18))
    for i in (0, 40, 84):
        gene = found.data.genes[one.genes[i]]
        c = one.found.clusters.mixture.centroids[table.loc[gene, "cluster"] - 1]
        away = seen.estimate[i] - c
        expected = np.sqrt(away @ seen.precision[i] @ away)
        assert table.loc[gene, "distance"] == pytest.approx(expected, rel=1e-10)


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


def test_errors_are_means_over_comparable_folds(found):
    folds, cv = found.folds, found.cv
    assert len(cv) == 6
    assert len(folds) == 3 * (6 + 15)
    for (df, size), own in folds.groupby(["df", "leave_out"]):
        row = cv[(cv["df"] == df) & (cv["leave_out"] == size)].iloc[0]
        used = own[own["comparable"].astype(bool)]
        assert row["folds"] == len(used)
        assert row["folds"] + row["not_comparable"] == len(own)
        assert row["trusted"] == used["trusted"].sum()
        # No value is missing: the mean over genes of means over folds is that over both.
        for kind in ("train", "ij", "corrected", "exact", "test"):
            assert row[kind] == pytest.approx(used[kind].mean(), rel=1e-12)
    # The same folds for every df: those that leave a hundredth of the information with all.
    names = [set(own["left_out"][own["comparable"].astype(bool)]) for _, own in folds.groupby("df")]
    assert names[0] == names[1] == names[2]
    least = folds.groupby(["leave_out", "left_out"])["conditioning"].transform("min")
    np.testing.assert_array_equal(folds["comparable"].astype(bool), least >= 0.01)


def test_trusted_predictions_are_near(found):
    folds = found.folds[found.folds["trusted"].astype(bool)]
    assert len(folds) > 15
    # Trust allows for a tenth between the prediction and its correction.
    np.testing.assert_allclose(folds["corrected"], folds["exact"], rtol=0.02)
    assert np.all(np.abs(folds["ij"] - folds["exact"]) < 0.12 * folds["exact"])


def test_standard_errors_are_over_genes(found, adata):
    """Of the mean over genes: that of another sample of genes differs by so much."""
    other = simulated(genes=400, seed=0)
    # The same curves; the standard error falls with the root of the number of genes.
    more = run(other, cv="jackknife")
    row = found.cv[(found.cv["df"] == 5) & (found.cv["leave_out"] == 1)].iloc[0]
    ratio = row["ij_se"] / more.cv["ij_se"].iloc[0]
    assert ratio == pytest.approx(np.sqrt(400 / 85), rel=0.5)


def test_curves(adata, found):
    table = found.curves()
    assert set(table["kind"]) == {"cluster", "gene"}
    gene = table[(table["kind"] == "gene") & (table["name"] == "gene_7")]
    y = adata[:, "gene_7"].X[:, 0]
    time = adata.obs["time"].to_numpy()
    one = found.fit()
    x = evaluate(one.basis, time)
    beta = np.linalg.lstsq(x, y)[0]
    grid = gene["time"].to_numpy()
    assert len(grid) == len(np.unique(np.concatenate([np.linspace(0, 10, 25), time])))
    np.testing.assert_allclose(gene["mean"], evaluate(one.basis, grid) @ beta, atol=1e-10)
    assert np.all(gene["lower"] < gene["mean"])
    # The truth, which the spline contains, is in 95 % of intervals.
    mean = pd.DataFrame(adata.layers["mean"], index=time, columns=adata.var_names)
    mean = mean[~mean.index.duplicated()]
    genes = table[(table["kind"] == "gene") & table["time"].isin(mean.index)]
    lower, upper = (
        genes.pivot(index="time", columns="name", values=name) for name in ("lower", "upper")
    )
    inside = (lower < mean[lower.columns]) & (mean[lower.columns] < upper)
    # Values of one gene depend on one another: five standard errors of 100 genes' shares.
    assert inside.to_numpy().mean() == pytest.approx(0.95, abs=5 * np.sqrt(0.95 * 0.05 / 100))
    # Curves of clusters are the centred truth of most of their genes.
    centred = mean - mean.mean()
    clusters = found.clusters()["cluster"]
    for k in range(1, 5):
        curve = table[(table["kind"] == "cluster") & (table["name"] == str(k))].set_index("time")
        own = centred[clusters.index[clusters == k]].median(axis=1)
        away = curve["mean"].loc[own.index] - own
        assert np.abs(away).max() < 0.2
    assert set(found.curves(genes=[])["kind"]) == {"cluster"}
    # Their intervals: where clusters are apart a centroid has the precision of its genes together.
    seen = one.stage.observed(np.ones(18))
    t = mx.terms(seen)
    r = mx.members(one.found.clusters.mixture, t).responsibility
    for k in range(4):
        covariance = np.linalg.inv(np.einsum("g,gij->ij", r[:, k], seen.precision))
        curve = table[(table["kind"] == "cluster") & (table["name"] == str(k + 1))]
        rows = one.stage.frame.at(evaluate(one.basis, curve["time"].to_numpy()))
        error = np.sqrt(np.einsum("mi,ij,mj->m", rows, covariance, rows))
        half = (curve["upper"] - curve["lower"]) / 2
        # A few genes are between clusters, which adds some to the variance.
        ratio = (half / (stats.norm.ppf(0.975) * error)).to_numpy()
        assert np.all((ratio > 0.999) & (ratio < 1.3))
    assert list(found.curves(genes=["gene_2", "gene_1"])["name"].unique()[-2:]) == [
        "gene_2",
        "gene_1",
    ]


def test_what_figures_are_made_of(adata, found):
    values = found.values(["gene_3"])
    np.testing.assert_array_equal(values["value"], adata[:, "gene_3"].X[:, 0])
    np.testing.assert_array_equal(values["time"], adata.obs["time"])
    drawn = found.draws(["gene_3", "gene_4"], number=40, seed=1)
    assert drawn.groupby(["name", "draw"]).ngroups == 80
    curve = found.curves(genes=["gene_3"]).query("kind == 'gene'").set_index("time")
    mean = drawn.query("name == 'gene_3'").groupby("time")["value"].mean()
    at = mean.index.intersection(curve.index)
    assert len(at) > 5
    width = (curve["upper"] - curve["lower"])[at]
    # Four standard errors of a mean of 40, width being four standard deviations.
    assert np.all(np.abs(mean[at] - curve["mean"][at]) < width * 4 / 4 / np.sqrt(40))
    pd.testing.assert_frame_equal(drawn, found.draws(["gene_3", "gene_4"], number=40, seed=1))
    members = found.members(most=3)
    assert set(members["name"]) == {"1", "2", "3", "4"}
    assert members.groupby("name")["gene"].nunique().max() == 3
    functions = found.basis(6)
    np.testing.assert_allclose(functions.sum(axis=1), 1)
    assert functions.shape[1] == 6


def test_influence(found):
    table = found.influence()
    assert len(table) == 4 * (9 + 18)
    assert set(table["kind"]) == {"time", "sample"}
    assert np.all(table["shift"] > 0)
    np.testing.assert_allclose(
        table.groupby(["kind", "left_out"])["weight_change"].sum(), 0, atol=1e-12
    )
    # A time moves clusters by about what its samples do together.
    one = found.fit()
    assert found.influence(4)["shift"].sum() != table["shift"].sum()
    without = found.leave_out(times=[3.0])
    moved = (without.mixture.centroids - one.found.clusters.mixture.centroids) @ one.stage.frame.u.T
    own = table[(table["kind"] == "time") & (table["left_out"] == "3")]
    np.testing.assert_allclose(own["shift"], np.sqrt(np.mean(moved**2, axis=1)), rtol=1e-10)


def test_leaving_out(adata, found):
    """Predicted, refitted, and as an analysis of data in which the samples are missing."""
    predicted, exact = (found.leave_out(times=[4.0], exact=each) for each in (False, True))
    assert predicted.trusted
    assert exact.note == ""
    start = found.fit().found.clusters.mixture.centroids
    away = np.linalg.norm(exact.mixture.centroids - start)
    assert 0 < np.linalg.norm(predicted.mixture.centroids - exact.mixture.centroids) < 0.5 * away
    missing = adata.copy()
    missing.X[adata.obs["time"] == 4.0] = np.nan
    other = run(missing, test_genes=15, start=found)
    np.testing.assert_allclose(
        other.fit().found.clusters.mixture.centroids, exact.mixture.centroids, atol=ROUNDING
    )
    table = exact.clusters
    pd.testing.assert_series_equal(table["before"], found.clusters()["cluster"], check_names=False)
    np.testing.assert_array_equal(table["cluster"], other.clusters()["cluster"])
    np.testing.assert_allclose(table["distance"], other.clusters()["distance"], atol=1e-6)
    # Samples by name, of any df.
    names = list(adata.obs_names[adata.obs["time"] == 4.0])
    by_name = found.leave_out(samples=names, df=5)
    np.testing.assert_array_equal(by_name.mixture.centroids, predicted.mixture.centroids)
    assert found.leave_out(times=[4], df=6).mixture.centroids.shape[1] == 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "nothing to leave out"),
        ({"times": [7.0]}, "there is no time or sample 7"),
        ({"times": [1.0], "samples": ["nobody"]}, "there is no time or sample nobody"),
        ({"times": [1.0, 2.0, 3.0, 4.0, 5.0]}, "without 1.2.3.4.5 the design is singular"),
        ({"times": [1.0], "df": 9}, r"there are no curves with df 9; there are \[4, 5, 6\]"),
    ],
)
def test_what_cannot_be_left_out(found, arguments, message):
    with pytest.raises(InputError, match=message) as caught:
        found.leave_out(**arguments)
    assert "\n" not in str(caught.value)


def test_unknown_genes(found):
    for ask in (found.curves, found.values, found.draws):
        with pytest.raises(InputError, match="there is no gene nobody"):
            ask(genes=["nobody"])


def test_save_and_load(found, tmp_path):
    found.save(tmp_path / "fit.npz")
    again = timecourse.load(tmp_path / "fit.npz")
    for name in TABLES:
        # To the last digit; an empty index has no type.
        pd.testing.assert_frame_equal(
            getattr(found, name), getattr(again, name), rtol=0, atol=0, check_index_type=False
        )
    assert again.settings == found.settings
    assert again.chosen == found.chosen
    assert again.seconds == found.seconds
    for df in (4, 5, 6):
        one, two = found.fit(df), again.fit(df)
        np.testing.assert_array_equal(one.found.sensitivity, two.found.sensitivity)
        assert one.found.clusters.certificate == two.found.clusters.certificate
        assert one.status == two.status
        pd.testing.assert_frame_equal(found.clusters(df), again.clusters(df), rtol=0, atol=0)
    pd.testing.assert_frame_equal(found.curves(), again.curves(), rtol=0, atol=0)
    pd.testing.assert_frame_equal(found.influence(), again.influence(), rtol=0, atol=0)
    left = [each.leave_out(times=[2.0], exact=True).mixture.vector() for each in (found, again)]
    np.testing.assert_array_equal(*left)
    again.save(tmp_path / "again.npz")
    third = timecourse.load(tmp_path / "again.npz")
    pd.testing.assert_frame_equal(third.clusters(), found.clusters(), rtol=0, atol=0)


def test_tiny_p_values_are_saved(tmp_path):
    """Some are 1e-30: decimals after the point would not do."""
    one = run(simulated(noise=(0.001, 0.1), genes=20, clusters=2), clusters=2)
    assert one.differential["p_value_time"].max() < 1e-20
    one.save(tmp_path / "fit.npz")
    again = timecourse.load(tmp_path / "fit.npz")
    np.testing.assert_array_equal(
        again.differential["p_value_time"], one.differential["p_value_time"]
    )


def test_what_is_no_saved_analysis(tmp_path):
    for content in (b"", b"text", b"PK"):
        (tmp_path / "no.npz").write_bytes(content)
        with pytest.raises(InputError, match=r"no\.npz holds no time-course analysis") as caught:
            timecourse.load(tmp_path / "no.npz")
        assert "\n" not in str(caught.value)
    np.savez(tmp_path / "other.npz", a=1)
    with pytest.raises(InputError, match=r"other\.npz holds no time-course analysis"):
        timecourse.load(tmp_path / "other.npz")
    with pytest.raises(InputError, match=r"absent\.npz holds no time-course analysis"):
        timecourse.load(tmp_path / "absent.npz")


def test_deterministic(adata):
    one, two = (run(adata, cv="both") for _ in range(2))
    pd.testing.assert_frame_equal(one.clusters(), two.clusters(), rtol=0, atol=0)
    pd.testing.assert_frame_equal(one.cv, two.cv, rtol=0, atol=0)
    other = run(adata, settings=Settings(starts=3, seed=9))
    assert set(other.starts["seed"]) == {9, 10, 11}


def test_going_on_from_an_earlier_optimum(adata, found):
    again = run(adata, df=(5, 6), cv="jackknife", test_genes=15, start=found)
    for df in (5, 6):
        one, two = (each.fit(df).found.clusters for each in (found, again))
        assert two.starts == ()
        assert two.objective <= one.objective + 1e-13
        assert two.certificate.steps <= 2
        np.testing.assert_allclose(one.mixture.vector(), two.mixture.vector(), atol=ROUNDING)
    # With another number, or curves of other columns, it is sought anew.
    assert len(run(adata, clusters=3, start=found).fit().found.clusters.starts) == 3
    late = Settings(starts=3, indicators=(10.0,))
    assert len(run(adata, settings=late, start=found).fit().found.clusters.starts) == 3


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


def test_missing_values_are_kept_out_of_their_genes(adata):
    given = adata.copy()
    rng = np.random.default_rng(0)
    given.X[rng.random(given.X.shape) < 0.1] = np.nan
    found = run(given, cv="both", df=(4, 5))
    assert found.chosen == 5
    assert same_clusters(found.clusters()["cluster"], adata.var["truth"]) > 0.95
    y = given.X[:, 11]
    there = np.isfinite(y)
    assert not np.all(there)
    one = found.fit()
    x = evaluate(one.basis, adata.obs["time"].to_numpy())
    beta = np.linalg.lstsq(x[there], y[there])[0]
    curve = found.curves(genes=["gene_12"]).query("kind == 'gene'")
    np.testing.assert_allclose(
        curve["mean"], evaluate(one.basis, curve["time"].to_numpy()) @ beta, atol=1e-9
    )


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


@pytest.fixture(scope="module")
def grouped():
    """Two groups; three genes in ten follow another curve in the second; a cluster is flat."""
    settings = datasets.Course(evenness=30.0)
    return simulated(
        genes=400, groups=2, differ=0.3, flat=True, seed=4, settings=settings, noise=(0.3, 0.3)
    )


@pytest.fixture(scope="module")
def by_group(grouped):
    return run(grouped, group="group", clusters=6, cv="jackknife", settings=Settings(starts=4))


def test_which_genes_change_and_differ(grouped, by_group):
    table = by_group.differential
    differs = grouped.var["differs"].to_numpy()
    assert np.all(grouped.uns["truth"]["curves"][-1] == 0)
    still = (grouped.var["truth"] == "cluster_4") & (grouped.var["cluster_group_2"] == "cluster_4")
    for name, truth in (("time", ~still), ("group", differs), ("shape", differs)):
        truth = np.asarray(truth)
        for kind in ("", "moderated_"):
            p = table[f"{kind}p_value_{name}"].to_numpy()
            called = table[f"{kind}p_adj_{name}"].to_numpy() < 0.05
            false = np.sum(called & ~truth)
            # Five standard deviations of the number of false discoveries beyond the rate asked for.
            assert false <= 0.05 * called.sum() + 5 * np.sqrt(0.05 * called.sum())
            assert called[truth].mean() > 0.9
            # P-values of genes without a difference are uniform: Kolmogorov's distance.
            null = np.sort(p[~truth])
            there = np.arange(1, len(null) + 1) / len(null)
            assert np.max(np.abs(there - null)) < 2 / np.sqrt(len(null))


def test_levels_of_groups_are_no_difference_of_shape(grouped):
    shifted = grouped.copy()
    shifted.X[shifted.obs["group"] == "group_2"] += 3.0
    found = run(shifted, group="group", settings=Settings(starts=1))
    before = run(grouped, group="group", settings=Settings(starts=1)).differential
    assert np.all(found.differential["p_value_group"] < 1e-3)
    for name in ("shape", "time"):
        np.testing.assert_allclose(
            found.differential[f"f_{name}"], before[f"f_{name}"], rtol=1e-8, atol=1e-10
        )


def test_curves_of_groups_and_their_difference(grouped, by_group):
    table = by_group.curves(genes=["gene_1"]).query("kind == 'gene'")
    assert list(table["group"].unique()) == ["group_1", "group_2", "group_2 - group_1"]
    one, two, difference = (own.set_index("time") for _, own in table.groupby("group", sort=False))
    np.testing.assert_allclose(difference["mean"], two["mean"] - one["mean"], atol=1e-10)
    # Groups have samples of their own: variances add.
    squared = [((own["upper"] - own["lower"]) ** 2).to_numpy() for own in (one, two, difference)]
    np.testing.assert_allclose(squared[2], squared[0] + squared[1], rtol=1e-8)
    # Each is the fit of its samples.
    for name, own in (("group_1", one), ("group_2", two)):
        rows = (grouped.obs["group"] == name).to_numpy()
        basis = by_group.fit().basis
        x = evaluate(basis, grouped.obs["time"].to_numpy()[rows])
        beta = np.linalg.lstsq(x, grouped.X[rows, 0])[0]
        np.testing.assert_allclose(
            own["mean"], evaluate(basis, own.index.to_numpy(float)) @ beta, atol=1e-9
        )
    # A time is left out with the samples of both.
    assert list(by_group.folds["left_out"]) == [f"{t}" for t in TIMES]
    assert set(by_group.members()["group"]) == {"group_1", "group_2"}


@pytest.fixture(scope="module")
def counted():
    """Counts; three genes without, or with few."""
    settings = datasets.Course(counts=datasets.Simulation(base_mean=(300.0, 1.0)))
    adata = simulated(
        genes=80, clusters=3, times=TIMES[:7], counts=True, flat=True, settings=settings
    )
    adata.X[:, 0] = 0
    adata.X[:, 1] = 0
    adata.X[4, 1] = 1
    return adata


@pytest.fixture(scope="module")
def from_counts(counted):
    return run(counted, counts=True, df=5, clusters=3, cv="both", test_genes=10)


def test_counts(counted, from_counts, tmp_path):
    table = from_counts.clusters()
    assert list(table["status"].iloc[:2]) == ["all_zero", "low_count"]
    ok = table["status"] == "ok"
    assert ok.sum() >= 75
    assert same_clusters(table["cluster"][ok], counted.var["truth"][ok]) > 0.9
    assert table.loc[~ok, "cluster"].isna().all()
    # Curves are log2 of normalised counts. Most genes change, so that size factors are off by what
    # they have in common at a time; but for that 95 % of intervals have the truth.
    table = from_counts.curves().query("kind == 'gene'")
    mean, lower, upper = (
        table.pivot(index="time", columns="name", values=name)
        for name in ("mean", "lower", "upper")
    )
    size = counted.obs["size_factor"].to_numpy()[:, None]
    truth = np.log2(counted.layers["mean"] / size)
    truth = pd.DataFrame(truth, counted.obs["time"].to_numpy(), counted.var_names)
    truth = truth.loc[~truth.index.duplicated(), mean.columns]
    shift = (mean.loc[truth.index] - truth).median(axis=1).to_numpy()[:, None]
    inside = (lower.loc[truth.index] - shift < truth) & (truth < upper.loc[truth.index] - shift)
    # Five standard errors of the shares of some 78 genes.
    assert inside.to_numpy().mean() == pytest.approx(0.95, abs=5 * np.sqrt(0.95 * 0.05 / 78))
    # Which genes change: those whose curves leave their mean by many standard errors.
    change = from_counts.differential["p_value_time"]
    assert np.isnan(change.iloc[0])
    away = ((mean - mean.mean()).abs() / (upper - mean)).max()
    assert stats.spearmanr(away, -np.log(change[away.index])).statistic > 0.8
    values = from_counts.values(["gene_9"])["value"]
    offset = from_counts.fit().stage.offset
    np.testing.assert_allclose(values, np.log2(counted.X[:, 8] / np.exp(offset) + 0.5))
    assert np.all(from_counts.cv[["train", "ij", "exact", "test"]] > 0)


def test_counts_saved_and_left_out(counted, from_counts, tmp_path):
    from_counts.save(tmp_path / "fit.npz")
    again = timecourse.load(tmp_path / "fit.npz")
    for name in TABLES:
        pd.testing.assert_frame_equal(
            getattr(from_counts, name), getattr(again, name), rtol=0, atol=0, check_index_type=False
        )
    pd.testing.assert_frame_equal(from_counts.clusters(), again.clusters(), rtol=0, atol=0)
    pd.testing.assert_frame_equal(from_counts.curves(), again.curves(), rtol=0, atol=0)
    pd.testing.assert_frame_equal(from_counts.influence(), again.influence(), rtol=0, atol=0)
    left = [
        each.leave_out(times=[3.0], exact=True).mixture.vector() for each in (from_counts, again)
    ]
    np.testing.assert_array_equal(*left)
    # A unit of natural curves is 1.44 of log2.
    one = from_counts.fit()
    without = from_counts.leave_out(samples=[counted.obs_names[5]])
    moved = (without.mixture.centroids - one.found.clusters.mixture.centroids) @ one.stage.frame.u.T
    shift = from_counts.influence().query("kind == 'sample'").set_index("left_out")["shift"]
    np.testing.assert_allclose(
        shift.loc[counted.obs_names[5]], np.sqrt(np.mean(moved**2, axis=1)) / np.log(2), rtol=1e-8
    )


def test_published_settings(data):
    """On the 500 genes, from 20 starts: no worse than where the published code ended."""
    folder = data / "reference"
    z = np.load(folder / "shoemaker500.df7.k10.npz")
    adata = anndata.AnnData(
        z["Y"].T, obs=pd.DataFrame({"time": z["t"]}, index=list(map(str, range(42))))
    )
    late = (72.0, 120.0, 168.0)
    settings = timecourse.PUBLISHED._replace(starts=20, indicators=late)
    found = tl.timecourse(adata, "time", df=7, clusters=10, cv="jackknife", settings=settings)
    one = found.fit()
    np.testing.assert_allclose(evaluate(one.basis, z["t"].astype(float)), z["X"], atol=1e-14)
    assert one.found.clusters.objective <= float(z["kl"])
    assert one.found.clusters.certificate.gradient_norm < 1e-8
    t = mx.terms(one.stage.observed(np.ones(42)))
    assert mx.value_gradient(one.found.clusters.mixture.vector(), t)[0] == pytest.approx(
        one.found.clusters.objective, rel=1e-12
    )
    # The mean absolute error of predictions without each of the first times; published, of
    # another optimum, .2029 to .2518.
    about = json.loads((folder / "shoemaker500.df7.k10.json").read_text())
    theirs = np.mean([each["mae_train"] for each in about["cv"] if each["lo"] == 1])
    first = found.folds[found.folds["left_out"].isin(["0", "3", "6", "9", "12", "18", "24"])]
    assert first["train"].mean() == pytest.approx(theirs, rel=0.02)
    assert len(found.starts) == 20


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
