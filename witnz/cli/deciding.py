"""Decisions: what an operator's key signs here goes to the running node, or is journalled in the store of a stopped one.

The key never leaves this process; what travels is the signed body.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from witnz.cli.access import documents, idle_node, running_client
from witnz.cli.output import Output, is_terminal
from witnz.errors import UsageError

if TYPE_CHECKING:
    from witnz.config import Config
    from witnz.core.keys import Signer

OperatorKey = Annotated[Path, typer.Option("--operator-key", metavar="FILE", help="The key file of an operator.")]
OptionalKey = Annotated[
    Path | None, typer.Option("--operator-key", metavar="FILE", help="The key file of an operator; not needed for a dry run.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask on a terminal.")]


@dataclass(frozen=True, slots=True)
class Operator:
    """Who signs.  ``name``: as the journal knows the key."""

    name: str
    signer: Signer

    @classmethod
    def load(cls, path: Path) -> Operator:
        """Read an operator's key file.  Raises KeyProblem."""
        from witnz.node.keyring import load_person_key

        return cls(*load_person_key(path, "operator"))

    def sign(self, record_type: str, body: Mapping[str, Any], cluster_id: str) -> dict[str, Any]:
        """The body with nonce and signature (formats.md 4, auth)."""
        from witnz.node.journal import authorise

        return authorise(record_type, body, cluster_id, self.name, self.signer)


def needed_operator(path: Path | None) -> Operator:
    """Who signs, where a command could have been asked for less than that.  Raises UsageError, KeyProblem."""
    if path is None:
        raise UsageError("an order needs an operator's signature", hint="give the key file with --operator-key FILE")
    return Operator.load(path)


def cluster_id(config: Config) -> str:
    """The id of the journal, which every signature is bound to."""
    with documents(config) as source:
        return str(source.status()["cluster"]["id"])


def decide(config: Config, record_type: str, body: Mapping[str, Any]) -> int:
    """Journal a signed ``key`` record; its seq.  Raises ProofError if the journal refuses it."""
    with running_client(config) as client:
        if client is not None:
            return client.decide(record_type, dict(body))
    with idle_node(config) as node:
        return node.decide(record_type, dict(body))


def check_reason(reason: str) -> str:
    """A reason that says something.  Raises UsageError."""
    if not reason.strip():
        raise UsageError("the reason is empty", hint="say why with --reason TEXT; it is journalled with the decision")
    return reason


def confirm(output: Output, question: str, *, yes: bool) -> None:
    """Ask on a terminal; where nobody can answer, the command itself was the answer.  Raises UsageError for a no."""
    if yes or output.as_json or not is_terminal(sys.stdin):
        return
    if not typer.confirm(question, err=True):
        raise UsageError("nothing was signed", code="declined")
