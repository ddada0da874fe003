from __future__ import annotations

import sqlite3
from dataclasses import replace

import pytest

from witnz.core.finding import Finding, Window, finding_id
from witnz.errors import StoreCorrupt
from witnz.store import findings, verifications


def make_finding(n: int, *, table: str | None = "public.t", cls: str = "row.modified", state: str = "open") -> Finding:
    return Finding(
        id=finding_id("0" * 32, cls, 1, f"key {n}", 0, n, table), cls=cls, severity="critical", table=table, generation=1,
        key=f"key {n}", detected_at=f"2026-11-21T18:09:{n:02}.000000Z", window=Window(None, "2026-11-21T18:09:00.000000Z"),
        recorded="ab" * 32, found=None, entry_seq=n, lsn="0/1949850", xid="700", explained_by=None, state=state,
        detail="naïve — “quoted”",
    )  # type: ignore[arg-type]  # fmt: skip


def test_a_finding_comes_back_as_it_was(conn: sqlite3.Connection) -> None:
    finding = make_finding(1)
    assert findings.upsert(conn, finding)
    assert findings.get(conn, finding.id) == finding
    assert findings.get(conn, "F-000000000000") is None


def test_a_finding_moves_on_and_stays_one(conn: sqlite3.Connection) -> None:
    finding = make_finding(1)
    findings.upsert(conn, finding)
    assert not findings.upsert(conn, replace(finding, state="approved"))
    assert findings.list_findings(conn) == [replace(finding, state="approved")]
    assert findings.count_by_state(conn) == {"approved": 1}


def test_lists_are_newest_first_and_by_state_table_and_class(conn: sqlite3.Connection) -> None:
    made = [
        make_finding(1), make_finding(2, table="public.u"), make_finding(3, state="acknowledged"),
        make_finding(4, cls="violation.update", state="repaired"), make_finding(5, table=None, cls="slot.lost"),
    ]  # fmt: skip
    for finding in made:
        findings.upsert(conn, finding)
    one, two, three, four, five = made
    assert findings.list_findings(conn) == [five, four, three, two, one]
    assert findings.list_findings(conn, table="public.t") == [four, three, one]
    assert findings.list_findings(conn, states=["open"]) == [five, two, one]
    assert findings.list_findings(conn, states=["open", "acknowledged"], table="public.t") == [three, one]
    assert findings.list_findings(conn, classes=["slot.lost", "violation.update"]) == [five, four]
    assert findings.list_findings(conn, states=[]) == []
    assert findings.list_findings(conn, limit=2, offset=1) == [four, three]
    assert (findings.count_open(conn), findings.count_open(conn, "public.t"), findings.count_open(conn, "x.y")) == (4, 2, 0)


@pytest.mark.parametrize("doc", ["", "{}", "[1]", '{"id":1}', "x'00'"])
def test_a_damaged_finding_is_corrupt_and_named(conn: sqlite3.Connection, doc: str) -> None:
    finding = make_finding(1)
    findings.upsert(conn, finding)
    conn.execute("UPDATE findings SET doc = ?", (doc,))
    with pytest.raises(StoreCorrupt, match=finding.id):
        findings.get(conn, finding.id)
    with pytest.raises(StoreCorrupt, match=finding.id):
        findings.list_findings(conn)


def test_a_finding_under_another_ones_name_is_corrupt(conn: sqlite3.Connection) -> None:
    findings.upsert(conn, make_finding(1))
    conn.execute("UPDATE findings SET id = 'F-000000000000'")
    with pytest.raises(StoreCorrupt, match="expected id F-000000000000"):
        findings.get(conn, "F-000000000000")


def test_verifications_say_what_was_last_and_when_it_was_last_good(conn: sqlite3.Connection) -> None:
    at = 1_795_284_580_123_456
    assert verifications.latest(conn, "public.t") is None
    assert verifications.last_verified_at(conn, "public.t") is None
    for n, verdict in enumerate(["VERIFIED", "VERIFIED", "TAMPERED", "INCONCLUSIVE"]):
        verifications.save(
            conn, table="public.t", generation=1, at=at + n, verdict=verdict, journal_seq=n or None, doc={"rows": n}
        )
    verifications.save(conn, table="public.u", generation=2, at=at, verdict="TAMPERED", journal_seq=None, doc={})
    newest = verifications.latest(conn, "public.t")
    assert newest is not None
    assert (newest.verdict, newest.at, newest.journal_seq, newest.generation, newest.doc) == (
        "INCONCLUSIVE",
        at + 3,
        3,
        1,
        {"rows": 3},
    )
    assert verifications.last_verified_at(conn, "public.t") == "2026-11-21T18:09:40.123457Z"
    assert verifications.last_verified_at(conn, "public.u") is None
    assert [one.table for one in verifications.list_verifications(conn, limit=2)] == ["public.u", "public.t"]
    conn.execute("UPDATE verifications SET doc = '{'")
    with pytest.raises(StoreCorrupt):
        verifications.latest(conn, "public.t")
