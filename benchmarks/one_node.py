"""The figures of one node, one function each; every function measures its peer beside it and returns plain numbers."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import psycopg

from benchmarks.bench import Bench
from benchmarks.setting import Setting, entries_of, wait_for_entries
from witnz.core.hashing import IMPLEMENTATION
from witnz.node.evidence import Evidence
from witnz.node.node import Node, now_us
from witnz.postgres.publication import publication_names
from witnz.postgres.session import Conninfo
from witnz.postgres.stream import ReplicationStream

Figure = dict[str, Any]


def filled(setting: Setting, rows: int, stack: ExitStack) -> tuple[Node, Figure]:
    """A node that has captured a backlog of so many rows, stopped with ``stack``; and P1, measured on the way."""
    config = setting.initialise()
    node = Node(config)
    node.start(chores=False, schedule=False)
    node.wait_ready(60)
    node.stop()
    publication = ",".join(publication_names(config.publication))
    setting.sql("SELECT pg_create_logical_replication_slot('twin', 'pgoutput')", user="witnz")
    setting.insert(1, rows)
    end = str(setting.sql("SELECT pg_current_wal_lsn()::text")[0][0])

    def peer() -> float:
        started = time.monotonic()
        setting.server.run(
            "pg_recvlogical", "-d", setting.dsn(), "--slot", "twin", "--start", "--no-loop", "--endpos", end, "-f", "/dev/null",
            "-o", "proto_version=1", "-o", f"publication_names={publication}",
        )  # fmt: skip
        return time.monotonic() - started

    peer_s = peer()
    setting.sql("SELECT pg_drop_replication_slot('twin')", user="witnz")
    node = Node(config)
    cpu, started = time.process_time(), time.monotonic()
    node.start(chores=False, schedule=False)
    stack.callback(node.stop)
    wait_for_entries(node, rows + 1)
    mine_s = time.monotonic() - started
    figure: Figure = {
        "rows": rows,
        "rows_per_s": round(rows / mine_s),
        "peer_rows_per_s": round(rows / peer_s),
        "ratio": round(peer_s / mine_s, 3),
        "cpu_us_per_row": round((time.process_time() - cpu) / rows * 1e6, 2),
        "implementation": IMPLEMENTATION,
    }
    return node, figure


def capture(bench: Bench) -> Figure:
    """P1: rows/s from a backlog, decoded, hashed, chained and durable, against pg_recvlogical on a twin slot."""
    return bench.filled()[2]


def verify(bench: Bench) -> Figure:
    """P2: rows/s of a full verification, against psql's COPY to nowhere; the median of three pairs."""
    setting, node, _ = bench.filled()
    rows = bench.rows
    ratios, mine, peer, cpu = [], [], [], []
    for _ in range(3):
        started = time.monotonic()
        setting.server.run("psql", setting.dsn(), "-q", "-c", "COPY t TO STDOUT", "-o", "/dev/null")
        peer.append(time.monotonic() - started)
        started, before = time.monotonic(), _cpu_s()
        verified = node.verify_table("public.t")
        mine.append(time.monotonic() - started)
        cpu.append(_cpu_s() - before)
        if verified.verdict != "VERIFIED" or verified.result.rows != rows:
            raise AssertionError(f"expected {rows} rows VERIFIED, found {verified.to_json()}")
        ratios.append(peer[-1] / mine[-1])
    figure = {"rows": rows, "rows_per_s": round(rows / statistics.median(mine))}
    return figure | {
        "peer_rows_per_s": round(rows / statistics.median(peer)),
        "ratio": round(statistics.median(ratios), 3),
        "cpu_us_per_row": round(statistics.median(cpu) / rows * 1e6, 2),
        "implementation": IMPLEMENTATION,
    }


def _cpu_s() -> float:
    """Seconds of CPU that this process and those that it started and that have ended have taken."""
    taken = os.times()
    return taken.user + taken.system + taken.children_user + taken.children_system


def size(bench: Bench) -> Figure:
    """P6: bytes of the store per entry, all tables of it."""
    node = bench.filled()[1]
    node.db.checkpoint()
    count = entries_of(node)
    stored = node.data.database.stat().st_size
    return {"entries": count, "bytes_per_entry": round(stored / count, 1)}


