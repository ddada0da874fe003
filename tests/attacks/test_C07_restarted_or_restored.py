"""C07: the database is restarted, fails over to a standby, or is restored to an earlier point."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import WATCH_S, wait
from tests.support.restoring import dumped, keyless, load_in_place, put_in_place, recovered_until
from witnz.core.lsn import format_lsn
from witnz.core.verdict import CheckStatus, Verdict
from witnz.demo.server import PostgresServer
from witnz.node.node import Node
from witnz.postgres.session import FOREIGN
from witnz.verify.store import audit_store

TABLE = "public.ledger"


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restarts_raise_nothing_and_lose_nothing(own_server, own_scene, mode: str) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"}, server=own_server())
    scene.database.sql(f"INSERT INTO {TABLE} VALUES (50, 'before', 1, NULL, '2026-02-01')")
    scene.database.server.restart(mode)
    scene.database.sql(f"INSERT INTO {TABLE} VALUES (51, 'after', 1, NULL, '2026-02-01')")
    scene.caught_up_again()
    assert scene.found(TABLE) == scene.found(None) == []
    verified = scene.protected.verify(TABLE)
    assert verified.verdict is Verdict.VERIFIED and verified.result.rows == 17
    scene.dba(f"UPDATE {TABLE} SET amount = 0 WHERE id = 50")
    scene.now("violation.update", 50, TABLE)
    scene.assert_bystanders_verified()


def promoted_in_its_place(scene: Any, backup: Path) -> None:
    """A standby made by pg_basebackup is promoted and answers at the old address; the old primary is gone."""
    server: PostgresServer = scene.database.server
    server.run("pg_basebackup", "-D", backup, "-X", "stream", "-c", "fast", "-U", "postgres")
    scene.database.sql(f"INSERT INTO {TABLE} VALUES (50, 'never shipped', 1, NULL, '2026-02-01')")
    scene.protected.caught_up()
    server.stop("immediate")
    (backup / "standby.signal").touch()
    put_in_place(server, backup, aside="old-primary")
    server.start()
    server.sql("SELECT pg_promote(true, 60)")


def restored(scene: Any) -> Any:
    """The one finding of the restore, as soon as its epoch stands in the journal."""
    (finding,) = wait(lambda: [f for f in scene.protected.findings() if f.cls == "epoch.restored"], "the restore")
    wait(lambda: scene.node.journal.state.epoch, "the epoch record")
    return finding


def test_a_failover_is_one_finding_that_names_the_rows_that_were_not_shipped(own_server, own_scene) -> None:  # type: ignore[no-untyped-def]
    server = own_server()
    scene = own_scene({"name": TABLE, "mode": "append_only"}, server=server)
    promoted_in_its_place(scene, server.data_dir.with_name("backup"))
    finding = restored(scene)
    assert "timeline 1 was left for 2" in finding.detail and f"{TABLE}: lost 1 (50)" in finding.detail
    epoch = scene.node.journal.state.epoch
    assert (epoch.timeline, format_lsn(epoch.switch_lsn)) == (2, finding.key)
    scene.caught_up_again()
    assert set(scene.node.journal.state.open_gaps()) == {TABLE, "public.untouched", "billing.audit_logs"}
    for table in (TABLE, "public.untouched"):
        verified = scene.protected.verify(table)
        assert (verified.result.differences, verified.verdict) == ([], Verdict.INCONCLUSIVE), verified
    scene.dba(f"UPDATE {TABLE} SET amount = 0 WHERE id = 7")
    change = scene.now("violation.update", 7, TABLE)
    scene.protected.approve(finding)
    scene.wait_bridged("public.untouched", "billing.audit_logs")
    scene.assert_bystanders_verified()
    assert not scene._is_bridged(TABLE), "a row of it is still in doubt"
    scene.protected.approve(change)
    scene.wait_bridged(TABLE)
    scene.assert_bystanders_verified(TABLE)
    scene.stop()
    audit = audit_store(scene.protected.directory / "data" / "witnz.db")
    assert [check for check in audit.checks if check.status is not CheckStatus.OK] == []


def test_a_failover_that_takes_the_slot_along_is_one_explained_finding(own_server, own_scene) -> None:  # type: ignore[no-untyped-def]
    server = own_server()
    scene = own_scene({"name": TABLE, "mode": "append_only"}, server=server)
    server.stop()
    standby = server.data_dir.with_name("standby")  # what the server keeps in step with failover slots from version 17 on
    shutil.copytree(server.data_dir, standby, symlinks=True)
    (standby / "standby.signal").touch()
    put_in_place(server, standby, aside="old-primary")
    server.start()
    server.sql("SELECT pg_promote(true, 60)")
    scene.database.sql(f"INSERT INTO {TABLE} VALUES (50, 'at once', 1, NULL, '2026-02-01')")
    (finding,) = wait(lambda: [f for f in scene.protected.findings() if f.cls == "epoch.restored"], "the failover")
    assert finding.explained_by == "the replication slot" and "timeline 1 was left for 2" in finding.detail
    scene.caught_up_again()
    assert scene.node.journal.state.epoch is None and scene.node.journal.state.open_gaps() == {}
    scene.assert_bystanders_verified(TABLE)
    scene.dba(f"UPDATE {TABLE} SET amount = 0 WHERE id = 50")
    scene.now("violation.update", 50, TABLE)


def test_a_point_in_time_recovery_names_what_was_lost_regained_and_set_back(own_server, own_scene) -> None:  # type: ignore[no-untyped-def]
    server = own_server(version=18)
    scene = own_scene(
        {"name": TABLE, "mode": "append_only"},
        {"name": "public.rates", "mode": "state_integrity", "on_change": "record"},
        server=server,
    )
    backup = server.data_dir.with_name("backup")
    server.run("pg_basebackup", "-D", backup, "-X", "stream", "-c", "fast", "-U", "postgres")
    insert = f"INSERT INTO {TABLE} VALUES"
    scene.database.sql(f"{insert} (50, 'kept', 1, NULL, '2026-02-01'); UPDATE public.rates SET amount = 5 WHERE id = 1")
    scene.protected.caught_up()
    target = format_lsn(scene.insert_lsn())
    scene.database.sql(f"{insert} (51, 'lost', 1, NULL, '2026-02-01')")
    scene.database.sql("UPDATE public.rates SET amount = 6 WHERE id = 1; DELETE FROM public.rates WHERE id = 2")
    scene.database.sql("INSERT INTO public.rates VALUES (52, 'lost', 1, NULL, '2026-02-01')")
    scene.dba(f"DELETE FROM {TABLE} WHERE id = 3")
    violation = scene.now("violation.delete", 3, TABLE)
    assert scene.protected.verify("public.rates").verdict is Verdict.VERIFIED
    recovered_until(server, backup, target)
    finding = restored(scene)
    assert f"{TABLE}: lost 1 (51), regained 1 (3)" in finding.found
    assert "public.rates: lost 1 (52), regained 1 (2), in an earlier version 1 (1)" in finding.found
    scene.caught_up_again()
    settled = wait(lambda: scene.protected.findings(TABLE, state="repaired"), "the end of the violation that is undone")
    assert [f.id for f in settled] == [violation.id]
    for table in (TABLE, "public.rates", "public.untouched"):
        verified = scene.protected.verify(table)
        assert (verified.result.differences, verified.verdict) == ([], Verdict.INCONCLUSIVE), verified
    scene.database.sql(f"{insert} (51, 'again', 1, NULL, '2026-02-01')")  # no second time: the database never had it
    assert scene.found(TABLE) == []
    scene.protected.approve(finding)
    scene.wait_bridged(TABLE, "public.rates", "public.untouched", "billing.audit_logs")
    scene.assert_bystanders_verified(TABLE, "public.rates")
    scene.dba(f"UPDATE {TABLE} SET amount = 0 WHERE id = 7")
    scene.now("violation.update", 7, TABLE)


@pytest.mark.slow
def test_a_recovery_to_before_the_present_generations_is_judged_by_those_that_were_recorded_then(own_server, own_scene) -> None:  # type: ignore[no-untyped-def]
    server = own_server()
    rates = {"name": "public.rates", "mode": "state_integrity", "on_change": "record"}
    scene = own_scene({"name": TABLE, "mode": "append_only"}, rates, server=server)
    bare = keyless(scene)
    backup = server.data_dir.with_name("backup")
    server.run("pg_basebackup", "-D", backup, "-X", "stream", "-c", "fast", "-U", "postgres")
    insert = f"INSERT INTO {TABLE} VALUES"
    scene.database.sql(f"{insert} (50, 'kept', 1, NULL, '2026-02-01'); UPDATE public.rates SET amount = 5 WHERE id = 1")
    scene.protected.caught_up()
    target = format_lsn(scene.insert_lsn())
    scene.database.sql(f"{insert} (51, 'lost', 1, NULL, '2026-02-01'); INSERT INTO {bare} VALUES (3, 'lost')")
    lost = scene.row_hash(bare, 3)
    scene.database.sql("UPDATE public.rates SET amount = 6 WHERE id = 1; DELETE FROM public.rates WHERE id = 2")
    late = scene.protect("append_only")
    for change in (f"{TABLE} ALTER note TYPE varchar", f"{bare} ALTER note TYPE varchar", "public.rates ADD COLUMN more text"):
        scene.database.sql(f"ALTER TABLE {change}")
    scene.wait_bridged(TABLE, bare, "public.rates")
    scene.database.sql(
        f"{insert} (52, 'lost', 1, NULL, '2026-02-01'); INSERT INTO public.rates VALUES (53, 'lost', 1, 'n', now())"
    )
    scene.protected.caught_up()
    lost_again = scene.row_hash(bare, 3)
    assert lost != lost_again, "each generation has hashes of its own"
    scene.stop()
    recovered_until(server, backup, target)
    scene.dba_at_once(f"UPDATE {TABLE} SET amount = 0 WHERE id = 7; DELETE FROM {TABLE} WHERE id = 8")
    scene.protected.node = Node(scene.protected.config, watch_s=WATCH_S)
    scene.node.start(schedule=False)  # it is not ready before somebody has accepted what the database holds
    scene.running = True
    finding = restored(scene)
    said = finding.found.split("; ")
    assert f"{TABLE}: lost 2 (51, 52)" in said and f"{TABLE}: 2 row(s) that were never recorded" in said
    assert "public.rates: lost 1 (53), regained 1 (2)" in said
    assert f"{bare}: lost 1 ({lost_again})" in said
    assert any(each.startswith(f"{late}: lost 15 (1, 2, 3") for each in said) and f"{late}: the table is not there" in said
    assert "2 other table(s): nothing" in said
    rows = [(f.cls, f.table, f.key) for f in scene.protected.findings() if f.cls.startswith("row.")]
    assert sorted(rows) == [("row.deleted", TABLE, "8"), ("row.modified", TABLE, "7")], "no finding for each row lost"
    assert scene.protected.verify(TABLE).verdict is Verdict.TAMPERED, "of the two rows"
    for table in ("public.rates", "public.untouched"):
        verified = scene.protected.verify(table)
        assert (verified.result.differences, verified.verdict) == ([], Verdict.INCONCLUSIVE), verified
    scene.database.sql(f"{insert} (51, 'again', 1, NULL, '2026-02-01')")  # no second time: the database never had it
    scene.protected.approve(finding)
    scene.caught_up_again()
    scene.wait_bridged("public.untouched")
    for each in scene.protected.findings(TABLE):
        scene.protected.approve(each)
    for table in (TABLE, bare, "public.rates"):
        wait(lambda name=table: scene.node.state(name).generation == 3, f"generation 3 of {table}")  # type: ignore[misc]
    assert {f.cls for f in scene.protected.findings() if f.table is not None} <= {"config.changed"}  # the scene's own
    scene.assert_bystanders_verified(TABLE, "public.rates")
    assert scene.protected.verify_soon(bare).verdict is Verdict.VERIFIED
    scene.dba(f"UPDATE {TABLE} SET amount = 0 WHERE id = 9")
    scene.now("violation.update", 9, TABLE)
    scene.stop()
    audit = audit_store(scene.protected.directory / "data" / "witnz.db")
    assert [check for check in audit.checks if check.status is not CheckStatus.OK] == []


def test_another_server_under_the_same_address_is_refused_and_never_read(own_server, own_scene) -> None:  # type: ignore[no-untyped-def]
    server = own_server()
    scene = own_scene({"name": TABLE, "mode": "append_only"}, server=server)
    scene.protected.caught_up()
    other = own_server()
    other.sql("CREATE ROLE app_owner LOGIN; CREATE ROLE witnz LOGIN REPLICATION")
    other.sql(f"CREATE DATABASE {scene.database.name} OWNER app_owner")
    other.stop()
    server.stop()
    put_in_place(server, other.data_dir, aside="honest")
    server.start()
    finding = wait(lambda: [f for f in scene.protected.findings() if f.cls == "epoch.restored"], "the other server")[0]
    assert "system identifier" in finding.detail and scene.node.journal.state.epoch is None
    verified = scene.protected.verify(TABLE)
    assert verified.verdict is Verdict.INCONCLUSIVE and verified.result.differences == []
    wait(lambda: scene.node.capture.last_error.code == FOREIGN, "nothing to be read there")
    assert not scene.node.capture.status.connected
    scene.stop()
    server.stop()
    put_in_place(server, server.data_dir.with_name("honest"), aside="foreign")
    server.start()
    scene.resume()
    scene.database.sql(f"INSERT INTO {TABLE} VALUES (60, 'back', 1, NULL, '2026-02-01')")
    scene.protected.caught_up()
    assert scene.scan(TABLE)[1] == {} and scene.found(TABLE) == []


def loaded_elsewhere(scene: Any, other: PostgresServer) -> None:
    """A dump of the database, loaded into another cluster, which takes the place of the old one; rows were forged in it.

    After the dump the rates were changed, and then began a new generation.
    """
    dump = dumped(scene.database)
    scene.database.sql("UPDATE public.rates SET amount = 6 WHERE id = 1; DELETE FROM public.rates WHERE id = 2")
    scene.database.sql("ALTER TABLE public.rates ALTER note TYPE varchar")
    scene.wait_bridged("public.rates")
    scene.database.sql(f"INSERT INTO {TABLE} VALUES (50, 'after the dump', 1, NULL, '2026-02-01')")
    scene.dba(f"DELETE FROM {TABLE} WHERE id = 3")
    scene.now("violation.delete", 3, TABLE)
    forged = f"UPDATE {TABLE} SET amount = 0 WHERE id = 7; INSERT INTO {TABLE} VALUES (99, 'forged', 1, NULL, now())"
    load_in_place(scene.database, dump, other, forged)


@pytest.mark.slow
def test_a_dump_loaded_into_a_new_cluster_is_an_epoch_once_an_operator_says_so(own_server, own_scene) -> None:  # type: ignore[no-untyped-def]
    rates = {"name": "public.rates", "mode": "state_integrity", "on_change": "record"}
    scene = own_scene({"name": TABLE, "mode": "append_only"}, rates, server=own_server())
    scene.protected.caught_up()
    loaded_elsewhere(scene, own_server())
    restores = lambda: [f for f in scene.protected.findings() if f.cls == "epoch.restored"]  # noqa: E731
    (stranger,) = wait(restores, "the other system")
    assert scene.protected.verify(TABLE).result.differences == []
    scene.protected.approve(stranger)
    (moved,) = wait(restores, "what the other system holds")
    assert f"{TABLE}: lost 1 (50), regained 1 (3); {TABLE}: 2 row(s) that were never recorded" in moved.detail
    assert "public.rates: regained 1 (2), in an earlier version 1 (1)" in moved.detail.split("; "), "no row of it was forged"
    assert "2 other table(s): nothing" in moved.detail
    assert scene.protected.findings("public.rates") == []
    epoch = wait(lambda: scene.node.journal.state.epoch, "the epoch record")
    assert epoch.system == stranger.key
    found = [(f.cls, f.key) for f in scene.protected.findings(TABLE) if f.cls.startswith("row.")]
    assert sorted(found) == [("row.inserted", "99"), ("row.modified", "7")]
    verified = scene.protected.verify("public.untouched")
    assert (verified.verdict, verified.result.differences) == (Verdict.INCONCLUSIVE, [])
    scene.protected.approve(moved)
    scene.caught_up_again()
    scene.wait_bridged("public.untouched", "billing.audit_logs")
    scene.assert_bystanders_verified()
    for each in scene.protected.findings(TABLE):
        scene.protected.approve(each)
    scene.wait_bridged(TABLE)
    scene.assert_bystanders_verified(TABLE)
    scene.dba(f"UPDATE {TABLE} SET amount = 0 WHERE id = 8")
    scene.now("violation.update", 8, TABLE)
