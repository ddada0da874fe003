"""on_tamper: repair: rows come back by themselves, with a key that an operator allowed, and never in a fight."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import wait
from tests.support.postgres import Database, create_database
from tests.support.repairs import Bench, running
from witnz.core.finding import Finding
from witnz.core.keys import ED25519, format_private_key
from witnz.demo.server import PostgresServer
from witnz.node.auto_repair import HOUR_US, REPAIRS_PER_HOUR, AutoRepair
from witnz.node.keyring import create_person_key
from witnz.store.datadir import save_key_file

pytestmark = pytest.mark.since(14, "logical messages in the stream, so intents and repairs,")

TABLES = ("stream", "silent", "fought", "alerting", "poor", "parts")


def start(directory: Path, database: Database, tables: list[dict[str, Any]], **extra: Any) -> Bench:
    url_file = directory / "repair-url"
    url_file.write_text(database.owner_dsn)
    url_file.chmod(0o600)
    return Bench.start(directory, database, tables, repair_url_file=str(url_file), **extra)


def allow(bench: Bench) -> None:
    """What an operator does once: a key on the node, and its name in the journal."""
    signer = create_person_key(bench.node.auto_repair.key_file, "intent", "repair")
    bench.add_key("intent", "repair", signer.public)


@pytest.fixture(scope="module")
def bench(pg_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    database = create_database(pg_server)
    for name in TABLES[:-1]:
        database.sql(f"CREATE TABLE {name} (id int PRIMARY KEY, who text)")
        database.sql(f"INSERT INTO {name} SELECT g, 'user' || g FROM generate_series(1, 5) g")
    database.sql("CREATE TABLE parts (id int PRIMARY KEY, who text) PARTITION BY RANGE (id)")
    database.sql(
        "CREATE TABLE parts_low PARTITION OF parts FOR VALUES FROM (0) TO (100); INSERT INTO parts VALUES (1, 'user1')"
    )
    tables = [
        {"name": n, "mode": "append_only", "retain": "rows", "on_tamper": "repair", "verify_interval": "0s"} for n in TABLES
    ]
    tables[TABLES.index("alerting")]["on_tamper"] = "alert"
    with running(start(tmp_path_factory.mktemp("auto"), database, tables)) as bench:
        allow(bench)
        yield bench
    database.drop()


def told(bench: Bench, table: str) -> int:
    """How many findings a table has had so far."""
    return len(bench.protected.findings(f"public.{table}", state=None))


def repaired(bench: Bench, table: str, count: int) -> list[Finding]:
    """The repaired findings of a table, once there are so many and none is open."""

    def look() -> list[Finding] | None:
        found = bench.protected.findings(f"public.{table}", state=None)
        done = [f for f in found if f.state == "repaired"]
        return done if len(done) == count == len(found) else None

    return wait(look, f"{count} repaired findings of {table}")


def test_what_the_stream_shows_is_undone_at_once(bench: Bench) -> None:
    before, known = bench.texts("stream"), told(bench, "stream")
    bench.sql("UPDATE stream SET who = 'mallory' WHERE id = 1; DELETE FROM stream WHERE id = 2; TRUNCATE stream")
    repaired(bench, "stream", known + 3)
    assert bench.texts("stream") == before
    assert bench.verify("stream") == "VERIFIED"
    assert {b["result"] for b in bench.journal_bodies("repair") if b["target"] == "public.stream"} == {"repaired"}
    assert bench.node.auto_repair.check() == []


def test_what_a_verification_finds_is_undone_after_it(bench: Bench) -> None:
    before = bench.texts("silent")
    bench.silently("silent", who="CASE id WHEN 3 THEN 'mallory' ELSE who END", id="CASE id WHEN 4 THEN 44 ELSE id END")
    assert bench.verify("silent") == "TAMPERED"
    repaired(bench, "silent", 3)
    assert bench.texts("silent") == before
    assert bench.verify("silent") == "VERIFIED"


def test_a_leaf_is_repaired_by_the_rule_of_its_root(bench: Bench) -> None:
    before = bench.texts("parts_low")
    bench.sql("UPDATE parts SET who = 'mallory'")
    repaired(bench, "parts_low", 1)
    assert bench.texts("parts_low") == before


def test_a_table_that_only_alerts_is_left_alone(bench: Bench) -> None:
    bench.sql("UPDATE alerting SET who = 'mallory' WHERE id = 1")
    finding = bench.found("violation.update", "1", table="alerting")
    assert not bench.node.auto_repair.wants(finding)
    known = told(bench, "stream")
    bench.sql("UPDATE stream SET who = 'mallory' WHERE id = 5")
    repaired(bench, "stream", known + 1)  # whoever does the work has come by
    assert bench.node.approvals.get(finding.id).state == "open"
    assert "(1,mallory)" in bench.texts("alerting")


def test_a_row_is_repaired_three_times_within_an_hour_and_then_left_to_people(bench: Bench) -> None:
    for turn in range(1, REPAIRS_PER_HOUR + 1):
        bench.sql(f"UPDATE fought SET who = 'turn {turn}' WHERE id = 1")
        repaired(bench, "fought", turn)
    bench.sql("UPDATE fought SET who = 'the application' WHERE id = 1")
    finding = bench.found("violation.update", "1", table="fought")
    said = {"finding": finding.id, "target": "public.fought", "sql_sha256": None}
    said["result"] = "left to people: repaired automatically 3 times within an hour"
    wait(lambda: said in bench.journal_bodies("repair"), "the journal to say so")
    bench.sql("UPDATE fought SET who = 'mallory' WHERE id = 2")  # another row is another matter
    wait(lambda: "(2,user2)" in bench.texts("fought"), "the other row to come back")
    assert '(1,"the application")' in bench.texts("fought")
    assert bench.verify("fought") == "TAMPERED"
    assert bench.node.approvals.get(finding.id).state == "open"
    assert bench.journal_bodies("repair").count(said) == 1
    assert bench.repair(finding).repaired  # a person still can


def test_after_an_hour_a_row_is_repaired_again(bench: Bench) -> None:
    now = [bench.node.clock()]
    config, journal = bench.protected.config, bench.node.journal
    auto = AutoRepair(bench.node.repairs, config, journal, bench.node.data.keys_dir, lambda: now[0])

    def turn() -> bool:
        """Tamper with a row that the node itself leaves alone, and have it repaired."""
        bench.sql("UPDATE alerting SET who = who || '!' WHERE id = 2")
        bench.protected.caught_up()
        newest = max((f for f in bench.open("alerting") if f.key == "2"), key=lambda f: f.entry_seq or 0)
        result = auto.run(newest)
        now[0] += HOUR_US // 10
        return result is not None and result.repaired

    assert [turn() for _ in range(5)] == [True, True, True, False, False]
    now[0] += HOUR_US // 2 + 1  # an hour after the first
    assert [turn() for _ in range(2)] == [True, True]


def test_a_finding_that_cannot_be_repaired_stays_open_and_is_not_tried_for_ever(bench: Bench) -> None:
    bench.sql(
        "CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        " IF current_setting('application_name') = 'witnz repair' THEN RETURN NULL; END IF; RETURN NEW; END $$;"
        "CREATE TRIGGER swallow BEFORE UPDATE ON poor FOR EACH ROW EXECUTE FUNCTION swallow()"
    )
    bench.sql("UPDATE poor SET who = 'mallory' WHERE id = 1")
    finding = bench.found("violation.update", "1", table="poor")
    for _ in range(8):
        bench.verify("poor")
    wait(lambda: bench.node.auto_repair._tried.get(finding.id) == 5, "five attempts")
    bench.node.auto_repair.offer([finding.id])
    bench.sql("DROP TRIGGER swallow ON poor")
    assert bench.node.approvals.get(finding.id).state == "open"
    assert bench.repair(finding).repaired


# -- what is missing ----------------------------------------------------------------------------------------------------------


def test_without_a_key_in_force_nothing_is_repaired_and_status_says_what_is_missing(database: Database, tmp_path: Path) -> None:
    database.sql("CREATE TABLE t (id int PRIMARY KEY, who text); INSERT INTO t VALUES (1, 'a'), (2, 'b')")
    tables = [{"name": "t", "mode": "append_only", "retain": "rows", "on_tamper": "repair"}]
    with running(start(tmp_path, database, tables)) as bench:
        auto = bench.node.auto_repair
        assert auto.check() == [f"public.t cannot be repaired automatically: there is no key {auto.key_file}"]
        database.sql("UPDATE t SET who = 'mallory' WHERE id = 1")
        finding = bench.found("violation.update", "1", table="t")
        assert auto.run(finding) is None
        rows = bench.rows("t")
        # a key that nobody has journalled is no better
        save_key_file(auto.key_file, format_private_key("intent/repair", ED25519, os.urandom(32)))
        assert auto.run(finding) is None
        assert "is not the intent key 'repair' that the journal has in force" in auto.check()[0]
        # nor is another one than the journalled one, or one of another kind
        auto.key_file.unlink()
        allow(bench)
        good = auto.key_file.read_text()
        for name in ("intent/repair", "intent/other", "operator/repair"):
            save_key_file(auto.key_file, format_private_key(name, ED25519, os.urandom(32)), replace=True)
            assert auto.run(finding) is None and len(auto.check()) == 1
        assert bench.rows("t") == rows and bench.open("t") == [bench.node.approvals.get(finding.id)]
        save_key_file(auto.key_file, good, replace=True)
        result = auto.run(finding)
        assert result is not None and result.repaired and auto.check() == []
        assert bench.open("t") == [] and "(1,a)" in bench.texts("t")


def test_the_secret_of_the_connection_shows_nowhere(bench: Bench) -> None:
    auto = bench.node.auto_repair
    permission = auto._permission("public.stream")
    assert permission is not None
    assert "seed" not in repr(permission) and str(permission.signer) not in repr(permission)
