"""A cluster that grows, in one process: a node with a history, a copy of it as its fellow, and a third that joins.

The first node records alone.  When its history is made an operator adds node2, who joins, and node3, whose store is a copy of
node1's: so two members can be asked, and either can be made to lie.
"""

from __future__ import annotations

import shutil
import threading
from base64 import b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.node import Protected, write_config
from tests.support.postgres import Database as PgDatabase
from tests.support.simulated_peers import PeerHub, SimulatedPeers
from witnz.cluster.peers import Member as Peer
from witnz.config import Config, load_config
from witnz.core.journal_facts import Member
from witnz.core.lsn import format_lsn
from witnz.core.periods import member_body
from witnz.node.answers import Answers
from witnz.node.images import ImageBox
from witnz.node.joining import Joining, genesis_digest
from witnz.node.journal import authorise
from witnz.node.keyring import Keyring, create_node_keys, load_keyring, load_person_key, load_retain_key
from witnz.node.membership import peers_of
from witnz.node.node import now_us
from witnz.node.setup import initialise
from witnz.node.view import load_journal_state
from witnz.store import entries, journal, logs
from witnz.store.database import Database
from witnz.store.datadir import DataDir

TABLES = [
    {"name": "ledger", "mode": "append_only", "retain": "rows"},
    {"name": "prices", "mode": "state_integrity", "on_change": "record"},
    {"name": "notes", "mode": "state_integrity", "on_change": "alert", "keys": "hidden"},
    {"name": "marks", "mode": "append_only"},
]
SCHEMA = """
CREATE TABLE ledger (id bigserial PRIMARY KEY, v text);
INSERT INTO ledger (v) SELECT 'row ' || g FROM generate_series(1, 700) g;
CREATE TABLE prices (product int PRIMARY KEY, cents int);
INSERT INTO prices SELECT g, g * 10 FROM generate_series(1, 300) g;
CREATE TABLE notes (id int PRIMARY KEY, v text);
INSERT INTO notes VALUES (1, 'one'), (2, 'two');
CREATE TABLE marks (v text);
ALTER TABLE marks REPLICA IDENTITY FULL;
INSERT INTO marks VALUES ('a'), ('b'), ('b');
"""
Lie = Callable[[str, bytes, bytes], bytes]
"""(method, request, honest answer) -> what is answered instead."""


@dataclass
class Fellow:
    """A member that answers from a store which nobody writes to any more."""

    node_id: str
    db: Database
    keys: Keyring
    peers: SimulatedPeers
    lie: Lie | None = None
    asked: list[str] = field(default_factory=list)


