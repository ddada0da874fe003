"""A database that restarts while it makes a replication slot, which waits for a transaction that is open: done again, whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import Protected, wait, write_config
from tests.support.postgres import Database, create_database, prepare_server
from tests.support.recorded import audit_problems, records
from witnz.config import load_config
from witnz.ending import end_threads
from witnz.errors import DatabaseUnreachable
from witnz.node.node import now_us
from witnz.node.setup import initialise
from witnz.postgres.session import Conninfo

TABLE = "public.ledger"
ROWS = 500


def slots(database: Database) -> list[str]:
    return [str(row[0]) for row in database.server.sql("SELECT slot_name FROM pg_replication_slots ORDER BY 1")]


def restart_while_a_slot_is_made(database: Database) -> None:
    """Once the server waits for the open transaction, in the midst of making the slot."""

    def waits() -> bool:
        found = database.server.sql(
            "SELECT 1 FROM pg_stat_activity WHERE query LIKE 'CREATE_REPLICATION_SLOT%' AND wait_event_type = 'Lock'"
        )
        return bool(found) and len(slots(database)) == 1  # it is listed already, and not complete

    wait(waits, "a slot that is being made")
    database.server.restart("immediate")


@pytest.mark.slow
def test_a_restart_while_a_slot_is_made_leaves_no_orphan_and_no_half_baseline(
    own_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = own_server()
    prepare_server(server)
    database = create_database(server)
    database.sql(f"CREATE TABLE {TABLE} (id bigint PRIMARY KEY, note text)")
    database.sql(f"INSERT INTO {TABLE} SELECT g, 'row ' || g FROM generate_series(1, {ROWS}) g")
    tables = [{"name": TABLE, "mode": "append_only"}]

    # at init
    config = load_config(write_config(tmp_path, database, tables), {})
    failed: list[Exception] = []

    def begin() -> None:
        try:
            initialise(config, admin=Conninfo.from_conninfo(database.owner_dsn), clock=now_us, operator="alice")
        except DatabaseUnreachable as error:
            failed.append(error)

    holder = database.connect(database.owner_dsn, autocommit=False)
    holder.execute(f"INSERT INTO {TABLE} VALUES (0, 'never committed')")
    thread = threading.Thread(target=begin)
    thread.start()
    restart_while_a_slot_is_made(database)
    end_threads(thread)
    holder.close()
    assert len(failed) == 1
    assert slots(database) == []

    protected = Protected.start(tmp_path, database, tables)
    try:
        assert slots(database) == [config.slot_name]
        assert protected.node.state(TABLE).head.size == 1 + ROWS  # the schema, and each row once
        protected.assert_verified(TABLE)

        # of a running node, whose slot was lost
        holder = database.connect(database.owner_dsn, autocommit=False)
        holder.execute(f"INSERT INTO {TABLE} VALUES (0, 'never committed')")
        server.sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'witnz %'")
        wait(lambda: not server.sql("SELECT 1 FROM pg_replication_slots WHERE active") or None, "the end of the stream")
        _drop(database, config.slot_name)
        restart_while_a_slot_is_made(database)
        holder.close()
        protected.wait_for("slot.lost")
        wait(lambda: protected.node.capture.status.connected, "the stream again")
        assert slots(database) == [config.slot_name]
        database.sql(f"INSERT INTO {TABLE} SELECT g, 'later' FROM generate_series({ROWS + 1}, {ROWS + 100}) g")
        protected.caught_up()
        assert protected.node.state(TABLE).head.size == 1 + ROWS + 100
        assert [finding.cls for finding in protected.findings(state=None) if finding.cls != "source.unreachable"] == [
            "slot.lost"
        ]
        assert len(records(protected, "gap")) == 1
        assert audit_problems(protected) == []
    finally:
        protected.stop()


def _drop(database: Database, slot: str) -> None:
    """As soon as nobody reads from it: the node itself comes back within moments."""

    def dropped() -> bool:
        database.server.sql(
            f"SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}' AND active"
        )
        try:
            database.server.sql(
                f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{slot}'"
            )
        except Exception:  # noqa: BLE001  in use: tried again
            return False
        return True

    wait(dropped, "the slot to be dropped")
