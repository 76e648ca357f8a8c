"""How sites join an analysis: the coordinator's end of the agreement."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from expressway import _steps, io
from expressway.core.order import Groups
from expressway.io.agreement import Agreement, Census, Column, Description, agree, take
from expressway.io.contrast import ContrastSpec
from expressway.models import deseq
from expressway.models.trend import Trend
from expressway.run import Ledger, ProtocolError
from expressway.run.federation import at_once
from expressway.run.masked import unmasked
from expressway.run.masks import Hidden
from expressway.run.protocol import Asked, fields
from expressway.run.remote import Line

from .part import JOINING, MASKED_FROM

# What the column of a census of all sites is called.
ALL = "all sites"
# What sites know each other by.
_PEER = ("public", "signature", "certificate")


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


class Question(NamedTuple):
    """What is asked of the sites."""

    formula: str
    contrast: ContrastSpec | None
    reference: Mapping[str, str]
    inputs: io.Inputs
    rules: Rules
    files: Mapping[str, Any]
    """Names of files that each site has of its own, and what else its table needs."""


class Joined(NamedTuple):
    """What the sites and the coordinator have agreed on."""

    agreement: Agreement
    reference: dict[str, str]
    cells: pd.DataFrame
    """Samples of each site in each combination of levels; under masks those of all together."""
    groups: Groups
    """Design cells of all sites, and how many samples are in each."""
    given: deseq.Given
    digests: dict[str, str]
    """Of each site's data, made there."""
    ledger: Ledger
    """Has the rounds of the agreement."""
    masked: bool


class Met(NamedTuple):
    """Sites that have told each other who they are."""

    descriptions: list[Description]
    sealed: Mapping[str, bytes]
    """The key of their design rows for each of them but the first, which nobody else can read."""
    publishes: Mapping[str, float]
    """What is left of the budget of each."""


class _Totals(NamedTuple):
    """The numbers of a census."""

    cells: Any
    rows: Any
    crossproduct: Any


def join(lines: Sequence[Line], question: Question) -> Joined:
    """The agreement of all sites.

    Raises
    ------
    InputError
        Sites are too few or differ in genes or columns, a design cell has fewer samples than the
        rules ask for, or the design cannot be made.
    ProtocolError
        A site refuses, or answers what is no answer.
    """
    rules = question.rules
    if len(lines) < rules.min_sites:
        message = (
            f"{len(lines)} site{'' if len(lines) == 1 else 's'}; at least {rules.min_sites} are "
            "needed (--min-sites)"
        )
        raise io.InputError(message)
    masked = rules.masked(len(lines))
    brought = {"inputs": list(question.inputs), **question.files}
    met = meet(lines, question.formula, brought, masks=masked)
    agreement, reference = _agreed(met.descriptions, question)
    columns = {name: [c.number, list(c.levels)] for name, c in agreement.columns.items()}
    design = {
        "sealed": met.sealed,
        "genes": list(agreement.genes),
        "columns": columns,
        "formula": question.formula,
        "reference": reference,
        "names": list(agreement.design.names),
    }
    coded = ask(lines, "code", design)
    census, totals = _census(lines, coded, masked, len(agreement.design.names))
    cells = take(census, agreement, rules.min_samples)
    numbers, groups = _design_cells(census)
    every = {str(cell): int(count) for cell, count in cells.sum(axis=1).items()}
    begun = ask(lines, "begin", {"cells": every, "numbers": numbers})
    controls = _controls({name: one["controls"] for name, one in coded.items()}, agreement.genes)
    given = deseq.Given(
        controls=controls,
        offsets=question.inputs.offsets is not None,
        weighted=question.inputs.precision is not None,
    )
    digests = {name: str(one["digest"]) for name, one in begun.items()}
    ledger = _ledger(lines, cells, totals)
    return Joined(agreement, reference, cells, groups, given, digests, ledger, masked)


def meet(lines: Sequence[Line], formula: str, brought: Mapping[str, Any], *, masks: bool) -> Met:
    """What all sites say of themselves by names, and keys that they have in common.

    Parameters
    ----------
    formula
        Its columns are described.
    brought
        What the sites' tables are to have beside counts.
    masks
        Whether totals are to come under masks.

    Raises
    ------
    ProtocolError
        A site refuses, or answers what is no answer.
    """
    names = [line.name for line in lines]
    about = {"formula": formula, "sites": names, "masks": masks, "brought": brought}
    said = ask(lines, "describe", about)
    for line in lines:
        line.leaves = said[line.name]["leaves"] is True
    peers = {name: {key: one[key] for key in _PEER} for name, one in said.items()}
    sealed = ask(lines, "keys", {"peers": peers})[names[0]]["sealed"]
    descriptions = [
        Description(
            name,
            tuple(one["genes"]),
            {
                key: Column(number, tuple(levels))
                for key, (number, levels) in one["columns"].items()
            },
        )
        for name, one in said.items()
    ]
    publishes = {name: float(one["publishes"]) for name, one in said.items()}
    return Met(descriptions, sealed, publishes)


def ask(lines: Sequence[Line], kind: str, content: Mapping[str, Any]) -> dict[str, Any]:
    """The answers of all sites to the same message."""
    found = at_once(lambda line: line.ask(kind, content), lines)
    needed = {
        "describe": {*_PEER, "genes", "columns", "leaves", "publishes"},
        "keys": {"sealed"},
        "code": {"cells", "rows", "controls"},
        "census": set(_Totals._fields),
        "begin": {"digest"},
        "publish": {"samples", "totals"},
    }[kind]
    for line, one in zip(lines, found, strict=True):
        if not isinstance(one, dict) or set(one) != needed:
            message = f"site {line.name} answers {kind!r} with something else; run one version"
            raise ProtocolError(message)
    return {line.name: one for line, one in zip(lines, found, strict=True)}


