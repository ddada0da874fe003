"""``witnz verify``: tables against their log, the store against itself, or evidence against a policy.

Offline (``--checkpoint``, ``--report``) nothing but the base install is needed, and nothing but the files named is looked at.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from witnz.cli.command import LOOK, add_command
from witnz.cli.invocation import invocation
from witnz.errors import UsageError


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    add_command(
        app,
        "verify",
        "witnz verify audit_logs billing.prices",
        "witnz verify --all --json",
        "witnz verify audit_logs --sample 1/20",
        "witnz verify --checkpoint bundle.witnz.json --policy policy.txt",
        "witnz verify --checkpoint bundle.witnz.json --policy policy.txt --trust trust.txt --online",
        "witnz verify --checkpoint audit/bundle.witnz.json --policy policy.txt --log audit/ --table-data audit_logs=rows.tsv",
        "witnz verify --report evidence/ --policy policy.txt --require-anchor evm",
        "witnz verify --store",
        section=LOOK,
    )(verify)


def verify(
    context: typer.Context,
    *,
    tables: Annotated[
        list[str] | None, typer.Argument(metavar="TABLE", show_default=False, help="Protected tables; all, if none is named.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every protected table.")] = False,
    checkpoint: Annotated[
        str | None, typer.Option("--checkpoint", metavar="FILE", help="A bundle, offline; - reads stdin.")
    ] = None,
    report: Annotated[
        str | None,
        typer.Option("--report", metavar="DIR", help="An evidence package, offline: its folder, or its report.json."),
    ] = None,
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="The keys that you trust, for --checkpoint and --report.")
    ] = None,
    require_anchor: Annotated[
        list[str] | None,
        typer.Option("--require-anchor", metavar="TYPE", help="An anchor that must be checked in full, offline; repeatable."),
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option("--trust", metavar="FILE", help="Accounts, blocks, authorities that you know, for the receipts inside."),
    ] = None,
    online: Annotated[
        bool, typer.Option("--online", help="Ask the places where it was anchored, too; else no network is used.")
    ] = False,
    table_data: Annotated[
        list[str] | None,
        typer.Option("--table-data", metavar="TABLE=FILE", help="Row lines to hold against --checkpoint; repeatable."),
    ] = None,
    log: Annotated[
        Path | None, typer.Option("--log", metavar="DIR", help="The auditor package with the logs, for --table-data.")
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option("--sample", metavar="N/T", help="Only N of T ranges of keys, drawn now."),
    ] = None,
    rolling: Annotated[
        bool, typer.Option("--rolling", help="In ranges of keys, each in a snapshot of its own; goes on where it was stopped.")
    ] = False,
    store: Annotated[bool, typer.Option("--store", help="This node's data directory, from its entries.")] = False,
) -> int:
    """Check tables, a node's store, or a bundle or an evidence package offline.

    Exit code 0 means: everything that was asked for was checked and is as recorded; 3: tampering; 4: something could not be
    checked.  Without a policy evidence is never more than INCONCLUSIVE, because nobody's signature was checked.
    """
    call = invocation(context)
    chosen = [
        word
        for word, given in (
            ("TABLE", bool(tables)),
            ("--all", everything),
            ("--checkpoint", checkpoint is not None),
            ("--report", report is not None),
            ("--store", store),
        )
        if given
    ]
    if len(chosen) > 1:
        raise UsageError(
            f"expected one of {', '.join(chosen)}", hint="they ask for different things; run witnz verify for each"
        )
    offline = checkpoint is not None or report is not None
    options = ("--policy", policy), ("--trust", trust), ("--online", online), ("--require-anchor", require_anchor)
    for word, named in (("--table-data", table_data), ("--log", log)):
        if named and checkpoint is None:
            raise UsageError(f"{word} goes with --checkpoint", hint="`witnz verify --help` shows how it is used")
    for word, given in options:
        if given and not offline:
            raise UsageError(f"{word} goes with --checkpoint or --report", hint="`witnz verify --help` shows how it is used")
    if checkpoint is not None or report is not None:
        from witnz.cli.verify_offline import Asked, verify_file, verify_report

        asked = Asked(policy, trust, tuple(require_anchor or ()), tuple(table_data or ()), log, online=online)
        return verify_report(call, report, asked) if report is not None else verify_file(call, checkpoint or "", asked)
    how = "rolling" if rolling else ""
    if sample is not None:
        from witnz.core.keyrange import parse_sample

        parse_sample(sample)
        how = sample
    if (sample is not None and rolling) or (how and (store or offline)):
        raise UsageError("--sample and --rolling go with tables, one of them", hint="see `witnz verify --help`")
    for name in tables or ():
        if "." in name and Path(name).is_file():
            raise UsageError(
                f"{name[:80]} is a file; TABLE is a table's name",
                hint=f"witnz verify --checkpoint {name[:80]} --policy FILE   (an evidence package: --report)",
            )
    if store:
        from witnz.cli.verify_store import verify_store

        return verify_store(call)
    from witnz.cli.verify_live import verify_tables

    return verify_tables(call, tables or [], how)
