"""Attacks E02 and E04 to E12 of the threat model on three real processes, which the tests share, in any order.

Each process is `witnz start` as its root has changed it (tests/support/rogue.py): honest until a test tells it otherwise, and
ended by whatever unpickles.  What is written to `ledger` is honest, rows of `violated` and `edited` are attacked; `untouched`
stays as it is, and is verified after each.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.intruder import rewrite_baseline
from tests.support.node import wait
from tests.support.pages import heap_file, replace_value
from tests.support.processes import Processes
from tests.support.rogue import PROGRAM, ask
from tests.support.strangers import PICKLE, client, hello, malformed, shout, talk
from witnz.core.keys import parse_private_key, parse_verifier_key
from witnz.core.note import parse_note, verify_note
from witnz.core.record import Record
from witnz.node.cosigning import own_signature
from witnz.node.view import load_journal_state
from witnz.store import checkpoints
from witnz.store.database import Database as Store
from witnz.store.datadir import DataDir, load_key_file
from witnz.web.client import NodeClient

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAMES = ("ledger", "violated", "edited", "untouched")
LEDGER, VIOLATED = "public.ledger", "public.violated"


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    with Processes.of_accounts(tmp_path_factory.mktemp("nodes"), NAMES, program=PROGRAM) as found:
        yield found


@pytest.fixture(autouse=True)
def bystander(processes: Processes) -> Iterator[None]:
    """After each attack all go on sealing, and the table that nobody touched is as it was recorded."""
    yield
    processes.sealed_anew(write=lambda: another_row(processes))
    assert processes.verify("node1", "untouched")["verdict"] == "VERIFIED"
    for node in processes.running:
        assert not [f for f in processes.every_finding(node) if f.table == "public.untouched" and f.cls != "config.changed"]


def another_row(processes: Processes, table: str = "ledger") -> int:
    """Write one, and tell its id."""
    query = f"INSERT INTO {table} SELECT max(id) + 1, 'going on', 1 FROM {table} RETURNING id"
    ((row,),) = processes.database.sql(query)
    return int(row)


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
    before, known = {node: process.pid for node, process in processes.running.items()}, processes.known()
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
    assert processes.known() == known, "nothing that was recorded is in doubt"


def test_e11_records_replayed_reordered_or_of_another_cluster_change_nothing(processes: Processes) -> None:
    leader, (liar, other) = roles(processes)
    assert ask(processes.configs[liar], "replay")["records"] > 1
    for node in (leader, other):
        assert "expected cluster" in misbehaved(processes, node, "a member", "operator")
    for node in processes.running:
        assert not [record for record in records(processes, node, "operator") if record.body["action"] == "replayed"]
        seen = [(record.node, record.n) for record in processes.records(node)]
        assert len(seen) == len(set(seen))


def test_e12_a_table_that_the_leader_leaves_out_is_sealed_by_the_others(processes: Processes) -> None:
    leader, others = roles(processes)
    told = {node for node in others if any(f.key == f"{leader} seal" for f in processes.every_finding(node))}
    before = len(processes.log(leader, LEDGER))
    ask(processes.configs[leader], "leave_out", table=LEDGER)
    # In one transaction, hence in one seal: a leader that leaves out all there is to seal just seals nothing.
    both = "WITH other AS (INSERT INTO violated SELECT max(id) + 1, 'going on', 1 FROM violated) INSERT INTO ledger"
    processes.database.sql(f"{both} SELECT max(id) + 1, 'going on', 1 FROM ledger")

    def sealers() -> set[str]:
        sealed = [(r.node, h["table"], h["size"]) for r in records(processes, leader, "seal") for h in r.body["tables"]]
        return {node for node, table, size in sealed if table == LEDGER and size > before}

    assert leader not in wait(sealers, "the table to be sealed all the same", 120)
    for node in others:
        # one finding for all seals of a member, with the first of them: after E05 that may have been another
        assert f"leaves out {LEDGER}" in misbehaved(processes, node, leader, "seal") or node in told
    ask(processes.configs[leader], "leave_out", table=None)
    assert processes.verify(others[0], "ledger")["verdict"] == "VERIFIED"


def test_e05_a_false_seal_gets_no_votes_has_no_effect_and_names_the_leader(processes: Processes) -> None:
    leader, others = roles(processes)
    row = b"\t%d\t" % another_row(processes)
    recorded = lambda node: any(row in entry for entry in processes.log(node, LEDGER))  # noqa: E731
    wait(lambda: all(map(recorded, processes.running)), "the row on each node", 120)
    size = len(processes.log(leader, LEDGER))
    said: list[dict[str, Any]] = []

    def refused() -> bool:
        """A busy voter may say that it is not there yet; then it is asked again."""
        said.append(ask(processes.configs[leader], "false_seal", table=LEDGER))
        return bool(said[-1]["refused"] == ["differs"])

    wait(refused, "both to see something else", 120)
    for node in others:
        assert leader in processes.wait_for(node, "node.diverged", table=LEDGER, key=leader)["detail"]
        assert misbehaved(processes, node, leader, "seal")
    roots = {h["root"] for n in processes.running for r in records(processes, n, "seal") for h in r.body["tables"]}
    assert not {each["root"] for each in said} & roots
    processes.settled({LEDGER: size})
    assert processes.verify(others[1], "ledger")["verdict"] == "VERIFIED"


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


def test_e10_what_only_an_operator_may_decide_no_node_decides_the_leader_neither(processes: Processes) -> None:
    processes.database.sql("DELETE FROM violated WHERE id = 3")
    told = [processes.wait_for(node, "violation.delete", table=VIOLATED, key="3") for node in processes.running]
    (finding,) = {each["id"] for each in told}
    for node in processes.running:
        journalled = lambda node=node: [r for r in records(processes, node, "finding") if r.body["id"] == finding]  # noqa: E731
        wait(journalled, f"{node} to have the finding in its journal", 120)
    leader, followers = roles(processes)
    for liar in (leader, followers[0]):
        others = [node for node in processes.running if node != liar]
        ask(processes.configs[liar], "decide", table=VIOLATED, finding=finding, name=f"mallory of {liar}")
        for node in others:
            for what in ("accept", "erase", "key"):
                assert "its auth is not by the operator key" in misbehaved(processes, node, liar, what)
            assert misbehaved(processes, node, liar, "table")
            with Store.open(processes.configs[node].data_dir / "witnz.db", read_only=True) as db:
                state = load_journal_state(db)
            assert (state.finding_state(finding).status, list(state.keys_in_force("operator"))) == ("open", ["alice"])  # type: ignore[union-attr]
            assert state.tables()[VIOLATED].rules.mode == "append_only"
            assert next(f.state for f in processes.every_finding(node) if f.id == finding) == "open"
    assert processes.verify(followers[1], "violated")["verdict"] == "TAMPERED"


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
        processes.database.sql("UPDATE violated SET amount = 666 WHERE id = 4")
        finding = processes.wait_for(alone, "violation.update", table=VIOLATED, key="4")
        entries = len(processes.log(alone, VIOLATED))
        processes.wait_for(alone, "quorum.lost")
        size = len(processes.records(alone))
        status = processes.status(alone)
        assert status is not None and {each["name"]: each["status"] for each in status["checks"]}["quorum"] == "fail"
    for node in others:
        assert processes.wait_for(node, "violation.update", table=VIOLATED, key="4")["id"] == finding["id"]
    processes.settled({VIOLATED: entries})
    assert len(processes.records(alone)) > size
    for node in processes.running:
        assert finding["id"] in {record.body["id"] for record in records(processes, node, "finding")}
        assert len([f for f in processes.every_finding(node) if f.id == finding["id"]]) == 1


def older(data: Path) -> Path:
    return data.with_name("older")


def keep_a_copy(data: Path) -> None:
    """What the directory of a node that does not run is now, for E04 to put back."""
    shutil.rmtree(older(data), ignore_errors=True)
    shutil.copytree(data, older(data), ignore=shutil.ignore_patterns("*.sock"))


@pytest.fixture
def copied(processes: Processes) -> str:
    """A node of which there is an older copy: the one that E09 made, or else one that is made now."""
    for node, config in processes.configs.items():
        if older(config.data_dir).exists():
            return node
    _, (node, _) = roles(processes)
    assert processes.end(node) == 0
    keep_a_copy(processes.configs[node].data_dir)
    processes.start(node)
    processes.ready(node)
    return node


def test_e09_a_weaker_file_weakens_nothing_and_is_journalled(processes: Processes) -> None:
    _, (victim, _) = roles(processes)
    path = processes.directory / victim / "witnz.yaml"
    honest, data = path.read_text(), processes.configs[victim].data_dir
    document = yaml.safe_load(honest)
    document["protected_tables"] = [{"name": "violated", "mode": "state_integrity", "on_change": "record"}]
    assert processes.end(victim) == 0
    keep_a_copy(data)  # for E04, as the node stands still
    path.write_text(yaml.safe_dump(document))
    processes.start(victim)
    processes.ready(victim)
    for node in processes.running:
        assert "mode is looser" in processes.wait_for(node, "config.changed", table=VIOLATED)["detail"] or node != victim
        processes.wait_for(node, "config.changed", table="public.untouched")
    processes.database.sql("UPDATE violated SET amount = 1 WHERE id = 2")
    for node in processes.running:
        processes.wait_for(node, "violation.update", table=VIOLATED, key="2")
    path.write_text(honest)


def cosigned_by(processes: Processes, node: str, signer: str) -> list[int]:
    """0, and the sizes of the last final checkpoints of this node that carry the cosignature of ``signer``."""
    with Store.open(processes.configs[node].data_dir / "witnz.db", read_only=True) as db:
        state = load_journal_state(db)
        with db.read() as conn:
            kept = checkpoints.list_checkpoints(conn, limit=20, final=True)
    return [0, *(each.size for each in kept if own_signature(state, signer, each.note))]


def check_of(processes: Processes, node: str, name: str) -> str:
    """The message of a check that warns, as long as it does."""
    status = processes.status(node)
    told = {} if status is None else {each["name"]: each["message"] for each in status["checks"] if each["status"] == "warn"}
    return str(told.get(name, ""))


def test_e04_a_directory_put_back_to_an_older_copy_cosigns_nothing_below_what_it_had_cosigned(
    processes: Processes, copied: str
) -> None:
    victim, data = copied, processes.configs[copied].data_dir
    with Store.open(older(data) / "witnz.db", read_only=True) as db, db.read() as conn:
        once = checkpoints.load_cosigned(conn)
    assert once is not None

    def cosigned_since() -> bool:
        """Two of three are a quorum: whether the victim has cosigned one of those that were made since the copy."""
        processes.sealed_anew(write=lambda: another_row(processes))
        return (
            max(size for node in processes.running if node != victim for size in cosigned_by(processes, node, victim))
            > once.size
        )

    wait(cosigned_since, "the others to keep a later checkpoint with its cosignature", 240)
    with processes.store(victim) as conn:
        before = checkpoints.load_cosigned(conn)
    assert before is not None
    assert processes.end(victim) == 0
    shutil.rmtree(data)
    older(data).rename(data)
    processes.start(victim)
    processes.ready(victim)
    assert "size" in processes.wait_for(victim, "node.rolled-back", key=victim)["detail"]
    for node in processes.running:
        wait(lambda node=node: f"{victim} lost its part" in check_of(processes, node, "quorum"), f"{node} to tell that", 240)  # type: ignore[misc]
    another_row(processes)

    def cosigned() -> int:
        with processes.store(victim) as conn:
            found = checkpoints.load_cosigned(conn)
        return 0 if found is None else found.size

    wait(lambda: cosigned() > before.size, "it to cosign again, once it has what it had cosigned", 240)


def test_e02_a_page_and_one_store_edited_alike_are_outvoted_by_the_others(processes: Processes) -> None:
    _, (victim, other) = roles(processes)
    server, path = processes.database.server, heap_file(processes.database, "edited")
    assert processes.end(victim) == 0
    server.stop()
    replace_value(path, b"user7", b"thief")
    server.start()
    rewrite_baseline(processes.configs[victim].data_dir / "witnz.db", "public.edited", b"7\tuser7\t70", b"7\tthief\t70")
    processes.start(victim)
    processes.ready(victim)
    before = len(processes.log(other, "public.edited"))
    another_row(processes, "edited")
    told = {node: processes.wait_for(node, "node.diverged", table="public.edited", key=victim) for node in processes.running}
    assert "entry 8" in told[other]["detail"], "the first entry that differs is named"
    assert processes.verify(other, "edited")["verdict"] == "TAMPERED"
    for node in processes.running:
        processes.wait_for(node, "row.modified", table="public.edited", key="7")
    assert processes.verify(victim, "edited")["verdict"] != "VERIFIED", "it equals the edited store, and yet it is not green"

    with NodeClient(processes.configs[victim].socket_path) as asked:
        restored: dict[str, Any] = asked.restore_store(told[victim]["id"])
    assert restored["evidence"], "what was there is kept"
    processes.ready(victim)
    processes.settled({"public.edited": before + 1})
    expected = {"node.misbehaved", "node.diverged", "checkpoint.forked", "config.changed", "node.rolled-back", "quorum.lost"}
    expected |= {"coverage.gap", "slot.lost"}  # the older copy knows less than its slot has sent
    expected |= {"violation.delete", "violation.update", "row.modified", "node.store-tampered", "source.unreachable"}
    processes.assert_alike([f"public.{name}" for name in NAMES], allowed=frozenset(expected))
