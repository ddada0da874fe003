"""Partitions that go at the end of their retention: with an operator's signature nothing is found, without one it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.erasures import Cleaner, signed, started
from tests.support.node import Protected, wait
from tests.support.postgres import create_database
from tests.support.recorded import audit_problems, log_row, records
from witnz.core.classify import Rules
from witnz.node.findings import FindingBook
from witnz.node.leaves import Leaves
from witnz.node.wishes import Wishes
from witnz.store import findings
from witnz.store.database import Database

ROOT, SPRING, SUMMER, AUTUMN = "public.seasons", "public.seasons_spring", "public.seasons_summer", "public.seasons_autumn"
SCHEMA = """
CREATE TABLE seasons (id int, part int, PRIMARY KEY (id, part)) PARTITION BY LIST (part);
CREATE TABLE seasons_spring PARTITION OF seasons FOR VALUES IN (1);
CREATE TABLE seasons_summer PARTITION OF seasons FOR VALUES IN (2);
CREATE TABLE seasons_autumn PARTITION OF seasons FOR VALUES IN (3);
INSERT INTO seasons SELECT g, g % 3 + 1 FROM generate_series(1, 30) g;
"""


@pytest.fixture(scope="module")
def clean(pg_server, tmp_path_factory) -> Iterator[Cleaner]:
    database = create_database(pg_server)
    database.sql(SCHEMA)
    tables = [{"name": "seasons", "mode": "append_only"}]
    made = started(Protected.start(tmp_path_factory.mktemp("drops"), database, tables))
    yield made
    made.protected.stop()
    database.drop()


def test_a_partition_whose_protection_was_ended_before_is_dropped_without_a_finding(clean: Cleaner) -> None:
    rest = sorted({SUMMER, AUTUMN} & set(clean.node.journal.state.tables()))  # the other test drops one
    body = {"table": SPRING, "reason": "kept for ten years"}
    clean.node.decide("unprotect", signed(clean.node, clean.key, "unprotect", body))
    wait(lambda: SPRING not in {state.name for state in clean.node.states()}, "the end of its recording")
    clean.database.sql("INSERT INTO seasons VALUES (100, 1)")
    clean.protected.caught_up()
    clean.node.protect_table(ROOT, Rules("append_only"))
    clean.protected.restart()
    assert log_row(clean.protected, SPRING).status == "ended", "it is not protected anew behind the operator's back"
    clean.database.sql("DROP TABLE seasons_spring")
    clean.look()
    clean.assert_in_order(*rest)
    assert clean.protected.findings(SPRING, state=None) == [] and audit_problems(clean.protected) == []
    clean.prune(SPRING, 1)
    clean.await_pruned(SPRING, 1)
    assert audit_problems(clean.protected) == []


def test_a_partition_that_was_dropped_without_a_word_is_a_finding_until_an_operator_accepts_it(clean: Cleaner) -> None:
    clean.database.sql("DROP TABLE seasons_summer")
    clean.look()
    finding = clean.protected.wait_for("table.dropped", table=SUMMER)
    clean.protected.restart()
    clean.look()
    assert [(f.cls, f.state) for f in clean.protected.findings(SUMMER, state=None)] == [("table.dropped", "open")]
    clean.protected.approve(finding, "retention period is over")
    wait(lambda: SUMMER not in {state.name for state in clean.node.states()}, "the end of its recording")
    assert SUMMER not in clean.node.journal.state.tables()
    clean.protected.restart()
    clean.look()
    clean.look()
    assert [(f.cls, f.state) for f in clean.protected.findings(SUMMER, state=None)] == [("table.dropped", "approved")]
    assert [record.body["reason"] for record in records(clean.protected, "accept", SUMMER)] == ["retention period is over"]
    clean.assert_in_order(AUTUMN)
    assert audit_problems(clean.protected) == []


def test_a_partition_that_other_members_recorded_meanwhile_is_no_table_that_the_file_forgot(
    clean: Cleaner, tmp_path: Path
) -> None:
    node = clean.node
    with Database.create(tmp_path / "witnz.db") as away, node.catalog() as conn:
        there = Leaves(replace(node.generations._around, db=away), node.book, node._recorder_connection)
        assert there.to_be_fetched(conn)[AUTUMN] == ROOT
        wishes = Wishes(away, node.journal, FindingBook(node.cluster_id, node.clock, lambda conn, finding: None), node.config)
        wishes.compare(there.to_be_fetched(conn))
        with away.read() as store:
            assert [finding.table for finding in findings.list_findings(store) if finding.table == AUTUMN] == []
        wishes.compare({})
        with away.read() as store:
            assert [finding.cls for finding in findings.list_findings(store) if finding.table == AUTUMN] == ["config.changed"]
        assert AUTUMN not in node.generations.leaves_to_be_fetched(conn)
