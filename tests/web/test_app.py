"""Every path over a real socket: answers, refusals, bounds."""

from __future__ import annotations

import base64
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.served import CLUSTER, TABLE, StandingNode
from tests.support.unix_http import Answer, ask, parse, speak
from tests.web.conftest import Shared
from witnz.core.keys import Ed25519Signer
from witnz.core.merkle import leaf_hash, root_of
from witnz.core.note import parse_note
from witnz.core.policy import parse_policy
from witnz.core.tiles import parse_entry_bundle
from witnz.core.verdict import Verdict
from witnz.ending import end_threads
from witnz.errors import DatabaseUnreachable, Inconclusive, NodeUnreachable, ProofError, UsageError, WitnzError
from witnz.store import journal
from witnz.verify.bundle import verify_bundle
from witnz.verify.live import TableResult
from witnz.web.app import ENDPOINTS
from witnz.web.asked import MAX_BODY_BYTES
from witnz.web.client import NodeClient


@pytest.fixture
def filled(node: StandingNode) -> StandingNode:
    node.add_table(rows=300)
    node.seal()
    return node


def records(node: StandingNode) -> list[dict[str, Any]]:
    with node.db.read() as conn:
        return [json.loads(leaf) for leaf in journal.records(conn)]


def refused(answer: Answer, status: int, code: str, says: str = "") -> None:
    assert answer.status == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json["status"] == status and answer.json["code"] == code
    assert says in answer.json["detail"]


# -- reading ------------------------------------------------------------------------------------------------------------------


def test_health_follows_the_checks(filled: StandingNode, socket_path: Path) -> None:
    assert ask(socket_path, "GET", "/health").json["status"] == "ok"
    assert ask(socket_path, "GET", "/health/ready").json == {"status": "ready"}
    filled.capture.status.connected, filled.capture.status.error = False, "connection refused"
    answer = ask(socket_path, "GET", "/health")
    assert (answer.status, answer.json["status"]) == (503, "failing")
    answer = ask(socket_path, "GET", "/health/ready")
    assert (answer.status, answer.json["reason"]) == (503, "connection refused")
    filled.capture.fatal = DatabaseUnreachable("gone for good")
    assert ask(socket_path, "GET", "/health/ready").json["reason"] == "gone for good"
    assert ask(socket_path, "GET", "/health/live").status == 200


def test_the_client_gives_what_the_store_shows(filled: StandingNode, client: NodeClient) -> None:
    finding = filled.find()
    status = client.status()
    assert status["schema"] == "witnz.status/1" and status["node"]["state"] == "running"
    assert status["findings_open"] == 1
    assert [table["name"] for table in client.tables()] == [TABLE]
    assert client.table("accounts")["entries"] == 301
    assert client.finding(finding)["id"] == finding == client.findings(state="open", table=TABLE)[0]["id"]
    assert client.findings(table="public.other") == []
    assert [one["size"] for one in client.checkpoints()] == [3]
    assert client.checkpoint()["note"] == client.checkpoint(3)["note"]
    assert client.verifications() == [] == client.verifications(TABLE, 5)
    page = client.log_entries(TABLE, from_seq=300, limit=1)
    assert (page["entries"][0]["seq"], page["next_seq"]) == (300, 301)
    assert [entry["seq"] for entry in client.log_entries(TABLE, key="42")["entries"]] == [43]
    assert client.is_ready() and client.health()["status"] == "failing"


def test_names_of_any_kind_find_their_way_through_the_url(node: StandingNode, client: NodeClient, socket_path: Path) -> None:
    name = "app%2Eold.Gr%C3%B6%C3%9Fe%20%25%2F"
    node.add_table(name, rows=2)
    node.seal()
    assert client.table(name)["name"] == name
    assert client.log_entries(name)["size"] == 3
    assert client.tile_checkpoint(f"{CLUSTER}/{name}/1").splitlines()[:2] == [f"{CLUSTER}/{name}/1", "3"]
    assert len(client.tile(name, 0, 0, 3)) == 96
    refused(ask(socket_path, "GET", "/tables/a%20b"), 404, "not-found")
    refused(ask(socket_path, "GET", "/tables/a.b.c"), 400, "format")


