"""Seals: what makes the table logs part of the journal (formats.md 4, ``seal``).

Every ``seal_interval`` one seal fixes *all* table logs that moved, at the final LSN of the last transaction recorded, with the
votes of a quorum.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from witnz.core.lsn import format_lsn
from witnz.errors import ProofError
from witnz.node.heads import moved_until, to_items
from witnz.node.journal import Journal
from witnz.node.voting import TooFewVotes
from witnz.store import meta
from witnz.store.database import Database

SEAL_TABLES = 200  # table heads that surely fit into one record
OVERTAKEN = 3  # how often a seal is made anew because another member's record came first


class Sealer:
    """Makes seals of one node, one at a time whoever asks."""

    def __init__(self, db: Database, journal: Journal) -> None:
        self._db, self._journal = db, journal
        self._turn = threading.Lock()
        self.journal_size = 0
        """The journal's size when it was last seen what moved."""
        self.waits = False
        """Something moved at an LSN that a seal has already: the next transaction, if only a marker, lets it be sealed."""

    def seal(self) -> bool:
        """Seal every log that moved since its last seal; True if there was one.  Raises NoQuorum without enough votes.

        Among several members another one's record may come first, a seal above all; then there is less left to seal.
        """
        with self._turn:
            for left in reversed(range(OVERTAKEN)):
                before = self._journal.size
                try:
                    return self._seal()
                except ProofError:
                    if not left or self._journal.size == before:
                        raise
            return False

    def _seal(self) -> bool:
        before = self.journal_size = self._journal.size
        with self._db.read() as conn:
            lsn = meta.load_number(conn, "last_final_lsn") or 0
            moved = moved_until(conn, self._journal.state, lsn)
        self.waits = False
        if not moved.heads:
            return False
        if moved.unsettled or self._journal.size != before:
            return False  # a generation was adopted this very moment; a moment later its log is complete
        self.waits = lsn <= self._journal.state.last_seal_lsn
        if self.waits:
            return False  # a marker will move the stream on, and the seal with it
        try:
            for body in _bodies(format_lsn(lsn), to_items(moved.heads)):
                self._journal.propose("seal", body)
        except TooFewVotes as failed:
            self.waits = any(refusal.kind == "other" for refusal in failed.ballot.refused.values())
            raise
        return True


def _bodies(lsn: str, heads: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One seal body, or several parts of one LSN where the list is too long for a record."""
    parts = [heads[i : i + SEAL_TABLES] for i in range(0, len(heads), SEAL_TABLES)]
    for number, part in enumerate(parts, 1):
        body: dict[str, Any] = {"lsn": lsn, "tables": list(part)}
        if len(parts) > 1:
            body |= {"part": number, "parts": len(parts)}
        yield body
