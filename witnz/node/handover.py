"""Secrets that go from member to member: the cluster's log key and the generations' secrets, sealed to one recipient.

The members' channel is encrypted already; these are sealed once more, so that they are readable neither to whoever ends the
TLS connection in between nor from a recording, should an identity key leak later: both sides use keys made for one exchange.

    request   {"cluster","key","node","sig","wanted":[[table,generation],…]}
              key: X25519 public key made for this request; sig: the asker's identity over
              "witnz/handover-request/1\\n" || canonical JSON without sig
    answer    {"key","node","sealed","sig"}
              sealed: nonce || AES-256-GCM of {"log":[private key lines],"secrets":[[table,generation,b64],…]} under
              HKDF-SHA256(X25519 shared secret, salt SHA256(request), info "witnz/handover/1\\n" || from || "\\n" || to);
              sig: the giver's identity over "witnz/handover-answer/1\\n" || hex SHA256(request) || canonical JSON without sig

(RFC 7748, RFC 5869, NIST SP 800-38D.)  Who receives them compares each with what the journal says of it before it is used.
"""

from __future__ import annotations

import os
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from witnz.core.canonical import canonical, parse_canonical
from witnz.core.journal_facts import Member
from witnz.core.keys import Signer, verify_signature
from witnz.core.names import check_node_id, parse_table_name
from witnz.core.shape import Shape, base64_bytes, hex_bytes, integer, list_of, members, refuse, spelled, text
from witnz.errors import ProofError

MAX_REQUEST_BYTES: Final = 256 << 10
MAX_ANSWER_BYTES: Final = 512 << 10
MAX_LOGS: Final = 500  # generations asked for at a time
MAX_LOG_KEYS: Final = 16
_NONCE = 12

Log = tuple[str, int]
"""(table, generation)"""


def _log(value: Any, path: str) -> None:
    if not isinstance(value, list) or len(value) != 2:
        raise refuse(path, "a table and a generation", value)
    spelled(parse_table_name)(value[0], path)
    integer(1)(value[1], path)


def _secret(value: Any, path: str) -> None:
    if not isinstance(value, list) or len(value) != 3:
        raise refuse(path, "a table, a generation and a secret", value)
    _log(value[:2], path)
    base64_bytes(32)(value[2], path)


_REQUEST: Shape = members(
    {
        "cluster": hex_bytes(16),
        "key": base64_bytes(32),
        "node": spelled(check_node_id),
        "sig": base64_bytes(64),
        "wanted": list_of(_log, high=MAX_LOGS),
    }
)
_ANSWER: Shape = members(
    {
        "key": base64_bytes(32),
        "node": spelled(check_node_id),
        "sealed": base64_bytes(max_bytes=MAX_ANSWER_BYTES),
        "sig": base64_bytes(64),
    }
)
_SECRETS: Shape = members(
    {"log": list_of(text(1024, min_bytes=1), high=MAX_LOG_KEYS), "secrets": list_of(_secret, high=MAX_LOGS)}
)


@dataclass(frozen=True, slots=True)
class Handed:
    """What a member handed over, not compared with anything yet; ``log_keys`` are private-key lines."""

    log_keys: tuple[str, ...] = field(repr=False)
    secrets: Mapping[Log, bytes] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Asked:
    """A request under way.  ``body`` is what is sent; only this object opens the answer."""

    body: bytes
    node_id: str
    _key: X25519PrivateKey = field(repr=False)

    def open(self, answer: bytes, giver: Member) -> Handed:
        """What ``giver`` sealed.  Raises FormatError for a malformed answer, ProofError for one not by it or not to us."""
        document = parse_canonical(answer, what="handover answer", max_bytes=MAX_ANSWER_BYTES)
        _ANSWER(document, "answer")
        if document["node"] != giver.id or not verify_signature(
            giver.identity, b64decode(document["sig"]), _answer_bytes(self.body, document)
        ):
            raise ProofError(f"handover: the answer is not signed by {giver.id}")
        cipher = _cipher(self._key, b64decode(document["key"]), self.body, giver.id, self.node_id)
        sealed = b64decode(document["sealed"])
        try:
            opened = cipher.decrypt(sealed[:_NONCE], sealed[_NONCE:], None)
        except (InvalidTag, ValueError):
            raise ProofError(f"handover: what {giver.id} sealed does not open with the key of this request") from None
        inside = parse_canonical(opened, what="handover secrets", max_bytes=MAX_ANSWER_BYTES)
        _SECRETS(inside, "secrets")
        secrets = {(table, generation): b64decode(secret) for table, generation, secret in inside["secrets"]}
        return Handed(tuple(inside["log"]), secrets)


