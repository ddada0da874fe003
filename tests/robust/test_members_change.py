"""Three real processes: the log key is rotated, and a member is replaced by a new one, while the others go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import yaml

from tests.support.cli import Cli
from tests.support.node import wait
from tests.support.postgres import create_database
from tests.support.processes import Processes
from tests.support.tls_peers import free_port
from witnz.config import load_config
from witnz.core.note import parse_note
from witnz.core.policy import evaluate, parse_policy
from witnz.demo.server import PostgresServer
from witnz.node.view import load_journal_state
from witnz.store import checkpoints
from witnz.store.database import Database

TABLES = [{"name": "events", "mode": "append_only", "verify_interval": "0s"}]


@pytest.fixture
def processes(pg_server: PostgresServer, tmp_path: Path) -> Iterator[Processes]:
    database = create_database(pg_server)
    with ExitStack() as stack:
        stack.callback(database.drop)
        database.sql("CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text)")
        database.sql("INSERT INTO events (what) SELECT 'before' FROM generate_series(1, 600)")
        found = Processes.found(tmp_path, database, TABLES)
        stack.callback(found.close)
        found.start()
        found.ready()
        yield found


def write(processes: Processes, count: int) -> int:
    processes.database.sql(f"INSERT INTO events (what) SELECT 'more' FROM generate_series(1, {count})")
    return 1 + int(processes.database.sql("SELECT count(*) FROM events")[0][0])


def log_keys(processes: Processes) -> set[str]:
    return {(processes.configs[node].data_dir / "keys/log.key").read_text() for node in processes.running}


def test_the_log_key_is_rotated_and_a_member_replaced_while_the_others_go_on(processes: Processes) -> None:
    processes.settled({"public.events": write(processes, 1)})
    operator = str(processes.configs["node1"].data_dir / "operator-alice.key")
    first = Cli(processes.directory / "node1")

    # The log key: every member signs with the new one, and what was signed before counts under the policy of now.
    (before,) = log_keys(processes)
    old = first.json("checkpoint", "show")["note"]
    first.run("keys", "rotate", "log", "--operator-key", operator, "--yes").expect(0)
    wait(lambda: len(log_keys(processes)) == 1 and log_keys(processes) != {before}, "the new log key on every member")
    processes.settled({"public.events": write(processes, 1)})
    with Database.open(processes.configs["node2"].data_dir / "witnz.db", read_only=True) as db:
        policy = parse_policy(load_journal_state(db).periods.now.policy())
        with db.read() as conn:
            newest = checkpoints.latest(conn, final=True)
    assert newest is not None
    assert evaluate(policy, parse_note(old)).accepted
    assert evaluate(policy, parse_note(newest.note)).accepted

    # A member is replaced: node3 goes for good, node4 comes with an empty directory.
    processes.end("node3")
    first.run("cluster", "remove", "node3", "--operator-key", operator, "--yes").expect(0)
    processes.configs.pop("node3")
    processes.settled({"public.events": write(processes, 1)})
    folder = processes.directory / "node4"
    folder.mkdir()
    document = yaml.safe_load((processes.directory / "node1/witnz.yaml").read_text())
    address = f"127.0.0.1:{free_port()}"
    document["node"] = {"id": "node4", "data_dir": str(folder / "data"), "bind_addr": address}
    document["nodes"] = [entry for entry in document["nodes"] if entry["id"] != "node3"] + [{"id": "node4", "addr": address}]
    path = folder / "witnz.yaml"
    path.write_text(yaml.safe_dump(document))
    member = Cli(folder).json("init")["member"]
    document["nodes"][-1] = member
    path.write_text(yaml.safe_dump(document))
    assert Cli(folder).json("init")["complete"] is True
    words = ["node4", member["addr"], member["key"], "--cosigner", member["cosigner"], "--operator-key", operator]
    added = first.json("cluster", "add", *words)
    document["genesis"] = added["genesis"]
    path.write_text(yaml.safe_dump(document))
    processes.configs["node4"] = load_config(path, {})
    processes.start("node4")
    processes.ready("node4")
    processes.settled({"public.events": write(processes, 1)})
    processes.assert_alike(["public.events"])
