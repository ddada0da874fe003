"""What a message says, and what it never says."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.alerts import CLUSTER, NODE, document, finding
from witnz.alert.message import (
    MAX_LISTED,
    dedup_key,
    finding_message,
    finding_payload,
    group_of,
    parse_payload,
    printable,
    summary_message,
)
from witnz.core.canonical import parse_canonical
from witnz.errors import FormatError


def test_a_payload_holds_the_finding_and_nothing_else() -> None:
    payload = finding_payload(finding(), CLUSTER, NODE)
    assert parse_canonical(payload.encode(), what="payload", max_bytes=65536) == document()
    assert set(document()) == {"schema", "event", "cluster", "node", "finding"}
    allowed = {
        *("id", "class", "severity", "table", "generation", "key", "detected_at", "window", "recorded", "found", "entry_seq"),
        *("lsn", "xid", "explained_by", "state", "detail", "occurrence"),
    }
    assert set(document()["finding"]) <= allowed
    assert parse_payload(payload) == document()


@pytest.mark.parametrize(
    "payload",
    ["", "{}", "[]", "null", "{", '{"finding": 1}', json.dumps({**document(), "schema": "witnz.alert/2"})],
)
def test_a_payload_that_is_none_is_refused(payload: str) -> None:
    with pytest.raises(FormatError):
        parse_payload(payload)


def test_each_state_of_a_finding_is_a_notification_of_its_own() -> None:
    assert dedup_key(finding()) == f"{finding().id}:open"
    assert dedup_key(finding(state="approved")) == f"{finding().id}:approved"


def test_a_message_names_table_key_and_class() -> None:
    message = finding_message(document())
    assert message.title == f"witnz {CLUSTER}: violation.update on public.audit_logs, key 42 found"
    assert dict(message.facts)["entry seq"] == "1"
    assert (message.subject, message.state, message.severity) == (finding().id, "open", "critical")


def test_a_message_of_no_table_and_no_key_has_none() -> None:
    message = finding_message(document(cls="source.unreachable", table=None, key=None, state="repaired"))
    assert message.title == f"witnz {CLUSTER}: source.unreachable repaired"
    assert "table" not in dict(message.facts)


def test_a_delivery_id_is_the_same_in_every_attempt_and_differs_otherwise() -> None:
    ids = {
        finding_message(document(1)).delivery_id,
        finding_message(document(1, state="approved")).delivery_id,
        finding_message(document(2)).delivery_id,
        finding_message({**document(1), "node": "node2"}).delivery_id,
        summary_message([document(1), document(2)]).delivery_id,
        summary_message([document(1), document(3)]).delivery_id,
    }
    assert len(ids) == 6
    assert finding_message(document(1)).delivery_id in ids


def test_a_summary_counts_all_and_lists_the_first() -> None:
    documents = [document(number) for number in range(1, 101)]
    message = summary_message(documents)
    assert message.title == f"witnz {CLUSTER}: 100 more findings of class violation.update on table public.audit_logs"
    summary = message.document["summary"]
    assert summary["count"] == 100
    assert summary["findings"] == [document["finding"]["id"] for document in documents[:MAX_LISTED]]
    assert (summary["first_detected_at"], summary["last_detected_at"]) == (
        "2026-11-21T18:00:01.123456Z",
        "2026-11-21T18:01:40.123456Z",
    )
    assert message.severity == "critical"


def test_a_summary_of_closings_says_so() -> None:
    message = summary_message([document(number, state="approved") for number in (1, 2)])
    assert "2 findings approved of class violation.update" in message.title


def test_groups_are_state_class_and_table() -> None:
    assert group_of(document()) == ("open", "violation.update", "public.audit_logs")
    assert group_of(document(cls="clock.skew", table=None, state="approved")) == ("approved", "clock.skew", "")


@given(st.text())
def test_printable_is_one_short_printable_line(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert len(shown) <= 200
