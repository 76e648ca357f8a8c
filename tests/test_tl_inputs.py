"""Inputs by name: of an AnnData, of files, of sites."""

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from expressway import _rows, _store, federated, get, io, tl
from expressway.models import deseq

DESIGN = "~ condition"
INPUTS = tl.Inputs(control_genes="control", offsets="length", precision="weight")


@pytest.fixture(scope="module")
def data(reference):
    """Two groups of ten samples, some with replaced outliers, and all that a user may bring."""
    case = reference("replicates")
    obs = pd.DataFrame(case["sample_table"]).set_index(pd.Index(case["samples"]))
    adata = anndata.AnnData(np.array(case["counts"]).T, obs=obs[["condition"]].copy())
    adata.var_names = case["genes"]
    rng = np.random.default_rng(3)
    adata.layers["length"] = rng.uniform(500, 4000, adata.n_vars) * rng.uniform(
        0.7, 1.4, adata.shape
    )
    w = np.where(rng.random(adata.shape) < 0.2, rng.uniform(0, 1, adata.shape), 1.0)
    w[rng.random(adata.shape) < 0.1] = 0
    w[adata.obs["condition"] == "B", 30] = 0
    w[0, w.max(axis=0) < 1] = 1
    adata.layers["weight"] = w
    adata.var["control"] = np.arange(adata.n_vars) % 3 == 0
    adata.obs["size"] = np.linspace(0.6, 1.7, adata.n_obs)
    return adata


@pytest.fixture(scope="module")
def fitted(data):
    """The AnnData with an analysis of all of it."""
    adata = data.copy()
    tl.de(adata, DESIGN, inputs=INPUTS, settings=tl.Settings(keep_if_larger=False))
    return adata


def test_a_stored_analysis_finds_its_rows_again(fitted, tmp_path):
    fitted.write_h5ad(tmp_path / "a.h5ad")
    read = anndata.read_h5ad(tmp_path / "a.h5ad")
    fit, origin = _store.load_fit(read, "de")
    assert origin.inputs == INPUTS
    assert fit.weighted
    assert fit.settings.size_factors == "ratio"
    sizes = _store.log_sizes(read, "de")
    cohort = _rows.cohort(read, origin.coded, None, sizes, origin.inputs)
    rows = cohort.rows
    w, length = read.layers["weight"], np.log(read.layers["length"])
    np.testing.assert_allclose(rows.precision, w / w.max(axis=0), rtol=1e-15)
    np.testing.assert_allclose(np.mean(rows.offset, axis=0), 0, atol=1e-14)
    # The same size factor for all genes, after the matrix.
    left = rows.offset - (length - length.mean(axis=0))
    np.testing.assert_allclose(left, np.tile(sizes[:, None], (1, read.n_vars)), atol=1e-14)
    # The rows give the base means that were stored: they are those that were fitted.
    mean = np.mean(rows.precision * np.asarray(rows.y) * np.exp(-rows.offset), axis=0)
    kept = ~fit.replaced
    np.testing.assert_allclose(fit.gene.base_mean[kept], mean[kept], rtol=1e-12)
    counts = get.samples(read)
    np.testing.assert_allclose(np.log(counts["size_factor"]), sizes)


def test_genes_without_a_full_design_say_so(fitted, caplog):
    table = get.de(fitted)
    assert table["status"].iloc[30] == "weights"
    assert np.isnan(table["p_value"].iloc[30])
    assert table["base_mean"].iloc[30] > 0
    assert "status weights" in " ".join(fitted.uns["de"]["warnings"])
    again = tl.contrast(fitted, ("condition", "A", "B"))
    assert again["status"].iloc[30] == "weights"


