"""TLS for a throw-away server: a certificate authority of the test's own and what it says about the server."""

from __future__ import annotations

import datetime
import os
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from witnz.demo.server import PostgresServer

_YEAR = datetime.timedelta(days=365)


@dataclass(slots=True)
class Authority:
    """A certificate authority; ``file``: its certificate, as ``sslrootcert`` wants it."""

    file: Path
    _name: x509.Name
    _key: ec.EllipticCurvePrivateKey

    @classmethod
    def make(cls, file: Path) -> Authority:
        name, key = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, file.stem)]), ec.generate_private_key(ec.SECP256R1())
        authority = cls(file, name, key)
        basic = x509.BasicConstraints(ca=True, path_length=0)
        file.write_bytes(authority._sign(name, key.public_key(), basic, critical=True))
        return authority

    def serve(self, server: PostgresServer, host: str) -> None:
        """Give a running server a key and this authority's certificate for the address ``host``, and switch TLS on."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(host))])
        certificate = self._sign(x509.Name([]), key.public_key(), names, critical=True)
        private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        owner = server.data_dir.stat()
        for name, content in (("server.crt", certificate), ("server.key", private)):
            path = server.data_dir / name
            path.touch(mode=0o600)
            path.write_bytes(content)
            os.chown(path, owner.st_uid, owner.st_gid)
        server.configure({"ssl": "on"})

    def _sign(
        self, subject: x509.Name, public: ec.EllipticCurvePublicKey, extension: x509.ExtensionType, *, critical: bool
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(self._name, subject, public, x509.random_serial_number(), now - _YEAR, now + _YEAR)
        signed = builder.add_extension(extension, critical=critical).sign(self._key, hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM)
