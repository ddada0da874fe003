"""The body grammar of every journal record type, as one table (formats.md 4).

A body holds exactly the members of its type's row, plus

    votes     where the type is voted: {"<node id>": "<base64 signature>", …}, at least one
    auth      where an operator decides: {"operator": "<name>", "sig": "<base64 signature>"}; together with
    nonce     32 hex digits, drawn by whoever asks the operator to sign

``table`` may do without auth (it needs one only where it weakens protection or follows a gap or epoch, which is for
:mod:`witnz.core.journal` to judge).  ``seal`` and ``epoch`` may be split over records with ``part`` of ``parts``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Final

from witnz.core.finding import CLASSES, SEVERITIES
from witnz.core.keys import COSIGNATURE, ED25519, parse_verifier_key
from witnz.core.lsn import parse_lsn
from witnz.core.names import check_cluster_name, check_node_id, parse_table_name
from witnz.core.receipt import check_receipt
from witnz.core.shape import (
    Shape,
    base64_bytes,
    boolean,
    decode_base64,
    hex_bytes,
    integer,
    list_of,
    mapping,
    matching,
    members,
    nullable,
    one_of,
    refuse,
    spelled,
    text,
)
from witnz.core.timestamp import parse_time
from witnz.errors import FormatError

MAX_TABLES: Final = 10_000
"""Items of one list in a record; the record's own 65,535 bytes bind first."""

NONCE = hex_bytes(16)
_SIGNATURE = base64_bytes(64)
_NODE = spelled(check_node_id)
_AUTH = members({"operator": text(256, min_bytes=1), "sig": _SIGNATURE})
_VOTES = mapping(_NODE, _SIGNATURE, low=1, high=64)

_FREE = text()
_TABLE = spelled(parse_table_name)
_LSN = spelled(parse_lsn)
_HASH = base64_bytes(32)
_DIGEST = hex_bytes(32)
_GENERATION = integer(1)
_OPERATOR = text(256, min_bytes=1)
_DECIMAL = matching(r"0|[1-9][0-9]{0,19}", "a decimal number without leading zeros")
_FINDING_ID = matching(r"F-[0-9a-f]{12}", "a finding id (F- and 12 hex digits)")
_SNAPSHOT = re.compile(r"([1-9][0-9]{0,19}):([1-9][0-9]{0,19}):((?:[1-9][0-9]{0,19}(?:,[1-9][0-9]{0,19})*)?)")


def _snapshot(value: Any, path: str) -> None:
    """The text of ``pg_current_snapshot()``: xmin:xmax:xip,… with xmin <= every xip < xmax, ascending (PostgreSQL 9.27.9)."""
    match = _SNAPSHOT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise refuse(path, "a snapshot xmin:xmax:xip,…", value)
    xmin, xmax = int(match[1]), int(match[2])
    running = [int(xid) for xid in match[3].split(",") if xid]
    ascending = all(a < b for a, b in pairwise(running))
    if xmin > xmax or not ascending or (running and not xmin <= running[0] <= running[-1] < xmax):
        raise refuse(path, "a snapshot whose transactions ascend from xmin to xmax", value)


def _verifier_key(key_type: int) -> Shape:
    def check(value: Any, path: str) -> None:
        spelled(parse_verifier_key)(value, path)
        if parse_verifier_key(value).type != key_type:
            raise refuse(path, f"a verifier key of type 0x{key_type:02x}", value)

    return check


def day_or_time(value: Any, path: str) -> None:
    """A day ``YYYY-MM-DD`` of the calendar, or a time."""
    spelled(parse_time)(f"{value}T00:00:00.000000Z" if isinstance(value, str) and len(value) == 10 else value, path)


def _table_generation(item: Mapping[str, Any]) -> tuple[str, int]:
    return item["table"], item["generation"]


_LOG_HEAD = {"size": integer(1), "root": _HASH, "chain": _DIGEST}
_HEADS = list_of(
    members({"table": _TABLE, "generation": _GENERATION, **_LOG_HEAD}), low=1, high=MAX_TABLES, unique=_table_generation
)
_MEMBER = {"id": _NODE, "addr": text(255, min_bytes=1), "identity": _HASH, "cosigner": _verifier_key(COSIGNATURE)}
_PARTS = {"part": integer(1), "parts": integer(2)}

