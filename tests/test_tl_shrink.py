"""Shrunken fold changes of a stored analysis, and across sites: the same numbers, rounds stated."""

import anndata
import numpy as np
import pandas as pd
import pytest

from expressway import datasets, federated, get, io, tl

CLOSE = 1e-10
# Both starts of all genes, the last step's certificate; at most 40 evaluations of a hard gene.
ROUNDS = {"apeglm": 30, "normal": 60}


@pytest.fixture(scope="module")
def pooled() -> anndata.AnnData:
    adata = datasets.simulate(genes=200, samples=8, seed=1)
    treated = (adata.obs["condition"] == "treated").to_numpy()
    adata.X[:, 3] = np.where(treated, 30, 0)
    adata.X[:, 5] = 0
    tl.de(adata, "~ condition", settings=tl.Settings(keep_if_larger=False))
    return adata


@pytest.fixture(scope="module")
def run(pooled) -> federated.Run:
    order = np.random.default_rng(0).permutation(8)
    sites = {f"site {k}": _raw(pooled)[part] for k, part in enumerate(np.split(order, [2, 5]))}
    return federated.simulate(sites, "~ condition", rules=federated.Rules(min_samples=1))


def _raw(adata: anndata.AnnData) -> anndata.AnnData:
    return anndata.AnnData(adata.X, obs=adata.obs, var=adata.var)


@pytest.mark.parametrize("kind", ["apeglm", "normal"])
def test_federated_is_pooled(pooled, run, kind):
    one = tl.shrink(pooled, kind=kind)
    other = federated.shrink(run, kind=kind)
    pd.testing.assert_frame_equal(get.shrunken(run.adata), other)
    assert list(one["status"]) == list(other["status"])
    se = one["posterior_sd"]
    for name in ("log2_fold_change", "posterior_sd", "lfc_se", "lower", "upper", "lfsr"):
        a, b = one[name].to_numpy(), other[name].to_numpy()
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        # Sums in another order; the last step is of 1e-7 standard errors.
        assert np.nanmax(np.abs(a - b) / (np.abs(a) + se)) <= CLOSE
    assert 0 < run.ledger.rounds.pop("shrinkage") <= ROUNDS[kind]


def test_table(pooled):
    table = tl.shrink(pooled, lfc_threshold=0.5, interval=0.8)
    pd.testing.assert_frame_equal(get.shrunken(pooled), table)
    assert pooled.uns["de"]["shrunken"]["contrast"] == "condition treated vs control"
    mle = get.de(pooled)
    pd.testing.assert_series_equal(
        table["log2_fold_change_mle"], mle["log2_fold_change"], check_names=False
    )
    assert np.isnan(table["log2_fold_change"].iloc[5])
    assert list(table["status"].iloc[[3, 5]]) == ["separated", "all_zero"]
    assert set(table["status"]) <= {"ok", "separated", "all_zero", "outlier", "at_bound"}
    some = table["log2_fold_change"].notna()
    smaller = table["log2_fold_change"].abs() <= table["log2_fold_change_mle"].abs() + 1e-9
    assert np.mean(smaller[some]) > 0.98
    assert (table["lfsr"] <= table["s_value"].max())[some].any()


def test_written_and_read_back(pooled, tmp_path):
    table = tl.shrink(pooled, kind="normal")
    pooled.write_h5ad(tmp_path / "a.h5ad")
    back = anndata.read_h5ad(tmp_path / "a.h5ad")
    read = get.shrunken(back)
    np.testing.assert_array_equal(read["s_value"], table["s_value"])
    again = tl.shrink(back, kind="normal")
    np.testing.assert_allclose(again["log2_fold_change"], table["log2_fold_change"], rtol=1e-12)


def test_nothing_shrunken_yet(pooled):
    adata = pooled.copy()
    adata.varm.pop("de_shrunken", None)
    with pytest.raises(io.InputError, match=r"tl\.shrink first"):
        get.shrunken(adata)
    with pytest.raises(io.InputError, match="intercept"):
        tl.shrink(pooled, "Intercept", kind="normal")
