"""How commands are put together: sections of the help page, and the example that ends every command's help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Final, TypeVar

import typer
from typer.core import TyperGroup

SET_UP, RUN, LOOK, MANAGE, MORE = "Set up", "Run", "Look", "Manage", "More"
SECTIONS: Final = (SET_UP, RUN, LOOK, MANAGE, MORE)
SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

F = TypeVar("F", bound=Callable[..., Any])

OutputFile = Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to write it; - is stdout.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is journalled with the decision.")]


class Group(TyperGroup):
    """A group whose help page lists its commands by section, those without one under Commands."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        shown: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                section = getattr(command, "rich_help_panel", None)
                section = section if section in SECTIONS else "Commands"
                shown.setdefault(section, []).append((name, command.get_short_help_str(limit=90)))
        for section in (*SECTIONS, "Commands"):
            if rows := shown.get(section):
                with formatter.section(section):
                    formatter.write_dl(rows)


def examples(*lines: str) -> str:
    """The end of a command's help; ``\\b`` keeps the lines as they are."""
    return "\b\n" + "\n".join(["Example:" if len(lines) == 1 else "Examples:", *(f"  {line}" for line in lines)])


def add_command(app: typer.Typer, name: str, *lines: str, section: str | None = None) -> Callable[[F], F]:
    """Register a function as a command whose help ends with these example lines."""
    return app.command(name, epilog=examples(*lines), rich_help_panel=section, context_settings=dict(SETTINGS))


def add_group(app: typer.Typer, name: str, about: str, *lines: str, section: str | None = None) -> typer.Typer:
    """Register a group of commands."""
    group = typer.Typer(
        cls=Group,
        name=name,
        help=about,
        epilog=examples(*lines),
        rich_markup_mode=None,
        rich_help_panel=section,
        add_completion=False,
        context_settings=dict(SETTINGS),
    )
    app.add_typer(group, rich_help_panel=section)
    return group
