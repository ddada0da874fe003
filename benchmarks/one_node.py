"""The figures, one function each; every function measures its limit beside it and returns plain numbers."""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psycopg

from benchmarks.setting import Setting, entries_of, wait_for_entries
from witnz.node.evidence import Evidence
from witnz.node.node import Node, now_us
from witnz.postgres.publication import publication_names
from witnz.postgres.session import Conninfo
from witnz.postgres.stream import ReplicationStream

Figure = dict[str, object]


def capture(setting: Setting, rows: int) -> tuple[Figure, Node]:
    """P1: rows/s from a backlog, decoded, hashed, chained and durable, against pg_recvlogical on a twin slot."""
    config = setting.initialise()
    node = Node(config)
    node.start(chores=False, schedule=False)
    node.wait_ready(60)
    node.stop()
    publication = ",".join(publication_names(config.publication))
    setting.sql("SELECT pg_create_logical_replication_slot('twin', 'pgoutput')", user="witnz")
    setting.insert(1, rows)
    end = str(setting.sql("SELECT pg_current_wal_lsn()::text")[0][0])
    started = time.monotonic()
    setting.server.run(
        "pg_recvlogical", "-d", setting.dsn(), "--slot", "twin", "--start", "--no-loop", "--endpos", end, "-f", "/dev/null",
        "-o", "proto_version=1", "-o", f"publication_names={publication}",
    )  # fmt: skip
    peer_s = time.monotonic() - started
    setting.sql("SELECT pg_drop_replication_slot('twin')", user="witnz")
    node = Node(config)
    started = time.monotonic()
    node.start(chores=False, schedule=False)
    wait_for_entries(node, rows + 1)
    mine_s = time.monotonic() - started
    figure = {"rows": rows, "rows_per_s": round(rows / mine_s), "peer_rows_per_s": round(rows / peer_s)}
    return figure | {"ratio": round(peer_s / mine_s, 3), "goal": 0.9, "required": 0.35}, node


def verify(setting: Setting, node: Node, rows: int) -> Figure:
    """P2: rows/s of a full verification, against psql's COPY to nowhere; the median of three pairs."""
    ratios, mine, peer = [], [], []
    for _ in range(3):
        started = time.monotonic()
        setting.server.run("psql", setting.dsn(), "-q", "-c", "COPY t TO STDOUT", "-o", "/dev/null")
        peer.append(time.monotonic() - started)
        started = time.monotonic()
        verified = node.verify_table("public.t")
        mine.append(time.monotonic() - started)
        if verified.verdict != "VERIFIED" or verified.result.rows != rows:
            raise AssertionError(f"expected {rows} rows VERIFIED, found {verified.to_json()}")
        ratios.append(peer[-1] / mine[-1])
    figure = {"rows": rows, "rows_per_s": round(rows / statistics.median(mine))}
    return figure | {
        "peer_rows_per_s": round(rows / statistics.median(peer)),
        "ratio": round(statistics.median(ratios), 3),
        "goal": 0.8,
        "required": 0.4,
    }


def size(node: Node) -> Figure:
    """P6: bytes of the store per entry, all tables of it."""
    node.db.checkpoint()
    count = entries_of(node)
    stored = node.data.database.stat().st_size
    return {"entries": count, "bytes_per_entry": round(stored / count, 1), "limit": 110}


def latency(setting: Setting, node: Node, samples: int = 300) -> Figure:
    """P3: commit to recorded finding, against a bare reader of a slot of its own that sees the same message."""
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
        "goal": "p50 <= 3x the bare reader, p99 <= 100 ms",
    }


def _latencies(
    application: psycopg.Connection[tuple[object, ...]], event: threading.Event, samples: int, first: int
) -> list[float]:
    taken = []
    for row in range(first, first + samples):
        event.clear()
        application.execute("UPDATE t SET action = 'changed' WHERE id = %s", [row])
        started = time.monotonic()
        if not event.wait(30):
            raise TimeoutError(f"the change of row {row} was not seen")
        taken.append(time.monotonic() - started)
        time.sleep(0.03)
    return taken


def _ms(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return round(1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 2)


def memory() -> Figure:
    """P5: the peak of this process, which captured and verified in it."""
    peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"peak_mib": round(peak_kib / 1024, 1), "limit_mib": 300}


def offline(node: Node, directory: Path, runs: int = 7) -> Figure:
    """P8: offline verification of a checkpoint bundle as a whole process, against the interpreter's own start."""
    from witnz.core.record import parse_record
    from witnz.node.evidence import policy_text
    from witnz.store import journal

    node.seal_now()
    bundle, policy = directory / "bundle.witnz.json", directory / "policy.txt"
    bundle.write_bytes(Evidence(node.db, now_us).checkpoint_bundle())
    with node.db.read() as conn:
        policy.write_text(policy_text(parse_record(journal.record_at(conn, 1)).body))
    command = [sys.executable, "-m", "witnz", "verify", "--checkpoint", str(bundle), "--policy", str(policy)]
    mine, bare = _median(lambda: _run(command), runs), _median(lambda: _run([sys.executable, "-c", "pass"]), runs)
    return {"seconds": round(mine, 3), "python_start_s": round(bare, 3), "limit_s": 0.4}


def _median(work: Callable[[], None], runs: int) -> float:
    taken = []
    for _ in range(runs):
        started = time.monotonic()
        work()
        taken.append(time.monotonic() - started)
    return statistics.median(taken)


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
