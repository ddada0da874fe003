"""The book of findings: one place where an observation becomes a finding with an id, a state and an alert.

A finding is named by what it is about (class, table, generation, key, seq), so seeing the same thing again is no new
finding while the first is open or acknowledged.  Once it was closed, the same thing is a new *occurrence* (formats.md 4,
``finding``).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import replace

from witnz.alert.message import dedup_key
from witnz.core.finding import CLASSES, Finding, FindingState, Window, finding_id
from witnz.core.keyplan import key_text
from witnz.core.lsn import format_lsn
from witnz.core.timestamp import format_time
from witnz.node.applier import Draft
from witnz.node.block import Block
from witnz.node.table_state import TableState
from witnz.store import findings, outbox, verifications

OPEN: FindingState = "open"
ACKNOWLEDGED: FindingState = "acknowledged"
APPROVED: FindingState = "approved"
REPAIRED: FindingState = "repaired"
CLOSED = (APPROVED, REPAIRED)

Clock = Callable[[], int]
Alert = Callable[[sqlite3.Connection, Finding], None]


class FindingBook:
    """Opens findings inside the caller's store transaction.  ``clock``: µs since the Unix epoch; ``alert`` queues the alert."""

    def __init__(self, cluster_id: str, clock: Clock, alert: Alert) -> None:
        self._cluster_id, self._clock, self._alert = cluster_id, clock, alert
        self.ended: Callable[[str], int | None] = lambda table: None
        """When the protection of a table ended, in µs: what was committed later may still be recorded, and is no finding."""

    def from_stream(
        self, conn: sqlite3.Connection, table: TableState, block: Block, draft: Draft, *, overflow: bool
    ) -> str | None:
        """A finding about one entry; None where there is none to open.

        ``overflow``: it stands for all further ones of its transaction, too.
        """
        tx = block.said[draft.index].tx
        ended = self.ended(table.name)
        if ended is not None and tx.at > ended:
            return None
        row_hash = draft.found or draft.recorded
        key = key_text(block.fields[draft.index])
        if key is None and row_hash is not None:
            key = row_hash.hex()
        detail = f"{block.ops[draft.index].decode()} in transaction {tx.xid}"
        if draft.cls == "row.modified":
            detail += ": the old row that PostgreSQL wrote to the WAL is not the row that was recorded"
        elif overflow:
            key, detail = None, detail + ": this entry and all later ones of this class in the transaction"
        return self.open(
            conn,
            cls=draft.cls,
            table=table.name,
            generation=table.generation,
            key=key,
            seq=draft.seq,
            lsn=format_lsn(tx.final_lsn),
            xid=str(tx.xid),
            recorded=draft.recorded.hex() if draft.recorded else None,
            found=draft.found.hex() if draft.found else None,
            explained_by=None if draft.cls == "row.modified" else f"entry {draft.seq}",
            window=(last_good(conn, table.name), format_time(tx.at)),
            detail=detail,
        )

    def open(
        self,
        conn: sqlite3.Connection,
        *,
        cls: str,
        table: str | None = None,
        generation: int | None = None,
        key: str | None = None,
        seq: int | None = None,
        lsn: str | None = None,
        xid: str | None = None,
        recorded: str | None = None,
        found: str | None = None,
        explained_by: str | None = None,
        window: tuple[str | None, str | None] | None = None,
        detail: str = "",
    ) -> str | None:
        """The new finding's id; None if the same one is open already."""
        now = format_time(self._clock())
        name, occurrence, known = self._place(conn, (cls, table, generation, key, seq))
        if known is not None:
            return None
        first_good, first_bad = window or (last_good(conn, table) if table else None, now)
        finding = Finding(
            id=name,
            cls=cls,
            severity=CLASSES[cls].severity,
            table=table,
            generation=generation,
            key=key,
            detected_at=now,
            window=Window(first_good, first_bad),
            recorded=recorded,
            found=found,
            entry_seq=seq,
            lsn=lsn,
            xid=xid,
            explained_by=explained_by,
            state=OPEN,
            detail=detail,
            occurrence=occurrence,
        )
        findings.upsert(conn, finding)
        self._alert(conn, finding)
        return name

    def standing(self, conn: sqlite3.Connection, *, cls: str, key: str) -> Finding:
        """The finding of a class and key, about no table, that is not closed.  Raises KeyError if there is none."""
        name, _, known = self._place(conn, (cls, None, None, key, None))
        if known is None:
            raise KeyError(name)
        return known

    def _place(
        self, conn: sqlite3.Connection, identity: tuple[str, str | None, int | None, str | None, int | None]
    ) -> tuple[str, int, Finding | None]:
        """Of (class, table, generation, key, seq): id, occurrence, and what stands there and is not closed."""
        cls, table, generation, key, seq = identity
        occurrence = 0
        while True:
            name = finding_id(self._cluster_id, cls, generation, key, occurrence, seq, table)
            known = findings.get(conn, name)
            if known is None or known.state not in CLOSED:
                return name, occurrence, known
            occurrence += 1

    def now_us(self) -> int:
        return self._clock()

    def adopt(self, conn: sqlite3.Connection, finding: Finding) -> bool:
        """Keep a finding as another node has journalled it; whether it is new here.

        One that is known here keeps its state and its words: what is journalled of it is the same on every node.
        """
        known = findings.get(conn, finding.id)
        if known is not None:
            findings.upsert(conn, replace(finding, state=known.state, detail=known.detail, detected_at=known.detected_at))
            return False
        findings.upsert(conn, finding)
        self._alert(conn, finding)
        return True

    def take_back(self, conn: sqlite3.Connection, finding: Finding, why: str) -> None:
        """What is no finding after all, and was never journalled, goes; who was told of it is told that it is over."""
        findings.remove(conn, finding.id)
        if outbox.withdraw(conn, dedup_key(finding)):
            self._alert(conn, replace(finding, state=APPROVED, detail=why))

    def set_state(self, conn: sqlite3.Connection, name: str, state: FindingState) -> Finding:
        """Move a finding on; a closed one stays closed."""
        finding = findings.get(conn, name)
        if finding is None:
            raise KeyError(name)
        if finding.state not in CLOSED:
            finding = replace(finding, state=state)
            findings.upsert(conn, finding)
            self._alert(conn, finding)
        return finding


def last_good(conn: sqlite3.Connection, table: str | None) -> str | None:
    """When the table was last VERIFIED, as text; None if never."""
    return verifications.last_verified_at(conn, table) if table is not None else None
