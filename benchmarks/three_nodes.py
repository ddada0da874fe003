"""The figures of three real node processes beside one server: `witnz start` three times, real TLS, real Raft.

They are looked at from outside only: by polling their stores, which other processes may read while they write.
"""

from __future__ import annotations

import sqlite3
import statistics
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from benchmarks.bench import Bench
from benchmarks.setting import DATABASE, OWNER, WATCHER, Setting
from tests.support.cluster import IDS
from tests.support.postgres import Database
from tests.support.processes import Processes
from witnz.core.record import parse_record
from witnz.postgres.publication import publication_names
from witnz.postgres.session import Conninfo
from witnz.postgres.stream import ReplicationStream

Figure = dict[str, Any]

FIRST_ROWS = 2_000
SAMPLES = 50  # in a block; nodes and bare reader take turns
BLOCKS = 3
REST_S = 40.0
STEADY_S = 45.0
COMMIT_EVERY_S = 0.7  # no divisor of the seal interval, so commits fall on all its phases
DAY_S = 86_400
LIMIT_S = 240.0


@dataclass
class Steady:
    """What a while of a commit now and then showed: when they were made, and when final checkpoints came, by node."""

    seconds: float = 0.0
    first_entry: int = 0
    commits: list[float] = field(default_factory=list)
    finals: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    grown: dict[str, float] = field(default_factory=dict)


@dataclass
class Cluster:
    """Three running nodes that guard ``public.t``, with a connection to each of their stores."""

    place: Setting
    processes: Processes
    stores: dict[str, sqlite3.Connection] = field(default_factory=dict)
    _steady: Steady | None = None

    @classmethod
    @contextmanager
    def running(cls, place: Setting, tables: Sequence[dict[str, Any]] = (), *, rows: int = FIRST_ROWS) -> Iterator[Cluster]:
        """Everything at its default intervals; the table has its first rows when this begins."""
        if rows:
            place.insert(1, rows)
        database = Database(place.server, DATABASE)
        wanted = tables or [{"name": "t", "mode": "append_only"}]
        processes = Processes.found(place.directory, database, wanted, seal_interval="5s")
        cluster = cls(place, processes)
        try:
            processes.start()
            processes.ready()
            for node in IDS:
                uri = f"file:{processes.configs[node].data_dir / 'witnz.db'}?mode=ro"
                cluster.stores[node] = sqlite3.connect(uri, uri=True, isolation_level=None)
            yield cluster
        finally:
            for store in cluster.stores.values():
                store.close()
            processes.close()

    def ask(self, node: str, query: str, *parameters: object) -> Any:
        """The first column of the only row of a query to a node's store."""
        return self.stores[node].execute(query, parameters).fetchone()[0]

    def size(self, node: str, table: str = "public.t") -> int:
        return int(self.ask(node, "SELECT coalesce(max(size), 0) FROM logs WHERE table_name = ?", table))

    def caught_up(self, limit_s: float = LIMIT_S) -> None:
        """Every slot has confirmed what is committed now."""
        target = self.place.sql("SELECT pg_current_wal_insert_lsn()::text", user="postgres")[0][0]
        query = f"SELECT count(*) FROM pg_replication_slots WHERE database = '{DATABASE}' AND confirmed_flush_lsn >= '{target}'"
        self.until(lambda: self.place.sql(query, user="postgres")[0][0] == len(IDS), "all slots to be confirmed", limit_s)

    @staticmethod
    def until(look: Callable[[], bool], what: str, limit_s: float = LIMIT_S, *, every_s: float = 0.05) -> None:
        deadline = time.monotonic() + limit_s
        while not look():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {limit_s:g} s for {what}")
            time.sleep(every_s)

    # -- a while of steady, small work ----------------------------------------------------------------------------------------

    def steady(self) -> Steady:
        """Taken once, used by P4 and the journal's growth."""
        if self._steady is None:
            self._steady = self._observe()
        return self._steady

    def _observe(self) -> Steady:
        found = Steady(finals={node: [] for node in IDS})
        self.caught_up()
        found.first_entry = self.size("node1") + 1
        before = self.journal_bytes("node1")
        number = 10_000_000
        started = time.monotonic()
        with psycopg.connect(self.place.dsn(OWNER), autocommit=True) as application:
            due = started
            while time.monotonic() - started < STEADY_S:
                if time.monotonic() >= due:
                    number, due = number + 1, due + COMMIT_EVERY_S
                    application.execute("INSERT INTO t (id, actor) VALUES (%s, 'steady')", [number])
                    found.commits.append(time.monotonic())
                self._note_finals(found)
                time.sleep(0.005)
        found.seconds = time.monotonic() - started
        after = self.journal_bytes("node1")
        found.grown = {name: after[name] - before[name] for name in after}
        last = found.first_entry + len(found.commits) - 1

        def covered() -> bool:
            self._note_finals(found)
            sealed = self._sealed(last)
            return sealed is not None and all(finals and finals[-1][1] >= sealed for finals in found.finals.values())

        self.until(covered, "the last commit to be under a final checkpoint", every_s=0.005)
        return found

    def _note_finals(self, found: Steady) -> None:
        for node, finals in found.finals.items():
            size = self.ask(node, "SELECT coalesce(max(size), 0) FROM checkpoints WHERE final") or 0
            if not finals or finals[-1][1] < size:
                finals.append((time.monotonic(), size))

    def _sealed(self, entry: int) -> int | None:
        """The seq of the seal that first covers an entry of the table."""
        return next((seq for seq, size in self.seals() if size >= entry), None)

    def seals(self, table: str = "public.t") -> list[tuple[int, int]]:
        """(seq, sealed size of the table) of every seal that names it."""
        found = []
        for (leaf,) in self.stores["node1"].execute("SELECT leaf FROM journal ORDER BY seq"):
            record = parse_record(leaf)
            if record.type == "seal":
                found += [(record.seq or 0, head["size"]) for head in record.body["tables"] if head["table"] == table]
        return found

    def journal_bytes(self, node: str) -> dict[str, float]:
        """What the journal is: records with their chain hashes, checkpoints, and the pages of the whole store."""
        pages = self.ask(node, "PRAGMA page_count") * self.ask(node, "PRAGMA page_size")
        records = self.ask(node, "SELECT sum(length(leaf) + length(chain)) FROM journal")
        notes = self.ask(node, "SELECT coalesce(sum(length(note)), 0) FROM checkpoints")
        count = self.ask(node, "SELECT count(*) FROM journal")
        return {"records": count, "record_bytes": records, "checkpoint_bytes": notes, "store_bytes": pages}


