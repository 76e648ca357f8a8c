"""What sites agree on before any number moves: genes, columns, levels, the design.

A site describes its tables by names only. The coordinator makes one design of the descriptions,
and each site codes its own samples by it.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd

from expressway._errors import InputError
from expressway._types import Float

from .design import Design, design, design_columns, refuse_totals
from .factors import as_category, is_number
from .formulas import refuse_code

# A design over this many combinations of levels is not written down to find its columns.
_COMBINATIONS = 100_000


class Column(NamedTuple):
    """A column of a sample table."""

    number: bool
    levels: tuple[str, ...]
    """Of a factor, in order; none for numbers that enter as numbers."""


class Description(NamedTuple):
    """What a site says of its tables: names, no counts and no sample."""

    site: str
    genes: tuple[str, ...]
    columns: Mapping[str, Column]


class Agreement(NamedTuple):
    """What all sites use."""

    genes: tuple[str, ...]
    design: Design
    """Its matrix has rows of combinations of levels, no sample's."""
    columns: Mapping[str, Column]
    """Those of the formula, with the levels of all sites."""
    left_out: Mapping[str, int]
    """How many genes of each site are not among the common ones."""


class Census(NamedTuple):
    """What a site says of its samples once the design is agreed on."""

    site: str
    cells: Mapping[str, int]
    """Samples in each combination of levels."""
    rows: Mapping[str, int]
    """Samples with each design row, under a keyed digest of it."""
    crossproduct: Float[np.ndarray, "p p"]
    """``X'X``."""


class Coded(NamedTuple):
    """A site's own samples, coded by the agreed design."""

    matrix: Float[np.ndarray, "n p"]
    rows: tuple[str, ...]
    """Digest of each sample's design row."""
    census: Census


def describe(site: str, adata: anndata.AnnData, formula: str) -> Description:
    """Description of a site's tables: its genes, and the columns that the formula names.

    Raises
    ------
    InputError
        A column that the formula names is not there, or lacks a value; or the formula has code.
    """
    obs = pd.DataFrame(adata.obs)
    try:
        refuse_code(formula)
        used = design_columns(formula, obs)
    except InputError as error:
        message = f"site {site}: {error}"
        raise InputError(message) from None
    columns = {}
    for name, coded in used.items():
        values = pd.Series(obs[name])
        number = is_number(values)
        levels = ()
        if coded or not number:
            levels = tuple(map(word, as_category(values)[0].cat.categories))
        columns[name] = Column(number, levels)
    return Description(site, tuple(map(str, adata.var_names)), columns)


def agree(
    descriptions: Sequence[Description],
    formula: str,
    reference: Mapping[str, str],
    *,
    intersect: bool,
) -> Agreement:
    """Genes and design that all sites use.

    Parameters
    ----------
    descriptions
        One of each site.
    formula, reference
        As for `design`. Transforms that are fitted to data (bs, scale, poly, center) need all
        samples in one place and are refused.
    intersect
        Use the genes that all sites have; otherwise sites with different genes are refused.

    Raises
    ------
    InputError
        Sites differ in their genes (and ``intersect`` is false), in the kind of a column, or the
        design cannot be made.
    """
    genes, left_out = _common_genes(descriptions, intersect)
    columns = {name: common_column(descriptions, name) for name in descriptions[0].columns}
    coded = of_columns(columns, formula, reference)
    fitted = sorted(map(str, coded.spec.transform_state))
    if fitted:
        message = (
            f"{', '.join(fitted)} would be fitted to all samples together, which sites do not "
            "show; transform the column at every site beforehand"
        )
        raise InputError(message)
    for name, column in columns.items():
        if not column.number:  # as the design orders them, reference level first or not
            columns[name] = column._replace(levels=_ordered(coded, name, column.levels))
    return Agreement(genes, coded, columns, left_out)


def of_columns(columns: Mapping[str, Column], formula: str, reference: Mapping[str, str]) -> Design:
    """The design of samples with these columns; its matrix is of no sample.

    Raises
    ------
    InputError
        As for `design`, and for formulas with code in them (`refuse_code`).
    """
    refuse_code(formula)
    return design(formula, every_combination(columns), reference)


def code(site: str, agreement: Agreement, adata: anndata.AnnData, key: bytes) -> Coded:
    """A site's own samples in the agreed design, and what it says of them.

    Parameters
    ----------
    key
        Of the sites alone: to others a digest tells which design rows are equal, and nothing else.

    Raises
    ------
    InputError
        A number of the design is not finite.
    """
    table = pd.DataFrame(index=adata.obs_names)
    labels = [""] * adata.n_obs
    for name, column in agreement.columns.items():
        values = adata.obs[name]
        if column.levels:
            words = [word(value) for value in values]
            labels = [f"{a} {name}={b}" for a, b in zip(labels, words, strict=True)]
        if column.number:
            table[name] = _numbers(values.tolist(), column)
        else:
            table[name] = pd.Categorical(values.map(str), list(column.levels))
    coded = agreement.design.spec.get_model_matrix(table, context={}, output="pandas")
    matrix = np.ascontiguousarray(coded, dtype=float)
    if not np.isfinite(matrix).all():
        row, column = np.argwhere(~np.isfinite(matrix))[0]
        message = (
            f"site {site}: design column {agreement.design.names[column]} is not a finite number "
            f"for sample {adata.obs_names[row]}"
        )
        raise InputError(message)
    digests = tuple(
        hashlib.blake2b((row + 0.0).tobytes(), key=key, digest_size=16).hexdigest()
        for row in matrix
    )
    cells = pd.Series([label.strip() or "all samples" for label in labels]).value_counts()
    rows = pd.Series(digests).value_counts()
    census = Census(
        site,
        {str(cell): int(count) for cell, count in cells.items()},
        {str(row): int(count) for row, count in rows.items()},
        matrix.T @ matrix,
    )
    return Coded(matrix, digests, census)


