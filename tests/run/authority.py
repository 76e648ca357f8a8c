"""An authority of certificates, as FLARE's provisioning makes one."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


class Authority:
    """Signs certificates of the names it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, rsa.generate_private_key(65537, 2048)
        folder.mkdir()
        self.root = folder / "root.pem"
        self.root.write_bytes(self._certificate("root", self.key.public_key()))

    def _certificate(self, name: str, public: rsa.RSAPublicKey) -> bytes:
        now = datetime.now(UTC)
        built = (
            x509.CertificateBuilder()
            .subject_name(_name(name))
            .issuer_name(_name("root"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(1))
            .not_valid_after(now + timedelta(1))
        )
        signed = built.sign(self.key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)

    def files(self, name: str) -> tuple[Path, Path, Path]:
        """Certificate, key and root of a participant."""
        key = rsa.generate_private_key(65537, 2048)
        paths = (self.folder / f"{name}.crt", self.folder / f"{name}.key", self.root)
        paths[0].write_bytes(self._certificate(name, key.public_key()))
        kind = serialization.PrivateFormat.PKCS8
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        paths[1].write_bytes(key.private_bytes(pem, kind, plain))
        return paths
