"""A14: changes that somebody approved or signed raise nothing; intents that are replayed, borrowed or forged do."""

from __future__ import annotations

import base64
import secrets
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from witnz.core.classify import Rules
from witnz.core.entry import parse_entry
from witnz.core.keys import Ed25519Signer
from witnz.core.lsn import format_lsn
from witnz.core.message import Intent, format_intent, sign_intent
from witnz.core.verdict import Verdict
from witnz.node.journal import authorise
from witnz.store import entries

pytestmark = pytest.mark.since(14, "logical messages in the stream, so intents and repairs,")


def emit(conn: psycopg.Connection[Any], content: str, *, transactional: bool = True) -> None:
    conn.execute("SELECT pg_logical_emit_message(%s, 'witnz', %s::text)", [transactional, content])


def intent_for(scene: Any, conn: psycopg.Connection[Any], *tables: str, nonce: str | None = None, **changed: Any) -> Intent:
    """An intent of the operator for the transaction at hand."""
    name, signer = scene.operator()
    row = conn.execute("SELECT pg_current_xact_id()::text").fetchone()
    assert row is not None
    wanted = {"key": name, "xid": int(row[0]), "cluster_id": scene.node.cluster_id, "signer": signer} | changed
    return sign_intent(
        wanted["signer"],
        wanted["cluster_id"],
        by="deploy-bot",
        hint="ticket 4711",
        key=wanted["key"],
        nonce=nonce or secrets.token_hex(16),
        tables=tables,
        xid=wanted["xid"],
    )


@pytest.mark.parametrize(
    "rules",
    [Rules("append_only"), Rules("state_integrity"), Rules("append_only", require_intent=True)],
    ids=["append_only", "state_integrity", "require_intent"],
)
def test_a_signed_transaction_raises_nothing_and_the_log_keeps_who_and_why(scene, rules: Rules) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect(rules)
    with psycopg.connect(scene.database.admin_dsn) as conn:
        intent = intent_for(scene, conn, table)
        emit(conn, format_intent(intent))
        conn.execute(f"UPDATE {table} SET amount = 1 WHERE id = 3")
        conn.execute(f"DELETE FROM {table} WHERE id = 4")
        conn.execute(f"INSERT INTO {table} VALUES (60, 'bot', 1, NULL, '2026-01-01')")
    assert scene.found(table) == []
    state = scene.node.state(table)
    with scene.node.db.read() as conn:
        last = [parse_entry(entries.entry_at(conn, state.head.id, state.head.size - i)) for i in (2, 1, 0)]
    assert [(e.op, e.by, e.hint) for e in last] == [(op, "deploy-bot", "ticket 4711") for op in ("update", "delete", "insert")]
    assert {e.intent for e in last} == {format_intent(intent)}
    scene.protected.assert_verified(table)


def test_a_signed_truncate_and_an_intent_for_several_tables_raise_nothing(scene) -> None:  # type: ignore[no-untyped-def]
    one, two = scene.protect("append_only"), scene.protect("state_integrity")
    with psycopg.connect(scene.database.admin_dsn) as conn:
        emit(conn, format_intent(intent_for(scene, conn, one, two)))
        conn.execute(f"TRUNCATE {one}")
        conn.execute(f"UPDATE {two} SET amount = 2")
    assert scene.found(one) == scene.found(two) == []
    scene.protected.assert_verified(one)
    scene.protected.assert_verified(two)


