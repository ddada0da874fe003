"""What the operator's file asks for, against what the journal holds (interface.md 3).

The journal holds the protected set and its rules; the file is what the operator wishes.  Additions are applied when the
node starts.  What would weaken (a table gone, a looser mode, a longer interval than was ever recorded) waits for a signed
decision and is a finding until then; so quietly editing the file takes protection from nothing.
"""

from __future__ import annotations

from witnz.config import Config
from witnz.core.classify import Rules
from witnz.core.journal_facts import TableRecord
from witnz.node.findings import FindingBook
from witnz.node.journal import Journal
from witnz.store import meta
from witnz.store.database import Database


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
        """A verification interval may grow only with a decision; the shortest one ever asked for is remembered."""
        key = f"interval/{name}"
        with self._db.write() as conn:
            known = float(meta.load_value(conn, key) or wished_s or "inf")
            longer = wished_s <= 0 < known or wished_s > known
            if not longer or known == float("inf"):
                meta.save_value(conn, key, str(wished_s))
        if longer and known != float("inf"):
            self._find(
                name, record, f"verify_interval was lengthened from {known:g} s to {wished_s:g} s; the shorter one stays"
            )

    def interval(self, name: str, wished_s: float) -> float:
        """The interval in force."""
        with self._db.read() as conn:
            known = meta.load_value(conn, f"interval/{name}")
        return float(known) if known is not None else wished_s

    def _find(self, name: str, record: TableRecord, detail: str) -> None:
        with self._db.write() as conn:
            self._book.open(conn, cls="config.changed", table=name, generation=record.generation, detail=detail)
