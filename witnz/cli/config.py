"""``witnz config``: what is wrong with the file, what it comes to, and what each key means."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from witnz.cli.command import MANAGE, add_command, add_group
from witnz.cli.config_apply import apply
from witnz.cli.invocation import invocation
from witnz.cli.text import count, printable

if TYPE_CHECKING:
    from witnz.config import Key


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    group = add_group(app, "config", "The configuration: check, show, explain, apply.", "witnz config check", section=MANAGE)
    add_command(group, "check", "witnz config check", "witnz config check -c /etc/witnz/witnz.yaml --json")(check)
    add_command(group, "show", "witnz config show")(show)
    add_command(
        group,
        "apply",
        "witnz config apply --operator-key operator-alice.key",
        'witnz config apply --operator-key operator-alice.key --reason "prices change by hand from now on, ticket 4711"',
    )(apply)
    add_command(group, "explain", "witnz config explain verify_interval", "witnz config explain protected_tables")(explain)


def check(context: typer.Context) -> int:
    """Say everything that is wrong with the file, and what `witnz start` still needs.

    A file that loads is exit code 0, also one with which no node can start yet.
    """
    call = invocation(context)
    config = call.load_config()
    missing = config.missing_for_start()
    document = {
        "schema": "witnz.config-check/1",
        "path": str(config.path),
        "cluster": config.cluster,
        "tables": [table.name for table in config.protected_tables],
        "startable": not missing,
        "missing": missing,
        "notices": list(config.notices),
    }
    tables = count(len(config.protected_tables), "protected table")
    lines = [f"{config.path}: {call.output.word('ok')}, cluster {config.cluster}, {tables}"]
    lines += [f"  {call.output.word('warn')}  {printable(notice)}" for notice in config.notices]
    if missing:
        lines += ["`witnz start` still needs:", *(f"  {printable(item)}" for item in missing)]
    call.output.answer(document, lines)
    return 0


def show(context: typer.Context) -> int:
    """Show the effective configuration: defaults and derived names filled in, secrets masked."""
    call = invocation(context)
    config = call.load_config()
    import yaml

    from witnz.config import config_to_public_dict

    public = config_to_public_dict(config)
    text = yaml.safe_dump(public, sort_keys=False, allow_unicode=True, default_flow_style=False, width=1 << 16)
    document = {"schema": "witnz.config/1", "path": str(config.path), "config": public}
    call.output.answer(document, [f"# {config.path}", text.rstrip("\n")])
    return 0


def explain(
    context: typer.Context, key: Annotated[str, typer.Argument(help="A key, a section, or the last part of a key.")]
) -> int:
    """Say what a key means, what it may be, its default, and an example."""
    from witnz.config import explain_keys

    keys = explain_keys(key)
    document = {"schema": "witnz.config-keys/1", "keys": [_document(one) for one in keys]}
    invocation(context).output.answer(document, _lines(keys))
    return 0


def _document(key: Key) -> dict[str, Any]:
    return {
        "key": key.pattern,
        "type": key.type,
        "allowed": key.allowed,
        "default": key.default,
        "meaning": key.meaning,
        "example": key.example,
        "secret": key.secret,
        "historical": key.historical,
        "also": list(key.also),
    }


def _lines(keys: list[Key]) -> Iterator[str]:
    for place, key in enumerate(keys):
        if place:
            yield ""
        yield key.pattern
        yield f"  {key.meaning}"
        yield f"  must be {key.allowed}" + ("; a secret, never shown" if key.secret else "")
        if key.default:
            yield "  required" if key.default == "required" else f"  default: {key.default}"
        if key.also:
            yield f"  also written {', '.join(key.also)}"
        if key.example and key.form == "value":
            yield f"  example: {key.name}: {key.example}"
