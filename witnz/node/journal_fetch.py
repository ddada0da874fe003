"""The journal from other members: every record validated from genesis on, the whole held against a cosigned checkpoint.

    1. A member says how far its journal is, and shows its newest final checkpoint.
    2. Records are fetched in batches; each is judged at its place by the rules of the journal (formats.md 4), signatures and
       all.
    3. Where the checkpoint's size is passed, the root must be the checkpoint's, and the checkpoint must carry the log's
       signature and a quorum of the members that were in force there.  What a member shows otherwise is taken back.
    4. Behind the checkpoint only a few records are taken, as long as they are valid: the next checkpoint decides about them.

So a member can neither change, leave out nor reorder what a quorum has cosigned, nor make us fetch without end.
"""

from __future__ import annotations

import sqlite3
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import structlog

from witnz.core.canonical import parse_canonical
from witnz.core.checkpoint import Checkpoint, parse_checkpoint
from witnz.core.journal import JournalState
from witnz.core.lsn import parse_lsn
from witnz.core.merkle import verify_consistency
from witnz.core.note import Note, parse_note
from witnz.core.policy import evaluate
from witnz.core.record import parse_record
from witnz.core.shape import base64_bytes, integer, list_of, members, nullable, spelled, text
from witnz.core.tiles import parse_entry_bundle
from witnz.errors import ProofError
from witnz.node.cosigning import keep_final
from witnz.node.sources import NotFetched, Sources
from witnz.store import importing, meta
from witnz.store import journal as stored
from witnz.store.database import Database

log = structlog.get_logger(__name__)

MAX_UNSEALED: Final = 10_000  # records behind the newest final checkpoint
MAX_HEAD_BYTES: Final = 1 << 20
MAX_PROOF_BYTES: Final = 8192
UNCHECKED: Final = "journal_unchecked_from"  # meta: while records are fetched, the size that they begin after

_HEAD = members(
    {
        "acked": spelled(parse_lsn),
        "checkpoint": nullable(text(MAX_HEAD_BYTES)),
        "index": integer(),
        "membership": list_of(integer(), low=2, high=2),
        "size": integer(1),
    }
)
_PROOF = members({"proof": list_of(base64_bytes(32), high=64)})


@dataclass(frozen=True, slots=True)
class Head:
    """How far a member says that it is: ``size`` records, applied up to the engine's ``index``; its stream has passed
    ``acked``.  ``epoch`` and ``since_index``: since when the present members order the journal.  ``note`` is its newest final
    checkpoint, unverified."""

    size: int
    index: int
    epoch: int
    since_index: int
    acked: int
    note: Note | None

    @property
    def checkpoint(self) -> Checkpoint | None:
        return None if self.note is None else parse_checkpoint(self.note.text)


def read_head(sources: Sources, node: str) -> Head:
    """Ask one member.  Raises PeerError, FormatError."""
    document = parse_canonical(sources.ask(node, "join.head", {}), what="join.head", max_bytes=MAX_HEAD_BYTES)
    _HEAD(document, "head")
    note = None if document["checkpoint"] is None else parse_note(document["checkpoint"])
    epoch, since_index = document["membership"]
    return Head(document["size"], document["index"], epoch, since_index, parse_lsn(document["acked"]), note)


