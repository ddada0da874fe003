"""What the operator's file asks for, against what the journal holds (interface.md 3).

The journal holds the protected set and its rules; the file is what the operator wishes.  Additions are applied when the
node starts.  What would weaken (a table gone, a looser mode, a longer interval than was ever recorded) waits for a signed
decision (``witnz config apply``) and is a finding until then; so quietly editing the file takes protection from nothing.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from witnz.config import Config
from witnz.core.classify import Rules
from witnz.core.journal_facts import TableRecord
from witnz.core.record import Record
from witnz.node.findings import FindingBook
from witnz.node.journal import Journal
from witnz.store import meta
from witnz.store.database import Database

INTERVAL: Final = "verify_interval "
"""How the name of a change in a ``config`` record begins that sets a table's verification interval; the table follows."""

_KNOWN: Final = "interval/"


def parse_interval(text: str | None) -> float | None:
    """The seconds that a ``config`` record sets, 0 for "only when asked"; None for a text that sets none."""
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if 0 <= seconds < float("inf") else None


def known_interval(conn: sqlite3.Connection, name: str) -> float | None:
    """Seconds between two verifications of a table that are in force; None where no node has begun with it yet."""
    known = meta.load_value(conn, f"{_KNOWN}{name}")
    return None if known is None else float(known)


def spacing(interval_s: float) -> float:
    """The interval by which intervals compare: 0, only when asked, is the longest."""
    return interval_s if interval_s > 0 else float("inf")


def weaker(wished: Rules, recorded: Rules) -> list[str]:
    """In words, everything in which ``wished`` protects less than ``recorded``."""
    found = {
        "mode is looser": recorded.mode == "append_only" and wished.mode != "append_only",
        "on_change is looser": recorded.mode == wished.mode == "state_integrity"
        and (recorded.on_change, wished.on_change) == ("alert", "record"),
        "require_intent is off": recorded.require_intent and not wished.require_intent,
        "inserts_only is on": wished.inserts_only and not recorded.inserts_only,
        "retain is off": recorded.retain and not wished.retain,
    }
    return [text for text, is_so in found.items() if is_so]


class Wishes:
    """Compares, and opens ``config.changed`` findings."""

    def __init__(self, db: Database, journal: Journal, book: FindingBook, config: Config) -> None:
        self._db, self._journal, self._book, self._config = db, journal, book, config

    def compare(self, leaves_of: dict[str, str]) -> None:
        """``leaves_of``: leaf table name to the name of its partitioned root; a leaf follows its root's rules."""
        for name, record in self._journal.state.tables().items():
            wish = self._config.table(leaves_of.get(name, name))
            if wish is None:
                self._find(name, record, "the table is protected, and the configuration no longer names it")
                continue
            wished = Rules(wish.mode, wish.on_change, wish.inserts_only, wish.require_intent, wish.retain == "rows")
            for problem in weaker(wished, record.rules):
                self._find(name, record, f"{problem} in the configuration than in the journal, which stays in force")
            self._interval(name, record, wish.verify_interval_s)

    def _interval(self, name: str, record: TableRecord, wished_s: float) -> None:
        """A verification interval may grow only with a decision; the shortest one since the last is remembered."""
        with self._db.write() as conn:
            known_s = known_interval(conn, name)
            longer = known_s is not None and spacing(wished_s) > spacing(known_s)
            if not longer:
                meta.save_value(conn, f"{_KNOWN}{name}", str(wished_s))
        if longer:
            self._find(
                name, record, f"verify_interval was lengthened from {known_s:g} s to {wished_s:g} s; the shorter one stays"
            )

    def follow(self, record: Record) -> None:
        """A signed ``config`` record sets the verification interval of the tables that it names, on every node alike."""
        with self._db.write() as conn:
            for name, change in record.body["changes"].items():
                seconds = parse_interval(change["to"]) if name.startswith(INTERVAL) else None
                if seconds is not None:
                    meta.save_value(conn, f"{_KNOWN}{name.removeprefix(INTERVAL)}", str(seconds))

    def interval(self, name: str, wished_s: float) -> float:
        """The interval in force."""
        with self._db.read() as conn:
            known = known_interval(conn, name)
        if known is None and self._journal.state.current_table(name) is not None:
            with self._db.write() as conn:  # from its first turn on it may not grow unsigned
                meta.save_value(conn, f"{_KNOWN}{name}", str(wished_s))
        return wished_s if known is None else known

    def _find(self, name: str, record: TableRecord, detail: str) -> None:
        with self._db.write() as conn:
            self._book.open(conn, cls="config.changed", table=name, generation=record.generation, detail=detail)
