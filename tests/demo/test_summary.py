"""The summary: green only if something was expected and all of it was seen."""

from __future__ import annotations

from dataclasses import replace

from witnz.demo.play import Expected
from witnz.demo.summary import Outcome, Summary

SEEN = Outcome("sql.update", "sql", "violation.update t 1", "violation.update t 1", True, "stream", 0.04321)


def test_a_demo_that_expected_nothing_has_failed() -> None:
    assert Summary([], 1.0, "all", "16.1").exit_code != 0


def test_one_missed_outcome_is_enough_to_fail_and_is_named() -> None:
    missed = replace(SEEN, scene="sql.delete", seen="nothing", ok=False)
    good, bad = Summary([SEEN], 1.0, "sql", "16.1"), Summary([SEEN, missed], 1.0, "sql", "16.1")
    assert (good.exit_code, good.to_json()["missed"]) == (0, [])
    assert (bad.exit_code, bad.to_json()["missed"], bad.to_json()["ok"]) == (1, ["sql.delete"], False)
    assert (bad.to_json()["expected"], bad.to_json()["seen"]) == (2, 1)


def test_a_finding_counts_only_with_class_table_key_and_the_hashes_of_its_class() -> None:
    finding = {"class": "row.modified", "table": "public.t", "key": "1", "recorded": "aa", "found": "bb"}
    expected = Expected("row.modified", "public.t", "1")
    assert expected.fits(finding)
    for member, value in (("class", "row.deleted"), ("table", "public.u"), ("key", "11"), ("recorded", None), ("found", None)):
        assert not expected.fits(finding | {member: value}), member
