"""Three real processes under load, killed, stopped and started again: nothing acknowledged is lost, and all agree.

``WITNZ_TORTURE_ROUNDS`` sets how often (CI: a few); the last line of the output says what was done.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from tests.support.engine_process import engine_processes
from tests.support.machine import until

ROUNDS = int(os.environ.get("WITNZ_TORTURE_ROUNDS", "5"))
SEED = int(os.environ.get("WITNZ_TORTURE_SEED", "1"))


def test_kills_under_load_lose_nothing_and_nobody_differs(tmp_path: Path) -> None:
    rnd = random.Random(SEED)
    with engine_processes(tmp_path, compact_bytes=300_000) as cluster:
        for node in cluster.nodes:
            cluster.ask(node, "load 2000 2")
        for round_ in range(ROUNDS):
            time.sleep(rnd.uniform(0.3, 0.8))
            victim = cluster.leader() if rnd.random() < 0.6 else rnd.choice(cluster.nodes)
            if rnd.random() < 0.3:
                cluster.running[victim].send_signal(signal.SIGSTOP)
                time.sleep(rnd.uniform(0.2, 2.5))
                cluster.running[victim].send_signal(signal.SIGCONT)
                continue
            before = len(cluster.acked())
            cluster.kill(victim)
            until(lambda before=before: len(cluster.acked()) > before + 5)  # type: ignore[misc]
            cluster.start(victim)
            cluster.ask(victim, "load 2000 2")
            assert round_ < ROUNDS
        for node in cluster.nodes:
            cluster.ask(node, "rest")

        def alike() -> bool:
            found = [cluster.ask(node, "stat") for node in cluster.nodes]
            return len({(each["count"], each["digest"]) for each in found}) == 1 and not any(each["error"] for each in found)

        until(alike, 120)
        time.sleep(0.5)
        until(alike, 120)
        applied = [cluster.applied(node) for node in cluster.nodes]
    assert applied[0] == applied[1] == applied[2]
    indexes = [int(line.split()[0]) for line in applied[0]]
    assert indexes == sorted(set(indexes))
    times = Counter(line.split()[2] for line in applied[0])
    lost = cluster.acked() - times.keys()
    assert not lost, f"{len(lost)} of {len(cluster.acked())} acknowledged commands are gone"
    assert len(cluster.acked()) > 20 * ROUNDS
    print(f"{ROUNDS} rounds, {len(times)} commands applied, {len(cluster.acked())} acknowledged, none lost")


def test_a_cluster_runs_where_unpickling_ends_the_process(tmp_path: Path) -> None:
    """Elections, replication, a kill, compaction and a restore, without one call of an unpickler."""
    mined = """
import os, pickle
def mine(*args, **kwargs):
    os.write(2, b"something was unpickled")
    os._exit(99)
pickle.load = pickle.loads = pickle._load = pickle._loads = pickle.Unpickler = pickle._Unpickler = mine
"""
    from tests.support.engine_process import EngineProcesses

    cluster = EngineProcesses(tmp_path, compact_bytes=60_000)
    cluster.start(prelude=mined)
    try:
        leader = cluster.leader()
        away = next(node for node in cluster.nodes if node != leader)
        cluster.ask(leader, "burst 20 1000 2")
        cluster.kill(away)
        cluster.ask(leader, "burst 300 1000 4")
        cluster.start(away, prelude=mined)
        until(lambda: cluster.ask(away, "stat")["count"] == 320)
        assert {cluster.ask(node, "stat")["digest"] for node in cluster.nodes} == {cluster.ask(leader, "stat")["digest"]}
    finally:
        cluster.stop()
    for path in tmp_path.rglob("raft.log"):
        data = path.read_bytes()
        assert data.startswith(b"witnz-raft/1\n")
        assert b"\x80\x02}" not in data
        assert b"\x80\x04\x95" not in data
