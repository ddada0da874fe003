"""Errors on their way through HTTP."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from witnz import errors
from witnz.errors import FormatError, Inconclusive, KeyProblem, NoQuorum, ProofError, UsageError, WitnzError
from witnz.web.problems import error_from_problem, forbidden, not_found, parse_problem, problem_document, problem_status


def classes(kind: type[WitnzError] = WitnzError) -> Iterator[type[WitnzError]]:
    if kind.__module__ == errors.__name__:
        yield kind
    for narrower in kind.__subclasses__():
        yield from classes(narrower)


@pytest.mark.parametrize("kind", list(classes()), ids=lambda kind: kind.__name__)
def test_every_error_arrives_as_itself(kind: type[WitnzError]) -> None:
    error = kind("what happened", hint="what to do")
    arrived = parse_problem(json.dumps(problem_document(error)).encode())
    assert type(arrived) is kind
    assert (arrived.message, arrived.hint, arrived.code, arrived.exit_code) == (
        "what happened",
        "what to do",
        kind.code,
        kind.exit_code,
    )


@given(st.sampled_from(list(classes())), st.text(st.characters(blacklist_categories=["Cs"]), max_size=30))
def test_a_code_of_its_own_keeps_the_exit_code(kind: type[WitnzError], code: str) -> None:
    error = kind("x", code=code)
    arrived = error_from_problem(problem_document(error))
    assert (arrived.code, arrived.exit_code, arrived.message) == (code, kind.exit_code, "x")


def test_the_exit_code_of_a_newer_version_is_kept() -> None:
    document = problem_document(WitnzError("x", code="from.the-future")) | {"exit_code": 77}
    arrived = error_from_problem(document)
    assert (arrived.code, arrived.exit_code) == ("from.the-future", 77)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (UsageError("x"), 400),
        (FormatError("x"), 400),
        (not_found("x"), 404),
        (forbidden("x"), 403),
        (KeyProblem("x"), 403),
        (ProofError("x"), 409),
        (errors.StoreLocked("x"), 409),
        (UsageError("x", code="too-large"), 413),
        (Inconclusive("x"), 503),
        (NoQuorum("x"), 503),
        (errors.DatabaseUnreachable("x"), 503),
        (errors.StoreFull("x"), 507),
        (errors.StoreCorrupt("x"), 500),
        (WitnzError("x"), 500),
    ],
)
def test_each_error_has_its_status(error: WitnzError, status: int) -> None:
    document = problem_document(error)
    assert problem_status(error) == status == document["status"]
    assert set(document) == {"type", "title", "status", "detail", "code", "hint", "exit_code"}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b'"x"',
        b"{}",
        b'{"detail":"x","code":"y","hint":"z"}',
        b'{"detail":"x","code":"y","hint":"z","exit_code":"3"}',
        b'{"detail":"x","code":"y","hint":"z","exit_code":true}',
        b'{"detail":1,"code":"y","hint":"z","exit_code":3}',
        b'{"detail":"x","code":"y","hint":"z","exit_code":3,"exit_code":0}',
        b"[" * 100_000,
        b'{"detail":"' + b"x" * 70_000 + b'","code":"y","hint":"z","exit_code":3}',
    ],
)
def test_what_is_no_problem_document_is_refused(data: bytes) -> None:
    with pytest.raises(FormatError):
        parse_problem(data)
