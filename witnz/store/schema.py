"""The tables of the store and the numbered migrations that make them.

``PRAGMA user_version`` holds the number of migrations applied, ``PRAGMA application_id`` says that the file is witnz's.  A
store that a newer witnz has migrated is refused; an older one is migrated when it is opened for writing, all in one
transaction.  A migration that has been released is never edited; a change is a new one behind it.

Where what is kept:

    logs          one row a generation of a table: what it is, how far it is (size, chain head, lsn)
    bundles       its entries, 256 a row; tail: the fewer than 256 newest (:mod:`witnz.store.tablelog`)
    tiles         hash tiles of the trees, complete ones and the newest partial one of each level >= 1; log 0 is the journal
    live          accepted state: key -> seq of its live row; runs, live_edge: the same, packed (:mod:`witnz.store.live`)
    granted       rows that an operator accepted and no entry brought; nonces: of the intents that counted
    overlay       keys whose applied state differs from the accepted one; undo: what unsettled transactions replaced
    departed      rows without a key that went under other columns than they were recorded under
    spool         what arrived for a log whose generation is not decided yet
    journal       the records, verbatim; checkpoints: notes; cosigned: the last one this node signed
    findings, verifications, verified_states, outbox, images, texts, meta
    anchors       what each anchor has under way and remembers; anchor_looks: what the last look at each receipt found
    witnessed     what this node has cosigned last of other people's logs
    erasures      rows that operators ordered to be erased, and the delete that each order covered
    zeros         empty but while freed pages are overwritten (:mod:`witnz.store.forgetting`)

Large values stand in ordinary tables (SQLite packs those best), small rows in WITHOUT ROWID ones (one tree, not two).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from witnz.errors import StoreCorrupt, StoreError

if TYPE_CHECKING:
    import sqlite_utils

APPLICATION_ID = 0x7769746E  # "witn"

Migration = Callable[["sqlite_utils.Database"], None]


def open_utils(connection: sqlite3.Connection) -> sqlite_utils.Database:
    """sqlite-utils on a connection of the store: no plug-ins, no pragmas of its own, and within the caller's transaction."""
    import sqlite_utils

    return sqlite_utils.Database(connection, recursive_triggers=False, execute_plugins=False)


def _initial(db: sqlite_utils.Database) -> None:
    db.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID")
    db.execute("CREATE TABLE texts (sha256 TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID")
    _table_logs(db)
    _states(db)
    _journal(db)
    _records(db)


def _table_logs(db: sqlite_utils.Database) -> None:
    columns = {
        "id": int, "table_name": str, "generation": int, "origin": str, "oid": int, "mode": str, "secret": bytes, "status": str,
        "keyed": int, "key_columns": str, "columns": str, "schema_seq": int, "snapshot": str, "lsn": int, "final_lsn": int,
        "size": int, "chain": str,
    }  # fmt: skip
    optional = {"mode", "snapshot", "final_lsn"}
    db.table("logs").create(columns, pk="id", not_null=columns.keys() - optional - {"id"})
    db.table("logs").create_index(["table_name", "generation"], unique=True)
    db.execute(
        "CREATE TABLE bundles (log INTEGER NOT NULL, n INTEGER NOT NULL, count INTEGER NOT NULL, hashes BLOB NOT NULL,"
        " chain BLOB NOT NULL, rest BLOB NOT NULL, PRIMARY KEY (log, n))"
    )
    db.execute(
        "CREATE TABLE tail (log INTEGER NOT NULL, seq INTEGER NOT NULL, entry BLOB NOT NULL, PRIMARY KEY (log, seq))"
        " WITHOUT ROWID"
    )
    db.execute(
        "CREATE TABLE tiles (log INTEGER NOT NULL, level INTEGER NOT NULL, n INTEGER NOT NULL, hashes BLOB NOT NULL,"
        " PRIMARY KEY (log, level, n))"
    )
    db.execute("CREATE TABLE images (log INTEGER NOT NULL, seq INTEGER NOT NULL, sealed BLOB NOT NULL, PRIMARY KEY (log, seq))")
    spool = {"id": int, "log": int, "xid": int, "line": bytes, "key": bytes, "old_hash": bytes, "image": bytes}
    db.table("spool").create(spool, pk="id", not_null={"log", "xid", "line"})
    db.table("spool").create_index(["log", "id"])


