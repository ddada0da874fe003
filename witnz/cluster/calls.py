"""Requests and responses over links: who waits for which answer, and who answers."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Final

from witnz.cluster.frames import (
    ANSWER,
    REFUSAL,
    More,
    Request,
    Response,
    format_cancel,
    format_refusal,
    format_request,
    format_response,
    parse_refusal,
)
from witnz.cluster.link import Link
from witnz.cluster.peers import MAX_RESPONSE_BYTES, Handler
from witnz.errors import FormatError, PeerRefused, PeerUnreachable, UsageError, WitnzError
from witnz.logging import get_logger

log = get_logger(__name__)

WORKERS: Final = 8
MAX_OPEN_PER_PEER: Final = 32
MAX_RUNNING_PER_PEER: Final = 4
MAX_BUFFERED_PER_PEER: Final = 32 << 20


@dataclass(slots=True)
class _Call:
    """A request of ours that waits for its answer."""

    link: Link
    method: str
    answer: Future[bytes] = field(default_factory=Future)
    kind: int = ANSWER
    total: int = -1
    received: bytearray = field(default_factory=bytearray)


@dataclass(slots=True)
class _Asked:
    """A request of a peer that is not answered yet."""

    method: str
    total: int
    received: bytearray
    running: bool = False
    dropped: bool = False


class Calls:
    """Both sides of every call.  Frames are handed in by the I/O thread; handlers run on threads of their own."""

    def __init__(self, node_id: str) -> None:
        self._node_id = node_id
        self._lock = threading.Lock()
        self._ids: Iterator[int] = itertools.count(1)
        self._waiting: dict[int, _Call] = {}
        self._asked: dict[Link, dict[int, _Asked]] = {}
        self._handlers: dict[str, tuple[Handler, int]] = {}
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="peers")

    def serve(self, method: str, handler: Handler, max_request_bytes: int) -> None:
        self._handlers[method] = handler, max_request_bytes

    def close(self) -> None:
        self._workers.shutdown(wait=False, cancel_futures=True)

    # -- asking ---------------------------------------------------------------------------------------------------------------

    def call(self, link: Link, method: str, body: bytes, timeout_s: float) -> bytes:
        """Ask over this link and wait for the answer."""
        call = _Call(link, method)
        with self._lock:
            call_id = next(self._ids)
            self._waiting[call_id] = call
        try:
            if not link.post(format_request(call_id, method, body), urgent=False):
                raise PeerUnreachable(f"{link.peer}: too much is on its way to it already, or its connection has ended")
            return call.answer.result(timeout_s)
        except TimeoutError:
            link.post([format_cancel(call_id)], urgent=False)
            raise PeerUnreachable(f"{link.peer} did not answer {method} within {timeout_s:g} s") from None
        finally:
            with self._lock:
                self._waiting.pop(call_id, None)

    def response(self, link: Link, response: Response) -> None:
        """The beginning of an answer; one that nobody waits for any more is not looked at."""
        with self._lock:
            call = self._waiting.get(response.call)
        if call is None or call.link is not link:
            return
        if response.total > MAX_RESPONSE_BYTES or call.total >= 0:
            raise FormatError(f"response to {call.method}: expected one of at most {MAX_RESPONSE_BYTES} bytes")
        call.kind, call.total = response.kind, response.total
        self._extend(call, response.chunk)

    def more(self, link: Link, more: More) -> None:
        """A further chunk of an answer, or of a request."""
        if more.of_response:
            with self._lock:
                call = self._waiting.get(more.call)
            if call is not None and call.link is link:
                self._extend(call, more.chunk)
            return
        asked = self._asked.get(link, {}).get(more.call)
        if asked is None or asked.dropped:
            return
        if len(asked.received) + len(more.chunk) > asked.total:
            raise FormatError(f"request {asked.method}: more came than was announced")
        asked.received += more.chunk
        self._run_if_complete(link, more.call, asked)

    def _extend(self, call: _Call, chunk: bytes) -> None:
        if call.total < 0 or len(call.received) + len(chunk) > call.total:
            raise FormatError(f"response to {call.method}: more came than was announced")
        call.received += chunk
        if len(call.received) < call.total or call.answer.done():
            return
        if call.kind == ANSWER:
            call.answer.set_result(bytes(call.received))
        else:
            code, message = parse_refusal(bytes(call.received))
            call.answer.set_exception(PeerRefused(f"{call.link.peer} refused {call.method}: {message}", refusal=code))

    # -- answering ------------------------------------------------------------------------------------------------------------

    def request(self, link: Link, request: Request) -> None:
        """The beginning of a request; it is refused unread where it is too long, unknown or too many are open."""
        open_here = self._asked.setdefault(link, {})
        if request.call in open_here:
            raise FormatError(f"request {request.method}: its call id is in use")
        try:
            self._admit(request, open_here)
        except UsageError as error:
            self._refuse(link, request.call, error)
            return
        asked = _Asked(request.method, request.total, bytearray(request.chunk))
        open_here[request.call] = asked
        self._run_if_complete(link, request.call, asked)

    def cancel(self, link: Link, call_id: int) -> None:
        """The caller no longer waits; what has not begun is not begun."""
        asked = self._asked.get(link, {}).get(call_id)
        if asked is None:
            return
        asked.dropped = True
        if not asked.running:
            del self._asked[link][call_id]

    def lost(self, link: Link) -> None:
        """The link has ended: its calls fail, its requests are forgotten."""
        for asked in self._asked.pop(link, {}).values():
            asked.dropped = True
        with self._lock:
            calls = [call for call in self._waiting.values() if call.link is link]
        for call in calls:
            if not call.answer.done():
                reason = f"{link.peer}: the connection was lost before it answered {call.method}"
                call.answer.set_exception(PeerUnreachable(reason))

    def _admit(self, request: Request, open_here: dict[int, _Asked]) -> None:
        if request.method not in self._handlers:
            raise UsageError(f"{self._node_id} does not answer {request.method}")
        limit = self._handlers[request.method][1]
        if request.total > limit:
            raise UsageError(f"{request.method}: expected at most {limit} bytes, found {request.total}")
        buffered = sum(asked.total for asked in open_here.values())
        if len(open_here) >= MAX_OPEN_PER_PEER or buffered + request.total > MAX_BUFFERED_PER_PEER:
            raise UsageError(f"{request.method}: too many requests are open", code="peer.busy")

    def _run_if_complete(self, link: Link, call_id: int, asked: _Asked) -> None:
        if len(asked.received) == asked.total:
            self._begin_next(link)

    def _begin_next(self, link: Link) -> None:
        """Hand complete requests to the workers, in their order, a few of one peer at a time."""
        open_here = self._asked.get(link, {})
        running = sum(asked.running for asked in open_here.values())
        for call_id, asked in list(open_here.items()):
            if running >= MAX_RUNNING_PER_PEER:
                return
            if asked.running or asked.dropped or len(asked.received) < asked.total:
                continue
            asked.running = True
            running += 1
            handler = self._handlers[asked.method][0]
            try:
                work = self._workers.submit(handler, link.peer, bytes(asked.received))
            except RuntimeError:  # the node stops
                return
            work.add_done_callback(partial(self._hand_back, link, call_id))

    def _hand_back(self, link: Link, call_id: int, done: Future[bytes]) -> None:
        link.on_loop(lambda: self._answered(link, call_id, done))

    def _answered(self, link: Link, call_id: int, done: Future[bytes]) -> None:
        asked = self._asked.get(link, {}).pop(call_id, None)
        if asked is None:
            return
        error = UsageError("the node stops", code="peer.busy") if done.cancelled() else done.exception()
        if error is None:
            if not asked.dropped:
                self._answer(link, call_id, asked.method, done.result())
        elif isinstance(error, WitnzError):
            self._refuse(link, call_id, error)
        else:
            log.error("handler of a peer's request failed", method=asked.method, peer=link.peer, exc_info=error)
            self._refuse(link, call_id, WitnzError(f"{asked.method} failed; the log of {self._node_id} says why"))
        self._begin_next(link)

    def _answer(self, link: Link, call_id: int, method: str, answer: bytes) -> None:
        if len(answer) > MAX_RESPONSE_BYTES:
            self._refuse(
                link, call_id, UsageError(f"{method}: its answer of {len(answer)} bytes is too long", code="too-large")
            )
        elif not link.post(format_response(call_id, ANSWER, answer), urgent=False):
            self._refuse(link, call_id, UsageError("too much is on its way already", code="peer.busy"))

    def _refuse(self, link: Link, call_id: int, error: WitnzError) -> None:
        link.post(format_response(call_id, REFUSAL, format_refusal(error.code, error.message)), urgent=False)
