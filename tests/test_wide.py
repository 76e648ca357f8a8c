"""Whole analyses of wide designs against the same with dense matrices, and many contrasts."""

import resource
import sys

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import expressway as ew
from expressway import io
from expressway.core import arrow, cohort
from expressway.core.boxed import Boxed
from expressway.core.cohort import Pooled, samples
from expressway.core.solve import Status, solve
from expressway.models import nb

# Both stop within 1e-7 squared of a standard error, from sums in another order.
SAME = 1e-9


def screen(levels=17, each=6, genes=200, seed=0, control=8):
    """A screen of perturbations against a control, three batches and a covariate.

    The first genes have no count, others none in some levels or in the control; a few have one
    outlying count.
    """
    rng = np.random.default_rng(seed)
    code = np.concatenate([np.zeros(control, int), np.repeat(np.arange(1, levels + 1), each)])
    rng.shuffle(code)
    n = len(code)
    batch, depth = rng.integers(0, 3, n), rng.normal(size=n)
    base = rng.uniform(0, 6, genes)
    effect = rng.normal(size=(levels + 1, genes)) * (rng.random((levels + 1, genes)) < 0.2)
    log_mean = base + effect[code] + rng.normal(0, 0.3, (3, genes))[batch]
    log_mean += depth[:, None] * rng.normal(0, 0.1, genes) + rng.normal(0, 0.2, (n, 1))
    alpha = np.exp(rng.normal(-1.5, 0.5, genes)) + 0.5 / np.exp(base)
    y = rng.poisson(rng.gamma(1 / alpha, alpha * np.exp(log_mean)))
    y[:, :3] = 0
    for level in range(1, 6):
        y[np.ix_(code == level, range(4 * level - 1, 4 * level + 5))] = 0
    y[np.ix_(code == 0, range(30, 33))] = 0
    y[np.ix_((code == 0) | (code == 7), range(33, 35))] = 0
    y[5, 40:44] += 20000
    names = np.array(["ctrl", *(f"p{k:04d}" for k in range(levels))])
    obs = pd.DataFrame(
        {"pert": names[code], "batch": np.array(list("abc"))[batch], "depth": depth},
        index=[f"s{i}" for i in range(n)],
    )
    return anndata.AnnData(y, obs=obs, var=pd.DataFrame(index=[f"g{j}" for j in range(genes)]))


def analysed(monkeypatch, formula, dense, **how):
    """An AnnData with its analysis, by dense matrices or not; dense ones compile slowly."""
    wide, module = arrow.wide, sys.modules["expressway.io.design"]
    with monkeypatch.context() as patch:
        patch.setattr(module, "MANY", 8)
        patch.setattr(module, "wide", lambda columns: wide(columns, 10**6 if dense else 8))
        adata = screen(levels=LEVELS[formula], each=8)
        ew.tl.de(adata, formula, ("pert", "p0003", "ctrl"), **how)
    return adata


def same(mine, other, where):
    """Equal, numbers to `SAME`: those near 0 beside 1."""
    if mine.dtype.kind != "f":
        np.testing.assert_array_equal(mine.astype(str), other.astype(str), err_msg=where)
        return
    np.testing.assert_allclose(mine, other, rtol=SAME, atol=SAME, err_msg=where)


# 104 samples and 16 coefficients, or 144 and 18, as `fitted` has: dense matrices compile once each.
LEVELS = {"~ batch + pert + depth": 12, "~ pert": 17, "~ 0 + pert + batch + depth": 12}


