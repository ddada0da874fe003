"""Three journals over one order, without a database: each with a store of its own, which can be copied as a crash leaves it."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from tests.support.journal_maker import CLUSTER, CLUSTER_ID, START_US, PaperCluster
from tests.support.node import wait
from tests.support.simulated_engine import EngineHub
from witnz.core.record import Record, format_record, parse_record
from witnz.node.journal import Journal
from witnz.store import journal as stored
from witnz.store import meta
from witnz.store.database import Database

IDS = ("node1", "node2", "node3")


class Three:
    """Journals of three nodes by id, all running."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hub = EngineHub(IDS)
        paper = PaperCluster()
        self.genesis, self.identity = paper.add("genesis", paper.genesis_body()), paper.identity
        self.stores: dict[str, Database] = {}
        self.journals: dict[str, Journal] = {}
        for node in IDS:
            db = Database.create(directory / f"{node}.db")
            with db.write() as conn:
                meta.save_value(conn, "cluster", CLUSTER)
                meta.save_value(conn, "cluster_id", CLUSTER_ID)
                stored.append_record(conn, stored.load_head(conn), format_record(self.genesis))
            self.run(node, db)

    def run(self, node: str, db: Database) -> None:
        engine = self.hub.engine(node)
        self.stores[node] = db
        identity = self.identity(node)
        self.journals[node] = Journal(
            db, engine, node, identity, lambda: START_US + 10_000_000, cluster=CLUSTER, cluster_id=CLUSTER_ID
        )
        engine.start()

    def die(self, node: str) -> Path:
        """The store of a node as it is on its disk at this moment."""
        copy = self.directory / f"{node}-{time.monotonic_ns()}.db"
        with sqlite3.connect(self.directory / f"{node}.db") as source, sqlite3.connect(copy) as target:
            source.backup(target)
        copy.chmod(0o600)
        return copy

    def revive(self, node: str, copy: Path) -> None:
        self.stores[node].close()
        self.run(node, Database.open(copy))

    def records(self, node: str) -> list[Record]:
        with self.stores[node].read() as conn:
            return [parse_record(leaf) for leaf in stored.records(conn)]

    def said(self, node: str) -> list[Record]:
        return [record for record in self.records(node) if record.type == "operator"]

    def alike(self, size: int) -> None:
        for node in IDS:
            wait(lambda node=node: self.journals[node].size >= size, f"{size} records on {node}")
        one = [format_record(record) for record in self.records("node1")]
        assert all([format_record(record) for record in self.records(node)] == one for node in IDS)

    def close(self) -> None:
        for engine in self.hub.engines.values():
            engine.close()
        for db in self.stores.values():
            db.close()