def test_influence_and_intervals_use_them(fitted):
    found = tl.influence(fitted)
    none = fitted.layers["weight"] == 0
    change = found.layers["log2_fold_change"]
    assert np.all(np.abs(change[none & np.isfinite(change)]) < 1e-9)
    assert np.nanmax(np.abs(change)) > 0.1
    hessian = tl.intervals(fitted, kind="hessian", draws=20)
    fisher = tl.intervals(fitted, kind="fisher", draws=20)
    width = (hessian["upper"] - hessian["lower"]) / (fisher["upper"] - fisher["lower"])
    # With the rows that were fitted the two informations are near each other in most genes.
    assert 0.8 < np.nanmedian(width) < 1.2
    with pytest.raises(io.InputError, match="ask for the conditional influence"):
        tl.influence(fitted, kind="pipeline")


def test_weights_matter_up_to_a_factor_of_each_gene(data, fitted):
    adata = data.copy()
    adata.layers["weight"] = sp.csr_matrix(data.layers["weight"] * np.linspace(0.1, 7, data.n_vars))
    settings = tl.Settings(keep_if_larger=False)
    table = tl.de(adata, DESIGN, inputs=INPUTS, settings=settings)
    pd.testing.assert_frame_equal(
        table, get.de(_tested(fitted)), check_exact=False, rtol=1e-8, check_categorical=False
    )


def _tested(adata: anndata.AnnData) -> anndata.AnnData:
    """The first contrast again."""
    tl.contrast(adata)
    return adata


def test_sites_find_the_same(data, fitted):
    order = np.random.default_rng(5).permutation(data.n_obs)
    sites = {f"site {k}": data[order[k::2]].copy() for k in range(2)}
    for site in sites.values():
        site.layers["weight"] = np.array(site.layers["weight"])
    run = federated.simulate(sites, DESIGN, inputs=INPUTS)
    one, other = get.de(_tested(fitted)), run.table
    assert list(one["status"]) == list(other["status"])
    for name in ("base_mean", "log2_fold_change", "lfc_se", "dispersion"):
        scale = np.abs(one[name]) + (one["lfc_se"] if name == "log2_fold_change" else 0)
        difference = np.abs(one[name] - other[name])
        # Sums in another order, solved to the last digits: as in test_federated.
        assert np.all((difference <= 1e-10 * scale) | one[name].isna()), name
    log_p = np.log(one["p_value"]) - np.log(other["p_value"])
    assert np.nanmax(np.abs(log_p)) < 1e-9
    assert run.rounds < 110  # 100 without what is brought (test_federated)
    sites["site 1"].var["control"] = False
    sites["site 1"].var.iloc[5, 0] = True
    with pytest.raises(io.InputError, match=r"differ in whether gene .* is a control gene"):
        federated.simulate(sites, DESIGN, inputs=INPUTS)
    some = INPUTS._replace(control_genes=None)
    for site in sites.values():
        site.layers["weight"] *= 0.5
    with pytest.raises(io.InputError, match=r"is not 1 .* over all samples"):
        federated.simulate(sites, DESIGN, inputs=some)


def _with(data: anndata.AnnData, layer: str, value: float) -> anndata.AnnData:
    adata = data.copy()
    adata.layers[layer][4, 7] = value
    return adata


@pytest.mark.parametrize(
    ("layer", "value", "message"),
    [
        ("length", 0.0, r"adata.layers\['length'\]: gene g008, sample \w+: 0 \(1 such\).*above 0"),
        ("length", np.inf, "finite and above 0"),
        ("weight", -1.0, "gene g008, .*: -1 .* finite and 0 or more"),
        ("weight", np.nan, "gene g008, .*: nan"),
    ],
)
def test_values_that_cannot_be_are_refused(layer, value, message, data):
    adata = _with(data, layer, value)
    with pytest.raises(io.InputError, match=message):
        tl.de(adata, DESIGN, inputs=INPUTS)
    assert "de" not in adata.uns


