"""When this node's stream is opened anew: before PostgreSQL 15, a stream does not notice that a table was attached.

A walsender remembers of each table that it has met in WAL whether anything of it is to be sent.  Attaching a table to a
published partitioned one makes it forget that since PostgreSQL 15 (a change of the publication does on all releases).  On 13
and 14 a table that was written to first and attached then stays out of a stream until the walsender ends; and a new one that
begins before the attachment meets the same writes, and keeps it out as well.  One that begins behind the attachment does not,
wherever the slot's ``restart_lsn`` lies: what was committed before its first LSN is never shown to the output plugin.

So whoever is about to rely on the stream for a leaf asks for a ticket.  A marker is written, behind all that ties the leaf to
its tree; once everything up to it is durable here and acknowledged, the capture opens the stream anew from there, and the
ticket is good.  One reconnection does for all tickets that wait.

    an opening                    this node's, or one that it was invited to: before its log begins, and so before X0
    a log that is fetched         before it is fetched, so that it is fetched up to behind the attachment
    what is recorded already      at each look of the catalog watch: after a start, and after a partition came back

Nothing of this is stored: a process that starts asks again, of each attached leaf once.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
import structlog

from witnz.core.lsn import format_lsn
from witnz.core.message import MARK_PREFIX
from witnz.postgres import catalog
from witnz.postgres.catalog import TableInfo
from witnz.postgres.partitions import ties, was_attached
from witnz.postgres.slot import emit_marker

log = structlog.get_logger(__name__)

NOTICED_SINCE = 150000


@dataclass(slots=True)
class Ticket:
    """``good``: the stream began behind ``lsn``, and so behind what ties a leaf (:func:`witnz.postgres.partitions.ties`)."""

    tie: str
    lsn: int = 0
    good: bool = False


def _may_be_kept_out(conn: psycopg.Connection[Any], info: TableInfo) -> bool:
    return conn.info.server_version < NOTICED_SINCE and info.partition_root is not None


def is_kept_out(conn: psycopg.Connection[Any], info: TableInfo) -> bool:
    """Whether a stream that began before the table was attached may leave it out."""
    return _may_be_kept_out(conn, info) and was_attached(conn, info.oid, info.schema, info.name)


class Reopening:
    """The tickets of one node.

    ``connect``: to the database; ``epoch``: the newest one of the journal (0: none), within which LSNs can be compared.
    Asked by several threads; ``opened`` and ``is_due`` are for the capture thread.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], epoch: Callable[[], int]) -> None:
        self._connect, self._epoch = connect, epoch
        self._lock = threading.Lock()
        self._tickets: dict[int, Ticket] = {}  # by the leaf's OID; of its present tie
        self._waiting: list[Ticket] = []
        self._of_epoch = epoch()

    # -- asking ---------------------------------------------------------------------------------------------------------------

    def ticket(self, conn: psycopg.Connection[Any], info: TableInfo) -> Ticket:
        """The ticket of a table as it is tied now; good at once where the stream can not have missed anything."""
        if not _may_be_kept_out(conn, info):
            return Ticket("", good=True)
        return self._ask(conn, {info.oid: info})[info.oid]

    def look(self, conn: psycopg.Connection[Any], oids: Sequence[int]) -> None:
        """Ask for what is tied otherwise than when it was asked for last."""
        if conn.info.server_version < NOTICED_SINCE:
            changed = [oid for oid, tie in ties(conn, oids).items() if self._known(oid, tie) is None]
            if changed:
                self._ask(conn, catalog.load_tables(conn, changed))

    def _known(self, oid: int, tie: str) -> Ticket | None:
        with self._lock:
            ticket = self._tickets.get(oid)
        return ticket if ticket is not None and ticket.tie == tie else None

    def _ask(self, conn: psycopg.Connection[Any], infos: Mapping[int, TableInfo]) -> dict[int, Ticket]:
        """The tickets of these leaves; one marker, written after their ties were read, stands behind all new ones."""
        now = ties(conn, list(infos))
        found = {oid: ticket for oid in infos if (ticket := self._known(oid, now.get(oid, "")))}
        asked = {
            oid: Ticket(now.get(oid, ""), good=not is_kept_out(conn, info)) for oid, info in infos.items() if oid not in found
        }
        waiting = [ticket for ticket in asked.values() if not ticket.good]
        if waiting:
            lsn = self._mark()
            for ticket in waiting:
                ticket.lsn = lsn
        with self._lock:
            self._tickets |= asked
            self._waiting += waiting
        return found | asked

    def _mark(self) -> int:
        with self._connect() as conn:
            return emit_marker(conn, MARK_PREFIX, os.urandom(16).hex())

    # -- the capture thread ---------------------------------------------------------------------------------------------------

    def is_due(self, acked: Callable[[], int]) -> bool:
        """Whether the stream has passed all that is waited for, so that it is time to open it anew.

        ``acked``: up to where everything is durable here, which is where it will begin.
        """
        if not self._waiting:
            return False
        self._forget_other_epoch()
        with self._lock:
            target = max((ticket.lsn for ticket in self._waiting), default=None)
        if target is None or acked() < target:
            return False
        log.info("stream is opened anew for tables that were attached", since=format_lsn(target))
        return True

    def opened(self, start_lsn: int) -> None:
        """A stream begins at this LSN."""
        self._forget_other_epoch()
        with self._lock:
            for ticket in self._waiting:
                ticket.good = start_lsn >= ticket.lsn
            self._waiting = [ticket for ticket in self._waiting if not ticket.good]

    def _forget_other_epoch(self) -> None:
        """LSNs of before a restore mean nothing now, and the stream begins with a slot made after it: nothing is waited for."""
        now = self._epoch()
        with self._lock:
            if now == self._of_epoch:
                return
            self._of_epoch = now
            for ticket in self._waiting:
                ticket.good = True
            self._waiting, self._tickets = [], {}
