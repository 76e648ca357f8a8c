"""A site whose totals leave under masks, and how the coordinator adds such totals up."""

import hashlib
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from .masks import Hidden, Masks, add, decode
from .protocol import AbstractSite, Asked, Expected, ProtocolError, Reply, Request, fields

logger = logging.getLogger(__name__)


class MaskedSite(NamedTuple):
    """A site of which totals are seen together with those of all others only.

    The label of a mask is a digest of the round, the statistic, its arguments and all changes that
    the rows have been told: sites that were asked different things have masks that do not cancel,
    and one that is asked again with other arguments uses another.
    """

    site: AbstractSite
    masks: Masks
    history: bytes = b""
    """Digest of the changes so far."""

    @property
    def name(self) -> str:
        """What others call it."""
        return self.site.name

    def answer(self, request: Request) -> Reply:
        """Its totals: of each array a `Hidden` one."""
        reply = self.site.answer(request)
        hidden = []
        for asked, sums in zip(request.asked, reply.sums, strict=True):
            found = self.masks.hide(dict(fields(sums)), self.label(request.round, asked))
            self._tell(request.round, asked.statistic, sums)
            hidden.append(type(sums)(**found))
        return reply._replace(sums=tuple(hidden))

    def changed(self, change: str, args: Any, shared: Any, genes: Any) -> "MaskedSite":
        """The site with changed rows."""
        history = digest(self.history, change, args, shared, genes)
        return self._replace(site=self.site.changed(change, args, shared, genes), history=history)

    def label(self, number: int, asked: Asked) -> bytes:
        """What a mask is for, told apart from everything else in this run."""
        return digest(self.history, f"round {number}", *asked)

    def _tell(self, number: int, statistic: str, sums: Any) -> None:
        """Say at the site, and nowhere else, which of its numbers could not be sent."""
        for field, array in fields(sums):
            bad = ~(np.abs(np.asarray(array, float)) < self.masks.limit)
            if np.any(bad):
                logger.error(
                    "site %s, round %d: %d of the numbers of %s.%s are not finite, or too large",
                    *(self.name, number, np.sum(bad), statistic, field),
                )


def digest(*parts: Any) -> bytes:
    """Of trees of arrays and texts: their structure, kinds, shapes and bytes."""
    found = hashlib.blake2b(digest_size=32)
    for part in parts:
        leaves, tree = jax.tree.flatten(part)
        found.update(f"{tree}\0{len(leaves)}\0".encode())
        for leaf in leaves:
            if isinstance(leaf, bytes | str):
                content = leaf if isinstance(leaf, bytes) else leaf.encode()
                kind = type(leaf).__name__
            else:
                array = np.asarray(leaf)  # contiguous ones have one axis at least
                content, kind = array.tobytes(), f"{array.dtype.str}{array.shape}"
            found.update(f"{kind}\0{len(content)}\0".encode() + content)
    return found.digest()


def check_masked(reply: Reply, request: Request, expected: Sequence[Expected], name: str) -> None:
    """Refuse masked totals of another shape; nothing else can be seen of them.

    Raises
    ------
    ProtocolError
        Names the site.
    """
    for asked, sums, (_, shapes) in zip(request.asked, reply.sums, expected, strict=True):
        for (field, hidden), shape in zip(fields(sums), shapes, strict=True):
            limbs = hidden.limbs if isinstance(hidden, Hidden) else np.zeros(0)
            if limbs.shape != (*shape, 2) or limbs.dtype != np.uint64:
                message = (
                    f"site {name}, round {request.round}: {asked.statistic}.{field} is no masked "
                    f"total of shape {shape}; all sites must run the same version, with masks"
                )
                raise ProtocolError(message)


def unmasked(asked: Asked, number: int, replies: Sequence[Any]) -> Any:
    """Total of a statistic over all sites, of which every one sent its own under masks.

    Raises
    ------
    ProtocolError
        A number of some site was not finite or out of range, or masks do not cancel.
    """
    total = {}
    for field, _ in fields(replies[0]):
        parts = [getattr(reply, field) for reply in replies]
        low, high = map(int, add([part.failures for part in parts]))
        if low or high:
            size = int(np.prod(parts[0].limbs.shape[:-1]))
            what = f"{low} numbers are" if not high and low <= size * len(parts) else "masks do"
            why = (
                "not finite or out of range at some site; its own log says at which"
                if what.startswith(str(low))
                else "not cancel: sites were asked different things, or a message was changed"
            )
            message = f"round {number}: {asked.statistic}.{field}: {what} {why}"
            raise ProtocolError(message)
        total[field] = decode(add([part.limbs for part in parts]))
    return type(replies[0])(**total)
