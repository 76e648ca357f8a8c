"""F tests, plain against a loop, moderated against R's limma (``make_limma_f.R``)."""

import numpy as np
import pytest
from scipy import special, stats

from expressway._errors import InputError
from expressway.models import moderated

# QR of the same designs in another order; rounded to three decimals, the data have 1e-16 of 10.
ROUNDING = 1e-10
# limma's inverse trigamma stops at a relative step of 1e-8, after which Newton's error is 1e-16.
PRIOR = 1e-10
N = 18
GROUP = np.eye(3)[np.arange(N) % 3]
FULL = np.column_stack([np.ones(N), GROUP[:, 1:], np.linspace(-1, 1, N)])
REDUCED = FULL[:, [0, 3]]


def values(genes):
    """Values with variances that scatter, and differences between groups."""
    rng = np.random.default_rng(11)
    scale = np.sqrt(4 / rng.chisquare(4, genes))[:, None]
    mean = 6 + 0.5 * rng.normal(size=(genes, 3)) @ GROUP.T
    return mean + scale * rng.normal(size=(genes, N))


def numbers(x):
    return np.array(x, float)  # None (R's NA) becomes NaN


@pytest.mark.parametrize("name", ["scattered", "alike", "zeros"])
def test_limma(name, reference):
    r = reference("limma_f")["cases"][name]
    y, design = numbers(r["y"]), numbers(r["design"])
    exact = numbers(r["variance"]) < 1e-20
    assert np.sum(exact) == (name == "zeros")
    assert np.any(np.isnan(y)) == (name != "zeros")
    for test in r["tests"]:
        tested = np.array(test["tested"]) - 1
        ours = moderated.f_test(y, design, np.delete(design, tested, axis=1))
        assert ours.numerator == len(tested)
        np.testing.assert_array_equal(ours.freedom, r["df_residual"])
        assert ours.prior.prior_freedom == pytest.approx(float(r["df_prior"]), rel=PRIOR)
        assert ours.prior.prior_variance == pytest.approx(float(r["s2_prior"]), rel=PRIOR)
        np.testing.assert_allclose(ours.prior.variance, r["s2_post"], rtol=PRIOR)
        np.testing.assert_allclose(ours.moderated_f, numbers(test["moderated_f"]), rtol=ROUNDING)
        # A p-value of 1e-10 moves by ten times as much as its statistic.
        np.testing.assert_allclose(
            ours.moderated_p_value, numbers(test["moderated_p_value"]), rtol=10 * ROUNDING
        )
        for mine, theirs in ((ours.f, test["f"]), (ours.p_value, test["p_value"])):
            np.testing.assert_allclose(mine[~exact], numbers(theirs)[~exact], rtol=10 * ROUNDING)
        # limma divides by what rounding leaves.
        assert np.all(np.isinf(ours.f[exact]))
        assert np.all(ours.p_value[exact] == 0)


def looped(y, full, reduced, weight):
    """One gene, one model at a time, by least squares on repeated rows."""
    f, p = np.full((2, len(y)), np.nan)
    for g, gene in enumerate(y):
        rows = np.repeat(np.arange(N), weight * np.isfinite(gene))
        squares = [
            np.sum((gene[rows] - x[rows] @ np.linalg.lstsq(x[rows], gene[rows])[0]) ** 2)
            for x in (full, reduced)
        ]
        d = len(rows) - full.shape[1]
        more = full.shape[1] - reduced.shape[1]
        f[g] = (squares[1] - squares[0]) / more / (squares[0] / d)
        p[g] = stats.f.sf(f[g], more, d)
    return f, p


@pytest.mark.parametrize("reduced", [REDUCED, FULL[:, :1], GROUP, np.zeros((N, 0))])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_loop(reduced, weighted):
    y = values(25)
    y[np.random.default_rng(12).random(y.shape) < 0.05] = np.nan
    weight = np.where(np.arange(N) % 5 == 0, 3, 1)
    weight[4] = 0
    times = weight if weighted else np.ones(N, int)
    ours = moderated.f_test(y, FULL, reduced, weight * 1.0 if weighted else None)
    f, p = looped(y, FULL, reduced, times)
    np.testing.assert_allclose(ours.f, f, rtol=ROUNDING)
    np.testing.assert_allclose(ours.p_value, p, rtol=10 * ROUNDING)
    np.testing.assert_array_equal(ours.freedom, np.isfinite(y) @ times - 4)