@dataclass
class Growth:
    """``first``: the node with a history; ``config``: of the node that joins."""

    first: Protected
    folder: Path
    config: Config
    hub: PeerHub = field(default_factory=PeerHub)
    fellows: dict[str, Fellow] = field(default_factory=dict)

    @classmethod
    def begin(cls, folder: Path, database: PgDatabase) -> Growth:
        database.sql(SCHEMA)
        for name in ("node1", "node2"):
            (folder / name).mkdir()
        first = Protected.start(
            folder / "node1", database, TABLES, node={"id": "node1", "data_dir": str(folder / "node1/data")}
        )
        return cls(first, folder, first.config)

    @property
    def database(self) -> PgDatabase:
        return self.first.database

    def prepare(self) -> None:
        """``witnz init`` on node2, with the file that its operator wrote; its slot is made here."""
        own = {"id": "node2", "bind_addr": "127.0.0.1:7002", "data_dir": str(self.folder / "node2/data")}
        data = DataDir(self.folder / "node2/data")
        data.create()
        keys = create_node_keys(data.keys_dir, self.first.config.cluster, "node2")
        node1 = self.first.node.journal.state.members["node1"]
        nodes = [
            {"id": "node1", "addr": "127.0.0.1:7001", "key": b64encode(node1.identity).decode(), "cosigner": node1.cosigner},
            {"id": "node2", "addr": "127.0.0.1:7002", "key": keys.identity_b64, "cosigner": keys.cosigner_key},
            self._third(),
        ]
        state = self.first.node.journal.state
        assert state.size
        with self.first.node.db.read() as conn:
            from witnz.core.record import parse_record

            digest = genesis_digest(parse_record(journal.record_at(conn, 1)))
        path = write_config(self.folder / "node2", self.database, TABLES, node=own, nodes=nodes, genesis=digest)
        self.config = load_config(path, {})
        made = initialise(self.config, admin=None, clock=now_us)
        assert made.joins

    def _third(self) -> dict[str, str]:
        data = DataDir(self.folder / "node3/data")
        data.create()
        keys = create_node_keys(data.keys_dir, self.first.config.cluster, "node3")
        return {"id": "node3", "addr": "127.0.0.1:7003", "key": keys.identity_b64, "cosigner": keys.cosigner_key}

    def seal_no_more(self) -> None:
        """What is recorded from now on stays unsealed."""
        self.first.node.config = self.first.node.config.model_copy(update={"seal_interval_s": 3600.0})

    def add_members(self) -> None:
        """As an operator does: one record for each, one after the other."""
        node = self.first.node
        node.cosigner.checkpoint()
        name, signer = load_person_key(self.folder / "node1/data/operator-alice.key", "operator")
        for entry in self.config.nodes[1:]:
            body = member_body("add", entry.member(), format_lsn(node.journal.state.last_seal_lsn))
            node.decide("member", authorise("member", body, node.cluster_id, name, signer))

    def stand(self) -> None:
        """node1 stops; what it holds, and a copy of it as node3's, is what node2 can ask for."""
        self.first.stop()
        with Database.open(self.folder / "node1/data/witnz.db") as db, db.write() as conn:
            # One of three is no quorum: what node1 signed since there are three is no final checkpoint.
            sizes = [record.since for record in load_journal_state(db).periods.all]
            conn.execute("DELETE FROM checkpoints WHERE size >= ?", (sizes[1],))
        self._fellow("node1", self.folder / "node1/data")
        copied = self.folder / "node3/data"
        shutil.copy(self.folder / "node1/data/witnz.db", copied / "witnz.db")
        for name in ("log.key", "retain.key"):
            shutil.copy(self.folder / "node1/data/keys" / name, copied / "keys" / name)
        self._fellow("node3", copied)

    def _fellow(self, node_id: str, directory: Path) -> None:
        data = DataDir(directory)
        db = Database.open(data.database)
        keys = load_keyring(data.keys_dir, self.config.cluster, node_id)
        state = load_journal_state(db)
        peers = self.hub.join(_peer(state.members[node_id]), peers_of(state))
        fellow = self.fellows[node_id] = Fellow(node_id, db, keys, peers)
        answers = Answers(db, lambda: state, keys, node_id, ImageBox(load_retain_key(data.keys_dir)))
        answers.register(_Bending(fellow, peers))  # type: ignore[arg-type]
        peers.start()

    def joining(self) -> Joining:
        own = load_journal_state(self.fellows["node1"].db).members["node2"]
        peers = self.hub.join(_peer(own), [])
        peers.start()
        return Joining(self.config, peers, now_us, threading.Event(), timeout_s=10.0)

    def try_join(self, unsealed_wait_s: float = 10.0) -> Database:
        """One attempt, without going on after what did not work; the store then."""
        joining = self.joining()
        joining.unsealed_wait_s = unsealed_wait_s
        db = Database.open(DataDir(self.config.data_dir).database)
        joining._run(db)
        return db

    def join(self) -> None:
        self.try_join().close()

    def close(self) -> None:
        for fellow in self.fellows.values():
            fellow.peers.close()
            fellow.db.close()

    @contextmanager
    def store(self, node: str) -> Iterator[Any]:
        path = self.folder / node / "data/witnz.db"
        with Database.open(path, read_only=True) as db, db.read() as conn:
            yield conn

    def lines(self, node: str) -> dict[tuple[str, int], list[bytes]]:
        """All entries of a node, by table and generation."""
        with self.store(node) as conn:
            return {(row.table, row.generation): list(entries.entries(conn, row.id)) for row in logs.list_logs(conn)}


class _Bending:
    """Registers handlers whose answers a fellow may bend."""

    def __init__(self, fellow: Fellow, peers: SimulatedPeers) -> None:
        self._fellow, self._peers = fellow, peers

    def serve(self, method: str, handler: Callable[[str, bytes], bytes], max_request_bytes: int) -> None:
        def handle(caller: str, body: bytes) -> bytes:
            self._fellow.asked.append(method)
            answer = handler(caller, body)
            return answer if self._fellow.lie is None else self._fellow.lie(method, body, answer)

        self._peers.serve(method, handle, max_request_bytes)


def _peer(member: Member) -> Peer:
    return Peer(member.id, member.addr, member.identity)