def _states(db: sqlite_utils.Database) -> None:
    key = "log INTEGER NOT NULL, k BLOB NOT NULL"
    db.execute(f"CREATE TABLE live ({key}, seq INTEGER, was INTEGER, PRIMARY KEY (log, k)) WITHOUT ROWID")
    db.execute(
        "CREATE TABLE runs (log INTEGER NOT NULL, first BLOB NOT NULL, last BLOB NOT NULL, count INTEGER NOT NULL,"
        " first_seq INTEGER NOT NULL, seqs BLOB, keys BLOB NOT NULL, PRIMARY KEY (log, first))"
    )
    db.execute("CREATE TABLE live_edge (log INTEGER PRIMARY KEY, highest BLOB NOT NULL, run_highest BLOB)")
    db.execute(f"CREATE TABLE overlay ({key}, seq INTEGER, PRIMARY KEY (log, k)) WITHOUT ROWID")
    db.execute(
        "CREATE TABLE undo (xid INTEGER NOT NULL, log INTEGER NOT NULL, seq INTEGER NOT NULL, k BLOB NOT NULL,"
        " prev_accepted INTEGER, prev_applied INTEGER, PRIMARY KEY (xid, log, seq, k)) WITHOUT ROWID"
    )
    db.execute(
        "CREATE TABLE granted (log INTEGER NOT NULL, seq INTEGER NOT NULL, k BLOB NOT NULL, hash BLOB NOT NULL,"
        " PRIMARY KEY (log, seq)) WITHOUT ROWID"
    )
    db.execute(
        "CREATE TABLE departed (log INTEGER NOT NULL, row BLOB NOT NULL, seq INTEGER NOT NULL, xid INTEGER NOT NULL,"
        " PRIMARY KEY (log, row, seq)) WITHOUT ROWID"
    )
    verified = {"log": int, "journal_seq": int, "alive": bytes, "granted": str}
    db.table("verified_states").create(verified, pk="log", not_null=verified.keys() - {"log", "journal_seq"})
    db.execute("CREATE TABLE nonces (nonce TEXT PRIMARY KEY, lsn INTEGER NOT NULL) WITHOUT ROWID")


def _journal(db: sqlite_utils.Database) -> None:
    db.table("journal").create({"seq": int, "leaf": bytes, "chain": bytes}, pk="seq", not_null={"leaf", "chain"})
    checkpoints = {"size": int, "note": str, "at": int, "final": int}
    db.table("checkpoints").create(checkpoints, pk="size", not_null={"note", "at", "final"})
    cosigned = {"id": int, "size": int, "root": bytes, "note": str}
    db.table("cosigned").create(cosigned, pk="id", not_null={"size", "root", "note"})


def _records(db: sqlite_utils.Database) -> None:
    findings = {
        "id": str, "class": str, "severity": str, "table_name": str, "generation": int, "key": str, "state": str,
        "entry_seq": int, "detected_at": int, "doc": str,
    }  # fmt: skip
    db.table("findings").create(findings, pk="id", not_null={"class", "severity", "state", "detected_at", "doc"})
    db.table("findings").create_index(["state", "table_name"])
    db.table("findings").create_index(["detected_at"])
    verifications = {
        "id": int, "table_name": str, "generation": int, "at": int, "verdict": str, "journal_seq": int, "doc": str,
    }  # fmt: skip
    db.table("verifications").create(verifications, pk="id", not_null={"table_name", "generation", "at", "verdict", "doc"})
    db.table("verifications").create_index(["table_name", "id"])
    outbox = {
        "id": int, "dedup": str, "sink": str, "payload": str, "state": str, "attempts": int, "next_at": float,
        "last_error": str, "created_at": float,
    }  # fmt: skip
    db.table("outbox").create(outbox, pk="id", not_null=outbox.keys() - {"id", "last_error"})
    db.table("outbox").create_index(["dedup", "sink"], unique=True)
    db.table("outbox").create_index(["state", "next_at"])


