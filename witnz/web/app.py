"""The HTTP interface as a starlette application: paths, roles, and how answers and errors leave (interface.md 6).

=====================================  ========  ==============================================================================
GET /health                            anybody   all checks; 503 where one fails
GET /health/live, /health/ready        anybody   the process answers; the node records
GET /status                            auditor   witnz.status/1
GET /tables, /tables/{t}               auditor
GET /logs/{t}                          auditor   ?from= &to= &key= &limit= &generation=
GET /findings, /findings/{id}          auditor   ?state= &table=
GET /findings/{id}/approval            auditor   ?reason=   what an operator has to sign
GET /checkpoints, /checkpoints/{n}     auditor   {n}: a size, or latest
GET /anchors                           auditor   ?limit=   anchors, receipts, who would have to collude
GET /verifications                     auditor   ?table= &limit=
GET /bundles/checkpoint, /bundles/row  auditor   ?size=;  ?table= &key= &seq=, and &with_row=1 for an operator
GET /tiles/{log}/checkpoint, /tile/…   auditor   C2SP tiles (:mod:`witnz.web.tiles`)
GET /events                            auditor   text/event-stream (:mod:`witnz.web.streams`)
GET /metrics                           auditor   Prometheus' text format
POST /verify/{t}                       auditor   {"how", "share"}   text/event-stream where the client accepts it
POST /reports                          auditor   {"standard", "from", "to", "lang"}   takes long; witnz.report/1
POST /samples                          auditor   {"population", "n", "seed", "from", "to"}
GET /reports/{id}/{file}               auditor   a file of what one of these two made
POST /anchor                           auditor   {"anchors": [name], "wait_s": n}   publish the newest final checkpoint
POST /anchors/check                    auditor   {"all": bool}   look whether what was anchored is still there
POST /findings/{id}/ack                operator  {"reason": …}
POST /findings/{id}/approve            operator  {"body": the signed accept body}
GET /findings/{id}/repair              operator  witnz.repair-plan/1; it holds the values of the rows
POST /findings/{id}/restore            operator  the node's own log is taken from the other members
POST /findings/{id}/repair             operator  {"applied": {…}, "sql_sha256": …}: it is written; verify, and close the finding
POST /drills                           operator  {"attack", "result", "detected_s"}
POST /tables/{t}/erasure               operator  {"keys": [key], "reason": …}   the erase body that an operator has to sign
POST /tables/{t}/pruning               operator  {"before": date, "reason": …}   the prune bodies to be signed
GET /tables/{t}/orders                 auditor   witnz.orders/1: what was ordered to be erased and pruned, and how far it is
POST /protect                          operator  {"table": …, "mode": …, …}
POST /decisions                        operator  {"type": "unprotect", "erase" …, "body": the signed body}
=====================================  ========  ==============================================================================

Who asks is what the kernel says of the connection.  Errors are application/problem+json (:mod:`witnz.web.problems`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from witnz.errors import UsageError, WitnzError
from witnz.web import orders, reads, reports, writes
from witnz.web.asked import JSON_TYPE, Asked, ask
from witnz.web.peer import Doorman, Role
from witnz.web.problems import METHOD, PROBLEM_TYPE, not_found, problem_document
from witnz.web.reads import Answer, Raw, Site
from witnz.web.served import Served
from witnz.web.streams import EVENT_STREAM, LongWork, Work, event_stream

log = structlog.get_logger(__name__)

Handler = Callable[[Site, Asked], Answer]

_PLAIN: Final[Mapping[str, str]] = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One path with its method, the least role that may ask, and the names that its query may hold."""

    method: str
    path: str
    handler: Handler
    role: Role | None = Role.AUDITOR
    query: frozenset[str] = frozenset()


def _get(path: str, handler: Handler, *query: str, role: Role | None = Role.AUDITOR) -> Endpoint:
    return Endpoint("GET", path, handler, role, frozenset(query))


def _post(path: str, handler: Handler) -> Endpoint:
    return Endpoint("POST", path, handler, Role.OPERATOR)


ENDPOINTS: Final = (
    _get("/health", reads.health, role=None),
    _get("/health/live", reads.live, role=None),
    _get("/health/ready", reads.ready, role=None),
    _get("/status", reads.status),
    _get("/tables", reads.tables),
    _get("/tables/{table}", reads.table),
    _get("/tables/{table}/orders", orders.listed),
    _get("/logs/{table}", reads.log_entries, "from", "to", "key", "limit", "generation"),
    _get("/findings", reads.findings, "state", "table"),
    _get("/findings/{finding}", reads.finding),
    _get("/findings/{finding}/approval", reads.approval, "reason"),
    _get("/checkpoints", reads.checkpoints, "limit"),
    _get("/checkpoints/{size}", reads.checkpoint),
    _get("/anchors", reads.anchors, "limit"),
    _get("/verifications", reads.verifications, "table", "limit"),
    _get("/bundles/checkpoint", reads.checkpoint_bundle, "size"),
    _get("/bundles/row", reads.row_bundle, "table", "key", "seq", "with_row"),
    _get("/tiles/{log:path}/checkpoint", reads.log_checkpoint),
    _get("/tiles/{log:path}/tile/{tile:path}", reads.log_tile),
    _get("/reports/{report}/{file:path}", reports.file),
    _get("/metrics", reads.metrics),
    _post("/findings/{finding}/ack", writes.acknowledge),
    _post("/findings/{finding}/approve", writes.approve),
    _get("/findings/{finding}/repair", reads.repair_plan, role=Role.OPERATOR),
    _post("/drills", reports.drill),
    _post("/protect", writes.protect),
    _post("/tables/{table}/erasure", orders.erasure),
    _post("/tables/{table}/pruning", orders.pruning),
    _post("/decisions", writes.decide),
)