def test_genes_are_independent_given_the_prior():
    y = values(30)
    y[4, 3] = y[9, 3] = y[9, 12] = np.nan
    whole = moderated.f_test(y, FULL, REDUCED)
    for genes in ([9, 2, 4, 28], [4]):
        part = moderated.f_test(y[genes], FULL, REDUCED)
        # The same products in blocks of another size.
        np.testing.assert_allclose(part.f, whole.f[genes], rtol=ROUNDING)
        np.testing.assert_array_equal(part.freedom, whole.freedom[genes])
    shuffled = moderated.f_test(y[::-1], FULL, REDUCED)
    np.testing.assert_allclose(
        shuffled.moderated_p_value[::-1], whole.moderated_p_value, rtol=ROUNDING
    )


def test_units_of_values_and_columns_do_not_matter():
    y = values(8)
    ours = moderated.f_test(y, FULL, REDUCED)
    other = moderated.f_test(1e5 * y, FULL * [1, 1e4, 1, 1e-5], REDUCED * [1e3, 1])
    np.testing.assert_allclose(other.f, ours.f, rtol=ROUNDING)
    np.testing.assert_allclose(
        other.prior.prior_variance, 1e10 * ours.prior.prior_variance, rtol=ROUNDING
    )


def test_tiny_p_values():
    """With two degrees of freedom above, the tail is ``(1 + 2 F / d) ** (-d / 2)``."""
    n = 200
    x = np.column_stack([np.ones(n), np.eye(3)[np.arange(n) % 3][:, 1:]])
    effect = np.array([[3.0], [10.0], [40.0], [1000.0]])
    y = effect * x[:, 1] + np.random.default_rng(13).normal(size=(4, n))
    ours = moderated.f_test(y, x, x[:, :1])
    assert ours.p_value[2] < 1e-200 < ours.p_value[1] < 1e-100 < ours.p_value[0] < 1e-30
    log = -(n - 3) / 2 * np.log1p(2 * ours.f / (n - 3))
    held = log > np.log(np.finfo(float).tiny)
    assert np.sum(held) == 3
    np.testing.assert_allclose(np.log(ours.p_value[held]), log[held], rtol=1e-12)
    assert ours.p_value[3] == 0  # below what a double holds


def test_infinite_prior_freedom_is_chi_squared():
    # The same residuals in each gene: nothing scatters, the prior is all there is.
    y = np.repeat(values(1), 6, axis=0) + np.arange(6.0)[:, None] * FULL[:, 1]
    ours = moderated.f_test(y, FULL, REDUCED)
    assert ours.prior.prior_freedom == np.inf
    # The mean of equal numbers.
    np.testing.assert_allclose(ours.prior.variance, ours.prior.prior_variance, rtol=1e-12)
    np.testing.assert_allclose(
        ours.moderated_p_value, stats.chi2.sf(2 * ours.moderated_f, 2), rtol=1e-12
    )


def test_genes_without_a_test_are_nan_and_stay_alone():
    y = values(12)
    y[0, GROUP[:, 1] == 1] = np.nan  # a group is gone: the design has lost a column
    y[1, 4:] = np.nan  # as many values as coefficients
    y[2] = np.nan
    y[3] = 7.3  # constant, and not a number of few bits
    y[4, :2] = np.nan
    y[4, 2:] = 0.0
    ours = moderated.f_test(y, FULL, REDUCED)
    others = moderated.f_test(y[5:], FULL, REDUCED)
    for found in (ours.f, ours.p_value, ours.moderated_f, ours.moderated_p_value):
        np.testing.assert_array_equal(np.isnan(found), np.arange(12) < 5)
    np.testing.assert_array_equal(ours.freedom, [0, 0, 0, N - 4, N - 6] + [N - 4] * 7)
    # Sums over the same genes, in matrices of other shapes.
    np.testing.assert_allclose(ours.moderated_f[5:], others.moderated_f, rtol=ROUNDING)
    assert ours.prior.prior_freedom == pytest.approx(others.prior.prior_freedom, rel=ROUNDING)


