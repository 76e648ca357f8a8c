import itertools
import re

import numpy as np
import pandas as pd
import pytest
from formulaic import model_matrix

from expressway._errors import InputError
from expressway.models import spline

# Shoemaker et al. 2015: hours after infection, three mice each.
HOURS = np.repeat([0.0, 3, 6, 9, 12, 18, 24, 30, 36, 48, 60, 72, 120, 168], 3)
LATE = (72.0, 120.0, 168.0)
ROUNDING = 1e-13  # a value of a column is at most 1 and made by some ten operations
FITS = 1e-11  # a projection: rounding times the condition numbers of both bases, below 100


def recursion(t: np.ndarray, knots: np.ndarray, degree: int) -> np.ndarray:
    """B-splines by de Boor's recursion; the last interval that is not empty is closed."""
    columns = []
    for left, right in itertools.pairwise(knots):
        closed = (t == knots[-1]) & (left < right == knots[-1])
        columns.append(((left <= t) & (t < right) | closed).astype(float))
    for k in range(1, degree + 1):
        rising = [
            (t - knots[j]) / max(knots[j + k] - knots[j], 1e-300) * columns[j]
            for j in range(len(columns))
        ]
        falling = [
            (knots[j + k + 1] - t) / max(knots[j + k + 1] - knots[j + 1], 1e-300) * columns[j + 1]
            for j in range(len(columns) - 1)
        ]
        columns = [up + down for up, down in zip(rising, falling, strict=False)]
    return np.column_stack(columns)


def projection(x: np.ndarray) -> np.ndarray:
    q, _ = np.linalg.qr(x)
    return q @ q.T


def derivatives(b: spline.Basis, at: float, towards: float) -> np.ndarray:
    """Derivatives 0, 1, 2 of the columns at a knot, from the cubic between it and a near point."""
    # Four points determine the cubic; of the unit interval, so that derivatives are of order 1.
    step = towards - at
    t = at + step * np.arange(4) / 3
    powers = np.vander(np.arange(4) / 3, increasing=True)
    return np.linalg.solve(powers, spline.evaluate(b, t))[:3]


def scattered(seed: int, n: int = 40) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-20, 100, n)


@pytest.mark.parametrize(
    ("df", "knots", "smallest"),
    [
        (4, (), 0.324),
        (5, (30.0,), 0.306),
        (6, (20.0, 40.0), 0.210),
        (7, (15.0, 30.0, 45.0), 0.052),
        (8, (12.0, 24.0, 36.0, 48.0), 0.0018),
    ],
)
def test_published_experiment(df, knots, smallest):
    b = spline.basis(HOURS, df, indicators=LATE)
    assert b == ("b-spline", 3, 0.0, 60.0, knots, LATE)
    assert b.columns == df + 3
    spline.check(b, HOURS)
    x = spline.evaluate(b, HOURS)
    digits = 4 if df == 8 else 3  # as published
    assert round(np.linalg.eigvalsh(x.T @ x)[0], digits) == smallest


def test_published_matrix(data):
    file = data / "reference" / "shoemaker500.df7.k10.npz"
    if not file.exists():
        pytest.skip(f"needs {file.name} in the data folder")
    with np.load(file) as published:
        times, x = published["t"].astype(float), published["X"]
    found = spline.evaluate(spline.basis(times, 7, indicators=LATE), times)
    np.testing.assert_allclose(found, x, rtol=0, atol=1e-12)  # rounding of another program


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("how", ["equal", "quantile", "given"])
def test_b_splines_are_those_of_the_recursion(seed, how):
    rng = np.random.default_rng(seed)
    degree, inner, t = int(rng.integers(1, 6)), int(rng.integers(0, 7)), scattered(seed)
    df = degree + 1 + inner
    given = np.sort(rng.uniform(t.min(), t.max(), inner))
    knots = tuple(given.tolist()) if how == "given" else how
    b = spline.basis(t, df, degree=degree, knots=knots)
    assert len(b.knots) == inner
    if how == "equal":
        widths = np.diff([b.lower, *b.knots, b.upper])
        np.testing.assert_allclose(widths, (t.max() - t.min()) / (inner + 1), rtol=1e-12)
    if how == "quantile":
        shares = np.linspace(0, 1, inner + 2)[1:-1]
        np.testing.assert_allclose(b.knots, np.quantile(t, shares), rtol=1e-12)
    x = spline.evaluate(b, t)
    full = np.array([t.min()] * (degree + 1) + list(b.knots) + [t.max()] * (degree + 1))
    np.testing.assert_allclose(x, recursion(t, full, degree), rtol=0, atol=ROUNDING)
    assert np.min(x) >= 0
    np.testing.assert_allclose(x.sum(axis=1), 1, rtol=0, atol=ROUNDING)


