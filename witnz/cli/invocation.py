"""One call of the program: what the global options said, and what nearly every command needs from them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from witnz.cli.output import Output
from witnz.errors import ConfigError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from witnz.config import Config
    from witnz.config.types import Secret

LEVELS: Final = ("warning", "info", "debug")


@dataclass(frozen=True, slots=True)
class Invocation:
    """``config_path``: what ``--config`` named, None where the search decides."""

    config_path: Path | None
    output: Output

    def load_config(self, path: Path | None = None) -> Config:
        """The configuration, in this file if one is given; from now on logs go to stderr without its secrets.

        Raises ConfigError.
        """
        from witnz.config import load_config

        config = load_config(path or self.config_path, os.environ)
        self.log_to_stderr(config.secrets())
        return config

    def startable_config(self) -> Config:
        """The configuration of a node that could start.  Raises ConfigError with the list of what is missing."""
        config = self.load_config()
        check_startable(config)
        return config

    def log_to_stderr(self, secrets: Iterable[Secret] = (), *, least: str | None = None, fmt: Any = "console") -> None:
        """Show the log from ``least`` on (default: warning), with ``-v`` more of it, with ``-q`` errors only."""
        from witnz.logging import configure_logging

        verbose = self.output.verbose
        level: Any = "error" if self.output.quiet else LEVELS[min(verbose, 2)] if verbose or least is None else least
        configure_logging(level, fmt, secrets=secrets)


def invocation(context: Any) -> Invocation:
    """The call that a command's context belongs to."""
    found = context.find_root().obj
    if not isinstance(found, Invocation):
        raise UsageError("the command was called without its program", hint="use witnz.cli.main.main()")
    return found


def check_startable(config: Config, *, members: bool = True) -> None:
    """Raise ConfigError with everything that a node still needs; without ``members`` the list of them may be incomplete."""
    missing = config.missing_for_start()
    if not members:
        missing = [line for line in missing if line not in config.missing_members()]
    if missing:
        lines = "\n".join(f"  {line}" for line in missing)
        raise ConfigError(
            f"{config.path}: a node cannot start with it yet\n{lines}",
            hint=what_is_missing_hint(missing),
            code="config.incomplete",
        )


def what_is_missing_hint(missing: Sequence[str]) -> str:
    """Where to get what a node still needs: the members' keys from the members, the rest from whoever knows it."""
    if all(line.startswith("nodes[") for line in missing):
        return "`witnz init` on each member makes its keys and prints its line for nodes; put the lines into all files"
    return "`witnz config explain KEY` says more about each"
