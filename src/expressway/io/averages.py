"""Contrasts of averages over groups of combinations of levels."""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from expressway._errors import InputError
from expressway._types import Float
from expressway.models.results import Squares

from .blocks import Block, blocks, mark, mean_row
from .contrast_text import Group, Levels, group_text, levels_of
from .design import Design
from .factors import check_levels


def averages(
    design: Design, first: Group, second: Group
) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " q"], Squares | None]:
    """Return the mean design row of a group less that of another, and which samples take part.

    A mean is over all combinations of the levels that the group allows, each weighing the same
    whatever the samples: of a factor it does not name, all levels. Covariates are at 0 in
    interactions; alone they have no part in the difference.

    Returns
    -------
    tuple
        Weights of the coefficients; weights of a constant and the columns, a sample with
        ``(1, x) @ weights`` other than 0 is in one of the groups; the same in `Squares` where
        that takes products of columns (the first then lets every sample take part).

    Raises
    ------
    InputError
        A factor or level that does not exist, a factor without levels, groups with the same mean.
    """
    found, p = blocks(design.spec), len(design.names)
    groups = [levels_of(first), levels_of(second)]
    for group in groups:
        for factor, levels in group.items():
            check_levels(design.formula, design.levels, factor, levels)
    rows = [mean_row(found, p, lambda f, of=group: of.get(f.column, f.levels)) for group in groups]
    vector = rows[0] - rows[1]
    # Means over many combinations: rounding, beside entries of order 1.
    vector[np.abs(vector) <= 1e-12 * np.max(np.abs(rows), initial=0.0)] = 0.0
    if not vector.any():
        message = (
            f"groups '{group_text(first)}' and '{group_text(second)}' have the same mean in the "
            f"design {design.formula}; give groups that differ in the levels of "
            f"{', '.join(design.levels) or 'a factor, of which it has none'}"
        )
        raise InputError(message)
    return vector, *_taking_part(found, p, groups)


def _taking_part(
    of: Sequence[Block], p: int, groups: Sequence[Levels]
) -> tuple[Float[np.ndarray, " q"], Squares | None]:
    """Return what marks samples of either group; everybody where columns do not tell them.

    Columns mark a group by one sum of them, if its factors interact in the design, or else by
    the product of two.
    """
    everyone = np.append(1.0, np.zeros(p))
    marks = [mark(of, p, group) for group in groups]
    if all(one is not None for one in marks):
        # Of a sample of either group 1 or 2, of others 0.
        return np.sum([one for one in marks if one is not None], axis=0), None
    pairs = [
        (one, one) if one is not None else _two_marks(of, p, group)
        for one, group in zip(marks, groups, strict=True)
    ]
    if any(pair is None for pair in pairs):
        return everyone, None
    known = [pair for pair in pairs if pair is not None]
    # a b = ((a + b)² - (a - b)²) / 4
    squares = [np.stack([(a + b) / 2, (a - b) / 2]) for a, b in known]
    return everyone, Squares(np.tile([1.0, -1.0], len(known)), np.concatenate(squares))


def _two_marks(
    of: Sequence[Block], p: int, group: Mapping[str, Sequence[str]]
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return marks of some of a group's factors and of the others, if columns tell both."""
    names = list(group)
    for count in range(1, len(names) // 2 + 1):
        for some in itertools.combinations(names, count):
            parts = ({n: group[n] for n in names if (n in some) == side} for side in (True, False))
            a, b = (mark(of, p, part) for part in parts)
            if a is not None and b is not None:
                return a, b
    return None
