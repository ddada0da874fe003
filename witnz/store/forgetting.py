"""Forgetting for good: secrets, row images and entries that an order says must go, and what SQLite leaves of them in its file.

Rules:
1.  What is forgotten and the note that its pages are still to be overwritten are one transaction, so a crash leaves nothing
    half said; pruning the bundles of a large log takes several, each of which may be the last before a crash.
2.  Of a pruned log the register's row (size, chain head) and all hash tiles stay, the newest partial one of level 0 among them:
    every root that was ever sealed can be computed, and whoever kept an entry can have it proved.
3.  SQLite zeroes what is deleted within a page (``secure_delete = FAST``), not pages that become free as a whole: those are
    taken once more for zeros.  The write-ahead log is emptied after that.  What a file system or a backup keeps is beyond us.
"""

from __future__ import annotations

import sqlite3
from typing import Final

from witnz.core.hashing import leaf_hashes
from witnz.core.tiles import TILE, Tree
from witnz.errors import StoreError
from witnz.store import logs, meta
from witnz.store.database import Database
from witnz.store.entries import tail_entries
from witnz.store.logs import LogRow

FREED: Final = "freed pages"  # "due" while pages that something was deleted from are still to be overwritten
_BUNDLES_AT_ONCE: Final = 2_048
_PAGES_AT_ONCE: Final = 2_048
_OF_A_PRUNED_LOG: Final = (
    "tail", "live", "runs", "live_edge", "overlay", "undo", "spool", "images", "granted", "departed", "verified_states",
)  # fmt: skip


def forget_secret(conn: sqlite3.Connection, row: LogRow) -> None:
    """Without its secret no row hash of a log can be recomputed from a guessed row; its images say the rows themselves."""
    logs.forget_secret(conn, row.id)
    conn.execute("DELETE FROM images WHERE log = ?", (row.id,))
    meta.save_value(conn, FREED, "due")


def begin_pruning(conn: sqlite3.Connection, row: LogRow) -> None:
    """A log that has ended is pruned from now on; its bundles are what :func:`prune_more` takes.

    Raises StoreError for one that has not ended.
    """
    if row.status != "ended":
        raise StoreError(f"the log of {row.table}, generation {row.generation}, has not ended, so it is not pruned")
    full = row.size // TILE
    _keep_last(conn, row.id, full, b"".join(leaf_hashes(tail_entries(conn, row.id, full))))
    for table in _OF_A_PRUNED_LOG:
        conn.execute(f"DELETE FROM {table} WHERE log = ?", (row.id,))  # noqa: S608  names from the list above
    forget_secret(conn, row)
    logs.set_status(conn, row.id, "pruned")


def register_pruned(conn: sqlite3.Connection, log_id: int, tree: Tree, chain: str) -> None:
    """A log of which other members gave the hashes, already checked and stored but for the newest partial tile of level 0."""
    _keep_last(conn, log_id, tree.size // TILE, tree.partial(0))
    conn.execute("UPDATE logs SET size = ?, chain = ?, status = 'pruned' WHERE id = ?", (tree.size, chain, log_id))


def _keep_last(conn: sqlite3.Connection, log_id: int, n: int, hashes: bytes) -> None:
    """Keep the leaf hashes behind the last complete block as a tile: there are no entries to compute them from."""
    if hashes:
        row = (log_id, 0, n, hashes)
        conn.execute("INSERT OR REPLACE INTO tiles (log, level, n, hashes) VALUES (?, ?, ?, ?)", row)


def prune_more(conn: sqlite3.Connection, log_id: int) -> bool:
    """Remove some of the bundles of a pruned log; whether there may be more."""
    query = "DELETE FROM bundles WHERE log = ?1 AND n IN (SELECT n FROM bundles WHERE log = ?1 ORDER BY n LIMIT ?2)"
    removed = conn.execute(query, (log_id, _BUNDLES_AT_ONCE)).rowcount
    if removed:
        meta.save_value(conn, FREED, "due")
    return removed == _BUNDLES_AT_ONCE


def has_bundles(conn: sqlite3.Connection, log_id: int) -> bool:
    """Whether entries of a log are left in complete blocks."""
    return conn.execute("SELECT 1 FROM bundles WHERE log = ? LIMIT 1", (log_id,)).fetchone() is not None


def overwrite_freed(db: Database) -> bool:
    """Overwrite the pages that became free and empty the write-ahead log, if that is due; whether nothing is due any more.

    False while a reader keeps the write-ahead log: it is tried again later.
    """
    with db.read() as conn:
        if meta.load_value(conn, FREED) is None:
            return True
        page_bytes = int(conn.execute("PRAGMA page_size").fetchone()[0])
        rounds = int(conn.execute("PRAGMA freelist_count").fetchone()[0]) // _PAGES_AT_ONCE + 2
    for _ in range(rounds):
        with db.write() as conn:
            free = int(conn.execute("PRAGMA freelist_count").fetchone()[0])
            if free:
                # An overflow page holds four bytes less than its size (https://www.sqlite.org/fileformat2.html, 1.6).
                filler = min(free, _PAGES_AT_ONCE) * (page_bytes - 4)
                conn.execute("INSERT INTO zeros (filler) VALUES (zeroblob(?))", (filler,))
    with db.write() as conn:
        conn.execute("DELETE FROM zeros")
    if not db.checkpoint(patience_s=0.2):
        return False
    with db.write() as conn:
        conn.execute("DELETE FROM meta WHERE key = ?", (FREED,))
    return True
