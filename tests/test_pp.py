"""Transformed counts as layers, and fitted transformations applied to other samples."""

import pickle

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from expressway import datasets, io, pp
from expressway.models import rlog
from expressway.models.deseq import Settings

# The same function of the same counts: rounding.
SAME = {"rtol": 1e-12, "atol": 1e-13}


@pytest.fixture(scope="module")
def data() -> anndata.AnnData:
    return datasets.simulate(genes=200, samples=8, batches=2, seed=3)


@pytest.fixture(scope="module")
def fitted(data) -> tuple[anndata.AnnData, dict[str, pp.Transform]]:
    """All kinds, blind."""
    adata = data.copy()
    found = {"vst": pp.vst(adata), "rlog": pp.rlog(adata), "normalised": pp.normalise(adata)}
    found["log"] = pp.normalise(adata, log=True)
    found["local"] = pp.vst(adata, trend="local", to="local")
    return adata, found


def test_layers_hold_transformed_counts(data, fitted):
    adata, found = fitted
    assert set(adata.layers) == {"vst", "rlog", "normalised", "log", "local"}
    np.testing.assert_array_equal(adata.X, data.X)
    q = adata.layers["normalised"]
    np.testing.assert_allclose(adata.layers["log"], np.log2(q + 1), **SAME)
    large = q > 2000
    assert np.any(large)
    for name in ("vst", "local", "rlog"):
        # About log2 by definition of the scale; rlog's effects and vst's last few counts are less.
        assert np.median(np.abs(adata.layers[name] - np.log2(q + 1e-9))[large]) < 0.2
    # It does what it is for: means and standard deviations go together much less.
    level, spread = (f(np.log2(q + 1), axis=0) for f in (np.mean, np.std))
    of_vst = np.std(adata.layers["vst"], axis=0)
    some = level > 1
    before = np.corrcoef(level[some], spread[some])[0, 1]
    assert abs(np.corrcoef(level[some], of_vst[some])[0, 1]) < abs(before)
    assert found["vst"].design is None


@pytest.mark.parametrize("name", ["vst", "local", "normalised", "log"])
def test_applied_to_its_own_samples_it_gives_their_values(fitted, name):
    adata, found = fitted
    other = anndata.AnnData(adata.X.copy(), obs=adata.obs.copy(), var=adata.var.copy())
    value = found[name].apply(other, to="again")
    np.testing.assert_allclose(value, adata.layers[name], **SAME)
    assert other.layers["again"] is value


@pytest.mark.parametrize("name", ["vst", "local", "rlog", "normalised", "log"])
def test_a_sample_s_values_depend_on_no_other_sample(fitted, name):
    adata, found = fitted
    fit = found[name]
    turned = adata[:, ::-1]  # genes are matched by name
    whole = fit.apply(turned.copy())[:, ::-1]
    alone = fit.apply(adata[5].copy())
    if name == "rlog":
        # Its iteration stops when a gene's deviance over all samples rests: see models.rlog.
        np.testing.assert_allclose(alone[0], whole[5], atol=0.1)
    else:
        np.testing.assert_allclose(alone[0], whole[5], **SAME)
    # Twice as deep, the same sample.
    deep = adata[5].copy()
    deep.X = 2 * deep.X
    if name in ("normalised", "vst"):
        np.testing.assert_allclose(fit.apply(deep), alone, **SAME)


def test_rlog_of_its_own_samples_is_near(fitted, monkeypatch):
    adata, found = fitted
    again = found["rlog"].apply(adata.copy())
    # Both stop before they converge.
    assert np.mean(np.abs(again - adata.layers["rlog"]) < 0.05) > 0.98
    # Converged, they are the same but for the ridge on intercepts.
    monkeypatch.setattr(rlog, "TOLERANCE", 1e-14)
    other = adata.copy()
    fit = pp.rlog(other)
    np.testing.assert_allclose(fit.apply(adata.copy()), other.layers["rlog"], atol=1e-4)


