"""Tests of nested designs as a user has them: of an AnnData and across sites."""

import anndata
import numpy as np
import pandas as pd
import pytest

from expressway import datasets, federated, get, io, tl
from expressway.models import deseq
from expressway.models.multiple_testing import benjamini_hochberg

TESTS = {"lrt": (tl.lrt, federated.lrt), "ql": (tl.ql, federated.ql)}
# Round trips of all genes together, at most.
ROUNDS = {"lrt": 30, "ql": 60}


@pytest.fixture(scope="module")
def adata():
    adata = datasets.simulate(genes=200, samples=8, seed=1)
    adata.X[:4, :3] = 0  # one condition has no counts
    adata.X[:, 3] = 0
    tl.de(adata, "~ condition", settings=tl.Settings(keep_if_larger=False))
    return adata


@pytest.fixture(scope="module")
def run(adata):
    order = np.random.default_rng(5).permutation(8)
    sites = {f"site {k}": adata[part].copy() for k, part in enumerate(np.split(order, 2))}
    return federated.simulate(sites, "~ condition", rules=federated.Rules(min_samples=1))


@pytest.mark.parametrize("kind", TESTS)
def test_a_table(kind, adata, tmp_path):
    pooled = adata.copy()
    before = get.de(pooled)
    table = TESTS[kind][0](pooled, "~ 1")
    pd.testing.assert_frame_equal(get.de(pooled), table)
    assert list(table.columns) == list(before.columns)
    for column in ("base_mean", "log2_fold_change", "lfc_se", "dispersion"):
        np.testing.assert_array_equal(table[column], before[column])
    said = pooled.uns["de"]["test"]
    assert said["kind"] == kind
    assert said["reduced"] == "~ 1"
    known = table["p_adj"].notna()
    np.testing.assert_allclose(
        table["p_adj"][known], benjamini_hochberg(table["p_value"][known].to_numpy()), rtol=1e-12
    )
    # Tests of one hypothesis agree on most genes; rank correlation of p-values.
    assert table["p_value"].corr(before["p_value"], method="spearman") > 0.9
    # The hypothesis of the last coefficient is the same one.
    pd.testing.assert_frame_equal(TESTS[kind][0](pooled), table)
    pooled.write_h5ad(tmp_path / "a.h5ad")
    again = anndata.read_h5ad(tmp_path / "a.h5ad")
    assert again.uns["de"]["test"]["kind"] == kind
    some = again[:, :50].copy()
    if kind == "lrt":  # genes are independent, but for a prior of theirs
        few = tl.lrt(some, "~ 1")
        np.testing.assert_array_equal(few["stat"], table["stat"][:50])
    else:
        numbers = again.varm["de_quasi"]
        f = table["stat"] * numbers["variance"]
        assert np.all(f[numbers["df_residual"] == 6] > -1e-9)
        assert list(numbers.index) == list(table.index)
        assert np.isinf(said["df_prior"]) or said["df_prior"] > 0
    # Wald's test takes its place again, and says so.
    tl.contrast(pooled)
    pd.testing.assert_frame_equal(get.de(pooled), before)
    assert pooled.uns["de"]["test"] == {"kind": "wald"}
    tl.de(pooled, "~ condition")
    assert "de_quasi" not in pooled.varm


def test_statuses(adata):
    """Separated genes keep their word; without counts there is no test."""
    for test in (tl.lrt, tl.ql):
        table = test(adata.copy(), contrast=("condition", "treated", "control"))
        assert list(table["status"][:4]) == ["separated"] * 3 + ["all_zero"]
        assert np.isnan(table["p_value"].iloc[3])
        assert np.all(table["p_value"][:3] < 0.05)


def test_genes_without_counts_in_the_contrast_keep_the_p_value_of_the_test():
    adata = datasets.simulate(genes=60, samples=12, batches=3, seed=2)
    batch = adata.obs["batch"].astype(str).to_numpy()
    levels = sorted(set(batch))
    adata.X[np.isin(batch, levels[:2]), 0] = 0
    adata.X[batch == levels[2], 0] = [20, 30, 25, 40]
    tl.de(adata, "~ batch", ("batch", levels[1], levels[0]))
    wald = get.de(adata)
    assert wald.iloc[0][["log2_fold_change", "stat", "p_value"]].tolist() == [0, 0, 1]
    table = tl.lrt(adata, "~ 1", ("batch", levels[1], levels[0]))
    assert list(table["status"][:1]) == ["no_counts"]
    assert table["log2_fold_change"].iloc[0] == 0
    # DESeq2 R/results.R, cleanContrast: the reduced design's p-value stays.
    assert table["p_value"].iloc[0] < 1e-6


@pytest.mark.parametrize("kind", TESTS)
def test_sites(kind, adata, run):
    one = TESTS[kind][0](adata.copy(), "~ 1")
    before = run.rounds
    several = TESTS[kind][1](run, "~ 1")
    assert list(several["status"]) == list(one["status"])
    # What test_federated.py asks of estimates, and of p-values.
    for column in ("log2_fold_change", "lfc_se", "stat"):
        np.testing.assert_allclose(several[column], one[column], rtol=1e-10, atol=1e-10)
    for column in ("p_value", "p_adj"):
        np.testing.assert_allclose(np.log(several[column]), np.log(one[column]), atol=1e-9)
    stage = {"lrt": "likelihood-ratio test", "ql": "quasi-likelihood test"}[kind]
    rounds = run.ledger.rounds[stage]
    assert rounds == run.rounds - before <= ROUNDS[kind]
    pd.testing.assert_frame_equal(run.table, several)
    assert run.adata.uns["de"]["test"]["kind"] == kind
    left = run.disclosure
    assert set(left["statistic"][left["stage"] == stage]) <= {
        "moments",
        "deviance",
        "level",
        "likelihood",
        "zeros",
        "rest",
        "large",
        "sides",
        "narrow",
    }
    with pytest.raises(io.InputError, match="samples of the analysis 'de' are not here"):
        TESTS[kind][0](run.adata, "~ 1")


def test_refusals_are_one_line(adata, run):
    for fn, of in ((tl.lrt, adata), (federated.ql, run)):
        for reduced in ("~ condition", "~ batch", "~ 0"):
            with pytest.raises(io.InputError) as caught:
                fn(of, reduced)
            assert "\n" not in str(caught.value)
    with pytest.raises(io.InputError, match=r"run expressway\.tl\.de first"):
        tl.ql(anndata.AnnData(np.ones((2, 2))))


def test_settings_hold(adata):
    """Adjustment is that of the fit's settings."""
    other = adata.copy()
    settings = deseq.Settings(independent_filtering=False, keep_if_larger=False)
    tl.de(other, "~ condition", settings=settings)
    table = tl.lrt(other)
    assert not (table["status"] == "low_count").any()
