"""A real EVM chain on this machine: anvil, from its npm package, on a free port of the loopback interface.

A chain of one validator is nobody's evidence; what it shows is that blocks, proofs, fees, nonces and reorganisations are those
of the real ones.  Where there is no anvil, :mod:`witnz.demo.evm_in_process` takes its place.
"""

from __future__ import annotations

import platform
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final, Protocol, Self

import httpx

from witnz.ending import end_process
from witnz.errors import WitnzError

START_TIMEOUT_S: Final = 60.0
CHAIN_ID: Final = 31337
FUNDS_WEI: Final = 10**18


class DemoChain(Protocol):
    """A chain that answers JSON-RPC at ``url``."""

    url: str
    chain_id: int

    def fund(self, address: str, wei: int = FUNDS_WEI) -> None:
        """Give an account so much."""

    def mine(self, blocks: int = 1) -> None:
        """Make blocks, of what waits or empty."""

    def stop(self) -> None:
        """End it."""


def anvil_binary() -> Path | None:
    """The program: beside this Python, where `make` puts it, or on the path; None where there is none."""
    machine = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(platform.machine().lower(), "?")
    package = f"@foundry-rs/anvil-{platform.system().lower()}-{machine}"
    beside = Path(sys.prefix) / "npm" / "node_modules" / package / "bin" / "anvil"
    if beside.is_file():
        return beside
    found = shutil.which("anvil")
    return Path(found) if found is not None else None


class Anvil:
    """A running anvil.  With ``block_time_s`` it makes a block so often, else one for each transaction."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, chain_id: int) -> None:
        self._process = process
        self.url = f"http://127.0.0.1:{port}"
        self.chain_id = chain_id

    @classmethod
    def start(cls, log: Path, *, chain_id: int = CHAIN_ID, block_time_s: float | None = None) -> Self:
        """Start one; it answers when this returns.  Raises WitnzError with the end of its log."""
        binary = anvil_binary()
        if binary is None:
            hint = "`make demo` and `make test` install it with npm"
            raise WitnzError("anvil is not installed", hint=hint, code="extra.missing")
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        arguments = [str(binary), "--host", "127.0.0.1", "--port", str(port), "--chain-id", str(chain_id)]
        arguments += ["--slots-in-an-epoch", "4", "--accounts", "1"]
        if block_time_s is not None:
            arguments += ["--block-time", f"{block_time_s:g}"]
        with log.open("wb") as output:
            process = subprocess.Popen(arguments, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        chain = cls(process, port, chain_id)
        try:
            chain._await(log)
        except BaseException:
            chain.stop()
            raise
        return chain

    @property
    def pid(self) -> int:
        return self._process.pid

    def _await(self, log: Path) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                self.call("eth_chainId")
                return
            except httpx.HTTPError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    end = log.read_bytes()[-2000:].decode(errors="replace")
                    raise WitnzError(f"anvil did not start: {end}") from None
                time.sleep(0.05)

    def call(self, method: str, *params: Any) -> Any:
        """The result of a JSON-RPC call.  Raises WitnzError with the chain's words where it refuses."""
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        answer = httpx.post(self.url, json=body, timeout=30, trust_env=False).json()
        if "error" in answer:
            raise WitnzError(f"{method}: {answer['error'].get('message')}")
        return answer["result"]

    def fund(self, address: str, wei: int = FUNDS_WEI) -> None:
        self.call("anvil_setBalance", address, hex(wei))

    def mine(self, blocks: int = 1) -> None:
        self.call("anvil_mine", hex(blocks))

    def reorganise(self, depth: int) -> None:
        """Replace the newest ``depth`` blocks by empty ones; their transactions are forgotten."""
        self.call("anvil_reorg", depth, [])

    def stop(self) -> None:
        end_process(self._process, what="anvil")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
