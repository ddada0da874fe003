"""Pruning: what was recorded before goes for good, and everything that was proved of it can still be verified."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import standalone
from tests.support.erasures import Cleaner, open_cleaner
from tests.support.recorded import audit_problems, log_row, recorded
from tests.support.workshop import RECORD
from witnz.core.classify import Rules
from witnz.core.merkle import leaf_hash, verify_inclusion
from witnz.core.policy import parse_policy
from witnz.core.tiles import inclusion_proof
from witnz.core.verdict import Verdict
from witnz.errors import EntriesPruned, UsageError
from witnz.node.evidence import Evidence
from witnz.node.log_notes import LogNotes
from witnz.node.pruning import parse_before, plan
from witnz.store import entries, logs
from witnz.verify.bundle import verify_bundle

ROWS = "CREATE TABLE {0} (id int PRIMARY KEY, v text);INSERT INTO {0} SELECT g, 'value ' || g FROM generate_series(1, 300) g"


@pytest.fixture(scope="module")
def clean(pg_server, tmp_path_factory) -> Iterator[Cleaner]:
    with open_cleaner(pg_server, tmp_path_factory.mktemp("pruning")) as made:
        yield made


def test_a_pruned_generation_leaves_hashes_that_prove_what_somebody_kept(clean: Cleaner, tmp_path: Path) -> None:
    table = clean.protect("pruned", ROWS, Rules("append_only", retain=True))
    clean.database.sql(f"INSERT INTO {table} SELECT g, 'later ' || g FROM generate_series(301, 560) g")
    clean.protected.caught_up()
    clean.node.seal_now()
    before = log_row(clean.protected, table, 1)
    with clean.node.db.read() as conn:
        kept = entries.entry_at(conn, before.id, 259)
        root = entries.root_at(conn, before.id, before.size)
    bundle = Evidence(clean.node.db, clean.node.clock).row_bundle(table, b"5")
    clean.prune(table, 1)
    clean.await_pruned(table, 1)
    after = log_row(clean.protected, table, 1)
    assert (after.size, after.chain, after.secret) == (before.size, before.chain, b"")
    assert not clean.is_anywhere(before.secret)
    with clean.node.db.read() as conn:
        assert entries.root_at(conn, after.id, after.size) == root
        assert entries.chain_at(conn, after.id, after.size) == after.chain
        proof = inclusion_proof(entries.tile_reader(conn, after.id, after.size), 258, after.size)
        with pytest.raises(EntriesPruned, match="removed by order"):
            entries.entry_at(conn, after.id, 259)
    assert verify_inclusion(258, after.size, leaf_hash(kept), proof, root)
    assert len(recorded(clean.protected, table, 2)) == 561
    policy = clean.node.journal.state.periods.now.policy()
    assert verify_bundle(bundle, parse_policy(policy)).verdict is Verdict.VERIFIED
    assert standalone.verify(bundle, policy.encode())[0] == 0
    Evidence(clean.node.db, clean.node.clock).auditor_package(tmp_path / "package")
    clean.assert_in_order(table)
    assert audit_problems(clean.protected) == []


def test_what_a_date_names_is_what_ended_before_it(clean: Cleaner) -> None:
    table = clean.protect("planned", ROWS, RECORD)
    state, now = clean.node.journal.state, clean.node.clock()
    with pytest.raises(UsageError, match=r"nothing of public\.planned is left that ended before 2020-01-01") as refused:
        plan(clean.node.db, state, table, parse_before("2020-01-01", now), now)
    assert "`--before now` ends it" in (refused.value.hint or "")
    with pytest.raises(UsageError, match="was never protected"):
        plan(clean.node.db, state, "public.nobody", now, now)
    with pytest.raises(UsageError, match="expected a date"):
        parse_before("yesterday", now)
    planned = plan(clean.node.db, state, table, parse_before("now", now), now)
    assert [one["generation"] for one in planned["prune"]] == [1] and planned["keep"] == []
    clean.prune(table, 1)
    clean.await_pruned(table, 1)
    now = clean.node.clock()
    planned = plan(clean.node.db, state, table, now, now)
    assert ([one["generation"] for one in planned["prune"]], [one["pruned"] for one in planned["keep"]]) == ([2], [True])


def test_entries_that_are_gone_without_an_order_are_found(clean: Cleaner) -> None:
    table = clean.protect("robbed", ROWS, RECORD)
    clean.prune(table, 1)
    clean.await_pruned(table, 1)
    for change, problem in [
        ("UPDATE logs SET secret = x'' WHERE table_name = 'public.robbed' AND generation = 2", "its secret is gone"),
        ("UPDATE logs SET status = 'pruned', secret = x'' WHERE table_name = 'public.robbed' AND generation = 2", "current"),
        ("UPDATE logs SET size = size - 1 WHERE table_name = 'public.robbed' AND generation = 1", "tile 0/1"),
        ("UPDATE tiles SET hashes = zeroblob(8192) WHERE level = 0 AND n = 0 AND log = {pruned}", "the hashes up to entry"),
    ]:
        with clean.node.db.read() as conn:
            before = {name: conn.execute(f"SELECT * FROM {name}").fetchall() for name in ("logs", "tiles")}
            pruned = log_row(clean.protected, table, 1).id
        with clean.node.db.write() as conn:
            conn.execute(change.format(pruned=pruned))
        found = " ".join(audit_problems(clean.protected))
        with clean.node.db.write() as conn:
            for name, rows in before.items():
                marks = ", ".join("?" * len(rows[0]))
                conn.executemany(f"REPLACE INTO {name} VALUES ({marks})", rows)
        assert problem in found, (change, found)
    assert audit_problems(clean.protected) == []


def test_a_row_erased_from_a_new_partition_takes_its_roots_secret_along(clean: Cleaner) -> None:
    ddl = (
        "CREATE TABLE parted (id int, day date, PRIMARY KEY (id, day)) PARTITION BY RANGE (day);"
        "CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');"
    )
    clean.database.sql(f"{ddl} ALTER PUBLICATION {clean.protected.config.publication} ADD TABLE parted")
    clean.node.protect_table("public.parted", Rules("append_only"))
    clean.node.wait_ready(120)
    clean.database.sql("CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM ('2026-02-01') TO ('2026-03-01')")
    clean.database.sql("GRANT SELECT ON parted_2 TO witnz")
    clean.database.sql("INSERT INTO parted VALUES (1, '2026-02-03'), (2, '2026-02-04'), (3, '2026-01-04')")
    clean.protected.caught_up()
    leaf = "public.parted_2"
    clean.await_generation(leaf, 1)
    with clean.node.db.read() as conn:
        secrets = [row.secret for row in logs.list_logs(conn) if row.table in (leaf, "public.parted")]
        assert LogNotes.of(log_row(clean.protected, leaf, 1)).root == "public.parted"
    with pytest.raises(UsageError, match="recorded with the partitions") as refused:
        clean.node.erasing.body("public.parted", ["id=1,day=2026-02-03"], "why")
    assert "public.parted_2" in (refused.value.hint or "")
    clean.order(leaf, ["id=1,day=2026-02-03"])
    clean.database.sql("DELETE FROM parted WHERE id = 1")
    clean.await_erased(leaf, 1)
    assert log_row(clean.protected, "public.parted", 1).secret == b"", "the partition's secret could be derived again"
    assert not any(clean.is_anywhere(secret) for secret in secrets)
    clean.assert_in_order(leaf, "public.parted_1")
    assert audit_problems(clean.protected) == []
