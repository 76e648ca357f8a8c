import anndata
import numpy as np
import pytest
from formulaic.transforms import basis_spline

from expressway import datasets

TIMES = (0, 1, 2, 4, 8, 16)


def course(**changed) -> anndata.AnnData:
    return datasets.simulate_timecourse(**{"genes": 40, "clusters": 4, "times": TIMES, **changed})


def curves(adata: anndata.AnnData, column: str = "cluster") -> np.ndarray:
    """True curve of each gene's cluster, times x genes."""
    return adata.uns["truth"]["curves"][adata.var[column].cat.codes].T


def changes(adata: anndata.AnnData, group: str = "group_1") -> np.ndarray:
    """log2 expectation without the level at each time, one replicate, times x genes."""
    one = adata[(adata.obs["replicate"] == 1) & (adata.obs["group"] == group)]
    mean = one.layers["mean"]
    if "size_factor" in adata.obs:
        mean = np.log2(mean / one.obs["size_factor"].to_numpy()[:, None])
    return mean - adata.var["level"].to_numpy()


def by_time(adata: anndata.AnnData, values: np.ndarray) -> np.ndarray:
    """The values of group, time, replicate, gene."""
    return values.reshape(adata.obs["group"].nunique(), len(TIMES), -1, adata.n_vars)


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_means_and_variances_are_those_of_the_truth(counts, spread):
    adata = course(replicates=1500, counts=counts, spread=spread, groups=2, seed=1)
    mean, var = adata.layers["mean"], adata.var
    variance = var["noise_sd"].to_numpy() ** 2 if not counts else mean
    if counts:
        variance = mean + var["dispersion"].to_numpy() * mean**2
    pearson = by_time(adata, (adata.X - mean) / np.sqrt(variance))
    z = pearson.mean(axis=2) * np.sqrt(1500)
    # 480 means of replicates: a normal z-score beyond 5 has probability 3e-4.
    assert np.abs(z).max() < 5
    # Counts are skewed where they are small: variances are taken over all samples of a gene.
    square = pearson.reshape(-1, adata.n_vars) ** 2
    z = (square.mean(axis=0) - 1) / (square.std(axis=0) / np.sqrt(len(square)))
    assert np.abs(z).max() < 5


@pytest.mark.parametrize("counts", [False, True])
def test_genes_follow_the_curve_of_their_cluster(counts):
    adata = course(counts=counts, groups=2, differ=0.3)
    # Rounding of exp2 and log2 of means up to 1e5, and of levels to 16.
    np.testing.assert_allclose(changes(adata), curves(adata), atol=1e-12)
    second = curves(adata, "cluster_group_2")
    np.testing.assert_allclose(changes(adata, "group_2"), second, atol=1e-12)
    differs = (adata.var["cluster"].cat.codes != adata.var["cluster_group_2"].cat.codes).to_numpy()
    np.testing.assert_array_equal(adata.var["differs"], differs)
    assert differs.sum() == 12


def test_curves_are_splines_of_the_swing_asked_for():
    settings = datasets.Course(swing=(2.0, 2.5))
    times = np.linspace(-3, 9, 30)
    adata = course(times=times, df=7, clusters=6, settings=settings)
    found = adata.uns["truth"]["curves"]
    assert found.shape == (6, 30)
    swing = np.ptp(found, axis=1)
    assert swing.min() >= 2 - 1e-12  # rounding
    assert swing.max() <= 2.5 + 1e-12
    assert len(np.unique(swing)) == 6
    assert np.abs(found.mean(axis=1)).max() < 1e-14  # rounding
    # formulaic's basis with knots at equal distances; of one column less, it does not do.
    for df, fits in ((7, True), (6, False)):
        knots = np.linspace(-3, 9, df - 2)[1:-1]
        basis = basis_spline(times, knots=list(knots), include_intercept=True, _state={})
        basis = np.column_stack(list(basis.values()))
        assert basis.shape[1] == df
        left = found.T - basis @ np.linalg.lstsq(basis, found.T)[0]
        # Rounding, times a condition number of some tens.
        assert (np.abs(left).max() < 1e-12) == fits


def test_deviations_within_clusters():
    spread = 0.4
    adata = course(genes=20_000, spread=spread, times=np.arange(9.0), df=5, seed=2)
    deviation = changes(adata) - curves(adata)
    assert np.abs(deviation.mean(axis=0)).max() < 1e-12  # rounding
    basis = basis_spline(np.arange(9.0), knots=[4.0], include_intercept=True, _state={})
    basis = np.column_stack(list(basis.values()))
    basis = basis - basis.mean(axis=0)
    covariance = spread**2 * basis @ basis.T
    sd = np.sqrt(np.diag(covariance))
    # An entry of the covariance of n genes has a standard error of at most sd sd' sqrt(2 / n).
    error = 5 * np.outer(sd, sd) * np.sqrt(2 / 20_000)
    assert (np.abs(np.cov(deviation) - covariance) < error).all()
    both = course(spread=spread, groups=2, differ=0.0)
    np.testing.assert_array_equal(changes(both), changes(both, "group_2"))


def test_samples_and_their_order():
    adata = course(replicates=2, groups=2, times=[5, 0, 2.5])
    assert list(adata.obs["time"]) == [5, 5, 0, 0, 2.5, 2.5] * 2
    assert list(adata.obs["replicate"]) == [1, 2] * 6
    assert list(adata.obs["group"]) == ["group_1"] * 6 + ["group_2"] * 6
    assert list(adata.uns["truth"]["times"]) == [5, 0, 2.5]
    assert adata.uns["truth"]["df"] == 6
    assert set(course().obs["group"]) == {"group_1"}


