"""Whose public keys they are: a site signs its own with the key of its certificate."""

from pathlib import Path
from typing import NamedTuple, Protocol, runtime_checkable

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey

from expressway._errors import InputError

from .protocol import ProtocolError

_PADDING = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)


class Signed(NamedTuple):
    """A signature, and the certificate (PEM) of the key it was made with."""

    signature: bytes
    certificate: bytes


@runtime_checkable
class Signer(Protocol):
    """Signs for one site, and knows the others' signatures."""

    def sign(self, message: bytes) -> Signed:
        """The message, signed by this site."""
        ...

    def check(self, name: str, message: bytes, signed: Signed) -> None:
        """Refuse, with a ProtocolError, what a site of this name has not signed."""
        ...


class Unsigned:
    """Where all sites are in one process, there is nobody to tell apart."""

    def sign(self, message: bytes) -> Signed:  # noqa: ARG002, D102
        return Signed(b"", b"")

    def check(self, name: str, message: bytes, signed: Signed) -> None:  # noqa: ARG002, D102
        return None


class Certified:
    """A site with a certificate: RSA-PSS with SHA-256 (RFC 8017), under one root of all sites.

    Parameters
    ----------
    certificate, key, root
        PEM files: the site's certificate, its private key, and the certificate of the authority
        that signed those of all sites.

    Raises
    ------
    InputError
        One cannot be read, or the certificate is not the root's or not of this key.
    """

    def __init__(self, certificate: Path, key: Path, root: Path) -> None:
        self._pem, secret_pem, root_pem = map(_bytes, (certificate, key, root))
        try:
            own = x509.load_pem_x509_certificate(self._pem)
            secret = serialization.load_pem_private_key(secret_pem, None)
            self._root = x509.load_pem_x509_certificate(root_pem)
            own.verify_directly_issued_by(self._root)
        except (ValueError, TypeError, InvalidSignature) as error:
            message = f"{certificate}, {key} and {root} are no certificate, its key and their root"
            raise InputError(message) from error
        if not isinstance(secret, RSAPrivateKey) or secret.public_key() != own.public_key():
            message = f"{key} is not the private key of {certificate}; use the files of one kit"
            raise InputError(message)
        self._secret = secret

    def sign(self, message: bytes) -> Signed:  # noqa: D102
        return Signed(self._secret.sign(message, _PADDING, hashes.SHA256()), self._pem)

    def check(self, name: str, message: bytes, signed: Signed) -> None:  # noqa: D102
        who = f"the key said to be of site {name}"
        try:
            other = x509.load_pem_x509_certificate(signed.certificate)
            other.verify_directly_issued_by(self._root)
        except (ValueError, TypeError, InvalidSignature) as error:
            text = f"{who} has a certificate of another authority; is it of the same project?"
            raise ProtocolError(text) from error
        names = other.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        found = [str(one.value) for one in names]
        if found != [name]:
            text = f"{who} has the certificate of {', '.join(found)}; the coordinator mixed them up"
            raise ProtocolError(text)
        public = other.public_key()
        try:
            if not isinstance(public, RSAPublicKey):
                raise InvalidSignature
            public.verify(signed.signature, message, _PADDING, hashes.SHA256())
        except InvalidSignature as error:
            text = f"{who} is not signed by it; do not go on, somebody changed it on its way"
            raise ProtocolError(text) from error


def _bytes(path: Path) -> bytes:
    if not path.is_file():
        message = f"{path} is missing; a kit has it in its folder startup"
        raise InputError(message)
    return path.read_bytes()
