"""Attacks E05 to E12 of the threat model on three real processes, which the tests share, in this order.

Each process is `witnz start` as its root has changed it (tests/support/rogue.py): honest until a test tells it otherwise, and
ended by whatever unpickles.  Every attack has a table of its own; `untouched` stays as it is, and verified, to the end.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.node import wait
from tests.support.postgres import create_database, prepare_server
from tests.support.processes import Processes
from tests.support.rogue import PROGRAM, ask
from tests.support.strangers import PICKLE, client, hello, malformed, shout, talk
from witnz.core.keys import parse_private_key, parse_verifier_key
from witnz.core.note import parse_note, verify_note
from witnz.core.record import Record
from witnz.demo.server import PostgresServer
from witnz.node.view import load_journal_state
from witnz.store import checkpoints
from witnz.store.database import Database as Store
from witnz.store.datadir import DataDir, load_key_file

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAMES = ("decided", "omitted", "sealed", "lonely", "weakened", "untouched")
TABLES = [{"name": name, "mode": "append_only", "verify_interval": "0s"} for name in NAMES]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with ExitStack() as stack:
        server = stack.enter_context(PostgresServer(version=16))
        prepare_server(server)
        database = create_database(server)
        for name in NAMES:
            database.sql(f"CREATE TABLE {name} (id int PRIMARY KEY, owner text NOT NULL, amount int NOT NULL)")
            database.sql(f"INSERT INTO {name} SELECT g, 'user' || g, g * 10 FROM generate_series(1, 10) g")
        found = Processes.found(tmp_path_factory.mktemp("nodes"), database, TABLES)
        found.program = PROGRAM
        stack.callback(found.close)
        found.start()
        found.ready()
        yield found


@pytest.fixture(autouse=True)
def bystander(processes: Processes) -> Iterator[None]:
    """After each attack all go on sealing, and the table that nobody touched is as it was recorded."""
    yield
    processes.database.sql("INSERT INTO weakened SELECT max(id) + 1, 'going on', 1 FROM weakened")
    processes.sealed_anew()
    assert processes.verify("node1", "untouched")["verdict"] == "VERIFIED"
    for node in processes.running:
        assert not [f for f in processes.every_finding(node) if f.table == "public.untouched" and f.cls != "config.changed"]


def roles(processes: Processes) -> tuple[str, list[str]]:
    """The leader, and the others."""
    leader = processes.leader()
    return leader, [node for node in processes.configs if node != leader]


def misbehaved(processes: Processes, node: str, who: str, what: str) -> str:
    """What this node says that another has done."""
    return str(processes.wait_for(node, "node.misbehaved", key=f"{who} {what}")["detail"])


def records(processes: Processes, node: str, record_type: str) -> list[Record]:
    return [record for record in processes.records(node) if record.type == record_type]


def test_e07_strangers_get_nothing_read_and_who_breaks_the_protocol_loses_its_connection(processes: Processes) -> None:
    """With node1's own key, too; the members go on, in the same processes."""
    config = processes.configs["node2"]
    port = int((config.node.bind_addr or "").rpartition(":")[2])
    before = {node: process.pid for node, process in processes.running.items()}
    greeting = hello(config.cluster)
    for data in (b"GET / HTTP/1.1\r\n\r\n", greeting, PICKLE, os.urandom(4096)):
        assert len(shout(port, data)) <= 7, "at most one TLS alert"
    seed = parse_private_key(load_key_file(DataDir(processes.configs["node1"].data_dir).keys_dir / "identity.key")).seed
    stolen, own = Ed25519PrivateKey.from_private_bytes(seed), Ed25519PrivateKey.generate()
    for tls in (client(None), client(own), client(own, "node9"), client(stolen, "node3")):
        assert talk(port, tls, greeting + PICKLE) == b"", "turned away before anything is read"
    for what, data in malformed(config.cluster).items():
        answer = talk(port, client(stolen), data, wait_s=60)
        assert answer == b"" or answer.startswith(greeting), what
    assert {node: process.pid for node, process in processes.running.items() if process.poll() is None} == before
    assert not processes.known(), "nothing that was recorded is in doubt"


