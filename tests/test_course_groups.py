"""Time courses of groups, and of counts."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from expressway import datasets, timecourse
from expressway.models.spline import evaluate
from expressway.timecourse import Settings
from simulated_course import TABLES, TIMES, run, same_clusters, simulated


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
