import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from expressway.io import Design, InputError, design, read_counts

DATA = Path(os.environ.get("EXPRESSWAY_DATA", Path(__file__).parents[3] / "shared" / "data"))

SAMPLES = pd.DataFrame(
    {
        "cell": ["a", "b", "c"] * 4,
        "dex": ["untrt"] * 6 + ["trt"] * 6,
        "minute": [0, 0, 0, 15, 15, 15, 30, 30, 30, 0, 15, 30],
        "age": np.linspace(-1, 1, 12) ** 3,
        "male": [True, False, False] * 4,
        "batch": ["s10", "s2", "S1", "s2"] * 3,
        "dose": ["10", "2", "0.5", "10"] * 3,
        "lib.size": np.linspace(0, 2, 12),
        "my group": ["x", "y"] * 6,
        "log": np.linspace(1, 2, 12) ** 2,
    },
    index=[f"s{i}" for i in range(1, 13)],
)


def refusal(formula: str, samples: pd.DataFrame = SAMPLES, **reference: str) -> str:
    with pytest.raises(InputError) as caught:
        design(formula, samples, reference)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(
    ("formula", "names"),
    [
        ("~ cell + dex", "Intercept cell[T.b] cell[T.c] dex[T.untrt]"),
        ("cell + dex", "Intercept cell[T.b] cell[T.c] dex[T.untrt]"),
        ("~ 0 + cell + dex", "cell[a] cell[b] cell[c] dex[T.untrt]"),
        ("~ cell + dex - 1", "cell[a] cell[b] cell[c] dex[T.untrt]"),
        ("~ male", "Intercept male[T.True]"),
        ("~ age", "Intercept age"),
        ("~ lib.size", "Intercept lib.size"),
        ("~ `my group`", "Intercept my group[T.y]"),
        ("~ log", "Intercept log"),
        ("~ log(age + 2)", "Intercept log(age + 2)"),
        ("~ np.log(age + 2)", "Intercept np.log(age + 2)"),
        ("~ dose", "Intercept dose[T.2] dose[T.10]"),
        ("~ batch", "Intercept batch[T.s10] batch[T.s2]"),
        ("~ 1", "Intercept"),
    ],
)
def test_names(formula: str, names: str) -> None:
    got = design(formula, SAMPLES)
    assert got.matrix.shape == (12, len(got.names))
    assert got.formula == formula
    assert " ".join(got.names) == names


def test_matrix() -> None:
    got = design("~ male + dex + age", SAMPLES, {"dex": "untrt"})
    columns = [np.ones(12), SAMPLES["male"], SAMPLES["dex"] == "trt", SAMPLES["age"]]
    np.testing.assert_array_equal(got.matrix, np.column_stack(columns).astype(float))
    assert got.names == ("Intercept", "male[T.True]", "dex[T.trt]", "age")
    assert got.levels == {"male": ("False", "True"), "dex": ("untrt", "trt")}


@pytest.mark.parametrize(
    ("formula", "p"),
    [
        ("~ bs(age, df=4)", 5),
        ("~ cr(age, df=3, constraints='center')", 4),
        ("~ 0 + cr(age, df=3)", 3),
        ("~ dex * poly(age, 2)", 6),
        ("~ scale(minute)", 2),
    ],
)
def test_the_spec_remembers_knots_and_levels(formula: str, p: int) -> None:
    got = pickle.loads(pickle.dumps(design(formula, SAMPLES)))
    assert got.matrix.shape == (12, p)
    frame = SAMPLES.assign(dex=pd.Categorical(SAMPLES["dex"]))
    again = got.spec.get_model_matrix(frame.iloc[3:5], context={})
    np.testing.assert_allclose(np.asarray(again), got.matrix[3:5], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    ("formula", "reference", "levels"),
    [
        ("~ dose", {}, ("0.5", "2", "10")),
        ("~ batch", {}, ("S1", "s10", "s2")),
        ("~ batch", {"batch": "s2"}, ("s2", "S1", "s10")),
        ("~ C(minute)", {}, ("0", "15", "30")),
        ("~ C(minute)", {"minute": "15"}, ("15", "0", "30")),
        ("~ C(minute, contr.treatment(30))", {}, ("30", "0", "15")),
        ("~ C(cell, contr.SAS)", {}, ("c", "a", "b")),
        ("~ C(cell, contr.sum)", {}, ("a", "b", "c")),
        ("~ C(`my group`)", {"my group": "y"}, ("y", "x")),
    ],
)
def test_levels(formula: str, reference: dict[str, str], levels: tuple[str, ...]) -> None:
    got = design(formula, SAMPLES, reference)
    assert list(got.levels.values()) == [levels]
    assert list(got.levels) == [*(reference or got.levels)]


