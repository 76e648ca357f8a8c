"""Blocks of a design's columns that are made of factors alone, and what they say of levels.

They depend on levels only: nothing here needs rows, so that a coordinator of several sites, which
has none, names the same contrasts.
"""

import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import reduce
from typing import NamedTuple

import formulaic
import numpy as np

from expressway._types import Float

from .factors import CodedFactor, coded_factors

# Combinations of levels for which weights of columns are sought that mark some of them: a least
# squares problem with as many rows.
_COMBINATIONS = 1024
# Marks are 0 or 1 where weights exist; rounding of a least squares solution is far below.
_EXACT = 1e-9


class Coded(NamedTuple):
    """A factor within a block of columns: in full (a column a level) or less the reference."""

    factor: CodedFactor
    full: bool

    @property
    def code(self) -> Float[np.ndarray, "k c"]:
        """A row a level."""
        return np.eye(len(self.factor.levels)) if self.full else self.factor.code


class Block(NamedTuple):
    """Neighbouring columns of a design: the products of some factors' codes, first one fastest."""

    columns: slice
    coded: tuple[Coded, ...]
    scale: float

    @property
    def factors(self) -> dict[str, CodedFactor]:
        """By column of the sample table, which may be coded twice."""
        return {part.factor.column: part.factor for part in self.coded}


def blocks(spec: formulaic.ModelSpec) -> list[Block]:
    """Return the blocks of columns that are made of factors alone, the intercept among them."""
    factors = coded_factors(spec)
    found, start = [], 0
    for term in spec.structure or ():
        stop = start + len(term.columns)
        for scoped in term.scoped_terms:
            if not all(part.factor.expr in factors for part in scoped.factors):
                break
            coded = tuple(
                Coded(factors[part.factor.expr], not part.reduced) for part in scoped.factors
            )
            width = int(np.prod([part.code.shape[1] for part in coded]))
            found.append(Block(slice(start, start + width), coded, scoped.scale))
            start += width
        start = stop
    return found


def mean_row(
    of: Sequence[Block], p: int, levels: Callable[[CodedFactor], Sequence[str]]
) -> Float[np.ndarray, " p"]:
    """Return the mean design row over all combinations of levels, covariates at 0.

    Parameters
    ----------
    levels
        Of a factor: those it takes, each as often as the others.
    """
    row = np.zeros(p)
    for block in of:
        at = {column: levels(factor) for column, factor in block.factors.items()}
        count = np.prod([len(some) for some in at.values()], dtype=float)
        row[block.columns] = sum(_codes(block, at)) / count
    return row


def rows(
    of: Sequence[Block], p: int, factor: str, levels: Sequence[str]
) -> Float[np.ndarray, "k p"]:
    """Return the design row at each level of a factor, in columns that code it; 0 in others.

    Other factors are at their reference level.
    """
    found = np.zeros((len(levels), p))
    for block in of:
        if factor in block.factors:
            at = {column: [other.reference] for column, other in block.factors.items()}
            found[:, block.columns] = list(_codes(block, at | {factor: levels}))
    return found


def _codes(block: Block, levels: Mapping[str, Sequence[str]]) -> Iterator[Float[np.ndarray, " c"]]:
    """Yield a block's columns at every combination of some levels, the last factor's fastest."""
    parts = [(part.factor, part.code) for part in block.coded]
    for combination in itertools.product(*levels.values()):
        at = dict(zip(levels, combination, strict=True))
        codes = [code[factor.levels.index(at[factor.column])] for factor, code in parts]
        yield block.scale * _product(codes)


def _product(vectors: Sequence[np.ndarray]) -> np.ndarray:
    """Return all products of one entry a vector, the first vector's fastest."""
    return reduce(lambda product, vector: np.kron(vector, product), vectors, np.ones(1))


def taking_part(
    of: Sequence[Block], p: int, factor: str, wanted: Sequence[Collection[str]]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, "k p"]] | None:
    """Return a constant and weights of columns that mark samples whose factor is at wanted levels.

    ``constant + x @ weights`` is 1 for them, else 0. They are read from columns that code
    `factor`, summed over all levels of any other factor in them: `1 - (the other levels)` where
    the base level is meant. None where no columns do (a hand-made contrast coding).
    """
    members = np.zeros((len(wanted), p))
    for block in of:
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
    return None


def mark(
    of: Sequence[Block], p: int, wanted: Mapping[str, Collection[str]]
) -> Float[np.ndarray, " q"] | None:
    """Return weights of a constant and the p columns that mark samples at wanted levels.

    ``(1, x) @ weights`` is 1 for samples of which every named factor is at one of its levels, and
    0 for others. None where the columns do not tell them apart (two factors that have no
    interaction), or combinations of levels are too many to find out.
    """
    if not wanted:
        return np.append(1.0, np.zeros(p))
    if len(wanted) == 1:
        [(factor, levels)] = wanted.items()
        found = taking_part(of, p, factor, [levels])
        if found is not None:
            return np.append(found[0][0], found[1][0])
    near, factors = _neighbours(of, wanted)
    size = np.prod([len(factor.levels) for factor in factors.values()], dtype=float)
    if size > _COMBINATIONS or not wanted.keys() <= factors.keys():
        return None
    combinations = [
        dict(zip(factors, at, strict=True))
        for at in itertools.product(*(factor.levels for factor in factors.values()))
    ]
    inside = [all(at[factor] in levels for factor, levels in wanted.items()) for at in combinations]
    x = np.ones((len(combinations), p + 1))
    for row, at in zip(x, combinations, strict=True):
        row[1:] = mean_row(near, p, lambda factor, at=at: [at[factor.column]])
    weights = np.linalg.lstsq(x, np.array(inside, float))[0]
    return weights if np.all(np.abs(x @ weights - inside) <= _EXACT) else None


def _neighbours(
    of: Sequence[Block], wanted: Collection[str]
) -> tuple[list[Block], dict[str, CodedFactor]]:
    """Return the blocks that tell of some factors, and all factors in them.

    A block of theirs brings in the factors it has besides, and these their own blocks.
    """
    names = set(wanted)
    while True:
        near = [block for block in of if names & block.factors.keys()]
        factors = {column: f for block in near for column, f in block.factors.items()}
        if factors.keys() <= names:
            return near, factors
        names |= factors.keys()
