"""How sites join an analysis: the agreement, their rows and what is recorded of it."""

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd

from expressway import _rows, _steps, io
from expressway.core.cohort import Pooled, samples
from expressway.core.order import Groups
from expressway.core.sparse import Sparse
from expressway.io.agreement import Agreement, Census, Coded, agree, code, describe
from expressway.io.contrast import ContrastSpec
from expressway.models import deseq
from expressway.models.trend import Trend
from expressway.run import Ledger, Site
from expressway.run.masked import digest, unmasked
from expressway.run.masks import Masks, new_key, public_key
from expressway.run.protocol import Asked

# What the column of a census of all sites is called.
ALL = "all sites"
# With two sites each sees the other's share as the total less its own.
MASKED_FROM = 3


class Rules(NamedTuple):
    """What the sites insist on before anything leaves them."""

    min_sites: int = 2
    min_samples: int = 3
    """Samples of all sites together in every combination of levels that there is."""
    common_genes: bool = False
    """Use the genes that all sites have; otherwise different genes are refused."""
    masks: bool | None = None
    """Totals leave the sites under masks that cancel: with three sites or more unless refused."""

    def masked(self, sites: int) -> bool:
        """Whether totals of so many sites come under masks."""
        return sites >= MASKED_FROM if self.masks is None else self.masks


def agreed(
    sites: Mapping[str, anndata.AnnData],
    formula: str,
    contrast: ContrastSpec | None,
    reference: dict[str, str],
    rules: Rules,
) -> tuple[Agreement, dict[str, str], dict[str, Coded]]:
    """What the sites agree on, and each one's samples coded by it."""
    if len(sites) < rules.min_sites:
        message = (
            f"{len(sites)} site{'' if len(sites) == 1 else 's'}; at least {rules.min_sites} are "
            "needed (--min-sites)"
        )
        raise io.InputError(message)
    descriptions = [describe(name, adata, formula) for name, adata in sites.items()]
    agreement = agree(descriptions, formula, reference, intersect=rules.common_genes)
    base = _steps.base_level(contrast, agreement.design, reference)
    if base:
        reference |= base
        agreement = agree(descriptions, formula, reference, intersect=rules.common_genes)
    # The sites' own: the coordinator of a real run never sees it.
    key = secrets.token_bytes(32)
    coded = {name: code(name, agreement, adata, key) for name, adata in sites.items()}
    return agreement, reference, coded


def masks(names: Sequence[str], run: bytes) -> dict[str, Masks]:
    """Masks of each site: keys made at the sites, of which they show each other the public half."""
    own = {name: new_key() for name in names}
    public = {name: public_key(key) for name, key in own.items()}
    return {
        name: Masks(name, key, {n: k for n, k in public.items() if n != name}, run)
        for name, key in own.items()
    }


def census_of_all(
    coded: Mapping[str, Coded], masks: Mapping[str, Masks]
) -> tuple[Census, dict[str, Any]]:
    """The census of all sites together, and the masked one that each sent.

    Which combinations of levels and which design rows there are (by a digest) each site names; how
    many samples have them is seen of all sites together only.
    """
    cells = list(dict.fromkeys(cell for one in coded.values() for cell in one.census.cells))
    rows = list(dict.fromkeys(row for one in coded.values() for row in one.census.rows))
    asked = Asked("census", (np.array(cells), np.array(rows)), (), None)
    sent = {}
    for name, one in coded.items():
        own = _Totals(
            np.array([one.census.cells.get(cell, 0) for cell in cells], float),
            np.array([one.census.rows.get(row, 0) for row in rows], float),
            one.census.crossproduct,
        )
        sent[name] = _Totals(**masks[name].hide(own._asdict(), digest("census", *asked)))
    total = unmasked(asked, 2, list(sent.values()))
    in_cells, in_rows = (np.rint(part).astype(int).tolist() for part in total[:2])
    both = (dict(zip(cells, in_cells, strict=True)), dict(zip(rows, in_rows, strict=True)))
    return Census(ALL, both[0], both[1], total.crossproduct), sent


