"""Journal records: the signed envelope, its bytes and its hashes (formats.md 4).

    {"at":…,"body":{…},"cluster":"<id>","n":7,"node":"node1","prev":"<hex>","seq":41,"sig":"b64","type":"seal"}

    sig     Ed25519 by the proposing node's identity key over "witnz/journal/1\\n" || canonical JSON without seq and sig
    prev    hex SHA256 of the canonical JSON, without seq, of that node's record before; 64 zeros for its first
    leaf    the canonical JSON of the whole record, at most 65,535 bytes
    vote    Ed25519 over "witnz/vote/1\\n" || canonical {"body":<without votes>,"cluster":…,"type":…}
    auth    Ed25519 over "witnz/operator/1\\n" || canonical {"body":<without auth and votes>,"cluster":…,"type":…}

A record gets its ``seq`` when it enters the journal: a *proposal* is the same document without that member.  Whether a record
is valid where it stands is for :mod:`witnz.core.journal`; here is only what a record says of itself.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any, Final

from witnz.core.canonical import canonical, parse_json
from witnz.core.keys import Signer, verify_signature
from witnz.core.merkle import leaf_hash
from witnz.core.names import check_node_id
from witnz.core.record_bodies import check_body
from witnz.core.shape import Shape, decode_base64, hex_bytes, integer, members, spelled, text
from witnz.core.timestamp import format_time, parse_time, recall_time
from witnz.errors import FormatError

MAX_RECORD_BYTES: Final = 65_535
NO_PREVIOUS: Final = "0" * 64
"""``prev`` of a node's first record."""

_MEMBERS: Mapping[str, Shape] = {
    "at": spelled(parse_time),
    "body": lambda value, path: None,  # by type, once the type is known
    "cluster": hex_bytes(16),
    "n": integer(1),
    "node": spelled(check_node_id),
    "prev": hex_bytes(32),
    "seq": integer(1),
    "sig": lambda value, path: None,  # decoded below
    "type": text(32, min_bytes=1),
}
_RECORD = members(_MEMBERS)
_PROPOSAL = members({name: shape for name, shape in _MEMBERS.items() if name != "seq"})


@dataclass(frozen=True, slots=True)
class Record:
    """A record whose grammar holds.  Make one with :func:`parse_record`, :func:`parse_proposal` or :func:`sign_record`.

    ``at`` is in microseconds since 1970, ``cluster`` the cluster id, ``seq`` None for a proposal.  ``body`` is not to be
    changed: ``body_json`` holds its canonical bytes, made once, and ``hashed`` what :func:`record_hash` is to give, if known.
    """

    at: int
    body: Mapping[str, Any]
    cluster: str
    n: int
    node: str
    prev: str
    seq: int | None
    sig: bytes
    type: str
    body_json: bytes = field(default=b"", repr=False, compare=False)
    hashed: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.body_json:
            object.__setattr__(self, "body_json", canonical(self.body))

    def at_seq(self, seq: int) -> Record:
        """The same record as the leaf number ``seq`` (from 1) of the journal."""
        return replace(self, seq=seq)


def _head(record: Record) -> bytes:
    """The canonical bytes up to and with ``prev``: the members sort as at body cluster n node prev seq sig type."""
    head = f',"cluster":"{record.cluster}","n":{record.n},"node":"{record.node}","prev":"{record.prev}"'
    return b'{"at":"%s","body":%s%s' % (format_time(record.at).encode(), record.body_json, head.encode())


def _tail(record: Record) -> bytes:
    return b',"sig":"%s","type":"%s"}' % (b64encode(record.sig), record.type.encode())


def signed_bytes(record: Record) -> bytes:
    """What ``sig`` signs."""
    return b'witnz/journal/1\n%s,"type":"%s"}' % (_head(record), record.type.encode())


def format_proposal(record: Record) -> bytes:
    """The canonical JSON without ``seq``: what a node proposes, and what ``prev`` hashes."""
    return _head(record) + _tail(record)


def format_record(record: Record) -> bytes:
    """The canonical JSON of a record that has its ``seq``: the leaf's data.  Raises :class:`FormatError` for a proposal."""
    if record.seq is None:
        raise FormatError("journal record: expected a seq, found a proposal that has none yet")
    return b'%s,"seq":%d%s' % (_head(record), record.seq, _tail(record))


def record_leaf_bytes(record: Record) -> bytes:
    """The leaf data of the journal's tree; the same as :func:`format_record`."""
    return format_record(record)


def record_leaf_hash(record: Record) -> bytes:
    """The RFC 6962 leaf hash (32 bytes) of the record in the journal's tree."""
    return leaf_hash(format_record(record))


def record_hash(record: Record) -> str:
    """The hex SHA-256 that the same node's next record gives as ``prev``."""
    return record.hashed or sha256(format_proposal(record)).hexdigest()


def parse_record(data: bytes) -> Record:
    """The record in a leaf of the journal: canonical JSON of at most 65,535 bytes.

    Raises :class:`FormatError` for any other bytes: members missing or unknown, a body that is not its type's, spellings.
    """
    record = record_from_json(parse_json(data, what="journal record", max_bytes=MAX_RECORD_BYTES))
    if format_record(record) != data:
        raise FormatError("journal record: expected canonical JSON (RFC 8785), found another spelling of it")
    return record


