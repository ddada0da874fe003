"""P7: what three nodes cost the database, under pgbench with every one of its tables protected that it writes to.

CPU time is the kernel's own account (proc(5), utime and stime): of the walsenders, which live on, from their own lines; of the
backends of pgbench, which end with it, from what the postmaster has waited for (cutime and cstime).  Latency is pgbench's own,
of every single transaction, at half of what the server reached without witnz, once before the nodes and once after they were
stopped, with the nodes in between.

Nodes do not belong on the machine of the database; here they share its cores, and a transaction waits for them.  So the same
load runs once more while they get only what the server and pgbench leave over.

What of it is PostgreSQL's own price of three slots is measured in the same run: the nodes are followed by three programs
`pg_recvlogical` that read the same publications and throw away what they get.
"""

from __future__ import annotations

import os
import re
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.bench import Bench
from benchmarks.setting import OWNER, WATCHER, Setting
from benchmarks.three_nodes import Cluster
from tests.support.cluster import IDS
from witnz.ending import end_process
from witnz.postgres.publication import publication_names

TABLES = [
    {"name": "pgbench_accounts", "mode": "state_integrity", "on_change": "record"},
    {"name": "pgbench_history", "mode": "append_only", "inserts_only": True},
]
SECONDS = 12
CLIENTS = 4
_TPS = re.compile(r"^tps = ([0-9.]+)", re.MULTILINE)
_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


