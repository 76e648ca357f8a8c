import json
import re

import numpy as np
import pytest

from expressway._errors import InputError
from expressway.models import along, spline

ROUNDING = 1e-12  # values of order 1, made by some ten operations; slopes by some hundred
UNEVEN = np.random.default_rng(0).uniform(2, 9, 60) ** 1.3
KINDS = [("rbf", 4), ("spline", 3), ("spline", 5), ("natural", 1), ("natural", 4), ("cyclic", 4)]


def two_lineages(seed: int = 0, n: int = 50) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.1, 3, (n, 2))
    weights[:10, 0] = 0
    weights[-10:, 1] = 0
    return rng.uniform(0, 5, (n, 2)), weights


def branching() -> tuple[list[along.Curve], along.Lineages]:
    of = along.lineages(*two_lineages())
    return [along.curve("rbf", 2, of.times[:, 0]), along.curve("spline", 3, of.times[:, 1])], of


def projection(x: np.ndarray) -> np.ndarray:
    q, _ = np.linalg.qr(x)
    return q @ q.T


@pytest.mark.parametrize("kind", ["rbf", "spline", "natural", "cyclic"])
def test_parse(kind):
    assert along.parse(f"{kind}:3") == (kind, 3)
    assert along.parse(f"{kind}:12") == (kind, 12)


@pytest.mark.parametrize(
    "text",
    [
        "rbf",
        "rbf:",
        "rbf:0",
        "rbf:-1",
        "rbf:2.5",
        "rbf:²",
        "rbf: 3",
        "RBF:3",
        "spline:2",
        "bs:4",
        "",
    ],
)
def test_parse_names_what_is_allowed(text):
    with pytest.raises(InputError) as refused:
        along.parse(text)
    assert str(refused.value) == (
        f"basis {text!r}; give rbf:M, spline:M (cubic, M at least 3), natural:M or cyclic:M with M "
        "the number of columns beside the level, such as rbf:3"
    )


def test_centres_by_default():
    c = along.curve("rbf", 3, np.array([1.0, 0.0, 0.25, 0.5]))
    np.testing.assert_allclose(c.centers, [1 / 6, 1 / 2, 5 / 6], rtol=1e-15)
    assert c.length == pytest.approx(0.5, rel=1e-15)  # rounding
    assert (c.kind, c.basis, c.lower, c.upper, c.columns) == ("rbf", None, 0.0, 1.0, 3)
    shifted = along.curve("rbf", 2, 100 + 10 * UNEVEN / np.ptp(UNEVEN))
    lower = 100 + 10 * UNEVEN.min() / np.ptp(UNEVEN)
    np.testing.assert_allclose(shifted.centers, lower + np.array([2.5, 7.5]), rtol=1e-13)
    assert shifted.length == pytest.approx(7.5, rel=1e-12)  # of a difference of such numbers


def test_centres_and_length_given():
    t = np.linspace(0, 1, 9)
    c = along.curve("rbf", 3, t, centers=[0.1, 0.4, 0.7], length=0.5)
    assert (c.centers, c.length) == ((0.1, 0.4, 0.7), 0.5)
    dense = [[np.exp(-((a - b) ** 2) / (2 * 0.25)) for b in (0.1, 0.4, 0.7)] for a in t]
    np.testing.assert_allclose(along.values(c, t), dense, rtol=1e-14)  # rounding
    by_spacing = along.curve("rbf", 3, t, centers=[0.7, 0.1, 0.4])
    assert by_spacing.centers == (0.7, 0.1, 0.4)
    assert by_spacing.length == pytest.approx(0.45, rel=1e-14)  # rounding
    assert along.curve("rbf", 1, t, centers=[2]).length == 1.5
    assert along.curve("rbf", 3, t, length=2).centers == along.curve("rbf", 3, t).centers


@pytest.mark.parametrize(("kind", "number"), KINDS)
def test_columns_and_the_constant_span_the_splines(kind, number):
    c = along.curve(kind, number, UNEVEN)
    x = along.values(c, UNEVEN)
    assert x.shape == (len(UNEVEN), number)
    assert c.columns == number
    ones = np.column_stack([np.ones(len(UNEVEN)), x])
    assert np.linalg.matrix_rank(ones) == number + 1
    if c.basis is not None:
        assert c.basis.kind == {"spline": "b-spline"}.get(kind, kind)
        full = spline.evaluate(c.basis, UNEVEN)
        # Rounding times condition numbers, below 1000.
        np.testing.assert_allclose(projection(ones), projection(full), rtol=0, atol=1e-11)


