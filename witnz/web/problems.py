"""Errors as documents: application/problem+json (RFC 9457) with the code, hint and exit code of the error.

    {"type": "about:blank", "title": …, "status": 404, "detail": …, "code": "not-found", "hint": …, "exit_code": 2}

The node turns an error of :mod:`witnz.errors` into such a document, the client turns the document into the same error again, so
that a command says the same whether it worked by itself or through a node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any, Final

from witnz.core.canonical import parse_json
from witnz.errors import (
    ConfigError,
    DatabaseError,
    FormatError,
    Inconclusive,
    KeyProblem,
    NodeUnreachable,
    NoQuorum,
    NotInitialised,
    ProofError,
    StoreFull,
    StoreLocked,
    UsageError,
    WitnzError,
)

PROBLEM_TYPE: Final = "application/problem+json"
MAX_PROBLEM_BYTES: Final = 64 * 1024

NOT_FOUND, PERMISSION, TOO_LARGE, METHOD, CONFLICT, CANCELLED = (
    "not-found",
    "permission",
    "too-large",
    "method",
    "conflict",
    "cancelled",
)

_BY_CODE: Mapping[str, int] = {
    NOT_FOUND: HTTPStatus.NOT_FOUND,
    PERMISSION: HTTPStatus.FORBIDDEN,
    TOO_LARGE: 413,
    METHOD: HTTPStatus.METHOD_NOT_ALLOWED,
    CONFLICT: HTTPStatus.CONFLICT,
    CANCELLED: HTTPStatus.SERVICE_UNAVAILABLE,
}
_BY_CLASS: tuple[tuple[type[WitnzError], int], ...] = (
    (UsageError, HTTPStatus.BAD_REQUEST),
    (ConfigError, HTTPStatus.BAD_REQUEST),
    (FormatError, HTTPStatus.BAD_REQUEST),
    (ProofError, HTTPStatus.CONFLICT),
    (KeyProblem, HTTPStatus.FORBIDDEN),
    (StoreLocked, HTTPStatus.CONFLICT),
    (StoreFull, HTTPStatus.INSUFFICIENT_STORAGE),
    (NotInitialised, HTTPStatus.SERVICE_UNAVAILABLE),
    (NoQuorum, HTTPStatus.SERVICE_UNAVAILABLE),
    (DatabaseError, HTTPStatus.SERVICE_UNAVAILABLE),
    (Inconclusive, HTTPStatus.SERVICE_UNAVAILABLE),
)


def not_found(message: str, hint: str = "") -> WitnzError:
    """What was named does not exist (404)."""
    return UsageError(message, hint=hint, code=NOT_FOUND)


def forbidden(message: str, hint: str = "") -> WitnzError:
    """Who asks may not (403)."""
    return KeyProblem(message, hint=hint, code=PERMISSION)


def problem_status(error: WitnzError) -> int:
    """The HTTP status of an error."""
    if error.code in _BY_CODE:
        return _BY_CODE[error.code]
    found = next((status for kind, status in _BY_CLASS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR)
    return int(found)


def problem_document(error: WitnzError) -> dict[str, Any]:
    """The members of the problem that an error is."""
    status = problem_status(error)
    return {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": error.message,
        "code": error.code,
        "hint": error.hint,
        "exit_code": error.exit_code,
    }


def error_from_problem(document: Any) -> WitnzError:
    """The error that :func:`problem_document` described: same code, exit code, message and hint.

    The class is the one with that code; for a code that this version does not know, the one with that exit code.  Raises
    :class:`FormatError` for what is no such document.
    """
    if not isinstance(document, dict):
        raise FormatError("problem: expected an object")
    texts = {name: document.get(name) for name in ("detail", "code", "hint")}
    exit_code = document.get("exit_code")
    if not all(isinstance(text, str) for text in texts.values()) or type(exit_code) is not int:
        raise FormatError("problem: expected detail, code and hint as text and exit_code as a number")
    kind = _class_of(str(texts["code"]), exit_code)
    error = kind(str(texts["detail"]), hint=str(texts["hint"]), code=str(texts["code"]))
    if error.exit_code != exit_code:
        error.exit_code = exit_code
    return error


def parse_problem(data: bytes) -> WitnzError:
    """The error in the body of a problem response.  Raises :class:`FormatError` for any other bytes."""
    return error_from_problem(parse_json(data, what="problem", max_bytes=MAX_PROBLEM_BYTES))


def _class_of(code: str, exit_code: int) -> type[WitnzError]:
    kinds = list(_classes(WitnzError))
    exact = [kind for kind in kinds if kind.code == code and kind.exit_code == exit_code]
    alike = [kind for kind in kinds if kind.exit_code == exit_code]
    if code in (NOT_FOUND, METHOD, TOO_LARGE):
        return UsageError
    return (exact or alike or [WitnzError])[0]


def _classes(kind: type[WitnzError]) -> Iterator[type[WitnzError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _classes(narrower)


def unreachable(message: str, hint: str = "") -> NodeUnreachable:
    """No node answers."""
    return NodeUnreachable(message, hint=hint or "start the node with `witnz start`, or name its socket (socket_path)")
