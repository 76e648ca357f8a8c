"""Folds, designs of groups, grids, and intervals of curves."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from expressway._errors import InputError
from expressway.models import course
from expressway.models import curves as cv
from expressway.models.course import Plan
from expressway.models.curves import Posterior
from expressway.models.spline import basis, evaluate

TIMES = np.repeat([0.0, 1, 2, 4, 8, 24], 2)
N = len(TIMES)


def plan(*, groups=("",), replicate=True):
    n = N * len(groups)
    return Plan(
        np.tile(TIMES, len(groups)),
        np.repeat(np.arange(len(groups)), N),
        groups,
        np.arange(n) % 2 if replicate else None,
        tuple(f"s{i}" for i in range(n)),
    )


def names(found):
    return [fold.name for fold in found]


def test_folds_of_times():
    of = plan(groups=("a", "b"))
    among = [0.0, 1.0, 2.0, 4.0]
    found = course.folds(of, 2, "times", among, 100)
    assert names(found) == ["0+1", "0+2", "0+4", "1+2", "1+4", "2+4"]  # in combinations' order
    for fold, left in zip(found, itertools.combinations(among, 2), strict=True):
        # All samples of all groups at them.
        np.testing.assert_array_equal(np.sort(fold.rows), np.flatnonzero(np.isin(of.time, left)))
        assert len(fold.rows) == 8
        np.testing.assert_array_equal(fold.weight(24), ~np.isin(of.time, left))
    assert names(course.folds(of, 4, "times", among, 100)) == ["0+1+2+4"]


def test_folds_of_samples_and_replicates():
    of = plan()
    assert names(course.folds(of, 1, "samples", [], 100)) == list(of.sample)
    assert len(course.folds(of, 2, "samples", [], 100)) == math.comb(12, 2)
    one, two = course.folds(of, 1, "replicates", [], 100)
    assert (one.name, two.name) == ("replicate 1", "replicate 2")
    np.testing.assert_array_equal(one.rows, np.arange(0, 12, 2))
    np.testing.assert_array_equal(two.rows, np.arange(1, 12, 2))


def test_of_many_sets_some_are_taken():
    of = plan()
    every = names(course.folds(of, 3, "samples", [], 10**6))
    assert every == ["+".join(each) for each in itertools.combinations(of.sample, 3)]
    for most in (1, 2, 7, 100, 219, 220):
        some = names(course.folds(of, 3, "samples", [], most))
        assert len(set(some)) == most
        places = [every.index(each) for each in some]
        assert places == sorted(places)
        assert places[0] == 0
        if most > 1:
            assert places[-1] == 219  # from first to last,
            assert np.ptp(np.diff(places)) <= 1  # at equal distances


def test_sets_that_no_one_could_list():
    """10¹⁴ sets of 25 of 50 samples: those that are taken are found by their place."""
    of = Plan(np.arange(50.0), np.zeros(50, int), ("",), None, tuple(map(str, range(50))))
    found = course.folds(of, 25, "samples", [], 5)
    assert [len(np.unique(fold.rows)) for fold in found] == [25] * 5
    np.testing.assert_array_equal(found[0].rows, np.arange(25))
    np.testing.assert_array_equal(found[-1].rows, np.arange(25, 50))


@pytest.mark.parametrize(
    ("size", "of", "among", "message"),
    [
        (0, "times", [1.0], "0 times to leave out together of 1; needed are fewer, at least 1"),
        (3, "times", [0.0, 1.0], "3 times to leave out together of 2"),
        (1, "times", [], "1 times to leave out together of 0"),
        (12, "samples", [], "12 samples to leave out together of 12; needed are fewer"),
        (2, "replicates", [], "2 replicates to leave out together of 2"),
    ],
)
def test_folds_that_are_none(size, of, among, message):
    with pytest.raises(InputError, match=message) as caught:
        course.folds(plan(), size, of, among, 100)
    assert "\n" not in str(caught.value)


def test_replicates_need_their_column():
    with pytest.raises(InputError, match="needs the column that numbers them"):
        course.folds(plan(replicate=False), 1, "replicates", [], 100)


def test_a_curve_for_each_group():
    of = plan(groups=("a", "b"))
    b = basis(TIMES, 4)
    x = course.design(b, of.time, of.group, 2)
    assert x.shape == (24, 8)
    one = evaluate(b, TIMES)
    np.testing.assert_array_equal(x, np.block([[one, 0 * one], [0 * one, one]]))
    # Fitted together they are what they are alone, but for the level.
    rng = np.random.default_rng(0)
    y = rng.normal(size=(5, 24))
    whole = cv.Curves(y, None, cv.frame(x), 0.0).fit(np.ones(24))
    both = whole.coefficients[:, :1] + whole.coefficients[:, 1:] @ cv.frame(x).u.T
    for k in (0, 1):
        own = slice(12 * k, 12 * k + 12)
        alone = cv.Curves(y[:, own], None, cv.frame(one), 0.0).fit(np.ones(12))
        fitted = alone.coefficients[:, :1] + alone.coefficients[:, 1:] @ cv.frame(one).u.T
        np.testing.assert_allclose(both[:, own], fitted, atol=1e-12)


def test_singular_folds():
    b = basis(TIMES, 4, indicators=(24.0,))
    frame = cv.frame(evaluate(b, TIMES))
    given = course.folds(plan(), 1, "times", np.unique(TIMES).tolist(), 100)
    found = course.comparable([frame], given)
    assert names(found.folds) == ["0", "1", "2", "4", "8"]
    ((fold, (eigenvalue,)),) = found.excluded
    assert fold.name == "24"
    assert abs(eigenvalue) < cv.SINGULAR
    pairs = course.folds(plan(), 2, "times", np.unique(TIMES).tolist(), 100)
    two = course.comparable([frame], pairs)
    # Of six times five make up the spline's four columns and one the last: two cannot be missed.
    assert len(two.folds) == 0
    assert len(two.excluded) == 15


def test_folds_are_compared_where_every_basis_keeps_enough():
    frames = [cv.frame(evaluate(basis(TIMES, df), TIMES)) for df in (4, 5)]
    given = course.folds(plan(), 1, "times", np.unique(TIMES).tolist(), 100)
    share = np.array(
        [[cv.information_left(f, g.weight(len(TIMES))) for f in frames] for g in given]
    )
    limit = float(np.sort(share.min(axis=1))[2])
    found = course.comparable(frames, given, limit)
    kept = share.min(axis=1) > limit
    assert names(found.folds) == [g.name for g, k in zip(given, kept, strict=True) if k]
    assert 0 < len(found.folds) < len(given)
    for fold, left in found.excluded:
        np.testing.assert_array_equal(left, share[[g.name for g in given].index(fold.name)])


def test_a_grid():
    b = basis(TIMES, 4, indicators=(24.0,))
    found = course.grid(b, TIMES, 5)
    np.testing.assert_array_equal(found.time, [0, 1, 2, 4, 6, 8, 24])
    np.testing.assert_array_equal(found.indicator, [False] * 6 + [True])
    factor = course.grid(basis(TIMES, kind="factor"), TIMES, 5)
    np.testing.assert_array_equal(factor.time, np.unique(TIMES))
    assert np.all(factor.indicator)
    cyclic = course.grid(basis(TIMES, 3, kind="cyclic", period=48.0), TIMES, 3)
    np.testing.assert_array_equal(cyclic.time, [0, 1, 2, 4, 8, 24, 48])


def known(freedom, genes=3, c=4):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(genes, c, c))
    return Posterior(
        rng.normal(size=(genes, c)), a @ a.swapaxes(1, 2), np.full(genes, float(freedom))
    )


@pytest.mark.parametrize("freedom", [3, 30, np.inf])
@pytest.mark.parametrize("block", [2, 100])
def test_bands(freedom, block, monkeypatch):
    monkeypatch.setattr(course, "BLOCK", block)
    of = known(freedom)
    rows = np.random.default_rng(1).normal(size=(7, 4))
    found = course.band(of, rows, 0.9)
    quantile = stats.norm.ppf(0.95) if np.isinf(freedom) else stats.t.ppf(0.95, freedom)
    for g in range(3):
        se = np.sqrt([row @ of.covariance[g] @ row for row in rows])
        np.testing.assert_allclose(found.mean[g], rows @ of.mean[g], rtol=1e-12)
        np.testing.assert_allclose(found.upper[g] - found.mean[g], quantile * se, rtol=1e-10)
        np.testing.assert_allclose(found.mean[g] - found.lower[g], quantile * se, rtol=1e-10)


def test_bands_hold():
    """Between the samples' times too, 90 % of intervals have the truth; so of group differences."""
    of = plan(groups=("a", "b"))
    b = basis(TIMES, 4)
    x = course.design(b, of.time, of.group, 2)
    rng = np.random.default_rng(4)
    genes = 3000
    beta = rng.normal(size=(genes, 8))
    y = 9 + beta @ x.T + rng.gamma(2, size=(genes, 1)) * rng.normal(size=(genes, 24))
    stage = cv.Curves(y, None, cv.frame(x), 0.0)
    at = np.array([0.5, 7.0, 20.0])
    rows = [course.rows_at(b, stage.frame, at, k, 2) for k in (0, 1)]
    there = evaluate(b, at)
    truth = [9 + beta[:, 4 * k : 4 * k + 4] @ there.T for k in (0, 1)]
    for what, value in ((rows[0], truth[0]), (rows[1] - rows[0], truth[1] - truth[0])):
        found = course.band(stage.posterior(), what, 0.9)
        inside = np.mean((found.lower < value) & (value < found.upper), axis=0)
        # Five standard errors of a share of 3000.
        np.testing.assert_allclose(inside, 0.9, atol=5 * np.sqrt(0.09 / genes))


