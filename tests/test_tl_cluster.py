"""The clustering verb: the toy, kinds of data and choices, and mistakes.

All of 40 genes at 200 times with four columns of curves, so that kernels compile once.
"""

import logging

import anndata
import numpy as np
import pandas as pd
import pytest

import expressway as ew
from expressway import clustering
from expressway._errors import InputError
from expressway.clustering import REQUEST, Prior, Settings

BASIS = {"centers": (0.1, 0.4, 0.7), "length": 0.5}
NAMES = ["level", "basis[1]", "basis[2]", "basis[3]", "log_dispersion"]
# One start, and the likelihoods of the gene-wise fits.
QUICK = Settings(rounds=0, starts=1)
NUMBERS = dict(zip(NAMES, (2, 2, 2, 1, 2), strict=True)) | {"modules": 2}


def run(adata, **options):
    return ew.tl.cluster(adata, "pseudotime", **(BASIS | options))


def program(adata):
    """Number of each gene's program, 0 or 1."""
    return adata.var["program"].cat.codes.to_numpy()


def same_partition(label, truth):
    return (
        (pd.crosstab(np.asarray(label, int), np.asarray(truth)) > 0).to_numpy().sum()
        == len(np.unique(truth))
        == len(np.unique(label))
    )


@pytest.fixture(scope="module")
def toy():
    return ew.datasets.two_programs()


@pytest.fixture(scope="module")
def found(toy):
    return run(toy)


@pytest.fixture(scope="module")
def quick(toy):
    return run(toy.copy(), settings=QUICK)


def truth(adata, z):
    """Coordinates of the curves that counts were drawn from: their projection, and dispersions."""
    beta = np.linalg.lstsq(z, np.log(adata.layers["mean"]), rcond=None)[0].T
    return np.column_stack([beta, np.log(adata.var["dispersion"])])


def test_numbers_of_clusters_and_their_genes(toy, found):
    assert found.numbers() == NUMBERS
    for name, table in found.clusters().groupby("coefficient"):
        wanted = np.zeros(40) if NUMBERS[name] == 1 else program(toy)
        assert same_partition(table["label"], wanted), name
    assert same_partition(toy.var["module"], program(toy))
    np.testing.assert_array_equal(toy.var["module"], found.modules()["module"].astype(float))
    assert found.modules()["probability"].min() > 0.99


def test_coefficients_near_the_truth(toy, found):
    table = found.coefficients()
    wanted = truth(toy, found.data.frame.z)
    mean, sd = (table[[name + end for name in NAMES]].to_numpy() for end in ("", "_sd"))
    error = (mean - wanted) / sd
    # Less than 1: values of a cluster are equal here, and its spread is not known to be nothing.
    # Six seeds have .48 to .68.
    assert 0.3 < np.mean(error**2) < 0.9
    assert np.max(np.abs(error)) < 4.5
    null = found.clusters().query("coefficient == 'basis[3]'")["probability_zero"]
    other = found.clusters().query("coefficient == 'basis[1]'")["probability_zero"]
    assert null.min() > 0.95
    assert other.max() < 0.01


def test_curves(toy, found):
    genes = ["gene_3", "gene_30"]
    curves = found.curves(genes)
    assert set(curves["kind"]) == {"gene", "module"}
    for name in genes:
        own = curves[curves["name"] == name]
        mean = np.ravel(toy[:, name].layers["mean"])
        at = np.interp(own["time"], toy.obs["pseudotime"], mean)
        # Nine in ten of the true values are inside, at both ends fewer.
        inside = (own["lower"] <= at) & (at <= own["upper"])
        assert inside.mean() > 0.6
        np.testing.assert_allclose(own["mean"], at, rtol=0.15)


def test_bounds_and_components(found):
    elbo = found.elbo()
    piece = (elbo["event"] == "refresh").cumsum()
    for _, own in elbo.groupby(piece):
        assert np.all(np.diff(own["elbo"]) > -1e-6)  # sums of terms of 1e5 round to 1e-10 of them
    known = elbo["nb_elbo"].dropna()
    assert len(known) > 1
    assert np.all(np.diff(known) > 0)
    components = found.components()
    assert np.all(components["weight_lower"] <= components["weight_upper"])
    sizes = components.groupby(["mixture", "coefficient"])["genes"].sum()
    np.testing.assert_allclose(sizes, 40, atol=0.5)  # less those of components that are not shown


