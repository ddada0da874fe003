"""Names: what a cluster, a node, a table and a log may be called."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.core.names import (
    MAX_CLUSTER_NAME,
    MAX_TABLE_NAME,
    check_cluster_name,
    check_node_id,
    format_table_name,
    log_origin,
    parse_table_name,
)
from witnz.errors import FormatError

IDENTIFIERS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40)


@pytest.mark.parametrize("name", ["local/app", "prod.example.com/app", "a", "a_b-c.9", "a/b/c", "a" * MAX_CLUSTER_NAME])
def test_cluster_names_of_the_grammar_pass_unchanged(name: str) -> None:
    assert check_cluster_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "a/",
        "/a",
        "a//b",
        "A",
        "a b",
        "a+b",
        "é",
        "a\n",
        "a%",
        ".",
        "..",
        "a/../b",
        "./a",
        "a" * (MAX_CLUSTER_NAME + 1),
    ],
)
def test_other_cluster_names_are_refused(name: str) -> None:
    with pytest.raises(FormatError, match="cluster name"):
        check_cluster_name(name)


@pytest.mark.parametrize("node_id", ["node1", "1", "-", "a-b", "a" * 32])
def test_node_ids_of_the_grammar_pass_unchanged(node_id: str) -> None:
    assert check_node_id(node_id) == node_id


@pytest.mark.parametrize("node_id", ["", "a" * 33, "Node1", "a.b", "a_b", "a/b", "a\n", "ä"])
def test_other_node_ids_are_refused(node_id: str) -> None:
    with pytest.raises(FormatError, match="node id"):
        check_node_id(node_id)


@pytest.mark.parametrize(
    ("schema", "table", "name"),
    [
        ("public", "audit_logs", "public.audit_logs"),
        ("Billing", "price-list", "Billing.price-list"),
        ("a.b", "c", "a%2Eb.c"),
        ("public", "two words", "public.two%20words"),
        ("public", "電子帳簿", "public.%E9%9B%BB%E5%AD%90%E5%B8%B3%E7%B0%BF"),
        ("public", 'quo"te/%~', "public.quo%22te%2F%25%7E"),
    ],
)
def test_a_table_name_encodes_all_but_letters_digits_underscore_and_hyphen(schema: str, table: str, name: str) -> None:
    assert format_table_name(schema, table) == name
    assert parse_table_name(name) == (schema, table)


@given(IDENTIFIERS, IDENTIFIERS)
def test_every_pair_of_identifiers_survives_writing_and_reading(schema: str, table: str) -> None:
    assert parse_table_name(format_table_name(schema, table)) == (schema, table)


@given(st.text("aZ0_-.%2EeF", max_size=12))
def test_whatever_is_read_is_written_back_as_it_was(name: str) -> None:
    try:
        parts = parse_table_name(name)
    except FormatError:
        return
    assert format_table_name(*parts) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        ".",
        "a",
        "a.",
        ".a",
        "a.b.c",
        "a.b c",
        "a.%2e",
        "a.%61",
        "a.%5F",
        "a.%",
        "a.%4",
        "a.%FF",
        "a.%00",
        "a.%ED%A0%80",
        "a.b\n",
        "ä.b",
        "a." + "b" * MAX_TABLE_NAME,
    ],
)
def test_other_table_names_are_refused(name: str) -> None:
    with pytest.raises(FormatError, match="table name"):
        parse_table_name(name)


@pytest.mark.parametrize(("schema", "table"), [("", "a"), ("a", ""), ("a", "\0"), ("a", "\ud800"), ("a", "é" * 200)])
def test_identifiers_that_postgresql_cannot_have_are_not_written(schema: str, table: str) -> None:
    with pytest.raises(FormatError, match="table name"):
        format_table_name(schema, table)


def test_the_longest_name_of_two_63_byte_identifiers_fits() -> None:
    worst = "\u00e9" * 31 + " "
    assert len(worst.encode()) == 63
    assert parse_table_name(format_table_name(worst, worst)) == (worst, worst)


def test_an_origin_joins_cluster_table_and_generation() -> None:
    assert log_origin("example.com/witnz/demo", "public.audit_logs", 1) == "example.com/witnz/demo/public.audit_logs/1"


@pytest.mark.parametrize(
    ("cluster", "table", "generation"), [("A", "public.t", 1), ("a", "t", 1), ("a", "public.t", 0), ("a", "public.t", -1)]
)
def test_an_origin_of_impossible_parts_is_refused(cluster: str, table: str, generation: int) -> None:
    with pytest.raises(FormatError):
        log_origin(cluster, table, generation)
