"""Two sessions of one role that read in one snapshot: the one that holds it says so in its application name, the other too.

    witnz holds <token> <snapshot id>      whoever exported the snapshot, and waits
    witnz reads <token>                    whoever has imported it

So a client on the node's machine reads a table in the snapshot of the node's own verification, and needs only the database.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any, Final

import psycopg

from witnz.errors import FormatError, Inconclusive
from witnz.postgres.scan import SnapshotScan, session_named

WAIT_S: Final = 30.0
_POLL_S: Final = 0.05
_TOKEN: Final = re.compile(r"[0-9a-f]{16}")


def check_token(token: object) -> str:
    """Refuse what is not 16 hex digits (FormatError)."""
    if not isinstance(token, str) or _TOKEN.fullmatch(token) is None:
        raise FormatError(f"share: expected 16 hex digits, found {str(token)[:40]!r}")
    return token


def offer(scan: SnapshotScan, token: str) -> None:
    """Export the snapshot of a scan and wait until the other session has it.  Raises Inconclusive where it does not come."""
    scan.say(f"witnz holds {token} {scan.export()}")
    deadline = time.monotonic() + WAIT_S
    while scan.sees(f"witnz reads {token}") is None:
        if time.monotonic() > deadline:
            raise Inconclusive("whoever wanted to read in the same snapshot did not import it in time")
        time.sleep(_POLL_S)


def await_offer(connection: psycopg.Connection[Any], token: str, ended: Callable[[], bool]) -> str | None:
    """The id of the snapshot that the other session offers; None where it has ``ended`` or offers none in time."""
    deadline = time.monotonic() + 2 * WAIT_S
    while (found := session_named(connection, f"witnz holds {token} ")) is None:
        if ended() or time.monotonic() > deadline:
            return None
        time.sleep(_POLL_S)
    return found.rsplit(" ", 1)[1]


def accept(scan: SnapshotScan, token: str) -> None:
    """Say that the snapshot was imported.

    This outlasts the scan: whoever offered looks now and then, and a small table is read between two looks.  Keep the
    connection open until the other session has ended.
    """
    scan.say(f"witnz reads {token}", stays=True)
