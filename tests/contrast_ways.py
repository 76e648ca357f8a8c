"""Random contrasts of a design, each said in every way there is, of fits with other references."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd

from expressway import _steps, _store, io, tl
from expressway.models.deseq import DESeqFit
from expressway.models.results import Results, results
from expressway.models.wald import threshold

ALTERNATIVES = ("greaterAbs", "greaterAbs2014", "lessAbs", "greater", "less")
REVERSED = {"greater": "less", "less": "greater"}


class Way(NamedTuple):
    """One way of saying a contrast."""

    name: str
    fit: int
    """Whose coefficients are meant: 0 is the first reference levels'."""
    spec: Any
    sign: float = 1.0
    """-1 of the reversed contrast."""


class Difference(NamedTuple):
    """Of one way and alternative from the first way, over the genes that can be compared."""

    way: str
    alternative: str
    log_p: np.ndarray
    """Differences of natural logarithms of p by gene; NaN without p, or below 1e-300."""
    log: np.ndarray
    """The logarithms themselves."""
    change: np.ndarray
    """Of log2 fold changes, in standard errors."""
    excepted: int
    """Genes without a count in the samples compared, by only one way's rule on who takes part."""


class Fitted(NamedTuple):
    """A fit and its design, as `tl.contrast` has them."""

    fit: DESeqFit
    design: io.Design
    genes: pd.Index


def fits(
    adata: anndata.AnnData, formula: str, references: Sequence[Mapping[str, str]], **how: Any
) -> list[Fitted]:
    """The same data fitted with other reference levels."""
    found = []
    for reference in references:
        one = adata.copy()
        tl.de(one, formula, reference=reference, **how)
        fit, origin = _store.load_fit(one, "de")
        found.append(Fitted(fit, origin.coded, one.var_names))
    return found


def contrasts(fitted: Sequence[Fitted], count: int, seed: int) -> list[list[Way]]:
    """Random contrasts: of two levels, of lists of coefficients, of averages; each in all ways."""
    rng = np.random.default_rng(seed)
    designs = [one.design for one in fitted]
    kinds = (_levels, _lists, _averages)
    return [kinds[k % len(kinds)](designs, rng) for k in range(count)]


def compare(fitted: Sequence[Fitted], ways: Sequence[Way], value: float) -> list[Difference]:
    """What the ways of saying a contrast make of its p-values, beside the first way."""
    specs = [io.contrast(fitted[way.fit].design, way.spec) for way in ways]
    found = []
    for said, size, alternative in (
        *((name, value, name) for name in ALTERNATIVES),
        ("no threshold", 0.0, "greaterAbs"),
    ):
        tables = []
        for way, wanted in zip(ways, specs, strict=True):
            swapped = REVERSED.get(alternative, alternative) if way.sign < 0 else alternative
            limit = threshold(size, swapped)
            takers = _steps.takers(wanted)
            test = results(fitted[way.fit].fit, wanted.vector, takers, threshold=limit)
            change = way.sign * test.wald.log2_fold_change
            tables.append(test._replace(wald=test.wald._replace(log2_fold_change=change)))
        for way, table in zip(ways[1:], tables[1:], strict=True):
            found.append(_difference(way, said, tables[0], table))
    return found


def _difference(way: Way, alternative: str, first: Results, other: Results) -> Difference:
    empty = [one.status == "no_counts" for one in (first, other)]
    excepted = empty[0] != empty[1]
    p = [one.wald.p_value for one in (first, other)]
    np.testing.assert_array_equal(np.isnan(p[0]), np.isnan(p[1]))
    log = [np.where(~excepted & (x > 1e-300), np.log(np.maximum(x, 1e-300)), np.nan) for x in p]
    change = [one.wald.log2_fold_change for one in (first, other)]
    se = first.wald.se
    moved = np.divide(change[1] - change[0], se, out=np.full_like(se, np.nan), where=se > 0)
    return Difference(
        way.name,
        alternative,
        log[1] - log[0],
        log[0],
        np.where(excepted, np.nan, moved),
        int(np.sum(excepted)),
    )


def _levels(designs: Sequence[io.Design], rng: np.random.Generator) -> list[Way]:
    """Two levels of a factor, the others at the first design's references."""
    first = designs[0]
    factor = str(rng.choice(list(first.levels)))
    level, other = map(str, rng.choice(first.levels[factor], 2, replace=False))
    base = {name: levels[0] for name, levels in first.levels.items()}
    groups = (base | {factor: level}, base | {factor: other})
    ways = [Way("levels", 0, (factor, level, other))]
    ways += [Way("reversed", 0, (factor, other, level), -1.0), Way("averages", 0, groups)]
    names = [
        [] if one == base[factor] else [re.sub(r"[^\w.]", ".", f"{factor}_{one}_vs_{base[factor]}")]
        for one in (level, other)
    ]
    ways.append(Way("lists", 0, tuple(names)))
    ways += _weights(designs, io.contrast(first, (factor, level, other)).vector)
    for k, design in enumerate(designs[1:], 1):
        ways.append(Way("releveled: averages", k, groups))
        if all(design.levels[name][0] == base[name] for name in base if name != factor):
            ways.append(Way("releveled: levels", k, (factor, level, other)))
    return ways


def _lists(designs: Sequence[io.Design], rng: np.random.Generator) -> list[Way]:
    """Sums of some coefficients less sums of others."""
    names = [name for name in designs[0].names if name != "Intercept"]
    count = int(rng.integers(1, min(4, len(names)) + 1))
    some = [str(name) for name in rng.permutation(names)[:count]]
    cut = int(rng.integers(0, count + 1))
    lists = (some[:cut], some[cut:])
    ways = [Way("lists", 0, lists), Way("reversed", 0, lists[::-1], -1.0)]
    return ways + _weights(designs, io.contrast(designs[0], lists).vector)


def _averages(designs: Sequence[io.Design], rng: np.random.Generator) -> list[Way]:
    """Averages over groups of combinations of levels."""
    while True:
        groups = (_group(designs[0], rng), _group(designs[0], rng))
        try:
            vector = io.contrast(designs[0], groups).vector
        except io.InputError:  # the same mean
            continue
        ways = [Way("averages", 0, groups), Way("reversed", 0, groups[::-1], -1.0)]
        ways += _weights(designs, vector)
        return ways + [Way("releveled: averages", k, groups) for k in range(1, len(designs))]


def _group(design: io.Design, rng: np.random.Generator) -> dict[str, list[str]]:
    found = {}
    for factor, levels in design.levels.items():
        if rng.uniform() < 0.7:
            size = int(rng.integers(1, len(levels)))
            found[factor] = [str(level) for level in rng.choice(levels, size, replace=False)]
    return found


def _weights(designs: Sequence[io.Design], vector: np.ndarray) -> list[Way]:
    """The weights themselves, and what they are of the coefficients of the other designs."""
    ways = [Way("weights", 0, vector)]
    for k, design in enumerate(designs[1:], 1):
        # x' beta is the same in both: beta = T beta', where x' = x T.
        turn = np.linalg.lstsq(np.asarray(designs[0].matrix), np.asarray(design.matrix))[0]
        other = vector @ turn
        other[np.abs(other) < 1e-9] = 0.0
        ways.append(Way("releveled: weights", k, other))
    return ways