@pytest.mark.parametrize("kind", ["spline", "natural"])
def test_knots_are_quantiles(kind):
    c = along.curve(kind, 5, np.repeat(UNEVEN, 3))
    assert c.basis is not None
    inner = {"spline": 2, "natural": 4}[kind]
    shares = np.linspace(0, 1, inner + 2)[1:-1]
    np.testing.assert_allclose(c.basis.knots, np.quantile(UNEVEN, shares), rtol=1e-14)  # rounding


@pytest.mark.parametrize(("kind", "number"), KINDS)
def test_slopes_are_derivatives(kind, number):
    c = along.curve(kind, number, UNEVEN)
    step = 1e-3
    t = np.random.default_rng(1).uniform(UNEVEN.min() + 2 * step, UNEVEN.max() - 2 * step, 400)
    if c.basis is not None:  # the formula below wants one cubic, so no knot among its points
        knots = np.array([np.inf, *c.basis.knots])
        t = t[np.min(np.abs(t[:, None] - knots), axis=1) > 2 * step]
    one, two = (
        (along.values(c, t + k * step) - along.values(c, t - k * step)) / (2 * k * step)
        for k in (1, 2)
    )
    # Exact for cubics; of radial functions step^4 / 30 times a fifth derivative of order .1.
    # Rounding is 1e-16 / step.
    np.testing.assert_allclose(along.slopes(c, t), (4 * one - two) / 3, rtol=0, atol=1e-11)
    assert np.max(np.abs(along.slopes(c, t))) > 0.01


@pytest.mark.parametrize(("kind", "number"), KINDS)
def test_slopes_at_knots_and_boundaries(kind, number):
    c = along.curve(kind, number, UNEVEN)
    knots = c.basis.knots if c.basis is not None else c.centers
    t = np.array([c.lower, *knots, c.upper])
    inside = 1e-7 * (c.upper - c.lower)
    near = np.clip(t, c.lower + inside, c.upper - inside)
    # A slope moves by a second derivative of order 1 times a distance of 3e-6.
    np.testing.assert_allclose(along.slopes(c, t), along.slopes(c, near), rtol=0, atol=1e-5)
    integral = np.linspace(c.lower, c.upper, 20001)
    middle = (integral[1:] + integral[:-1]) / 2
    rise = np.sum(along.slopes(c, middle), axis=0) * (integral[1] - integral[0])
    ends = along.values(c, np.array([c.lower, c.upper]))
    # The midpoint rule: step^2 / 24 times a change of the slope of order 1, step 1e-3.
    np.testing.assert_allclose(rise, ends[1] - ends[0], rtol=0, atol=1e-7)