def design_cells(censuses: Sequence[Census]) -> tuple[dict[str, int], Groups]:
    """A number for each design row that any site has, and how many samples have it.

    Numbered by size and then as met, so that they do not depend on the key.
    """
    size: dict[str, int] = {}
    for census in censuses:
        for row, count in census.rows.items():
            size[row] = size.get(row, 0) + count
    numbers = {row: i for i, row in enumerate(size)}
    return numbers, Groups(np.arange(len(size)), np.array(list(size.values())))


def member(
    name: str,
    adata: anndata.AnnData,
    agreement: Agreement,
    coded: Coded,
    numbers: Mapping[str, int],
    inputs: io.Inputs,
) -> Site:
    """A site with its rows: the agreed genes in the agreed order, its design cells numbered."""
    part = adata[:, list(agreement.genes)]
    owner = f"site {name}: adata"
    rows = samples(_rows.counts(part, None, owner), coded.matrix)
    rows = io.rows_with(rows, part, inputs, owner, alone=False)
    cell = np.array([numbers[row] for row in coded.rows])
    return Site(name, Pooled(rows._replace(cell=cell)))


def given(
    sites: Mapping[str, anndata.AnnData], agreement: Agreement, inputs: io.Inputs
) -> deseq.Given:
    """What the sites bring beside counts and design.

    Raises
    ------
    InputError
        They differ in their control genes.
    """
    genes = list(agreement.genes)
    parts = {name: adata[:, genes] for name, adata in sites.items()}
    if inputs.control_genes is not None:
        found = {
            name: io.control_genes(part, inputs, f"site {name}: adata")
            for name, part in parts.items()
        }
        (first, one), *others = found.items()
        for name, other in others:
            differ = np.flatnonzero(np.asarray(one) != np.asarray(other))
            if len(differ):
                message = (
                    f"sites {first} and {name} differ in whether gene {genes[differ[0]]} is a "
                    f"control gene ({len(differ)} such): mark the same genes everywhere"
                )
                raise io.InputError(message)
    return io.given(next(iter(parts.values())), inputs)


def ledger(
    sites: Mapping[str, anndata.AnnData],
    formula: str,
    agreement: Agreement,
    enrolled: Mapping[str, Coded],
    cells: pd.DataFrame,
    sent: Mapping[str, Any],
) -> Ledger:
    """A ledger that has the two rounds of the agreement: descriptions, and the census."""
    smallest = {name: min(one.census.cells.values()) for name, one in enrolled.items()}
    behind = {name: adata.n_obs for name, adata in sites.items()}
    ledger = Ledger(behind, smallest, int(cells.sum(axis=1).min()))
    names = ["\n".join(agreement.genes), str(dict(agreement.columns)), formula]
    text = len(" ".join(names).encode())
    ledger.begin()
    for name in enrolled:
        ledger.up[name] += text
    ledger.begin()
    for name, one in enrolled.items():
        ledger.down[name] += text
        ledger.receive(name, "census", sent.get(name, _Totals.of(one.census)))
    return ledger


class _Totals(NamedTuple):
    """The numbers of a census."""

    cells: Any
    rows: Any
    crossproduct: Any

    @classmethod
    def of(cls, census: Census) -> "_Totals":
        """Those of one site."""
        cells, rows = (np.array(list(part.values())) for part in (census.cells, census.rows))
        return cls(cells, rows, census.crossproduct)


def identity(
    agreement: Agreement, settings: deseq.Settings, members: Sequence[Site], given: deseq.Given
) -> dict[str, Any]:
    """What a run is, to tell whether the stages kept on a disk are its own."""
    digests = {site.name: _digest(site) for site in members}
    own, controls = given.trend, given.controls
    nodes = [own.log_mean, own.log_dispersion] if isinstance(own, Trend) else []
    return {
        "formula": agreement.design.formula,
        "coefficients": agreement.design.names,
        "genes": json.dumps(agreement.genes),
        "settings": settings._asdict(),
        "sites": digests,
        "controls": None if controls is None else io.digest(controls),
        "trend": io.digest(*nodes),
    }


def _digest(site: Site) -> str:
    """Of a site's counts, design and what else it brings, made there."""
    rows = site.rows.rows
    y: Any = rows.y
    parts = y if isinstance(y, Sparse) else (np.asarray(y, float),)
    brought = (rows.x, rows.offset, rows.precision)
    return io.digest(*map(np.asarray, (*parts, *brought)))
