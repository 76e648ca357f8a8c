import logging
import pickle
import warnings

import anndata
import jax
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import ImplicitModificationWarning
from scipy import stats

from expressway import _rows, datasets, get, io, tl
from expressway.core import cohort
from expressway.models import deseq, trend
from expressway.models.deseq import Settings

DESIGN = "~ batch + condition"
FIRST = ("condition", "treated", "control")
SECOND = ("batch", "batch_2", "batch_1")
OTHERS = [SECOND, "condition[T.treated]", [0.0, 1.0, -1.0], None]


@pytest.fixture(scope="module")
def data() -> anndata.AnnData:
    """200 genes x 8 samples, the shape of every run here: kernels compile once."""
    return datasets.simulate(genes=200, samples=8, batches=2, seed=3)


@pytest.fixture(scope="module")
def fitted(data) -> anndata.AnnData:
    adata = data.copy()
    tl.de(adata, DESIGN, FIRST)
    return adata


def same(a, b):
    """The same to the last bit; AnnData drops categories that do not occur."""
    words = {name: str for name in a if isinstance(a[name].dtype, pd.CategoricalDtype)}
    pd.testing.assert_frame_equal(a.astype(words), b.astype(words), check_exact=True)


def test_the_table_is_returned_and_stored(data):
    adata = data.copy()
    table = tl.de(adata, DESIGN, FIRST)
    assert list(table.columns) == [
        "base_mean", "log2_fold_change", "lfc_se", "stat", "p_value", "p_adj", "dispersion",
        "status",
    ]  # fmt: skip
    assert table.index.name == "gene"
    assert list(table.index) == list(adata.var_names)
    same(table, get.de(adata))
    assert (table["p_adj"] < 0.1).sum() > 5
    assert adata.uns["de"]["contrast"] == "condition treated vs control"


def test_input_stays_as_it_is(data):
    adata = data.copy()
    obs = adata.obs.copy()
    tl.de(adata, DESIGN, FIRST)
    assert adata.X.dtype == data.X.dtype
    assert np.array_equal(adata.X, data.X)
    pd.testing.assert_frame_equal(adata.obs, obs)
    pd.testing.assert_frame_equal(adata.var, data.var)


def sparse(kind):
    def change(adata):
        adata.X = kind(adata.X)
        return {}

    return change


def of_type(dtype):
    def change(adata):
        adata.X = adata.X.astype(dtype)
        return {}

    return change