def resident_kib(pid: int) -> int:
    """Resident memory of a process and of those that it has started."""
    with suppress(OSError):  # it has just ended
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) + sum(map(resident_kib, children(pid)))
    return 0


def children(pid: int) -> list[int]:
    found = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def rest(bench: Bench) -> Figure:
    """Resident memory of each node process that has nothing to do, at the end of a while."""
    cluster = bench.cluster()
    cluster.caught_up()
    pids = [process.pid for process in cluster.processes.running.values()]
    cluster.until(lambda: not any(map(children, pids)), "the processes that audit the stores to end")
    time.sleep(10)
    taken = [round(resident_kib(process.pid) / 1024, 1) for process in cluster.processes.running.values()]
    return {"resident_mib": taken, "resident_mib_max": max(taken)}


def finding(bench: Bench) -> Figure:
    """P3: from when a forbidden change is sent until all three have it as a durable finding, against a bare reader."""
    cluster = bench.cluster()
    publications = publication_names(cluster.processes.configs["node1"].publication)
    cluster.place.sql("SELECT pg_create_logical_replication_slot('bare', 'pgoutput')", user=WATCHER)
    seen, stop = threading.Event(), threading.Event()

    def read() -> None:
        conninfo = Conninfo.from_conninfo(cluster.place.dsn())
        with ReplicationStream(conninfo, "bare", publications, start_lsn=0) as stream:
            while not stop.is_set():
                if any(payload[:1] == b"U" for payload in stream.read(1000, 0.05).payloads):
                    seen.set()

    reader = threading.Thread(target=read)
    reader.start()
    first: list[float] = []
    last: list[float] = []
    bare: list[float] = []
    row = 0
    try:
        with psycopg.connect(cluster.place.dsn(OWNER), autocommit=True) as application:
            for block in range(2 * BLOCKS):
                for _ in range(SAMPLES):
                    row += 1
                    seen.clear()
                    before = {node: _violations(cluster, node) for node in IDS}
                    started = time.monotonic()  # before it is sent: the reader may have it before the commit returns
                    application.execute("UPDATE t SET action = 'changed' WHERE id = %s", [row])
                    if block % 2:
                        if not seen.wait(30):
                            raise TimeoutError(f"the bare reader did not see the change of row {row}")
                        bare.append(time.monotonic() - started)
                    times = _recorded(cluster, before, started, polling=0.0005 if block % 2 == 0 else 0.005)
                    if block % 2 == 0:
                        first.append(min(times))
                        last.append(max(times))
                    time.sleep(0.02)
    finally:
        stop.set()
        reader.join()
        cluster.place.sql("SELECT pg_drop_replication_slot('bare')", user=WATCHER)
    return {
        "samples": len(last),
        "p50_ms": percentile_ms(last, 50),
        "p99_ms": percentile_ms(last, 99),
        "first_node_p50_ms": percentile_ms(first, 50),
        "bare_reader_p50_ms": percentile_ms(bare, 50),
        "p50_ratio": round(statistics.median(last) / statistics.median(bare), 2),
    }


def _violations(cluster: Cluster, node: str) -> int:
    return int(cluster.ask(node, "SELECT count(*) FROM findings WHERE class = 'violation.update'"))


