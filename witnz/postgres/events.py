"""What a decoded replication stream says: the events of :mod:`witnz.postgres.pgoutput`, in stream order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from witnz.core.entry import SchemaColumn


@dataclass(frozen=True, slots=True)
class Begin:
    """A transaction begins; it has committed already.  ``xid``: the low 32 bits of its top-level id."""

    final_lsn: int
    commit_us: int
    """Microseconds since the Unix epoch."""
    xid: int


@dataclass(frozen=True, slots=True)
class Commit:
    """A transaction is complete.  ``end_lsn`` is what to acknowledge; ``commit_lsn`` is its Begin's ``final_lsn``."""

    commit_lsn: int
    end_lsn: int
    commit_us: int


@dataclass(frozen=True, slots=True)
class Relation:
    """What a table looks like from here on.

    ``identity``: its REPLICA IDENTITY: ``d`` default, ``f`` full, ``i`` using an index, ``n`` nothing.
    """

    oid: int
    schema: str
    name: str
    identity: str
    columns: tuple[SchemaColumn, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """Consecutive changes of one kind to one table, as row lines (formats.md 1).

    ``op`` b"insert": ``new`` only.  b"delete": ``old`` only.  b"update": both, and every ``old[i]`` is None where the stream
    carries no old tuples.  ``whole``: the old lines are whole rows, not the key columns with ``\\N`` elsewhere.
    ``unresolved``: indices of new lines in which an unchanged TOAST value is missing; such a cell is the raw ``\\U``.
    """

    oid: int
    op: bytes
    new: list[bytes]
    old: list[bytes | None]
    whole: bool
    unresolved: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Truncate:
    """Tables emptied by one command."""

    oids: tuple[int, ...]
    cascade: bool
    restart: bool


@dataclass(frozen=True, slots=True)
class LogicalMessage:
    """``pg_logical_emit_message``, which anybody may call.  ``lsn``: of its WAL record."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Origin:
    """The transaction was replicated to this server from elsewhere."""

    lsn: int
    name: str


Event: TypeAlias = Begin | Commit | Relation | Rows | Truncate | LogicalMessage | Origin
