"""``witnz verify``: tables against their log, the store against itself, or a bundle against a policy.

Offline (``--checkpoint``) nothing but the base install is needed, and nothing but the two files is looked at.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from witnz.cli.checks_text import check_lines, not_checked_lines, summary
from witnz.cli.command import LOOK, add_command
from witnz.cli.files import read_bounded
from witnz.cli.invocation import Invocation, invocation
from witnz.cli.output import Output
from witnz.cli.text import count, printable
from witnz.errors import UsageError

if TYPE_CHECKING:
    from witnz.verify.receipts import Online

ENVIRONMENT_VARIABLE: Final = "WITNZ_CONFIG"


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    add_command(
        app,
        "verify",
        "witnz verify audit_logs billing.prices",
        "witnz verify --all --json",
        "witnz verify --checkpoint bundle.witnz.json --policy policy.txt",
        "witnz verify --checkpoint bundle.witnz.json --policy policy.txt --trust trust.txt --online",
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
    policy: Annotated[
        Path | None, typer.Option("--policy", metavar="FILE", help="The keys that you trust, for --checkpoint.")
    ] = None,
    trust: Annotated[
        Path | None,
        typer.Option("--trust", metavar="FILE", help="Accounts, blocks, authorities that you know, for the receipts inside."),
    ] = None,
    online: Annotated[
        bool, typer.Option("--online", help="Ask the places where it was anchored, too; else no network is used.")
    ] = False,
    store: Annotated[bool, typer.Option("--store", help="This node's data directory, from its entries.")] = False,
) -> int:
    """Check tables, a node's store, or a bundle offline.

    Exit code 0 means: everything that was asked for was checked and is as recorded; 3: tampering; 4: something could not be
    checked.  Without a policy a bundle is never more than INCONCLUSIVE, because nobody's signature was checked.
    """
    call = invocation(context)
    chosen = [
        word
        for word, given in (
            ("TABLE", bool(tables)),
            ("--all", everything),
            ("--checkpoint", checkpoint is not None),
            ("--store", store),
        )
        if given
    ]
    if len(chosen) > 1:
        raise UsageError(
            f"expected one of {', '.join(chosen)}", hint="they ask for different things; run witnz verify for each"
        )
    if checkpoint is None:
        for option, given in (("--policy", policy is not None), ("--trust", trust is not None), ("--online", online)):
            if given:
                raise UsageError(f"{option} goes with --checkpoint", hint="`witnz verify --help` shows how it is used")
    if checkpoint is not None:
        return verify_file(call, checkpoint, policy, trust, online=online)
    if store:
        from witnz.cli.verify_store import verify_store

        return verify_store(call)
    from witnz.cli.verify_live import verify_tables

    return verify_tables(call, tables or [])


# -- offline ------------------------------------------------------------------------------------------------------------------


def verify_file(
    call: Invocation, name: str, policy_path: Path | None, trust_path: Path | None = None, *, online: bool = False
) -> int:
    """A bundle, under the policy that the verifier brings, and with what the verifier knows of accounts and authorities."""
    from witnz.core.bundle_document import MAX_BUNDLE_BYTES
    from witnz.core.policy import MAX_POLICY_BYTES, parse_policy
    from witnz.core.trust import MAX_TRUST_BYTES, Trust, parse_trust
    from witnz.verify.bundle import verify_bundle

    data = read_bounded(name, MAX_BUNDLE_BYTES, "bundle")
    policy = None
    if policy_path is not None:
        policy = parse_policy(read_bounded(str(policy_path), MAX_POLICY_BYTES, "policy"))
    now_us = time.time_ns() // 1000
    trust = Trust(now_us=now_us)
    if trust_path is not None:
        trust = parse_trust(read_bounded(str(trust_path), MAX_TRUST_BYTES, "trust file"), now_us=now_us)
    result = verify_bundle(data, policy, trust=trust, online=_online(call) if online else None)
    document: dict[str, Any] = {"schema": "witnz.verify/1", "file": name, **result.to_json()}
    call.output.answer(document, _bundle_lines(call.output, document))
    return result.exit_code


def _online(call: Invocation) -> Online:
    """Looks through the anchors of a configuration, where there is one; else as the receipts say."""
    from witnz.anchor.online import OnlineLooks
    from witnz.config.sources import SEARCH

    def clock() -> int:
        return time.time_ns() // 1000

    given = call.config_path is not None or ENVIRONMENT_VARIABLE in os.environ or any(path.exists() for path in SEARCH)
    if not given:
        return OnlineLooks((), "", clock)
    config = call.load_config()
    return OnlineLooks(config.anchors, config.cluster, clock)


def _bundle_lines(output: Output, document: dict[str, Any]) -> list[str]:
    checkpoint, claims = document["checkpoint"], document["claims"]
    lines = [
        f"{printable(document['file'])}: checkpoint of {checkpoint['origin']}, {count(checkpoint['size'], 'record')}",
        f"  root {checkpoint['root']}",
        f"  made {claims['created']} by {printable(claims['tool'])}, as the file itself says",
        *check_lines(output, document["checks"]),
    ]
    lines += [f"  row   {printable(row['table'])}: {printable(row['statement'])}" for row in document["rows"]]
    lines += not_checked_lines(document["not_checked"])
    return [*lines, f"{output.word(document['verdict'])}: {summary(document['checks'])}"]