def test_e11_records_replayed_reordered_or_of_another_cluster_change_nothing(processes: Processes) -> None:
    leader, (liar, other) = roles(processes)
    assert ask(processes.configs[liar], "replay")["records"] > 1
    for node in (leader, other):
        assert "expected cluster" in misbehaved(processes, node, "a member", "operator")
    for node in processes.running:
        assert not [record for record in records(processes, node, "operator") if record.body["action"] == "replayed"]
        seen = [(record.node, record.n) for record in processes.records(node)]
        assert len(seen) == len(set(seen))


def test_e10_what_only_an_operator_may_decide_no_node_decides_the_leader_neither(processes: Processes) -> None:
    processes.database.sql("DELETE FROM decided WHERE id = 3")
    told = [processes.wait_for(node, "violation.delete", table="public.decided", key="3") for node in processes.running]
    (finding,) = {each["id"] for each in told}
    for node in processes.running:
        journalled = lambda node=node: [r for r in records(processes, node, "finding") if r.body["id"] == finding]  # noqa: E731
        wait(journalled, f"{node} to have the finding in its journal", 120)
    leader, followers = roles(processes)
    for liar in (leader, followers[0]):
        others = [node for node in processes.running if node != liar]
        ask(processes.configs[liar], "decide", table="public.decided", finding=finding, name=f"mallory of {liar}")
        for node in others:
            for what in ("accept", "erase", "key"):
                assert "its auth is not by the operator key" in misbehaved(processes, node, liar, what)
            assert misbehaved(processes, node, liar, "table")
            with Store.open(processes.configs[node].data_dir / "witnz.db", read_only=True) as db:
                state = load_journal_state(db)
            assert (state.finding_state(finding).status, list(state.keys_in_force("operator"))) == ("open", ["alice"])  # type: ignore[union-attr]
            assert state.tables()["public.decided"].rules.mode == "append_only"
            assert next(f.state for f in processes.every_finding(node) if f.id == finding) == "open"
    assert processes.verify(followers[1], "decided")["verdict"] == "TAMPERED"


def test_e12_a_table_that_the_leader_leaves_out_is_sealed_by_the_others(processes: Processes) -> None:
    leader, others = roles(processes)
    ask(processes.configs[leader], "leave_out", table="public.omitted")
    processes.database.sql("INSERT INTO omitted VALUES (11, 'user11', 110); INSERT INTO sealed VALUES (11, 'user11', 110)")

    def sealers() -> set[str]:
        sealed = [(r.node, h["table"], h["size"]) for r in records(processes, leader, "seal") for h in r.body["tables"]]
        return {node for node, table, size in sealed if (table, size) == ("public.omitted", 1 + 11)}

    assert leader not in wait(sealers, "the table to be sealed all the same", 120)
    for node in others:
        assert "leaves out public.omitted" in misbehaved(processes, node, leader, "seal")
    ask(processes.configs[leader], "leave_out", table=None)
    assert processes.verify(others[0], "omitted")["verdict"] == "VERIFIED"


def test_e05_a_false_seal_gets_no_votes_has_no_effect_and_names_the_leader(processes: Processes) -> None:
    leader, others = roles(processes)
    processes.database.sql("INSERT INTO sealed VALUES (12, 'user12', 120)")
    wait(lambda: all(len(processes.log(n, "public.sealed")) == 1 + 12 for n in processes.running), "the row on each node", 120)
    said: list[dict[str, Any]] = []

    def refused() -> bool:
        """A busy voter may say that it is not there yet; then it is asked again."""
        said.append(ask(processes.configs[leader], "false_seal", table="public.sealed"))
        return bool(said[-1]["refused"] == ["differs"])

    wait(refused, "both to see something else", 120)
    for node in others:
        assert leader in processes.wait_for(node, "node.diverged", table="public.sealed", key=leader)["detail"]
        assert misbehaved(processes, node, leader, "seal")
    roots = {h["root"] for n in processes.running for r in records(processes, n, "seal") for h in r.body["tables"]}
    assert not {each["root"] for each in said} & roots
    processes.settled({"public.sealed": 1 + 12})
    assert processes.verify(others[1], "sealed")["verdict"] == "VERIFIED"


