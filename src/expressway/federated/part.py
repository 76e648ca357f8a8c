"""What a site does in one run: it joins, and then adds up its own rows as often as it is asked."""

import hashlib
import json
import logging
import secrets
import traceback
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import anndata
import numpy as np
import pandas as pd
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from expressway import _rows, io
from expressway.core.cohort import Pooled, compiled, samples
from expressway.core.sparse import Sparse, library_size
from expressway.io.agreement import Agreement, Coded, Column, code, describe, of_columns
from expressway.models import nb
from expressway.run import ProtocolError, Site
from expressway.run.certificates import Signed, Signer
from expressway.run.disclosure import About
from expressway.run.masked import MaskedSite, digest
from expressway.run.masks import Masks, new_key, public_key
from expressway.run.privacy import Account
from expressway.run.protocol import AbstractSite, Request, fields
from expressway.run.remote import Message

from .publication import Publication, at_site, hidden

logger = logging.getLogger(__name__)

# With two sites each sees the other's share as the total less its own.
MASKED_FROM = 3
# Samples of which each has another word in a column: names of persons, not levels of a factor.
IDENTIFIER = 4
# Messages 1 to 5, in order.
JOINING = ("describe", "keys", "code", "census", "begin")
_ASKED = ("sums", "stays")
# What is answered next.
_NEXT: dict[str, tuple[str, ...]] = {
    **{before: (after,) for before, after in pairwise(("", *JOINING))},
    "keys": ("code", "publish"),
    **dict.fromkeys((JOINING[-1], *_ASKED), _ASKED),
    "publish": (),
}


class Permissions(NamedTuple):
    """What a site insists on before anything leaves it."""

    sites: tuple[str, ...] | None = None
    """Names of those it shares totals with, its own among them; None for any."""
    min_sites: int = 2
    min_samples: int = 3
    """Samples of all sites together in every combination of levels that this site has."""
    plain: bool = False
    """Answers without masks, too, where the project has three sites or more."""
    columns: tuple[str, ...] | None = None
    """Columns of the sample table that a design may use; None for any. Their levels are told to
    the coordinator, but never where each of `IDENTIFIER` samples or more has a level of its own."""
    leaves: bool = False
    """When it is lost the others may go on, though its share of earlier totals shows from the
    difference."""


class Kept(NamedTuple):
    """What stays at a site."""

    samples: pd.DataFrame
    """Size factor and library size of each of its samples.

    Where sites bring a matrix of normalisation, the size factor is the geometric mean over the
    genes of the sample's factors.
    """
    fitted: pd.DataFrame
    """Means that the model gives its samples of each gene (counts); NaN for genes not fitted."""


class Ways(NamedTuple):
    """What a site has and insists on in all runs; as of `Member`."""

    table: Callable[[Mapping[str, Any]], anndata.AnnData]
    permissions: Permissions
    signer: Signer
    secret: bytes
    keep: Callable[[str, Kept], None]
    account: Account


