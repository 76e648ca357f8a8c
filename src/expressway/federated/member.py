"""A site's end of an analysis: what it answers, what it insists on, what it writes down.

The messages come in this order, and nothing else is answered:

1. ``describe``: names of genes, columns and levels, and the site's public key of this run, signed;
2. ``keys``: public keys of all sites; the first one makes a key for all and seals it for each;
3. ``code``: the design; which combinations of levels the site has, and digests of its design rows
   under the key of the sites;
4. ``census``: how many samples have them, under masks;
5. ``begin``: the census of all sites; from here on the rules have been met;
6. ``sums``: totals of listed statistics, as often as asked, and ``stays``: what is for the site.

Or after the second ``publish``: totals with noise, at the cost of the site's budget, and no more.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import anndata

from expressway.run import ProtocolError
from expressway.run.certificates import Signer, Unsigned
from expressway.run.disclosure import Disclosure
from expressway.run.privacy import Account
from expressway.run.remote import TUPLES, Answer, Message, read
from expressway.run.wire import encode

from .part import Kept, Part, Permissions, Ways


class Member:
    """A site that takes part in one run after the other.

    Parameters
    ----------
    name
        Of the site.
    table
        Given what the run is to find beside counts (`io.Inputs` and names of files), the site's
        samples × genes.
    permissions
        What it insists on.
    signer
        Signs its public key and knows the signatures of others.
    disclosure
        Where what left is written down.
    secret
        Known to this site alone and the same in all runs: data are recognised by a digest under it.
    keep
        Is given the name of the run and what stays at the site.
    account
        Of what it may publish; nothing, if there is none.
    """

    def __init__(
        self,
        name: str,
        table: Callable[[Mapping[str, Any]], anndata.AnnData],
        permissions: Permissions,
        *,
        signer: Signer | None = None,
        disclosure: Disclosure | None = None,
        secret: bytes = b"",
        keep: Callable[[str, Kept], None] = lambda *_: None,
        account: Account | None = None,
    ) -> None:
        self.name = name
        self.disclosure = disclosure or Disclosure()
        account = account or Account(0.0)
        self._ways = Ways(table, permissions, signer or Unsigned(), secret, keep, account)
        self._runs: set[str] = set()
        self._part: Part | None = None

    def answer(self, body: bytes) -> bytes:
        """The answer to a message.

        A message that comes again is answered as before, and changes nothing.

        Raises
        ------
        ProtocolError
            The message is out of order, of a run that has ended, or asks for what is not allowed.
        InputError
            The site's table is not what the analysis needs.
        """
        message = read(Message, body, "the coordinator")
        own = hashlib.blake2b(body).digest()
        part = self._taking_part(message)
        if message.number == part.number and part.last[0] == own:
            return part.last[1]
        if message.number != part.number + 1:
            text = f"message {message.number} is not the next one, {part.number + 1}"
            raise ProtocolError(text)
        content = part.take(message.kind, message.content)
        answer = Answer(part.name, message.number, self.name, None, content)
        found = encode(tuple(answer), TUPLES)
        self.disclosure.note(part.about(message), part.named(message, content), found)
        part.number, part.last = message.number, (own, found)
        return found

    def _taking_part(self, message: Message) -> Part:
        """The run of a message, which begins if it is its first one."""
        if message.kind == "describe" and message.run not in self._runs and message.number == 1:
            self._runs.add(message.run)
            self._part = Part(message.run, self.name, self._ways)
        if self._part is None or self._part.name != message.run:
            text = "the message is of a run that has ended, or has not begun; start a new one"
            raise ProtocolError(text)
        return self._part

    def refusal(self, body: bytes, why: str) -> bytes:
        """An answer that says why there is none, without anything of the data."""
        try:
            message = read(Message, body, "the coordinator")
        except ProtocolError:
            message = Message("", 0, "", None)
        return encode(tuple(Answer(message.run, message.number, self.name, why, None)), TUPLES)