def test_categories_keep_their_order_and_lose_unused_levels() -> None:
    dex = pd.Categorical(SAMPLES["dex"], categories=["untrt", "trt", "high", "low"])
    got = design("~ dex", SAMPLES.assign(dex=dex))
    assert got.levels == {"dex": ("untrt", "trt")}
    assert got.warnings == ("column dex: levels without a sample dropped: high, low",)


def test_nullable_and_string_columns() -> None:
    frame = SAMPLES.convert_dtypes()
    assert frame["cell"].dtype == "string"
    assert frame["minute"].dtype == "Int64"
    for formula in ("~ dex + male + age", "~ C(minute) + dex"):
        plain, nullable = design(formula, SAMPLES), design(formula, frame)
        assert plain.names == nullable.names
        np.testing.assert_array_equal(plain.matrix, nullable.matrix)


def test_a_formula_sees_nothing_but_the_table() -> None:
    age2 = np.ones(12)  # would be found by formulaic's own default context
    assert "names column age2" in refusal("~ age2")
    assert age2.size == 12


@pytest.mark.parametrize(
    "formula", ["~ nope + cell", "~ C(nope)", "~ bs(nope, df=4)", "~ {nope**2}"]
)
def test_a_column_that_does_not_exist(formula: str) -> None:
    assert refusal(formula).startswith(
        "the formula names column nope, which the sample table does not have; it has cell, dex, "
    )


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("y ~ cell", "must have one part"),
        ("~ cell | dex", "must have one part"),
        ("~ cell +", "formula '~ cell +' cannot be read: Operator `+`"),
        ("~ cell + (dex", "formula '~ cell + (dex' cannot be read"),
        ("~ C(cell", "formula '~ C(cell' cannot be read"),
        ("~ 0", "formula '~ 0' has no terms"),
        ("~ foo(cell)", "cannot be evaluated on the sample table: Unable to evaluate factor `foo"),
        ("~ C(cell, contr.treatment('z'))", "`'z'` for `TreatmentContrasts.base` is not among"),
        ("~ C(cell, levels=['a', 'b'])", "categories outside of the nominated levels"),
        ("~ bs(age, df=1)", "cannot be evaluated on the sample table"),
        ("~ bs(cell, df=4)", "cannot be evaluated on the sample table"),
        ("~ np.log(age)", "design column np.log(age) is not a finite number for sample s1"),
    ],
)
def test_a_formula_that_cannot_be_used(formula: str, expected: str) -> None:
    assert expected in refusal(formula)


def test_missing_values_name_column_and_sample() -> None:
    frame = SAMPLES.assign(
        cell=SAMPLES["cell"].where(SAMPLES.index != "s4"),
        age=SAMPLES["age"].where(~SAMPLES.index.isin(["s2", "s3"])),
    )
    assert "column cell has no value for sample s4 (1 such)" in refusal("~ cell", frame)
    assert "column age has no value for sample s2 (2 such)" in refusal("~ bs(age, df=4)", frame)
    assert design("~ dex", frame).matrix.shape == (12, 2)


@pytest.mark.parametrize("formula", ["~ one + dex", "~ C(one) + dex", "~ two", "~ C(number)"])
def test_a_factor_with_one_level(formula: str) -> None:
    two = pd.Categorical(["only"] * 12, categories=["only", "unused"])
    frame = SAMPLES.assign(one="only", two=two, number=3)
    text = refusal(formula, frame)
    assert "has only one level, " in text
    assert "only" in text


