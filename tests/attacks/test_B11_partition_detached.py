"""B11: a partition is detached, edited while nothing publishes it, and attached again."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import pytest

from tests.support.node import TIMEOUT_S, wait
from witnz.core.classify import Rules
from witnz.core.verdict import Verdict

NAMES = count(1)
COLUMNS = "id bigint, day date NOT NULL, amount numeric, PRIMARY KEY (id, day)"


def before_15(scene: Any) -> bool:
    """Whether a walsender goes on with a partition as it first met it: in the stream, or not, until it ends."""
    return int(scene.database.server.sql("SHOW server_version_num")[0][0]) < 150000


@pytest.fixture
def ledger(scene: Any) -> Iterator[str]:
    """A protected root with two leaves of ten rows each."""
    name = f"public.ledger_{next(NAMES)}"
    scene.database.sql(
        f"CREATE TABLE {name} ({COLUMNS}) PARTITION BY RANGE (day);"
        f" CREATE TABLE {name}_january PARTITION OF {name} FOR VALUES FROM ('2026-01-01') TO ('2026-02-01');"
        f" CREATE TABLE {name}_february PARTITION OF {name} FOR VALUES FROM ('2026-02-01') TO ('2026-03-01');"
        f" INSERT INTO {name} SELECT g, '2026-01-01'::date + g * 3, g FROM generate_series(1, 19) g"
    )
    scene.database.sql(f"ALTER PUBLICATION {scene.protected.config.publication} ADD TABLE {name}")
    scene.node.protect_table(name, Rules("append_only"))
    scene.node.wait_ready(TIMEOUT_S)
    scene.database.sql(f"INSERT INTO {name} VALUES (100, '2026-01-15', 1), (101, '2026-02-15', 1)")
    scene.protected.caught_up()
    scene.now_watched()
    yield name
    for leaf in (f"{name}_january", f"{name}_february"):
        for finding in scene.protected.findings(leaf):
            scene.protected.approve(finding)


def detached_and_edited(name: str) -> tuple[str, ...]:
    return (
        f"ALTER TABLE {name} DETACH PARTITION {name}_january",
        f"UPDATE {name}_january SET amount = 1000000 WHERE id = 3",
        f"DELETE FROM {name}_january WHERE id = 100",
        f"ALTER TABLE {name} ATTACH PARTITION {name}_january FOR VALUES FROM ('2026-01-01') TO ('2026-02-01')",
    )


@pytest.mark.since(14, "that a detached partition leaves the stream at once")
def test_what_was_done_while_detached_is_a_gap_of_this_partition_and_the_scan_names_the_rows(scene: Any, ledger: str) -> None:
    january, february = f"{ledger}_january", f"{ledger}_february"
    scene.protected.assert_verified(january)
    scene.dba(*detached_and_edited(ledger))
    finding = scene.now("publication.changed", None, january)
    assert finding.window.last_good is not None
    wait(lambda: january in scene.node.journal.state.open_gaps(), "the gap of the partition")
    assert february not in scene.node.journal.state.open_gaps()
    assert sorted(scene.differences_of(january).values()) == [
        ("row.deleted", before_15(scene)),
        ("row.modified", before_15(scene)),
    ]
    keys = {finding.cls: finding.key for finding in scene.protected.findings(january)}
    modified, deleted = ("violation.update", "violation.delete") if before_15(scene) else ("row.modified", "row.deleted")
    assert keys[modified].startswith("3") and keys[deleted].startswith("100")
    scene.protected.assert_verified(february)
    scene.assert_bystanders_verified()


def test_detaching_and_attaching_without_a_change_leaves_every_row_as_recorded(scene: Any, ledger: str) -> None:
    january = f"{ledger}_january"
    first, *_, last = detached_and_edited(ledger)
    scene.dba_at_once(first, last)
    scene.now("publication.changed", None, january)
    verified, differences = scene.scan(january)
    assert differences == {} and verified.verdict is Verdict.INCONCLUSIVE, "nobody saw what happened meanwhile"
    scene.assert_bystanders_verified()


@pytest.mark.since(14, "that a detached partition leaves the stream at once")
def test_a_partition_that_stays_away_is_found_and_still_verified_by_its_oid(scene: Any, ledger: str) -> None:
    january = f"{ledger}_january"
    scene.dba(*detached_and_edited(ledger)[:2])
    scene.now("publication.changed", None, january)
    assert set(scene.differences_of(january).values()) == {("row.modified", before_15(scene))}
    scene.assert_bystanders_verified()


def test_new_partitions_raise_nothing(scene: Any, ledger: str) -> None:
    march = f"{ledger}_march"
    scene.dba_at_once(
        f"CREATE TABLE {march} PARTITION OF {ledger} FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')",
        f"ALTER TABLE {march} OWNER TO app_owner",
        f"GRANT SELECT ON {march} TO witnz",
        f"INSERT INTO {ledger} VALUES (200, '2026-03-15', 1)",
    )
    scene.protected.caught_up()
    wait(lambda: scene.node.journal.state.current_table(march) is not None, "the log of the new partition")
    scene.now_watched()
    assert [scene.found(table) for table in (march, f"{ledger}_january", f"{ledger}_february")] == [[], [], []]
    scene.protected.assert_verified(march)
    scene.assert_bystanders_verified()


def test_partitions_that_are_attached_with_rows_are_recorded_with_them_within_seconds(scene: Any, ledger: str) -> None:
    march, april = f"{ledger}_march", f"{ledger}_april"
    handed_over = "ALTER TABLE {0} OWNER TO app_owner; GRANT SELECT ON {0} TO witnz"
    scene.dba(
        f"CREATE TABLE {march} (LIKE {ledger} INCLUDING ALL)",
        f"INSERT INTO {march} SELECT g, '2026-03-01'::date + g, g FROM generate_series(1, 7) g",
        handed_over.format(march),
        f"ALTER TABLE {ledger} ATTACH PARTITION {march} FOR VALUES FROM ('2026-03-01') TO ('2026-04-01')",
    )
    scene.dba_at_once(  # made, filled and attached at once, and a row of which the stream tells before anybody has looked
        f"CREATE TABLE {april} (LIKE {ledger} INCLUDING ALL)",
        f"INSERT INTO {april} SELECT g, '2026-04-01'::date + g, g FROM generate_series(1, 5) g",
        handed_over.format(april),
        f"ALTER TABLE {ledger} ATTACH PARTITION {april} FOR VALUES FROM ('2026-04-01') TO ('2026-05-01')",
        f"INSERT INTO {ledger} VALUES (300, '2026-04-20', 1)",
    )
    for leaf, rows in ((march, 7), (april, 6)):
        record = wait(lambda leaf=leaf: scene.node.journal.state.current_table(leaf), f"the log of {leaf}")  # type: ignore[misc]
        assert record.rules.mode == "append_only"
        wait(lambda leaf=leaf: (leaf, "active") in [(s.name, s.status) for s in scene.node.states()], f"{leaf} to be recorded")  # type: ignore[misc]
        verified = scene.protected.verify(leaf)
        assert (verified.verdict, verified.result.rows) == (Verdict.VERIFIED, rows), verified
        assert scene.found(leaf) == []
        assert scene.node.generations.leaves()[leaf] == ledger
    scene.dba(f"UPDATE {march} SET amount = 0 WHERE id = 3", f"INSERT INTO {ledger} VALUES (301, '2026-03-20', 1)")
    scene.now("violation.update", "3\\t2026-03-04", march)
    assert scene.found(ledger) == [] and scene.found(f"{ledger}_january") == []
    scene.assert_bystanders_verified()
    for finding in scene.protected.findings(march):
        scene.protected.approve(finding)
