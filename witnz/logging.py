"""The log: events on stderr, past tense, constant text and fields, and never a secret or the contents of a row.

    log = get_logger(__name__)
    log.info("seal signed", size=41, lsn="0/1949850")

structlog makes the events and the standard library's logging carries them, so that uvicorn's and every other library's records
leave through the same handler, in the same format, past the same redaction.  stdout is never written to: it is for answers.

Redaction has three nets, in this order: fields whose name says that they hold a secret or a row are masked; bytes are shown as
their length (digests are logged as hex); and any text, tracebacks included, loses URL passwords, ``password=…`` and every
secret that the configuration holds.  The nets are for accidents; code is expected not to log such things.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any, Final, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from witnz.config.types import MASK, Secret, redact_url

LEVELS: Final = ("debug", "info", "warning", "error")
Level = Literal["debug", "info", "warning", "error"]

_MIN_SECRET = 6  # a shorter text would mask parts of innocent words
_MAX_DEPTH = 6
_HIDDEN = re.compile(
    r"(?:.*_)?(?:password|passwd|passfile|dsn|conninfo|secret|secrets|token|authorization|credential|credentials|seed|nonce_key"
    r"|private_key|signing_key|routing_key|key_material|webhook|webhook_url|repair_url|row|row_line|row_image|image|line|lines"
    r"|old_row|new_row|values|content|plaintext)"
)
_ASSIGNED = re.compile(
    r"(?i)\b(password|passwd|secret|token|routing_key)(\s*[=:]\s*)(?:'(?:[^'\\]|\\.)*'|\"[^\"]*\"|[^\s,;)'\"]+)"
)
_NAMES_OF_LOGGING = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Redaction:
    """A structlog processor that masks fields by name, bytes, and known or recognisable secrets in any text."""

    def __init__(self, secrets: Iterable[Secret] = ()) -> None:
        known = {secret.reveal() for secret in secrets if not secret.problem}
        longest_first = sorted((text for text in known if len(text) >= _MIN_SECRET), key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
        return {
            key: value if key.startswith("_") or key == "exc_info" else self._field(key, value) for key, value in event.items()
        }

    def text(self, text: str) -> str:
        """``text`` without what is recognisably secret."""
        if self._known is not None:
            text = self._known.sub(MASK, text)
        return _ASSIGNED.sub(rf"\1\2{MASK}", redact_url(text))

    def _field(self, key: str, value: Any, depth: int = 0) -> Any:
        if _HIDDEN.fullmatch(key.lower()) and value is not None:
            return MASK
        return self._value(value, depth)

    def _value(self, value: Any, depth: int) -> Any:
        if value is None or isinstance(value, bool | int | float):
            return value
        if isinstance(value, bytes | bytearray | memoryview):
            return f"<{len(value)} bytes>"
        if isinstance(value, str):
            return self.text(value)
        if depth >= _MAX_DEPTH:
            return "…"
        if isinstance(value, Mapping):
            return {str(key): self._field(str(key), item, depth + 1) for key, item in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [self._value(item, depth + 1) for item in value]
        return self.text(str(value))


def configure_logging(
    level: Level = "info",
    fmt: Literal["console", "json"] = "console",
    color: bool = False,
    *,
    secrets: Iterable[Secret] = (),
    stream: TextIO | None = None,
) -> None:
    """Send the log to ``stream`` (default: stderr as it is now) and redact ``secrets`` wherever they turn up.

    witnz's own events are shown from ``level`` on, those of libraries from warning on (from ``level`` where that is higher),
    the HTTP server's from ``level`` on, but its line per request only with debug.  The last call holds.
    """
    redaction = Redaction(secrets)
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_common(),
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(fmt, color, redaction),
            ],
        )
    )
    own = _NAMES_OF_LOGGING[level]
    root = logging.getLogger()
    for old in [old for old in root.handlers if getattr(old, "_witnz", False)]:
        root.removeHandler(old)
    handler._witnz = True  # type: ignore[attr-defined]  # ours, to be replaced by the next call
    root.addHandler(handler)
    root.setLevel(max(own, logging.WARNING))
    logging.getLogger("witnz").setLevel(own)
    for name, minimum in (
        ("uvicorn", own),
        ("uvicorn.error", own),
        ("uvicorn.access", own if own < logging.INFO else logging.WARNING),
    ):
        server = logging.getLogger(name)
        server.handlers.clear()
        server.propagate = True
        server.setLevel(minimum)
    _configure_structlog(structlog.stdlib.ProcessorFormatter.wrap_for_formatter)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module, ``get_logger(__name__)``."""
    return structlog.stdlib.get_logger(name)


class Seldom:
    """Lines that others can provoke: at most so many in any minute, so that nobody fills the disk; the others are counted.

    Thread-safe.  ``clock``: seconds.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._lock = threading.Lock()
        self._written: deque[float] = deque()
        self._left_out = 0

    def next(self) -> int | None:
        """How many lines were left out before this one; None if this one is to be left out, too."""
        with self._lock:
            if self._take():
                left_out, self._left_out = self._left_out, 0
                return left_out
            self._left_out += 1
            return None

    def rest(self) -> int:
        """How many were left out and not told of yet, for a line of its own, once there may be one; else 0."""
        with self._lock:
            if not self._left_out or not self._take():
                return 0
            left_out, self._left_out = self._left_out, 0
            return left_out

    def _take(self) -> bool:
        now = self._clock()
        while self._written and self._written[0] <= now - 60:
            self._written.popleft()
        if len(self._written) >= self._per_minute:
            return False
        self._written.append(now)
        return True


def _common() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def _renderers(fmt: str, color: bool, redaction: Redaction) -> list[Processor]:
    # Tracebacks become text before the redaction, so that it sees them; never with local variables, which hold anything.
    late: list[Processor] = [structlog.processors.format_exc_info, redaction]
    if fmt == "json":
        return [*late, _order, structlog.processors.JSONRenderer(ensure_ascii=False)]
    return [*late, _drop_empty, structlog.dev.ConsoleRenderer(colors=color, exception_formatter=structlog.dev.plain_traceback)]


def _order(logger: WrappedLogger, name: str, event: EventDict) -> EventDict:
    """When, how bad and what come first in a line of JSON."""
    first = {key: event[key] for key in ("timestamp", "level", "logger", "event") if key in event}
    return {**first, **event}


def _drop_empty(logger: WrappedLogger, name: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A person reads better without the fields that say nothing."""
    return {key: value for key, value in event.items() if value is not None or key == "event"}


def _configure_structlog(*last: Processor) -> None:
    processors: list[Processor] = [
        structlog.stdlib.filter_by_level,
        *_common(),
        *last,
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


# structlog's own default prints to stdout; a command that logs before it configures must not spoil its answer.
if not structlog.is_configured():
    _configure_structlog(
        structlog.processors.format_exc_info, Redaction(), structlog.processors.KeyValueRenderer(key_order=["event"])
    )

__all__ = ["LEVELS", "Level", "Redaction", "configure_logging", "get_logger"]
