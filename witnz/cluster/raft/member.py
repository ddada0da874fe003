"""One member of the built-in engine: core, guard and journal of the present epoch, proposals on their way, commands agreed.

No threads and no clock of its own: the engine's thread calls :meth:`RaftMember.step` (and the fuzzer, in virtual time).

Epochs.  The members of a core never change.  The command that changes the cluster's members ends the epoch: whoever applies it
throws the core away, journal and all, and begins the next epoch with a new one.  What the old members had agreed on behind that
command is applied by nobody; so it does not matter which of them, or how many, had got how far, and no two majorities
of different memberships ever decide about one index.  A command's index is that of the epoch's beginning plus its index in the
Raft log.  A member that missed the end of an epoch hears frames of a later one, and is told by its peers how to catch up.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from witnz.cluster.engine import MAX_IN_FLIGHT_BYTES, EngineStatus, Membership
from witnz.cluster.raft.core import RaftCore, Timing
from witnz.cluster.raft.file import LogFile
from witnz.cluster.raft.guard import MessageGuard
from witnz.cluster.raft.log import FORGOTTEN, UNPROVEN, RaftLog, Snapshot
from witnz.cluster.raft.messages import Message, format_frame, parse_command, parse_frame
from witnz.errors import FormatError
from witnz.logging import get_logger

log_event = get_logger(__name__)

COMPACT_BYTES: Final = 8 << 20
ASK_AGAIN_S: Final = 1.0
MAX_BACKLOG_BYTES: Final = 32 << 20
_FORGOTTEN_WORDS = "this node has lost its part of the ordered journal; remove it from the cluster and add it again"
_UNPROVEN_WORDS = "this node's journal is new and waits to be welcomed by half of the other members, rounded up"


@dataclass(frozen=True, slots=True)
class Agreed:
    """A command that is agreed, or, with ``snapshot``, that everything up to ``index`` is agreed and must be fetched."""

    index: int
    kind: int
    key: str
    body: bytes
    snapshot: bool = False


@dataclass(slots=True)
class _Proposal:
    command: bytes
    asked_at: float = float("-inf")
    asked: tuple[str, int] = ("", -1)  # which leader, in which term


class RaftMember:
    """``send(peer, frame)`` returns whether it was put on its way; ``agreed`` is emptied by whoever applies."""

    def __init__(
        self,
        me: str,
        membership: Membership,
        file: LogFile,
        send: Callable[[str, bytes], bool],
        *,
        timing: Timing | None = None,
        clock: Callable[[], float] = time.monotonic,
        compact_bytes: int = COMPACT_BYTES,
    ) -> None:
        self.me, self._file, self._send, self._clock = me, file, send, clock
        self._timing, self._compact_bytes = timing or Timing(), compact_bytes
        self.agreed: deque[Agreed] = deque()
        self.agreed_bytes = 0
        self.behind: tuple[str, int] | None = None
        """A member that speaks of a later epoch, and which."""
        self._linked: set[str] = set()
        self._proposals: dict[str, _Proposal] = {}
        self.membership = membership
        self._open(membership)

    def _open(self, membership: Membership) -> None:
        self.membership = membership
        self.behind = None
        self.log = RaftLog(self._file, membership.epoch)
        others = [member for member in membership.members if member != self.me]
        self.core = RaftCore(self.me, others, self.log, self._timing, self._committed)
        self.guard = MessageGuard(
            self.core, self.log, membership.members, self.me, self._timing,
            clock=self._clock, out=self._out, installed=self._installed, busy=lambda: self.agreed_bytes > MAX_BACKLOG_BYTES,
        )  # fmt: skip
        self._held: Snapshot | None = None
        self._compacted_at = 0
        self._replicated = (0, 0, 0)
        self._in_log: dict[str, int] = {}
        for proposal in self._proposals.values():
            proposal.asked_at = float("-inf")
        if self.log.snapshot.index:
            self._installed(self.log.snapshot)
        for peer in sorted(self._linked):
            if peer in others:
                self.guard.connected(peer)

    # -- the network ----------------------------------------------------------------------------------------------------------

    def connected(self, peer: str) -> None:
        self._linked.add(peer)
        if self._is_other(peer):
            self.guard.connected(peer)

    def disconnected(self, peer: str) -> None:
        self._linked.discard(peer)
        if self._is_other(peer):
            self.guard.disconnected(peer)

    def received(self, peer: str, frame: bytes) -> None:
        """A frame from an authenticated member; one that is malformed or of another epoch changes nothing."""
        try:
            epoch, message = parse_frame(frame)
        except FormatError as error:
            log_event.warning("engine frame was refused", member=peer, reason=error.message)
            return
        if not self._is_other(peer):
            return
        if epoch > self.membership.epoch:
            self.behind = (peer, epoch)
        elif epoch < self.membership.epoch:
            if message["type"] in ("hello", "pre_vote"):
                self.guard.greet(peer)  # so that it learns that its epoch is over
        elif message["type"] == "apply_command":
            if self.core.leads:
                self._admit(message["command"])
        else:
            self.guard.receive(peer, message)

    def _is_other(self, peer: str) -> bool:
        return peer in self.membership.members and peer != self.me

    def _out(self, peer: str, message: Message) -> bool:
        return peer in self._linked and self._send(peer, format_frame(self.membership.epoch, message))

    # -- proposals ------------------------------------------------------------------------------------------------------------

    def propose(self, key: str, command: bytes) -> None:
        """Have a command (:func:`witnz.cluster.raft.messages.format_command`) ordered, until :meth:`withdraw`."""
        self._proposals.setdefault(key, _Proposal(command))

    def withdraw(self, key: str) -> None:
        """Do not ask for it again."""
        self._proposals.pop(key, None)

    def _ask(self) -> None:
        """Bring proposals to the leader: at once, when another leads, and now and then again."""
        leader = self.core.leader_id
        if leader is None:
            return
        now, asked = self._clock(), (leader, self.core.term)
        for proposal in self._proposals.values():
            if proposal.asked == asked and now - proposal.asked_at < ASK_AGAIN_S:
                continue
            if leader == self.me:
                taken = self._admit(proposal.command)
            else:
                taken = leader in self.guard.greeted and self._out(
                    leader, {"type": "apply_command", "command": proposal.command}
                )
            if taken:
                proposal.asked, proposal.asked_at = asked, now

    def _admit(self, command: bytes) -> bool:
        """As the leader, take a command into the log; False where too much waits for agreement already."""
        parsed = parse_command(command)
        if parsed is None or self.log.bytes_after(self.core.commit) + len(command) > MAX_IN_FLIGHT_BYTES:
            return False
        key = parsed[1]
        there = self.log.entry(self._in_log.get(key, 0))
        if there is not None and there[0] == command:
            return True  # it is on its way
        self.log.add(command, self.log.last + 1, self.core.term)
        self._in_log[key] = self.log.last
        return True

    # -- time -----------------------------------------------------------------------------------------------------------------

    def step(self) -> None:
        """Everything that is due now.  Call it often: at least every few hundredths of a second."""
        self.core.doTick(0)
        self.guard.tick()
        self._ask()
        state = (self.core.term, self.log.last, self.core.commit)
        if self.core.leads and state != self._replicated:
            self._replicated = state
            self.core.replicate()
        self.log.sync()

    # -- what is agreed -------------------------------------------------------------------------------------------------------

    def _committed(self, index: int, command: bytes) -> None:
        parsed = parse_command(command)
        if parsed is None:
            return
        kind, key, body = parsed
        self._in_log.pop(key, None)
        self._put(Agreed(self.membership.since_index + index, kind, key, body))

    def _installed(self, snapshot: Snapshot) -> None:
        self._put(Agreed(self.membership.since_index + snapshot.index, 0, "", snapshot.data, snapshot=True))

    def _put(self, agreed: Agreed) -> None:
        self.agreed.append(agreed)
        self.agreed_bytes += len(agreed.body)

    def take(self) -> Agreed | None:
        """The next that is agreed; None where there is nothing."""
        if not self.agreed:
            return None
        agreed = self.agreed.popleft()
        self.agreed_bytes -= len(agreed.body)
        return agreed

    # -- compaction, members --------------------------------------------------------------------------------------------------

    @property
    def wants_snapshot(self) -> bool:
        """Whether the journal has grown enough for :meth:`compact`."""
        return self.log.file_bytes > max(self._compact_bytes, self._compacted_at + self._compact_bytes // 2)

    def compact(self, index: int, data: bytes) -> None:
        """A snapshot of the application at ``index``.  It is held until the journal has grown further, and only then is what
        came before it dropped, so that members a little behind still get entries rather than snapshots."""
        at = index - self.membership.since_index
        if self._held is not None and self._held.index > self.log.first + 1:
            self.log.compact(self._held)
        self._held = Snapshot(at, data) if self.log.first + 1 < at <= self.core.applied else None
        self._compacted_at = self.log.file_bytes

    def reconfigure(self, membership: Membership) -> None:
        """Begin another epoch.  What the old one had agreed on further is dropped: whoever applied it knows that it is void."""
        self.agreed.clear()
        self.agreed_bytes = 0
        self.log.close()
        self._open(membership)

    def close(self) -> None:
        self.log.sync()
        self.log.close()

    def status(self, applied_index: int) -> EngineStatus:
        core = self.core
        words = {FORGOTTEN: _FORGOTTEN_WORDS, UNPROVEN: _UNPROVEN_WORDS}.get(self.log.standing)
        return EngineStatus(
            leader=core.leader_id,
            term=core.term,
            index=applied_index,
            has_quorum=core.leader_id is not None and self.guard.hears_quorum(),
            committed=self.membership.since_index + core.commit,
            epoch=self.membership.epoch,
            error=words,
            voiceless=self._voiceless(),
        )

    def _voiceless(self) -> tuple[str, ...]:
        own = [self.me] if self.log.standing == FORGOTTEN else []
        return tuple(sorted([*own, *(peer for peer, standing in self.guard.greeted.items() if standing == FORGOTTEN)]))