def _agreed(
    descriptions: Sequence[Description], question: Question
) -> tuple[Agreement, dict[str, str]]:
    """One design of all descriptions, and its reference levels."""
    formula, reference = question.formula, dict(question.reference)
    genes = question.rules.common_genes
    agreement = agree(descriptions, formula, reference, intersect=genes)
    base = _steps.base_level(question.contrast, agreement.design, reference)
    if base:
        reference |= base
        agreement = agree(descriptions, formula, reference, intersect=genes)
    return agreement, reference


def _census(
    lines: Sequence[Line], coded: Mapping[str, Any], masked: bool, p: int
) -> tuple[list[Census], dict[str, _Totals]]:
    """The census of each site, or under masks that of all together, and what each one sent.

    Which combinations of levels and which design rows there are (by a digest) each site names; how
    many samples have them is seen of all sites together only.
    """
    cells = list(dict.fromkeys(cell for one in coded.values() for cell in one["cells"]))
    rows = list(dict.fromkeys(row for one in coded.values() for row in one["rows"]))
    asked = {"cells": cells, "rows": rows}
    sent = ask(lines, "census", asked)
    shapes = _Totals((len(cells),), (len(rows),), (p, p))
    totals = totals_of(sent, shapes, masked=masked)
    if masked:
        total = unmasked(Asked("census", (), (), None), 4, list(totals.values()))
        return [_counted(ALL, cells, rows, total)], totals
    return [_counted(name, cells, rows, total) for name, total in totals.items()], totals


def totals_of(
    sent: Mapping[str, Mapping[str, Any]], shapes: Any, *, masked: bool
) -> dict[str, Any]:
    """What sites sent, by name of site.

    Parameters
    ----------
    shapes
        What it should look like: a NamedTuple of shapes, which becomes one of arrays.

    Raises
    ------
    ProtocolError
        One has another shape, or a mask where there should be none.
    """
    found = {name: type(shapes)(**one) for name, one in sent.items()}
    for name, totals in found.items():
        for (field, part), (_, shape) in zip(fields(totals), fields(shapes), strict=True):
            own = part.limbs.shape[:-1] if isinstance(part, Hidden) else np.shape(part)
            if own != shape or isinstance(part, Hidden) != masked:
                message = f"site {name}: its {field} have another shape, or mask, than were asked"
                raise ProtocolError(message)
    return found


def _counted(name: str, cells: Sequence[str], rows: Sequence[str], total: _Totals) -> Census:
    """A census from its numbers, without what is not there."""
    in_cells, in_rows = (np.rint(part).astype(int).tolist() for part in total[:2])
    both = [
        {key: n for key, n in zip(keys, counts, strict=True) if n}
        for keys, counts in ((cells, in_cells), (rows, in_rows))
    ]
    return Census(name, both[0], both[1], total.crossproduct)


def _design_cells(censuses: Sequence[Census]) -> tuple[dict[str, int], Groups]:
    """A number for each design row that any site has, and how many samples have it.

    Numbered by size and then as met, so that they do not depend on the key.
    """
    size: dict[str, int] = {}
    for census in censuses:
        for row, count in census.rows.items():
            size[row] = size.get(row, 0) + count
    numbers = {row: i for i, row in enumerate(size)}
    return numbers, Groups(np.arange(len(size)), np.array(list(size.values())))


def _controls(found: Mapping[str, Any], genes: Sequence[str]) -> np.ndarray | None:
    """Places of the control genes.

    Raises
    ------
    InputError
        The sites differ in them.
    """
    (first, one), *others = found.items()
    for name, other in others:
        if (one is None) != (other is None) or (one is not None and len(one) != len(other)):
            message = f"sites {first} and {name} differ in whether they have control genes"
            raise io.InputError(message)
        differ = np.flatnonzero(np.asarray(one) != np.asarray(other))
        if one is not None and len(differ):
            message = (
                f"sites {first} and {name} differ in whether gene {genes[differ[0]]} is a "
                f"control gene ({len(differ)} such): mark the same genes everywhere"
            )
            raise io.InputError(message)
    return None if one is None else np.flatnonzero(one)


def _ledger(lines: Sequence[Line], cells: pd.DataFrame, totals: Mapping[str, _Totals]) -> Ledger:
    """A ledger that has the rounds of the agreement.

    Under masks the coordinator knows the samples of all sites together, and writes down those.
    """
    smallest = int(cells.sum(axis=1).min())
    count, least = {}, {}
    for line in lines:
        own = cells[ALL if ALL in cells else line.name]
        count[line.name], least[line.name] = int(own.sum()), int(own[own > 0].min())
    ledger = Ledger(count, least, smallest)
    for kind in JOINING:
        ledger.begin()
        for line in lines:
            if kind == "census":
                ledger.receive(line.name, "census", totals[line.name])
    for line in lines:
        ledger.up[line.name], ledger.down[line.name] = line.up, line.down
    return ledger


def identity(joined: Joined, formula: str, settings: deseq.Settings, trend: Any) -> dict[str, Any]:
    """What a run is, to tell whether the stages kept on a disk are its own."""
    agreement, controls = joined.agreement, joined.given.controls
    nodes = [trend.log_mean, trend.log_dispersion] if isinstance(trend, Trend) else []
    return {
        "formula": formula,
        "coefficients": agreement.design.names,
        "genes": json.dumps(agreement.genes),
        "settings": settings._asdict(),
        "sites": joined.digests,
        "controls": None if controls is None else io.digest(controls),
        "trend": io.digest(*nodes),
    }
