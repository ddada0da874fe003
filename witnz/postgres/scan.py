"""A table's rows as of one snapshot: the other detector (architecture.md 2 and 7; research in cdc.md 5.4).

The order of the steps is the point; each closes a door.

    1  BEGIN REPEATABLE READ READ ONLY, settings        row_security=off: a policy raises instead of hiding rows
    2  LOCK TABLE ONLY … IN ACCESS SHARE MODE           before the snapshot, or a TRUNCATE between would show an empty table;
                                                        a short lock_timeout, because whoever waits behind DDL holds up others
    3  one query: snapshot S and insert LSN L           the snapshot is taken before L is read: what S sees ended below L
    4  is the name still the recorded relation?         under the lock, which no swap can pass
    5  fingerprint as of S                              (:mod:`witnz.postgres.fingerprint`)
    6  COPY of the columns                              :meth:`SnapshotScan.lines`
    7  which relations did this transaction read?       its own locks tell; a schema renamed after step 2 cannot slip another in
    8  COMMIT, fingerprint again                        enum labels and composite types change without a lock on the table

Rows come in physical order: no parallel plan, no index, no synchronised scan.  Only ordinary tables and leaf partitions are
scanned.  The caller then waits until its stream has passed L (``pg_logical_emit_message`` forces it along) and judges every
transaction by S, never by L.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import psycopg
from psycopg import sql

from witnz.core.keyrange import KeyRange
from witnz.core.lsn import parse_lsn
from witnz.errors import FormatError, UsageError, WitnzError
from witnz.postgres.catalog import TableInfo, table_by_oid
from witnz.postgres.copyout import CopyOut
from witnz.postgres.copysql import copy_statement, psql_command, range_condition
from witnz.postgres.fingerprint import TableFingerprint, fingerprint
from witnz.postgres.scan_errors import ScanInterrupted, TableChanged, TableReplaced, scan_error
from witnz.postgres.typegraph import FIRST_USER_OID
from witnz.postgres.xid import Snapshot, parse_snapshot

__all__ = ["SnapshotScan", "psql_command"]

Rows = TypeVar("Rows")

_RETRY_PAUSE_S: Final = 0.25
_TRANSACTION_TIMEOUT_SINCE: Final = 170000
_EXPORTED = re.compile(r"[0-9A-F]{8}-[0-9A-F]{8}-[1-9][0-9]{0,9}")

# An idle exporter may wait for hours until the other nodes have read; a scan itself may take as long as it takes.
_SETTINGS = """
SET LOCAL lock_timeout = {lock_timeout_ms}; SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;
{transaction_timeout}
SET LOCAL row_security = off; SET LOCAL synchronize_seqscans = off; SET LOCAL max_parallel_workers_per_gather = 0;
SET LOCAL enable_seqscan = {heap}; SET LOCAL enable_indexscan = {indexes};
SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off
"""
_SNAPSHOT = """
SELECT pg_current_snapshot()::text, CASE WHEN NOT pg_is_in_recovery() THEN pg_current_wal_insert_lsn()::text END,
       to_regclass(%s)::oid