def test_cyclic_curves_repeat():
    t = np.linspace(0, 2.5, 40)
    c = along.curve("cyclic", 3, t, length=3)
    assert (c.lower, c.upper) == (0.0, 3.0)
    for of in (along.values, along.slopes):
        np.testing.assert_allclose(of(c, t + 3), of(c, t), rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(of(c, t - 6), of(c, t), rtol=0, atol=ROUNDING)
    assert along.curve("cyclic", 3, t).upper == 2.5
    with pytest.raises(InputError, match="3 distinct times modulo 3; take cyclic:2"):
        along.curve("cyclic", 3, np.array([0, 1, 2, 3 - 1e-12, 6]), length=3)


@pytest.mark.parametrize(("kind", "number"), KINDS)
def test_fields_describe_a_curve(kind, number):
    c = along.curve(kind, number, UNEVEN)
    kept = json.loads(json.dumps(c))
    again = along.Curve(*kept)._replace(centers=tuple(kept[1]))
    if kept[3] is not None:
        again = again._replace(basis=spline.Basis(*kept[3]))
    np.testing.assert_array_equal(along.values(again, UNEVEN), along.values(c, UNEVEN))


@pytest.mark.parametrize(
    ("kind", "number", "times", "message"),
    [
        (
            "rbf",
            3,
            [0.0, 1, 2, 2, 0],
            "more basis functions than distinct times: rbf:3 and the level are 4 columns, the "
            "samples have 3 distinct times; take rbf:2",
        ),
        (
            "spline",
            4,
            [0.0, 1, 2, 3],
            "5 columns, the samples have 4 distinct times; take spline:3",
        ),
        ("spline", 3, [0.0, 1, 2], "have 3 distinct times; take natural:2"),
        ("cyclic", 4, [0.0, 1, 2, 3, 4], "have 4 distinct times modulo 4; take cyclic:3"),
        ("rbf", 1, [3.0, 3, 3], "pseudotime is 3 for all 3 samples; give times that differ"),
        ("rbf", 1, [3.0, np.nan, -np.inf], "missing or infinite for 2 of 3 samples; give each"),
        ("rbf", 1, [], "missing or infinite for 0 of 0 samples"),
        ("spline", 2, [0.0, 1, 2, 3], "basis 'spline:2'; give rbf:M"),
        ("factor", 2, [0.0, 1, 2, 3], "basis 'factor:2'; give rbf:M"),
    ],
)
def test_times_that_make_no_curve(kind, number, times, message):
    with pytest.raises(InputError, match=re.escape(message)):
        along.curve(kind, number, np.array(times, float))


def test_as_many_columns_as_distinct_times():
    times = np.array([0.0, 1, 2.5, 4])
    for kind in ("rbf", "spline", "natural"):
        c = along.curve(kind, 3, times)
        assert np.linalg.matrix_rank(along.design([c], along.lineages(times[:, None]))) == 4


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("rbf", {"length": 0}, "length 0 of rbf:3; it must be above 0 and finite"),
        ("rbf", {"length": -1.5}, "length -1.5 of rbf:3"),
        ("rbf", {"length": np.nan}, "length nan of rbf:3"),
        ("cyclic", {"length": -2}, "length -2 of cyclic:3"),
        ("rbf", {"centers": [0.1, 0.2]}, "2 centers for rbf:3; give 3, or rbf:2"),
        ("rbf", {"centers": [0.1, 0.2, 0.1]}, "centers 0.1, 0.2, 0.1; give finite ones"),
        ("rbf", {"centers": [0.1, np.inf, 0.3]}, "centers 0.1, inf, 0.3; give finite ones"),
        ("spline", {"centers": [0.1, 0.2, 0.3]}, "centers for spline:3, which has none"),
        ("natural", {"length": 1}, "a length for natural:3, which has none"),
    ],
)
def test_arguments_that_make_no_curve(kind, options, message):
    with pytest.raises(InputError, match=re.escape(message)):
        along.curve(kind, 3, UNEVEN, **options)


@pytest.mark.parametrize("of", [along.values, along.slopes])
def test_splines_end_at_their_boundaries(of):
    t = np.linspace(0, 1, 20)
    for kind in ("spline", "natural"):
        with pytest.raises(InputError, match=f"time 1.5 is outside 0 to 1, where the {kind} curve"):
            of(along.curve(kind, 3, t), np.array([0.5, 1.5]))
    with pytest.raises(InputError, match="time nan is outside"):
        of(along.curve("cyclic", 3, t), np.array([np.nan]))
    assert np.all(np.isfinite(of(along.curve("rbf", 3, t), np.array([-1.0, 1.5]))))


def test_one_lineage():
    t = UNEVEN[:, None]
    of = along.lineages(t)
    assert of.names == ("",)
    np.testing.assert_array_equal(of.weights, np.ones(t.shape))
    np.testing.assert_array_equal(of.times, t)
    np.testing.assert_array_equal(along.lineages(t, 0.1 + t).weights, np.ones(t.shape))
    c = along.curve("rbf", 3, UNEVEN)
    x = along.design([c], of)
    np.testing.assert_array_equal(x, np.column_stack([np.ones(60), along.values(c, UNEVEN)]))
    assert along.names([c]) == ["level", "basis[1]", "basis[2]", "basis[3]"]


def test_weights_are_normalised():
    times, weights = two_lineages()
    of = along.lineages(times, weights)
    np.testing.assert_allclose(of.weights.sum(axis=1), 1, rtol=1e-15)  # rounding
    np.testing.assert_allclose(of.weights[:, 0] * weights[:, 1], of.weights[:, 1] * weights[:, 0])
    assert of.names == ("1", "2")
    assert along.lineages(times, weights, ["left", "right"]).names == ("left", "right")


