"""The values of witnz.yaml: secrets, durations, sizes, addresses, names, and how each is read from the file's text.

Every scalar of the file is text until its key says what it is, so ``password: 0123`` and ``name: yes`` mean what they say, and
``port: ${PGPORT}`` works.  A :class:`Kind` is the reader of one sort of value: a strict parser together with the sentence that
says what it takes, which is what a refused value is answered with and what ``witnz config explain`` prints.

    duration   1ms 30s 5m 24h 400d 1h30m        to seconds
    size       4096 16MB 10GB                   to bytes; units are powers of 1024 as in postgresql.conf
    address    host:port, [v6]:port
    table      table, schema.table, "quoted.name", or the percent-encoded name of formats.md
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from pydantic import GetCoreSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from witnz.core.keys import COSIGNATURE, KEY_BYTES, parse_base64, parse_verifier_key
from witnz.core.names import check_cluster_name, check_node_id, format_table_name, parse_table_name
from witnz.errors import ConfigError, FormatError

MASK: Final = "********"
UNIX_PATH_MAX_BYTES: Final = 107  # sizeof(sockaddr_un.sun_path) - 1 on Linux

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"(?:[0-9]{1,9}(?:\.[0-9]{1,6})?(?:ms|[smhdw]))+")
_DURATION_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)(ms|[smhdw])")
_UNIT_BYTES = {"": 1, "B": 1, "kB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30, "TB": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,18}) ?(B|[kK]i?B|[MGT]i?B|)")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_ADDRESS = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45}(?:%[A-Za-z0-9._-]+)?)\]|([A-Za-z0-9._-]{1,253})):([0-9]{1,5})")
_PG_NAME = re.compile(r"[a-z0-9_]{1,63}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_WORD = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_PART = r'(?:"(?:[^"]|"")+"|[^".]+)'
_REFERENCE = re.compile(f"(?:({_PART})\\.)?({_PART})")
_TRUE, _FALSE = frozenset({"true", "yes", "on"}), frozenset({"false", "no", "off"})
_USERINFO = re.compile(r"//[^/@\s]*@")


class Secret:
    """A password, key or capability URL.  Only :meth:`reveal` gives it; no repr, str, comparison message, copy or dump does.

    ``source`` says where it came from (``alerts.slack_webhook_file /run/…``).  One whose file may not be read by this user is
    still a Secret: whoever needs it gets the :class:`ConfigError` when asking, everybody else can use the rest of the config.
    """

    __slots__ = ("_problem", "_value", "source")

    def __init__(self, value: str, *, source: str = "", problem: str = "") -> None:
        self._value = value
        self._problem = problem
        self.source = source

    def reveal(self) -> str:
        """The secret itself.  Raises :class:`ConfigError` where its file could not be read."""
        if self._problem:
            raise ConfigError(self._problem, hint="give this user read access to the file, or run as the user who has it")
        return self._value

    @property
    def problem(self) -> str:
        """Why it cannot be revealed; empty where it can."""
        return self._problem

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and (self._value, self._problem) == (other._value, other._problem)

    def __hash__(self) -> int:
        return hash((self._value, self._problem))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret cannot be serialised")


@dataclass(frozen=True, slots=True)
class Kind:
    """How one sort of value is read.  ``allowed`` completes the sentence "must be …"; ``parse`` raises :class:`FormatError`.

    Stands in the metadata of an ``Annotated`` field type, where pydantic takes it as the field's whole validation.
    """

    name: str
    allowed: str
    parse: Callable[[Any], Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self._validate)

    def _validate(self, value: object) -> Any:
        try:
            return self.parse(value)
        except FormatError as error:
            # A reason that only repeats "not this" is left to `allowed`; a more exact one is worth its words.
            raise PydanticCustomError("value", "{reason}", {"reason": error.message or f"must be {self.allowed}"}) from None


def redact_url(text: str) -> str:
    """``text`` with the user and password part of any URL in it masked."""
    return _USERINFO.sub(f"//{MASK}@", text)


def parse_duration(text: str) -> float:
    """Seconds of ``1h30m``, ``250ms``, ``0s``.  A number without a unit is refused: seconds and minutes are easily confused."""
    if _DURATION.fullmatch(text) is None:
        raise FormatError("must be a duration such as 30s, 5m, 24h or 400d")
    return float(sum(float(number) * _UNIT_S[unit] for number, unit in _DURATION_PART.findall(text)))


def format_duration(seconds: float) -> str:
    """The shortest text for ``seconds`` with one unit, as :func:`parse_duration` reads it."""
    for unit in ("d", "h", "m", "s"):
        if seconds and seconds % _UNIT_S[unit] == 0:
            return f"{int(seconds // _UNIT_S[unit])}{unit}"
    return f"{round(seconds * 1000)}ms" if seconds else "0s"


def parse_size(text: str) -> int:
    """Bytes of ``10GB``, ``16 MB``, ``4096``; kB, MB, GB and TB are powers of 1024, as PostgreSQL reads them."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise FormatError("must be a number of bytes such as 4096, 64MB or 10GB")
    unit = match[2].replace("i", "").replace("K", "k")
    return int(match[1]) * _UNIT_BYTES[unit]