def cost(bench: Bench) -> dict[str, Any]:
    with bench.alone() as place:
        place.server.run("pgbench", "-i", "-q", "-s", "1", place.dsn(OWNER))
        place.sql(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {WATCHER}")
        full_tps, _ = _load(place, None)
        rate = full_tps / 2
        _, before_ms = _load(place, rate)
        with Cluster.running(place, TABLES, rows=0) as cluster:
            cpu = _cpu(place, cluster.caught_up)
            _, with_ms = _load(place, rate)
            cluster.caught_up()
            _yield_cores([process.pid for process in cluster.processes.running.values()])
            _, apart_ms = _load(place, rate)
            cluster.caught_up()
            for node in list(cluster.processes.running):
                cluster.processes.end(node)
            _drop_slots(place)
            with _bare_readers(place, publication_names(cluster.processes.configs["node1"].publication)) as caught_up:
                bare = _cpu(place, caught_up)
                _, bare_ms = _load(place, rate)
            _, after_ms = _load(place, rate)
    without_ms = statistics.mean([before_ms, after_ms])
    return {
        **cpu,
        "full_tps": round(full_tps),
        "half_tps": round(rate),
        "p95_ms": round(with_ms, 2),
        "p95_without_ms": [round(before_ms, 2), round(after_ms, 2)],
        "p95_ratio": round(with_ms / without_ms, 3),
        "p95_ratio_nodes_idle_class": round(apart_ms / without_ms, 3),
        "bare_readers_cpu_ratio": bare["cpu_ratio"],
        "bare_readers_p95_ratio": round(bare_ms / without_ms, 3),
    }


def _yield_cores(pids: Sequence[int]) -> None:
    """Let these processes have only what nobody else wants of the machine, as if they ran on others (sched(7), SCHED_IDLE)."""
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setscheduler(int(task.name), os.SCHED_IDLE, os.sched_param(0))


def _drop_slots(place: Setting) -> None:
    """Those of the nodes that have ended; else they would hold back WAL for the bare readers' run."""
    free = "SELECT count(*) FROM pg_replication_slots WHERE NOT active"
    Cluster.until(lambda: place.sql(free, user="postgres")[0][0] == len(IDS), "the nodes' slots to be free")
    place.sql("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots", user="postgres")


@contextmanager
def _bare_readers(place: Setting, publications: Sequence[str]) -> Iterator[Callable[[], None]]:
    """As many programs as there are nodes, each with a slot of its own; yields what waits until they have read everything."""
    slots = [f"bare{number}" for number in range(len(IDS))]
    running = []
    for slot in slots:
        place.sql(f"SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')", user=WATCHER)
        running.append(
            place.server.popen(
                "pg_recvlogical", "-d", place.dsn(), "--slot", slot, "--start", "--no-loop", "-f", "/dev/null",
                "-s", "1", "-F", "1", "-o", "proto_version=1", "-o", f"publication_names={','.join(publications)}",
            )
        )  # fmt: skip

    def caught_up() -> None:
        target = place.sql("SELECT pg_current_wal_insert_lsn()::text", user="postgres")[0][0]
        query = f"SELECT count(*) FROM pg_replication_slots WHERE active AND confirmed_flush_lsn >= '{target}'"
        Cluster.until(lambda: place.sql(query, user="postgres")[0][0] == len(slots), "the bare readers")

    try:
        caught_up()
        yield caught_up
    finally:
        for process in running:
            end_process(process)
        Cluster.until(
            lambda: not place.sql("SELECT 1 FROM pg_replication_slots WHERE active", user="postgres"),
            "the bare readers to be gone",
        )
        for slot in slots:
            place.sql(f"SELECT pg_drop_replication_slot('{slot}')", user=WATCHER)


def _load(place: Setting, rate: float | None) -> tuple[float, float]:
    """Transactions per second, and the 95th percentile of a transaction's latency in ms, of one run of pgbench."""
    with tempfile.TemporaryDirectory(prefix="witnz-pgbench-") as folder:
        Path(folder).chmod(0o777)  # the program may run as another account
        limited = [] if rate is None else ["-R", f"{rate:.0f}"]
        done = place.server.run(
            "pgbench", "-n", "-b", "simple-update", "-c", str(CLIENTS), "-j", "2", "-T", str(SECONDS), "-l",
            "--log-prefix", f"{folder}/log", *limited, place.dsn(OWNER),
        )  # fmt: skip
        taken = []
        for path in Path(folder).iterdir():
            for line in path.read_text().splitlines():
                fields = line.split()
                # client, number, latency in µs, script, epoch, µs; under -R also the lag behind the schedule, which it includes
                taken.append(int(fields[2]) - (int(fields[6]) if rate is not None else 0))
    found = _TPS.search(done.stdout)
    if found is None or not taken:
        raise ValueError(f"pgbench told no transactions per second: {done.stdout[-300:]}")
    taken.sort()
    return float(found[1]), taken[len(taken) * 95 // 100] / 1000


def _cpu(place: Setting, caught_up: Callable[[], None]) -> dict[str, Any]:
    """CPU time of the walsenders, of witnz's other sessions, and of pgbench's backends, over one run at full speed.

    ``caught_up`` waits until all readers have confirmed what is committed.
    """
    caught_up()
    postmaster = place.server.pid
    if postmaster is None:
        raise ValueError("the server does not run")
    before, reaped = _sessions(place), _times(postmaster)[1]
    _load(place, None)
    caught_up()
    after, backends_s = _sessions(place), _times(postmaster)[1] - reaped
    spent: dict[str, float] = {"walsender": 0.0, "client backend": 0.0}
    for pid, (kind, seconds) in after.items():
        spent[kind] += seconds - before.get(pid, (kind, 0.0))[1]
    if set(before) - set(after):
        raise ValueError("a session of witnz ended during the run; its CPU time is among the backends'")
    return {
        "backends_cpu_s": round(backends_s, 2),
        "walsenders_cpu_s": round(spent["walsender"], 2),
        "other_sessions_cpu_s": round(spent["client backend"], 2),
        "cpu_ratio": round(spent["walsender"] / backends_s, 3),
    }


def _sessions(place: Setting) -> dict[int, tuple[str, float]]:
    """Kind and CPU seconds of every session of witnz, by process id."""
    rows = place.sql(f"SELECT pid, backend_type FROM pg_stat_activity WHERE usename = '{WATCHER}'", user="postgres")
    found = {}
    for pid, kind in rows:
        try:
            found[int(str(pid))] = (str(kind), _times(int(str(pid)))[0])
        except OSError:
            continue  # it has just ended
    return found


def _times(pid: int) -> tuple[float, float]:
    """CPU seconds of a process, and of the children that it has waited for (proc(5), /proc/pid/stat fields 14 to 17)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    utime, stime, cutime, cstime = map(int, fields[11:15])
    return (utime + stime) * _TICK_S, (cutime + cstime) * _TICK_S
