"""Root on one node of a cluster: its keys and its place in the order, used for what no honest node does."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from witnz.core.checkpoint import Checkpoint, format_checkpoint
from witnz.core.note import Note, sign_note
from witnz.core.record import format_proposal, sign_record
from witnz.core.rowline import row_hash
from witnz.node.node import Node
from witnz.store import entries, logs, tablelog
from witnz.store.database import Database
from witnz.store.packing import split_entry


class Intruder:
    """Signs and proposes past the node's own checks."""

    def __init__(self, node: Node) -> None:
        self.node = node

    def signed(self, record_type: str, body: Mapping[str, Any], *, n: int | None = None, prev: str | None = None) -> bytes:
        """A proposal that is well formed and signed with the node's own key."""
        journal, node_id = self.node.journal, self.node.config.node_id
        return format_proposal(
            sign_record(
                self.node.keys.identity,
                at=self.node.clock(),
                body=body,
                cluster=self.node.cluster_id,
                n=journal.state.next_n(node_id) if n is None else n,
                node=node_id,
                prev=journal.state.prev_of(node_id) if prev is None else prev,
                record_type=record_type,
            )
        )

    def propose(self, command: bytes) -> None:
        """Have anything ordered."""
        self.node.engine.propose(command, os.urandom(8).hex(), 10.0)

    def put(self, record_type: str, body: Mapping[str, Any]) -> None:
        """Have a record ordered at its right place, while the node itself proposes nothing."""
        with self.node.journal._turn:
            self.propose(self.signed(record_type, body))

    def put_alone(self, record_type: str, body: Mapping[str, Any]) -> None:
        """The same for a voted record that only this node voted for."""
        votes = {self.node.config.node_id: self.node.journal.vote(record_type, body)}
        self.put(record_type, {**body, "votes": votes})

    def other_history(self, size: int) -> Note:
        """A checkpoint of that size with a root of its own, signed with the log key."""
        text = format_checkpoint(Checkpoint(self.node.config.cluster, size, os.urandom(32)))
        return sign_note(text, [self.node.keys.log])


def rewrite_baseline(store: Path, table: str, old: bytes, new: bytes) -> None:
    """In a stopped node's store, make one baseline row another one: entries, chain, tree, register, as if never different.

    ``old`` and ``new``: row lines.  The accepted state refers to entries by seq, so it follows by itself.
    """
    with Database.open(store) as db, db.write() as conn:
        row = logs.find_log(conn, table)
        assert row is not None
        lines = list(entries.entries(conn, row.id))
        before, after = row_hash(row.secret, old), row_hash(row.secret, new)
        parts = [split_entry(line) for line in lines]
        changed = [after if value == before else value for _, _, value, _ in parts]
        assert changed != [value for _, _, value, _ in parts], "the row is in the log"
        for name in ("tail", "bundles", "tiles"):
            conn.execute(f"DELETE FROM {name} WHERE log = ?", (row.id,))
        conn.execute("UPDATE logs SET size = 0, chain = ? WHERE id = ?", (tablelog.first_parent(row.origin), row.id))
        head = tablelog.load_head(conn, row.id)
        ops, keys, suffixes = ([part[at] for part in parts] for at in (0, 1, 3))
        tablelog.append(conn, head, ops, keys, changed, suffixes)
        assert head.size == len(lines)


def raw(store: Path, statement: str, *values: Any) -> int:
    """One statement on a stopped node's store, past everything."""
    with closing(sqlite3.connect(store)) as conn, conn:
        return conn.execute(statement, values).rowcount
