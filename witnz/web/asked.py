"""What was asked: a request after everything about it was checked that does not depend on what it asks for.

Checked are the role of the peer, that the query holds only known names, each once, and that a body is strict JSON of at most
1 MiB.  What a handler takes from it is text or a number within bounds; everything else is refused with 400.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.requests import ClientDisconnect, Request

from witnz.core.canonical import MAX_INTEGER, parse_json
from witnz.core.names import format_table_name, parse_table_name
from witnz.errors import FormatError, UsageError
from witnz.web.peer import UNKNOWN, Doorman, Peer, Role
from witnz.web.problems import TOO_LARGE, forbidden

MAX_BODY_BYTES: Final = 1024 * 1024
MAX_REASON_BYTES: Final = 4096
JSON_TYPE: Final = "application/json"

_NUMBER = re.compile(r"0|[1-9][0-9]{0,15}")
_FLAGS: Mapping[str, bool] = {"1": True, "true": True, "0": False, "false": False}


@dataclass(frozen=True, slots=True)
class Asked:
    """One request.  ``path`` and ``query`` hold decoded texts; ``body`` the members of the JSON object in it."""

    peer: Peer
    role: Role | None
    path: Mapping[str, str]
    query: Mapping[str, str]
    body: Mapping[str, Any]

    def table(self, name: str = "table") -> str:
        """The table that the path or the query names: ``schema.table`` as in formats.md, or ``table`` for ``public``."""
        return table_name(self.path.get(name) or self.text(name) or "")

    def text(self, name: str) -> str | None:
        return self.query.get(name)

    def needed(self, name: str) -> str:
        text = self.query.get(name)
        if not text:
            raise UsageError(f"{name}: expected in the query", hint=f"add ?{name}=…")
        return text

    def number(self, name: str) -> int | None:
        """A whole number from 0 to 2^53 - 1 in the query; None if it is not there."""
        text = self.query.get(name)
        if text is None:
            return None
        if _NUMBER.fullmatch(text) is None or int(text) > MAX_INTEGER:
            raise UsageError(f"{name}: expected a whole number, found {text[:40]!r}")
        return int(text)

    def flag(self, name: str) -> bool:
        text = self.query.get(name, "0")
        if text not in _FLAGS:
            raise UsageError(f"{name}: expected 1 or 0, found {text[:40]!r}")
        return _FLAGS[text]

    def operator_only(self, what: str) -> None:
        """Raise KeyProblem (403) unless an operator asks."""
        if self.role is not Role.OPERATOR:
            raise forbidden(f"{what} is for the operator of the node", "run it as the user that the node runs as")


async def ask(request: Request, doorman: Doorman, needs: Role | None, query: frozenset[str]) -> Asked:
    """The request, once its peer may make it.  ``needs``: the least role, None where anybody who got in may ask.

    Raises KeyProblem (403), UsageError or FormatError (400), and UsageError with the code ``too-large`` (413).
    """
    peer: Peer = getattr(request.state, "peer", UNKNOWN)
    role = doorman.role(peer)
    _check_role(peer, role, needs)
    asked = _query(request, query)
    body = await read_body(request) if request.method == "POST" else {}
    return Asked(peer, role, request.path_params, asked, body)


def _check_role(peer: Peer, role: Role | None, needs: Role | None) -> None:
    if needs is None or role is Role.OPERATOR or (role is needs):
        return
    if role is None:
        raise forbidden(
            f"{peer.name if peer.known else 'the client'} has no role on this node",
            "run the command as the user that the node runs as, or become a member of socket_group",
        )
    raise forbidden(f"{peer.name} is {role.value}, and this needs {needs.value}", "run it as the user that the node runs as")


def _query(request: Request, names: frozenset[str]) -> dict[str, str]:
    pairs = request.query_params.multi_items()
    unknown = [name for name, _ in pairs if name not in names]
    if unknown:
        raise UsageError(
            f"query: unknown name {unknown[0][:40]!r}",
            hint=f"here go {', '.join(sorted(names))}" if names else "none goes here",
        )
    if len({name for name, _ in pairs}) != len(pairs):
        raise UsageError("query: expected each name once")
    return dict(pairs)


async def read_body(request: Request) -> Mapping[str, Any]:
    """The JSON object in the body; an empty body is an empty object."""
    declared = request.headers.get("content-length", "0")
    if _NUMBER.fullmatch(declared) is not None and int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > MAX_BODY_BYTES:
                raise _too_large()
    except ClientDisconnect:
        raise UsageError("body: the client went away before it was complete") from None
    if not data:
        return {}
    body = parse_json(bytes(data), what="body", max_bytes=MAX_BODY_BYTES)
    if not isinstance(body, dict):
        raise FormatError("body: expected a JSON object")
    return body


def check_members(body: Mapping[str, Any], required: frozenset[str], optional: frozenset[str] = frozenset()) -> None:
    """Refuse a body without a required member or with one that does not belong there."""
    missing, unknown = required - body.keys(), body.keys() - required - optional
    if unknown:
        allowed = ", ".join(sorted(required | optional)) or "none"
        raise FormatError(f"body: unknown member {min(unknown)[:40]!r}", hint=f"here go {allowed}")
    if missing:
        raise FormatError(f"body: expected the member {min(missing)!r}")


def reason_of(text: Any) -> str:
    """A reason that people give: text of 1 to 4,096 bytes."""
    if not isinstance(text, str) or not text.strip() or len(text.encode("utf-8", "replace")) > MAX_REASON_BYTES:
        raise UsageError(f"reason: expected text of at most {MAX_REASON_BYTES} bytes", hint="say why in a sentence (--reason)")
    return text


def table_name(text: str) -> str:
    """``text`` as a table's name; without a dot it is one of the schema ``public``.  Raises FormatError otherwise."""
    name = text if "." in text else format_table_name("public", text)
    parse_table_name(name)
    return name


def _too_large() -> UsageError:
    return UsageError(f"body: expected at most {MAX_BODY_BYTES} bytes", code=TOO_LARGE)
