"""A time-stamping authority on paper: tokens out of fixed keys and times, to the last byte, and wrong ones on request.

Real authorities are :mod:`witnz.demo.authority`; this one exists because a vector must come out the same every time, and to
make what no authority would.  RSA with PKCS #1 v1.5 signs the same bytes the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from asn1crypto import algos, cms, core, tsp
from asn1crypto import x509 as asn1_x509
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

NOW = datetime(2026, 11, 21, 18, 10, tzinfo=UTC)
YEARS_10 = timedelta(days=3652)
KEYS = Path(__file__).parent / "rsa_keys.pem"


@dataclass(frozen=True)
class Authority:
    """A root and the leaf that stamps."""

    root: x509.Certificate
    leaf: x509.Certificate
    key: rsa.RSAPrivateKey

    @property
    def root_pem(self) -> str:
        return self.root.public_bytes(serialization.Encoding.PEM).decode()

    def response(self, digest: bytes, **changed: Any) -> bytes:
        """A granted TimeStampResp over a digest; ``changed``: ``algorithm``, ``at``, ``chain``, ``unsorted``, ``status``."""
        info = tsp.TSTInfo(
            {
                "version": "v1",
                "policy": "1.2.3.4.1",
                "message_imprint": {
                    "hash_algorithm": {"algorithm": changed.get("algorithm", "sha256")},
                    "hashed_message": digest,
                },
                "serial_number": 17,
                "gen_time": changed.get("at", NOW),
            }
        ).dump()
        attributes = cms.CMSAttributes(
            [
                cms.CMSAttribute({"type": "content_type", "values": ["tst_info"]}),
                cms.CMSAttribute({"type": "message_digest", "values": [sha256(info).digest()]}),
                cms.CMSAttribute({"type": "signing_certificate_v2", "values": [self._signing_certificate()]}),
            ]
        )
        signature = self.key.sign(attributes.dump(), padding.PKCS1v15(), hashes.SHA256())
        leaf = asn1_x509.Certificate.load(self.leaf.public_bytes(serialization.Encoding.DER))
        signer = cms.SignerInfo(
            {
                "version": "v1",
                "sid": {"issuer_and_serial_number": {"issuer": leaf.issuer, "serial_number": leaf.serial_number}},
                "digest_algorithm": {"algorithm": "sha256"},
                "signed_attrs": attributes,
                "signature_algorithm": {"algorithm": "sha256_rsa"},
                "signature": signature,
            }
        )
        signed = cms.SignedData(
            {
                "version": "v3",
                "digest_algorithms": [algos.DigestAlgorithm({"algorithm": "sha256"})],
                "encap_content_info": {"content_type": "tst_info", "content": core.ParsableOctetString(info)},
                "certificates": self._certificates(**changed),
                "signer_infos": [signer],
            }
        )
        status: dict[str, Any] = {"status": changed.get("status", "granted")}
        if status["status"] == "rejection":
            said = tsp.PKIStatusInfo({**status, "status_string": ["no such policy"]}).dump()
            return bytes([0x30, len(said)]) + bytes(said)
        token = cms.ContentInfo({"content_type": "signed_data", "content": signed})
        response = bytes(tsp.TimeStampResp({"status": status, "time_stamp_token": token}).dump())
        first, second = sorted(self._ders())
        return response.replace(first + second, second + first) if changed.get("unsorted") else response

    def _signing_certificate(self) -> Any:
        der = self.leaf.public_bytes(serialization.Encoding.DER)
        return tsp.SigningCertificateV2({"certs": [tsp.ESSCertIDv2({"cert_hash": sha256(der).digest()})]})

    def _certificates(self, *, chain: bool = False, **_: Any) -> Any:
        ders = sorted(self._ders() if chain else self._ders()[:1])
        return cms.CertificateSet([cms.CertificateChoices("certificate", asn1_x509.Certificate.load(der)) for der in ders])

    def _ders(self) -> list[bytes]:
        return [one.public_bytes(serialization.Encoding.DER) for one in (self.leaf, self.root)]


@cache
def authority(name: str = "vectors", *, is_for_time: bool = True, expires: datetime = NOW + YEARS_10) -> Authority:
    """An authority by name: the same every time."""
    root_key, leaf_key = _key(0 if name == "vectors" else 2), _key(1)
    root = _certificate(f"{name} root", f"{name} root", root_key, root_key, expires=NOW + YEARS_10, is_authority=True)
    leaf = _certificate(
        f"{name} time stamps", f"{name} root", leaf_key, root_key, expires=expires, is_authority=False, is_for_time=is_for_time
    )
    return Authority(root, leaf, leaf_key)


@cache
def _key(place: int) -> rsa.RSAPrivateKey:
    """One of the keys that stand in a file because making one takes a random number generator; they protect nothing."""
    text = KEYS.read_text().split("\n\n")[place]
    key = serialization.load_pem_private_key(text.encode(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def _certificate(
    subject: str,
    issuer: str,
    key: rsa.RSAPrivateKey,
    issuer_key: rsa.RSAPrivateKey,
    *,
    expires: datetime,
    is_authority: bool,
    is_for_time: bool = True,
) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    builder = (
        x509.CertificateBuilder()
        .subject_name(named(subject))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(int.from_bytes(sha256(subject.encode()).digest()[:8], "big") >> 1)
        .not_valid_before(NOW - YEARS_10)
        .not_valid_after(expires)
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
    )
    if not is_authority:
        usage = ExtendedKeyUsageOID.TIME_STAMPING if is_for_time else ExtendedKeyUsageOID.CODE_SIGNING
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=True)
    return builder.sign(issuer_key, hashes.SHA256())
