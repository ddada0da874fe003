"""Publications on paper, memories without a store, and S3 anchors on a real server."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.bundle_maker import PaperBundle
from witnz.anchor.base import LogFile, Memory, Publication, Published, Surroundings
from witnz.anchor.s3 import S3Anchor
from witnz.config import AnchorConfig
from witnz.core.receipt import Receipt
from witnz.demo.storage import Identity, StorageServer
from witnz.ending import end_threads

CLUSTER = "vectors.example/app"
_numbers = itertools.count(1)


def now_us() -> int:
    return time.time_ns() // 1000


class Kept(Memory):
    """A memory that lasts as long as the test."""

    def __init__(self) -> None:
        self.document: Mapping[str, Any] = {}

    def load(self) -> Mapping[str, Any]:
        return self.document

    def save(self, document: Mapping[str, Any]) -> None:
        self.document = dict(document)


def publication(size: int = 9, files: tuple[LogFile, ...] = (), paper: PaperBundle | None = None) -> Publication:
    """The checkpoint of ``size`` records of the paper cluster."""
    paper = paper or PaperBundle()
    note = paper.cluster.note(size)
    bare: dict[str, Any] = {"records": [], "rows": [], "tables": [], "consistency": []}
    return Publication(
        note,
        lambda: paper.build(checkpoint=note, **bare),
        lambda kept: [file for file in files if kept.get(file.log, 0) < file.size],
    )


def fresh_bucket(server: StorageServer, *, object_lock: bool = True) -> str:
    name = f"evidence-{next(_numbers)}"
    server.create_bucket(name, object_lock=object_lock)
    return name


def s3_section(server: StorageServer, bucket: str, identity: Identity | None = None, **changed: Any) -> dict[str, Any]:
    who = identity or server.writer
    return {
        "type": "s3",
        "bucket": bucket,
        "endpoint": server.endpoint,
        "access_key_id": who.access_key_id,
        "secret_access_key": who.secret_access_key,
        "retention": "2d",
        "every": "1h",
        "timeout": "10s",
        **changed,
    }


def s3_anchor(section: Mapping[str, Any], clock: Any = now_us) -> S3Anchor:
    return S3Anchor(AnchorConfig.model_validate(dict(section)), Surroundings(CLUSTER, clock))


def published(anchor: Any, of: Publication | None = None, memory: Memory | None = None) -> Receipt:
    """The receipt of a publication that ends at once."""
    outcome = anchor.publish(of or publication(), memory or Kept())
    assert isinstance(outcome, Published), outcome
    return outcome.receipt


@contextmanager
def answering(status: int, code: str, headers: Mapping[str, str] | None = None) -> Iterator[str]:
    """The address of a server that gives one S3 error to everything: those that no real one can be brought to give."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            self.rfile.read(length)
            text = "" if self.command == "HEAD" else f"<Error><Code>{code}</Code><Message>because</Message></Error>"
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("content-type", "application/xml")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _answer

        def log_message(self, *arguments: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        end_threads(thread)
