"""Every kind of table that can be protected: what is recorded of it, to the entry, and that the application notices nothing.

One node protects all of them at once, on the oldest and the newest server of `make test`; each table is then changed in every
way its kind allows.  What its log must hold is told by PostgreSQL alone (:mod:`tests.support.recorded`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.support.kinds import KINDS, Change, Kind
from tests.support.node import Protected
from tests.support.postgres import Database, create_database
from tests.support.recorded import (
    Committed,
    Judge,
    Rows,
    audit_problems,
    expected_schema_hint,
    hash_of,
    log_row,
    read_rows,
    reader,
    recorded,
    records,
)
from witnz.core.entry import Entry
from witnz.core.state import state_root
from witnz.core.verdict import Verdict


@dataclass(frozen=True)
class Told:
    """One entry as the database tells it, before it is hashed: op, raw key line, row line, transaction, claims."""

    op: str
    key: bytes | None
    line: bytes | None
    xid: int
    by: str | None
    hint: str | None


@dataclass
class Played:
    """A table after all its steps."""

    kind: Kind
    columns: str
    oid: int
    baseline: Rows
    told: list[Told] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.kind.name or self.kind.table


@dataclass
class Stage:
    """The node, the tables, and what the judge says of their transactions."""

    protected: Protected
    tables: dict[str, Played]
    transactions: dict[int, Committed]

    def take(self, title: str) -> Played:
        if title not in self.tables:
            pytest.skip(f"not on PostgreSQL {self.protected.database.server.version}")
        return self.tables[title]

    def canonical_name(self, played: Played) -> str:
        """As the log is called: found by OID, and so not by the code under test."""
        with self.protected.node.db.read() as conn:
            (name,) = conn.execute("SELECT table_name FROM logs WHERE oid = ?", (played.oid,)).fetchone()
        return str(name)


def build(database: Database) -> dict[str, Played]:
    version = database.server.version
    tables = {}
    with reader(database) as conn:
        for title, kind in KINDS.items():
            if kind.since <= version <= kind.until:
                database.sql(kind.ddl)
                ((oid,),) = database.sql(f"SELECT '{kind.table}'::regclass::oid")
                columns = kind.columns_18 if kind.columns_18 and version >= 18 else kind.columns
                tables[title] = Played(kind, columns, oid, read_rows(conn, kind.table, columns, kind.key))
    return tables


def play(database: Database, played: Played) -> None:
    """Run the steps, each in a transaction of its own, and note what they lead to."""
    kind, app, version = played.kind, database.connect_owner(), database.server.version
    claimed = version >= 14  # before that, a stream carries no messages
    with reader(database) as conn:
        before = played.baseline
        for one in kind.steps_on(version):
            with app.transaction():
                (xid,) = app.execute("SELECT pg_current_xact_id()::text::bigint").fetchone() or (0,)
                claim = {name: text for name, text in (("by", one.by), ("hint", one.hint)) if text is not None}
                if claim:
                    app.execute("SELECT pg_logical_emit_message(true, 'witnz', %s)", [json.dumps(claim)])
                app.execute(one.sql.encode())
            after = read_rows(conn, kind.table, played.columns, kind.key)
            for change in one.changes:
                op, key, line = tell(kind, change, before, after)
                played.told.append(
                    Told(op, key, line, xid & 0xFFFFFFFF, one.by if claimed else None, one.hint if claimed else None)
                )
            before = after


def tell(kind: Kind, change: Change, before: Rows, after: Rows) -> tuple[str, bytes | None, bytes | None]:
    op, ident = change[0], change[1].encode()
    if op == "truncate":
        return op, None, None
    if kind.key is None:
        return op, None, ident
    if op == "unresolved":
        return "update", ident, None
    if op == "delete":
        return op, ident, before.line(ident) if kind.whole else None
    return op, ident, change[2].encode() if len(change) > 2 else after.line(ident)


MORE = """
CREATE TABLE untold (a int, b text);
INSERT INTO untold SELECT g, 'first' FROM generate_series(1, 5) g;
CREATE TABLE half (id int PRIMARY KEY, big text, v int);
INSERT INTO half SELECT g, (SELECT string_agg(md5((g * n)::text), '') FROM generate_series(1, 300) n), 0
FROM generate_series(1, 3) g;
"""


@pytest.fixture(scope="module")
def stage(every_server, tmp_path_factory) -> Iterator[Stage]:
    database = create_database(every_server)
    tables = build(database)
    database.sql(MORE)
    configured = [{"name": played.name, "on_change": "record", **played.kind.config} for played in tables.values()]
    configured += [{"name": "untold", "on_change": "record", "inserts_only": True}, {"name": "half", "on_change": "record"}]
    protected = Protected.start(tmp_path_factory.mktemp("tables"), database, configured)
    judge = Judge(protected)
    for played in tables.values():
        play(database, played)
    protected.caught_up()
    yield Stage(protected, tables, judge.transactions())
    protected.stop()
    database.drop()


def expected_entries(stage: Stage, played: Played) -> list[Entry]:
    """The whole log: the description, the rows that were there, and every change since."""
    kind, name = played.kind, stage.canonical_name(played)
    (table,) = records(stage.protected, "table", name)
    row = log_row(stage.protected, name)
    with reader(stage.protected.database) as conn:
        hint = expected_schema_hint(conn, played.oid, played.kind.recorded_columns or carried(played))
    lsn = int(table.body["lsn"].split("/")[0], 16) << 32 | int(table.body["lsn"].split("/")[1], 16)
    out = [Entry(1, "schema", None, None, lsn, 0, table.at, None, hint, None)]

    def add(op: str, key: bytes | None, line: bytes | None, at: Committed, by: str | None, hint: str | None) -> None:
        hashed = hash_of(row.secret, line) if line is not None else None
        hidden = None
        if key is not None and (kind.hidden or len(key) > 1024):
            key, hidden = None, hashlib.sha256(row.secret + b"\0" + key).hexdigest()
        out.append(Entry(len(out) + 1, op, key, hashed, at.final_lsn, at.xid, at.at, by, hint, None, hidden))

    for i, line in enumerate(played.baseline.lines):
        key = played.baseline.keys[i] if played.baseline.keys else None
        add("baseline", key, line, Committed(lsn, table.at, 0), None, None)
    for told in played.told:
        add(told.op, told.key, told.line, stage.transactions[told.xid], told.by, told.hint)
    return out


def carried(played: Played) -> list[str] | None:
    """The names in the description where more is carried than what is not generated."""
    return [name.strip() for name in played.columns.split(",")] if played.kind.columns_18 or played.kind.since >= 18 else None


@pytest.mark.parametrize("title", KINDS)
def test_the_log_holds_exactly_what_the_database_said(stage: Stage, title: str) -> None:
    played = stage.take(title)
    expected = expected_entries(stage, played)
    found = recorded(stage.protected, stage.canonical_name(played))
    assert [(e.op, e.key, e.hidden_key) for e in found] == [(e.op, e.key, e.hidden_key) for e in expected]
    assert found == expected
    assert len(expected) > len(played.kind.steps_on(stage.protected.database.server.version))


@pytest.mark.parametrize("title", KINDS)
def test_a_scan_finds_the_state_that_the_log_replays_to(stage: Stage, title: str) -> None:
    played = stage.take(title)
    name = stage.canonical_name(played)
    verified = stage.protected.verify(name)
    assert (verified.verdict, verified.not_checked) == (Verdict.VERIFIED, ()), verified.to_json()
    with reader(stage.protected.database) as conn:
        lines = read_rows(conn, played.kind.table, played.columns, played.kind.key).lines
    secret = log_row(stage.protected, name).secret
    assert verified.result.rows == len(lines)
    assert verified.result.found_root == verified.result.expected_root == state_root(hash_of(secret, line) for line in lines)
    assert stage.protected.findings(name, state=None) == []


def test_updates_and_deletes_of_an_inserts_only_table_succeed_and_only_the_scan_tells(stage: Stage) -> None:
    """Nothing identifies its rows, so PostgreSQL would refuse the application's statements if they were published."""
    database, name = stage.protected.database, "public.untold"
    database.sql("UPDATE untold SET b = 'changed' WHERE a = 3; DELETE FROM untold WHERE a = 4")
    stage.protected.caught_up()
    assert [entry.op for entry in recorded(stage.protected, name)] == ["schema", *["baseline"] * 5]
    verified = stage.protected.verify(name)
    secret = log_row(stage.protected, name).secret
    gone = {hash_of(secret, line).hex() for line in (b"3\tfirst", b"4\tfirst")}
    assert verified.verdict is Verdict.TAMPERED
    assert {(d.cls, d.key) for d in verified.result.differences} == {
        *[("row.deleted", row) for row in gone],
        ("row.inserted", hash_of(secret, b"3\tchanged").hex()),
    }


def test_a_row_whose_large_value_was_not_carried_is_inconclusive_until_it_is_written_whole(stage: Stage) -> None:
    database, name = stage.protected.database, "public.half"
    database.sql("UPDATE half SET v = 1 WHERE id = 1")
    stage.protected.caught_up()
    entry = recorded(stage.protected, name)[-1]
    assert (entry.op, entry.key, entry.row) == ("update", b"1", None)
    verified = stage.protected.verify(name)
    assert (verified.verdict, verified.result.unresolved, verified.result.differences) == (Verdict.INCONCLUSIVE, 1, [])
    assert "no recorded hash" in verified.not_checked[0]
    database.sql("UPDATE half SET big = big || '' WHERE id = 1")
    verified = stage.protected.verify(name)
    assert (verified.verdict, verified.not_checked) == (Verdict.VERIFIED, ())
    assert stage.protected.findings(name, state=None) == []


def test_the_store_audits_clean(stage: Stage) -> None:
    assert audit_problems(stage.protected) == []
