"""Three real processes: nodes killed at random under write load, a killed leader, a rolling restart: one history."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.support.node import wait
from tests.support.postgres import create_database
from tests.support.processes import Processes
from tests.support.writer import WRITTEN, Writer, make_written, written
from witnz.demo.server import PostgresServer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

ROUNDS = 20


@pytest.fixture(scope="module")
def processes(pg_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    database = create_database(pg_server)
    with ExitStack() as stack:
        stack.callback(database.drop)
        make_written(database)
        found = Processes.found(tmp_path_factory.mktemp("nodes"), database, WRITTEN)
        stack.callback(found.close)
        found.start()
        found.ready()
        yield found


def test_nodes_killed_at_random_under_load_lose_and_double_nothing(processes: Processes) -> None:
    chance = random.Random(7)
    with Writer(processes.database) as writer:
        for _ in range(ROUNDS):
            victim = chance.choice(sorted(processes.running))
            processes.kill(victim)
            time.sleep(chance.uniform(0.0, 0.5))
            processes.start(victim)
            if chance.random() < 0.5:
                wait(lambda victim=victim: processes.status(victim), f"{victim} to answer")
        assert writer.inserted > ROUNDS
    processes.ready()
    processes.settled(written(processes.database))
    # two of three may well have been down together for longer than that is worth no finding
    processes.assert_alike(written(processes.database), allowed=frozenset({"quorum.lost"}))


def test_a_killed_leader_is_followed_by_another_and_a_rolling_restart_leaves_no_gap(processes: Processes) -> None:
    known = processes.known()  # the kills of the test before were worth a finding, maybe
    with Writer(processes.database):
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
    processes.settled(written(processes.database))
    # two of three were there all the time; where they got no time to say so, that is what the finding says
    processes.assert_alike(written(processes.database), allowed=frozenset({"quorum.lost"}), known=known)
