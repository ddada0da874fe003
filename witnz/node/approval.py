"""Acknowledging and approving: how a person closes a finding (formats.md 4, ``ack`` and ``accept``).

An acknowledgement says that somebody has seen it.  Only an ``accept``, signed by an operator's key that never reaches the node,
changes the accepted state: the node says what would be accepted, the person's machine signs exactly that, the journal keeps it.

What an approval of each kind of finding accepts:

    about one entry       the row as that entry left it: its hash, or no row
    a truncate            that every row accepted before it is gone
    seen by a scan only   the row as the scan found it, or no row
    anything else         nothing; the finding is closed
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from typing import Any

from witnz.core.entry import Entry, parse_entry
from witnz.core.finding import CLASSES, Finding
from witnz.core.keyplan import keyless_state_key, state_key_of_entry
from witnz.core.record import Record
from witnz.core.rowline import unescape
from witnz.core.timestamp import parse_time
from witnz.errors import UsageError
from witnz.node.findings import ACKNOWLEDGED, APPROVED, CLOSED, REPAIRED, FindingBook
from witnz.node.following import NotYet
from witnz.node.journal import Journal
from witnz.store import entries, findings, granted, live, logs, meta
from witnz.store.database import Database
from witnz.store.logs import LogRow
from witnz.verify.replay import held_size

CARRIED_OUT = "carried_out"  # the seq of the newest accept record that the state has followed
MAX_ROWS = 300  # what surely fits into one record; an approval of more is refused with the way out


class Approvals:
    """Acks and accepts of one node."""

    def __init__(self, db: Database, journal: Journal, book: FindingBook, seal: Callable[[], object]) -> None:
        self._db, self._journal, self._book, self._seal = db, journal, book, seal
        self.follow: Callable[[int], None] = lambda seq: None
        """Carries out the journal up to a record; set by whoever puts the node together."""
        self.caught_up: Callable[[], bool] = lambda: True
        """Whether what was agreed is carried out here, so that what is still found then is for everybody to know."""
        self._journalling = threading.Lock()
        self._deciding = threading.Lock()

    def get(self, finding_id: str) -> Finding:
        """Raises UsageError if there is no such finding."""
        with self._db.read() as conn:
            finding = findings.get(conn, finding_id)
        if finding is None:
            raise UsageError(f"no finding {finding_id}", hint="`witnz findings list` shows them all")
        return finding

    def acknowledge(self, finding_id: str, reason: str) -> Finding:
        finding = self._open_one(finding_id)
        self.journal_finding(finding)
        self._journal.propose("ack", {"finding": finding.id, "reason": reason})
        with self._db.write() as conn:
            return self._book.set_state(conn, finding.id, ACKNOWLEDGED)

    def accept_body(self, finding_id: str, reason: str) -> dict[str, Any]:
        """What an operator is asked to sign, without nonce and auth."""
        finding = self._open_one(finding_id)
        with self._db.read() as conn:
            rows = self._rows(conn, finding)
        named = finding.table is not None and finding.generation is not None
        return {
            "table": finding.table if named else None,
            "generation": finding.generation if named else None,
            "rows": rows if named else [],
            "finding": finding.id,
            "reason": reason,
        }

    def approve(self, body: dict[str, Any]) -> Finding:
        """Journal a signed ``accept`` and move the accepted state.  Raises ProofError if the journal refuses it."""
        with self._deciding:  # decisions take effect in the order in which the journal has them
            finding = self._open_one(str(body.get("finding")))
            expected = self.accept_body(finding.id, str(body.get("reason")))
            if {name: body.get(name) for name in expected} != expected:
                raise UsageError(
                    f"the approval of {finding.id} does not say what this node would accept now",
                    hint="the row changed meanwhile; look at the finding again and approve anew",
                )
            self.journal_finding(finding)
            self._seal()  # so that the journal says up to which entries this decision was made
            self.follow(self._journal.propose("accept", body))
            return self.get(finding.id)

    def carry_out(self, record: Record) -> None:
        """What an ``accept`` record decided moves the state, together with the note that it did.

        Raises NotYet while this node has not recorded what the decision is about.
        """
        if record.body["finding"] is None:
            return
        with self._db.write() as conn:
            if (meta.load_number(conn, CARRIED_OUT) or 0) >= (record.seq or 0):
                return
            finding = findings.get(conn, record.body["finding"])
            if finding is None:
                raise NotYet(f"finding {record.body['finding']} is not known here yet")
            self._check_recorded(conn, record)
            self._accept(conn, finding, record.body["rows"])
            meta.save_value(conn, CARRIED_OUT, record.seq)
            self._book.set_state(conn, finding.id, APPROVED)

    def _check_recorded(self, conn: sqlite3.Connection, record: Record) -> None:
        """Raises NotYet where the entries that an ``accept`` names are still to come here."""
        seqs = [row["seq"] for row in record.body["rows"] if row["seq"] is not None]
        if record.body["table"] is None or not record.body["rows"]:
            return
        row = logs.find_log(conn, record.body["table"], record.body["generation"])
        if row is None or row.size < max(seqs, default=0):
            raise NotYet(f"{record.body['table']} is not recorded up to there yet")

    def follow_state(self, record: Record) -> None:
        """Move a finding on as an ``ack`` or ``repair`` record says."""
        state = ACKNOWLEDGED if record.type == "ack" else REPAIRED
        if record.type == "repair" and record.body["result"] != "repaired":
            return
        with self._db.write() as conn:
            if findings.get(conn, record.body["finding"]) is not None:
                self._book.set_state(conn, record.body["finding"], state)

    def journal_finding(self, finding: Finding) -> None:
        """Make sure that the journal knows a finding before it is decided about."""
        with self._journalling:  # two threads may see the same fresh finding; the journal takes it once
            if self._journal.state.finding_state(finding.id) is None:
                self._journal.propose("finding", finding.to_body())

    def journal_all(self, min_age_s: float = 0.0) -> list[Finding]:
        """Journal every finding of at least this age that is not there yet, oldest first; those that there were.

        None where this node is behind with what was agreed: that may still take some of them back.
        """
        seen = {finding.id for finding in self._not_journalled(min_age_s)}
        if not seen or not self.caught_up():
            return []
        fresh = [finding for finding in self._not_journalled(min_age_s) if finding.id in seen]
        for finding in fresh:
            self.journal_finding(finding)
        return fresh

    def _not_journalled(self, min_age_s: float) -> list[Finding]:
        latest = self._book.now_us() - round(min_age_s * 1e6)
        with self._db.read() as conn:
            missing = [name for name in findings.list_ids(conn) if self._journal.state.finding_state(name) is None]
            fresh = [finding for name in missing if (finding := findings.get(conn, name)) is not None]
        return [finding for finding in fresh if not min_age_s or parse_time(finding.detected_at) <= latest]

    def in_doubt(self, table: str) -> bool:
        """Whether a finding about a row of this table is still to be decided."""
        with self._db.read() as conn:
            found = findings.list_findings(conn, states=["open", "acknowledged"], table=table)
        return any(CLASSES[finding.cls].group in ("silent", "stream") for finding in found)

    def _open_one(self, finding_id: str) -> Finding:
        finding = self.get(finding_id)
        if finding.state in CLOSED:
            raise UsageError(f"finding {finding.id} is {finding.state} already")
        return finding

    # -- what is accepted -----------------------------------------------------------------------------------------------------

    def _rows(self, conn: sqlite3.Connection, finding: Finding) -> list[dict[str, Any]]:
        if finding.table is None or finding.generation is None or _is_pruned(conn, finding):
            return []
        group = CLASSES[finding.cls].group
        if group == "stream" and finding.entry_seq is not None:
            log = _log(conn, finding).id
            return [self._entry_row(conn, log, seq) for seq in self._entries(conn, log, finding)]
        if finding.cls.startswith("row.") and finding.xid is not None:
            return []  # the stream's old image: the row itself is decided by the entry that followed
        if finding.cls.startswith("row."):
            return [{"key": finding.key, "row": finding.found, "seq": finding.entry_seq if finding.key is None else None}]
        return []

    def _entries(self, conn: sqlite3.Connection, log: int, finding: Finding) -> list[int]:
        """The entries that a stream finding is about: one, or, for a flood, all further ones of its transaction."""
        first = finding.entry_seq or 0
        start = parse_entry(entries.entry_at(conn, log, first))
        if finding.key is not None or start.op == "truncate":
            return [first]
        seqs: list[int] = []
        for line in entries.entries(conn, log, first):
            entry = parse_entry(line)
            if entry.lsn != start.lsn or len(seqs) > MAX_ROWS:
                break
            if entry.op != "schema":
                seqs.append(entry.seq)
        if len(seqs) > MAX_ROWS:
            raise UsageError(
                f"finding {finding.id} covers more rows than one approval can name ({MAX_ROWS})",
                hint="repair the rows, or sign intents for changes of this size",
            )
        return seqs

    def _entry_row(self, conn: sqlite3.Connection, log: int, seq: int) -> dict[str, Any]:
        entry = parse_entry(entries.entry_at(conn, log, seq))
        if entry.op in ("insert", "update") and entry.row is None:
            raise UsageError(
                f"entry {seq} has no row hash (an unchanged TOAST value), so nothing can be accepted by it",
                hint="set REPLICA IDENTITY FULL and write the row again",
            )
        row = entry.row.hex() if entry.row is not None and entry.op != "delete" else None
        return {"key": key_name(entry), "row": row, "seq": seq}

    def _accept(self, conn: sqlite3.Connection, finding: Finding, rows: list[dict[str, Any]]) -> None:
        if not rows or finding.table is None or finding.generation is None:
            return
        if _is_pruned(conn, finding):
            return  # nothing is left that could be accepted
        log = _log(conn, finding).id
        keyed = _log(conn, finding).keyed
        for row in rows:
            if row["seq"] is not None and CLASSES[finding.cls].group == "stream":
                self._accept_entry(conn, log, finding, row["seq"], keyed=keyed)
            else:
                self._accept_found(conn, log, finding, row, keyed)

    def _accept_entry(self, conn: sqlite3.Connection, log: int, finding: Finding, seq: int, *, keyed: bool) -> None:
        row, ended = logs.get_log(conn, log), self._journal.state.ended_at(finding.table or "", finding.generation or 0)
        if ended is not None and held_size(conn, row, self._journal.state) < seq <= ended.size:
            return  # the database was restored to before this entry
        line = entries.entry_at(conn, log, seq)
        entry = parse_entry(line)
        if entry.op == "truncate":
            _accept_truncate(conn, log, seq)
            return
        if not keyed and entry.op == "delete":
            gone = live.keyless_find(conn, log, entry.row or bytes(32))
            if gone is not None:
                live.set_accepted(conn, log, [(gone, None)])
                live.clear_overlay(conn, log, [gone])
            return
        key = state_key_of_entry(line, seq, entry.row, keyed=keyed)
        after = seq if entry.op in ("insert", "update") else None
        before = live.accepted_many(conn, log, [key]).get(key)
        if (before is not None and before > seq) or self._later_accepted(finding, entry):
            return  # a later entry of this key is accepted already; the last one counts
        applied = live.applied_many(conn, log, [key]).get(key)
        live.set_accepted(conn, log, [(key, after)])
        live.set_overlay(conn, log, [(key, applied)]) if applied != after else live.clear_overlay(conn, log, [key])

    def _later_accepted(self, finding: Finding, entry: Entry) -> bool:
        """Whether an operator accepted a later change of this key, or a later truncate, be it that the row is gone."""
        accepted = self._journal.state.accepts(finding.table or "", finding.generation or 0)
        names = (key_name(entry), None)
        return any(row.seq is not None and row.seq > entry.seq and row.key in names for row in accepted)

    def _accept_found(self, conn: sqlite3.Connection, log: int, finding: Finding, row: dict[str, Any], keyed: bool) -> None:
        found = bytes.fromhex(row["row"]) if row["row"] else None
        if not keyed:
            name = bytes.fromhex(finding.key or "")
            if found is None:
                gone = live.keyless_find(conn, log, name)
                live.set_accepted(conn, log, [(gone, None)] if gone is not None else [])
            else:
                new = granted.grant(conn, log, b"", found)
                live.set_accepted(conn, log, [(keyless_state_key(found, -new), new)])
            return
        text = (finding.key or "").encode()
        key = text if text.startswith(b"\\H") else unescape(text)
        seq = granted.grant(conn, log, key, found) if found is not None else None
        live.set_accepted(conn, log, [(key, seq)])
        live.clear_overlay(conn, log, [key])


def _log(conn: sqlite3.Connection, finding: Finding) -> LogRow:
    row = logs.find_log(conn, finding.table or "", finding.generation)
    if row is None:
        raise UsageError(f"finding {finding.id} is about a log that this store does not have")
    return row


def _is_pruned(conn: sqlite3.Connection, finding: Finding) -> bool:
    """Whether the entries that a finding is about were removed by order, so that only the finding itself is to be decided."""
    row = logs.find_log(conn, finding.table or "", finding.generation)
    return row is not None and row.status == "pruned"


def _accept_truncate(conn: sqlite3.Connection, log: int, seq: int) -> None:
    """No row that was accepted before the truncate is accepted any more."""
    gone = [key for key, at in live.accepted_items(conn, log) if at < seq]
    live.set_accepted(conn, log, [(key, None) for key in gone])
    left = [key for key, at in live.overlay_items(conn, log) if at is None]
    still = live.accepted_many(conn, log, left)
    live.clear_overlay(conn, log, [key for key in left if key not in still])


def key_name(entry: Entry) -> str | None:
    """A key as findings and ``accept`` rows name it: the entry's key field as text."""
    if entry.hidden_key is not None:
        return "\\H" + entry.hidden_key
    return None if entry.key is None else entry.key.decode("utf-8", "replace")
