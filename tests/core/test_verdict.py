"""Verdicts: tampering wins, doubt comes next, and nothing checked is never good."""

from __future__ import annotations

from itertools import chain, product

import pytest

from witnz.core.verdict import Check, CheckStatus, Verdict, exit_code

GOOD, BAD, UNSURE = Verdict.VERIFIED, Verdict.TAMPERED, Verdict.INCONCLUSIVE


def test_every_combination_of_up_to_three_parts_follows_the_order() -> None:
    for parts in chain.from_iterable(product(Verdict, repeat=length) for length in range(1, 4)):
        expected = BAD if BAD in parts else UNSURE if UNSURE in parts else GOOD
        assert Verdict.combine(parts) is expected
        assert Verdict.combine(iter(parts)) is expected


def test_nothing_checked_is_inconclusive() -> None:
    assert Verdict.combine([]) is UNSURE


@pytest.mark.parametrize(("verdict", "code"), [(GOOD, 0), (BAD, 3), (UNSURE, 4)])
def test_each_verdict_has_its_exit_code(verdict: Verdict, code: int) -> None:
    assert exit_code(verdict) == code


def test_the_words_are_those_of_the_interface() -> None:
    assert [str(verdict) for verdict in Verdict] == ["VERIFIED", "TAMPERED", "INCONCLUSIVE"]
    assert [str(status) for status in CheckStatus] == ["ok", "fail", "skip", "n/a"]


def test_a_check_prints_its_name_status_and_detail() -> None:
    assert Check("quorum", CheckStatus.SKIP, "no policy").to_json() == {
        "name": "quorum",
        "status": "skip",
        "detail": "no policy",
    }
    assert Check("rows", CheckStatus.NOT_APPLICABLE).to_json()["status"] == "n/a"