def test_metrics_show_what_the_status_says(filled: StandingNode, client: NodeClient) -> None:
    filled.find()
    text = client.metrics()
    assert 'witnz_findings_open{table="public.accounts"} 1.0' in text
    assert 'witnz_check_status{check="findings",status="fail"} 1.0' in text
    assert 'witnz_check_status{check="findings",status="ok"} 0.0' in text
    assert "witnz_source_connected 1.0" in text and "witnz_slot_retained_bytes 4096.0" in text
    assert "witnz_checkpoint_size 3.0" in text
    size = float(next(line for line in text.splitlines() if line.startswith("witnz_store_bytes ")).split()[1])
    assert size > 50_000
    assert "witnz_source_last_event_timestamp_seconds" not in text.replace("# ", ""), "nothing was received yet"


def test_tiles_and_checkpoints_are_those_of_the_logs(filled: StandingNode, client: NodeClient, socket_path: Path) -> None:
    note = parse_note(client.tile_checkpoint(CLUSTER))
    origin, size, root = note.text.splitlines()
    assert (origin, int(size)) == (CLUSTER, 3)
    leaves = parse_entry_bundle(client.tile(CLUSTER, None, 0, 3))
    assert base64.b64encode(root_of([leaf_hash(leaf) for leaf in leaves])).decode() == root
    assert client.tile(CLUSTER, 0, 0, 3) == b"".join(leaf_hash(leaf) for leaf in leaves)
    seal = json.loads(leaves[2])["body"]["tables"][0]
    assert client.tile_checkpoint(TABLE) == f"{CLUSTER}/{TABLE}/1\n301\n{seal['root']}\n"
    for log in (TABLE, f"{TABLE}/1", f"{CLUSTER}/{TABLE}/1"):
        entries = parse_entry_bundle(client.tile(log, None, 0)) + parse_entry_bundle(client.tile(log, None, 1, 45))
        assert base64.b64encode(root_of([leaf_hash(entry) for entry in entries])).decode() == seal["root"]
    assert client.tile(TABLE, 1, 0, 1) == root_of([leaf_hash(entry) for entry in entries[:256]])
    assert client.tile(TABLE, 0, 1, 7) == client.tile(TABLE, 0, 1, 45)[: 7 * 32]
    unescaped = ask_bytes(socket_path, f"/tiles/{CLUSTER}/{TABLE}/1/tile/0/000")
    assert unescaped.endswith(client.tile(TABLE, 0, 0))
    assert b"cache-control: max-age=31536000, immutable" in unescaped
    assert ask(socket_path, "GET", f"/tiles/{TABLE}/checkpoint").headers["cache-control"] == "no-store"


def ask_bytes(path: Path, target: str) -> bytes:
    return speak(path, f"GET {target} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n".encode())


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("tile/0/002", 404),
        ("tile/0/001", 404),
        ("tile/0/001.p/46", 404),
        ("tile/1/000.p/2", 404),
        ("tile/2/000.p/1", 404),
        ("tile/entries/001.p/46", 404),
        ("tile/63/x999/x999/x999/x999/x999/999", 404),
        ("tile/0/1", 400),
        ("tile/00/000", 400),
        ("tile/64/000", 400),
        ("tile/0/x000/000", 400),
        ("tile/0/000.p/256", 400),
        ("tile/0/000.p/0", 400),
        ("tile/0/000.p/01", 400),
        ("tile/0/000/", 400),
        ("tile/0/-01", 400),
        ("tile/0/%2e%2e/000", 400),
        ("tile/0/%D9%A0%D9%A0%D9%A0", 400),
        ("tile/entries/000.p/255.p/1", 400),
    ],
)
def test_tiles_that_are_not_there_are_told_from_paths_that_are_none(shared: Shared, target: str, status: int) -> None:
    raw = speak(shared.path, f"GET /tiles/{TABLE}/{target} HTTP/1.1\r\nhost: n\r\nconnection: close\r\n\r\n".encode())
    refused(parse(raw), status, "not-found" if status == 404 else "usage")


def test_a_log_that_is_unknown_or_not_sealed_has_no_checkpoint(node: StandingNode, socket_path: Path) -> None:
    node.add_table(rows=3)
    refused(ask(socket_path, "GET", "/tiles/public.other/checkpoint"), 404, "not-found", "no log")
    refused(ask(socket_path, "GET", f"/tiles/{TABLE}/checkpoint"), 404, "not-found", "no seal")
    refused(ask(socket_path, "GET", f"/tiles/{CLUSTER}/checkpoint"), 404, "not-found", "no checkpoint")