def in_a_layer(adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = np.log1p(adata.X)
    return {"layer": "counts"}


@pytest.mark.parametrize(
    "change",
    [
        sparse(sp.csr_matrix),
        sparse(sp.csc_array),
        of_type(np.int32),
        of_type(np.float64),
        in_a_layer,
    ],
)
def test_where_and_how_counts_are_held_does_not_matter(change, data, fitted):
    adata = data.copy()
    options = change(adata)
    before = adata.X.copy()
    same(tl.de(adata, DESIGN, FIRST, **options), get.de(fitted))
    assert type(adata.X) is type(before)
    assert abs(adata.X - before).sum() == 0
    same(tl.contrast(adata, SECOND), tl.contrast(fitted.copy(), SECOND))


@pytest.mark.parametrize("dtype", [np.float32, np.uint16])
def test_narrow_types_give_the_same_numbers(dtype, data):
    adata, narrow = data.copy(), data.copy()
    adata.X = np.minimum(data.X, 2**16 - 1)
    narrow.X = adata.X.astype(dtype)
    same(tl.de(narrow, DESIGN, FIRST), tl.de(adata, DESIGN, FIRST))


def reloaded(adata, path):
    adata.write_h5ad(path)
    return anndata.read_h5ad(path)


@pytest.mark.parametrize("spec", OTHERS)
@pytest.mark.parametrize("saved", ["memory", "pickle", "h5ad"])
def test_a_later_contrast_equals_one_asked_for_at_once(spec, saved, data, fitted, tmp_path):
    at_once = tl.de(data.copy(), DESIGN, spec, reference={"condition": "control"})
    adata = fitted.copy()
    if saved == "pickle":
        adata = pickle.loads(pickle.dumps(adata))
    if saved == "h5ad":
        adata = reloaded(adata, tmp_path / "fitted.h5ad")
    same(get.de(adata), get.de(fitted))
    later = tl.contrast(adata, spec)
    same(later, at_once)
    same(later, get.de(adata))


def test_text_levels_keep_their_order_in_h5ad(data, tmp_path):
    """The file sorts by code point, the design regardless of case."""
    adata = data.copy()
    adata.obs["line"] = list("aaBBaaBB")
    expected = tl.de(adata, "~ condition + line")
    adata = reloaded(adata, tmp_path / "a.h5ad")
    assert list(adata.obs["line"].cat.categories) == ["B", "a"]
    same(tl.contrast(adata, "line[T.B]"), expected)


def test_names_with_slashes_go_into_h5ad(data, tmp_path):
    adata = data.copy()
    adata.obs["x"] = np.linspace(-1, 1, 8) ** 2
    tl.de(adata, "~ condition + I(x / 2)")
    expected = get.genes(adata)
    read = reloaded(adata, tmp_path / "a.h5ad")
    assert "log2:I(x / 2)" in expected
    pd.testing.assert_frame_equal(get.genes(read), expected, check_exact=True)


def test_genes_can_be_taken_out_afterwards(fitted):
    chosen = fitted.var_names[10:150]
    adata = fitted[:, chosen].copy()
    columns = ["base_mean", "log2_fold_change", "lfc_se", "p_value", "dispersion"]
    same(get.de(adata), get.de(fitted).iloc[10:150])
    same(get.genes(adata), get.genes(fitted).iloc[10:150])
    whole = tl.contrast(fitted.copy(), SECOND)
    same(tl.contrast(adata, SECOND)[columns], whole[columns].iloc[10:150])


def test_samples_in_another_order_give_the_same(fitted):
    adata = fitted[::-1].copy()
    assert list(get.samples(adata).index) == list(adata.obs_names)
    # Sums in another order.
    pd.testing.assert_frame_equal(
        tl.contrast(adata, SECOND), tl.contrast(fitted.copy(), SECOND), rtol=1e-12
    )


def test_a_change_of_samples_is_noticed(fitted):
    fewer, other = fitted[1:].copy(), fitted.copy()
    other.obs["condition"] = fitted.obs["condition"].to_numpy()[::-1]
    for adata in (fewer, other):
        with pytest.raises(io.InputError, match="samples changed"):
            tl.contrast(adata, SECOND)
    none = fitted.copy()
    del none.obs["batch"]
    with pytest.raises(io.InputError, match="column batch"):
        tl.contrast(none, SECOND)


def test_a_view_becomes_an_anndata_of_its_own(data):
    adata = data.copy()
    view = adata[:, :]
    with pytest.warns(ImplicitModificationWarning):
        table = tl.de(view, DESIGN, FIRST)
    assert not view.is_view
    same(get.de(view), table)
    assert "de" not in adata.varm
    assert "de" not in adata.uns


def test_analyses_under_two_keys_do_not_meet(data, fitted):
    adata = data.copy()
    tl.de(adata, DESIGN, FIRST)
    tl.de(adata, "~ 0 + condition + batch", FIRST, key="plain")
    same(get.de(adata), get.de(fitted))
    assert adata.uns["plain"]["coefficients"][:2] == ["condition[control]", "condition[treated]"]
    tl.contrast(adata, SECOND)
    same(get.de(adata, key="plain"), tl.contrast(adata, FIRST, key="plain"))


def test_a_contrast_sets_the_reference_unless_it_is_given(data, fitted):
    turned = ("condition", "control", "treated")
    adata = data.copy()
    table = tl.de(adata, DESIGN, turned)
    assert list(adata.uns["de"]["levels"]["condition"]) == ["treated", "control"]
    regular = (table["status"] == "ok") & (get.de(fitted)["status"] == "ok")
    expected = -get.de(fitted)["log2_fold_change"]
    # The same maximum from another start, to the tolerance of the field's iteration.
    difference = (table["log2_fold_change"] - expected)[regular]
    assert (difference.abs() < 1e-5 * (1 + expected.abs()[regular])).all()
    tl.de(adata, DESIGN, turned, reference={"condition": "control"})
    assert list(adata.uns["de"]["levels"]["condition"]) == ["control", "treated"]


def test_order_of_categories_names_the_reference(data):
    adata = data.copy()
    adata.obs["condition"] = adata.obs["condition"].cat.reorder_categories(["treated", "control"])
    tl.de(adata, DESIGN)
    assert adata.uns["de"]["contrast"] == "condition control vs treated"


def test_settings_are_used_and_remembered(data, tmp_path):
    settings = Settings(prior_variance=0.5, independent_filtering=False, alpha=0.01)
    adata = data.copy()
    table = tl.de(adata, DESIGN, FIRST, settings=settings)
    assert adata.uns["de"]["prior_variance"] == 0.5
    assert not (table["status"] == "low_count").any()
    same(tl.contrast(reloaded(adata, tmp_path / "a.h5ad"), FIRST), table)


def test_stages_are_told_and_timed(data):
    adata, told = data.copy(), []
    tl.de(adata, DESIGN, FIRST, watch=told.append)
    assert told[0] == "design"
    assert told[-1] == "tests"
    assert list(adata.uns["de"]["seconds"]) == told


def test_doubts_are_logged_and_stored(data, caplog):
    adata = data.copy()
    adata.obs["minute"] = [0, 1, 2, 0, 1, 2, 0, 1]
    with caplog.at_level(logging.WARNING, "expressway"):
        tl.de(adata, "~ condition + minute")
    assert [record.getMessage() for record in caplog.records] == adata.uns["de"]["warnings"]
    assert adata.uns["de"]["warnings"][0].startswith("column minute enters as a number")


def test_a_trend_that_fell_back_is_told(data, caplog, monkeypatch, tmp_path):
    def failing(*_):
        raise trend.TrendError

    monkeypatch.setattr(trend, "parametric", failing)
    adata = data.copy()
    table = tl.de(adata, DESIGN, FIRST)
    assert "a local regression is used instead" in caplog.text
    assert "a local regression is used instead" in adata.uns["de"]["warnings"][-1]
    # Curves survive a file, and give the same tests.
    again = reloaded(adata, tmp_path / "a.h5ad")
    same(tl.contrast(again, FIRST), table)
    other = data.copy()
    same(tl.de(other, DESIGN, FIRST, settings=Settings(trend="local")), table)
    assert not other.uns["de"]["warnings"]
    curves = [trend.stored(a.uns["de"]["trend"]) for a in (adata, again, other)]
    at = np.geomspace(0.1, 1e5, 50)
    for one in curves:
        assert one.kind == "local"
        np.testing.assert_array_equal(one.at(at), curves[0].at(at))


def test_a_trend_of_one_s_own(data, tmp_path):
    def own(mean):
        return 0.05 + 2 / np.sqrt(mean)

    adata, other = data.copy(), data.copy()
    table = tl.de(adata, DESIGN, FIRST, trend=own)
    nodes = np.geomspace(0.01, 1e6, 400)
    table_of_nodes = pd.DataFrame({"mean": nodes, "dispersion": own(nodes)})
    by_nodes = tl.de(other, DESIGN, FIRST, trend=table_of_nodes)
    genes = get.genes(adata)
    counted = genes["base_mean"] > 0
    # Linear between nodes .046 apart in log mean: an eighth of the square of that times the second
    # derivative of the logarithm, which is below .07.
    mean, fitted = (genes.loc[counted, k] for k in ("base_mean", "dispersion_trend"))
    np.testing.assert_allclose(fitted, own(mean), rtol=3e-5)
    np.testing.assert_allclose(table["stat"], by_nodes["stat"], rtol=1e-3)
    assert adata.uns["de"]["settings"]["trend"] == "given"
    assert tl.de(adata, DESIGN, FIRST)["stat"].corr(table["stat"]) < 0.9999
    same(tl.contrast(reloaded(other, tmp_path / "a.h5ad"), FIRST), by_nodes)


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ([1.0, 2.0], "trend is list; needed is a table with the columns mean and dispersion"),
        ([[1.0, 0.1], [3.0, -1.0]], "node 2 of the dispersion trend is mean 3, dispersion -1"),
        ([[3.0, 0.1], [3.0, 0.2]], "the dispersion trend has mean 3 twice"),
        (lambda mean: 1 - mean, "needed are positive numbers"),
        (lambda mean: mean[:3], "the function of the dispersion trend fails on an array of means"),
    ],
)
def test_a_trend_of_one_s_own_that_cannot_be_used(data, own, words):
    with pytest.raises(io.InputError, match=words):
        tl.de(data.copy(), DESIGN, FIRST, trend=own)
    with pytest.raises(io.InputError, match="trend is to be a given one, but none is given"):
        tl.de(data.copy(), DESIGN, FIRST, settings=Settings(trend="given"))


