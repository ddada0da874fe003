"""kill -9 at random moments under load: nothing is lost, nothing is doubled.

The judge is a second replication slot that was opened first and is read at the end by nobody but this test: the exported
entries must equal its stream row for row.
"""

from __future__ import annotations

import random
import signal
import time
from collections import defaultdict
from pathlib import Path

import pytest

from tests.support.node import Protected, write_config
from tests.support.node_process import await_ready, spawn
from tests.support.postgres import Database
from witnz.config import load_config
from witnz.core.entry import parse_entry
from witnz.core.keyplan import KeyPlan
from witnz.core.rowline import row_hash
from witnz.core.verdict import CheckStatus, Verdict
from witnz.node.node import Node, now_us
from witnz.node.setup import conninfo_of, initialise
from witnz.postgres.catalog import find_table
from witnz.postgres.pgoutput import Begin, Commit, Decoder, Rows, Truncate
from witnz.postgres.publication import apply, publication_names
from witnz.postgres.session import Conninfo, connect
from witnz.postgres.slot import create_slot
from witnz.postgres.stream import ReplicationStream
from witnz.postgres.xid import Snapshot, parse_snapshot, widen
from witnz.store import entries, logs
from witnz.store.database import Database as Store
from witnz.verify.store import audit_store

ROUNDS = 30
TABLES = ("pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history")
Change = tuple[str, bytes | None, bytes | None, int, int]
"""(op, key line, row hash, final LSN, xid)"""

pytestmark = pytest.mark.slow


def test_repeated_kills_under_pgbench_lose_and_double_nothing(database: Database, tmp_path: Path) -> None:
    database.server.run("pgbench", "-i", "-q", "-s", "1", database.owner_dsn)
    tables = [{"name": name, "on_change": "record"} for name in TABLES[:3]]
    tables.append({"name": "pgbench_history", "mode": "append_only", "inserts_only": True})
    path = write_config(tmp_path, database, tables)
    config = load_config(path, {})
    with connect(Conninfo.from_conninfo(database.owner_dsn)) as owner:
        infos = {name: find_table(owner, "public", name) for name in TABLES}
        published = {i.oid: (i.schema, i.name) for n, i in infos.items() if i is not None and n != "pgbench_history"}
        history = infos["pgbench_history"]
        assert history is not None
        apply(owner, config.publication, published, inserts_only_tables={history.oid: ("public", "pgbench_history")})
    with connect(conninfo_of(config), replication=True) as walsender:
        create_slot(walsender, "judge")
    initialise(config, admin=None, clock=now_us, operator="alice")

    load = database.server.popen("pgbench", "-n", "-c", "8", "-j", "2", "-T", "45", "-R", "400", database.owner_dsn)
    chance = random.Random(7)
    log = tmp_path / "node.log"
    kills = 0
    while load.poll() is None:
        process = spawn(path, log=log)
        if kills % 3 == 0:
            await_ready(process)
            time.sleep(chance.random())
        else:
            time.sleep(0.4 + chance.random() * 1.2)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        kills += 1
        if kills >= ROUNDS and load.poll() is None:
            load.send_signal(signal.SIGINT)
            load.wait()
    while kills < ROUNDS:
        process = spawn(path, log=log)
        time.sleep(chance.random())
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()
        kills += 1

    node = Node(config)
    final = Protected(database, config, node, tmp_path)
    final.go()
    final.caught_up()
    results = {f"public.{name}": final.verify(f"public.{name}").verdict for name in TABLES}
    found = final.findings(state=None)
    final.stop()
    assert found == [], [(f.cls, f.table, f.key, f.detail) for f in found]
    assert set(results.values()) == {Verdict.VERIFIED}, results

    assert recorded(tmp_path) == judged(database, config, tmp_path)
    audit = audit_store(tmp_path / "data" / "witnz.db")
    assert [c for c in audit.checks if c.status is not CheckStatus.OK] == []


def recorded(directory: Path) -> dict[str, list[Change]]:
    """What the store holds of each table, from its export."""
    out: dict[str, list[Change]] = {}
    with Store.open(directory / "data" / "witnz.db", read_only=True) as store, store.read() as conn:
        for row in logs.list_logs(conn, "active"):
            changes = []
            for line in entries.entries(conn, row.id):
                entry = parse_entry(line)
                if entry.op not in ("schema", "baseline"):
                    changes.append((entry.op, entry.key, entry.row, entry.lsn, entry.xid))
            out[row.table] = changes
    return out


def judged(database: Database, config, directory: Path) -> dict[str, list[Change]]:
    """What the second slot says happened after each table's baseline."""
    plans: dict[int, tuple[str, KeyPlan, Snapshot, int]] = {}
    with Store.open(directory / "data" / "witnz.db", read_only=True) as store, store.read() as conn:
        for row in logs.list_logs(conn, "active"):
            columns = [c.name for c in parse_hint(row.columns)]
            plan = KeyPlan.of(row.key_columns, columns, row.secret, hidden=False)
            plans[row.oid] = (row.table, plan, parse_snapshot(row.snapshot or ""), row.lsn)
    out: dict[str, list[Change]] = defaultdict(list)
    end = database.sql("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint")[0][0]
    decoder = Decoder()
    with ReplicationStream(conninfo_of(config), "judge", publication_names(config.publication), start_lsn=0) as stream:
        begin, reached = None, 0
        while reached < end:
            batch = stream.read(10_000, 1.0)
            for event in decoder.decode(batch.payloads):
                if isinstance(event, Begin):
                    begin = event
                elif isinstance(event, Commit):
                    reached = event.end_lsn
                elif isinstance(event, Rows) and begin is not None:
                    take(out, plans, event, begin)
                assert not isinstance(event, Truncate)
            if not batch.payloads and batch.wal_end is not None:
                reached = max(reached, batch.wal_end)
    return {name: out.get(name, []) for name, *_ in plans.values()}


def take(out, plans, event: Rows, begin: Begin) -> None:
    name, plan, snapshot, lsn = plans[event.oid]
    if begin.final_lsn < lsn and snapshot.visible(widen(begin.xid, snapshot.xmax)):
        return
    for line in event.new:
        key = plan.key_lines([line])[0] if plan.keyed else None
        out[name].append((event.op.decode(), key, row_hash(plan.secret, line), begin.final_lsn, begin.xid))


def parse_hint(text: str):
    from witnz.core.entry import parse_schema_hint

    return parse_schema_hint(text).columns
