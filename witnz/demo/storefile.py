"""What somebody with root on a stopped node does to its store: one row of a log is another one, as if it had always been.

Entries, chain and tree are made anew, so that everything fits together; only what the cluster has sealed is not within reach.
"""

from __future__ import annotations

import os
from pathlib import Path

from witnz.core.entry import first_parent
from witnz.errors import StoreError
from witnz.store import entries, logs, tablelog
from witnz.store.database import Database
from witnz.store.packing import split_entry


def rewrite_row(store: Path, table: str, seq: int = 42) -> str:
    """Give the row of entry ``seq`` another hash; what was done, in words.  Raises StoreError where there is no such entry."""
    with Database.open(store) as db, db.write() as conn:
        row = logs.find_log(conn, table)
        if row is None or row.size < seq:
            raise StoreError(f"the log of {table} has no entry {seq}")
        parts = [list(split_entry(line)) for line in entries.entries(conn, row.id)]
        parts[seq - 1][2] = os.urandom(32)
        for name in ("tail", "bundles", "tiles"):
            conn.execute(f"DELETE FROM {name} WHERE log = ?", (row.id,))  # noqa: S608 - one of three names of ours
        conn.execute("UPDATE logs SET size = 0, chain = ? WHERE id = ?", (first_parent(row.origin), row.id))
        head = tablelog.load_head(conn, row.id)
        ops, keys, hashes, suffixes = ([part[at] for part in parts] for at in range(4))
        tablelog.append(conn, head, ops, keys, hashes, suffixes)  # type: ignore[arg-type]
    return f"the row of entry {seq} of {table} is another one, in all {len(parts):,} hashes that follow"
