"""A witness for other people's logs (c2sp.org/tlog-witness): what a node serves where ``witness`` is configured.

    POST /add-checkpoint                        judged by :func:`witnz.core.witness.judge`
    GET  /<hex SHA-256 of the origin>/checkpoint    what was cosigned last, with the log's signature and ours

Rules: what was seen is read, judged and replaced in one write transaction, durable before the answer leaves, so that two
requests at once cannot both extend the same past, and no crash takes a cosignature back.
"""

from __future__ import annotations

import socket
import sqlite3
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from witnz.core.checkpoint import cosign
from witnz.core.keys import Signer, VerifierKey, parse_verifier_key
from witnz.core.note import Note, format_note
from witnz.core.witness import MAX_REQUEST_BYTES, SIZE_TYPE, Refusal, Seen, judge, monitoring_path, parse_submission
from witnz.ending import end_threads
from witnz.errors import ConfigError, FormatError
from witnz.store.database import Database

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

log = structlog.get_logger(__name__)

TEXT: Final = "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """A status, a body and its type."""

    status: int
    body: bytes
    media_type: str = TEXT


class Witness:
    """Cosigns other logs' checkpoints.  ``keys``: the keys trusted for each origin.  Used by any number of threads."""

    def __init__(self, db: Database, signer: Signer, keys: Sequence[VerifierKey], clock: Callable[[], int]) -> None:
        self._db, self._signer, self._clock = db, signer, clock
        self._keys: Mapping[str, list[VerifierKey]] = {
            key.name: [each for each in keys if each.name == key.name] for key in keys
        }
        self._paths = {monitoring_path(origin): origin for origin in self._keys}

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer a submission."""
        try:
            submission = parse_submission(body)
        except FormatError as error:
            return Answer(400, f"{error.message}\n".encode())
        origin = submission.checkpoint.origin
        with self._db.write() as conn:
            verdict = judge(submission, self._keys.get(origin, []), load_seen(conn, origin))
            if isinstance(verdict, Refusal):
                log.info("checkpoint was not witnessed", origin=origin, status=verdict.status, reason=verdict.reason)
                if verdict.seen is not None:
                    return Answer(409, b"%d\n" % verdict.seen, SIZE_TYPE)
                return Answer(verdict.status, f"{verdict.reason}\n".encode())
            text = submission.note.text
            cosignature = cosign(text, self._signer, max(1, self._clock() // 1_000_000))
            own = [each for each in submission.note.signatures if any(each.is_by(key) for key in self._keys[origin])]
            save_seen(conn, origin, verdict, format_note(Note(text, (*own, cosignature))))
        line = format_note(Note(text, (cosignature,))).rpartition("\n\n")[2]
        return Answer(200, line.encode())

    def newest(self, path: str) -> Answer:
        """What was cosigned last of the log whose monitoring path this is."""
        origin = self._paths.get(path)
        with self._db.read() as conn:
            row = None if origin is None else conn.execute("SELECT note FROM witnessed WHERE origin = ?", (origin,)).fetchone()
        return Answer(404, b"nothing was witnessed of this log\n") if row is None else Answer(200, str(row[0]).encode())


def load_seen(conn: sqlite3.Connection, origin: str) -> Seen | None:
    """What was cosigned last of a log; None before the first."""
    row = conn.execute("SELECT size, root FROM witnessed WHERE origin = ?", (origin,)).fetchone()
    return None if row is None else Seen(row[0], row[1])


def save_seen(conn: sqlite3.Connection, origin: str, seen: Seen, note: str) -> None:
    conn.execute(
        "INSERT OR REPLACE INTO witnessed (origin, size, root, note) VALUES (?, ?, ?, ?)", (origin, seen.size, seen.root, note)
    )


# -- serving ------------------------------------------------------------------------------------------------------------------


def witness_app(witness: Witness) -> Starlette:
    """The two paths as an ASGI application."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response
    from starlette.routing import Route

    def respond(answer: Answer) -> Response:
        return Response(answer.body, answer.status, {"content-type": answer.media_type})

    async def add_checkpoint(request: Request) -> Response:
        body = bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_REQUEST_BYTES:
                return Response(b"too large\n", 400, {"connection": "close"}, TEXT)
        return respond(await run_in_threadpool(witness.add_checkpoint, bytes(body)))

    async def newest(request: Request) -> Response:
        return respond(await run_in_threadpool(witness.newest, f"{request.path_params['log']}/checkpoint"))

    return Starlette(
        routes=[
            Route("/add-checkpoint", add_checkpoint, methods=["POST"]),
            Route("/{log}/checkpoint", newest, methods=["GET"]),
        ]
    )


class WitnessServer:
    """The application on an address, in a thread of its own.  Put a TLS proxy before it where others reach it from afar."""

    def __init__(self, witness: Witness, host: str, port: int) -> None:
        """Bind the address.  Raises OSError where that is not possible."""
        import uvicorn

        self._socket = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        self.port = int(self._socket.getsockname()[1])
        settings: dict[str, Any] = {"log_config": None, "access_log": False, "limit_concurrency": 64, "lifespan": "off"}
        self._server = uvicorn.Server(uvicorn.Config(witness_app(witness), timeout_keep_alive=5, **settings))
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), name="witness", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        end_threads(self._thread)
        self._socket.close()


def serve_witness(db: Database, signer: Signer, addr: str, logs: Sequence[str], clock: Callable[[], int]) -> WitnessServer:
    """The witness that a configuration describes, listening.  Raises ConfigError."""
    try:
        keys = [parse_verifier_key(text) for text in logs]
    except FormatError as error:
        raise ConfigError(f"witness.logs: {error.message}", hint="ask for the key that `witnz keys show` prints") from None
    host, _, port = addr.rpartition(":")
    try:
        server = WitnessServer(Witness(db, signer, keys, clock), host.strip("[]"), int(port))
    except OSError as error:
        raise ConfigError(f"witness.addr {addr}: {error}", hint="choose an address of this machine that is free") from None
    server.start()
    return server
