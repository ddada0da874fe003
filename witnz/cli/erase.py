"""``witnz erase``: let rows go by order of an operator, so that nothing of them can be guessed afterwards.

The order is shown, signed here, and journalled; the rows themselves are deleted by whoever owns the data, with SQL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from witnz.cli.access import documents, own_node, running_client, table_name
from witnz.cli.command import MANAGE, add_command
from witnz.cli.deciding import Operator, OptionalKey, Yes, check_reason, confirm, needed_operator
from witnz.cli.invocation import Invocation, invocation
from witnz.cli.text import count, printable
from witnz.errors import UsageError

if TYPE_CHECKING:
    from witnz.config import Config

OneTable = Annotated[str, typer.Argument(metavar="TABLE", show_default=False, help="schema.table, or table for public.")]
Keys = Annotated[
    list[str],
    typer.Option(
        "--key", metavar="KEY", help="A row: the text of its key, or col=value,col=value. May be given several times."
    ),
]
By = Annotated[str | None, typer.Option("--by", metavar="WHO", help="Who asked for it; journalled with the reason.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be signed, and change nothing.")]
Listed = Annotated[bool, typer.Option("--list", help="Show what was ordered so far, and how far it has come.")]
OptionalReason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is journalled with the decision.")]

STATES = {
    "ordered": "delete the rows now: it is accepted",
    "removed": "the rows are gone; a new generation begins",
    "ending": "the generation has ended; its secret is being forgotten",
    "erased": "nothing of them can be guessed any more",
    "erased in part": "the others were not deleted in time; order them again",
    "lapsed": "the rows were not deleted before the generation ended; order them again",
}


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    add_command(
        app,
        "erase",
        'witnz erase customers --key 4711 --operator-key operator-alice.key --by dpo@example.com --reason "case 88"',
        "witnz erase billing.flights --key carrier=UA,flight=11 --dry-run",
        "witnz erase customers --list",
        section=MANAGE,
    )(erase)


def erase(
    context: typer.Context,
    table: OneTable,
    *,
    key: Keys = [],  # noqa: B006  typer makes a new list a call
    operator_key: OptionalKey = None,
    reason: OptionalReason = "",
    by: By = None,
    dry_run: DryRun = False,
    listed: Listed = False,
    yes: Yes = False,
) -> int:
    """Order rows to be erased, signed by an operator; then delete them in SQL.

    The deletion is accepted when it comes.  After that a new generation of the table begins without the rows, and the secret of
    the old one is forgotten on every node: nobody can find out any more what was in them. What stays is that so many rows went,
    when, by whose order and why, and the text of their keys; `witnz prune` removes the old entries as well.
    """
    call = invocation(context)
    config = call.load_config()
    name = table_name(table)
    if listed:
        return _list(call, config, name)
    if not key:
        raise UsageError("no row is named", hint="name each row with --key; --list shows what was ordered so far")
    why = f"{check_reason(reason or ('(dry run)' if dry_run else ''))}" + (f" (asked for by {by})" if by else "")
    operator = None if dry_run else needed_operator(operator_key)
    with running_client(config) as client:
        if client is not None:
            cluster, body = client.erasure(name, key, why)
            _show(call, body)
            if operator is None:
                return _dry(call, body)
            confirm(call.output, f"Sign this as {operator.name}?", yes=yes)
            seq = client.decide("erase", operator.sign("erase", body, cluster))
            return _answer(call, operator, seq, client.orders(name))
    from witnz.cli.stored import StoredDocuments

    with own_node(config, call.output) as node:
        body = node.erasing.body(name, key, why)
        _show(call, body)
        if operator is None:
            return _dry(call, body)
        confirm(call.output, f"Sign this as {operator.name}?", yes=yes)
        seq = node.decide("erase", operator.sign("erase", body, node.cluster_id))
        return _answer(call, operator, seq, StoredDocuments(node.db, node.journal.state, config).orders(name))


def _show(call: Invocation, body: Mapping[str, Any]) -> None:
    """What the signature will stand for."""
    call.output.note(f"to be erased from {printable(body['table'])}, generation {body['generation']}:")
    for key in body["keys"][:50]:
        call.output.note(f"  key {printable(key)}")
    if len(body["keys"]) > 50:
        call.output.note(f"  and {count(len(body['keys']) - 50, 'more row')}")


def _dry(call: Invocation, body: Mapping[str, Any]) -> int:
    rows = count(len(body["keys"]), "row")
    call.output.answer(
        {"schema": "witnz.erase/1", "dry_run": True, **body},
        [f"{rows} of {printable(body['table'])} would be ordered to be erased; nothing was signed"],
    )
    return 0


def _answer(call: Invocation, operator: Operator, seq: int, orders: Mapping[str, Any]) -> int:
    """What was journalled, and what is to be done next."""
    made = next((one for one in orders["erasures"] if one["record"] == seq), None)
    document = {
        "schema": "witnz.erase/1", "dry_run": False, "record": seq, "operator": operator.name, "in_effect": made is not None,
        "order": made, "waiting": orders["waiting"],
    }  # fmt: skip
    if made is None:
        lines = [
            f"signed by {operator.name} (record {seq}); it takes effect when {orders['approvers']} operators have signed it"
        ]
    else:
        rows = count(made["rows"], "row")
        lines = [
            f"{rows} of {printable(orders['table'])} ordered to be erased by {', '.join(made['operators'])} (record {seq})"
        ]
        lines += [f"  {STATES[made['state']]}"]
    call.output.answer(document, lines)
    return 0


def _list(call: Invocation, config: Config, name: str) -> int:
    with documents(config) as source:
        document = source.orders(name)
    call.output.answer(document, list(_lines(document)))
    return 0


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"{printable(document['table'])}: {count(document['erased_rows'], 'row')} erased by order"
    for one in document["erasures"]:
        keys = _shortened(one["keys"])
        yield f"  record {one['record']}  {one['at'][:19]}Z  {', '.join(one['operators'])}: {keys}"
        yield f"    {one['state']} ({one['removed']} of {one['rows']} gone): {STATES[one['state']]}"
        yield f"    {printable(one['reason'])}"
    for one in document["prunings"]:
        what = f"prune generation {one['generation']}"
        yield f"  record {one['record']}  {one['at'][:19]}Z  {', '.join(one['operators'])}: {what}"
        yield f"    {one['state']}; {printable(one['reason'])}"
    for one in document["waiting"]:
        signed = ", ".join(one["operators"])
        yield f"  waits for another operator: {one['type']} of generation {one['generation']}, signed by {signed}"


def _shortened(keys: Sequence[str]) -> str:
    shown = ", ".join(printable(key) for key in keys[:5])
    return shown if len(keys) <= 5 else f"{shown} and {len(keys) - 5} more"
