from pathlib import Path

import anndata
import formulaic
import numpy as np
import pytest

from expressway import datasets


def model(adata: anndata.AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Means and variances that the truth implies, samples x genes."""
    formula = "~ batch + condition" if "batch" in adata.obs else "~ condition"
    x = formulaic.model_matrix(formula, adata.obs)
    beta = adata.varm["beta"]
    assert list(x.columns) == list(beta.columns)
    size_factor = adata.obs["size_factor"].to_numpy()[:, None]
    mean = size_factor * np.exp(x.to_numpy(dtype=float) @ beta.to_numpy().T)
    return mean, mean + adata.var["dispersion"].to_numpy() * mean**2


@pytest.mark.parametrize("batches", [1, 3])
def test_counts_have_the_means_and_variances_of_the_truth(batches):
    adata = datasets.simulate(50, 6000, seed=1, de_fraction=0.5, batches=batches)
    mean, variance = model(adata)
    pearson = (adata.X - mean) / np.sqrt(variance)
    n = adata.n_obs
    # 50 genes: a z-score beyond 5 has probability 3e-5.
    assert np.abs(pearson.mean(axis=0) * np.sqrt(n)).max() < 5
    square = pearson**2
    z = (square.mean(axis=0) - 1) / (square.std(axis=0) / np.sqrt(n))
    assert np.abs(z).max() < 5


def test_base_mean_is_the_expected_mean_of_normalised_counts():
    adata = datasets.simulate(200, 11, seed=2, de_fraction=0.5, batches=2)
    mean, _ = model(adata)
    normalised = mean / adata.obs["size_factor"].to_numpy()[:, None]
    # Rounding of exp and log only.
    np.testing.assert_allclose(normalised.mean(axis=0), adata.var["base_mean"], rtol=1e-12)


def test_truth_is_consistent():
    adata = datasets.simulate(2000, 12, de_fraction=0.1, batches=2, outliers=30)
    var = adata.var
    assert var["is_de"].sum() == 200
    assert var["outlier"].sum() == 30
    np.testing.assert_array_equal(var["log2_fold_change"] != 0, var["is_de"])
    change = adata.varm["beta"]["condition[T.treated]"] / np.log(2)
    np.testing.assert_allclose(change, var["log2_fold_change"], rtol=1e-14)  # one rounding
    assert np.log(adata.obs["size_factor"]).mean() == pytest.approx(0, abs=1e-14)
    assert list(adata.obs["condition"].cat.categories) == ["control", "treated"]
    assert (adata.obs.groupby(["condition", "batch"], observed=True).size() == 3).all()
    assert adata.X.dtype.kind == "i"
    assert adata.X.min() >= 0


def test_distributions_follow_the_settings():
    settings = datasets.Simulation(
        base_mean=(50.0, 1.5), effect_sd=2.0, dispersion=(0.1, 3.0), dispersion_sd=0.3
    )
    var = datasets.simulate(20_000, 4, seed=3, de_fraction=0.5, settings=settings).var
    trend = 0.1 + 3.0 / var["base_mean"]
    for value, centre, sd in (
        (np.log(var["base_mean"]), np.log(50), 1.5),
        (np.log(var["dispersion"] / trend), 0.0, 0.3),
        (var.loc[var["is_de"], "log2_fold_change"], 0.0, 2.0),
    ):
        # Within five standard errors of a normal sample's mean and sd.
        assert value.mean() == pytest.approx(centre, abs=5 * sd / np.sqrt(len(value)))
        assert value.std() == pytest.approx(sd, abs=5 * sd / np.sqrt(2 * len(value)))


def test_same_seed_same_data():
    first, again, other = (datasets.simulate(300, 6, seed=s, outliers=5) for s in (7, 7, 8))
    np.testing.assert_array_equal(first.X, again.X)
    assert first.var.equals(again.var)
    assert first.obs.equals(again.obs)
    assert (first.X != other.X).any()


def test_an_outlier_is_one_count_of_its_gene():
    clean = datasets.simulate(300, 8, seed=4)
    spoilt = datasets.simulate(300, 8, seed=4, outliers=20)
    changed = clean.X != spoilt.X
    np.testing.assert_array_equal(changed.sum(axis=0), spoilt.var["outlier"])
    np.testing.assert_array_equal(spoilt.X[changed], 100 * np.maximum(clean.X[changed], 1))


def test_writes_to_h5ad(tmp_path):
    adata = datasets.simulate(20, 4, batches=2)
    adata.write_h5ad(tmp_path / "simulated.h5ad")
    again = anndata.read_h5ad(tmp_path / "simulated.h5ad")
    np.testing.assert_array_equal(again.X, adata.X)
    np.testing.assert_array_equal(again.varm["beta"], adata.varm["beta"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"genes": 0}, "genes is 0"),
        ({"samples": 1}, "samples is 1"),
        ({"de_fraction": 1.5}, "de_fraction is 1.5; it must lie between 0 and 1"),
        ({"samples": 6, "batches": 4}, "batches is 4; it must lie between 1 and 3"),
        ({"genes": 10, "outliers": 11}, "outliers is 11"),
    ],
)
def test_refuses_what_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        datasets.simulate(**arguments)


def test_data_folder(tmp_path, monkeypatch):
    work, shared = tmp_path / "project", tmp_path / "shared" / "data"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.delenv("EXPRESSWAY_DATA", raising=False)
    assert datasets.data_folder() is None
    shared.mkdir(parents=True)
    assert datasets.data_folder() == shared.resolve()
    monkeypatch.setenv("EXPRESSWAY_DATA", str(work))
    assert datasets.data_folder() == work.resolve()
    monkeypatch.setenv("EXPRESSWAY_DATA", str(Path("absent")))
    assert datasets.data_folder() == shared.resolve()
