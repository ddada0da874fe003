"""The scene of an attack: a protected database, its bystanders, and a DBA who can do everything to it.

``scene`` is one node for all attacks that leave publication, slot and server alone; each test protects a table of its own in
it while the node runs.  ``own_scene`` makes a node for one test alone.  Nothing verifies on a schedule here: what is found
before a test verifies, the stream (or the catalog watch) found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from tests.support.cluster import Trio, ledger_trio
from tests.support.node import TIMEOUT_S, Protected, wait
from tests.support.postgres import Database, create_database
from tests.support.sightings import SIGHTINGS
from witnz.core.classify import Rules
from witnz.core.finding import Finding
from witnz.core.lsn import parse_lsn
from witnz.core.names import parse_table_name
from witnz.core.rowline import row_hash
from witnz.core.timestamp import format_time
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer
from witnz.node.keyring import load_person_key
from witnz.node.table_state import ACTIVE
from witnz.node.verification import Verified
from witnz.postgres.session import Conninfo, connect
from witnz.verify.live import Difference

BYSTANDERS = ("public.untouched", "billing.audit_logs")

COLUMNS = "id bigint PRIMARY KEY, actor text NOT NULL, amount numeric(10,2), note text, created_at timestamptz NOT NULL"
ROWS = (
    "SELECT g, 'user' || g, g * 10.50, CASE WHEN g % 3 = 0 THEN NULL ELSE 'note ' || g END,"
    " '2026-01-01 00:00:00+00'::timestamptz + g * interval '1 hour' FROM generate_series({first}, {last}) g"
)
BASELINE_ROWS, LATER_ROWS = 10, 5  # ids 1 to 10 are in the baseline, 11 to 15 came over the stream

Found = tuple[str, str | None]
"""(class, key) of a finding."""


@dataclass(slots=True)
class Scene:
    """A running node on a database of its own, with tables to attack and tables that nobody touches."""

    database: Database
    protected: Protected
    running: bool = True
    _names: Iterator[int] = field(default_factory=lambda: count(1))
    _server_pid: int | None = None

    def __post_init__(self) -> None:
        self._server_pid = self.database.server.pid

    @property
    def node(self) -> Any:
        return self.protected.node

    def stop(self) -> None:
        """The node is down."""
        self.protected.stop()
        self.running = False

    def resume(self) -> None:
        """The node comes back on its own data directory."""
        self.protected.resume()
        self.running = True

    # -- tables ---------------------------------------------------------------------------------------------------------------

    def protect(
        self, rules: Rules | str = "append_only", *, schema: str = "public", columns: str = COLUMNS, rows: str = ROWS
    ) -> str:
        """A new table with history, protected while the node runs; its witnz name."""
        name = f"{schema}.attacked_{next(self._names)}"
        make_table(self.database, name, columns=columns, rows=rows)
        self.database.sql(f"ALTER PUBLICATION {self.protected.config.publication} ADD TABLE ONLY {name}")
        self.node.protect_table(name, Rules(rules) if isinstance(rules, str) else rules)  # type: ignore[arg-type]
        self.node.wait_ready(TIMEOUT_S)
        self.go_on(name, rows=rows)
        return name

    def go_on(self, name: str, *, rows: str = ROWS) -> None:
        """The application's own inserts after the baseline, recorded and, where the rules ask for it, approved."""
        self.database.sql(f"INSERT INTO {name} {rows.format(first=BASELINE_ROWS + 1, last=BASELINE_ROWS + LATER_ROWS)}")
        self.protected.caught_up()
        for finding in self.protected.findings(name):
            self.protected.approve(finding)

    # -- attacking ------------------------------------------------------------------------------------------------------------

    def dba(self, *statements: str) -> None:
        """Each statement in a transaction of its own, as the superuser."""
        with psycopg.connect(self.database.admin_dsn, autocommit=True) as conn:
            for statement in statements:
                conn.execute(statement.encode())
        SIGHTINGS.deed()

    def dba_at_once(self, *statements: str) -> int:
        """All statements in one transaction, as the superuser; where WAL was written to just before anybody could see them."""
        with psycopg.connect(self.database.admin_dsn) as conn:
            for statement in statements:
                conn.execute(statement.encode())
            before_commit = self.insert_lsn()
        SIGHTINGS.deed()
        return before_commit

    # -- asking ---------------------------------------------------------------------------------------------------------------

    def row_hash(self, table: str, key: int, columns: str = "*") -> str:
        """The hex row hash of the row as it stands now, computed without the node's code for reading."""
        with connect(Conninfo.from_conninfo(self.database.admin_dsn), scan=True) as conn, conn.cursor() as cursor:
            name = sql.Identifier(*parse_table_name(table))
            query = sql.SQL("COPY (SELECT " + columns + " FROM ONLY {} WHERE id = {}) TO STDOUT").format(name, key)  # type: ignore[arg-type]
            with cursor.copy(query) as copy:
                text = b"".join(bytes(part) for part in copy)
        assert text.endswith(b"\n") and text.count(b"\n") == 1, f"no single row {key} in {table}"
        return row_hash(self.node.state(table).head.secret, text[:-1]).hex()

    def now(self, cls: str, key: str | int | None, table: str | None) -> Finding:
        """The open finding of this class, key and table, as soon as there is one; nobody verifies meanwhile."""
        name = None if key is None else str(key)

        def look() -> Finding | None:
            found = [f for f in self.protected.findings() if (f.cls, f.key, f.table) == (cls, name, table)]
            return found[0] if found else None

        what = f"{cls} of {table}, key {name}; open are {[(f.cls, f.table, f.key) for f in self.protected.findings()]}"
        seen = wait(look, what)
        SIGHTINGS.saw(cls)
        return seen

    def gap(self, *classes: str) -> Finding:
        """The one open finding of a gap in the stream, as soon as there is one; its key is where the gap ends."""

        def look() -> list[Finding]:
            return [f for f in self.protected.findings() if f.cls in (classes or ("slot.lost", "coverage.gap"))]

        (found,) = wait(look, f"a gap {classes}")
        assert found.table is None and found.key == found.lsn
        SIGHTINGS.saw(found.cls)
        return found

    def wait_bridged(self, *tables: str) -> None:
        """Return when the accepted gap is followed by a new generation of these tables."""
        for table in tables:
            wait(lambda name=table: self._is_bridged(name), f"generation 2 of {table}")  # type: ignore[misc]

    def _is_bridged(self, table: str) -> bool:
        state = self.node.state(table)
        return bool(state.generation == 2 and state.status == ACTIVE)

    def now_watched(self) -> None:
        """Return when the catalog watch has looked at everything that is there now."""
        before = self.node.watch.looks
        wait(lambda: self.node.watch.looks >= before + 2, "a look of the catalog watch")

    def caught_up_again(self) -> None:
        """The stream is back, after it broke."""
        wait(lambda: self.node.capture.status.connected, "the stream to come back")
        self.protected.caught_up()

    def open_without_table(self) -> list[tuple[str, Finding]]:
        """(class, finding) of the open findings that are about no single table."""
        return [(f.cls, f) for f in self.protected.findings() if f.table is None]

    @contextmanager
    def no_new_generation(self) -> Iterator[None]:
        """A transaction that began earlier keeps new generations from being adopted."""
        with psycopg.connect(self.database.admin_dsn) as conn:
            conn.execute("SELECT pg_current_xact_id()")
            yield

    def insert_lsn(self) -> int:
        """Where WAL is written to now."""
        return parse_lsn(str(self.database.server.sql("SELECT pg_current_wal_insert_lsn()::text")[0][0]))

    def found(self, table: str | None) -> list[Found]:
        """(class, key) of the open findings of a table, once everything committed is recorded; None: those of no table.

        Where the test itself stopped the server, that it was away for long is left out: how long depends on the machine.
        """
        self.protected.caught_up()
        stopped = self.database.server.pid != self._server_pid
        every = [f for f in self.protected.findings() if not (stopped and f.cls == "source.unreachable")]
        return sorted(((f.cls, f.key) for f in every if f.table == table), key=str)

    def scan(self, table: str) -> tuple[Verified, dict[str | None, Difference]]:
        """Verify now: the result, and its differences by key."""
        verified = self.protected.verify(table)
        return verified, _sighted(verified)

    def assert_bystanders_verified(self, *others: str) -> None:
        """Nothing is found on the tables that nobody touched, and a scan says that they are as recorded."""
        for table in (*BYSTANDERS, *others):
            verified = self.protected.verify_soon(table)
            assert self.protected.findings(table) == []
            assert (verified.verdict, verified.not_checked) == (Verdict.VERIFIED, ()), f"{table}: {verified}"
            assert verified.result.rows > 0

    def verified_at(self, table: str) -> str:
        """Verify a table that must be in order; the time of the run as findings give it in their window."""
        verified = self.protected.verify_soon(table)
        assert verified.verdict is Verdict.VERIFIED, verified
        return format_time(verified.at)

    def differences_of(self, table: str) -> dict[str | None, tuple[str, bool]]:
        """Verify a table that must turn out TAMPERED: its differing rows as key -> (class, whether the stream explains it)."""
        verified = self.protected.verify_soon(table)
        assert verified.verdict is Verdict.TAMPERED, verified
        return {key: (difference.cls, difference.explained) for key, difference in _sighted(verified).items()}

    def operator(self) -> tuple[str, Any]:
        """(name, signer) of the operator."""
        return load_person_key(self.protected.directory / "data" / "operator-alice.key", "operator")


