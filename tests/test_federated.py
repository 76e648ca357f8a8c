"""Analyses across sites against the analysis of one table: the same numbers, in few rounds.

Estimates agree to 1e-10 (|x| + SE) and log p to 1e-9: both runs stop at steps so small that what
is left is the rounding of sums that were added in another order.
"""

from typing import get_args

import anndata
import numpy as np
import pandas as pd
import pytest

from expressway import datasets, federated, get, io, tl
from expressway.models import deseq
from expressway.models.wald import Alternative

CLOSE = 1e-10
LOG_P = 1e-9
# All of it with refit and tests, and what comes before the refit (fedpydeseq2: 651 and 351).
ROUNDS, BEFORE_REFIT = 100, 60
ANY = federated.Rules(min_samples=1)


def split(adata: anndata.AnnData, *cuts: int, seed: int = 0) -> dict[str, anndata.AnnData]:
    """Sites of samples in random order, cut at these places."""
    order = np.random.default_rng(seed).permutation(adata.n_obs)
    parts = np.split(order, cuts)
    return {f"site {k}": adata[part].copy() for k, part in enumerate(parts)}


def by(adata: anndata.AnnData, column: str) -> dict[str, anndata.AnnData]:
    """A site for each level of a column."""
    values = adata.obs[column].astype(str)
    return {level: adata[values == level].copy() for level in values.unique()}


def compared(adata, sites, design, contrast=None, rules=ANY, **settings) -> federated.Run:
    """Both runs, every number compared."""
    pooled = adata.copy()
    one = tl.de(pooled, design, contrast, settings=tl.Settings(keep_if_larger=False, **settings))
    run = federated.simulate(sites, design, contrast, settings=tl.Settings(**settings), rules=rules)
    assert list(run.table.index) == list(one.index)
    same(one, run.table)
    ours, theirs = get.genes(run.adata), get.genes(pooled)
    assert "max_cooks" not in ours
    for name in (c.removeprefix("log2:") for c in ours if c.startswith("log2:")):
        close(ours[f"log2:{name}"], theirs[f"log2:{name}"], theirs[f"se:{name}"])
        close(ours[f"se:{name}"], theirs[f"se:{name}"])
    for column in ("base_mean", "dispersion_trend", "dispersion_map", "dispersion"):
        close(ours[column], theirs[column])
    for column in ("flagged", "outlier", "replaced", "dispersion_outlier", "dispersion_status"):
        assert list(ours[column]) == list(theirs[column])
    rounds = run.ledger.rounds
    before = sum(n for stage, n in rounds.items() if not stage.startswith("refit"))
    assert before <= BEFORE_REFIT
    assert run.rounds == sum(rounds.values()) <= ROUNDS
    return run


def same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    """Tables of results."""
    assert list(one["status"]) == list(other["status"])
    close(other["log2_fold_change"], one["log2_fold_change"], one["lfc_se"])
    close(other["lfc_se"], one["lfc_se"])
    for column in ("p_value", "p_adj"):
        a, b = one[column].to_numpy(), other[column].to_numpy()
        np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
        positive = a > 0  # a statistic beyond 38 has p = 0 in double precision
        np.testing.assert_array_equal(positive, b > 0)
        assert np.all(np.abs(np.log(a[positive]) - np.log(b[positive])) <= LOG_P)


def close(a, b, error=0.0) -> None:
    """Within 1e-10 (|x| + SE), NaN in the same places."""
    a, b = np.asarray(a, float), np.asarray(b, float)
    np.testing.assert_array_equal(np.isnan(a), np.isnan(b))
    known = ~np.isnan(a)
    limit = CLOSE * (np.abs(b) + np.asarray(error, float))
    assert np.all((np.abs(a - b) <= limit)[known])


