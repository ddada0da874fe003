"""Three nodes, and the keys of those that are no member: what an intent or report key signed stays good after its rotation."""

from __future__ import annotations

import os
from base64 import b64encode
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest

from tests.support.cli import Cli
from tests.support.cluster import Trio
from tests.support.postgres import Database
from tests.support.repairs import emit
from witnz.core.message import format_intent, sign_intent
from witnz.core.verdict import Verdict
from witnz.node.keyring import load_person_key
from witnz.node.node import now_us
from witnz.report import key as report_key
from witnz.report.statement import parse_envelope
from witnz.verify.store import audit_store
from witnz.web.server import SocketServer

PRICES = "public.prices"


@dataclass(frozen=True, slots=True)
class Shop:
    """The three nodes, the program on node1, and where its operator keeps keys and evidence."""

    trio: Trio
    cli: Cli
    folder: Path

    @property
    def signed_by_alice(self) -> tuple[str | Path, ...]:
        return "--operator-key", self.trio.configs["node1"].data_dir / "operator-alice.key", "--yes"

    def insert(self, key: int, file: str, name: str) -> None:
        """A new price, announced by an intent under ``name`` that the key in ``file`` signs."""
        _, signer = load_person_key(self.folder / file, "intent")
        with psycopg.connect(self.trio.database.owner_dsn) as conn:
            row = conn.execute("SELECT pg_current_xact_id()::text").fetchone()
            assert row is not None
            intent = sign_intent(
                signer, self.trio["node1"].cluster_id, by="shop", hint="a new price",
                key=name, nonce=os.urandom(16).hex(), tables=[PRICES], xid=int(row[0]),
            )  # fmt: skip
            emit(conn, format_intent(intent))
            conn.execute("INSERT INTO prices VALUES (%s, 1)", [key])

    def export(self, name: str, key: int) -> None:
        """What an auditor takes along: a bundle of a row, a report, and the policy of now."""
        self.trio.settled()
        self.cli.run("prove", PRICES, "--key", str(key), "-o", self.folder / f"{name}.json").expect(0)
        today = datetime.now(UTC)
        period = [f"{today + timedelta(days=days):%Y-%m-%d}" for days in (-1, 1)]
        words = ("--standard", "soc2", "--from", period[0], "--to", period[1])
        self.cli.run("report", *words, "-o", self.folder / name).expect(0)
        self.cli.run("keys", "policy", "-o", self.folder / f"{name}.policy").expect(0)

    def verified(self, name: str, policy: str) -> tuple[int, int]:
        """Exit codes for the bundle and for the report, offline."""
        under = ("--policy", self.folder / f"{policy}.policy")
        bundle = self.cli.run("verify", "--checkpoint", self.folder / f"{name}.json", *under)
        return bundle.code, self.cli.run("verify", "--report", self.folder / name, *under).code

    def report_key(self, name: str) -> str:
        return parse_envelope((self.folder / name / "report.json").read_bytes()).key_id


@pytest.fixture
def shop(database: Database, tmp_path: Path) -> Iterator[Shop]:
    database.sql("CREATE TABLE prices (id int PRIMARY KEY, cents int); INSERT INTO prices VALUES (1, 1), (2, 2)")
    with ExitStack() as stack:
        trio = Trio.start(tmp_path, database, [{"name": "prices", "mode": "state_integrity", "verify_interval": "0s"}])
        stack.callback(trio.stop)
        stack.enter_context(SocketServer(trio["node1"], trio.configs["node1"].socket_path))
        yield Shop(trio, Cli(tmp_path / "node1"), tmp_path)


def test_what_intent_and_report_keys_signed_stays_good_after_their_rotation(shop: Shop) -> None:
    trio, alice = shop.trio, shop.signed_by_alice
    shop.cli.run("keys", "new", "intent", "shop", "-o", shop.folder / "shop.key", *alice).expect(0)
    shop.insert(100, "shop.key", "shop")
    shop.export("before", 100)

    rotated = shop.cli.json("keys", "rotate", "intent", "shop", "-o", shop.folder / "shop-2.key", *alice)
    assert rotated["name"] == "shop-2"
    shop.insert(101, "shop-2.key", "shop-2")
    shop.insert(102, "shop.key", "shop")
    for node in trio.nodes:
        trio.wait_for(node, "change.unapproved", "102")
        assert [(f.cls, f.key) for f in trio.findings(node, state=None)] == [("change.unapproved", "102")], node

    own = trio.configs["node1"].data_dir / "keys/report.key"
    replaced, waiting = own.read_bytes(), report_key.create("a rotation", "that was interrupted", now_us())
    report_key.save(own.with_name("report.next.key"), waiting)
    rotated = shop.cli.json("keys", "rotate", "report", "node1", *alice)
    assert (rotated["name"], Path(rotated["file"])) == ("node1-2", own)
    assert rotated["public"] == b64encode(waiting.public_der).decode()
    assert own.read_bytes() != replaced and not own.with_name("report.next.key").exists()
    shop.export("after", 101)
    assert [key["name"] for key in shop.cli.json("keys", "show")["reports"]] == ["node1-2"]
    assert shop.report_key("before") != shop.report_key("after")

    for signed in ("before", "after"):
        for policy in ("before", "after"):
            assert shop.verified(signed, policy) == (0, 0), f"{signed} under the policy of {policy}"
    for node in trio.nodes:
        audit = audit_store(trio.configs[node].data_dir / "witnz.db")
        assert audit.verdict is Verdict.VERIFIED, (node, [(c.name, c.detail) for c in audit.checks if c.status.value != "ok"])
    trio.assert_alike(expected=lambda finding: finding.key == "102")
