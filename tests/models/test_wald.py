"""Tests against thresholds: R's, the formulas in many digits, and what must be the same.

`EXACT` was printed by this script (mpmath 1.3.0)::

    from mpmath import erfc, mp, mpf, nstr, sqrt

    mp.dps = 40
    for b, s in EXACT:
        x, e = mpf(b), mpf(s)  # the doubles nearest to what is written
        q = lambda z: erfc(z / e / sqrt(mpf(2))) / 2
        two = q(abs(x) - 1)
        p = two + q(abs(x) + 1), min(mpf(1), 2 * two), q(1 - abs(x)), q(x - 1), q(-x - 1)
        print(f"    ({b}, {s}): [{', '.join(nstr(value, 17) for value in p)}],")
"""

import numpy as np
import pandas as pd
import pytest
from test_real import LOG_P, load

from expressway._errors import InputError
from expressway.models.results import Other, Takers, results
from expressway.models.wald import Threshold, Wald, against, threshold

ALTERNATIVES = ("greaterAbs", "greaterAbs2014", "lessAbs", "greater", "less")
# Log2 fold change and standard error, and the p-value of each alternative at threshold 1.
EXACT = {
    (0.0, 0.5): [1.0, 1.0, 0.022750131948179207, 0.97724986805182079, 0.97724986805182079],
    (1.0, 0.25): [0.50000000000000062, 1.0, 0.5, 0.5, 0.99999999999999938],
    (-1.0, 0.25): [0.50000000000000062, 1.0, 0.5, 0.99999999999999938, 0.5],
    (0.4, 0.3): [
        0.97725139867855732,
        1.0,
        0.022750131948179207,
        0.97724986805182079,
        0.99999846937326347,
    ],
    (-0.9, 2.0): [
        0.69099493214685426,
        1.0,
        0.48006119416162754,
        0.82894387369151819,
        0.51993880583837246,
    ],
    (1.2, 0.04): [
        2.8665157187919572e-7,
        5.7330314375839143e-7,
        0.99999971334842812,
        2.8665157187919572e-7,
        1.0,
    ],
    (-3.0, 0.2): [7.6198530241605688e-24, 1.5239706048321138e-23, 1.0, 1.0, 7.6198530241605688e-24],
    (4.5, 0.1): [
        1.1249107064724828e-268,
        2.2498214129449656e-268,
        1.0,
        1.1249107064724828e-268,
        1.0,
    ],
    (-9.0, 0.22): [
        7.9995840121776332e-290,
        1.5999168024355266e-289,
        1.0,
        1.0,
        7.9995840121776332e-290,
    ],
    (30.0, 0.8): [
        4.9685065965407644e-288,
        9.9370131930815288e-288,
        1.0,
        4.9685065965407644e-288,
        1.0,
    ],
}


def test(b, se) -> Wald:
    """Of these numbers, log2, without a statistic."""
    nothing = np.full(len(b), np.nan)
    return Wald(np.array(b, float), np.array(se, float), nothing, nothing)


test.__test__ = False


@pytest.mark.parametrize("alternative", ALTERNATIVES)
def test_the_formulas_far_into_the_tails(alternative):
    b, se = np.transpose(list(EXACT))
    found = against(test(b, se), Threshold(1.0, alternative)).p_value
    want = np.array(list(EXACT.values()))[:, ALTERNATIVES.index(alternative)]
    # z is rounded twice, to 2e-16 of it, and z² as much of p; SciPy's ndtr has 1e-14.
    z = (np.abs(b) + 1) / se
    assert np.all(np.abs(found - want) <= (2.5e-16 * z**2 + 1e-14) * want)
    assert np.min(want) < (1e-280 if alternative != "lessAbs" else 0.1)


def test_statistics_are_distances_beyond_the_threshold():
    found = {
        a: against(test([3, -3, 0.5, -0.5], [0.5] * 4), Threshold(1.0, a)) for a in ALTERNATIVES
    }
    assert found["greaterAbs"].stat.tolist() == [4, -4, 0, 0]
    assert found["greaterAbs2014"].stat.tolist() == [4, -4, 0, 0]
    assert found["lessAbs"].stat.tolist() == [0, 0, 1, 1]
    assert found["greater"].stat.tolist() == [4, 0, 0, 0]
    assert found["less"].stat.tolist() == [0, -4, 0, 0]
    assert found["greaterAbs"].log2_fold_change.tolist() == [3, -3, 0.5, -0.5]


def test_without_an_error_there_is_no_p_value():
    found = against(test([3.0, np.nan], [0.0, np.nan]), Threshold(1.0, "lessAbs"))
    assert np.isnan(found.stat).all()
    assert np.isnan(found.p_value).all()


@pytest.mark.parametrize(
    ("value", "alternative", "expected"),
    [
        (-0.5, "greaterAbs", "lfc_threshold, a log2 fold change, must be 0 or above, but is -0.5"),
        (np.nan, "greater", "must be 0 or above, but is nan"),
        (np.inf, "less", "must be 0 or above, but is inf"),
        (0, "lessAbs", "lfc_threshold must be above 0 for the alternative lessAbs, but is 0"),
        (1, "two.sided", "alternative must be one of greaterAbs, greaterAbs2014, lessAbs, greater"),
    ],
)
def test_refused(value, alternative, expected):
    with pytest.raises(InputError) as caught:
        threshold(value, alternative)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_thresholds_are_of_wald_tests(fitted, case):
    fit = fitted("small").fit
    contrast = case("small").contrasts[0]
    nothing = np.zeros(len(case("small").genes))
    with pytest.raises(InputError, match="thresholds are of Wald tests: greater 0 cannot be asked"):
        results(
            fit,
            contrast.vector,
            contrast.takers,
            Other(nothing, nothing),
            Threshold(0.0, "greater"),
        )


