"""Commits that hang for a standby that is not there: flushed and streamed, yet invisible to every snapshot.

Then what a snapshot shows is no prefix of the commit order, for as long as the standby stays away.  Verification must not call
that tampering, and must still find real tampering in the middle of it.
"""

from __future__ import annotations

import threading
from pathlib import Path

import psycopg
import pytest

from tests.support.node import Protected, wait
from tests.support.postgres import create_database
from witnz.core.verdict import Verdict
from witnz.demo.heapfile import find_row, replace_value

pytestmark = pytest.mark.slow


def test_hanging_commits_are_never_tampering_and_an_edited_page_is(own_server, tmp_path: Path) -> None:
    server = own_server()
    database = create_database(server)
    database.sql("CREATE TABLE ledger (id bigint PRIMARY KEY, note text)")
    database.sql("INSERT INTO ledger SELECT g, 'note number ' || g FROM generate_series(1, 5000) g")
    node = Protected.start(tmp_path, database, [{"name": "ledger", "on_change": "record"}])
    try:
        hang(database)
        threads = [threading.Thread(target=commit_and_hang, args=(database.owner_dsn, n), daemon=True) for n in range(1, 4)]
        for thread in threads:
            thread.start()
        wait(lambda: waiting(database) == len(threads), "three commits that wait for the standby")
        database.sql("SET synchronous_commit = local; UPDATE ledger SET note = 'not waiting' WHERE id = 4000")
        node.caught_up()
        for _ in range(3):
            verified = node.verify("public.ledger")
            assert verified.verdict in (Verdict.VERIFIED, Verdict.INCONCLUSIVE), verified.to_json()
        assert node.findings(state=None) == []

        # the node itself is restarted in this state: what it needs to know about unsettled transactions is durable
        node.restart()
        verified = node.verify("public.ledger")
        assert verified.verdict is Verdict.VERIFIED, verified.to_json()

        node.stop()
        place = find_row(server, database.name, "ledger", "id = 2345")
        server.stop("immediate")
        replace_value(place, b"note number 2345", b"note number 9999")
        server.start()
        hang(database)
        late = threading.Thread(target=commit_and_hang, args=(database.owner_dsn, 9), daemon=True)
        late.start()
        wait(lambda: waiting(database) == 1, "another commit that waits")
        node.resume()
        verified = node.verify("public.ledger")
        assert verified.verdict is Verdict.TAMPERED
        assert [(f.cls, f.key) for f in verified.findings] == [("row.modified", "2345")]
    finally:
        release(database)
        node.stop()
        database.drop()


def hang(database) -> None:
    for statement in ("ALTER SYSTEM SET synchronous_standby_names = 'nosuch'", "SELECT pg_reload_conf()"):
        database.sql(statement, user="postgres")
    wait(lambda: database.sql("SHOW synchronous_standby_names") == [("nosuch",)], "the setting")


def release(database) -> None:
    for statement in ("ALTER SYSTEM RESET synchronous_standby_names", "SELECT pg_reload_conf()"):
        database.sql(statement, user="postgres")


def waiting(database) -> int:
    return int(database.sql("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'", user="postgres")[0][0])


def commit_and_hang(dsn: str, n: int) -> None:
    try:
        with psycopg.connect(dsn, autocommit=True) as conn:
            conn.execute("UPDATE ledger SET note = %s WHERE id = %s", [f"hanging {n}", n])
            conn.execute("INSERT INTO ledger VALUES (%s, 'hanging insert')", [10_000 + n])
    except psycopg.Error:
        pass  # the server was stopped under it