# -- bundles ------------------------------------------------------------------------------------------------------------------


def policy_of(node: StandingNode) -> Any:
    return parse_policy(node.journal.state.periods.now.policy())


def test_bundles_verify_offline(filled: StandingNode, client: NodeClient) -> None:
    policy = policy_of(filled)
    assert verify_bundle(client.checkpoint_bundle(), policy).verdict is Verdict.VERIFIED
    assert client.checkpoint_bundle(3) == client.checkpoint_bundle()
    by_key = verify_bundle(client.row_bundle(TABLE, "42"), policy)
    assert by_key.verdict is Verdict.VERIFIED and by_key.rows[0].seq == 43 and not by_key.rows[0].line_shown
    assert verify_bundle(client.row_bundle(TABLE, seq=43), policy).rows[0].key == "42"
    shown = verify_bundle(client.row_bundle(TABLE, "42", seq=43, with_row=True), policy)
    assert shown.verdict is Verdict.VERIFIED and shown.rows[0].line_shown


@pytest.mark.parametrize(
    ("query", "status", "says"),
    [
        ("table=accounts", 400, "key of a row"),
        ("key=1", 400, "table"),
        ("table=accounts&seq=999", 404, "no entry 999"),
        ("table=accounts&seq=-1", 400, "whole number"),
        ("table=accounts&seq=99999999999999999999", 400, "whole number"),
        ("table=accounts&key=41&seq=43", 400, "is not of key"),
        ("table=public.nothing&key=1", 404, "never protected"),
        ("table=accounts&key=nobody", 400, "nothing is recorded"),
        ("table=accounts&key=1&with_row=yes", 400, "with_row"),
        ("table=accounts&key=1&key=2", 400, "once"),
        ("table=accounts&key=1&bogus=2", 400, "unknown name"),
    ],
)
def test_a_bundle_of_nothing_is_refused(shared: Shared, query: str, status: int, says: str) -> None:
    answer = ask(shared.path, "GET", f"/bundles/row?{query}")
    assert answer.status == status and says in answer.json["detail"]


def test_an_entry_under_no_checkpoint_is_inconclusive(filled: StandingNode, client: NodeClient) -> None:
    filled.add_rows(TABLE, [b"9000\tx"])
    with pytest.raises(Inconclusive, match="not under a checkpoint yet") as caught:
        client.row_bundle(TABLE, "9000")
    assert caught.value.exit_code == 4


# -- refusals -----------------------------------------------------------------------------------------------------------------


def test_unknown_paths_and_methods_are_problems_too(socket_path: Path) -> None:
    refused(ask(socket_path, "GET", "/nothing"), 404, "not-found", "/nothing")
    refused(ask(socket_path, "GET", "/status/"), 404, "not-found")
    answer = ask(socket_path, "DELETE", "/status")
    refused(answer, 405, "method")
    assert "GET" in answer.headers["allow"]
    refused(ask(socket_path, "GET", "/findings/F-000000000000"), 404, "not-found")
    refused(ask(socket_path, "GET", "/checkpoints/x"), 400, "usage")
    refused(ask(socket_path, "GET", "/checkpoints/7"), 404, "not-found")
    refused(ask(socket_path, "GET", "/findings?state=lost"), 400, "usage")
    refused(ask(socket_path, "GET", "/logs/public.x"), 404, "not-found", "never protected")