def test_every_cluster_has_a_gene_and_sizes_differ():
    few = course(genes=4, clusters=4).var["cluster"]
    assert sorted(few) == [f"cluster_{k}" for k in range(1, 5)]
    cluster = course(genes=1000, clusters=8).var["cluster"]
    assert len(set(cluster[:50])) > 4  # at random, not one after the other
    sizes = cluster.value_counts()
    assert sizes.min() < 80 < 180 < sizes.max()
    even = datasets.Course(evenness=1e6)
    sizes = course(genes=100_000, clusters=2, settings=even).var["cluster"].value_counts()
    # Five standard errors of a fair coin's heads.
    assert abs(sizes.iloc[0] - 50_000) < 5 * np.sqrt(100_000 / 4)


def test_a_flat_cluster():
    flat, other = course(flat=True).uns["truth"]["curves"], course().uns["truth"]["curves"]
    assert (flat[-1] == 0).all()
    np.testing.assert_array_equal(flat[:-1], other[:-1])


def test_levels_and_noise_follow_the_settings():
    settings = datasets.Course(level=(6.0, 1.5))
    n = 20_000
    var = course(genes=n, times=[0, 1], noise=(0.3, 0.8), settings=settings).var
    for value, centre, sd in (
        (var["level"], 6.0, 1.5),
        (np.log(var["noise_sd"]), np.log(0.3), 0.8),
    ):
        # Within five standard errors of a normal sample's mean and sd.
        assert value.mean() == pytest.approx(centre, abs=5 * sd / np.sqrt(n))
        assert value.std() == pytest.approx(sd, abs=5 * sd / np.sqrt(2 * n))


def test_counts():
    settings = datasets.Course(counts=datasets.Simulation(base_mean=(50.0, 1.0)))
    adata = course(genes=20_000, counts=True, groups=2, settings=settings)
    assert adata.X.dtype == np.int64
    assert adata.X.min() >= 0
    assert np.log(adata.obs["size_factor"]).mean() == pytest.approx(0, abs=1e-14)  # rounding
    normalised = adata.layers["mean"] / adata.obs["size_factor"].to_numpy()[:, None]
    # Rounding of exp and log only.
    np.testing.assert_allclose(normalised.mean(axis=0), adata.var["base_mean"], rtol=1e-12)
    # Five standard errors of the mean of 20,000 normal numbers of sd 1.
    centre = np.log(adata.var["base_mean"]).mean()
    assert centre == pytest.approx(np.log(50), abs=5 / np.sqrt(20_000))


@pytest.mark.parametrize("counts", [False, True])
def test_same_seed_same_data(counts):
    first, again, other = (course(seed=s, counts=counts, groups=2) for s in (7, 7, 8))
    np.testing.assert_array_equal(first.X, again.X)
    assert first.var.equals(again.var)
    assert first.obs.equals(again.obs)
    np.testing.assert_array_equal(first.uns["truth"]["curves"], again.uns["truth"]["curves"])
    assert (first.X != other.X).any()


def test_clusters_and_curves_do_not_depend_on_what_is_measured():
    first = course(spread=0.2)
    for changed in ({"counts": True}, {"replicates": 7}, {"noise": (0.0, 0.0)}):
        again = course(spread=0.2, **changed)
        assert first.var["cluster"].equals(again.var["cluster"])
        # Rounding of exp2 and log2 of means up to 1e5, and of levels to 16.
        np.testing.assert_allclose(changes(again), changes(first), atol=1e-12)
    np.testing.assert_array_equal(again.X, again.layers["mean"])


def test_writes_to_h5ad(tmp_path):
    adata = course(groups=2)
    adata.write_h5ad(tmp_path / "course.h5ad")
    again = anndata.read_h5ad(tmp_path / "course.h5ad")
    np.testing.assert_array_equal(again.X, adata.X)
    assert again.uns["truth"]["df"] == 6
    np.testing.assert_array_equal(curves(again), curves(adata))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clusters": 0}, "clusters is 0; it must lie between 1 and inf"),
        ({"clusters": 1, "groups": 2}, "clusters is 1; it must lie between 2 and inf"),
        ({"genes": 3}, "genes is 3; it must lie between 4 and inf"),
        ({"replicates": 0}, "replicates is 0"),
        ({"df": 3}, "df is 3; it must lie between 4 and inf"),
        ({"groups": 3}, "groups is 3; it must lie between 1 and 2"),
        ({"differ": 1.5}, "differ is 1.5; it must lie between 0 and 1"),
        ({"noise": (-0.1, 0.5)}, "the median of noise is -0.1"),
        ({"noise": (0.1, np.nan)}, "the sd of noise is nan"),
        ({"spread": -1.0}, "spread is -1.0"),
        ({"times": [3]}, "times are 3; they must be two or more different finite numbers"),
        ({"times": []}, "times are none; they"),
        ({"times": [0, 3, 3]}, "times are 0, 3, 3; they must be"),
        ({"times": [0, np.inf]}, "times are 0.0, inf; they must be"),
    ],
)
def test_refuses_what_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        course(**arguments)
    assert "\n" not in str(caught.value)


def test_one_cluster():
    adata = course(clusters=1, groups=2, differ=0.0)
    assert set(adata.var["cluster"]) == {"cluster_1"}
    assert not adata.var["differs"].any()
