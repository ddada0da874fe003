"""Before PostgreSQL 15 a stream does not notice that a table was attached; a node opens it anew, and misses nothing.

In every test the walsenders have met writes to the table before it is attached, which is what keeps it out of their streams.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import psycopg
import pytest

from tests.attacks.test_C03_slot_recreated import STEAL
from tests.support.cluster import Trio
from tests.support.joining import Growth
from tests.support.node import TIMEOUT_S, Protected, wait
from tests.support.postgres import Database, create_database
from witnz.core.classify import Rules
from witnz.core.entry import parse_entry
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer
from witnz.errors import ConfigError
from witnz.node.node import Node
from witnz.node.opening import Opening
from witnz.node.refilling import Refilling
from witnz.node.reopening import Reopening
from witnz.node.source import FILLED
from witnz.postgres import catalog
from witnz.postgres.session import Conninfo, connect
from witnz.store import entries, logs

ROOT = "public.sales"
TABLES = [{"name": ROOT, "mode": "append_only", "verify_interval": "0s"}]
MONTHS = {"january": 1, "february": 2, "march": 3, "april": 4}


@pytest.fixture(scope="module", params=[pytest.param(13, marks=pytest.mark.matrix), 14], ids=lambda version: f"pg{version}")
def server(request: pytest.FixtureRequest) -> Iterator[PostgresServer]:
    try:
        made = PostgresServer(version=request.param)
    except ConfigError as error:
        pytest.skip(f"{error} ({error.hint})")
    with made:
        yield made


@pytest.fixture
def database(server: PostgresServer) -> Iterator[Database]:
    """A partitioned table of months, of which January was made as a partition."""
    made = create_database(server)
    made.sql(
        "CREATE TABLE sales (id int, day date, amount int, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);"
        " CREATE TABLE january PARTITION OF sales FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');"
        " INSERT INTO sales VALUES (1, '2026-01-01', 1)"
    )
    yield made
    made.drop()


IDS = count(1000)


def fill(database: Database, month: str, rows: int = 3) -> None:
    """A table of its own for a month, with rows."""
    number = MONTHS[month]
    database.sql(
        f"CREATE TABLE {month} (LIKE sales INCLUDING ALL);"
        f" INSERT INTO {month} SELECT g, '2026-0{number}-01', g FROM generate_series(1, {rows}) g"
    )


def attach(database: Database, month: str) -> None:
    number = MONTHS[month]
    bounds = f"FROM ('2026-0{number}-01') TO ('2026-0{number + 1}-01')"
    database.sql(f"ALTER TABLE sales ATTACH PARTITION {month} FOR VALUES {bounds}")
    sell(database, month)  # at once: before anybody has looked at the catalog


def sell(database: Database, month: str) -> str:
    """One more row; its key."""
    key, day = next(IDS), f"2026-0{MONTHS[month]}-15"
    database.sql(f"INSERT INTO sales VALUES ({key}, '{day}', 1)")
    return f"{key}\t{day}"


def is_active(node: Node, month: str) -> bool:
    return (f"public.{month}", "active") in [(state.name, state.status) for state in node.states()]


def size(node: Node, month: str) -> int:
    with node.db.read() as conn:
        row = logs.find_log(conn, f"public.{month}")
        return 0 if row is None else row.size


def has_entry(node: Node, month: str, key: str) -> bool:
    """Whether the log of a leaf tells of the insert of this key."""
    with node.db.read() as conn:
        row = logs.require_log(conn, f"public.{month}", 1)
        found = [parse_entry(line) for line in entries.entries(conn, row.id)]
    return ("insert", key.encode()) in [(entry.op, entry.key) for entry in found]


@pytest.fixture
def relied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, bool]]]:
    """(leaf, whether the stream was opened behind its attachment by then) of each log that was begun, or fetched."""
    seen: list[tuple[str, bool]] = []
    begin, fetch = Opening._start, Refilling._fetch

    def begun(opening: Opening) -> None:
        seen.append((opening.plan.name, opening._ticket is not None and opening._ticket.good))
        begin(opening)

    def fetched(refilling: Refilling, table: str, generation: int) -> None:
        seen.append((table, not refilling._node.reopening._waiting))
        fetch(refilling, table, generation)

    monkeypatch.setattr(Opening, "_start", begun)
    monkeypatch.setattr(Refilling, "_fetch", fetched)
    yield seen
    assert [table for table, in_time in seen if not in_time] == []


@pytest.fixture
def start(tmp_path: Path, database: Database) -> Iterator[Callable[[], Protected]]:
    started: list[Protected] = []

    def begin() -> Protected:
        started.append(Protected.start(tmp_path, database, TABLES))
        return started[0]

    yield begin
    for protected in started:
        protected.stop()


def test_what_is_written_to_attached_tables_is_recorded_and_tampering_there_is_named(
    start: Callable[[], Protected], database: Database, relied: list[tuple[str, bool]]
) -> None:
    protected = start()
    for month in ("february", "march"):
        fill(database, month)
    protected.caught_up()
    for month in ("february", "march"):
        attach(database, month)
    for month in ("february", "march"):
        wait(lambda month=month: is_active(protected.node, month), f"{month} to be recorded")  # type: ignore[misc]
    keys = {month: sell(database, month) for month in ("january", "february", "march")}
    protected.caught_up()
    for month, key in keys.items():
        assert has_entry(protected.node, month, key)
        verified = protected.verify_soon(f"public.{month}")
        assert (verified.verdict, verified.result.rows) == (Verdict.VERIFIED, 2 if month == "january" else 5), verified
    assert protected.findings(state=None) == []

    # while no node runs, another one
    protected.stop()
    fill(database, "april")
    attach(database, "april")
    protected.resume()
    wait(lambda: is_active(protected.node, "april"), "april to be recorded")
    key = sell(database, "april")
    protected.caught_up()
    assert has_entry(protected.node, "april", key)
    protected.assert_verified("public.april")
    assert protected.findings(state=None) == []

    database.sql("UPDATE february SET amount = 0 WHERE id = 2; DELETE FROM april WHERE id = 3", user="postgres")
    assert protected.wait_for("violation.update").key == "2\\t2026-02-01"
    assert protected.wait_for("violation.delete").key == "3\\t2026-04-01"
    verified = protected.verify_soon("public.february")
    assert verified.verdict is Verdict.TAMPERED
    assert [(d.cls, d.key, d.explained) for d in verified.result.differences] == [("row.modified", "2\\t2026-02-01", True)]
    protected.assert_verified("public.march")


def test_a_leaf_that_was_away_while_the_stream_began_comes_back_into_it(
    start: Callable[[], Protected], database: Database
) -> None:
    protected = start()
    wait(lambda: is_active(protected.node, "january"), "january to be recorded")
    database.sql("ALTER TABLE sales DETACH PARTITION january")
    protected.wait_for("publication.changed", table="public.january")
    protected.restart()
    database.sql("INSERT INTO january VALUES (2, '2026-01-02', 1)")
    protected.caught_up()
    assert size(protected.node, "january") == 2, "nothing is published while it is away"
    attach(database, "january")
    looks = protected.node.watch.looks
    wait(lambda: protected.node.watch.looks >= looks + 2, "a look at the catalog")
    protected.caught_up()

    def comes() -> bool:
        key = sell(database, "january")
        protected.caught_up()
        return has_entry(protected.node, "january", key)

    wait(comes, "rows of the leaf to come over the stream again")


@pytest.mark.matrix
@pytest.mark.slow
def test_a_stop_before_the_stream_was_opened_anew_and_writers_that_never_pause_change_nothing(
    start: Callable[[], Protected], database: Database, relied: list[tuple[str, bool]]
) -> None:
    protected = start()
    protected.node.capture._hooks.reopens = lambda acked: False
    for month in ("march", "april"):
        fill(database, month)
    protected.caught_up()
    attach(database, "march")
    wait(lambda: any(o._ticket for o in protected.node.generations.opening()), "march to wait for the stream")
    assert not is_active(protected.node, "march")

    with writers(database, "january", "march", "april"):
        protected.restart()
        attach(database, "april")
        for month in ("march", "april"):
            wait(lambda month=month: is_active(protected.node, month), f"{month} to be recorded")  # type: ignore[misc]
    protected.caught_up()
    for month in ("january", "march", "april"):
        rows = database.sql(f"SELECT count(*) FROM {month}")[0][0]
        verified = protected.verify_soon(f"public.{month}")
        assert (verified.verdict, verified.result.rows) == (Verdict.VERIFIED, rows), verified
    assert protected.findings(state=None) == []


@contextmanager
def writers(database: Database, *months: str) -> Iterator[None]:
    """Somebody inserts into each of these tables, in transactions of their own and in a long one, until the end."""
    stop = threading.Event()

    def write(month: str) -> None:
        day = f"2026-0{MONTHS[month]}-20"
        with psycopg.connect(database.owner_dsn, autocommit=True) as one, psycopg.connect(database.owner_dsn) as long:
            for key in count(100_000):
                one.execute(f"INSERT INTO {month} VALUES ({2 * key}, '{day}', 1)".encode())
                long.execute(f"INSERT INTO january VALUES ({2 * key + 1}, '2026-01-{MONTHS[month]:02d}', 1)".encode())
                if key % 20 == 0:
                    long.commit()
                if stop.wait(0.005):
                    return

    with ThreadPoolExecutor(len(months)) as pool:
        written = [pool.submit(write, month) for month in months]
        try:
            yield
        finally:
            stop.set()
        for each in written:
            each.result()


@pytest.mark.matrix
@pytest.mark.slow
def test_three_nodes_record_an_attached_table_alike_and_so_does_one_that_was_away(
    tmp_path: Path, database: Database, relied: list[tuple[str, bool]]
) -> None:
    with_march = ("january", "march")
    trio = Trio.start(tmp_path, database, TABLES)
    try:
        fill(database, "march")
        trio.caught_up()
        attach(database, "march")
        for name, node in trio.nodes.items():
            wait(lambda node=node: is_active(node, "march"), f"march on {name}")  # type: ignore[misc]
        keys = {month: sell(database, month) for month in with_march}
        trio.caught_up()
        for node in trio.nodes.values():
            assert all(has_entry(node, month, key) for month, key in keys.items())

        away = trio.followers()[0]
        trio.halt(away)
        fill(database, "april")
        trio.caught_up()
        attach(database, "april")
        for name, node in trio.nodes.items():
            wait(lambda node=node: is_active(node, "april"), f"april on {name}")  # type: ignore[misc]
        sell(database, "april")
        trio.run(away)
        wait(lambda: is_active(trio[away], "april"), "april on the member that was away")
        key = sell(database, "april")
        trio.caught_up()
        for node in trio.nodes.values():
            assert has_entry(node, "april", key)
            for month in ("march", "april"):
                verified = wait(lambda node=node, month=month: verified_now(node, month), f"{month} to be verified")  # type: ignore[misc]
                assert verified is Verdict.VERIFIED
        trio.assert_alike()
        assert all([table for table, _ in relied].count(f"public.{month}") >= 3 for month in ("march", "april"))

        database.sql("UPDATE april SET amount = 0 WHERE id = 2", user="postgres")
        for name in trio.nodes:
            found = trio.wait_for(name, "violation.update")
            assert (found.table, found.key) == ("public.april", "2\\t2026-04-01")
    finally:
        trio.stop()


def verified_now(node: Node, month: str) -> Verdict | None:
    """The verdict, unless it could not be given at this moment."""
    verdict = node.verify_table(f"public.{month}").verdict
    return None if verdict is Verdict.INCONCLUSIVE else verdict


@pytest.mark.matrix
@pytest.mark.slow
def test_who_joins_with_a_slot_of_before_the_attachment_leaves_the_leaf_for_later(tmp_path: Path, database: Database) -> None:
    growth = Growth.begin(tmp_path, database)
    try:
        first = growth.first
        growth.prepare()
        database.sql(f"ALTER PUBLICATION {first.config.publication} ADD TABLE sales")
        first.node.protect_table(ROOT, Rules("append_only"))
        first.node.wait_ready(TIMEOUT_S)
        fill(database, "march")
        first.caught_up()
        attach(database, "march")
        wait(lambda: is_active(first.node, "march"), "march to be recorded")
        first.caught_up()
        first.node.seal_now()
        growth.add_members()
        growth.stand()
        growth.join()
        one, two = growth.lines("node1"), growth.lines("node2")
        assert one.keys() - two.keys() == {("public.march", 1)}
        assert all(one[key] == lines for key, lines in two.items())
    finally:
        growth.close()


def test_one_reconnection_does_for_all_that_wait_and_comes_behind_their_markers(database: Database) -> None:
    conninfo = Conninfo.from_conninfo(database.witnz_dsn)
    epoch = [0]
    reopening = Reopening(lambda: connect(conninfo), lambda: epoch[0])
    fill(database, "march")
    fill(database, "april")
    attach(database, "march")
    attach(database, "april")
    with connect(conninfo) as conn:

        def ticket(month: str):  # type: ignore[no-untyped-def]
            info = catalog.find_table(conn, "public", month)
            assert info is not None
            return reopening.ticket(conn, info)

        assert ticket("january").good and ticket("sales").good
        march, april = ticket("march"), ticket("april")
        assert ticket("march") is march and not march.good and not april.good and march.lsn < april.lsn
        assert not reopening.is_due(lambda: april.lsn - 1)
        assert reopening.is_due(lambda: april.lsn)
        reopening.opened(march.lsn - 1)  # a connection that was lost meanwhile
        assert not march.good and not april.good
        reopening.opened(march.lsn)
        assert march.good and not april.good and reopening.is_due(lambda: april.lsn)
        reopening.opened(april.lsn)
        assert april.good and not reopening.is_due(lambda: 1 << 62)

        other = Reopening(lambda: connect(conninfo), lambda: epoch[0])
        other.look(
            conn,
            [oid for oid, _ in database.sql("SELECT oid::int, relname FROM pg_class WHERE relispartition AND relkind = 'r'")],
        )
        assert len({ticket.lsn for ticket in other._waiting}) == 1 and len(other._waiting) == 2, "one marker for both"

        database.sql("ALTER TABLE sales DETACH PARTITION march")
        reopening.look(conn, [march_oid := int(database.sql("SELECT 'march'::regclass::oid::int")[0][0])])
        assert not reopening.is_due(lambda: 1 << 62), "while it is away there is nothing to come back to"
        attach(database, "march")
        reopening.look(conn, [march_oid])
        again = ticket("march")
        assert again is not march and not again.good and reopening.is_due(lambda: again.lsn)
        epoch[0] += 1
        assert not reopening.is_due(lambda: 1 << 62) and again.good, "LSNs of before a restore are waited for by nobody"


# -- and the slot is lost -----------------------------------------------------------------------------------------------------


@contextmanager
def stopped_in_the_baseline(month: str, node: Callable[[], Node] | None = None) -> Iterator[threading.Event]:
    """Until the end an opening of this leaf, on this node or any, has its snapshot and reads nothing; set once there is one."""
    begun, go_on, copy = threading.Event(), threading.Event(), Opening._copy

    def gated(opening: Opening) -> None:
        if opening.plan.name == f"public.{month}" and (node is None or opening.around.journal is node().journal):
            begun.set()
            assert go_on.wait(TIMEOUT_S)
        copy(opening)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Opening, "_copy", gated)
        try:
            yield begun
        finally:
            go_on.set()


def take_the_slot(database: Database, slot: str, month: str) -> str:
    """Drop a slot that is being read, with a sale that no stream tells of: it was not over before, and is before a new slot's
    beginning.  Its key."""
    key, day = next(IDS), f"2026-0{MONTHS[month]}-15"
    database.sql(f"INSERT INTO sales VALUES ({key}, '{day}', 1); {STEAL.format(slot=slot)}", user="postgres")
    return f"{key}\t{day}"


def test_a_slot_lost_while_a_leaf_was_attached_is_one_gap_and_what_follows_it_is_green(
    start: Callable[[], Protected], database: Database
) -> None:
    protected = start()
    fill(database, "march")
    protected.caught_up()
    with stopped_in_the_baseline("march") as begun:
        attach(database, "march")
        assert begun.wait(TIMEOUT_S)
        take_the_slot(database, protected.config.slot_name, "march")
        gap = protected.wait_for("slot.lost")
    wait(lambda: is_active(protected.node, "march"), "march to be recorded")
    protected.approve(gap)
    for month in ("january", "march"):
        sell(database, month)
    protected.caught_up()
    for table, generation in (("public.january", 2), ("public.march", 1)):
        wait(lambda table=table, g=generation: protected.node.state(table).generation == g, f"{table}")  # type: ignore[misc]
        protected.assert_verified(table)
    assert [(f.cls, f.state) for f in protected.findings(state=None)] == [("slot.lost", "approved")]


@pytest.mark.parametrize("place", ["follower", "leader"])
def test_a_member_that_lost_its_slot_while_a_leaf_was_attached_has_it_filled_and_records_on_alike(
    tmp_path: Path, database: Database, place: str
) -> None:
    trio = Trio.start(tmp_path, database, TABLES)
    try:
        loser = trio.leader if place == "leader" else trio.followers()[0]
        fill(database, "march")
        trio.caught_up()
        with stopped_in_the_baseline("march", lambda: trio[loser]) as begun:
            attach(database, "march")
            assert begun.wait(TIMEOUT_S)
            missed = take_the_slot(database, trio.configs[loser].slot_name, "march")
            lost = trio.wait_for(loser, "slot.lost")
        assert lost.explained_by == FILLED, lost
        for name, node in trio.nodes.items():
            wait(lambda node=node: is_active(node, "march"), f"march on {name}", 2 * TIMEOUT_S)  # type: ignore[misc]
        sold = [("january", sell(database, "january")), ("march", sell(database, "march"))]
        if place == "follower":  # the others had the snapshot and read on: what this one has missed came to them as an event
            sold.append(("march", missed))
        trio.caught_up()
        for node in trio.nodes.values():
            assert all(has_entry(node, month, key) for month, key in sold)
        trio.assert_alike(expected=lambda finding: finding.id == lost.id)
        assert wait(lambda: verified_now(trio[loser], "march"), "march to be verified") is Verdict.VERIFIED
    finally:
        trio.stop()
