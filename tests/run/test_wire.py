"""Messages as bytes: what goes in comes out, and nothing else can be said."""

import json
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from expressway.run import ProtocolError
from expressway.run.wire import MAGIC, decode, encode


class Pair(NamedTuple):
    a: object
    b: object


class Stranger(NamedTuple):
    a: object


MESSAGE = {
    "numbers": [0, -1, 2**62, 0.1, -0.0, 5e-324, math.inf, -math.inf, True, None],
    "texts": ("gène", "", 'quo"ted\n'),
    "bytes": b"\x00\xff",
    "pair": Pair(np.array([[1.5, math.nan], [-0.0, math.inf]]), {"x": (1, [2])}),
    "arrays": [
        np.array([], float),
        np.zeros((0, 3)),
        np.array(2.5),
        np.array([2**64 - 1], np.uint64),
        np.array([True, False]),
        np.arange(6).reshape(2, 3).T,
    ],
}


def same(a, b) -> None:
    assert type(a) is type(b)
    if isinstance(a, np.ndarray):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()  # NaN and -0.0, too
    elif isinstance(a, dict):
        assert list(a) == list(b)
        for key, value in a.items():
            same(value, b[key])
    elif isinstance(a, list | tuple):
        assert len(a) == len(b)
        for one, other in zip(a, b, strict=True):
            same(one, other)
    else:
        assert repr(a) == repr(b)


def test_what_goes_in_comes_out():
    same(decode(encode(MESSAGE, (Pair,)), (Pair,)), MESSAGE)


def test_arrays_of_jax_become_those_of_numpy():
    same(decode(encode([jnp.arange(3.0)])), [np.arange(3.0)])


@pytest.mark.parametrize(
    "value", [object(), {1: 2}, {"a"}, np.array(["a"]), np.array([1j]), Stranger(1), lambda: 0]
)
def test_what_cannot_be_said(value):
    with pytest.raises(TypeError, match="cannot be in a message"):
        encode({"a": value}, (Pair,))


def test_a_tuple_that_is_not_listed_is_refused():
    with pytest.raises(ProtocolError, match="a message cannot be read"):
        decode(encode(Stranger(1), (Stranger,)), (Pair,))


def header(node: object, rest: bytes = b"") -> bytes:
    text = json.dumps(node).encode()
    return MAGIC + len(text).to_bytes(8, "little") + text + rest


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MAGIC,
        b"\x80\x04K\x01.",  # a pickle
        header({"array": ["<f8", [2], 8]}, bytes(8)),
        header({"array": ["<f8", [-1], 8]}, bytes(8)),
        header({"array": ["|O", [1], 8]}, bytes(8)),
        header({"array": ["<f8", [1], 8]}, bytes(16)),
        header({"bytes": [-8]}, bytes(8)),
        header({"bytes": [10**12]}),
        header({"named": ["system", ["rm"]]}),
        header({"import": ["os"]}),
        header({"list": [{"a": 1, "b": 2}]}),
        MAGIC + (10**15).to_bytes(8, "little") + b"{}",
    ],
)
def test_what_is_no_message_is_refused(data):
    with pytest.raises(ProtocolError, match="a message cannot be read"):
        decode(data, (Pair,))


def test_deep_lists_are_refused():
    node: object = None
    for _ in range(100_000):
        node = {"list": [node]}
    # The parser's own limit of depth, or ours: never a crash.
    text = b'{"list":[' * 100_000 + b"null" + b"]}" * 100_000
    with pytest.raises(ProtocolError):
        decode(MAGIC + len(text).to_bytes(8, "little") + text)


def test_any_damage_is_an_error_or_other_values_but_no_crash():
    whole, rng = encode(MESSAGE, (Pair,)), np.random.default_rng(0)
    for size in range(len(whole)):
        with pytest.raises(ProtocolError):
            decode(whole[:size], (Pair,))
    for _ in range(2000):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        try:
            decode(bytes(damaged), (Pair,))
        except ProtocolError:
            continue
