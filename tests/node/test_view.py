"""Documents from a real store, with the node running and without."""

from __future__ import annotations

import base64
import hashlib
import json
import sqlite3
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.support.served import CLUSTER, SECRET, START_US, TABLE, AuditState, StandingNode
from witnz.core.classify import Rules
from witnz.core.entry import chain_hash, content_hash, first_parent
from witnz.core.merkle import leaf_hash, root_of
from witnz.core.names import log_origin
from witnz.core.note import parse_note
from witnz.core.tiles import parse_entry_bundle
from witnz.errors import DatabaseUnreachable, UsageError
from witnz.node.opening import Opening
from witnz.node.plan import Plan, Surroundings
from witnz.node.status import STATUSES
from witnz.node.view import StoreView
from witnz.postgres.catalog import TableInfo
from witnz.store import entries, logs, tablelog
from witnz.store.database import Database


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StandingNode]:
    tmp_path.chmod(0o700)
    standing = StandingNode(tmp_path)
    yield standing
    standing.close()


@pytest.fixture
def view(node: StandingNode) -> StoreView:
    return StoreView(node.db, node.journal.state, node.config, clock=node.clock)


def check(document: dict, name: str) -> dict:
    (found,) = [item for item in document["checks"] if item["name"] == name]
    return found


def test_the_status_of_a_running_node_has_every_member_of_the_interface(node: StandingNode, view: StoreView) -> None:
    node.add_table(rows=3)
    node.seal()
    node.now_us += 2_500_000
    document = view.status(node)
    assert document["schema"] == "witnz.status/1"
    assert document["node"] == {"id": "node1", "role": "leader", "state": "running", "version": "0.1.0"}
    assert document["cluster"]["origin"] == CLUSTER
    assert document["cluster"]["leader"] == "node1"
    assert document["cluster"]["quorum"] == 1
    assert document["cluster"]["members"] == [
        {"id": "node1", "state": "up", "size": node.journal.state.size, "last_seen_s": 0.0}
    ]
    source = document["source"]
    assert (source["connected"], source["lag_bytes"], source["retained_bytes"]) == (True, 120, 4096)
    assert source["slot"] == node.config.slot_name
    newest = document["checkpoint"]
    assert (newest["size"], newest["final"], newest["cosigned_by"]) == (node.journal.state.size, True, ["node1"])
    assert newest["age_s"] == 2.5
    assert document["anchors"] == []
    (table,) = document["tables"]
    assert (table["name"], table["mode"], table["lsn"]) == (TABLE, "append_only", "0/1949950")
    assert (table["entries"], table["live_rows"], table["verdict"], table["findings_open"]) == (4, 3, None, 0)
    assert document["findings_open"] == 0
    assert [item["name"] for item in document["checks"]] == [
        "capture", "slot", "seals", "store", "alerts", "openings", "findings", "coverage", "anchors",
    ]  # fmt: skip
    assert {item["status"] for item in document["checks"]} == {"ok"}
    json.dumps(document, allow_nan=False)


def test_without_the_node_what_only_it_knows_is_null(node: StandingNode, view: StoreView) -> None:
    node.add_table(rows=3)
    node.seal()
    document = view.status()
    assert document["node"]["state"] == "stopped"
    assert document["node"]["role"] is None
    assert document["cluster"]["leader"] is None and document["cluster"]["term"] is None
    live = {name: document["source"][name] for name in ("connected", "lag_bytes", "last_event_s", "retained_bytes")}
    assert set(live.values()) == {None}
    assert check(document, "capture")["status"] == "unknown"
    assert check(document, "store")["status"] == "unknown"
    assert document["tables"][0]["entries"] == 4


def test_a_view_beside_the_node_shows_what_the_node_shows(node: StandingNode, view: StoreView) -> None:
    node.add_table(rows=300)
    node.seal()
    node.find()
    with Database.open(node.db.path, read_only=True) as beside:
        other = StoreView.of_store(beside, node.config)
        assert other.tables() == [{**view.tables()[0], "last_verified_s": None}]
        assert other.findings() == view.findings()
        assert other.checkpoint()["note"] == view.checkpoint()["note"]


