"""The classifier against the table of formats.md 3, every row of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.core.classify import BASELINE, DELETE, INSERT, SCHEMA, TRUNCATE, UPDATE, Rules, judge
from witnz.core.finding import CLASSES

OPS = (SCHEMA, BASELINE, INSERT, UPDATE, DELETE, TRUNCATE)
RULES = st.builds(
    Rules,
    mode=st.sampled_from(["append_only", "state_integrity"]),
    on_change=st.sampled_from(["alert", "record"]),
    inserts_only=st.booleans(),
    require_intent=st.booleans(),
    retain=st.booleans(),
)

# (rules, op, whether the key is known) -> class; what no intent covers and is not listed is accepted
APPEND_ONLY = Rules("append_only")
APPEND_ONLY_SIGNED = Rules("append_only", require_intent=True)
ALERT = Rules("state_integrity", "alert")
RECORD = Rules("state_integrity", "record")
SIGNED = Rules("state_integrity", "record", require_intent=True)
REFUSED = {
    (APPEND_ONLY, INSERT, True): "violation.reinsert",
    (APPEND_ONLY, UPDATE, True): "violation.update",
    (APPEND_ONLY, UPDATE, False): "violation.update",
    (APPEND_ONLY, DELETE, True): "violation.delete",
    (APPEND_ONLY, DELETE, False): "violation.delete",
    (APPEND_ONLY, TRUNCATE, True): "violation.truncate",
    (APPEND_ONLY, TRUNCATE, False): "violation.truncate",
    (APPEND_ONLY_SIGNED, INSERT, True): "violation.reinsert",
    (APPEND_ONLY_SIGNED, INSERT, False): "change.unapproved",
    (APPEND_ONLY_SIGNED, UPDATE, True): "violation.update",
    (APPEND_ONLY_SIGNED, UPDATE, False): "violation.update",
    (APPEND_ONLY_SIGNED, DELETE, True): "violation.delete",
    (APPEND_ONLY_SIGNED, DELETE, False): "violation.delete",
    (APPEND_ONLY_SIGNED, TRUNCATE, True): "violation.truncate",
    (APPEND_ONLY_SIGNED, TRUNCATE, False): "violation.truncate",
    **{(rules, op, known): "change.unapproved" for rules in (ALERT, SIGNED) for op in OPS[2:] for known in (True, False)},
}


@pytest.mark.parametrize("rules", [APPEND_ONLY, APPEND_ONLY_SIGNED, ALERT, RECORD, SIGNED], ids=str)
@pytest.mark.parametrize("op", OPS, ids=bytes.decode)
@pytest.mark.parametrize("known", [True, False], ids=["known key", "new key"])
def test_what_nobody_signed_is_judged_by_mode_and_rules(rules: Rules, op: bytes, known: bool) -> None:
    assert judge(rules, op, intended=False, key_known=known) == REFUSED.get((rules, op, known))


@given(RULES, st.sampled_from(OPS), st.booleans())
def test_a_valid_intent_makes_anything_accepted(rules: Rules, op: bytes, known: bool) -> None:
    assert judge(rules, op, intended=True, key_known=known) is None


@given(RULES, st.booleans(), st.booleans())
def test_descriptions_and_baselines_are_always_accepted(rules: Rules, intended: bool, known: bool) -> None:
    assert judge(rules, SCHEMA, intended=intended, key_known=known) is None
    assert judge(rules, BASELINE, intended=intended, key_known=known) is None


@given(RULES, st.sampled_from(OPS), st.booleans())
def test_whatever_is_not_accepted_is_a_finding_of_the_stream(rules: Rules, op: bytes, known: bool) -> None:
    cls = judge(rules, op, intended=False, key_known=known)
    assert cls is None or CLASSES[cls].group == "stream"


@given(RULES, st.sampled_from(OPS), st.booleans())
def test_the_short_cuts_say_what_the_judgement_says(rules: Rules, op: bytes, known: bool) -> None:
    """The recorder asks these two before it asks for each entry."""
    if rules.accepts_everything:
        assert judge(rules, op, intended=False, key_known=known) is None
    assert rules.accepts_new_keys == (judge(rules, INSERT, intended=False, key_known=False) is None)


def test_modes_and_retention_do_not_leak_into_each_other() -> None:
    """``on_change`` belongs to state_integrity; inserts_only and retain change no judgement."""
    for op in OPS:
        for known in (True, False):
            verdicts = {
                judge(Rules("append_only", change, only, False, keep), op, intended=False, key_known=known)
                for change in ("alert", "record")
                for only in (True, False)
                for keep in (True, False)
            }
            assert len(verdicts) == 1
