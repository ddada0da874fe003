"""An EVM chain within this process, where there is no anvil: py-evm, by eth-tester, behind a small JSON-RPC server.

The blocks, transactions, gas and state roots are those of a real implementation; pool, reorganisations and peers there are
none.  It answers what an anchor asks (:mod:`witnz.anchor.evm_rpc`), and makes an empty block every half second.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from typing import Any, Final

from witnz.core.evm.block import HEADER_FIELDS, HEADER_INTEGERS
from witnz.core.evm.rlp import Item, as_bytes, as_integer, decode_list
from witnz.ending import end_server
from witnz.errors import UsageError

MAX_REQUEST_BYTES: Final = 1 << 20
BLOCK_TIME_S: Final = 0.5
_FEE_FIELDS: Final = ("chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas", "to", "value", "input")


def is_available() -> bool:
    return find_spec("eth_tester") is not None and find_spec("eth") is not None


class InProcessChain:
    """A running chain; the account of ``fund`` pays out of those that eth-tester begins with."""

    def __init__(self) -> None:
        if not is_available():
            raise UsageError("no EVM chain is installed", hint='install npm, or pip install "witnz[evm]"', code="extra.missing")
        from eth_tester import EthereumTester, PyEVMBackend

        self._tester = EthereumTester(PyEVMBackend())
        self._lock = threading.Lock()
        self.chain_id = int(self._tester.backend.chain.chain_id)
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._stop = threading.Event()
        serve: Callable[[], None] = lambda: self._server.serve_forever(0.05)  # noqa: E731
        self._threads = [threading.Thread(target=work, daemon=True) for work in (serve, self._make_blocks)]
        for thread in self._threads:
            thread.start()

    def fund(self, address: str, wei: int = 10**18) -> None:
        with self._lock:
            payer = self._tester.get_accounts()[0]
            self._tester.send_transaction({"from": payer, "to": address, "value": wei, "gas": 21_000})

    def mine(self, blocks: int = 1) -> None:
        with self._lock:
            self._tester.mine_blocks(blocks)

    def stop(self) -> None:
        self._stop.set()
        end_server(self._server, *self._threads)

    def _make_blocks(self) -> None:
        while not self._stop.wait(BLOCK_TIME_S):
            self.mine()

    # -- JSON-RPC -------------------------------------------------------------------------------------------------------------

    def answer(self, method: str, params: list[Any]) -> Any:
        """The result of a call.  Raises ValueError for one that is not offered, and what the chain refuses."""
        chain = self._tester.backend.chain
        match method, params:
            case "eth_chainId", []:
                return hex(self.chain_id)
            case "eth_blockNumber", []:
                return hex(chain.get_canonical_head().block_number)
            case "eth_getBalance", [str(address), _]:
                return hex(self._tester.get_balance(address))
            case "eth_getTransactionCount", [str(address), _]:
                return hex(self._tester.get_nonce(address))
            case "eth_maxPriorityFeePerGas", []:
                return hex(10**9)
            case "eth_estimateGas", [{"data": str(data)}]:
                used = bytes.fromhex(data[2:])
                return hex(21_000 + sum(40 if byte else 10 for byte in used))
            case "eth_getBlockByNumber", [str(name), bool()]:
                head = chain.get_canonical_head().block_number
                number = head if name == "latest" else int(name, 16)
                return _block_json(chain.get_canonical_block_by_number(number)) if number <= head else None
            case "eth_getBlockByHash", [str(block_hash), bool()]:
                return _block_json(chain.get_block_by_hash(bytes.fromhex(block_hash[2:])))
            case "eth_sendRawTransaction", [str(raw)]:
                return self._tester.send_raw_transaction(raw)
            case "eth_getTransactionReceipt", [str(transaction_hash)]:
                return self._receipt(transaction_hash)
            case "eth_getTransactionByHash", [str(transaction_hash)]:
                return self._receipt(transaction_hash)
        raise ValueError(f"{method} is not offered here")

    def _receipt(self, transaction_hash: str) -> dict[str, Any] | None:
        from eth_tester.exceptions import TransactionNotFound

        try:
            found = self._tester.get_transaction_receipt(transaction_hash)
        except TransactionNotFound:
            return None
        numbers = {"blockNumber": "block_number", "transactionIndex": "transaction_index", "gasUsed": "gas_used"}
        return {"blockHash": found["block_hash"], **{name: hex(found[key]) for name, key in numbers.items()}}

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        chain = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None:
                """Nothing: the demo has its own words."""

            def do_POST(self) -> None:
                size = int(self.headers.get("Content-Length") or 0)
                asked = json.loads(self.rfile.read(min(size, MAX_REQUEST_BYTES)))
                answer: dict[str, Any] = {"jsonrpc": "2.0", "id": asked.get("id")}
                answer |= chain.answered(asked["method"], asked["params"])
                data = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        return Handler

    def answered(self, method: str, params: list[Any]) -> Mapping[str, Any]:
        """``result`` or ``error`` of a call."""
        from eth.exceptions import PyEVMError
        from eth_tester.exceptions import ValidationError
        from eth_utils.exceptions import ValidationError as Refused
        from rlp.exceptions import RLPException

        try:
            with self._lock:
                return {"result": self.answer(method, params)}
        except (ValueError, ValidationError, Refused, PyEVMError, RLPException) as error:
            return {"error": {"code": -32000, "message": str(error)[:300]}}


def _block_json(block: Any) -> dict[str, Any]:
    """A block as JSON-RPC has it, out of its header's RLP."""
    import rlp

    fields = dict(zip(HEADER_FIELDS, decode_list(rlp.encode(block.header), "header"), strict=False))
    shown: dict[str, Any] = {
        name: hex(as_integer(value, name)) if name in HEADER_INTEGERS else f"0x{as_bytes(value, name).hex()}"
        for name, value in fields.items()
    }
    transactions = [_transaction_json(one) for one in block.transactions]
    return {**shown, "hash": f"0x{block.hash.hex()}", "transactions": transactions}


def _transaction_json(transaction: Any) -> dict[str, Any]:
    """A transaction of type 0 or 2, which are those that are sent here."""
    raw = bytes(transaction.encode())
    kind = 0 if raw[0] >= 0xC0 else raw[0]
    items = decode_list(raw if kind == 0 else raw[1:], "transaction")
    names = ("nonce", "gasPrice", "gas", "to", "value", "input", "v", "r", "s") if kind == 0 else _FEE_FIELDS
    shown: dict[str, Any] = {name: _shown(name, item) for name, item in zip(names, items, strict=False)}
    if kind:
        shown |= {name: _shown(name, item) for name, item in zip(("yParity", "r", "s"), items[-3:], strict=True)}
    return {**shown, "type": hex(kind), "hash": f"0x{transaction.hash.hex()}"}


def _shown(name: str, item: Item) -> str:
    return f"0x{as_bytes(item, name).hex()}" if name in ("to", "input") else hex(as_integer(item, name))