def latency(bench: Bench, samples: int = 200) -> Figure:
    """P3 of one node in this process: commit to recorded finding, against a bare reader of a slot of its own that sees it."""
    setting, node, _ = bench.filled()
    samples = min(samples, bench.rows // 2)
    publications = publication_names(node.config.publication)
    setting.sql("SELECT pg_create_logical_replication_slot('bare', 'pgoutput')", user="witnz")
    seen = threading.Event()
    stop = threading.Event()

    def read() -> None:
        with ReplicationStream(Conninfo.from_conninfo(setting.dsn()), "bare", publications, start_lsn=0) as stream:
            while not stop.is_set():
                batch = stream.read(1000, 0.05)
                if any(payload[:1] == b"U" for payload in batch.payloads):
                    seen.set()

    reader = threading.Thread(target=read)
    found = threading.Event()
    recorded = node.capture._hooks.recorded  # the figure is taken where the commit became durable

    def hook(outcome: object) -> None:
        recorded(outcome)  # type: ignore[arg-type]
        if getattr(outcome, "findings", None):
            found.set()

    node.capture._hooks.recorded = hook
    with psycopg.connect(setting.dsn("app_owner"), autocommit=True) as application:
        mine = _latencies(application, found, samples, 1)
        reader.start()
        time.sleep(0.5)
        bare = _latencies(application, seen, samples, 1 + samples)
        stop.set()
        reader.join()
    node.capture._hooks.recorded = recorded
    setting.sql("SELECT pg_drop_replication_slot('bare')", user="witnz")
    return {
        "samples": samples,
        "p50_ms": _ms(mine, 50),
        "p99_ms": _ms(mine, 99),
        "bare_reader_p50_ms": _ms(bare, 50),
        "p50_ratio": round(statistics.median(mine) / statistics.median(bare), 2),
    }


def _latencies(
    application: psycopg.Connection[tuple[object, ...]], event: threading.Event, samples: int, first: int
) -> list[float]:
    taken = []
    for row in range(first, first + samples):
        event.clear()
        started = time.monotonic()  # before it is sent: the reader may have it before the commit returns
        application.execute("UPDATE t SET action = 'changed' WHERE id = %s", [row])
        if not event.wait(30):
            raise TimeoutError(f"the change of row {row} was not seen")
        taken.append(time.monotonic() - started)
        time.sleep(0.03)
    return taken


def _ms(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return round(1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 2)


def offline(bench: Bench, runs: int = 7) -> Figure:
    """P8: offline verification of a checkpoint bundle as a whole process, against the interpreter's own start.

    With the modules compiled, as an installation has them, also where the environment forbids to write bytecode; once
    without, as the first run after an installation by hand.
    """
    from witnz.node.view import load_journal_state

    place, node, _ = bench.filled()
    directory = place.directory
    node.seal_now()
    bundle, policy = directory / "bundle.witnz.json", directory / "policy.txt"
    bundle.write_bytes(Evidence(node.db, now_us).checkpoint_bundle())
    policy.write_text(load_journal_state(node.db).periods.now.policy())
    command = [sys.executable, "-m", "witnz", "verify", "--checkpoint", str(bundle), "--policy", str(policy)]
    compiled = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    compiled["PYTHONPYCACHEPREFIX"] = str(directory / "bytecode")
    first = _median(lambda: _run(command, compiled), 1)
    used = _children_cpu_s()
    mine = _median(lambda: _run(command, compiled), runs)
    used = (_children_cpu_s() - used) / runs
    bare = _median(lambda: _run([sys.executable, "-c", "pass"], compiled), runs)
    return {
        "seconds": round(mine, 3),
        "cpu_s": round(used, 3),
        "python_start_s": round(bare, 3),
        "first_run_s": round(first, 3),
    }


def _children_cpu_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


def _median(work: Callable[[], None], runs: int) -> float:
    taken = []
    for _ in range(runs):
        started = time.monotonic()
        work()
        taken.append(time.monotonic() - started)
    return statistics.median(taken)


def _run(command: list[str], environment: dict[str, str]) -> None:
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
