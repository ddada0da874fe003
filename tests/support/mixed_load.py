"""Transactions of every kind, by pgbench: what a table can go through, mixed and concurrent.

Inserts, updates, multi-statement transactions, savepoints with partial rollback, aborts, two-phase commits, upserts, deletes,
tables with and without a key, mixed synchronous_commit.
"""

from __future__ import annotations

from pathlib import Path

from tests.support.postgres import Database

CLIENTS = 8
MIXED = [
    {"name": "history", "mode": "append_only"},
    {"name": "state", "on_change": "record"},
    {"name": "pile", "on_change": "record"},
]

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


def run_mixed_load(database: Database, directory: Path, transactions: int, *, timeout_s: float) -> None:
    """Run so many of them, a multiple of CLIENTS; the tables are there (``SCHEMA``)."""
    arguments = ["pgbench", "-n", "-c", str(CLIENTS), "-j", "2", "-t", str(transactions // CLIENTS), "--max-tries=10"]
    for name, text in SCRIPTS.items():
        title, weight = name.split("@")
        script = directory / f"{title}.sql"
        script.write_text(text + "\n")
        script.chmod(0o644)
        arguments += ["-f", f"{script}@{weight}"]
    load = database.server.run(*arguments, database.owner_dsn, timeout_s=timeout_s)
    assert f"number of transactions actually processed: {transactions}/{transactions}" in load.stdout, load.stdout
