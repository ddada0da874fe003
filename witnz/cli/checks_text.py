"""Checks as lines of text: the word first, then what was compared, then, where something is to be done, the hint."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from witnz.cli.output import Output
from witnz.cli.text import count, printable

_WORDS: Final[Mapping[str, str]] = {"fail": "FAIL"}
_PARTICIPLES: Final = (("fail", "failed"), ("warn", "with a warning"), ("skip", "not checked"), ("ok", "ok"))


def check_lines(
    output: Output, checks: Sequence[Mapping[str, Any]], *, indent: str = "  ", words: Mapping[str, str] = _WORDS
) -> Iterator[str]:
    """``checks`` of any document: name, status, and detail or message and hint.  ``words``: for statuses that have one."""
    wide = max((len(words.get(check["status"], check["status"])) for check in checks), default=4)
    for check in checks:
        word = words.get(check["status"], check["status"])
        text = printable(check.get("detail") or check.get("message") or "")
        padding = " " * (wide - len(word))
        yield f"{indent}{output.word(word)}{padding}  {printable(check['name'])}: {text}"
        if check.get("hint") and check["status"] != "ok":
            for line in check["hint"].splitlines():
                yield f"{indent}{' ' * wide}  hint: {printable(line)}"


def summary(checks: Sequence[Mapping[str, Any]]) -> str:
    """``2 failed, 1 with a warning, 9 ok``."""
    counts = [(sum(check["status"] == status for check in checks), words) for status, words in _PARTICIPLES]
    return ", ".join(f"{number} {words}" for number, words in counts if number) or count(0, "check")


def not_checked_lines(not_checked: Sequence[str]) -> Iterator[str]:
    """What no check covers."""
    if not_checked:
        yield "not checked"
        yield from (f"  {printable(text)}" for text in not_checked)