def take(censuses: Sequence[Census], agreement: Agreement, min_samples: int) -> pd.DataFrame:
    """Samples of each site in each combination of levels, if the analysis may go on.

    Raises
    ------
    InputError
        The design cannot be estimated from all samples, or a combination of levels has some but
        fewer samples than the rule asks for.
    """
    cells = pd.DataFrame({c.site: pd.Series(c.cells, dtype=int) for c in censuses})
    cells = cells.fillna(0).astype(int).rename_axis("cell").sort_index()
    total = cells.sum(axis=1)
    crossproduct = np.sum([c.crossproduct for c in censuses], axis=0)
    coded = agreement.design
    refuse_totals(coded.formula, crossproduct, coded.names, int(total.sum()))
    few = total[total < min_samples]
    if len(few):
        count = f"{few.min()} sample{'s' if few.min() > 1 else ''} over all sites"
        message = (
            f"design cell '{few.idxmin()}' has {count} ({len(few)} of {len(total)} cells have "
            f"fewer than {min_samples}): totals would show single samples; leave a factor out or "
            f"merge its levels, or lower the rule with --min-samples {few.min()} if every site "
            "allows it"
        )
        raise InputError(message)
    return cells


def _common_genes(
    descriptions: Sequence[Description], intersect: bool
) -> tuple[tuple[str, ...], dict[str, int]]:
    """Genes that all sites have, in the first site's order, and how many each loses."""
    common = set(descriptions[0].genes).intersection(*(d.genes for d in descriptions[1:]))
    genes = tuple(gene for gene in descriptions[0].genes if gene in common)
    left_out = {d.site: len(d.genes) - len(genes) for d in descriptions}
    if not genes:
        message = "no gene is at every site; check that all sites name genes alike"
        raise InputError(message)
    if any(left_out.values()) and not intersect:
        named = ", ".join(f"{site} has {n:,} more" for site, n in left_out.items() if n)
        message = (
            f"sites differ in their genes: {len(genes):,} are at every site, {named}; "
            "give --common-genes to use those that every site has"
        )
        raise InputError(message)
    return genes, left_out


def common_column(descriptions: Sequence[Description], name: str) -> Column:
    """A column as all sites have it, with the levels of any.

    Raises
    ------
    InputError
        It holds numbers at some sites and words at others.
    """
    found = {d.site: d.columns[name] for d in descriptions}
    if len({column.number for column in found.values()}) > 1:
        numbers = [site for site, column in found.items() if column.number]
        words = [site for site, column in found.items() if not column.number]
        message = (
            f"column {name} holds numbers at {', '.join(numbers)} and words at "
            f"{', '.join(words)}; make it the same everywhere"
        )
        raise InputError(message)
    lists = {column.levels for column in found.values()}
    number = next(iter(found.values())).number
    if len(lists) == 1:
        return Column(number, lists.pop())
    union = pd.Series(sorted(set().union(*lists)), dtype=object)
    return Column(number, tuple(map(str, as_category(union)[0].cat.categories)))


def _ordered(coded: Design, name: str, levels: tuple[str, ...]) -> tuple[str, ...]:
    """Levels in the order in which the design's spec has them."""
    frame = coded.levels.get(name, levels)
    return tuple(frame) if set(frame) == set(levels) else levels


def word(value: object) -> str:
    """A level as text; of numbers the same whatever their type."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    return f"{value:.12g}" if number else str(value)


def _numbers(values: Sequence[Any], column: Column) -> np.ndarray:
    """Numbers, whole ones where all levels are: names of coefficients are made of them."""
    whole = column.levels and all(float(level).is_integer() for level in column.levels)
    return np.array(values, dtype=float).astype(int if whole else float)


def every_combination(columns: Mapping[str, Column]) -> pd.DataFrame:
    """Return a table with each combination of levels, and numbers that are all different.

    No sample's row: it tells formulaic which columns there are. The numbers are positive, so that
    they have logarithms.
    """
    factors = {name: column for name, column in columns.items() if column.levels}
    size = int(np.prod([len(column.levels) for column in factors.values()] or [1]))
    if size > _COMBINATIONS:
        message = f"the design has {size:,} combinations of levels; {_COMBINATIONS:,} are too many"
        raise InputError(message)
    repeats = 3 + 4 * (len(columns) - len(factors))
    grid = np.meshgrid(*(range(len(c.levels)) for c in factors.values()), indexing="ij")
    codes = [np.tile(axis.ravel(), repeats) for axis in grid]
    rng = np.random.default_rng(0)
    table = {}
    for name, column in columns.items():
        if not column.levels:
            table[name] = rng.uniform(1, 2, repeats * size)
            continue
        values = np.array(column.levels, dtype=object)[codes.pop(0)]
        if column.number:
            table[name] = _numbers(values.tolist(), column)
        else:
            table[name] = pd.Categorical(values, list(column.levels))
    return pd.DataFrame(table)