def test_without_a_cutoff_no_count_is_an_outlier(data):
    adata = data.copy()
    adata.X[3, 20] = 100_000  # cells of four samples
    settings = Settings(min_replicates=3)
    status = tl.de(adata, "~ condition", FIRST, settings=settings)["status"]
    assert get.genes(adata)["replaced"].sum() + (status == "outlier").sum() > 0
    table = tl.de(adata, "~ condition", FIRST, settings=settings._replace(cooks_cutoff=np.inf))
    genes = get.genes(adata)
    assert not genes["replaced"].any()
    assert not genes["flagged"].any()
    assert not table.loc[table["base_mean"] > 0, "p_value"].isna().any()
    assert np.isinf(adata.uns["de"]["cooks_cutoff"])
    # A cutoff of one's own, below all distances: every count in replicated cells is one.
    least = np.nanmin(genes["max_cooks"]) / 2
    tl.de(adata, "~ condition", FIRST, settings=Settings(cooks_cutoff=least))
    assert get.genes(adata).loc[table["base_mean"] > 0, "flagged"].gt(0).all()


def changed(row, column, value):
    def change(adata):
        x = adata.X.astype(float)
        x[row, column] = value
        adata.X = x

    return change


def without_counts(adata):
    x = adata.X.copy()
    x[2] = 0
    adata.X = x


