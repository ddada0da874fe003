"""``on_tamper: repair``: restoring recorded rows as soon as a finding about them opens.

There is no operator on a node, so the intent is signed by a key of its own, ``keys/repair.key``, which an operator has put into
the journal beforehand (a ``key`` record of kind ``intent``, name ``repair``).  Rules:

1.  Findings are offered by whoever sees them, the capture thread among them; the work is done on a thread of its own,
    because a repair waits for the stream.
2.  What is missing (no images, no connection that may write, no key, a key that is not in force) stops the repair and is said,
    in the log once and by :meth:`AutoRepair.check` as long as it lasts.  The finding stays open and alerts as ever.
3.  It never fights an application: after three repairs of one row within an hour only alerts are left, and the journal says so.
4.  A finding is tried again when a verification sees it once more, at most five times in all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import structlog

from witnz.config import Config
from witnz.core.finding import Finding
from witnz.core.keys import Signer
from witnz.errors import KeyProblem, UsageError, WitnzError
from witnz.node.findings import OPEN
from witnz.node.journal import Journal
from witnz.node.keyring import load_person_key
from witnz.node.repair import RepairResult, Repairs
from witnz.node.repair_rows import REPAIRABLE
from witnz.postgres.session import Conninfo

log = structlog.get_logger(__name__)

KEY_NAME: Final = "repair"
REPAIRS_PER_HOUR: Final = 3
TRIES: Final = 5
HOUR_US: Final = 3_600_000_000
REASON: Final = "on_tamper: repair"

Row = tuple[str | None, str | None]  # table and key


@dataclass(frozen=True, slots=True)
class Permission:
    """What an automatic repair works with."""

    admin: Conninfo
    signer: Signer = field(repr=False)


class AutoRepair:
    """Repairs findings of tables that are configured so.

    ``configured``: the table of the configuration that a protected table belongs to (a leaf partition: its root's name).
    ``clock``: µs since the Unix epoch.  ``done`` is called with each result.
    """

    def __init__(
        self,
        repairs: Repairs,
        config: Config,
        journal: Journal,
        keys_dir: Path,
        clock: Callable[[], int],
        *,
        configured: Callable[[str], str] = lambda table: table,
        done: Callable[[RepairResult], None] = lambda result: None,
    ) -> None:
        self._repairs, self._config, self._journal, self._keys_dir, self._clock = repairs, config, journal, keys_dir, clock
        self._configured, self._done = configured, done
        self._lock = threading.Lock()
        self._queue: deque[str] = deque()
        self._waiting = threading.Event()
        self._tried: dict[str, int] = {}
        self._repaired_at: dict[Row, list[int]] = {}
        self._problems: dict[str, str] = {}

    @property
    def enabled(self) -> bool:
        """Whether any table asks for it."""
        return any(table.on_tamper == "repair" for table in self._config.protected_tables)

    @property
    def key_file(self) -> Path:
        return self._keys_dir / "repair.key"

    def check(self) -> list[str]:
        """What keeps tables from being repaired now, one sentence each; for ``status``, and once at the start for the log."""
        for table in self._config.protected_tables:
            if table.on_tamper == "repair":
                self._permission(table.name)
        return sorted(self._problems.values())

    # -- what is offered ------------------------------------------------------------------------------------------------------

    def wants(self, finding: Finding) -> bool:
        """Whether this finding is one to repair: open, about rows, of a table that asks for it."""
        if finding.state != OPEN or finding.cls not in REPAIRABLE or finding.table is None:
            return False
        table = self._config.table(self._configured(finding.table))
        return table is not None and table.on_tamper == "repair"

    def offer(self, finding_ids: Iterable[str]) -> None:
        """Take note of findings; never waits.  What is not wanted is passed over later."""
        if not self.enabled:
            return
        with self._lock:
            self._queue.extend(name for name in finding_ids if name not in self._queue)
        self._waiting.set()

    def work(self, stop: threading.Event) -> None:
        """Repair what is offered until ``stop`` is set."""
        while not stop.is_set():
            if not self._waiting.wait(0.2):
                continue
            self._waiting.clear()
            while not stop.is_set() and (name := self._next()) is not None:
                self._consider(name)

    def _next(self) -> str | None:
        with self._lock:
            return self._queue.popleft() if self._queue else None

    def _consider(self, finding_id: str) -> None:
        try:
            finding = self._repairs.get(finding_id)
        except WitnzError:
            return
        if not self.wants(finding) or self._tried.get(finding_id, 0) >= TRIES:
            return
        self._tried[finding_id] = self._tried.get(finding_id, 0) + 1
        try:
            self.run(finding)
        except WitnzError as error:
            log.warning("row was not repaired", finding=finding_id, code=error.code, reason=error.message, hint=error.hint)

    # -- repairing ------------------------------------------------------------------------------------------------------------

    def run(self, finding: Finding) -> RepairResult | None:
        """Repair one finding now; None if something is missing or the row was repaired too often.

        Raises what a repair by hand raises.
        """
        table = finding.table or ""
        permission = self._permission(self._configured(table))
        if permission is None:
            return None
        row = (table, finding.key)
        if self._too_often(row):
            self._give_up(finding)
            return None
        result = self._repairs.apply(
            finding.id, permission.admin, KEY_NAME, permission.signer, REASON, by=f"witnz {self._config.node_id}"
        )
        if result.restored:
            self._repaired_at.setdefault(row, []).append(self._clock())
        level = log.info if result.repaired else log.warning
        level("row was repaired" if result.repaired else "row was not repaired", finding=finding.id, left=list(result.left)[:3])
        self._done(result)
        return result

    def _too_often(self, row: Row) -> bool:
        since = self._clock() - HOUR_US
        for known in list(self._repaired_at):
            self._repaired_at[known] = [at for at in self._repaired_at[known] if at > since]
            if not self._repaired_at[known]:
                del self._repaired_at[known]
        return len(self._repaired_at.get(row, ())) >= REPAIRS_PER_HOUR

    def _give_up(self, finding: Finding) -> None:
        self._tried[finding.id] = TRIES
        reason = f"left to people: repaired automatically {REPAIRS_PER_HOUR} times within an hour"
        self._repairs.note(finding, reason)
        log.warning("row was not repaired", finding=finding.id, reason=reason)

    # -- what is needed -------------------------------------------------------------------------------------------------------

    def _permission(self, table: str) -> Permission | None:
        """What repairs of a table are made with; None, and said, if something is missing."""
        try:
            permission = Permission(self._connection(table), self._signer())
            self._check_images(table)
        except WitnzError as missing:
            sentence = f"{table} cannot be repaired automatically: {missing.message}"
            if self._problems.get(table) != sentence:
                log.warning("automatic repair is not possible", table=table, reason=missing.message, hint=missing.hint)
            self._problems[table] = sentence
            return None
        self._problems.pop(table, None)
        return permission

    def _connection(self, table: str) -> Conninfo:
        url = self._config.repair_url_for(table)
        if url is None:
            raise UsageError("there is no connection that may write", hint="set repair_url_file for the table")
        return Conninfo.from_conninfo(url.reveal())

    def _signer(self) -> Signer:
        if not self.key_file.exists():
            raise KeyProblem(
                f"there is no key {self.key_file}", hint=f"run: witnz keys new intent {KEY_NAME} --operator-key FILE"
            )
        name, signer = load_person_key(self.key_file, "intent")
        known = self._journal.state.intent_key(KEY_NAME)
        if name != KEY_NAME or known != signer.public:
            raise KeyProblem(
                f"the key in {self.key_file} is not the intent key {KEY_NAME!r} that the journal has in force",
                hint=f"an operator has to journal it: witnz keys new intent {KEY_NAME} --operator-key FILE",
            )
        return signer

    def _check_images(self, table: str) -> None:
        recorded = self._journal.state.current_table(table)
        if recorded is not None and not recorded.rules.retain:
            raise UsageError("the journal records it without retain: rows", hint="begin a generation that retains rows")
