"""What lies outside the demo's house: a bucket under Object Lock, a public chain, a time-stamping authority, real ones of their
kinds, on this machine.

Each is left out where what it needs is not installed, and the demo says so; nothing pretends to be one.
"""

from __future__ import annotations

import secrets
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from witnz.demo import evm_in_process, guard
from witnz.demo.authority import Authority, openssl_binary
from witnz.demo.chain import Anvil, DemoChain, anvil_binary
from witnz.demo.evm_in_process import InProcessChain
from witnz.errors import UsageError

if TYPE_CHECKING:
    from witnz.demo.bucket import Bucket

KEY: Final = "anchor-account.key"
ROOT: Final = "authority.pem"
TRUST, FOREIGN_TRUST = "trust.txt", "foreign-trust.txt"
CONFIRMATIONS: Final = 2
BLOCK_TIME_S: Final = 0.5


@dataclass(slots=True)
class Outside:
    """``names``: the anchors that there are; ``missing``: those that there are not, and why."""

    directory: Path
    names: list[str] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    address: str = ""
    chain: DemoChain | None = None
    authority: Authority | None = None
    bucket: Bucket | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start what can be; keys and certificates that the configuration names go to ``directory``."""
        outside = cls(directory)
        try:
            outside._start_storage()
            outside._start_chain()
            outside._start_authority()
        except BaseException:
            outside.close()
            raise
        return outside

    def close(self) -> None:
        self._stack.close()

    def config(self) -> str:
        """The ``anchors`` section of witnz.yaml."""
        lines = []
        if self.bucket is not None:
            lines.append(self.bucket.section())
        if self.chain is not None:
            url, chain_id = self.chain.url, self.chain.chain_id
            evm = f"rpc_url: '{url}', chain_id: {chain_id}, key_file: {KEY}, address: '{self.address}'"
            lines.append(f"  - {{type: evm, {evm}, confirmations: {CONFIRMATIONS}, every: 10m}}\n")
        if self.authority is not None:
            lines.append(f"  - {{type: rfc3161, url: '{self.authority.url}', root: {ROOT}, every: 10m}}\n")
        return "anchors:\n" + "".join(lines) if lines else ""

    def files(self) -> list[str]:
        """What the section names, in ``directory``: each machine that has a node needs it."""
        from witnz.demo.bucket import KEY_FILE

        files = {"s3": KEY_FILE, "evm": KEY, "rfc3161": ROOT}
        return [files[name] for name in self.names]

    def trust(self, receipts: list[dict[str, Any]], address: str | None = None) -> str:
        """What an auditor writes down who asked chain and authority himself; ``address``: of another account."""
        lines = []
        for receipt in receipts:
            if receipt["type"] == "evm":
                chain_id, number = receipt["chain_id"], receipt["block_number"]
                lines.append(f"account {chain_id} {address or self.address}\n")
                lines.append(f"block {chain_id} {number} {self._block_hash(number)}\n")
            if receipt["type"] == "rfc3161":
                lines.append((self.directory / ROOT).read_text(encoding="ascii"))
        return "".join(dict.fromkeys(lines))

    def _block_hash(self, number: int) -> str:
        """The chain's own answer, not the receipt's."""
        import httpx

        assert self.chain is not None
        body = {"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber", "params": [hex(number), False]}
        answer = httpx.post(self.chain.url, json=body, timeout=30, trust_env=False).json()
        return str(answer["result"]["hash"])

    def _start_storage(self) -> None:
        from witnz.demo.bucket import Bucket

        try:
            self.bucket = Bucket.start(self.directory)
        except UsageError as error:
            self.missing["s3"] = error.message
            return
        self._stack.callback(self.bucket.close)
        self.names.append("s3")

    def _start_chain(self) -> None:
        from eth_account import Account

        if anvil_binary() is not None:
            anvil = Anvil.start(self._folder("witnz-chain-") / "log", block_time_s=BLOCK_TIME_S)
            guard.protect_process(anvil.pid)
            self._stack.callback(guard.release_process, anvil.pid)
            self.chain = anvil
        elif evm_in_process.is_available():
            self.chain = InProcessChain()
        else:
            self.missing["evm"] = "neither anvil (npm) nor witnz[evm] is installed"
            return
        self._stack.callback(self.chain.stop)
        key = secrets.token_hex(32)
        path = self.directory / KEY
        path.touch(mode=0o600)
        path.write_text(key + "\n", encoding="ascii")
        self.address = str(Account.from_key(bytes.fromhex(key)).address)
        self.chain.fund(self.address)
        self.names.append("evm")

    def _start_authority(self) -> None:
        if openssl_binary() is None:
            self.missing["rfc3161"] = "openssl is not installed"
            return
        self.authority = self._stack.enter_context(Authority.start(self._folder("witnz-authority-")))
        (self.directory / ROOT).write_bytes(self.authority.root.read_bytes())
        self.names.append("rfc3161")

    def _folder(self, prefix: str) -> Path:
        """A folder that goes with us, however we end."""
        folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix=prefix)))
        guard.protect(path=folder)
        self._stack.callback(guard.release, folder)
        return folder
