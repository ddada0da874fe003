"""C07: the database is restarted, fails over to a standby, or is restored to an earlier point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.support.node import wait
from tests.support.restoring import put_in_place
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer

TABLE = "public.ledger"


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_restarts_raise_nothing_and_lose_nothing(own_server, own_scene, mode: str) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"}, server=own_server(version=16))
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


def test_a_failover_is_an_epoch_and_the_rows_that_were_not_shipped_are_named(own_server, own_scene) -> None:  # type: ignore[no-untyped-def]
    server = own_server(version=16)
    scene = own_scene({"name": TABLE, "mode": "append_only"}, server=server)
    promoted_in_its_place(scene, server.data_dir.with_name("backup"))
    finding = wait(lambda: [f for f in scene.protected.findings() if f.cls == "epoch.restored"], "the epoch")[0]
    assert "timeline 1 was left for 2" in finding.detail
    scene.caught_up_again()
    assert set(scene.node.journal.state.open_gaps()) == {TABLE, "public.untouched", "billing.audit_logs"}
    assert scene.differences_of(TABLE) == {"50": ("row.deleted", False)}
    untouched = scene.protected.verify("public.untouched")
    assert untouched.result.differences == [] and untouched.verdict is Verdict.INCONCLUSIVE
    scene.dba(f"UPDATE {TABLE} SET amount = 0 WHERE id = 7")
    scene.now("violation.update", 7, TABLE)
    scene.protected.approve(finding)
    scene.wait_bridged("public.untouched", "billing.audit_logs")
    scene.assert_bystanders_verified()


def test_another_server_under_the_same_address_is_refused_and_never_read(own_server, own_scene) -> None:  # type: ignore[no-untyped-def]
    server = own_server(version=16)
    scene = own_scene({"name": TABLE, "mode": "append_only"}, server=server)
    scene.protected.caught_up()
    other = own_server(version=16)
    other.sql("CREATE ROLE app_owner LOGIN; CREATE ROLE witnz LOGIN REPLICATION")
    other.sql(f"CREATE DATABASE {scene.database.name} OWNER app_owner")
    other.stop()
    server.stop()
    put_in_place(server, other.data_dir, aside="honest")
    server.start()
    finding = wait(lambda: [f for f in scene.protected.findings() if f.cls == "epoch.restored"], "the other server")[0]
    assert "system identifier" in finding.detail
    verified = scene.protected.verify(TABLE)
    assert verified.verdict is Verdict.INCONCLUSIVE and verified.result.differences == []
    assert scene.node.capture.fatal is not None, "the node reads nothing there"
    scene.stop()
    server.stop()
    put_in_place(server, server.data_dir.with_name("honest"), aside="foreign")
    server.start()
    scene.resume()
    scene.database.sql(f"INSERT INTO {TABLE} VALUES (60, 'back', 1, NULL, '2026-02-01')")
    scene.protected.caught_up()
    assert scene.scan(TABLE)[1] == {} and scene.found(TABLE) == []
