"""Where things go: the answer to stdout, everything else to stderr; as text, or as exactly one JSON document (interface.md 1).

Colours have three meanings and no other: good, bad, and not checked or degraded; the word always says it, too.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final, TextIO

import typer

from witnz.cli.text import printable
from witnz.errors import WitnzError

Document = Mapping[str, Any]

WORDS: Final[Mapping[str, str]] = {
    "ok": "green",
    "VERIFIED": "green",
    "running": "green",
    "FAIL": "red",
    "TAMPERED": "red",
    "failed": "red",
    "critical": "red",
    "high": "red",
    "warn": "yellow",
    "skip": "yellow",
    "pending": "yellow",
    "unknown": "yellow",
    "INCONCLUSIVE": "yellow",
    "stopped": "yellow",
    "connecting": "yellow",
    "opening": "yellow",
    "medium": "yellow",
    "open": "yellow",
}
"""The colour of each word that is a verdict or a state; every other word has none."""


class Color(StrEnum):
    """When to colour."""

    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


class Output:
    """How this call answers.  ``verbose``: how often ``-v`` was given; ``quiet``: nothing on stderr but errors."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False, verbose: int = 0, color: Color = Color.AUTO) -> None:
        self.as_json, self.quiet, self.verbose, self._color = as_json, quiet, verbose, color
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, ValueError):  # a stream that somebody replaced
                stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]

    # -- the answer -----------------------------------------------------------------------------------------------------------

    def answer(self, document: Document, lines: Iterable[str]) -> None:
        """The document with ``--json``, else the lines."""
        if self.as_json:
            print_line(format_json(document, sys.stdout, indent=2))
        else:
            for line in lines:
                print_line(line)
        sys.stdout.flush()

    def say(self, text: str) -> None:
        """A line of the answer as soon as it is known; with ``--json`` the document comes at the end and this is left out."""
        if not self.as_json:
            print_line(text)
            sys.stdout.flush()

    # -- beside it ------------------------------------------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """A hint or progress on stderr; not with ``-q``."""
        if not self.quiet:
            print_line(text, sys.stderr)

    def error(self, error: WitnzError) -> None:
        """One message and what to do about it, or ``witnz.error/1`` on one line."""
        if self.as_json:
            document = {
                "schema": "witnz.error/1",
                "code": error.code,
                "exit_code": error.exit_code,
                "message": error.message,
                "hint": error.hint,
            }
            print_line(format_json(document, sys.stderr), sys.stderr)
            return
        message = "\n".join(printable(line) for line in error.message.splitlines())
        print_line(f"{self._paint('error:', 'red', sys.stderr)} {message}  [{error.code}]", sys.stderr)
        for line in error.hint.splitlines():
            print_line(f"hint: {printable(line)}", sys.stderr)

    # -- looks ----------------------------------------------------------------------------------------------------------------

    def word(self, word: str) -> str:
        """A verdict or state in its colour."""
        return self._paint(word, WORDS.get(word, ""), sys.stdout)

    def dim(self, text: str) -> str:
        """What matters less."""
        return typer.style(text, dim=True) if self.colored(sys.stdout) else text

    def _paint(self, text: str, color: str, stream: TextIO) -> str:
        return typer.style(text, fg=color, bold=True) if color and self.colored(stream) else text

    def colored(self, stream: TextIO) -> bool:
        """Whether colours go to this stream: as asked, else NO_COLOR and FORCE_COLOR (no-color.org), else on a terminal."""
        if self._color is not Color.AUTO:
            return self._color is Color.ALWAYS
        if os.environ.get("NO_COLOR"):
            return False
        return bool(os.environ.get("FORCE_COLOR")) or is_terminal(stream)


def format_json(document: Document, stream: TextIO, *, indent: int | None = None) -> str:
    """The document as this stream can carry it: as it is in UTF-8, escaped in any other encoding."""
    is_utf8 = (stream.encoding or "").lower().replace("-", "") in ("utf8", "")
    return json.dumps(document, ensure_ascii=not is_utf8, indent=indent, allow_nan=False)


def is_terminal(stream: TextIO) -> bool:
    """Whether a person looks at a stream."""
    with suppress(AttributeError, ValueError):  # closed or replaced
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    return False


def print_line(text: str, stream: TextIO | None = None) -> None:
    """``text`` and a newline; to stdout as it is now unless told otherwise."""
    (stream or sys.stdout).write(text + "\n")
