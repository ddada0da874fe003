"""Seals and checkpoints: what makes the table logs part of the journal, and the journal a thing to show (formats.md 4, 5).

Every ``seal_interval`` one seal fixes *all* table logs that moved, at the final LSN of the last transaction recorded; then the
journal's root is signed with the log key and cosigned.  What is signed is durable before the signature can leave the node, and
no smaller size and no second root for a size is ever signed.
"""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from witnz.core.checkpoint import Checkpoint, cosign, format_checkpoint
from witnz.core.lsn import format_lsn
from witnz.core.merkle import verify_consistency
from witnz.core.note import Note, format_note, sign_note
from witnz.core.tiles import consistency_proof, root_at
from witnz.errors import StoreCorrupt
from witnz.node.journal import Journal
from witnz.node.keyring import Keyring
from witnz.store import checkpoints, entries, logs, meta
from witnz.store import journal as stored
from witnz.store.database import Database
from witnz.store.logs import LogRow

SEAL_TABLES = 200  # table heads that surely fit into one record


class Sealer:
    """Makes seals and checkpoints of one node, one at a time whoever asks.  ``clock``: µs since the Unix epoch."""

    def __init__(self, db: Database, journal: Journal, keys: Keyring, cluster: str, clock: Callable[[], int]) -> None:
        self._db, self._journal, self._keys, self._cluster, self._clock = db, journal, keys, cluster, clock
        self._turn = threading.Lock()
        self.waits = False
        """Something moved at an LSN that a seal has already: the next transaction, if only a marker, lets it be sealed."""

    def seal(self) -> bool:
        """Seal every log that moved since its last seal; True if there was one."""
        with self._turn:
            return self._seal()

    def checkpoint(self) -> str | None:
        """Sign and cosign the journal's head if it grew; the note's text with signatures, None if nothing is new."""
        with self._turn:
            return self._checkpoint()

    def _seal(self) -> bool:
        with self._db.read() as conn:
            lsn = meta.load_number(conn, "last_final_lsn") or 0
            moved = [self._head(conn, log) for log in logs.list_logs(conn) if self._moved(log)]
        self.waits = False
        if not moved:
            return False
        self.waits = lsn <= self._journal.state.last_seal_lsn
        if self.waits:
            return False  # a marker will move the stream on, and the seal with it
        for body in _bodies(format_lsn(lsn), moved):
            self._journal.propose("seal", body)
        return True

    def _checkpoint(self) -> str | None:
        with self._db.read() as conn:
            size = stored.journal_size(conn)
            last = checkpoints.load_cosigned(conn)
            if last is not None and last.size == size:
                return None
            read = stored.tile_reader(conn, size)
            root = root_at(read, size)
            if last is not None:
                proof = consistency_proof(read, last.size, size) if last.size < size else []
                if last.size > size or not verify_consistency(last.size, size, last.root, root, proof):
                    raise StoreCorrupt(
                        f"the journal at size {size} does not extend the checkpoint of size {last.size} this node signed",
                        hint="the store was rolled back or changed; run `witnz verify --store`, and restore it from a backup",
                    )
        text = format_checkpoint(Checkpoint(self._cluster, size, root))
        note = sign_note(text, [self._keys.log])
        now_s = self._clock() // 1_000_000
        signed = Note(text, (*note.signatures, cosign(text, self._keys.cosigner, now_s)))
        with self._db.write() as conn:
            checkpoints.save_cosigned(conn, size, root, format_note(signed))
            checkpoints.save_checkpoint(conn, size, format_note(signed), self._clock(), final=True)
        return format_note(signed)

    def _moved(self, log: LogRow) -> bool:
        sealed = self._sealed_size(log)
        return log.size > sealed and self._goes_on(log)

    def _sealed_size(self, log: LogRow) -> int:
        sealed = self._journal.state.last_sealed(log.table, log.generation)
        return sealed.size if sealed is not None else 0

    def _goes_on(self, log: LogRow) -> bool:
        """Whether a seal may list the log: the current generation of a protected table, adopted, and no newer one opened.

        Where an older generation ended without a seal of its last entries, the ``table`` record that follows it says so.
        """
        state = self._journal.state
        current = state.current_table(log.table)
        if current is None or current.generation != log.generation or log.table in state.opened:
            return False
        return state.ended_at(log.table, log.generation) is None

    def _head(self, conn: Any, log: LogRow) -> dict[str, Any]:
        root = root_at(entries.tile_reader(conn, log.id, log.size), log.size)
        return {
            "table": log.table,
            "generation": log.generation,
            "size": log.size,
            "root": base64.b64encode(root).decode(),
            "chain": log.chain,
        }


def _bodies(lsn: str, heads: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One seal body, or several parts of one LSN where the list is too long for a record."""
    parts = [heads[i : i + SEAL_TABLES] for i in range(0, len(heads), SEAL_TABLES)]
    for number, part in enumerate(parts, 1):
        body: dict[str, Any] = {"lsn": lsn, "tables": list(part)}
        if len(parts) > 1:
            body |= {"part": number, "parts": len(parts)}
        yield body
