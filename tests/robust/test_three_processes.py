"""Three real processes: nodes killed at random under write load, a killed leader, a rolling restart: one history."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.node import wait
from tests.support.postgres import create_database
from tests.support.processes import Processes, Writer
from witnz.demo.server import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROUNDS = 20
TABLES = [
    {"name": "events", "mode": "append_only", "verify_interval": "0s"},
    {"name": "prices", "mode": "state_integrity", "on_change": "record", "verify_interval": "0s"},
]


@pytest.fixture(scope="module")
def processes(pg_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    database = create_database(pg_server)
    with ExitStack() as stack:
        stack.callback(database.drop)
        database.sql("CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text)")
        database.sql("CREATE TABLE prices (id int PRIMARY KEY, cents int)")
        database.sql("INSERT INTO prices SELECT g, g FROM generate_series(1, 10) g")
        found = Processes.found(tmp_path_factory.mktemp("nodes"), database, TABLES)
        stack.callback(found.close)
        found.start()
        found.ready()
        yield found


def expected(processes: Processes) -> dict[str, int]:
    """Schema, baseline, and what the table itself says was committed."""
    (events,) = processes.database.sql("SELECT count(*) FROM events")[0]
    (changes,) = processes.database.sql("SELECT sum(cents) - 55 FROM prices")[0]
    return {"public.events": 1 + events, "public.prices": 1 + 10 + changes}


def test_nodes_killed_at_random_under_load_lose_and_double_nothing(processes: Processes) -> None:
    chance = random.Random(7)
    with Writer(processes) as writer:
        for _ in range(ROUNDS):
            victim = chance.choice(sorted(processes.running))
            processes.kill(victim)
            time.sleep(chance.uniform(0.0, 0.5))
            processes.start(victim)
            if chance.random() < 0.5:
                wait(lambda victim=victim: processes.status(victim), f"{victim} to answer")
        assert writer.inserted > ROUNDS
    processes.ready()
    processes.settled(expected(processes))
    # two of three may well have been down together for longer than that is worth no finding
    processes.assert_alike(expected(processes), allowed=frozenset({"quorum.lost"}))


def test_a_killed_leader_is_followed_by_another_and_a_rolling_restart_leaves_no_gap(processes: Processes) -> None:
    known = processes.known()  # the kills of the test before were worth a finding, maybe
    with Writer(processes):
        leader = processes.leader()
        processes.kill(leader)
        following = processes.leader()
        assert following != leader
        processes.start(leader)
        processes.ready(leader)
        for node in processes.configs:
            assert processes.end(node) == 0
            processes.start(node)
            processes.ready(node)
    processes.settled(expected(processes))
    # two of three were there all the time; where they got no time to say so, that is what the finding says
    processes.assert_alike(expected(processes), allowed=frozenset({"quorum.lost"}), known=known)
