"""Carrying out a repair plan: one transaction, by somebody who may write, with a key that the node need not see.

The order of the steps is the point; anything that goes wrong before COMMIT leaves the database as it was.

    1  the key that signs is in force, the server is 14 or newer      else nothing is even connected, or written
    2  BEGIN, settings pinned like a scan's, a short lock_timeout     the table is locked ROW EXCLUSIVE, as any write does
    3  the relation is still the recorded one                         under the lock
    4  pg_current_xact_id(), the intent signed for it and emitted     before the writes, so that they are authorised
    5  each row locked FOR UPDATE and compared byte by byte           one that is not as found is left alone, and said
    6  the statements, by key and by the ctid just locked             under the role's own search_path, for its triggers
    7  deferred constraints now; every written row read again         it must be the recorded line, whatever triggers did
    8  what else did this transaction write?                          a cascade into other rows undoes everything
    9  COMMIT; if its answer is lost, the server is asked what became of the transaction

Steps 5 and 7 compare text, not hashes: the plan holds the lines, so no table secret leaves the node.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import psycopg
from psycopg.conninfo import make_conninfo

from witnz.core.keys import Signer
from witnz.core.message import MAX_HINT, format_intent, sign_intent
from witnz.core.names import parse_table_name
from witnz.errors import DatabaseUnreachable, FormatError, Inconclusive, KeyProblem, UsageError, WitnzError
from witnz.node.repair_plan import RepairPlan, Statement
from witnz.node.repair_sql import execute_all, quote, read_rows
from witnz.postgres import catalog
from witnz.postgres.session import PINNED, WAITING_SILENCE_S, Connection, Conninfo, classify_error, connect
from witnz.postgres.sqlstate import is_transient

MESSAGES_SINCE: Final = 140000  # logical messages reach pgoutput from PostgreSQL 14 on
MAX_REASON_BYTES: Final = MAX_HINT - 100
NO_TRANSACTION: Final = 0  # the xid of an intent for a repair that had nothing to write

_BEGIN: Final = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; SET LOCAL lock_timeout = '3s'; SET LOCAL statement_timeout = 0"
)
_BY_HEAP: Final = "SET LOCAL enable_indexscan = off; SET LOCAL enable_indexonlyscan = off; SET LOCAL enable_bitmapscan = off"
_WRITTEN: Final = """
SELECT relid, schemaname || '.' || relname, n_tup_ins, n_tup_upd, n_tup_del
FROM pg_catalog.pg_stat_xact_user_tables WHERE n_tup_ins + n_tup_upd + n_tup_del > 0
"""


@dataclass(frozen=True, slots=True)
class Applied:
    """What was written.  ``intent``: the signed text that stands before the rows in the log, and lets the node settle.

    ``xid``: the 64-bit transaction id, 0 where there was nothing to write.  ``restored``: keys.  ``skipped``: sentences.
    ``notes``: what else happened, such as rows that a trigger inserted elsewhere.
    """

    intent: str
    xid: int
    restored: tuple[str, ...]
    skipped: tuple[str, ...]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """What a node is told so that it can settle; no row contents."""
        texts = {"restored": list(self.restored), "skipped": list(self.skipped), "notes": list(self.notes)}
        return {"intent": self.intent, "xid": str(self.xid), **texts}


def applied_from_json(document: Any) -> Applied:
    """The inverse of :meth:`Applied.to_json`.  Raises FormatError for anything else."""
    try:
        lists = {name: tuple(map(_text, document[name])) for name in ("restored", "skipped", "notes")}
        applied = Applied(intent=_text(document["intent"]), xid=int(_text(document["xid"])), **lists)
        same = applied.to_json() == document
    except (AttributeError, KeyError, TypeError, ValueError):
        same = False
    if not same:
        raise FormatError("applied repair: expected exactly intent, xid, restored, skipped and notes")
    return applied


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise FormatError("applied repair: expected text")
    return value


def apply_plan(
    plan: RepairPlan,
    admin: Conninfo,
    *,
    operator: str,
    signer: Signer,
    reason: str,
    by: str | None = None,
    messages_since: int = MESSAGES_SINCE,
) -> Applied:
    """Restore the rows of a plan.  ``operator``: the name under which the journal knows the key of ``signer``.

    ``messages_since``: the ``server_version_num`` from which on a server's stream carries logical messages.

    Raises KeyProblem for a key that is not in force and for missing rights, UsageError for a reason that is too long or a
    server without logical messages, Inconclusive where a lock was not to be had or the table is another one,
    DatabaseUnreachable, and WitnzError where the database refused a write or did not keep it.  In all these cases nothing was
    written; only when the connection broke at COMMIT and the server cannot be asked is that unknown, and then it says so.
    """
    check_signer(plan, operator, signer)
    hint = hint_of(plan.finding, reason)
    if not plan.statements:
        return Applied(_intent(plan, NO_TRANSACTION, operator, signer, hint, by), NO_TRANSACTION, (), (), ())
    search_path = _search_path_of(admin)
    with connect(admin, scan=True, application_name="witnz repair", silence_s=WAITING_SILENCE_S) as conn:
        if conn.info.server_version < messages_since:
            raise UsageError(
                "PostgreSQL 13 sends no logical messages, so a repair could carry no intent and would be a violation itself",
                hint="review `witnz repair plan`, have a DBA run it, and approve the findings that it leads to",
            )
        run = _Run(plan, conn)
        try:
            xid = run.begin()
            intent = _intent(plan, xid, operator, signer, hint, by)
            conn.execute("SELECT pg_logical_emit_message(true, 'witnz', %s::text)", [intent])
            run.lock()
            if len(run.skipped) == len(plan.statements):
                conn.execute("ROLLBACK")
                return Applied(intent, NO_TRANSACTION, (), tuple(run.skipped), ())
            run.write(search_path)
            run.check()
        except psycopg.Error as error:
            raise _explained(error, plan.table) from None  # the original names rows in its DETAIL
        _commit(conn, admin, xid)
    return Applied(intent, xid, tuple(statement.key for statement in run.restored), tuple(run.skipped), tuple(run.notes))


def check_signer(plan: RepairPlan, operator: str, signer: Signer) -> None:
    """Raises KeyProblem unless the journal has this key in force under this name."""
    known = plan.signers.get(operator)
    if known is None or known != signer.public:
        found = "no key of that name is in force" if known is None else "the key in force under that name is another one"
        raise KeyProblem(
            f"{operator[:60]!r} may not sign repairs: {found}",
            hint="`witnz keys show` lists the operator and intent keys in force",
        )


def hint_of(finding: str, reason: str) -> str:
    """The free text of a repair's intent, naming its finding.  Raises UsageError for a reason that is empty or too long."""
    if not reason.strip() or len(reason.encode()) > MAX_REASON_BYTES:
        raise UsageError(f"reason: expected text of at most {MAX_REASON_BYTES} bytes", hint="say why with --reason TEXT")
    return f"repair {finding}: {reason}"


