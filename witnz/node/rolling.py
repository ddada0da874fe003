"""Rolling verification: range of keys after range of keys, each in a snapshot of its own (architecture.md 7).

A *round* reads every row once.  Each range has its snapshot, its LSN and its verdict, and is a journal record of its own
(``mode: rolling``) that says nothing of any other; there is no root of the whole table.  Where a round is, is stored after each
range: a node that was killed goes on there.  The budget bounds the rows read per second, over the round; what is stated is how
often every row is read: the interval between rounds and the time that a round takes.

A *sample* is some ranges, drawn now, of many that hold about equally many rows; what it did not read it says.

Rows are found through the index of the key.  A row in the table's file that no index entry leads to is found by a whole
snapshot only, which is why one from time to time is worth its cost.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import Any, Final

import structlog

from witnz.core.entry import parse_entry
from witnz.core.keyrange import MAX_PARTS, KeyKind, KeyRange, key_kind, order
from witnz.core.verdict import Verdict
from witnz.errors import Inconclusive, UsageError
from witnz.node.scanning import Scanning
from witnz.node.table_state import TableState
from witnz.node.verification import Verification, Verified, save_run
from witnz.store import entries, live, logs, meta
from witnz.store.database import Database
from witnz.verify.live import Progress, Target

log = structlog.get_logger(__name__)

RANGE_ROWS: Final = 100_000
RANGE_S: Final = 5.0  # a range is as large as the budget allows in this time, so that no snapshot is held for long
LEAST_RANGE_ROWS: Final = 1_000
AGAIN: Final = 3  # how often a range that could not be read is tried before it is left out
AGAIN_S: Final = 2.0
DRAWN_PER_PART: Final = 16


@dataclass(slots=True)
class Round:
    """Where a round of one generation is.  ``began_us``: µs since the Unix epoch; ``low``: every key up to it was read."""

    generation: int
    began_us: int
    low: str | None = None
    ranges: int = 0
    rows: int = 0
    tampered: int = 0
    not_checked: list[str] = field(default_factory=list)

    @classmethod
    def load(cls, text: str | None, generation: int) -> Round | None:
        """The round that was stored, if it is about this generation."""
        stored = None if text is None else json.loads(text)
        return cls(**stored) if stored is not None and stored["generation"] == generation else None

    def to_json(self) -> str:
        return json.dumps({name: getattr(self, name) for name in self.__slots__})


class Rolling:
    """Rounds and samples of one node.  ``clock``: µs since the Unix epoch."""

    def __init__(
        self,
        db: Database,
        verification: Verification,
        scanning: Scanning,
        target: Callable[[TableState], Target],
        clock: Callable[[], int],
    ) -> None:
        self._db, self._verification, self._scanning, self._target, self._clock = db, verification, scanning, target, clock
        self.stopped = threading.Event()

    def progress(self, table: str) -> dict[str, Any] | None:
        """Where the round of a table is: ``low``, ``rows``, ``ranges``, ``began_us``; None where none is under way."""
        with self._db.read() as conn:
            text = meta.load_value(conn, _key(table))
        found = None if text is None else json.loads(text)
        return found if isinstance(found, dict) else None

    # -- rounds ---------------------------------------------------------------------------------------------------------------

    def run(
        self,
        state: TableState,
        budget_rows_s: int | None,
        interval_s: float = 0.0,
        progress: Progress = lambda rows: None,
    ) -> Verified:
        """A round, or the rest of one; its result.  Raises UsageError for a table without ranges, Inconclusive when stopped."""
        kind = self._kind(state)
        with self._db.read() as conn:
            here = Round.load(meta.load_value(conn, _key(state.name)), state.generation)
        here = here or Round(state.generation, self._clock())
        began_s, rows = time.monotonic(), RANGE_ROWS
        if budget_rows_s is not None:
            rows = min(max(round(budget_rows_s * RANGE_S), LEAST_RANGE_ROWS), RANGE_ROWS)
        while True:
            started = time.monotonic()
            high = self._scanning.range_end(state, kind, here.low, rows)
            verified = self._one(state, KeyRange(kind, here.low, high), _after(here.rows, progress))
            self._note(here, verified, KeyRange(kind, here.low, high))
            if high is None:
                return self._end(state, here, verified, interval_s, time.monotonic() - began_s)
            here.low = high
            with self._db.write() as conn:
                meta.save_value(conn, _key(state.name), here.to_json())
            pause_s = 0.0 if budget_rows_s is None else verified.result.rows / budget_rows_s - (time.monotonic() - started)
            if self.stopped.wait(max(0.0, pause_s)):
                raise Inconclusive(f"the round of {state.name} stopped after {here.rows} rows; it goes on there")

    def _one(self, state: TableState, key_range: KeyRange, progress: Progress) -> Verified:
        """One range; again where it could not be read.  What still could not is a result, too."""
        opened = partial(self._scanning.recorded, state, key_range=key_range)
        target = replace(self._target(state), open_scan=opened, key_range=key_range)
        for _ in range(AGAIN):
            verified = self._verification.run(target, progress)
            if verified.result.verdict is not Verdict.INCONCLUSIVE or verified.result.snapshot or self.stopped.wait(AGAIN_S):
                break
        return verified

    @staticmethod
    def _note(here: Round, verified: Verified, key_range: KeyRange) -> None:
        here.ranges += 1
        here.rows += verified.result.rows
        if verified.verdict is Verdict.TAMPERED:
            here.tampered += 1
        elif verified.verdict is not Verdict.VERIFIED:
            here.not_checked.append(f"keys {key_range}: {'; '.join(verified.not_checked)}"[:1000])
            del here.not_checked[100:]

    def _end(self, state: TableState, here: Round, last: Verified, interval_s: float, least_s: float) -> Verified:
        """``least_s``: what this process alone has taken, whatever became of the clock meanwhile."""
        took_s = max((self._clock() - here.began_us) / 1e6, least_s)
        reread_s = round(interval_s + took_s, 3)
        verdict = Verdict.TAMPERED if here.tampered else Verdict.INCONCLUSIVE if here.not_checked else Verdict.VERIFIED
        rolling = {"mode": "rolling", "ranges": here.ranges, "reread_s": reread_s}
        result = replace(last.result, rows=here.rows, seconds=took_s, key_range=None, alive=None)
        verified = replace(
            last, result=result, verdict=verdict, not_checked=(*here.not_checked, *last.not_checked)[:100], rolling=rolling,
            at=self._clock(),
        )  # fmt: skip
        with self._db.write() as conn:
            meta.save_value(conn, _key(state.name), None)
            save_run(conn, verified)
        log.info(
            "round has ended", table=state.name, verdict=verdict.value, rows=here.rows, ranges=here.ranges, reread_s=reread_s
        )
        return verified

    # -- samples --------------------------------------------------------------------------------------------------------------

    def sample(self, state: TableState, wanted: int, parts: int, progress: Progress = lambda rows: None) -> Verified:
        """Verify ``wanted`` of ``parts`` ranges of about equally many rows, drawn now.

        Raises UsageError for numbers that make no sample, and for a table without ranges.
        """
        if not 1 <= wanted <= parts <= MAX_PARTS:
            raise UsageError(f"sample: expected N/T with 1 <= N <= T <= {MAX_PARTS}, found {wanted}/{parts}")
        kind = self._kind(state)
        bounds: list[str | None] = [None, *self._quantiles(state, kind, parts), None]
        ranges = [KeyRange(kind, low, high) for low, high in pairwise(bounds)]
        drawn = sorted(secrets.SystemRandom().sample(range(len(ranges)), min(wanted, len(ranges))))
        started, here = time.monotonic(), Round(state.generation, self._clock())
        for place in drawn:
            verified = self._one(state, ranges[place], _after(here.rows, progress))
            self._note(here, verified, ranges[place])
        verdict = Verdict.TAMPERED if here.tampered else Verdict.INCONCLUSIVE if here.not_checked else Verdict.VERIFIED
        not_checked = [*here.not_checked]
        if len(drawn) < len(ranges):
            not_checked.append(f"{len(ranges) - len(drawn)} of {len(ranges)} ranges of keys: this was a sample")
        result = replace(verified.result, rows=here.rows, seconds=time.monotonic() - started, key_range=None, alive=None)
        rolling = {"mode": "sample", "ranges": len(drawn), "of_ranges": len(ranges)}
        return replace(verified, result=result, verdict=verdict, not_checked=tuple(not_checked), rolling=rolling)

    def _quantiles(self, state: TableState, kind: KeyKind, parts: int) -> list[str]:
        """Keys that cut the recorded rows into about equally many, ascending; fewer than asked for where rows are few."""
        with self._db.read() as conn:
            row = logs.get_log(conn, state.head.id)
            flags = live.live_flags(conn, row.id)
            step = max(1, flags.count(1) // (parts * DRAWN_PER_PART))
            keys, at = [], flags.find(1)
            while at > 0:
                keys.append(parse_entry(entries.entry_at(conn, row.id, at)).key or b"")
                for _ in range(step):
                    at = flags.find(1, at + 1)
                    if at < 0:
                        break
        found = sorted((key.decode() for key in keys), key=partial(order, kind))
        cuts = {found[place * len(found) // parts] for place in range(1, parts)} if found else set()
        return sorted(cuts, key=partial(order, kind))

    def _kind(self, state: TableState) -> KeyKind:
        return key_kind(state.key_columns, state.columns, hidden=state.hidden_keys)


def _after(read: int, progress: Progress) -> Progress:
    """Tells how many rows of the whole round were read."""
    return lambda rows: progress(read + rows)


def _key(table: str) -> str:
    return f"rolling/{table}"
