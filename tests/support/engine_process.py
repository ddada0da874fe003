"""One member of the built-in engine as a process of its own, to be killed: obeys lines on stdin, answers in JSON on stdout.

    load BYTES THREADS     propose for ever; each acknowledged key goes into the file ``acked`` before the next is proposed
    rest                   stop proposing
    time COUNT BYTES       propose one after the other; the latencies in milliseconds
    burst COUNT BYTES THREADS   propose from several threads; commands a second
    stat                   leader, term, index, how many different commands were applied, the digest of all, the error if any

What is applied goes into the file ``applied`` by one write a command: as durable as a kill -9 asks for.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.tls_peers import CLUSTER, free_port, identity
from witnz.cluster.engine import Membership
from witnz.cluster.peers import Member
from witnz.cluster.raft.engine import RaftEngine
from witnz.cluster.transport import TlsPeers
from witnz.ending import end_process, end_threads
from witnz.errors import Inconclusive, NoQuorum, WitnzError

ROOT = Path(__file__).parents[2]
ANSWER_S = 120.0


class FileMachine:
    """Applies into a file of lines ``index digest key``; restores from the files of peers, over the members' channel."""

    def __init__(self, path: Path, peers: TlsPeers) -> None:
        self._path, self._peers = path, peers
        self._lock = threading.Lock()
        self.lines = path.read_text().splitlines() if path.exists() else []
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        peers.serve("state", self._state, 100)

    def applied_index(self) -> int:
        return int(self.lines[-1].split()[0]) if self.lines else 0

    def apply(self, index: int, command: bytes) -> None:
        key, _, body = command.partition(b"\n")
        line = f"{index} {hashlib.sha256(body).hexdigest()[:16]} {key.decode()}"
        with self._lock:
            os.write(self._fd, line.encode() + b"\n")
            self.lines.append(line)

    def snapshot(self) -> tuple[int, bytes]:
        with self._lock:
            return self.applied_index(), digest(self.lines).encode()

    def restore(self, index: int, snapshot: bytes) -> None:
        for member in self._peers.members():
            try:
                lines = self._peers.call(member.id, "state", b"%d" % index, 10).decode().splitlines()
            except WitnzError:
                continue
            if digest(lines).encode() == snapshot and lines[: len(self.lines)] == self.lines:
                for line in lines[len(self.lines) :]:
                    os.write(self._fd, line.encode() + b"\n")
                with self._lock:
                    self.lines = lines
                return
        raise Inconclusive("no peer has that state now")

    def _state(self, _peer: str, body: bytes) -> bytes:
        with self._lock:
            return "\n".join(line for line in self.lines if int(line.split()[0]) <= int(body)).encode()