@pytest.mark.parametrize(
    ("body", "status", "code", "says"),
    [
        (b"{", 400, "format", "brackets"),
        (b"{reason}", 400, "format", "expected JSON"),
        (b"[]", 400, "format", "JSON object"),
        (b'"reason"', 400, "format", "JSON object"),
        (b'{"reason": 1}', 400, "usage", "reason"),
        (b'{"reason": ""}', 400, "usage", "reason"),
        (b'{"reason": "  "}', 400, "usage", "reason"),
        (b"{}", 400, "format", "'reason'"),
        (b"", 400, "format", "'reason'"),
        (b'{"reason": "x", "state": "approved"}', 400, "format", "'state'"),
        (b'{"reason": "x", "reason": "y"}', 400, "format", "duplicate"),
        (b'{"reason": "\\ud800"}', 400, "format", "U+D800"),
        (b'{"reason": "\\u0000"}', 400, "format", "U+0000"),
        (b'{"reason": "\xff"}', 400, "format", "UTF-8"),
        (b'{"reason": ' + b"[" * 5000 + b"]" * 5000 + b"}", 400, "format", "deep"),
        (b'{"reason": "' + b"x" * 4097 + b'"}', 400, "usage", "4096"),
        (b'{"reason": "' + b"x" * MAX_BODY_BYTES + b'"}', 413, "too-large", "1048576"),
    ],
)
def test_a_body_that_is_not_as_it_must_be_changes_nothing(
    shared: Shared, body: bytes, status: int, code: str, says: str
) -> None:
    size = shared.node.journal.size
    refused(ask(shared.path, "POST", f"/findings/{shared.finding}/ack", body), status, code, says)
    assert shared.node.journal.size == size


def test_a_body_without_a_length_is_bounded_all_the_same(shared: Shared) -> None:
    head = b"POST /findings/%b/ack HTTP/1.1\r\nhost: n\r\ntransfer-encoding: chunked\r\n\r\n" % shared.finding.encode()
    chunk = b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    answer = parse(speak(shared.path, head + chunk * 40 + b"0\r\n\r\n"))
    refused(answer, 413, "too-large")


def test_a_body_that_never_comes_holds_up_nobody(filled: StandingNode, socket_path: Path) -> None:
    finding = filled.find()
    head = f"POST /findings/{finding}/ack HTTP/1.1\r\nhost: n\r\ncontent-length: 10\r\n\r\n".encode()
    with socket.socket(socket.AF_UNIX) as slow:
        slow.connect(str(socket_path))
        slow.sendall(head + b"{")
        assert ask(socket_path, "GET", "/status").status == 200
    assert ask(socket_path, "GET", "/health/live").status == 200


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 100,
        b"GET /status\r\n\r\n",
        b"GET " + b"/" * 2_000_000 + b" HTTP/1.1\r\nhost: n\r\n\r\n",
        b"GET /status HTTP/1.1\r\n" + b"x: y\r\n" * 400_000 + b"\r\n",
        b"GET /status HTTP/1.1\r\nhost: n\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /protect HTTP/1.1\r\nhost: n\r\ncontent-length: -5\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused_and_forgotten(shared: Shared, data: bytes) -> None:
    assert speak(shared.path, data).startswith(b"HTTP/1.1 400")
    assert ask(shared.path, "GET", "/health/live").status == 200


def test_a_mistake_in_the_node_is_a_problem_without_its_insides(
    filled: StandingNode, socket_path: Path, client: NodeClient
) -> None:
    def broken(body: dict[str, Any]) -> Any:
        raise ZeroDivisionError("secret insides")

    filled.approve = broken  # type: ignore[method-assign]
    finding = filled.find()
    answer = ask(socket_path, "POST", f"/findings/{finding}/approve", json.dumps({"body": {"finding": finding}}).encode())
    refused(answer, 500, "unexpected", "log says more")
    assert "secret" not in answer.text and answer.json["exit_code"] == 1
    assert client.is_running()


def test_every_answer_says_that_it_must_not_be_kept(filled: StandingNode, socket_path: Path) -> None:
    for endpoint in ENDPOINTS:
        if endpoint.method == "GET" and "{" not in endpoint.path:
            answer = ask(socket_path, "GET", endpoint.path)
            assert answer.headers["cache-control"] == "no-store", endpoint.path
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert "server" not in answer.headers


# -- writing ------------------------------------------------------------------------------------------------------------------


def test_an_acknowledgement_is_journalled_with_who_asked(filled: StandingNode, client: NodeClient) -> None:
    finding = filled.find()
    answer = client.acknowledge(finding, "Zürich knows")
    assert answer["state"] == "acknowledged"
    operator, recorded, ack = records(filled)[-3:]
    assert [record["type"] for record in (operator, recorded, ack)] == ["operator", "finding", "ack"]
    assert operator["body"]["action"] == "findings.ack"
    detail = json.loads(operator["body"]["detail"])
    assert detail["finding"] == finding and "(uid " in detail["by"] and detail["via"] == "socket"
    assert ack["body"] == {"finding": finding, "reason": "Zürich knows"}


