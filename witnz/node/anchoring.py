"""The anchors of a node: a thread each, so that one that hangs delays no other and none delays recording.

1. Each publishes by its own schedule (:mod:`witnz.node.anchor_lane`), and looks at what it published before: at its newest
   receipt and at one older in turn, once an interval.  What is gone, altered or hidden is a finding.
2. An anchor that has missed two intervals while there was something to anchor is a finding, ``anchor.late``, on every node,
   from the journal alone: a leader that does not anchor is noticed by the others.
3. At its start a node asks each anchor for the newest checkpoint there.  One that this cluster's log key signed and that is
   larger than the journal says that the node was rolled back; one that contradicts it, that one of the two is a fork.  Both
   are findings, and until the journal has caught up with it nothing is cosigned (:meth:`Anchoring.condition`).  An anchor that
   does not answer in time holds nothing up.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import structlog

from witnz.anchor.base import Look, Surroundings
from witnz.anchor.registry import named, open_anchor
from witnz.config import Config
from witnz.core.checkpoint import Checkpoint, parse_checkpoint
from witnz.core.finding import FindingClass
from witnz.core.journal_facts import Anchored
from witnz.core.keys import Signer, parse_verifier_key
from witnz.core.note import parse_note, signature_fits
from witnz.core.verdict import CheckStatus
from witnz.errors import AnchorError, FormatError, UsageError, WitnzError
from witnz.node.anchor_lane import US, Lane, Parts
from witnz.store import anchors
from witnz.store import journal as stored

if TYPE_CHECKING:
    from witnz.anchor.witness_server import WitnessServer

log = structlog.get_logger(__name__)

TICK_S: Final = 0.25
START_WAIT_S: Final = 15.0
LATE_AFTER: Final = 2  # intervals
LATE_GRACE_S: Final = 60.0
WORST: Final = (CheckStatus.FAIL, CheckStatus.SKIP, CheckStatus.OK)


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look at one receipt found; ``findings``: ids of those that it opened."""

    anchor: str
    record: Anchored
    looks: tuple[Look, ...]
    findings: tuple[str, ...]

    @property
    def status(self) -> CheckStatus:
        """The worst of its checks."""
        found = {look.check.status for look in self.looks}
        return next((status for status in WORST if status in found), CheckStatus.SKIP)

    def to_json(self) -> dict[str, Any]:
        return {
            "anchor": self.anchor,
            "type": self.record.type,
            "size": self.record.size,
            "journal_seq": self.record.seq,
            "status": self.status.value,
            "checks": [look.check.to_json() for look in self.looks],
            "findings": list(self.findings),
        }


