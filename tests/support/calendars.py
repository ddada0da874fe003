"""An OpenTimestamps calendar: the real protocol, written with the reference library, and blocks when it is told to."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentimestamps.core.notary import BitcoinBlockHeaderAttestation, PendingAttestation
from opentimestamps.core.op import OpAppend, OpPrepend, OpSHA256
from opentimestamps.core.serialize import BytesSerializationContext
from opentimestamps.core.timestamp import Timestamp

from witnz.ending import end_threads


class Calendar:
    """``headers``: the blocks that hold a commitment, by height; ``answer``: what is said instead of the truth, if anything."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.waiting: dict[bytes, Timestamp] = {}
        self.complete: dict[bytes, Timestamp] = {}
        self.headers: dict[int, bytes] = {}
        self.answer: bytes | None = None

    def promise(self, digest: bytes) -> bytes:
        stamp = Timestamp(digest)
        commitment = stamp.ops.add(OpAppend(sha256(digest).digest()[:8])).ops.add(OpSHA256())
        commitment.attestations.add(PendingAttestation(self.url))
        self.waiting[commitment.msg] = Timestamp(commitment.msg)
        return written(stamp)

    def make_block(self, height: int) -> None:
        """Put what waits into a block of its own leaf each; the last one's header is kept."""
        for message, stamp in self.waiting.items():
            leaf = stamp.ops.add(OpPrepend(b"to our left"))
            root = leaf.ops.add(OpSHA256()).ops.add(OpSHA256())
            root.attestations.add(BitcoinBlockHeaderAttestation(height))
            self.complete[message] = stamp
            fields = [b"\0\0\0\x20", bytes(32), root.msg, (1_795_290_000).to_bytes(4, "little"), bytes(8)]
            self.headers[height] = b"".join(fields)
        self.waiting.clear()


def written(stamp: Timestamp) -> bytes:
    context = BytesSerializationContext()
    stamp.serialize(context)
    return bytes(context.getbytes())


@contextmanager
def calendar() -> Iterator[Calendar]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: Any) -> None: ...

        def _say(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            digest = self.rfile.read(int(self.headers["content-length"]))
            self._say(200, one.answer if one.answer is not None else one.promise(digest))

        def do_GET(self) -> None:
            message = bytes.fromhex(self.path.rpartition("/")[2])
            if message in one.complete:
                self._say(200, one.answer if one.answer is not None else written(one.complete[message]))
            else:
                self._say(404, b"Pending confirmation in Bitcoin blockchain")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one = Calendar(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield one
    finally:
        server.shutdown()
        server.server_close()
        end_threads(thread)
