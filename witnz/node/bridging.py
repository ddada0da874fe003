"""A gap that an operator accepted is followed by a new generation of each of its tables (formats.md 2, "Generations").

Until then the old log goes on as if it had seen everything.  Where a row of the table is still in doubt, the old generation
names it until somebody has decided about it, and the new one waits.  What is owed is stored, so that neither a crash after the
``accept`` nor an opening that fails forgets it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable

from witnz.errors import WitnzError
from witnz.node.journal import Journal
from witnz.store import meta
from witnz.store.database import Database

KEY = "bridging"  # table -> its generation when the gap was first seen
AGAIN_S = 5.0  # between two attempts at one table


class Bridging:
    """``in_doubt``: whether a row of a table is still to be decided; ``begin``: open the generation that follows."""

    def __init__(
        self, db: Database, journal: Journal, in_doubt: Callable[[str], bool], begin: Callable[[str, str], None]
    ) -> None:
        self._db, self._journal, self._in_doubt, self._begin = db, journal, in_doubt, begin
        with db.read() as conn:
            self._owed: dict[str, int] = json.loads(meta.load_value(conn, KEY) or "{}")
        self._tried: dict[str, float] = {}
        self._lock = threading.Lock()

    def step(self) -> None:
        """Note the gaps that are open, and begin anew where one is accepted.  Raises what ``begin`` raises, the rest done."""
        with self._lock:
            self._step()

    def _step(self) -> None:
        gaps, tables = self._journal.state.open_gaps(), self._journal.state.tables()
        owed = {name: at for name, at in self._owed.items() if name in tables and tables[name].generation <= at}
        owed |= {name: tables[name].generation for name in gaps if name in tables and name not in owed}
        if owed != self._owed:
            with self._db.write() as conn:
                meta.save_value(conn, KEY, json.dumps(owed, sort_keys=True))
            self._owed = owed
        failed: WitnzError | None = None
        for table in sorted(owed.keys() - gaps.keys()):
            now = time.monotonic()
            if now >= self._tried.get(table, now) and not self._in_doubt(table):
                self._tried[table] = now + AGAIN_S
                try:
                    self._begin(table, "gap accepted")
                except WitnzError as error:
                    failed = error
        if failed is not None:
            raise failed
