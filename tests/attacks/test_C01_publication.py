"""C01: the publication is altered around a change: a table dropped from it, a row filter, a column list, fewer operations."""

from __future__ import annotations

from itertools import pairwise

import pytest

from tests.support.node import wait
from witnz.core.lsn import parse_lsn
from witnz.core.record import parse_record
from witnz.core.verdict import Verdict
from witnz.store import journal

ONE, FILTERED, CUT = "public.dropped_and_added", "public.filtered", "public.cut"
TABLES = tuple({"name": name, "mode": "append_only"} for name in (ONE, FILTERED, CUT))


@pytest.mark.since(15, "row filters and column lists")
def test_a_change_while_the_publication_did_not_carry_the_table_is_found(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene(*TABLES)
    publication = scene.protected.config.publication
    good = {name: scene.verified_at(name) for name in (ONE, FILTERED, CUT)}
    recorded = {name: scene.row_hash(name, 12) for name in good}
    every = "public.untouched, billing.audit_logs, public.dropped_and_added, public.filtered, public.cut"
    scene.dba(
        f"ALTER PUBLICATION {publication} DROP TABLE {ONE}",
        f"UPDATE {ONE} SET amount = 0 WHERE id = 12",
        f"ALTER PUBLICATION {publication} ADD TABLE {ONE}",
        f"ALTER PUBLICATION {publication} SET TABLE {every.replace(FILTERED, f'{FILTERED} WHERE (id < 12)')}",
        f"UPDATE {FILTERED} SET amount = 0 WHERE id = 12",
        f"ALTER PUBLICATION {publication} SET TABLE {every}",
        f"ALTER PUBLICATION {publication} SET TABLE {every.replace(CUT, f'{CUT} (id, actor)')}",
        f"UPDATE {CUT} SET amount = 0 WHERE id = 12",
        f"ALTER PUBLICATION {publication} SET TABLE {every}",
    )
    for name in (ONE, FILTERED, CUT):
        finding = scene.now("publication.changed", None, name)
        assert publication in finding.detail and finding.window.last_good == good[name]
    assert scene.found(ONE) == scene.found(FILTERED) == [("publication.changed", None)], "the stream must not have seen it"
    scene.now("violation.update", 12, CUT)  # of this one the stream showed a part

    for name in (ONE, FILTERED):
        assert scene.differences_of(name) == {"12": ("row.modified", False)}
        row = scene.now("row.modified", 12, name)
        assert (row.recorded, row.found) == (recorded[name], scene.row_hash(name, 12))
        assert row.window.last_good == good[name] and row.explained_by is None
    assert scene.protected.verify(CUT).verdict is Verdict.TAMPERED
    assert scene.now("violation.update", 12, CUT).recorded == recorded[CUT]
    scene.assert_bystanders_verified()


def test_a_table_that_left_the_publication_is_not_green_even_while_its_rows_are_as_recorded(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene(TABLES[0])
    scene.dba(f"ALTER PUBLICATION {scene.protected.config.publication} DROP TABLE {ONE}")
    finding = scene.now("publication.changed", None, ONE)
    verified = scene.protected.verify_soon(ONE)
    assert verified.result.differences == [] and verified.result.verdict is Verdict.VERIFIED
    assert verified.verdict is Verdict.INCONCLUSIVE, "what happened and was undone meanwhile nobody can know"
    assert any(finding.id in reason for reason in verified.not_checked)
    assert list(scene.node.journal.state.open_gaps()) == [ONE]
    scene.assert_bystanders_verified()

    back = scene.dba_at_once(f"ALTER PUBLICATION {scene.protected.config.publication} ADD TABLE {ONE}")
    scene.protected.approve(finding)
    scene.wait_bridged(ONE)
    scene.protected.assert_verified(ONE)
    assert scene.node.journal.state.open_gaps() == {}
    assert scene.found(ONE) == []
    (first_lsn, _), *_, (_, last_lsn) = gaps_of(scene, ONE)
    assert first_lsn < back <= last_lsn, "the gap lasts until the table is seen to be published again"


def gaps_of(scene, table: str) -> list[tuple[int, int]]:  # type: ignore[no-untyped-def]
    """The stretches of WAL of which the journal says that they were not seen, in its order."""
    with scene.node.db.read() as conn:
        records = [parse_record(leaf) for leaf in journal.records(conn, 1)]
    bodies = [record.body for record in records if record.type == "gap" and table in record.body["tables"]]
    return [(parse_lsn(body["from_lsn"]), parse_lsn(body["to_lsn"])) for body in bodies]


def test_a_second_alteration_while_the_first_is_undecided_is_a_gap_and_a_finding_of_its_own(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene(TABLES[0])
    publication = scene.protected.config.publication
    scene.dba(f"ALTER PUBLICATION {publication} DROP TABLE {ONE}")
    first = scene.now("publication.changed", None, ONE)
    scene.dba(f"ALTER PUBLICATION {publication} ADD TABLE {ONE}")
    scene.now_watched()
    assert scene.found(ONE) == [("publication.changed", None)], "its return is no second finding"

    committed_after = scene.dba_at_once(
        f"ALTER PUBLICATION {publication} DROP TABLE {ONE}",
        f"UPDATE {ONE} SET amount = 0 WHERE id = 12",
        f"UPDATE {ONE} SET amount = 12 WHERE id = 12",
        f"ALTER PUBLICATION {publication} ADD TABLE {ONE}",
    )
    committed_before = scene.insert_lsn()
    (second,) = wait(lambda: [f for f in scene.protected.findings(ONE) if f.key is not None], "a second finding")
    assert (second.cls, second.key) == ("publication.changed", second.lsn)
    # It is the commit that a gap has to cover: a look before it, perhaps with the changes under way, saw what was true then.
    assert any(since < committed_before and committed_after <= until for since, until in gaps_of(scene, ONE))

    scene.protected.approve(first)
    assert list(scene.node.journal.state.open_gaps()) == [ONE], "who accepted the first has not accepted the second"
    assert scene.protected.verify(ONE).verdict is not Verdict.VERIFIED
    assert scene.node.state(ONE).generation == 1
    scene.protected.approve(second)
    assert scene.node.journal.state.open_gaps() == {}


def test_what_is_accepted_while_it_goes_on_is_found_again(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene(TABLES[0])
    scene.dba(f"ALTER PUBLICATION {scene.protected.config.publication} DROP TABLE {ONE}")
    first = scene.now("publication.changed", None, ONE)
    scene.protected.approve(first)
    again = scene.now("publication.changed", None, ONE)
    assert (again.occurrence, again.id != first.id) == (1, True)
    assert list(scene.node.journal.state.open_gaps()) == [ONE]
    assert scene.protected.verify(ONE).verdict is Verdict.INCONCLUSIVE
    stretches = gaps_of(scene, ONE)
    assert len(stretches) == 2 and all(before[1] == after[0] for before, after in pairwise(stretches)), (
        "nothing between two gaps is left out"
    )


def test_operations_left_out_and_put_back_are_found(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene(TABLES[0])
    publication = scene.protected.config.publication
    recorded = scene.row_hash(ONE, 7)
    scene.dba(
        f"ALTER PUBLICATION {publication} SET (publish = 'insert')",
        f"UPDATE {ONE} SET amount = 0 WHERE id = 7",
        f"DELETE FROM {ONE} WHERE id = 13",
        f"ALTER PUBLICATION {publication} SET (publish = 'insert, update, delete, truncate')",
    )
    finding = scene.now("publication.changed", None, None)
    assert scene.differences_of(ONE) == {"7": ("row.modified", False), "13": ("row.deleted", False)}
    row = scene.now("row.modified", 7, ONE)
    assert (row.recorded, row.found) == (recorded, scene.row_hash(ONE, 7))

    # which tables were changed in that time and changed back, nobody can say: none is green until somebody decides
    other = scene.protected.verify("public.untouched")
    assert other.result.verdict is Verdict.VERIFIED and other.result.differences == []
    assert other.verdict is Verdict.INCONCLUSIVE
    scene.protected.approve(finding)
    scene.assert_bystanders_verified()

    # the rows in doubt are decided under the old generation; the new one is owed until then, over a restart too
    scene.stop()
    scene.resume()
    assert (scene.node.state(ONE).generation, scene.node.state("public.untouched").generation) == (1, 2)
    scene.protected.approve(row)
    assert scene.node.state(ONE).generation == 1
    scene.protected.approve(scene.now("row.deleted", 13, ONE))
    scene.wait_bridged(ONE)
    scene.protected.assert_verified(ONE)


def test_a_publication_dropped_and_made_anew_is_found_and_recording_goes_on(own_scene) -> None:  # type: ignore[no-untyped-def]
    """Until PostgreSQL 17 the slot can never be read past a change in that time; from 18 on it skips it without a word."""
    scene = own_scene(TABLES[0])
    publication = scene.protected.config.publication
    recorded = scene.row_hash(ONE, 7)
    scene.dba_at_once(
        f"DROP PUBLICATION {publication}",
        f"UPDATE {ONE} SET amount = 0 WHERE id = 7",
        f"CREATE PUBLICATION {publication} FOR TABLE {ONE}, public.untouched, billing.audit_logs",
    )
    scene.now("publication.changed", None, None)
    if scene.database.server.version < 18:
        scene.gap("slot.lost")
    scene.dba(f"DELETE FROM {ONE} WHERE id = 13")
    scene.now("violation.delete", 13, ONE)
    assert scene.differences_of(ONE) == {"7": ("row.modified", False), "13": ("row.deleted", True)}
    row = scene.now("row.modified", 7, ONE)
    assert (row.recorded, row.found) == (recorded, scene.row_hash(ONE, 7))
    for _, finding in scene.open_without_table():
        scene.protected.approve(finding)
    scene.assert_bystanders_verified()


def test_a_publication_that_stays_away_is_found_and_its_return_is_noticed(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene(TABLES[0])
    publication = scene.protected.config.publication
    scene.dba(f"DROP PUBLICATION {publication}", f"UPDATE {ONE} SET amount = 0 WHERE id = 7")
    assert "does not exist" in scene.now("publication.changed", None, None).detail
    scene.dba(f"CREATE PUBLICATION {publication} FOR TABLE {ONE}, public.untouched, billing.audit_logs")
    scene.caught_up_again()
    scene.dba(f"DELETE FROM {ONE} WHERE id = 13")
    scene.now("violation.delete", 13, ONE)
    assert scene.differences_of(ONE) == {"7": ("row.modified", False), "13": ("row.deleted", True)}


def test_an_alteration_while_the_node_is_down_is_found_at_the_start(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene(TABLES[0])
    publication = scene.protected.config.publication
    scene.now_watched()
    scene.stop()
    scene.dba(
        f"ALTER PUBLICATION {publication} DROP TABLE {ONE}",
        f"UPDATE {ONE} SET amount = 0 WHERE id = 12",
        f"ALTER PUBLICATION {publication} ADD TABLE {ONE}",
    )
    scene.resume()
    scene.now("publication.changed", None, ONE)
    assert scene.differences_of(ONE) == {"12": ("row.modified", False)}
    scene.assert_bystanders_verified()
