"""Each sink against a real server: what arrives, what counts as arrived, and that no receiver can hold or fool a node."""

from __future__ import annotations

import hashlib
import hmac
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.alerts import CLUSTER, NODE, document, finding
from tests.support.config_files import MINIMAL, loader
from tests.support.receiver import Behaviour, answer, endless, hang, hang_up, receiver, trickle
from witnz.alert.http import MAX_RETRY_AFTER_S, Answer
from witnz.alert.message import Message, finding_message, summary_message
from witnz.alert.sink import Sink
from witnz.alert.sinks import LogSink, PagerDutySink, SlackSink, WebhookSink, sign_webhook, sinks_from
from witnz.config import Secret
from witnz.errors import ConfigError
from witnz.logging import configure_logging

NOW_S = 1_795_284_580.9
ROUTING_KEY = "R0UT1NGK3Y"
SIGNING_KEY = "whsec-4d2f"

Build = Callable[[str], Sink]
BUILDERS: dict[str, Build] = {
    "slack": lambda url: SlackSink(Secret(url), timeout_s=60.0),
    "pagerduty": lambda url: PagerDutySink(Secret(ROUTING_KEY), url, timeout_s=60.0),
    "webhook": lambda url: WebhookSink("hook", Secret(url), Secret(SIGNING_KEY), timeout_s=60.0),
}


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


def one(number: int = 1, **changes: object) -> Message:
    return finding_message(document(number, **changes))


# --- what arrives ---------------------------------------------------------------------------------------------------------


def test_a_webhook_gets_the_document_with_a_signature_that_anybody_can_check() -> None:
    message = one()
    with receiver() as there:
        outcome = BUILDERS["webhook"](there.url).deliver(message, NOW_S)
    assert outcome.delivered
    (got,) = there.received
    assert got.path == "/hook/secret-path"
    assert got.headers["content-type"] == "application/json"
    assert got.headers["witnz-delivery"] == message.delivery_id
    assert json.loads(got.body) == {
        "schema": "witnz.alert/1",
        "event": "finding.open",
        "cluster": CLUSTER,
        "node": NODE,
        "finding": finding().to_json(),
    }
    # Independently of the code under test, from the documentation's sentence alone.
    time_part, digest_part = got.headers["witnz-signature"].split(",")
    assert time_part == f"t={int(NOW_S)}"
    expected = hmac.new(SIGNING_KEY.encode(), time_part[2:].encode() + b"." + got.body, hashlib.sha256).hexdigest()
    assert digest_part == f"v1={expected}"


def test_the_signature_of_a_known_body_is_this_one() -> None:
    # printf '1700000000.{"a":1}' | openssl dgst -sha256 -hmac key
    assert sign_webhook(b"key", 1_700_000_000, b'{"a":1}') == (
        "t=1700000000,v1=a438e398bfafc57e4396bb7fc2304422f0f768e965d073ca313cb52e22e6ad03"
    )


def test_a_webhook_without_a_secret_is_not_signed() -> None:
    with receiver() as there:
        assert WebhookSink("hook", Secret(there.url)).deliver(one(), NOW_S).delivered
    assert "witnz-signature" not in there.received[0].headers


def test_slack_gets_a_text_and_blocks_of_plain_text() -> None:
    with receiver() as there:
        assert BUILDERS["slack"](there.url).deliver(one(), NOW_S).delivered
    sent = json.loads(there.received[0].body)
    assert sent["text"] == "[critical] witnz prod.example.com/app: violation.update on public.audit_logs, key 42 found"
    assert sent["mrkdwn"] is False
    texts = [field["text"] for block in sent["blocks"] for field in block.get("fields", [])]
    assert f"id: {finding().id}" in texts
    assert "lsn: 0/1949850" in texts
    for block in sent["blocks"]:
        assert block["type"] == "section"
        assert len(block.get("fields", [])) <= 10
        assert all(
            part["type"] == "plain_text" and len(part["text"]) <= 2000 for part in block.get("fields", [block.get("text")])
        )


@pytest.mark.parametrize(
    ("state", "action"),
    [("open", "trigger"), ("acknowledged", "acknowledge"), ("approved", "resolve"), ("repaired", "resolve")],
)
def test_pagerduty_gets_one_incident_per_finding_with_its_state(state: str, action: str) -> None:
    with receiver(answer(202)) as there:
        assert BUILDERS["pagerduty"](there.url).deliver(one(state=state), NOW_S).delivered
    sent = json.loads(there.received[0].body)
    assert (sent["routing_key"], sent["event_action"], sent["dedup_key"]) == (ROUTING_KEY, action, finding().id)
    if action != "trigger":
        assert "payload" not in sent
        return
    assert sent["payload"]["severity"] == "critical"
    assert sent["payload"]["source"] == f"{CLUSTER}/{NODE}"
    assert sent["payload"]["component"] == "public.audit_logs"
    assert sent["payload"]["timestamp"] == finding().detected_at
    assert sent["payload"]["custom_details"] == finding().to_json()