@pytest.mark.parametrize(
    ("inputs", "settings", "message"),
    [
        ({"offsets": "no"}, {}, "no layer 'no'; its layers are length, weight"),
        ({"precision": "no"}, {}, "no layer 'no'"),
        ({"size_factors": "no"}, {}, "obs has no column 'no'"),
        ({"size_factors": "condition"}, {}, "size factor of sample .* is 'A'"),
        ({"control_genes": "no"}, {}, "var has no column 'no'"),
        ({"control_genes": "number"}, {}, "must be true for control genes"),
        ({"control_genes": "none"}, {}, "names no control gene"),
        ({"size_factors": "size", "control_genes": "control"}, {}, "control genes have no use"),
        ({"size_factors": "size"}, {"size_factors": "iterate"}, "give one of the two"),
        ({}, {"size_factors": "given"}, "no column is named"),
        ({"offsets": "length"}, {"size_factors": "iterate"}, "take no 'length'"),
    ],
)
def test_what_does_not_go_together_is_refused(inputs, settings, message, data):
    adata = data.copy()
    adata.var["number"], adata.var["none"] = np.arange(adata.n_vars), False
    with pytest.raises(io.InputError, match=message):
        tl.check(adata, DESIGN, inputs=tl.Inputs(**inputs), settings=tl.Settings(**settings))


def test_given_size_factors_are_kept(data):
    adata = data.copy()
    tl.de(adata, DESIGN, inputs=tl.Inputs(size_factors="size"))
    np.testing.assert_allclose(get.samples(adata)["size_factor"], adata.obs["size"], rtol=1e-14)
    assert _store.load_fit(adata, "de")[0].settings.size_factors == "given"


def test_weights_with_a_wide_design_are_refused():
    rng = np.random.default_rng(1)
    coded = io.design(
        "~ 0 + donor", pd.DataFrame({"donor": np.repeat([f"d{i:02}" for i in range(40)], 3)})
    )
    rows = deseq.samples(rng.poisson(9, (120, 30)), coded.matrix)
    rows = rows._replace(precision=np.ones((120, 30)))
    cells = deseq.Groups(np.arange(40), np.full(40, 3))
    with pytest.raises(io.InputError, match="observation weights need a dense design"):
        deseq.fit(deseq.Pooled(rows), cells, given=deseq.Given(weighted=True))


def test_layers_and_genes_of_files(data, tmp_path):
    frame = pd.DataFrame(data.layers["length"].T, index=data.var_names, columns=data.obs_names)
    shuffled = frame.sample(frac=1, random_state=1).sample(frac=1, axis=1, random_state=2)
    shuffled.loc["another"] = 1.0
    shuffled.to_csv(tmp_path / "a.tsv", sep="\t")
    shuffled.T.to_csv(tmp_path / "b.csv.gz")
    for name in ("a.tsv", "b.csv.gz"):
        # The parser's last digit.
        found = io.read_layer(tmp_path / name, data)
        np.testing.assert_allclose(found, data.layers["length"], rtol=1e-15)
    shuffled.drop(index="g003").to_csv(tmp_path / "c.csv")
    with pytest.raises(io.InputError, match=r"1 of the 117 genes are not in it \(g003;"):
        io.read_layer(tmp_path / "c.csv", data)
    shuffled.drop(columns=data.obs_names[3]).to_csv(tmp_path / "d.csv")
    with pytest.raises(io.InputError, match="1 of the 20 samples are not in it"):
        io.read_layer(tmp_path / "d.csv", data)
    frame.iloc[2, 1] = np.nan
    frame.to_csv(tmp_path / "e.csv")
    with pytest.raises(io.InputError, match=r"gene g003, sample .*a number is missing"):
        io.read_layer(tmp_path / "e.csv", data)
    path = tmp_path / "genes.txt"
    path.write_text("g003\n\n g010 \n")
    np.testing.assert_array_equal(
        data.var_names[io.among(io.read_genes(path), data, path)], ["g003", "g010"]
    )
    path.write_text("g003\nnobody\n")
    with pytest.raises(io.InputError, match=r"1 of its 2 genes are not in the counts \(nobody\)"):
        io.among(io.read_genes(path), data, path)
