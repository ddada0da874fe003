"""How commands are put together: sections of the help page, and the example that ends every command's help."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

import typer
from typer.core import TyperCommand, TyperGroup

SET_UP, RUN, LOOK, MANAGE, MORE = "Set up", "Run", "Look", "Manage", "More"
SECTIONS: Final = (SET_UP, RUN, LOOK, MANAGE, MORE)
SETTINGS: Final = {"help_option_names": ["-h", "--help"], "max_content_width": 100}

F = TypeVar("F", bound=Callable[..., Any])

OutputFile = Annotated[str, typer.Option("--output", "-o", metavar="FILE", help="Where to write it; - is stdout.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is journalled with the decision.")]


class _Plain:
    """Takes what needs no conversion as it is, and leaves everything else to typer.

    Recent versions of typer convert every value with pydantic, whose import takes longer than verifying a bundle.
    """

    def __init__(self, parameter: Any) -> None:
        self._parameter = parameter

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        annotation = param.type_descriptor.annotation
        if value is None:  # not given
            return () if param.multiple or param.nargs == -1 else None
        if isinstance(annotation, type) and isinstance(value, annotation):
            return value
        if annotation is Path and isinstance(value, str):
            return Path(value)
        if isinstance(annotation, type) and issubclass(annotation, Enum) and value in [member.value for member in annotation]:
            return annotation(value)
        if get_origin(annotation) is list and get_args(annotation) == (str,):
            return list(value)
        self._parameter._runtime_param = None
        return self._parameter.get_runtime_param().coerce(value, param=param, ctx=ctx)


def _take_plain_values(parameters: Any) -> Any:
    for parameter in parameters:
        if getattr(parameter, "_runtime_param", "unknown") is None and hasattr(parameter, "get_runtime_param"):
            parameter._runtime_param = _Plain(parameter)
    return parameters


class Command(TyperCommand):
    """A command that does not load what it does not need."""

    def get_params(self, ctx: Any) -> Any:
        return _take_plain_values(super().get_params(ctx))


class Group(TyperGroup):
    """A group whose help page lists its commands by section, those without one under Commands."""

    def get_params(self, ctx: Any) -> Any:
        return _take_plain_values(super().get_params(ctx))

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
    settings = dict(SETTINGS)
    return app.command(name, cls=Command, epilog=examples(*lines), rich_help_panel=section, context_settings=settings)


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
