"""The report key: ECDSA P-256, because PDF readers check that and no Ed25519; one file holds it with its certificates.

    keys/report.key    PEM: the private key (PKCS #8), its certificate, the root that issued it; 0600

The root's private key is thrown away as soon as it has issued that one certificate: trusting the root is trusting this key and
no other, and nobody can issue a second one.  What a verifier believes is neither certificate but the journalled ``key`` record,
which an operator signed.  Both ``emailProtection`` and ``documentSigning`` stand in the certificate because poppler's pdfsig
refuses one that has the second alone.
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier

from witnz.errors import FormatError, KeyProblem
from witnz.store.datadir import load_key_file, save_key_file

if TYPE_CHECKING:
    from collections.abc import Mapping

FILE: Final = "report.key"
AUTHORISATION: Final = "report.auth"
"""Beside the key: the body of its ``key`` record as an operator signed it at ``witnz init``; the first report journals it."""

DOCUMENT_SIGNING: Final = ObjectIdentifier("1.3.6.1.5.5.7.3.36")  # RFC 9336
YEARS: Final = 10


@dataclass(frozen=True, slots=True)
class ReportKey:
    """A private key with its certificate and that one's root."""

    private: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate
    root: x509.Certificate

    @property
    def public_der(self) -> bytes:
        """The DER SubjectPublicKeyInfo: what the ``key`` record holds, in base64."""
        return self.private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def key_id(self) -> str:
        """Hex SHA-256 of :attr:`public_der`."""
        return sha256(self.public_der).hexdigest()

    @property
    def root_fingerprint(self) -> str:
        """Hex SHA-256 of the root certificate: what a PDF reader shows of it."""
        return self.root.fingerprint(hashes.SHA256()).hex()

    @property
    def certificates_pem(self) -> bytes:
        """The certificate, then the root."""
        return self.certificate.public_bytes(Encoding.PEM) + self.root.public_bytes(Encoding.PEM)

    def sign(self, message: bytes) -> bytes:
        """An ECDSA P-256 signature over SHA-256 of ``message``, as DER (SEC 1, C.5)."""
        return self.private.sign(message, ec.ECDSA(hashes.SHA256()))


def verify(public_der: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` is that key's over ``message``.  Raises FormatError for a key that is no P-256 key."""
    try:
        public = load_der_public_key(public_der)
    except ValueError:
        public = None
    if not isinstance(public, ec.EllipticCurvePublicKey) or not isinstance(public.curve, ec.SECP256R1):
        raise FormatError("report key: expected the DER of a P-256 public key")
    try:
        public.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def create(cluster: str, name: str, now_us: int) -> ReportKey:
    """A new key, valid for ten years from a day before ``now_us`` (µs since 1970)."""
    begins = datetime.datetime.fromtimestamp(now_us // 1_000_000, datetime.UTC).replace(microsecond=0)
    begins, ends = begins - datetime.timedelta(days=1), begins + datetime.timedelta(days=365 * YEARS)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name, own_name = _name(cluster, "witnz evidence root"), _name(cluster, f"witnz report key {name}")
    root = _builder(root_name, root_name, root_key, begins, ends, _usage(certificates=True), path_length=0)
    root_certificate = root.sign(root_key, hashes.SHA256())
    leaf = _builder(own_name, root_name, key, begins, ends, _usage(certificates=False), path_length=None)
    leaf = leaf.add_extension(
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION, DOCUMENT_SIGNING]), critical=False
    ).add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
    return ReportKey(key, leaf.sign(root_key, hashes.SHA256()), root_certificate)


def _name(cluster: str, common: str) -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, cluster[:64]),
            x509.NameAttribute(NameOID.COMMON_NAME, common[:64]),
        ]
    )


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    begins: datetime.datetime,
    ends: datetime.datetime,
    usage: x509.KeyUsage,
    *,
    path_length: int | None,
) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(begins).not_valid_after(ends)
    constraints = x509.BasicConstraints(ca=path_length is not None, path_length=path_length)
    builder = builder.add_extension(constraints, critical=True).add_extension(usage, critical=True)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        content_commitment=not certificates,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=certificates,
        crl_sign=certificates,
        encipher_only=False,
        decipher_only=False,
    )


def save(path: Path, key: ReportKey) -> None:
    """Write the file.  Refuses to overwrite one (KeyProblem)."""
    if path.exists():
        raise KeyProblem(f"{path} exists already", hint="choose another name or move the old key away")
    private = key.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    save_key_file(path, (private + key.certificates_pem).decode("ascii"))


def load(path: Path) -> ReportKey:
    """Read the file.  Raises KeyProblem where it is missing, readable by others, or no P-256 key with its certificates."""
    text = load_key_file(path).encode()
    try:
        private = load_pem_private_key(text, password=None)
        certificates = x509.load_pem_x509_certificates(text)
    except ValueError:
        private, certificates = None, []
    if not isinstance(private, ec.EllipticCurvePrivateKey) or len(certificates) != 2:
        raise KeyProblem(
            f"{path}: expected a P-256 private key, its certificate and the root", hint="restore the file from its backup"
        )
    key = ReportKey(private, certificates[0], certificates[1])
    if certificates[0].public_key() != private.public_key():
        raise KeyProblem(f"{path}: the certificate is not the key's", hint="restore the file from its backup")
    return key


def key_body(key: ReportKey, name: str, from_lsn: str) -> Mapping[str, str]:
    """The body of the ``key`` record that puts it into force, for an operator to sign."""
    from base64 import b64encode

    public = b64encode(key.public_der).decode("ascii")
    return {"action": "add", "kind": "report", "name": name, "key": public, "from_lsn": from_lsn}
