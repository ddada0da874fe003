"""The database that every figure is taken on: a throw-away server, one table of eight columns, a node of its own."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from witnz.config import Config, load_config
from witnz.core.hashing import IMPLEMENTATION
from witnz.demo.server import PostgresServer
from witnz.node.node import Node, now_us
from witnz.node.setup import initialise
from witnz.postgres.session import Conninfo
from witnz.postgres.tuples import read_lines

OWNER, WATCHER, DATABASE = "app_owner", "witnz", "bench"
TABLE = """CREATE TABLE t (id bigint PRIMARY KEY, actor text, action text, amount int, price numeric(12,2),
    at timestamptz, ok boolean, digest text)"""
ROWS = """SELECT g, 'actor-' || g %% 1000, 'logged in from somewhere ' || g, g %% 97, g * 1.25,
    '2026-01-01'::timestamptz + g * interval '1 second', g %% 2 = 0, md5(g::text) FROM generate_series(%d, %d) g"""


@dataclass(slots=True)
class Setting:
    """A server with the table, and where the node's configuration and data are."""

    server: PostgresServer
    directory: Path

    def sql(self, statement: str, user: str = OWNER) -> list[tuple[object, ...]]:
        return self.server.sql(statement, user=user, dbname=DATABASE)

    def dsn(self, user: str = WATCHER) -> str:
        return self.server.dsn(user, DATABASE)

    def insert(self, first: int, last: int) -> None:
        self.sql(f"INSERT INTO t {ROWS % (first, last)}")

    def insert_parts(self, first: int, last: int, parts: int = 40) -> None:
        """The same in several transactions: what is recorded of one becomes visible at once."""
        size = max(1, -(-(last + 1 - first) // parts))
        for start in range(first, last + 1, size):
            self.insert(start, min(last, start + size - 1))

    def config(self) -> Config:
        info = Conninfo.from_conninfo(self.dsn())
        document = {
            "cluster": "bench.example/t",
            "database": {"host": info.host, "port": info.port, "database": DATABASE, "user": WATCHER, "sslmode": "prefer"},
            "node": {"id": "node1", "data_dir": str(self.directory / "data")},
            "protected_tables": [{"name": "t", "mode": "append_only", "verify_interval": "0s"}],
        }
        path = self.directory / "witnz.yaml"
        path.write_text(yaml.safe_dump(document))
        return load_config(path, {})

    def initialise(self) -> Config:
        config = self.config()
        initialise(config, admin=Conninfo.from_conninfo(self.dsn(OWNER)), clock=now_us, operator="bench")
        return config


@contextmanager
def setting() -> Iterator[Setting]:
    """A fresh server and directory, gone afterwards."""
    settings = {"max_wal_size": "8GB", "shared_buffers": "512MB", "autovacuum": "off"}
    with PostgresServer(settings=settings) as server, tempfile.TemporaryDirectory(prefix="witnz-bench-") as folder:
        for statement in (f"CREATE ROLE {OWNER} LOGIN", f"CREATE ROLE {WATCHER} LOGIN REPLICATION"):
            server.sql(statement)
        server.sql(f"CREATE DATABASE {DATABASE} OWNER {OWNER}")
        made = Setting(server, Path(folder))
        made.sql(f"ALTER SCHEMA public OWNER TO {OWNER}", user="postgres")
        made.sql(TABLE)
        made.sql(f"GRANT SELECT ON t TO {WATCHER}")
        yield made


def entries_of(node: Node) -> int:
    """How many entries the node's only log has."""
    with node.db.read() as conn:
        return int(conn.execute("SELECT coalesce(max(size), 0) FROM logs").fetchone()[0])


def wait_for_entries(node: Node, count: int, timeout_s: float = 600) -> None:
    deadline = time.monotonic() + timeout_s
    while entries_of(node) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{entries_of(node)} of {count} entries after {timeout_s} s: {node.capture.status}")
        time.sleep(0.01)


def machine() -> dict[str, object]:
    """What the figures were taken on, as far as it matters to them."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with PostgresServer() as server:
        postgresql = str(server.sql("SHOW server_version")[0][0]).split()[0]
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory_bytes / 2**30),
        "python": platform.python_version(),
        "postgresql": postgresql,
        "hashing": IMPLEMENTATION,
        "tuples": "pure" if read_lines is None else "compiled",
    }