@pytest.mark.parametrize("name", ["vst", "local", "rlog", "log"])
def test_it_survives_a_file_and_a_pickle(fitted, name, tmp_path):
    adata, found = fitted
    wanted = found[name].apply(adata.copy())
    found[name].save(tmp_path / "fitted.json")
    for one in (
        pp.load_transform(tmp_path / "fitted.json"),
        pickle.loads(pickle.dumps(found[name])),
    ):
        assert one.kind == found[name].kind
        np.testing.assert_array_equal(one.apply(adata.copy()), wanted)
    with pytest.raises(AttributeError):
        found[name].kind = "other"


def test_sparse_counts_layers_designs_and_settings(data, fitted):
    adata, found = fitted
    other = anndata.AnnData(obs=data.obs.copy(), var=data.var.copy())
    other.layers["raw"] = sp.csr_matrix(data.X)
    pp.vst(other, layer="raw")
    np.testing.assert_allclose(other.layers["vst"], adata.layers["vst"], **SAME)
    pp.rlog(other, layer="raw")
    np.testing.assert_allclose(other.layers["rlog"], adata.layers["rlog"], **SAME)
    of_design = pp.vst(other, "~ batch + condition", layer="raw", to="seeing")
    # What differs between groups is no dispersion: the transformation shrinks less.
    assert of_design.of.trend.asymptotic < found["vst"].of.trend.asymptotic
    settings = Settings(size_factors="poscounts", trend="mean")
    assert pp.vst(other, layer="raw", settings=settings).of.trend.kind == "mean"
    # A trend of one's own: that of the blind fit, tabulated, stabilises like it.
    own = pp.vst(other, layer="raw", trend=found["vst"].of.trend.at, to="own")
    assert own.of.trend.kind == "given"
    exact, ours = adata.layers["vst"], other.layers["own"]
    slope, shift = np.polyfit(exact.ravel(), ours.ravel(), 1)
    # DESeq2's trapezoidal rule begins at .012, where the integrand is like q^-1/2.
    np.testing.assert_allclose(ours, slope * exact + shift, atol=0.05)


def test_genes_without_counts(data):
    adata = data.copy()
    adata.X[:, [0, 7]] = 0
    pp.rlog(adata)
    assert np.all(adata.layers["rlog"][:, [0, 7]] == 0)
    of = pp.vst(adata).of
    np.testing.assert_allclose(adata.layers["vst"][:, [0, 7]], of.at(np.zeros(1))[0], **SAME)


def test_one_line_says_what_is_wrong(data, fitted, tmp_path):
    adata, found = fitted
    few = adata[:, 3:].copy()
    names = ", ".join(adata.var_names[:3])
    with pytest.raises(io.InputError, match=f"3 of 200 genes .* are missing: {names}; give"):
        found["vst"].apply(few)
    new = data[:, :1].copy()
    new.var_names = ["new"]
    more = anndata.concat([data, new], axis=1)
    assert found["vst"].apply(more).shape == (8, 201)
    with pytest.raises(io.InputError, match="rlog was not fitted to 1 of these genes: new; take"):
        found["rlog"].apply(more)
    more.var_names = [*data.var_names, data.var_names[0]]
    with pytest.raises(io.InputError, match="occurs twice"):
        found["vst"].apply(more)
    with pytest.raises(io.InputError, match="one sample says nothing of dispersions"):
        pp.vst(data[:1].copy())
    with pytest.raises(io.InputError, match="trend must be one of parametric, local, mean, given"):
        pp.vst(data.copy(), trend="loess")
    path = tmp_path / "other.json"
    path.write_text("{}")
    with pytest.raises(io.InputError, match="holds no fitted transformation"):
        pp.load_transform(path)
    with pytest.raises(io.InputError, match="cannot be read"):
        pp.load_transform(tmp_path / "missing.json")


def test_rlog_doubts_counts_in_single_samples(data, caplog):
    adata = data.copy()
    adata.X[:, :60] = 0
    adata.X[2, :60] = 500
    pp.rlog(adata)
    assert "a single sample has 90 % of the counts" in caplog.text
    assert isinstance(adata.layers["rlog"], np.ndarray)
    assert pd.notna(adata.layers["rlog"]).all()
