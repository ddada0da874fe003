"""200,000 concurrent transactions of every kind while both detectors run without a pause: no finding, no doubt.

Inserts, updates that change the key, multi-statement transactions, savepoints with partial rollback, aborts, two-phase commits,
upserts, deletes, tables with and without a key, mixed synchronous_commit; eight clients.
"""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path

import pytest

from tests.support.node import Protected
from tests.support.postgres import Database
from witnz.core.verdict import CheckStatus, Verdict
from witnz.ending import end_threads
from witnz.verify.store import audit_store

TRANSACTIONS = 200_000
CLIENTS = 8

SCHEMA = """
CREATE TABLE history (id bigserial PRIMARY KEY, client int, note text);
CREATE TABLE state (id int PRIMARY KEY, v bigint, note text);
CREATE TABLE pile (a int, b text);
ALTER TABLE pile REPLICA IDENTITY FULL;
INSERT INTO state SELECT g, 0, 'start' FROM generate_series(1, 2000) g;
"""
SCRIPTS = {
    "insert@30": "INSERT INTO history (client, note) VALUES (:client_id, 'single');",
    "multi@15": """
        \\set id random(1, 2000)
        BEGIN;
        INSERT INTO history (client, note) VALUES (:client_id, 'first'), (:client_id, 'second');
        UPDATE state SET v = v + 1 WHERE id = :id;
        COMMIT;""",
    "async@10": """
        \\set id random(1, 2000)
        SET synchronous_commit = off;
        UPDATE state SET v = v + 1, note = 'async ' || :id WHERE id = :id;""",
    "savepoint@10": """
        \\set id random(1, 2000)
        BEGIN;
        INSERT INTO history (client, note) VALUES (:client_id, 'kept');
        SAVEPOINT s;
        INSERT INTO history (client, note) VALUES (:client_id, 'undone');
        UPDATE state SET note = 'undone' WHERE id = :id;
        ROLLBACK TO s;
        INSERT INTO history (client, note) VALUES (:client_id, 'after');
        COMMIT;""",
    "abort@8": """
        BEGIN;
        INSERT INTO history (client, note) VALUES (:client_id, 'never');
        ROLLBACK;""",
    "upsert@12": """
        \\set id random(1900, 2100)
        INSERT INTO state VALUES (:id, 1, 'upsert') ON CONFLICT (id) DO UPDATE SET v = state.v + 1;""",
    "delete@5": """
        \\set id random(1900, 2100)
        DELETE FROM state WHERE id = :id;""",
    "pile@8": """
        \\set a random(1, 50)
        INSERT INTO pile VALUES (:a, 'x');
        UPDATE pile SET b = 'y' WHERE ctid = (SELECT ctid FROM pile WHERE a = :a LIMIT 1);""",
    "unpile@4": """
        \\set a random(1, 50)
        DELETE FROM pile WHERE ctid IN (SELECT ctid FROM pile WHERE a = :a LIMIT 2);""",
    "prepared@2": """
        \\set n random(1, 1000000000)
        \\set id random(1, 2000)
        BEGIN;
        INSERT INTO history (client, note) VALUES (:client_id, 'two-phase');
        PREPARE TRANSACTION 'g_:client_id_:n';
        COMMIT PREPARED 'g_:client_id_:n';""",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def test_two_hundred_thousand_concurrent_transactions_raise_nothing(database: Database, tmp_path: Path) -> None:
    database.sql(SCHEMA)
    arguments = ["pgbench", "-n", "-c", str(CLIENTS), "-j", "2", "-t", str(TRANSACTIONS // CLIENTS), "--max-tries=10"]
    for name, text in SCRIPTS.items():
        title, weight = name.split("@")
        script = tmp_path / f"{title}.sql"
        script.write_text(text + "\n")
        script.chmod(0o644)
        arguments += ["-f", f"{script}@{weight}"]
    tables = [
        {"name": "history", "mode": "append_only"},
        {"name": "state", "on_change": "record"},
        {"name": "pile", "on_change": "record"},
    ]
    (tmp_path / "node").mkdir()
    node = Protected.start(tmp_path / "node", database, tables)
    names = [f"public.{table['name']}" for table in tables]
    runs: Counter[tuple[str, str]] = Counter()
    doubts: list[object] = []
    stop = threading.Event()

    def keep_verifying() -> None:
        while not stop.is_set():  # whole rounds: how many fit in is a matter of the machine
            for name in names:
                verified = node.verify(name)
                runs[name, verified.verdict.value] += 1
                if verified.verdict is not Verdict.VERIFIED:
                    doubts.append(verified.to_json())

    thread = threading.Thread(target=keep_verifying)
    thread.start()
    try:
        load = database.server.run(*arguments, database.owner_dsn, timeout_s=800)
    finally:
        stop.set()
        end_threads(thread)
    assert f"number of transactions actually processed: {TRANSACTIONS}/{TRANSACTIONS}" in load.stdout
    node.caught_up()
    last = [node.verify(name).verdict for name in names]
    found = node.findings(state=None)
    node.stop()
    assert found == [], [(f.cls, f.table, f.key) for f in found[:5]]
    assert doubts == [], doubts[:3]
    assert last == [Verdict.VERIFIED] * 3
    assert set(runs) == {(name, "VERIFIED") for name in names}, runs
    audit = audit_store(tmp_path / "node" / "data" / "witnz.db")
    assert [check for check in audit.checks if check.status is not CheckStatus.OK] == []
