"""A cluster of real processes: `witnz start` three times, real TLS, real Raft, beside one real PostgreSQL.

The nodes are looked at from outside only: through their sockets, and by reading their stores.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.cluster import IDS, Tables, write_configs
from tests.support.members import Members
from tests.support.node import PASSING, wait
from tests.support.postgres import Database, create_database, prepare_server
from tests.support.tls_peers import free_port
from witnz.config import Config
from witnz.demo.server import PostgresServer
from witnz.ending import ENDING_S, end_process
from witnz.errors import WitnzError
from witnz.node.node import now_us
from witnz.node.setup import initialise
from witnz.postgres.session import Conninfo
from witnz.store import checkpoints
from witnz.store.database import Database as Store
from witnz.web.client import NodeClient

ROOT = Path(__file__).resolve().parents[2]
PASSES = (*PASSING, "still open")
START_S = 240.0  # a start is two seconds of work, of which a busy machine gives a little at a time


@dataclass
class Processes(Members):
    """Nodes by id; those that run have a process."""

    database: Database
    configs: dict[str, Config]
    directory: Path
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    program: Sequence[str] = ("-m", "witnz")
    """What Python runs as `witnz`."""

    @classmethod
    def found(cls, directory: Path, database: Database, tables: Tables, ids: Sequence[str] = IDS, **extra: Any) -> Processes:
        """Initialise every node as its operator would; nothing runs yet."""
        addresses = {node: f"127.0.0.1:{free_port()}" for node in ids}
        configs = write_configs(directory, database, tables, ids, addresses=addresses, **extra)
        owner = Conninfo.from_conninfo(database.owner_dsn)
        for place, config in enumerate(configs.values()):
            initialise(config, admin=owner if place == 0 else None, clock=now_us, operator="alice")
        return cls(database, configs, directory)

    @classmethod
    @contextlib.contextmanager
    def of_accounts(
        cls,
        directory: Path,
        names: Sequence[str],
        *,
        settings: Mapping[str, str] | None = None,
        program: Sequence[str] | None = None,
    ) -> Iterator[Processes]:
        """Three that run, on a server of their own, with append-only tables of these names and ten rows each."""
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(PostgresServer(version=16, settings=settings or {}))
            prepare_server(server)
            database = create_database(server)
            for name in names:
                database.sql(f"CREATE TABLE {name} (id int PRIMARY KEY, owner text NOT NULL, amount int NOT NULL)")
                database.sql(f"INSERT INTO {name} SELECT g, 'user' || g, g * 10 FROM generate_series(1, 10) g")
            tables = [{"name": name, "mode": "append_only", "verify_interval": "0s"} for name in names]
            found = cls.found(directory, database, tables)
            found.program = program or found.program
            stack.callback(found.close)
            found.start()
            found.ready()
            yield found

    def start(self, *ids: str, version: str | None = None) -> None:
        """``version``: what the program says that it is, where that is not what it is."""
        program = self.program
        if version is not None:
            program = ("-c", f"import witnz; witnz.__version__ = {version!r}; from witnz.cli.main import main; main()")
        for node in ids or self.configs:
            with (self.directory / node / "node.log").open("ab") as log:
                self.running[node] = subprocess.Popen(
                    [sys.executable, *program, "-c", str(self.directory / node / "witnz.yaml"), "start"],
                    cwd=ROOT,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )

    def kill(self, node: str) -> None:
        """kill -9."""
        end_process(self.running.pop(node))

    def end(self, node: str) -> int:
        """SIGTERM, and its exit code."""
        process = self.running.pop(node)
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(ENDING_S)
        except subprocess.TimeoutExpired:
            end_process(process)
            raise AssertionError(f"{node} did not stop:\n{self.tail(node)}") from None

    def close(self) -> None:
        for node in list(self.running):
            self.kill(node)

    def tail(self, node: str) -> str:
        return "\n".join((self.directory / node / "node.log").read_text(errors="replace").splitlines()[-25:])

    def status(self, node: str) -> dict[str, Any] | None:
        with contextlib.suppress(WitnzError, OSError):
            return dict(NodeClient(self.configs[node].socket_path).status())
        return None

    def ready(self, *ids: str) -> None:
        """These nodes, or all that run, record every table and take part: the next one may be stopped."""
        wanted = {table.name for config in self.configs.values() for table in config.protected_tables}
        for node in ids or list(self.running):

            def look(node: str = node) -> bool:
                process = self.running[node]
                assert process.poll() is None, f"{node} ended with {process.returncode}:\n{self.tail(node)}"
                status = self.status(node)
                if status is None or status["node"]["state"] != "running" or not status["cluster"]["leader"]:
                    return False
                return {t["name"] for t in status["tables"] if t["status"] == "active"} >= wanted

            try:
                wait(look, f"{node} to be ready", START_S)
            except AssertionError as error:
                raise AssertionError(f"{error}\n{self.status(node)}\n{self.tail(node)}") from None

    def leader(self, among: Iterable[str] | None = None) -> str:
        """Who leads, as a quorum of those that run says."""

        def look() -> str | None:
            said = [status["cluster"]["leader"] for node in (among or self.running) if (status := self.status(node))]
            for candidate in set(said) - {None}:
                if said.count(candidate) * 2 > len(self.configs) and candidate in self.running:
                    return str(candidate)
            return None

        return wait(look, "a leader", START_S)

    def wait_for(self, node: str, cls: str, *, table: str | None = None, key: str | None = None) -> dict[str, Any]:
        """The finding of this class, table and key that a running node tells of, as soon as it does."""

        def look() -> dict[str, Any] | None:
            with contextlib.suppress(WitnzError, OSError):
                found = NodeClient(self.configs[node].socket_path).findings()
                wanted = [f for f in found if (f["class"], f["table"], f["key"]) == (cls, table, key)]
                return dict(wanted[0]) if wanted else None
            return None

        try:
            return wait(look, f"{cls} of {table}, key {key} on {node}", START_S)
        except AssertionError as error:
            told = [(f.cls, f.table, f.key, f.detail) for f in self.every_finding(node)]
            raise AssertionError(f"{error}\n{told}\n{self.tail(node)}") from None

    def verify(self, node: str, table: str) -> dict[str, Any]:
        """What a verification on this node says, as soon as nothing that passes stands in its way."""

        def look() -> dict[str, Any] | None:
            with NodeClient(self.configs[node].socket_path) as client:
                said = client.verify(f"public.{table}")
            passing = any(words in reason for reason in said["not_checked"] for words in PASSES)
            return None if passing else said

        return wait(look, f"a verification of {table} on {node}", 120.0)

    # -- their stores ---------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def store(self, node: str) -> Any:
        with Store.open(self.configs[node].data_dir / "witnz.db", read_only=True) as db, db.read() as conn:
            yield conn

    def settled(self, entries_of: dict[str, int], timeout_s: float = START_S) -> None:
        """Every running node has these many entries of these tables, all sealed, under a final checkpoint."""

        def look() -> bool:
            for node in self.running:
                sealed: dict[str, int] = {}
                newest = 0
                for record in self.records(node):
                    if record.type == "seal":
                        newest = record.seq or 0
                        sealed |= {head["table"]: head["size"] for head in record.body["tables"]}
                with self.store(node) as conn:
                    final = checkpoints.latest(conn, final=True)
                if final is None or final.size < newest:
                    return False
                if any(sealed.get(table) != size or len(self.log(node, table)) != size for table, size in entries_of.items()):
                    return False
            return True

        try:
            wait(look, f"{entries_of} to be sealed", timeout_s)
        except AssertionError as error:
            told = {
                node: ({table: len(self.log(node, table)) for table in entries_of}, self.status(node)) for node in self.running
            }
            raise AssertionError(f"{error}\n{told}\n" + "\n".join(self.tail(node) for node in self.running)) from None

    def sealed_anew(self, timeout_s: float = START_S, *, write: Callable[[], object] = lambda: None) -> None:
        """Every running node has a final checkpoint that covers a seal made after this call.

        ``write``: what there is to be sealed, where nothing else is being written; what was written before the call may be
        sealed already.
        """
        newest = max(record.seq or 0 for node in self.running for record in self.records(node))
        write()

        def look(node: str) -> bool:
            with self.store(node) as conn:
                final = checkpoints.latest(conn, final=True)
            seals = [record.seq or 0 for record in self.records(node) if record.type == "seal"]
            return final is not None and any(newest < seq <= final.size for seq in seals)

        for node in self.running:
            try:
                wait(lambda node=node: look(node), f"a new final checkpoint on {node}", timeout_s)
            except AssertionError as error:
                told = {each: self.status(each) for each in self.running}
                raise AssertionError(f"{error}\n{told}\n" + "\n".join(self.tail(each) for each in self.running)) from None

    def known(self) -> set[str]:
        """The ids of the findings that any node has."""
        return {finding.id for node in self.configs for finding in self.every_finding(node)}

    def assert_alike(
        self, tables: Iterable[str], *, allowed: frozenset[str] = frozenset(), known: Collection[str] = ()
    ) -> None:
        """Identical logs, one journal, one history of final checkpoints, no unexpected finding besides those ``known``."""
        self.assert_one_history(
            self.configs, [(table, None) for table in tables], lambda f: f.cls in allowed or f.id in known
        )  # fmt: skip


def until(moment: float) -> None:
    """Sleep to a moment of the monotonic clock."""
    time.sleep(max(0.0, moment - time.monotonic()))
