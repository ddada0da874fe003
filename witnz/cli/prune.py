"""``witnz prune``: remove what is older than the retention period says, and keep what proves that it was there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from witnz.cli.access import idle_node, running_client, table_name
from witnz.cli.command import MANAGE, add_command
from witnz.cli.deciding import Operator, OptionalKey, Yes, check_reason, confirm, needed_operator
from witnz.cli.erase import DryRun, OneTable
from witnz.cli.invocation import Invocation, invocation
from witnz.cli.text import count, printable

if TYPE_CHECKING:
    from witnz.config import Config

Before = Annotated[
    str, typer.Option("--before", metavar="DATE", help="Generations that ended before it; now: the current one as well.")
]
OptionalReason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is journalled with the decision.")]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    add_command(
        app,
        "prune",
        'witnz prune audit_logs --before 2020-01-01 --operator-key operator-alice.key --reason "kept for ten years"',
        "witnz prune audit_logs --before now --dry-run",
        section=MANAGE,
    )(prune)


def prune(
    context: typer.Context,
    table: OneTable,
    *,
    before: Before,
    operator_key: OptionalKey = None,
    reason: OptionalReason = "retention period is over",
    dry_run: DryRun = False,
    yes: Yes = False,
) -> int:
    """Remove what was recorded in generations that ended before a date.

    Entries, row images and secrets go, signed by an operator.  Their hashes stay: every root that was sealed can still be
    computed, and bundles made before still verify.  With `--before now` the current generation ends first, and a new
    one begins with the rows as they are.
    """
    call = invocation(context)
    config = call.load_config()
    check_reason(reason)
    name = table_name(table)
    operator = None if dry_run else needed_operator(operator_key)
    with running_client(config) as client:
        if client is not None:
            cluster, bodies, planned = client.pruning(name, before, reason)
            if not _agreed(call, planned, operator, yes=yes) or operator is None:
                return 0
            seqs = [client.decide("prune", operator.sign("prune", body, cluster)) for body in bodies]
            return _answer(call, operator, seqs, planned, client.orders(name))
    return _prune_here(call, config, name, before, reason, operator, yes=yes)


def _prune_here(
    call: Invocation, config: Config, name: str, before: str, reason: str, operator: Operator | None, *, yes: bool
) -> int:
    """Without a running node: journalled in the store; the next start does the rest."""
    from witnz.cli.stored import StoredDocuments
    from witnz.node.pruning import parse_before, plan
    from witnz.web.orders import prune_bodies

    with idle_node(config) as node:
        now = node.clock()
        planned = plan(node.db, node.journal.state, name, parse_before(before, now), now)
        if not _agreed(call, planned, operator, yes=yes) or operator is None:
            return 0
        bodies = prune_bodies(planned, reason)
        seqs = [node.decide("prune", operator.sign("prune", body, node.cluster_id)) for body in bodies]
        return _answer(call, operator, seqs, planned, StoredDocuments(node.db, node.journal.state, config).orders(name))


def _agreed(call: Invocation, planned: Mapping[str, Any], operator: Operator | None, *, yes: bool) -> bool:
    """Show what would go; False where that was all that was asked for."""
    if operator is None:
        call.output.answer({**planned, "schema": "witnz.prune/1", "dry_run": True}, list(_planned(planned)))
        return False
    for line in _planned(planned):
        call.output.note(line)
    confirm(call.output, f"Sign this as {operator.name}?", yes=yes)
    return True


def _planned(planned: Mapping[str, Any]) -> Iterator[str]:
    for word in ("prune", "keep"):
        for one in planned[word]:
            until = one["to"][:19] + "Z" if one["to"] is not None else "now"
            done = ", pruned before" if one["pruned"] else ""
            span = f"{one['from'][:19]}Z to {until}, {count(one['entries'], 'entry', 'entries')}{done}"
            yield f"{word:5}  {printable(planned['table'])}, generation {one['generation']}: {span}"


def _answer(
    call: Invocation, operator: Operator, seqs: list[int], planned: Mapping[str, Any], orders: Mapping[str, Any]
) -> int:
    made = [one for one in orders["prunings"] if one["record"] in seqs]
    document = {
        "schema": "witnz.prune/1", "dry_run": False, "table": planned["table"], "before": planned["before"], "records": seqs,
        "operator": operator.name, "prune": planned["prune"], "in_effect": len(made) == len(seqs), "waiting": orders["waiting"],
    }  # fmt: skip
    generations = ", ".join(str(one["generation"]) for one in planned["prune"])
    line = f"{printable(planned['table'])}: generation {generations} ordered to be pruned, signed by {operator.name}"
    if len(made) < len(seqs):
        line += f"; it takes effect when {orders['approvers']} operators have signed it"
    call.output.answer(document, [line])
    return 0
