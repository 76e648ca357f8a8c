import numpy as np
import pandas as pd
import pytest

from expressway import datasets, get, io, tl


@pytest.fixture(scope="module")
def fitted():
    adata = datasets.simulate(genes=200, samples=8, batches=2, seed=3)
    adata.X[:, 7] = 0
    tl.de(adata, "~ batch + condition", ("condition", "treated", "control"))
    return adata


def test_samples_have_size_factors_and_library_sizes(fitted):
    table = get.samples(fitted)
    assert list(table.columns) == ["size_factor", "library_size"]
    assert list(table.index) == list(fitted.obs_names)
    assert list(table["library_size"]) == list(fitted.X.sum(axis=1))
    # Median of ratios of these counts against the factors they were drawn with.
    assert np.corrcoef(table["size_factor"], fitted.obs["size_factor"])[0, 1] > 0.9


def test_genes_have_dispersions_and_coefficients(fitted):
    table, results = get.genes(fitted), get.de(fitted)
    for shared in ("base_mean", "dispersion"):
        pd.testing.assert_series_equal(table[shared], results[shared])
    names = ["Intercept", "batch[T.batch_2]", "condition[T.treated]"]
    assert list(table.columns[-6:]) == [
        f"{kind}:{name}" for name in names for kind in ("log2", "se")
    ]
    # Units are changed in another order of multiplications.
    for column, result in (("log2", "log2_fold_change"), ("se", "lfc_se")):
        np.testing.assert_allclose(
            table[f"{column}:condition[T.treated]"], results[result], rtol=1e-12
        )
    kept = ~table["dispersion_outlier"] & table["dispersion"].notna()
    assert (table["dispersion"] == table["dispersion_map"])[kept].all()


def test_a_gene_without_counts_has_nothing(fitted):
    row, result = get.genes(fitted).loc["gene_8"], get.de(fitted).loc["gene_8"]
    assert row["base_mean"] == 0
    assert row[["dispersion", "max_cooks", "log2:Intercept"]].isna().all()
    assert pd.isna(row["coefficients_status"])
    assert pd.isna(row["dispersion_status"])
    assert result["status"] == "all_zero"
    assert pd.isna(result["p_value"])


@pytest.mark.parametrize("part", [get.de, get.genes, get.samples])
def test_tables_are_copies(part, fitted):
    table = part(fitted)
    table.iloc[:, 0] = 0
    assert not part(fitted).equals(table)


@pytest.mark.parametrize("part", [get.de, get.genes, get.samples])
def test_a_key_without_analysis_is_refused(part, fitted):
    with pytest.raises(io.InputError, match="'other'; run"):
        part(fitted, key="other")
