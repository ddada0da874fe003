"""Global options before or after the command."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz.cli.argv import FLAGS, hoist_globals, wants_json
from witnz.errors import UsageError

VALUE_OPTIONS = frozenset({"--reason", "-o", "--from"})


def hoisted(*words: str) -> list[str]:
    return hoist_globals(words, VALUE_OPTIONS)


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["status", "--json"], ["--json", "status"]),
        (["status", "-c", "a.yaml", "--watch"], ["-c", "a.yaml", "status", "--watch"]),
        (["status", "--config=a.yaml"], ["--config=a.yaml", "status"]),
        (["status", "-ca.yaml"], ["-ca.yaml", "status"]),
        (["findings", "--json", "list", "-vv"], ["--json", "-vv", "findings", "list"]),
        (["-q", "status", "--color", "never"], ["-q", "--color", "never", "status"]),
        (["verify", "a", "-qv"], ["-qv", "verify", "a"]),
        (["verify", "--json", "--", "--json", "-q"], ["--json", "verify", "--", "--json", "-q"]),
        ([], []),
    ],
)
def test_global_options_move_to_the_front_in_their_order(words: list[str], expected: list[str]) -> None:
    assert hoisted(*words) == expected


def test_the_value_of_another_option_is_never_an_option() -> None:
    words = ["findings", "ack", "F-1", "--reason", "--json", "-o", "-q"]
    assert hoisted(*words) == words


def test_a_global_option_without_its_value_is_refused() -> None:
    with pytest.raises(UsageError, match="option -c needs a value"):
        hoisted("status", "-c")


def test_an_option_of_a_command_that_looks_alike_stays() -> None:
    assert hoisted("log", "show", "t", "--from", "1", "--colour") == ["log", "show", "t", "--from", "1", "--colour"]


@given(st.lists(st.sampled_from(["a", "--json", "-q", "-v", "--from", "-c", "x", "--all", "--"])))
def test_no_word_is_lost_and_hoisting_twice_changes_nothing(words: list[str]) -> None:
    try:
        once = hoisted(*words)
    except UsageError:
        return
    assert sorted(once) == sorted(words)
    assert hoisted(*once) == once
    if "-c" not in words and "--from" not in words:
        until = words.index("--") if "--" in words else len(words)
        front = [word for word in words[:until] if word in FLAGS]
        assert once == front + [word for word in words[:until] if word not in FLAGS] + words[until:]


def test_json_is_wanted_only_before_the_double_dash() -> None:
    assert wants_json(["verify", "--json"])
    assert not wants_json(["verify", "--", "--json"])