def test_an_approval_signed_elsewhere_closes_the_finding(filled: StandingNode, client: NodeClient) -> None:
    finding = filled.find()
    cluster, body = client.approval(finding, "it was planned")
    assert cluster == filled.cluster_id
    assert (body["finding"], body["table"], body["reason"]) == (finding, TABLE, "it was planned")
    answer = client.approve(finding, filled.sign(body))
    assert answer["state"] == "approved" and answer["closed"]
    types = [record["type"] for record in records(filled)]
    assert types[-1] == "accept" and "operator" in types
    with pytest.raises(UsageError, match="approved already") as caught:
        client.acknowledge(finding, "late")
    assert caught.value.code == "conflict"


def test_an_approval_with_a_strangers_key_or_changed_after_signing_is_refused(filled: StandingNode, client: NodeClient) -> None:
    finding = filled.find()
    _, body = client.approval(finding, "it was planned")
    with pytest.raises(ProofError, match="not by the operator key"):
        client.approve(finding, filled.sign(body, Ed25519Signer("operator/alice", bytes(32))))
    signed = filled.sign(body)
    with pytest.raises(ProofError):
        client.approve(finding, signed | {"reason": "something else"})
    with pytest.raises(UsageError, match="not about"):
        client.approve(filled.find(key="2", seq=3), signed)
    with pytest.raises(WitnzError):
        client.approve(finding, body)
    assert client.finding(finding)["state"] == "open"
    assert client.approve(finding, signed)["state"] == "approved"
    with pytest.raises(UsageError, match="already"):
        client.approve(finding, signed)


def test_a_table_is_protected_with_the_rules_given(filled: StandingNode, client: NodeClient, socket_path: Path) -> None:
    answer = client.protect("orders", "append_only", require_intent=True, retain="rows", keys="hidden", exclude_columns=["acl"])
    assert answer == {"schema": "witnz.protect/1", "table": "public.orders", "status": "queued"}
    ((name, rules, hidden, excluded),) = filled.protected
    assert (name, hidden, excluded) == ("public.orders", True, frozenset({"acl"}))
    assert (rules.mode, rules.on_change, rules.require_intent, rules.retain) == ("append_only", "alert", True, True)
    assert json.loads(records(filled)[-1]["body"]["detail"])["table"] == "public.orders"
    for body, says in (
        ({"table": "t", "mode": "loose"}, "mode"),
        ({"table": "t", "retain": True}, "retain"),
        ({"table": "t", "inserts_only": "yes"}, "inserts_only"),
        ({"table": "t", "exclude_columns": [1]}, "exclude_columns"),
        ({"table": "a.b.c"}, "table name"),
        ({"table": 5}, "table"),
        ({"mode": "append_only"}, "'table'"),
        ({"table": "t", "modus": "x"}, "'modus'"),
    ):
        refused(ask(socket_path, "POST", "/protect", json.dumps(body).encode()), 400, "format", says)
    assert len(filled.protected) == 1


def test_what_an_operator_signed_is_journalled_and_nothing_else(
    filled: StandingNode, client: NodeClient, socket_path: Path
) -> None:
    key = {"action": "add", "kind": "intent", "name": "deploy", "key": base64.b64encode(bytes(range(32))).decode()}
    signed = filled.sign(key | {"from_lsn": "0/0"}, record_type="key")
    assert client.decide("key", signed) == filled.journal.size
    operator, record = records(filled)[-2:]
    assert (record["type"], record["body"]) == ("key", signed)
    assert operator["body"]["action"] == "decide.key"
    detail = json.loads(operator["body"]["detail"])
    assert (detail["name"], detail["operator"]) == ("deploy", "alice") and detail["by"]
    with pytest.raises(ProofError, match="nonce"):
        client.decide("key", signed)
    with pytest.raises(ProofError, match="not by the operator key"):
        client.decide("unprotect", filled.sign({"table": TABLE, "reason": "x"}, record_type="key"))
    size = filled.journal.size
    for body, says in (
        ({"type": "seal", "body": {}}, "unprotect or key or config"),
        ({"type": "key", "body": []}, "object"),
        ({"type": "key"}, "'body'"),
    ):
        refused(ask(socket_path, "POST", "/decisions", json.dumps(body).encode()), 400, "format", says)
    assert filled.journal.size == size