def test_a_table_whose_opening_is_only_queued_is_among_the_tables(node: StandingNode, view: StoreView) -> None:
    """Right after a start nothing is in the store yet; who verifies all tables then must not be told of none, or of fewer."""
    node.add_table(rows=3)
    node.generations.openings = [queued(node, TABLE, 2), queued(node, "billing.prices", 1)]
    for tables in (view.tables(node), view.status(node)["tables"]):
        assert [(t["name"], t["generation"], t["status"], t["protected"]) for t in tables] == [
            ("billing.prices", 1, "open", False),
            (TABLE, 1, "active", True),
        ]
    before = view.tables(node)[0]
    with node.db.write() as conn:  # it begins
        tablelog.create_log(
            conn, table="billing.prices", generation=1, origin=log_origin(CLUSTER, "billing.prices", 1), oid=7, secret=SECRET,
            key_columns=("id",), status="open",
        )  # fmt: skip
    assert view.tables(node)[0] == view.tables()[0] == before
    json.dumps(before, allow_nan=False)


def queued(node: StandingNode, name: str, generation: int) -> Opening:
    plan = Plan(name, cast(TableInfo, None), Rules("append_only"), hidden_keys=False, generation=generation, reason="protected")
    return Opening(plan, cast(Surroundings, None))


def test_root_and_chain_of_a_table_are_those_of_its_entries(node: StandingNode, view: StoreView) -> None:
    node.add_table(rows=300)
    (table,) = view.tables()
    with node.db.read() as conn:
        row = logs.find_log(conn, TABLE)
        assert row is not None
        lines = list(entries.entries(conn, row.id))
    chain = first_parent(f"{CLUSTER}/{TABLE}/1")
    for line in lines:
        chain = chain_hash(chain, content_hash(line))
    assert table["chain"] == chain
    assert table["root"] == base64.b64encode(root_of([leaf_hash(line) for line in lines])).decode()


@pytest.mark.parametrize(
    ("change", "name", "status", "says"),
    [
        ("disconnected", "capture", "fail", "connection refused"),
        ("fatal", "capture", "fail", "no database"),
        ("retained", "slot", "warn", "10000000000 bytes"),
        ("over", "slot", "fail", "bytes"),
        ("auditing", "store", "pending", "under way"),
        ("corrupt", "store", "fail", "block 3"),
        ("finding", "findings", "fail", "1 finding is open"),
        ("medium", "findings", "warn", "1 finding is open"),
        ("gap", "coverage", "fail", TABLE),
        ("unsealed", "seals", "warn", "2 entries are not sealed"),
    ],
)
def test_each_check_says_what_is_wrong(
    node: StandingNode, view: StoreView, change: str, name: str, status: str, says: str
) -> None:
    node.add_table(rows=3)
    node.seal()
    match change:
        case "disconnected":
            node.capture.status.connected, node.capture.status.error = False, "connection refused"
            node.capture.status.since = time.monotonic() - 60
        case "fatal":
            node.capture.fatal = DatabaseUnreachable("no database")
        case "retained":
            node.capture.status.retained_bytes = 10_000_000_000
        case "over":
            node.capture.status.retained_bytes = 20_000_000_000
        case "auditing":
            node.audit = AuditState("pending")
        case "corrupt":
            node.audit = AuditState("fail", "log 1, block 3: it is missing", START_US)
        case "finding":
            node.find()
        case "medium":
            node.find("source.unreachable", "1", None)
        case "gap":
            body = {"from_lsn": "0/1949A50", "to_lsn": "0/1949B50", "reason": "lost", "tables": [TABLE]}
            node.journal.propose("gap", body)
        case "unsealed":
            node.add_rows(TABLE, [b"8\tx", b"9\ty"])
            node.now_us += 60_000_000
    found = check(view.status(node), name)
    assert found["status"] == status
    assert says in found["message"]
    if change == "disconnected":
        since = time.strptime(found["since"][:19], "%Y-%m-%dT%H:%M:%S")
        assert since.tm_year == 2026


