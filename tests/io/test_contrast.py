from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from expressway.io import Contrast, Design, InputError, contrast, design

# A row for each of two replicates of strain x minute x dex
SAMPLES = pd.DataFrame(
    [(s, m, d) for s in ("wt", "mut", "del") for m in (0, 15, 30) for d in "ab" for _ in "12"],
    columns=["strain", "minute", "dex"],
).assign(age=np.linspace(-1, 1, 36) ** 3)
SAMPLES.index = [f"s{i}" for i in range(36)]
WILD = {"strain": "wt"}


def taking_part(design: Design, contrast: Contrast) -> np.ndarray:
    return np.abs(contrast.constant + design.matrix @ contrast.members) > 1e-9


def refusal(design: Design, spec: object) -> str:
    with pytest.raises(InputError) as caught:
        contrast(design, spec)  # pyright: ignore[reportArgumentType]
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_against_the_reference_level() -> None:
    d = design("~ dex + strain", SAMPLES, WILD)
    assert d.names == ("Intercept", "dex[T.b]", "strain[T.del]", "strain[T.mut]")
    got = contrast(d, ("strain", "mut", "wt"))
    assert got.name == "strain mut vs wt"
    assert got.vector.tolist() == [0, 0, 0, 1]
    assert got.constant == 1
    assert got.members.tolist() == [0, 0, -1, 0]
    swapped = contrast(d, ("strain", "wt", "mut"))
    assert swapped.name == "strain wt vs mut"
    assert swapped.vector.tolist() == [0, 0, 0, -1]
    assert swapped.members.tolist() == got.members.tolist()


def test_between_two_other_levels() -> None:
    got = contrast(design("~ dex + strain", SAMPLES, WILD), ("strain", "mut", "del"))
    assert got.vector.tolist() == [0, 0, -1, 1]
    assert got.constant == 0
    assert got.members.tolist() == [0, 0, 1, 1]


def test_without_intercept() -> None:
    d = design("~ 0 + strain + dex", SAMPLES, WILD)
    got = contrast(d, ("strain", "mut", "wt"))
    assert d.names[:3] == ("strain[wt]", "strain[del]", "strain[mut]")
    assert got.vector.tolist() == [-1, 0, 1, 0]
    assert got.constant == 0
    assert got.members.tolist() == [1, 0, 1, 0]
    assert contrast(d, ("dex", "b", "a")).vector.tolist() == [0, 0, 0, 1]


@pytest.mark.parametrize(
    "formula",
    [
        "~ dex + strain",
        "~ 0 + strain + dex",
        "~ strain * C(minute)",
        "~ strain * C(minute) * dex",
        "~ 0 + strain:C(minute)",
        "~ strain:C(minute)",
        "~ strain / C(minute)",
        "~ C(minute, contr.treatment(15)) * strain",
        "~ C(minute, contr.sum) * strain",
        "~ C(strain, contr.helmert) + age",
        "~ C(strain, contr.poly) * C(minute, contr.diff)",
        "~ strain * C(minute) + age",
    ],
)
@pytest.mark.parametrize("levels", [("mut", "wt"), ("wt", "del"), ("mut", "del")])
def test_difference_of_rows_and_samples_at_the_levels(
    formula: str, levels: tuple[str, str]
) -> None:
    samples = SAMPLES.assign(age=np.tile(np.linspace(-1, 1, 4), 9))
    d = design(formula, samples, WILD)
    got = contrast(d, ("strain", *levels))
    others = (samples["dex"] == "a") & (samples["age"] == samples["age"].iloc[0])
    if "minute" in d.levels:
        others &= samples["minute"].astype(str) == d.levels["minute"][0]
    rows = [d.matrix[others & (samples["strain"] == level)][0] for level in levels]
    np.testing.assert_allclose(got.vector, rows[0] - rows[1], rtol=0, atol=1e-12)
    np.testing.assert_array_equal(taking_part(d, got), samples["strain"].isin(levels))


def test_a_covariate_in_an_interaction_is_at_zero() -> None:
    d = design("~ dex * age", SAMPLES)
    assert d.names == ("Intercept", "dex[T.b]", "age", "dex[T.b]:age")
    assert contrast(d, ("dex", "b", "a")).vector.tolist() == [0, 1, 0, 0]
    only = design("~ age + dex:age", SAMPLES)
    assert "factor dex enters the design ~ age + dex:age only together" in refusal(
        only, ("dex", "b", "a")
    )


def test_a_factor_made_of_numbers() -> None:
    d = design("~ strain * C(minute)", SAMPLES, WILD)
    expected = contrast(d, ("minute", "30", "15"))
    assert expected.vector.tolist() == [0, 0, 0, -1, 1, 0, 0, 0, 0]
    np.testing.assert_array_equal(contrast(d, ("minute", 30, 15)).vector, expected.vector)
    assert taking_part(d, expected).tolist() == SAMPLES["minute"].isin([15, 30]).tolist()