def asked(c, contrast) -> tuple[np.ndarray, Takers]:
    """Weights of R's contrast, and the samples that take part by its rules."""
    names, columns = c.json["coefficient_names"], c.json["design_columns"]
    if isinstance(contrast[0], list):
        plus, minus = ([name in part for name in names] for part in contrast)
        vector = np.array(plus, float) - np.array(minus, float)
        signs = set(np.sign(vector)) - {0.0}
        if signs == {1.0, -1.0}:
            return vector, Takers(0.0, (vector != 0).astype(float))
        return vector, Takers(1.0, np.zeros(len(names)))
    factor, level, other = contrast
    vector = np.array([float(name == f"{factor}_{level}_vs_{other}") for name in names])
    if not vector.any():
        vector = -np.array([float(name == f"{factor}_{other}_vs_{level}") for name in names])
    levels = set(c.json["levels"][factor]) - {level, other}
    return vector, Takers(1.0, -np.array([float(n[len(factor) :] in levels) for n in columns]))


def test_against_r(case, fitted, reference):
    tests = reference("thresholds")["tests"]
    emptied = 0
    for one in tests:
        c, fit = case(one["case"]), fitted(one["case"]).fit
        vector, takers = asked(c, one["contrast"])
        for alternative, theirs in one["alternatives"].items():
            limit = Threshold(one["threshold"], alternative)
            found = results(fit, vector, takers, threshold=limit)
            p, r_p = found.wald.p_value, np.array(theirs["pvalue"], float)
            np.testing.assert_array_equal(np.isnan(p), np.isnan(r_p))
            known = np.isfinite(p) & np.isfinite(c.table["dispersion"])
            # Twice the relative difference of z (TOLERANCES.md), of which b is larger by T / se.
            log, r_log = -np.log10(p[known]), -np.log10(r_p[known])
            assert np.all(np.abs(log - r_log) <= 0.005 * np.maximum(r_log, 0.1))
            stat, r_stat = found.wald.stat, np.array(theirs["stat"], float)
            # In standard errors: .002 of the coefficient, 5e-4 of the error itself.
            np.testing.assert_allclose(stat[known], r_stat[known], rtol=2e-3, atol=5e-3)
            emptied += np.sum(found.status == "no_counts")
    assert emptied >= 4  # the rule on genes without counts was met


@pytest.mark.parametrize("name", ["batch", "no_intercept"])
def test_reversed_contrasts_and_many_at_once(name, case, fitted):
    fit = fitted(name).fit
    vector, takers = case(name).contrasts[1].vector, case(name).contrasts[1].takers
    other_way = {"greater": "less", "less": "greater"}
    for alternative in ALTERNATIVES:
        limit = Threshold(0.7, alternative)
        one = results(fit, vector, takers, threshold=limit)
        other = limit._replace(alternative=other_way.get(alternative, alternative))
        two = results(fit, -vector, takers, threshold=other)
        np.testing.assert_array_equal(one.wald.p_value, two.wald.p_value)
        np.testing.assert_array_equal(one.adjusted.p_adj, two.adjusted.p_adj)
        assert list(one.status) == list(two.status)
        sign = 1.0 if alternative == "lessAbs" else -1.0
        np.testing.assert_array_equal(one.wald.stat, sign * two.wald.stat)


def test_no_threshold_is_wald_s_test(case, fitted):
    c = case("batch").contrasts[1]
    fit = fitted("batch").fit
    plain = results(fit, c.vector, c.takers)
    said = results(fit, c.vector, c.takers, threshold=threshold(0, "greaterAbs"))
    for a, b in zip(plain.wald, said.wald, strict=True):
        np.testing.assert_array_equal(a, b)
    # And so is the limit of the two-sided test at a threshold that is nearly none.
    near = results(fit, c.vector, c.takers, threshold=threshold(1e-300, "greaterAbs"))
    np.testing.assert_allclose(near.wald.p_value, plain.wald.p_value, rtol=1e-12)


@pytest.mark.parametrize("alternative", ["greaterAbs2014", "lessAbs", "greater", "less"])
def test_airway_against_r(alternative, data):
    real = load("airway", data)
    last = np.eye(real.design.shape[1])[-1]
    limit = Threshold(1.0, alternative)
    found = results(real.fit, last, Takers(1.0, np.zeros(len(last))), threshold=limit)
    r_name = alternative.removesuffix("2014")  # DESeq2 1.38's greaterAbs
    file = data / "reference" / f"airway.deseq2.lfcthreshold1_{r_name}.every5.csv.gz"
    r = pd.read_csv(file)
    assert list(r["gene"]) == list(real.r["gene"][::5])
    for ours, theirs in ((found.wald.p_value, r["pvalue"]), (found.adjusted.p_adj, r["padj"])):
        p, r_p = ours[::5], theirs.to_numpy()
        np.testing.assert_array_equal(np.isnan(p), np.isnan(r_p))
        known = np.isfinite(p)
        # R has 0 where its p is below 1e-308, and so have we.
        log, r_log = (-np.log10(np.maximum(x[known], 1e-308)) for x in (p, r_p))
        assert np.mean(np.abs(log - r_log) <= LOG_P * np.maximum(r_log, 0.1)) >= 0.99
    call, r_call = (np.nan_to_num(x, nan=1) < 0.1 for x in (found.adjusted.p_adj[::5], r["padj"]))
    assert np.sum(call != r_call) <= max(1, 0.002 * np.sum(r_call))
