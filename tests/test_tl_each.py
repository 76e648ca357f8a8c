import anndata
import numpy as np
import pandas as pd
import pytest

from expressway import datasets, io, tl
from expressway._errors import InputError

CONTRAST = ("condition", "treated", "control")


@pytest.fixture(scope="module")
def bulk() -> anndata.AnnData:
    """Samples of types B and T (as two simulations have them), and three of type NK."""
    parts = []
    for kind, seed, rows in (("T", 1, 8), ("B", 2, 8), ("NK", 3, 3)):
        part = datasets.simulate(genes=200, samples=8, seed=seed)[:rows]
        obs = part.obs[["condition"]].assign(cell_type=kind)
        obs.index = [f"{kind}{i}" for i in range(rows)]
        parts.append(anndata.AnnData(part.X, obs=obs, var=pd.DataFrame(index=part.var_names)))
    whole = anndata.concat(parts)
    whole.obs["cell_type"] = pd.Categorical(whole.obs["cell_type"], ["T", "NK", "B"])
    return whole


@pytest.fixture(scope="module")
def found(bulk) -> tl.Each:
    return tl.de_each(bulk, "cell_type", "~ condition", CONTRAST)


def test_each_group_is_an_analysis_of_its_own(bulk, found):
    for kind in ("B", "T"):
        own = bulk[bulk.obs["cell_type"] == kind].copy()
        table = tl.de(own, "~ condition", CONTRAST)
        part = found.results[found.results["cell_type"] == kind].drop(columns="cell_type")
        pd.testing.assert_frame_equal(part, table)  # the same numbers to the bit
        row = found.groups.loc[kind]
        called = table["p_adj"] < 0.1
        assert row["samples"] == 8
        assert row["tested"] == table["p_adj"].notna().sum()
        assert row["up"] + row["down"] == called.sum() > 0
        assert row["why"] == ""


def test_a_group_that_cannot_be_analysed_stops_no_other(bulk, found):
    assert list(found.groups.index) == ["T", "NK", "B"]
    assert "condition has only one level" in found.groups.loc["NK", "why"]
    assert found.groups.loc["NK", ["samples", "tested", "up", "down"]].tolist() == [3, 0, 0, 0]
    assert found.results["cell_type"].unique().tolist() == ["T", "B"]
    assert len(found.results) == 400


def test_results_are_stored_and_saved(bulk, found, tmp_path):
    bulk.write_h5ad(tmp_path / "bulk.h5ad")
    stored = anndata.read_h5ad(tmp_path / "bulk.h5ad").uns["de_each"]
    pd.testing.assert_frame_equal(stored["results"], found.results)
    pd.testing.assert_frame_equal(stored["groups"], found.groups)
    io.write_table(found.results, tmp_path / "results.parquet")
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "results.parquet"), found.results)


def test_options_go_to_de(bulk):
    settings = tl.Settings(independent_filtering=False, alpha=0.05)
    two = bulk[bulk.obs["cell_type"] != "B"].copy()
    two.layers["raw"] = two.X.copy()
    two.X = np.log1p(two.X)
    other = tl.de_each(
        two, "cell_type", "~ condition", CONTRAST, key="own", layer="raw", settings=settings
    )
    own = bulk[bulk.obs["cell_type"] == "T"].copy()
    table = tl.de(own, "~ condition", CONTRAST, settings=settings)
    pd.testing.assert_frame_equal(other.results.drop(columns="cell_type"), table)
    assert two.uns["own"]["by"] == "cell_type"


def test_mistakes_are_one_line(bulk):
    spoilt = bulk.copy()
    spoilt.obs.loc["B1", "cell_type"] = np.nan
    for adata, by, design, message in (
        (bulk, "type", "~ condition", "there is no column 'type' in obs"),
        (spoilt, "cell_type", "~ condition", "sample B1 has no value in 'cell_type'"),
        (bulk, "cell_type", "~ dose", "none of the 3 groups of cell_type can be analysed; of T: "),
    ):
        with pytest.raises(InputError, match=message) as caught:
            tl.de_each(adata, by, design)
        assert "\n" not in str(caught.value)