def test_reference_levels() -> None:
    assert "column dex has no level x to be the reference; it has trt, untrt" in refusal(
        "~ dex", dex="x"
    )
    assert "given for cell, which the formula does not use; it uses dex" in refusal(
        "~ dex", cell="a"
    )
    assert "write C(minute) in the formula" in refusal("~ minute", minute="15")


@pytest.mark.parametrize("n", [3, 4])
def test_no_replicates(n: int) -> None:
    text = refusal("~ cell + dex", SAMPLES.iloc[[0, 1, 8, 11][:n]])
    assert f"'~ cell + dex' has 4 coefficients for {n} samples: no replicates" in text


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        ("~ cell + male", ": male[T.True] = Intercept - cell[T.b] - cell[T.c];"),
        ("~ dex + cell + C(cell)", "C(cell)[T.b] = cell[T.b]; C(cell)[T.c] = cell[T.c];"),
        ("~ age + years", ": years = 2015 Intercept + 0.5 age;"),
        ("~ number", ": number = 3 Intercept;"),
        ("~ cr(age, df=3)", "constraints='center'"),
    ],
)
def test_dependent_columns(formula: str, expected: str) -> None:
    frame = SAMPLES.assign(years=2015 + SAMPLES["age"] / 2, number=3.0)
    text = refusal(formula, frame)
    assert f"formula '{formula}' is not of full rank" in text
    assert expected in text


def test_a_combination_of_levels_without_samples() -> None:
    frame = SAMPLES.assign(dex=["a"] * 6 + ["b"] * 6)
    frame = frame[(frame["cell"] != "c") | (frame["dex"] != "b")]
    assert "zero in every sample: cell[T.c]:dex[T.b]; no sample" in refusal("~ cell * dex", frame)


def test_a_numeric_column_that_looks_like_a_factor() -> None:
    few, far = design("~ dex + minute", SAMPLES, {"dex": "untrt"}).warnings
    assert few.startswith("column minute enters as a number")
    assert few.endswith("has only 3 values; write C(minute) if it is a factor")
    assert far.startswith("column minute has mean 15 and standard deviation 12.79; centre and")
    for formula in ("~ C(minute)", "~ age", "~ scale(minute)"):
        assert design(formula, SAMPLES).warnings == ()
    distinct = SAMPLES.assign(score=np.arange(12) - 5)
    assert design("~ score", distinct).warnings == ()


def test_a_control_level_that_is_not_the_reference() -> None:
    (doubt,) = design("~ cell + dex", SAMPLES).warnings
    assert doubt.startswith("column dex: the reference level is trt, not untrt")
    assert design("~ dex + cell", SAMPLES).warnings == ()
    assert design("~ dex", SAMPLES, {"dex": "untrt"}).warnings == ()
    upper = SAMPLES.assign(dex=SAMPLES["dex"].replace({"untrt": "CONTROL", "trt": "a"}))
    assert "is a, not CONTROL" in design("~ dex", upper).warnings[0]


def test_python_warnings_are_not_used() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert design("~ dex + minute", SAMPLES).warnings


def _reference(name: str) -> pd.DataFrame:
    return pd.read_csv(DATA / "reference" / f"{name}.design.csv.gz", index_col=0)


def _data(name: str) -> pd.DataFrame:
    if not DATA.is_dir():
        pytest.skip(f"needs the data folder (EXPRESSWAY_DATA), not found at {DATA}")
    adata = read_counts(DATA / f"{name}_counts.csv.gz", DATA / f"{name}_metadata.csv")
    assert adata.X.dtype.kind == "i"
    return adata.obs


def _check(got: Design, expected: pd.DataFrame) -> None:
    np.testing.assert_array_equal(got.matrix, expected.to_numpy())


def test_airway() -> None:
    obs = _data("airway")
    assert obs.shape == (8, 3)
    _check(design("~ cell + dex", obs, {"dex": "untrt"}), _reference("airway"))


def test_fission() -> None:
    obs = _data("fission")
    assert obs.shape == (36, 4)
    text = obs.assign(minute=obs["minute"].astype(str))
    for got in (
        design("~ strain * minute", text, {"strain": "wt"}),
        design("~ strain * C(minute)", obs, {"strain": "wt"}),
    ):
        _check(got, _reference("fission"))
        assert got.levels["minute"] == ("0", "15", "30", "60", "120", "180")