class JournalFetch:
    """Brings the journal of one store on.  Nothing else writes to it meanwhile.  ``cluster``: the name, as in checkpoints."""

    def __init__(self, db: Database, sources: Sources, cluster: str, clock: Callable[[], int]) -> None:
        self._db, self._sources, self._cluster, self._clock = db, sources, cluster, clock

    def newest(self) -> tuple[JournalState, Head]:
        """As far as some member is: the state then, and what that member said of itself.

        Raises NotFetched, WrongAnswer if a member showed something that does not hold.
        """
        return self._sources.first("the journal", lambda node: self._from(node, None))

    def up_to(self, size: int, chain: str) -> JournalState:
        """Exactly ``size`` records, which must lead to this chain head (64 hex digits)."""
        return self._sources.first(f"the journal up to record {size}", lambda node: self._from(node, (size, chain)))[0]

    def _from(self, node: str, wanted: tuple[int, str] | None) -> tuple[JournalState, Head]:
        head = read_head(self._sources, node)
        checkpoint = head.checkpoint
        sealed = 0 if checkpoint is None else checkpoint.size
        state, start = self._own()
        target = wanted[0] if wanted is not None else head.size
        if head.size < max(target, start) or sealed > head.size:
            raise NotFetched(f"{node} has only {head.size} records, checkpoint at {sealed}")
        if target - max(sealed, start) > MAX_UNSEALED:
            raise NotFetched(f"{node} shows no final checkpoint that is newer than record {sealed}")
        try:
            self._records(node, state, target)
            self._hold_against(node, state, head.note, target)
            _check_epoch(head, state)
            with self._db.read() as conn:
                if wanted is not None and stored.chain_at(conn, target) != wanted[1]:
                    raise ProofError(f"the records up to {target} do not have the chain head that was agreed on")
        except BaseException:
            self._take_back()
            raise
        with self._db.write() as conn:
            meta.save_value(conn, UNCHECKED, None)
        log.info("journal was fetched", member=node, records=target - start, size=target)
        return state, head

    def _take_back(self) -> None:
        """Forget what was fetched and not held against a checkpoint, now or before a crash."""
        with self._db.write() as conn:
            start = meta.load_number(conn, UNCHECKED)
            if start is not None:
                importing.truncate_journal(conn, start)
                meta.save_value(conn, UNCHECKED, None)

    def _own(self) -> tuple[JournalState, int]:
        self._take_back()
        with self._db.read() as conn:
            state = stored.load_state(conn)
        return state, state.size

    def _records(self, node: str, state: JournalState, target: int) -> None:
        """Validate and store what is missing up to ``target``."""
        with self._db.write() as conn:
            meta.save_value(conn, UNCHECKED, state.size)
        while state.size < target:
            leaves = parse_entry_bundle(self._sources.ask(node, "join.journal", {"from": state.size + 1}))
            leaves = leaves[: target - state.size]
            for leaf in leaves:
                state.apply(parse_record(leaf))
            with self._db.write() as conn:
                _append(conn, leaves)

    def _hold_against(self, node: str, state: JournalState, note: Note | None, size: int) -> None:
        """The checkpoint must be final under its own members, and of this very journal."""
        if note is None:
            return
        checkpoint = parse_checkpoint(note.text)
        result = evaluate(state.periods.at(checkpoint.size).parsed_policy(), note)
        if checkpoint.size > size and not result.accepted and not result.bad:
            raise NotFetched(f"{node} shows a checkpoint of size {checkpoint.size}, which cannot be judged at {size}")
        if checkpoint.origin != self._cluster or not result.accepted:
            raise ProofError(f"its checkpoint of size {checkpoint.size} is not final: {result.detail}")
        with self._db.read() as conn:
            known = stored.root_at(conn, min(size, checkpoint.size))
        if checkpoint.size <= size:
            fits = known == checkpoint.root
        else:
            fits = verify_consistency(size, checkpoint.size, known, checkpoint.root, self._proof(node, size, checkpoint.size))
        if not fits:
            raise ProofError(f"its records do not lead to the root of its checkpoint of size {checkpoint.size}")
        if checkpoint.size <= size:
            with self._db.write() as conn:
                keep_final(conn, state, note, result.cosigned_by, self._clock())

    def _proof(self, node: str, old: int, new: int) -> list[bytes]:
        answer = self._sources.ask(node, "join.consistency", {"old": old, "new": new})
        document = parse_canonical(answer, what="join.consistency", max_bytes=MAX_PROOF_BYTES)
        _PROOF(document, "consistency")
        return [b64decode(item) for item in document["proof"]]


def _check_epoch(head: Head, state: JournalState) -> None:
    """Members change by records that begin a period, so there are no more epochs than periods (0011)."""
    if head.epoch >= len(state.periods.all) or head.since_index > head.index:
        raise ProofError(f"its members can not have changed {head.epoch} times, last at index {head.since_index}")


def _append(conn: sqlite3.Connection, leaves: list[bytes]) -> None:
    head = stored.load_head(conn)
    for leaf in leaves:
        stored.append_record(conn, head, leaf)
