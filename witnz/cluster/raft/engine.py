"""The built-in engine: a thread that keeps Raft going, a thread that applies, and callers that wait.

    callers       propose() and barrier() wait until their command is applied here, or their deadline has passed
    raft thread   the only one that touches the member: frames in, proposals in, time; never waits for the application
    apply thread  the only one that calls the application, in order; a full disk stops it and nothing else

Errors of the engine's own disk end the engine (fail-stop): the node goes on without it and says so.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from witnz.cluster.engine import (
    MAX_IN_FLIGHT_BYTES,
    MAX_SNAPSHOT_BYTES,
    Apply,
    EngineStatus,
    Membership,
    Resume,
    check_command,
)
from witnz.cluster.peers import EngineChannel, Peers
from witnz.cluster.raft.codec import decode, encode
from witnz.cluster.raft.core import Timing
from witnz.cluster.raft.file import DiskFile
from witnz.cluster.raft.member import COMPACT_BYTES, Agreed, RaftMember
from witnz.cluster.raft.messages import BARRIER, COMMAND, MAX_KEY_CHARS, format_command
from witnz.ending import end_threads
from witnz.errors import ConfigError, FormatError, NoQuorum, StoreError, UsageError, WitnzError
from witnz.logging import get_logger

log = get_logger(__name__)

TICK_S: Final = 0.02
RETRY_S: Final = 0.5
CATCH_UP_S: Final = 1.0
SNAPSHOT_METHOD: Final = "engine.snapshot"
MAX_INBOX_BYTES: Final = 32 << 20
_ANSWER_S = 5.0
_HINT = "see `witnz cluster status` for who answers"


class PeerChannel(Peers, EngineChannel, Protocol):
    """Both halves of the members' channel, as :class:`witnz.cluster.transport.TlsPeers` has them."""


class _Waiter:
    """Somebody who waits for a command to be applied here."""

    __slots__ = ("done", "index")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.index: int | None = None