@pytest.mark.parametrize("freedom", [5, np.inf])
def test_draws(freedom):
    of = known(freedom)
    rows = np.random.default_rng(1).normal(size=(2, 4))
    number = 20_000
    found = course.draws(of, rows, number, np.random.default_rng(3))
    assert found.shape == (number, 3, 2)
    z = (found - of.mean @ rows.T) / np.sqrt(np.einsum("mi,gij,mj->gm", rows, of.covariance, rows))
    reference = stats.norm() if np.isinf(freedom) else stats.t(freedom)
    # Kolmogorov's distance of n draws is below 2 / sqrt(n) but for a share of 7e-4.
    for g, m in itertools.product(range(3), range(2)):
        assert stats.kstest(z[:, g, m], reference.cdf).statistic < 2 / np.sqrt(number)
    # A draw is a curve: its values belong together.
    for g in range(3):
        covariance = rows @ of.covariance[g] @ rows.T
        expected = covariance[0, 1] / np.sqrt(covariance[0, 0] * covariance[1, 1])
        got = stats.spearmanr(z[:, g, 0], z[:, g, 1]).statistic
        # Of a normal 6/π asin(r/2) with a standard error of 1/sqrt(n), .007; of Student's t near.
        assert got == pytest.approx(6 / np.pi * np.arcsin(expected / 2), abs=0.05)
    again = course.draws(of, rows, 3, np.random.default_rng(3))
    np.testing.assert_array_equal(again, course.draws(of, rows, 3, np.random.default_rng(3)))