def _sighted(verified: Verified) -> dict[str | None, Difference]:
    """The differences of a run by key, noted as seen."""
    for cls in sorted({difference.cls for difference in verified.result.differences}):
        SIGHTINGS.saw(cls)
    return {difference.key: difference for difference in verified.result.differences}


def make_table(
    database: Database, name: str, *, columns: str = COLUMNS, rows: str = ROWS, external: Sequence[str] = ()
) -> None:
    """A table with ten rows, owned by the application; long values of ``external`` columns are stored as they are."""
    schema, _ = parse_table_name(name)
    stored = "".join(f"ALTER TABLE {name} ALTER {column} SET STORAGE EXTERNAL;" for column in external)
    database.sql(
        f"CREATE SCHEMA IF NOT EXISTS {schema}; GRANT USAGE ON SCHEMA {schema} TO witnz; CREATE TABLE {name} ({columns});"
        f"{stored} INSERT INTO {name} {rows.format(first=1, last=BASELINE_ROWS)}"
    )


Start = Callable[..., Scene]


def start_scene(
    stack: ExitStack,
    directory: Path,
    server: PostgresServer,
    tables: Sequence[dict[str, Any]],
    *,
    columns: str,
    rows: str,
    external: Sequence[str] = (),
    **settings: Any,
) -> Scene:
    """A database with ``tables`` and the bystanders, and a node that protects them all, until ``stack`` ends."""
    database = create_database(server)
    stack.callback(_drop, database, server)
    database.sql(
        "CREATE SCHEMA billing AUTHORIZATION app_owner;"
        " ALTER DEFAULT PRIVILEGES IN SCHEMA billing GRANT SELECT ON TABLES TO witnz"
    )
    standing = [{"name": name, "mode": "append_only"} for name in BYSTANDERS]
    for name in BYSTANDERS:
        make_table(database, name)
    for table in tables:
        make_table(database, table["name"], columns=columns, rows=rows, external=external)
    protected = Protected.start(directory, database, [*standing, *tables], **settings)
    scene = Scene(database, protected)
    stack.callback(_stop, scene)
    for name in BYSTANDERS:
        scene.go_on(name)
    for table in tables:
        scene.go_on(table["name"], rows=rows)
    return scene


