"""A real etcd of the system, for one test: started on free ports, stopped with it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path

import httpx
import pytest

from tests.support.machine import Machine, until
from tests.support.tls_peers import free_port
from witnz.cluster.engine import Engine
from witnz.cluster.etcd import EtcdEngine
from witnz.cluster.etcd_client import EtcdTls

CLUSTER_ID = "0" * 32


def etcd_or_skip() -> str:
    """The path of the server; skips where there is none."""
    found = shutil.which("etcd")
    if found is None:
        pytest.skip("no etcd here: Debian's package etcd-server brings it, and .ci/run installs it")
    return found


class EtcdServer:
    """One server of its own; ``pause`` stops it answering."""

    def __init__(self, directory: Path, *options: str, scheme: str = "http") -> None:
        client, peer = free_port(), free_port()
        self.endpoint = f"{scheme}://127.0.0.1:{client}"
        self._process = subprocess.Popen(
            [
                etcd_or_skip(), "--data-dir", str(directory), "--listen-client-urls", self.endpoint,
                "--advertise-client-urls", self.endpoint, "--listen-peer-urls", f"http://127.0.0.1:{peer}",
                "--initial-advertise-peer-urls", f"http://127.0.0.1:{peer}",
                "--initial-cluster", f"default=http://127.0.0.1:{peer}", "--logger", "zap", "--log-outputs", "/dev/null",
                *options,
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "ETCD_UNSUPPORTED_ARCH": "arm64"},
        )  # fmt: skip
        if scheme == "http":
            until(self._healthy)

    def _healthy(self) -> bool:
        assert self._process.poll() is None, "etcd ended"
        try:
            return httpx.get(f"{self.endpoint}/health", timeout=2).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        self.resume()
        self._process.terminate()
        self._process.wait(30)


class EtcdCluster:
    """Three nodes over one etcd."""

    def __init__(
        self, directory: Path, nodes: tuple[str, ...] = ("node1", "node2", "node3"), *, keep_commands: int = 1000
    ) -> None:
        self.server = EtcdServer(directory / "etcd")
        self.nodes, self._keep = nodes, keep_commands
        self.machines: dict[str, Machine] = {}
        for node in nodes:
            self.machines[node] = Machine(self.machines)
        self.engines: dict[str, Engine] = {}

    def start(self, *nodes: str) -> None:
        for node in nodes or self.nodes:
            engine = EtcdEngine(node, CLUSTER_ID, [self.server.endpoint], keep_commands=self._keep)
            engine.on_apply(self.machines[node].apply, self.machines[node])
            engine.start()
            self.engines[node] = engine

    def stop(self, *nodes: str) -> None:
        for node in nodes or tuple(self.engines):
            self.engines.pop(node).close()

    def lose_quorum(self) -> None:
        """Only node1 is left to ask, and no majority is."""
        self.stop("node2", "node3")
        self.server.pause()

    def regain_quorum(self) -> None:
        self.server.resume()
        self.start("node2", "node3")

    def end(self) -> None:
        self.server.resume()
        self.stop()
        self.server.close()


__all__ = ["CLUSTER_ID", "EtcdCluster", "EtcdServer", "EtcdTls", "etcd_or_skip"]
