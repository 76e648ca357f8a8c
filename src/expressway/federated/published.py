"""Totals for everybody: the coordinator's end of a publication."""

import math
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd

from expressway import io
from expressway.io.agreement import Column, common_column
from expressway.run import ProtocolError
from expressway.run.masked import unmasked
from expressway.run.privacy import Account, epsilon
from expressway.run.protocol import Asked
from expressway.run.remote import Line
from expressway.run.wire import decode, encode

from .analysis import Direct
from .joining import Met, ask, meet, totals_of
from .part import Permissions
from .publication import Publication, Totals, groups, variances

# What (epsilon, delta) is told of.
DELTA = 1e-6
_PUBLISHED = "published"


class Published(NamedTuple):
    """What anybody may see."""

    table: pd.DataFrame
    """A row for each group and gene: ``samples``, ``mean`` of log2(1 + counts per million) and
    ``noise``, the standard deviation that the noise gives that mean. Where the number of samples is
    less than three standard deviations of its own noise, mean and noise are NaN. Numbers are as
    they came: of a small group they may be negative, or out of the range."""
    said: dict[str, Any]
    """What it is, and what it cost."""

    def save(self, folder: Path) -> None:
        """Write it into a folder, to be read by `load`."""
        folder.mkdir(parents=True, exist_ok=True)
        columns = {
            name: column.to_numpy(float) if column.dtype.kind == "f" else column.tolist()
            for name, column in self.table.items()
        }
        (folder / _PUBLISHED).write_bytes(encode({"table": columns, "said": self.said}))

    @classmethod
    def load(cls, folder: Path) -> "Published":
        """What `save` wrote."""
        found = decode((folder / _PUBLISHED).read_bytes())
        return cls(pd.DataFrame(found["table"]), found["said"])


def publish(sites: Mapping[str, anndata.AnnData], of: Publication) -> Published:
    """Totals with noise, every message as it would be between sites.

    Parameters
    ----------
    sites
        Name to samples × genes with raw counts in ``X``. They agree to this publication.

    Raises
    ------
    InputError, ProtocolError
        As for `published`.
    """
    allowed = Permissions(None)
    run = secrets.token_hex(16)
    lines = [
        Line(name, Direct(name, adata, allowed, Account(of.rho)), run)
        for name, adata in sites.items()
    ]
    return published(lines, of)


def published(lines: Sequence[Line], of: Publication) -> Published:
    """Totals with noise, of whatever sites are at the other ends of some lines.

    Parameters
    ----------
    lines
        To the sites, new ones.

    Raises
    ------
    InputError
        There are less than two sites, or they differ in the kind of a column.
    ProtocolError
        A site refuses: it publishes nothing, its budget is spent, it lacks a gene, or one of the
        columns is none of its factors.
    """
    of.check()
    if len(lines) < 2:
        message = f"{len(lines)} sites; needed are two: of one alone there is nothing to hide among"
        raise io.InputError(message)
    # Levels, also where they are written as numbers.
    terms = [f"C({name})" if name.isidentifier() else f"`{name}`" for name in of.by]
    brought = {"inputs": list(io.NOTHING)}
    met = meet(lines, "~ " + " + ".join(terms), brought, masks=True)
    _check(met, of)
    columns = {name: common_column(met.descriptions, name) for name in of.by}
    numbers = [name for name, column in columns.items() if not column.levels]
    if numbers:
        message = f"column {numbers[0]} holds numbers, no groups; give it a plain name, or words"
        raise io.InputError(message)
    every = groups(columns)
    told = {name: [column.number, list(column.levels)] for name, column in columns.items()}
    asked = of._asdict() | {"by": list(of.by), "genes": list(of.genes)}
    sent = ask(lines, "publish", {"columns": told, "asked": asked})
    shapes = Totals((len(every),), (len(every), len(of.genes)))
    parts = list(totals_of(sent, shapes, masked=True).values())
    total = unmasked(Asked("publish", (), (), None), 3, parts)
    return _published(total, columns, of, [line.name for line in lines])


def _check(met: Met, of: Publication) -> None:
    """Refuse what one site would refuse, before another one spends its budget on it."""
    for one in met.descriptions:
        left, lacks = met.publishes[one.site], set(of.genes) - set(one.genes)
        if not left:
            message = f"site {one.site} publishes nothing, or no more (--privacy-budget there)"
        elif of.rho > left:
            message = (
                f"a rho of {of.rho:g} is asked, and {left:g} is left of the budget of site "
                f"{one.site} (--privacy-budget there)"
            )
        elif lacks:
            first = next(gene for gene in of.genes if gene in lacks)
            message = f"site {one.site} lacks gene {first}; leave it out"
        else:
            continue
        raise ProtocolError(message)


def _published(
    total: Totals, columns: Mapping[str, Column], of: Publication, sites: Sequence[str]
) -> Published:
    """The table of all sites' totals."""
    # Each site adds its share of noise: of all together there is a little more than is needed.
    scale = math.sqrt(len(sites))
    one, many = (scale * sd for sd in variances(of, len(sites)).units)
    n = np.asarray(total.samples)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = np.where(n > 3.0 * one, np.asarray(total.totals) / n, np.nan)
        sd = np.sqrt(many**2 + (shift * one) ** 2) / n
    every, genes = groups(columns), len(of.genes)
    found = pd.DataFrame({"gene": list(of.genes) * len(every)})
    for k, name in enumerate(columns):
        found[name] = np.repeat([levels[k] for levels in every], genes)
    found["samples"] = np.repeat(np.asarray(total.samples), genes)
    found["mean"], found["noise"] = (of.middle + shift).ravel(), sd.ravel()
    said = {
        "by": list(of.by),
        "sites": list(sites),
        "rho": of.rho,
        "epsilon": epsilon(of.rho, DELTA),
        "delta": DELTA,
        "protects": "one sample more or less",
        "unit": "log2(1 + counts per million)",
        "range": [of.low, of.high],
        "noise_of_samples": one,
        "noise_of_totals": many,
    }
    return Published(found, said)