def format_size(size_bytes: int) -> str:
    """The shortest text for ``size_bytes``, as :func:`parse_size` reads it."""
    for unit in ("TB", "GB", "MB", "kB"):
        if size_bytes and size_bytes % _UNIT_BYTES[unit] == 0:
            return f"{size_bytes // _UNIT_BYTES[unit]}{unit}"
    return str(size_bytes)


def parse_address(text: str) -> tuple[str, int]:
    """``(host, port)`` of ``host:port`` or ``[v6]:port``; port 1 to 65535."""
    match = _ADDRESS.fullmatch(text)
    if match is None or not 1 <= int(match[3]) <= 65535:
        raise FormatError("must be host:port, or [address]:port for IPv6")
    return match[1] or match[2], int(match[3])


def parse_table_reference(text: str) -> tuple[str | None, str]:
    """``(schema or None, table)``, raw identifiers, of what a person writes for a table.

    ``table``, ``schema.table``; a part that holds a dot or a quote stands in double quotes, a quote in it doubled; case is kept
    as written.  A percent-encoded name of formats.md is read as such.  Raises :class:`FormatError`.
    """
    if "%" in text:
        try:
            return parse_table_name(text)
        except FormatError:
            pass  # a percent sign of the table's own name
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise FormatError('must be table or schema.table, a part with dots in double quotes: sales."odd.name"')
    schema, table = (None if part is None else _unquote(part) for part in match.groups())
    format_table_name(schema or "public", table or "")  # refuses what no log can be named after
    return schema, str(table)


def _unquote(part: str) -> str:
    return part[1:-1].replace('""', '"') if part.startswith('"') else part


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise FormatError("")
    return value


def text_kind(name: str, allowed: str, check: Callable[[str], Any], *, explain: bool = False) -> Kind:
    """A kind read from one text by ``check``; with ``explain`` its own reason is shown, otherwise ``allowed``."""

    def parse(value: object) -> Any:
        try:
            return check(_text(value))
        except FormatError as error:
            raise FormatError(error.message if explain and error.message else f"must be {allowed}") from None

    return Kind(name, allowed, parse)


def one_of(*words: str) -> Kind:
    """One word of a closed set."""
    allowed = f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]

    def check(text: str) -> str:
        if text not in words:
            close = difflib.get_close_matches(text.lower(), words, n=1)
            raise FormatError(f"must be {allowed}" + (f"; did you mean {close[0]}?" if close else ""))
        return text

    return text_kind("|".join(words), allowed, check, explain=True)


def duration(minimum_s: float, maximum_s: float, *, or_zero: str = "") -> Kind:
    """A duration within bounds; where ``or_zero`` says what that means, 0s and the empty text give 0."""
    allowed = f"a duration from {format_duration(minimum_s)} to {format_duration(maximum_s)}, such as 30s, 5m, 24h or 400d"
    allowed += f", or 0s: {or_zero}" if or_zero else ""

    def check(text: str) -> float:
        seconds = 0.0 if or_zero and text == "" else parse_duration(text)
        if not (minimum_s <= seconds <= maximum_s or (or_zero and seconds == 0)):
            raise FormatError("")
        return seconds

    return text_kind("duration", allowed, check)


def number(minimum: int, maximum: int) -> Kind:
    """A whole number within bounds."""

    def check(text: str) -> int:
        if _NUMBER.fullmatch(text) is None or not minimum <= int(text) <= maximum:
            raise FormatError("")
        return int(text)

    return text_kind("number", f"a whole number from {minimum} to {maximum}", check)