def test_times_without_weight_say_nothing():
    times, weights = two_lineages()
    expected = along.lineages(times, weights)
    times[:10, 0] = np.nan
    times[-10:, 1] = 1e6
    of = along.lineages(times, weights)
    for a, b in zip(of[:2], expected[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.max(of.times) < 5
    np.testing.assert_array_equal(of.times[10:, 0], times[10:, 0])


def test_design_of_two_lineages():
    curves, of = branching()
    x = along.design(curves, of)
    w, t = of.weights, of.times
    parts = [np.ones(50)]
    parts += [w[:, 0] * b for b in along.values(curves[0], t[:, 0]).T]
    parts += [w[:, 1]] + [w[:, 1] * b for b in along.values(curves[1], t[:, 1]).T]
    np.testing.assert_array_equal(x, np.column_stack(parts))
    assert along.names(curves) == [
        *("level", "basis[1:1]", "basis[1:2]"),
        *("lineage[2]", "basis[2:1]", "basis[2:2]", "basis[2:3]"),
    ]
    assert np.linalg.matrix_rank(x) == x.shape[1] == 7


def test_design_slopes_are_derivatives():
    curves, of = branching()
    inside = np.clip(of.times, 0.5, 4.5)  # no step out of the splines
    step = 1e-5
    ahead, behind = (
        along.design(curves, of._replace(times=inside + sign * step)) for sign in (1, -1)
    )
    found = along.design_slopes(curves, of._replace(times=inside))
    # step^2 / 6 times a third derivative of order 1, and rounding: 1e-16 / step.
    np.testing.assert_allclose(found, (ahead - behind) / (2 * step), rtol=0, atol=1e-9)
    np.testing.assert_array_equal(found[:, [0, 3]], 0)
    assert np.all(np.any(found[:, [1, 2, 4, 5, 6]] != 0, axis=0))


def test_rows_of_one_lineage():
    curves, _ = branching()
    t = np.linspace(1, 4, 7)
    first, second = (along.rows_at(curves, j, t) for j in (0, 1))
    ones, none = np.ones((7, 1)), np.zeros((7, 2))
    np.testing.assert_array_equal(
        first, np.hstack([ones, along.values(curves[0], t), np.zeros((7, 4))])
    )
    np.testing.assert_array_equal(second, np.hstack([ones, none, ones, along.values(curves[1], t)]))


NAN, ONE = np.nan, [[1.0, 1.0]] * 3


@pytest.mark.parametrize(
    ("times", "weights", "names", "message"),
    [
        (ONE, None, None, "2 lineages without weights; give each sample a weight in each"),
        (ONE, [[1.0, 1]] * 4, None, "weights of 4 samples in 2 lineages for pseudotimes of 3 in 2"),
        (
            ONE,
            [[1.0, 0], [1, -2], [0, 1]],
            None,
            "lineage weights below 0 or not finite: 1 of 6, such as -2; ",
        ),
        (
            ONE,
            [[1.0, 0], [1, NAN], [np.inf, 1]],
            None,
            "lineage weights below 0 or not finite: 2 of 6, such as ",
        ),
        (
            ONE,
            [[1.0, 1], [0, 0], [1, 0]],
            None,
            "in every lineage for 1 of 3 samples, first for number 2; ",
        ),
        (ONE, [[1.0, 0]] * 3, None, "no sample has weight in lineage 2 of 2; leave it out"),
        (ONE, ONE, ["a", "a"], "names a, a of 2 lineages; give each one name of its own"),
        (ONE, ONE, ["a"], "names a of 2 lineages"),
        (
            [[1.0, NAN], [2, NAN], [NAN, 1]],
            [[1.0, 0], [1, 1], [1, 1]],
            None,
            "pseudotime is missing or infinite for 2 of 3 samples, first for number 2 in lineage 2",
        ),
        ([[1.0], [np.inf]], None, None, "infinite for 1 of 2 samples, first for number 2; give"),
        (np.zeros((0, 1)), None, None, "pseudotimes of 0 samples in 1 lineages"),
    ],
)
def test_lineages_that_are_none(times, weights, names, message):
    given = None if weights is None else np.array(weights, float)
    with pytest.raises(InputError, match=re.escape(message)):
        along.lineages(np.array(times, float), given, names)


def test_curves_and_lineages_must_agree():
    curves, of = branching()
    with pytest.raises(ValueError, match="zip"):
        along.design(curves[:1], of)
