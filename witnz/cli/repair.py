"""``witnz repair``: the recorded rows back in the table, reviewed, signed, and verified afterwards.

The node makes the plan and closes the finding; this process writes, over a connection and with a key that the node never sees.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from witnz.cli.access import own_node, running_client
from witnz.cli.command import MANAGE, Reason, add_command, add_group
from witnz.cli.dba_sql import admin_conninfo
from witnz.cli.deciding import Operator, OperatorKey, Yes, check_reason, confirm
from witnz.cli.files import STANDARD, write_output
from witnz.cli.findings import FindingId
from witnz.cli.invocation import Invocation, invocation
from witnz.cli.output import is_terminal
from witnz.cli.text import count, printable
from witnz.errors import NodeUnreachable, UsageError

if TYPE_CHECKING:
    from witnz.config import Config
    from witnz.node.repair_apply import Applied
    from witnz.node.repair_plan import RepairPlan

TAMPERED, INCONCLUSIVE = 3, 4


class Repairing(Protocol):
    """The part of a repair that is the node's: documents in, documents out."""

    def repair_plan(self, finding_id: str) -> dict[str, Any]: ...

    def settle_repair(self, finding_id: str, applied: Mapping[str, Any], sql_sha256: str) -> dict[str, Any]: ...


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    group = add_group(
        app,
        "repair",
        "Put back recorded rows, or a node's store.",
        "witnz repair plan F-0123456789ab -o repair.sql",
        section=MANAGE,
    )
    add_command(group, "plan", "witnz repair plan F-0123456789ab -o repair.sql")(plan)
    add_command(
        group,
        "apply",
        "witnz repair apply F-0123456789ab --admin-url postgresql://app_owner@db.internal/app"
        ' --operator-key operator-alice.key --reason "restored after incident 12"',
    )(apply)
    add_command(group, "store", "witnz repair store F-0123456789ab")(store)


def plan(
    context: typer.Context,
    finding_id: FindingId,
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write the SQL, 0600; stdout, if not given.")
    ] = None,
) -> int:
    """Show the SQL that would put back the rows of a finding; needs a table with `retain: rows`.

    It is for review, and holds row values.  Nothing is written to the database.
    """
    call = invocation(context)
    config = call.startable_config()
    with _repairing(call, config) as node:
        document = node.repair_plan(finding_id)
    if output is not None:
        _write_private(output, document["sql"])
        lines = [f"wrote {output} (0600): {_said(document)}", f"sha256 {document['sql_sha256']}"]
        call.output.answer(document, lines)
    else:
        lines = document["sql"].rstrip("\n").splitlines()
        call.output.answer(document, map(printable, lines) if is_terminal(sys.stdout) else lines)
        call.output.note(_said(document))
    return INCONCLUSIVE if document["refused"] and not document["statements"] else 0


def _said(document: Mapping[str, Any]) -> str:
    parts = [count(len(document["statements"]), "row") + " to put back"]
    if document["unchanged"]:
        parts.append(f"{len(document['unchanged'])} as recorded already")
    if document["refused"]:
        parts.append(f"{len(document['refused'])} that cannot be restored: {printable(document['refused'][0])}")
    return ", ".join(parts)


def _write_private(path: Path, text: str) -> None:
    from witnz.store.datadir import save_key_file

    if path == Path(STANDARD):
        write_output(STANDARD, text.encode())
        return
    if path.exists():
        raise UsageError(f"{path} exists already", hint="name another file with -o")
    save_key_file(path, text)


def store(context: typer.Context, finding_id: FindingId) -> int:
    """Take a log of this node from the other members, where it differs from what a quorum sealed.

    For a node.diverged finding that names this node.  What was there before is kept in the evidence directory.
    """
    call = invocation(context)
    with running_client(call.startable_config()) as node:
        if node is None:
            raise NodeUnreachable("this node does not run", hint="start it with `witnz start`: it fetches from the others")
        document = node.restore_store(finding_id)
    kept = f"; what was there is kept in {printable(document['evidence'])}" if document["evidence"] else ""
    call.output.answer(document, [f"{document['table']} is the majority's log again{kept}"])
    return 0


def apply(
    context: typer.Context,
    finding_id: FindingId,
    *,
    admin_url: Annotated[
        str, typer.Option("--admin-url", metavar="URL", help="The database as a role that may write; used once, not kept.")
    ],
    operator_key: OperatorKey,
    reason: Reason,
    yes: Yes = False,
) -> int:
    """Put the rows of a finding back as recorded, under a signed intent, and verify the table.

    Each row is locked and compared with what was found before it is written; a row that changed meanwhile is left alone.  The
    exit code is that of the verification afterwards.
    """
    call = invocation(context)
    config = call.startable_config()
    check_reason(reason)
    operator = Operator.load(operator_key)
    admin = admin_conninfo(admin_url)
    if admin is None:
        raise UsageError("expected --admin-url")
    from witnz.node.repair_apply import apply_plan
    from witnz.node.repair_plan import plan_from_json

    with _repairing(call, config) as node:
        made: RepairPlan = plan_from_json(node.repair_plan(finding_id))
        call.output.note(_said(made.to_json()))
        confirm(call.output, f"Write to {made.table} as {admin.describe()}, signed by {operator.name}?", yes=yes)
        applied: Applied = apply_plan(made, admin, operator=operator.name, signer=operator.signer, reason=reason)
        document = node.settle_repair(finding_id, asdict(applied), made.sql_sha256)
    call.output.answer(document, _lines(call, document))
    return _exit_code(document)


def _lines(call: Invocation, document: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"restored  key {printable(key)}" for key in document["restored"])
    yield from (f"left      {printable(reason)}" for reason in document["left"])
    yield from (f"note      {printable(note)}" for note in document["notes"])
    yield from (f"closed    {finding_id}" for finding_id in document["closed"])
    verified = document["verified"]
    if verified is not None:
        yield f"{printable(verified['table'])}  {call.output.word(verified['verdict'])}  {count(verified['rows'], 'row')}"


def _exit_code(document: Mapping[str, Any]) -> int:
    """That of the verification; never 0 while a row is left over."""
    from witnz.core.verdict import Verdict, exit_code

    verified = document["verified"]
    code = INCONCLUSIVE if verified is None else exit_code(Verdict(verified["verdict"]))
    return code if document["repaired"] or code == TAMPERED else INCONCLUSIVE


@contextmanager
def _repairing(call: Invocation, config: Config) -> Iterator[Repairing]:
    """The running node, or one of this process."""
    with running_client(config) as client:
        if client is not None:
            yield client
            return
    from witnz.node.repair_apply import Applied

    with own_node(config, call.output) as node:

        class Here:
            def repair_plan(self, finding_id: str) -> dict[str, Any]:
                return node.repairs.plan(finding_id).to_json()

            def settle_repair(self, finding_id: str, applied: Mapping[str, Any], sql_sha256: str) -> dict[str, Any]:
                return node.repairs.settle(finding_id, Applied(**applied), sql_sha256).to_json()

        yield Here()