@pytest.mark.parametrize(
    ("cls", "severity"),
    [("row.modified", "critical"), ("change.unapproved", "error"), ("schema.changed", "warning"), ("clock.skew", "info")],
)
def test_pagerduty_knows_four_severities(cls: str, severity: str) -> None:
    with receiver(answer(202)) as there:
        BUILDERS["pagerduty"](there.url).deliver(one(cls=cls), NOW_S)
    assert json.loads(there.received[0].body)["payload"]["severity"] == severity


@pytest.mark.parametrize("name", BUILDERS)
def test_a_summary_says_how_many_of_what_where(name: str) -> None:
    message = summary_message([document(number) for number in range(1, 41)])
    with receiver() as there:
        assert BUILDERS[name](there.url).deliver(message, NOW_S).delivered
    text = there.received[0].body.decode()
    assert "40 more findings of class violation.update on table public.audit_logs" in text or '"count":40' in text
    assert finding(1).id in text


@pytest.mark.parametrize("name", BUILDERS)
def test_hostile_keys_and_names_stay_text(name: str) -> None:
    key = "<!channel> *bold* & \x1b[31m\u202egnirts\r\n\x00 " + "k" * 3000
    with receiver() as there:
        assert BUILDERS[name](there.url).deliver(one(key=key.replace("\x00", "")), NOW_S).delivered
    sent = json.loads(there.received[0].body)
    if name == "slack":
        assert "<!channel>" not in sent["text"]
        assert "&lt;!channel&gt;" in sent["text"]
        assert not any(char in json.dumps(sent, ensure_ascii=False) for char in "\x1b\u202e")
        assert len(sent["text"]) < 500
    if name == "pagerduty":
        assert len(sent["payload"]["summary"]) <= 1024
        assert sent["payload"]["summary"].isprintable()


def test_the_log_gets_the_fields_of_the_finding() -> None:
    stream = io.StringIO()
    configure_logging("info", "json", stream=stream)
    assert LogSink().deliver(one(), NOW_S).delivered
    assert LogSink().deliver(summary_message([document(1), document(2)]), NOW_S).delivered
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["event"], first["level"], first["id"], first["class"]) == (
        "finding changed",
        "error",
        finding().id,
        "violation.update",
    )
    assert (second["event"], second["count"]) == ("findings summarised", 2)


# --- what counts as arrived -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize(
    ("behave", "error", "refused", "retry_after_s"),
    [
        (answer(500), "HTTP status 500", False, 0),
        (answer(503, Retry_After="17"), "HTTP status 503", False, 17),
        (answer(429, Retry_After="Sat, 21 Nov 2026 18:10:10 GMT"), "HTTP status 429", False, 29.1),
        (answer(429, Retry_After="soon"), "HTTP status 429", False, 0),
        (answer(429, Retry_After="999999"), "HTTP status 429", False, MAX_RETRY_AFTER_S),
        (answer(400), "HTTP status 400", True, 0),
        (answer(403), "HTTP status 403", False, 0),
        (answer(404), "HTTP status 404", False, 0),
        (answer(302, Location="http://127.0.0.1:1/elsewhere"), "HTTP status 302: redirects are not followed", False, 0),
        (hang_up, "RemoteProtocolError", False, 0),
    ],
    ids=["500", "503", "429 with a date", "429 with a word", "429 for ever", "400", "403", "404", "302", "no answer"],
)
def test_what_is_not_a_success_is_a_failure_with_its_reason(
    name: str, behave: Behaviour, error: str, refused: bool, retry_after_s: float
) -> None:
    with receiver(behave) as there:
        outcome = BUILDERS[name](there.url).deliver(one(), NOW_S)
    assert not outcome.delivered
    assert outcome.error.startswith(error)
    assert outcome.refused is refused
    assert outcome.retry_after_s == pytest.approx(retry_after_s, abs=0.2)
    assert len(there.received) == 1
    assert "secret-path" not in outcome.error
    assert ROUTING_KEY not in outcome.error


