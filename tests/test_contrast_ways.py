"""Forty random contrasts, each said in every way there is, thresholds included: the same p-values.

Of one fit the ways differ by the rounding of sums. Another reference level makes another fit: the
ridge of 1e-6 (log2 scale) is on that design's own coefficients, and moves an estimate by
``cov (ridge of one design - ridge of the other)``, a few 1e-5 of its standard error where
coefficients are large; that is nearly all there is (`benchmarks/contrasts.py`).
"""

import anndata
import numpy as np
import pandas as pd
import pytest

import contrast_ways
from expressway import datasets, io, tl

SAME = 1e-9  # of one fit
# An estimate moves by 2e-6 (the ridge, natural log) times its standard error times coefficients of
# 10 or so from reference to reference: z by 4e-5 at most, log p by (|z| + 1) times that, which is
# below 1e-4 of max(-log p, 1). Measured: 2.4e-5.
REFITTED = 1e-4
UNFILTERED = tl.Settings(independent_filtering=False)  # of p-values only: the tests' time


def counts(seed: int) -> anndata.AnnData:
    """Samples of strain x minute x batch, twice each, with groups and cells without counts."""
    adata = datasets.simulate(genes=80, samples=24, outliers=3, seed=seed)
    y = np.asarray(adata.X).copy()
    number = np.arange(24)
    adata.obs = pd.DataFrame(
        {
            "strain": np.array(["wt", "mut"])[number % 2],
            "minute": np.array(["0", "15"])[number // 2 % 2],
            "batch": np.array(["a", "b", "c"])[number // 4 % 3],
        },
        index=adata.obs_names,
    )
    # Groups and cells of zeros, and cells' own changes.
    rng = np.random.default_rng(seed)
    for genes, of in ((slice(0, 6), ["strain"]), (slice(6, 10), ["strain", "minute"])):
        keys = adata.obs[of].agg(" ".join, axis=1)
        y[np.ix_(keys == keys.iloc[0], np.arange(80)[genes])] = 0
    cell = number % 12
    y[:, 10:40] = rng.binomial(y[:, 10:40], rng.uniform(0.3, 1, (12, 30))[cell])
    adata.X = y
    return adata


@pytest.fixture(scope="module")
def fitted():
    """By design: fits with reference levels of all factors as they are, one other, all others."""
    return {
        formula: contrast_ways.fits(counts(seed), formula, references, settings=UNFILTERED)
        for formula, seed, references in (
            ("~ strain * minute", 1, [{"strain": "wt"}, {"strain": "mut", "minute": "15"}]),
            ("~ batch + strain", 2, [{}, {"batch": "b", "strain": "wt"}]),
        )
    }


@pytest.mark.parametrize("formula", ["~ strain * minute", "~ batch + strain"])
def test_forty_random_contrasts_in_all_ways(formula, fitted):
    fits = fitted[formula]
    rng = np.random.default_rng(5)
    said, compared, small = set(), 0, 0
    for ways in contrast_ways.contrasts(fits, 20, seed=6):
        for one in contrast_ways.compare(fits, ways, float(rng.uniform(0.2, 1.5))):
            moved, log = np.abs(one.log_p), np.abs(one.log)
            known = np.isfinite(moved)
            limit = REFITTED if one.way.startswith("releveled") else SAME
            assert np.all(moved[known] <= limit * np.maximum(log[known], 1.0)), one[:2]
            if one.way == "reversed":
                assert not moved[known].any()
                np.testing.assert_array_equal(one.change[np.isfinite(one.change)], 0.0)
            # Rules on who takes part differ between some ways; of few genes.
            assert one.excepted <= 10
            said.add(one.way)
            compared += np.sum(known)
            small += np.sum(log[known] > 20)
    assert said == {
        "reversed", "lists", "weights", "averages", "releveled: weights", "releveled: averages",
    }  # fmt: skip
    assert compared > 20_000
    assert small > 500


def test_the_public_ways_are_the_same():
    adata = counts(2)
    tl.de(adata, "~ batch + strain")
    base = tl.contrast(adata, ("batch", "c", "a"), lfc_threshold=0.5, alternative="greater")
    assert adata.uns["de"]["contrast"] == "batch c vs a"
    assert adata.uns["de"]["lfc_threshold"] == 0.5
    assert adata.uns["de"]["alternative"] == "greater"
    other = tl.contrast(
        adata, ({"batch": "a"}, {"batch": "c"}), lfc_threshold=0.5, alternative="less"
    )
    assert adata.uns["de"]["contrast"] == "batch=a vs batch=c"
    pd.testing.assert_series_equal(base["p_value"], other["p_value"], check_exact=True)
    many = tl.contrasts(adata, "batch", "a", lfc_threshold=0.5, alternative="greater")
    assert many.uns["lfc_threshold"] == 0.5
    assert many.uns["alternative"] == "greater"
    at = many.obs["level"].tolist().index("c")
    # Sums in another order.
    np.testing.assert_allclose(many.layers["p_value"][at], base["p_value"], rtol=1e-9)
    for wrong in ({"lfc_threshold": -1}, {"alternative": "both"}, {"alternative": "lessAbs"}):
        with pytest.raises(io.InputError):
            tl.contrast(adata, "strainwt", **wrong)
        with pytest.raises(io.InputError):
            tl.contrasts(adata, "batch", **wrong)
    # What was tested last is still there, and influence is of the test of no change.
    assert adata.uns["de"]["alternative"] == "less"
