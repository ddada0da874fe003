"""``witnz doctor``: everything that a node needs, each thing checked under its name and with a remedy."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Final

import typer

from witnz.cli.access import check_owner
from witnz.cli.checks_text import check_lines, summary
from witnz.cli.command import SET_UP, add_command
from witnz.cli.invocation import invocation, what_is_missing_hint
from witnz.core.verdict import CheckStatus
from witnz.errors import NodeUnreachable, WitnzError

if TYPE_CHECKING:
    from witnz.config import Config

FAILED: Final = 6

Check = dict[str, Any]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    add_command(app, "doctor", "witnz doctor", "witnz doctor --json", section=SET_UP)(doctor)


def doctor(context: typer.Context) -> int:
    """Check every precondition, and try the real path.

    A message is written to the database and decoded back, and each anchor is rehearsed.  Exit code 6 if a check failed.
    Nothing is changed; the slot that is tried out is temporary, and what a rehearsal writes outside is locked for minutes only.
    """
    call = invocation(context)
    config = call.load_config()
    checks = [*_configuration(config), *_node(config), *_database(config), *_anchors(config)]
    failed = any(check["status"] == "fail" for check in checks)
    document = {"schema": "witnz.doctor/1", "status": "failing" if failed else "ok", "checks": checks}
    call.output.answer(document, [*check_lines(call.output, checks), summary(checks)])
    return FAILED if failed else 0


def _check(name: str, status: str, message: str, hint: str = "") -> Check:
    return {"name": name, "status": status, "message": message, "hint": hint}


def _guarded(name: str, look: Callable[[], str]) -> Check:
    """What ``look`` says; an error is a check that failed."""
    try:
        return _check(name, "ok", look())
    except WitnzError as error:
        return _check(name, "fail", error.message, error.hint)


# -- the configuration --------------------------------------------------------------------------------------------------------


def _configuration(config: Config) -> Iterator[Check]:
    missing = config.missing_for_start()
    if missing:
        yield _check("config", "fail", "; ".join(missing), what_is_missing_hint(missing))
    else:
        yield _check("config", "ok", f"{config.path} is complete")
    for notice in config.notices:
        yield _check("config", "warn", notice)


# -- this node ----------------------------------------------------------------------------------------------------------------


def _node(config: Config) -> Iterator[Check]:
    if config.node.data_dir is None or config.node.id is None:
        yield _check("data_dir", "skip", "not checked before node.id and node.data_dir are set")
        return
    store = _guarded("data_dir", lambda: _data_dir(config))
    yield store
    if store["status"] == "ok":
        yield _guarded("keys", lambda: _keys(config))
        yield from _operator_keys(config)
    else:
        yield _check("keys", "skip", "not checked before the data directory is put right")
    yield _socket(config)


def _data_dir(config: Config) -> str:
    from witnz.store.database import Database
    from witnz.store.datadir import DataDir

    data = DataDir(config.data_dir)
    data.check()
    with Database.open(data.database, read_only=True) as db:
        check_owner(db, config)
    return f"{data.path} is this node's, and can be written"


def _keys(config: Config) -> str:
    from witnz.node.keyring import load_keyring
    from witnz.store.datadir import DataDir

    keys = load_keyring(DataDir(config.data_dir).keys_dir, config.cluster, config.node_id)
    return f"identity, cosigner and log key are there; the log's is {keys.log_key}"


def _operator_keys(config: Config) -> Iterator[Check]:
    """A person's key that lies on the node lets the node decide for the person."""
    left = sorted(path.name for path in config.data_dir.glob("operator-*.key"))
    if left:
        yield _check(
            "operator_key",
            "warn",
            f"{', '.join(left)} lies in the data directory: whoever has this machine decides what counts as legitimate",
            "move it to a person's own machine",
        )


def _socket(config: Config) -> Check:
    from witnz.web.client import NodeClient

    try:
        with NodeClient(config.socket_path) as client:
            ready = client.is_ready()
    except NodeUnreachable:
        return _check("socket", "skip", f"no node answers at {config.socket_path}; none is running")
    except WitnzError as error:
        return _check("socket", "fail", error.message, error.hint)
    if ready:
        return _check("socket", "ok", f"the node at {config.socket_path} records")
    return _check("socket", "warn", f"the node at {config.socket_path} does not record now", "`witnz status` says why")


# -- the database -------------------------------------------------------------------------------------------------------------


def _database(config: Config) -> list[Check]:
    if config.database.host is None or config.database.user is None:
        return [_check("server.connect", "skip", "not tried before database.host and database.user are set")]
    from witnz.node.setup import conninfo_of
    from witnz.postgres.preflight import WatchedTable
    from witnz.postgres.preflight import doctor as preflight

    watched = [
        WatchedTable(*table.relation, table.mode, table.inserts_only, table.exclude_columns)
        for table in config.protected_tables
    ]
    slot = config.slot_name if config.node.id is not None else None
    try:
        conninfo = conninfo_of(config)
    except WitnzError as error:
        return [_check("server.connect", "fail", error.message, error.hint)]
    found = preflight(conninfo, publication=config.publication, tables=watched, slot=slot)
    return [_check(one.name, one.status, one.message, one.hint) for one in found]


# -- the anchors --------------------------------------------------------------------------------------------------------------


def _anchors(config: Config) -> Iterator[Check]:
    """Each configured anchor, rehearsed."""
    from witnz.anchor.base import Surroundings
    from witnz.anchor.registry import named, open_anchor

    surroundings = Surroundings(config.cluster, lambda: time.time_ns() // 1000)
    statuses = {CheckStatus.OK: "ok", CheckStatus.FAIL: "fail"}
    for name, section in named(config.anchors).items():
        try:
            rehearsed = open_anchor(section, surroundings).rehearse()
        except WitnzError as error:
            yield _check(f"anchor.{name}", "fail", error.message, error.hint)
            continue
        except ImportError as error:
            yield _check(f"anchor.{name}", "fail", f"the module {error.name} is not installed", f"see docs/anchors for {name}")
            continue
        for check in rehearsed:
            yield _check(f"anchor.{name}.{check.name}", statuses.get(check.status, "skip"), check.detail)
