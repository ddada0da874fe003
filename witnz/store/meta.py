"""Single values of the store by name, and texts too long for an entry by their hash."""

from __future__ import annotations

import sqlite3
from hashlib import sha256

from witnz.errors import StoreCorrupt, StoreError

CLUSTER = "cluster"
CLUSTER_ID = "cluster_id"


def load_value(connection: sqlite3.Connection, key: str) -> str | None:
    """The value under a name, None if there is none."""
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return None if row is None else str(row[0])


def load_number(connection: sqlite3.Connection, key: str) -> int | None:
    """The whole number under a name, None if there is none; raises StoreCorrupt for any other text."""
    text = load_value(connection, key)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError:
        raise StoreCorrupt(f"store: expected a whole number as {key}, found {text[:40]!r}") from None


def save_value(connection: sqlite3.Connection, key: str, value: str | int | None) -> None:
    """Keep a value under a name; None forgets it."""
    if value is None:
        connection.execute("DELETE FROM meta WHERE key = ?", (key,))
    else:
        connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, str(value)))


def check_cluster(connection: sqlite3.Connection, cluster: str, cluster_id: str | None = None) -> None:
    """Refuse, with a StoreError, the store of another cluster: other name, or, where given, other id."""
    for key, expected in ((CLUSTER, cluster), (CLUSTER_ID, cluster_id)):
        found = load_value(connection, key)
        if expected is not None and found is not None and found != expected:
            raise StoreError(
                f"the store belongs to another cluster: expected {key} {expected}, found {found}",
                hint="does node.data_dir name the directory of another witnz?",
                code="store.foreign",
            )


def save_text(connection: sqlite3.Connection, text: str) -> str:
    """Keep a text, a schema hint over its limit, under its hash; the hash, 64 hex digits."""
    digest = sha256(text.encode()).hexdigest()
    connection.execute("INSERT OR IGNORE INTO texts (sha256, text) VALUES (?, ?)", (digest, text))
    return digest


def load_text(connection: sqlite3.Connection, digest: str) -> str | None:
    """The text with this hash, None if it is not kept; raises StoreCorrupt if what is kept hashes to something else."""
    row = connection.execute("SELECT text FROM texts WHERE sha256 = ?", (digest,)).fetchone()
    if row is None:
        return None
    if sha256(str(row[0]).encode()).hexdigest() != digest:
        raise StoreCorrupt(f"store: the text kept under {digest[:16]} is another one")
    return str(row[0])
