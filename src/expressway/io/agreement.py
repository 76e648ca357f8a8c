"""What sites agree on before any number moves: genes, columns, levels, the design.

A site describes its tables by names only. The coordinator makes one design of the descriptions,
and each site codes its own samples by it.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import anndata
import numpy as np
import pandas as pd

from expressway._errors import InputError
from expressway._types import Float

from .design import Design, design, design_columns
from .factors import as_category, is_number

# A design over this many combinations of levels is not written down to find its columns.
_COMBINATIONS = 100_000


class Column(NamedTuple):
    """A column of a sample table: numbers, or a factor with these levels in this order."""

    number: bool
    levels: tuple[str, ...]


class Description(NamedTuple):
    """What a site says of its tables: names, no counts and no sample."""

    site: str
    samples: int
    genes: tuple[str, ...]
    columns: Mapping[str, Column]


class Agreement(NamedTuple):
    """What all sites use."""

    genes: tuple[str, ...]
    design: Design
    """Its matrix has a row for each combination of levels, no sample's."""
    levels: Mapping[str, tuple[str, ...]]
    left_out: Mapping[str, int]
    """How many genes of each site are not among the common ones."""


def describe(site: str, adata: anndata.AnnData, formula: str) -> Description:
    """Description of a site's tables: its genes, and the columns that the formula names.

    Raises
    ------
    InputError
        A column that the formula names is not there, or lacks a value.
    """
    obs = pd.DataFrame(adata.obs)
    try:
        used = design_columns(formula, obs)
    except InputError as error:
        message = f"site {site}: {error}"
        raise InputError(message) from None
    columns = {}
    for name in used:
        number = is_number(obs[name])
        levels = () if number else tuple(map(str, as_category(obs[name])[0].cat.categories))
        columns[name] = Column(number, levels)
    return Description(site, adata.n_obs, tuple(map(str, adata.var_names)), columns)


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
        As for `design`. Transforms that are fitted to data (bs, scale, poly without given knots,
        centre or scale) need all samples in one place and are refused.
    intersect
        Use the genes that all sites have; otherwise sites with different genes are refused.

    Raises
    ------
    InputError
        Sites differ in their genes (and ``intersect`` is false), in the kind of a column, or the
        design cannot be made.
    """
    genes, left_out = _common_genes(descriptions, intersect)
    levels = {name: _levels(descriptions, name) for name in descriptions[0].columns}
    coded = design(formula, _every_combination(levels), reference)
    fitted = sorted(map(str, coded.spec.transform_state))
    if fitted:
        message = (
            f"{', '.join(fitted)} would be fitted to all samples together, which sites do not "
            "show; transform the column at every site beforehand"
        )
        raise InputError(message)
    ordered = {name: coded.levels.get(name, found) for name, found in levels.items()}
    return Agreement(genes, coded, ordered, left_out)


def code(agreement: Agreement, adata: anndata.AnnData) -> Float[np.ndarray, "n p"]:
    """Design matrix of a site's own samples."""
    table = pd.DataFrame(index=adata.obs_names)
    for name, levels in agreement.levels.items():
        values = adata.obs[name]
        table[name] = values if not levels else pd.Categorical(values.map(str), levels)
    spec = agreement.design.spec
    return np.asarray(spec.get_model_matrix(table, context={}), dtype=float)


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
        named = ", ".join(f"{site} has {n} more" for site, n in left_out.items() if n)
        message = (
            f"sites differ in their genes: {len(genes)} are at every site, {named}; "
            "give --genes intersect to use the common ones"
        )
        raise InputError(message)
    return genes, left_out


def _levels(descriptions: Sequence[Description], name: str) -> tuple[str, ...]:
    """Levels of a factor over all sites, in order; none for a column of numbers."""
    found = {d.site: d.columns[name] for d in descriptions}
    kinds = {column.number for column in found.values()}
    if len(kinds) > 1:
        numbers = [site for site, column in found.items() if column.number]
        words = [site for site, column in found.items() if not column.number]
        message = (
            f"column {name} holds numbers at {', '.join(numbers)} and words at "
            f"{', '.join(words)}; make it the same everywhere"
        )
        raise InputError(message)
    lists = {column.levels for column in found.values()}
    if len(lists) == 1:
        return lists.pop()
    union = pd.Series(sorted(set().union(*lists)), dtype=object)
    return tuple(map(str, as_category(union)[0].cat.categories))


def _every_combination(levels: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
    """A table with each combination of levels three times, and numbers that are all different.

    No sample's row: it tells formulaic which columns there are.
    """
    factors = {name: found for name, found in levels.items() if found}
    size = int(np.prod([len(found) for found in factors.values()] or [1]))
    if size > _COMBINATIONS:
        message = f"the design has {size} combinations of levels; {_COMBINATIONS} are too many"
        raise InputError(message)
    crossed = pd.MultiIndex.from_product(
        [pd.CategoricalIndex(found, found) for found in factors.values()] or [[0]],
        names=list(factors) or [None],
    ).to_frame(index=False)
    table = pd.concat([crossed] * 3, ignore_index=True)
    for name, found in factors.items():
        table[name] = pd.Categorical(table[name], found)
    rng = np.random.default_rng(0)
    for name in levels:
        if name not in factors:
            table[name] = rng.normal(size=len(table))
    return table[list(levels)]
