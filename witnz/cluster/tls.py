"""TLS 1.3 between members: both sides present a self-signed certificate over their identity key, and nothing else is accepted.

There is no authority and no name to check against one: the members' keys are known, so a peer is who its key says.  During the
handshake, before a byte of application data can pass in either direction, the callback below compares the key of the peer's
certificate with the members' keys; OpenSSL has then already proved, or is about to, that the peer holds it (RFC 8446 4.4.3).

    subject      CN=<node id>            must be the id under which the members list that key
    public key   Ed25519, 32 bytes       must equal that member's identity key
    validity     2000 to 9999            not looked at: a pinned key is valid while it is listed, whatever the clocks say

Sessions are never resumed, because a resumed one shows no certificate.  The standard library's ssl cannot demand a client
certificate without an authority that issued it, hence pyOpenSSL (docs/decisions/0012).
"""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from witnz.core.names import check_node_id
from witnz.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Callable

    from OpenSSL import SSL

PROTOCOL: Final = b"witnz-peer/1"
_SELF_SIGNED: Final = 18  # X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT
_FROM = datetime.datetime(2000, 1, 1, tzinfo=datetime.UTC)
_TO = datetime.datetime(9999, 12, 31, 23, 59, 59, tzinfo=datetime.UTC)


@dataclass(slots=True)
class Meeting:
    """What one connection knows of its peer: the id it was dialled for (None: it dialled us), who it has proved to be, or why
    it was turned away."""

    expected: str | None
    peer: str | None = None
    refusal: str | None = None


def make_certificate(node_id: str, key: Ed25519PrivateKey) -> x509.Certificate:
    """A certificate of ``key`` under the node's id, signed by itself."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)])
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).not_valid_before(_FROM).not_valid_after(_TO)
    return builder.sign(key, None)


def certificate_identity(certificate: x509.Certificate) -> tuple[str, bytes]:
    """The node id and the 32-byte public key that a certificate states; raises FormatError for another kind of certificate."""
    try:
        names = list(certificate.subject)
        key = certificate.public_key()
        if len(names) != 1 or names[0].oid != NameOID.COMMON_NAME or not isinstance(names[0].value, str):
            raise FormatError("certificate: expected a subject of one common name")
        if not isinstance(key, Ed25519PublicKey):
            raise FormatError(f"certificate: expected an Ed25519 key, found {type(key).__name__}")
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise FormatError(f"certificate: {type(error).__name__}: {str(error)[:200]}") from None
    check_node_id(names[0].value)
    return names[0].value, key.public_bytes_raw()


def make_context(node_id: str, key: Ed25519PrivateKey, identity_of: Callable[[str], bytes | None]) -> SSL.Context:
    """The context of all connections of a node, dialled and accepted.

    ``identity_of`` gives the key of another member by its id, None for who is none; it is asked anew for each handshake.  Each
    connection carries a :class:`Meeting` as its app data.
    """
    from OpenSSL import SSL

    def verify(connection: SSL.Connection, certificate: object, error: int, depth: int, _ok: int) -> bool:
        meeting = connection.get_app_data()
        meeting.peer, meeting.refusal = judge(certificate, error, depth, meeting.expected, identity_of)
        return meeting.peer is not None

    def select(_connection: SSL.Connection, _offered: list[bytes]) -> bytes:
        return PROTOCOL  # whoever did not offer it ends the handshake

    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.use_certificate(make_certificate(node_id, key))
    context.use_privatekey(key)
    context.check_privatekey()
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
    context.set_verify_depth(0)
    context.set_alpn_protos([PROTOCOL])
    context.set_alpn_select_callback(select)
    return context


def judge(
    certificate: object, error: int, depth: int, expected: str | None, identity_of: Callable[[str], bytes | None]
) -> tuple[str | None, str | None]:
    """(the member that the certificate proves, None) or (None, why it proves none).  Never raises."""
    if error not in (0, _SELF_SIGNED) or depth != 0:
        return None, f"its certificate is not a self-signed one (OpenSSL verification result {error} at depth {depth})"
    try:
        claimed, public = certificate_identity(certificate.to_cryptography())  # type: ignore[attr-defined]
    except (FormatError, ValueError) as refusal:
        return None, str(refusal)
    pinned = identity_of(claimed)
    if pinned is None:
        return None, f"it calls itself {claimed}, which is no other member"
    if pinned != public:
        return None, f"it calls itself {claimed}, but its key is not the one that the members list for {claimed}"
    if expected is not None and claimed != expected:
        return None, f"expected {expected}, found {claimed}"
    return claimed, None
