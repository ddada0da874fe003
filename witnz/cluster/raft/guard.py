"""What stands between the wire and pysyncobj's core: every message passes here, in both directions.

The core is a Raft with holes (docs/decisions/0011 lists them).  These rules close those that messages can close:

1. Nothing leaves before the journal is durable.
2. Of ``append_entries``, what the log already holds is taken off; so nothing that matches is ever cut off the log, and an
   answer promises no more than the message proved.
3. A follower's position is found by one empty probe at a time; entries are sent once it is known.  A follower that refuses
   names the beginning of its whole conflicting term.
4. Answers and votes count in the term they were given in, once for each member.
5. A snapshot replaces a log only where the log does not hold its last entry; it says nothing about what comes after.
6. Whoever wants to campaign asks first whether a majority would vote (pre-vote); nobody would who has heard a leader of late.
7. A message of a term that is over is answered with the term, so that its sender steps down.
8. Amnesia.  A member acknowledges and votes only once others have *welcomed* its journal: half of the members, rounded up, so
   that one of them would know if this member had had another journal in this epoch.  A journal that is not the one that was
   known, whose term has gone back, or that lacks what it acknowledged, is *forgotten*: its node still follows, but has no
   voice until the members change.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from witnz.cluster.raft.core import Node, RaftCore, Timing
from witnz.cluster.raft.log import FORGOTTEN, UNPROVEN, VOTER, RaftLog, Snapshot
from witnz.cluster.raft.messages import Message
from witnz.logging import get_logger

log_event = get_logger(__name__)

MAX_TERM_STEP: Final = 1_000_000
"""A member whose term is further ahead than this is not believed: nobody gets there by elections."""
HELLO_S: Final = 1.0
PASSED_ON: Final = frozenset({"request_vote", "response_vote"})


@dataclass(slots=True)
class _Ballot:
    """Who would vote for this member in ``term``."""

    term: int
    asked_at: float
    granted: set[str] = field(default_factory=set)


@dataclass(slots=True)
class _Voters:
    """Whose votes of a term were counted."""

    term: int = 0
    seen: set[str] = field(default_factory=set)


class MessageGuard:
    """The guard of one core.  ``out(peer, message)`` sends, ``installed(snapshot)`` is told of each snapshot that was taken
    over, ``busy()`` says that no more entries can be taken now."""

    def __init__(
        self,
        core: RaftCore,
        log: RaftLog,
        members: tuple[str, ...],
        me: str,
        timing: Timing,
        *,
        clock: Callable[[], float],
        out: Callable[[str, Message], bool],
        installed: Callable[[Snapshot], None],
        busy: Callable[[], bool],
    ) -> None:
        self._core, self._log, self._me, self._timing = core, log, me, timing
        self._others = frozenset(members) - {me}
        self._size = len(members)
        self._clock, self._out, self._installed, self._busy = clock, out, installed, busy
        self._linked: set[str] = set()
        self.greeted: dict[str, int] = {}  # standing of each connected member whose journal is the one that was known
        self._welcomes: set[str] = set()
        self._welcomed_by: set[str] = set()  # of those connected: who has answered this connection's hello
        self._greeted_at = self._greeted_late_at = float("-inf")
        self._highest_term: dict[str, int] = {}
        self._probing: dict[str, float] = {}  # since when the probe of a follower is unanswered, 0 where none is out
        self._heard_leader_at = float("-inf")
        self._leader_of_term: tuple[int, str] = (0, "")
        self._ballot: _Ballot | None = None
        self._voters = _Voters()
        self._clamp: int | None = None
        if not self._others and log.standing == UNPROVEN:
            log.set_standing(VOTER)
        core.attach(self)

    # -- connections ----------------------------------------------------------------------------------------------------------

    def connected(self, peer: str) -> None:
        self._probing[peer] = 0.0
        self._linked.add(peer)
        self._core.connected(peer)
        self._say_hello(peer)

    def disconnected(self, peer: str) -> None:
        self.greeted.pop(peer, None)
        self._welcomed_by.discard(peer)
        self._linked.discard(peer)
        self._core.disconnected(peer)
        if self._core.leader_id == peer:
            self._heard_leader_at = float("-inf")
            self._core.campaign_by(self._clock() + random.uniform(0.05, 0.3))  # noqa: S311  # spreads campaigns

    def tick(self) -> None:
        """Once in a while, greet again whoever is connected and has not answered."""
        if self._clock() - self._greeted_at >= HELLO_S:
            self._greeted_at = self._clock()
            for peer in sorted(self._linked - (self.greeted.keys() & self._welcomed_by)):
                self._say_hello(peer)

    def greet(self, peer: str) -> None:
        """Say hello to one that seems not to know this epoch; at most once a second to all of them together."""
        if self._clock() - self._greeted_late_at >= HELLO_S:
            self._greeted_late_at = self._clock()
            self._say_hello(peer)

    def hears_quorum(self) -> bool:
        """As the leader: it has not stepped down for want of answers.  Otherwise: the leader was heard lately."""
        patience = 2 * self._timing.election_max_s
        return self._core.leads or self._clock() - self._heard_leader_at < patience

    # -- out ------------------------------------------------------------------------------------------------------------------

    def send(self, peer: str, message: Message) -> bool:
        """From the core: changed, held back, or let go."""
        kind = message["type"]
        if kind == "append_entries":
            return self._send_entries(peer, message)
        if kind == "next_node_idx":
            return self._deliver(peer, self._answer(message))
        if kind in PASSED_ON and self._log.standing == VOTER:
            return self._deliver(peer, message)
        return False

    def _send_entries(self, peer: str, message: Message) -> bool:
        if "serialized" in message:
            return self._send_snapshot(peer)
        if message["prevLogIdx"] is None:  # beyond the end of the log: the follower's position was not known after all
            self._core.next_index[Node(peer)] = self._log.last + 1
            return False
        entries = tuple(tuple(entry) for entry in message["entries"])
        if peer in self._probing:
            now = self._clock()
            if self._probing[peer] and now - self._probing[peer] < self._timing.probe_s:
                return True
            self._probing[peer] = now
            entries = ()
        return self._deliver(peer, {**message, "entries": entries})

    def _send_snapshot(self, peer: str) -> bool:
        snapshot = self._log.snapshot
        before, last = self._log.entry(snapshot.index - 1), self._log.entry(snapshot.index)
        if before is None or last is None:  # a log that has never been compacted begins with what everybody has
            self._core.next_index[Node(peer)] = self._log.first + 1
            return False
        self._probing[peer] = self._clock()
        return self._deliver(
            peer,
            {"type": "snapshot", "term": self._core.term, "before_term": before[2], "last": last, "data": snapshot.data},
        )

    def _answer(self, message: Message) -> Message:
        """What an answer to ``append_entries`` may say."""
        answer = {**message, "term": self._core.term, "voter": self._log.standing == VOTER}
        if answer["success"] and self._clamp is not None:
            answer["next_node_idx"] = min(answer["next_node_idx"], self._clamp)
        index = answer["next_node_idx"]
        if not answer["success"]:
            entry = self._log.entry(index)
            while entry is not None and index > self._log.first + 1:
                before = self._log.entry(index - 1)
                if before is None or before[2] != entry[2]:
                    break
                index -= 1
        answer["try_from"] = index
        return answer

    def _deliver(self, peer: str, message: Message) -> bool:
        if peer not in self._others:
            return False
        self._log.sync()
        return self._out(peer, message)

    # -- campaigns ------------------------------------------------------------------------------------------------------------

    def may_campaign(self) -> bool:
        """Whether a majority would vote; asks them if it is not known.  Called while the time to campaign has come."""
        if self._log.standing != VOTER:
            return False
        now, term = self._clock(), self._core.term + 1
        if self._ballot is None or self._ballot.term != term or now - self._ballot.asked_at > self._timing.probe_s:
            self._ballot = _Ballot(term, now, {self._me})
            last = self._log[-1]
            ask = {"type": "pre_vote", "term": term, "last_log_index": last[1], "last_log_term": last[2]}
            for peer in sorted(self.greeted):
                self._deliver(peer, ask)
        if 2 * len(self._ballot.granted) <= self._size:
            return False
        self._ballot = None
        self._voters = _Voters(term)
        return True

    def _on_pre_vote(self, peer: str, message: Message) -> None:
        last = self._log[-1]
        current = (message["last_log_term"], message["last_log_index"]) >= (last[2], last[1])
        heard = self._core.leads or self._clock() - self._heard_leader_at < self._timing.election_min_s
        if self._log.standing == VOTER and message["term"] > self._core.term and current and not heard:
            self._deliver(peer, {"type": "pre_vote_granted", "term": message["term"]})
        elif message["term"] <= self._core.term:
            self._deliver(peer, {"type": "stale", "term": self._core.term})

    # -- in -------------------------------------------------------------------------------------------------------------------

    def receive(self, peer: str, message: Message) -> None:
        """A message that has been parsed, of this epoch, from a member."""
        kind = message["type"]
        if kind in ("hello", "welcome"):
            (self._on_hello if kind == "hello" else self._on_welcome)(peer, message)
            return
        if peer not in self.greeted or message.get("term", 0) > self._core.term + MAX_TERM_STEP:
            return
        if kind in ("append_entries", "snapshot"):
            self._on_leader(peer, message)
        elif kind == "next_node_idx":
            self._on_answer(peer, message)
        elif kind == "stale":
            self._step_down(peer, message["term"])
        elif self.greeted[peer] == VOTER:
            self._on_election(peer, message)

    def _on_election(self, peer: str, message: Message) -> None:
        kind, term = message["type"], message["term"]
        if kind == "pre_vote":
            self._on_pre_vote(peer, message)
        elif kind == "pre_vote_granted":
            if self._ballot is not None and self._ballot.term == term:
                self._ballot.granted.add(peer)
                if 2 * len(self._ballot.granted) > self._size:
                    self._core.campaign_by(float("-inf"))
        elif kind == "response_vote":
            if term == self._core.term == self._voters.term and peer not in self._voters.seen:
                self._voters.seen.add(peer)
                self._core.receive(peer, message)
        elif kind == "request_vote" and self._log.standing == VOTER:
            self._core.receive(peer, message)

    def _on_leader(self, peer: str, message: Message) -> None:
        """Entries, a heartbeat or a snapshot from who says that it leads."""
        term = message["term"]
        if term < self._core.term:
            self._deliver(peer, {"type": "stale", "term": self._core.term})
            return
        known = self._leader_of_term
        if (self._core.leads and term == self._core.term) or (known[0] == term and known[1] != peer):
            log_event.warning("second leader of a term was not believed", member=peer, term=term)
            return
        self._leader_of_term = (term, peer)
        self._heard_leader_at = self._clock()
        if message["type"] == "snapshot":
            self._on_snapshot(peer, message)
        elif not (message["entries"] and self._busy()):
            self._on_entries(peer, message)

    def _on_entries(self, peer: str, message: Message) -> None:
        previous, entries, log = message["prevLogIdx"], message["entries"], self._log
        if entries and entries[0][1] != previous + 1:
            return
        at = log.entry(previous)
        if at is not None and at[2] == message["prevLogTerm"]:
            have = 0
            for entry in entries:
                mine = log.entry(entry[1])
                if mine is None or mine[2] != entry[2]:
                    break
                have += 1
            proved = previous + have
            if have == len(entries) and log.last > proved:
                self._clamp = proved + 1
                message = {
                    **message, "prevLogIdx": log.last, "prevLogTerm": log[-1][2], "entries": (),
                    "commit_index": min(message["commit_index"], proved),
                }  # fmt: skip
            elif have:
                message = {**message, "prevLogIdx": proved, "prevLogTerm": entries[have - 1][2], "entries": entries[have:]}
            if message["entries"] and message["prevLogIdx"] < self._core.commit:
                log_event.error(
                    "entries that contradict agreed ones were not taken", member=peer, index=message["prevLogIdx"] + 1
                )
                return
        try:
            self._core.receive(peer, message)
        finally:
            self._clamp = None

    def _on_snapshot(self, peer: str, message: Message) -> None:
        last = tuple(message["last"])
        index = last[1]
        if index < 2:
            return
        heartbeat = {"type": "append_entries", "term": message["term"], "commit_index": self._core.commit}
        self._core.receive(peer, heartbeat)
        mine = self._log.entry(index)
        if index > self._core.commit and mine is not None and mine[2] == last[2]:
            self._core.commit_up_to(index)
        elif index > self._core.commit:
            snapshot = Snapshot(index, message["data"])
            self._log.install(snapshot, message["before_term"], last)
            self._core.skip_to(index)
            self._installed(snapshot)
        proved = {"type": "next_node_idx", "next_node_idx": index + 1, "reset": False, "success": True}
        self._deliver(peer, self._answer(proved))

    def _on_answer(self, peer: str, message: Message) -> None:
        """A follower's answer; all of it is handled here."""
        if message["term"] != self._core.term or not self._core.leads:
            if message["term"] > self._core.term:
                self._step_down(peer, message["term"])
            return
        node, index = Node(peer), message["next_node_idx"]
        if not 1 <= index <= self._log.last + 1:
            return
        votes = message["voter"] and self.greeted[peer] == VOTER
        matched = self._core.match_index.get(node, 0)
        if votes:
            self._core.answered(peer, self._clock())
        if message["success"]:
            if votes:
                self._core.match_index[node] = max(matched, index - 1)
            if peer in self._probing or index > self._core.next_index[node]:
                self._core.next_index[node] = index
            self._probing.pop(peer, None)
            return
        if votes and index <= matched:
            self._forget(peer, "it lacks what it had acknowledged")
            matched = 0
        self._core.next_index[node] = max(2, matched + 1, min(index, message["try_from"]))
        self._probing[peer] = 0.0

    def _step_down(self, peer: str, term: int) -> None:
        """Take over a higher term; a candidate with an empty log is what makes the core do that, and vote for nobody."""
        if term > self._core.term:
            self._core.receive(peer, {"type": "request_vote", "term": term, "last_log_index": 0, "last_log_term": -1})

    # -- amnesia --------------------------------------------------------------------------------------------------------------

    def _say_hello(self, peer: str) -> None:
        self._deliver(
            peer,
            {
                "type": "hello", "incarnation": self._log.incarnation, "standing": self._log.standing, "term": self._core.term,
            },
        )  # fmt: skip

    def _on_hello(self, peer: str, message: Message) -> None:
        incarnation = message["incarnation"]
        known = self._log.known.get(peer)
        if known is None:
            self._log.remember(peer, incarnation)
        same = known in (None, incarnation) and message["term"] >= self._highest_term.get(peer, 0)
        if same:
            self._highest_term[peer] = message["term"]
            self.greeted[peer] = message["standing"]
        else:
            self.greeted[peer] = FORGOTTEN
            self._core.match_index[Node(peer)] = 0  # else it would never be offered what it had acknowledged before
            log_event.error("member has lost its part of the ordered journal", member=peer)
        self._deliver(peer, {"type": "welcome", "incarnation": incarnation, "forgotten": not same})
        if peer not in self._welcomed_by:
            self._say_hello(peer)

    def _on_welcome(self, peer: str, message: Message) -> None:
        if message["incarnation"] != self._log.incarnation:
            return
        self._welcomed_by.add(peer)
        if message["forgotten"]:
            self._lose_voice(peer)
        elif self._log.standing == UNPROVEN:
            self._welcomes.add(peer)
            if 2 * len(self._welcomes) >= self._size:
                self._log.set_standing(VOTER)
                for other in sorted(self._others):
                    self._say_hello(other)

    def _lose_voice(self, peer: str) -> None:
        if self._log.standing != FORGOTTEN:
            log_event.error("this node has lost its part of the ordered journal", told_by=peer)
            self._log.set_standing(FORGOTTEN)
            self._log.sync()
            for other in sorted(self._others):  # who was told otherwise before
                self._say_hello(other)
            if self._core.leads:
                self._step_down(peer, self._core.term + 1)

    def _forget(self, peer: str, reason: str) -> None:
        log_event.error("member has lost its part of the ordered journal", member=peer, reason=reason)
        self.greeted[peer] = FORGOTTEN
        self._core.match_index[Node(peer)] = 0
        self._deliver(peer, {"type": "welcome", "incarnation": self._log.known[peer], "forgotten": True})
