"""Contrasts by lists of coefficients and of averages over groups of combinations of levels."""

import numpy as np
import pandas as pd
import pytest

from expressway.io import Contrast, Design, InputError, contrast, design, parse_group
from expressway.io.agreement import Column, of_columns
from expressway.io.contrast_text import group_text

# A row for each of two replicates of strain x minute x dex
SAMPLES = pd.DataFrame(
    [(s, m, d) for s in ("wt", "mut", "del") for m in (0, 15, 30) for d in "ab" for _ in "12"],
    columns=["strain", "minute", "dex"],
).assign(age=np.tile(np.linspace(-1, 1, 4), 9))
SAMPLES.index = [f"s{i}" for i in range(36)]
WILD = {"strain": "wt"}
EVERY = ("~ strain * C(minute) * dex", "~ 0 + strain:C(minute):dex")
FORMULAS = [
    "~ dex + strain + C(minute)",
    "~ 0 + strain + dex + C(minute)",
    "~ strain * C(minute) + dex",
    "~ C(strain, contr.sum) * C(minute, contr.helmert) + dex",
    "~ 0 + strain:C(minute) + dex",
    "~ strain / C(minute) + dex + age",
    *EVERY,
]
GROUPS = [
    ({"strain": "mut"}, {"strain": "wt"}),
    ({"strain": "mut"}, {}),
    ({}, {"strain": ["wt", "del"], "minute": 0}),
    ({"strain": "mut", "minute": [15, 30]}, {"strain": "wt", "minute": "0"}),
    ({"strain": ("mut", "del")}, {"dex": "b", "minute": 15}),
    ({"strain": "mut", "dex": "a"}, {"strain": "mut", "dex": "b"}),
]


def inside(group) -> np.ndarray:
    """Samples of a group."""
    within = np.ones(len(SAMPLES), bool)
    for factor, levels in group.items():
        several = [levels] if isinstance(levels, str | int) else levels
        within &= SAMPLES[factor].astype(str).isin(list(map(str, several))).to_numpy()
    return within


def taking_part(x: np.ndarray, got: Contrast) -> np.ndarray:
    """Samples that a contrast compares."""
    if got.squares is None:
        return np.abs(got.constant + x @ got.members) > 1e-9
    marks = np.column_stack([np.ones(len(x)), x]) @ got.squares.marks.T
    measure = marks**2 @ got.squares.sign
    assert np.all(measure >= -1e-12)
    return measure > 1e-9


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("groups", GROUPS)
def test_mean_rows_and_who_takes_part(formula, groups):
    d = design(formula, SAMPLES, WILD)
    got = contrast(d, groups)
    # Every combination of levels has as many samples, at each age as often: means of rows.
    rows = [np.asarray(d.matrix)[inside(group)].mean(axis=0) for group in groups]
    want = rows[0] - rows[1]
    if "age" in formula:
        want[d.names.index("age")] = 0.0
    np.testing.assert_allclose(got.vector, want, rtol=0, atol=1e-12)
    some = inside(groups[0]) | inside(groups[1])
    np.testing.assert_array_equal(taking_part(np.asarray(d.matrix), got), some)
    swapped = contrast(d, groups[::-1])
    np.testing.assert_array_equal(swapped.vector, -got.vector)
    np.testing.assert_array_equal(taking_part(np.asarray(d.matrix), swapped), some)


def test_each_combination_weighs_the_same_whatever_its_samples():
    few = SAMPLES.iloc[[*range(13), *range(14, 17), *range(18, 36)]]
    both = [contrast(design(EVERY[0], table, WILD), GROUPS[0]) for table in (few, SAMPLES)]
    np.testing.assert_array_equal(both[0].vector, both[1].vector)


def test_covariates_in_interactions_are_at_zero():
    d = design("~ strain * age", SAMPLES, WILD)
    got = contrast(d, ({"strain": "mut"}, {"strain": ["wt", "del"]}))
    assert d.names == ("Intercept", "strain[T.del]", "strain[T.mut]", "age",
                       "strain[T.del]:age", "strain[T.mut]:age")  # fmt: skip
    assert got.vector.tolist() == [0, -0.5, 1, 0, 0, 0]


def test_three_factors_apart_let_every_sample_take_part():
    d = design("~ strain + C(minute) + dex", SAMPLES, WILD)
    got = contrast(d, ({"strain": "mut", "minute": 0, "dex": "a"}, {"strain": "wt"}))
    assert got.squares is None
    assert taking_part(np.asarray(d.matrix), got).all()
    # Of three of which two interact, a product of two marks is enough.
    d = design("~ strain * C(minute) + dex", SAMPLES, WILD)
    groups = ({"strain": "mut", "minute": 0, "dex": "a"}, {"strain": "wt"})
    some = inside(groups[0]) | inside(groups[1])
    np.testing.assert_array_equal(taking_part(np.asarray(d.matrix), contrast(d, groups)), some)


def test_a_hand_made_coding_lets_every_sample_take_part():
    d = design("~ C(strain, {'mutant': [0, 1, 1]}) + dex", SAMPLES, WILD)
    got = contrast(d, ({"strain": "mut"}, {"strain": "wt"}))
    assert got.vector.tolist() == [0, 1, 0]
    assert taking_part(np.asarray(d.matrix), got).all()


