import numpy as np

from expressway.models.multiple_testing import benjamini_hochberg, independent_filter


def test_benjamini_hochberg_is_r_s_p_adjust(reference):
    r = reference("lowess")["benjamini_hochberg"]
    p, theirs = np.array(r["p"], float), np.array(r["adjusted"], float)
    ours = benjamini_hochberg(p)
    assert np.isnan(p).sum() == 4
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(p))
    np.testing.assert_allclose(ours, theirs, rtol=1e-14)  # a product and a quotient


def test_nothing_tested():
    assert np.all(np.isnan(benjamini_hochberg(np.full(4, np.nan))))
    found = independent_filter(np.full(4, np.nan), np.arange(4.0))
    assert np.all(np.isnan(found.p_adj))
    assert not np.any(found.filtered)
    assert np.all(np.isnan(independent_filter(np.full(3, np.nan), np.zeros(3)).p_adj))


def test_filter_takes_r_s_threshold_from_r_s_p_values(case):
    for name in ("two_group", "batch", "replicates", "interaction", "no_intercept", "small"):
        c = case(name)
        for contrast, r in zip(c.contrasts, c.json["results"], strict=True):
            found = independent_filter(contrast.table["pvalue"], c.table["baseMean"])
            np.testing.assert_allclose(found.threshold, r["filter_threshold"], rtol=1e-12)
            np.testing.assert_allclose(found.p_adj, contrast.table["padj"], rtol=1e-12)
            known = np.isfinite(contrast.table["pvalue"])
            np.testing.assert_array_equal(found.filtered, known & np.isnan(contrast.table["padj"]))


def test_filter_drops_low_means_only_when_it_pays():
    rng = np.random.default_rng(4)
    mean = np.exp(rng.normal(3, 2, 4000))
    strong = rng.random(4000) < 0.3
    p = rng.random(4000)
    p[strong & (mean > 20)] **= 6
    found = independent_filter(p, mean)
    assert found.threshold > np.quantile(mean, 0.2)
    np.testing.assert_array_equal(found.filtered, mean < found.threshold)
    np.testing.assert_array_equal(np.isnan(found.p_adj), found.filtered)
    assert np.sum(found.p_adj < 0.1) > np.sum(benjamini_hochberg(p) < 0.1)
    # Ten calls or fewer: nothing is filtered.
    null = independent_filter(rng.random(4000), mean)
    assert not np.any(null.filtered)
    assert null.threshold == mean.min()
