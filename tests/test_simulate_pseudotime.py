import anndata
import numpy as np
import pytest
from scipy.stats import nbinom

from expressway import datasets
from expressway.datasets import pseudotime

NAMES = ("level", "basis[1]", "basis[2]", "basis[3]", "log_dispersion")


def simulated(**changed) -> anndata.AnnData:
    return datasets.simulate_pseudotime(**{"genes": 60, "cells": 80, **changed})


def values(adata: anndata.AnnData, kind: str = "true") -> np.ndarray:
    return adata.var[[f"{kind}_{name}" for name in NAMES]].to_numpy()


def means(adata: anndata.AnnData) -> np.ndarray:
    size = adata.obs["size_factor"].to_numpy()[:, None]
    return size * np.exp(adata.obsm["design"] @ values(adata)[:, :-1].T)


def test_means_and_variances_are_those_of_the_truth():
    adata = simulated(genes=20, cells=20_000, seed=1)
    mean, alpha = means(adata), np.exp(values(adata)[:, -1])
    pearson = (adata.X - mean) / np.sqrt(mean + alpha * mean**2)
    z = pearson.mean(axis=0) * np.sqrt(20_000)
    # A z-score beyond 5 among 20 has probability 1e-5.
    assert np.abs(z).max() < 5
    square = pearson**2
    z = (square.mean(axis=0) - 1) / (square.std(axis=0) / np.sqrt(20_000))
    assert np.abs(z).max() < 5


def test_the_design_is_orthonormal_and_spans_the_radial_functions():
    adata = simulated()
    x, time = adata.obsm["design"], adata.obs["pseudotime"].to_numpy()
    # Rounding of a QR decomposition of condition number 450.
    np.testing.assert_allclose(x.T @ x / 80, np.eye(4), atol=1e-13)
    np.testing.assert_allclose(x[:, 0], 1, rtol=1e-13)
    assert (time.min(), time.max()) == (0, 1)
    for k, center in enumerate((0.1, 0.4, 0.7), 1):
        bump = np.exp(-((time - center) ** 2) / (2 * 0.5**2))
        left = bump - x[:, : k + 1] @ (x[:, : k + 1].T @ bump) / 80
        assert np.abs(left).max() < 1e-13
        assert x[:, k] @ bump > 0
    other = simulated(settings=datasets.Pseudotime(centers=(0.5,)), clusters=(2, 2, 2))
    assert other.obsm["design"].shape == (80, 2)
    assert [c for c in other.var if c.startswith("true")] == [
        "true_level",
        "true_basis[1]",
        "true_log_dispersion",
    ]


def test_clusters_are_the_distance_apart_that_was_asked_for():
    adata = simulated(clusters=(3, 4, 1, 2, 2), separation=4.5, within=0.25)
    truth = adata.uns["truth"]
    assert list(truth) == list(NAMES)
    for name, k in zip(NAMES, (3, 4, 1, 2, 2), strict=True):
        one = truth[name]
        assert len(one["mean"]) == len(one["sd"]) == len(one["weight"]) == k
        step = np.diff(np.sort(one["mean"])) / one["standard_error"]
        np.testing.assert_allclose(step, 4.5, rtol=1e-12)  # rounding
        np.testing.assert_allclose(one["sd"], 0.25 * one["standard_error"], rtol=1e-12)
    assert all(truth[name]["mean"][0] == 0 for name in NAMES[1:-1])
    assert np.ptp(truth["level"]["mean"]) > 0
    # Rounding.
    assert np.mean([*truth["level"]["mean"]]) == pytest.approx(np.log(5), rel=1e-12)
    assert np.mean(truth["log_dispersion"]["mean"]) == pytest.approx(np.log(0.5), rel=1e-12)


def test_values_lie_about_the_mean_of_their_cluster():
    adata = simulated(genes=30_000, cells=20, separation=2.0, within=0.4)
    label = values(adata, "label").astype(int)
    for name, z, x in zip(NAMES, label.T, values(adata).T, strict=True):
        one = adata.uns["truth"][name]
        away = (x - one["mean"][z - 1]) / one["sd"][z - 1]
        for j in np.unique(z):
            # Five standard errors of the mean and sd of at least 10,000 normal numbers.
            assert abs(away[z == j].mean()) < 0.05
            assert abs(away[z == j].std() - 1) < 5 / np.sqrt(2e4)
    # Independent between coordinates: a correlation of n pairs has standard error n^-1/2.
    off = np.corrcoef(label.T) - np.eye(len(NAMES))
    assert np.abs(off).max() < 5 / np.sqrt(30_000)