# One row a type, in the order of formats.md 4: the members that every body of that type has.
_BODIES: Mapping[str, Mapping[str, Shape]] = {
    "genesis": {
        "cluster": spelled(check_cluster_name),
        "members": list_of(members(_MEMBER), low=1, high=64, unique=lambda member: member["id"]),
        "operators": list_of(members({"name": _OPERATOR, "key": _HASH}), high=256, unique=lambda operator: operator["name"]),
        "quorum": integer(1),
        "log_key": _verifier_key(ED25519),
        "database": members({"system": _DECIMAL, "timeline": integer(1), "name": text(255, min_bytes=1)}),
    },
    "member": {"action": one_of("add", "remove"), **_MEMBER, "from_lsn": _LSN},
    "key": {
        "action": one_of("add", "remove"),
        "kind": one_of("intent", "operator", "report", "log"),
        "name": _OPERATOR,
        "key": text(min_bytes=1),
        "from_lsn": _LSN,
    },
    "config": {
        "changes": mapping(text(256, min_bytes=1), members({"from": nullable(_FREE), "to": nullable(_FREE)}), low=1, high=256),
        "weakens": boolean,
    },
    "open": {"table": _TABLE, "generation": _GENERATION, "secret_sha256": _DIGEST},
    "cancel": {"table": _TABLE, "generation": _GENERATION, "reason": _FREE},
    "table": {
        "table": _TABLE,
        "generation": _GENERATION,
        "mode": one_of("append_only", "state_integrity"),
        "on_change": one_of("alert", "record"),
        "rules": members({"inserts_only": boolean, "require_intent": boolean, "retain": boolean}),
        "keys": members(
            {
                "columns": list_of(text(255, min_bytes=1), high=1600, unique=lambda column: column),
                "form": one_of("plain", "hidden"),
            }
        ),
        "oid": integer(1, (1 << 32) - 1),
        "snapshot": _snapshot,
        "lsn": _LSN,
        "secret_sha256": _DIGEST,
        "previous": nullable(members(_LOG_HEAD)),
        "reason": _FREE,
    },
    "seal": {"lsn": _LSN, "tables": _HEADS},
    "dissent": {"lsn": _LSN, "tables": _HEADS, "first_seq": integer(1)},
    "verify": {
        "table": _TABLE,
        "generation": _GENERATION,
        "size": integer(1),
        "journal_size": integer(1),
        "snapshot": _snapshot,
        "lsn": _LSN,
        "rows": integer(),
        "unresolved": integer(),
        "state_expected": _HASH,
        "state_found": _HASH,
        "verdict": one_of("VERIFIED", "TAMPERED", "INCONCLUSIVE"),
        "findings": list_of(_FINDING_ID, unique=lambda finding: finding),
        "not_checked": list_of(_FREE),
        "mode": one_of("snapshot", "rolling"),
        "range": nullable(members({"from": nullable(text()), "to": nullable(text())})),
        "seconds": integer(),
    },
    "finding": {
        "id": _FINDING_ID,
        "class": one_of(*CLASSES),
        "severity": one_of(*SEVERITIES),
        "table": nullable(_TABLE),
        "generation": nullable(_GENERATION),
        "key": nullable(text()),
        "seq": nullable(integer(1)),
        "lsn": nullable(_LSN),
        "xid": nullable(_DECIMAL),
        "window": members({"last_good": nullable(_FREE), "first_bad": nullable(_FREE)}),
        "recorded": nullable(_FREE),
        "found": nullable(_FREE),
        "explained_by": nullable(_FREE),
    },
    "ack": {"finding": _FINDING_ID, "reason": _FREE},
    "accept": {
        "table": nullable(_TABLE),
        "generation": nullable(_GENERATION),
        "rows": list_of(members({"key": nullable(text()), "row": nullable(_DIGEST), "seq": nullable(integer(1))})),
        "finding": nullable(_FINDING_ID),
        "reason": _FREE,
    },
    "erase": {"table": _TABLE, "generation": _GENERATION, "keys": list_of(text(), low=1), "reason": _FREE},
    "unprotect": {"table": _TABLE, "reason": _FREE},
    "prune": {"table": _TABLE, "generation": _GENERATION, "reason": _FREE},
    "gap": {
        "from_lsn": _LSN,
        "to_lsn": _LSN,
        "reason": _FREE,
        "tables": list_of(_TABLE, low=1, high=MAX_TABLES, unique=lambda table: table),
    },
    "epoch": {"system": _DECIMAL, "timeline": integer(1), "switch_lsn": _LSN, "final": _HEADS, "reason": _FREE},
    "anchor": {"type": text(64, min_bytes=1), "digest": _DIGEST, "size": integer(1), "receipt": check_receipt},
    "repair": {"finding": _FINDING_ID, "target": _FREE, "sql_sha256": nullable(_DIGEST), "result": _FREE},
    "operator": {"action": _FREE, "detail": _FREE},
    "drill": {"attack": _FREE, "detected_s": nullable(integer()), "result": _FREE},
    "report": {"standard": text(64, min_bytes=1), "from": day_or_time, "to": day_or_time, "sha256": _DIGEST},
}