def test_every_status_that_a_check_can_have_is_listed(node: StandingNode, view: StoreView) -> None:
    found = {item["status"] for item in (*view.status()["checks"], *view.status(node)["checks"])}
    assert found <= set(STATUSES)


def test_a_table_is_shown_with_its_rules_generations_and_newest_verification(node: StandingNode, view: StoreView) -> None:
    node.add_table(rows=3)
    node.seal()
    document = view.table(TABLE)
    assert document["rules"] == {
        "mode": "append_only", "on_change": "alert", "inserts_only": False, "require_intent": False, "retain": False,
    }  # fmt: skip
    assert document["key_columns"] == ["id"]
    assert document["origin"] == f"{CLUSTER}/{TABLE}/1"
    assert [(one["generation"], one["entries"], one["sealed"]) for one in document["generations"]] == [(1, 4, 4)]
    assert document["last_verification"] is None


def test_no_secret_of_a_log_is_in_any_document(node: StandingNode, view: StoreView, tmp_path: Path) -> None:
    node.add_table(rows=3)
    node.seal()
    view.export_log(TABLE, tmp_path / "out", "audit-log")
    shown = json.dumps([view.status(node), view.table(TABLE), view.log_entries(TABLE), view.checkpoint()])
    shown += "".join(path.read_text() for path in (tmp_path / "out").iterdir())
    for spelling in (SECRET.hex(), base64.b64encode(SECRET).decode()):
        assert spelling not in shown
    assert "owner 1" not in shown


def test_findings_are_listed_by_state_and_table_and_explained_one_by_one(node: StandingNode, view: StoreView) -> None:
    node.add_table(rows=3)
    first = node.find(key="1", seq=2)
    node.now_us += 1_000_000
    second = node.find(key="2", seq=3)
    node.approvals.acknowledge(first, "seen")
    assert [finding["id"] for finding in view.findings()] == [second, first]
    assert [finding["id"] for finding in view.findings(state="open")] == [second]
    assert view.findings(table="public.other") == []
    shown = view.finding(first)
    assert shown["state"] == "acknowledged" and not shown["closed"]
    assert "append-only" in shown["meaning"] and shown["action"]
    assert shown["journal_seq"] == 3
    with pytest.raises(UsageError, match="state: expected"):
        view.findings(state="lost")
    with pytest.raises(UsageError) as caught:
        view.finding("F-000000000000")
    assert caught.value.code == "not-found"


def test_checkpoints_are_listed_newest_first_and_shown_with_their_note(node: StandingNode, view: StoreView) -> None:
    with pytest.raises(UsageError, match="no checkpoint yet"):
        view.checkpoint()
    node.add_table(rows=3)
    node.seal()
    node.add_rows(TABLE, [b"7\tx"])
    node.now_us += 5_000_000
    node.seal()
    listed = view.checkpoints()
    assert [one["size"] for one in listed] == [4, 3]
    assert view.checkpoints(limit=1) == listed[:1]
    shown = view.checkpoint(3)
    note = parse_note(shown["note"])
    assert shown["digest"] == hashlib.sha256(note.text.encode()).hexdigest()
    assert shown["log_signed"] and shown["cosignatures"] == [{"node": "node1", "at": "2026-11-21T18:09:39.000000Z"}]
    assert view.checkpoint()["size"] == 4
    with pytest.raises(UsageError, match="size 99"):
        view.checkpoint(99)


def test_a_checkpoint_whose_signature_was_changed_is_not_shown_as_cosigned(node: StandingNode, view: StoreView) -> None:
    node.add_table(rows=3)
    node.seal()
    with node.db.write() as conn:
        (note,) = conn.execute("SELECT note FROM checkpoints").fetchone()
        head, _, last = note.rstrip("\n").rpartition(" ")
        raw = bytearray(base64.b64decode(last))
        raw[-1] ^= 1
        conn.execute("UPDATE checkpoints SET note = ?", (f"{head} {base64.b64encode(raw).decode()}\n",))
    assert view.checkpoint()["cosigned_by"] == []
    assert "do not verify" in view.checkpoint()["detail"]


