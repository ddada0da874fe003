"""Time stamps of RFC 3161: reading an authority's response and checking it, offline, with the authority's root.

The response is DER: a status and a CMS SignedData over a TSTInfo, which holds the digest that was stamped and the time.  The
work is done by ``rfc3161-client``, which the base install does not bring (``witnz[tsa]``): without it nothing here can be
checked, and :func:`is_available` says so.  A digest is stamped as it is: the imprint's algorithm is SHA-256 and its value the
anchored digest, which is the SHA-256 of the checkpoint note's text, so ``openssl ts -verify -data`` on that text agrees.

A trap on the way: CMS puts certificates into a SET OF, which DER sorts.  Authorities (``openssl ts`` among them) send them
unsorted, and strict parsers refuse that.  The set is outside what is signed, so :func:`with_sorted_certificates` sorts a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

from cryptography import x509

from witnz.errors import ProofError

if TYPE_CHECKING:
    from rfc3161_client import TimeStampResponse

SHA256_OID: Final = x509.ObjectIdentifier("2.16.840.1.101.3.4.2.1")
_SEQUENCE, _EXPLICIT_0, _OID, _INTEGER, _SET = 0x30, 0xA0, 0x06, 0x02, 0x31


@dataclass(frozen=True, slots=True)
class TimeStamp:
    """What a time stamp says: ``time_s`` seconds since 1970 (fractions cut off), by ``authority`` (its certificate's
    subject).
    """

    time_s: int
    authority: str
    policy: str
    serial: int
    nonce: int | None


def is_available() -> bool:
    """Whether this installation can check time stamps."""
    return find_spec("rfc3161_client") is not None


def read_time_stamp(response: bytes, digest: bytes) -> TimeStamp:
    """What the response says, its signature unchecked.

    Raises :class:`ProofError` where it is no granted response with one signer and its certificate, or stamps anything but the
    32 bytes ``digest`` under SHA-256.
    """
    return _read(_decoded(response), digest)


def check_time_stamp(response: bytes, digest: bytes, authorities: Sequence[x509.Certificate]) -> TimeStamp:
    """What the response says, signed by an authority whose certificate is one of ``authorities`` or leads to one.

    The certificates need to have been valid when the stamp was made, not today.  Raises :class:`ProofError` as
    :func:`read_time_stamp`, and where no such authority signed it.
    """
    from rfc3161_client import VerificationError, VerifierBuilder

    decoded = _decoded(response)
    stamp = _read(decoded, digest)
    builder = VerifierBuilder()
    for certificate in authorities:
        builder = builder.add_root_certificate(certificate)
    try:
        builder.build().verify(decoded, digest)
    except (VerificationError, ValueError) as error:
        raise ProofError(f"time stamp: not signed by an authority that is trusted here: {error}") from None
    return stamp


def with_sorted_certificates(response: bytes) -> bytes:
    """The response with the certificates of its SignedData in DER's order; as it was where they are, or where it is no such.

        TimeStampResp ::= SEQUENCE { status, ContentInfo ::= SEQUENCE { OID, [0] SignedData ::= SEQUENCE {
            version INTEGER, digestAlgorithms SET, encapContentInfo SEQUENCE, certificates [0] IMPLICIT SET OF, … } } }

    Sorting moves bytes inside the set and changes no length.
    """
    path = ((_SEQUENCE, 0), (_SEQUENCE, 1), (_EXPLICIT_0, 1), (_SEQUENCE, 0), (_EXPLICIT_0, 3))
    start, end = 0, len(response)
    for tag, place in path:
        members = _members(response, start, end)
        if place >= len(members) or response[members[place][0]] != tag:
            return response
        _, start, end = members[place]
    certificates = _members(response, start, end)
    ordered = sorted(response[begin:stop] for begin, _, stop in certificates)
    return response[:start] + b"".join(ordered) + response[end:] if ordered else response


def _members(data: bytes, start: int, end: int) -> list[tuple[int, int, int]]:
    """Where each DER value between ``start`` and ``end`` begins, its content begins, and it ends; empty if they do not fill
    it.
    """
    found = []
    while start < end:
        if start + 2 > end:
            return []
        length, content = data[start + 1], start + 2
        if length >= 0x80:
            size = length - 0x80
            if not 1 <= size <= 4 or content + size > end:
                return []
            length, content = int.from_bytes(data[content : content + size], "big"), content + size
        if content + length > end:
            return []
        found.append((start, content, content + length))
        start = content + length
    return found


def _decoded(response: bytes) -> TimeStampResponse:
    from rfc3161_client import decode_timestamp_response

    try:
        return decode_timestamp_response(with_sorted_certificates(response))
    except ValueError as error:
        raise ProofError(f"time stamp: expected a response in DER: {error}") from None


def _read(decoded: TimeStampResponse, digest: bytes) -> TimeStamp:
    if decoded.status != 0:
        said = "; ".join(_status_strings(decoded))
        raise ProofError(f"time stamp: expected a granted one (status 0), found status {decoded.status} {said}".rstrip())
    try:
        info, signed = decoded.tst_info, decoded.signed_data
        imprint, certificates, signers = info.message_imprint, signed.certificates, list(signed.signer_infos)
        if imprint.hash_algorithm != SHA256_OID or imprint.message != digest:
            raise ProofError(f"time stamp: it is over {imprint.message.hex()[:64]}, not over the digest")
        if len(signers) != 1:
            raise ProofError(f"time stamp: expected one signer, found {len(signers)}")
        named = [x509.load_der_x509_certificate(der) for der in certificates]
        signer: Any = signers[0]
        own = [one for one in named if one.issuer == signer.issuer and one.serial_number == signer.serial_number]
        if not own:
            raise ProofError("time stamp: the signer's certificate is not in the response")
        return TimeStamp(
            time_s=int(info.gen_time.timestamp()),
            authority=own[0].subject.rfc4514_string(),
            policy=info.policy.dotted_string,
            serial=info.serial_number,
            nonce=info.nonce,
        )
    except ValueError as error:
        raise ProofError(f"time stamp: expected a response in DER: {error}") from None


def _status_strings(decoded: TimeStampResponse) -> list[str]:
    try:
        return [text[:200] for text in decoded.status_string]
    except ValueError:
        return []
