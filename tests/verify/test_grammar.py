"""What is a record, receipt, entry, policy or note: three programs that share no code draw the line at the same place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.support import grammar_cases, standalone
from tests.support.browser import VerifierPage
from tests.support.grammar_cases import Spoilt
from witnz.core.checkpoint import parse_checkpoint
from witnz.core.entry import parse_entry
from witnz.core.note import parse_note
from witnz.core.policy import parse_policy
from witnz.core.receipt import check_receipt
from witnz.core.record import record_from_json
from witnz.errors import FormatError

Reads = Callable[[str], object]


def checkpoint(text: str) -> None:
    if parse_checkpoint(parse_note(text).text).extensions:
        raise FormatError("checkpoint: expected no extension lines")


FORMATS: dict[str, tuple[Callable[[], Iterator[Spoilt]], Reads, Reads, str]] = {
    "records": (
        grammar_cases.records,
        lambda text: record_from_json(json.loads(text)),
        lambda text: standalone.module().check_record(json.loads(text)),
        'text => RECORD(JSON.parse(text), "record")',
    ),
    "receipts": (
        grammar_cases.receipts,
        lambda text: check_receipt(json.loads(text), "receipt"),
        lambda text: standalone.module().check_receipt(json.loads(text)),
        'text => RECEIPT(JSON.parse(text), "receipt")',
    ),
    "entries": (
        grammar_cases.entries,
        lambda text: parse_entry(text.encode()),
        lambda text: standalone.module().Entry(text),
        'text => parseEntry(text, "entry")',
    ),
    "policies": (
        grammar_cases.policies,
        parse_policy,
        lambda text: standalone.module().Policy(text.encode()),
        "text => parsePolicy(utf8(text))",
    ),
    "notes": (
        grammar_cases.notes,
        checkpoint,
        lambda text: standalone.module().Note(text).checkpoint(),
        "text => parseCheckpoint(parseNote(text))",
    ),
}
"""Cases, and how each program reads one: witnz, verify.py, and an expression in the page of verify.html."""

_READ_ALL = """texts => texts.map(text => {{
  try {{ ({read})(text); return true; }} catch (error) {{ if (error instanceof Refused) return false; throw error; }}
}})"""
AT_ONCE = 2000


def good(read: Reads, cases: Sequence[Spoilt]) -> list[bool]:
    """Which of them the program takes; any other exception than its refusal is a crash."""
    found = []
    for _, text in cases:
        try:
            read(text)
        except (FormatError, standalone.module().Refused):
            found.append(False)
        else:
            found.append(True)
    return found


def in_page(page: VerifierPage, read: str, cases: Sequence[Spoilt]) -> list[bool]:
    """The same by verify.html."""
    parts = [[text for _, text in cases[start : start + AT_ONCE]] for start in range(0, len(cases), AT_ONCE)]
    return [one for part in parts for one in page.page.evaluate(_READ_ALL.format(read=read), part)]


@pytest.mark.parametrize("name", FORMATS)
def test_all_three_take_and_refuse_the_same(name: str, page: VerifierPage) -> None:
    made, own, alone, script = FORMATS[name]
    cases = list(made())
    expected = good(own, cases)
    assert min(expected.count(True), expected.count(False)) > len(cases) // 50
    for found in (good(alone, cases), in_page(page, script, cases)):
        assert [what for (what, _), one, other in zip(cases, expected, found, strict=True) if one != other] == []