class Part:
    """What one site does in one run; parameters as of `Member`.

    Parameters
    ----------
    name
        Of the run.
    site
        Of the site.
    """

    def __init__(self, name: str, site: str, of: Ways) -> None:
        self.name, self.site, self.number = name, site, 0
        self.last: tuple[bytes, bytes] = (b"", b"")
        """Digest of the last message, and the answer to it."""
        self._ways, self._next = of, _NEXT[""]
        self._own = new_key()
        self._behind = (0, 0)
        self._masks: Masks | None = None
        self._cohorts: dict[int, AbstractSite] = {}

    def take(self, kind: str, content: Any) -> Any:
        """The content of an answer."""
        if kind not in self._next or not isinstance(content, dict):
            next_one = " or ".join(self._next) or "nothing"
            message = f"{kind!r} is not answered where {next_one} comes next"
            raise ProtocolError(message)
        try:
            found = getattr(self, f"_{kind}")(**content)
        except (TypeError, KeyError, AttributeError, IndexError) as error:
            # Of a message that is not as it should be, or a defect: neither may stop the site.
            logger.error("site %s: %s: %s", self.site, kind, where(error))
            message = f"{kind} could not be answered ({type(error).__name__}); its own log says why"
            raise ProtocolError(message) from error
        self._next = _NEXT[kind]
        return found

    def about(self, message: Message) -> About:
        """What a row of the disclosure begins with."""
        request = message.content.get("request")
        stage, number = "publication" if message.kind == "publish" else "agreement", 0
        if isinstance(request, Request):
            stage, number = request.stage, request.round
        return About(self.name, message.number, stage, number, *self._behind)

    def named(self, message: Message, content: Any) -> dict[str, Any]:
        """What an answer holds, by the name of the statistic."""
        if not isinstance(content, list):
            return {message.kind: content}
        names = [asked.statistic for asked in message.content["request"].asked]
        if len(set(names)) < len(names):
            names = [f"{name} {k + 1}" for k, name in enumerate(names)]
        return dict(zip(names, content, strict=True))

    # --- joining ------------------------------------------------------------------------------

    def _describe(
        self, formula: str, sites: Sequence[str], masks: bool, brought: Mapping[str, Any]
    ) -> Any:
        self._check_sites(sites, masks)
        self._sites, self._masked = tuple(sites), masks
        self._formula, self._inputs = formula, io.Inputs(*brought["inputs"])
        self._adata = self._ways.table(brought)
        self._described = describe(self.site, self._adata, formula)
        self._check_columns()
        signed = self._ways.signer.sign(self._statement(self.site, public_key(self._own)))
        return {
            "genes": list(self._described.genes),
            "columns": {k: [c.number, list(c.levels)] for k, c in self._described.columns.items()},
            "public": public_key(self._own),
            "signature": signed.signature,
            "certificate": signed.certificate,
            "leaves": self._ways.permissions.leaves,
            "publishes": self._ways.account.left,
        }

    def _check_sites(self, sites: Sequence[str], masks: bool) -> None:
        allowed, count = self._ways.permissions, len(set(sites))
        if self.site not in sites or count != len(sites):
            message = "the list of sites lacks this one, or names one twice"
        elif allowed.sites is not None and not set(sites) <= set(allowed.sites):
            message = "the list of sites has some that are not in this site's roster"
        elif count < allowed.min_sites:
            message = f"{count} sites; this one insists on {allowed.min_sites} (--min-sites)"
        elif not masks and not allowed.plain and len(allowed.sites or sites) >= MASKED_FROM:
            message = (
                "it shows totals without masks in projects of two sites only (--allow-plain at the "
                "site)"
            )
        else:
            return
        raise ProtocolError(message)

    def _check_columns(self) -> None:
        allowed, n = self._ways.permissions.columns, self._adata.n_obs
        for name, column in self._described.columns.items():
            if allowed is not None and name not in allowed:
                message = f"a design may not use its column {name} (--columns at the site)"
            elif n >= IDENTIFIER and len(column.levels) == n:
                message = (
                    f"in its column {name} each sample has another word: names, which it does not "
                    "tell; leave the column out"
                )
            else:
                continue
            raise ProtocolError(message)

    def _statement(self, name: str, public: bytes) -> bytes:
        """What a site signs: this key is its own, in this run of these sites."""
        parts = ("expressway public key", self.name, *sorted(self._sites), name)
        return digest(*parts, public)

    def _keys(self, peers: Mapping[str, Any]) -> Any:
        name, own = self.site, public_key(self._own)
        if set(peers) != set(self._sites) or peers[name]["public"] != own:
            message = "the keys are not those of the sites that take part"
            raise ProtocolError(message)
        for other, peer in peers.items():
            signed = Signed(peer["signature"], peer["certificate"])
            self._ways.signer.check(other, self._statement(other, peer["public"]), signed)
        others = {other: peer["public"] for other, peer in peers.items() if other != name}
        # Masks for what is sealed, too, where totals are not masked.
        self._masks = Masks(name, self._own, others, self.name.encode())
        self._key = secrets.token_bytes(32)
        if name != self._sites[0]:
            return {"sealed": {}}
        return {"sealed": {other: self._seal(other) for other in others}}

    def _seal(self, other: str) -> bytes:
        """The key of all sites for one of them; each key that seals is used once."""
        assert self._masks is not None
        seal = ChaCha20Poly1305(self._masks.sealed_key(other, b"rows"))
        return seal.encrypt(bytes(12), self._key, None)

    def _code(
        self,
        genes: Sequence[str],
        columns: Mapping[str, Any],
        formula: str,
        reference: Mapping[str, str],
        names: Sequence[str],
        sealed: Mapping[str, bytes],
    ) -> Any:
        assert self._masks is not None
        if self.site != self._sites[0]:
            seal = ChaCha20Poly1305(self._masks.sealed_key(self._sites[0], b"rows"))
            try:
                self._key = seal.decrypt(bytes(12), sealed.get(self.site, b""), None)
            except InvalidTag as error:
                message = f"the key that site {self._sites[0]} sealed cannot be opened"
                raise ProtocolError(message) from error
        agreed = {name: Column(number, tuple(levels)) for name, (number, levels) in columns.items()}
        if set(agreed) != set(self._described.columns) or formula != self._formula:
            message = "the design has another formula, or other columns, than were described"
            raise ProtocolError(message)
        design = of_columns(agreed, formula, dict(reference))
        if list(design.names) != list(names):
            message = "the design has other coefficients here; all sites must run the same version"
            raise ProtocolError(message)
        agreement = Agreement(tuple(genes), design, agreed, {})
        self._coded = code(self.site, agreement, self._adata, self._key)
        self._adata = self._adata[:, list(genes)]
        census = self._coded.census
        self._behind = (len(self._coded.rows), min(census.cells.values(), default=0))
        flags = io.control_genes(self._adata, self._inputs, self._owner)
        controls = None if flags is None else np.asarray(flags, bool)
        return {"cells": list(census.cells), "rows": list(census.rows), "controls": controls}

    @property
    def _owner(self) -> str:
        return f"site {self.site}: adata"

    def _census(self, cells: Sequence[str], rows: Sequence[str]) -> Any:
        census = self._coded.census
        own = {
            "cells": np.array([census.cells.get(cell, 0) for cell in cells], float),
            "rows": np.array([census.rows.get(row, 0) for row in rows], float),
            "crossproduct": census.crossproduct,
        }
        if not self._masked:
            return own
        assert self._masks is not None
        return self._masks.hide(own, digest("census", list(cells), list(rows)))

    def _begin(self, cells: Mapping[str, int], numbers: Mapping[str, int]) -> Any:
        least = self._ways.permissions.min_samples
        for cell, count in self._coded.census.cells.items():
            if not count <= cells.get(cell, 0) >= least:
                message = (
                    f"a design cell of it has {cells.get(cell, 0)} samples over all sites; it "
                    f"insists on {least} (--min-samples)"
                )
                raise ProtocolError(message)
        member = rows_of(self.site, self._adata, self._coded, numbers, self._inputs)
        found = _digest(member, self._ways.secret)
        self._samples = list(self._adata.obs_names)
        self._genes = list(self._adata.var_names)
        masks = self._masks
        self._cohorts = {0: MaskedSite(member, masks) if self._masked and masks else member}
        del self._adata
        return {"digest": found}

    # --- a publication ------------------------------------------------------------------------

    def _publish(self, columns: Mapping[str, Any], asked: Mapping[str, Any]) -> Any:
        assert self._masks is not None
        of = Publication.of(asked)
        agreed = {name: Column(number, tuple(levels)) for name, (number, levels) in columns.items()}
        if set(agreed) != set(self._described.columns) or of.by != tuple(agreed):
            message = "other columns are asked than were described"
            raise ProtocolError(message)
        own = at_site(self._adata, self._owner, agreed, of)
        self._behind = (self._adata.n_obs, int(np.min(own.samples[own.samples > 0])))
        sent = hidden(own, of, len(self._sites))
        about = f"{len(of.genes)} genes by {', '.join(of.by)}"
        self._ways.account.spend(self.name, of.rho, about)
        return self._masks.hide(sent, digest("publish", json.dumps([columns, asked])))

    # --- the analysis -------------------------------------------------------------------------

    def _cohort(self, pending: Sequence[Any], dropped: Sequence[int], cohort: int) -> AbstractSite:
        """The rows that are asked about, changed as was told."""
        for number, parent, change, args, shared, genes in pending:
            self._cohorts[number] = self._cohorts[parent].changed(change, args, shared, genes)
        found = self._cohorts[cohort]
        for number in dropped:
            self._cohorts.pop(number, None)
        return found

    def _sums(
        self, pending: Sequence[Any], dropped: Sequence[int], cohort: int, request: Request
    ) -> Any:
        reply = self._cohort(pending, dropped, cohort).answer(request)
        return [
            {
                field: one if hasattr(one, "limbs") else np.asarray(one)
                for field, one in fields(sums)
            }
            for sums in reply.sums
        ]

    def _stays(
        self, pending: Sequence[Any], dropped: Sequence[int], cohort: int, request: Any
    ) -> Any:
        one = self._cohort(pending, dropped, cohort)
        one = one.site if isinstance(one, MaskedSite) else one
        assert isinstance(one, Site)
        rows = one.rows.rows
        beta = np.asarray(request["beta"])
        mean = np.asarray(compiled(nb.mean)(beta, rows._replace(y=np.zeros((0, 0)))))
        library = library_size(rows.y).astype(int)
        sizes = io.samples_table(np.mean(rows.offset, axis=1), library, pd.Index(self._samples))
        fitted = pd.DataFrame(mean, index=sizes.index, columns=pd.Index(self._genes))
        self._ways.keep(self.name, Kept(sizes, fitted))
        return {}


def where(error: BaseException) -> str:
    """What kind of error it was and in which lines, without its text, which may have data."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in frames]
    return f"{type(error).__name__} in {' '.join(lines)}"


def rows_of(
    name: str,
    adata: anndata.AnnData,
    coded: Coded,
    numbers: Mapping[str, int],
    inputs: io.Inputs,
) -> Site:
    """A site with its rows: its design cells numbered as everywhere."""
    owner = f"site {name}: adata"
    rows = samples(_rows.counts(adata, None, owner), coded.matrix)
    rows = io.rows_with(rows, adata, inputs, owner, alone=False)
    cell = np.array([numbers[row] for row in coded.rows])
    return Site(name, Pooled(rows._replace(cell=cell)))


def _digest(site: Site, secret: bytes) -> str:
    """Of a site's counts, design and what else it brings, told apart by nobody else."""
    rows = site.rows.rows
    y: Any = rows.y
    parts = y if isinstance(y, Sparse) else (np.asarray(y, float),)
    brought = (rows.x, rows.offset, rows.precision)
    text = io.digest(*map(np.asarray, (*parts, *brought)))
    return hashlib.blake2b(text.encode(), key=secret, digest_size=16).hexdigest()
