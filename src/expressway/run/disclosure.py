"""What left a site, written down there before it leaves."""

import csv
import hashlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .masks import Hidden


class Sent(NamedTuple):
    """What left a site: an array, a list of names, or the whole message that held them."""

    time: str
    """UTC."""
    run: str
    message: int
    """Of the messages of the run."""
    stage: str
    round: int
    """0 for messages that hold no totals."""
    what: str
    """The statistic and its total, or "message": all bytes that were sent at once."""
    shape: str
    """Genes first; of names how many."""
    bytes: int
    masked: bool | None
    """Nothing for messages: of what is in them the other rows tell."""
    samples: int
    """Of this site."""
    smallest_cell: int
    """The fewest samples that the site has in any design cell it has at all."""
    digest: str
    """BLAKE2b (16 bytes) of the bytes sent; of names, of their text in lines."""


class About(NamedTuple):
    """Where in a run something was said, and what is behind it."""

    run: str
    message: int
    stage: str
    round: int
    samples: int
    smallest_cell: int


class Disclosure:
    """Rows of everything that left, kept and appended to a table.

    Parameters
    ----------
    path
        A CSV file, begun if it is not there; None where nothing is written.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self.rows: list[Sent] = []

    def note(self, about: About, content: Mapping[str, Any], body: bytes) -> None:
        """Write down an answer before it leaves.

        Parameters
        ----------
        content
            What the message holds: nested dicts of arrays, texts and lists of texts.
        body
            The message as it goes.
        """
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        begin = (time, about.run, about.message, about.stage, about.round)
        behind = (about.samples, about.smallest_cell)
        rows = [
            Sent(*begin, what, shape, len(data), masked, *behind, _digest(data))
            for what, shape, data, masked in _leaves("", content)
        ]
        rows.append(Sent(*begin, "message", "", len(body), None, *behind, _digest(body)))
        if self._path is None:
            self.rows += rows
            return
        new = not self._path.exists()
        with self._path.open("a", newline="") as file:
            table = csv.writer(file)
            table.writerows([Sent._fields] * new + rows)


def _leaves(name: str, value: Any) -> Iterator[tuple[str, str, bytes, bool]]:
    """Name, shape and bytes of everything in a message, and whether it is masked."""
    if value is None:
        return
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), one)
    elif isinstance(value, Hidden):
        for part, array in value._asdict().items():
            what = name if part == "limbs" else f"{name}.{part}"
            yield what, _shape(array), np.ascontiguousarray(array).tobytes(), True
    elif isinstance(value, np.ndarray):
        yield name, _shape(value), np.ascontiguousarray(value).tobytes(), False
    elif isinstance(value, bytes):
        yield name, "", value, False
    else:
        texts = [value] if isinstance(value, str | int | float) else list(value)
        yield name, str(len(texts)), "\n".join(map(str, texts)).encode(), False


def _shape(array: np.ndarray) -> str:
    return "x".join(map(str, array.shape))


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()
