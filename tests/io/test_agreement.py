"""What sites agree on: one design, equal to that of all samples in one table."""

import anndata
import numpy as np
import pandas as pd
import pytest

from expressway import io
from expressway.io.agreement import agree, code, describe, take

KEY = b"k" * 32
GENES = ["a", "b", "c"]


def site(genes=GENES, **columns) -> anndata.AnnData:
    obs = pd.DataFrame(columns)
    obs.index = [f"s{i}" for i in range(len(obs))]
    return anndata.AnnData(np.ones((len(obs), len(genes))), obs, pd.DataFrame(index=list(genes)))


NORTH = {"dex": ["trt", "untrt", "trt"], "age": [1.0, 2.0, 3.5], "minute": [0, 15, 30]}
SOUTH = {"dex": ["untrt"], "age": [4.0], "minute": [15]}
EAST = {"dex": ["untrt", "trt"] * 3, "age": [5.0, 7, 6, 9, 8, 1], "minute": [0, 0, 60, 60, 30, 15]}


def agreed(formula, *tables, intersect=False, reference=None):
    sites = {f"site{k}": t if isinstance(t, anndata.AnnData) else site(**t)
             for k, t in enumerate(tables)}  # fmt: skip
    descriptions = [describe(name, adata, formula) for name, adata in sites.items()]
    return agree(descriptions, formula, reference or {}, intersect=intersect), sites


@pytest.mark.parametrize(
    "formula",
    [
        "~ dex",
        "~ dex * age",
        "~ 0 + dex + age",
        "~ C(minute) + dex",
        "~ 0 + dex:age",
        "~ minute + dex",
        "~ np.log(age) + dex",
        "~ age + I(age**2)",
        "~ C(dex, contr.sum)",
    ],
)
def test_the_design_is_that_of_all_samples(formula):
    agreement, sites = agreed(formula, NORTH, SOUTH, EAST)
    ours = np.concatenate([code(n, agreement, a, KEY).matrix for n, a in sites.items()])
    whole = pd.concat([pd.DataFrame(a.obs) for a in sites.values()], ignore_index=True)
    spec = io.design(formula, whole)
    assert agreement.design.names == spec.names
    np.testing.assert_array_equal(ours, spec.matrix)
    assert agreement.design.levels == spec.levels


def test_reference_level_and_order_of_categories():
    ordered = pd.Categorical(["low", "high", "mid"], ["low", "mid", "high"])
    agreement, _ = agreed("~ dose", {"dose": ordered}, {"dose": ordered[:2]})
    assert agreement.design.levels["dose"] == ("high", "low", "mid")  # lists differ: sorted
    agreement, _ = agreed("~ dose", {"dose": ordered}, {"dose": ordered}, reference={"dose": "mid"})
    assert agreement.design.levels["dose"] == ("mid", "low", "high")


def test_no_value_of_a_sample_is_described():
    described = describe("north", site(**NORTH), "~ dex + age")
    assert described.columns["age"] == (True, ())
    assert described.columns["dex"] == (False, ("trt", "untrt"))


def test_genes_in_common():
    few = site(genes=["c", "a", "x"], **EAST)
    with pytest.raises(io.InputError, match="2 are at every site, site0 has 1 more, site1 has 1"):
        agreed("~ dex", NORTH, few)
    agreement, _ = agreed("~ dex", NORTH, few, intersect=True)
    assert agreement.genes == ("a", "c")
    assert agreement.left_out == {"site0": 1, "site1": 1}
    with pytest.raises(io.InputError, match="no gene is at every site"):
        agreed("~ dex", NORTH, site(genes=["x", "y"], **EAST), intersect=True)


def test_columns_of_two_kinds_are_refused():
    with pytest.raises(io.InputError, match="age holds numbers at site0 and words at site1"):
        agreed("~ age", NORTH, {"age": ["young", "old"]})


@pytest.mark.parametrize("formula", ["~ scale(age)", "~ bs(age, df=4)", "~ poly(age, 2) + dex"])
def test_transforms_fitted_to_all_samples_are_refused(formula):
    with pytest.raises(io.InputError, match="would be fitted to all samples together"):
        agreed(formula, NORTH, EAST)


def test_missing_values_and_columns_name_the_site():
    with pytest.raises(io.InputError, match=r"^site site1: the formula names column dex"):
        agreed("~ dex", NORTH, {"age": [1.0, 2.0]})
    with pytest.raises(io.InputError, match=r"^site site1: column age has no value for sample s1"):
        agreed("~ age", NORTH, {"age": [1.0, np.nan]})


def censuses(formula, *tables):
    agreement, sites = agreed(formula, *tables)
    return agreement, [code(n, agreement, a, KEY).census for n, a in sites.items()]


def test_samples_behind_totals():
    agreement, found = censuses("~ dex + age", NORTH, SOUTH, EAST)
    cells = take(found, agreement, min_samples=5)
    assert cells.loc["dex=trt"].to_list() == [2, 0, 3]
    assert cells.loc["dex=untrt"].to_list() == [1, 1, 3]
    agreement, found = censuses("~ dex + C(minute)", NORTH, SOUTH, EAST)
    with pytest.raises(io.InputError, match="'dex=trt minute=15' has 1 sample over all sites"):
        take(found, agreement, min_samples=2)


@pytest.mark.parametrize(
    ("formula", "says"),
    [
        ("~ dex * C(minute) * age", "coefficients for 10 samples: no replicates"),
        ("~ age + I(2 * age)", r"not of full rank.*= 2 age"),
        ("~ dex * C(minute)", "zero in every sample: dex.T.untrt.:C.minute..T.30."),
    ],
)
def test_designs_that_cannot_be_estimated(formula, says):
    tables = NORTH, SOUTH, EAST
    if formula == "~ dex * C(minute)":
        tables = (
            {"dex": ["trt"] * 9 + ["untrt"] * 6, "minute": [0, 15, 30] * 3 + [0, 15] * 3},
        ) * 2
    with pytest.raises(io.InputError, match=says):
        take(censuses(formula, *tables)[1], censuses(formula, *tables)[0], min_samples=1)


def test_digests_tell_equal_rows_and_depend_on_the_key():
    agreement, sites = agreed("~ dex + age", NORTH, {**NORTH, "age": [1.0, 9.0, 3.5]})
    a, b = (code(n, agreement, s, KEY).rows for n, s in sites.items())
    assert [x == y for x, y in zip(a, b, strict=True)] == [True, False, True]
    other = code("site0", agreement, sites["site0"], b"o" * 32).rows
    assert not set(a) & set(other)