@pytest.mark.parametrize(
    "applied",
    [
        [],
        {},
        {"intent": "{}", "xid": 5, "restored": [], "skipped": [], "notes": []},
        {"intent": "{}", "xid": "x", "restored": [], "skipped": [], "notes": []},
        {"intent": "{}", "xid": "5", "restored": [1], "skipped": [], "notes": []},
        {"intent": "{}", "xid": "5", "restored": [], "skipped": [], "notes": [], "more": 1},
    ],
)
def test_what_is_no_applied_repair_settles_nothing(shared: Shared, applied: Any) -> None:
    size = shared.node.journal.size
    body = json.dumps({"applied": applied, "sql_sha256": "0" * 64}).encode()
    refused(ask(shared.path, "POST", f"/findings/{shared.finding}/repair", body), 400, "format", "applied repair")
    assert shared.node.journal.size == size


# -- verification -------------------------------------------------------------------------------------------------------------


def test_a_verification_tells_how_far_it_is_and_then_its_result(filled: StandingNode, client: NodeClient) -> None:
    go_on = threading.Event()

    def scan(table: str, progress: Any) -> TableResult:
        progress(1000)
        time.sleep(0.25)
        progress(2000)
        assert go_on.wait(10)
        return filled.scanned(table, lambda rows: None)

    filled.scan = scan
    seen: list[int] = []

    def on_progress(rows: int) -> None:
        seen.append(rows)
        if rows == 2000:
            go_on.set()

    document = client.verify("accounts", on_progress)
    assert document["schema"] == "witnz.verify/1" and document["verdict"] == "VERIFIED"
    assert document["checks"] == [{"name": TABLE, "status": "ok", "detail": "3000 rows as of 0/1949950"}]
    (table,) = document["tables"]
    wanted = {"table", "snapshot_lsn", "rows", "expected_root", "found_root", "seconds"}
    assert wanted <= table.keys()
    assert seen == sorted(seen) and {0, 2000} <= set(seen)


def test_a_verification_that_fails_raises_the_nodes_own_error(filled: StandingNode, client: NodeClient) -> None:
    def scan(table: str, progress: Any) -> TableResult:
        raise UsageError(f"{table} is not protected", hint="`witnz status` lists the protected tables")

    filled.scan = scan
    with pytest.raises(UsageError, match="is not protected") as caught:
        client.verify("nothing")
    assert "witnz status" in caught.value.hint


def test_without_event_stream_a_verification_is_one_document(filled: StandingNode, socket_path: Path) -> None:
    answer = ask(socket_path, "POST", "/verify/accounts", b"{}")
    assert answer.headers["content-type"] == "application/json" and answer.json["verdict"] == "VERIFIED"
    refused(ask(socket_path, "POST", "/verify/accounts", b'{"sample": 5}'), 400, "format", "'sample'")
    refused(ask(socket_path, "GET", "/verify/accounts"), 405, "method")


def test_a_verification_whose_client_went_is_given_up(filled: StandingNode, socket_path: Path) -> None:
    ended = threading.Event()

    def endless(table: str, progress: Any) -> TableResult:
        try:
            while True:
                progress(1)
                time.sleep(0.01)
        finally:
            ended.set()

    filled.scan = endless
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(socket_path))
        caller.sendall(b"POST /verify/accounts HTTP/1.1\r\nhost: n\r\naccept: text/event-stream\r\ncontent-length: 0\r\n\r\n")
        assert b"text/event-stream" in caller.recv(4096)
        assert not ended.wait(0.1)
    assert ended.wait(10)


def test_hours_of_verification_leave_the_other_paths_free(filled: StandingNode, socket_path: Path) -> None:
    go_on = threading.Event()

    def slow(table: str, progress: Any) -> TableResult:
        assert go_on.wait(20)
        return filled.scanned(table, progress)

    filled.scan = slow
    with ThreadPoolExecutor(60) as pool:
        running = [pool.submit(ask, socket_path, "POST", "/verify/accounts", b"{}") for _ in range(50)]
        time.sleep(0.3)
        assert ask(socket_path, "GET", "/status").status == 200
        go_on.set()
        assert {answer.result().json["verdict"] for answer in running} == {"VERIFIED"}


