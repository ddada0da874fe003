"""pgbench's own tables under pgbench's own load, verified all the while: no false finding, and the one true one by its key."""

from __future__ import annotations

import signal
from pathlib import Path

import psycopg
import pytest

from tests.support.node import Protected
from tests.support.postgres import Database
from witnz.core.verdict import Verdict

pytestmark = pytest.mark.slow

UPDATED = ("pgbench_accounts", "pgbench_branches", "pgbench_tellers")
HISTORY = "pgbench_history"
TABLES = [
    *({"name": name, "mode": "state_integrity", "on_change": "record"} for name in UPDATED),
    {"name": HISTORY, "mode": "append_only", "inserts_only": True},  # it has no key
]
ROUNDS = 3
ACCOUNTS = 100_001
OPENED_LATE = 100_001  # one account more than pgbench knows of, so that it never writes to it


def test_only_a_tampered_account_is_found_while_pgbench_writes(database: Database, tmp_path: Path) -> None:
    server = database.server
    server.run("pgbench", "-i", "-q", "-s", "1", database.owner_dsn)
    database.sql(f"INSERT INTO pgbench_accounts VALUES ({OPENED_LATE}, 1, 0, 'opened late')")
    protected = Protected.start(tmp_path, database, TABLES)
    load = server.popen("pgbench", "-n", "-c", "4", "-j", "2", "-T", "240", "-R", "300", database.owner_dsn)
    try:
        rows: dict[str, list[int]] = {}
        for _ in range(ROUNDS):
            for table in (*UPDATED, HISTORY):
                verified = protected.verify(f"public.{table}")
                assert verified.verdict is Verdict.VERIFIED, verified.to_json()
                rows.setdefault(table, []).append(verified.result.rows)
        assert rows["pgbench_accounts"] == [ACCOUNTS] * ROUNDS
        assert rows[HISTORY] == sorted(set(rows[HISTORY])), "pgbench went on writing between the verifications"
        assert protected.findings(state=None) == []

        with psycopg.connect(database.admin_dsn) as dba:
            publication = protected.config.publication
            dba.execute(f'ALTER PUBLICATION "{publication}" DROP TABLE pgbench_accounts')
            dba.execute("UPDATE pgbench_accounts SET abalance = 1000000 WHERE aid = %s", [OPENED_LATE])
            dba.execute(f'ALTER PUBLICATION "{publication}" ADD TABLE ONLY pgbench_accounts')
        verified = protected.verify("public.pgbench_accounts")
        assert verified.verdict is Verdict.TAMPERED
        assert [(d.cls, d.key, d.explained) for d in verified.result.differences] == [("row.modified", str(OPENED_LATE), False)]
        found = [(f.cls, f.table, f.key) for f in protected.findings() if f.cls.startswith("row.")]
        assert found == [("row.modified", "public.pgbench_accounts", str(OPENED_LATE))]
        assert load.poll() is None, "pgbench wrote to the end"
        for table in (*UPDATED[1:], HISTORY):
            assert not protected.verify(f"public.{table}").result.differences
    finally:
        load.send_signal(signal.SIGINT)
        load.wait()
        protected.stop()
