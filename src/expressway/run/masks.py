"""Sums that show nothing of one site: fixed-point numbers under masks that cancel.

A number v is the integer ``round(v 2^56)`` modulo 2^128, kept as two limbs of 64 bits. Each pair of
sites shares a key; for every sum both draw the same stream of integers from it, the site whose name
comes first adds it and the other one subtracts it. What a site sends is then uniform to whoever has
not its keys, the sum over all sites is exact, and it is that of the integers (Bonawitz et al. 2017,
CCS, "Practical secure aggregation", section 4, without its recovery of sites that drop out).

A stream belongs to one run, one round, one statistic and one digest of the arguments: asked again
with other arguments, a site never uses a mask twice.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from expressway._types import Float, UInt

# Numbers are multiples of this; 1.4e-17. Rounding of a total is at most half of it a site.
BITS = 56
# Of a total: signed integers of 128 bits over 2^56 are below 2^71.
LIMIT = 2.0**70
_WORD = 64


class Hidden(NamedTuple):
    """An array of integers modulo 2^128, and how many of its numbers could not be made into one."""

    limbs: UInt[np.ndarray, "*shape 2"]
    """The low limb first."""
    failures: UInt[np.ndarray, "2"]
    """Numbers that were not finite or out of range, and have been sent as 0."""


def encode(values: Float[np.ndarray, "*shape"], limit: float = LIMIT) -> Hidden:
    """Fixed-point integers of numbers, without a mask.

    Parameters
    ----------
    limit
        Numbers of this size and more, and those that are not finite, become 0 and are counted.
    """
    values = np.asarray(values, float)
    good = np.abs(values) < limit  # not of NaN
    values = np.where(good, values, 0.0)
    scaled = np.rint(np.ldexp(np.abs(values), BITS))
    high = np.floor(np.ldexp(scaled, -_WORD))
    low = scaled - np.ldexp(high, _WORD)  # exact: below 2^64, a multiple of the last bit
    limbs = np.stack([low.astype(np.uint64), high.astype(np.uint64)], axis=-1)
    limbs = np.where((values < 0)[..., None], subtract(np.zeros_like(limbs), limbs), limbs)
    return Hidden(limbs, np.array([np.sum(~good), 0], np.uint64))


def decode(limbs: UInt[np.ndarray, "*shape 2"]) -> Float[np.ndarray, "*shape"]:
    """Numbers of fixed-point integers, within two units of the last place."""
    negative = limbs[..., 1].view(np.int64) < 0
    # Of negative ones the size first: -1 is two limbs full of ones, which round up to 0.
    limbs = np.where(negative[..., None], subtract(np.zeros_like(limbs), limbs), limbs)
    low, high = limbs[..., 0], limbs[..., 1]
    size = np.ldexp(high.astype(float), _WORD - BITS) + np.ldexp(low.astype(float), -BITS)
    return np.where(negative, -size, size)


def add(parts: Sequence[UInt[np.ndarray, "*shape 2"]]) -> UInt[np.ndarray, "*shape 2"]:
    """Sum modulo 2^128."""
    total = parts[0].copy()
    for part in parts[1:]:
        low = total[..., 0] + part[..., 0]
        total[..., 1] += part[..., 1] + (low < part[..., 0])
        total[..., 0] = low
    return total


def subtract(
    a: UInt[np.ndarray, "*shape 2"], b: UInt[np.ndarray, "*shape 2"]
) -> UInt[np.ndarray, "*shape 2"]:
    """Difference modulo 2^128."""
    found = a.copy()
    found[..., 1] -= b[..., 1] + (a[..., 0] < b[..., 0])
    found[..., 0] -= b[..., 0]
    return found


class Masks:
    """The masks of one site in one run.

    Parameters
    ----------
    name
        Of the site.
    own
        Its secret of this run.
    others
        Public keys of the other sites (`public_key` of their secrets), by name. Who they belong to
        is for the caller to know.
    run
        What the run is, alike at all sites.
    """

    def __init__(
        self, name: str, own: X25519PrivateKey, others: Mapping[str, bytes], run: bytes
    ) -> None:
        self._name = name
        self._keys = {other: _pair(own, key, run, name, other) for other, key in others.items()}

    def hide(self, values: Mapping[str, Any], label: bytes) -> dict[str, Hidden]:
        """Masked fixed-point integers of some totals.

        Parameters
        ----------
        values
            Arrays by name.
        label
            Round, statistic and digest of the arguments: another one for everything else that is
            ever hidden in this run.
        """
        arrays = {name: np.asarray(value, float) for name, value in values.items()}
        hidden = {name: encode(value, self.limit) for name, value in arrays.items()}
        flat = np.concatenate([np.reshape(h.limbs, (-1, 2)) for h in hidden.values()])
        flat = np.concatenate([flat, *(h.failures[None] for h in hidden.values())])
        for other, key in self._keys.items():
            mask = _stream(key, label, len(flat))
            flat = add([flat, mask]) if self._name < other else subtract(flat, mask)
        ends = np.cumsum([array.size for array in arrays.values()])
        parts = np.split(flat, ends)
        shapes = [array.shape for array in arrays.values()]
        return {
            name: Hidden(part.reshape(*shape, 2), failures)
            for name, part, shape, failures in zip(
                arrays, parts[:-1], shapes, parts[-1], strict=True
            )
        }

    @property
    def limit(self) -> float:
        """Size from which a number of one site is refused: totals of all must stay in range."""
        return LIMIT / (len(self._keys) + 1)

    def sealed_key(self, other: str, label: bytes) -> bytes:
        """32 bytes that this site and another one have in common, for another use than masks."""
        return HKDFExpand(hashes.SHA256(), 32, b"seal " + label).derive(self._keys[other])


def new_key() -> X25519PrivateKey:
    """A secret for one run."""
    return X25519PrivateKey.generate()


def public_key(own: X25519PrivateKey) -> bytes:
    """The public key of a secret."""
    return own.public_key().public_bytes_raw()


def _pair(own: X25519PrivateKey, public: bytes, run: bytes, one: str, other: str) -> bytes:
    """Key of a pair of sites in a run."""
    secret = own.exchange(X25519PublicKey.from_public_bytes(public))
    info = b"expressway masks\0" + "\0".join(sorted([one, other])).encode()
    return HKDF(hashes.SHA256(), 32, run, info).derive(secret)


def _stream(key: bytes, label: bytes, count: int) -> UInt[np.ndarray, "count 2"]:
    """Integers modulo 2^128 of a pair's key and a label: ChaCha20 under a key of its own."""
    once = HKDFExpand(hashes.SHA256(), 32, b"mask " + label).derive(key)
    cipher = Cipher(algorithms.ChaCha20(once, bytes(16)), mode=None).encryptor()
    return np.frombuffer(cipher.update(bytes(16 * count)), "<u8").reshape(count, 2)