RECORD_TYPES: Final = frozenset(_BODIES)
VOTED: Final = frozenset({"seal", "epoch", "gap", "table", "verify"})
AUTHORISED: Final = frozenset({"accept", "erase", "prune", "unprotect", "config", "member", "key"})
SPLIT: Final = frozenset({"seal", "epoch"})


def _body_shape(record_type: str) -> Shape:
    required = dict(_BODIES[record_type])
    optional: dict[str, Shape] = {}
    if record_type in VOTED:
        required["votes"] = _VOTES
    if record_type in AUTHORISED:
        required |= {"auth": _AUTH, "nonce": NONCE}
    if record_type == "table":
        optional |= {"auth": _AUTH, "nonce": NONCE}
    if record_type in SPLIT:
        optional |= _PARTS
    return members(required, optional)


_SHAPES = {record_type: _body_shape(record_type) for record_type in _BODIES}


def _check_genesis(body: Mapping[str, Any]) -> None:
    cluster, nodes = body["cluster"], body["members"]
    if not len(nodes) // 2 < body["quorum"] <= len(nodes):
        raise FormatError(f"genesis.quorum: expected a majority of {len(nodes)} members, found {body['quorum']}")
    if parse_verifier_key(body["log_key"]).name != cluster:
        raise FormatError("genesis.log_key: expected a verifier key named as the cluster")
    for member in nodes:
        _check_cosigner_name(member, cluster)
    for name in ("identity", "cosigner"):
        if len({member[name] for member in nodes}) != len(nodes):
            raise FormatError(f"genesis.members: expected an {name} key of its own for each member")


def _check_cosigner_name(member: Mapping[str, Any], cluster: str) -> None:
    if parse_verifier_key(member["cosigner"]).name != f"{cluster}/nodes/{member['id']}":
        raise FormatError(f"cosigner of {member['id']}: expected a verifier key named <cluster>/nodes/<node id>")


def _check_member(body: Mapping[str, Any]) -> None:
    name = parse_verifier_key(body["cosigner"]).name
    if not name.endswith(f"/nodes/{body['id']}"):
        raise FormatError(f"member.cosigner: expected a verifier key named <cluster>/nodes/{body['id']}, found {name[:60]!r}")


def _check_key(body: Mapping[str, Any]) -> None:
    kind, key = body["kind"], body["key"]
    if kind in ("intent", "operator"):
        decode_base64(key, "key.key", size=32)
    elif kind == "log":
        _verifier_key(ED25519)(key, "key.key")
    else:  # a report key is whatever PAdES needs: the DER of a public key, in base64
        decode_base64(key, "key.key", max_bytes=3072)


def _check_verify(body: Mapping[str, Any]) -> None:
    if (body["mode"] == "rolling") != (body["range"] is not None):
        raise FormatError("verify.range: expected an object where the mode is rolling, null where it is snapshot")


def _check_finding(body: Mapping[str, Any]) -> None:
    if body["table"] is None and body["generation"] is not None:
        raise FormatError("finding.generation: expected null where no table is named")


def _check_accept(body: Mapping[str, Any]) -> None:
    if (body["table"] is None) != (body["generation"] is None):
        raise FormatError("accept: expected table and generation both null or neither")
    if body["table"] is None and (body["rows"] or body["finding"] is None):
        raise FormatError("accept: expected a finding and no rows where no table is named")


def _check_anchor(body: Mapping[str, Any]) -> None:
    for name in ("type", "digest", "size"):
        if body["receipt"][name] != body[name]:
            raise FormatError(f"anchor.{name}: expected what the receipt says")


_CROSS_CHECKS: Mapping[str, Callable[[Mapping[str, Any]], None]] = {
    "genesis": _check_genesis,
    "member": _check_member,
    "key": _check_key,
    "verify": _check_verify,
    "finding": _check_finding,
    "accept": _check_accept,
    "anchor": _check_anchor,
}


def check_body(record_type: str, body: Any) -> None:
    """Refuse, with :class:`FormatError`, a body that is not exactly what formats.md 4 lists for its type."""
    shape = _SHAPES.get(record_type)
    if shape is None:
        raise FormatError(f"journal record: expected a known type, found {record_type[:40]!r}")
    shape(body, record_type)
    if ("auth" in body) != ("nonce" in body):
        raise FormatError(f"{record_type}: expected auth and nonce together")
    if ("part" in body) != ("parts" in body) or ("part" in body and body["part"] > body["parts"]):
        raise FormatError(f"{record_type}: expected part together with parts, and no larger")
    cross_check = _CROSS_CHECKS.get(record_type)
    if cross_check is not None:
        cross_check(body)