def hostile(genes: int, samples: int, seed: int) -> anndata.AnnData:
    """Ordinary genes, and outliers, groups of zeros, single counts, genes without any."""
    adata = datasets.simulate(genes=genes, samples=samples, batches=2, outliers=5, seed=seed)
    rng = np.random.default_rng(seed)
    adata.obs["age"] = rng.uniform(0.5, 2.0, samples)
    y = np.asarray(adata.X).copy()
    treated = adata.obs["condition"].to_numpy() == "treated"
    part = np.split(rng.permutation(genes), [genes // 20, genes // 10, genes // 7, genes // 6])
    y[np.ix_(treated, part[0])] = 0
    y[rng.integers(0, samples, len(part[1])), part[1]] += 10 ** rng.integers(3, 6, len(part[1]))
    y[:, part[2]] = 0
    y[rng.integers(0, samples, len(part[2])), part[2]] = 10 ** rng.integers(0, 5, len(part[2]))
    y[:, part[3]] = 0
    return anndata.AnnData(y, obs=adata.obs, var=adata.var)


# Numbers of samples and coefficients are those of the reference cases, whose functions are
# compiled for other tests, too.
@pytest.mark.parametrize(
    ("design", "samples"),
    [
        ("~ condition", 10),
        pytest.param("~ batch + condition", 16, marks=pytest.mark.slow),
        ("~ batch * condition", 24),
    ],
)
def test_hostile_data(design, samples):
    adata = hostile(400, samples, seed=samples)
    run = compared(adata, split(adata, 1, samples // 2), design, min_replicates=6)
    assert get.genes(run.adata)["replaced"].any() == (design == "~ batch * condition")


def test_continuous_covariate():
    adata = hostile(300, 16, seed=1)
    run = compared(adata, split(adata, 1, 8), "~ age + condition")
    assert list(run.cells.index) == ["condition=control", "condition=treated"]


def test_a_site_that_lacks_a_level_and_genes_without_counts_at_a_site():
    adata = datasets.simulate(genes=300, samples=24, batches=3, seed=5)
    adata.X[np.ix_(adata.obs["batch"] == adata.obs["batch"].iloc[0], np.arange(60))] = 0
    run = compared(adata, by(adata, "batch"), "~ batch + condition", rules=federated.Rules())
    assert (run.cells > 0).sum(axis=1).eq(1).all()


def test_poscounts():
    adata = hostile(300, 12, seed=2)
    compared(adata, split(adata, 5), "~ condition", size_factors="poscounts")


def test_rounds_do_not_depend_on_the_number_of_genes():
    """Forty times the genes: stragglers are rarer than one in a hundred, and a few steps longer."""
    many = datasets.simulate(genes=4000, samples=12, outliers=40, seed=9)
    few = many[:, :100].copy()
    rounds = [
        federated.simulate(split(a, 4, 8), "~ condition", rules=ANY).rounds for a in (few, many)
    ]
    assert rounds[1] <= rounds[0] + 15
    assert rounds[1] <= ROUNDS


@pytest.mark.parametrize(
    ("name", "design", "contrast"),
    [
        pytest.param(
            "lcl3", "~ study + gender", ("gender", "female", "male"), marks=pytest.mark.slow
        ),
        ("airway", "~ cell + dex", ("dex", "trt", "untrt")),
        pytest.param(
            "fission", "~ strain * C(minute)", ("strain", "mut", "wt"), marks=pytest.mark.slow
        ),
    ],
)
def test_real_data(name, design, contrast, data):
    adata = io.read_counts(data / f"{name}_counts.csv.gz", data / f"{name}_metadata.csv")
    n = adata.n_obs
    relevant = adata[:, ::5].copy()  # a fifth of the genes: the suite's time
    sites = by(relevant, "study") if name == "lcl3" else split(relevant, 1, n // 2)
    compared(relevant, sites, design, contrast)


def test_other_contrasts_and_thresholds_take_no_round(tmp_path):
    adata = datasets.simulate(genes=200, samples=24, batches=3, seed=3)
    batch, condition = adata.obs["batch"], adata.obs["condition"]
    levels = batch.cat.categories
    # Two cells of a design without interaction: products of columns tell their samples.
    groups = (
        {"batch": levels[2], "condition": "treated"},
        {"batch": [levels[1], levels[0]], "condition": "control"},
    )
    some = (batch == levels[2]) == (condition == "treated")
    adata.X[np.ix_(some, np.arange(3))] = 0  # outside of them they have counts
    run = federated.simulate(split(adata, 12), "~ batch + condition", groups, rules=ANY)
    rounds = run.rounds
    run.adata.write_h5ad(tmp_path / "fit.h5ad")
    back = anndata.read_h5ad(tmp_path / "fit.h5ad")
    tl.de(adata, "~ batch + condition", groups, settings=OFF)
    same(get.de(adata), run.table)
    assert (run.table["status"].iloc[:3] == "no_counts").all()
    names = [f"batch_{level}_vs_{levels[0]}" for level in levels[1:]]
    for spec in (
        ("batch", levels[2], levels[1]),
        (names, ["condition_treated_vs_control"]),
        groups,
        ({"batch": list(levels[1:])}, {}),
    ):
        for alternative in get_args(Alternative):
            how = {"lfc_threshold": 0.6, "alternative": alternative}
            same(tl.contrast(adata, spec, **how), tl.contrast(back, spec, **how))
            assert back.uns["de"]["contrast"] == adata.uns["de"]["contrast"]
            assert back.uns["de"]["alternative"] == alternative
    assert run.rounds == rounds


OFF = deseq.Settings(keep_if_larger=False)


def test_what_stays_at_a_site():
    adata = datasets.simulate(genes=100, samples=12, seed=4)
    sites = split(adata, 5)
    run = federated.simulate(sites, "~ condition")
    pooled = adata.copy()
    tl.de(pooled, "~ condition", settings=OFF)
    whole = get.samples(pooled)
    for name, own in sites.items():
        stays = federated.stays(run, name)
        pd.testing.assert_frame_equal(
            stays.samples, whole.loc[own.obs_names], rtol=1e-12, check_names=False
        )
        mean = stays.fitted / stays.samples["size_factor"].to_numpy()[:, None]
        treated = (own.obs["condition"] == "treated").to_numpy()
        coefficients = get.genes(run.adata)
        log2 = coefficients["log2:Intercept"] + 0 * coefficients["log2:condition[T.treated]"]
        np.testing.assert_allclose(np.log2(mean[~treated]), [log2] * (~treated).sum(), atol=1e-10)


def test_every_total_is_in_the_disclosure():
    adata = datasets.simulate(genes=100, samples=12, seed=4)
    run = federated.simulate(split(adata, 5), "~ condition")
    left = run.disclosure
    assert set(left["site"]) == {"site 0", "site 1"}
    assert left.groupby("site")["bytes"].sum().le(pd.Series(run.ledger.up)).all()
    # The first three have names only, and the fifth says what is agreed on.
    assert set(left["round"]) == {4, *range(6, run.rounds + 1)}
    assert left["samples"].isin([5, 7]).all()
    assert (left["smallest_cell_of_all"] == 6).all()
    assert (left["smallest_cell"] <= left["samples"]).all()


@pytest.mark.parametrize(
    ("rules", "design", "needs"),
    [
        (federated.Rules(min_sites=3), "~ condition", "2 sites; at least 3 are needed"),
        (federated.Rules(min_samples=7), "~ condition", "design cell 'condition=control' has 6"),
        (ANY, "~ nothing", "site site 0: the formula names column nothing"),
        (ANY, "~ scale(age)", "would be fitted to all samples together"),
        (ANY, "~ condition + copy", "not of full rank"),
    ],
)
def test_refusals_are_one_line(rules, design, needs):
    adata = datasets.simulate(genes=50, samples=12, seed=4)
    adata.obs["age"] = np.arange(12.0)
    adata.obs["copy"] = adata.obs["condition"].astype(str) + "!"
    with pytest.raises(io.InputError) as caught:
        federated.simulate(split(adata, 5), design, rules=rules)
    assert needs in str(caught.value)
    assert "\n" not in str(caught.value)
