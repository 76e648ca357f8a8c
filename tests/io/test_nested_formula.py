"""Matrices of hypotheses from reduced formulas, of samples and of names of levels."""

import itertools

import numpy as np
import pandas as pd
import pytest

from expressway import io
from expressway.io.agreement import Column

N = 24
RNG = np.random.default_rng(41)
OBS = pd.DataFrame(
    {
        "cell": np.array(["b", "a", "c"])[np.arange(N) % 3],
        "dex": np.array(["untrt", "trt"])[np.arange(N) // 3 % 2],
        "age": RNG.uniform(20, 60, N),
        "minute": np.array([0, 15, 30])[np.arange(N) // 6 % 3],
        "lane": np.arange(N) % 5,
    }
)
COLUMNS = {
    "cell": Column(number=False, levels=("a", "b", "c")),
    "dex": Column(number=False, levels=("untrt", "trt")),
    "age": Column(number=True, levels=()),
    "minute": Column(number=True, levels=("0", "15", "30")),
}
REFERENCE = {"dex": "untrt", "cell": "b"}


def eye(design, *kept):
    """Matrix that keeps these columns."""
    return np.eye(len(design.names))[:, [design.names.index(name) for name in kept]]


def both(formula, reduced):
    """The matrix of samples and that of names, which are the same."""
    reference = {name: level for name, level in REFERENCE.items() if name in formula}
    full = io.design(formula, OBS, reference)
    one = io.nested(full, reduced, OBS, reference)
    columns = {name: COLUMNS[name] for name in COLUMNS if name in formula}
    other = io.nested_across(formula, reduced, columns, reference)
    # Fractions come out of least squares on other rows.
    np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12)
    smaller = io.design(reduced, OBS, {k: v for k, v in REFERENCE.items() if k in reduced})
    # Products of dummies; ages times one.
    np.testing.assert_allclose(full.matrix @ one, smaller.matrix, rtol=1e-12, atol=1e-12)
    return full, one


def test_terms_left_out():
    formula = "~ cell + dex + age"
    kept = ("Intercept", "cell[T.a]", "cell[T.c]")
    for reduced, names in (
        ("~ cell", kept),
        ("~ cell + age", (*kept, "age")),
        ("~ 1", ("Intercept",)),
        ("~ 0 + age", ("age",)),
    ):
        full, matrix = both(formula, reduced)
        np.testing.assert_array_equal(matrix, eye(full, *names))


def test_an_intercept_in_other_words():
    _, matrix = both("~ cell + dex", "~ 0 + cell")
    # Levels in the order b, a, c: the first has no column of its own.
    np.testing.assert_array_equal(matrix, [[1, 0, 0], [-1, 1, 0], [-1, 0, 1], [0, 0, 0]])
    full, matrix = both("~ 0 + cell + dex", "~ 1 + dex")
    dex = full.names.index("dex[T.trt]")
    np.testing.assert_array_equal(matrix[:, 1], np.eye(4)[dex])
    np.testing.assert_array_equal(np.delete(matrix[:, 0], dex), [1, 1, 1])


def test_interactions():
    full, matrix = both("~ cell * dex", "~ cell + dex")
    np.testing.assert_array_equal(matrix, eye(full, *full.names[:4]))
    # The interaction without its main effects spans them, in columns of its own.
    _, matrix = both("~ cell * dex + age", "~ cell:dex")
    assert matrix.shape == (7, 6)


def test_a_line_in_a_factor_of_numbers():
    _, matrix = both("~ C(minute) + dex", "~ minute + dex")
    np.testing.assert_allclose(matrix[:, 1], [0, 15, 30, 0], atol=1e-12)


def test_transforms_of_samples():
    """Fitted to the samples here, they are the same columns again."""
    formula = "~ bs(age, df=4) + dex"
    full = io.design(formula, OBS)
    matrix = io.nested(full, "~ bs(age, df=4)", OBS)
    np.testing.assert_array_equal(
        matrix, np.eye(6)[:, [full.names.index(n) for n in io.design("~ bs(age, df=4)", OBS).names]]
    )
    io.nested(full, "~ scale(age)", OBS)  # a line is a spline


def test_a_wide_design():
    donor = np.repeat(np.arange(20), 2).astype(str)
    obs = pd.DataFrame({"donor": donor, "dex": np.tile(["a", "b"], 20)})
    full = io.design("~ donor + dex", obs)
    matrix = io.nested(full, "~ donor", obs)
    np.testing.assert_array_equal(matrix, np.eye(21)[:, :20])


@pytest.mark.parametrize(
    ("reduced", "says"),
    [
        (
            "~ cell + age",
            "not nested in the design '~ cell + dex', which has no columns for age; leave",
        ),
        ("~ lane + cell:minute", "has no columns for lane, cell:minute; leave that out"),
        ("~ cell:dex", "no columns for cell:dex"),
        ("~ dex + cell", "spans all columns of the design '~ cell + dex': nothing is left to test"),
        ("~ 0 + cell + dex", "nothing is left to test; leave the terms out"),
        ("~ lane2", "names column lane2, which the sample table does not have"),
        ("~ 0", "'~ 1' is the smallest design"),
        ("~ cell +", "cannot be read"),
    ],
)
def test_what_is_not_nested_is_named(reduced, says):
    full = io.design("~ cell + dex", OBS)
    obs = OBS.assign(minute=OBS["minute"].astype(str))
    with pytest.raises(io.InputError) as caught:
        io.nested(full, reduced, obs)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("reduced", "says"),
    [
        ("~ lane", "names a column that the design does not use; it uses cell, age"),
        ("~ C(age)", "it makes a factor of age, which the design has as numbers"),
        ("~ cell:age", "no columns for cell:age"),
        ("~ scale(age)", "scale(age) would be fitted to all samples together"),
        ("~ cell + age", "nothing is left to test"),
    ],
)
def test_what_sites_refuse(reduced, says):
    columns = {name: COLUMNS[name] for name in ("cell", "age")}
    with pytest.raises(io.InputError) as caught:
        io.nested_across("~ cell + age", reduced, columns)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_random_nested_formulas():
    """Any terms of a design are nested in it, in whatever order and with or without intercept."""
    terms = ["cell", "dex", "age", "cell:dex", "dex:age"]
    full = io.design("~ cell * dex + age + dex:age", OBS)
    for size in (1, 2, 3):
        for some in itertools.combinations(terms, size):
            for start in ("1", "0"):
                reduced = f"~ {start} + {' + '.join(reversed(some))}"
                smaller = io.design(reduced, OBS)
                if np.linalg.matrix_rank(smaller.matrix) == len(full.names):
                    continue
                matrix = io.nested(full, reduced, OBS)
                # Ages of sixty, and sums of a few of them.
                np.testing.assert_allclose(full.matrix @ matrix, smaller.matrix, atol=1e-11)