@pytest.mark.parametrize(
    "formula", [f if f == "~ pert" else pytest.param(f, marks=pytest.mark.slow) for f in LEVELS]
)
def test_equals_the_dense_path(formula, monkeypatch, tmp_path):
    mine = analysed(monkeypatch, formula, dense=False)
    other = analysed(monkeypatch, formula, dense=True)
    assert "wide" in mine.uns["de"]
    assert "wide" not in other.uns["de"]
    for get in (ew.get.de, ew.get.genes, ew.get.samples):
        a, b = get(mine), get(other)
        assert list(a.columns) == list(b.columns)
        for name in a:
            same(a[name].to_numpy(), b[name].to_numpy(), name)
    positive = ew.get.de(mine)["p_value"] > 0
    logs = (np.log(ew.get.de(adata)["p_value"][positive]) for adata in (mine, other))
    np.testing.assert_allclose(*logs, rtol=1e-8, atol=1e-8)
    statuses = ew.get.de(mine)["status"].value_counts()
    assert statuses["separated"] > 0
    assert statuses["all_zero"] == 3
    assert ew.get.genes(mine)["replaced"].any() == (formula == "~ pert")
    many, theirs = (ew.tl.contrasts(adata, "pert", "ctrl") for adata in (mine, other))
    assert many.n_obs == LEVELS[formula]
    for layer in many.layers:
        same(many.layers[layer], theirs.layers[layer], layer)
    pd.testing.assert_frame_equal(many.obs, theirs.obs)
    groups = ({"pert": ["p0003", "p0004"]}, {"pert": "ctrl"})
    if "batch" in formula:  # without interaction: products of columns tell the samples
        groups = ({**groups[0], "batch": mine.uns["de"]["levels"]["batch"][1]}, groups[1])
    for spec in (groups, (groups[0], {})):
        for alternative in ("greaterAbs", "lessAbs"):
            how = {"lfc_threshold": 0.5, "alternative": alternative}
            a, b = (ew.tl.contrast(adata, spec, **how) for adata in (mine, other))
            for name in a:
                same(a[name].to_numpy(), b[name].to_numpy(), f"{spec} {name}")
    # Read back it answers the same, to the last bit.
    mine.write_h5ad(tmp_path / "fit.h5ad")
    back = anndata.read_h5ad(tmp_path / "fit.h5ad")
    expected = ew.tl.contrast(mine, ("pert", "p0011", "p0004"))
    pd.testing.assert_frame_equal(ew.tl.contrast(back, ("pert", "p0011", "p0004")), expected)
    pd.testing.assert_frame_equal(ew.get.genes(back), ew.get.genes(mine), check_dtype=False)