def size(minimum_bytes: int, maximum_bytes: int) -> Kind:
    """A size within bounds."""
    allowed = f"a size from {format_size(minimum_bytes)} to {format_size(maximum_bytes)}, such as 64MB or 10GB"

    def check(text: str) -> int:
        if not minimum_bytes <= (found := parse_size(text)) <= maximum_bytes:
            raise FormatError("")
        return found

    return text_kind("size", allowed, check)


def list_of(item: Kind, *, or_one: bool = False) -> Kind:
    """A list of texts; with ``or_one`` also a single one."""

    def parse(value: object) -> tuple[Any, ...]:
        values = [value] if or_one and isinstance(value, str) else value
        if not isinstance(values, list):
            raise FormatError(f"must be a list, each {item.allowed}")
        return tuple(item.parse(each) for each in values)

    allowed = f"a list, each {item.allowed}"
    return Kind(f"list of {item.name}", f"{item.allowed}, or {allowed}" if or_one else allowed, parse)


def _flag(text: str) -> bool:
    if (lower := text.lower()) in _TRUE | _FALSE:
        return lower in _TRUE
    raise FormatError("")


def _matching(pattern: re.Pattern[str]) -> Callable[[str], str]:
    def check(text: str) -> str:
        if pattern.fullmatch(text) is None:
            raise FormatError("")
        return text

    return check


def _plain(text: str) -> str:
    if not text or len(text) > 4096 or any(ord(char) < 32 or 0xD800 <= ord(char) <= 0xDFFF for char in text):
        raise FormatError("")
    return text


def _path(text: str) -> Path:
    return Path(_plain(text))


def _address_text(text: str) -> str:
    parse_address(text)
    return text


def check_http_url(text: str) -> str:
    """``text`` itself where it is an http or https URL with a host.  The :class:`FormatError` raised never shows it."""
    try:
        parts = urlsplit(_plain(text))
        valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and " " not in text and parts.port != 0
    except ValueError:
        valid = False
    if not valid:
        raise FormatError("must be an http:// or https:// URL")
    return text


def _identity(text: str) -> str:
    if len(parse_base64(text, what="key")) != KEY_BYTES:
        raise FormatError("")
    return text


def _cosigner(text: str) -> str:
    if parse_verifier_key(text).type != COSIGNATURE:
        raise FormatError("")
    return text


def _peers(value: object) -> tuple[tuple[str | None, str], ...]:
    pairs: list[tuple[Any, Any]]
    if isinstance(value, dict):
        pairs = list(value.items())
    elif isinstance(value, list):
        pairs = [(None, address) for address in value]
    else:
        raise FormatError("")
    for node, address in pairs:
        if node is not None:
            check_node_id(_text(node))
        parse_address(_text(address))
    return tuple(pairs)


def _secret(value: object) -> Secret:
    return value if isinstance(value, Secret) else Secret(_text(value))


def _secret_url(value: object) -> Secret:
    secret = _secret(value)
    if not secret.problem:
        check_http_url(secret.reveal())
    return secret


FLAG = text_kind("flag", "true or false", _flag)
TEXT = text_kind("text", "text on one line, not empty", _plain)
PATH = text_kind("path", "a path; a relative one counts from the config file's folder", _path)
ADDRESS = text_kind("address", "host:port, or [address]:port for IPv6", _address_text)
HTTP_URL = text_kind("url", "an http:// or https:// URL", check_http_url)
PG_NAME = text_kind("name", "1 to 63 of a-z 0-9 _", _matching(_PG_NAME))
WORD = text_kind("word", "up to 64 of a-z 0-9 . _ -, starting with a letter or digit", _matching(_WORD))
CLUSTER = text_kind("cluster name", "parts of a-z 0-9 . _ - joined by /", check_cluster_name)
NODE_ID = text_kind("node id", "1 to 32 of a-z 0-9 -", check_node_id)
IDENTITY = text_kind("public key", "the base64 of 32 bytes, as `witnz keys show` prints it", _identity)
COSIGNER = text_kind("verifier key", "a verifier key of a cosigner, as `witnz keys show` prints it", _cosigner)
DIGEST = text_kind("digest", "64 hex digits", _matching(_DIGEST))
TABLE = text_kind("table", "table or schema.table", parse_table_reference, explain=True)
PEERS = Kind("addresses", "a list of host:port, or a map from node id to host:port", _peers)
SECRET = Kind("secret", "text", _secret)
SECRET_URL = Kind("secret url", "an http:// or https:// URL", _secret_url)