def test_standard_errors_are_the_median_of_expected_information():
    adata = simulated(genes=31, cells=40, separation=3.0, seed=3)
    truth, label = adata.uns["truth"], values(adata, "label").astype(int)
    at = np.column_stack([truth[n]["mean"][z - 1] for n, z in zip(NAMES, label.T, strict=True)])
    size = adata.obs["size_factor"].to_numpy()
    x, errors, of_dispersion = adata.obsm["design"], [], []
    for b in at:
        mu, r = size * np.exp(x @ b[:-1]), np.exp(-b[-1])
        y = np.arange(nbinom.ppf(1 - 1e-12, r, r / (r + mu.max())))[:, None]
        # Minus the second derivative of log p in log alpha, averaged, is the score's square.
        upto = np.cumsum(1 / (r + y), axis=0) - 1 / (r + y)
        score = r * (np.log1p(mu / r) - upto) + (y - mu) / (1 + mu / r)
        of_dispersion.append(np.sum(nbinom.pmf(y, r, r / (r + mu)) * score**2))
        info = (x.T * (mu / (1 + mu / r))) @ x
        errors.append(np.sqrt(np.diag(np.linalg.inv(info))))
    expected = [*np.median(errors, axis=0), np.median(of_dispersion) ** -0.5]
    found = [truth[name]["standard_error"] for name in NAMES]
    # Rounds stop at 1e-9; the table between whose nodes information is interpolated is right to
    # a thousandth or so.
    np.testing.assert_allclose(found[:-1], expected[:-1], rtol=1e-7)
    np.testing.assert_allclose(found[-1], expected[-1], rtol=2e-3)


def test_estimates_scatter_as_the_standard_errors_say():
    # One cluster of everything, without spread: the score has the information as its variance.
    adata = simulated(genes=4000, cells=50, clusters=(1,) * 5, within=0.0)
    beta, alpha = values(adata)[0, :-1], np.exp(values(adata)[0, -1])
    x, mean = adata.obsm["design"], means(adata)
    score = ((adata.X - mean) / (1 + alpha * mean)).T @ x
    covariance = np.linalg.inv(np.cov(score.T))
    found = [adata.uns["truth"][name]["standard_error"] for name in NAMES[:-1]]
    # Five standard errors of an sd of 4,000 numbers.
    np.testing.assert_allclose(np.sqrt(np.diag(covariance)), found, rtol=5 / np.sqrt(8000))
    assert (beta[1:] == 0).all()


def test_sizes():
    even = simulated(clusters=(3, 4, 6, 1, 7), separation=1.0)
    for name, k in zip(NAMES, (3, 4, 6, 1, 7), strict=True):
        size = np.bincount(even.var[f"label_{name}"])[1:]
        assert len(size) == k
        assert np.ptp(size) <= 1
        np.testing.assert_allclose(even.uns["truth"][name]["weight"], size / 60, rtol=1e-15)
    uneven = simulated(genes=6000, sizes="uneven", clusters=(3, 1, 2, 1, 1))
    # 6, 3, 2 of 11 and 2, 1 of 3, to a gene or two.
    np.testing.assert_allclose(
        np.bincount(uneven.var["label_level"])[1:], [3273, 1636, 1091], atol=2
    )
    np.testing.assert_allclose(np.bincount(uneven.var["label_basis[2]"])[1:], [4000, 2000], atol=2)
    few = simulated(genes=5, sizes="uneven", clusters=(5, 1, 1, 1, 1))
    assert sorted(few.var["label_level"]) == [1, 2, 3, 4, 5]


def test_settings():
    settings = datasets.Pseudotime(mean=20.0, dispersion=0.1, size_sd=0.0)
    adata = simulated(settings=settings, clusters=(1,) * 5, within=0.0)
    assert (adata.obs["size_factor"] == 1).all()
    np.testing.assert_allclose(values(adata)[:, 0], np.log(20), rtol=1e-14)
    np.testing.assert_allclose(values(adata)[:, -1], np.log(0.1), rtol=1e-14)
    wide = simulated(settings=datasets.Pseudotime(level_step=1.5), separation=4.0)
    truth = wide.uns["truth"]
    # Rounding.
    np.testing.assert_allclose(np.exp(truth["level"]["mean"][0]), 5, rtol=1e-12)
    np.testing.assert_allclose(np.diff(np.sort(truth["level"]["mean"])), 1.5, rtol=1e-12)
    one = truth["basis[1]"]
    np.testing.assert_allclose(one["mean"][1], 4 * one["standard_error"], rtol=1e-12)
    size = np.log(simulated(cells=10_000, genes=10).obs["size_factor"])
    assert size.mean() == pytest.approx(0, abs=1e-14)  # rounding
    # Five standard errors of an sd of 10,000 numbers.
    assert size.std() == pytest.approx(0.2, abs=0.2 * 5 / np.sqrt(2e4))


