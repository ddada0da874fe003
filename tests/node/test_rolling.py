"""Rolling verification on a real database: no false alarm under load, tampered rows are named, a kill costs a range."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.support.dying import die_at
from tests.support.node import Protected
from tests.support.pages import heap_file, hide_tuple, replace_value
from tests.support.postgres import Database, create_database
from witnz.config import load_config
from witnz.core.record import Record, parse_record
from witnz.core.verdict import Verdict
from witnz.errors import Inconclusive, UsageError
from witnz.node import rolling
from witnz.store import journal

pytestmark = pytest.mark.slow

ROWS = 2000
TABLES = [
    {"name": "t", "on_change": "record", "verify_mode": "rolling", "verify_interval": "0s"},
    {"name": "u", "on_change": "record", "verify_interval": "0s"},
    {"name": "named", "on_change": "record", "verify_interval": "0s"},
]


def make_tables(database: Database) -> None:
    database.sql("CREATE TABLE t (id bigint PRIMARY KEY, v text NOT NULL)")
    database.sql(
        f"INSERT INTO t SELECT g - 500, 'user' || lpad(g::text, 5, '0') FROM generate_series(1, {ROWS}) g"
    )  # negative keys, too
    database.sql("CREATE TABLE u (id uuid PRIMARY KEY, v text NOT NULL)")
    database.sql(f"INSERT INTO u SELECT md5(g::text)::uuid, 'user' || lpad(g::text, 5, '0') FROM generate_series(1, {ROWS}) g")
    database.sql("CREATE TABLE named (id text PRIMARY KEY); INSERT INTO named VALUES ('a'), ('b')")


@pytest.fixture
def small_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling, "RANGE_ROWS", 150)
    monkeypatch.setattr(rolling, "LEAST_RANGE_ROWS", 50)


@pytest.fixture
def node(small_ranges: None, database: Database, tmp_path: Path) -> Iterator[Protected]:
    make_tables(database)
    made = Protected.start(tmp_path, database, TABLES)
    yield made
    made.stop()


def ranges(node: Protected, table: str = "public.t") -> list[Record]:
    """The journalled ranges of a table, which say nothing of a whole."""
    with node.node.db.read() as conn:
        records = [parse_record(leaf) for leaf in journal.records(conn)]
    found = [r for r in records if r.type == "verify" and r.body["table"] == table]
    assert all(record.body["mode"] == "rolling" for record in found)
    return found


def bounds(records: list[Record]) -> list[tuple[str | None, str | None]]:
    return [(record.body["range"]["from"], record.body["range"]["to"]) for record in records]


@pytest.mark.parametrize("table", ["public.t", "public.u"])
def test_a_round_under_load_reads_every_row_and_raises_nothing(node: Protected, table: str) -> None:
    stop = threading.Event()
    key = "id" if table == "public.t" else "(md5(id::text)::uuid)"

    def write() -> None:
        number = 10_000
        while not stop.is_set():
            number += 1
            new = str(number) if key == "id" else f"md5('{number}')::uuid"
            node.database.sql(
                f"INSERT INTO {table} VALUES ({new}, 'new');"
                f"UPDATE {table} SET v = v || '!' WHERE v LIKE 'user%{number % 10}7';"
                f"DELETE FROM {table} WHERE v LIKE 'user%{number % 7}13%'"
            )

    writer = threading.Thread(target=write)
    writer.start()
    try:
        rounds = [node.node.roll(table) for _ in range(2)]
    finally:
        stop.set()
        writer.join()
    for verified in rounds:
        assert verified.verdict is Verdict.VERIFIED, verified.to_json()
        document = verified.to_json()
        assert document["mode"] == "rolling"
        assert document["ranges"] >= 9
        assert document["expected_root"] is None
        assert document["reread_s"] >= document["seconds"] > 0
    assert node.findings(state=None) == []
    records = ranges(node, table)
    cuts = bounds(records)
    assert cuts[0][0] is None
    assert cuts[-1][1] is None
    assert all(one[1] == other[0] for one, other in pairwise(cuts)), "each begins where the last ended"
    assert len({record.body["snapshot"] for record in records}) > 3


def test_a_killed_node_goes_on_where_it_was(small_ranges: None, database: Database, tmp_path: Path) -> None:
    make_tables(database)
    node = Protected.start(tmp_path, database, TABLES)
    node.stop()
    die_at("rolling", tmp_path / "witnz.yaml", sql="public.t")
    node.config = load_config(tmp_path / "witnz.yaml", {})
    node.resume()
    try:
        before = ranges(node)
        assert [record.body["rows"] for record in before] == [50, 50]
        progress = node.node.rolling.progress("public.t")
        assert progress is not None
        assert (progress["low"], progress["rows"]) == ("-400", 100)
        verified = node.node.roll("public.t")
        assert verified.verdict is Verdict.VERIFIED
        assert verified.result.rows == ROWS
        cuts = bounds(ranges(node))
        assert cuts[len(before)][0] == "-400", "nothing is read twice, nothing is left out"
        assert sum(record.body["rows"] for record in ranges(node)) == ROWS
        assert node.node.rolling.progress("public.t") is None
    finally:
        node.stop()


def test_a_round_that_is_stopped_goes_on_and_a_budget_is_kept(node: Protected, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rolling, "RANGE_S", 0.01)  # ranges of 50 rows
    state, rounds = node.node.state("public.t"), node.node.rolling
    rounds.stopped.set()
    with pytest.raises(Inconclusive, match="goes on there"):
        rounds.run(state, 2000)
    rounds.stopped.clear()
    verified = rounds.run(state, 2000)
    assert verified.result.rows == ROWS
    with node.node.db.read() as conn:
        records = [parse_record(leaf) for leaf in journal.records(conn)]
    times = [record.at / 1e6 for record in records if record.type == "verify"]
    assert times[-1] - times[1] >= 0.8 * (ROWS - 200) / 2000


def test_a_sample_reads_some_ranges_and_says_what_it_left_out(node: Protected) -> None:
    some = node.node.verify_sample("public.t", 2, 10)
    assert some.verdict is Verdict.VERIFIED
    assert 2 * ROWS / 20 < some.result.rows < 2 * ROWS / 5
    assert some.not_checked == ("8 of 10 ranges of keys: this was a sample",)
    whole = node.node.verify_sample("public.u", 7, 7)
    assert (whole.result.rows, whole.not_checked) == (ROWS, ())
    assert len({bounds([record])[0] for record in ranges(node, "public.u")}) == 7
    with pytest.raises(UsageError):
        node.node.verify_sample("public.named", 1, 2)
    with pytest.raises(UsageError, match="smallint, integer, bigint or uuid"):
        node.node.roll("public.named")


def test_a_tampered_row_in_any_range_is_found_and_named(small_ranges: None, own_server: Any, tmp_path: Path) -> None:
    database = create_database(own_server(checksums=False))
    make_tables(database)
    node = Protected.start(tmp_path, database, TABLES)
    node.stop()
    path = heap_file(database, "public.t")
    database.server.stop()
    for number in (b"00001", b"01001", b"02000"):
        replace_value(path, b"user" + number, b"king" + number)
    hide_tuple(path, b"user01500")
    database.server.start()
    node.resume()
    try:
        verified = node.node.roll("public.t")
        assert verified.verdict is Verdict.TAMPERED
        named = {(f.cls, f.key) for f in node.findings("public.t")}
        assert named == {
            ("row.modified", "-499"), ("row.modified", "501"), ("row.modified", "1500"), ("row.deleted", "1000"),
        }  # fmt: skip
        assert node.node.roll("public.u").verdict is Verdict.VERIFIED
    finally:
        node.stop()
