"""What ``witnz doctor`` asks of the server and the role: version, settings, free places, rights.

Everything an ordinary role may ask.  Each check is a function of a connection and of the name of this node's slot (None before
it has one).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from psycopg import sql

from witnz.postgres.session import Connection

OLDEST_VERSION: Final = 130000
MESSAGES_SINCE: Final = 140000
"""server_version_num from which pgoutput carries logical messages."""

MANAGED_REPLICATION: Final = ("rds_replication",)
"""Roles whose members may replicate although they have no such attribute: that of Amazon RDS and Aurora."""

CLOCKS_APART_S: Final = 5.0
"""How far this machine's clock and the server's may be apart unmentioned: more than NTP leaves, less than anybody mistakes."""

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True, slots=True)
class DoctorCheck:
    """One precondition.  ``hint``: what to do, '' where nothing is to be done."""

    name: str
    status: Status
    message: str
    hint: str = ""


def _setting(session: Connection, name: str) -> str:
    row = session.execute("SELECT current_setting(%s)", (name,)).fetchone()
    return "" if row is None else str(row[0])


def _count(session: Connection, query: str, *parameters: object) -> int:
    row = session.execute(query.encode(), parameters or None).fetchone()
    return 0 if row is None else int(row[0])


def _version(session: Connection, _slot: str | None) -> DoctorCheck:
    version = session.info.server_version
    text = f"PostgreSQL {version // 10000}.{version % 10000}"
    if version < OLDEST_VERSION:
        return DoctorCheck("server.version", "fail", f"{text} is too old", "upgrade to PostgreSQL 13 or newer")
    if version < MESSAGES_SINCE:
        hint = "upgrade to PostgreSQL 14 or newer where claims or signed intents are wanted"
        return DoctorCheck("server.version", "warn", f"{text} decodes no logical messages: no claims, no signed intents", hint)
    return DoctorCheck("server.version", "ok", text)


def _primary(session: Connection, _slot: str | None) -> DoctorCheck:
    if _count(session, "SELECT pg_is_in_recovery()::int"):
        hint = "name the primary's host in the configuration"
        return DoctorCheck("server.primary", "fail", "the server is a standby; snapshots there do not tell what they see", hint)
    return DoctorCheck("server.primary", "ok", "the server is a primary")


def _encoding(session: Connection, _slot: str | None) -> DoctorCheck:
    """SQL_ASCII does not come this far: :func:`witnz.postgres.session.connect` refuses it."""
    return DoctorCheck("server.encoding", "ok", f"the database's encoding is {_setting(session, 'server_encoding')}")


def _wal_level(session: Connection, _slot: str | None) -> DoctorCheck:
    level = _setting(session, "wal_level")
    if level != "logical":
        hint = "ALTER SYSTEM SET wal_level = logical, then restart the server (RDS, Aurora: rds.logical_replication = 1)"
        return DoctorCheck("server.wal_level", "fail", f"wal_level is {level}", hint)
    return DoctorCheck("server.wal_level", "ok", "wal_level is logical")


def _slots(session: Connection, slot: str | None) -> DoctorCheck:
    most = int(_setting(session, "max_replication_slots"))
    used = _count(session, "SELECT count(*) FROM pg_catalog.pg_replication_slots")
    own = _count(session, "SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name = %s", slot)
    return _free("server.slots", "replication slots", "max_replication_slots", most - used, most, own=own > 0)


def _senders(session: Connection, slot: str | None) -> DoctorCheck:
    most = int(_setting(session, "max_wal_senders"))
    used = _count(session, "SELECT count(*) FROM pg_catalog.pg_stat_replication")
    own = _count(session, "SELECT count(*) FROM pg_catalog.pg_replication_slots WHERE slot_name = %s AND active", slot)
    return _free("server.wal_senders", "WAL senders", "max_wal_senders", most - used, most, own=own > 0)


def _free(name: str, what: str, setting: str, free: int, most: int, *, own: bool) -> DoctorCheck:
    """``own``: this node already has one, so that a full server is no obstacle to it, only to a second node."""
    if free > 0:
        return DoctorCheck(name, "ok", f"{free} of {most} {what} are free")
    hint = f"raise {setting} (now {most}) and restart the server, or end what nobody uses"
    return DoctorCheck(name, "warn" if own else "fail", f"none of {most} {what} is free", hint)


def _slot_bound(session: Connection, _slot: str | None) -> DoctorCheck:
    bound = _setting(session, "max_slot_wal_keep_size")
    if bound == "-1":
        hint = (
            "ALTER SYSTEM SET max_slot_wal_keep_size to what the disk can spare; witnz also gives its slot up at its own bound"
        )
        return DoctorCheck("server.slot_bound", "warn", "a slot that nobody reads may fill the server's disk", hint)
    return DoctorCheck("server.slot_bound", "ok", f"a slot retains at most {bound} of WAL")


def _slot_idle(session: Connection, _slot: str | None) -> DoctorCheck:
    row = session.execute("SELECT setting FROM pg_catalog.pg_settings WHERE name = 'idle_replication_slot_timeout'").fetchone()
    if row is not None and row[0] != "0":
        limit = _setting(session, "idle_replication_slot_timeout")
        return DoctorCheck(
            "server.slot_idle",
            "warn",
            f"the server gives up a slot that was idle for {limit}: a node that is down for longer has a gap",
            "ALTER SYSTEM SET idle_replication_slot_timeout = 0",
        )
    return DoctorCheck("server.slot_idle", "ok", "slots do not expire by being idle")


def _clock(session: Connection, _slot: str | None) -> DoctorCheck:
    """This machine's clock against the server's: which of the two is wrong only a third one knows."""
    before = time.time()
    row = session.execute("SELECT extract(epoch FROM clock_timestamp())::float8").fetchone()
    after = time.time()
    server = before if row is None else float(row[0])
    apart = max(before - server, server - after, 0.0)  # the answer was made somewhere between
    if apart <= CLOCKS_APART_S:
        return DoctorCheck("server.clock", "ok", "this machine's clock and the server's agree")
    return DoctorCheck(
        "server.clock",
        "warn",
        f"this machine's clock is {apart:,.0f} s {'behind' if server > after else 'ahead of'} the server's",
        "set both by NTP; what is recorded is in order all the same, its times and those of signatures are not right",
    )


def _role(session: Connection, _slot: str | None) -> DoctorCheck:
    row = session.execute(
        "SELECT rolname::text, rolreplication, rolsuper, (SELECT g.rolname::text FROM pg_catalog.pg_roles g"
        " WHERE g.rolname = ANY (%s) AND pg_catalog.pg_has_role(current_user, g.oid, 'MEMBER') LIMIT 1)"
        " FROM pg_catalog.pg_roles WHERE rolname = current_user",
        (list(MANAGED_REPLICATION),),
    ).fetchone()
    name, replication, superuser, group = row if row is not None else ("?", False, False, None)
    if superuser:
        hint = "use a role of its own: CREATE ROLE witnz LOGIN REPLICATION, with SELECT on the protected tables"
        return DoctorCheck("role.replication", "warn", f"the role {name} is a superuser; that much right is not needed", hint)
    if not replication and group is not None:
        return DoctorCheck("role.replication", "ok", f"the role {name} may replicate as a member of {group}")
    if not replication:
        quoted = sql.Identifier(name).as_string(None)
        hint = f"ALTER ROLE {quoted} WITH REPLICATION (RDS, Aurora: GRANT rds_replication TO {quoted})"
        return DoctorCheck("role.replication", "fail", f"the role {name} may not replicate", hint)
    return DoctorCheck("role.replication", "ok", f"the role {name} may replicate")


SERVER_CHECKS: Final[dict[str, Callable[[Connection, str | None], DoctorCheck]]] = {
    "server.version": _version,
    "server.primary": _primary,
    "server.encoding": _encoding,
    "server.wal_level": _wal_level,
    "server.slots": _slots,
    "server.wal_senders": _senders,
    "server.slot_bound": _slot_bound,
    "server.slot_idle": _slot_idle,
    "server.clock": _clock,
    "role.replication": _role,
}
"""By name, in the order of repair."""

STREAM_NEEDS: Final = frozenset(SERVER_CHECKS) - {"server.encoding", "server.slot_bound", "server.slot_idle", "server.clock"}
"""What must not have failed for a stream to be worth trying."""