def test_file(found, tmp_path):
    found.save(tmp_path / "fit.npz")
    again = clustering.load(tmp_path / "fit.npz")
    assert again.settings == found.settings
    assert again.priors == found.priors
    for name in ("coefficients", "clusters", "modules", "components", "curves", "elbo"):
        one, two = (getattr(each, name)() for each in (found, again))
        # Moments of genes are computed again; what is stored is equal.
        pd.testing.assert_frame_equal(one, two, rtol=1e-8, atol=1e-10)
    with pytest.raises(InputError, match="no counts"):
        again.predictive()
    # What was loaded can be clustered again, and not only what was just fit.
    one, two = (each.again(truncation=3).clusters() for each in (found, again))
    pd.testing.assert_frame_equal(one, two, rtol=1e-6, atol=1e-8)


def test_no_file(tmp_path):
    (tmp_path / "fit.npz").write_text("nothing")
    with pytest.raises(InputError, match="holds no clustering"):
        clustering.load(tmp_path / "fit.npz")


@pytest.mark.parametrize(
    "changes", [{}, {"concentration_shape": 5.0}, {"concentration_rate": 3.0}, {"truncation": 2}]
)
def test_another_prior_of_the_same_shape_finds_the_same(found, changes):
    again = found.again(**changes)
    assert again.numbers() == NUMBERS
    columns = ["gene", "coefficient", "label"]
    pd.testing.assert_frame_equal(again.clusters()[columns], found.clusters()[columns])
    for prior in again.priors:
        assert prior._asdict().items() >= changes.items()
    assert found.numbers() == NUMBERS


def test_prior_of_the_request(toy, found):
    again = found.again(REQUEST)
    assert again.priors == (REQUEST,) * 5
    wide, tight = (
        each.components().query("mixture == 'coefficients' and component == 1")["sd"].to_numpy()
        for each in (again, found)
    )
    # Of at most 40 genes the precision has mean (1 + 40 / 2) / (2 + half a sum of squares).
    assert np.all(wide > (2 / 21) ** 0.5)
    assert np.all(wide > tight)
    # Programs that are 3 apart are told from each other even so, those .5 apart need not be.
    label = again.clusters().query("coefficient == 'level'")["label"]
    assert same_partition(label, program(toy))


def test_one_component(found):
    again = found.again(truncation=1)
    assert set(again.numbers().values()) == {1}
    assert again.full() == []
    assert any("raise the truncation" in line for line in found.again(truncation=2).full())


def test_prior_by_coordinate(found):
    again = found.again({"level": Prior(truncation=1), "default": Prior()})
    assert again.numbers()["level"] == 1
    assert again.numbers()["basis[1]"] == 2
    with pytest.raises(InputError, match="a prior for basis"):
        found.again({"basis[9]": Prior()})
    with pytest.raises(InputError, match="concentration_rate is 0"):
        found.again(concentration_rate=0.0)


def test_rarely_seen_genes_change_nothing(toy, quick):
    rare = np.zeros((200, 2), int)
    rare[[3, 90, 180], 0] = 1
    wide = anndata.AnnData(
        np.column_stack([rare[:, 0], toy.X, rare[:, 1]]),
        obs=toy.obs.copy(),
        var=pd.DataFrame(index=["rare", *toy.var_names, "none"]),
    )
    more = run(wide, settings=QUICK)
    modules = more.modules()
    assert modules["status"].tolist() == ["rarely_seen", *["ok"] * 40, "all_zero"]
    assert modules["module"].isna().tolist() == [True, *[False] * 40, True]
    assert wide.var["module"].isna().tolist() == [True, *[False] * 40, True]
    kept = more.coefficients()[1:-1]
    pd.testing.assert_frame_equal(kept, quick.coefficients(), rtol=1e-12)
    pd.testing.assert_frame_equal(more.clusters(), quick.clusters(), rtol=1e-12)