@dataclass(frozen=True, slots=True)
class LongEndpoint:
    """A path to which the answer takes long: what is to be done is prepared, checked and journalled before it begins."""

    path: str
    prepare: Callable[[Site, Asked], Work]
    role: Role


LONG_ENDPOINTS: Final = (
    LongEndpoint("/verify/{table}", writes.verify, Role.AUDITOR),
    LongEndpoint("/reports", reports.make, Role.AUDITOR),
    LongEndpoint("/samples", reports.sample, Role.AUDITOR),
    LongEndpoint("/anchor", writes.anchor, Role.AUDITOR),
    LongEndpoint("/anchors/check", writes.check_anchors, Role.AUDITOR),
    LongEndpoint("/findings/{finding}/repair", writes.settle_repair, Role.OPERATOR),
    LongEndpoint("/findings/{finding}/restore", writes.restore_store, Role.OPERATOR),
)


def create_app(node: Served, doorman: Doorman | None = None) -> Starlette:
    """The application of a node.  ``doorman``: who may do what; None: only the user of this process and root."""
    who, site = doorman or Doorman.of(None), Site.of(node)
    routes = [Route(endpoint.path, _serve(site, endpoint, who), methods=[endpoint.method]) for endpoint in ENDPOINTS]
    stopping = threading.Event()
    long_work = LongWork(stopping)
    routes += [Route(one.path, _long(site, one, long_work, who), methods=["POST"]) for one in LONG_ENDPOINTS]
    routes.append(Route("/events", _events(node, who), methods=["GET"]))
    app = Starlette(routes=routes, exception_handlers={HTTPException: _http_error, Exception: _unexpected})
    app.router.redirect_slashes = False
    app.state.node, app.state.stopping, app.state.long_work = node, stopping, long_work
    return app


# -- requests -----------------------------------------------------------------------------------------------------------------


def _serve(site: Site, endpoint: Endpoint, doorman: Doorman) -> Callable[[Request], Any]:
    async def serve(request: Request) -> Response:
        try:
            asked = await ask(request, doorman, endpoint.role, endpoint.query)
            return _respond(await run_in_threadpool(endpoint.handler, site, asked))
        except WitnzError as error:
            return problem_response(error)

    return serve


def _long(site: Site, endpoint: LongEndpoint, long_work: LongWork, doorman: Doorman) -> Callable[[Request], Any]:
    async def serve(request: Request) -> Response:
        try:
            asked = await ask(request, doorman, endpoint.role, frozenset())
            work = await run_in_threadpool(endpoint.prepare, site, asked)
            if EVENT_STREAM in request.headers.get("accept", ""):
                return _stream(long_work.stream(work))
            return _respond(await long_work.run(work))
        except WitnzError as error:
            return problem_response(error)

    return serve


def _events(node: Served, doorman: Doorman) -> Callable[[Request], Any]:
    async def events(request: Request) -> Response:
        try:
            await ask(request, doorman, Role.AUDITOR, frozenset())
        except WitnzError as error:
            return problem_response(error)
        return _stream(event_stream(node.events))

    return events


# -- answers ------------------------------------------------------------------------------------------------------------------


def _respond(answer: Answer) -> Response:
    raw = answer if isinstance(answer, Raw) else Raw(answer)
    data = raw.data if isinstance(raw.data, bytes) else _json(raw.data)
    return Response(data, raw.status, {**_PLAIN, **raw.headers}, raw.media_type)


def _stream(chunks: Any) -> StreamingResponse:
    return StreamingResponse(chunks, headers=dict(_PLAIN), media_type=EVENT_STREAM)


def problem_response(error: WitnzError) -> Response:
    """An error as application/problem+json."""
    document = problem_document(error)
    if document["status"] >= 500:
        log.warning("request was not answered", code=error.code, reason=error.message)
    # A body that was not read to its end would stand in the way of the next request.
    return Response(_json(document), document["status"], {**_PLAIN, "connection": "close"}, PROBLEM_TYPE)


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n"


async def _http_error(request: Request, error: Exception) -> Response:
    """What starlette itself refuses: no such path, no such method."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    shown = f"{request.method} {request.url.path[:200]}"
    if status == 405:
        response = problem_response(UsageError(f"{shown}: the method does not go with this path", code=METHOD))
        response.headers.update(getattr(error, "headers", None) or {})
        return response
    if status == 404:
        return problem_response(not_found(f"{shown}: there is no such path", "witnz and the node may be of different versions"))
    return problem_response(UsageError(f"{shown} was refused: {status}"))


async def _unexpected(request: Request, error: Exception) -> Response:
    """A mistake in the program: the client learns that there was one, the log has the traceback."""
    return problem_response(WitnzError("the node failed to answer; its log says more"))


__all__ = ["ENDPOINTS", "JSON_TYPE", "Endpoint", "Served", "create_app", "problem_response"]
