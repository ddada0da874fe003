"""The few calls of etcd's v3 API that ordering needs, over its JSON gateway (etcd.io/docs/v3.4/dev-guide/api_grpc_gateway).

Keys and values are base64 in JSON, 64-bit numbers are texts.  Answers are read up to a limit and parsed strictly: etcd is
asked, not believed; what it says is checked as records are checked.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from witnz.ending import ENDING_S
from witnz.errors import FormatError, NoQuorum, UsageError
from witnz.logging import get_logger

if TYPE_CHECKING:
    import ssl

    import httpx

log = get_logger(__name__)

MAX_ANSWER_BYTES: Final = 32 << 20
CONNECT_S: Final = 1.0
_HINT = "see whether etcd runs and has a quorum: etcdctl endpoint status"

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EtcdTls:
    """Files in PEM: the authority that issued the servers' certificates, and this client's certificate and key."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Range:
    """What a range of keys holds, as of one revision of the store."""

    revision: int
    items: tuple[KeyValue, ...]
    more: bool


class EtcdClient:
    """Asks one of several endpoints, the next one where that fails.  Thread-safe."""

    def __init__(self, endpoints: Iterable[str], tls: EtcdTls | None = None) -> None:
        import httpx

        self._endpoints = [endpoint.rstrip("/") for endpoint in endpoints]
        if not self._endpoints or not all(endpoint.startswith(("http://", "https://")) for endpoint in self._endpoints):
            raise UsageError("etcd: expected endpoints like https://etcd1.internal:2379")
        self._at = 0
        self._used = threading.Condition()
        self._users = 0
        self._closed = False
        limits = httpx.Limits(max_connections=8, max_keepalive_connections=4)
        verify: ssl.SSLContext | bool = True if tls is None else _context(tls)
        self._http = httpx.Client(verify=verify, limits=limits, trust_env=False, follow_redirects=False)

    def close(self) -> None:
        """Refuse further calls, wait for those under way, and let the connections go."""
        with self._used:
            self._closed = True
            if not self._used.wait_for(lambda: not self._users, ENDING_S):
                log.warning("calls to etcd did not end", calls=self._users)
        self._http.close()

    @contextmanager
    def _using(self) -> Iterator[httpx.Client]:
        with self._used:
            if self._closed:
                raise NoQuorum("the engine was closed")
            self._users += 1
        try:
            yield self._http
        finally:
            with self._used:
                self._users -= 1
                self._used.notify_all()

    def post(self, path: str, body: Json, timeout_s: float) -> Json:
        """One call.  Raises NoQuorum where no endpoint answers it, FormatError for an answer that is none."""
        import httpx

        reasons = []
        for _ in self._endpoints:
            endpoint = self._endpoints[self._at % len(self._endpoints)]
            try:
                timeout = httpx.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
                with self._using() as http, http.stream("POST", endpoint + path, json=body, timeout=timeout) as answer:
                    data = _read(answer)
                if answer.status_code == httpx.codes.OK:
                    return _object(data)
                reasons.append(f"{endpoint}: HTTP {answer.status_code} {data[:200].decode(errors='replace')}")
            except httpx.HTTPError as error:
                reasons.append(f"{endpoint}: {type(error).__name__} {error}")
            self._at += 1
        raise NoQuorum(f"etcd did not answer: {'; '.join(reasons)[:500]}", hint=_HINT)

    def read(self, requests: Iterable[Json], timeout_s: float) -> list[Range]:
        """Several ranges as of one revision, agreed with a majority (linearizable)."""
        wanted = list(requests)
        answer = self.post("/v3/kv/txn", {"success": [{"request_range": request} for request in wanted]}, timeout_s)
        revision = _number(_member(answer, "header"), "revision")
        responses = answer.get("responses", [])
        if not isinstance(responses, list) or len(responses) != len(wanted):
            raise FormatError("etcd: expected an answer to each range")
        return [_range(_member(response, "response_range"), revision) for response in responses]

    def put_if_absent(self, key: bytes, value: bytes, timeout_s: float, *, lease: int = 0) -> bool:
        """Whether this call made the key."""
        put = {"key": b64(key), "value": b64(value), "lease": str(lease)}
        compare = {"target": "CREATE", "key": b64(key), "result": "EQUAL", "create_revision": "0"}
        answer = self.post("/v3/kv/txn", {"compare": [compare], "success": [{"request_put": put}]}, timeout_s)
        return answer.get("succeeded") is True

    def replace(self, key: bytes, value: bytes, mod_revision: int, timeout_s: float) -> bool:
        """Whether the key was still as of ``mod_revision`` (0: absent) and now has this value."""
        put = {"key": b64(key), "value": b64(value)}
        compare = {"target": "MOD", "key": b64(key), "result": "EQUAL", "mod_revision": str(mod_revision)}
        answer = self.post("/v3/kv/txn", {"compare": [compare], "success": [{"request_put": put}]}, timeout_s)
        return answer.get("succeeded") is True

    def delete(self, keys: Iterable[bytes], timeout_s: float) -> None:
        operations = [{"request_delete_range": {"key": b64(key)}} for key in keys]
        if operations:
            self.post("/v3/kv/txn", {"success": operations}, timeout_s)

    def grant(self, ttl_s: int, timeout_s: float) -> int:
        """A lease, by its id."""
        return _number(self.post("/v3/lease/grant", {"TTL": str(ttl_s)}, timeout_s), "ID")

    def keep_alive(self, lease: int, timeout_s: float) -> bool:
        """Whether the lease goes on."""
        result = _member(self.post("/v3/lease/keepalive", {"ID": str(lease)}, timeout_s), "result")
        return _number(result, "TTL") > 0

    def revoke(self, lease: int, timeout_s: float) -> None:
        self.post("/v3/lease/revoke", {"ID": str(lease)}, timeout_s)

    def watch(self, start: bytes, end: bytes, stop: threading.Event, idle_s: float) -> Iterator[None]:
        """Yields whenever something in the range has changed, and once at the beginning; ends when the connection does."""
        import httpx

        endpoint = self._endpoints[self._at % len(self._endpoints)]
        body = {"create_request": {"key": b64(start), "range_end": b64(end), "progress_notify": True}}
        timeout = httpx.Timeout(idle_s, connect=CONNECT_S)
        try:
            with self._using() as http, http.stream("POST", f"{endpoint}/v3/watch", json=body, timeout=timeout) as answer:
                for _ in answer.iter_raw(65536):
                    if stop.is_set():
                        return
                    yield
        except (httpx.HTTPError, NoQuorum):
            return


