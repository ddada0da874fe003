"""Global options wherever they stand: ``witnz status --json`` is ``witnz --json status`` (interface.md 1).

Done on the words, before the command line parser sees them, because it takes an option only where the command that knows it
stands.  The word after an option that takes a value is its value and never an option: ``--reason --json`` is a reason.
Nothing behind ``--`` is moved.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from witnz.errors import UsageError

FLAGS: Final = frozenset({"--json", "-q", "--quiet", "-v", "--verbose"})
VALUES: Final = frozenset({"-c", "--config", "--color"})

_CLUSTER = re.compile(r"-[qv]+")
_ATTACHED = re.compile(r"-c.+|--(?:config|color)=.*", re.DOTALL)


def hoist_globals(words: Sequence[str], value_options: Collection[str]) -> list[str]:
    """``words`` with the global options in front, in their order.

    ``value_options``: every other option of any command that takes a value.  Raises :class:`UsageError` where a global option
    lacks its value.
    """
    front: list[str] = []
    rest: list[str] = []
    at = 0
    while at < len(words):
        word = words[at]
        if word == "--":
            return [*front, *rest, *words[at:]]
        taken = 2 if word in VALUES or word in value_options else 1
        if word in VALUES and at + 1 == len(words):
            raise UsageError(f"option {word} needs a value", hint="`witnz --help` lists the global options")
        is_global = word in FLAGS or word in VALUES or _CLUSTER.fullmatch(word) or _ATTACHED.fullmatch(word)
        (front if is_global else rest).extend(words[at : at + taken])
        at += taken
    return [*front, *rest]


def wants_json(words: Sequence[str]) -> bool:
    """Whether ``--json`` stands before any ``--``: good enough to say in which form the words themselves are refused."""
    until = list(words).index("--") if "--" in words else len(words)
    return "--json" in words[:until]