def test_e06_two_heads_of_one_size_are_a_proof_that_everybody_gets(processes: Processes) -> None:
    leader, (victim, _) = roles(processes)
    with processes.store(victim) as conn:
        final = checkpoints.latest(conn, final=True)
    assert final is not None
    assert "refused" in ask(processes.configs[leader], "equivocate", victim=victim, size=final.size)
    for node in processes.running:
        told = processes.wait_for(node, "checkpoint.forked", key=str(final.size))
        assert leader in told["detail"] or node != victim
    (path,) = DataDir(processes.configs[victim].data_dir).evidence_dir.glob(f"fork-{final.size}-*.json")
    proof = json.loads(path.read_text())
    with Store.open(processes.configs[victim].data_dir / "witnz.db", read_only=True) as db:
        key = parse_verifier_key(load_journal_state(db).log_key)
    theirs, ours = parse_note(proof["theirs"]), parse_note(proof["ours"])
    assert verify_note(theirs, [key]) == verify_note(ours, [key]) == (key,)
    assert theirs.text.split("\n")[:2] == ours.text.split("\n")[:2] and theirs.text != ours.text


@contextmanager
def frozen(processes: Processes, nodes: list[str]) -> Iterator[None]:
    """These processes stand still: to the others they are cut off."""
    for node in nodes:
        processes.running[node].send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for node in nodes:
            processes.running[node].send_signal(signal.SIGCONT)


def test_e08_whoever_is_left_alone_detects_by_itself_and_catches_up(processes: Processes) -> None:
    alone, others = roles(processes)
    with frozen(processes, others):
        processes.database.sql("UPDATE lonely SET amount = 666 WHERE id = 4")
        finding = processes.wait_for(alone, "violation.update", table="public.lonely", key="4")
        processes.wait_for(alone, "quorum.lost")
        size = len(processes.records(alone))
        status = processes.status(alone)
        assert status is not None and {each["name"]: each["status"] for each in status["checks"]}["quorum"] == "fail"
    for node in others:
        assert processes.wait_for(node, "violation.update", table="public.lonely", key="4")["id"] == finding["id"]
    processes.settled({"public.lonely": 1 + 10 + 1})
    assert len(processes.records(alone)) > size
    for node in processes.running:
        assert finding["id"] in {record.body["id"] for record in records(processes, node, "finding")}
        assert len([f for f in processes.every_finding(node) if f.id == finding["id"]]) == 1


def test_e09_a_weaker_file_weakens_nothing_and_is_journalled(processes: Processes) -> None:
    _, (victim, _) = roles(processes)
    path = processes.directory / victim / "witnz.yaml"
    honest = path.read_text()
    document = yaml.safe_load(honest)
    document["protected_tables"] = [{"name": "weakened", "mode": "state_integrity", "on_change": "record"}]
    assert processes.end(victim) == 0
    path.write_text(yaml.safe_dump(document))
    processes.start(victim)
    processes.ready(victim)
    for node in processes.running:
        assert (
            "mode is looser" in processes.wait_for(node, "config.changed", table="public.weakened")["detail"] or node != victim
        )
        processes.wait_for(node, "config.changed", table="public.untouched")
    processes.database.sql("UPDATE weakened SET amount = 1 WHERE id = 2")
    for node in processes.running:
        processes.wait_for(node, "violation.update", table="public.weakened", key="2")
    path.write_text(honest)
    processes.assert_one_history(processes.configs, [(f"public.{name}", None) for name in NAMES], lambda finding: True)
