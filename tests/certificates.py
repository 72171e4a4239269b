"""Certificates made for a test: authorities, what they sign, and files that are replaced as Kubernetes does it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

DAY = timedelta(days=1)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Authority:
    """A CA; `pem` is its certificate."""

    def __init__(self, name: str) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _name(name)
        basic = x509.BasicConstraints(ca=True, path_length=0)
        made = self._builder(self._name, self._key).add_extension(basic, critical=True).sign(self._key, hashes.SHA256())
        self.pem = made.public_bytes(serialization.Encoding.PEM)

    def issue(self, name: str) -> tuple[bytes, bytes]:
        """Returns a certificate for this machine, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))])
        made = self._builder(_name(name), key).add_extension(names, critical=False).sign(self._key, hashes.SHA256())
        private = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return made.public_bytes(serialization.Encoding.PEM), private

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + DAY)
        )


class Volume:
    """A folder of files that change together, as those of a Secret that is mounted."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._version = 0
        self._files: dict[str, bytes] = {}
        folder.mkdir()

    def path(self, name: str) -> str:
        return str(self._folder / name)

    def put(self, **files: bytes) -> None:
        """Replaces files, all at one moment."""
        self._files |= files
        self._version += 1
        made = self._folder / f"..{self._version}"
        made.mkdir()
        for name, content in self._files.items():
            (made / name).write_bytes(content)
        self._link(made.name, "..data")
        for name in self._files:
            if not (self._folder / name).is_symlink():
                self._link(f"..data/{name}", name)

    def _link(self, target: str, name: str) -> None:
        new = self._folder / "..new"
        new.symlink_to(target)
        new.replace(self._folder / name)