def digest(lines: list[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


class Loader:
    """Threads that propose until they are told to rest."""

    def __init__(self, engine: RaftEngine, node: str, path: Path, size: int) -> None:
        self._engine, self._node, self._body = engine, node, os.urandom(size)
        self._acked = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.resting = threading.Event()

    def run(self, thread: int) -> None:
        started, count = time.time_ns(), 0
        while not self.resting.is_set():
            count += 1
            key = f"{self._node}/{started}/{thread}/{count}"
            while not self.resting.is_set():
                try:
                    self._engine.propose(key.encode() + b"\n" + self._body, key, 5)
                except NoQuorum:
                    continue
                os.write(self._acked, key.encode() + b"\n")
                break


def propose_many(engine: RaftEngine, node: str, count: int, size: int, threads: int) -> list[float]:
    """Milliseconds of each, proposed by several threads, each one after the other."""
    taken: list[float] = []
    run = time.time_ns()

    def work(thread: int) -> None:
        body = os.urandom(size)
        for k in range(count // threads):
            key = f"{node}/{run}/{thread}/{k}"
            started = time.perf_counter()
            engine.propose(key.encode() + b"\n" + body, key, 60)
            taken.append(1000 * (time.perf_counter() - started))

    workers = [threading.Thread(target=work, args=(thread,)) for thread in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        end_threads(worker)
    return taken


def main() -> None:
    """The child: its setting is one JSON document in the first argument."""
    setting = json.loads(sys.argv[1])
    node, directory = setting["node"], Path(setting["directory"])
    members = [Member(name, addr, bytes.fromhex(key)) for name, addr, key in setting["members"]]
    me = next(member for member in members if member.id == node)
    host, _, port = me.addr.rpartition(":")
    peers = TlsPeers(me, members, identity(setting["seed"]), CLUSTER, (host, int(port)))
    machine = FileMachine(directory / "applied", peers)
    membership = Membership(0, 0, tuple(sorted(member.id for member in members)))
    engine = RaftEngine(node, membership, directory, peers, compact_bytes=setting["compact_bytes"])
    engine.on_apply(machine.apply, machine)
    peers.start()
    engine.start()
    loader: Loader | None = None
    for line in sys.stdin:
        answer: Any = None
        match line.split():
            case ["load", size, threads]:
                loader = Loader(engine, node, directory / "acked", int(size))
                for thread in range(int(threads)):
                    threading.Thread(target=loader.run, args=(thread,), daemon=True).start()
            case ["rest"]:
                if loader is not None:
                    loader.resting.set()
            case ["time", count, size]:
                answer = propose_many(engine, node, int(count), int(size), 1)
            case ["burst", count, size, threads]:
                started = time.perf_counter()
                propose_many(engine, node, int(count), int(size), int(threads))
                answer = int(count) / (time.perf_counter() - started)
            case ["stat"]:
                status = engine.status()
                with machine._lock:
                    answer = {
                        "leader": status.leader, "term": status.term, "index": status.index, "error": status.error,
                        "count": len({line.split()[2] for line in machine.lines}), "digest": digest(machine.lines),
                        "quorum": status.has_quorum,
                    }  # fmt: skip
        print(json.dumps(answer), flush=True)
    engine.close()
    peers.close()


class EngineProcesses:
    """Members as processes, by node id; :meth:`kill` is kill -9."""

    def __init__(
        self, directory: Path, nodes: tuple[str, ...] = ("node1", "node2", "node3"), *, compact_bytes: int = 1 << 20
    ) -> None:
        self.directory, self.nodes, self._compact_bytes = directory, nodes, compact_bytes
        self._seeds = {node: 2000 + place for place, node in enumerate(nodes)}
        keys = {node: identity(seed).public_key().public_bytes_raw().hex() for node, seed in self._seeds.items()}
        self._members = [(node, f"127.0.0.1:{free_port()}", keys[node]) for node in nodes]
        self.running: dict[str, subprocess.Popen[str]] = {}

    def start(self, *nodes: str, prelude: str = "") -> None:
        for node in nodes or self.nodes:
            directory = self.directory / node
            directory.mkdir(parents=True, exist_ok=True)
            setting = {
                "node": node, "seed": self._seeds[node], "directory": str(directory), "members": self._members,
                "compact_bytes": self._compact_bytes,
            }  # fmt: skip
            program = f"{prelude}\nfrom tests.support.engine_process import main\nmain()"
            with (directory / "stderr").open("ab") as errors:
                self.running[node] = subprocess.Popen(
                    [sys.executable, "-c", program, json.dumps(setting)], cwd=ROOT, stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, stderr=errors, text=True, bufsize=1, env={**os.environ, "PYTHONPATH": str(ROOT)},
                )  # fmt: skip

    def ask(self, node: str, line: str) -> Any:
        process = self.running[node]
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        assert answer, f"{node} ended: {(self.directory / node / 'stderr').read_text()[-2000:]}"
        return json.loads(answer)

    def kill(self, node: str) -> None:
        process = self.running.pop(node)
        process.kill()
        _let_go(process)

    def stop(self) -> None:
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            _let_go(process)
        self.running.clear()

    def leader(self) -> str:
        """Who leads, as soon as all that run say the same."""
        deadline = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline:
            leaders = {self.ask(node, "stat")["leader"] for node in self.running}
            if len(leaders) == 1 and (leader := leaders.pop()) in self.running:
                return str(leader)
            time.sleep(0.02)
        raise AssertionError("nobody leads")

    def acked(self) -> set[str]:
        """Keys that were acknowledged to somebody; a last line that a kill cut short was not."""
        found: set[str] = set()
        for node in self.nodes:
            path = self.directory / node / "acked"
            if path.exists():
                found |= {line for line in path.read_text().split("\n")[:-1] if line}
        return found

    def applied(self, node: str) -> list[str]:
        return (self.directory / node / "applied").read_text().splitlines()


def _let_go(process: subprocess.Popen[str]) -> None:
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        end_process(process)
        raise
    for pipe in (process.stdin, process.stdout):
        assert pipe is not None
        pipe.close()


@contextmanager
def engine_processes(directory: Path, **options: Any) -> Iterator[EngineProcesses]:
    """All members, running; stopped at the end."""
    made = EngineProcesses(directory, **options)
    made.start()
    try:
        made.leader()
        yield made
    finally:
        made.stop()
