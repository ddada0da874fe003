"""Findings: stable names, stable ids, one JSON form."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.core.finding import (
    CLASSES,
    SEVERITIES,
    STATES,
    Finding,
    FindingClass,
    FindingState,
    Group,
    Severity,
    Window,
    finding_from_json,
    finding_id,
)
from witnz.errors import FormatError

GROUPS = {
    "silent": "row.modified row.deleted row.inserted table.replaced table.dropped",
    "stream": "violation.update violation.delete violation.truncate violation.reinsert change.unapproved",
    "context": "schema.changed visibility.changed publication.changed identity.changed role.changed",
    "capture": "slot.lost coverage.gap epoch.restored source.unreachable",
    "node": "node.diverged node.store-tampered node.rolled-back node.misbehaved quorum.lost",
    "outside": "anchor.missing anchor.altered anchor.hidden anchor.late checkpoint.forked",
    "config": "config.changed key.changed clock.skew",
}
CLUSTER = "00112233445566778899aabbccddeeff"
FINDING = Finding(
    id="F-0123456789ab",
    cls=FindingClass.ROW_MODIFIED,
    severity="critical",
    table="public.audit_logs",
    generation=1,
    key="42",
    detected_at="2026-11-21T18:09:40.123456Z",
    window=Window(last_good="2026-11-21T18:04:40.000000Z", first_bad="2026-11-21T18:09:40.000000Z"),
    recorded="0b" * 32,
    found="0c" * 32,
    entry_seq=7,
    lsn="0/1949850",
    xid="742",
    explained_by=None,
    detail="column values differ",
)
OPTIONAL_TEXTS = st.none() | st.text(st.characters(codec="utf-8"), max_size=20)
FINDINGS = st.builds(
    replace,
    st.just(FINDING),
    cls=st.sampled_from(list(CLASSES)),
    severity=st.sampled_from(SEVERITIES),
    state=st.sampled_from(STATES),
    table=st.sampled_from([None, "a.b"]),
    generation=st.none() | st.integers(1, 9),
    key=OPTIONAL_TEXTS,
    window=st.builds(Window, OPTIONAL_TEXTS, OPTIONAL_TEXTS),
    recorded=OPTIONAL_TEXTS,
    found=OPTIONAL_TEXTS,
    entry_seq=st.none() | st.integers(1, 2**53 - 1),
    lsn=st.sampled_from([None, "0/0"]),
    xid=st.sampled_from([None, "0", "4294967295"]),
    explained_by=OPTIONAL_TEXTS,
    detail=st.text(max_size=20),
    occurrence=st.integers(0, 9),
)


def test_the_classes_are_those_of_the_interface_by_group() -> None:
    by_group: dict[str, list[str]] = {}
    for name, info in CLASSES.items():
        by_group.setdefault(info.group, []).append(str(name))
    assert by_group == {group: names.split() for group, names in GROUPS.items()}
    assert set(CLASSES) == set(FindingClass)


@pytest.mark.parametrize("name", [str(name) for name in CLASSES])
def test_every_class_says_how_bad_what_it_means_and_what_to_do(name: str) -> None:
    info = CLASSES[name]
    assert info.severity in get_args(Severity) == SEVERITIES
    assert info.group in get_args(Group)
    assert 20 < len(info.meaning) < 130
    assert 20 < len(info.action) < 130
    assert "\n" not in info.meaning + info.action


def test_what_nobody_recorded_is_always_critical() -> None:
    assert {info.severity for info in CLASSES.values() if info.group == "silent"} == {"critical"}


def test_a_finding_has_the_members_of_the_interface() -> None:
    document = FINDING.to_json()
    required = sorted(document.keys() - {"generation", "detail", "occurrence"})
    assert " ".join(required) == (
        "class detected_at entry_seq explained_by found id key lsn recorded severity state table window xid"
    )
    assert len(document) == len(required) + 3
    assert document["class"] == "row.modified"
    assert type(document["class"]) is str
    assert document["window"] == {"last_good": FINDING.window.last_good, "first_bad": FINDING.window.first_bad}
    assert get_args(FindingState) == STATES


@given(FINDINGS)
def test_every_finding_survives_writing_and_reading(finding: Finding) -> None:
    assert finding_from_json(json.loads(json.dumps(finding.to_json()))) == finding


def test_the_journalled_body_has_exactly_the_members_of_the_record() -> None:
    body = FINDING.to_body()
    assert " ".join(sorted(body)) == "class explained_by found generation id key lsn recorded seq severity table window xid"
    assert body["seq"] == FINDING.entry_seq


def test_an_id_is_the_digest_of_what_makes_a_finding_the_same() -> None:
    canonical = (
        '{"class":"row.modified","cluster":"00112233445566778899aabbccddeeff","generation":1,"key":"4\\t2",'
        '"occurrence":0,"seq":null,"table":"public.audit_logs"}'
    )
    expected = "F-" + hashlib.sha256(canonical.encode()).hexdigest()[:12]
    assert finding_id(CLUSTER, FindingClass.ROW_MODIFIED, 1, "4\t2", 0, None, "public.audit_logs") == expected
    assert finding_id(CLUSTER, "row.modified", 1, "4\t2", 0, None, "public.audit_logs") == expected


def test_every_part_of_the_identity_changes_the_id() -> None:
    members: dict[str, Any] = {
        "cluster_id": CLUSTER,
        "cls": "row.modified",
        "generation": 1,
        "key": "1",
        "occurrence": 0,
        "seq": 1,
    }
    members["table"] = "a.b"
    others = {"cluster_id": CLUSTER[::-1], "cls": "row.deleted", "generation": 2, "key": None, "occurrence": 1, "seq": None}
    ids = {finding_id(**members), finding_id(**{**members, "table": None})}
    ids |= {finding_id(**{**members, name: other}) for name, other in others.items()}
    assert len(ids) == 8


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("id", "F-0123456789AB"),
        ("id", "F-0123456789a"),
        ("id", None),
        ("class", "row.moved"),
        ("class", []),
        ("severity", "bad"),
        ("severity", None),
        ("state", "closed"),
        ("table", "t"),
        ("table", 1),
        ("generation", 0),
        ("generation", "1"),
        ("generation", True),
        ("key", 1),
        ("detected_at", "2026-11-21"),
        ("detected_at", None),
        ("window", None),
        ("window", {"last_good": None}),
        ("window", {"last_good": None, "first_bad": 1}),
        ("window", {"last_good": None, "first_bad": None, "x": None}),
        ("entry_seq", 0),
        ("entry_seq", 1.0),
        ("entry_seq", 2**53),
        ("lsn", "0/0a"),
        ("xid", "-1"),
        ("xid", 7),
        ("occurrence", None),
        ("occurrence", -1),
        ("detail", None),
        ("explained_by", {}),
    ],
)
def test_a_document_with_a_wrong_member_is_refused(member: str, value: Any) -> None:
    with pytest.raises(FormatError):
        finding_from_json({**FINDING.to_json(), member: value})


@pytest.mark.parametrize("document", [None, [], "F-0123456789ab", {}, {**FINDING.to_json(), "extra": 1}])
def test_what_has_not_exactly_the_members_is_refused(document: Any) -> None:
    with pytest.raises(FormatError, match="exactly"):
        finding_from_json(document)
    less = FINDING.to_json()
    del less["detail"]
    with pytest.raises(FormatError, match="exactly"):
        finding_from_json(less)
