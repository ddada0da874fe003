"""The command line's side of the HTTP interface: one method for every path, over the node's Unix socket.

Answers are the documents of :mod:`witnz.web.app` without their envelope where that is only a list; a problem is raised as
the error that the node had, with its code, exit code and hint.  That no node answers is NodeUnreachable; then a command may
read the store itself (:class:`witnz.node.view.StoreView` has the same methods for what needs no running node).

The standard library's HTTP client does: one connection a question costs next to nothing on a Unix socket, and a command is not
kept waiting for a larger library to be imported.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import quote, urlencode

from witnz.core.tiles import tile_path
from witnz.errors import FormatError, KeyProblem, NodeUnreachable, WitnzError
from witnz.web.problems import PROBLEM_TYPE, error_from_problem, parse_problem

CONNECT_S: Final = 5.0
ANSWER_S: Final = 120.0  # the node may be busy; what takes longer is a stream
SILENCE_S: Final = 60.0  # streams say something every HEARTBEAT_S
MAX_ANSWER_BYTES: Final = 128 * 1024 * 1024
MAX_LINE_BYTES: Final = 64 * 1024 * 1024
MAX_PATH_BYTES: Final = 107  # sun_path of unix(7)
EVENT_STREAM: Final = "text/event-stream"
_CHUNK: Final = 65_536

Progress = Callable[[int], None]


class NodeClient:
    """Speaks to the node at ``socket_path``, by any number of threads; holds nothing open between questions."""

    def __init__(self, socket_path: Path, *, answer_s: float = ANSWER_S) -> None:
        self._path, self._answer_s = socket_path, answer_s

    def close(self) -> None:
        """Nothing is left to close; there for ``with``, and for whoever pairs it with an opening."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    # -- health and status ----------------------------------------------------------------------------------------------------

    def is_running(self) -> bool:
        """Whether a node answers at the socket at all."""
        try:
            self._get("/health/live")
        except NodeUnreachable:
            return False
        return True

    def is_ready(self) -> bool:
        """Whether the node records."""
        return bool(self._get("/health/ready", allowed=503).get("status") == "ready")

    def health(self) -> dict[str, Any]:
        return self._get("/health", allowed=503)

    def status(self) -> dict[str, Any]:
        """``witnz.status/1``."""
        return self._get("/status")

    def metrics(self) -> str:
        return self._bytes("/metrics").decode()

    # -- what is recorded -----------------------------------------------------------------------------------------------------

    def tables(self) -> list[dict[str, Any]]:
        return list(self._get("/tables")["tables"])

    def table(self, name: str) -> dict[str, Any]:
        return self._get(f"/tables/{_segment(name)}")

    def log_entries(
        self,
        table: str,
        from_seq: int = 1,
        to_seq: int | None = None,
        key: str | None = None,
        limit: int = 100,
        *,
        generation: int | None = None,
    ) -> dict[str, Any]:
        """One page of entries; go on with ``from_seq=page["next_seq"]`` until that is null."""
        query = {"from": from_seq, "to": to_seq, "key": key, "limit": limit, "generation": generation}
        return self._get(f"/logs/{_segment(table)}", query)

    def findings(self, state: str | None = None, table: str | None = None) -> list[dict[str, Any]]:
        return list(self._get("/findings", {"state": state, "table": table})["findings"])

    def finding(self, finding_id: str) -> dict[str, Any]:
        return self._get(f"/findings/{_segment(finding_id)}")

    def checkpoints(self, limit: int = 100) -> list[dict[str, Any]]:
        return list(self._get("/checkpoints", {"limit": limit})["checkpoints"])

    def checkpoint(self, size: int | None = None) -> dict[str, Any]:
        return self._get(f"/checkpoints/{'latest' if size is None else size}")

    def verifications(self, table: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        return list(self._get("/verifications", {"table": table, "limit": limit})["verifications"])

    def anchors(self, limit: int = 100) -> dict[str, Any]:
        """``witnz.anchors/1``."""
        return self._get("/anchors", {"limit": limit})

    # -- proofs ---------------------------------------------------------------------------------------------------------------

    def checkpoint_bundle(self, size: int | None = None) -> bytes:
        return self._bytes("/bundles/checkpoint", {"size": size})

    def row_bundle(self, table: str, key: str | None = None, *, seq: int | None = None, with_row: bool = False) -> bytes:
        query = {"table": table, "key": key, "seq": seq, "with_row": 1 if with_row else None}
        return self._bytes("/bundles/row", query)

    def tile_checkpoint(self, log: str) -> str:
        """The checkpoint text of a log: signed for the journal, unsigned for a table log (:mod:`witnz.web.tiles`)."""
        return self._bytes(f"/tiles/{_segment(log)}/checkpoint").decode()

    def tile(self, log: str, level: int | None, n: int, width: int = 256) -> bytes:
        """A tile of a log, or, where ``level`` is None, an entry bundle."""
        return self._bytes(f"/tiles/{_segment(log)}/{tile_path('entries' if level is None else level, n, width)}")

    # -- doing ----------------------------------------------------------------------------------------------------------------

    def verify(
        self, table: str, on_progress: Progress = lambda rows: None, how: str = "", *, share: str | None = None
    ) -> dict[str, Any]:
        """``witnz.verify/1`` of one table; ``on_progress`` is told the rows read so far.  May take hours.

        ``how``: as one snapshot where it is empty, ``rolling`` in ranges, ``N/T`` a sample of ranges.  ``share``: a token under
        which a session of the caller reads in that one snapshot (:mod:`witnz.postgres.handshake`).
        """
        body = {"share": share} if share is not None else {"how": how} if how else {}
        return self._work(f"/verify/{_segment(table)}", body, on_progress)

    def events(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """The node's events from now on, as (kind, document), until the node stops."""
        with self._stream("GET", "/events", None) as lines:
            for kind, document in _events(lines):
                if kind == "problem":
                    raise error_from_problem(document)
                yield kind, document

    def anchor_now(self, names: Sequence[str], wait_s: int) -> list[dict[str, Any]]:
        """Publish through these anchors (all, if none is named); one outcome each."""
        document = self._work("/anchor", {"anchors": list(names), "wait_s": wait_s}, lambda rows: None)
        return list(document["anchors"])

    def check_anchors(self, on_progress: Progress = lambda done: None, *, everything: bool = False) -> list[dict[str, Any]]:
        """Look at receipts; one document each."""
        return list(self._work("/anchors/check", {"all": everything}, on_progress)["receipts"])

    def acknowledge(self, finding_id: str, reason: str) -> dict[str, Any]:
        return self._post(f"/findings/{_segment(finding_id)}/ack", {"reason": reason})

    def approval(self, finding_id: str, reason: str) -> tuple[str, dict[str, Any]]:
        """(cluster id, body of the ``accept`` record) that an operator has to sign to approve a finding."""
        document = self._get(f"/findings/{_segment(finding_id)}/approval", {"reason": reason})
        return str(document["cluster"]), dict(document["body"])

    def approve(self, finding_id: str, signed_body: Mapping[str, Any]) -> dict[str, Any]:
        return self._post(f"/findings/{_segment(finding_id)}/approve", {"body": dict(signed_body)})

    def decide(self, record_type: str, signed_body: Mapping[str, Any]) -> int:
        """Journal a decision that an operator signed (:data:`witnz.node.node.DECISIONS`); its seq."""
        return int(self._post("/decisions", {"type": record_type, "body": dict(signed_body)})["seq"])

    def erasure(self, table: str, keys: Sequence[str], reason: str) -> tuple[str, dict[str, Any]]:
        """(cluster id, body of the ``erase`` record) that an operator has to sign."""
        document = self._post(f"/tables/{_segment(table)}/erasure", {"keys": list(keys), "reason": reason})
        return str(document["cluster"]), dict(document["bodies"][0])

    def pruning(self, table: str, before: str, reason: str) -> tuple[str, list[dict[str, Any]], dict[str, Any]]:
        """(cluster id, bodies of the ``prune`` records to be signed, ``witnz.pruning/1``)."""
        document = self._post(f"/tables/{_segment(table)}/pruning", {"before": before, "reason": reason})
        return str(document["cluster"]), list(document["bodies"]), dict(document["plan"])

    def orders(self, table: str) -> dict[str, Any]:
        """``witnz.orders/1``: what was ordered to be erased and pruned of a table."""
        return self._get(f"/tables/{_segment(table)}/orders")

    def repair_plan(self, finding_id: str) -> dict[str, Any]:
        """``witnz.repair-plan/1``; it holds the values of the rows."""
        return self._get(f"/findings/{_segment(finding_id)}/repair")

    def settle_repair(self, finding_id: str, applied: Mapping[str, Any], sql_sha256: str) -> dict[str, Any]:
        """``witnz.repair/1``, once the table is verified; ``applied``: the fields of what was written."""
        document = {"applied": dict(applied) | {"xid": str(applied["xid"])}, "sql_sha256": sql_sha256}
        return self._work(f"/findings/{_segment(finding_id)}/repair", document, lambda rows: None)

    def restore_store(self, finding_id: str) -> dict[str, Any]:
        """``witnz.restore/1``, once the node's own log is the majority's again."""
        return self._work(f"/findings/{_segment(finding_id)}/restore", {}, lambda rows: None)

    def protect(
        self, table: str, mode: str = "state_integrity", *, exclude_columns: Sequence[str] = (), **rules: bool | str
    ) -> dict[str, Any]:
        """``rules``: on_change, inserts_only, require_intent, retain, keys, as in ``protected_tables[]``."""
        body = {"table": table, "mode": mode, **rules} | ({"exclude_columns": list(exclude_columns)} if exclude_columns else {})
        return self._post("/protect", body)

    # -- reports --------------------------------------------------------------------------------------------------------------

    def report(
        self, standard: str, begin: str, end: str, lang: str, on_progress: Progress = lambda step: None
    ) -> dict[str, Any]:
        """``witnz.report/1``; its files are fetched with :meth:`report_file`."""
        return self._work("/reports", {"standard": standard, "from": begin, "to": end, "lang": lang}, on_progress)

    def sample(self, population: str, n: int, seed: str, begin: str, end: str) -> dict[str, Any]:
        """``witnz.report-sample/1``; its files alike."""
        body = {"population": population, "n": n, "seed": seed, "from": begin, "to": end}
        return self._work("/samples", body, lambda step: None)

    def drill(self, attack: str, result: str, detected_s: int | None) -> int:
        """Journal an exercise; its seq."""
        return int(self._post("/drills", {"attack": attack, "result": result, "detected_s": detected_s})["seq"])

    def report_file(self, report: str, name: str) -> bytes:
        return self._bytes(f"/reports/{_segment(report)}/{quote(name)}")

    # -- speaking -------------------------------------------------------------------------------------------------------------

    def _get(self, path: str, query: Mapping[str, Any] | None = None, *, allowed: int = 200) -> dict[str, Any]:
        return _document(self._ask("GET", path, query, allowed=allowed))

    def _post(self, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        return _document(self._ask("POST", path, body=body))

    def _bytes(self, path: str, query: Mapping[str, Any] | None = None) -> bytes:
        return self._ask("GET", path, query)

    def _ask(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        allowed: int = 200,
    ) -> bytes:
        with self._talk(method, path, query, body, silence_s=self._answer_s) as response:
            data = bytearray()
            while chunk := response.read(_CHUNK):
                data += chunk
                if len(data) > MAX_ANSWER_BYTES:
                    raise FormatError(f"answer of the node: expected at most {MAX_ANSWER_BYTES} bytes")
            if response.status not in (200, allowed):
                raise _problem(response, bytes(data))
            return bytes(data)

    def _work(self, path: str, body: Mapping[str, Any], on_progress: Progress) -> dict[str, Any]:
        """The result of what takes long."""
        with self._stream("POST", path, body) as lines:
            for kind, document in _events(lines):
                if kind == "progress":
                    on_progress(int(document["rows"]))
                elif kind == "result":
                    return document
                elif kind == "problem":
                    raise error_from_problem(document)
        raise NodeUnreachable("the node ended the connection before it was done", hint="the node's log says why; run it again")

    @contextmanager
    def _stream(self, method: str, path: str, body: Mapping[str, Any] | None) -> Iterator[Iterator[bytes]]:
        with self._talk(method, path, None, body, silence_s=SILENCE_S, accept=EVENT_STREAM) as response:
            if response.status != 200:
                raise _problem(response, response.read(MAX_LINE_BYTES))
            yield iter(lambda: response.readline(MAX_LINE_BYTES), b"")

    @contextmanager
    def _talk(
        self,
        method: str,
        path: str,
        query: Mapping[str, Any] | None,
        body: Mapping[str, Any] | None,
        *,
        silence_s: float,
        accept: str = "application/json",
    ) -> Iterator[http.client.HTTPResponse]:
        """Ask, and offer the answer to be read; ``silence_s``: how long the node may say nothing."""
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = path + (f"?{urlencode(given)}" if given else "")
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
        headers = {"accept": accept, "connection": "close"}
        if content is not None:
            headers["content-type"] = "application/json"
        connection = http.client.HTTPConnection("node")
        connection.sock = self._connect(silence_s)
        try:
            with suppress(BrokenPipeError, ConnectionResetError):  # the node had heard enough: its answer says why
                connection.request(method, target, content, headers)
            with closing(connection.getresponse()) as response:
                yield response
        except TimeoutError:
            raise NodeUnreachable(
                f"the node at {self._path} did not answer in time", hint="is it overloaded or stopped? see its log"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise NodeUnreachable(
                f"the connection to the node at {self._path} broke: {error or type(error).__name__}",
                hint="did it stop? see its log",
            ) from None
        finally:
            connection.close()

    def _connect(self, silence_s: float) -> socket.socket:
        if len(os.fsencode(self._path)) > MAX_PATH_BYTES:
            raise NodeUnreachable(
                f"socket {self._path}: no Unix socket can have a path of more than {MAX_PATH_BYTES} bytes",
                hint="set socket_path to a shorter one",
            )
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(CONNECT_S)
        try:
            connection.connect(str(self._path))
        except OSError as error:
            connection.close()
            if isinstance(error, PermissionError):
                raise KeyProblem(
                    f"socket {self._path} may not be opened by this user",
                    hint="run the command as the user that the node runs as, or become a member of socket_group",
                ) from None
            raise NodeUnreachable(
                f"no node answers at {self._path}", hint="start it with `witnz start`, or name its socket (socket_path)"
            ) from None
        connection.settimeout(silence_s)
        return connection


def _segment(text: str) -> str:
    return quote(text, safe="")


def _document(data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise FormatError("answer of the node: expected a JSON object", hint="are command and node of the same version?")
    return document


def _problem(response: http.client.HTTPResponse, data: bytes) -> WitnzError:
    """The error in an answer that is not the one hoped for."""
    if (response.headers.get("content-type") or "").startswith(PROBLEM_TYPE):
        return parse_problem(data)
    text = data[:200].decode("utf-8", "replace").strip()
    return NodeUnreachable(f"the node answered {response.status}: {text}", hint="see the node's log")


def _events(lines: Iterator[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(kind, document) of each event of a text/event-stream; comments and ids are left out.

    Raises FormatError for an event longer than MAX_LINE_BYTES.
    """
    kind, data = "message", b""
    for line in lines:
        name, _, value = line.rstrip(b"\r\n").partition(b":")
        value = value.removeprefix(b" ")
        if name == b"event":
            kind = value.decode("utf-8", "replace")
        elif name == b"data":
            data += value
            if len(data) >= MAX_LINE_BYTES - 16:
                raise FormatError(f"event of the node: expected at most {MAX_LINE_BYTES} bytes")
        elif not line.strip() and data:
            yield kind, _document(data)
            kind, data = "message", b""
