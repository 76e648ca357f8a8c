"""A site at a distance: what the coordinator sends it, one message after the other.

Rows stay where they are. The coordinator knows a cohort of a site by a number, and a change of its
rows rides with the next request. Every message has the run's name and a number of its own; a site
answers each once, and the same again when it is repeated (`federated.Member`).
"""

import itertools
import weakref
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

from .masks import Hidden
from .protocol import ARGUMENTS, Asked, ProtocolError, Reply, Request
from .wire import decode, encode

# What a message may have beside numbers, texts and arrays.
TUPLES = (Asked, Request, Reply, Hidden, *ARGUMENTS)


@runtime_checkable
class Channel(Protocol):
    """Brings a message to one site and its answer back."""

    @property
    def elsewhere(self) -> bool:
        """Whether the site is in another process, so that all may be asked at the same time."""
        ...

    def ask(self, body: bytes) -> bytes:
        """The answer. Raises ProtocolError, by the site's name, when there is none in time."""
        ...


class Message(NamedTuple):
    """What the coordinator says to a site."""

    run: str
    number: int
    """Of the messages to this site, from 1 on."""
    kind: str
    content: Any


class Answer(NamedTuple):
    """What a site says to it."""

    run: str
    number: int
    site: str
    refused: str | None
    """Why it does not answer; without anything of its data."""
    content: Any


class Line:
    """The coordinator's end of what is said with one site.

    Parameters
    ----------
    name
        Of the site.
    run
        What the run is called, at all sites.
    """

    def __init__(self, name: str, channel: Channel, run: str) -> None:
        self.name, self.channel, self.run = name, channel, run
        self.up, self.down = 0, 0
        """Bytes from the site and to it."""
        self.leaves = False
        """Whether the site has agreed that the others go on when it is lost."""
        self._numbers, self._cohorts = itertools.count(1), itertools.count(1)
        self._pending: list[tuple[Any, ...]] = []
        # Of cohorts that nobody has any more: the collector of garbage calls from any thread.
        self._dropped: deque[int] = deque()

    def ask(self, kind: str, content: Any) -> Any:
        """What the site answers.

        Raises
        ------
        ProtocolError
            It refuses, or the answer is to another message.
        """
        message = Message(self.run, next(self._numbers), kind, content)
        asked = encode(tuple(message), TUPLES)
        body = self.channel.ask(asked)
        self.up, self.down = self.up + len(body), self.down + len(asked)
        answer = read(Answer, body, f"site {self.name}")
        expected = (message.run, message.number, self.name)
        if (answer.run, answer.number, answer.site) != expected:
            text = (
                f"site {self.name} answered message {answer.number} of site {answer.site}, not "
                f"message {message.number} of this run; restart that site and go on with --resume"
            )
            raise ProtocolError(text)
        if answer.refused is not None:
            text = f"site {self.name} refuses: {answer.refused}"
            raise ProtocolError(text)
        return answer.content

    @property
    def elsewhere(self) -> bool:
        """Whether the site is in another process."""
        return self.channel.elsewhere

    def of(self, cohort: int, request: Any, kind: str = "sums") -> Any:
        """What it answers of a cohort, which is made there first if it is not yet."""
        dropped = [self._dropped.popleft() for _ in range(len(self._dropped))]
        pending, self._pending = self._pending, []
        content = {"pending": pending, "dropped": dropped, "cohort": cohort, "request": request}
        return self.ask(kind, content)

    def change(self, cohort: int, change: str, args: Any, shared: Any, genes: Any) -> int:
        """Number of a cohort made of another; it is told with the next request."""
        number = next(self._cohorts)
        self._pending.append((number, cohort, change, args, shared, genes))
        return number

    def drop(self, cohort: int) -> None:
        """Nobody asks for this cohort any more."""
        self._dropped.append(cohort)


class RemoteSite:
    """`AbstractSite` at the other end of a line.

    Parameters
    ----------
    cohort
        Its number; 0 is what the site began with.
    """

    def __init__(self, line: Line, cohort: int = 0) -> None:
        self.line, self.cohort = line, cohort
        if cohort:
            weakref.finalize(self, line.drop, cohort).atexit = False

    @property
    def name(self) -> str:
        """What others call it."""
        return self.line.name

    @property
    def elsewhere(self) -> bool:
        """Whether the site is in another process."""
        return self.line.elsewhere

    def answer(self, request: Request) -> Reply:
        """Its totals: of each sum a dict of arrays, which the cohort makes one of its kind."""
        sums = self.line.of(self.cohort, request)
        if not (isinstance(sums, list) and all(isinstance(one, dict) for one in sums)):
            message = f"site {self.name}, round {request.round}: the answer holds no totals"
            raise ProtocolError(message)
        return Reply(self.name, request.round, tuple(sums))

    def changed(self, change: str, args: Any, shared: Any, genes: Any) -> "RemoteSite":
        """The site with changed rows."""
        return RemoteSite(self.line, self.line.change(self.cohort, change, args, shared, genes))


def read(kind: Any, body: bytes, who: str) -> Any:
    """A `Message` or an `Answer`.

    Raises
    ------
    ProtocolError
        The bytes are none.
    """
    fields: Sequence[Any] = ()
    try:
        fields = decode(body, TUPLES)
        found = kind(*fields)
        texts = [found.run, found.kind if kind is Message else found.site]
        if type(found.number) is int and all(isinstance(text, str) for text in texts):
            return found
    except (TypeError, ProtocolError):
        pass
    message = f"{who} sent what is no message of this program; run the same version everywhere"
    raise ProtocolError(message)
