"""The log: one format for everybody on stderr, and no secret, row or bytes in it, whoever wrote the record."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from witnz.config.types import Secret
from witnz.logging import Redaction, Seldom, configure_logging, get_logger

SECRET = "hunter2-never-shown"

Written = Callable[[], list[dict[str, Any]]]


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    yield
    root.handlers[:], root.level = before
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.fixture
def written() -> Written:
    stream = io.StringIO()
    configure_logging("info", "json", secrets=[Secret(SECRET), Secret("ab")], stream=stream)
    return lambda: [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_time_level_and_logger_first(written: Written) -> None:
    get_logger("witnz.node.seal").info("seal signed", size=41, lsn="0/1949850", table="größe")
    (event,) = written()
    assert list(event)[:4] == ["timestamp", "level", "logger", "event"]
    assert event["timestamp"].endswith("Z")
    del event["timestamp"]
    assert event == {
        "level": "info",
        "logger": "witnz.node.seal",
        "event": "seal signed",
        "size": 41,
        "lsn": "0/1949850",
        "table": "größe",
    }


@pytest.mark.parametrize(
    "field",
    [
        *("password", "db_password", "DSN", "conninfo", "secret", "token", "authorization", "private_key", "seed"),
        *("routing_key", "slack_webhook", "row", "row_line", "line", "image", "old_row", "values"),
    ],
)
def test_a_field_named_after_a_secret_or_a_row_is_masked_at_any_depth(written: Written, field: str) -> None:
    get_logger("witnz.x").warning("it happened", **{field: "visible"}, deep={"list": [{field: "visible"}]})
    (event,) = written()
    assert event[field] == "********"
    assert "visible" not in json.dumps(event)


def test_fields_that_only_sound_similar_are_shown(written: Written) -> None:
    get_logger("witnz.x").info("it happened", rows=7, key="42", key_id="ab", lines_read=3, row_hash="ff", token_count=1)
    (event,) = written()
    assert (event["rows"], event["key"], event["key_id"], event["row_hash"]) == (7, "42", "ab", "ff")


def test_a_known_secret_is_masked_wherever_it_turns_up(written: Written) -> None:
    log = get_logger("witnz.x")
    log.info(f"event {SECRET}", url=f"https://h/{SECRET}", error=ValueError(SECRET), deep=[{"a": (SECRET,)}])
    try:
        raise RuntimeError(f"cannot use {SECRET}")
    except RuntimeError:
        log.exception("it failed")
    logging.getLogger("uvicorn.error").info("started with %s", SECRET)
    logging.getLogger("some.library").warning("retrying %s", {"a": SECRET})
    events = written()
    assert len(events) == 4
    assert SECRET not in json.dumps(events)
    assert "RuntimeError: cannot use ********" in events[1]["exception"]
    assert events[2]["event"] == "started with ********"


def test_a_secret_too_short_to_be_recognised_does_not_mask_words(written: Written) -> None:
    get_logger("witnz.x").info("absolutely")
    assert written()[0]["event"] == "absolutely"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://w:XX@h/d",
        "host=h password=XX user=w",
        "password = 'X X'",
        "PASSWORD:XX",
        'failed (password="XX")',
        "https://XX@h/",
    ],
)
def test_recognisable_secrets_in_any_text_are_masked(written: Written, text: str) -> None:
    get_logger("witnz.x").error("it failed", reason=text)
    assert "X" not in written()[0]["reason"]


def test_bytes_are_shown_as_their_length(written: Written) -> None:
    get_logger("witnz.x").info("read", data=b"\x00secret", more=[bytearray(3)])
    event = written()[0]
    assert (event["data"], event["more"]) == ("<7 bytes>", ["<3 bytes>"])


def test_tracebacks_hold_no_local_variables() -> None:
    for fmt in ("console", "json"):
        stream = io.StringIO()
        configure_logging("info", fmt, stream=stream)  # type: ignore[arg-type]
        local_variable_with_a_row = "visible" + "-row"
        try:
            raise ValueError(len(local_variable_with_a_row))
        except ValueError:
            get_logger("witnz.x").exception("it failed")
        assert "Traceback" in stream.getvalue()
        assert "visible-row" not in stream.getvalue()


@pytest.mark.parametrize(("level", "shown"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_holds_for_our_own_events(level: str, shown: int) -> None:
    stream = io.StringIO()
    configure_logging(level, "json", stream=stream)  # type: ignore[arg-type]
    log = get_logger("witnz.x")
    for method in (log.debug, log.info, log.warning, log.error):
        method("it happened")
    assert len(stream.getvalue().splitlines()) == shown


def test_libraries_are_heard_from_warning_on_and_requests_only_when_debugging(written: Written) -> None:
    logging.getLogger("httpx").info("HTTP Request: POST https://hooks.slack.com/services/T/B/x")
    logging.getLogger("uvicorn.access").info("GET /status")
    logging.getLogger("uvicorn.error").info("Application startup complete.")
    logging.getLogger("httpx").warning("slow")
    assert [event["event"] for event in written()] == ["Application startup complete.", "slow"]
    stream = io.StringIO()
    configure_logging("debug", "json", stream=stream)
    logging.getLogger("uvicorn.access").info("GET /status")
    assert "GET /status" in stream.getvalue()


def test_configuring_again_replaces_the_handler() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure_logging("info", "json", stream=first)
    configure_logging("info", "json", stream=second)
    get_logger("witnz.x").info("it happened")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 1


def test_the_console_is_readable_and_coloured_only_when_asked() -> None:
    plain, coloured = io.StringIO(), io.StringIO()
    configure_logging("info", "console", False, stream=plain)
    get_logger("witnz.x").info("seal signed", size=41, by=None)
    configure_logging("info", "console", True, stream=coloured)
    get_logger("witnz.x").info("seal signed", size=41)
    assert "\x1b[" not in plain.getvalue()
    assert "seal signed" in plain.getvalue()
    assert "size=41" in plain.getvalue()
    assert "by=" not in plain.getvalue()
    assert "\x1b[" in coloured.getvalue()


def test_a_line_break_in_a_field_cannot_forge_a_line() -> None:
    stream = io.StringIO()
    configure_logging("info", "console", stream=stream)
    get_logger("witnz.x").info("seal signed", table="a\n2026-01-01T00:00:00Z [info] all is well")
    assert len(stream.getvalue().splitlines()) == 1


def test_nothing_goes_to_stdout_even_before_it_is_configured() -> None:
    program = "from witnz.logging import get_logger; get_logger('witnz.x').error('it failed', password='hunter2')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    assert "it failed" in done.stderr
    assert "hunter2" not in done.stderr


NESTED = st.recursive(
    st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(max_size=10), NESTED, max_size=4))
def test_redaction_takes_any_fields_and_loses_only_secrets(fields: dict[str, Any]) -> None:
    redaction = Redaction([Secret(SECRET)])
    event = {key: value for key, value in fields.items() if not key.startswith("_") and key != "exc_info"}
    shown = redaction(None, "info", {**event, "also": SECRET})
    assert shown.keys() == {*event, "also"}
    assert shown["also"] == "********"


def test_lines_that_others_provoke_are_limited_in_any_minute_and_counted() -> None:
    now = 0.0
    seldom = Seldom(3, lambda: now)
    assert [seldom.next() for _ in range(5)] == [0, 0, 0, None, None]
    now = 59.9
    assert (seldom.next(), seldom.rest()) == (None, 0)
    now = 60.0
    assert [seldom.next() for _ in range(4)] == [3, 0, 0, None]
    now = 120.0
    assert (seldom.rest(), seldom.rest(), seldom.next()) == (1, 0, 0)