def test_covariates_take_a_batch_out(toy):
    """Batches are alternate times; counts of the second are thinned by the same share."""
    rng = np.random.default_rng(1)
    batch = toy.copy()
    second = np.arange(200) % 2 == 1
    batch.X[second] = rng.binomial(batch.X[second], 0.4)
    batch.obs["batch"] = np.where(second, "b", "a")
    plain = run(batch, settings=QUICK)
    # Two functions and a column of the batch: as many columns as everywhere here.
    taken = run(batch, basis="rbf:2", centers=(0.2, 0.8), covariates="~ batch", settings=QUICK)
    name = taken.data.names[3]
    assert "batch" in name
    effect = taken.coefficients()
    error = (effect[name] - np.log(0.4)) / effect[f"{name}_sd"]
    assert np.max(np.abs(error)) < 4.5
    spread = [each.coefficients()["log_dispersion"].mean() for each in (plain, taken)]
    # Mean squares of deviations due to the batch are (.6 / 1.4)² = .18.
    assert np.exp(spread[0]) > np.exp(spread[1]) + 0.1
    assert same_partition(taken.modules()["module"], program(toy))
    assert name not in set(taken.clusters()["coefficient"])
    shape = [n for n in taken.data.names if n != name]
    assert set(taken.clusters()["coefficient"]) == set(shape)


def lineages(toy):
    """The first program peaks in lineage 1, the other in lineage 2; samples are of one or both."""
    rng = np.random.default_rng(2)
    t = np.linspace(0, 1, 200)
    weight = np.where(t < 0.2, 0.5, np.arange(200) % 2)
    obs = pd.DataFrame({"t1": t, "t2": t, "w1": weight, "w2": 1 - weight}, index=toy.obs_names)
    bump = 1.5 * np.exp(-0.5 * ((t - 0.5) / 0.3) ** 2)
    log = np.log(8) + np.where(program(toy), 0, 1) * (weight * bump)[:, None]
    log = log + program(toy) * ((1 - weight) * bump)[:, None]
    mean = np.exp(log)
    adata = anndata.AnnData(
        rng.negative_binomial(10, 10 / (10 + mean)), obs=obs, var=toy.var.copy()
    )
    # A sample that is not of a lineage needs no time in it.
    adata.obs.loc[weight == 0, "t1"] = np.nan
    return adata


def test_two_lineages_with_weights(toy):
    adata = lineages(toy)
    found = ew.tl.cluster(
        adata, ["t1", "t2"], weights=["w1", "w2"], basis="rbf:1", centers=[0.5], length=0.3
    )
    assert list(found.data.names) == [
        *("level", "basis[1:1]", "lineage[2]", "basis[2:1]", "log_dispersion")
    ]
    assert found.numbers()["modules"] == 2
    assert same_partition(found.modules()["module"], program(toy))
    curves = found.curves(["gene_1", "gene_40"])
    assert set(curves["lineage"]) == {"t1", "t2"}
    own = {("gene_1", "t1"), ("gene_40", "t2")}
    for which, table in curves[curves["kind"] == "gene"].groupby(["name", "lineage"]):
        # exp(1.5) = 4.5 times at the bump less what is left of it at the ends, or none.
        fold = table["mean"].max() / table["mean"].min()
        assert (fold > 2.5) if which in own else (fold < 1.6)
    with pytest.raises(InputError, match="without weights"):
        ew.tl.cluster(adata, ["t1", "t2"])


def test_raw_basis_is_warned_about(toy, caplog):
    with caplog.at_level(logging.WARNING):
        found = run(toy, orthonormal=False, settings=QUICK)
    doubt, _ = found.doubts  # the other is of size factors
    assert f"condition number {found.data.frame.condition:.0f}" in doubt
    assert doubt in caplog.text
    assert 300 < found.data.frame.condition < 600
    # Its curves are those of any basis that spans the same.
    assert found.coefficients()["basis[1]_sd"].median() > 0.5


def test_raw_coefficients_make_the_same_curves(toy, found):
    raw = found.raw_coefficients()
    names = [name for name in raw.columns if name != "status" and not name.endswith("_sd")]
    x = np.column_stack(
        [
            np.ones(200),
            *(
                np.exp(-((toy.obs["pseudotime"] - c) ** 2) / (2 * BASIS["length"] ** 2))
                for c in BASIS["centers"]
            ),
        ]
    )
    one = found.coefficients()[NAMES[:4]].to_numpy() @ found.data.frame.z.T
    # The raw basis has condition number 450.
    np.testing.assert_allclose(raw[names].to_numpy() @ x.T, one, atol=1e-8)


