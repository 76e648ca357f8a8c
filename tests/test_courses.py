"""The result of a time-course analysis, on data whose truth is known."""

import json

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import stats

from expressway import timecourse, tl
from expressway._errors import InputError
from expressway.models import mixture as mx
from expressway.models.spline import evaluate
from expressway.timecourse import Settings
from simulated_course import ROUNDING, TABLES, run, same_clusters, simulated


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
