"""One generation of one protected table, as the running node sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from witnz.core.classify import Rules
from witnz.core.entry import SchemaColumn, schema_hint
from witnz.core.keyplan import KeyPlan
from witnz.errors import FormatError
from witnz.node.block import Block, Said, Transaction
from witnz.postgres.pgoutput import Relation, Rows
from witnz.postgres.xid import Snapshot
from witnz.store.logs import Status
from witnz.store.tablelog import LogHead

UNKNOWN_CELL = b"\\U"  # an unchanged TOAST value whose text nobody sent

OPEN: Status = "open"
ACTIVE: Status = "active"
ENDED: Status = "ended"
PROVISIONAL: Status = "provisional"


@dataclass(slots=True, eq=False)
class TableState:
    """Everything the recorder needs to turn this table's row messages into entries.

    ``status``    open: its baseline is being read and its changes are spooled; active: entries are appended; provisional: a
    leaf
                  partition that appeared, recorded at once and not yet adopted by a ``table`` record; ended: history.
    ``snapshot``  the baseline's S: a transaction visible in it is part of the baseline and is skipped (formats.md 2).
    ``lsn``       the baseline's L; a transaction with a final LSN at or above it can not be visible in S.
    ``final_lsn`` set once a newer generation has its L: transactions from there on belong to the newer one.
    """

    head: LogHead
    oid: int
    rules: Rules
    key_columns: tuple[str, ...]
    hidden_keys: bool
    columns: tuple[SchemaColumn, ...]
    identity: str
    status: Status
    snapshot: Snapshot | None = None
    lsn: int = 0
    final_lsn: int | None = None
    skip_until: int = 0  # final LSN up to which, inclusive, other members gave the entries
    settled_xid: int = 0  # a scan can be compared once its snapshot's xmin has reached this id
    has_overlay: bool = False
    pending_schema: str | None = None
    stale: str | None = None  # why a new generation is due
    excluded: frozenset[str] = frozenset()  # columns the configuration leaves out by name (formats.md 1)
    logged_schema: str = ""  # the description in the log's newest schema entry; empty: none is there yet
    first_columns: tuple[SchemaColumn, ...] | None = None  # as the generation began: what its rows were hashed under
    first_identity: str = ""
    plan: KeyPlan = field(init=False)
    block: Block = field(init=False)
    keep: tuple[int, ...] | None = field(init=False, default=None)  # cells of the stream's line that are recorded; None: all
    _foreign: bool = field(init=False, default=False)  # rows come under other columns than the generation began with
    _rows_under: tuple[SchemaColumn, ...] = field(init=False)  # the columns of the newest rows
    _only_grew: bool = field(init=False, default=True)  # all changes so far added columns, or renamed some

    def __post_init__(self) -> None:
        if self.first_columns is None:
            self.first_columns, self.first_identity = self.columns, self.identity
        elif _shape(self.columns) != _shape(self.first_columns):
            self.stale = self._why_stale(self.columns)
        self._rows_under = self.first_columns
        self.plan = self._plan_for(self.columns)
        self.block = Block()

    @property
    def name(self) -> str:
        return self.head.table

    @property
    def generation(self) -> int:
        return self.head.generation

    def wants(self, tx: Transaction) -> bool:
        """Whether a transaction's rows are to be recorded here: all but those that the baseline's snapshot saw, or that came
        from other members.

        What lies beyond ``final_lsn`` is wanted, too: it is spooled until the newer generation is adopted or cancelled.
        """
        if tx.final_lsn <= self.skip_until:
            return False
        return self.snapshot is None or tx.final_lsn >= self.lsn or not self.snapshot.visible(tx.xid64)

    def describe(self, relation: Relation) -> None:
        """Take note of a Relation message; a schema entry is due before the next row if it says something new.

        While the generation is being opened the stream may still be where the table had other columns: that is no reason for
        yet another generation, and rows from there belong to the baseline (:meth:`_is_past`).
        """
        columns = relation.columns
        if self.excluded:
            self.keep = tuple(i for i, column in enumerate(columns) if column.name not in self.excluded)
            columns = tuple(columns[i] for i in self.keep)
        self._foreign = _shape(columns) != _shape(self.first_columns or ())
        if self._foreign and self.status == OPEN and self.snapshot is None:
            return  # nothing that comes under these columns is recorded here, so they do not become this log's
        hint = schema_hint(columns, relation.identity, relation.oid)
        if _shape(columns) != _shape(self.columns):
            if self.status != OPEN:
                self.stale = self._why_stale(columns)
            self.plan = self._plan_for(columns)
        self.columns, self.identity = columns, relation.identity
        self.pending_schema = hint if hint != self.logged_schema else None

    def add_rows(self, rows: Rows, said: Said) -> None:
        if self._is_past():
            return
        self._add_pending_schema(said.tx)
        if self._rows_under is not self.columns:
            before, self._rows_under = _types(self._rows_under), self.columns
            self._only_grew = self._only_grew and _types(self.columns)[: len(before)] == before
        if self.keep is not None:
            rows = _project(rows, self.keep)
        self.block.add_rows(rows, self.plan, said, retain=self.rules.retain, earlier=self._earlier())

    def _earlier(self) -> Sequence[int] | None:
        """With how many of today's columns rows of this generation may have been recorded (:meth:`Block.add_rows`)."""
        if not self._only_grew:
            return None
        return range(len(self.columns) - 1, len(self.first_columns or self.columns) - 1, -1)

    def add_truncate(self, said: Said) -> None:
        if self._is_past():
            return
        self._add_pending_schema(said.tx)
        self.block.add_truncate(said)

    def _is_past(self) -> bool:
        """Whether what comes now is surely part of a baseline that is still to be read.

        A definition changes when no transaction that wrote under the old one is left, and the baseline is read under the new
        one (or the opening is cancelled): so before there is a snapshot, rows under other columns lie before it.
        """
        if self.status != OPEN or not self._foreign:
            return False
        if self.snapshot is None:
            return True
        self.stale = self._why_stale(self.columns)
        return False

    def take_block(self) -> Block:
        block, self.block = self.block, Block()
        return block

    def _add_pending_schema(self, tx: Transaction) -> None:
        if self.pending_schema is not None:
            self.block.add_schema(self.pending_schema, tx)
            self.logged_schema, self.pending_schema = self.pending_schema, None

    def _why_stale(self, columns: tuple[SchemaColumn, ...]) -> str:
        names = {column.name for column in columns}
        return "columns changed" if names.issuperset(self.key_columns) else "key columns changed"

    def _plan_for(self, columns: tuple[SchemaColumn, ...]) -> KeyPlan:
        names = [column.name for column in columns]
        try:
            return KeyPlan.of(self.key_columns, names, self.head.secret, hidden=self.hidden_keys)
        except FormatError:
            # Where a key column has gone rows are told apart by hash until the new generation, which is already due.
            return KeyPlan(self._renamed_key(columns), self.head.secret, self.hidden_keys)

    def _renamed_key(self, columns: tuple[SchemaColumn, ...]) -> tuple[int, ...]:
        """Where the key columns are if all that happened to them is a new name; empty if it is more than that."""
        first = self.first_columns or ()
        if len(columns) < len(first):
            return ()
        for old, new in zip(first, columns, strict=False):
            if new.name != old.name and old.name not in self.key_columns:
                return ()
        return tuple(at for at, column in enumerate(first) if column.name in self.key_columns)


def _shape(columns: tuple[SchemaColumn, ...]) -> tuple[tuple[str, int, int], ...]:
    """Names and types without the identity's key flags: what decides how a row line reads."""
    return tuple((column.name, column.typoid, column.typmod) for column in columns)


def _types(columns: tuple[SchemaColumn, ...]) -> list[tuple[int, int]]:
    return [(column.typoid, column.typmod) for column in columns]


def _project(rows: Rows, keep: tuple[int, ...]) -> Rows:
    """The run with only the cells at ``keep``."""

    def cut(line: bytes) -> bytes:
        cells = line.split(b"\t")
        return b"\t".join([cells[i] for i in keep])

    new = [cut(line) for line in rows.new]
    old = [None if line is None else cut(line) for line in rows.old]
    unresolved = tuple(i for i in rows.unresolved if UNKNOWN_CELL in new[i].split(b"\t"))
    return replace(rows, new=new, old=old, unresolved=unresolved)
