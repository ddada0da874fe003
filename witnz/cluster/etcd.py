"""etcd as the ordering engine, for operators who run one.

    <prefix>log/<sha256 of the proposal's key>    a command, put only if absent; its create revision is its index
    <prefix>snapshot                              index and text of a snapshot; commands up to it may be gone
    <prefix>leader                                the leading node's id, under a lease of two seconds

A put-if-absent transaction orders a command, whoever makes it and however often: the revision in which a key was made is
unique and grows, and a read of all keys made after some revision, itself agreed with a majority, can miss none.  Every member
reads that way and applies; a watch only says when to look.  etcd's members are its own matter: a change of ours ends nothing.

Whoever runs etcd can rewrite or drop what is in it; as with any engine, that is found out and forges nothing.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final

from witnz.cluster.engine import MAX_SNAPSHOT_BYTES, Apply, EngineStatus, Membership, Resume, check_command
from witnz.cluster.etcd_client import EtcdClient, EtcdTls, KeyValue, b64, prefix_end, range_of
from witnz.ending import end_threads
from witnz.errors import FormatError, NoQuorum, UsageError, WitnzError
from witnz.logging import get_logger

log = get_logger(__name__)

PAGE: Final = 32
LEASE_S: Final = 2
LOOK_S: Final = 1.0
LEAD_S: Final = 0.5
WATCH_S: Final = 1.5
ASK_S: Final = 2.0
QUORUM_S: Final = 3.0
KEEP_COMMANDS: Final = 1000
DELETE_AT_ONCE: Final = 100
_HINT = "see whether etcd runs and has a quorum: etcdctl endpoint status"


class EtcdEngine:
    """The :class:`witnz.cluster.engine.Engine` over an etcd of version 3.4 or later."""

    def __init__(
        self,
        node_id: str,
        cluster_id: str,
        endpoints: Iterable[str],
        tls: EtcdTls | None = None,
        *,
        keep_commands: int = KEEP_COMMANDS,
    ) -> None:
        self._node_id, self._keep = node_id, keep_commands
        self._client = EtcdClient(endpoints, tls)
        base = f"/witnz/{cluster_id}/".encode()
        self._log, self._snapshot, self._leader_key = base + b"log/", base + b"snapshot", base + b"leader"
        self._apply: Apply | None = None
        self._resume: Resume | None = None
        self._stop = threading.Event()
        self._look = threading.Event()
        self._changed = threading.Condition()
        self._applied = 0  # the index of the last command that was applied
        self._seen = 0  # the revision up to which everything was applied
        self._leader: tuple[str | None, int] = (None, 0)
        self._answered_at = float("-inf")
        self._error: str | None = None
        self._epoch = 0
        self._threads = [
            threading.Thread(target=work, name=f"etcd-{name}", daemon=True)
            for name, work in (("apply", self._run_apply), ("watch", self._run_watch), ("lead", self._run_lead))
        ]

    # -- asked by the node ----------------------------------------------------------------------------------------------------

    def on_apply(self, apply: Apply, resume: Resume | None = None) -> None:
        self._apply, self._resume = apply, resume

    def take_part(self) -> None:
        """etcd orders without us."""

    def start(self) -> None:
        if self._apply is None:
            raise RuntimeError("start() before on_apply()")
        if self._resume is not None:
            self._applied = self._seen = self._resume.applied_index()
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._stop.set()
        self._look.set()
        with self._changed:
            self._changed.notify_all()
        end_threads(*self._threads)
        self._client.close()

    def propose(self, command: bytes, key: str, deadline_s: float) -> int:
        check_command(command)
        name = self._log + hashlib.sha256(key.encode()).hexdigest().encode()
        deadline = time.monotonic() + deadline_s
        index: int | None = None
        reason = "no agreement"
        while index is None:
            left = deadline - time.monotonic()
            if left <= 0 or self._stop.is_set():
                raise NoQuorum(f"{key}: {reason} within {deadline_s:g} s", hint=_HINT)
            try:
                self._client.put_if_absent(name, command, min(left, ASK_S))
                found = self._client.read([range_of(name, keys_only=True)], min(max(deadline - time.monotonic(), 0.05), ASK_S))
                index = found[0].items[0].create_revision if found[0].items else None
            except WitnzError as error:
                reason = error.message
                self._stop.wait(min(0.1, max(0.0, deadline - time.monotonic())))
        self._look.set()
        self._wait(lambda: self._applied >= index or self._seen >= index, deadline, key, deadline_s)
        return index

    def barrier(self, deadline_s: float) -> None:
        deadline = time.monotonic() + deadline_s
        revision = self._client.read([range_of(self._leader_key, keys_only=True)], deadline_s)[0].revision
        self._look.set()
        self._wait(lambda: self._seen >= revision, deadline, "barrier", deadline_s)

    def reconfigure(self, membership: Membership) -> None:
        self._epoch = membership.epoch

    def leader(self) -> str | None:
        return self._leader[0] if self._hears_quorum() else None

    def status(self) -> EngineStatus:
        return EngineStatus(
            leader=self.leader(),
            term=self._leader[1],
            index=self._applied,
            has_quorum=self._hears_quorum(),
            committed=max(self._applied, self._seen),
            epoch=self._epoch,
            error=self._error,
        )

    def _hears_quorum(self) -> bool:
        return time.monotonic() - self._answered_at < QUORUM_S and not self._stop.is_set()

    def _wait(self, condition: Callable[[], bool], deadline: float, what: str, deadline_s: float) -> None:
        with self._changed:
            while not condition():
                left = deadline - time.monotonic()
                if left <= 0 or self._stop.is_set():
                    reason = self._error or "not applied"
                    raise NoQuorum(f"{what}: {reason} within {deadline_s:g} s", hint=_HINT)
                self._changed.wait(left)

    # -- applying -------------------------------------------------------------------------------------------------------------

    def _run_apply(self) -> None:
        while not self._stop.is_set():
            self._look.clear()
            try:
                more = self._apply_next()
                self._error = None
            except NoQuorum as error:
                log.debug("etcd did not answer", reason=error.message)
                more = False
            except Exception as error:  # a command is never skipped and never ends the thread: it is tried again
                self._error = f"a command is not applied: {error}"
                log.exception("command was not applied and will be tried again", reason=str(error))
                more = False
                self._stop.wait(LOOK_S)
            if not more:
                self._look.wait(LOOK_S)

    def _apply_next(self) -> bool:
        """Apply a page of commands; whether there are more."""
        wanted = range_of(
            self._log, prefix_end(self._log), sort_order="ASCEND", sort_target="CREATE", limit=str(PAGE),
            min_create_revision=str(self._seen + 1),
        )  # fmt: skip
        snapshot, page = self._client.read([range_of(self._snapshot), wanted], ASK_S)
        self._answered_at = time.monotonic()
        if snapshot.items and self._is_behind(snapshot.items[0]):
            return True
        for item in page.items:
            if item.create_revision > self._applied:
                assert self._apply is not None
                self._apply(item.create_revision, item.value)
                self._advance(item.create_revision, item.create_revision)
            if self._stop.is_set():
                return False
        if not page.more:
            self._advance(self._applied, page.revision)
        return page.more

    def _is_behind(self, item: KeyValue) -> bool:
        """Restore from the snapshot where commands that this node has not applied may be gone."""
        index, data = _parse_snapshot(item.value)
        if index <= self._seen:
            return False
        if self._resume is None:
            raise UsageError("commands that this node has not applied are gone, and it has no way to restore")
        self._resume.restore(index, data)
        self._advance(max(index, self._resume.applied_index()), index)
        return True

    def _advance(self, applied: int, seen: int) -> None:
        with self._changed:
            self._applied, self._seen = max(self._applied, applied), max(self._seen, seen)
            self._changed.notify_all()

    def _run_watch(self) -> None:
        """Look whenever something was put."""
        while not self._stop.is_set():
            for _ in self._client.watch(self._log, prefix_end(self._log), self._stop, WATCH_S):
                self._look.set()
            self._stop.wait(0.2)

    # -- leading and forgetting -----------------------------------------------------------------------------------------------

    def _run_lead(self) -> None:
        """Who leads; this node, where nobody does; and, as the leader, forgetting old commands."""
        lease, counted = 0, 0
        while not self._stop.wait(LEAD_S):
            try:
                lease = self._hold(lease)
                counted += 1
                if self._leader[0] == self._node_id and counted % 20 == 0:
                    self._forget_old()
            except WitnzError as error:
                log.debug("leadership was not renewed", reason=error.message)
        if lease:
            try:
                self._client.revoke(lease, ASK_S)
            except WitnzError as error:
                log.debug("leadership was not given up", reason=error.message)

    def _hold(self, lease: int) -> int:
        """Renew the lease, or try to become the leader; the lease that is held."""
        if lease and not self._client.keep_alive(lease, ASK_S):
            lease = 0
        (found,) = self._client.read([range_of(self._leader_key)], ASK_S)
        self._answered_at = time.monotonic()
        if not found.items:
            lease = lease or self._client.grant(LEASE_S, ASK_S)
            self._client.put_if_absent(self._leader_key, self._node_id.encode(), ASK_S, lease=lease)
            (found,) = self._client.read([range_of(self._leader_key)], ASK_S)
        self._leader = (
            (found.items[0].value.decode(errors="replace")[:64], found.items[0].create_revision) if found.items else (None, 0)
        )
        return lease

    def _forget_old(self) -> None:
        """As the leader, keep the newest commands and a snapshot of what came before."""
        if self._resume is None:
            return
        count_only = {"key": b64(self._log), "range_end": b64(prefix_end(self._log)), "count_only": True}
        counted = self._client.post("/v3/kv/range", count_only, ASK_S).get("count", "0")
        if not isinstance(counted, str) or not counted.isdecimal() or int(counted) <= 2 * self._keep:
            return
        index, data = self._resume.snapshot()
        if len(data) > MAX_SNAPSHOT_BYTES:
            raise UsageError(f"snapshot: expected at most {MAX_SNAPSHOT_BYTES} bytes, found {len(data)}")
        (old,) = self._client.read([range_of(self._snapshot)], ASK_S)
        if old.items and _parse_snapshot(old.items[0].value)[0] >= index:
            return
        modified = old.items[0].mod_revision if old.items else 0
        if self._client.replace(self._snapshot, _format_snapshot(index, data), modified, ASK_S):
            self._delete_up_to(index)

    def _delete_up_to(self, index: int) -> None:
        gone = 0
        while not self._stop.is_set():
            wanted = range_of(
                self._log, prefix_end(self._log), keys_only=True, limit=str(DELETE_AT_ONCE), max_create_revision=str(index)
            )
            (found,) = self._client.read([wanted], ASK_S)
            self._client.delete((item.key for item in found.items), ASK_S)
            gone += len(found.items)
            if not found.more:
                log.info("commands that all can restore were dropped from etcd", commands=gone, up_to=index)
                return


def _format_snapshot(index: int, data: bytes) -> bytes:
    return b"%d\n" % index + data


def _parse_snapshot(value: bytes) -> tuple[int, bytes]:
    head, newline, data = value.partition(b"\n")
    if not newline or not head.isdigit() or len(head) > 19 or len(data) > MAX_SNAPSHOT_BYTES:
        raise FormatError("etcd: expected a snapshot")
    return int(head), data
