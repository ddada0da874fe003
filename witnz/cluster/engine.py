"""The narrow interface behind which journal records are ordered (architecture.md 3).

An engine takes opaque commands and gives every member the same commands in the same order.  It is never what makes evidence
trustworthy: each command is a signed envelope that every node checks when it is applied.

What every engine promises, and what it asks of whoever applies:

1. Every member is given the same commands under the same indexes, ascending.  Indexes may have holes.
2. ``apply`` is called by one thread at a time, never by a thread that does the engine's own work; so it may take its time, and
   ``propose`` must not be called with a lock held that ``apply`` needs, nor from within ``apply``.
3. A command may be ordered more than once (its proposer was in doubt and asked again): at least once, so the commands
   themselves must say that they have been seen.  The journal's records do, with n and prev.
4. Whoever applies stores the index in the same transaction as the effect, and says at the start (:class:`Resume`) which index
   its durable state reflects; what is not above it is not given again.  A command without effect need not be stored: it is
   judged again in the very same state.
5. ``apply`` does not raise for a command that it refuses.  If it raises all the same (a full disk), nothing is skipped: the
   engine says so in ``status().error`` and gives the same command again until it is taken.
6. The engine's own snapshots hold no state of the application but what :meth:`Resume.snapshot` says, at most
   ``MAX_SNAPSHOT_BYTES``: enough to know which state it is (the journal's size, chain head and members), not the state
   itself.  A member that has fallen behind what the engine keeps is given that text by ``restore``, fetches the records from
   its peers, checks them, and only then goes on.
7. Members change between two commands: ``apply`` of the command that changes them calls ``reconfigure`` before it returns.
   An engine may void what the old members had ordered behind it, for everybody alike; ``propose`` orders it again.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from witnz.errors import UsageError

Apply = Callable[[int, bytes], None]

MAX_COMMAND_BYTES = 256 << 10
MAX_SNAPSHOT_BYTES = 64 << 10
MAX_IN_FLIGHT_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Membership:
    """Who orders the commands after ``since_index``.

    ``epoch`` is 0 for the members of the genesis and grows by one with every change; ``since_index`` is the index of the
    command that made the change (0 at the genesis); ``members`` are node ids, sorted.
    """

    epoch: int
    since_index: int
    members: tuple[str, ...]


class Resume(Protocol):
    """The durable side of whoever applies; all three are called by the thread that applies."""

    def applied_index(self) -> int:
        """The index up to which the durable state reflects the commands; 0 for none."""

    def snapshot(self) -> tuple[int, bytes]:
        """An index that is durably applied, and what identifies the state after it."""

    def restore(self, index: int, snapshot: bytes) -> None:
        """Reach the state that ``snapshot`` identifies, by help of the peers; durable when this returns.

        Raises a WitnzError where that did not work this time: the engine asks again, and gives no command before it has worked.
        """


@dataclass(frozen=True, slots=True)
class EngineStatus:
    """``term`` and ``index`` as the engine counts them; ``leader`` is a node id, None while there is none.

    ``index`` is the last command applied here, ``committed`` the last that is known to be agreed.  ``error`` says why this node
    does not apply or take part, in words for an operator; None while it does.  ``voiceless``: the connected members, this one
    included, that have lost their part of what was agreed, so that they follow without counting in a quorum.
    """

    leader: str | None
    term: int
    index: int
    has_quorum: bool
    committed: int = 0
    epoch: int = 0
    error: str | None = None
    voiceless: tuple[str, ...] = ()


class Engine(Protocol):
    """What the node asks of an engine."""

    def on_apply(self, apply: Apply, resume: Resume | None = None) -> None:
        """Who applies; before :meth:`start`.  Without ``resume`` everything that is still known is given again at a start."""

    def take_part(self) -> None:
        """Help to order commands, and apply none yet: for a node that still fetches what lies before them.

        Before :meth:`start`, which goes on with it.  An engine that needs its members' help for nothing does nothing here.
        """

    def start(self) -> None:
        """Begin to take part and to apply; returns at once."""

    def close(self) -> None:
        """Stop taking part.  No command is applied when this has returned; waiting proposals fail."""

    def propose(self, command: bytes, key: str, deadline_s: float) -> int:
        """Have a command ordered; its index, once it is applied on this node.  May be asked on any member.

        ``key`` names the command for ever.  Raises NoQuorum where that did not happen in ``deadline_s`` seconds: it may still
        be ordered later, so whoever proposes it again uses the same bytes and the same key.  Raises UsageError for a command
        over ``MAX_COMMAND_BYTES``.
        """

    def barrier(self, deadline_s: float) -> None:
        """Return once everything that was agreed before this call is applied here; raises NoQuorum like ``propose``."""

    def reconfigure(self, membership: Membership) -> None:
        """Called within ``apply``: from the next command on, these are the members."""

    def leader(self) -> str | None:
        """The member that this node takes for the leader: a hint, true of a moment ago."""

    def status(self) -> EngineStatus: ...


class LocalEngine:
    """The engine of a cluster of one: the order of arrival is the order.  Durability is the applying store's."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._lock = threading.RLock()
        self._index = 0
        self._epoch = 0
        self._apply: Apply | None = None

    def on_apply(self, apply: Apply, resume: Resume | None = None) -> None:
        self._apply = apply
        if resume is not None:
            self._index = resume.applied_index()

    def take_part(self) -> None:
        """There is nobody to help."""

    def start(self) -> None:
        """Nothing to start: a proposal is applied by the thread that makes it."""

    def close(self) -> None:
        with self._lock:
            self._apply = None

    def propose(self, command: bytes, key: str, deadline_s: float) -> int:
        """Apply at once; ``key`` and ``deadline_s`` matter only where a command can be in doubt."""
        check_command(command)
        with self._lock:
            if self._apply is None:
                raise RuntimeError("propose() before on_apply() or after close()")
            index = self._index + 1
            self._apply(index, command)
            self._index = index
            return index

    def barrier(self, deadline_s: float) -> None:
        with self._lock:
            return

    def reconfigure(self, membership: Membership) -> None:
        """Takes note of the epoch; a cluster that grows is opened again with an engine that can have members."""
        self._epoch = membership.epoch

    def leader(self) -> str | None:
        return self._node_id

    def status(self) -> EngineStatus:
        return EngineStatus(self._node_id, 1, self._index, has_quorum=True, committed=self._index, epoch=self._epoch)


def check_command(command: bytes) -> None:
    """Raises UsageError for a command over ``MAX_COMMAND_BYTES``."""
    if len(command) > MAX_COMMAND_BYTES:
        raise UsageError(f"command: expected at most {MAX_COMMAND_BYTES} bytes, found {len(command)}")
