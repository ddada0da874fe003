"""What an opening is given: the plan of one generation, the parts of the node that it works with, and its companions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import psycopg

from witnz.core.classify import Rules
from witnz.node.errands import Errands
from witnz.node.images import ImageBox
from witnz.node.journal import Journal
from witnz.node.reopening import Reopening
from witnz.node.rootscan import RootScan
from witnz.node.succession import Predecessor
from witnz.postgres.catalog import TableInfo
from witnz.postgres.scan import SnapshotScan
from witnz.store.database import Database
from witnz.verify.stream import Stream

if TYPE_CHECKING:
    from witnz.node.opening import Opening


class Companions(Protocol):
    """The members that open together with this node, which leads."""

    def prepare(self, opening: Opening) -> None:
        """Return once enough of them spool.  Raises NoQuorum."""

    def remind(self, opening: Opening) -> None:
        """Tell them that the opening goes on."""

    def hold_still(self, opening: Opening) -> None:
        """Return once those that spool hold their streams still, for at most STILL_S, or could not be asked."""

    def move_on(self, opening: Opening) -> None:
        """There is no S yet."""

    def read(self, opening: Opening, exported: str, snapshot: str, lsn: int, at: int) -> None:
        """Return once those that could have imported S."""

    def forget(self, opening: Opening) -> None:
        """The opening was given up."""


@dataclass(frozen=True, slots=True)
class Invitation:
    """Who leads an opening that this node takes part in, and the secret of the generation (32 bytes)."""

    leader: str
    secret: bytes


@dataclass(slots=True)
class Plan:
    """What is to be opened: the table as the catalog shows it, its rules, and what it follows."""

    name: str
    info: TableInfo
    rules: Rules
    hidden_keys: bool
    generation: int
    reason: str
    excluded: frozenset[str] = frozenset()
    predecessor: Predecessor | None = None
    root: str | None = None


@dataclass(slots=True)
class Surroundings:
    """The parts of the node that an opening works with."""

    db: Database
    journal: Journal
    stream: Stream
    cluster: str
    clock: Callable[[], int]
    box: ImageBox | None
    connect: Callable[[], psycopg.Connection]
    scan: Callable[[psycopg.Connection, TableInfo, frozenset[str]], SnapshotScan | RootScan]
    progress: Callable[[str, int], None]
    reopening: Reopening
    errands: Errands = field(default_factory=lambda: Errands(inline=True))
    companions: Companions | None = None
    leads: Callable[[], bool] = lambda: True
