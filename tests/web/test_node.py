"""The whole way: a real node on a real PostgreSQL, asked over its socket while it works."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import Protected, wait
from tests.support.postgres import Database
from witnz.core.keys import Ed25519Signer
from witnz.core.periods import periods_of
from witnz.core.policy import parse_policy
from witnz.core.record import parse_record
from witnz.core.verdict import Verdict
from witnz.errors import ProofError, UsageError, WitnzError
from witnz.node.journal import authorise
from witnz.node.keyring import load_person_key
from witnz.node.repair_apply import apply_plan
from witnz.node.repair_plan import plan_from_json
from witnz.node.view import StoreView
from witnz.postgres.session import Conninfo
from witnz.store import journal
from witnz.store.database import Database as Store
from witnz.verify.bundle import verify_bundle
from witnz.web.client import NodeClient
from witnz.web.server import SocketServer

TABLE = "public.audit"


@pytest.fixture
def running(tmp_path: Path, database: Database) -> Iterator[Protected]:
    database.sql("CREATE TABLE audit (id bigint PRIMARY KEY, who text, what text)")
    database.sql("INSERT INTO audit SELECT i, 'u' || i, 'logged in' FROM generate_series(1, 500) i")
    protected = Protected.start(tmp_path, database, [{"name": "audit", "mode": "append_only"}])
    yield protected
    protected.stop()


@pytest.fixture
def client(running: Protected, folder: Path) -> Iterator[NodeClient]:
    with SocketServer(running.node, folder / "s") as server, NodeClient(server.path) as made:
        yield made


def test_a_node_is_asked_for_everything_while_it_works(running: Protected, client: NodeClient, database: Database) -> None:
    database.sql("INSERT INTO audit SELECT i, 'u' || i, 'logged in' FROM generate_series(501, 600) i")
    running.caught_up()

    status = client.status()
    assert status["node"]["state"] == "running" and status["source"]["connected"] is True
    (table,) = status["tables"]
    assert (table["name"], table["mode"], table["entries"], table["live_rows"]) == (TABLE, "append_only", 601, 600)

    seen: list[int] = []
    document = client.verify("audit", seen.append)
    assert document["verdict"] == "VERIFIED"
    (result,) = document["tables"]
    assert result["rows"] == 600 and result["expected_root"] == result["found_root"]
    assert client.table(TABLE)["verdict"] == "VERIFIED"
    assert client.verifications(TABLE)[0]["journal_seq"] == result["journal_seq"]

    wait(lambda: client.checkpoint()["size"] >= result["journal_seq"], "a checkpoint over the verification")
    with running.node.db.read() as conn:
        policy = parse_policy(periods_of([parse_record(journal.record_at(conn, 1))]).now.policy())
    row = verify_bundle(client.row_bundle(TABLE, "42", with_row=True), policy)
    assert row.verdict is Verdict.VERIFIED
    assert row.rows[0].line_shown and row.rows[0].verified_lsn == result["snapshot_lsn"]
    assert verify_bundle(client.checkpoint_bundle(), policy).verdict is Verdict.VERIFIED
    assert "witnz_checkpoint_size" in client.metrics()


def test_tampering_is_heard_seen_and_approved_over_the_socket(
    running: Protected, client: NodeClient, database: Database, folder: Path
) -> None:
    heard: list[tuple[str, dict[str, Any]]] = []
    listening = threading.Thread(target=lambda: heard.extend(client.events()))
    listening.start()
    wait(lambda: running.node.events._listeners, "the listener")
    database.sql("UPDATE audit SET what = 'nothing' WHERE id = 7", user="postgres")
    with NodeClient(folder / "s") as asking:
        (finding,) = wait(lambda: asking.findings(state="open"), "a finding")
        assert (finding["class"], finding["key"], finding["table"]) == ("violation.update", "7", TABLE)
        document = asking.verify(TABLE)
        assert document["verdict"] == "TAMPERED"
        assert [found["id"] for found in document["findings"]] == [finding["id"]]
        assert asking.health()["status"] == "failing"

        asking.acknowledge(finding["id"], "looking into it")
        cluster, body = asking.approval(finding["id"], "it was asked for")
        name, signer = load_person_key(running.directory / "data" / "operator-alice.key", "operator")
        assert asking.approve(finding["id"], authorise("accept", body, cluster, name, signer))["state"] == "approved"
        assert asking.verify(TABLE)["verdict"] == "VERIFIED"
        assert asking.findings(state="open") == []
        entries = asking.log_entries(TABLE, key="7")["entries"]
        assert [entry["op"] for entry in entries] == ["baseline", "update"]
    running.node.events.close()
    listening.join(10)
    told = [event["state"] for kind, event in heard if kind == "finding" and event["id"] == finding["id"]]
    assert told[0] == "open" and told[-2:] == ["acknowledged", "approved"]


def test_a_table_is_protected_while_the_node_runs(running: Protected, client: NodeClient, database: Database) -> None:
    database.sql("CREATE TABLE orders (id int PRIMARY KEY, total numeric); INSERT INTO orders VALUES (1, 10), (2, 20)")
    database.sql(f'ALTER PUBLICATION "{running.config.publication}" ADD TABLE ONLY orders')
    assert client.protect("orders", "state_integrity", on_change="record")["status"] == "queued"
    wait(lambda: [t for t in client.tables() if t["name"] == "public.orders" and t["status"] == "active"], "orders")
    database.sql("UPDATE orders SET total = 11 WHERE id = 1")
    running.caught_up()
    assert client.verify("orders")["verdict"] == "VERIFIED"
    assert client.table("public.orders")["rules"]["on_change"] == "record"


def test_rows_are_repaired_by_somebody_else_than_the_node(tmp_path: Path, database: Database, folder: Path) -> None:
    database.sql("CREATE TABLE prices (id bigint PRIMARY KEY, amount numeric)")
    database.sql("INSERT INTO prices SELECT i, i * 10 FROM generate_series(1, 50) i")
    tables = [{"name": "prices", "mode": "append_only", "retain": "rows"}]
    protected = Protected.start(tmp_path, database, tables)
    try:
        database.sql("UPDATE prices SET amount = 0 WHERE id = 7", user="postgres")
        with SocketServer(protected.node, folder / "s") as server, NodeClient(server.path) as asking:
            (finding,) = wait(lambda: asking.findings(state="open"), "a finding")
            plan = plan_from_json(asking.repair_plan(finding["id"]))
            assert "70" in plan.sql
            name, signer = load_person_key(tmp_path / "data" / "operator-alice.key", "operator")
            owner = Conninfo.from_conninfo(database.owner_dsn)
            applied = apply_plan(plan, owner, operator=name, signer=signer, reason="it was not meant")
            document = asking.settle_repair(finding["id"], asdict(applied), plan.sql_sha256)
            assert document["repaired"] and document["restored"] == ["7"]
            assert document["verified"]["verdict"] == "VERIFIED"
            assert asking.finding(finding["id"])["state"] == "repaired"
            assert database.sql("SELECT amount FROM prices WHERE id = 7")[0][0] in ("70", 70)
            with pytest.raises(UsageError, match="repaired already"):
                asking.settle_repair(finding["id"], asdict(applied), plan.sql_sha256)
    finally:
        protected.stop()


def test_protection_ends_by_a_signed_decision_only(running: Protected, client: NodeClient, database: Database) -> None:
    name, signer = load_person_key(running.directory / "data" / "operator-alice.key", "operator")
    body = {"table": TABLE, "reason": "not needed any more"}
    forged = authorise("unprotect", body, running.node.cluster_id, name, Ed25519Signer("operator/alice", bytes(32)))
    with pytest.raises(ProofError):
        client.decide("unprotect", forged)
    assert client.tables()[0]["protected"]
    client.decide("unprotect", authorise("unprotect", body, running.node.cluster_id, name, signer))
    assert client.tables() == []
    assert client.table(TABLE)["protected"] is False
    wait(lambda: TABLE not in {state.name for state in running.node.states()}, "the end of recording")


def test_a_store_is_read_beside_the_running_node_and_after_it(running: Protected, client: NodeClient) -> None:
    path = running.node.data.database
    wait(client.checkpoints, "a checkpoint")
    with Store.open(path, read_only=True) as beside:
        view = StoreView.of_store(beside, running.config)
        assert view.status()["node"]["state"] == "stopped"
        assert view.tables()[0]["chain"] == client.tables()[0]["chain"]


def test_the_node_stops_while_it_is_being_asked(tmp_path: Path, database: Database, folder: Path) -> None:
    database.sql("CREATE TABLE audit (id bigint PRIMARY KEY, who text)")
    database.sql("INSERT INTO audit SELECT i, 'u' || i FROM generate_series(1, 1000) i")
    protected = Protected.start(tmp_path, database, [{"name": "audit", "mode": "append_only"}])
    server = SocketServer(protected.node, folder / "s")
    server.start()
    stop = threading.Event()
    failures: list[BaseException] = []

    def ask_on() -> None:
        with NodeClient(folder / "s") as asking:
            while not stop.is_set():
                try:
                    asking.status()
                    asking.verify("audit")
                except WitnzError as error:
                    failures.append(error)
                    return

    threads = [threading.Thread(target=ask_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    server.stop()
    protected.stop()
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    assert {getattr(error, "code", "") for error in failures} <= {"node.unreachable", "cancelled"}
    assert not (folder / "s").exists()
