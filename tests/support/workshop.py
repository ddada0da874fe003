"""One running node for many tests: each protects tables of its own in it, and may hold up parts of the server."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from tests.support.node import TIMEOUT_S, Protected, wait
from tests.support.postgres import Database, create_database
from tests.support.recorded import Judge, hash_of, log_row, read_rows, reader
from witnz.core.classify import Rules
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer
from witnz.ending import end_threads
from witnz.node.opening import Opening

RECORD = Rules("state_integrity", "record")


@dataclass
class Workshop:
    """A node that protects ``bystander`` and whatever tests add to it."""

    protected: Protected
    judge: Judge

    @property
    def database(self) -> Database:
        return self.protected.database

    @property
    def node(self) -> Any:
        return self.protected.node

    # -- tables ---------------------------------------------------------------------------------------------------------------

    def publish(self, table: str, ddl: str) -> None:
        """Create a table (``table`` is SQL) and publish it, as its owner does before it is protected."""
        self.database.sql(f"{ddl}; ALTER PUBLICATION {self.protected.config.publication} ADD TABLE ONLY {table}")

    def protect(self, name: str, ddl: str, rules: Rules = RECORD, **keywords: Any) -> str:
        """A table in ``public``, protected while the node runs, its first generation active; its witnz name."""
        self.publish(name, ddl)
        self.node.protect_table(f"public.{name}", rules, **keywords)
        self.node.wait_ready(TIMEOUT_S)
        return f"public.{name}"

    def opening(self, table: str) -> Opening | None:
        return next((o for o in self.node.generations.opening() if o.plan.name == table), None)

    def await_phase(self, table: str, phase: str) -> Opening:
        def reached() -> Opening | None:
            found = self.opening(table)
            return found if found is not None and found.phase == phase else None

        return wait(reached, f"the opening of {table} to be {phase}; it is {self.opening(table)}")

    def look(self) -> None:
        """What the catalog watch does every two seconds."""
        with self.database.connect_witnz() as conn:
            self.node.watch.look(conn)

    def await_generation(self, table: str, generation: int) -> None:
        def active() -> bool:
            self.look()
            states = [state for state in self.node.states() if state.name == table]
            return [(state.generation, state.status) for state in states] == [(generation, "active")]

        wait(active, f"generation {generation} of {table}: {[(s.generation, s.status, s.stale) for s in self.node.states()]}")

    # -- judging --------------------------------------------------------------------------------------------------------------

    def live_hashes(self, table: str, columns: str = "*") -> list[bytes]:
        """The row hashes of what the table ``public.…`` shows now, under the secret of its newest generation."""
        secret = log_row(self.protected, table).secret
        with reader(self.database) as conn:
            return [hash_of(secret, line) for line in read_rows(conn, table, columns, None).lines]

    def assert_in_order(self, *tables: str) -> None:
        """Nothing is found about these tables, and a scan says that they are as recorded."""
        self.protected.caught_up()
        for table in tables:
            verified = self.protected.verify(table)
            assert (verified.verdict, verified.not_checked) == (Verdict.VERIFIED, ()), verified.to_json()
            assert self.protected.findings(table, state=None) == []
        assert [finding for finding in self.protected.findings(state=None) if finding.table is None] == []

    # -- holding up -----------------------------------------------------------------------------------------------------------

    def backend(self, application: str) -> int | None:
        """The process id of one of the node's own backends: ``witnz stream``, ``witnz baseline`` …"""
        rows = self.database.sql(
            f"SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = '{application}'",
            user="postgres",
        )
        return int(rows[0][0]) if rows else None

    def terminate(self, application: str) -> None:
        pid = self.backend(application)
        assert pid is not None, f"there is no {application}"
        if self.database.server.version >= 14:
            self.database.sql(f"SELECT pg_terminate_backend({pid}, 10000)", user="postgres")
            return
        self.database.sql(f"SELECT pg_terminate_backend({pid})", user="postgres")
        wait(lambda: self.backend(application) != pid, f"the end of {application}")

    @contextmanager
    def stalled_stream(self) -> Iterator[None]:
        """While held, the server sends nothing to the node."""
        pid = wait(lambda: self.backend("witnz stream"), "the node to stream")
        os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    @contextmanager
    def open_transaction(self, *statements: str) -> Iterator[psycopg.Connection[Any]]:
        """A transaction of the application that has written and is not committed; the test ends it, else it is rolled back."""
        connection = self.database.connect_owner(autocommit=False)
        for statement in ("SELECT pg_current_xact_id()", *statements):
            connection.execute(statement.encode())
        try:
            yield connection
        finally:
            connection.close()


class Load:
    """Writers, each on a connection of its own, that repeat a function until the ``with`` ends; their errors come back."""

    def __init__(self, database: Database, *works: Callable[[psycopg.Connection[Any], int], object]) -> None:
        self._stop = threading.Event()
        self._errors: list[BaseException] = []
        self.rounds = [0] * len(works)
        self._threads = [
            threading.Thread(target=self._run, args=(database.owner_dsn, index, work)) for index, work in enumerate(works)
        ]

    def _run(self, dsn: str, index: int, work: Callable[[psycopg.Connection[Any], int], object]) -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                while not self._stop.wait(0.001):
                    with contextlib.suppress(psycopg.errors.DeadlockDetected):
                        work(connection, self.rounds[index])
                    self.rounds[index] += 1
        except psycopg.Error as error:
            self._errors.append(error)

    def await_rounds(self, more: int) -> None:
        """Until every writer has done so many more rounds."""
        goal = [done + more for done in self.rounds]
        wait(lambda: self._errors or all(d >= g for d, g in zip(self.rounds, goal, strict=True)), f"{more} rounds of the load")

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            end_threads(thread)
        assert self._errors == []


@contextmanager
def open_workshop(server: PostgresServer, directory: Path) -> Iterator[Workshop]:
    """A database and a node of their own, until the ``with`` ends."""
    database = create_database(server)
    database.sql(
        "CREATE TABLE bystander (id bigserial PRIMARY KEY, note text); INSERT INTO bystander (note) VALUES ('a'), ('b')"
    )
    protected = Protected.start(directory, database, [{"name": "bystander", "mode": "append_only"}])
    try:
        yield Workshop(protected, Judge(protected))
    finally:
        protected.stop()
        database.drop()
