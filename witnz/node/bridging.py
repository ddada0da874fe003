"""What an operator accepted is followed by a new generation: of each table of a gap, of a table whose definition changed
(formats.md 2, "Generations").

Until then the old log goes on as if it had seen everything.  Where a row of a table with a gap is still in doubt, the old
generation names it until somebody has decided about it, and the new one waits.

What is owed follows from the journal (a gap, or an accepted ``schema.changed``, that is younger than the table's own record)
and is stored by *every* member as it carries out the journal.  Whoever leads opens; so neither a crash after the ``accept``,
nor an opening that fails, nor a leader that dies in between forgets it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

from witnz.core.record import Record
from witnz.errors import WitnzError
from witnz.node.journal import Journal
from witnz.store import meta
from witnz.store.database import Database

KEY = "bridging"  # table -> its generation when the gap was first seen
DEFINITIONS = "bridging/definitions"  # table -> its generation when a change of its definition was accepted
AGAIN_S, AGAIN_MAX_S = 5.0, 60.0  # between two attempts at one table


class Bridging:
    """``in_doubt``: whether a row of a table is still to be decided; ``begin`` (table, reason, generation): open the generation
    that follows this one, and nothing where that has happened meanwhile.

    ``leads``: whether it is for this node to open; always in a cluster of one.
    """

    def __init__(
        self, db: Database, journal: Journal, in_doubt: Callable[[str], bool], begin: Callable[[str, str, int], None]
    ) -> None:
        self._db, self._journal, self._in_doubt, self._begin = db, journal, in_doubt, begin
        with db.read() as conn:
            self._owed: dict[str, int] = json.loads(meta.load_value(conn, KEY) or "{}")
            self._definitions: dict[str, int] = json.loads(meta.load_value(conn, DEFINITIONS) or "{}")
        self._tried: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()
        self.leads: Callable[[], bool] = lambda: True

    # -- what is owed ---------------------------------------------------------------------------------------------------------

    def followed_gap(self, record: Record) -> None:
        """A ``gap`` or ``epoch`` record: the tables that it covers will need a new generation once it is accepted."""
        tables = self._journal.state.tables()
        named = record.body["tables"] if record.type == "gap" else list(tables)
        older = {name: tables[name].generation for name in named if name in tables and tables[name].seq < (record.seq or 0)}
        with self._lock:
            self._keep({**older, **self._owed}, self._definitions)

    def followed_accept(self, record: Record) -> None:
        """An ``accept`` record: a changed definition that it accepts asks for a new generation of its table."""
        finding = self._journal.state.finding_state(record.body["finding"] or "")
        if finding is None or finding.finding_class != "schema.changed" or finding.table is None:
            return
        table = self._journal.state.current_table(finding.table)
        if table is not None and table.seq < (record.seq or 0):
            with self._lock:
                self._keep(self._owed, {**self._definitions, finding.table: table.generation})

    def owes(self, table: str) -> bool:
        """Whether a generation is owed to a table, after an accepted change of its definition or a gap, accepted or not."""
        owed, current = (self._definitions.get(table, 0), self._owed.get(table, 0)), self._journal.state.current_table(table)
        return current is not None and current.generation <= max(owed)

    def _keep(self, owed: dict[str, int], definitions: dict[str, int]) -> None:
        if (owed, definitions) == (self._owed, self._definitions):
            return
        with self._db.write() as conn:
            meta.save_value(conn, KEY, json.dumps(owed, sort_keys=True))
            meta.save_value(conn, DEFINITIONS, json.dumps(definitions, sort_keys=True))
        self._owed, self._definitions = owed, definitions

    # -- doing it -------------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Note the gaps that are open, and begin anew where one is accepted.  Raises what ``begin`` raises, the rest done."""
        with self._lock:
            self._step()

    def _step(self) -> None:
        gaps, tables = self._journal.state.open_gaps(), self._journal.state.tables()

        def still(noted: dict[str, int]) -> dict[str, int]:
            return {name: at for name, at in noted.items() if name in tables and tables[name].generation <= at}

        owed = still(self._owed)
        owed |= {name: tables[name].generation for name in gaps if name in tables and name not in owed}
        self._keep(owed, still(self._definitions))
        if not self.leads():
            self._tried.clear()
            return
        due = {name: ("definition change approved", at) for name, at in self._definitions.items() if name not in gaps}
        due |= {name: ("gap accepted", at) for name, at in owed.items() if name not in gaps and not self._in_doubt(name)}
        for done in self._tried.keys() - due.keys():
            del self._tried[done]
        failed: WitnzError | None = None
        for table in sorted(due):
            tries, again_at = self._tried.get(table, (0, 0.0))
            if time.monotonic() >= again_at:
                pause_s = AGAIN_S if table in owed else min(AGAIN_S * 2**tries, AGAIN_MAX_S)
                self._tried[table] = tries + 1, time.monotonic() + pause_s
                try:
                    self._begin(table, *due[table])
                except WitnzError as error:
                    failed = error
        if failed is not None:
            raise failed
