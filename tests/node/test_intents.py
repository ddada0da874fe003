"""Which rows a signed intent authorises: the right key, this transaction, these tables, once; everything else is a finding."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import psycopg
import pytest

from tests.support.node import wait
from tests.support.postgres import create_database
from tests.support.repairs import Bench, emit, new_signer, running
from witnz.core.entry import Entry, parse_entry
from witnz.core.verdict import Verdict
from witnz.demo.server import PostgresServer
from witnz.node.journal import authorise
from witnz.store import entries, logs
from witnz.verify.store import audit_store

pytestmark = pytest.mark.since(14, "logical messages in the stream, so intents and repairs,")

Connection = psycopg.Connection[Any]
PRICES, LEDGER, STRICT = "public.prices", "public.ledger", "public.strict"
_keys = count(100)


@pytest.fixture(scope="module")
def bench(pg_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    """prices: changes need approval; ledger: append only; strict: every insert needs an intent.  ``svc`` may sign."""
    database = create_database(pg_server)
    for name in ("prices", "ledger", "strict"):
        database.sql(f"CREATE TABLE {name} (id int PRIMARY KEY, amount int); INSERT INTO {name} VALUES (1, 1), (2, 2), (3, 3)")
    tables = [
        {"name": "prices", "mode": "state_integrity"},
        {"name": "ledger", "mode": "append_only"},
        {"name": "strict", "mode": "append_only", "require_intent": True},
    ]
    with running(Bench.start(tmp_path_factory.mktemp("intents"), database, tables)) as bench:
        SIGNERS["alice"] = bench.signer
        SIGNERS["svc"] = new_signer("intent/svc")
        bench.add_key("intent", "svc", SIGNERS["svc"].public)
        yield bench
        bench.node.seal_now()
        audit = audit_store(bench.node.db.path)
        assert audit.verdict is Verdict.VERIFIED, [check for check in audit.checks if check.detail]
    database.drop()


SIGNERS: dict[str, Any] = {}


def newest(bench: Bench, table: str, entries_wanted: int) -> list[Entry]:
    """The newest entries of a table, the oldest of them first."""
    bench.protected.caught_up()
    with bench.node.db.read() as conn:
        log = logs.find_log(conn, table)
        assert log is not None
        return [parse_entry(line) for line in entries.entries(conn, log.id, log.size - entries_wanted + 1)]


def unapproved(bench: Bench, table: str, keys: list[int]) -> list[str]:
    """The classes of the open findings about these keys."""
    bench.protected.caught_up()
    return sorted(f.cls for f in bench.open(table) if f.key in map(str, keys))


def insert(bench: Bench, prepare: Callable[[Connection, int], None], table: str = "prices") -> int:
    """One transaction: ``prepare(conn, key)``, then an insert of a new key; the key."""
    key = next(_keys)
    with psycopg.connect(bench.database.owner_dsn) as conn:
        prepare(conn, key)
        conn.execute(f"INSERT INTO {table} VALUES ({key}, 0)".encode())
    return key


# -- who signs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["svc", "alice"])
@pytest.mark.parametrize("table", [PRICES, STRICT])
def test_the_intent_of_a_key_in_force_authorises_its_rows(bench: Bench, name: str, table: str) -> None:
    key = insert(bench, lambda conn, key: emit(conn, bench.intent(conn, [table], key=name, signer=SIGNERS[name])), table)
    (entry,) = newest(bench, table, 1)
    assert (entry.key, entry.by, entry.hint) == (str(key).encode(), "bob", "planned")
    assert entry.intent is not None and json.loads(entry.intent)["key"] == name
    assert unapproved(bench, table, [key]) == []


def test_every_operation_is_authorised_by_an_intent(bench: Bench) -> None:
    with psycopg.connect(bench.database.owner_dsn) as conn:
        emit(conn, bench.intent(conn, [LEDGER], key="svc", signer=SIGNERS["svc"]))
        conn.execute(
            "INSERT INTO ledger VALUES (50, 0); UPDATE ledger SET amount = 9 WHERE id = 1; DELETE FROM ledger WHERE id = 2"
        )
        conn.execute(
            "UPDATE ledger SET id = 51 WHERE id = 50; TRUNCATE ledger; INSERT INTO ledger VALUES (1, 1), (2, 2), (3, 3)"
        )
    ops = [entry.op for entry in newest(bench, LEDGER, 9)]
    assert ops == ["insert", "update", "delete", "delete", "update", "truncate", "insert", "insert", "insert"]
    assert bench.open(LEDGER) == []
    assert bench.verify(LEDGER) == "VERIFIED"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda bench, conn: bench.intent(conn, [PRICES], key="svc", signer=new_signer("intent/svc")),  # another key
        lambda bench, conn: bench.intent(conn, [PRICES], key="nobody", signer=SIGNERS["svc"]),  # a name that is not in force
        lambda bench, conn: bench.intent(conn, [PRICES], key="alice", signer=SIGNERS["svc"]),  # another's name
        lambda bench, conn: bench.intent(conn, [LEDGER], key="svc", signer=SIGNERS["svc"]),  # the table is not listed
        lambda bench, conn: bench.intent(conn, [], key="svc", signer=SIGNERS["svc"]),
        lambda bench, conn: bench.intent(conn, ["public.price", "x.prices"], key="svc", signer=SIGNERS["svc"]),
        lambda bench, conn: bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"], xid=3),  # another transaction
        lambda bench, conn: bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"]).replace("bob", "eve"),  # changed
        lambda bench, conn: bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"]).replace('"by"', ' "by"'),
        lambda bench, conn: bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"])[:-1],
        lambda bench, conn: '{"by":"bob","hint":"a claim signs nothing"}',
        lambda bench, conn: "{}",
    ],
)
def test_anything_else_authorises_nothing(bench: Bench, wrong: Callable[[Bench, Connection], str]) -> None:
    key = insert(bench, lambda conn, key: emit(conn, wrong(bench, conn)))
    assert unapproved(bench, PRICES, [key]) == ["change.unapproved"]


def test_an_intent_for_another_cluster_authorises_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.node, "cluster_id", "0" * 32)  # where the helper signs for, not where the node judges
    key = insert(bench, lambda conn, key: emit(conn, bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"])))
    assert unapproved(bench, PRICES, [key]) == ["change.unapproved"]


def test_a_transaction_id_counts_by_its_low_half(bench: Bench) -> None:
    """The stream has 32 bits of it (formats.md 2)."""

    def prepare(conn: Connection, key: int) -> None:
        row = conn.execute("SELECT pg_current_xact_id()::text").fetchone()
        assert row is not None
        emit(conn, bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"], xid=int(row[0]) + (5 << 32)))

    assert unapproved(bench, PRICES, [insert(bench, prepare)]) == []


# -- once, and while the key is in force ---------------------------------------------------------------------------------------


def test_a_nonce_counts_in_one_transaction_only(bench: Bench) -> None:
    nonce = os.urandom(16).hex()

    def prepare(conn: Connection, key: int) -> None:
        emit(conn, bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"], nonce=nonce))

    first, second = insert(bench, prepare), insert(bench, prepare)
    assert unapproved(bench, PRICES, [first]) == []
    assert unapproved(bench, PRICES, [second]) == ["change.unapproved"]


def test_an_intent_that_did_not_count_does_not_use_up_its_nonce(bench: Bench) -> None:
    nonce = os.urandom(16).hex()
    stranger = new_signer("intent/svc")
    refused = insert(bench, lambda conn, key: emit(conn, bench.intent(conn, [PRICES], key="svc", signer=stranger, nonce=nonce)))
    counted = insert(
        bench, lambda conn, key: emit(conn, bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"], nonce=nonce))
    )
    assert unapproved(bench, PRICES, [refused]) == ["change.unapproved"]
    assert unapproved(bench, PRICES, [counted]) == []


def test_a_nonce_may_come_twice_in_its_own_transaction(bench: Bench) -> None:
    nonce, first, second = os.urandom(16).hex(), next(_keys), next(_keys)
    with psycopg.connect(bench.database.owner_dsn) as conn:
        for key in (first, second):
            emit(conn, bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"], nonce=nonce))
            conn.execute(f"INSERT INTO prices VALUES ({key}, 0)".encode())
    assert unapproved(bench, PRICES, [first, second]) == []


def test_a_copied_intent_authorises_nothing_in_a_later_transaction(bench: Bench) -> None:
    texts: list[str] = []

    def prepare(conn: Connection, key: int) -> None:
        texts.append(bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"]))
        emit(conn, texts[0])

    insert(bench, prepare)
    replayed = insert(bench, lambda conn, key: emit(conn, texts[0]))
    assert unapproved(bench, PRICES, [replayed]) == ["change.unapproved"]


@pytest.mark.parametrize("kind", ["intent", "operator"])
def test_a_key_that_was_removed_authorises_what_it_signed_before_and_nothing_after(bench: Bench, kind: str) -> None:
    """Nor does the audit of the store, long afterwards, take back what was authorised then (the fixture makes one)."""
    signer, name = new_signer(f"{kind}/temp"), f"temp-{kind}"
    bench.add_key(kind, name, signer.public)
    before = insert(bench, lambda conn, key: emit(conn, bench.intent(conn, [PRICES], key=name, signer=signer)))
    bench.protected.caught_up()
    ((lsn,),) = bench.sql("SELECT pg_current_wal_lsn()::text")
    bench.remove_key(kind, name, signer.public, from_lsn=lsn)
    after = insert(bench, lambda conn, key: emit(conn, bench.intent(conn, [PRICES], key=name, signer=signer)))
    assert unapproved(bench, PRICES, [before]) == []
    assert unapproved(bench, PRICES, [after]) == ["change.unapproved"]


def test_a_key_counts_from_the_position_on_that_its_record_names(bench: Bench) -> None:
    signer = new_signer("intent/later")
    ((lsn,),) = bench.sql("SELECT (pg_current_wal_lsn() + 1024 * 1024)::text")
    bench.add_key("intent", "later", signer.public, from_lsn=lsn)
    early = insert(bench, lambda conn, key: emit(conn, bench.intent(conn, [PRICES], key="later", signer=signer)))
    assert unapproved(bench, PRICES, [early]) == ["change.unapproved"]
    bench.sql("SELECT pg_logical_emit_message(false, 'filler', repeat('x', 2 * 1024 * 1024))")
    late = insert(bench, lambda conn, key: emit(conn, bench.intent(conn, [PRICES], key="later", signer=signer)))
    assert unapproved(bench, PRICES, [late]) == []


def test_a_key_that_ended_before_what_it_signed_authorises_it_no_more(bench: Bench) -> None:
    """The record comes after the row, as after a theft: one node alone judges anew, too (the fixture audits the store)."""
    signer = new_signer("intent/stolen")
    bench.add_key("intent", "stolen", signer.public)
    ((lsn,),) = bench.sql("SELECT pg_current_wal_lsn()::text")
    keys = [insert(bench, lambda conn, key: emit(conn, bench.intent(conn, [PRICES], key="stolen", signer=signer)))]
    keys.append(insert(bench, lambda conn, key: emit(conn, bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"]))))
    assert unapproved(bench, PRICES, keys) == []
    public = base64.b64encode(signer.public).decode()
    body = {"action": "remove", "kind": "intent", "name": "stolen", "key": public, "from_lsn": lsn}
    bench.node.decide("key", authorise("key", body, bench.node.cluster_id, bench.name, bench.signer))
    wait(lambda: unapproved(bench, PRICES, keys[:1]) == ["change.unapproved"], "the row to be a finding after all")
    assert unapproved(bench, PRICES, keys) == ["change.unapproved"], "and the other is none"
    later = insert(bench, lambda conn, key: emit(conn, bench.intent(conn, [PRICES], key="stolen", signer=signer)))
    assert unapproved(bench, PRICES, [later]) == ["change.unapproved"]


# -- within a transaction ------------------------------------------------------------------------------------------------------


def test_each_message_holds_for_the_rows_after_it(bench: Bench) -> None:
    keys = [next(_keys) for _ in range(6)]
    with psycopg.connect(bench.database.owner_dsn) as conn:
        messages = [
            None,
            bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"]),
            '{"by":"carol"}',
            bench.intent(conn, [LEDGER], key="svc", signer=SIGNERS["svc"]),
            "not a message",
            bench.intent(conn, [PRICES, LEDGER], key="alice", signer=SIGNERS["alice"]),
        ]
        for key, message in zip(keys, messages, strict=True):
            if message is not None:
                emit(conn, message)
            conn.execute(f"INSERT INTO prices VALUES ({key}, 0)".encode())
    found = newest(bench, PRICES, 6)
    assert [entry.by for entry in found] == [None, "bob", "carol", "bob", None, "bob"]
    assert [entry.intent is not None for entry in found] == [False, True, False, True, False, True]
    open_keys = {f.key for f in bench.open(PRICES)}
    assert [str(key) in open_keys for key in keys] == [True, False, True, True, True, False]


def test_a_message_after_the_rows_comes_too_late(bench: Bench) -> None:
    key = next(_keys)
    with psycopg.connect(bench.database.owner_dsn) as conn:
        conn.execute(f"INSERT INTO prices VALUES ({key}, 0)".encode())
        emit(conn, bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"]))
    assert unapproved(bench, PRICES, [key]) == ["change.unapproved"]


def test_an_intent_rolled_back_with_its_savepoint_never_was(bench: Bench) -> None:
    first, second, third, fourth = (next(_keys) for _ in range(4))
    with psycopg.connect(bench.database.owner_dsn) as conn:
        emit(conn, '{"by":"dora"}')
        conn.execute("SAVEPOINT s")
        emit(conn, bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"]))
        conn.execute(f"INSERT INTO prices VALUES ({first}, 0)".encode())
        conn.execute("ROLLBACK TO SAVEPOINT s")
        conn.execute(f"INSERT INTO prices VALUES ({second}, 0)".encode())
        conn.execute("SAVEPOINT s2")
        emit(conn, bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"]))
        conn.execute(f"INSERT INTO prices VALUES ({third}, 0)".encode())
        conn.execute("RELEASE SAVEPOINT s2")
        conn.execute(f"INSERT INTO prices VALUES ({fourth}, 0)".encode())
    found = newest(bench, PRICES, 3)
    assert [(entry.key, entry.by, entry.intent is None) for entry in found] == [
        (str(second).encode(), "dora", True),
        (str(third).encode(), "bob", False),
        (str(fourth).encode(), "bob", False),
    ]
    assert unapproved(bench, PRICES, [second]) == ["change.unapproved"]
    assert unapproved(bench, PRICES, [third, fourth]) == []


def test_an_intent_before_a_savepoint_holds_within_it(bench: Bench) -> None:
    first, second = next(_keys), next(_keys)
    with psycopg.connect(bench.database.owner_dsn) as conn:
        emit(conn, bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"]))
        for key in (first, second):
            conn.execute(f"SAVEPOINT s; INSERT INTO prices VALUES ({key}, 0); RELEASE SAVEPOINT s".encode())
    assert unapproved(bench, PRICES, [first, second]) == []


def test_a_message_outside_of_transactions_or_with_another_prefix_is_none(bench: Bench) -> None:
    key = next(_keys)
    with psycopg.connect(bench.database.owner_dsn) as conn:
        text = bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"])
        conn.execute("SELECT pg_logical_emit_message(false, 'witnz', %s::text)", [text])
        conn.execute("SELECT pg_logical_emit_message(true, 'witnz2', %s::text)", [text])
        conn.execute("SELECT pg_logical_emit_message(true, 'WITNZ', %s::text)", [text])
        conn.execute(f"INSERT INTO prices VALUES ({key}, 0)".encode())
    (entry,) = newest(bench, PRICES, 1)
    assert (entry.by, entry.hint, entry.intent) == (None, None, None)
    assert unapproved(bench, PRICES, [key]) == ["change.unapproved"]


def test_an_intent_covers_several_tables_and_only_those_it_lists(bench: Bench) -> None:
    key = next(_keys)
    with psycopg.connect(bench.database.owner_dsn) as conn:
        emit(conn, bench.intent(conn, [PRICES, LEDGER], key="svc", signer=SIGNERS["svc"]))
        for table in ("prices", "strict"):
            conn.execute(f"INSERT INTO {table} VALUES ({key}, 0)".encode())
        conn.execute("UPDATE ledger SET amount = amount WHERE id = 3")
    assert unapproved(bench, PRICES, [key]) == []
    assert unapproved(bench, STRICT, [key]) == ["change.unapproved"]
    assert bench.open(LEDGER) == []


def test_a_prepared_transaction_is_judged_when_it_commits(bench: Bench) -> None:
    key = next(_keys)
    with psycopg.connect(bench.database.owner_dsn, autocommit=True) as conn:
        conn.execute("BEGIN")
        emit(conn, bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"]))
        conn.execute(f"INSERT INTO prices VALUES ({key}, 0)".encode())
        conn.execute(f"PREPARE TRANSACTION 'p{key}'".encode())
        conn.execute(f"COMMIT PREPARED 'p{key}'".encode())
    (entry,) = newest(bench, PRICES, 1)
    assert (entry.key, entry.by) == (str(key).encode(), "bob")
    assert unapproved(bench, PRICES, [key]) == []


def test_the_verdict_is_the_same_after_a_restart(bench: Bench) -> None:
    before = sorted((f.id, f.state) for f in bench.protected.findings(state=None))
    nonce = os.urandom(16).hex()

    def prepare(conn: Connection, key: int) -> None:
        emit(conn, bench.intent(conn, [PRICES], key="svc", signer=SIGNERS["svc"], nonce=nonce))

    counted = insert(bench, prepare)
    bench.protected.caught_up()
    bench.protected.restart()
    replayed = insert(bench, prepare)
    assert unapproved(bench, PRICES, [counted]) == []
    assert unapproved(bench, PRICES, [replayed]) == ["change.unapproved"]
    assert len(bench.protected.findings(state=None)) == len(before) + 1
