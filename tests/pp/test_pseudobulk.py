import logging
import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from expressway import pp
from expressway._errors import InputError
from expressway.io import load

DONORS, TYPES = ["d1", "d2", "d3"], ["T", "B", "NK"]


@pytest.fixture
def cells() -> anndata.AnnData:
    """300 cells of three donors and three types, in no order; of one group there are two."""
    rng = np.random.default_rng(1)
    donor, kind = rng.integers(3, size=300), rng.integers(3, size=300)
    few = np.flatnonzero((donor == 2) & (kind == 2))
    kind[few[2:]] = 0
    obs = pd.DataFrame(
        {
            "donor": np.array(DONORS)[donor],
            "cell_type": pd.Categorical(np.array(TYPES)[kind], [*TYPES, "none"]),
            "dose": np.array([0.5, np.nan, 2.0])[donor],
            "condition": pd.Categorical(np.array(["low", "high", "low"])[donor], ["low", "high"]),
            "quality": rng.random(300),
        },
        index=[f"cell{i}" for i in range(300)],
    )
    counts = rng.poisson(0.4, (300, 20)).astype(np.int32)
    var = pd.DataFrame({"symbol": [f"s{i}" for i in range(20)]}, index=[f"g{i}" for i in range(20)])
    return anndata.AnnData(counts, obs=obs, var=var)


def dense(cells: anndata.AnnData, donor: str, kind: str) -> np.ndarray:
    """Sums of a group, by hand."""
    rows = (cells.obs["donor"] == donor) & (cells.obs["cell_type"] == kind)
    return np.asarray(cells.X)[rows.to_numpy()].sum(axis=0)


def test_counts_of_groups_are_added_up(cells, caplog):
    with caplog.at_level(logging.WARNING):
        found = pp.pseudobulk(cells, ["donor", "cell_type"])
    # Types as their categories stand, donors as a design orders texts.
    pairs = [(d, t) for d in DONORS for t in TYPES if (d, t) != ("d3", "NK")]
    assert list(found.obs_names) == [f"{d}_{t}" for d, t in pairs]
    np.testing.assert_array_equal(found.X, [dense(cells, d, t) for d, t in pairs])
    assert found.X.dtype == np.int64
    assert list(found.obs.columns) == ["donor", "cell_type", "dose", "condition", "cells"]
    assert list(found.obs["cell_type"].cat.categories) == TYPES
    assert found.obs["dose"].tolist()[:3] == [0.5, 0.5, 0.5]
    assert found.obs["dose"].isna().sum() == 3
    assert list(found.obs["condition"].cat.categories) == ["low", "high"]
    assert found.obs["cells"].sum() == 298
    pd.testing.assert_frame_equal(found.var, cells.var)
    left_out = found.uns["pseudobulk"]["left_out"]
    assert left_out.index.tolist() == ["d3_NK"]
    assert left_out["cells"].tolist() == [2]
    assert left_out["counts"].tolist() == [dense(cells, "d3", "NK").sum()]
    assert caplog.messages == ["left out, with fewer than 10 cells: d3_NK"]


def test_all_cells_of_one_column(cells):
    found = pp.pseudobulk(cells, "donor", min_cells=1)
    np.testing.assert_array_equal(found.X.sum(axis=0), cells.X.sum(axis=0))
    assert list(found.obs.columns) == ["donor", "dose", "condition", "cells"]
    # Order of cells is of no account.
    order = np.random.default_rng(2).permutation(300)
    again = pp.pseudobulk(cells[order], "donor", min_cells=1)
    np.testing.assert_array_equal(again.X, found.X)
    pd.testing.assert_frame_equal(again.obs, found.obs)


