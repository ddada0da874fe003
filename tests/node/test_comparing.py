"""What a dump holds that was loaded elsewhere, against every generation that was recorded: it may be from before the newest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import pytest

from tests.support.evidence import PaperStore
from tests.support.journal_maker import CLUSTER, TABLE, open_body, table_body
from tests.support.postgres import Database
from witnz.core.entry import SchemaColumn, entry_suffix, key_field, schema_hint
from witnz.core.journal_facts import TableRecord
from witnz.core.lsn import format_lsn
from witnz.core.names import log_origin
from witnz.core.rowline import row_hash, secret_commitment
from witnz.node.comparing import EARLIER_UNKNOWN, NEVER, OTHER_COLUMNS, compare
from witnz.node.losses import Compared
from witnz.postgres.session import Conninfo, connect
from witnz.store import entries, granted, logs, tablelog
from witnz.verify.replay import Intents, Replay, decisions_of

TYPES = {"id": 20, "note": 25, "more": 25}
ONE, TWO, THREE, FOUR = ("1\ta", "2\tb", "3\tc", "4\td")
FIRST = [("insert", ONE), ("insert", TWO), ("insert", THREE), ("update", "1\ta2"), ("delete", THREE)]


class Recorded:
    """A table's logs, one generation after another, each with a secret of its own."""

    def __init__(self, directory: Path) -> None:
        self.store = PaperStore(directory / "store", nodes=1)
        self.store.add("genesis", self.store.cluster.genesis_body())
        self.head: tablelog.LogHead | None = None
        self.hidden = False

    def generation(
        self, columns: Sequence[str], changes: Sequence[tuple[str, str]], *, keyed: bool = True, hidden: bool = False
    ) -> None:
        """The next one, of these columns (the first is the key), and what was recorded into it: operation and row line."""
        before, store = self.head, self.store
        number = 1 if before is None else int(self._row().generation) + 1
        secret, keys = sha256(b"secret %d" % number).digest(), list(columns[:1]) if keyed else []
        previous = None
        if before is not None:
            store.add("open", open_body(number, secret_sha256=secret_commitment(secret)))
            previous = {"size": before.size, "root": "A" * 43 + "=", "chain": before.chain.decode()}
        keys_body = {"columns": keys, "form": "hidden" if hidden else "plain"}
        lsn = store.lsn + 1_000
        store.add(
            "table", table_body(number, previous, keys=keys_body, secret_sha256=secret_commitment(secret), lsn=format_lsn(lsn))
        )
        hint = schema_hint([SchemaColumn(name, TYPES[name], -1, name in keys) for name in columns], "d", 16384)
        with store.db.write() as conn:
            if before is not None:
                logs.set_status(conn, before.id, "ended")
            self.head = head = tablelog.create_log(
                conn, table=TABLE, generation=number, origin=log_origin(CLUSTER, TABLE, number), oid=16384, secret=secret,
                key_columns=keys, lsn=lsn,
            )  # fmt: skip
            tablelog.append(conn, head, [b"schema"], [b"\\N"], [None], [entry_suffix(lsn, 0, store.at, None, hint, None)])
            logs.set_schema(conn, head.id, hint, 1)
            store.lsn = lsn + 100
            suffix = entry_suffix(store.lsn, 741, store.at, None, None, None)
            for op, line in changes:
                key = key_field(line.split("\t")[0].encode(), secret, hidden) if keyed else b"\\N"
                tablelog.append(conn, head, [op.encode()], [key], [row_hash(secret, line.encode())], [suffix])

    def grant(self, line: str) -> None:
        """An operator accepted this row once, and another came after it."""
        row = self._row()
        with self.store.db.write() as conn:
            granted.grant(conn, row.id, line.partition("\t")[0].encode(), row_hash(row.secret, line.encode()))

    def prune(self, generation: int) -> None:
        with self.store.db.write() as conn:
            logs.set_status(conn, logs.require_log(conn, TABLE, generation).id, "pruned")

    def _row(self) -> logs.LogRow:
        with self.store.db.read() as conn:
            found = logs.find_log(conn, TABLE)
        assert found is not None
        return found

    def compared(self, database: Database, definition: str, *rows: str) -> Compared:
        """With a table of this definition and these rows (SQL), in another database system."""
        schema, _, _ = TABLE.partition(".")
        database.sql(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        database.sql(f"CREATE TABLE {TABLE} ({definition})")
        for row in rows:
            database.sql(f"INSERT INTO {TABLE} VALUES ({row})")
        store, row_ = self.store, self._row()
        records = store.cluster.records
        record = TableRecord.from_record([each for each in records if each.type == "table"][-1])
        with store.db.write() as conn:
            decided = decisions_of([])[TABLE, row_.generation]
            replay = Replay(conn, row_.id, TABLE, record.rules, Intents(store.cluster.state, {}), decided, keyed=row_.keyed)
            replay.run(entries.entries(conn, row_.id))
        with connect(Conninfo.from_conninfo(database.admin_dsn), scan=True) as scanning, store.db.read() as conn:
            return compare(scanning, conn, row_, records, store.db.path.parent)


@pytest.fixture
def recorded(tmp_path: Path) -> Iterator[Recorded]:
    made = Recorded(tmp_path)
    yield made
    made.store.db.close()


KEYED = "id bigint PRIMARY KEY, note text"
BOTH = [("insert", "1\ta2"), ("insert", TWO), ("insert", FOUR)]


def said(compared: Compared) -> tuple[str, list[tuple[str, str | None]]]:
    return str(compared.loss).removeprefix(f"{TABLE}: "), [(row.cls, row.key) for row in compared.foreign.rows]


@pytest.mark.parametrize("hidden", [False, True])
def test_rows_as_an_earlier_generation_recorded_them_are_the_dumps_age_and_no_forgery(
    recorded: Recorded, database: Database, hidden: bool
) -> None:
    recorded.generation(["id", "note"], FIRST, hidden=hidden)
    recorded.generation(["id", "note"], BOTH)
    compared = recorded.compared(database, KEYED, "1, 'a'", "2, 'b'", "3, 'c'", "9, 'forged'")
    assert said(compared) == ("lost 1 (4), regained 1 (3), in an earlier version 1 (1)", [("row.inserted", "9")])
    assert (compared.why, compared.problem) == (NEVER, "")


def test_a_row_that_stood_under_another_key_then_is_one_that_was_never_recorded(recorded: Recorded, database: Database) -> None:
    recorded.generation(["id", "note"], FIRST)
    recorded.generation(["id", "note"], BOTH)
    compared = recorded.compared(database, KEYED, "1, 'b'", "2, 'a'", "3, 'd'", "4, 'd'")
    assert said(compared) == ("", [("row.modified", "1"), ("row.modified", "2"), ("row.inserted", "3")])


def test_of_what_is_pruned_nobody_can_say_whether_it_was_so(recorded: Recorded, database: Database) -> None:
    recorded.generation(["id", "note"], FIRST)
    recorded.generation(["id", "note"], BOTH)
    recorded.prune(1)
    compared = recorded.compared(database, KEYED, "1, 'a'", "2, 'b'", "4, 'd'")
    assert said(compared) == ("", [("row.modified", "1")])
    assert compared.why == f"{NEVER}; nobody can ask generation 1: pruned, or recorded with other columns"


def test_a_dump_from_before_a_column_was_added_is_compared_by_keys_and_with_what_was_recorded_then(
    recorded: Recorded, database: Database
) -> None:
    recorded.generation(["id", "note"], FIRST)
    recorded.generation(["id", "note", "more"], [(op, f"{line}\tx") for op, line in BOTH], hidden=True)
    compared = recorded.compared(database, KEYED, "1, 'a'", "2, 'b'", "3, 'c'", "9, 'forged'")
    lost, foreign = said(compared)
    assert lost.startswith("lost 1 (\\H") and lost.count("\\H") == 2 and ", regained 1 (\\H" in lost and foreign == []
    assert compared.problem.startswith(f"{EARLIER_UNKNOWN}; never recorded like that 1 (")


def test_a_dump_from_before_a_column_was_dropped_is_compared_in_full(recorded: Recorded, database: Database) -> None:
    recorded.generation(["id", "more", "note"], [(op, line.replace("\t", "\tm\t")) for op, line in FIRST])
    recorded.generation(["id", "note"], BOTH)
    definition = "note text, id bigint PRIMARY KEY, more text"  # in another order, too
    compared = recorded.compared(database, definition, "'a', 1, 'm'", "'b', 2, 'm'", "'c', 3, 'm'", "'a', 4, 'm'")
    assert said(compared) == ("regained 1 (3), in an earlier version 1 (1)", [("row.modified", "4")])


def test_a_table_of_columns_that_no_generation_had_is_not_compared(recorded: Recorded, database: Database) -> None:
    recorded.generation(["id", "note"], FIRST)
    compared = recorded.compared(database, "id bigint PRIMARY KEY, more text", "1, 'a'")
    assert (compared.problem, said(compared)) == (OTHER_COLUMNS, ("", []))


def test_rows_without_a_key_are_counted_and_asked_for_in_every_generation(recorded: Recorded, database: Database) -> None:
    recorded.generation(["id", "note"], [("insert", ONE), ("insert", ONE), ("insert", THREE), ("delete", THREE)], keyed=False)
    recorded.generation(["id", "note"], [("insert", ONE), ("insert", ONE), ("insert", TWO), ("insert", FOUR)], keyed=False)
    rows = ("1, 'a'", "2, 'b'", "2, 'b'", "3, 'c'", "9, 'forged'", "9, 'forged'")
    compared = recorded.compared(database, "id bigint, note text", *rows)
    assert (compared.loss.lost.count, compared.loss.regained.count, compared.loss.earlier.count) == (2, 2, 0)
    assert [row.cls for row in compared.foreign.rows] == ["row.inserted"] * 2 and compared.foreign.count == 2


def test_a_row_that_an_operator_accepted_once_was_recorded(recorded: Recorded, database: Database) -> None:
    recorded.generation(["id", "note"], FIRST)
    recorded.grant("2\tgranted")
    recorded.generation(["id", "note"], BOTH)
    compared = recorded.compared(database, KEYED, "1, 'a2'", "2, 'granted'", "4, 'd'")
    assert said(compared) == ("in an earlier version 1 (2)", [])


def test_of_a_table_that_is_not_there_every_row_is_lost(recorded: Recorded, database: Database) -> None:
    recorded.generation(["id", "note"], BOTH)
    recorded.compared(database, KEYED)
    database.sql(f"ALTER TABLE {TABLE} RENAME TO other")
    with connect(Conninfo.from_conninfo(database.admin_dsn), scan=True) as scanning, recorded.store.db.read() as conn:
        compared = compare(scanning, conn, recorded._row(), recorded.store.cluster.records, recorded.store.db.path.parent)
    assert said(compared) == ("lost 3 (1, 2, 4)", []) and compared.problem == "the table is not there"
