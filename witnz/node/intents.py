"""Whether a signed intent authorises the rows of its transaction (formats.md 2, "Messages").

An intent counts when its signature verifies under an intent key in force at the transaction, it names this very transaction
(low 32 bits of its xid), lists the table, and its nonce was never counted before in this cluster.  The nonce is recorded in the
same store transaction as the entries, so a crash can neither lose nor double it.
"""

from __future__ import annotations

import sqlite3

from witnz.core.journal import JournalState
from witnz.core.message import check_intent, parse_intent
from witnz.errors import FormatError
from witnz.node.block import Transaction
from witnz.store import nonces

_XID_MASK = 0xFFFFFFFF


class IntentJudge:
    """Judges intents against the journal's keys; remembers the verdict for the transaction at hand."""

    def __init__(self, journal: JournalState) -> None:
        self._journal = journal
        self._last: tuple[str, int, frozenset[str]] | None = None

    def covers(self, conn: sqlite3.Connection, intent: str, tx: Transaction, table: str) -> bool:
        if self._last is None or self._last[:2] != (intent, tx.final_lsn):
            self._last = (intent, tx.final_lsn, self._tables(conn, intent, tx))
        return table in self._last[2]

    def _tables(self, conn: sqlite3.Connection, text: str, tx: Transaction) -> frozenset[str]:
        """The tables that this intent lets this transaction change; empty if it is not valid."""
        try:
            intent = parse_intent(text)
        except FormatError:
            return frozenset()
        # Whoever may accept a change afterwards may authorise it beforehand: operator keys sign intents, too.
        public = self._journal.signer_key(intent.key, tx.final_lsn)
        if public is None or int(intent.xid) & _XID_MASK != tx.xid:
            return frozenset()
        if not check_intent(intent, self._journal.cluster_id, public):
            return frozenset()
        if not nonces.count(conn, intent.nonce, tx.final_lsn):
            return frozenset()
        return frozenset(intent.tables)
