"""What the HTTP interface asks of the node that it serves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from witnz.config import Config
from witnz.core.classify import Rules
from witnz.core.finding import Finding
from witnz.core.journal import JournalState
from witnz.metrics import Metrics
from witnz.node.events import Broadcaster
from witnz.node.evidence import RowLine
from witnz.node.status import Live
from witnz.node.verification import Verified
from witnz.store.database import Database

if TYPE_CHECKING:
    from witnz.node.anchoring import Looked
    from witnz.node.repair import RepairResult
    from witnz.node.repair_apply import Applied
    from witnz.node.repair_plan import RepairPlan
    from witnz.node.reporting import Asked


class JournalOf(Protocol):
    """The node's journal."""

    @property
    def state(self) -> JournalState: ...

    def propose(self, record_type: str, body: Mapping[str, Any]) -> int: ...


class ApprovalsOf(Protocol):
    """How findings are closed."""

    def acknowledge(self, finding_id: str, reason: str) -> Finding: ...

    def accept_body(self, finding_id: str, reason: str) -> dict[str, Any]: ...


class ErasingOf(Protocol):
    """How rows go by order."""

    def body(self, table: str, keys: Sequence[str], reason: str) -> dict[str, Any]: ...


class AnchoringOf(Protocol):
    """How checkpoints leave the cluster."""

    def check_names(self, names: Sequence[str]) -> None: ...

    def now(self, names: Sequence[str], wait_s: float, told: Callable[[int], None] = ...) -> list[dict[str, Any]]: ...

    def check(self, *, everything: bool, told: Callable[[int], None] = ...) -> list[Looked]: ...


class RepairsOf(Protocol):
    """How recorded rows are restored."""

    def plan(self, finding_id: str) -> RepairPlan: ...

    def settle(self, finding_id: str, applied: Applied, sql_sha256: str) -> RepairResult: ...


class ReportsOf(Protocol):
    """How evidence packages are made, and where their files are."""

    def make(self, asked: Asked, tell: Callable[[int], None]) -> dict[str, Any]: ...

    def sample(self, population: str, n: int, seed: str, begin: str, end: str) -> dict[str, Any]: ...

    def file(self, name: str, file: str) -> Path: ...


class Served(Live, Protocol):
    """A running node.  All its methods may be called from any thread and may take long."""

    @property
    def config(self) -> Config: ...

    @property
    def db(self) -> Database: ...

    @property
    def clock(self) -> Callable[[], int]: ...

    @property
    def metrics(self) -> Metrics: ...

    @property
    def events(self) -> Broadcaster: ...

    @property
    def journal(self) -> JournalOf: ...

    @property
    def approvals(self) -> ApprovalsOf: ...

    @property
    def erasing(self) -> ErasingOf: ...

    @property
    def anchoring(self) -> AnchoringOf: ...

    @property
    def repairs(self) -> RepairsOf: ...

    @property
    def reports(self) -> ReportsOf: ...

    @property
    def row_line(self) -> RowLine: ...

    def verify_table(self, table: str, progress: Callable[[int], None], share: str | None = None) -> Verified: ...

    def roll(self, table: str, progress: Callable[[int], None]) -> Verified: ...

    def verify_sample(self, table: str, wanted: int, parts: int, progress: Callable[[int], None]) -> Verified: ...

    def approve(self, body: dict[str, Any]) -> Finding: ...

    def decide(self, record_type: str, body: dict[str, Any]) -> int: ...

    def protect_table(self, name: str, rules: Rules, *, hidden: bool, excluded: frozenset[str]) -> None: ...