def test_an_intent_key_that_an_operator_admitted_signs_and_one_that_was_removed_does_not(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("state_integrity")
    signer = Ed25519Signer("intent/deploy", secrets.token_bytes(32))
    operator, operator_key = scene.operator()

    def decide(action: str) -> None:
        body = {
            "action": action,
            "kind": "intent",
            "name": "deploy",
            "key": base64.b64encode(signer.public).decode(),
            "from_lsn": format_lsn(scene.node.capture.recorder.position),
        }
        scene.node.journal.propose("key", authorise("key", body, scene.node.cluster_id, operator, operator_key))

    def change(key: int) -> None:
        with psycopg.connect(scene.database.admin_dsn) as conn:
            emit(conn, format_intent(intent_for(scene, conn, table, key="deploy", signer=signer)))
            conn.execute(f"UPDATE {table} SET amount = 3 WHERE id = {key}")

    change(1)
    scene.now("change.unapproved", 1, table)
    decide("add")
    change(2)
    assert scene.found(table) == [("change.unapproved", "1")]
    decide("remove")
    change(3)
    scene.now("change.unapproved", 3, table)
    assert scene.found(table) == [("change.unapproved", "1"), ("change.unapproved", "3")]


def test_what_an_operator_approves_afterwards_is_settled(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba(f"UPDATE {table} SET amount = 1 WHERE id = 3", f"DELETE FROM {table} WHERE id = 12")
    scene.protected.approve(scene.now("violation.update", 3, table))
    assert scene.protected.verify(table).verdict is Verdict.TAMPERED, "one approval settles one finding"
    scene.protected.approve(scene.now("violation.delete", 12, table))
    assert scene.found(table) == []
    verified = scene.protected.verify(table)
    assert verified.verdict is Verdict.VERIFIED and verified.result.rows == 14
    # and the approved version is what is recorded from now on
    approved = scene.row_hash(table, 3)
    scene.dba(f"UPDATE {table} SET amount = 2 WHERE id = 3")
    assert scene.now("violation.update", 3, table).recorded == approved
    scene.assert_bystanders_verified()


def test_an_approved_truncate_leaves_an_empty_table_that_is_verified(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    scene.dba(f"TRUNCATE {table}", f"INSERT INTO {table} VALUES (61, 'new', 1, NULL, '2026-01-01')")
    scene.protected.approve(scene.now("violation.truncate", None, table))
    assert scene.found(table) == []
    verified = scene.protected.verify(table)
    assert verified.verdict is Verdict.VERIFIED and verified.result.rows == 1


def test_intents_that_do_not_fit_authorise_nothing(scene) -> None:  # type: ignore[no-untyped-def]
    table, other = scene.protect("state_integrity"), scene.protect("state_integrity")
    used = secrets.token_hex(16)

    def change(key: int, make: Any, **how: Any) -> str:
        with psycopg.connect(scene.database.admin_dsn) as conn:
            content = make(conn)
            emit(conn, content, **how)
            conn.execute(f"UPDATE {table} SET amount = 4 WHERE id = {key}")
        return content

    genuine = change(1, lambda conn: format_intent(intent_for(scene, conn, table, nonce=used)))
    assert scene.found(table) == [], "the genuine one counts"

    stranger = Ed25519Signer("operator/alice", secrets.token_bytes(32))

    def forged(conn: psycopg.Connection[Any]) -> str:
        intent = intent_for(scene, conn, table)
        return format_intent(replace(intent, sig=bytes([intent.sig[0] ^ 1]) + intent.sig[1:]))

    def retold(conn: psycopg.Connection[Any]) -> str:
        return format_intent(replace(intent_for(scene, conn, other), tables=(table,)))

    cases = {
        2: lambda conn: genuine,  # replayed as it is
        3: lambda conn: format_intent(intent_for(scene, conn, table, nonce=used)),  # a nonce that counted before
        4: lambda conn: format_intent(intent_for(scene, conn, other)),  # for another table
        5: retold,  # for another table, with this one written over it
        6: lambda conn: format_intent(intent_for(scene, conn, table, xid=1)),  # for another transaction
        7: forged,  # one bit of the signature
        8: lambda conn: format_intent(intent_for(scene, conn, table, signer=stranger)),  # by another key
        9: lambda conn: format_intent(intent_for(scene, conn, table, key="bob")),  # under a name that has no key
        10: lambda conn: format_intent(intent_for(scene, conn, table, cluster_id="0" * 32)),  # for another cluster
        11: lambda conn: " " + format_intent(intent_for(scene, conn, table)),  # not canonical
        12: lambda conn: '{"by":"alice","hint":"approved, believe me"}',  # a claim is no intent
    }
    for key, make in cases.items():
        change(key, make)
    change(13, lambda conn: format_intent(intent_for(scene, conn, table)), transactional=False)
    with psycopg.connect(scene.database.admin_dsn) as conn:  # an intent holds for what follows it
        conn.execute(f"UPDATE {table} SET amount = 5 WHERE id = 14")
        emit(conn, format_intent(intent_for(scene, conn, table)))
        conn.execute(f"UPDATE {table} SET amount = 5 WHERE id = 15")

    expected = sorted(("change.unapproved", str(key)) for key in (*cases, 13, 14))
    assert scene.found(table) == expected
    assert set(scene.differences_of(table)) == {key for _, key in expected}
    assert scene.found(other) == []
    scene.assert_bystanders_verified(other)