class Anchoring:
    """All anchors of a node.  Methods may be called from any thread."""

    def __init__(self, config: Config, parts: Parts, cosigner: Signer | None = None) -> None:
        """``cosigner``: the key with which this node witnesses other people's logs, where that is configured."""
        self._config, self._parts, self._cosigner = config, parts, cosigner
        self._witness: WitnessServer | None = None
        surroundings = Surroundings(parts.cluster, parts.clock)
        self.lanes = {
            name: Lane(name, section, open_anchor(section, surroundings), parts)
            for name, section in named(config.anchors).items()
        }
        self._started = time.monotonic()
        self._late_since: dict[str, float] = {}  # by anchor: monotonic seconds
        self._has_threads = False
        self._compared = {name: threading.Event() for name in self.lanes}
        self._floor: Checkpoint | None = None
        self._forked: str | None = None
        self._checked_floor = False
        self._lock = threading.Lock()

    def configure(self) -> None:
        """Note every anchor in the store; from now on each has a thread, which asks it for what is there."""
        self._has_threads = True
        for lane in self.lanes.values():
            lane.configure()

    def start(self, spawn: Callable[[str, Callable[[], None]], None], stop: threading.Event, *, publish: bool) -> None:
        """Begin, each anchor in a thread; without ``publish`` only compare with what is anchored, and wait for that.

        Raises ConfigError for a witness that cannot be served.
        """
        if self._config.witness.addr is not None and self._cosigner is not None:
            from witnz.anchor.witness_server import serve_witness

            section, parts = self._config.witness, self._parts
            self._witness = serve_witness(parts.db, self._cosigner, str(section.addr), section.logs, parts.clock)
        self.configure()
        for name in self.lanes:
            spawn(f"anchor {name}", partial(self.run, name, stop) if publish else partial(self.compare, name))
        if not publish:
            self.await_compared()

    def stop(self) -> None:
        """Witness no more; the threads end with the event that they were given."""
        for lane in self.lanes.values():
            lane.woken.set()
        if self._witness is not None:
            self._witness.stop()

    # -- running --------------------------------------------------------------------------------------------------------------

    def run(self, name: str, stop: threading.Event) -> None:
        """The life of one anchor's thread."""
        lane = self.lanes[name]
        self.compare(name)
        looked_at, turn = time.monotonic(), 0
        while not stop.is_set():
            try:
                while lane.step() and not stop.is_set():
                    pass
                if time.monotonic() - looked_at >= lane.section.every_s:
                    looked_at, turn = time.monotonic(), turn + 1
                    self._look_round(lane, turn)
            except WitnzError as error:  # no quorum, a full disk: what is under way stays under way
                log.warning("anchor is held up", anchor=name, reason=error.message)
            lane.woken.wait(TICK_S)
            lane.woken.clear()

    def check_names(self, names: Sequence[str]) -> None:
        """Raise UsageError for a name that is no anchor's, and where there is no anchor at all."""
        self._chosen(names)

    def now(self, names: Sequence[str], wait_s: float, told: Callable[[int], None] = lambda done: None) -> list[dict[str, Any]]:
        """Publish through these anchors (all, if none is named) and wait for what comes of it; one document each.

        ``status``: published, pending (under way), failed, unchanged (nothing new since), waiting (it has not begun yet).
        """
        lanes = self._chosen(names)
        before = {lane.name: (lane.newest(), lane.rounds) for lane in lanes}
        for lane in lanes:
            lane.ask()
        deadline = time.monotonic() + wait_s
        while time.monotonic() < deadline:
            outcomes = [self._outcome(lane, *before[lane.name]) for lane in lanes]
            if all(outcome["status"] not in ("waiting", "pending") for outcome in outcomes):
                return outcomes
            told(sum(outcome["status"] == "published" for outcome in outcomes))
            time.sleep(0.05)
        return [self._outcome(lane, *before[lane.name]) for lane in lanes]

    def _chosen(self, names: Sequence[str]) -> list[Lane]:
        unknown = [name for name in names if name not in self.lanes]
        if unknown or not self.lanes:
            there = ", ".join(self.lanes) or "none"
            what = f"there is no anchor {unknown[0][:60]!r}" if unknown else "no anchor is configured"
            raise UsageError(f"{what}; configured: {there}", hint="anchors are listed under anchors in witnz.yaml")
        return [self.lanes[name] for name in names] if names else list(self.lanes.values())

    def _outcome(self, lane: Lane, before: Anchored | None, rounds: int) -> dict[str, Any]:
        newest, state = lane.newest(), lane.state()
        document: dict[str, Any] = {"anchor": lane.name, "type": lane.section.type, "place": lane.anchor.place}
        if newest is not None and newest != before:
            return document | {"status": "published", "size": newest.size, "journal_seq": newest.seq}
        if lane.rounds == rounds or lane.asked:
            return document | {"status": "waiting", "reason": "it has not begun yet"}
        if state.error is not None:
            return document | {"status": "failed", "reason": state.error, "hint": state.hint}
        if state.note is not None or state.receipt is not None:
            return document | {"status": "pending", "reason": state.reason or "under way"}
        if not self._parts.leads():
            return document | {
                "status": "failed",
                "reason": "this node does not lead",
                "hint": "ask the leader",
                "refused": True,
            }
        reason = "nothing was added since the last one" if newest is not None else "there is no final checkpoint yet"
        return document | {"status": "unchanged", "reason": reason, "size": None if newest is None else newest.size}

    # -- looking --------------------------------------------------------------------------------------------------------------

    def check(self, *, everything: bool, told: Callable[[int], None] = lambda done: None) -> list[Looked]:
        """Look at the newest receipt of every anchor, or at all receipts of all of them; findings are opened."""
        found: list[Looked] = []
        for lane in self.lanes.values():
            receipts = lane.receipts()
            for one in receipts if everything else receipts[-1:]:
                found.append(self._look(lane, one))
                told(len(found))
        return found

    def _look_round(self, lane: Lane, turn: int) -> None:
        receipts = lane.receipts()
        chosen = dict.fromkeys([*receipts[-1:], *(receipts[(-1 - turn) % len(receipts) :][:1] if receipts else [])])
        for one in chosen:
            self._look(lane, one)

    def _look(self, lane: Lane, one: Anchored) -> Looked:
        looks = tuple(lane.anchor.look(lane.receipt_of(one)))
        opened = []
        with self._parts.db.write() as conn:
            for look in looks:
                if look.check.status is CheckStatus.FAIL:
                    cls = look.finding or FindingClass.ANCHOR_ALTERED
                    key = f"{one.type} {one.place} {one.size} {look.check.name}"
                    name = self._parts.book.open(conn, cls=cls, key=key, detail=look.check.detail)
                    opened += [name] if name is not None else []
            looked = Looked(lane.name, one, looks, tuple(opened))
            checks = [look.check.to_json() for look in looks]
            anchors.save_look(conn, anchors.StoredLook(one.seq, self._parts.clock(), looked.status.value, checks))
        self._parts.metrics.count("witnz_anchor_looks_total", anchor=lane.name, status=looked.status.value)
        return looked

    # -- late -----------------------------------------------------------------------------------------------------------------

    def check_late(self) -> None:
        """Open ``anchor.late`` for every anchor that has missed two intervals; nothing is asked of the outside.

        Where only the clock was set forward, the anchor is due at once, and no longer late a moment later.
        """
        now = self._parts.clock()
        for lane in self.lanes.values():
            late_s = self.overdue_s(lane, now)
            if late_s is None:
                self._late_since.pop(lane.name, None)
                continue
            since, state = self._late_since.setdefault(lane.name, time.monotonic()), lane.state()
            untried = state.attempts == 0 and state.note is None
            if untried and time.monotonic() - since < min(lane.section.every_s, LATE_GRACE_S):
                continue
            why = state.error or state.reason or "nothing was published"
            with self._parts.db.write() as conn:
                detail = f"{lane.anchor.place}: no checkpoint for {late_s:.0f} s, every {lane.section.every_s:.0f} s: {why}"
                self._parts.book.open(conn, cls=FindingClass.ANCHOR_LATE, key=lane.name, detail=detail)

    def overdue_s(self, lane: Lane, now: int) -> float | None:
        """How long an anchor has been without a checkpoint, where that is too long; None where it is in time."""
        newest, state = lane.newest(), lane.state()
        since = max(state.since, 0 if newest is None else newest.at)
        late_s = (now - since) / US
        patient = state.attempts == 0 and time.monotonic() - self._started < lane.section.every_s
        if late_s <= LATE_AFTER * lane.section.every_s or patient or not lane.uncovered():
            return None
        return late_s

    # -- at the start ---------------------------------------------------------------------------------------------------------

    def compare(self, name: str) -> None:
        """Ask one anchor for the newest checkpoint of this log, and note what follows; an outage is noted and nothing else."""
        lane = self.lanes[name]
        try:
            note = lane.anchor.newest(self._parts.cluster, 0)
            if note is not None:
                self._consider(lane, note)
        except (AnchorError, FormatError) as error:
            log.warning("newest anchored checkpoint was not read", anchor=name, reason=error.message)
        finally:
            self._compared[name].set()

    def _consider(self, lane: Lane, text: str) -> None:
        note = parse_note(text)
        checkpoint = parse_checkpoint(note.text)
        key = parse_verifier_key(self._parts.journal.state.log_key)
        if checkpoint.origin != self._parts.cluster or not any(
            signature_fits(note.text, each, key) for each in note.signatures
        ):
            log.warning("anchored checkpoint is not ours", anchor=lane.name, origin=checkpoint.origin, size=checkpoint.size)
            return
        size = self._parts.journal.size
        with self._lock:
            if self._floor is None or checkpoint.size > self._floor.size:
                self._floor, self._checked_floor = checkpoint, False
        if checkpoint.size > size:
            detail = (
                f"{lane.name} ({lane.anchor.place}) holds a checkpoint of size {checkpoint.size}; the journal here has {size}"
            )
            with self._parts.db.write() as conn:
                self._parts.book.open(conn, cls="node.rolled-back", key=f"size {checkpoint.size}", detail=detail)
            log.error("node was rolled back", anchor=lane.name, anchored=checkpoint.size, here=size)
        else:
            self._check_floor(checkpoint)

    def _check_floor(self, floor: Checkpoint) -> None:
        """Compare the journal with an anchored checkpoint that it has reached."""
        with self._parts.db.read() as conn:
            root = stored.root_at(conn, floor.size)
        with self._lock:
            self._checked_floor = self._checked_floor or floor == self._floor
            if root == floor.root:
                return
            self._forked = f"the journal contradicts the checkpoint of size {floor.size} that is anchored"
        with self._parts.db.write() as conn:
            key = f"size {floor.size} root {floor.root.hex()[:16]}"
            self._parts.book.open(conn, cls="checkpoint.forked", key=key, detail=self._forked)

    def condition(self, size: int) -> str | None:
        """Why this node must not sign a checkpoint of ``size``, None where nothing anchored speaks against it."""
        waiting = [name for name, event in self._compared.items() if not event.is_set()]
        if not self._has_threads:  # a command beside a stopped node: nobody else will ask
            for name in waiting:
                self.compare(name)
            waiting = []
        if waiting and time.monotonic() - self._started < START_WAIT_S:
            return f"{', '.join(waiting)} has not said yet what is anchored"
        with self._lock:
            floor, checked = self._floor, self._checked_floor
        if floor is not None and size < floor.size:
            return f"a checkpoint of size {floor.size} is anchored, and the journal has {size}"
        if floor is not None and not checked:
            self._check_floor(floor)
        return self._forked

    def await_compared(self, timeout_s: float = START_WAIT_S) -> None:
        """Until every anchor has been asked, or the time is up."""
        deadline = time.monotonic() + timeout_s
        for event in self._compared.values():
            event.wait(max(0.0, deadline - time.monotonic()))


def worst_of(found: Sequence[Looked]) -> CheckStatus:
    """The worst of several looks; skip where there is none: nothing was checked."""
    statuses = {looked.status for looked in found}
    return next((status for status in WORST if status in statuses), CheckStatus.SKIP)