# -- entries ------------------------------------------------------------------------------------------------------------------


def test_entries_come_in_pages_with_their_chain(node: StandingNode, view: StoreView) -> None:
    node.add_table(rows=300)
    node.add_rows(TABLE, [b"777\tZo\xc3\xab"], by="carol", hint="Zürich\u2028")
    page = view.log_entries(TABLE, limit=200)
    assert (page["size"], page["next_seq"], len(page["entries"])) == (302, 201, 200)
    rest = view.log_entries(TABLE, from_seq=201, limit=200)
    assert rest["next_seq"] is None
    assert [entry["seq"] for entry in (*page["entries"], *rest["entries"])] == list(range(1, 303))
    last = rest["entries"][-1]
    assert (last["op"], last["key"], last["by"], last["hint"]) == ("insert", "777", "carol", "Zürich\u2028")
    assert last["chain_hash"] == view.tables()[0]["chain"]
    assert last["audit_id"] == last["chain_hash"][:16]
    assert view.log_entries(TABLE, from_seq=5, to_seq=7)["entries"][0]["seq"] == 5
    assert [entry["seq"] for entry in view.log_entries(TABLE, from_seq=5, to_seq=7)["entries"]] == [5, 6, 7]
    assert view.log_entries(TABLE, from_seq=303)["entries"] == []


def test_entries_of_one_key_are_found_wherever_they_are(node: StandingNode, view: StoreView) -> None:
    node.add_table(rows=600)
    node.add_rows(TABLE, [b"5\tagain", b"6\tagain"], op=b"update")
    assert [(entry["seq"], entry["op"]) for entry in view.log_entries(TABLE, key="5")["entries"]] == [
        (6, "baseline"),
        (602, "update"),
    ]
    assert [entry["seq"] for entry in view.log_entries(TABLE, key="id=6", from_seq=8)["entries"]] == [603]
    assert view.log_entries(TABLE, key="nobody")["entries"] == []
    assert view.log_entries(TABLE, key="5", limit=1)["next_seq"] == 602


def test_a_hidden_key_is_found_by_its_value_and_never_shown(node: StandingNode, view: StoreView) -> None:
    node.add_table(rows=30, hidden=True)
    (entry,) = view.log_entries(TABLE, key="17")["entries"]
    assert entry["seq"] == 18
    assert entry["key"] == "\\H" + hashlib.sha256(SECRET + b"\0" + b"17").hexdigest()
    assert view.log_entries(TABLE, key=entry["key"])["entries"] == [entry]
    assert view.key_of(TABLE, "17").decode() == entry["key"]


def test_what_is_not_there_is_refused_with_a_hint(node: StandingNode, view: StoreView) -> None:
    node.add_table(rows=3)
    with pytest.raises(UsageError, match="never protected") as caught:
        view.log_entries("public.nothing")
    assert caught.value.code == "not-found" and "witnz status" in caught.value.hint
    with pytest.raises(UsageError, match="no generation 2"):
        view.log_entries(TABLE, generation=2)
    for limit in (0, 1001):
        with pytest.raises(UsageError, match="limit"):
            view.log_entries(TABLE, limit=limit)
    with pytest.raises(UsageError, match="from"):
        view.log_entries(TABLE, from_seq=0)


# -- export -------------------------------------------------------------------------------------------------------------------


