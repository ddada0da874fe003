"""Chores that fail do not fill the log: a full disk would otherwise have each of them say so five times a second."""

from __future__ import annotations

import psycopg
import pytest
import structlog

from witnz.errors import StoreFull, StoreLocked
from witnz.node.chores import Complaints


def test_a_chore_that_keeps_failing_is_told_at_once_and_then_once_a_minute_with_a_count() -> None:
    now = [100.0]
    complaints = Complaints(lambda: now[0])
    with structlog.testing.capture_logs() as told:
        for _ in range(5 * 125):
            complaints.tell("Chores.journal_findings", StoreFull("database or disk is full"))
            now[0] += 0.2
    assert [(line["chore"], line["times"]) for line in told] == [
        ("Chores.journal_findings", times) for times in (1, pytest.approx(300, abs=1), pytest.approx(300, abs=1))
    ]
    assert {line["reason"] for line in told} == {"database or disk is full"}


def test_another_chore_and_another_error_are_told_at_once() -> None:
    complaints = Complaints(lambda: 0.0)
    with structlog.testing.capture_logs() as told:
        for _ in range(3):
            complaints.tell("seal", StoreFull("full"))
            complaints.tell("seal", StoreLocked("held"))
            complaints.tell("look", psycopg.OperationalError("gone\n"))
    assert [(line["chore"], line["reason"]) for line in told] == [("seal", "full"), ("seal", "held"), ("look", "gone")]
