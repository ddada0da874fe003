"""A failover to a standby that synchronised the slots (PostgreSQL 17 and later): the stream goes on there without a gap."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.support.node import Protected, wait
from tests.support.postgres import create_database
from tests.support.restoring import put_in_place
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer

STANDBY = "standby1"
TABLE = "public.ledger"


def make_standby(primary: PostgresServer, folder: Path) -> PostgresServer:
    """A streaming standby of ``primary`` below ``folder``, not started yet."""
    primary.sql(f"SELECT pg_create_physical_replication_slot('{STANDBY}')")
    standby = PostgresServer(folder, version=primary.version)
    primary.run("pg_basebackup", "-D", standby.data_dir, "-X", "stream", "-c", "fast", "-R", "-S", STANDBY, "-d", primary.dsn())
    with (standby.data_dir / "postgresql.auto.conf").open("a") as stream:
        stream.write(f"hot_standby_feedback = on\nprimary_slot_name = '{STANDBY}'\n")
    owner = primary.data_dir.stat()
    for path in [standby.data_dir, *standby.data_dir.rglob("*")]:
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    return standby


def test_the_stream_goes_on_from_the_synchronised_slot_of_the_promoted_standby(
    own_server: Callable[..., PostgresServer], tmp_path: Path
) -> None:
    primary = own_server(version=18, settings={"synchronized_standby_slots": STANDBY})
    database = create_database(primary)
    database.sql(f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, note text); INSERT INTO {TABLE} VALUES (1, 'first')")
    with make_standby(primary, primary.directory.with_name(f"{primary.directory.name}-standby")) as standby:
        protected = Protected.start(tmp_path, database, [{"name": TABLE, "mode": "append_only"}])
        slot = protected.config.slot_name
        try:
            assert primary.sql(f"SELECT failover FROM pg_replication_slots WHERE slot_name = '{slot}'") == [(True,)]
            database.sql(f"INSERT INTO {TABLE} VALUES (2, 'on the primary')")
            protected.caught_up()

            def synchronised() -> bool:
                standby.sql("SELECT pg_sync_replication_slots()")
                found = standby.sql(f"SELECT synced AND NOT temporary FROM pg_replication_slots WHERE slot_name = '{slot}'")
                return found == [(True,)]

            wait(synchronised, "the slot on the standby")
            database.sql(f"INSERT INTO {TABLE} VALUES (3, 'not yet acknowledged there')")
            protected.caught_up()
            reached = primary.sql("SELECT pg_current_wal_lsn()::text")[0][0]
            wait(lambda: standby.sql(f"SELECT pg_last_wal_replay_lsn() >= '{reached}'")[0][0], "the standby's replay")
            primary.stop("immediate")
            standby.sql("SELECT pg_promote()")
            standby.sql(f"INSERT INTO {TABLE} VALUES (4, 'before the node is back')", dbname=database.name)
            standby.stop()
            put_in_place(primary, standby.data_dir, aside="old")
            primary.configure({"synchronized_standby_slots": ""})
            primary.start()

            wait(lambda: protected.node.capture.status.connected, "the stream of the promoted standby")
            database.sql(f"INSERT INTO {TABLE} VALUES (5, 'afterwards')")
            protected.caught_up()
            verified = protected.verify(TABLE)
            assert (verified.verdict, verified.not_checked, verified.result.rows) == (Verdict.VERIFIED, (), 5)
            state = protected.node.state(TABLE)
            assert (state.generation, state.head.size) == (1, 1 + 5)
            assert not protected.node.journal.state.open_gaps()
            (failover,) = [f for f in protected.findings(state=None) if f.cls == "epoch.restored"]
            assert "the slot was taken along" in failover.detail and failover.explained_by
        finally:
            protected.stop()
