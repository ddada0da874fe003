"""``witnz findings``: what was found, and how a person closes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from witnz.cli.access import documents, idle_node, own_node, running_client, table_name
from witnz.cli.command import LOOK, Reason, add_command, add_group
from witnz.cli.deciding import Operator, OperatorKey, Yes, check_reason, confirm
from witnz.cli.findings_text import finding_lines, finding_rows
from witnz.cli.invocation import Invocation, invocation
from witnz.cli.text import count, printable

if TYPE_CHECKING:
    from witnz.config import Config
    from witnz.node.node import Node

FindingId = Annotated[str, typer.Argument(metavar="ID", help="The finding, F- and 12 hex digits.")]

NEEDS_DATABASE = frozenset({"schema.changed", "identity.changed"})
"""Classes whose approval begins a new generation, which a node without the database cannot do."""


class State(StrEnum):
    """How far a finding is."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    APPROVED = "approved"
    REPAIRED = "repaired"


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    group = add_group(
        app, "findings", "What was found: list, show, ack, approve.", "witnz findings list --state open", section=LOOK
    )
    add_command(group, "list", "witnz findings list", "witnz findings list --state open --table audit_logs --json")(list_)
    add_command(group, "show", "witnz findings show F-0123456789ab")(show)
    add_command(group, "ack", 'witnz findings ack F-0123456789ab --reason "looking into it, ticket 4711"')(ack)
    add_command(
        group,
        "approve",
        'witnz findings approve F-0123456789ab --operator-key operator-alice.key --reason "price correction, ticket 4711"',
    )(approve)


def list_(
    context: typer.Context,
    *,
    state: Annotated[State | None, typer.Option("--state", help="Only those in this state.")] = None,
    table: Annotated[str | None, typer.Option("--table", metavar="TABLE", help="Only those about this table.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=10_000, metavar="N", help="At most so many.")] = 100,
) -> int:
    """List findings, the newest first."""
    call = invocation(context)
    config = call.load_config()
    name = None if table is None else table_name(table)
    with documents(config) as source:
        found = source.findings(state=None if state is None else state.value, table=name)
    document = {"schema": "witnz.findings/1", "findings": found[:limit], "total": len(found)}
    lines = finding_rows(call.output, found[:limit]) if found else ["no finding"]
    call.output.answer(document, lines)
    if len(found) > limit:
        call.output.note(f"{count(len(found) - limit, 'more finding')}; --limit shows more")
    return 0


def show(context: typer.Context, finding_id: FindingId) -> int:
    """Show one finding: the row, recorded and found, the window, what its class means and what to do first."""
    call = invocation(context)
    with documents(call.load_config()) as source:
        found = source.finding(finding_id)
    call.output.answer({"schema": "witnz.finding/1", **found}, _explained(call, found))
    return 0


def _explained(call: Invocation, found: Mapping[str, Any]) -> Iterator[str]:
    yield from finding_lines(call.output, found, indent="")
    yield f"    state     {call.output.word(found['state'])}"
    yield f"    detected  {found['detected_at']}"
    if found["journal_seq"] is not None:
        yield f"    journal   record {found['journal_seq']:,}"
    yield f"    meaning   {found['meaning']}"
    yield f"    first     {found['action']}"


# -- closing ------------------------------------------------------------------------------------------------------------------


def ack(context: typer.Context, finding_id: FindingId, *, reason: Reason) -> int:
    """Say that somebody has seen a finding; it stays open, and the journal keeps who and why."""
    call = invocation(context)
    config = call.load_config()
    check_reason(reason)
    with running_client(config) as client:
        if client is not None:
            document = client.acknowledge(finding_id, reason)
        else:
            with idle_node(config) as node:
                node.approvals.acknowledge(finding_id, reason)
                document = _finding_of(node, config, finding_id)
    call.output.answer(document, [f"{finding_id} is {document['state']}"])
    return 0


def approve(
    context: typer.Context, finding_id: FindingId, *, operator_key: OperatorKey, reason: Reason, yes: Yes = False
) -> int:
    """Accept what a finding is about as the legitimate state, signed with an operator's key.

    The node says what would be accepted; exactly that is shown, signed here, and journalled.  The key does not leave this
    process.
    """
    call = invocation(context)
    config = call.load_config()
    check_reason(reason)
    operator = Operator.load(operator_key)
    document = approve_finding(call, config, finding_id, reason, operator, yes=yes)
    call.output.answer(document, [f"{finding_id} is {document['state']}, signed by {operator.name}"])
    return 0


def approve_finding(
    call: Invocation, config: Config, finding_id: str, reason: str, operator: Operator, *, yes: bool
) -> dict[str, Any]:
    """Sign what the node says would be accepted, after a look at it; the finding as it is then."""
    with running_client(config) as client:
        if client is None:
            return _approve_here(call, config, finding_id, reason, operator, yes=yes)
        cluster, body = client.approval(finding_id, reason)
        _show_accepted(call, finding_id, body, yes=yes)
        return client.approve(finding_id, operator.sign("accept", body, cluster))


def _approve_here(
    call: Invocation, config: Config, finding_id: str, reason: str, operator: Operator, *, yes: bool
) -> dict[str, Any]:
    """Without a running node: in the store, or, where a new generation begins, with the database."""
    with documents(config) as source:
        needs_database = source.finding(finding_id)["class"] in NEEDS_DATABASE
    with own_node(config, call.output) if needs_database else idle_node(config) as node:
        body = node.approvals.accept_body(finding_id, reason)
        _show_accepted(call, finding_id, body, yes=yes)
        node.approve(operator.sign("accept", body, node.cluster_id))
        return _finding_of(node, config, finding_id)


def _finding_of(node: Node, config: Config, finding_id: str) -> dict[str, Any]:
    from witnz.cli.stored import StoredDocuments

    return {"schema": "witnz.finding/1", **StoredDocuments(node.db, node.journal.state, config).finding(finding_id)}


def _show_accepted(call: Invocation, finding_id: str, body: Mapping[str, Any], *, yes: bool) -> None:
    """What the signature will stand for."""
    where = f" of {printable(body['table'])}, generation {body['generation']}" if body["table"] else ""
    call.output.note(f"to be accepted with {finding_id}{where}:")
    for row in body["rows"][:50]:
        key = "a row without key" if row["key"] is None else f"key {printable(row['key'])}"
        entry = f" (entry {row['seq']:,})" if row["seq"] is not None else ""
        call.output.note(f"  {key}: {row['row'] or 'no such row'}{entry}")
    if len(body["rows"]) > 50:
        call.output.note(f"  and {count(len(body['rows']) - 50, 'more row')}")
    if not body["rows"]:
        call.output.note("  no row; the finding is closed")
    confirm(call.output, "Sign this?", yes=yes)
