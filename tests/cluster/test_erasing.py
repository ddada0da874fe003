"""Erasing and pruning among three nodes: each carries the order out in its own store, one that was away when it is back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import LEDGER, Trio, ledger_trio
from tests.support.erasures import signed
from tests.support.node import wait
from tests.support.postgres import create_database
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer
from witnz.store import logs
from witnz.store.logs import LogRow
from witnz.verify.store import audit_store


@pytest.fixture
def trio(pg_server: PostgresServer, tmp_path: Path) -> Iterator[Trio]:
    database = create_database(pg_server)
    made = ledger_trio(tmp_path, database)
    yield made
    made.stop()
    database.drop()


def row_of(trio: Trio, node: str, generation: int) -> LogRow | None:
    with trio[node].db.read() as conn:
        return logs.find_log(conn, LEDGER, generation)


def await_state(trio: Trio, node: str, generation: int, status: str) -> None:
    """This node has forgotten the secret of a generation, whose log is ended or pruned."""

    def done() -> bool:
        row = row_of(trio, node, generation)
        return row is not None and (row.status, row.secret) == (status, b"")

    wait(
        done,
        f"{node} to have {LEDGER}/{generation} {status}; {row_of(trio, node, generation)}, {trio[node].following.waits_for},"
        f" {[(o.plan.name, o.phase, o.error) for o in trio[node].generations.opening()]}",
        240,
    )


def order(trio: Trio, node: str, keys: list[str]) -> None:
    body = trio[node].erasing.body(LEDGER, keys, "asked for")
    trio[node].decide("erase", signed(trio[node], trio.directory / "node1" / "data" / "operator-alice.key", "erase", body))


@pytest.mark.slow
def test_a_member_that_was_away_erases_and_prunes_when_it_is_back(trio: Trio) -> None:
    away = trio.followers()[0]
    stay = [node for node in trio.nodes if node != away]
    trio.halt(away)
    order(trio, stay[0], ["3"])
    trio.database.sql("DELETE FROM ledger WHERE id = 3", user="postgres")
    for node in stay:
        await_state(trio, node, 1, "ended")
    prune = {"table": LEDGER, "generation": 1, "reason": "retention"}
    trio[stay[1]].decide(
        "prune", signed(trio[stay[1]], trio.directory / "node1" / "data" / "operator-alice.key", "prune", prune)
    )
    for node in stay:
        await_state(trio, node, 1, "pruned")
    trio.database.sql("INSERT INTO ledger VALUES (20, 'later', 1)", user="postgres")
    trio.run(away)
    await_state(trio, away, 1, "pruned")
    trio.ready()
    trio.assert_alike()
    for node in trio.nodes:
        verified = trio[node].verify_table(LEDGER)
        assert (verified.verdict, verified.erased_rows) == (Verdict.VERIFIED, 1), (node, verified.to_json())
        audit = audit_store(trio[node].db.path)
        assert audit.verdict is Verdict.VERIFIED, (node, audit.checks)
