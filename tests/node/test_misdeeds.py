"""What a member goes on doing wrong: counted in its one finding and in the log, however much of it there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from witnz.core.finding import Finding
from witnz.errors import StoreError
from witnz.node.findings import APPROVED, FindingBook
from witnz.node.misdeeds import LINES_A_MINUTE, Misdeeds
from witnz.store import findings
from witnz.store.database import Database

FIRST, LATER = "expected votes of 2 members, found 1", "its auth is not by the operator key"


@dataclass
class Desk:
    db: Database
    now_us: int = 0
    alerted: list[str] = field(default_factory=list)
    woken: int = 0

    def __post_init__(self) -> None:
        self.book = FindingBook("c" * 32, lambda: self.now_us, lambda conn, finding: self.alerted.append(finding.id))
        self.misdeeds = self.restarted()

    def restarted(self) -> Misdeeds:
        self.misdeeds = Misdeeds(self.db, self.book, self._wake)
        return self.misdeeds

    def _wake(self) -> None:
        self.woken += 1

    def found(self) -> list[Finding]:
        with self.db.read() as conn:
            return findings.list_findings(conn)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    tmp_path.chmod(0o700)
    with Database.create(tmp_path / "witnz.db") as db:
        yield Desk(db)


def test_the_one_finding_says_how_often_and_when_last_also_after_a_restart(desk: Desk) -> None:
    assert desk.misdeeds.note("node2", "seal", FIRST)
    desk.misdeeds.tell()
    (first,) = desk.found()
    assert (first.key, first.found, first.detail) == ("node2 seal", "seal", f"node2: {FIRST}")
    assert (desk.alerted, desk.woken) == ([first.id], 1)
    for second in (1, 2):
        desk.now_us = second * 1_000_000
        assert not desk.misdeeds.note("node2", "seal", LATER)
    desk.misdeeds.tell()
    desk.restarted().note("node2", "seal", LATER)
    desk.misdeeds.tell()
    desk.misdeeds.tell()
    (finding,) = desk.found()
    assert finding.detail == f"node2: {FIRST}; 4 times, the last at 1970-01-01T00:00:02.000000Z: {LATER}"
    assert finding == replace(first, detail=finding.detail)
    assert (desk.alerted, desk.woken) == ([first.id], 1)


def test_after_a_decision_the_same_is_counted_in_a_finding_of_its_own(desk: Desk) -> None:
    for _ in range(3):
        desk.misdeeds.note("node2", "seal", FIRST)
    desk.misdeeds.tell()
    (decided,) = desk.found()
    with desk.db.write() as conn:
        desk.book.set_state(conn, decided.id, APPROVED)
    desk.misdeeds.note("node2", "seal", LATER)
    desk.misdeeds.note("", "seal", LATER)
    desk.misdeeds.tell()
    told = {(finding.key, finding.occurrence): finding.detail for finding in desk.found()}
    assert told == {
        ("node2 seal", 0): f"node2: {FIRST}; 3 times, the last at 1970-01-01T00:00:00.000000Z: {FIRST}",
        ("node2 seal", 1): f"node2: {LATER}",
        ("a member seal", 0): f"a member: {LATER}",
    }


def test_what_could_not_be_written_is_told_later(desk: Desk) -> None:
    desk.misdeeds.note("node2", "seal", FIRST)
    with desk.db.write(), pytest.raises(StoreError):
        desk.misdeeds.tell()
    desk.misdeeds.note("node2", "seal", LATER)
    desk.misdeeds.tell()
    (finding,) = desk.found()
    assert finding.detail == f"node2: {FIRST}; 2 times, the last at 1970-01-01T00:00:00.000000Z: {LATER}"


def test_a_flood_is_a_few_lines_that_say_how_many_there_were(desk: Desk) -> None:
    with capture_logs() as told:
        for n in range(5_000):
            desk.misdeeds.note("node2", "seal", f"{FIRST} {n} " + "x" * 5_000)
        desk.misdeeds.note("node3", "seal", FIRST)
        desk.misdeeds.tell()
    lines = [line for line in told if line["log_level"] == "warning" and line["peer"] == "node2"]
    assert LINES_A_MINUTE <= len(lines) < 500  # on a machine that took minutes for it there are more
    for n, line in enumerate(lines[:LINES_A_MINUTE]):
        assert (line["type"], line["left_out"]) == ("seal", 0)
        assert line["reason"].startswith(f"{FIRST} {n} xxx")
    assert all(len(str(line)) < 1_000 for line in told)
    assert [line["type"] for line in told if line["log_level"] == "warning" and line["peer"] == "node3"] == ["seal"]
    flood = next(finding for finding in desk.found() if finding.key == "node2 seal")
    assert "; 5,000 times, the last at" in flood.detail
    assert len(flood.detail) < 1_000
