"""The places that findings are sent to: the log, Slack, PagerDuty, a webhook.

slack      an incoming webhook: blocks of plain text, so that no key or table name is taken for formatting or a mention
pagerduty  Events API v2: one incident per finding, closed when the finding is
webhook    the document itself, with   Witnz-Delivery: <id, the same in every attempt>
                                       Witnz-Signature: t=<Unix seconds>,v1=<hex HMAC-SHA256 of "<t>." + body>
"""

from __future__ import annotations

import hmac
import json
import re
from dataclasses import dataclass
from typing import Any, Final

from witnz.alert.http import post
from witnz.alert.message import Message
from witnz.alert.sink import DELIVERED, Outcome, Sink
from witnz.config import Config, Secret
from witnz.errors import ConfigError
from witnz.logging import get_logger

_log = get_logger(__name__)

_LOG_LINES_PER_MINUTE: Final = 600
_SLACK_FIELDS: Final = 10  # of one section block
_SLACK_REASON = re.compile(rb"[a-z_]{1,40}")
_PAGERDUTY_SEVERITY: Final = {"critical": "critical", "high": "error", "medium": "warning", "low": "info", "info": "info"}
_PAGERDUTY_ACTION: Final = {"open": "trigger", "acknowledged": "acknowledge", "approved": "resolve", "repaired": "resolve"}


@dataclass(frozen=True, slots=True)
class LogSink:
    """The node's own log; it never fails."""

    name: str = "log"
    max_per_minute: int = _LOG_LINES_PER_MINUTE
    summarises_closing: bool = True

    def deliver(self, message: Message, now_s: float) -> Outcome:
        details = message.document.get("finding") or message.document.get("summary") or {}
        fields = {name: value for name, value in details.items() if name not in {"window", "generation"} and value is not None}
        write = _log.error if message.severity in {"critical", "high"} and message.state == "open" else _log.warning
        write("finding changed" if "finding" in message.document else "findings summarised", **fields)
        return DELIVERED


@dataclass(frozen=True, slots=True)
class SlackSink:
    """A Slack incoming webhook."""

    url: Secret
    max_per_minute: int = 30
    timeout_s: float = 10.0
    name: str = "slack"
    summarises_closing: bool = True

    def deliver(self, message: Message, now_s: float) -> Outcome:
        answer = post(self.url.reveal(), _json(slack_payload(message)), {}, self.timeout_s)
        outcome = answer.outcome(now_s)
        if outcome.delivered or _SLACK_REASON.fullmatch(answer.body) is None:
            return outcome
        return Outcome(f"{outcome.error}: {answer.body.decode()}", outcome.refused, outcome.retry_after_s)


@dataclass(frozen=True, slots=True)
class PagerDutySink:
    """PagerDuty's Events API v2."""

    routing_key: Secret
    url: str = "https://events.pagerduty.com/v2/enqueue"
    max_per_minute: int = 30
    timeout_s: float = 10.0
    name: str = "pagerduty"
    summarises_closing: bool = False

    def deliver(self, message: Message, now_s: float) -> Outcome:
        payload = pagerduty_payload(message, self.routing_key.reveal())
        return post(self.url, _json(payload), {}, self.timeout_s).outcome(now_s)


@dataclass(frozen=True, slots=True)
class WebhookSink:
    """Any HTTP endpoint; signed where there is a ``secret``."""

    name: str
    url: Secret
    secret: Secret | None = None
    max_per_minute: int = 30
    timeout_s: float = 10.0
    summarises_closing: bool = True

    def deliver(self, message: Message, now_s: float) -> Outcome:
        body = message.body()
        headers = {"Witnz-Delivery": message.delivery_id}
        if self.secret is not None:
            headers["Witnz-Signature"] = sign_webhook(self.secret.reveal().encode(), int(now_s), body)
        return post(self.url.reveal(), body, headers, self.timeout_s).outcome(now_s)


def sign_webhook(secret: bytes, time_s: int, body: bytes) -> str:
    """The value of Witnz-Signature.  The time is signed, too, so that a receiver can refuse what is old."""
    digest = hmac.new(secret, b"%d." % time_s + body, "sha256").hexdigest()
    return f"t={time_s},v1={digest}"


def slack_payload(message: Message) -> dict[str, Any]:
    """Blocks, and the text for notifications, in which Slack's three special characters are escaped."""

    def plain(text: str) -> dict[str, Any]:
        return {"type": "plain_text", "text": text, "emoji": False}

    fields = [plain(f"{name}: {value}") for name, value in message.facts]
    sections = [fields[start : start + _SLACK_FIELDS] for start in range(0, len(fields), _SLACK_FIELDS)]
    escaped = message.title.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return {
        "text": f"[{message.severity}] {escaped}",
        "mrkdwn": False,
        "unfurl_links": False,
        "blocks": [
            {"type": "section", "text": plain(f"[{message.severity}] {message.title}")},
            *({"type": "section", "fields": section} for section in sections),
        ],
    }


def pagerduty_payload(message: Message, routing_key: str) -> dict[str, Any]:
    """An event: trigger with all details, acknowledge, or resolve, told apart by the finding's id."""
    event: dict[str, Any] = {
        "routing_key": routing_key,
        "event_action": _PAGERDUTY_ACTION.get(message.state, "trigger"),
        "dedup_key": message.subject,
    }
    if event["event_action"] != "trigger":
        return event
    document = message.document
    details = document.get("finding") or document.get("summary") or {}
    event["client"] = "witnz"
    event["payload"] = {
        "summary": message.title[:1024],
        "source": f"{document['cluster']}/{document['node']}",
        "severity": _PAGERDUTY_SEVERITY.get(message.severity, "error"),
        "timestamp": details.get("detected_at") or details.get("last_detected_at"),
        "component": details.get("table"),
        "group": document["cluster"],
        "class": details.get("class"),
        "custom_details": details,
    }
    return event


def sinks_from(config: Config) -> list[Sink]:
    """The sinks that ``config`` asks for; the log is always among them.

    Raises :class:`ConfigError` where a secret cannot be read, so that it is noticed at the start and not when it is needed.
    """
    alerts = config.alerts
    sinks: list[Sink] = [LogSink()]
    if not alerts.enabled:
        return sinks
    limits: dict[str, Any] = {"max_per_minute": alerts.max_per_minute, "timeout_s": alerts.timeout_s}
    if alerts.slack_webhook is not None:
        sinks.append(SlackSink(alerts.slack_webhook, **limits))
    if alerts.pagerduty_key is not None:
        sinks.append(PagerDutySink(alerts.pagerduty_key, alerts.pagerduty_url, **limits))
    sinks += [WebhookSink(name, hook.url, hook.secret, **limits) for name, hook in alerts.named_webhooks().items()]
    hooks = [secret for hook in alerts.webhooks for secret in (hook.url, hook.secret)]
    for secret in (alerts.slack_webhook, alerts.pagerduty_key, *hooks):
        if secret is not None and secret.problem:
            raise ConfigError(secret.problem, hint="the alerts' secrets must be readable by the user that runs the node")
    return sinks


def _json(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()
