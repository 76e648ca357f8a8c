"""Messages as bytes: texts, numbers, arrays and the few tuples with names that a caller lists.

A message is a header in JSON, which says what there is and in which order, and then the bytes of
all arrays. Nothing else can be said, so that reading a message runs no code of whoever sent it
(unlike Python's pickles).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from .protocol import ProtocolError

MAGIC = b"expressway 1\n"
_WORD = 8
_KINDS = {np.dtype(kind).str: np.dtype(kind) for kind in ("<f8", "<f4", "<i8", "<i4", "<u8", "?")}
_DEEPEST = 20


def encode(message: Any, tuples: Sequence[type] = ()) -> bytes:
    """Bytes of a message.

    Parameters
    ----------
    message
        Nested dicts with texts as keys, lists, tuples, NamedTuples of ``tuples``, texts, bytes,
        numbers, None and arrays of numbers (those of JAX, too, which become NumPy's).

    Raises
    ------
    TypeError
        Something else is in it.
    """
    buffers: list[bytes] = []

    def put(data: bytes, *about: Any) -> list[Any]:
        buffers.append(data)
        return [*about, len(data)]

    def node(value: Any) -> Any:
        if value is None or isinstance(value, bool | int | float | str):
            return value
        if isinstance(value, bytes):
            return {"bytes": put(value)}
        if isinstance(value, tuple) and type(value) in tuples:
            return {"named": [type(value).__name__, [node(one) for one in value]]}
        if type(value) in (tuple, list):
            return {type(value).__name__: [node(one) for one in value]}
        if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
            return {"dict": [[key, node(one)] for key, one in value.items()]}
        array = np.asarray(None if isinstance(value, tuple | list) else value)
        if array.dtype.str not in _KINDS:
            msg = f"{type(value).__name__} {array.dtype} cannot be in a message"
            raise TypeError(msg)
        data = np.ascontiguousarray(array).tobytes()
        return {"array": put(data, array.dtype.str, list(array.shape))}

    header = json.dumps(node(message), separators=(",", ":")).encode()
    header += b" " * (-(len(MAGIC) + _WORD + len(header)) % _WORD)
    padded = [data + bytes(-len(data) % _WORD) for data in buffers]
    return b"".join([MAGIC, len(header).to_bytes(_WORD, "little"), header, *padded])


def decode(data: bytes, tuples: Sequence[type] = ()) -> Any:
    """Message of some bytes; its arrays are views of them and cannot be written.

    Raises
    ------
    ProtocolError
        The bytes are no message, or have a tuple that is not listed.
    """
    known = {one.__name__: one for one in tuples}
    start = len(MAGIC) + _WORD
    at = start + int.from_bytes(data[len(MAGIC) : start], "little")

    def take(size: Any) -> bytes:
        nonlocal at
        if not (type(size) is int and 0 <= size <= len(data) - at):
            msg = "a buffer ends after the message"
            raise ValueError(msg)
        first, at = at, at + size + (-size % _WORD)
        return data[first : first + size]

    def array(kind: Any, shape: Any, size: Any) -> np.ndarray:
        if any(type(n) is not int or n < 0 for n in shape):
            msg = "a shape has what is no size"
            raise ValueError(msg)
        return np.frombuffer(take(size), _KINDS[kind]).reshape(shape)

    def value(node: Any, depth: int) -> Any:
        if node is None or isinstance(node, bool | int | float | str):
            return node
        ((kind, what),) = node.items()
        if depth > _DEEPEST:
            msg = "lists in lists are too deep"
            raise ValueError(msg)
        match kind:
            case "bytes":
                return take(*what)
            case "array":
                return array(*what)
            case "dict":
                return {str(key): value(one, depth + 1) for key, one in what}
            case "tuple":
                return tuple(value(one, depth + 1) for one in what)
            case "list":
                return [value(one, depth + 1) for one in what]
            case "named":
                name, parts = what
                return known[name](*(value(one, depth + 1) for one in parts))
        msg = f"{kind} is nothing that a message has"
        raise ValueError(msg)

    try:
        if data[: len(MAGIC)] != MAGIC:
            msg = "it does not begin as one"
            raise ValueError(msg)
        found = value(json.loads(data[start:at]), 0)
        if at != len(data):
            msg = f"{len(data) - at} bytes are left over"
            raise ValueError(msg)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        message = (
            f"a message cannot be read ({type(error).__name__}); run the same version everywhere"
        )
        raise ProtocolError(message) from error
    return found