def range_of(start: bytes, end: bytes | None = None, **options: Any) -> Json:
    """A range request: one key, or all from ``start`` up to and without ``end``."""
    return {"key": b64(start), **({} if end is None else {"range_end": b64(end)}), **options}


def prefix_end(prefix: bytes) -> bytes:
    """The first key after all that begin with ``prefix``."""
    return prefix[:-1] + bytes([prefix[-1] + 1])


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _context(tls: EtcdTls) -> ssl.SSLContext:
    import ssl

    context = ssl.create_default_context(cafile=str(tls.ca))
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.certificate is not None:
        context.load_cert_chain(str(tls.certificate), None if tls.key is None else str(tls.key))
    return context


def _read(answer: httpx.Response) -> bytes:
    data = bytearray()
    for chunk in answer.iter_bytes():
        data += chunk
        if len(data) > MAX_ANSWER_BYTES:
            raise FormatError(f"etcd: expected an answer of at most {MAX_ANSWER_BYTES} bytes")
    return bytes(data)


def _object(data: bytes) -> Json:
    try:
        value = json.loads(data)
    except ValueError:
        raise FormatError(f"etcd: expected JSON, found {data[:80]!r}") from None
    if not isinstance(value, dict):
        raise FormatError("etcd: expected an object")
    return value


def _member(value: Any, name: str) -> Json:
    found = value.get(name, {}) if isinstance(value, dict) else None
    if not isinstance(found, dict):
        raise FormatError(f"etcd: expected an object {name}")
    return found


def _number(value: Json, name: str) -> int:
    text = value.get(name, "0")
    if not isinstance(text, str) or not text.isascii() or not text.isdecimal() or len(text) > 19:
        raise FormatError(f"etcd: expected a number as {name}")
    return int(text)


def _range(value: Json, revision: int) -> Range:
    items = value.get("kvs", [])
    if not isinstance(items, list):
        raise FormatError("etcd: expected a list of keys")
    return Range(revision, tuple(map(_key_value, items)), value.get("more", False) is True)


def _key_value(item: Any) -> KeyValue:
    if not isinstance(item, dict):
        raise FormatError("etcd: expected a key with its value")
    try:
        key, value = (base64.b64decode(item.get(name, ""), validate=True) for name in ("key", "value"))
    except (ValueError, TypeError):
        raise FormatError("etcd: expected base64") from None
    return KeyValue(key, value, _number(item, "create_revision"), _number(item, "mod_revision"))