def test_sandwich(toy, found):
    robust = run(toy, settings=Settings(precision="sandwich"))
    assert robust.numbers()["modules"] == 2
    assert same_partition(robust.modules()["module"], program(toy))
    # Counts are negative binomial, and errors those of the model up to those of a variance.
    columns = [f"{name}_sd" for name in NAMES]
    ratio = robust.coefficients()[columns] / found.coefficients()[columns]
    assert 0.8 < ratio.median().min() < ratio.median().max() < 1.3
    assert ratio.to_numpy().std() > 0.01
    assert robust.elbo()["nb_elbo"].isna().all()


def test_uncertain_times_widen_errors(toy, quick):
    adata = toy.copy()
    adata.obs["sd"], adata.obs["none"] = 0.3, 0.0
    none, unsure = (run(adata, time_sd=column, settings=QUICK) for column in ("none", "sd"))
    columns = [f"{name}_sd" for name in NAMES[:4]]
    # Sums of a few terms in another order.
    pd.testing.assert_frame_equal(none.coefficients(), quick.coefficients(), rtol=1e-6, atol=1e-8)
    ratio = (unsure.coefficients()[columns] / quick.coefficients()[columns]).to_numpy()
    assert np.median(ratio) > 1.05
    assert unsure.numbers()["level"] == 2


def test_association(toy, found):
    flat = found.association()
    assert flat["df"].unique().tolist() == [3]
    assert flat["p_adj"].max() < 1e-6
    rng = np.random.default_rng(4)
    null = anndata.AnnData(
        rng.negative_binomial(5, 0.5, size=(200, 40)), obs=toy.obs.copy(), var=toy.var[[]].copy()
    )
    p_value = run(null, settings=QUICK).association()["p_value"]
    # Of 40 uniform numbers the mean is .5 +- .046.
    assert 0.3 < p_value.mean() < 0.7


def test_design_of_ones_own(toy):
    formula = "~ pseudotime + I(pseudotime**2) + I(pseudotime**3)"
    found = ew.tl.cluster(toy.copy(), "pseudotime", design=formula, settings=QUICK)
    assert found.data.names[0] == "level"
    assert len(found.data.names) == 5
    assert same_partition(found.modules()["module"], program(toy))


def test_size_factors(toy):
    adata = toy.copy()
    adata.obs["depth"] = np.resize([0.5, 1.0, 2.0], 200)
    given = run(adata, size_factors=adata.obs["depth"].tolist(), settings=QUICK)
    np.testing.assert_allclose(given.counts().offset, np.log(adata.obs["depth"]))
    with pytest.raises(InputError, match="size factors 'word'"):
        run(adata, size_factors="word")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"starts": 0}, "starts is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"min_cells": 0}, "min_cells is 0"),
        ({"level": 1.0}, "level 1.0"),
    ],
)
def test_settings_that_make_no_sense(toy, settings, said):
    with pytest.raises(InputError, match=said):
        run(toy.copy(), settings=Settings(**settings))


def test_too_few_genes_are_seen(toy):
    few = toy.copy()
    few.X[1:, 1:] = 0
    few.X[:, 0] += 1
    with pytest.raises(InputError, match="1 genes can be clustered"):
        run(few)


def test_sensitivity(toy, found):
    """Two clusters far apart: their sizes answer to nothing."""
    moved = found.sensitivity()
    assert list(moved.value["level"]) == pytest.approx([20.0, 20.0, 780.0 / 2 - 10.0], abs=1.0)
    assert moved.weight.shape == (len(moved.value), toy.n_obs)
    assert moved.certificate.decrement < 1e-6
    # No size of two clusters 60 standard errors apart depends on one sample.
    assert np.abs(moved.weight.loc["level"].to_numpy()).max() < 1e-6
    assert found.sensitivity("modules").value.shape == (3,)


def test_weights_of_samples_need_refreshed_likelihoods(quick):
    """Those of gene-wise fits are around other moments, also under another prior."""
    for one in (quick, quick.again(concentration_rate=2.0)):
        assert one.sensitivity().weight.shape[1] == 0
