"""The journal in the store: every valid record verbatim, its chain, and its tree (log 0 of the tiles).

Record ``seq`` is leaf ``seq - 1``.  ``leaf`` is the record's canonical JSON (formats.md 4) and ``chain`` the chain head after
it.  Whether a record is valid is decided before it comes here.  A head belongs to its transaction, like that of a table log.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from witnz.core.decisive import decisive
from witnz.core.entry import MAX_ENTRY, first_parent
from witnz.core.hashing import chain_hashes, leaf_hashes
from witnz.core.journal import JournalState
from witnz.core.record import Record, recall_record
from witnz.core.tiles import TILE, ReadTile, Tree
from witnz.core.tiles import root_at as root_from_tiles
from witnz.errors import FormatError, ProofError, StoreCorrupt, StoreError
from witnz.store.meta import CLUSTER, load_value
from witnz.store.schema import RARE_RECORDS
from witnz.store.treestore import JOURNAL_LOG, load_tree, save_tiles
from witnz.store.treestore import tile_reader as read_tiles

FREQUENT: Final = frozenset({"seal", "verify"})
"""The types of which there is a record every few seconds or minutes; all others are found by an index."""

_SEAL: Final = b',"type":"seal"}'
_VERIFY: Final = b',"type":"verify"}'
_STRETCH: Final = 4096  # records
_RARE: Final = (
    f"SELECT seq, leaf FROM journal INDEXED BY journal_rare WHERE seq BETWEEN ? AND ? AND {RARE_RECORDS} ORDER BY seq"  # noqa: S608
)


@dataclass(slots=True)
class JournalHead:
    """Where the journal is: ``size`` records, their chain head (64 ASCII hex digits) and the right edge of their tree."""

    size: int
    chain: bytes
    tree: Tree

    def root(self) -> bytes:
        """The RFC 6962 root of all records: what a checkpoint of this size says."""
        return self.tree.root()

    def copy(self) -> JournalHead:
        """An independent head, to append to and to keep only if the transaction commits."""
        return JournalHead(self.size, self.chain, self.tree.copy())


def load_head(connection: sqlite3.Connection) -> JournalHead:
    """The head of the journal, from its last records, fewer than 256, and one tile a level.

    Its origin is the cluster's name, the value ``cluster`` of :mod:`witnz.store.meta`.  Raises StoreCorrupt where there is none
    or these do not fit together.
    """
    size = journal_size(connection)
    full = size // TILE
    before = chain_at(connection, full * TILE)
    leaves = _leaves(connection, full)
    chain = chain_hashes(before.encode(), leaves)
    if len(leaves) != size % TILE or (size and chain.decode() != _chain_after(connection, size)):
        raise _corrupt(f"the records from {full * TILE + 1} on do not lead to its chain head")
    return JournalHead(size, chain, load_tree(connection, JOURNAL_LOG, size, leaves))


def append_record(connection: sqlite3.Connection, head: JournalHead, leaf: bytes) -> int:
    """Add a record; its seq.  Raises FormatError, with nothing changed, for one over 65,535 bytes."""
    if len(leaf) > MAX_ENTRY:
        raise FormatError(f"journal record: expected at most {MAX_ENTRY} bytes, found {len(leaf)}")
    leaves = leaf_hashes([leaf])
    chain = chain_hashes(head.chain, leaves)
    connection.execute(
        "INSERT INTO journal (seq, leaf, chain) VALUES (?, ?, ?)", (head.size + 1, leaf, bytes.fromhex(chain.decode()))
    )
    save_tiles(connection, JOURNAL_LOG, head.tree, head.tree.append(leaves))
    head.size, head.chain = head.size + 1, chain
    return head.size


def journal_size(connection: sqlite3.Connection) -> int:
    """How many records the journal has."""
    return int(connection.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()[0])


def records(connection: sqlite3.Connection, from_seq: int = 1, to_seq: int | None = None) -> Iterator[bytes]:
    """The records from one seq to another, both included, verbatim.  Raises StoreCorrupt where one is missing."""
    size = journal_size(connection)
    last = size if to_seq is None else min(to_seq, size)
    expected = max(1, from_seq)
    query = "SELECT seq, leaf FROM journal WHERE seq BETWEEN ? AND ? ORDER BY seq"
    for seq, leaf in connection.execute(query, (expected, last)):
        if seq != expected or not isinstance(leaf, bytes):
            raise _corrupt(f"record {expected} is missing or not bytes")
        expected += 1
        yield leaf
    if expected <= last:
        raise _corrupt(f"record {expected} is missing")


def records_of(
    connection: sqlite3.Connection,
    *types: str,
    naming: str = "",
    from_seq: int = 1,
    to_seq: int | None = None,
    newest_first: bool = False,
) -> Iterator[tuple[int, bytes]]:
    """(seq, record) of the records of these types from one seq to another, both included.

    A journal has a seal every few seconds for years, so that only what is asked for should be parsed.  Records are told
    apart by the end of their canonical JSON, in which the type is the last member: text inside a record never counts.
    ``naming``: only records in which this ASCII text stands somewhere.  ``newest_first``: from the end on, a stretch at a time.
    Raises StoreCorrupt where a record is missing, unless none of these types is :data:`FREQUENT`.
    """
    ends, text = tuple(f',"type":"{name}"}}'.encode() for name in types), naming.encode("ascii")
    size = journal_size(connection)
    first, last = max(1, from_seq), size if to_seq is None else min(to_seq, size)
    if FREQUENT.isdisjoint(types):
        order = f"{_RARE} DESC" if newest_first else _RARE
        for seq, leaf in connection.execute(order, (first, last)):
            if leaf.endswith(ends) and text in leaf:
                yield seq, leaf
        return
    for low, high in _stretches(first, last) if newest_first else [(first, last)]:
        numbered: Iterable[tuple[int, bytes]] = enumerate(records(connection, low, high), low)
        for seq, leaf in reversed(list(numbered)) if newest_first else numbered:
            if leaf.endswith(ends) and text in leaf:
                yield seq, leaf


def _stretches(first: int, last: int) -> Iterator[tuple[int, int]]:
    """A range from its end on, in pieces that fit into memory."""
    for high in range(last, first - 1, -_STRETCH):
        yield max(first, high - _STRETCH + 1), high


def load_state(connection: sqlite3.Connection, to_seq: int | None = None) -> JournalState:
    """What the journal says up to a record.  Each was judged in full before it came here; what is judged again is all but
    signatures and the grammar of bodies, so that no record may have changed that its node has added to.

    Raises StoreCorrupt, naming the record, where they do not follow on one another.
    """
    state = JournalState()
    with _damage_named(lambda: state.size + 1):
        for leaf in records(connection, 1, to_seq):
            state.apply(recall_record(leaf), verify_signatures=False)
    return state


def decisive_records(connection: sqlite3.Connection, to_seq: int | None = None) -> list[Record]:
    """The records up to a seq that say something still (:mod:`witnz.core.decisive`).

    Raises StoreCorrupt, naming the record, where one is not what was stored once.
    """
    seq, found = 0, []

    def read() -> Iterator[Record | _Seal]:
        nonlocal seq
        for seq, leaf in enumerate(records(connection, 1, to_seq), 1):
            if leaf.endswith(_SEAL):
                yield _Seal(seq, leaf)
            elif not leaf.endswith(_VERIFY):
                yield recall_record(leaf)

    with _damage_named(lambda: seq):
        for one in decisive(read()):
            found.append(one.recalled() if isinstance(one, _Seal) else one)
    return found


@dataclass(frozen=True, slots=True)
class _Seal:
    """A seal of which most likely nobody wants to know more than which logs it names."""

    seq: int
    leaf: bytes
    type: str = "seal"

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.leaf)["body"]
        return body

    def recalled(self) -> Record:
        with _damage_named(lambda: self.seq):
            return recall_record(self.leaf)


@contextmanager
def _damage_named(seq: Callable[[], int]) -> Iterator[None]:
    """Records that were checked before they were stored, and are read as such: whatever they do then, they were damaged."""
    try:
        yield
    except (FormatError, ProofError) as error:
        raise _corrupt(f"record {seq()} is damaged: {error.message}") from error
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError) as error:
        raise _corrupt(f"record {seq()} is damaged") from error


def record_at(connection: sqlite3.Connection, seq: int) -> bytes:
    """One record; raises StoreError for a seq that the journal does not have."""
    for leaf in records(connection, seq, seq) if seq >= 1 else ():
        return leaf
    raise StoreError(f"the journal has no record {seq}")


def records_at(connection: sqlite3.Connection, seqs: Iterable[int]) -> Iterator[bytes]:
    """The records with these seqs, one after the other, however many; raises StoreCorrupt for one that is missing."""
    for seq in seqs:
        row = connection.execute("SELECT leaf FROM journal WHERE seq = ?", (seq,)).fetchone()
        if row is None or not isinstance(row[0], bytes):
            raise _corrupt(f"record {seq} is missing or not bytes")
        yield row[0]


def chain_at(connection: sqlite3.Connection, size: int) -> str:
    """The chain head after ``size`` records, 64 hex digits; 0 gives the first parent."""
    if size:
        return _chain_after(connection, size)
    cluster = load_value(connection, CLUSTER)
    if cluster is None:
        raise _corrupt("the store does not say which cluster it belongs to")
    return first_parent(cluster)


def root_at(connection: sqlite3.Connection, size: int) -> bytes:
    """The RFC 6962 root of the first ``size`` records, from O(log size) tiles."""
    return root_from_tiles(tile_reader(connection, size), size)


def tile_reader(connection: sqlite3.Connection, size: int | None = None) -> ReadTile:
    """Reads the tiles of the journal's tree of ``size`` leaves; None: of all of it."""
    have = journal_size(connection)
    if size is not None and not 0 <= size <= have:
        raise StoreError(f"journal: expected a size of at most {have}, found {size}")
    return read_tiles(connection, JOURNAL_LOG, have if size is None else size, lambda n: _leaves(connection, n))


def _leaves(connection: sqlite3.Connection, n: int) -> list[bytes]:
    """The leaf hashes of tile n of level 0, from its records."""
    return leaf_hashes(list(records(connection, n * TILE + 1, (n + 1) * TILE)))


def _chain_after(connection: sqlite3.Connection, size: int) -> str:
    row = connection.execute("SELECT chain FROM journal WHERE seq = ?", (size,)).fetchone()
    if row is None or not isinstance(row[0], bytes) or len(row[0]) != 32:
        raise _corrupt(f"record {size} has no chain head of 32 bytes")
    return row[0].hex()


def _corrupt(reason: str) -> StoreCorrupt:
    return StoreCorrupt(f"journal: {reason}", hint="keep a copy of the store as it is, and run `witnz verify --store`")
