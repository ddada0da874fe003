"""Replication slots: what a node's place in the stream is, and what can have happened to it.

A slot is the server's promise to keep what we have not acknowledged.  The server can break it (``max_slot_wal_keep_size``,
``idle_replication_slot_timeout``), and others can move, drop or replace it; so its state is read, compared and reported, never
repaired in silence.  PostgreSQL documentation 54.20 "pg_replication_slots", 49.2.2 "Replication Slots".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, LiteralString

import psycopg
from psycopg import sql

from witnz.core.lsn import parse_lsn
from witnz.errors import DatabaseUnreachable, ReplicationImpossible, UsageError
from witnz.postgres.session import Connection
from witnz.postgres.sqlstate import classify_error

PLUGIN: Final = "pgoutput"
FAILOVER_SINCE: Final = 170000
"""server_version_num from which standbys can take slots along."""
_OPTIONS: Final[LiteralString] = "(SNAPSHOT 'nothing', FAILOVER true)"
_OLD_OPTIONS: Final[LiteralString] = "NOEXPORT_SNAPSHOT"

_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")
_NAME_MAX = 63


@dataclass(frozen=True, slots=True)
class SlotState:
    """A row of ``pg_replication_slots``.

    ``wal_status``: reserved, extended, unreserved or lost (None while the server cannot tell).  ``safe_wal_size_bytes``: what
    may still be written before the slot is in danger, None without a limit.  ``invalidation``: the server's word for why it
    gave the slot up; ``"lost"`` where it does not say.
    """

    name: str
    plugin: str | None
    database: str | None
    active_pid: int | None
    restart_lsn: int | None
    confirmed_flush_lsn: int | None
    wal_status: str | None
    safe_wal_size_bytes: int | None
    two_phase: bool
    temporary: bool
    invalidation: str | None

    @property
    def lost(self) -> bool:
        """Whether the slot can never be read again."""
        return self.invalidation is not None


def check_slot_name(name: str) -> str:
    """``name``, if PostgreSQL allows it for a slot: 1 to 63 of a-z, 0-9 and _.  Raises :class:`UsageError`."""
    if not 0 < len(name) <= _NAME_MAX or not _NAME_CHARACTERS.issuperset(name):
        raise UsageError(f"replication slot: expected a name of 1 to {_NAME_MAX} of a-z, 0-9 and _, found {name[:80]!r}")
    return name


def create_slot(connection: Connection, name: str, *, publication: str | None = None, lock_timeout_s: float = 10.0) -> int:
    """Create a slot over a *replication* connection; the LSN from which on it keeps the stream.

    The publication must exist before: the slot decodes with the catalog of its time, and one that is made later is never found.
    Given here, its existence is checked.  Creation waits for every transaction that is writing to end, at most
    ``lock_timeout_s`` for each.  Where the server can (17), standbys that synchronise slots take it along, so that a failover
    leaves no gap.

    Raises DatabaseUnreachable (55P03) when it waited in vain, ReplicationImpossible when the slot exists already, no slot is
    free or there is no such publication, KeyProblem without the right to replicate.
    """
    check_slot_name(name)
    doing = f"creating replication slot {name}"
    try:
        if publication is not None:
            _check_publication(connection, publication)
        connection.execute(sql.SQL("SET lock_timeout = {}").format(f"{round(lock_timeout_s * 1000)}ms"))
        try:
            options = _OPTIONS if connection.info.server_version >= FAILOVER_SINCE else _OLD_OPTIONS
            row = connection.execute(
                sql.SQL("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput {}").format(sql.Identifier(name), sql.SQL(options))
            ).fetchone()
        finally:
            if not connection.closed:
                connection.execute("RESET lock_timeout")
    except psycopg.errors.LockNotAvailable as error:
        raise DatabaseUnreachable(
            f"{doing}: a transaction that was open before is still open",
            hint="end long transactions (pg_stat_activity, pg_prepared_xacts) and try again",
        ) from error
    except psycopg.errors.DuplicateObject as error:
        raise ReplicationImpossible(
            f"{doing}: it exists already", hint=f"drop it, if it is nobody's: SELECT pg_drop_replication_slot('{name}')"
        ) from error
    except psycopg.Error as error:
        raise classify_error(error, doing=doing) from error
    if row is None or row[0] != name or row[3] != PLUGIN:
        raise ReplicationImpossible(f"{doing}: expected the new slot's name and plugin, found something else")
    return parse_lsn(row[1])


def _check_publication(connection: Connection, publication: str) -> None:
    query = sql.SQL("SELECT 1 FROM pg_catalog.pg_publication WHERE pubname = {}").format(publication)
    if connection.execute(query).fetchone() is None:
        raise ReplicationImpossible(
            f"publication {publication} does not exist; a slot made before it would never find it",
            hint="create the publication first; `witnz init --print-sql` shows how",
        )


# Columns that came with later versions, each with what stands for it before.
_TWO_PHASE: Final[tuple[int, LiteralString, LiteralString]] = (140000, "two_phase", "false")
_INVALIDATION: Final[tuple[int, LiteralString, LiteralString]] = (170000, "invalidation_reason", "NULL::text")


def slot_state(connection: Connection, name: str) -> SlotState | None:
    """The slot as the server describes it now, or None when there is none of that name.  ``connection``: of any kind."""
    version = connection.info.server_version
    optional = [new if version >= since else old for since, new, old in (_TWO_PHASE, _INVALIDATION)]
    query = sql.SQL(
        "SELECT plugin, database, active_pid, restart_lsn::text, confirmed_flush_lsn::text, wal_status, safe_wal_size,"
        " {}, temporary, {} FROM pg_catalog.pg_replication_slots WHERE slot_name = {}"
    ).format(*map(sql.SQL, optional), name)
    try:
        row: tuple[Any, ...] | None = connection.execute(query).fetchone()
    except psycopg.Error as error:
        raise classify_error(error, doing=f"reading the state of replication slot {name}") from error
    if row is None:
        return None
    plugin, database, pid, restart, confirmed, wal_status, safe, two_phase, temporary, reason = row
    # 16's `conflicting` is true for slots that lost their WAL, too: only wal_status tells there.
    invalidation = reason or ("lost" if wal_status == "lost" else None)
    return SlotState(
        name=name,
        plugin=plugin,
        database=database,
        active_pid=pid,
        restart_lsn=_lsn_or_none(restart),
        confirmed_flush_lsn=_lsn_or_none(confirmed),
        wal_status=wal_status,
        safe_wal_size_bytes=safe,
        two_phase=two_phase,
        temporary=temporary,
        invalidation=invalidation,
    )


def _lsn_or_none(text: str | None) -> int | None:
    return None if text is None else parse_lsn(text)


def drop_slot(connection: Connection, name: str) -> bool:
    """Drop a slot; False when there was none.  Raises DatabaseUnreachable (55006) while somebody reads from it."""
    try:
        connection.execute(sql.SQL("SELECT pg_catalog.pg_drop_replication_slot({})").format(name))
    except psycopg.errors.UndefinedObject:
        return False
    except psycopg.Error as error:
        raise classify_error(error, doing=f"dropping replication slot {name}") from error
    return True


def free_slots(connection: Connection) -> int:
    """How many more slots the server has room for (max_replication_slots)."""
    query = "SELECT current_setting('max_replication_slots')::int - count(*) FROM pg_catalog.pg_replication_slots"
    try:
        row = connection.execute(query).fetchone()
    except psycopg.Error as error:
        raise classify_error(error, doing="counting replication slots") from error
    return int(row[0]) if row else 0


def emit_marker(connection: Connection, prefix: str, content: str | bytes, *, transactional: bool = True) -> int:
    """Write a logical message into the stream; the LSN of its record's end.

    ``connection``: in autocommit, not a walsender.  A transactional one is flushed when this returns, and with it everything
    before it, waiting for no standby (``synchronous_commit=local``).  One that is not transactional may reach the disk up to
    three ``wal_writer_delay`` later.  PostgreSQL 13 accepts messages but sends none to a pgoutput stream: there this only moves
    the WAL.
    """
    # set_config in the statement itself lasts until its own commit, which is what it is for: one round trip.
    query = sql.SQL(
        "SELECT pg_catalog.pg_logical_emit_message({}, {}, {})::text"
        " FROM pg_catalog.set_config('synchronous_commit', 'local', true)"
    ).format(transactional, prefix, content.encode() if isinstance(content, str) else content)
    try:
        row = connection.execute(query).fetchone()
    except psycopg.Error as error:
        raise classify_error(error, doing="writing a logical message") from error
    if row is None:
        raise ReplicationImpossible("writing a logical message: expected its LSN, found none")
    return parse_lsn(row[0])