def test_df_follows_from_knots():
    by_df = spline.basis(HOURS, 6, indicators=LATE)
    assert spline.basis(HOURS, knots=[20, 40], indicators=[168, 72, 120]) == by_df
    assert spline.basis(HOURS, 6, knots=[20, 40], indicators=LATE) == by_df


def test_replicates_and_order_change_no_knot():
    more = np.concatenate((HOURS[::-1], np.full(20, 9.0)))
    for knots in ("equal", "quantile"):
        few = spline.basis(HOURS, 7, knots=knots, indicators=LATE)
        assert spline.basis(more, 7, knots=knots, indicators=LATE) == few


@pytest.mark.parametrize("knots", [(), (31.0,), (5.0, 70.0), (1.0, 2.0, 50.0, 95.0)])
def test_natural_splines_are_the_space_of_cr(knots):
    t = scattered(7)
    b = spline.basis(t, kind="natural", knots=knots)
    x = spline.evaluate(b, t)
    assert x.shape[1] == b.columns == 2 + len(knots)
    if knots:  # formulaic has no natural spline without a knot
        theirs = model_matrix(f"cr(t, knots={list(knots)}) - 1", pd.DataFrame({"t": t}))
        theirs = theirs.to_numpy(float)
        assert theirs.shape == x.shape
        np.testing.assert_allclose(projection(x), projection(theirs), rtol=0, atol=FITS)
    lines = np.column_stack((np.ones(len(t)), t))
    np.testing.assert_allclose(projection(x) @ lines, lines, rtol=0, atol=100 * FITS)  # |t| <= 100
    np.testing.assert_allclose(x.sum(axis=1), 1, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("seed", range(5))
def test_natural_splines_end_straight(seed):
    rng = np.random.default_rng(seed)
    b = spline.basis(np.array([0.0, 50.0]), kind="natural", knots=sorted(rng.uniform(1, 49, 6)))
    ends = derivatives(b, 0.0, b.knots[0])[2], derivatives(b, 50.0, b.knots[-1])[2]
    # Differences of values of order 1 over a ninth of the interval: a hundred times rounding.
    np.testing.assert_allclose(ends, 0, rtol=0, atol=100 * ROUNDING)
    inside = derivatives(b, b.knots[0], b.knots[1])[2]
    assert np.max(np.abs(inside)) > 1e-3


def test_natural_splines_are_well_conditioned():
    t = np.linspace(0, 100, 5000)
    # Knots crowd at one end: intervals from 1e-3 to 90.
    b = spline.basis(t, kind="natural", knots=(1e-3, 1e-2, 0.1, 1.0, 10.0))
    x = spline.evaluate(b, np.concatenate((np.geomspace(1e-4, 100, 5000), [0.0])))
    assert np.linalg.cond(x) < 30  # that of the B-splines is 20


def test_rules_for_natural_knots_are_those_of_cr():
    t = scattered(3)
    ours = spline.evaluate(spline.basis(t, 6, kind="natural", knots="quantile"), t)
    theirs = model_matrix("cr(t, df=6) - 1", pd.DataFrame({"t": t})).to_numpy(float)
    np.testing.assert_allclose(projection(ours), projection(theirs), rtol=0, atol=FITS)


# Two or more: between a single knot and itself formulaic counts one side only.
@pytest.mark.parametrize("knots", [(5.0, 17.0), (6.0, 12.0, 18.0), (1.0, 9.5, 10.0, 13.0, 20.0)])
def test_cyclic_splines_are_the_space_of_cc(knots):
    t = np.concatenate(([0.0], np.random.default_rng(2).uniform(0, 24, 40)))
    b = spline.basis(t, kind="cyclic", knots=knots, period=24)
    assert (b.lower, b.upper) == (0.0, 24.0)
    x = spline.evaluate(b, t)
    formula = f"cc(t, knots={list(knots)}, lower_bound=0, upper_bound=24) - 1"
    theirs = model_matrix(formula, pd.DataFrame({"t": t})).to_numpy(float)
    assert theirs.shape == x.shape == (len(t), 1 + len(knots))
    np.testing.assert_allclose(projection(x), projection(theirs), rtol=0, atol=FITS)


def test_rules_for_cyclic_knots_are_those_of_cc():
    t = scattered(4)
    ours = spline.evaluate(spline.basis(t, 5, kind="cyclic", knots="quantile"), t)
    theirs = model_matrix("cc(t, df=5) - 1", pd.DataFrame({"t": t})).to_numpy(float)
    np.testing.assert_allclose(projection(ours), projection(theirs), rtol=0, atol=FITS)


@pytest.mark.parametrize("knots", [(), (5.0,), (-10.0, 3.0, 20.0, 100.0)])
def test_cyclic_splines_meet_at_the_ends(knots):
    times = np.array([-14.0, 106.0])
    b = spline.basis(times, kind="cyclic", knots=knots)
    # Steps of one length, so that derivatives compare. Values at `upper` are those at `lower`.
    left, right = derivatives(b, 106.0, 103.0), derivatives(b, -14.0, -11.0)
    # The first difference changes sign with the direction. Differences of values of order 1 over
    # a ninth of the interval: a hundred times rounding.
    left[1] *= -1
    np.testing.assert_allclose(left, right, rtol=0, atol=100 * ROUNDING)
    if len(knots) > 1:
        assert np.all(np.max(np.abs(left), axis=1) > 1e-3)


@pytest.mark.parametrize("degree", [1, 2, 3, 5])
@pytest.mark.parametrize("df", [1, 2, 3, 6])
def test_cyclic_splines_wrap(degree, df):
    t = np.arange(0.3, 48, 2.0)
    b = spline.basis(t, df, kind="cyclic", degree=degree, period=24.0)
    assert (b.lower, b.upper, b.columns) == (0.3, 24.3, df)
    x = spline.evaluate(b, t)
    for turns in (-3, 1, 40):
        # Of times up to 1,000 an ulp is 1e-13.
        np.testing.assert_allclose(spline.evaluate(b, t + 24 * turns), x, rtol=0, atol=1e-12)
    np.testing.assert_allclose(x.sum(axis=1), 1, rtol=0, atol=ROUNDING)
    assert np.linalg.matrix_rank(x) == df
    spline.check(b, t)


def test_cyclic_columns_are_one_column_turned():
    b = spline.basis(np.array([0.0, 1.0]), 6, kind="cyclic", period=24)
    t = np.linspace(0, 24, 50)
    x, later = spline.evaluate(b, t), spline.evaluate(b, t + 4)
    np.testing.assert_allclose(np.roll(x, 1, axis=1), later, rtol=0, atol=ROUNDING)


def test_period_is_the_range_unless_given():
    t = np.array([2.0, 5.0, 11.0, 26.0])
    b = spline.basis(t, 3, kind="cyclic")
    assert b == ("cyclic", 3, 2.0, 26.0, (10.0, 18.0), ())


@pytest.mark.parametrize("kind", ["b-spline", "natural", "cyclic"])
def test_indicators(kind):
    b = spline.basis(HOURS, 5, kind=kind, indicators=(120.0, 24.0))
    assert b.indicators == (24.0, 120.0)
    assert (b.lower, b.upper) == (0.0, 168.0)
    x = spline.evaluate(b, HOURS)
    assert x.shape == (42, b.columns) == (42, 7)
    own = np.isin(HOURS, b.indicators)
    np.testing.assert_array_equal(x[:, 5:], HOURS[:, None] == np.array([[24, 120]]))
    assert np.all(x[own, :5] == 0)
    rest = spline.evaluate(b._replace(indicators=()), HOURS[~own])
    np.testing.assert_array_equal(x[~own, :5], rest)
    np.testing.assert_array_equal(spline.evaluate(b, np.array([120.0])), [[0] * 6 + [1]])
    assert spline.evaluate(b, np.empty(0)).shape == (0, 7)
    spline.check(b, HOURS)


def test_an_indicator_is_one_time_of_no_period():
    t = np.arange(0.0, 48, 4)
    b = spline.basis(t, 4, kind="cyclic", indicators=[8], period=24)
    x = spline.evaluate(b, np.array([8.0, 32.0]))
    np.testing.assert_array_equal(x[0], [0, 0, 0, 0, 1])
    assert x[1, 4] == 0
    assert x[1].sum() == pytest.approx(1, abs=ROUNDING)


def test_factor():
    b = spline.basis(HOURS, kind="factor")
    assert (b.columns, b.lower, b.upper, b.knots) == (14, 0.0, 168.0, ())
    x = spline.evaluate(b, HOURS)
    np.testing.assert_array_equal(x, np.repeat(np.eye(14), 3, axis=0))
    assert spline.names(b)[:3] == ["time[0]", "time[3]", "time[6]"]
    spline.check(b, HOURS)
    with pytest.raises(InputError, match="time 5 is none of the 14 times of the factor"):
        spline.evaluate(b, np.array([3.0, 5.0]))
    with pytest.raises(InputError, match=r"no sample is at time 168, which has a column; leave"):
        spline.check(b, HOURS[:-3])


def test_names():
    b = spline.basis(
        np.array([0, 1, 2.5, 1e6, 1000000.5]), 2, kind="natural", indicators=[2.5, 1e6]
    )
    assert spline.names(b) == ["spline[1]", "spline[2]", "time[2.5]", "time[1000000]"]
    assert len(spline.names(b)) == b.columns


@pytest.mark.parametrize("time", [-0.001, 60.001, 100.0, np.nan])
def test_times_outside_are_refused(time):
    b = spline.basis(HOURS, 6, indicators=LATE)
    with pytest.raises(InputError, match=f"time {time} is outside 0 to 60".replace("100.0", "100")):
        spline.evaluate(b, np.array([3.0, 72.0, time]))
    with pytest.raises(InputError, match="time inf is outside"):
        spline.evaluate(b._replace(kind="cyclic"), np.array([3.0, np.inf]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"df": 5, "kind": "bs"}, "kind 'bs' of basis; take one of b-spline, natural, cyclic"),
        ({"df": 5, "knots": "even"}, "knots 'even'; give 'equal', 'quantile' or"),
        ({}, "neither df nor knots for kind 'b-spline'; give one"),
        ({"df": 3}, "df 3 for a b-spline basis of degree 3, which has at least 4 columns; raise"),
        ({"df": 1, "kind": "natural"}, "df 1 for a natural basis, which has at least 2"),
        ({"df": 0, "kind": "cyclic"}, "df 0 for a cyclic basis, which has at least 1"),
        ({"df": 5, "degree": 0}, "degree 0 of a spline; at least 1"),
        ({"df": 5, "degree": 2, "kind": "natural"}, "degree 2, but natural splines are cubic"),
        ({"df": 5, "period": 24.0}, "a period for kind 'b-spline'"),
        ({"df": 5, "period": -1.0, "kind": "cyclic"}, "period -1.0; it must be above 0"),
        ({"df": 5, "kind": "factor"}, "df or knots given for kind 'factor'"),
        ({"knots": [3.0], "kind": "factor"}, "df or knots given for kind 'factor'"),
        ({"df": 7, "knots": [20.0, 40]}, "df 7, but 2 interior knots make 6 columns; leave df out"),
        (
            {"knots": [40.0, 20]},
            "interior knots 40, 20; they must ascend and lie between 0 and 168",
        ),
        ({"knots": [20.0, 20]}, "interior knots 20, 20; they must ascend"),
        ({"knots": [0.0, 20]}, "interior knots 0, 20; they must ascend"),
        ({"knots": [20.0, 200.5]}, "interior knots 20, 200.5; they must ascend"),
        ({"knots": [np.nan]}, "interior knots nan; they must ascend"),
        ({"df": 5, "indicators": [73.0]}, "no sample is at indicator time 73; leave it out"),
        (
            {"df": 5, "indicators": sorted(set(HOURS))[1:]},
            "1 distinct times besides 13 indicator times; a spline needs at least 2",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)) as error:
        spline.basis(HOURS, **arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("times", [np.empty(0), np.array([0, 1, np.nan]), np.array([0, np.inf])])
def test_bad_times(times):
    with pytest.raises(InputError, match="a time is missing or infinite, or there is none"):
        spline.basis(times, 4)


def test_fewer_times_than_columns():
    t = HOURS[HOURS < 48]  # nine distinct
    t = np.concatenate((t[t > 0], LATE))
    b = spline.basis(t, 9, indicators=LATE)
    message = (
        "the basis has 12 columns (df 9 and 3 indicator times), the samples have 11 distinct "
        "times; lower df to 8"
    )
    with pytest.raises(InputError, match=re.escape(message)):
        spline.check(b, t)
    spline.check(spline.basis(t, 8, indicators=LATE, knots="quantile"), t)


def test_fewer_times_than_any_spline_has_columns():
    t = np.array([0.0, 1, 2, 2])
    with pytest.raises(InputError, match=r"3 distinct times; take kind 'factor'"):
        spline.check(spline.basis(t, 4), t)


def test_times_of_all_periods_are_one():
    # 2.4 is no binary fraction: of four phases rounding makes 54.
    t = np.arange(96) * 0.6
    b = spline.basis(t, 5, kind="cyclic", knots="quantile", period=2.4)
    np.testing.assert_allclose(b.knots, [0.48, 0.96, 1.44, 1.92], rtol=1e-12)  # rounding of t
    with pytest.raises(InputError, match=r"4 distinct times modulo 2.4; lower df to 4"):
        spline.check(b, t)
    spline.check(spline.basis(t, 4, kind="cyclic", period=2.4), t)


@pytest.mark.parametrize(("kind", "lost"), [("b-spline", 4), ("natural", 3)])
def test_schoenberg_and_whitney(kind, lost):
    # Ten times, but none inside the support of a B-spline between the knots.
    t = np.concatenate((np.linspace(0, 10, 5), np.linspace(90, 100, 5)))
    b = spline.basis(t, kind=kind, knots=(20.0, 35.0, 50.0, 65.0, 80.0))
    with pytest.raises(InputError, match=r"the smallest eigenvalue of X'X is .*quantile") as error:
        spline.check(b, t)
    assert np.all(spline.evaluate(b, t)[:, lost] == 0)
    assert f"spline[{lost + 1}] is worst" in str(error.value)
    smallest = re.findall(r"X'X is (\S+),", str(error.value))
    assert float(smallest[0]) < 1e-15  # 0, squared rounding at most
    spline.check(spline.basis(t, b.columns, kind=kind, knots="quantile"), t)


def test_check_agrees_with_schoenberg_and_whitney():
    rng = np.random.default_rng(8)
    accepted = 0
    for _ in range(200):
        # Mostly early times; none so little beyond a knot (20, 40) that it only just determines.
        early = np.sort(rng.choice([2.0, 4, 6, 8, 10, 12, 14, 16, 18, 25, 30], 6, replace=False))
        t = np.array([0.0, *early, 60.0])
        b = spline.basis(t, 6)
        support = spline.evaluate(b, t) > 0
        # The theorem, greedily: from left to right, each column takes the next time it can have.
        last, holds = -1, True
        for column in support.T:
            free = np.flatnonzero(column[last + 1 :])
            holds &= len(free) > 0
            last += 1 + int(free[0]) if len(free) else 0
        if holds:
            spline.check(b, t)
        else:
            with pytest.raises(InputError, match="the smallest eigenvalue of X'X"):
                spline.check(b, t)
        accepted += holds
    assert 0 < accepted < 200


def test_times_that_only_just_determine_are_refused():
    # A time between 20 and 60 besides the last, as the theorem asks, but hardly beyond 20.
    t = np.array([0.0, 4, 8, 12, 16, 20.5, 60])
    b = spline.basis(t, 6)
    assert np.linalg.matrix_rank(spline.evaluate(b, t)) == 6
    with pytest.raises(InputError, match=r"X'X is 4\.5e-13, .* spline\[5\] is worst"):
        spline.check(b, t)