def test_the_boxed_solver_meets_the_same_bounds(monkeypatch):
    """Levels, and the control, without a count run to the bound; others have finite maxima."""
    monkeypatch.setattr(cohort, "BLOCK_ELEMENTS", 2**12)  # 57 genes fill a block
    adata = screen(levels=8, genes=60)
    matrix = ew.io.design("~ batch + pert + depth", adata.obs).matrix
    assert isinstance(matrix, np.ndarray)
    alpha = np.random.default_rng(1).uniform(0.05, 3, 60)
    genes = np.arange(3, 60)
    found = []
    for x in (matrix, arrow.wide(sparse.csc_matrix(matrix), 4)):
        rows = samples(adata.X, x)
        start = np.zeros((57, matrix.shape[1]))
        solver = Boxed(bound=3.0)  # so near that levels of few counts meet it too
        found.append(
            solve(
                solver,
                nb.likelihood,
                start,
                alpha[genes],
                Pooled(rows),
                penalty=nb.ridge_likelihood,
                genes=genes,
            )
        )
    dense, mine = found
    np.testing.assert_array_equal(mine.status, dense.status)
    assert {Status.OK, Status.AT_BOUND} == set(mine.status)
    np.testing.assert_allclose(mine.state.loss, dense.state.loss, rtol=1e-12)
    # Towards a bound the likelihood is flat but for the ridge.
    inside = mine.status == Status.OK
    np.testing.assert_allclose(mine.theta[inside], dense.theta[inside], rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(mine.theta, dense.theta, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def fitted():
    """A wide analysis with replaced outliers, and a narrow one."""
    wide, narrow = screen(each=8), screen(levels=5, each=27, control=9)
    ew.tl.de(wide, "~ pert", ("pert", "p0000", "ctrl"))
    ew.tl.de(narrow, "~ pert * batch", ("pert", "p0000", "ctrl"))
    return wide, narrow


@pytest.mark.parametrize("which", [0, 1], ids=["wide", "narrow"])
@pytest.mark.parametrize("reference", ["ctrl", "p0002"])
def test_many_contrasts_equal_one_at_a_time(fitted, which, reference, tmp_path):
    adata = fitted[which].copy()
    many = ew.tl.contrasts(adata, "pert", reference)
    words = np.array(many.uns["status"])
    seen = set()
    for k, name in enumerate(many.obs_names):
        level = many.obs["level"].iloc[k]
        one = ew.tl.contrast(adata, ("pert", level, reference))
        assert name == adata.uns["de"]["contrast"]
        assert many.obs["filter_threshold"].iloc[k] == adata.uns["de"]["filter_threshold"]
        for layer in set(many.layers) - {"status"}:
            # Sums of a few products in another order.
            np.testing.assert_allclose(
                many.layers[layer][k], one[layer], rtol=1e-10, atol=1e-12, err_msg=layer
            )
        np.testing.assert_array_equal(words[many.layers["status"][k]], one["status"])
        seen |= set(one["status"])
        called = one["p_adj"] < 0.1
        assert many.obs["up"].iloc[k] == np.sum(called & (one["log2_fold_change"] > 0))
        assert many.obs["down"].iloc[k] == np.sum(called & (one["log2_fold_change"] < 0))
        assert many.obs["tested"].iloc[k] == one["p_adj"].notna().sum()
    assert {"ok", "all_zero", "separated"} <= seen
    assert which or {"no_counts", "replaced"} <= seen
    many.write_h5ad(tmp_path / "contrasts.h5ad")
    back = anndata.read_h5ad(tmp_path / "contrasts.h5ad")
    np.testing.assert_array_equal(back.layers["p_adj"], many.layers["p_adj"])


def test_some_levels(fitted):
    found = ew.tl.contrasts(fitted[0], "pert", levels=["p0007", "p0001"])
    assert list(found.obs["level"]) == ["p0007", "p0001"]
    assert list(found.obs_names) == ["pert p0007 vs ctrl", "pert p0001 vs ctrl"]
    whole = ew.tl.contrasts(fitted[0], "pert")
    np.testing.assert_array_equal(
        found.layers["p_adj"][0], whole[whole.obs["level"] == "p0007"].layers["p_adj"][0]
    )


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"factor": "dose"}, "dose is not a factor"),
        ({"factor": "pert", "reference": "p99"}, "no level p99"),
        ({"factor": "pert", "levels": ["p0001", "x"]}, "no level x"),
        ({"factor": "pert", "levels": ["ctrl"]}, "levels other than ctrl"),
    ],
)
def test_contrasts_that_do_not_exist(fitted, ask, message):
    with pytest.raises(io.InputError, match=message):
        ew.tl.contrasts(fitted[0], **ask)


def test_a_wide_design_is_refused_as_others_are():
    adata = screen()
    adata.obs["plate"] = np.where(adata.obs["pert"] < "p0009", "one", "two")
    with pytest.raises(io.InputError, match=r"not of full rank.*plate\[T.two\] = pert\[T.p0009\]"):
        ew.tl.de(adata, "~ pert + plate")
    adata.obs["bad"] = np.where(adata.obs["depth"] < 0, -np.inf, 1.0)
    with pytest.raises(io.InputError, match="bad is not a finite"):
        ew.tl.de(adata, "~ pert + bad")
    few = adata[~adata.obs["pert"].duplicated()].copy()
    with pytest.raises(io.InputError, match="20 coefficients for 18 samples"):
        ew.tl.de(few, "~ pert + batch")


@pytest.mark.slow
def test_a_thousand_levels():
    adata = screen(levels=1000, each=3, control=40)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    ew.tl.de(adata, "~ batch + pert", ("pert", "p0500", "ctrl"))
    many = ew.tl.contrasts(adata, "pert", "ctrl")
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Dense matrices of 200 genes would be 1.6 GB each; kibibytes.
    assert after - before < 1.2e6
    assert many.shape == (1000, 200)
    one = ew.tl.contrast(adata, ("pert", "p0777", "ctrl"))
    np.testing.assert_allclose(many.layers["lfc_se"][777], one["lfc_se"], rtol=1e-10)
    np.testing.assert_array_equal(
        np.array(many.uns["status"])[many.layers["status"][777]], one["status"]
    )
