"""Real processes: one node becomes three, keys of every kind are rotated, and who lost its directory, or got an older copy,
is replaced.

All of it as docs/operations.md says, by the program's own commands, while the application writes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.cli import Cli
from tests.support.cluster import IDS
from tests.support.node import wait
from tests.support.postgres import create_database
from tests.support.processes import START_S, Processes
from tests.support.tls_peers import free_port
from tests.support.writer import Writer
from witnz.config import load_config
from witnz.demo.server import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TABLES = [
    {"name": "events", "mode": "append_only", "verify_interval": "0s"},
    {"name": "prices", "mode": "state_integrity", "on_change": "record", "verify_interval": "0s"},
]


class Growing:
    """A cluster whose operator goes by the book."""

    def __init__(self, processes: Processes) -> None:
        self.processes, self.directory = processes, processes.directory
        self.first = Cli(self.directory / "node1")
        self.operator = self.directory / "operator-alice.key"
        shutil.move(processes.configs["node1"].data_dir / "operator-alice.key", self.operator)

    def edit(self, node: str, change: Callable[[dict[str, Any]], object]) -> None:
        path = self.directory / node / "witnz.yaml"
        document = yaml.safe_load(path.read_text())
        change(document)
        path.write_text(yaml.safe_dump(document))
        self.processes.configs[node] = load_config(path, {})

    def members(self) -> list[dict[str, Any]]:
        return list(yaml.safe_load((self.directory / "node1/witnz.yaml").read_text())["nodes"])

    def signed(self, *words: str | Path) -> dict[str, Any]:
        """A decision, made on node1."""
        return self.first.json(*words, "--operator-key", self.operator, "--yes")

    def begin(self, newcomers: list[str], *, leaving: str | None = None) -> None:
        """Files, keys and slots of new members; they are started, and wait to be let in."""
        addresses = {node: f"127.0.0.1:{free_port()}" for node in newcomers}
        staying = [member for member in self.members() if member["id"] != leaving]
        common = yaml.safe_load((self.directory / "node1/witnz.yaml").read_text())
        common["genesis"] = self.first.json("keys", "show")["genesis"]
        common["nodes"] = [*staying, *({"id": node, "addr": addr} for node, addr in addresses.items())]
        lines = []
        for node in newcomers:
            folder = self.directory / node
            folder.mkdir()
            own = {"id": node, "data_dir": str(folder / "data"), "bind_addr": addresses[node]}
            (folder / "witnz.yaml").write_text(yaml.safe_dump({**common, "node": own}))
            lines.append(Cli(folder).json("init")["member"])
        for node in [*(member["id"] for member in staying), *newcomers]:
            self.edit(node, lambda document: document.update(nodes=[*staying, *lines]))
        for node in newcomers:
            assert Cli(self.directory / node).json("init")["complete"] is True
        self.processes.start(*newcomers)

    def verified(self, bundle: str, policy: str) -> int:
        return self.first.run("verify", "--checkpoint", bundle, "--policy", policy).code

    def export(self, name: str) -> None:
        self.first.run("checkpoint", "export", "-o", f"{name}.json").expect(0)
        self.first.run("keys", "policy", "-o", f"{name}.policy").expect(0)


@contextmanager
def beginning_with(ids: Sequence[str], server: PostgresServer, directory: Path) -> Iterator[Growing]:
    database = create_database(server)
    with ExitStack() as stack:
        stack.callback(database.drop)
        database.sql("CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text)")
        database.sql("INSERT INTO events (what) SELECT 'before' FROM generate_series(1, 600)")
        database.sql("CREATE TABLE prices (id int PRIMARY KEY, cents int)")
        database.sql("INSERT INTO prices SELECT g, g FROM generate_series(1, 10) g")
        processes = Processes.found(directory, database, TABLES, ids)
        stack.callback(processes.close)
        processes.start()
        processes.ready()
        yield Growing(processes)


@pytest.fixture
def growing(pg_server: PostgresServer, tmp_path: Path) -> Iterator[Growing]:
    with beginning_with(["node1"], pg_server, tmp_path) as growing:
        yield growing


def expected(processes: Processes) -> dict[str, int]:
    """Schema, baseline, and what the tables themselves say was committed."""
    (events,) = processes.database.sql("SELECT count(*) FROM events")[0]
    (changes,) = processes.database.sql("SELECT sum(cents) - 55 FROM prices")[0]
    return {"public.events": 1 + events, "public.prices": 1 + 10 + changes}


def test_members_and_keys_change_under_load_without_a_gap_or_a_false_finding(growing: Growing) -> None:
    processes = growing.processes
    with Writer(processes.database):
        one_becomes_three(growing)
        keys_of_every_kind_are_rotated(growing)
        a_lost_member_is_replaced(growing)
    processes.settled(expected(processes))
    # one that becomes two, and a member that restarts with its new identity, are waited for; that may take a busy machine long
    processes.assert_alike(expected(processes), allowed=frozenset({"quorum.lost"}))
    assert growing.first.json("verify", "--all")["verdict"] == "VERIFIED"
    growing.export("last")
    for bundle in ("first", "rotated", "last"):
        assert growing.verified(f"{bundle}.json", f"{bundle}.policy") == 0, bundle
    members = growing.first.json("cluster", "status")["members"]
    assert sorted(member["id"] for member in members) == ["node1", "node3", "node4"]
    assert Cli(growing.directory / "node4").json("verify", "--store")["verdict"] == "VERIFIED"


def one_becomes_three(growing: Growing) -> None:
    processes = growing.processes
    growing.begin(["node2", "node3"])
    growing.signed("cluster", "add", "node2")
    assert processes.end("node1") == 0  # it was alone, and orders with others from now on
    processes.start("node1")
    processes.ready("node1", "node2")
    growing.signed("cluster", "add", "node3")
    processes.ready()
    processes.sealed_anew()


def keys_of_every_kind_are_rotated(growing: Growing) -> None:
    """A bundle of before holds under the policy of before and of after; every member signs with the new log key."""
    processes = growing.processes
    growing.export("first")
    before = log_keys(processes)
    assert len(before) == 1
    growing.signed("keys", "rotate", "log")
    wait(lambda: len(log_keys(processes)) == 1 and log_keys(processes) != before, "the new log key on every member", START_S)
    second = Cli(growing.directory / "node2")
    second.run("keys", "rotate", "cosigner", "--operator-key", growing.operator, "--yes").expect(0)
    processes.sealed_anew()
    second.run("keys", "rotate", "identity", "--operator-key", growing.operator, "--yes").expect(0)
    assert processes.end("node2") == 0
    processes.start("node2")
    processes.ready()
    rotated = growing.signed("keys", "rotate", "operator", "alice", "-o", growing.directory / "operator-alice-2.key")
    growing.operator = Path(rotated["file"])
    processes.sealed_anew()
    growing.export("rotated")
    assert growing.verified("first.json", "rotated.policy") == 0
    assert growing.verified("rotated.json", "first.policy") == 3


def a_lost_member_is_replaced(growing: Growing) -> None:
    processes = growing.processes
    processes.kill("node2")
    shutil.rmtree(growing.directory / "node2")
    del processes.configs["node2"]
    growing.begin(["node4"], leaving="node2")
    growing.signed("cluster", "remove", "node2")
    growing.signed("cluster", "add", "node4")
    processes.ready()
    processes.sealed_anew()


def log_keys(processes: Processes) -> set[str]:
    return {(processes.configs[node].data_dir / "keys/log.key").read_text() for node in processes.running}


def test_a_member_that_got_an_older_copy_is_replaced_while_it_still_runs(pg_server: PostgresServer, tmp_path: Path) -> None:
    """It has no voice any more, which every member's status says, and no part in the decision."""
    with beginning_with(IDS, pg_server, tmp_path) as growing:
        processes = growing.processes
        data = processes.configs["node2"].data_dir
        assert processes.end("node2") == 0
        shutil.copytree(data, data.with_name("older"), ignore=shutil.ignore_patterns("*.sock"))
        processes.start("node2")
        processes.ready()
        processes.sealed_anew(write=lambda: processes.database.sql("INSERT INTO events (what) VALUES ('later')"))
        assert processes.end("node2") == 0
        shutil.rmtree(data)
        data.with_name("older").rename(data)
        processes.start("node2")
        wait(lambda: all("node2 lost its part" in quorum_of(processes, node) for node in IDS), "all to tell it", START_S)
        growing.begin(["node4"], leaving="node2")
        growing.signed("cluster", "remove", "node2")
        growing.signed("cluster", "add", "node4")
        processes.kill("node2")
        del processes.configs["node2"]
        processes.ready()
        processes.sealed_anew(write=lambda: processes.database.sql("INSERT INTO events (what) VALUES ('replaced')"))
        processes.settled(expected(processes))
        assert {quorum_of(processes, node) for node in processes.running} == {""}
        assert growing.first.json("verify", "--all")["verdict"] == "VERIFIED"


def quorum_of(processes: Processes, node: str) -> str:
    """What the status of a node warns of; empty where it does not."""
    status = processes.status(node)
    told = [] if status is None else [each for each in status["checks"] if each["name"] == "quorum"]
    return "".join(str(each["message"]) for each in told if each["status"] == "warn")
