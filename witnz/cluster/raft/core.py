"""pysyncobj's Raft core for one set of members: elections, replication and commitment, and nothing else of it.

What is overridden here, by name and on purpose, is what must not run as it is: applying (exceptions stop every node for ever),
compaction and loading of snapshots (both can lose what was acknowledged), and the permission to campaign, which the guard
gives.  No replicated methods, callbacks, code versions, dynamic membership or serializer of pysyncobj are used.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from witnz.cluster.raft.examined import load
from witnz.cluster.raft.log import RaftLog
from witnz.cluster.raft.messages import NO_OP, REGULAR, Message
from witnz.errors import StoreError

syncobj = load()
FOLLOWER, CANDIDATE, LEADER = 0, 1, 2
BATCH_BYTES: Final = 1 << 20


class Node(syncobj.Node):  # type: ignore[misc, name-defined]  # untyped base
    """A member, by its id.  Hashed alike in every process, so that sets of them have one order and a run can be repeated."""

    def __hash__(self) -> int:
        return zlib.crc32(self.id.encode())


@dataclass(frozen=True, slots=True)
class Timing:
    """All in seconds.  A member that has not heard a leader for a time drawn between the two asks for votes; a leader that a
    majority has not answered for ``fallback_s`` steps down."""

    heartbeat_s: float = 0.1
    election_min_s: float = 0.5
    election_max_s: float = 1.0
    fallback_s: float = 1.5
    probe_s: float = 0.3


class Guard(Protocol):
    """What the core asks of the guard (:mod:`witnz.cluster.raft.guard`)."""

    def may_campaign(self) -> bool: ...

    def send(self, peer: str, message: Message) -> bool: ...


class _Port(syncobj.Transport):  # type: ignore[misc, name-defined]  # untyped base
    """pysyncobj's side of the network: everything it sends goes to the guard."""

    def __init__(self) -> None:
        super().__init__(None, None, None)
        self.guard: Guard | None = None
        self.ready = True

    ready = True

    def send(self, node: Any, message: Message) -> bool:
        return self.guard is not None and self.guard.send(node.id, message)


class _NoPoller:
    """pysyncobj waits in its poller; here the engine's thread waits, for more than sockets."""

    def poll(self, timeout: float) -> None:
        return


class _LogAsSnapshot:
    """In the place of pysyncobj's serializer: the guard makes a snapshot message out of the log's own snapshot."""

    def getTransmissionData(self, _node: Any) -> tuple[bytes, bool, bool]:
        return b"", True, True

    def cancelTransmisstion(self, _node: Any) -> None:
        return


class RaftCore(syncobj.SyncObj):  # type: ignore[misc, name-defined]  # untyped base
    """One member's core.  Everything is called by one thread; ``committed(index, command)`` is told each command once."""

    def __init__(
        self, me: str, others: list[str], log: RaftLog, timing: Timing, committed: Callable[[int, bytes], None]
    ) -> None:
        self.guard: Guard | None = None
        self._committed = committed
        self._port = _Port()
        conf = syncobj.SyncObjConf(
            autoTick=False,
            journalFile=log,
            fullDumpFile=None,
            useFork=False,
            dynamicMembershipChange=False,
            appendEntriesUseBatch=True,  # sent by replicate(), once for all that came together
            appendEntriesBatchSizeBytes=BATCH_BYTES,
            appendEntriesPeriod=timing.heartbeat_s,
            raftMinTimeout=timing.election_min_s,
            raftMaxTimeout=timing.election_max_s,
            leaderFallbackTimeout=timing.fallback_s,
            connectionTimeout=max(3.5, timing.election_max_s),
            pollerType="select",
        )
        nodes = [Node(other) for other in others]
        super().__init__(Node(me), nodes, conf, nodeClass=Node, transport=self._port)
        self._poller = _NoPoller()
        self._SyncObj__serializer = _LogAsSnapshot()
        if log.snapshot.index:
            self._SyncObj__raftLastApplied = log.snapshot.index

    def attach(self, guard: Guard) -> None:
        self.guard = self._port.guard = guard

    # -- what the guard and the member ask and tell ---------------------------------------------------------------------------

    @property
    def term(self) -> int:
        return int(self._SyncObj__raftCurrentTerm)

    @property
    def commit(self) -> int:
        return int(self._SyncObj__raftCommitIndex)

    @property
    def applied(self) -> int:
        return int(self._SyncObj__raftLastApplied)

    @property
    def leads(self) -> bool:
        return bool(self._SyncObj__raftState == LEADER)

    @property
    def campaigns(self) -> bool:
        return bool(self._SyncObj__raftState == CANDIDATE)

    @property
    def leader_id(self) -> str | None:
        leader = self._SyncObj__raftLeader
        return None if leader is None else str(leader.id)

    @property
    def next_index(self) -> dict[Any, int]:
        return self._SyncObj__raftNextIndex  # type: ignore[no-any-return]

    @property
    def match_index(self) -> dict[Any, int]:
        return self._SyncObj__raftMatchIndex  # type: ignore[no-any-return]

    def answered(self, peer: str, now: float) -> None:
        """A voter answered this leader."""
        self._SyncObj__lastResponseTime[Node(peer)] = now

    def campaign_by(self, moment: float) -> None:
        """Ask for votes no later than this, unless a leader is heard before."""
        deadline = "_SyncObj__raftElectionDeadline"
        setattr(self, deadline, min(getattr(self, deadline), moment))

    def receive(self, peer: str, message: Message) -> None:
        """A message of the types that pysyncobj knows."""
        self._port._onMessageReceived(Node(peer), message)

    def connected(self, peer: str) -> None:
        self._port._onNodeConnected(Node(peer))

    def disconnected(self, peer: str) -> None:
        self._port._onNodeDisconnected(Node(peer))

    def replicate(self) -> None:
        """Send each follower what it lacks, or a heartbeat."""
        self._SyncObj__sendAppendEntries()

    def commit_up_to(self, index: int) -> None:
        """The entries up to ``index``, which the log holds, are known to be agreed."""
        self._SyncObj__raftCommitIndex = max(self.commit, index)

    def skip_to(self, index: int) -> None:
        """A snapshot stands for everything up to ``index``."""
        self._SyncObj__raftLastApplied = index
        self._SyncObj__raftCommitIndex = max(self.commit, index)

    # -- what runs in the place of pysyncobj's own ----------------------------------------------------------------------------

    def _SyncObj__connectedToAnyone(self) -> bool:
        """Asked when the time to campaign has come, and only then."""
        return self.guard is not None and self.guard.may_campaign()

    def _SyncObj__doApplyCommand(self, command: bytes) -> None:
        if command[:1] == REGULAR:
            self._committed(self.applied + 1, command)
        elif command != NO_OP:
            raise StoreError(f"raft log: entry {self.applied + 1} is neither a command nor a no-op")

    def _SyncObj__tryLogCompaction(self) -> None:
        return

    def _SyncObj__loadDumpFile(self, clearJournal: bool) -> None:
        raise StoreError("pysyncobj loads a snapshot, which the adapter should have prevented")
