"""What members did that no honest node does: a finding for each member and kind of record, which says how often and when last.

A member that lies once may lie a million times.  So each deed is counted in memory, the store hears of them together, and the
log has a limited number of lines for each member; what is left out there is counted, too.

    node2: expected votes of 2 members, found 1; 7 times, the last at 2026-11-22T20:31:16.000000Z: expected votes of …

Only the finding's words change.  They are this node's own and not journalled: what is journalled of it stays what it was.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import structlog

from witnz.core.finding import FindingClass
from witnz.core.timestamp import format_time
from witnz.logging import Seldom
from witnz.node.findings import FindingBook
from witnz.store import findings, meta
from witnz.store.database import Database

log = structlog.get_logger(__name__)

LINES_A_MINUTE: Final = 10  # in the log, for each member
COUNTED: Final = "misdeeds"
_SHOWN_BYTES: Final = 400  # of a reason

Kind = tuple[str, str]
"""(the member, "a member" where nobody signed; the type of the record)."""


@dataclass(frozen=True, slots=True)
class _Deeds:
    """What the store has not heard of yet: how many, why the first and the last, when the last in µs since the Unix epoch."""

    times: int
    first: str
    last: str
    at: int

    def then(self, later: _Deeds) -> _Deeds:
        return _Deeds(self.times + later.times, self.first, later.last, later.at)


class Misdeeds:
    """Thread-safe.  ``opened`` is told that there is a finding that somebody has to be alerted of."""

    def __init__(self, db: Database, book: FindingBook, opened: Callable[[], None]) -> None:
        self._db, self._book, self._opened = db, book, opened
        self._lock = threading.Lock()
        self._telling = threading.Lock()
        self._untold: dict[Kind, _Deeds] = {}
        self._known: set[Kind] = set()
        self._lines: dict[str, Seldom] = {}

    def note(self, node: str, record_type: str, reason: str) -> bool:
        """Count a deed, at once; ``node``: empty where nobody signed it.  Whether it is the first of its kind since the start,
        of which the store has to hear now; of the others :meth:`tell` may be called every few seconds."""
        who = node or "a member"
        deed = _Deeds(1, reason, reason, self._book.now_us())
        with self._lock:
            kind = (who, record_type)
            known = self._untold.get(kind)
            self._untold[kind] = deed if known is None else known.then(deed)
            lines = self._lines.setdefault(who, Seldom(LINES_A_MINUTE))
            first = kind not in self._known
            self._known.add(kind)
        left_out = lines.next()
        if left_out is not None:
            log.warning("refused what no honest node does", peer=who, type=record_type, reason=_cut(reason), left_out=left_out)
        return first

    def tell(self) -> None:
        """Open findings of what was counted, and renew the words of those that are open; what raises loses nothing."""
        with self._telling:
            self._tell()
        with self._lock:
            lines = dict(self._lines)
        for who, those in lines.items():
            if left_out := those.rest():
                log.warning("refused more of what no honest node does", peer=who, left_out=left_out)

    def _tell(self) -> None:
        with self._lock:
            untold, self._untold = self._untold, {}
        if not untold:
            return
        try:
            with self._db.write() as conn:
                counted: dict[str, list[str | int]] = json.loads(meta.load_value(conn, COUNTED) or "{}")
                opened = {}
                for (who, record_type), deeds in untold.items():
                    key, first = f"{who} {record_type}", f"{who}: {deeds.first}"[:1000]
                    cls = FindingClass.NODE_MISBEHAVED
                    name = self._book.open(conn, cls=cls, key=key, found=record_type, detail=first)
                    if name is not None:
                        opened[name] = who, deeds
                    finding = self._book.standing(conn, cls=cls, key=key)
                    before, words = counted.get(finding.id, (0, first))
                    times = int(before) + deeds.times
                    counted[finding.id] = [times, words]
                    findings.upsert(conn, replace(finding, detail=_shown(str(words), times, deeds)))
                meta.save_value(conn, COUNTED, json.dumps(counted))
        except BaseException:
            with self._lock:
                for kind, deeds in untold.items():
                    later = self._untold.get(kind)
                    self._untold[kind] = deeds if later is None else deeds.then(later)
            raise
        for name, (who, deeds) in opened.items():
            log.error("node misbehaved", peer=who, finding=name, reason=_cut(deeds.first))
        if opened:
            self._opened()


def _shown(first: str, times: int, deeds: _Deeds) -> str:
    if times == 1:
        return first
    return f"{_cut(first)}; {times:,} times, the last at {format_time(deeds.at)}: {_cut(deeds.last)}"


def _cut(reason: str) -> str:
    return reason if len(reason) <= _SHOWN_BYTES else f"{reason[: _SHOWN_BYTES - 1]}…"
