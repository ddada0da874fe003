"""The report key: what its file must be, and what its signatures and certificates are."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.journal_maker import START_US
from witnz.errors import FormatError, KeyProblem
from witnz.report.key import DOCUMENT_SIGNING, create, key_body, load, save, verify


def test_a_saved_key_comes_back_and_is_never_overwritten(tmp_path: Path) -> None:
    key, path = create("example.org/app", "node1", START_US), tmp_path / "report.key"
    save(path, key)
    assert path.stat().st_mode & 0o777 == 0o600
    again = load(path)
    assert (again.key_id, again.root_fingerprint) == (key.key_id, key.root_fingerprint)
    assert verify(key.public_der, b"message", again.sign(b"message"))
    assert not verify(key.public_der, b"another", again.sign(b"message"))
    with pytest.raises(KeyProblem, match="exists already"):
        save(path, key)


def test_files_that_are_no_report_key_are_refused(tmp_path: Path) -> None:
    key, other = create("example.org/app", "node1", START_US), create("example.org/app", "node2", START_US)
    path = tmp_path / "report.key"
    save(path, key)
    whole = path.read_text()
    private = whole[: whole.index("-----BEGIN CERTIFICATE-----")]
    for text in ("nonsense", private, whole.replace("A", "B", 3), private + other.certificates_pem.decode()):
        path.unlink()
        path.write_text(text)
        path.chmod(0o600)
        with pytest.raises(KeyProblem):
            load(path)
    path.chmod(0o644)
    with pytest.raises(KeyProblem, match="permissions"):
        load(path)


def test_the_certificate_is_for_documents_and_the_root_can_issue_no_more() -> None:
    key = create("example.org/app", "node1", START_US)
    usages = key.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert DOCUMENT_SIGNING in usages and x509.oid.ExtendedKeyUsageOID.EMAIL_PROTECTION in usages
    key.certificate.verify_directly_issued_by(key.root)
    constraints = key.root.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert (constraints.ca, constraints.path_length) == (True, 0)
    assert key.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False


def test_the_record_holds_the_public_key_and_other_kinds_of_keys_are_none() -> None:
    key = create("example.org/app", "node1", START_US)
    body = key_body(key, "node1", "0/0")
    assert b64decode(body["key"]) == key.public_der
    raw = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    for public in (raw, b"", b"\x30\x00"):
        with pytest.raises(FormatError, match="P-256"):
            verify(public, b"m", b"s")