def ask(identity: Signer, cluster_id: str, node_id: str, wanted: Sequence[Log]) -> Asked:
    """A request for the log key and the secrets of these generations, at most MAX_LOGS of them."""
    key = X25519PrivateKey.generate()
    document: dict[str, Any] = {
        "cluster": cluster_id,
        "key": _b64(key.public_key().public_bytes_raw()),
        "node": node_id,
        "wanted": [list(log) for log in wanted],
    }
    document["sig"] = _b64(identity.sign(_request_bytes(document)))
    return Asked(canonical(document), node_id, key)


def parse_request(request: bytes, asker: Member, cluster_id: str) -> list[Log]:
    """The generations that a request names.  Raises FormatError, or ProofError where ``asker`` did not sign it for us."""
    document = parse_canonical(request, what="handover request", max_bytes=MAX_REQUEST_BYTES)
    _REQUEST(document, "request")
    if document["cluster"] != cluster_id or document["node"] != asker.id:
        raise ProofError(f"handover: the request is not one of {asker.id} in this cluster")
    if not verify_signature(asker.identity, b64decode(document["sig"]), _request_bytes(document)):
        raise ProofError(f"handover: the request is not signed by the identity key of {asker.id}")
    return [(table, generation) for table, generation in document["wanted"]]


def seal(request: bytes, handed: Handed, identity: Signer, node_id: str, to: str) -> bytes:
    """The answer of ``node_id`` to a request that :func:`parse_request` let pass."""
    document = parse_canonical(request, what="handover request", max_bytes=MAX_REQUEST_BYTES)
    key = X25519PrivateKey.generate()
    secrets = [[table, generation, _b64(secret)] for (table, generation), secret in handed.secrets.items()]
    nonce = os.urandom(_NONCE)
    cipher = _cipher(key, b64decode(document["key"]), request, node_id, to)
    sealed = nonce + cipher.encrypt(nonce, canonical({"log": list(handed.log_keys), "secrets": secrets}), None)
    answer: dict[str, Any] = {"key": _b64(key.public_key().public_bytes_raw()), "node": node_id, "sealed": _b64(sealed)}
    answer["sig"] = _b64(identity.sign(_answer_bytes(request, answer)))
    return canonical(answer)


def _cipher(own: X25519PrivateKey, other: bytes, request: bytes, giver: str, receiver: str) -> AESGCM:
    try:
        shared = own.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:  # a point of small order: the shared secret would be known to everybody
        raise ProofError("handover: the other side's key is none") from None
    info = f"witnz/handover/1\n{giver}\n{receiver}".encode()
    return AESGCM(HKDF(SHA256(), 32, sha256(request).digest(), info).derive(shared))


def _request_bytes(document: Mapping[str, Any]) -> bytes:
    return b"witnz/handover-request/1\n" + canonical({name: value for name, value in document.items() if name != "sig"})


def _answer_bytes(request: bytes, document: Mapping[str, Any]) -> bytes:
    unsigned = canonical({name: value for name, value in document.items() if name != "sig"})
    return b"witnz/handover-answer/1\n" + sha256(request).hexdigest().encode() + unsigned


def _b64(data: bytes) -> str:
    return b64encode(data).decode()