"""
_NAMED = """
SELECT c.oid, c.relkind::text FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = %s AND c.relname = %s
"""
_READ = """
SELECT DISTINCT relation FROM pg_catalog.pg_locks
WHERE pid = pg_backend_pid() AND locktype = 'relation' AND relation >= %s
"""
_RELATED = """
SELECT i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid = %(oid)s
UNION ALL SELECT relid::oid FROM pg_partition_ancestors(%(oid)s)
"""
_READ_AS: Final = frozenset({"columns", "missing_values", "types"})


def session_named(connection: psycopg.Connection[Any], prefix: str) -> str | None:
    """The application name, beginning with ``prefix``, of a session of this role; None while there is none."""
    connection.execute("SELECT pg_stat_clear_snapshot()")  # in a transaction the list would stay as first seen
    query = "SELECT application_name FROM pg_stat_activity WHERE strpos(application_name, %s) = 1"
    found = connection.execute(query, (prefix,)).fetchone()
    return None if found is None else str(found[0])


class SnapshotScan:
    """``with SnapshotScan(connection, info) as scan: for lines in scan.lines(): …``

    ``connection``: from ``connect(…, scan=True)``, idle, used for nothing else meanwhile.  ``info``: the relation that is
    recorded; its OID *and* name must still belong together.  ``columns``: names to read, in this order (default: what the
    stream carries, in attnum order).  ``import_snapshot``: read in a snapshot that another session exported and still holds,
    together with its lock; then nothing is waited for.  ``key_range``: only the rows of a range of the single key column, found
    through its index, in the order of that.

    Entering raises the errors of :mod:`witnz.postgres.scan_errors`; UsageError for a partitioned table (scan its leaves).
    """

    def __init__(
        self,
        connection: psycopg.Connection[Any],
        info: TableInfo,
        *,
        columns: Sequence[str] | None = None,
        import_snapshot: str | None = None,
        lock_timeout_s: float = 2.0,
        attempts: int = 3,
        silence_timeout_s: float = 600.0,
        key_range: KeyRange | None = None,
    ) -> None:
        if info.relkind == "p":
            raise UsageError(f"{info.schema}.{info.name} is partitioned: its leaves are scanned, one by one")
        if import_snapshot is not None and _EXPORTED.fullmatch(import_snapshot) is None:
            raise FormatError(f"exported snapshot: expected an id such as 00000003-0000001B-1, found {import_snapshot[:40]!r}")
        self.info = info
        self.columns: tuple[str, ...] = tuple(columns if columns is not None else (c.name for c in info.replicated_columns))
        self._connection = connection
        self._label = f"{info.schema}.{info.name}"
        self._name = sql.Identifier(info.schema, info.name)
        self._import_snapshot = import_snapshot
        self._lock_timeout_s = lock_timeout_s
        self._attempts = max(1, attempts)
        self._silence_timeout_s = silence_timeout_s
        self._copy: CopyOut | None = None
        self.snapshot_text = ""
        """S as the server wrote it."""
        self.lsn = 0
        """L. Of an imported snapshot, this session's own: later than the exporter's."""
        self._ended = False
        self._range = key_range
        self.fingerprint_before: TableFingerprint
        self.fingerprint_after: TableFingerprint | None = None
        """Set when the scan has ended well; None too when the table was dropped right after it."""

    @property
    def snapshot(self) -> Snapshot:
        return parse_snapshot(self.snapshot_text)

    @property
    def rows_estimate(self) -> int | None:
        """For a progress bar; None where the table was never analysed."""
        return self.info.estimated_rows

    @property
    def rows(self) -> int:
        """Rows read so far."""
        return 0 if self._copy is None else self._copy.rows

    def changed_during(self) -> tuple[str, ...]:
        """After the scan: what decides how rows read and can move in spite of the lock, and did (names of fingerprint fields).

        Not empty: the lines prove nothing, scan again.  Raises UsageError for a scan that did not end well.
        """
        if not self._ended:
            raise UsageError("the scan has not ended well; there is nothing to compare")
        if self.fingerprint_after is None:
            return ("oid",)
        return tuple(name for name in self.fingerprint_before.changes(self.fingerprint_after) if name in _READ_AS)

    def __enter__(self) -> Self:
        try:
            self._open()
        except psycopg.Error as error:
            raise self._explained(error) from error
        except BaseException:
            self._rollback()
            raise
        return self

    def lines(self, batch: int = 4096) -> Iterator[list[bytes]]:
        """The table's rows as raw row lines (formats.md 1, without newline), about ``batch`` at a time; once.

        Raises what :mod:`witnz.postgres.scan_errors` lists; then nothing that was read before counts.
        """
        return self._rows_by(lambda copy: copy.lines(batch))

    def blocks(self) -> Iterator[bytes]:
        """The same as :meth:`lines`, for who can do without an object a row: many at a time, a newline behind each; once."""
        return self._rows_by(CopyOut.blocks)

    def _rows_by(self, read: Callable[[CopyOut], Iterator[Rows]]) -> Iterator[Rows]:
        if self._copy is not None:
            raise UsageError("a scan gives its rows once; open another one")
        try:
            condition = None if self._range is None else range_condition(self.info.key_columns[0], self._range)
            statement = copy_statement(self.info, self.columns, condition).as_bytes(self._connection)
            self._copy = CopyOut(self._connection, statement, silence_timeout_s=self._silence_timeout_s)
            yield from read(self._copy)
        except psycopg.Error as error:
            raise self._explained(error) from error

    def export(self) -> str:
        """The id under which other sessions can import S while this scan is open and not reading."""
        (exported,) = self._row("SELECT pg_export_snapshot()")
        return str(exported)

    def say(self, what: str, *, stays: bool = False) -> None:
        """Let other sessions of this role see, as this one's application name, what it has come to.

        ``stays``: until the connection is closed; else it is gone with this scan.
        """
        self._row("SELECT set_config('application_name', %s, %s)", what, not stays)

    def sees(self, prefix: str) -> str | None:
        """The application name of another session of this role that begins so, as it is now."""
        return session_named(self._connection, prefix)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        unfinished = self._copy is not None and self._copy.running
        if self._copy is not None:
            self._copy.abandon()
        if unfinished or kind is not None:
            self._rollback()
            return
        try:
            self._end()
        except psycopg.Error as failed:
            raise self._explained(failed) from failed

    # -- the steps ----

    def _open(self) -> None:
        for attempt in range(1, self._attempts + 1):
            self._check_name()
            try:
                self._begin()
            except psycopg.errors.LockNotAvailable:
                if attempt == self._attempts:
                    raise
            else:
                return
            self._rollback()
            time.sleep(_RETRY_PAUSE_S * attempt)

    def _begin(self) -> None:
        """Steps 1 to 5."""
        lock_timeout_ms = max(1, round(self._lock_timeout_s * 1000))
        newer = self._connection.info.server_version >= _TRANSACTION_TIMEOUT_SINCE
        settings = sql.SQL(_SETTINGS).format(
            lock_timeout_ms=lock_timeout_ms,
            indexes=sql.SQL("off" if self._range is None else "on"),
            heap=sql.SQL("on" if self._range is None else "off"),
            transaction_timeout=sql.SQL("SET LOCAL transaction_timeout = 0;" if newer else ""),
        )
        self._connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        self._connection.execute(settings)
        lock = sql.SQL("LOCK TABLE ONLY {} IN ACCESS SHARE MODE").format(self._name)
        if self._import_snapshot is not None:
            self._connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(self._import_snapshot))
            lock += sql.SQL(" NOWAIT")  # behind a waiting DDL we and the exporter would wait for each other
        self._connection.execute(lock)
        self.snapshot_text, lsn, found = self._row(_SNAPSHOT, self._name.as_string(self._connection))
        if lsn is None:
            raise ScanInterrupted(
                f"{self._label}: the server is a standby; a snapshot there does not tell which transactions it sees",
                hint="name the primary's host in the configuration",
            )
        if found != self.info.oid:
            raise TableReplaced(self._label, self.info.oid, found)
        self.lsn = parse_lsn(lsn)
        now = table_by_oid(self._connection, self.info.oid)
        prints = fingerprint(self._connection, [self.info.oid])
        if now is None or self.info.oid not in prints:  # an imported snapshot may be older than the table
            raise TableReplaced(self._label, self.info.oid, None)
        if now.relkind != "r":
            raise TableReplaced(self._label, self.info.oid, now.oid, now.relkind)
        self._check_columns(now)
        self.info, self.fingerprint_before = now, prints[now.oid]

    def _check_columns(self, now: TableInfo) -> None:
        """What is to be read exists and has the type that was recorded."""

        def described(info: TableInfo) -> dict[str, tuple[int, int, str]]:
            return {column.name: (column.typoid, column.typmod, column.generated) for column in info.columns}

        recorded, found = described(self.info), described(now)
        for name in self.columns:
            if name not in found or found[name] != recorded.get(name):
                raise TableChanged(
                    f"{self._label}: column {name} is no longer what was recorded",
                    hint="a change of the table's definition begins a new generation",
                )

    def _check_name(self) -> None:
        row = self._connection.execute(_NAMED, (self.info.schema, self.info.name)).fetchone()
        if row is None or row[0] != self.info.oid:
            raise TableReplaced(self._label, self.info.oid, *(row or (None,)))

    def _end(self) -> None:
        """Steps 7 and 8."""
        read = {oid for (oid,) in self._connection.execute(_READ, (FIRST_USER_OID,))} - {self.info.oid}
        self._connection.execute("COMMIT")
        self.fingerprint_after = fingerprint(self._connection, [self.info.oid]).get(self.info.oid)
        if read:  # a plan touches the table's indexes, a partition's constraint its ancestors
            for (own,) in self._connection.execute(_RELATED, {"oid": self.info.oid}):
                read.discard(own)
            for other in sorted(read):
                raise TableReplaced(self._label, self.info.oid, other)
        self._ended = True

    def _explained(self, error: psycopg.Error) -> WitnzError:
        """What to raise for ``error``.  Of a relation in the table's place every error says something else (no right, no such
        column …), so what bears the name now decides."""
        self._rollback()
        try:
            self._check_name()
        except TableReplaced as replaced:
            return replaced
        except psycopg.Error:
            pass  # the connection is gone, and the first error says why
        return scan_error(error, self._label)

    def _row(self, query: str, *parameters: object) -> tuple[Any, ...]:
        row = self._connection.execute(query.encode(), parameters or None).fetchone()
        if row is None:
            raise psycopg.OperationalError("a query for one row gave none")
        return tuple(row)

    def _rollback(self) -> None:
        if self._connection.closed:
            return
        try:
            self._connection.rollback()
        except psycopg.Error:
            self._connection.close()
