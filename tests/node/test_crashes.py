"""kill -9 at each moment of an opening: what it leaves is taken back or completed, and no row is lost or doubled."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import erasures
from tests.support.dying import die_at
from tests.support.dying_orders import die_ordering
from tests.support.node import Protected, wait
from tests.support.postgres import Database, create_database
from tests.support.recorded import audit_problems, hash_of, log_row, read_rows, reader, recorded, records, replayed
from witnz.config import load_config
from witnz.core.verdict import Verdict
from witnz.store import logs
from witnz.store.database import Database as Store

FIRST = ["reading", "table.before", "table.after"]
LATER = ["open.after", "reading", "table.before", "table.after", "adopted", "cancel.before", "cancel.after"]
WRITES = (
    "INSERT INTO t (id, v) VALUES (9001, 'while it was read'); UPDATE t SET v = 'changed' WHERE id = 3;"
    "DELETE FROM t WHERE id = 4"
)

Start = Callable[..., Protected]


@pytest.fixture(scope="module")
def one_database(pg_server) -> Iterator[Database]:
    made = create_database(pg_server)
    yield made
    made.drop()


@pytest.fixture
def started(one_database: Database, tmp_path: Path) -> Iterator[Start]:
    """``started("kept", …)``: a node that has protected these tables, and has stopped."""
    database = one_database
    database.sql("CREATE TABLE kept (id int PRIMARY KEY); INSERT INTO kept VALUES (1)")
    database.sql("CREATE TABLE t (id int PRIMARY KEY, v text); INSERT INTO t SELECT g, 'v' FROM generate_series(1, 300) g")
    made: list[Protected] = []

    def start(*tables: str) -> Protected:
        node = Protected.start(tmp_path, database, [{"name": name, "on_change": "record"} for name in tables])
        node.stop()
        made.append(node)
        return node

    yield start
    if made and made[0].node.capture.status.connected:
        made[0].stop()
    database.sql(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = current_database()",
        user="postgres",
    )
    for (name,) in database.sql("SELECT pubname::text FROM pg_publication"):
        database.sql(f'DROP PUBLICATION "{name}"')
    database.sql("DROP TABLE t, kept")


def assert_whole(node: Protected, generation: int) -> None:
    """The table is recorded as it is, in this generation, by one chain of records; nothing was found and the store is sound."""
    table = "public.t"
    wait(lambda: [(s.generation, s.status) for s in node.node.states() if s.name == table] == [(generation, "active")], "it")
    node.caught_up()
    verified = node.verify(table)
    assert (verified.verdict, verified.not_checked) == (Verdict.VERIFIED, ()), verified.to_json()
    assert node.findings(state=None) == []
    row = log_row(node, table)
    with reader(node.database) as conn:
        lines = read_rows(conn, "t", "*", None).lines
    assert replayed(recorded(node, table), keyed=True) == Counter(hash_of(row.secret, line) for line in lines)
    journal = records(node)
    adopted = [r.body["generation"] for r in journal if r.type == "table" and r.body["table"] == table]
    assert adopted == list(range(1, generation + 1))
    opened = [r.body["generation"] for r in journal if r.type == "open"]
    assert len(opened) == len([r for r in journal if r.type == "cancel"]) + len(adopted) - 1
    node.node.seal_now()
    assert audit_problems(node) == []


@pytest.mark.parametrize("moment", FIRST)
def test_a_first_generation_survives_a_kill(started: Start, moment: str) -> None:
    node = started("kept")
    path = node.directory / "witnz.yaml"
    path.write_text(path.read_text().replace("protected_tables:\n", "protected_tables:\n- {name: t, on_change: record}\n"))
    node.database.sql(f"ALTER PUBLICATION {node.config.publication} ADD TABLE t")
    die_at(moment, path, sql=WRITES, dsn=node.database.admin_dsn)
    node.database.sql("INSERT INTO t VALUES (9002, 'while it was down')")
    node.config = load_config(path, {})
    node.resume()
    assert_whole(node, 1)


@pytest.mark.parametrize("moment", LATER)
def test_a_later_generation_survives_a_kill(started: Start, moment: str) -> None:
    node = started("kept", "t")
    node.database.sql(
        "INSERT INTO t VALUES (9003, 'before'); ALTER TABLE t ADD COLUMN w int DEFAULT 7; DELETE FROM t WHERE id = 5"
    )
    die_at(moment, node.directory / "witnz.yaml", sql=WRITES, dsn=node.database.admin_dsn)
    node.database.sql("INSERT INTO t VALUES (9002, 'while it was down', 0); UPDATE t SET v = 'later' WHERE id = 6")
    node.resume()
    assert_whole(node, 2)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["erase.after", "carried", "removed", "forgetting", "forgotten", "prune.after", "pruning"])
def test_an_erasure_survives_a_kill_between_its_steps(started: Start, moment: str) -> None:
    node = started("kept", "t")
    with Store.open(node.directory / "data" / "witnz.db", read_only=True) as db, db.read() as conn:
        (secret,) = [row.secret for row in logs.list_logs(conn) if row.table == "public.t"]
    die_ordering(moment, node.directory / "witnz.yaml", node.database.admin_dsn)
    node.resume()
    clean = erasures.started(node)
    if moment in ("erase.after", "carried"):
        assert [(one["state"], one["keys"]) for one in clean.orders("public.t")["erasures"]] == [("ordered", ["7"])]
        node.database.sql("DELETE FROM t WHERE id = 7")
    clean.await_erased("public.t", 1)
    assert_whole(node, 2)
    if moment not in ("prune.after", "pruning"):
        clean.prune("public.t", 1)
    clean.await_pruned("public.t", 1)
    assert clean.orders("public.t")["erased_rows"] == 1 and len(records(node, "erase")) == 1
    assert not clean.is_anywhere(secret)
    assert audit_problems(node) == []