def test_an_exported_audit_log_shows_to_sql_that_nothing_is_missing(
    node: StandingNode, view: StoreView, tmp_path: Path
) -> None:
    node.add_table(rows=300)
    node.seal()
    node.add_rows(TABLE, [b"7\tx"], by="carol")
    node.now_us += 1_000_000
    node.seal()
    summary = view.export_log(TABLE, tmp_path / "out", "audit-log")
    assert summary["files"] == ["entries.jsonl", "checkpoints.jsonl"] and summary["size"] == 302
    rows = [json.loads(line) for line in (tmp_path / "out" / "entries.jsonl").read_text().splitlines()]
    assert list(rows[0]) == ["audit_id", "seq", "parent_hash", "content_hash", "chain_hash", "at", "by", "hint", "entry"]
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE log (seq, parent_hash, content_hash, chain_hash, entry)")
    db.executemany("INSERT INTO log VALUES (:seq, :parent_hash, :content_hash, :chain_hash, :entry)", rows)
    gaps = """SELECT count(*) FROM (SELECT seq, parent_hash, lag(chain_hash) OVER (ORDER BY seq) AS before FROM log)
              WHERE seq > 1 AND parent_hash IS NOT before"""
    assert db.execute(gaps).fetchone() == (0,)
    for row in rows[:3]:
        assert hashlib.sha256(b"\0" + row["entry"].encode()).hexdigest() == row["content_hash"]
        assert hashlib.sha256((row["parent_hash"] + row["content_hash"]).encode()).hexdigest() == row["chain_hash"]
    seals = [json.loads(line) for line in (tmp_path / "out" / "checkpoints.jsonl").read_text().splitlines()]
    assert [(seal["as_of_seq"], seal["snapshot_uri"]) for seal in seals] == [(301, None), (302, None)]
    by_seq = {row["seq"]: row["chain_hash"] for row in rows}
    assert all(by_seq[seal["as_of_seq"]] == seal["chain_hash"] for seal in seals)
    db.close()


def test_exported_tiles_hold_the_sealed_log(node: StandingNode, view: StoreView, tmp_path: Path) -> None:
    node.add_table(rows=300)
    node.seal()
    node.add_rows(TABLE, [b"7\tx"])
    summary = view.export_log(TABLE, tmp_path / "out", "tiles")
    assert summary["size"] == 301
    origin, size, root = (tmp_path / "out" / "checkpoint").read_text().splitlines()
    assert (origin, size) == (f"{CLUSTER}/{TABLE}/1", "301")
    lines = parse_entry_bundle((tmp_path / "out/tile/entries/000").read_bytes())
    lines += parse_entry_bundle((tmp_path / "out/tile/entries/001.p/45").read_bytes())
    assert root == base64.b64encode(root_of([leaf_hash(line) for line in lines])).decode() == summary["root"]
    hashes = (tmp_path / "out/tile/0/000").read_bytes() + (tmp_path / "out/tile/0/001.p/45").read_bytes()
    assert hashes == b"".join(leaf_hash(line) for line in lines)


def test_an_exported_tsv_is_the_entries_as_they_are(node: StandingNode, view: StoreView, tmp_path: Path) -> None:
    node.add_table(rows=300)
    view.export_log(TABLE, tmp_path / "out", "tsv")
    lines = (tmp_path / "out" / "entries.tsv").read_bytes().split(b"\n")
    assert len(lines) == 302 and lines[-1] == b""
    assert all(line.count(b"\t") == 10 for line in lines[:-1])


@pytest.mark.parametrize("fmt", ["tiles", "audit-log", "tsv"])
def test_an_export_overwrites_nothing(node: StandingNode, view: StoreView, tmp_path: Path, fmt: str) -> None:
    node.add_table(rows=3)
    view.export_log(TABLE, tmp_path / "out", fmt)
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    with pytest.raises(UsageError, match=r"exists already|not empty"):
        view.export_log(TABLE, tmp_path / "out", fmt)
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == before
    with pytest.raises(UsageError, match="format"):
        view.export_log(TABLE, tmp_path / "other", "zip")


def test_export_does_not_hold_the_log_in_memory(node: StandingNode, view: StoreView, tmp_path: Path) -> None:
    node.add_table(rows=10_000)
    tracemalloc.start()
    view.export_log(TABLE, tmp_path / "out", "tsv")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (tmp_path / "out" / "entries.tsv").stat().st_size > 1_000_000
    assert peak < 700_000
