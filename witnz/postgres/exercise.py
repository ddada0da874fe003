"""The real path, tried out: a message goes in over SQL and must come back through a replication slot of its own.

What no setting tells (a pooler in between, a pg_hba.conf that rejects us, a slot that cannot be made because an old transaction
runs) shows here.  The slot is TEMPORARY: it goes with its connection and retains nothing.  PostgreSQL 13 cannot decode
messages; there only the slot is made and the stream begun.
"""

from __future__ import annotations

import secrets
import select
import time
from collections.abc import Sequence

import psycopg
from psycopg import sql

from witnz.core.message import MARK_PREFIX
from witnz.errors import DatabaseUnreachable, ReplicationImpossible, WitnzError
from witnz.postgres.server_checks import MESSAGES_SINCE
from witnz.postgres.session import Connection, Conninfo, connect
from witnz.postgres.slot import emit_marker
from witnz.postgres.sqlstate import classify_error

"""Prefix of witnz's own messages (formats.md 2, "Messages")."""

_POLL_S = 0.05


def exercise_stream(conninfo: Conninfo, publications: Sequence[str], *, timeout_s: float = 10.0) -> str:
    """Make a temporary slot, write a transactional message, decode it back; a sentence on what was done.

    Raises DatabaseUnreachable when it did not come back in time (an older transaction keeps a slot from becoming ready),
    KeyProblem or ReplicationImpossible when the server refuses.
    """
    slot = f"witnz_check_{secrets.token_hex(8)}"
    begun = time.monotonic()
    with connect(conninfo, application_name="witnz doctor") as session:
        replication = connect(conninfo, replication=True, application_name="witnz doctor")
        try:
            # the new slot waits for running transactions, and only lock_timeout ends that
            replication.execute(f"SET lock_timeout = {max(1, round(timeout_s * 1000))}")
            create = sql.SQL("CREATE_REPLICATION_SLOT {} TEMPORARY LOGICAL pgoutput NOEXPORT_SNAPSHOT")
            replication.execute(create.format(sql.Identifier(slot)))
            messages = session.info.server_version >= MESSAGES_SINCE
            replication.execute(_start(slot, publications, messages=messages))
            if not messages:
                return "a slot was made and a stream begun (PostgreSQL 13 decodes no messages)"
            nonce = secrets.token_hex(16)
            emit_marker(session, MARK_PREFIX, nonce)
            _await(replication, nonce.encode(), begun + timeout_s)
        except psycopg.Error as error:
            raise _explained(error, timeout_s) from error
        finally:
            replication.close()
    return f"a message was written and decoded back in {(time.monotonic() - begun) * 1000:.0f} ms"


def _start(slot: str, publications: Sequence[str], *, messages: bool) -> sql.Composed:
    names = ",".join(sql.Identifier(name).as_string(None) for name in publications).replace("'", "''")
    options = f"proto_version '1', publication_names '{names}'" + (", messages 'true'" if messages else "")
    # the replication grammar has plain quoted strings only, no E'…'
    return sql.Composed(
        [sql.SQL("START_REPLICATION SLOT "), sql.Identifier(slot), sql.SQL(" LOGICAL 0/0 ("), sql.SQL(options), sql.SQL(")")]
    )


def _await(replication: Connection, wanted: bytes, deadline: float) -> None:
    """Return when a message (XLogData, pgoutput 'M') with our prefix and ``wanted`` has come."""
    pgconn = replication.pgconn
    poller = select.poll()
    poller.register(pgconn.socket, select.POLLIN)
    expected = MARK_PREFIX.encode() + b"\0" + len(wanted).to_bytes(4, "big") + wanted
    while time.monotonic() < deadline:
        size, data = pgconn.get_copy_data(1)
        if size > 0:
            message = data.tobytes()
            if message[:1] == b"w" and message[25:26] == b"M" and message.endswith(expected):
                return
        elif size == 0:
            poller.poll(_POLL_S * 1000)
            pgconn.consume_input()
        else:
            while pgconn.is_busy() and time.monotonic() < deadline:
                poller.poll(_POLL_S * 1000)
                pgconn.consume_input()
            result = None if pgconn.is_busy() else pgconn.get_result()
            why = "no reason given" if result is None else result.get_error_message().strip()
            raise ReplicationImpossible(f"the stream ended: {why}", hint="look at the server's log")
    raise DatabaseUnreachable(
        "a message that was written did not come back through replication in time",
        hint="the server decodes too slowly or not at all; look at its log and at pg_stat_replication",
    )


def _explained(error: psycopg.Error, timeout_s: float) -> WitnzError:
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return DatabaseUnreachable(
            f"no slot could be made within {timeout_s:g} s, because transactions run that began before it",
            hint="end old transactions (SELECT pid, xact_start FROM pg_stat_activity ORDER BY xact_start) or wait for them",
        )
    return classify_error(error, doing="trying out replication")
