import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from expressway.core.cohort import Pooled, Samples, samples
from expressway.core.order import Groups
from expressway.models import deseq
from expressway.models.cells import groups as groups_of
from expressway.models.results import Results, Takers, results


class Contrast(NamedTuple):
    """A contrast that R was asked for: its weights, the samples it compares, and R's table."""

    vector: np.ndarray
    takers: Takers
    table: dict[str, np.ndarray]


class Case(NamedTuple):
    """One case of ``tests/reference``: its data, and R's numbers with NaN for NA."""

    name: str
    genes: np.ndarray
    rows: Samples
    cells: Groups
    table: dict[str, np.ndarray]
    """R's ``mcols``, a column each."""
    coefficients: np.ndarray
    """log2, genes x coefficients."""
    standard_errors: np.ndarray
    contrasts: list[Contrast]
    json: dict[str, Any]


class Fitted(NamedTuple):
    """A case with our fit of it."""

    fit: deseq.DESeqFit
    cohort: Pooled
    results: list[Results]


@pytest.fixture(scope="session")
def case(reference) -> Callable[[str], Case]:
    """Return a loader of cases: ``case("small")``."""
    return functools.cache(lambda name: _case(reference(name)))


@pytest.fixture(scope="session")
def fitted(case) -> Callable[[str], Fitted]:
    """Return our fit of a case, pooled, with DESeq2's settings."""

    @functools.cache
    def fit(name: str) -> Fitted:
        c = case(name)
        result, cohort = deseq.fit(Pooled(c.rows), c.cells)
        tables = [results(result, k.vector, k.takers) for k in c.contrasts]
        return Fitted(result, cohort, tables)

    return fit


def _case(json: dict[str, Any]) -> Case:
    design = np.array(json["design_matrix"], float)
    return Case(
        name=json["case"],
        genes=np.array(json["genes"]),
        rows=samples(np.array(json["counts"]).T, design),
        cells=groups_of(design),
        table={name: _numbers(column) for name, column in json["table"].items()},
        coefficients=_numbers(json["coefficients"]),
        standard_errors=_numbers(json["standard_errors"]),
        contrasts=[_contrast(json, result) for result in json["results"]],
        json=json,
    )


def _numbers(values: list[Any]) -> np.ndarray:
    return np.array(values, float)  # None (R's NA) becomes NaN


def _contrast(json: dict[str, Any], result: dict[str, Any]) -> Contrast:
    asked, names = result["contrast"], json["coefficient_names"]
    everyone = Takers(1.0, np.zeros(len(names)))
    if isinstance(asked, str) and "Intercept" not in names:
        # Without intercept R's results() compares the last factor's last level with its first.
        factor, levels = list(json["levels"].items())[-1]
        vector, takers = _difference(json, factor, levels[-1], levels[0])
    elif isinstance(asked, str):
        vector, takers = _unit(asked, names), everyone
    elif isinstance(asked[0], str):
        vector, takers = _difference(json, *asked)
    else:
        vector, takers = np.array(asked, float), everyone  # weights of one sign: all take part
    columns = ("log2FoldChange", "lfcSE", "stat", "pvalue", "padj")
    return Contrast(vector, takers, {name: _numbers(result[name]) for name in columns})


def _difference(
    json: dict[str, Any], factor: str, level: str, other: str
) -> tuple[np.ndarray, Takers]:
    """Coefficients of two levels, and samples of either, from the factor's columns."""
    first = json["levels"][factor][0]
    names, columns = json["coefficient_names"], json["design_columns"]
    in_full = f"{factor}{first}" in columns

    def coefficient(of: str) -> np.ndarray:
        if in_full:
            return _unit(f"{factor}{of}", names)
        return _unit(f"{factor}_{of}_vs_{first}", names) if of != first else 0.0 * design[0]

    def member(of: str) -> tuple[float, np.ndarray]:
        if in_full or of != first:
            return 0.0, _unit(f"{factor}{of}", columns)
        others = [_unit(f"{factor}{k}", columns) for k in json["levels"][factor][1:]]
        return 1.0, -np.sum(others, axis=0)

    design = np.array(json["design_matrix"], float)
    constants, members = zip(*map(member, (level, other)), strict=True)
    takers = Takers(sum(constants), np.sum(members, axis=0))
    return coefficient(level) - coefficient(other), takers


def _unit(name: str, names: list[str]) -> np.ndarray:
    return np.array([float(name == other) for other in names])
