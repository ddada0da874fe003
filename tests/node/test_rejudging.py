"""An intent key that ends or begins while its record is being agreed: each transaction is judged by its own LSN, in the end."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest

from tests.support.cluster import Trio
from tests.support.erasures import signed
from tests.support.node import wait
from tests.support.postgres import create_database
from tests.support.repairs import emit, new_signer
from witnz.core.keys import Ed25519Signer
from witnz.core.message import format_intent, sign_intent
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer
from witnz.node import delivery, peering, rejudging
from witnz.node.rejudging import Rejudging
from witnz.verify.store import audit_store

pytestmark = pytest.mark.since(14, "logical messages in the stream, so intents and repairs,")

PRICES, NOTES = "public.prices", "public.notes"


@pytest.fixture(scope="module")
def trio(pg_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio]:
    database = create_database(pg_server)
    for name in ("prices", "notes"):
        database.sql(f"CREATE TABLE {name} (id int PRIMARY KEY, cents int); INSERT INTO {name} VALUES (1, 1), (2, 2)")
    tables = [
        {"name": "prices", "mode": "state_integrity", "verify_interval": "0s"},
        {"name": "notes", "mode": "append_only", "verify_interval": "0s"},
    ]
    with ExitStack() as stack:
        stack.callback(database.drop)
        trio = Trio.start(tmp_path_factory.mktemp("trio"), database, tables)
        stack.callback(trio.stop)
        trio.settled()
        yield trio


def rotate(trio: Trio, node: str, action: str, name: str, key: Ed25519Signer, from_lsn: str) -> None:
    body = {"action": action, "kind": "intent", "name": name, "key": b64encode(key.public).decode(), "from_lsn": from_lsn}
    alice = trio.configs["node1"].data_dir / "operator-alice.key"
    trio[node].decide("key", signed(trio[node], alice, "key", body))


def change(trio: Trio, name: str, signer: Ed25519Signer, *statements: str) -> None:
    """A transaction under an intent."""
    with psycopg.connect(trio.database.owner_dsn) as conn:
        row = conn.execute("SELECT pg_current_xact_id()::text").fetchone()
        assert row is not None
        intent = sign_intent(
            signer, trio["node1"].cluster_id, by="shop", hint="", key=name, nonce=os.urandom(16).hex(),
            tables=[PRICES, NOTES], xid=int(row[0]),
        )  # fmt: skip
        emit(conn, format_intent(intent))
        for statement in statements:
            conn.execute(statement.encode())


def insert_lsn(trio: Trio) -> str:
    return str(trio.database.sql("SELECT pg_current_wal_insert_lsn()::text", user="postgres")[0][0])


def found(trio: Trio, node: str) -> set[tuple[str, str | None, str | None, str]]:
    return {(f.cls, f.table, f.key, f.id) for f in trio.findings(node, state=None) if f.cls != "quorum.lost"}


def counted(monkeypatch: pytest.MonkeyPatch) -> tuple[list[str], list[str]]:
    """The tables whose logs are derived anew, and those whose findings of the stream are listed for that."""
    derived: list[str] = []
    listed: list[str] = []
    derive, listing = Rejudging._derive, rejudging.findings.list_findings

    def deriving(self: Rejudging, conn: Any, row: Any, *arguments: Any) -> None:
        derived.append(row.table)
        derive(self, conn, row, *arguments)

    def lists(conn: Any, **wanted: Any) -> Any:
        listed.extend([wanted["table"]] if wanted.get("classes") is rejudging.STREAM else [])
        return listing(conn, **wanted)

    monkeypatch.setattr(Rejudging, "_derive", deriving)
    monkeypatch.setattr(rejudging.findings, "list_findings", lists)
    return derived, listed


def alike(trio: Trio, expected: set[tuple[str, str | None, str | None]]) -> None:
    """Every node has exactly these findings, the journal too; the audits of all are content, and a scan sees what it must."""
    for node in trio.nodes:
        look = lambda node=node: {each[:3] for each in found(trio, node)} == expected  # noqa: E731
        wait(look, f"{expected} on {node}; {found(trio, node)}, {trio[node].following.waits_for}", 120)
    trio.settled()
    assert len({frozenset(found(trio, node)) for node in trio.nodes}) == 1, "under the same ids"
    for node in trio.nodes:
        wait(lambda node=node: trio[node].following.done == trio[node].journal.size, f"{node} to carry out its journal")
        audit = audit_store(trio.configs[node].data_dir / "witnz.db")
        assert audit.verdict is Verdict.VERIFIED, (node, [(c.name, c.detail) for c in audit.checks if c.status.value != "ok"])
        journalled = {r.body["id"] for r in trio.records(node) if r.type == "finding" and r.body["class"] != "quorum.lost"}
        assert journalled == {each[3] for each in found(trio, node)}


def test_each_transaction_is_judged_by_its_own_position_whenever_the_records_come(
    trio: Trio, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On both sides of the rotation: by nodes that agree on it while the application writes, and by one that was cut off."""
    monkeypatch.setattr(peering, "OTHERS_JOURNAL_AFTER_S", 0.0)
    monkeypatch.setattr(delivery, "HOLD_S", 0.0)
    derived, listed = counted(monkeypatch)
    old, new = new_signer("intent/shop"), new_signer("intent/shop-2")
    alone, other = trio.followers()
    rotate(trio, other, "add", "shop", old, insert_lsn(trio))
    trio.settled()
    trio.links.isolate(alone)

    change(trio, "shop", old, "INSERT INTO prices VALUES (10, 1)", "UPDATE prices SET cents = 5 WHERE id = 1")
    lsn = insert_lsn(trio)  # what `witnz keys rotate` signs; then the records travel, and the application goes on
    change(trio, "shop", old, "INSERT INTO prices VALUES (11, 1)", "UPDATE notes SET cents = 6 WHERE id = 1")
    change(trio, "shop", old, "UPDATE prices SET cents = 7 WHERE id = 10")
    trio.caught_up()
    for node in trio.nodes:
        assert found(trio, node) == set(), "the old key is the only one that anybody knows"
    rotate(trio, other, "add", "shop-2", new, lsn)
    rotate(trio, other, "remove", "shop", old, lsn)
    change(trio, "shop-2", new, "INSERT INTO prices VALUES (12, 1)", "DELETE FROM notes WHERE id = 2")
    change(trio, "shop-2", new, "INSERT INTO prices VALUES (13, 1)", "UPDATE prices SET cents = 8 WHERE id = 1")
    change(trio, "shop", old, "INSERT INTO prices VALUES (14, 1)")
    trio.caught_up()
    assert {each[2] for each in found(trio, alone)} == {"1", "2", "12", "13"}, "whoever is alone knows the old key only"
    trio.links.heal()
    late = {("change.unapproved", PRICES, "11"), ("violation.update", NOTES, "1"), ("change.unapproved", PRICES, "10")}
    alike(trio, late | {("change.unapproved", PRICES, "14")})
    assert {state for node in trio.nodes for f in trio.findings(node, state=None) if (state := f.state)} == {"open"}
    assert len(listed) == len(derived) > 1, "findings are read once for a log that is judged anew, not once for each entry"