def _stop(scene: Scene) -> None:
    if scene.running:
        scene.stop()


def _drop(database: Database, server: PostgresServer) -> None:
    if server.pid is not None:
        database.drop()


@pytest.fixture(scope="session")
def begin_scene() -> Callable[..., Scene]:
    """:func:`start_scene` for fixtures that live longer than one test."""

    def begin(stack: ExitStack, directory: Path, server: PostgresServer, tables: Sequence[dict[str, Any]]) -> Scene:
        return start_scene(stack, directory, server, tables, columns=COLUMNS, rows=ROWS)

    return begin


@dataclass(slots=True)
class Shared:
    """The node that attacks share, and what ends it."""

    scene: Scene | None = None
    tests: int = 0
    ends: bool = False
    stack: ExitStack = field(default_factory=ExitStack)

    def close(self) -> None:
        self.scene, self.tests, self.ends = None, 0, False
        self.stack.close()


@pytest.fixture(autouse=True)
def sightings(request: pytest.FixtureRequest) -> Iterator[None]:
    """What the test saw goes into its report, for the table of ``make attacks``."""
    SIGHTINGS.take()
    yield
    request.node.user_properties.append(("sightings", SIGHTINGS.take()))


SHARED = pytest.StashKey[Shared]()
MOST_TESTS = 25  # of one node: what they protected is watched ten times a second until the node stops


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """No node watches the database beside the tests of other directories.  This runs before the test's fixtures end, which may
    need the node once more."""
    shared = item.session.stash.get(SHARED, None)
    if shared is not None and (nextitem is None or nextitem.path.parent != item.path.parent):
        if "shared" in getattr(item, "fixturenames", ()):
            shared.ends = True
        else:
            shared.close()


@pytest.fixture
def shared(request: pytest.FixtureRequest) -> Iterator[Shared]:
    shared = request.session.stash.setdefault(SHARED, Shared())
    yield shared
    if shared.ends:
        shared.close()


@pytest.fixture
def scene(shared: Shared, pg_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """The node that attacks share; a test protects tables of its own in it, and leaves it recording."""
    if shared.tests >= MOST_TESTS:
        shared.close()
    shared.tests += 1
    if shared.scene is None:
        directory = tmp_path_factory.mktemp("scene")
        shared.scene = start_scene(shared.stack, directory, pg_server, [], columns=COLUMNS, rows=ROWS)
    capture = shared.scene.node.capture
    yield shared.scene
    if capture.fatal is not None:
        shared.close()  # the next test gets a node that records
        raise capture.fatal


@pytest.fixture
def own_scene(pg_server: PostgresServer, tmp_path: Path) -> Iterator[Start]:
    """``own_scene({"name": …, "mode": …}, …)``: database and node of the test's own.

    Also ``server``, ``columns``, ``rows``, ``external`` (:func:`make_table`); what is left goes into the configuration.
    """
    with ExitStack() as stack:

        def start(
            *tables: dict[str, Any],
            server: PostgresServer = pg_server,
            columns: str = COLUMNS,
            rows: str = ROWS,
            **settings: Any,
        ) -> Scene:
            return start_scene(stack, tmp_path, server, tables, columns=columns, rows=rows, **settings)

        yield start


@pytest.fixture(scope="module")
def trio(pg_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    """Three nodes for the attacks of one file."""
    database = create_database(pg_server)
    with ExitStack() as stack:
        stack.callback(database.drop)
        trio = ledger_trio(tmp_path_factory.mktemp("trio"), database)
        stack.callback(trio.stop)
        yield trio
