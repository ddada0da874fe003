"""What follows from fetched entries and the journal: accepted rows, nonces that were counted, findings.

The running node keeps these while it records; a node that took its entries from others derives them, by the same slow and
obvious rules by which a store audits itself (:mod:`witnz.verify.replay`).  What unsettled transactions replaced (the undo ring)
can not be derived: until every transaction fetched is visible to all snapshots, scans of these tables are INCONCLUSIVE
(``settled_xid`` in :mod:`witnz.node.log_notes`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

from witnz.core.entry import parse_entry
from witnz.core.journal import JournalState
from witnz.core.journal_facts import TableRecord
from witnz.core.message import check_intent, parse_intent
from witnz.core.record import Record
from witnz.errors import FormatError
from witnz.node.journalled_finding import journalled_finding
from witnz.store import entries, findings, importing, nonces
from witnz.store.database import Database
from witnz.store.logs import LogRow
from witnz.verify.replay import XID_MASK, Intents, Replay, decisions_of, held_entries


def derive(db: Database, rows: Sequence[LogRow], records: Sequence[Record], state: JournalState) -> None:
    """Derive the state of these logs anew, from all their entries.  ``records``: the journal's decisive ones."""
    with db.write() as conn:
        for row in rows:
            _count_nonces(conn, row, state)
    made = decisions_of(records)
    tables = {
        (record.body["table"], record.body["generation"]): TableRecord.from_record(record)
        for record in records
        if record.type == "table"
    }
    for row in rows:
        rules = tables[row.table, row.generation].rules
        with db.write() as conn:
            importing.clear_state(conn, row.id)
            counted = nonces.all_counted(conn)
            intents = Intents(state, counted)
            replay = Replay(conn, row.id, row.table, rules, intents, made[row.table, row.generation], keyed=row.keyed)
            replay.run(held_entries(conn, row, state))


def _count_nonces(conn: sqlite3.Connection, row: LogRow, state: JournalState) -> None:
    """Note the first transaction that used each nonce of a valid intent; of all logs that is the one of the lowest LSN."""
    before = ""
    for line in entries.entries(conn, row.id):
        text = line.rpartition(b"\t")[2]
        if text == b"\\N":
            continue
        entry = parse_entry(line)
        if entry.intent is None or entry.intent == before:
            continue
        before = entry.intent
        nonce = valid_nonce(entry.intent, entry.lsn, entry.xid, state)
        if nonce is not None and not nonces.count(conn, nonce, entry.lsn):
            conn.execute("UPDATE nonces SET lsn = min(lsn, ?) WHERE nonce = ?", (entry.lsn, nonce))


def valid_nonce(text: str, lsn: int, xid: int, state: JournalState) -> str | None:
    """The nonce of an intent that authorises this transaction if no other has used it; None where it does not."""
    try:
        intent = parse_intent(text)
    except FormatError:
        return None
    public = state.signer_key(intent.key, lsn)
    if public is None or int(intent.xid) & XID_MASK != xid or not check_intent(intent, state.cluster_id, public):
        return None
    return intent.nonce


def adopt_findings(conn: sqlite3.Connection, records: Iterable[Record], state: JournalState) -> None:
    """Take the journal's findings into the store, each in the state that the journal has brought it to."""
    for record in records:
        known = None if record.type != "finding" else state.finding_state(record.body["id"])
        if known is None or findings.get(conn, known.id) is not None:
            continue
        findings.upsert(conn, journalled_finding(record, state, status=known.status))
