"""Contrasts: which combination of coefficients a test is about, and which samples it compares."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import formulaic
import numpy as np
from scipy import sparse

from expressway._errors import InputError
from expressway._types import Float

from .design import Design, weighted_sum
from .factors import CodedFactor, coded_factors

ContrastSpec = str | Sequence[str | float | int] | np.ndarray


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
    """

    name: str
    vector: Float[np.ndarray, " p"]
    constant: float
    members: Float[np.ndarray, " p"]


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


class _Coded(NamedTuple):
    """A factor within a block of columns: in full (a column a level) or less the reference."""

    factor: CodedFactor
    full: bool

    @property
    def code(self) -> Float[np.ndarray, "k c"]:
        return np.eye(len(self.factor.levels)) if self.full else self.factor.code


class _Block(NamedTuple):
    """Neighbouring columns of a design: the products of some factors' codes, first one fastest."""

    columns: slice
    coded: tuple[_Coded, ...]
    scale: float


def contrast(design: Design, spec: ContrastSpec | None = None) -> Contrast:
    """Return the contrast that a user names, in one of four ways.

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
        - None: the last coefficient; of a design without intercept and interactions that ends
          in a factor, its last level against its reference.

    Raises
    ------
    InputError
        A factor, level or coefficient that does not exist, the same level twice, weights that
        are not p finite numbers or all zero.
    """
    if spec is None:
        spec = _default(design)
    if isinstance(spec, str):
        return _coefficient(design, spec)
    if len(spec) == 3 and isinstance(spec[0], str):
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


def _coefficient(design: Design, name: str) -> Contrast:
    # Its own spelling first: a thousand levels have a million others.
    spellings = {name: k for k, name in enumerate(design.names)}
    spellings = spellings if name in spellings else _spellings(design)
    if name not in spellings:
        message = f"no coefficient is named {name}; there are {', '.join(design.names)}"
        raise InputError(message)
    index = spellings[name]
    p = len(design.names)
    return Contrast(_readable(design, index), np.eye(p)[index], 1.0, np.zeros(p))


def _difference(design: Design, factor: str, level: str, reference: str) -> Contrast:
    _check_levels(design, factor, (level, reference))
    if level == reference:
        message = f"contrast of {factor}: level {level} is given twice; give two levels"
        raise InputError(message)
    blocks, p = _blocks(design.spec), len(design.names)
    vector = _row(blocks, p, {factor: level}) - _row(blocks, p, {factor: reference})
    _refuse_nothing(design, factor, vector)
    constant, members = _taking_part(blocks, p, factor, [{level, reference}])
    name = f"{factor} {level} vs {reference}"
    return Contrast(name, vector, float(constant[0]), members[0])


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
    _check_levels(design, factor, () if reference is None else (reference,))
    reference = design.levels[factor][0] if reference is None else reference
    if levels is None:
        levels = [level for level in design.levels[factor] if level != reference]
    levels = list(dict.fromkeys(map(str, levels)))
    _check_levels(design, factor, levels)
    if not levels or reference in levels:
        message = f"contrasts of {factor} to {reference}: give levels other than {reference}"
        raise InputError(message)
    blocks, p = _blocks(design.spec), len(design.names)
    rows = _rows(blocks, p, factor, [*levels, reference])
    vectors = rows[:-1] - rows[-1]
    _refuse_nothing(design, factor, vectors)
    constant, members = _taking_part(blocks, p, factor, [{level} for level in [*levels, reference]])
    return Differences(
        tuple(f"{factor} {level} vs {reference}" for level in levels),
        tuple(levels),
        sparse.csr_matrix(vectors),
        sparse.csr_matrix(np.column_stack([constant, members])),
    )


def _check_levels(design: Design, factor: str, levels: Sequence[str]) -> None:
    if factor not in design.levels:
        message = (
            f"{factor} is not a factor of the design {design.formula}, whose factors are "
            f"{', '.join(design.levels) or 'none'}; of a covariate, name the coefficient"
        )
        raise InputError(message)
    for wanted in levels:
        if wanted not in design.levels[factor]:
            message = (
                f"factor {factor} has no level {wanted}; it has {', '.join(design.levels[factor])}"
            )
            raise InputError(message)


