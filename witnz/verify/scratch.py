"""A store of its own for one log's state, derived anew from its entries, that is gone when the work is done."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from witnz.core.classify import Rules
from witnz.store import logs
from witnz.store.database import Database
from witnz.store.logs import LogRow
from witnz.store.scratch import scratch_folder
from witnz.verify.replay import Decisions, Intents, Replay


@contextmanager
def replayed(
    row: LogRow, rules: Rules, intents: Intents, decisions: Decisions, lines: Iterable[bytes], folder: Path
) -> Iterator[tuple[sqlite3.Connection, int]]:
    """The state that these entry ``lines`` of a log lead to: a store without entries, and the log's id in it.

    ``folder``: where there is room for it.  Raises StoreFull where there is none.
    """
    with scratch_folder(folder) as place:
        scratch = Database.create(place / "scratch.db")
        with scratch, scratch.write() as out:
            log = logs.insert_log(
                out, table=row.table, generation=row.generation, origin=row.origin, oid=row.oid, secret=row.secret,
                keyed=row.keyed, key_columns=row.key_columns, chain=row.chain,
            )  # fmt: skip
            out.execute("UPDATE logs SET size = ? WHERE id = ?", (row.size, log))
            Replay(out, log, row.table, rules, intents, decisions, keyed=row.keyed).run(lines)
            yield out, log
