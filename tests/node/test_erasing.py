"""Rows that an operator orders to be erased: accepted when they go, unguessable afterwards, and nothing else goes with them."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.erasures import Cleaner, open_cleaner, signed
from tests.support.recorded import audit_problems, log_row, recorded, records
from tests.support.workshop import RECORD
from witnz.core.classify import Rules
from witnz.core.verdict import Verdict
from witnz.errors import ProofError, UsageError
from witnz.node.keyring import create_person_key

PEOPLE = (
    "CREATE TABLE {0} (id int PRIMARY KEY, name text, note text);"
    "INSERT INTO {0} SELECT g, 'person ' || g, 'note ' || g FROM generate_series(1, 20) g"
)


@pytest.fixture(scope="module")
def clean(pg_server, tmp_path_factory) -> Iterator[Cleaner]:
    with open_cleaner(pg_server, tmp_path_factory.mktemp("erasing")) as made:
        yield made


@pytest.mark.parametrize("rules", [Rules("append_only", retain=True), Rules("state_integrity", retain=True), RECORD])
def test_an_ordered_row_goes_without_a_finding_and_nothing_of_it_can_be_guessed(clean: Cleaner, rules: Rules) -> None:
    table = clean.protect(f"people_{rules.mode}_{rules.on_change}", PEOPLE, rules)
    secret = log_row(clean.protected, table).secret
    clean.order(table, ["7"], "asked by the person")
    clean.database.sql(f"DELETE FROM {table} WHERE id = 7")
    clean.await_erased(table, 1)
    (record,) = [r for r in records(clean.protected, "table", table) if r.body["generation"] == 2]
    assert record.body["reason"] == "1 row erased by order" and "auth" not in record.body
    old, new = log_row(clean.protected, table, 1), log_row(clean.protected, table, 2)
    assert (old.secret, old.status, new.status) == (b"", "ended", "active") and new.secret not in (b"", secret)
    assert b"7" not in {entry.key for entry in recorded(clean.protected, table)}
    assert not clean.is_anywhere(secret), "the secret is still in the node's files"
    verified = clean.protected.verify(table)
    assert verified.verdict is Verdict.VERIFIED and verified.to_json()["erased_rows"] == 1
    assert clean.protected.findings(table, state=None) == []
    assert audit_problems(clean.protected) == []


def test_a_row_of_a_composite_key_goes_by_order_and_others_stay_provable(clean: Cleaner) -> None:
    ddl = (
        "CREATE TABLE {0} (carrier text, flight int, seat text, PRIMARY KEY (carrier, flight));"
        "INSERT INTO {0} SELECT c, f, 'a' FROM unnest(ARRAY['UA', 'LH']) c, generate_series(1, 5) f"
    )
    table = clean.protect("flights", ddl, Rules("append_only"))
    clean.order(table, ["flight=3,carrier=UA", "carrier=LH,flight=1"])
    assert clean.orders(table)["erasures"][0]["state"] == "ordered"
    clean.database.sql(f"DELETE FROM {table} WHERE carrier = 'UA' AND flight = 3")
    clean.protected.caught_up()
    assert clean.orders(table)["erasures"][0]["removed"] == 1
    assert [state.generation for state in clean.node.states() if state.name == table] == [1], "the other row is waited for"
    clean.database.sql(f"DELETE FROM {table} WHERE carrier = 'LH' AND flight = 1")
    clean.await_erased(table, 1)
    assert clean.orders(table)["erasures"][0]["state"] == "erased" and clean.orders(table)["erased_rows"] == 2
    clean.assert_in_order(table)


def test_a_hidden_key_is_named_in_the_journal_by_its_hash_alone(clean: Cleaner) -> None:
    ddl = "CREATE TABLE {0} (mail text PRIMARY KEY); INSERT INTO {0} VALUES ('ada@example.com'), ('bob@example.com')"
    table = clean.protect("mails", ddl, Rules("append_only"), hidden=True)
    seq = clean.order(table, ["ada@example.com"])
    (record,) = [r for r in records(clean.protected, "erase", table) if r.seq == seq]
    assert record.body["keys"][0].startswith("\\H") and b"ada@" not in record.body_json
    clean.database.sql(f"DELETE FROM {table} WHERE mail = 'ada@example.com'")
    clean.await_erased(table, 1)
    clean.assert_in_order(table)


def test_what_cannot_be_ordered_is_refused_with_the_reason(clean: Cleaner) -> None:
    table = clean.protect("refusals", PEOPLE, Rules("append_only"))
    keyless = clean.protect("keyless", "CREATE TABLE {0} (a int); ALTER TABLE {0} REPLICA IDENTITY FULL", RECORD)
    for name, keys, said in [
        ("public.nothing", ["1"], "is not protected"),
        (table, ["99"], "nothing is recorded under key '99'"),
        (table, ["ab'c"], "nothing is recorded"),
        (table, [], "no row is named"),
        (keyless, ["1"], "has no key"),
    ]:
        with pytest.raises(UsageError, match=said):
            clean.node.erasing.body(name, keys, "why")
    with pytest.raises(UsageError) as refused:
        clean.node.erasing.body(table, ["abc"], "why")
    assert refused.value.hint == "column id is of type integer, and PostgreSQL prints no integer as 'abc'"
    clean.order(table, ["5"])
    with pytest.raises(UsageError, match="ordered to be erased already, by record"):
        clean.node.erasing.body(table, ["5"], "why")
    clean.order(table, ["6"])
    clean.database.sql(f"DELETE FROM {table} WHERE id = 5")
    clean.protected.caught_up()
    with pytest.raises(UsageError, match="was erased already, by order of record"):
        clean.node.erasing.body(table, ["5"], "why")


def test_an_order_without_the_key_of_an_operator_is_refused(clean: Cleaner) -> None:
    table = clean.protect("unsigned", PEOPLE, Rules("append_only"))
    body = signed(clean.node, clean.key, "erase", clean.node.erasing.body(table, ["3"], "why"))
    with pytest.raises(ProofError, match="auth is not by the operator key"):
        clean.node.decide("erase", body | {"reason": "another reason"})
    with pytest.raises(UsageError, match="does not say what this node would carry out"):
        clean.node.decide("erase", body | {"generation": 7})
    with pytest.raises(ProofError, match="auth is not by the operator key"):
        clean.node.decide("prune", {name: body[name] for name in ("table", "generation", "reason", "nonce", "auth")})
    clean.database.sql(f"DELETE FROM {table} WHERE id = 3")
    assert clean.protected.wait_for("violation.delete", "3", table=table).entry_seq == 22
    clean.protected.approve(clean.protected.wait_for("violation.delete", "3", table=table))


def test_a_row_that_is_gone_already_is_erased_at_once(clean: Cleaner) -> None:
    table = clean.protect("gone", PEOPLE, RECORD)
    secret = log_row(clean.protected, table).secret
    clean.database.sql(f"DELETE FROM {table} WHERE id = 4")
    clean.protected.caught_up()
    clean.order(table, ["4"])
    clean.await_erased(table, 1)
    assert not clean.is_anywhere(secret)
    clean.assert_in_order(table)


def test_another_row_than_the_ordered_one_is_a_violation_and_named(clean: Cleaner) -> None:
    table = clean.protect("another", PEOPLE, Rules("append_only"))
    clean.order(table, ["8"])
    clean.database.sql(f"DELETE FROM {table} WHERE id IN (8, 9)")
    finding = clean.protected.wait_for("violation.delete", "9", table=table)
    assert [f.key for f in clean.protected.findings(table)] == ["9"]
    verified = clean.protected.verify(table)
    assert (verified.verdict, verified.erased_rows) == (Verdict.TAMPERED, 1)
    assert [state.generation for state in clean.node.states() if state.name == table] == [1], "nothing is covered up meanwhile"
    clean.protected.approve(finding)
    clean.await_erased(table, 1)
    assert clean.protected.verify(table).verdict is Verdict.VERIFIED


def test_an_order_covers_one_row_once_and_not_what_is_put_in_its_place(clean: Cleaner) -> None:
    table = clean.protect("again", PEOPLE, Rules("append_only"))
    body = signed(clean.node, clean.key, "erase", clean.node.erasing.body(table, ["3", "4"], "why"))
    clean.node.decide("erase", body)
    clean.database.sql(f"DELETE FROM {table} WHERE id = 3")
    clean.database.sql(f"INSERT INTO {table} VALUES (3, 'put in its place', 'x')")
    clean.database.sql(f"DELETE FROM {table} WHERE id = 3")
    assert clean.protected.wait_for("violation.delete", "3", table=table).entry_seq == 24
    with pytest.raises(UsageError, match="erased already, by order of record"):
        clean.node.decide("erase", body)
    with pytest.raises(ProofError, match="nonce was used before"):
        clean.node.journal.propose("erase", body)
    clean.protected.approve(clean.protected.wait_for("violation.delete", "3", table=table))
    clean.database.sql(f"DELETE FROM {table} WHERE id = 4")
    clean.await_erased(table, 1)
    clean.database.sql(f"INSERT INTO {table} VALUES (4, 'new', 'x')")
    clean.protected.caught_up()
    clean.database.sql(f"DELETE FROM {table} WHERE id = 4")
    clean.protected.approve(clean.protected.wait_for("violation.delete", "4", table=table))
    assert audit_problems(clean.protected) == []


def test_of_a_row_that_goes_comes_back_and_goes_in_one_transaction_the_order_covers_the_first_delete(clean: Cleaner) -> None:
    table = clean.protect("at_once", PEOPLE, Rules("append_only"))
    clean.order(table, ["5"])
    clean.database.sql(
        f"BEGIN; DELETE FROM {table} WHERE id = 5; INSERT INTO {table} VALUES (5, 'put in its place', 'x');"
        f" DELETE FROM {table} WHERE id = 5; COMMIT"
    )
    found = clean.protected.wait_for("violation.delete", "5", table=table)
    assert found.entry_seq == 24  # the schema, 20 rows, the ordered delete, the insert, and this one
    clean.protected.caught_up()
    assert [(f.cls, f.entry_seq) for f in clean.protected.findings(table, state=None)] == [("violation.delete", 24)]
    verified = clean.protected.verify(table)
    assert verified.verdict is Verdict.TAMPERED and verified.to_json()["erased_rows"] == 1
    clean.protected.approve(found)
    clean.await_erased(table, 1)
    clean.protected.assert_verified(table)
    assert b"5" not in {entry.key for entry in recorded(clean.protected, table)}
    assert audit_problems(clean.protected) == []


def test_a_key_that_moves_or_a_table_that_is_emptied_is_no_ordered_erasure(clean: Cleaner) -> None:
    table = clean.protect("moved", PEOPLE, Rules("append_only"))
    clean.order(table, ["3"])
    clean.database.sql(f"UPDATE {table} SET id = 103 WHERE id = 3")
    assert clean.protected.wait_for("violation.update", "103", table=table)
    emptied = clean.protect("emptied", PEOPLE, Rules("append_only"))
    clean.order(emptied, ["3"])
    clean.database.sql(f"TRUNCATE {emptied}")
    assert clean.protected.wait_for("violation.truncate", table=emptied)
    clean.database.sql(f"INSERT INTO {emptied} VALUES (3, 'again', 'x')")
    clean.database.sql(f"DELETE FROM {emptied} WHERE id = 3")
    assert clean.protected.wait_for("violation.delete", "3", table=emptied)
    assert audit_problems(clean.protected) == []


def test_an_order_is_carried_out_alike_by_a_node_that_saw_the_delete_first(clean: Cleaner) -> None:
    """What a follower whose stream is ahead of its journal does: the finding is taken back, the state is the same."""
    table = clean.protect("overtaken", PEOPLE, Rules("append_only"))
    erasing, carry_out = clean.node.erasing, clean.node.following.handlers.pop("erase")
    clean.node.approvals.journal_all = lambda min_age_s: []
    try:
        seq = clean.order(table, ["6"])
        clean.database.sql(f"DELETE FROM {table} WHERE id = 6")
        assert clean.protected.wait_for("violation.delete", "6", table=table)
        (record,) = [r for r in records(clean.protected, "erase", table) if r.seq == seq]
        erasing.carry_out(record)
        erasing.carry_out(record)
        assert clean.protected.findings(table, state=None) == []
    finally:
        clean.node.following.handlers["erase"] = carry_out
        del clean.node.approvals.journal_all
    clean.await_erased(table, 1)
    clean.assert_in_order(table)
    assert audit_problems(clean.protected) == []


def test_where_two_operators_have_to_sign_one_alone_orders_nothing(clean: Cleaner, tmp_path: Path) -> None:
    def configure(key: Path, before: int, number: int) -> None:
        changes = {"approvers": {"from": str(before), "to": str(number)}}
        clean.node.decide("config", signed(clean.node, key, "config", {"changes": changes, "weakens": number < before}))

    bob = tmp_path / "operator-bob.key"
    public = b64encode(create_person_key(bob, "operator", "bob").public).decode()
    body = {"action": "add", "kind": "operator", "name": "bob", "key": public, "from_lsn": "0/0"}
    clean.node.decide("key", signed(clean.node, clean.key, "key", body))
    table = clean.protect("four_eyes", PEOPLE, Rules("append_only"))
    configure(clean.key, 1, 2)
    clean.order(table, ["2"])
    clean.order(table, ["2"])
    (waiting,) = clean.orders(table)["waiting"]
    assert (waiting["operators"], clean.orders(table)["erasures"]) == (["alice"], []), "the same signature twice is one"
    configure(clean.key, 2, 1)
    assert clean.orders(table)["approvers"] == 2, "one operator alone does not lower what binds him"
    order = clean.node.erasing.body(table, ["2"], "agreed")
    clean.node.decide("erase", signed(clean.node, bob, "erase", order))
    (made,) = clean.orders(table)["erasures"]
    assert (made["operators"], made["state"], clean.orders(table)["waiting"]) == (["alice", "bob"], "ordered", [])
    clean.database.sql(f"DELETE FROM {table} WHERE id = 2")
    clean.await_erased(table, 1)
    clean.assert_in_order(table)
    configure(bob, 2, 1)
    assert clean.orders(table)["approvers"] == 1
    assert audit_problems(clean.protected) == []
