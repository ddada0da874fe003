"""A real chain for the tests, accounts on it, and endpoints that lie."""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
from eth_account import Account

from tests.support.anchors import CLUSTER, now_us
from witnz.anchor.base import Surroundings
from witnz.anchor.evm import EvmAnchor
from witnz.config import AnchorConfig
from witnz.demo.chain import Anvil
from witnz.ending import end_threads

Answer = dict[str, Any]


def fresh_key(chain: Anvil, wei: int = 10**18) -> str:
    """The private key of a new account with so much."""
    key = secrets.token_hex(32)
    chain.fund(address_of(key), wei)
    return key


def address_of(key: str) -> str:
    return str(Account.from_key(bytes.fromhex(key)).address)


def evm_anchor(chain: Anvil, key: str, **changed: Any) -> EvmAnchor:
    section = {"type": "evm", "rpc_url": chain.url, "chain_id": chain.chain_id, "key": key, "confirmations": 0, **changed}
    as_written = {name: str(value) for name, value in section.items()}
    return EvmAnchor(AnchorConfig.model_validate(as_written), Surroundings(CLUSTER, now_us))


@contextmanager
def liar(chain: Anvil, lie: Callable[[str, list[Any], Answer], Answer]) -> Iterator[str]:
    """The address of an endpoint that passes everything on, but for what ``lie(method, params, answer)`` makes of answers."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            asked = json.loads(body)
            true = httpx.post(chain.url, content=body, headers={"content-type": "application/json"}, trust_env=False).json()
            data = json.dumps(lie(asked["method"], asked["params"], true)).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        end_threads(thread)