def test_many_at_once_get_consistent_answers_while_the_store_is_written(filled: StandingNode, socket_path: Path) -> None:
    stop = threading.Event()

    def write() -> None:
        number = 1000
        while not stop.is_set():
            filled.add_rows(TABLE, [b"%d\tx" % number])
            filled.seal()
            number += 1

    writer = threading.Thread(target=write)
    writer.start()
    try:
        with ThreadPoolExecutor(16) as pool:
            targets = ["/status", "/tables/accounts", "/logs/accounts?from=295", "/checkpoints/latest", "/metrics"] * 12
            answers = list(pool.map(lambda target: (target, ask(socket_path, "GET", target)), targets))
    finally:
        stop.set()
        end_threads(writer)
    assert {answer.status for _, answer in answers} == {200}
    for target, answer in answers:
        if target.startswith("/logs"):
            page = answer.json
            assert page["entries"][-1]["seq"] == page["size"]
        elif target == "/tables/accounts":
            assert answer.json["entries"] == answer.json["live_rows"] + 1


# -- events -------------------------------------------------------------------------------------------------------------------


def test_events_reach_who_listens(filled: StandingNode, client: NodeClient, socket_path: Path) -> None:
    finding = filled.find()
    heard: list[tuple[str, dict[str, Any]]] = []
    listening = threading.Thread(target=lambda: heard.extend(client.events()))
    listening.start()
    while not filled.events._listeners:
        time.sleep(0.01)
    filled.events.publish("seal", {"hint": "line\u2028separator\u0085here", "size": 3})
    with NodeClient(socket_path) as other:
        other.acknowledge(finding, "seen")
        other.verify(TABLE)
    filled.events.close()
    listening.join(10)
    assert not listening.is_alive()
    assert [kind for kind, _ in heard] == ["seal", "finding", "verification"]
    assert heard[0][1]["hint"] == "line\u2028separator\u0085here"
    assert heard[1][1]["id"] == finding and heard[1][1]["state"] == "acknowledged"
    assert heard[2][1]["verdict"] == "VERIFIED"


def test_a_listener_that_left_is_forgotten(filled: StandingNode, socket_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(socket_path))
        caller.sendall(b"GET /events HTTP/1.1\r\nhost: n\r\n\r\n")
        while not filled.events._listeners:
            time.sleep(0.01)
    deadline = time.monotonic() + 10
    while filled.events._listeners and time.monotonic() < deadline:
        filled.events.publish("seal", {})
        time.sleep(0.02)
    assert filled.events._listeners == []


def test_too_many_listeners_are_told_so(filled: StandingNode, client: NodeClient) -> None:
    for _ in range(64):
        assert filled.events.subscribe(lambda: None) is not None
    with pytest.raises(WitnzError, match="too many listeners"):
        list(client.events())


# -- the client ---------------------------------------------------------------------------------------------------------------


def test_a_node_that_dies_in_the_middle_is_unreachable(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()

        def die() -> None:
            accepted, _ = listener.accept()
            accepted.recv(100)
            accepted.close()

        thread = threading.Thread(target=die)
        thread.start()
        with NodeClient(folder / "s") as client, pytest.raises(NodeUnreachable, match="broke"):
            client.status()
        end_threads(thread)


def test_an_answer_that_is_none_of_ours_is_not_believed(folder: Path) -> None:
    answers = [
        b"HTTP/1.1 502 Bad Gateway\r\ncontent-type: text/html\r\ncontent-length: 4\r\n\r\noops",
        b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\noops",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n[]",
        b"HTTP/1.1 400 Bad\r\ncontent-type: application/problem+json\r\ncontent-length: 2\r\n\r\n{}",
    ]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s"))
        listener.listen()

        def serve() -> None:
            for answer in answers:
                accepted, _ = listener.accept()
                accepted.recv(4096)
                accepted.sendall(answer)
                accepted.close()

        thread = threading.Thread(target=serve)
        thread.start()
        for expected in ("502: oops", "JSON object", "JSON object", "problem"):
            with NodeClient(folder / "s") as client, pytest.raises(WitnzError, match=expected):
                client.status()
        end_threads(thread)