def _intent(plan: RepairPlan, xid: int, operator: str, signer: Signer, hint: str, by: str | None) -> str:
    nonce = os.urandom(16).hex()
    return format_intent(
        sign_intent(
            signer, plan.cluster_id, by=by or operator, hint=hint, key=operator, nonce=nonce, tables=[plan.table], xid=xid
        )
    )


def _search_path_of(admin: Conninfo) -> str:
    """The role's own search_path, which its triggers rely on; system names come first whatever it says."""
    try:
        with psycopg.connect(make_conninfo("", **admin.parameters(), application_name="witnz repair")) as conn:
            row = conn.execute("SHOW search_path").fetchone()
    except psycopg.Error as error:
        raise classify_error(error, doing=f"connecting to {admin.describe()}") from None
    path = str(row[0]) if row is not None else ""
    return f"pg_catalog, {path}" if "pg_catalog" in path else path


class _Run:
    """The transaction at work."""

    def __init__(self, plan: RepairPlan, conn: Connection) -> None:
        self._plan, self._conn = plan, conn
        self._columns = ", ".join(map(quote, plan.columns))
        self._locked: list[tuple[Statement, str]] = []
        self.restored: list[Statement] = []
        self.skipped: list[str] = []
        self.notes: list[str] = []

    def begin(self) -> int:
        """Steps 2 and 3, and the transaction's id."""
        plan, conn = self._plan, self._conn
        conn.execute(_BEGIN)
        if plan.heap_only:
            conn.execute(_BY_HEAP)
        conn.execute(f"LOCK TABLE ONLY {plan.relation} IN ROW EXCLUSIVE MODE".encode())
        info = catalog.find_table(conn, *parse_table_name(plan.table))
        if info is None or info.oid != plan.oid or info.relkind != "r":
            raise Inconclusive(f"{plan.table} is not the relation that the plan was made for; nothing was written")
        xid = conn.execute("SELECT pg_current_xact_id()::text").fetchone()
        return int(xid[0]) if xid else NO_TRANSACTION

    def lock(self) -> None:
        """Step 5."""
        for statement, rows in zip(self._plan.statements, self._read(self._plan.statements, lock=True), strict=True):
            if [line for _, line in rows] == _lines(statement.before):
                self._locked.append((statement, f" AND ctid = '{rows[0][0]}'::tid" if rows else ""))
            else:
                self.skipped.append(f"key {statement.key}: the row changed after the plan was made")

    def write(self, search_path: str) -> None:
        """Step 6, with triggers and constraints as they are; all names and operators of the statements are qualified."""
        self._set_search_path(search_path)
        written = execute_all(self._conn, (statement.sql + and_ctid for statement, and_ctid in self._locked))
        for (statement, _), cursor in zip(self._locked, written, strict=True):
            if cursor.rowcount != 1:
                raise _failed(f"the {statement.kind} of key {statement.key} wrote {cursor.rowcount} rows instead of one")
            self.restored.append(statement)
        self._conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
        self._set_search_path(PINNED["search_path"])

    def check(self) -> None:
        """Steps 7 and 8."""
        for statement, rows in zip(self.restored, self._read(self.restored, lock=False), strict=True):
            if [line for _, line in rows] != _lines(statement.after):
                raise _failed(
                    f"key {statement.key} does not read as recorded after the {statement.kind}: a trigger, a rule or a type of"
                    f" {self._plan.table} changes what is written",
                    hint="disable the trigger for the repair, or restore the row by hand under a signed intent",
                )
        self._check_extent()

    def _check_extent(self) -> None:
        here = len(self.restored)
        for oid, name, inserted, updated, deleted in self._conn.execute(_WRITTEN):
            if oid == self._plan.oid:
                here -= inserted + updated + deleted
            elif updated or deleted:
                raise _failed(
                    f"the repair would also have changed {updated + deleted} row(s) of {name}",
                    hint="a foreign key cascades or a trigger writes there; repair those rows first, or write by hand",
                )
            else:
                self.notes.append(f"a trigger inserted {inserted} row(s) into {name}")
        if here:
            raise _failed(
                "PostgreSQL does not count exactly the repaired rows as written",
                hint="a trigger writes to the same table, or track_counts is off; see to it and try again",
            )

    def _set_search_path(self, search_path: str) -> None:
        self._conn.execute("SELECT pg_catalog.set_config('search_path', %s, true)", [search_path])

    def _read(self, statements: Iterable[Statement], *, lock: bool) -> list[list[tuple[str, bytes]]]:
        conditions = (statement.where for statement in statements)
        return read_rows(self._conn, self._plan.relation, self._columns, conditions, lock=lock)


