"""What an application says about its own transaction: claims and signed intents (formats.md 2, "Messages").

Both are the content of a transactional logical message (``pg_logical_emit_message``) with prefix ``witnz``, ≤ 8,192 bytes:

    claim    JSON object with only the string members by (≤ 256 bytes of UTF-8) and hint (≤ 4,096), spaces allowed
    intent   RFC 8785 object of exactly by hint key nonce sig tables xid: by and hint as above; key the name of an intent key;
             nonce 32 hex digits; sig base64 of 64 bytes; tables a list of table names; xid the text of pg_current_xact_id()

Anything else is no message at all: no by, no hint, no intent.  ``sig`` is Ed25519 over ``"witnz/intent/1\\n"`` and the
canonical JSON of the object without ``sig`` and with ``"cluster"`` (the cluster's id) added, so an intent is worth nothing in
another cluster.  Whether it authorises rows (key in force, this transaction's xid, nonce not used before, table listed) is not
judged here.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from witnz.core.canonical import canonical, parse_canonical, parse_json
from witnz.core.keys import Signer, verify_signature
from witnz.core.names import parse_table_name
from witnz.errors import FormatError

MAX_MESSAGE: Final = 8_192
MAX_BY: Final = 256
MAX_HINT: Final = 4_096

_CLAIM_MEMBERS = frozenset({"by", "hint"})
_INTENT_MEMBERS = frozenset({"by", "hint", "key", "nonce", "sig", "tables", "xid"})
_SIGNATURE_BYTES = 64
_NONCE = re.compile(r"[0-9a-f]{32}")
_XID = re.compile(r"0|[1-9][0-9]{0,19}")


@dataclass(frozen=True, slots=True)
class Message:
    """What a message says: the actor, free text, and the whole text where it is an intent.  ``None``: nothing said."""

    by: str | None
    hint: str | None
    intent: str | None


@dataclass(frozen=True, slots=True)
class Intent:
    """A signed intent.  ``sig`` is 64 raw bytes, ``xid`` the 64-bit transaction id (the stream has its low 32 bits)."""

    by: str
    hint: str
    key: str
    nonce: str
    sig: bytes
    tables: tuple[str, ...]
    xid: int


CLAIM_PREFIX: Final = "witnz"
"""Prefix of the logical messages that claims and intents come in."""
MARK_PREFIX: Final = "witnz-mark"
"""Prefix of witnz's own markers, which mean nothing but a place in the stream."""

NO_MESSAGE: Final = Message(None, None, None)


def parse_message(content: bytes) -> Message:
    """What the content of a ``witnz`` message says.  Never raises: what is neither claim nor intent is :data:`NO_MESSAGE`."""
    try:
        value = parse_json(content, what="message", max_bytes=MAX_MESSAGE, max_depth=2)
        if not isinstance(value, dict):
            return NO_MESSAGE
        if value.keys() == _INTENT_MEMBERS:
            text = content.decode("utf-8")
            intent = parse_intent(text)
            return Message(by=intent.by, hint=intent.hint, intent=text)
        if value.keys() <= _CLAIM_MEMBERS:
            return Message(by=_read_claimed(value, "by", MAX_BY), hint=_read_claimed(value, "hint", MAX_HINT), intent=None)
    except FormatError:
        return NO_MESSAGE
    return NO_MESSAGE


def parse_intent(text: str) -> Intent:
    """The intent that ``text`` is, its signature unverified.  Raises :class:`FormatError` for anything else."""
    value = parse_canonical(text.encode("utf-8", "surrogatepass"), what="intent", max_bytes=MAX_MESSAGE, max_depth=2)
    if not isinstance(value, dict) or value.keys() != _INTENT_MEMBERS:
        raise FormatError(f"intent: expected an object of exactly {' '.join(sorted(_INTENT_MEMBERS))}")
    tables = value["tables"]
    if not isinstance(tables, list):
        raise FormatError("intent tables: expected a list of table names")
    intent = Intent(
        by=_read_text(value, "by", MAX_BY),
        hint=_read_text(value, "hint", MAX_HINT),
        key=_read_text(value, "key", MAX_MESSAGE),
        nonce=_read_text(value, "nonce", 32),
        sig=_read_signature(_read_text(value, "sig", 88)),
        tables=tuple(_read_table(table) for table in tables),
        xid=_read_xid(_read_text(value, "xid", 20)),
    )
    if _NONCE.fullmatch(intent.nonce) is None:
        raise FormatError("intent nonce: expected 32 hex digits")
    return intent


def format_intent(intent: Intent) -> str:
    """The canonical text of an intent, ready to be the content of a message; the inverse of :func:`parse_intent`."""
    return canonical({**_unsigned(intent), "sig": base64.b64encode(intent.sig).decode()}).decode()


def intent_signing_bytes(intent: Intent, cluster_id: str) -> bytes:
    """The bytes that ``sig`` signs: everything but ``sig`` itself, and the cluster it is for."""
    return b"witnz/intent/1\n" + canonical({**_unsigned(intent), "cluster": cluster_id})


def sign_intent(
    signer: Signer, cluster_id: str, *, by: str, hint: str, key: str, nonce: str, tables: Sequence[str], xid: int
) -> Intent:
    """An intent with its signature.  ``nonce`` is 32 fresh random hex digits, ``tables`` are formatted names.

    Raises :class:`FormatError` where the result would not parse, so that no application sends what counts as nothing.
    """
    blank = Intent(by=by, hint=hint, key=key, nonce=nonce, sig=bytes(_SIGNATURE_BYTES), tables=tuple(tables), xid=xid)
    intent = replace(blank, sig=signer.sign(intent_signing_bytes(blank, cluster_id)))
    return parse_intent(format_intent(intent))


def check_intent(intent: Intent, cluster_id: str, public_key: bytes) -> bool:
    """Whether the 32-byte Ed25519 ``public_key`` signed this intent for this cluster."""
    return verify_signature(public_key, intent.sig, intent_signing_bytes(intent, cluster_id))


def _unsigned(intent: Intent) -> dict[str, Any]:
    return {
        "by": intent.by,
        "hint": intent.hint,
        "key": intent.key,
        "nonce": intent.nonce,
        "tables": list(intent.tables),
        "xid": str(intent.xid),
    }


def _read_claimed(value: dict[str, Any], name: str, max_bytes: int) -> str | None:
    return _read_text(value, name, max_bytes) if name in value else None


def _read_text(value: dict[str, Any], name: str, max_bytes: int) -> str:
    text = value[name]
    if not isinstance(text, str) or len(text.encode()) > max_bytes:
        raise FormatError(f"message {name}: expected text of at most {max_bytes} bytes")
    return text


def _read_table(name: Any) -> str:
    if not isinstance(name, str):
        raise FormatError("intent tables: expected table names as text")
    parse_table_name(name)
    return name


def _read_signature(text: str) -> bytes:
    try:
        signature = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise FormatError("intent sig: expected base64") from None
    if len(signature) != _SIGNATURE_BYTES or base64.b64encode(signature).decode() != text:
        raise FormatError(f"intent sig: expected base64 of {_SIGNATURE_BYTES} bytes with padding")
    return signature


def _read_xid(text: str) -> int:
    if _XID.fullmatch(text) is None or int(text) >= 1 << 64:
        raise FormatError("intent xid: expected the decimal text of pg_current_xact_id()")
    return int(text)
