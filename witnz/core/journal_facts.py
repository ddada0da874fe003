"""What a journal has established so far, as values (formats.md 4): members, tables, log heads, findings, acceptances.

:class:`witnz.core.journal.JournalState` holds them; nothing here judges or changes anything.
"""

from __future__ import annotations

from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from witnz.core.classify import Rules
from witnz.core.finding import FindingState
from witnz.core.lsn import parse_lsn
from witnz.core.record import Record

SETTLED: Final = ("approved", "repaired")
FindingIdentity = tuple[str, str | None, int | None, str | None, int | None]
"""(class, table, generation, key, seq): findings of one identity differ in their occurrence only."""


@dataclass(frozen=True, slots=True)
class Member:
    """A node in force: ``identity`` is its 32-byte Ed25519 key, ``cosigner`` a C2SP verifier key in text."""

    id: str
    addr: str
    identity: bytes
    cosigner: str
    from_lsn: int

    @classmethod
    def from_body(cls, body: Mapping[str, Any], from_lsn: int = 0) -> Member:
        return cls(body["id"], body["addr"], b64decode(body["identity"]), body["cosigner"], from_lsn)


@dataclass(frozen=True, slots=True)
class LogHead:
    """One table log at a size: its RFC 6962 root (32 bytes) and its chain head (hex)."""

    size: int
    root: bytes
    chain: str

    @classmethod
    def from_body(cls, body: Mapping[str, Any]) -> LogHead:
        return cls(body["size"], b64decode(body["root"]), body["chain"])


@dataclass(frozen=True, slots=True)
class Epoch:
    """The newest ``epoch`` record: from its seq on, LSNs are those of this system and timeline beyond ``switch_lsn``."""

    seq: int
    system: str
    timeline: int
    switch_lsn: int


@dataclass(frozen=True, slots=True)
class TableRecord:
    """The ``table`` record of one generation: how its rows are judged, where its baseline was taken, what it follows."""

    table: str
    generation: int
    rules: Rules
    key_columns: tuple[str, ...]
    hidden_keys: bool
    oid: int
    snapshot: str
    lsn: int
    secret_sha256: str
    previous: LogHead | None
    reason: str
    at: int
    seq: int

    @classmethod
    def from_record(cls, record: Record) -> TableRecord:
        """The contents of a ``table`` record that stands in the journal."""
        body = record.body
        return cls(
            table=body["table"],
            generation=body["generation"],
            rules=Rules(mode=body["mode"], on_change=body["on_change"], **body["rules"]),
            key_columns=tuple(body["keys"]["columns"]),
            hidden_keys=body["keys"]["form"] == "hidden",
            oid=body["oid"],
            snapshot=body["snapshot"],
            lsn=parse_lsn(body["lsn"]),
            secret_sha256=body["secret_sha256"],
            previous=None if body["previous"] is None else LogHead.from_body(body["previous"]),
            reason=body["reason"],
            at=record.at,
            seq=record.seq or 0,
        )


@dataclass(frozen=True, slots=True)
class JournalFinding:
    """A finding that stands in the journal, and how far its life has gone.

    Only an ``accept`` closes it; one that was repaired is settled as well, so the same thing again is a new occurrence.
    """

    id: str
    identity: FindingIdentity
    seq: int
    status: FindingState = "open"
    closed: bool = False

    @property
    def finding_class(self) -> str:
        return self.identity[0]

    @property
    def table(self) -> str | None:
        return self.identity[1]

    @property
    def decided(self) -> bool:
        """Whether nobody has to say anything about it any more."""
        return self.closed or self.status in SETTLED


@dataclass(frozen=True, slots=True)
class AcceptedRow:
    """One row of an ``accept``: from journal record ``accepted_at`` on, ``row`` (hex, None: no row) is right for ``key``.

    ``seq`` is the entry that brought it, None where only a scan has seen it.
    """

    key: str | None
    row: str | None
    seq: int | None
    accepted_at: int


@dataclass(frozen=True, slots=True)
class Anchored:
    """An ``anchor`` record: a checkpoint of ``size`` records, by its digest (32 bytes), was published at ``at`` (µs).

    ``place``: where, as the receipt says it (:attr:`witnz.core.receipt.Receipt.place`).
    """

    type: str
    place: str
    digest: bytes
    size: int
    at: int
    seq: int


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A key that came into force or ceased (``key`` None) for what happens at or after ``from_lsn``."""

    from_lsn: int
    key: bytes | None


@dataclass(frozen=True, slots=True)
class Split:
    """A seal or epoch of which ``part`` of ``parts`` is the newest; ``at`` tells it from others of its type."""

    type: str
    at: tuple[str, ...]
    part: int
    parts: int
    listed: frozenset[str]
