"""Contrasts: which combination of coefficients a test is about, and which samples it compares."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
from scipy import sparse

from expressway._errors import InputError
from expressway._types import Float
from expressway.models.results import Squares

from .averages import averages
from .blocks import Block, blocks, mean_row, rows, taking_part
from .contrast_text import Group, group_text
from .design import Design, weighted_sum
from .factors import check_levels, coded_factors

Names = tuple[Sequence[str], Sequence[str]]
Groups = tuple[Group, Group]
ContrastSpec = str | Sequence[str | float | int] | np.ndarray | Names | Groups


@dataclass(frozen=True)
class Contrast:
    """A linear combination of coefficients, and the samples that it compares.

    A sample with design row x takes part when `abs(constant + x @ members) > 1e-9`. A gene
    without a count in any sample that takes part has log2 fold change 0 and p-value 1 (DESeq2,
    R/results.R, contrastAllZeroCharacter and contrastAllZeroNumeric).

    Attributes
    ----------
    name
        As one reads it: `dex trt vs untrt`.
    squares
        Which samples take part where one sum of columns does not tell; every sample by
        `constant` and `members` then.
    """

    name: str
    vector: Float[np.ndarray, " p"]
    constant: float
    members: Float[np.ndarray, " p"]
    squares: Squares | None = None


@dataclass(frozen=True)
class Differences:
    """Contrasts of many levels of a factor to one of them.

    Attributes
    ----------
    names
        As `Contrast.name`.
    vectors
        A row of weights each.
    marks
        For each level, the other one last: `constant` and `members` of its own samples.
    """

    names: tuple[str, ...]
    levels: tuple[str, ...]
    vectors: sparse.csr_matrix
    marks: sparse.csr_matrix


def contrast(design: Design, spec: ContrastSpec | None = None) -> Contrast:
    """Return the contrast that a user names, in one of six ways.

    Parameters
    ----------
    spec
        - (factor, level, reference level): their difference where all other factors are at their
          reference level and covariates in interactions at 0. All samples at the two levels
          take part.
        - A coefficient, spelled as in `design.names` or as DESeq2 does: `dex_trt_vs_untrt`,
          `strainmut.minute180`. All samples take part.
        - A weight for each coefficient. With weights of both signs the samples take part whose
          design row, summed where the weights are not zero, is not zero; otherwise all do.
        - A pair of lists of coefficients: the sum of the first ones minus that of the others,
          either may be empty. Samples take part as for these weights (DESeq2's
          `contrast=list(c("a", "b"), "c")`).
        - A pair of groups, each a mapping of factors to a level or several: the mean of the first
          over all combinations of levels that it allows minus that of the second, each
          combination weighing the same (of factors not named all levels, covariates in
          interactions at 0). `{}` is the grand mean. Samples of either group take part; all of
          them where the design's columns do not tell (three factors without interactions, say).
        - None: the last coefficient; of a design without intercept and interactions that ends
          in a factor, its last level against its reference.

    Raises
    ------
    InputError
        A factor, level or coefficient that does not exist, the same level or coefficient twice,
        weights that are not p finite numbers or all zero, lists that are both empty, groups with
        the same mean.
    """
    if spec is None:
        spec = _default(design)
    if isinstance(spec, str):
        return _coefficient(design, spec)
    if _are_groups(spec):
        return _averages(design, *spec)
    if _are_names(spec):
        return _lists(design, *spec)
    if len(spec) == 3 and not isinstance(spec, Mapping) and isinstance(spec[0], str):
        factor, level, reference = map(str, spec)
        return _difference(design, factor, level, reference)
    return _weights(design, spec)


def _default(design: Design) -> str | tuple[str, str, str]:
    terms = [term.factors for term in design.spec.formula]
    last = coded_factors(design.spec).get(terms[-1][0].expr)
    if last is None or "Intercept" in design.names or max(map(len, terms)) > 1:
        return design.names[-1]
    levels = design.levels[last.column]
    return (last.column, levels[-1], levels[0])


def _are_groups(spec: Any) -> TypeGuard[Groups]:
    return len(spec) == 2 and all(isinstance(part, Mapping) for part in spec)


def _are_names(spec: Any) -> TypeGuard[Names]:
    return len(spec) == 2 and all(
        isinstance(part, Sequence)
        and not isinstance(part, str)
        and all(isinstance(name, str) for name in part)
        for part in spec
    )


def _coefficient(design: Design, name: str) -> Contrast:
    [index] = _indices(design, [name])
    p = len(design.names)
    return Contrast(_readable(design, index), np.eye(p)[index], 1.0, np.zeros(p))


def _indices(design: Design, names: Sequence[str]) -> list[int]:
    """Return the places of coefficients."""
    # Their own spelling first: a thousand levels have a million others.
    spellings = {name: k for k, name in enumerate(design.names)}
    spellings = spellings if set(names) <= spellings.keys() else _spellings(design)
    for name in names:
        if name not in spellings:
            message = f"no coefficient is named {name}; there are {', '.join(design.names)}"
            raise InputError(message)
    return [spellings[name] for name in names]


def _lists(design: Design, plus: Sequence[str], minus: Sequence[str]) -> Contrast:
    indices = _indices(design, [*plus, *minus])
    if not indices:
        message = (
            "a contrast of two lists of coefficients names none; give at least one of "
            f"{', '.join(design.names)}"
        )
        raise InputError(message)
    if len(set(indices)) < len(indices):
        twice = next(index for index in indices if indices.count(index) > 1)
        message = (
            f"contrast of lists: coefficient {design.names[twice]} is named twice; name it once, "
            "or give one weight a coefficient"
        )
        raise InputError(message)
    if len(plus) == 1 and not minus:
        return _coefficient(design, plus[0])
    vector = np.zeros(len(design.names))
    vector[indices] = [1.0] * len(plus) + [-1.0] * len(minus)
    return _weights(design, vector)


def _averages(design: Design, first: Group, second: Group) -> Contrast:
    vector, marks, squares = averages(design, first, second)
    name = f"{group_text(first)} vs {group_text(second)}"
    return Contrast(name, vector, float(marks[0]), marks[1:], squares)


def _difference(design: Design, factor: str, level: str, reference: str) -> Contrast:
    check_levels(design.formula, design.levels, factor, (level, reference))
    if level == reference:
        message = f"contrast of {factor}: level {level} is given twice; give two levels"
        raise InputError(message)
    found, p = blocks(design.spec), len(design.names)
    at, base = (
        mean_row(found, p, lambda f, of=one: [of if f.column == factor else f.reference])
        for one in (level, reference)
    )
    _refuse_nothing(design, factor, at - base)
    constant, members = _members(found, p, factor, [{level, reference}])
    name = f"{factor} {level} vs {reference}"
    return Contrast(name, at - base, float(constant[0]), members[0])


def differences(
    design: Design,
    factor: str,
    reference: str | None = None,
    levels: Sequence[str] | None = None,
) -> Differences:
    """Return the contrasts of many levels of a factor to one of them.

    Parameters
    ----------
    reference
        The design's reference level when not given.
    levels
        All others when not given.

    Raises
    ------
    InputError
        As for `contrast`, or no level is left.
    """
    check_levels(design.formula, design.levels, factor, () if reference is None else (reference,))
    reference = design.levels[factor][0] if reference is None else reference
    if levels is None:
        levels = [level for level in design.levels[factor] if level != reference]
    levels = list(dict.fromkeys(map(str, levels)))
    check_levels(design.formula, design.levels, factor, levels)
    if not levels or reference in levels:
        message = f"contrasts of {factor} to {reference}: give levels other than {reference}"
        raise InputError(message)
    found, p = blocks(design.spec), len(design.names)
    every = [*levels, reference]
    coded = rows(found, p, factor, every)
    vectors = coded[:-1] - coded[-1]
    _refuse_nothing(design, factor, vectors)
    constant, members = _members(found, p, factor, [{level} for level in every])
    return Differences(
        tuple(f"{factor} {level} vs {reference}" for level in levels),
        tuple(levels),
        sparse.csr_matrix(vectors),
        sparse.csr_matrix(np.column_stack([constant, members])),
    )


def _members(
    of: Sequence[Block], p: int, factor: str, wanted: Sequence[Collection[str]]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k p"]]:
    """Return what `blocks.taking_part` does, every sample where no columns tell."""
    found = taking_part(of, p, factor, wanted)
    return (np.ones(len(wanted)), np.zeros((len(wanted), p))) if found is None else found


def _refuse_nothing(design: Design, factor: str, vectors: np.ndarray) -> None:
    if not vectors.any():
        message = (
            f"factor {factor} enters the design {design.formula} only together with numbers: "
            f"name one of the coefficients {', '.join(design.names)}"
        )
        raise InputError(message)


def _weights(design: Design, spec: Any) -> Contrast:
    p = len(design.names)
    try:
        vector = np.asarray(spec, dtype=float)
    except (ValueError, TypeError) as error:
        message = (
            f"contrast {spec} is neither (factor, level, reference level), nor the name of a "
            f"coefficient, nor {p} numbers, nor a pair of lists of coefficients or of mappings of "
            "factors to levels"
        )
        raise InputError(message) from error
    if vector.shape != (p,) or not np.isfinite(vector).all() or not vector.any():
        message = (
            f"contrast {vector.tolist()} must hold {p} finite numbers, not all zero, one for each "
            f"of {', '.join(design.names)}"
        )
        raise InputError(message)
    name = weighted_sum(vector, design.names)
    if np.all(vector >= 0) or np.all(vector <= 0):
        return Contrast(name, vector, 1.0, np.zeros(p))
    return Contrast(name, vector, 0.0, (vector != 0).astype(float))


def _spellings(design: Design) -> dict[str, int]:
    """Return the index of each coefficient by its names in formulaic's and DESeq2's spelling."""
    factors = coded_factors(design.spec)
    found = {}
    for index, name in enumerate(design.names):
        spelled = name
        for expression, factor in factors.items():
            for level in factor.levels:
                treated = f"{expression}[T.{level}]"
                if name == treated:
                    against = f"{factor.column}_{level}_vs_{factor.reference}"
                    found.setdefault(_make_name(against), index)
                for token in (treated, f"{expression}[{level}]"):
                    spelled = spelled.replace(token, f"{factor.column}{level}")
        found.setdefault(_make_name(spelled), index)
    return found | {name: index for index, name in enumerate(design.names)}


def _make_name(text: str) -> str:
    """Return what R's make.names makes of `text`, but for a leading X."""
    return re.sub(r"[^\w.]", ".", text)


def _readable(design: Design, index: int) -> str:
    name = design.names[index]
    for expression, factor in coded_factors(design.spec).items():
        for level in factor.levels:
            if name == f"{expression}[T.{level}]":
                return f"{factor.column} {level} vs {factor.reference}"
    return name