def repeated(adata):
    adata.var_names = ["a", "a", *adata.var_names[2:]]


def nothing(_):
    return None


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (changed(1, 4, 2.5), {}, "adata.X: gene gene_5, sample sample_2: count 2.5"),
        (changed(1, 4, -1), {}, "is negative"),
        (changed(1, 4, np.nan), {}, "is missing"),
        (without_counts, {}, "adata.X: sample sample_3 has no counts"),
        (repeated, {}, "gene a appears more than once"),
        (lambda adata: delattr(adata, "X"), {}, "adata.X is NoneType"),
        (nothing, {"layer": "counts"}, "there is no layer 'counts'; the layers are none"),
        (nothing, {"design": "~ dose"}, "column dose"),
        (nothing, {"design": "~ 0 +"}, "formula"),
        (nothing, {"contrast": ("dose", "a", "b")}, "dose is not a factor"),
        (nothing, {"contrast": ("condition", "treated", "x")}, "no level x"),
        (nothing, {"contrast": "treated"}, "no coefficient is named treated"),
        (nothing, {"contrast": [1.0, 0.0]}, "3 finite numbers"),
        (nothing, {"reference": {"dose": "a"}}, "reference level is given for dose"),
        (nothing, {"settings": Settings(alpha=1.0)}, "alpha must lie between 0 and 1, but is 1.0"),
        (nothing, {"settings": Settings(min_replicates=2)}, "min_replicates must be 3 or more"),
        (nothing, {"settings": Settings(prior_variance=np.nan)}, "prior variance must be above 0"),
    ],
)
def test_mistakes_are_told_in_one_line_and_change_nothing(change, options, words, data):
    adata = data.copy()
    change(adata)
    with pytest.raises(io.InputError) as caught:
        tl.de(adata, **({"design": DESIGN, "contrast": FIRST} | options))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(adata.varm) == ["beta"]
    assert not adata.uns
    assert not adata.obsm


def test_check_looks_at_every_contrast(data):
    assert tl.check(data, DESIGN, [FIRST, *OTHERS]) is None
    with pytest.raises(io.InputError, match="no level x"):
        tl.check(data, DESIGN, [FIRST, ("batch", "x", "batch_1")])
    with pytest.raises(io.InputError, match="alpha"):
        tl.check(data, DESIGN, settings=Settings(alpha=0.0))