def test_same_seed_same_data():
    first, again, other = (simulated(seed=s) for s in (7, 7, 8))
    np.testing.assert_array_equal(first.X, again.X)
    assert first.X.dtype == np.int64
    assert first.var.equals(again.var)
    assert first.obs.equals(again.obs)
    assert (first.X != other.X).any()


def test_writes_to_h5ad(tmp_path):
    adata = simulated()
    adata.write_h5ad(tmp_path / "cells.h5ad")
    again = anndata.read_h5ad(tmp_path / "cells.h5ad")
    np.testing.assert_array_equal(again.X, adata.X)
    for name in NAMES:
        assert again.uns["truth"][name].keys() == adata.uns["truth"][name].keys()
    np.testing.assert_array_equal(values(again), values(adata))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"clusters": (3, 3)}, "clusters are 3, 3; give 5 numbers: of level, 3 of the basis"),
        ({"clusters": (3, 3, 0, 2, 2)}, "the least number of clusters is 0; it must lie between 1"),
        ({"genes": 2}, "genes is 2; it must lie between 3 and inf"),
        ({"cells": 4}, "cells is 4; it must lie between 5 and inf"),
        ({"separation": -1.0}, "separation is -1.0"),
        ({"within": np.nan}, "within is nan"),
        ({"settings": datasets.Pseudotime(mean=0.0)}, "mean is 0.0"),
        ({"settings": datasets.Pseudotime(level_step=-1.0)}, "level_step is -1.0"),
        ({"settings": datasets.Pseudotime(length=-1.0)}, "length is -1.0"),
        ({"separation": 60.0, "cells": 20}, "clusters that are 60.0 standard errors apart do not"),
    ],
)
def test_refuses_what_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        simulated(**arguments)
    assert "\n" not in str(caught.value)


def test_refuses_other_sizes():
    with pytest.raises(ValueError, match="sizes is 'odd'; it must be 'equal' or 'uneven'"):
        pseudotime._check(10, 10, (1,) * 5, 1.0, 1.0, "odd", datasets.Pseudotime())


def test_two_programs():
    adata = datasets.two_programs(seed=3)
    assert adata.shape == (200, 40)
    assert adata.X.dtype == np.int64
    assert list(adata.var["program"]) == ["up"] * 20 + ["down"] * 20
    time = adata.obs["pseudotime"].to_numpy()
    mean = adata.layers["mean"]
    np.testing.assert_array_equal(time, np.linspace(0, 1, 200))
    # Coefficients in the orthonormal basis of the fit, to the digits they are known to.
    beta = pseudotime._orthonormal(time, datasets.Pseudotime()).T @ np.log(mean) / 200
    np.testing.assert_allclose(beta[:, 0], [3.63, -0.75, 0.24, 0], atol=0.006)
    np.testing.assert_allclose(beta[:, -1], [0.83, 0.78, -0.28, 0], atol=0.006)
    np.testing.assert_allclose(adata.var["dispersion"].iloc[[0, -1]], [1 / 23.7, 1 / 3.7])
    variance = mean + adata.var["dispersion"].to_numpy() * mean**2
    pearson = (adata.X - mean) / np.sqrt(variance)
    # 8,000 numbers of mean 0 and variance 1.
    assert abs(pearson.mean()) < 5 / np.sqrt(8000)
    assert abs((pearson**2).mean() - 1) < 5 * (pearson**2).std() / np.sqrt(8000)
    np.testing.assert_array_equal(datasets.two_programs(seed=3).X, adata.X)
    odd = datasets.two_programs(genes=3, times=5)
    assert list(odd.var["program"]) == ["up", "up", "down"]
    with pytest.raises(ValueError, match="times is 1; it must lie between 2 and inf"):
        datasets.two_programs(times=1)