def test_a_hand_made_coding_lets_every_sample_take_part() -> None:
    d = design("~ C(strain, {'mutant': [0, 1, 1]})", SAMPLES, WILD)
    got = contrast(d, ("strain", "mut", "wt"))
    assert got.vector.tolist() == [0, 1]
    assert taking_part(d, got).all()


@pytest.mark.parametrize(
    ("spelled", "name", "index"),
    [
        ("Intercept", "Intercept", 0),
        ("strain[T.mut]", "strain mut vs wt", 2),
        ("strain_mut_vs_wt", "strain mut vs wt", 2),
        ("strainmut", "strain mut vs wt", 2),
        ("C(minute)[T.15]", "minute 15 vs 0", 3),
        ("minute_15_vs_0", "minute 15 vs 0", 3),
        ("age", "age", 5),
        ("strain[T.mut]:C(minute)[T.30]", "strain[T.mut]:C(minute)[T.30]", 9),
        ("strainmut.minute30", "strain[T.mut]:C(minute)[T.30]", 9),
    ],
)
def test_by_coefficient(spelled: str, name: str, index: int) -> None:
    d = design("~ strain * C(minute) + age", SAMPLES, WILD)
    got = contrast(d, spelled)
    assert got.name == name
    assert got.vector.tolist() == np.eye(10)[index].tolist()
    assert taking_part(d, got).all()


def test_a_level_of_its_own_is_no_comparison() -> None:
    d = design("~ 0 + strain + dex", SAMPLES, WILD)
    assert contrast(d, "strainmut").vector.tolist() == [0, 0, 1, 0]
    assert contrast(d, "strainmut").name == "strain[mut]"
    assert "no coefficient is named strain_mut_vs_wt" in refusal(d, "strain_mut_vs_wt")


def test_r_makes_names_of_levels() -> None:
    d = design("~ dex", SAMPLES.assign(dex=SAMPLES["dex"].replace({"b": "2 mg/l", "a": "0 mg"})))
    assert contrast(d, "dex_2.mg.l_vs_0.mg").name == "dex 2 mg/l vs 0 mg"


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_by_weights(kind: type) -> None:
    d = design("~ dex + strain", SAMPLES, WILD)
    got = contrast(d, kind([0, 0.5, -1, 1]))
    assert got.name == "0.5 dex[T.b] - strain[T.del] + strain[T.mut]"
    assert got.vector.tolist() == [0, 0.5, -1, 1]
    assert got.constant == 0
    assert got.members.tolist() == [0, 1, 1, 1]


@pytest.mark.parametrize("weights", [[0, 0, 1, 1], [0, -2, 0, -0.5]])
def test_weights_of_one_sign_exclude_nobody(weights: list[float]) -> None:
    d = design("~ dex + strain", SAMPLES, WILD)
    got = contrast(d, weights)
    assert got.vector.tolist() == weights
    assert got.constant == 1
    assert not got.members.any()


@pytest.mark.parametrize(
    ("formula", "name", "weights"),
    [
        ("~ strain + dex", "dex b vs a", [0, 0, 0, 1]),
        ("~ dex + age", "age", [0, 0, 1]),
        ("~ 0 + dex + strain", "strain mut vs wt", [0, 0, 0, 1]),
        ("~ 0 + strain", "strain mut vs wt", [-1, 0, 1]),
        ("~ 0 + dex + age", "age", [0, 0, 1]),
        ("~ 0 + dex + dex:age", "dex[b]:age", [0, 0, 0, 1]),
        ("~ 1", "Intercept", [1]),
    ],
)
def test_by_default(formula: str, name: str, weights: list[float]) -> None:
    got = contrast(design(formula, SAMPLES, WILD if "strain" in formula else None))
    assert got.name == name
    assert got.vector.tolist() == weights


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        (("cell", "b", "a"), "cell is not a factor of the design ~ strain + dex + age, whose"),
        (("cell", "b", "a"), "factors are strain, dex; of a covariate, name the coefficient"),
        (("age", "b", "a"), "age is not a factor of the design"),
        (("dex", "c", "a"), "factor dex has no level c; it has a, b"),
        (("dex", "b", "c"), "factor dex has no level c; it has a, b"),
        (("dex", "b", "b"), "contrast of dex: level b is given twice"),
        ("dex_c_vs_a", "no coefficient is named dex_c_vs_a; there are Intercept, strain[T.del], "),
        (
            ("dex", "b"),
            "is neither (factor, level, reference level), nor the name of a coefficient",
        ),
        ([0, 1], "[0.0, 1.0] must hold 5 finite numbers, not all zero, one for each of Intercept"),
        ([0, 0, 0, 0, 0], "must hold 5 finite numbers, not all zero"),
        ([0, 0, 0, 0, np.nan], "must hold 5 finite numbers"),
        ([], "must hold 5 finite numbers"),
    ],
)
def test_refused(spec: str | Sequence[str | float], expected: str) -> None:
    assert expected in refusal(design("~ strain + dex + age", SAMPLES, WILD), spec)
