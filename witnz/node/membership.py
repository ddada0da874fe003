"""Members and keys as the journal has them: what this node signs with and whom it talks to follow the records.

A member is added, removed or given other keys by a ``member`` record that an operator signed; the log key changes by a ``key``
record.  They are in force from the next record on, on every node alike; the configuration is only what the operator wishes.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import structlog

from witnz.cluster.peers import Member as Peer
from witnz.cluster.peers import Peers
from witnz.config import Config
from witnz.core.journal import JournalState
from witnz.core.record import Record
from witnz.errors import WitnzError
from witnz.node.journal import Journal
from witnz.node.keyring import Keyring
from witnz.node.log_key import fetch_log_key
from witnz.node.sources import Sources

log = structlog.get_logger(__name__)

CHANGING: Final = ("member", "key")
FETCH_S, FETCH_MAX_S, FETCH_TRIES = 0.5, 30.0, 100


def follow_keys(keys: Keyring, node_id: str, journal: Journal, peers: Peers | None = None) -> None:
    """Sign with the keys in force, and pin those of the other members, now and after every record that changes them."""

    def follow(record: Record | None = None) -> None:
        if record is not None and record.type not in CHANGING:
            return
        state = journal.state
        missing = keys.follow(node_id, state.members, state.log_key)
        if missing == ["log"] and peers is not None:
            threading.Thread(target=_fetch, args=(keys, node_id, journal, peers), name="log key", daemon=True).start()
        elif missing:
            log.error("keys in force are not here", keys=missing, hint="restore this node's keys directory, or restart it")
        if peers is not None and record is not None and record.type == "member":
            peers.update_members(peers_of(state))
        if record is not None:
            log.info("members or keys changed", record=record.seq, members=sorted(state.members), quorum=state.quorum)

    if journal.state.members:
        follow()
    journal.on_record.append(follow)


def _fetch(keys: Keyring, node_id: str, journal: Journal, peers: Peers) -> None:
    """The log key was rotated on another node: have it handed over, for as long as it takes the others to answer."""
    wait_s = FETCH_S
    for _ in range(FETCH_TRIES):
        state = journal.state
        others = [member for member in state.members if member != node_id]
        try:
            if fetch_log_key(keys, node_id, state, Sources(peers, others)):
                log.info("log key was handed over")
                return
        except WitnzError as error:
            log.warning("log key was not handed over yet", reason=error.message)
        time.sleep(wait_s)
        wait_s = min(2 * wait_s, FETCH_MAX_S)
    log.error("log key in force is not here", hint="restart this node when the others run")


def peers_of(state: JournalState) -> list[Peer]:
    """The members in force, as the channel pins them."""
    return [Peer(member.id, member.addr, member.identity) for member in state.members.values()]


def wishes_of(config: Config, state: JournalState) -> list[str]:
    """In words, where the file's list of members is not what is in force; empty where they agree, or the file has none."""
    if not config.nodes:
        return []
    listed = {entry.id: entry for entry in config.nodes if entry.id is not None}
    differing = [
        f"{node} is listed under nodes and is no member: witnz cluster add {node}" for node in listed.keys() - state.members
    ]
    differing += [f"{node} is a member and not listed under nodes" for node in state.members.keys() - listed.keys()]
    for node in sorted(listed.keys() & state.members.keys()):
        entry, member = listed[node], state.members[node]
        if entry.cosigner is not None and entry.cosigner != member.cosigner:
            differing.append(f"{node} has another cosigner key in nodes than in force")
        if entry.address is not None and entry.address != member.addr:
            differing.append(f"{node} has another address in nodes ({entry.address}) than in force ({member.addr})")
    return sorted(differing)
