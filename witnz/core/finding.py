"""Findings: classified observations that something is not as recorded (interface.md 4 and 5, formats.md 4).

A finding is a value and never an exception.  Its id is the same on every node and in every run: ``F-`` and the first 12 hex
digits of SHA256 of canonical JSON ``{class,cluster,generation,key,occurrence,seq,table}``, where occurrence counts the closed
findings that had all the rest, so that the same thing happening again is a new finding and seeing it again is not.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256
from typing import Any, Final, Literal

from witnz.core.canonical import MAX_INTEGER, canonical
from witnz.core.lsn import parse_lsn
from witnz.core.names import parse_table_name
from witnz.core.timestamp import parse_time
from witnz.errors import FormatError

Severity = Literal["critical", "high", "medium", "low", "info"]
Group = Literal["silent", "stream", "context", "capture", "node", "outside", "config"]
FindingState = Literal["open", "acknowledged", "approved", "repaired"]

STATES: Final = ("open", "acknowledged", "approved", "repaired")
SEVERITIES: Final = ("critical", "high", "medium", "low", "info")
"""From the worst to the mildest."""


class FindingClass(StrEnum):
    """The stable names; :data:`CLASSES` says what each means."""

    ROW_MODIFIED = "row.modified"
    ROW_DELETED = "row.deleted"
    ROW_INSERTED = "row.inserted"
    TABLE_REPLACED = "table.replaced"
    TABLE_DROPPED = "table.dropped"
    VIOLATION_UPDATE = "violation.update"
    VIOLATION_DELETE = "violation.delete"
    VIOLATION_TRUNCATE = "violation.truncate"
    VIOLATION_REINSERT = "violation.reinsert"
    CHANGE_UNAPPROVED = "change.unapproved"
    SCHEMA_CHANGED = "schema.changed"
    VISIBILITY_CHANGED = "visibility.changed"
    PUBLICATION_CHANGED = "publication.changed"
    IDENTITY_CHANGED = "identity.changed"
    ROLE_CHANGED = "role.changed"
    SLOT_LOST = "slot.lost"
    COVERAGE_GAP = "coverage.gap"
    EPOCH_RESTORED = "epoch.restored"
    SOURCE_UNREACHABLE = "source.unreachable"
    NODE_DIVERGED = "node.diverged"
    NODE_STORE_TAMPERED = "node.store-tampered"
    NODE_ROLLED_BACK = "node.rolled-back"
    NODE_MISBEHAVED = "node.misbehaved"
    QUORUM_LOST = "quorum.lost"
    ANCHOR_MISSING = "anchor.missing"
    ANCHOR_ALTERED = "anchor.altered"
    ANCHOR_HIDDEN = "anchor.hidden"
    ANCHOR_LATE = "anchor.late"
    CHECKPOINT_FORKED = "checkpoint.forked"
    CONFIG_CHANGED = "config.changed"
    KEY_CHANGED = "key.changed"
    CLOCK_SKEW = "clock.skew"


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """What a class says: how bad, found by which detector, one line of meaning, what to do first."""

    severity: Severity
    group: Group
    meaning: str
    action: str


CLASSES: Final[Mapping[str, ClassInfo]] = {
    FindingClass.ROW_MODIFIED: ClassInfo(
        "critical",
        "silent",
        "a row is not what was recorded, and no recorded transaction changed it",
        "treat the server and its files as touched; compare recorded and found, then repair or approve the row",
    ),
    FindingClass.ROW_DELETED: ClassInfo(
        "critical",
        "silent",
        "a recorded row is not in the table, and no recorded transaction deleted it",
        "treat the server and its files as touched; restore the row by repair or from a backup, or approve its absence",
    ),
    FindingClass.ROW_INSERTED: ClassInfo(
        "critical",
        "silent",
        "a row is in the table that no recorded transaction inserted",
        "treat the server and its files as touched; remove the row by repair, or approve it",
    ),
    FindingClass.TABLE_REPLACED: ClassInfo(
        "critical",
        "silent",
        "under the table's name there is another relation than the one recorded",
        "find out who replaced it; put the recorded relation back, or protect the new one in a generation of its own",
    ),
    FindingClass.TABLE_DROPPED: ClassInfo(
        "critical",
        "silent",
        "the recorded relation no longer exists",
        "restore the table from a backup and verify it, or end its protection with an operator key",
    ),
    FindingClass.VIOLATION_UPDATE: ClassInfo(
        "critical",
        "stream",
        "a row of an append-only table was updated",
        "ask who ran the transaction (xid and commit time are recorded); repair the row or approve the change",
    ),
    FindingClass.VIOLATION_DELETE: ClassInfo(
        "critical",
        "stream",
        "a row of an append-only table was deleted",
        "ask who ran the transaction (xid and commit time are recorded); repair the row or approve the change",
    ),
    FindingClass.VIOLATION_TRUNCATE: ClassInfo(
        "critical",
        "stream",
        "an append-only table was truncated",
        "ask who ran the transaction; restore the rows by repair or from a backup, or approve the truncation",
    ),
    FindingClass.VIOLATION_REINSERT: ClassInfo(
        "critical",
        "stream",
        "a key of an append-only table that was recorded before was inserted again",
        "compare the new row with the recorded one; repair it, or approve the new row",
    ),
    FindingClass.CHANGE_UNAPPROVED: ClassInfo(
        "high",
        "stream",
        "a change arrived without the signed intent that the table's rules ask for",
        "approve the change with an operator key, or repair the row; sign intents where such changes are regular",
    ),
    FindingClass.SCHEMA_CHANGED: ClassInfo(
        "medium",
        "context",
        "the columns of a table changed in a way that a new generation has to record",
        "check that the change was planned; approve it so that a new generation begins",
    ),
    FindingClass.VISIBILITY_CHANGED: ClassInfo(
        "high",
        "context",
        "row security or a rule may hide rows from witnz or redirect writes",
        "remove the policy or rule, or give the witnz role BYPASSRLS; then verify the table",
    ),
    FindingClass.PUBLICATION_CHANGED: ClassInfo(
        "high",
        "context",
        "the publication no longer carries every change of every protected table",
        "restore the publication with witnz init; then verify the tables, since changes meanwhile were not recorded",
    ),
    FindingClass.IDENTITY_CHANGED: ClassInfo(
        "high",
        "context",
        "the replica identity or the key of a table is not the recorded one",
        "set it back with ALTER TABLE, or approve it so that a new generation begins",
    ),
    FindingClass.ROLE_CHANGED: ClassInfo(
        "high",
        "context",
        "settings or privileges of the witnz role changed what it reads or prints",
        "reset the role's settings (ALTER ROLE … RESET ALL) and grants; then verify the tables",
    ),
    FindingClass.SLOT_LOST: ClassInfo(
        "high",
        "capture",
        "the replication slot is gone or no longer has the position that comes next",
        "find out who dropped or advanced it; accept the gap with an operator key after a full verification",
    ),
    FindingClass.COVERAGE_GAP: ClassInfo(
        "high",
        "capture",
        "for a stretch of the write-ahead log changes may not have been recorded",
        "verify all tables; accept the gap with an operator key so that new generations begin",
    ),
    FindingClass.EPOCH_RESTORED: ClassInfo(
        "high",
        "capture",
        "the database has another system identifier or timeline, or its positions went backwards",
        "confirm the failover or restore; look at the rows it lost; accept the epoch with an operator key",
    ),
    FindingClass.SOURCE_UNREACHABLE: ClassInfo(
        "medium",
        "capture",
        "the database cannot be reached, so nothing is recorded or verified now",
        "check network, server and password; the stream goes on where it stopped",
    ),
    FindingClass.NODE_DIVERGED: ClassInfo(
        "critical",
        "node",
        "a node's table log is not the one that the cluster sealed",
        "compare the node's dissent with the seal; keep its data directory as evidence before rebuilding it",
    ),
    FindingClass.NODE_STORE_TAMPERED: ClassInfo(
        "critical",
        "node",
        "the node's own data directory is not what the node wrote",
        "keep the directory as evidence; run witnz verify --store for the first wrong byte; restore from peers",
    ),
    FindingClass.NODE_ROLLED_BACK: ClassInfo(
        "critical",
        "node",
        "the node's data is older than a checkpoint that it, a peer or an anchor knows",
        "do not let it sign; find out who restored it; catch up from peers or rebuild the node",
    ),
    FindingClass.NODE_MISBEHAVED: ClassInfo(
        "critical",
        "node",
        "a node signed or asked for what no honest node does: a false seal, or a decision without an operator",
        "treat that node and its keys as taken; it changed nothing; rebuild it under new keys",
    ),
    FindingClass.QUORUM_LOST: ClassInfo(
        "high",
        "node",
        "too few nodes answer to seal tables and cosign checkpoints",
        "bring the missing nodes back; detection and alerts go on meanwhile",
    ),
    FindingClass.ANCHOR_MISSING: ClassInfo(
        "critical",
        "outside",
        "an anchored checkpoint is no longer where it was published",
        "find out who removed it; the receipt and the other anchors still prove that it was there",
    ),
    FindingClass.ANCHOR_ALTERED: ClassInfo(
        "critical",
        "outside",
        "an anchored checkpoint is not what was published",
        "keep both; compare with the receipt and the cosigned checkpoint of that size",
    ),
    FindingClass.ANCHOR_HIDDEN: ClassInfo(
        "critical",
        "outside",
        "an anchored checkpoint exists but is covered by a deletion marker or a newer version",
        "find out who wrote over it; the locked version is still readable by its version id",
    ),
    FindingClass.ANCHOR_LATE: ClassInfo(
        "medium",
        "outside",
        "no checkpoint has been anchored for longer than the schedule allows",
        "check the anchor's service and credentials; run witnz anchor now",
    ),
    FindingClass.CHECKPOINT_FORKED: ClassInfo(
        "critical",
        "outside",
        "two signed checkpoints of this cluster cannot both be true",
        "keep both notes: together they prove it; find out which keys signed the false one and replace them",
    ),
    FindingClass.CONFIG_CHANGED: ClassInfo(
        "medium",
        "config",
        "the configuration file asks for less than the journal protects",
        "restore the file; or sign what it asks for with witnz config apply and an operator key",
    ),
    FindingClass.KEY_CHANGED: ClassInfo(
        "high",
        "config",
        "a key in use is not the one that the journal records",
        "restore the key from its backup, or record its replacement with an operator key",
    ),
    FindingClass.CLOCK_SKEW: ClassInfo(
        "low",
        "config",
        "the clocks of node and database differ by more than is allowed",
        "synchronise both clocks; times in the log are claims of the database until then",
    ),
}


@dataclass(frozen=True, slots=True)
class Window:
    """Between which two points it happened, as far as is known: text (a time, or a verification) of the last good one and the
    first bad one.
    """

    last_good: str | None = None
    first_bad: str | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.  ``cls`` is "class" in JSON; ``table`` a formatted name; ``key`` the text of the key line; ``detected_at``
    a time and ``lsn`` an LSN as text; ``recorded`` and ``found`` what they name, never row contents.
    """

    id: str
    cls: str
    severity: Severity
    table: str | None
    generation: int | None
    key: str | None
    detected_at: str
    window: Window
    recorded: str | None
    found: str | None
    entry_seq: int | None
    lsn: str | None
    xid: str | None
    explained_by: str | None
    state: FindingState = "open"
    detail: str = ""
    occurrence: int = 0

    def to_json(self) -> dict[str, Any]:
        """The finding of interface.md 4, with generation, detail and occurrence."""
        return {
            "id": self.id,
            "class": str(self.cls),
            "severity": self.severity,
            "table": self.table,
            "generation": self.generation,
            "key": self.key,
            "detected_at": self.detected_at,
            "window": {"last_good": self.window.last_good, "first_bad": self.window.first_bad},
            "recorded": self.recorded,
            "found": self.found,
            "entry_seq": self.entry_seq,
            "lsn": self.lsn,
            "xid": self.xid,
            "explained_by": self.explained_by,
            "state": self.state,
            "detail": self.detail,
            "occurrence": self.occurrence,
        }

    def to_body(self) -> dict[str, Any]:
        """The body of a journal ``finding`` record (formats.md 4)."""
        document = self.to_json()
        body = {name: document[name] for name in _BODY_MEMBERS}
        return {**body, "seq": self.entry_seq}


