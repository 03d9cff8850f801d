"""A certificate authority of a cluster's own, valid for a few days."""

from __future__ import annotations

import datetime
import ipaddress
from collections.abc import Sequence
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAYS = 7


class Authority:
    """Writes `<name>.crt` and `<name>.key` into a folder; everything is signed by `ca.crt`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(mode=0o700, exist_ok=True)
        self._name = _subject("longtail-test-authority")
        if (folder / "ca.key").is_file():
            self._key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
            return
        self._key = self.key("ca")
        ca = _builder(self._name, self._name, self._key).add_extension(x509.BasicConstraints(True, 0), True)
        self._write("ca.crt", ca.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def key(self, name: str) -> ec.EllipticCurvePrivateKey:
        """A new key pair as `<name>.key` and `<name>.pub`."""
        key = ec.generate_private_key(ec.SECP256R1())
        pem = serialization.Encoding.PEM
        plain = (serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption())
        self._write(f"{name}.key", key.private_bytes(pem, *plain))
        self._write(f"{name}.pub", key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
        return key

    def issue(
        self,
        name: str,
        common_name: str,
        group: str | None = None,
        addresses: Sequence[str] = (),
        names: Sequence[str] = (),
    ) -> None:
        """A certificate for a user (of a group) or for a server at these addresses and names."""
        key = self.key(name)
        made = _builder(_subject(common_name, group), self._name, key)
        others = [*(x509.IPAddress(ipaddress.ip_address(a)) for a in addresses), *(x509.DNSName(n) for n in names)]
        if others:
            made = made.add_extension(x509.SubjectAlternativeName(others), False)
        both = [ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]
        made = made.add_extension(x509.ExtendedKeyUsage(both), False)
        self._write(f"{name}.crt", made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def _write(self, name: str, content: bytes) -> None:
        path = self.folder / name
        path.touch(mode=0o600)
        path.write_bytes(content)


def _subject(common_name: str, group: str | None = None) -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, group)] if group else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=DAYS))
    )
