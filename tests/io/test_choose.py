import numpy as np
import pandas as pd
import pytest

from expressway.io import InputError, numeric
from expressway.io.choose import chosen

TABLE = pd.DataFrame(
    {
        "Group": ["C", "K", "C", None, "K, late"],
        "day": [1, 2, 1, 1, 2],
        "hour": [1.0, np.nan, 2.5, 1.0, 1.0],
        "lane": pd.Categorical([10, 9, 10, 9, None]),
        "male": [True, False, True, False, True],
        "plate": pd.array([1, None, 2, 1, 1], dtype="Int64"),
        "code": ["01", "1", "01", "2", "NA "],
    },
    index=[f"s{i}" for i in range(1, 6)],
)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ({}, "12345"),
        ({"Group": "C"}, "13"),
        ({"Group": "C,K"}, "123"),
        ({"Group": " C , K "}, "123"),
        ({"Group": "K, late"}, "5"),
        ({"day": "1"}, "134"),
        ({"day": "01"}, "134"),
        ({"hour": "1"}, "145"),
        ({"hour": "2.50,1"}, "1345"),
        ({"lane": "9"}, "24"),
        ({"male": "True"}, "135"),
        ({"plate": "1"}, "145"),
        ({"code": "01"}, "13"),
        ({"Group": "C", "hour": "1"}, "1"),
    ],
)
def test_chosen(where, kept):
    got = chosen(TABLE, where, "samples.csv")
    assert "".join(name[1] for name in TABLE.index[got]) == kept


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"group": "C"}, "there is no column group; it has Group, day, hour, lane, male, plate, c"),
        ({"Group": "c"}, "column Group has no value 'c'; it has C, K, K, late"),
        ({"Group": "C,M"}, "column Group has no value 'M'; it has"),
        ({"Group": "C,"}, "column Group has no value ''; it has"),
        ({"Group": "nan"}, "column Group has no value 'nan'; it has"),
        ({"hour": "nan"}, "column hour has no value 'nan'; it has 1.0, 2.5"),
        ({"day": "one"}, "column day has no value 'one'; it has 1, 2"),
        ({"lane": "9.0"}, "column lane has no value '9.0'; it has 9, 10"),
        ({"Group": "C", "day": "2"}, "no sample has Group=C and day=2; choose values that occur"),
    ],
)
def test_what_is_not_there(where, expected):
    with pytest.raises(InputError) as caught:
        chosen(TABLE, where, "samples.csv")
    assert str(caught.value).startswith(f"samples.csv: {expected}")
    assert "\n" not in str(caught.value)


def test_a_message_lists_ten_values():
    table = pd.DataFrame({"day": range(11)})
    with pytest.raises(InputError, match=r"has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, …$"):
        chosen(table, {"day": "11"}, "samples.csv")
    with pytest.raises(InputError, match=r"has 0, 1, 2, 3, 4, 5, 6, 7, 8, 9$"):
        chosen(table[:10], {"day": "11"}, "samples.csv")


def column(*values, **kind) -> pd.DataFrame:
    index = [f"s{i}" for i in range(1, len(values) + 1)]
    return pd.DataFrame({"minute": pd.Series(values, index, **kind)})


@pytest.mark.parametrize(
    "obs",
    [
        column(0, 12, -3),
        column(0.0, 12.0, -3.0),
        column("0", " 12", "-3e0"),
        column("0", 12, -3.0),
        column("0", "12", "-3", dtype="category"),
        column(0, 12, -3, dtype="category"),
        column(0, 12, -3, dtype="Int64"),
    ],
)
def test_numeric(obs):
    got = numeric(obs, "minute")
    assert got.dtype == float
    np.testing.assert_array_equal(got, [0, 12, -3])


@pytest.mark.parametrize(
    ("obs", "expected"),
    [
        (column("0", "1", "late", "12h"), "is 'late' for sample s3"),
        (column("0", "12h"), "is '12h' for sample s2"),
        (column("0", "1_2"), "is '1_2' for sample s2"),
        (column(0.0, np.nan, np.nan), "is missing for sample s2"),
        (column("0", "NA"), "is missing for sample s2"),
        (column("0", None), "is missing for sample s2"),
        (column("0", None, dtype="category"), "is missing for sample s2"),
        (column(0, None, dtype="Int64"), "is missing for sample s2"),
        (column(0.0, -np.inf), "is '-inf' for sample s2"),
        (column("0", "inf"), "is 'inf' for sample s2"),
        (column(True, False), "is 'True' for sample s1"),
        (column(pd.Timestamp("2020-01-01")), "is '2020-01-01 00:00:00' for sample s1"),
    ],
)
def test_what_is_no_number(obs, expected):
    with pytest.raises(InputError) as caught:
        numeric(obs, "minute", called="time column")
    assert str(caught.value) == f"time column 'minute' {expected}; needed are numbers"


def test_numeric_lists_the_columns():
    expected = "^column 'time' is not there; the sample table has Group, day, hour"
    with pytest.raises(InputError, match=expected):
        numeric(TABLE, "time")
