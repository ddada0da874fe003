"""Snapshots of the database, and transaction ids on both sides of the 32-bit wrap.

``pg_current_snapshot()`` says which transactions a scan could see, in 64-bit ids; the replication stream names a transaction by
its low 32 bits (Begin message).  A transaction is visible in a snapshot exactly if its id is below ``xmax`` and not among the
ids in progress: never compare LSNs for that, because a commit is in the log before it becomes visible, by milliseconds, or for
as long as a synchronous standby stays away.

    snapshot = xmin ":" xmax ":" [xid *("," xid)]       decimal, xmin <= every xid < xmax, ascending

(PostgreSQL documentation 9.27.8 "Transaction ID and Snapshot Information", table "Snapshot Components".)  Only a primary's
snapshots say this: on a standby the list of ids in progress is always empty.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise

from witnz.errors import FormatError

_MAX_CHARS = 1 << 20
_FIRST_NORMAL = 3  # 0, 1 and 2 mean "none", "bootstrap" and "frozen"
_ID = r"(?:0|[1-9][0-9]{0,19})"
_SNAPSHOT = re.compile(rf"({_ID}):({_ID}):((?:{_ID}(?:,{_ID})*)?)")
_WRAP = 1 << 32
_HALF = 1 << 31


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What ``pg_current_snapshot()`` returned, in 64-bit transaction ids.

    Every transaction below ``xmin`` had ended; none from ``xmax`` on had; of those between, the ones in ``xip`` had not.
    """

    xmin: int
    xmax: int
    xip: frozenset[int]

    def visible(self, xid: int) -> bool:
        """Whether a *committed* top-level transaction, by its 64-bit id (:func:`widen`), is seen by this snapshot."""
        return xid < self.xmax and xid not in self.xip


def parse_snapshot(text: str) -> Snapshot:
    """The snapshot that ``text`` describes.  Raises :class:`FormatError` for anything but what the server prints."""
    if len(text) > _MAX_CHARS:
        raise FormatError(f"snapshot: expected at most {_MAX_CHARS} characters, found {len(text)}")
    match = _SNAPSHOT.fullmatch(text)
    if match is None:
        raise FormatError(f"snapshot: expected xmin:xmax:xip,… such as 795:799:795,797, found {text[:40]!r}")
    xmin, xmax = int(match[1]), int(match[2])
    running = [int(xid) for xid in match[3].split(",")] if match[3] else []
    if not _FIRST_NORMAL <= xmin <= xmax < 1 << 64:
        raise FormatError(f"snapshot: expected 3 <= xmin <= xmax, found {xmin} and {xmax}")
    if running and not (xmin <= running[0] and running[-1] < xmax):
        raise FormatError(f"snapshot: expected ids from {xmin} to below {xmax}, found {running[0]} to {running[-1]}")
    if any(low >= high for low, high in pairwise(running)):
        raise FormatError("snapshot: expected the ids in progress in ascending order")
    return Snapshot(xmin, xmax, frozenset(running))


def format_snapshot(snapshot: Snapshot) -> str:
    """The text of a snapshot; the inverse of :func:`parse_snapshot`."""
    return f"{snapshot.xmin}:{snapshot.xmax}:{','.join(map(str, sorted(snapshot.xip)))}"


def widen(xid: int, near: int) -> int:
    """The 64-bit id whose low 32 bits are ``xid``, nearest to ``near`` (a 64-bit id: a recent snapshot's ``xmax``).

    Exact while the two are less than 2^31 transactions apart, which PostgreSQL itself keeps to.  Raises :class:`FormatError`
    for an ``xid`` that no transaction has (0 to 2, or beyond 32 bits), and where no id that near has these low bits.
    """
    if not _FIRST_NORMAL <= xid < _WRAP:
        raise FormatError(f"transaction id: expected 3 to 4294967295, found {xid}")
    distance = (xid - near) % _WRAP
    if distance >= _HALF:
        distance -= _WRAP
    wide = near + distance
    if wide < _FIRST_NORMAL or distance == -_HALF:
        raise FormatError(f"transaction id: expected one within 2^31 of {near}, found {xid}")
    return wide
