"""Answers that take their time: work with its progress, and the events of the node, both as text/event-stream.

    POST /verify/{t}               event: progress   data: {"rows": n}
    POST /findings/{id}/repair     event: result     data: the document     or     event: problem   data: the problem document
    GET /events                    id: n   event: finding | seal | verification   data: the document
                                   event: lost   data: {"events": n}        the listener was too slow for so many

A comment every few seconds keeps the connection known to be alive.  A verification whose client has gone is given up, and
nothing is recorded of it; who wants the answer stays.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, Final

from witnz.core.keyrange import parse_sample
from witnz.core.verdict import Verdict
from witnz.errors import WitnzError
from witnz.node.events import Broadcaster
from witnz.node.verification import Verified
from witnz.web.problems import CANCELLED, problem_document
from witnz.web.served import Served

EVENT_STREAM: Final = "text/event-stream"
HEARTBEAT_S: Final = 10.0
PROGRESS_S: Final = 0.2
MAX_AT_ONCE: Final = 4  # verifications run one after the other; more would only wait

Tell = Callable[[int], None]
"""Told the rows done so far; raises WitnzError once nobody waits for the rest."""

Work = Callable[[Tell], dict[str, Any]]

_CHECKS: Mapping[Verdict, str] = {Verdict.VERIFIED: "ok", Verdict.TAMPERED: "fail", Verdict.INCONCLUSIVE: "skip"}


def verify_document(verified: Verified) -> dict[str, Any]:
    """``witnz.verify/1`` of one table."""
    table = verified.to_json()
    detail = "; ".join(verified.not_checked) or f"{table['rows']} rows as of {table['snapshot_lsn']}"
    if verified.erased_rows:
        detail += f"; {verified.erased_rows} rows erased by order"
    return {
        "schema": "witnz.verify/1",
        "verdict": verified.verdict.value,
        "checks": [{"name": table["table"], "status": _CHECKS[verified.verdict], "detail": detail}],
        "findings": [finding.to_json() for finding in verified.findings],
        "not_checked": list(verified.not_checked),
        "tables": [table],
    }


def verify_work(node: Served, table: str, how: str = "", share: str | None = None) -> Work:
    """Verify a table; given up between two batches of rows when nobody waits any more.

    ``how``: ``""`` as one snapshot, ``rolling`` in ranges, ``N/T`` a sample of ranges.  ``share``: another session reads in
    that one snapshot (:mod:`witnz.postgres.handshake`).
    """

    def verify(tell: Tell) -> Verified:
        if how == "rolling":
            return node.roll(table, tell)
        return node.verify_sample(table, *parse_sample(how), tell) if how else node.verify_table(table, tell, share)

    def work(tell: Tell) -> dict[str, Any]:
        tell(0)
        document = verify_document(verify(tell))
        node.events.publish("verification", document["tables"][0])
        return document

    return work


class LongWork:
    """Does what takes long in threads of its own, so that hours of it block nobody else's request."""

    def __init__(self, stopping: threading.Event) -> None:
        self._stopping = stopping
        self._pool = ThreadPoolExecutor(MAX_AT_ONCE, thread_name_prefix="asked")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def run(self, work: Work) -> dict[str, Any]:
        """Answer when it is done."""
        given_up = threading.Event()
        future = self._start(work, given_up, lambda rows: None)
        try:
            return await future
        finally:
            given_up.set()
            future.cancel()

    async def stream(self, work: Work) -> AsyncIterator[bytes]:
        """Tell how far it is meanwhile."""
        loop, woken, given_up, rows = asyncio.get_running_loop(), asyncio.Event(), threading.Event(), [0]

        def progress(count: int) -> None:
            rows[0] = count
            loop.call_soon_threadsafe(woken.set)

        future = self._start(work, given_up, progress)
        future.add_done_callback(lambda _: woken.set())
        try:
            yield format_event("progress", {"rows": 0})
            while not future.done():
                if await _wait(woken):
                    yield format_event("progress", {"rows": rows[0]})
                else:
                    yield b": still here\n\n"
            try:
                yield format_event("result", future.result())
            except WitnzError as error:
                yield format_event("problem", problem_document(error))
        finally:
            given_up.set()
            future.cancel()

    def _start(self, work: Work, given_up: threading.Event, progress: Tell) -> asyncio.Future[dict[str, Any]]:
        told = [0.0]

        def tell(rows: int) -> None:
            if given_up.is_set() or self._stopping.is_set():
                reason = "the node is stopping" if self._stopping.is_set() else "the client went away"
                raise WitnzError(f"given up: {reason}", hint="nothing was recorded of it; ask again", code=CANCELLED)
            if time.monotonic() - told[0] >= PROGRESS_S:
                told[0] = time.monotonic()
                progress(rows)

        future = asyncio.get_running_loop().run_in_executor(self._pool, work, tell)
        future.add_done_callback(_retrieve)
        return future


async def event_stream(events: Broadcaster) -> AsyncIterator[bytes]:
    """The node's events from now on, until the client goes or the node stops."""
    loop, woken = asyncio.get_running_loop(), asyncio.Event()
    listener = events.subscribe(lambda: loop.call_soon_threadsafe(woken.set))
    if listener is None:
        busy = WitnzError("there are too many listeners, or the node is stopping", code=CANCELLED)
        yield format_event("problem", problem_document(busy))
        return
    try:
        yield b": listening\n\n"
        while not listener.closed:
            if not await _wait(woken):
                yield b": still here\n\n"
                continue
            waiting, lost = listener.take()
            if lost:
                yield format_event("lost", {"events": lost})
            for event in waiting:
                yield format_event(event.kind, event.document, event.id)
    finally:
        events.unsubscribe(listener)


def format_event(kind: str, document: Mapping[str, Any], number: int | None = None) -> bytes:
    """One event (WHATWG HTML, "Server-sent events").  ASCII, because some readers take more than LF and CR for line ends."""
    data = json.dumps(document, separators=(",", ":"), allow_nan=False)
    head = "" if number is None else f"id: {number}\n"
    return f"{head}event: {kind}\ndata: {data}\n\n".encode("ascii")


async def _wait(woken: asyncio.Event) -> bool:
    """Until ``woken`` is set, which it no longer is afterwards; False after HEARTBEAT_S without."""
    with suppress(TimeoutError):
        async with asyncio.timeout(HEARTBEAT_S):
            await woken.wait()
            woken.clear()
            return True
    return False


def _retrieve(future: asyncio.Future[Any]) -> None:
    """Note a failure nobody waits for any more, so that asyncio does not complain about it."""
    if not future.cancelled():
        future.exception()