class RaftEngine:
    """The :class:`witnz.cluster.engine.Engine` of a cluster of several members that needs nothing else installed."""

    def __init__(
        self,
        node_id: str,
        membership: Membership,
        directory: Path,
        peers: PeerChannel,
        *,
        timing: Timing | None = None,
        compact_bytes: int = COMPACT_BYTES,
    ) -> None:
        """``directory`` holds ``raft.log``, which is compacted when it grows past ``compact_bytes``.

        Raises StoreCorrupt where that file is damaged, ConfigError for another pysyncobj than the one that was examined.
        """
        if node_id not in membership.members:
            raise ConfigError(
                f"{node_id} is not among the members {', '.join(membership.members)}", hint="`witnz cluster status`"
            )
        self._node_id, self._peers = node_id, peers
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._work = threading.Condition(self._lock)
        self._inbox: deque[Callable[[RaftMember], None]] = deque()
        self._inbox_bytes = 0
        self._waiters: dict[str, list[_Waiter]] = {}
        self._in_flight_bytes = 0
        self._ready: deque[Agreed] = deque()
        self._applied = 0
        self._changing: Membership | None = None
        self._fetch: str | None = None
        self._fetched_at = float("-inf")
        self._apply: Apply | None = None
        self._resume: Resume | None = None
        self._error: str | None = None
        self._fatal: str | None = None
        self._closed = False
        self._wants_snapshot = False
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = DiskFile(directory / "raft.log")
        self._member = RaftMember(
            node_id, membership, file, peers.send_engine_frame, timing=timing, compact_bytes=compact_bytes
        )
        self._status = self._member.status(0)
        self._status_at = float("-inf")
        self._takes_part = False
        self._raft = threading.Thread(target=self._run_raft, name="raft", daemon=True)
        self._applying = threading.Thread(target=self._run_apply, name="raft-apply", daemon=True)

    # -- asked by the node ----------------------------------------------------------------------------------------------------

    def on_apply(self, apply: Apply, resume: Resume | None = None) -> None:
        self._apply, self._resume = apply, resume

    def take_part(self) -> None:
        if not self._takes_part:
            self._takes_part = True
            self._peers.serve(SNAPSHOT_METHOD, self._on_snapshot_asked, 0)
            self._peers.on_engine_frames(self)
            self._raft.start()

    def start(self) -> None:
        if self._apply is None:
            raise RuntimeError("start() before on_apply()")
        if self._resume is not None:
            self._applied = self._resume.applied_index()
        self.take_part()
        self._applying.start()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._work.notify_all()
        self._wake.set()
        end_threads(self._raft, self._applying)
        with self._lock:
            for waiters in self._waiters.values():
                for waiter in waiters:
                    waiter.done.set()

    def propose(self, command: bytes, key: str, deadline_s: float) -> int:
        check_command(command)
        if not 0 < len(key) <= MAX_KEY_CHARS:
            raise UsageError(f"key: expected 1 to {MAX_KEY_CHARS} characters, found {len(key)}")
        return self._order(COMMAND, key, command, deadline_s)

    def barrier(self, deadline_s: float) -> None:
        self._order(BARRIER, f"{self._node_id}/barrier/{secrets.token_hex(12)}", b"", deadline_s)

    def reconfigure(self, membership: Membership) -> None:
        with self._lock:
            self._changing = membership
            self._ready.clear()
        self._wake.set()

    def leader(self) -> str | None:
        return self.status().leader

    def status(self) -> EngineStatus:
        status = self._status
        alive = time.monotonic() - self._status_at < _ANSWER_S and self._fatal is None and not self._closed
        error = self._fatal or self._error or status.error
        return EngineStatus(
            leader=status.leader if alive else None,
            term=status.term,
            index=self._applied,
            has_quorum=alive and status.has_quorum,
            committed=max(status.committed, self._applied),
            epoch=status.epoch,
            error=error if alive or error else "the engine does not run",
            voiceless=status.voiceless if alive else (),
        )

    def _order(self, kind: int, key: str, body: bytes, deadline_s: float) -> int:
        waiter, command = _Waiter(), format_command(kind, key, body)
        with self._lock:
            if self._in_flight_bytes + len(command) > MAX_IN_FLIGHT_BYTES:
                raise NoQuorum("too much waits for agreement already", hint=_HINT, code="quorum.busy")
            self._in_flight_bytes += len(command)
            self._waiters.setdefault(key, []).append(waiter)
        self._post(lambda member: member.propose(key, command))
        try:
            waiter.done.wait(deadline_s)
        finally:
            with self._lock:
                self._in_flight_bytes -= len(command)
                waiting = self._waiters.get(key, [])
                if waiter in waiting:
                    waiting.remove(waiter)
                if not waiting:
                    self._waiters.pop(key, None)
                    self._post_locked(lambda member: member.withdraw(key))
        if waiter.index is None:
            reason = self._fatal or self._error or ("the engine was closed" if self._closed else "no agreement")
            raise NoQuorum(f"{key}: {reason} within {deadline_s:g} s", hint=_HINT)
        return waiter.index

    # -- from the channel -----------------------------------------------------------------------------------------------------

    def connected(self, node: str) -> None:
        self._post(lambda member: member.connected(node))

    def disconnected(self, node: str) -> None:
        self._post(lambda member: member.disconnected(node))

    def received(self, node: str, frame: bytes) -> None:
        with self._lock:
            if self._inbox_bytes + len(frame) > MAX_INBOX_BYTES:
                return  # Raft asks again
            self._inbox_bytes += len(frame)

        def take(member: RaftMember) -> None:
            with self._lock:
                self._inbox_bytes -= len(frame)
            member.received(node, frame)

        self._post(take)

    def _post(self, work: Callable[[RaftMember], None]) -> None:
        with self._lock:
            self._post_locked(work)

    def _post_locked(self, work: Callable[[RaftMember], None]) -> None:
        self._inbox.append(work)
        self._wake.set()

    # -- the raft thread ------------------------------------------------------------------------------------------------------

    def _run_raft(self) -> None:
        member = self._member
        try:
            while not self._closed and self._fatal is None:
                self._wake.wait(TICK_S)
                self._wake.clear()
                self._turn(member)
        except (
            WitnzError,
            OSError,
            ArithmeticError,
            LookupError,
            TypeError,
            ValueError,
            AttributeError,
            AssertionError,
        ) as error:
            # Whatever it is, the state in memory can no longer be trusted to be what the disk says.
            self._fatal = f"the engine stopped: {error}"
            log.exception("engine stopped", reason=str(error))
        try:
            member.close()
        except StoreError as error:
            log.warning("engine's journal was not closed", reason=error.message)
        with self._lock:
            for waiters in self._waiters.values():
                for waiter in waiters:
                    waiter.done.set()
            self._work.notify_all()

    def _turn(self, member: RaftMember) -> None:
        while self._inbox:
            self._inbox.popleft()(member)
        with self._lock:
            changing, self._changing = self._changing, None
            if changing is not None:
                self._ready.clear()
        if changing is not None:
            if self._node_id in changing.members:
                member.reconfigure(changing)
                log.info("members were changed", epoch=changing.epoch, members=", ".join(changing.members))
            else:
                self._fatal = "this node is no member any more"
                log.warning("engine was stopped", reason=self._fatal)
                return
        member.step()
        self._status = member.status(self._applied)
        self._status_at = time.monotonic()
        if member.behind is not None:
            self._fetch, member.behind = member.behind[0], None
        self._wants_snapshot = member.wants_snapshot
        if member.agreed or self._fetch is not None or self._wants_snapshot:
            with self._lock:
                if self._changing is None:
                    while (agreed := member.take()) is not None:
                        self._ready.append(agreed)
                    self._work.notify_all()

    # -- the apply thread -----------------------------------------------------------------------------------------------------

    def _run_apply(self) -> None:
        while True:
            with self._lock:
                while not (self._ready or self._fetch or self._wants_snapshot) and not self._closed and self._fatal is None:
                    self._work.wait(RETRY_S)
                if self._closed or self._fatal is not None:
                    return
                agreed = self._ready[0] if self._ready and self._changing is None else None
                fetch, self._fetch = self._fetch, None
                wants, self._wants_snapshot = self._wants_snapshot, False
            try:
                if fetch is not None:
                    self._catch_up(fetch)
                if agreed is not None:
                    self._take(agreed)
                if wants and self._resume is not None:
                    index, data = self._resume.snapshot()
                    self._post(partial(_compact, index, _checked(data)))
            except Exception as error:  # a command is never skipped and never ends the thread: it is tried again
                self._error = f"a command is not applied: {error}"
                log.exception("command was not applied and will be tried again", reason=str(error))
                self._pause(RETRY_S)
            else:
                self._error = None
                if agreed is not None:
                    with self._lock:
                        if self._ready and self._ready[0] is agreed:
                            self._ready.popleft()

    def _take(self, agreed: Agreed) -> None:
        """One agreed command, or what stands for many."""
        assert self._apply is not None
        if agreed.snapshot:
            if agreed.index > self._applied and self._resume is not None:
                self._resume.restore(agreed.index, agreed.body)
                self._applied = max(agreed.index, self._resume.applied_index())
            return
        if agreed.kind == COMMAND and agreed.index > self._applied:
            self._apply(agreed.index, agreed.body)
        self._applied = max(self._applied, agreed.index)
        with self._lock:
            for waiter in self._waiters.get(agreed.key, []):
                waiter.index = agreed.index
                waiter.done.set()

    def _catch_up(self, peer: str) -> None:
        """A peer speaks of later members: ask it for its state, and let the application fetch that."""
        if self._resume is None or time.monotonic() - self._fetched_at < CATCH_UP_S:
            return
        self._fetched_at = time.monotonic()
        try:
            answer = decode(self._peers.call(peer, SNAPSHOT_METHOD, b"", _ANSWER_S), what="engine snapshot")
            if type(answer) is not tuple or [type(part) for part in answer] != [int, bytes]:
                raise FormatError("engine snapshot: expected an index and bytes")
            index, data = answer
            if index >= self._applied:  # nothing may have been ordered since the members changed
                self._resume.restore(index, _checked(data))
                self._applied = max(self._applied, self._resume.applied_index())
        except WitnzError as error:
            log.warning("state was not fetched from a peer", member=peer, reason=error.message)

    def _on_snapshot_asked(self, _peer: str, _body: bytes) -> bytes:
        if self._resume is None or self._closed:
            raise UsageError("this node has no state to offer")
        index, data = self._resume.snapshot()
        return encode((index, _checked(data)))

    def _pause(self, seconds: float) -> None:
        with self._lock:
            if not self._closed:
                self._work.wait(seconds)


def _compact(index: int, data: bytes, member: RaftMember) -> None:
    member.compact(index, data)


def _checked(data: bytes) -> bytes:
    if len(data) > MAX_SNAPSHOT_BYTES:
        raise UsageError(f"snapshot: expected at most {MAX_SNAPSHOT_BYTES} bytes, found {len(data)}")
    return data
