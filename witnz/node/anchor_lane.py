"""One anchor of a node: what it does next, given what its outbox and the journal say.

    receipt in hand       journal it
    checkpoint under way  go on with it, when its time has come
    idle                  begin with the newest final checkpoint, when the interval has passed or somebody asked

A checkpoint is begun only where this node leads, where it says more than the last one anchored here (an ``anchor`` record alone
is nothing new), and where it is consistent with every checkpoint this node's journal says was anchored.  What was begun is
finished, whoever leads by then.  Failures are tried again after a pause that doubles; those that time does not cure, more
seldom.  Nothing here waits for anything but the anchor itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from witnz.anchor.base import Anchor, Published, Withdrawn
from witnz.config import AnchorConfig
from witnz.core.checkpoint import Checkpoint, checkpoint_digest, format_checkpoint, parse_checkpoint
from witnz.core.journal_facts import Anchored
from witnz.core.note import parse_note
from witnz.core.receipt import Receipt, parse_receipt
from witnz.core.record import parse_record
from witnz.errors import AnchorContradicts, AnchorError, AnchorRefused, AnchorUnreachable, WitnzError
from witnz.metrics import Metrics
from witnz.node.findings import FindingBook
from witnz.node.journal import Journal
from witnz.node.publication import publication_of
from witnz.store import anchors, checkpoints
from witnz.store import journal as stored
from witnz.store.database import Database

log = structlog.get_logger(__name__)

US: Final = 1_000_000
RETRY_S: Final = 1.0
MAX_RETRY_S: Final = 300.0
REFUSED_RETRY_S: Final = 30.0
MAX_REFUSED_RETRY_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class Parts:
    """What lanes share with their node."""

    db: Database
    journal: Journal
    book: FindingBook
    clock: Callable[[], int]
    metrics: Metrics
    cluster: str
    leads: Callable[[], bool]


@dataclass(slots=True)
class Lane:
    """See the module.  ``asked``: somebody wants a publication now; ``woken``: look at once."""

    name: str
    section: AnchorConfig
    anchor: Anchor
    parts: Parts
    asked: bool = False
    woken: threading.Event = field(default_factory=threading.Event)
    turn: threading.Lock = field(default_factory=threading.Lock)
    rounds: int = 0
    _own: dict[tuple[str, str], bool] = field(default_factory=dict)

    def configure(self) -> None:
        """Note in the store that this anchor exists."""
        with self.parts.db.write() as conn:
            anchors.configure(conn, self.name, self.section.type, self.anchor.place, self.parts.clock())

    def ask(self) -> None:
        """Publish as soon as possible, whatever the interval or a pause say."""
        self.asked = True
        self.woken.set()

    def step(self) -> bool:
        """Do what is next, if anything; whether anything was done that may be gone on with at once."""
        with self.turn:
            try:
                return self._step()
            except AnchorError as error:
                if isinstance(error, AnchorContradicts):
                    self._open_fork(f"{self.name}: {error.message}", self.name)
                self._failed(error)
                return False
            finally:
                self.rounds += 1

    # -- what is next ---------------------------------------------------------------------------------------------------------

    def _step(self) -> bool:
        state, now = self.state(), self.parts.clock()
        if state.receipt is not None:
            self._journal(state.receipt)
            return True
        if state.note is not None:
            if now < state.next_at and not self.asked:
                return False
            self.asked = False
            return self._go_on(state.note)
        if not self._is_due(state, now):
            return False
        note = self._newest_final()
        asked, self.asked = self.asked, False
        if note is None or not self.parts.leads():
            return False
        if not self._says_more(note):
            return False
        log.info("anchoring was begun", anchor=self.name, size=_size(note), asked=asked)
        self._check_consistent(note)
        with self.parts.db.write() as conn:
            anchors.begin(conn, self.name, note, now)
        return self._go_on(note)

    def _is_due(self, state: anchors.StoredAnchor, now: int) -> bool:
        if self.asked:
            return True
        newest = self.newest()
        # What is of a time to come is of before the clock was set back: by it nobody knows how long ago that was.
        due_at = 0 if newest is None or newest.at > now else newest.at + round(self.section.every_s * US)
        held_until = 0 if (state.tried_at or 0) > now else state.next_at
        return now >= max(due_at, held_until)

    def _newest_final(self) -> str | None:
        with self.parts.db.read() as conn:
            newest = checkpoints.latest(conn, final=True)
        return None if newest is None else newest.note

    def _says_more(self, note: str) -> bool:
        newest = self.newest()
        if newest is None:
            return True
        return _size(note) > newest.size and self.parts.journal.state.newest_worth_anchoring > newest.size

    def uncovered(self) -> bool:
        """Whether the journal holds something that this anchor does not cover."""
        newest = self.newest()
        return self.parts.journal.state.newest_worth_anchoring > (0 if newest is None else newest.size)

    def _check_consistent(self, note: str) -> None:
        """Refuse to publish what contradicts a checkpoint that was anchored before; that is a fork of our own journal."""
        state, size = self.parts.journal.state, _size(note)
        newest = {(one.type, one.place): one for one in state.anchored()}
        with self.parts.db.read() as conn:
            for one in newest.values():
                text = format_checkpoint(Checkpoint(self.parts.cluster, one.size, stored.root_at(conn, min(one.size, size))))
                if one.size > size or checkpoint_digest(text) != one.digest:
                    break
            else:
                return
        detail = f"the checkpoint of size {size} is not consistent with the one of size {one.size} anchored by {one.type}"
        self._open_fork(detail, f"{one.type} {one.place} {one.size}")
        raise AnchorRefused(f"not published: {detail}", hint="run `witnz verify --store` and `witnz anchor check --all`")

    def _open_fork(self, detail: str, key: str) -> None:
        with self.parts.db.write() as conn:
            self.parts.book.open(conn, cls="checkpoint.forked", key=key, detail=detail)

    # -- doing it -------------------------------------------------------------------------------------------------------------

    def _go_on(self, note: str) -> bool:
        publication = publication_of(self.parts.db, self.parts.clock, note, self.parts.journal.state)
        with self.parts.metrics.timed("witnz_anchor_publish_seconds", anchor=self.name):
            outcome = self.anchor.publish(publication, self)
        if isinstance(outcome, Withdrawn):
            with self.parts.db.write() as conn:
                anchors.drop(conn, self.name)
            raise AnchorUnreachable(f"not published: {outcome.reason}", hint="a newer checkpoint is tried next")
        if isinstance(outcome, Published):
            receipt, complete = outcome.receipt, True
        else:
            next_at = self.parts.clock() + round(outcome.retry_after_s * US)
            with self.parts.db.write() as conn:
                anchors.mark_pending(conn, self.name, outcome.reason, next_at)
            if outcome.receipt is None or self._stands(outcome.receipt):
                return False
            receipt, complete = outcome.receipt, False
        if (receipt.digest, receipt.size) != (publication.digest, _size(note)):
            raise AnchorRefused(
                f"anchor {self.name} gave a receipt for another checkpoint", hint="this is a mistake in its code"
            )
        with self.parts.db.write() as conn:
            anchors.hold(conn, self.name, receipt, complete=complete)
        self._journal(receipt)
        return True

    def _journal(self, receipt: Receipt) -> None:
        """Put the receipt into the journal; where that fails it stays in hand, and is tried again."""
        if not self._stands(receipt):
            body = {
                "type": receipt.type,
                "digest": receipt.digest.hex(),
                "size": receipt.size,
                "receipt": dict(receipt.members),
            }
            self.parts.journal.propose("anchor", body)
        with self.parts.db.write() as conn:
            anchors.settle(conn, self.name)
        self.parts.metrics.count("witnz_anchor_published_total", anchor=self.name)
        log.info("checkpoint was anchored", anchor=self.name, type=receipt.type, size=receipt.size)

    def _stands(self, receipt: Receipt) -> bool:
        """Whether the journal has this very receipt: a crash between journalling and settling must not repeat it."""
        for one in reversed(self.parts.journal.state.anchored()):
            if one.size < receipt.size:
                return False
            if (one.type, one.digest) == (receipt.type, receipt.digest) and self.receipt_of(one).members == receipt.members:
                return True
        return False

    def _failed(self, error: AnchorError) -> None:
        attempts = self.state().attempts
        first, most = (RETRY_S, MAX_RETRY_S) if error.retryable else (REFUSED_RETRY_S, MAX_REFUSED_RETRY_S)
        pause_s = min(first * 2 ** min(attempts, 20), most, max(self.section.every_s, RETRY_S))
        with self.parts.db.write() as conn:
            next_at = self.parts.clock() + round(pause_s * US)
            anchors.mark_failed(conn, self.name, error.message, error.hint, refused=not error.retryable, next_at=next_at)
        self.parts.metrics.count("witnz_anchor_failures_total", anchor=self.name, code=error.code)
        log.warning("anchoring failed", anchor=self.name, reason=error.message, hint=error.hint, attempts=attempts + 1)

    # -- what it knows --------------------------------------------------------------------------------------------------------

    def state(self) -> anchors.StoredAnchor:
        with self.parts.db.read() as conn:
            found = anchors.get(conn, self.name)
        if found is None:
            raise WitnzError(f"anchor {self.name} is not in the store")
        return found

    def receipts(self) -> list[Anchored]:
        """The ``anchor`` records of this place, in journal order."""
        return [one for one in self.parts.journal.state.anchored() if self._is_own(one)]

    def newest(self) -> Anchored | None:
        """The newest of :meth:`receipts`."""
        return next((one for one in reversed(self.parts.journal.state.anchored()) if self._is_own(one)), None)

    def _is_own(self, one: Anchored) -> bool:
        """Whether a record is of this place; asked of the anchor once a place."""
        if one.type != self.anchor.type:
            return False
        key = (one.type, one.place)
        if key not in self._own:
            try:
                own = self.anchor.is_own(self.receipt_of(one))
            except AnchorError:
                return False
            if not one.place:  # a note does not say where it lies
                return own
            self._own[key] = own
        return self._own[key]

    def receipt_of(self, one: Anchored) -> Receipt:
        with self.parts.db.read() as conn:
            return parse_receipt(parse_record(stored.record_at(conn, one.seq)).body["receipt"])

    # -- the anchor's own memory (witnz.anchor.base.Memory) -------------------------------------------------------------------

    def load(self) -> Mapping[str, Any]:
        with self.parts.db.read() as conn:
            return anchors.load_memory(conn, self.name)

    def save(self, document: Mapping[str, Any]) -> None:
        with self.parts.db.write() as conn:
            anchors.save_memory(conn, self.name, document)


def _size(note: str) -> int:
    return parse_checkpoint(parse_note(note).text).size