def test_no_gene_has_a_test():
    ours = moderated.f_test(np.full((3, N), 2.0), FULL, REDUCED)
    assert np.all(np.isnan(ours.moderated_p_value))
    assert ours.prior.prior_freedom == 0
    assert moderated.f_test(np.zeros((0, N)), FULL, REDUCED).f.shape == (0,)
    # Weights that leave too few samples, as leaving out a group does.
    ours = moderated.f_test(values(3), FULL, REDUCED, GROUP[:, 0])
    assert np.all(np.isnan(ours.f))
    assert np.all(ours.freedom == 0)


def test_almost_constant_genes_keep_their_test():
    y = values(6)
    ours = moderated.f_test(y, FULL, REDUCED)
    # 1e-8 of noise on 6: eight digits are left in it.
    small = moderated.f_test(6 + 1e-8 * (y - 6), FULL, REDUCED)
    np.testing.assert_allclose(small.f, ours.f, rtol=1e-5)


def prior_by_search(variance, freedom):
    """The moment equations of Smyth 2004, section 6.2, solved by bisection."""
    e = np.log(variance) - special.digamma(freedom / 2) + np.log(freedom / 2)
    wanted = np.var(e, ddof=1) - np.mean(special.polygamma(1, freedom / 2))
    low, high = 1e-9, 1e9
    for _ in range(200):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if special.polygamma(1, middle) > wanted else (low, middle)
    d0 = 2 * low
    return d0, np.exp(np.mean(e) + special.digamma(d0 / 2) - np.log(d0 / 2))


@pytest.mark.parametrize("d0", [0.1, 0.7, 5, 40])
def test_squeeze_solves_the_moment_equations(d0):
    rng = np.random.default_rng(14)
    freedom = rng.integers(2, 30, 3000) * 1.0
    true = 0.3 * d0 / np.maximum(rng.chisquare(d0, 3000), 1e-30)
    variance = true * rng.chisquare(freedom) / freedom
    variance = np.maximum(variance, 2e-5 * np.median(variance))  # above limma's floor
    found = moderated.squeeze(variance, freedom)
    expected = prior_by_search(variance, freedom)
    np.testing.assert_allclose(found[:2], expected, rtol=1e-9)
    # Of 3000 variances; what is cut off above and below is felt at .1.
    assert found.prior_freedom == pytest.approx(d0, rel=0.2 if d0 > 0.5 else 1.0)
    weight = found.prior_freedom + freedom
    posterior = (found.prior_freedom * found.prior_variance + freedom * variance) / weight
    np.testing.assert_allclose(found.variance, posterior, rtol=1e-14)


def test_squeeze_leaves_out_what_is_not_known():
    rng = np.random.default_rng(15)
    variance, freedom = rng.chisquare(4, 40) * rng.chisquare(3, 40), np.full(40, 4.0)
    alone = moderated.squeeze(variance, freedom)
    more = moderated.squeeze(
        np.concatenate([variance, [np.nan, 99.0, np.nan]]), np.append(freedom, [4, 0, 0])
    )
    assert more[:2] == alone[:2]
    np.testing.assert_array_equal(more.variance[:40], alone.variance)
    # A product and a quotient.
    prior = alone.prior_variance
    np.testing.assert_allclose(more.variance[40:], [np.nan, prior, prior], rtol=1e-15)


def test_squeeze_of_few_genes():
    one = moderated.squeeze(np.array([2.0, np.nan]), np.array([3.0, 3.0]))
    assert one[:2] == (0.0, 2.0)
    np.testing.assert_array_equal(one.variance, [2.0, np.nan])
    none = moderated.squeeze(np.array([np.nan]), np.array([0.0]))
    assert none.prior_freedom == 0
    assert np.isnan(none.prior_variance)
    assert np.isnan(none.variance[0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": np.linspace(-1, 1, N)}, "sample 0 has -1.0"),
        ({"weight": np.append(np.ones(N - 1), np.nan)}, f"sample {N - 1} has nan"),
        (
            {"y": np.where(np.arange(N) == 3, -np.inf, np.ones((2, N)))},
            "gene 0 is -inf in sample 3",
        ),
        ({"reduced": np.arange(N)[:, None] ** 2.0}, "reduced design is no combination"),
        ({"full": FULL[:, [0, 0, 1]]}, "full design has 3 columns of rank 2"),
    ],
)
def test_what_cannot_be_is_refused(change, message):
    arguments = {"y": values(2), "full": FULL, "reduced": REDUCED, **change}
    with pytest.raises(InputError, match=message) as error:
        moderated.f_test(**arguments)
    assert "\n" not in str(error.value)