def test_slacks_own_reason_is_told_and_nothing_longer() -> None:
    with receiver(answer(403, b"invalid_token")) as there:
        assert BUILDERS["slack"](there.url).deliver(one(), NOW_S).error == "HTTP status 403: invalid_token"
        there.behave = answer(403, b"<html>" + there.url.encode())
        assert BUILDERS["slack"](there.url).deliver(one(), NOW_S).error == "HTTP status 403"


@pytest.mark.parametrize("behave", [hang, trickle], ids=["hangs", "trickles"])
def test_a_receiver_that_does_not_finish_its_answer_is_left_at_the_deadline(behave: Behaviour) -> None:
    started = time.monotonic()
    with receiver(behave) as there:
        outcome = WebhookSink("hook", Secret(there.url), timeout_s=0.4).deliver(one(), NOW_S)
    assert outcome.error == "no answer within 0.4 s"
    assert time.monotonic() - started < 5


def test_an_endless_answer_is_not_read_to_its_end() -> None:
    with receiver(endless) as there:
        assert WebhookSink("hook", Secret(there.url), timeout_s=5).deliver(one(), NOW_S).delivered


@pytest.mark.parametrize(
    ("url", "error"),
    [
        ("http://127.0.0.1:1/secret-path", "ConnectError"),
        ("http://nowhere.invalid/secret-path", "ConnectError"),
        ("secret-path://nowhere.invalid/", "UnsupportedProtocol"),
        ("http://nowhere.invalid\x7f/secret-path", "InvalidURL"),
    ],
)
def test_a_receiver_that_is_not_there_is_a_failure(url: str, error: str) -> None:
    outcome = WebhookSink("hook", Secret(url), timeout_s=5).deliver(one(), NOW_S)
    assert outcome.error.startswith(error)
    assert "secret-path" not in outcome.error


def test_https_with_a_certificate_nobody_knows_is_refused(tmp_path: Path) -> None:
    with receiver() as there:
        outcome = WebhookSink("hook", Secret(there.url.replace("http:", "https:")), timeout_s=5).deliver(one(), NOW_S)
    assert not outcome.delivered
    assert there.received == []


def test_a_date_in_the_past_asks_for_no_wait() -> None:
    assert Answer(429, retry_after="Sat, 21 Nov 2020 18:10:10 GMT").outcome(NOW_S).retry_after_s == 0


# --- from the configuration -----------------------------------------------------------------------------------------------


def test_sinks_come_from_the_configuration(tmp_path: Path) -> None:
    text = MINIMAL + (
        "alerts: {slack_webhook: 'https://s/x', pagerduty_key: k, pagerduty_url: 'http://p/', max_per_minute: 7, timeout: 3s,\n"
        "  webhooks: [{url: 'https://a/'}, {url: 'https://b/', secret: s}, {url: 'https://c/', name: oncall}]}\n"
    )
    sinks = {sink.name: sink for sink in sinks_from(loader(tmp_path)(text))}
    assert list(sinks) == ["log", "slack", "pagerduty", "webhook", "webhook2", "oncall"]
    assert {sink.max_per_minute for name, sink in sinks.items() if name != "log"} == {7}
    pagerduty = sinks["pagerduty"]
    assert isinstance(pagerduty, PagerDutySink)
    assert (pagerduty.url, pagerduty.timeout_s) == ("http://p/", 3.0)


def test_alerts_that_are_switched_off_leave_the_log(tmp_path: Path) -> None:
    text = MINIMAL + "alerts: {enabled: false, slack_webhook: 'https://s/x'}\n"
    assert [sink.name for sink in sinks_from(loader(tmp_path)(text))] == ["log"]


def test_a_secret_that_cannot_be_read_is_noticed_at_the_start(tmp_path: Path) -> None:
    config = loader(tmp_path)(MINIMAL)
    unreadable = Secret("", problem="alerts.slack_webhook_file: cannot read /x: permission denied")
    broken = config.model_copy(update={"alerts": config.alerts.model_copy(update={"slack_webhook": unreadable})})
    with pytest.raises(ConfigError, match="permission denied"):
        sinks_from(broken)


def test_no_sink_shows_its_secret() -> None:
    shown = repr([build("https://h/secret-path") for build in BUILDERS.values() if build is not BUILDERS["pagerduty"]])
    assert "secret-path" not in shown + repr(BUILDERS["pagerduty"]("http://p/"))
    assert SIGNING_KEY not in shown
    assert ROUTING_KEY not in repr(BUILDERS["pagerduty"]("http://p/"))