def recall_record(leaf: bytes) -> Record:
    """:func:`parse_record` of a leaf that went through it before it was stored: read, several times as fast, and not checked.

    Its ``prev`` and that of the node's next record still tie its bytes down, which is for :mod:`witnz.core.journal` to see.
    Raises :class:`FormatError` where the bytes are nothing of the kind any more.
    """
    try:
        value = json.loads(leaf)
        seq: int = value["seq"]
        after = leaf.rindex(b',"cluster":"')  # the last one: nothing behind the body can hold it
        named = leaf.rindex(b',"seq":', after)
        rest = leaf[named:].removeprefix(b',"seq":%d' % seq)
        return Record(
            recall_time(value["at"]), value["body"], value["cluster"], value["n"], value["node"], value["prev"], seq,
            b64decode(value["sig"]), value["type"], leaf[leaf.index(b"{", 1) : after], sha256(leaf[:named] + rest).hexdigest(),
        )  # fmt: skip
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError):
        raise FormatError("journal record: expected what was stored once, found damaged bytes") from None


def parse_proposal(data: bytes) -> Record:
    """The record in a proposal: :func:`parse_record` without ``seq``."""
    value = parse_json(data, what="journal proposal", max_bytes=MAX_RECORD_BYTES)
    _PROPOSAL(value, "proposal")
    record = _build(value, seq=None)
    if format_proposal(record) != data:
        raise FormatError("journal proposal: expected canonical JSON (RFC 8785), found another spelling of it")
    return record


def record_from_json(value: Any, path: str = "record") -> Record:
    """The record that an already parsed JSON value is, such as an item of a bundle.  Raises :class:`FormatError`."""
    _RECORD(value, path)
    return _build(value, seq=value["seq"], path=path)


def record_to_json(record: Record) -> dict[str, Any]:
    """The JSON value of a record; the inverse of :func:`record_from_json`."""
    value = {
        "at": format_time(record.at),
        "body": record.body,
        "cluster": record.cluster,
        "n": record.n,
        "node": record.node,
        "prev": record.prev,
        "sig": b64encode(record.sig).decode("ascii"),
        "type": record.type,
    }
    return value if record.seq is None else {**value, "seq": record.seq}


def _build(value: Mapping[str, Any], *, seq: int | None, path: str = "record") -> Record:
    check_body(value["type"], value["body"])
    record = Record(
        at=parse_time(value["at"]),
        body=value["body"],
        cluster=value["cluster"],
        n=value["n"],
        node=value["node"],
        prev=value["prev"],
        seq=seq,
        sig=decode_base64(value["sig"], f"{path}.sig", size=64),
        type=value["type"],
    )
    _check_size(record)
    return record


def _check_size(record: Record) -> None:
    """A record must fit its leaf, and a proposal must still fit once it has the longest seq."""
    size = len(_head(record)) + len(_tail(record)) + len(',"seq":') + len(str(record.seq or 1 << 53))
    if size > MAX_RECORD_BYTES:
        raise FormatError(f"journal record: expected at most {MAX_RECORD_BYTES} bytes, found {size}")


def sign_record(
    signer: Signer,
    *,
    at: int,
    body: Mapping[str, Any],
    cluster: str,
    n: int,
    node: str,
    prev: str,
    record_type: str,
    seq: int | None = None,
) -> Record:
    """A record of ``node``, signed by its identity key ``signer``; ``body`` already holds its votes and auth.

    Raises :class:`FormatError` where the parser would refuse what comes out.
    """
    unsigned = Record(at, body, cluster, n, node, prev, seq, b"", record_type)
    record = replace(unsigned, sig=signer.sign(signed_bytes(unsigned)))
    (_PROPOSAL if seq is None else _RECORD)(record_to_json(record), "record")
    check_body(record_type, body)
    _check_size(record)
    return record


def check_record_signature(record: Record, identity: bytes) -> bool:
    """Whether ``sig`` is by the Ed25519 identity key ``identity`` (32 bytes)."""
    return verify_signature(identity, record.sig, signed_bytes(record))


def _without(body: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in names}


def vote_bytes(body: Mapping[str, Any], cluster_id: str, record_type: str) -> bytes:
    """What each vote of a voted record signs with the voter's identity key; ``votes`` in ``body`` is left out, auth is not."""
    decided = {"body": _without(body, "votes"), "cluster": cluster_id, "type": record_type}
    return b"witnz/vote/1\n" + canonical(decided)


def record_vote_bytes(record: Record) -> bytes:
    """:func:`vote_bytes` of a record that has its votes, out of the bytes at hand.

    ``votes`` sorts last in the body of every voted type, and neither node ids nor base64 can hold what starts it.
    """
    end = record.body_json.rindex(b',"votes":{')
    named = f'}},"cluster":"{record.cluster}","type":"{record.type}"}}'
    return b'witnz/vote/1\n{"body":%s%s' % (record.body_json[:end], named.encode())


def operator_bytes(body: Mapping[str, Any], cluster_id: str, record_type: str) -> bytes:
    """What an operator's key signs; ``body`` has its nonce, and ``auth`` and ``votes`` in it are left out."""
    decided = {"body": _without(body, "auth", "votes"), "cluster": cluster_id, "type": record_type}
    return b"witnz/operator/1\n" + canonical(decided)
