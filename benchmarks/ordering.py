"""The built-in ordering engine, three processes on this machine: how long without a leader, how fast with one."""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path

from tests.support.engine_process import EngineProcesses, engine_processes

KILLS = 20
SIZES = (100, 10_000, 100_000)


def ordering(kills: int = KILLS) -> dict[str, object]:
    """From kill -9 of the leader until a survivor's command is agreed and applied; latency and throughput by size."""
    with tempfile.TemporaryDirectory(prefix="witnz-ordering-") as directory, engine_processes(Path(directory)) as cluster:
        speed = [_speed(cluster, size) for size in SIZES]
        gaps_s = sorted(_failover(cluster) for _ in range(kills))
    return {
        "kills": kills,
        "new_leader_p50_s": round(statistics.median(gaps_s), 3),
        "new_leader_max_s": round(gaps_s[-1], 3),
        "speed": speed,
    }


def _failover(cluster: EngineProcesses) -> float:
    leader = cluster.leader()
    survivor = next(node for node in cluster.nodes if node != leader)
    cluster.ask(survivor, "time 1 100")
    started = time.perf_counter()
    cluster.kill(leader)
    cluster.ask(survivor, "time 1 100")
    gap_s = time.perf_counter() - started
    cluster.start(leader)
    cluster.ask(leader, "time 1 100")
    return gap_s


def _speed(cluster: EngineProcesses, size: int) -> dict[str, object]:
    leader = cluster.leader()
    follower = next(node for node in cluster.nodes if node != leader)
    single = sorted(cluster.ask(leader, f"time 200 {size}"))
    remote = sorted(cluster.ask(follower, f"time 200 {size}"))
    count = 2000 if size <= 1000 else 400
    return {
        "bytes": size,
        "leader_p50_ms": round(single[len(single) // 2], 2),
        "leader_p99_ms": round(single[len(single) * 99 // 100], 2),
        "follower_p50_ms": round(remote[len(remote) // 2], 2),
        "follower_p99_ms": round(remote[len(remote) * 99 // 100], 2),
        "commands_per_s": round(cluster.ask(leader, f"burst {count} {size} 20")),
    }