def _lines(line: bytes | None) -> Sequence[bytes]:
    return [] if line is None else [line]


def _commit(conn: Connection, admin: Conninfo, xid: int) -> None:
    """Step 9."""
    try:
        conn.execute("COMMIT")
    except psycopg.OperationalError as error:
        if _fate(admin, xid) != "committed":
            raise _explained(error, "the transaction") from None
    except psycopg.Error as error:
        raise _explained(error, "the transaction") from None


def _fate(admin: Conninfo, xid: int) -> str:
    """What became of a transaction whose COMMIT was not answered."""
    try:
        with connect(admin, application_name="witnz repair") as conn:
            row = conn.execute("SELECT pg_xact_status(%s::text::xid8)", [str(xid)]).fetchone()
    except (psycopg.Error, WitnzError):
        row = None
    if row is None or row[0] not in ("committed", "aborted"):
        raise DatabaseUnreachable(
            f"the connection broke at COMMIT of transaction {xid}, and whether it was committed could not be learnt",
            hint="look at the finding again: `witnz repair plan` says whether the rows are as recorded",
        )
    return str(row[0])


def _failed(message: str, *, hint: str = "") -> WitnzError:
    return WitnzError(f"{message}; nothing was written", hint=hint, code="repair.failed")


def _explained(error: psycopg.Error, what: str) -> WitnzError:
    """The server's primary sentence only: DETAIL may hold the contents of rows."""
    message = error.diag.message_primary or " ".join(str(error).split())
    if isinstance(error, psycopg.errors.LockNotAvailable | psycopg.errors.DeadlockDetected):
        return Inconclusive(
            f"repair of {what}: {message}; nothing was written", hint="somebody holds the row or table locked; try again"
        )
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return KeyProblem(
            f"repair of {what}: {message}; nothing was written",
            hint="a repair needs a role that may SELECT, INSERT, UPDATE and DELETE there, and that no row security filters",
            code="database.permission",
        )
    if isinstance(error, psycopg.OperationalError) and is_transient(error):
        return classify_error(error, doing=f"repair of {what}; nothing was written")
    return _failed(f"repair of {what}: {message} (SQLSTATE {error.sqlstate})")