def _refuse_nothing(design: Design, factor: str, vectors: np.ndarray) -> None:
    if not vectors.any():
        message = (
            f"factor {factor} enters the design {design.formula} only together with numbers: "
            f"name one of the coefficients {', '.join(design.names)}"
        )
        raise InputError(message)


def _weights(design: Design, spec: Sequence[str | float | int] | np.ndarray) -> Contrast:
    p = len(design.names)
    try:
        vector = np.asarray(spec, dtype=float)
    except ValueError as error:
        message = (
            f"contrast {spec} is neither (factor, level, reference level), nor the name of a "
            f"coefficient, nor {p} numbers"
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


def _blocks(spec: formulaic.ModelSpec) -> list[_Block]:
    """Return the blocks of columns that are made of factors alone, the intercept among them."""
    factors = coded_factors(spec)
    blocks, start = [], 0
    for term in spec.structure or ():
        stop = start + len(term.columns)
        for scoped in term.scoped_terms:
            if not all(part.factor.expr in factors for part in scoped.factors):
                break
            coded = tuple(
                _Coded(factors[part.factor.expr], not part.reduced) for part in scoped.factors
            )
            width = int(np.prod([part.code.shape[1] for part in coded]))
            blocks.append(_Block(slice(start, start + width), coded, scoped.scale))
            start += width
        start = stop
    return blocks


def _product(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Return all products of one entry a vector, the first vector's fastest."""
    return reduce(lambda product, vector: np.kron(vector, product), vectors, np.ones(1))


def _row(blocks: Sequence[_Block], p: int, levels: Mapping[str, str]) -> Float[np.ndarray, " p"]:
    """Return the design row at `levels`, other factors at their reference, covariates at 0."""
    row = np.zeros(p)
    for block in blocks:
        codes = []
        for factor, code in ((part.factor, part.code) for part in block.coded):
            level = levels.get(factor.column, factor.reference)
            codes.append(code[factor.levels.index(level)])
        row[block.columns] = block.scale * _product(codes)
    return row


def _rows(
    blocks: Sequence[_Block], p: int, factor: str, levels: Sequence[str]
) -> Float[np.ndarray, "k p"]:
    """Return what `_row` does for each level of a factor, in columns that code it; 0 in others."""
    rows = np.zeros((len(levels), p))
    for block in blocks:
        parts = [(part.factor, part.code) for part in block.coded]
        if all(coded.column != factor for coded, _ in parts):
            continue
        for row, wanted in zip(rows, levels, strict=True):
            at = [wanted if coded.column == factor else coded.reference for coded, _ in parts]
            codes = [code[f.levels.index(a)] for (f, code), a in zip(parts, at, strict=True)]
            row[block.columns] = block.scale * _product(codes)
    return rows


def _taking_part(
    blocks: Sequence[_Block], p: int, factor: str, wanted: Sequence[Collection[str]]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k p"]]:
    """Return `constant` and `members` that mark the samples whose `factor` is at wanted levels.

    They are read from columns that code `factor`, summed over all levels of any other factor in
    them: `1 - (the other levels)` where the base level is meant. A factor without such columns
    (a hand-made contrast coding) lets every sample take part.
    """
    members = np.zeros((len(wanted), p))
    for block in blocks:
        own = [part for part in block.coded if part.factor.column == factor]
        others = [part for part in block.coded if part.factor.column != factor]
        if len(own) != 1 or not all(part.full for part in others):
            continue
        place = {level: i for i, level in enumerate(own[0].factor.levels)}
        among = np.zeros((len(place), len(wanted)))
        for column, levels in enumerate(wanted):
            among[[place[level] for level in levels], column] = 1.0
        code = own[0].code
        if own[0].full:
            constant, weights = np.zeros(len(wanted)), among
        elif code.shape[1] == len(place) - 1:
            basis = np.column_stack([np.ones(len(place)), code])
            constant, *weights = np.linalg.solve(basis, among)
        else:
            continue
        widths = [part.code.shape[1] for part in block.coded]
        for row, weight in zip(members, np.transpose(weights), strict=True):
            summed = [
                weight if part is own[0] else np.ones(width)
                for part, width in zip(block.coded, widths, strict=True)
            ]
            row[block.columns] = _product(summed) / block.scale
        return constant, members
    return np.ones(len(wanted)), members
