"""``witnz protect``: further tables, in the publication, in the file, and with a running node.

The order keeps every step safe to stop after and to run again: the table is fit -> the publication holds it -> the file lists
it -> a running node is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from witnz.cli.access import running_client, table_name
from witnz.cli.command import SET_UP, add_command
from witnz.cli.configfile import NewTable, add_tables, by_hand, load_edited, read_text, replace_file
from witnz.cli.dba_sql import admin_conninfo
from witnz.cli.invocation import Invocation, invocation
from witnz.cli.output import Output
from witnz.cli.text import printable
from witnz.errors import UsageError

if TYPE_CHECKING:
    from witnz.config import Config, TableConfig

Tables = Annotated[list[str], typer.Argument(metavar="TABLE", show_default=False, help="schema.table, or table for public.")]
AdminUrl = Annotated[
    str | None, typer.Option("--admin-url", metavar="URL", help="The database as the tables' owner; used once, not kept.")
]


class Mode(StrEnum):
    """How a table is meant to change."""

    APPEND_ONLY = "append_only"
    STATE_INTEGRITY = "state_integrity"


class OnChange(StrEnum):
    """What a recorded change of a state_integrity table is."""

    ALERT = "alert"
    RECORD = "record"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    add_command(
        app,
        "protect",
        "witnz protect audit_logs --mode append_only --admin-url postgresql://app_owner@db.internal/app",
        "witnz protect billing.prices",
        section=SET_UP,
    )(protect)


def protect(
    context: typer.Context,
    tables: Tables,
    *,
    mode: Annotated[
        Mode, typer.Option("--mode", help="Only inserts are legitimate, or changes are, too.")
    ] = Mode.STATE_INTEGRITY,
    inserts_only: Annotated[
        bool, typer.Option("--inserts-only", help="Publish inserts and truncates; the rest is found by scan only.")
    ] = False,
    on_change: Annotated[
        OnChange, typer.Option("--on-change", help="A change is a finding until approved, or accepted.")
    ] = OnChange.ALERT,
    require_intent: Annotated[bool, typer.Option("--require-intent", help="Every change needs a signed intent.")] = False,
    retain_rows: Annotated[
        bool, typer.Option("--retain-rows", help="Keep encrypted images, so that rows can be repaired.")
    ] = False,
    admin_url: AdminUrl = None,
) -> int:
    """Begin to protect tables, also while the node runs.

    The publication belongs to the tables' owner: give --admin-url once, or let the DBA run the SQL that is printed (exit code
    14) and run the same command again.  With --inserts-only changes of existing rows are not seen as they happen; a scan finds
    them, without saying who made them.
    """
    from witnz.store.datadir import DataDir

    call = invocation(context)
    config = call.startable_config()
    DataDir(config.data_dir).check(writable=False)
    rules = _rules(mode, on_change, inserts_only=inserts_only, require_intent=require_intent, retain_rows=retain_rows)
    asked = [_new_table(text, rules) for text in tables]
    fresh = [table for table in asked if not _is_listed(config, table)]
    edited, text = _with_tables(config, fresh)
    publish(call, edited, admin_url)
    if fresh and config.path is not None:
        replace_file(config.path, text)
    told = tell(config, [edited_table for table in asked if (edited_table := edited.table(table.name)) is not None])
    if inserts_only:
        call.output.note("updates and deletes of these tables are found by scan only, without who made them or when")
    document = {
        "schema": "witnz.protect/1",
        "tables": [table.name for table in asked],
        "mode": mode.value,
        "config": str(config.path),
        "node": "recording" if told else "stopped",
    }
    when = "the running node records it from now on" if told else "recorded from the next `witnz start` on"
    call.output.answer(document, [f"{printable(table.name)}: protected, {mode.value}; {when}" for table in asked])
    return 0


def _rules(mode: Mode, on_change: OnChange, *, inserts_only: bool, require_intent: bool, retain_rows: bool) -> dict[str, str]:
    """The keys of the new item; what is the default is left out."""
    rules = {"mode": mode.value}
    if on_change is not OnChange.ALERT:
        rules["on_change"] = on_change.value
    flags = {"inserts_only": inserts_only, "require_intent": require_intent}
    rules |= {key: "true" for key, given in flags.items() if given}
    return rules | ({"retain": "rows"} if retain_rows else {})


def _new_table(text: str, rules: dict[str, str]) -> NewTable:
    from witnz.core.names import parse_table_name

    return NewTable(*parse_table_name(table_name(text)), rules)


def _is_listed(config: Config, table: NewTable) -> bool:
    """Whether the file lists the table already, with these rules.  Raises UsageError where its rules are others."""
    listed = config.table(table.name)
    if listed is None:
        return False
    here = {
        "mode": listed.mode,
        "on_change": listed.on_change,
        "inserts_only": str(listed.inserts_only).lower(),
        "require_intent": str(listed.require_intent).lower(),
        "retain": listed.retain,
    }
    wanted = {"on_change": "alert", "inserts_only": "false", "require_intent": "false", "retain": "none"} | dict(table.rules)
    differing = [key for key in here if here[key] != wanted[key]]
    if differing:
        said = ", ".join(f"{key} {here[key]}" for key in differing)
        raise UsageError(
            f"{table.name} is listed in {config.path} already, with {said}",
            hint=f"rules change with a new beginning: witnz unprotect {table.name} --operator-key FILE --reason TEXT, "
            "then this command again",
        )
    return True


def _with_tables(config: Config, fresh: Sequence[NewTable]) -> tuple[Config, str]:
    """The configuration with the new tables, and its text."""
    if not fresh or config.path is None:
        return config, ""
    text = add_tables(read_text(config.path), fresh)
    names = [table.name for table in config.protected_tables] + [table.name for table in fresh]
    return load_edited(config, text, names, by_hand(fresh)), text


def publish(call: Invocation, config: Config, admin_url: str | None) -> None:
    """See to it that the publication holds every protected table.  Raises PublicationMissing, its SQL answered before."""
    from witnz.node.setup import Made, PublicationMissing, configured_tables, conninfo_of, ensure_publication
    from witnz.postgres.session import connect

    with connect(conninfo_of(config), application_name="witnz protect") as conn:
        published, inserts = configured_tables(conn, config)
        try:
            ensure_publication(conn, config, published, inserts, admin_conninfo(admin_url), Made(config.data_dir))
        except PublicationMissing as missing:
            if not missing.made.sql:
                return  # it only holds more than it must
            _answer_sql(call.output, missing.made.sql)
            raise


def _answer_sql(output: Output, statements: Sequence[str]) -> None:
    output.answer({"schema": "witnz.sql/1", "sql": list(statements)}, [f"{statement};" for statement in statements])


def tell(config: Config, tables: Sequence[TableConfig]) -> bool:
    """Tell a running node; whether there is one."""
    with running_client(config) as client:
        if client is None:
            return False
        for table in tables:
            client.protect(
                table.name,
                table.mode,
                exclude_columns=table.exclude_columns,
                on_change=table.on_change,
                inserts_only=table.inserts_only,
                require_intent=table.require_intent,
                retain=table.retain,
                keys=table.keys,
            )
        return True