@pytest.mark.parametrize("formula", [FORMULAS[0], EVERY[0]])
@pytest.mark.parametrize("groups", GROUPS)
def test_no_rows_are_needed(formula, groups):
    d = design(formula, SAMPLES, WILD)
    columns = {
        "strain": Column(False, ("del", "mut", "wt")),
        "minute": Column(True, ("0", "15", "30")),
        "dex": Column(False, ("a", "b")),
    }
    columns = {name: column for name, column in columns.items() if name in formula}
    got = contrast(of_columns(columns, formula, WILD), groups)
    want = contrast(d, groups)
    assert got.name == want.name
    np.testing.assert_array_equal(got.vector, want.vector)
    np.testing.assert_array_equal(
        taking_part(np.asarray(d.matrix), got), taking_part(np.asarray(d.matrix), want)
    )


def test_names_are_what_the_command_reads():
    d = design(EVERY[0], SAMPLES, WILD)
    got = contrast(d, GROUPS[3])
    assert got.name == "strain=mut minute=15,30 vs strain=wt minute=0"
    assert contrast(d, ({"strain": "mut"}, {})).name == "strain=mut vs all"
    again = contrast(d, tuple(map(parse_group, got.name.split(" vs "))))
    np.testing.assert_array_equal(again.vector, got.vector)


@pytest.mark.parametrize(
    ("text", "group"),
    [
        ("strain=wt minute=120,180", {"strain": ["wt"], "minute": ["120", "180"]}),
        ("  strain=wt   dex=a ", {"strain": ["wt"], "dex": ["a"]}),
        ("all", {}),
        ("dose='2 mg','a,b=c' day=1", {"dose": ["2 mg", "a,b=c"], "day": ["1"]}),
        ('"my dose"="it\'s",x', {"my dose": ["it's", "x"]}),
        ("C(minute)=15,15", {"C(minute)": ["15"]}),
        ("dex=+/-", {"dex": ["+/-"]}),
    ],
)
def test_groups_as_text(text, group):
    assert parse_group(text) == group
    assert parse_group(group_text(group)) == group


@pytest.mark.parametrize(
    "text", ["", "strain", "strain=", "=wt", "strain=wt,", "strain=wt minute", "a=b=c", "a='b",
             "strain = wt", "all strain=wt", "strain=wt,minute=120"]
)  # fmt: skip
def test_groups_that_cannot_be_read(text):
    with pytest.raises(InputError, match="needs FACTOR=LEVEL,LEVEL, several with spaces") as caught:
        parse_group(text)
    assert "\n" not in str(caught.value)


def test_a_factor_named_twice():
    with pytest.raises(InputError, match="names strain twice; list its levels once"):
        parse_group("strain=wt strain=mut")


def test_lists_of_coefficients():
    d = design("~ strain * C(minute) + dex", SAMPLES, WILD)
    lists = (["strain_mut_vs_wt", "strainmut.minute30"], ["strain[T.del]"])
    got, index = contrast(d, lists), list(d.names).index
    want = np.zeros(len(d.names))
    want[[index("strain[T.mut]"), index("strain[T.mut]:C(minute)[T.30]")]] = 1.0
    want[index("strain[T.del]")] = -1.0
    by_weights = contrast(d, want)
    assert got.name == by_weights.name
    assert got.name == "-strain[T.del] + strain[T.mut] + strain[T.mut]:C(minute)[T.30]"
    np.testing.assert_array_equal(got.vector, want)
    # DESeq2 R/results.R, contrastAllZeroNumeric: of both signs, samples with one of the columns.
    assert got.constant == 0
    assert got.members.tolist() == (want != 0).tolist()


@pytest.mark.parametrize("lists", [(["dex[T.b]", "minute_15_vs_0"], []), ([], ("dexb",))])
def test_lists_of_one_sign_exclude_nobody(lists):
    d = design("~ C(minute) + dex", SAMPLES)
    got = contrast(d, lists)
    assert got.vector.tolist() == ([0, 1, 0, 1] if lists[0] else [0, 0, 0, -1])
    assert got.constant == 1
    assert not got.members.any()


def test_a_list_of_one_coefficient_is_the_coefficient():
    d = design("~ C(minute) + dex", SAMPLES)
    assert contrast(d, (["dexb"], [])).name == contrast(d, "dexb").name == "dex b vs a"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (([], []), "names none; give at least one of Intercept, strain[T.del], strain[T.mut]"),
        ((["dexb"], ["dexc"]), "no coefficient is named dexc; there are Intercept, strain[T.del]"),
        ((["dexb"], ["dex[T.b]"]), "coefficient dex[T.b] is named twice"),
        ((["dexb", "dexb"], []), "coefficient dex[T.b] is named twice"),
        ((["dexb"], "age"), "nor a pair of lists of coefficients or of mappings of factors to"),
        (({"dex": "c"}, {}), "factor dex has no level c; it has a, b"),
        (({"dex": "b"}, {"cell": "c"}), "cell is not a factor of the design ~ strain + dex + age"),
        (({"dex": "b"}, {"age": 1}), "age is not a factor of the design ~ strain + dex + age"),
        (({"dex": []}, {"dex": "a"}), "no level of dex is given; leave it out to mean all"),
        (({}, {}), "groups 'all' and 'all' have the same mean in the design ~ strain + dex + age"),
        (({"dex": "b"}, {"dex": ["b", "b"]}), "groups 'dex=b' and 'dex=b' have the same mean"),
        (({"dex": ["a", "b"]}, {}), "groups 'dex=a,b' and 'all' have the same mean"),
    ],
)
def test_refused(spec, expected):
    d: Design = design("~ strain + dex + age", SAMPLES, WILD)
    with pytest.raises(InputError) as caught:
        contrast(d, spec)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