def test_contrast_needs_an_analysis(data):
    with pytest.raises(io.InputError, match="'de'; run"):
        tl.contrast(data, FIRST)


def test_few_functions_are_compiled_and_none_for_the_next_data(caplog):
    """Compilation is most of what a first run takes: another table of a similar size needs none."""
    jax.clear_caches()
    deseq._compile_meanwhile.cache_clear()
    compiled = []
    for genes, samples, seed in ((300, 32, 1), (480, 31, 2)):
        adata = datasets.simulate(genes=genes, samples=samples, batches=2, outliers=6, seed=seed)
        caplog.clear()
        with jax.log_compiles(), caplog.at_level(logging.WARNING):
            tl.de(adata, "~ batch + condition")
        assert adata.varm["de_genes"]["replaced"].any()
        compiled.append([m for m in caplog.messages if m.startswith("Compiling jit")])
    # Of sums: counts twice, moments, spread, information. Two solvers, and a third for the genes
    # that the first gives up, with a sum of their own. Six small ones for outliers.
    assert len(compiled[0]) <= 16
    assert compiled[1] == []


@pytest.mark.parametrize(
    "form", ["dense.h5ad", "sparse.h5ad", "sparse.zarr", "float32", "csr", "csc"]
)
@pytest.mark.parametrize("free", [np.inf, 0.0])
def test_where_counts_are_does_not_matter(form, free, data, fitted, tmp_path, monkeypatch):
    monkeypatch.setattr(_rows, "_free", lambda _: free)
    monkeypatch.setattr(cohort, "CHUNK", 400)  # two samples
    adata = data.copy()
    kind = {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "float32": np.float32}
    adata.X = kind.get(form, sp.csr_matrix if "sparse" in form else np.asarray)(adata.X)
    if form.endswith(".h5ad"):
        adata.write_h5ad(tmp_path / form)
        adata = anndata.read_h5ad(tmp_path / form, backed="r")
    elif form.endswith(".zarr"):
        with warnings.catch_warnings(action="ignore"):  # of defaults to come
            adata.write_zarr(tmp_path / form)
        adata = io.read_counts(tmp_path / form, backed=True)
    tl.de(adata, DESIGN, FIRST)
    assert fitted.varm["de_genes"]["replaced"].sum() == adata.varm["de_genes"]["replaced"].sum()
    same(get.de(adata), get.de(fitted))
    same(get.samples(adata), get.samples(fitted))


def test_influence_predicts_what_leaving_out_does(fitted):
    before = fitted.copy()
    predicted = tl.influence(fitted, FIRST)
    exact = tl.influence(fitted, FIRST, exact=True)
    assert predicted.shape == fitted.shape
    for layer, ranks in (("log2_fold_change", 0.98), ("lfc_se", 0.9), ("stat", 0.95)):
        a, b = (found.layers[layer].ravel() for found in (predicted, exact))
        there = np.isfinite(a) & np.isfinite(b)
        assert np.mean(there) > 0.9
        # Eight samples and three coefficients: second order is as large as the first.
        assert stats.spearmanr(a[there], b[there])[0] > ranks
    assert list(predicted.var["call"]) == list(exact.var["call"])
    table = get.de(fitted)
    called = (table["p_adj"] < 0.1).to_numpy()
    assert list(predicted.var["call"] != "not_called") == list(called)
    assert set(predicted.var["call"]) >= {"survives", "lost"}
    np.testing.assert_array_equal(np.any(exact.layers["exact"], axis=0), called)
    # The tests and the counts are as they were.
    same(get.de(before), get.de(fitted))
    assert set(fitted.uns) == set(before.uns)


