"""``witnz init``: a configuration where there is none, keys, the store, the publication, the slot.

It can be run again, with the same words, until everything is there: after a DBA ran the SQL, after a mistake was put right.
What it writes never holds a password; an administrator's URL is used once and kept nowhere.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from witnz.cli.command import SET_UP, add_command
from witnz.cli.configfile import read_text
from witnz.cli.dba_sql import admin_conninfo, sql_for_dba
from witnz.cli.invocation import Invocation, check_startable, invocation
from witnz.cli.wanted import VARIABLE, Wanted, config_path, entry_line, new_member, new_table
from witnz.errors import WitnzError

if TYPE_CHECKING:
    from witnz.config import Config
    from witnz.node.setup import Made


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    add_command(
        app,
        "init",
        "witnz init --db postgresql://witnz@db.internal/app --table audit_logs:append_only --table billing.prices",
        "witnz init --admin-url postgresql://app_owner@db.internal/app",
        "witnz init --db postgresql://witnz@db.internal/app --node node2 --member node1=a:7000 --member node2=b:7000 "
        "--member node3=c:7000",
        section=SET_UP,
    )(init)


def init(
    context: typer.Context,
    *,
    db: Annotated[
        str | None, typer.Option("--db", metavar="URL", help="The database, as the unprivileged role that witnz uses.")
    ] = None,
    admin_url: Annotated[
        str | None,
        typer.Option("--admin-url", metavar="URL", help="The same as the tables' owner, to create the publication; not kept."),
    ] = None,
    table: Annotated[
        list[str] | None,
        typer.Option("--table", metavar="NAME[:MODE]", help="A table to protect; append_only or state_integrity (default)."),
    ] = None,
    print_sql: Annotated[bool, typer.Option("--print-sql", help="Print the SQL for the DBA, and do nothing.")] = False,
    cluster: Annotated[
        str | None, typer.Option("--cluster", metavar="NAME", help="Origin of every log; local/<database> if not given.")
    ] = None,
    data_dir: Annotated[
        str | None, typer.Option("--data-dir", metavar="DIR", help="Keys and evidence; witnz-data beside the configuration.")
    ] = None,
    node: Annotated[str | None, typer.Option("--node", metavar="ID", help="Which member this is; node1 if not given.")] = None,
    member: Annotated[
        list[str] | None,
        typer.Option("--member", metavar="ID=HOST:PORT", help="A member of the cluster, this node too; the first founds it."),
    ] = None,
    operator: Annotated[
        str | None, typer.Option("--operator", metavar="NAME", help="Whose the first operator key is; you, if not given.")
    ] = None,
) -> int:
    """Prepare this node: configuration, keys, publication, slot.

    Of several members each first makes its keys and prints its line for `nodes:`; when the file has the lines of all, run the
    command again, first on the member that founds the cluster.

    Publications belong to the tables' owner: give --admin-url once, or let the DBA run the SQL that is printed (exit code 14)
    and run the same command again.
    """
    call = invocation(context)
    members = tuple(new_member(text) for text in member or [])
    wanted = Wanted(config_path(call), db, tuple(new_table(text) for text in table or []), cluster, data_dir, node, members)
    if print_sql:
        return _print_sql(call, wanted, admin_url)
    written = not wanted.path.exists()
    if written:
        wanted.write(wanted.path)
    try:
        return _initialise(call, wanted, admin_url, operator, written=written)
    except WitnzError as error:
        if written and error.code != "publication.missing" and not _has_store(call, wanted.path):
            wanted.path.unlink(missing_ok=True)  # nothing depends on it yet; the next try may say something else
        raise


def _has_store(call: Invocation, path: Path) -> bool:
    from witnz.store.datadir import DataDir

    try:
        return DataDir(call.load_config(path).data_dir).database.exists()
    except WitnzError:
        return False


def _initialise(call: Invocation, wanted: Wanted, admin_url: str | None, operator: str | None, *, written: bool) -> int:
    from witnz.node.setup import PublicationMissing, initialise
    from witnz.node.view import now_us

    config = wanted.load(call)
    check_startable(config, members=False)
    try:
        made = initialise(config, admin=admin_conninfo(admin_url), clock=now_us, operator=operator)
    except PublicationMissing as missing:
        document = {**_document(config, missing.made), "complete": False}
        call.output.answer(document, [f"{statement};" for statement in missing.made.sql])
        raise
    if made.member is not None and made.missing and wanted.fill_in(made.member):
        made.missing = wanted.load(call).missing_members()  # none, where its own line was the last one
        call.output.answer({**_document(config, made), "complete": False}, _lines_of_member(config, made))
        return 0
    if made.missing:
        call.output.answer({**_document(config, made), "complete": False}, _lines_of_member(config, made))
        return 0
    document = {**_document(config, made), "complete": True}
    call.output.answer(document, _lines(config, made, written=written))
    for note in made.notes:
        call.output.note(note)
    if VARIABLE in os.environ and "${" + VARIABLE + "}" in read_text(wanted.path):
        call.output.note(f"the configuration takes the password from {VARIABLE}: export it before `witnz start`")
    return 0


def _document(config: Config, made: Made) -> dict[str, Any]:
    return {
        "schema": "witnz.init/1",
        "config": str(config.path),
        "data_dir": str(made.data_dir),
        "cluster": config.cluster,
        "node": config.node_id,
        "created": made.created,
        "log_key": made.log_key,
        "cosigner_key": made.cosigner_key,
        "identity": made.identity,
        "policy": made.policy,
        "operator_key": None if made.operator_key is None else str(made.operator_key),
        "sql": made.sql,
        "member": made.member,
        "missing": made.missing,
    }


def _lines(config: Config, made: Made, *, written: bool) -> Iterator[str]:
    yield f"{'wrote  ' if written else 'using  '}  {config.path}"
    yield from (f"created  {what}" for what in made.created)
    if not made.created:
        yield "nothing was left to do"
    if made.joins:
        yield ""
        yield "Genesis and the log key come from the other members when this node starts."
        yield "next:  witnz start"
        return
    yield ""
    yield "Keep this policy somewhere that neither the database's administrators nor this machine can change;"
    yield "with it anybody verifies what this node signs:"
    yield ""
    yield from (f"  {line}" for line in made.policy.rstrip("\n").splitlines())
    if made.operator_key is not None:
        yield ""
        yield f"Move {made.operator_key} to a person's own machine, and delete it here:"
        yield "whoever has it decides what counts as legitimate."
    yield ""
    yield "next:  witnz doctor        then:  witnz start"


def _lines_of_member(config: Config, made: Made) -> Iterator[str]:
    """What is still to be done before the members know each other."""
    yield from (f"created  {what}" for what in made.created)
    if made.member is not None:
        yield f"This is {made.member['id']}.  Put this line into the file of every other member, under nodes, in its place:"
        yield ""
        yield f"  - {entry_line(**made.member)}"
        yield ""
    if made.missing:
        yield f"Still missing in {config.path}:"
        yield from (f"  {line}" for line in made.missing)
        yield ""
    yield "next:  witnz init again, first on the member with node.bootstrap, when the lines of all members are there"


def _print_sql(call: Invocation, wanted: Wanted, admin_url: str | None) -> int:
    """What the DBA runs: the role, its rights, both publications.  Nothing is written or created."""
    statements = sql_for_dba(call, _config_for_sql(call, wanted), wanted.tables, admin_url)
    call.output.answer({"schema": "witnz.sql/1", "sql": statements}, [f"{statement};" for statement in statements])
    return 0


def _config_for_sql(call: Invocation, wanted: Wanted) -> Config:
    """The configuration that there is, or that would be written."""
    from tempfile import TemporaryDirectory

    if wanted.path.exists():
        return replace(wanted, tables=()).load(call)
    with TemporaryDirectory(prefix="witnz-") as folder:
        trial = Path(folder) / wanted.path.name
        wanted.write(trial)
        return call.load_config(trial)