def _recorded(cluster: Cluster, before: dict[str, int], started: float, *, polling: float) -> list[float]:
    """Seconds until each node had one more finding than before."""
    left, times, looked = dict(before), [], dict.fromkeys(before, -1)
    while left:
        for node in list(left):
            version = int(cluster.ask(node, "PRAGMA data_version"))  # some microseconds: who looks must not take the nodes' CPU
            if version == looked[node]:
                continue
            looked[node] = version
            if _violations(cluster, node) > left[node]:
                times.append(time.monotonic() - started)
                del left[node]
        if time.monotonic() - started > 60:
            raise TimeoutError(f"no finding on {', '.join(left)} within 60 s")
        if left:
            time.sleep(polling)
    return times


def percentile_ms(values: Sequence[float], percent: int) -> float:
    ordered = sorted(values)
    return round(1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 2)


def checkpoint(bench: Bench) -> Figure:
    """P4: from a commit until a final (cosigned by the quorum) checkpoint that covers it is in all three stores."""
    cluster = bench.cluster()
    found = cluster.steady()
    seals = cluster.seals()
    seqs, sizes = [seq for seq, _ in seals], [size for _, size in seals]
    taken = []
    for number, committed in enumerate(found.commits):
        sealed = seqs[bisect_left(sizes, found.first_entry + number)]
        taken.append(max(next(at for at, size in finals if size >= sealed) for finals in found.finals.values()) - committed)
    interval_s = cluster.processes.configs["node1"].seal_interval_s
    return {
        "commits": len(taken),
        "interval_s": interval_s,
        "p50_s": round(statistics.median(taken), 2),
        "max_s": round(max(taken), 2),
    }


def journal_growth(bench: Bench) -> Figure:
    """Bytes a day, scaled from a while at rest and a while in which every seal had something to seal."""
    cluster = bench.cluster()
    busy = cluster.steady()
    cluster.caught_up()
    time.sleep(cluster.processes.configs["node1"].seal_interval_s + 2)
    before, started = cluster.journal_bytes("node1"), time.monotonic()
    time.sleep(REST_S)
    after, rest_s = cluster.journal_bytes("node1"), time.monotonic() - started
    verify = [
        len(leaf)
        for (leaf,) in cluster.stores["node1"].execute("SELECT leaf FROM journal")
        if parse_record(leaf).type == "verify"
    ]

    def mib_a_day(grown: dict[str, float], seconds: float, *names: str) -> float:
        return round(sum(grown[name] for name in names) / seconds * DAY_S / 2**20, 1)

    idle = {name: after[name] - before[name] for name in after}
    every_s = cluster.processes.configs["node1"].protected_tables[0].verify_interval_s
    return {
        "observed_s": round(busy.seconds),
        "records_per_day": round(busy.grown["records"] / busy.seconds * DAY_S),
        "records_mib_per_day": mib_a_day(busy.grown, busy.seconds, "record_bytes"),
        "checkpoints_mib_per_day": mib_a_day(busy.grown, busy.seconds, "checkpoint_bytes"),
        "store_mib_per_day": mib_a_day(busy.grown, busy.seconds, "store_bytes"),
        "verifications_mib_per_day": round(statistics.median(verify) * DAY_S / every_s / 2**20, 2)
        if verify and every_s
        else None,
        "at_rest_observed_s": round(rest_s),
        "at_rest_store_mib_per_day": mib_a_day(idle, rest_s, "store_bytes"),
    }


def rates(bench: Bench) -> Figure:
    """Rows/s from a backlog: one node alone while the two others are down, then all three at once with another backlog."""
    cluster = bench.cluster()
    rows = max(100_000, bench.rows // 5)
    first = 20_000_000
    alone = _backlog(cluster, first, rows, ["node1"])["node1"]
    cluster.processes.start("node2", "node3")
    cluster.processes.ready()
    cluster.caught_up()
    together = _backlog(cluster, first + rows, rows, list(IDS))
    figure = {"rows": rows, "alone_rows_per_s": round(alone)}
    return figure | {
        "together_rows_per_s": [round(rate) for rate in together.values()],
        "ratio": round(min(together.values()) / alone, 3),
    }


def _backlog(cluster: Cluster, first: int, rows: int, nodes: Sequence[str]) -> dict[str, float]:
    """Rows/s of each of these nodes from when it has begun to record what it missed until it has recorded all."""
    for node in list(cluster.processes.running):
        cluster.processes.end(node)
    cluster.place.insert_parts(first, first + rows - 1)
    base = {node: cluster.size(node) for node in nodes}
    cluster.processes.start(*nodes)
    begun: dict[str, tuple[float, int]] = {}
    found: dict[str, float] = {}

    def look() -> bool:
        now = time.monotonic()
        for node in nodes:
            have = cluster.size(node) - base[node]
            if have and node not in begun:
                begun[node] = (now, have)
            if have >= rows and node not in found:
                at, already = begun[node]
                if already >= rows:
                    raise ValueError(f"{node} had recorded all {rows} rows at once; more are needed to see a rate")
                found[node] = (rows - already) / (now - at)
        return len(found) == len(nodes)

    cluster.until(look, f"{rows} rows on {', '.join(nodes)}", every_s=0.01)
    return {node: found[node] for node in nodes}