def test_a_lost_call_names_the_sample(fitted):
    found = tl.influence(fitted, FIRST, exact=True)
    lost = np.flatnonzero(found.var["call"] == "lost")
    assert len(lost)
    stat, cut = found.var["stat"].to_numpy(), found.uns["stat_cut"]
    for g in lost:
        after = (stat[g] + found.layers["stat"][:, g]) * np.sign(stat[g])
        assert found.var["losses"].iloc[g] == np.sum(after < cut)
        assert found.var["lost_without"].iloc[g] == found.obs_names[np.argmin(after)]
        most = found.obs_names.get_loc(found.var["most_influential"].iloc[g])
        changes = np.abs(found.layers["stat"][:, g])
        assert changes[most] == np.max(changes)
        assert found.var["change_stat"].iloc[g] == found.layers["stat"][most, g]


def test_influence_of_what_was_read_back(fitted, tmp_path):
    fitted.write_h5ad(tmp_path / "fit.h5ad")
    back = anndata.read_h5ad(tmp_path / "fit.h5ad")
    a, b = (tl.influence(x, SECOND).layers["stat"] for x in (fitted, back))
    np.testing.assert_allclose(a, b, rtol=1e-12)
    few = back[:, 5:60].copy()
    np.testing.assert_allclose(tl.influence(few, SECOND).layers["stat"], a[:, 5:60], rtol=1e-9)


def test_influence_that_cannot_be_is_refused_in_a_line(fitted):
    with pytest.raises(io.InputError, match="kind must be one of conditional, pipeline"):
        tl.influence(fitted, kind="all")
    with pytest.raises(io.InputError, match="no analysis is stored under 'other'"):
        tl.influence(fitted, key="other")
    with pytest.raises(io.InputError, match="genes were taken away since"):
        tl.influence(fitted[:, :90].copy(), kind="pipeline")


def test_intervals_of_fold_changes_and_of_ranks(fitted, tmp_path):
    table = tl.intervals(fitted, FIRST, top=10, interval=0.8)
    assert list(table.columns) == [
        "log2_fold_change", "lower", "upper", "probability_up",
        "rank", "rank_lower", "rank_upper", "probability_top", "status",
    ]  # fmt: skip
    result = get.de(fitted)
    known = result["status"] != "all_zero"
    change, se = result["log2_fold_change"], result["lfc_se"]
    # The same numbers by two ways round.
    np.testing.assert_allclose(table["upper"] - table["lower"], 2 * stats.norm.ppf(0.9) * se)
    np.testing.assert_allclose(table["probability_up"][known], stats.norm.cdf(change / se)[known])
    np.testing.assert_array_equal(table["rank"].isna(), result["p_adj"].isna())
    assert table["probability_top"].sum() == pytest.approx(10)
    assert np.all(table["rank_lower"].dropna() <= table["rank"].dropna())
    first = table.sort_values("rank").index[:5]
    assert set(first) <= set(change[table["rank"].notna()].abs().nlargest(15).index)
    same(table, tl.intervals(reloaded(fitted, tmp_path / "a.h5ad"), FIRST, top=10, interval=0.8))
    moved = tl.intervals(fitted, FIRST, top=10, interval=0.8, seed=jax.random.key(1))
    pd.testing.assert_series_equal(moved["lower"], table["lower"])
    assert not moved["probability_top"].equals(table["probability_top"])


def test_intervals_by_the_scatter_of_samples(fitted):
    adata = fitted.copy()
    adata.obs["donor"] = list("aabbccdd")
    plain, by_donor = (
        tl.intervals(adata, FIRST, kind="sandwich", clusters=c, draws=9, by="up")
        for c in (None, "donor")
    )
    width = plain["upper"] - plain["lower"]
    there = width.notna()
    assert there.sum() > 190
    # The scatter of 8 samples about 3 coefficients is too small, by about sqrt(5 / 8).
    model = 2 * stats.norm.ppf(0.95) * get.de(fitted)["lfc_se"]
    assert 0.3 < np.median((width / model)[there]) < 1
    assert not np.allclose(width[there], (by_donor["upper"] - by_donor["lower"])[there])
    with pytest.raises(io.InputError, match="no column 'cage'"):
        tl.intervals(adata, FIRST, kind="sandwich", clusters="cage")
    with pytest.raises(io.InputError, match="kind must be one of"):
        tl.intervals(adata, FIRST, kind="bread")
    del adata.obsm["de_samples"]
    with pytest.raises(io.InputError, match="not here"):
        tl.intervals(adata, FIRST, kind="hessian")