@pytest.mark.parametrize("kind", ["csr", "csc", "float", "h5ad", "csc.h5ad", "dense.h5ad", "zarr"])
def test_counts_of_every_form_give_the_same(cells, kind, tmp_path, monkeypatch):
    expected = pp.pseudobulk(cells, ["donor", "cell_type"])
    monkeypatch.setattr(load, "_PART", 500)  # many parts
    x = np.asarray(cells.X)
    if kind == "float":
        cells.X = x.astype(np.float32)
    elif kind.startswith("csc"):
        cells.X = sp.csc_matrix(x)
    elif not kind.startswith("dense"):
        cells.X = sp.csr_matrix(x)
    if kind.endswith("h5ad"):
        cells.write_h5ad(tmp_path / "cells.h5ad")
        cells = anndata.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    elif kind == "zarr":
        with warnings.catch_warnings(action="ignore"):  # of defaults to come
            cells.write_zarr(tmp_path / "cells.zarr")
        group = zarr.open_group(tmp_path / "cells.zarr", mode="r")
        cells = anndata.AnnData(anndata.io.sparse_dataset(group["X"]), cells.obs, cells.var)
    found = pp.pseudobulk(cells, ["donor", "cell_type"])
    np.testing.assert_array_equal(found.X, expected.X)
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    if kind.endswith("h5ad"):
        cells.file.close()


def test_a_layer_and_few_counts(cells):
    cells.layers["counts"] = sp.csr_matrix(np.asarray(cells.X))
    cells.X = np.log1p(cells.X)
    least = int(dense_total(cells, "d1"))
    found = pp.pseudobulk(cells, "donor", layer="counts", min_counts=least)
    expected = [name for name in DONORS if dense_total(cells, name) >= least]
    assert found.obs_names.tolist() == expected
    assert found.uns["pseudobulk"]["min_counts"] == least


def dense_total(cells: anndata.AnnData, donor: str) -> float:
    return cells.layers["counts"][(cells.obs["donor"] == donor).to_numpy()].sum()


def test_it_goes_through_h5ad(cells, tmp_path):
    found = pp.pseudobulk(cells, ["donor", "cell_type"])
    found.write_h5ad(tmp_path / "bulk.h5ad")
    again = anndata.read_h5ad(tmp_path / "bulk.h5ad")
    np.testing.assert_array_equal(again.X, found.X)
    pd.testing.assert_frame_equal(again.obs, found.obs)
    own, other = (a.uns["pseudobulk"]["left_out"] for a in (found, again))
    pd.testing.assert_frame_equal(other, own)


def test_names_tell_groups_apart():
    obs = pd.DataFrame({"a": ["x_y", "x"], "b": ["z", "y_z"]}, index=["1", "2"])
    cells = anndata.AnnData(np.ones((2, 3), dtype=int), obs=obs)
    found = pp.pseudobulk(cells, ["a", "b"], min_cells=1)
    assert found.obs_names.tolist() == ["x | y_z", "x_y | z"]


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        (None, {"by": "donors"}, "there is no column 'donors' in obs; the columns are donor, "),
        (None, {"by": ["donor", "donor"]}, "by must name one column of obs or several, each once"),
        (None, {"by": "cells"}, "by names the column cells"),
        (None, {"by": "donor", "min_cells": 0}, "min_cells must be 1 or more, but is 0"),
        (None, {"by": "donor", "min_counts": -1}, "min_counts must be 0 or more"),
        (None, {"by": "donor", "min_cells": 999}, "none of the 3 groups of donor has 999 cells"),
        (None, {"by": "donor", "layer": "raw"}, "there is no layer 'raw'; the layers are none"),
        ("label", {"by": "donor"}, "cell cell3 has no value in 'donor' \\(1 such\\)"),
        ("half", {"by": "donor"}, "gene g1, sample cell2: count 0.5 is not a whole number"),
        ("negative", {"by": "donor"}, "gene g1, sample cell2: count -1.0 is negative"),
        ("large", {"by": "donor"}, r"count 1e\+17 is above 2\^53 and not exact"),
        ("gene", {"by": "donor"}, "gene g1 appears more than once"),
        ("empty", {"by": "donor"}, "adata.X is NoneType"),
    ],
)
def test_mistakes_are_one_line(cells, change, arguments, message):
    if change == "label":
        cells.obs.loc["cell3", "donor"] = None
    elif change == "gene":
        cells.var_names = ["g1", *cells.var_names[1:]]
    elif change == "empty":
        cells = anndata.AnnData(obs=cells.obs, var=cells.var)
    elif change is not None:
        x = np.asarray(cells.X).astype(float)
        x[2, 1] = {"half": 0.5, "negative": -1.0, "large": 1e17}[change]
        cells.X = x
    with pytest.raises(InputError, match=message) as caught:
        pp.pseudobulk(cells, **arguments)
    assert "\n" not in str(caught.value)