def _anchors(db: sqlite_utils.Database) -> None:
    anchors = {
        "name": str, "type": str, "place": str, "since": int, "memory": str, "note": str, "receipt": str, "complete": int,
        "attempts": int, "next_at": int, "error": str, "hint": str, "refused": int, "reason": str, "tried_at": int,
    }  # fmt: skip
    needed = {"type", "place", "since", "memory", "complete", "attempts", "next_at", "refused"}
    db.table("anchors").create(anchors, pk="name", not_null=needed)
    looks = {"seq": int, "at": int, "status": str, "checks": str}
    db.table("anchor_looks").create(looks, pk="seq", not_null=looks.keys() - {"seq"})


def _witnessed(db: sqlite_utils.Database) -> None:
    witnessed = {"origin": str, "size": int, "root": bytes, "note": str}
    db.table("witnessed").create(witnessed, pk="origin", not_null=witnessed.keys() - {"origin"})


def _erasures(db: sqlite_utils.Database) -> None:
    db.execute(
        "CREATE TABLE erasures (log INTEGER NOT NULL, k BLOB NOT NULL, record INTEGER NOT NULL, base INTEGER NOT NULL,"
        " entry INTEGER, PRIMARY KEY (log, k, record)) WITHOUT ROWID"
    )
    db.execute("CREATE TABLE zeros (id INTEGER PRIMARY KEY, filler BLOB NOT NULL)")


RARE_RECORDS: Final = (
    'substr(leaf, -15) <> CAST(\',"type":"seal"}\' AS BLOB) AND substr(leaf, -17) <> CAST(\',"type":"verify"}\' AS BLOB)'
)
"""What the index ``journal_rare`` holds: all records but those of which there is one every few seconds or minutes."""


_RARE_INDEX: Final = f"CREATE INDEX journal_rare ON journal (seq) WHERE {RARE_RECORDS}"


def _rare_records(db: sqlite_utils.Database) -> None:
    db.execute(_RARE_INDEX)


MIGRATIONS: Sequence[Migration] = (_initial, _anchors, _witnessed, _erasures, _rare_records)


def migrate(connection: sqlite3.Connection, migrations: Sequence[Migration] = MIGRATIONS) -> None:
    """Apply what is missing of ``migrations``, all or nothing; nothing to do costs one read."""
    if _version(connection) == len(migrations):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        db = open_utils(connection)
        for migration in migrations[_version(connection) :]:
            migration(db)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {len(migrations)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def check_program(connection: sqlite3.Connection, path: Path) -> None:
    """Refuse a file that is no store of witnz (StoreCorrupt) or one that a newer witnz has migrated (StoreError)."""
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise StoreCorrupt(
            f"{path} is a SQLite file, but not a store of witnz", hint="restore the store, or name its directory"
        )
    found = _version(connection)
    if found > len(MIGRATIONS):
        raise StoreError(
            f"store {path} has schema version {found}; this witnz knows versions up to {len(MIGRATIONS)}",
            hint="a newer witnz has written it: run that version",
        )


def check(connection: sqlite3.Connection, path: Path) -> None:
    """:func:`check_program`, and refuse a store that has to be migrated first (StoreError)."""
    check_program(connection, path)
    if _version(connection) < len(MIGRATIONS):
        raise StoreError(
            f"store {path} has schema version {_version(connection)}, this witnz needs {len(MIGRATIONS)}",
            hint="start the node once with this version: it brings the store up to date",
        )


def check_shape(connection: sqlite3.Connection) -> None:
    """Raise StoreCorrupt where the file does things that witnz did not ask of it, or finds other records than it holds.

    A trigger would change or take away what is written from now on, and an index of other records would hide some of them,
    while all that was recorded is as it was.
    """
    for kind, name in connection.execute("SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'view')"):
        raise StoreCorrupt(f"the file has a {kind} {name!r}, and witnz makes none")
    found = connection.execute("SELECT sql FROM sqlite_master WHERE type = 'index' AND name = 'journal_rare'").fetchone()
    if found != (_RARE_INDEX,):
        raise StoreCorrupt("the index by which records are found is not there, or not the one that witnz made")


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])
