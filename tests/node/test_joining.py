"""A node joins a cluster with a history: what it gets is what the others have, and it goes on from its own stream."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.erasures import started
from tests.support.joining import Growth
from tests.support.postgres import create_database
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer
from witnz.node.node import Node
from witnz.store import entries, erasures, findings, journal, live, logs
from witnz.verify.live import LiveVerifier
from witnz.verify.store import audit_store
from witnz.verify.stream import PATIENCE

HISTORY = """
INSERT INTO ledger (v) SELECT 'later ' || g FROM generate_series(1, 90) g;
UPDATE prices SET cents = cents + 1 WHERE product % 3 = 0;
DELETE FROM prices WHERE product > 290;
UPDATE notes SET v = 'uno' WHERE id = 1;
UPDATE notes SET v = 'due' WHERE id = 2;
INSERT INTO marks VALUES ('c'), ('b');
"""
MORE = """
INSERT INTO ledger (v) VALUES ('after the slot');
UPDATE prices SET cents = 1 WHERE product = 1;
INSERT INTO marks VALUES ('after the slot');
"""


@pytest.fixture
def growth(tmp_path: Path, pg_server: PostgresServer) -> Iterator[Growth]:
    database = create_database(pg_server)
    grown = Growth.begin(tmp_path, database)
    yield grown
    grown.close()
    database.drop()


def make_history(growth: Growth) -> None:
    """Changes, findings, one of them approved; all of it sealed."""
    first = growth.first
    growth.database.sql(HISTORY)
    first.caught_up()
    first.approve(first.wait_for("change.unapproved", table="public.notes"))
    first.node.seal_now()
    growth.database.sql("INSERT INTO ledger (v) VALUES ('x'); UPDATE ledger SET v = 'tampered' WHERE id = 5")
    first.wait_for("violation.update", "5")
    first.node.seal_now()


def as_copied(growth: Growth) -> None:
    """The store of node2 says what that of node1 says, in entries, state, journal and findings; and is whole."""
    assert growth.lines("node2") == growth.lines("node1")
    with growth.store("node1") as one, growth.store("node2") as two:
        for row in logs.list_logs(one):
            twin = logs.find_log(two, row.table, row.generation)
            assert twin is not None
            assert (twin.size, twin.chain, twin.secret, twin.status) == (row.size, row.chain, row.secret, row.status)
            assert sorted(live.accepted_items(two, twin.id)) == sorted(live.accepted_items(one, row.id))
            assert list(live.overlay_items(two, twin.id)) == list(live.overlay_items(one, row.id))
            assert (twin.columns, twin.schema_seq, twin.snapshot, twin.lsn) == (
                row.columns,
                row.schema_seq,
                row.snapshot,
                row.lsn,
            )
        assert {f.id: f.state for f in findings.list_findings(two)} == {f.id: f.state for f in findings.list_findings(one)}
        size = journal.journal_size(two)
        assert size == journal.journal_size(one)
        assert journal.root_at(two, size) == journal.root_at(one, size)
    audit = audit_store(growth.folder / "node2/data/witnz.db")
    assert audit.verdict is Verdict.VERIFIED, audit.checks


def goes_on(growth: Growth) -> None:
    """Both nodes record what comes now, alike; and a scan on the new one finds what it must."""
    growth.close()
    first, second = Node(growth.first.config), Node(growth.config)
    try:
        for node in (first, second):
            node.start(chores=False, schedule=False)
        growth.database.sql("INSERT INTO ledger (v) VALUES ('both'); UPDATE prices SET cents = 7 WHERE product = 7")
        for node in (first, second):
            node.wait_ready(60)
            assert node.capture.await_mark(b"both", PATIENCE) is None
        verifier = LiveVerifier(second.db, second.capture, growth.folder)
        for table in ("public.prices", "public.marks"):
            result = verifier.verify(second.target(second.state(table)))
            assert (result.verdict, result.not_checked) == (Verdict.VERIFIED, [])
        result = verifier.verify(second.target(second.state("public.ledger")))
        assert [difference.key for difference in result.differences] == ["5"]
    finally:
        second.stop()
        first.stop()
    assert growth.lines("node2") == growth.lines("node1")


def test_a_node_that_joins_has_what_the_others_have_and_goes_on_from_its_own_stream(growth: Growth) -> None:
    make_history(growth)
    growth.prepare()
    growth.database.sql(MORE)
    growth.first.caught_up()
    growth.first.node.seal_now()
    growth.add_members()
    growth.stand()
    growth.join()
    as_copied(growth)
    goes_on(growth)


def test_what_nobody_has_sealed_is_taken_where_the_others_tell_it_alike(growth: Growth) -> None:
    make_history(growth)
    growth.seal_no_more()
    growth.database.sql(MORE)
    growth.first.caught_up()
    growth.prepare()
    growth.first.caught_up()
    growth.add_members()
    growth.stand()
    growth.join()
    assert "join.tail" in growth.fellows["node3"].asked
    as_copied(growth)
    goes_on(growth)


@pytest.mark.slow
def test_a_node_that_joins_gets_the_hashes_of_what_was_pruned_and_no_secret_that_was_forgotten(growth: Growth) -> None:
    clean = started(growth.first)
    clean.order("public.prices", ["7"])
    growth.database.sql("DELETE FROM prices WHERE product = 7")
    clean.await_erased("public.prices", 1)
    clean.prune("public.ledger", 1)
    clean.await_pruned("public.ledger", 1)
    growth.database.sql(MORE)
    growth.prepare()
    growth.first.caught_up()
    growth.first.node.seal_now()
    growth.add_members()
    growth.stand()
    growth.join()
    with growth.store("node1") as one, growth.store("node2") as two:
        for row in logs.list_logs(one):
            twin = logs.find_log(two, row.table, row.generation)
            assert twin is not None
            assert (twin.size, twin.chain, twin.secret, twin.status) == (row.size, row.chain, row.secret, row.status)
            assert entries.root_at(two, twin.id, twin.size) == entries.root_at(one, row.id, row.size)
        assert erasures.erased_rows(two, "public.prices") == 1
    audit = audit_store(growth.folder / "node2/data/witnz.db")
    assert audit.verdict is Verdict.VERIFIED, audit.checks