_BODY_MEMBERS = (
    *("id", "class", "severity", "table", "generation", "key", "lsn", "xid"),
    *("window", "recorded", "found", "explained_by"),
)
_ID = re.compile(r"F-[0-9a-f]{12}")
_XID = re.compile(r"0|[1-9][0-9]{0,19}")
_TEXTS = ("id", "class", "severity", "detected_at", "state", "detail")
_OPTIONAL_TEXTS = ("table", "key", "recorded", "found", "lsn", "xid", "explained_by")
_MEMBERS = frozenset({*_TEXTS, *_OPTIONAL_TEXTS, "generation", "window", "entry_seq", "occurrence"})


def finding_id(
    cluster_id: str,
    cls: str,
    generation: int | None,
    key: str | None,
    occurrence: int,
    seq: int | None,
    table: str | None,
) -> str:
    """``F-`` and 12 hex digits; see the module.  ``seq`` is that of the entry, ``None`` for what only a scan has seen."""
    identity = {
        "class": str(cls),
        "cluster": cluster_id,
        "generation": generation,
        "key": key,
        "occurrence": occurrence,
        "seq": seq,
        "table": table,
    }
    return "F-" + sha256(canonical(identity)).hexdigest()[:12]


def finding_from_json(document: Any) -> Finding:
    """The finding of a document that :meth:`Finding.to_json` wrote.  Raises :class:`FormatError` for any other value."""
    if not isinstance(document, dict) or document.keys() != _MEMBERS:
        raise FormatError(f"finding: expected an object of exactly {' '.join(sorted(_MEMBERS))}")
    _check_texts(document)
    window = document["window"]
    if not isinstance(window, dict) or window.keys() != {"last_good", "first_bad"}:
        raise FormatError("finding window: expected an object of last_good and first_bad")
    if not all(point is None or isinstance(point, str) for point in window.values()):
        raise FormatError("finding window: expected texts or null")
    for name, low in (("generation", 1), ("entry_seq", 1), ("occurrence", 0)):
        value = document[name]
        optional = value is None and name != "occurrence"
        if not optional and (type(value) is not int or not low <= value <= MAX_INTEGER):
            raise FormatError(f"finding {name}: expected an integer from {low}")
    members = {name: document[name] for name in _MEMBERS - {"class", "window"}}
    return Finding(cls=document["class"], window=Window(window["last_good"], window["first_bad"]), **members)


def _check_texts(document: dict[str, Any]) -> None:
    for name in _TEXTS:
        if not isinstance(document[name], str):
            raise FormatError(f"finding {name}: expected text")
    for name in _OPTIONAL_TEXTS:
        if document[name] is not None and not isinstance(document[name], str):
            raise FormatError(f"finding {name}: expected text or null")
    if _ID.fullmatch(document["id"]) is None:
        raise FormatError("finding id: expected F- and 12 hex digits")
    if document["class"] not in CLASSES:
        raise FormatError(f"finding class: expected one of the known classes, found {document['class'][:40]!r}")
    if document["severity"] not in SEVERITIES or document["state"] not in STATES:
        raise FormatError("finding: expected a known severity and state")
    parse_time(document["detected_at"])
    if document["table"] is not None:
        parse_table_name(document["table"])
    if document["lsn"] is not None:
        parse_lsn(document["lsn"])
    if document["xid"] is not None and _XID.fullmatch(document["xid"]) is None:
        raise FormatError("finding xid: expected a decimal number")
