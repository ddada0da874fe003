"""``witnz keys rotate``: another key in the place of one in force, journalled and signed by an operator.

The order makes every step safe to stop after and to run again: the new key is a file -> the journal has it in force -> whoever
signs takes it into use.  What was signed before stays verifiable: policies list the keys that a member has had.
"""

from __future__ import annotations

import json
import os
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from witnz.cli.access import documents, open_store
from witnz.cli.deciding import Operator, OperatorKey, Yes, cluster_id, confirm, decide
from witnz.cli.invocation import invocation
from witnz.errors import UsageError

if TYPE_CHECKING:
    from witnz.config import Config
    from witnz.core.journal import JournalState
    from witnz.core.keys import VerifierKey

_NUMBERED = re.compile(r"(.*?)(?:-([1-9][0-9]*))?")


class Rotated(StrEnum):
    """Whose key is replaced."""

    IDENTITY = "identity"
    COSIGNER = "cosigner"
    LOG = "log"
    OPERATOR = "operator"
    INTENT = "intent"
    REPORT = "report"


def rotate(
    context: typer.Context,
    kind: Annotated[
        Rotated, typer.Argument(help="identity, cosigner: this node's; log: the cluster's; operator, intent, report: NAME's.")
    ],
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="Whose, for operator, intent and report.")] = None,
    *,
    operator_key: OperatorKey,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="The new key file; else KIND-NAME.key here, or this node's report key."
        ),
    ] = None,
    yes: Yes = False,
) -> int:
    """Replace a key by a new one, signed by an operator.

    Run it on the node whose key it is; its report key too.  A person's key gets the next number in its name (alice, alice-2),
    and the old one ends.
    """
    call = invocation(context)
    config = call.load_config()
    operator = Operator.load(operator_key)
    with open_store(config) as db:
        from witnz.node.view import load_journal_state

        state = load_journal_state(db)
    confirm(call.output, f"Replace the {kind.value} key{f' of {name}' if name else ''}, signed by {operator.name}?", yes=yes)
    if kind in (Rotated.OPERATOR, Rotated.INTENT, Rotated.REPORT):
        document = _rotate_person(config, state, operator, kind, name, output)
    elif name is not None or output is not None:
        raise UsageError(f"a {kind.value} key has no NAME and no file of its own", hint=f"witnz keys rotate {kind.value}")
    else:
        document = _rotate_node(config, state, operator, kind)
    lines = [f"{kind.value}: {document['public']} in force from record {document['journal_seq']} on"]
    lines += [f"created  {document['file']}"] if document["file"] else []
    lines += (
        ["give verifiers the new policy:  witnz keys policy -o policy.txt"] if kind in (Rotated.COSIGNER, Rotated.LOG) else []
    )
    if kind is Rotated.IDENTITY and len(state.members) > 1:
        lines.append("restart this node now: the others expect the new key at its connections")
    call.output.answer(document, lines)
    return 0


def _newest_lsn(config: Config) -> str:
    from witnz.core.lsn import format_lsn, parse_lsn

    with documents(config) as source:
        return format_lsn(max((parse_lsn(table["lsn"]) for table in source.tables()), default=0))


def _lsn_behind_all(config: Config) -> str:
    """Behind everything that is committed, however far each member has come: what a key signed until now stays authorised.

    Without the database: behind everything that this node recorded.
    """
    from witnz.core.lsn import format_lsn, parse_lsn
    from witnz.errors import DatabaseError
    from witnz.node.setup import conninfo_of
    from witnz.postgres.session import connect

    try:
        with connect(conninfo_of(config), application_name="witnz keys") as conn:
            row = conn.execute("SELECT pg_current_wal_insert_lsn()::text").fetchone()
            assert row is not None
            return str(row[0])
    except DatabaseError:
        return format_lsn(parse_lsn(_newest_lsn(config)) + 1)


# -- keys of the node ---------------------------------------------------------------------------------------------------------


def _rotate_node(config: Config, state: JournalState, operator: Operator, kind: Rotated) -> dict[str, Any]:
    from witnz.core.periods import member_body

    member = state.members.get(config.node_id)
    if member is None:
        raise UsageError(f"{config.node_id} is no member", hint="`witnz cluster status` lists the members")
    new = _waiting_key(config, kind)
    lsn = _newest_lsn(config)
    if kind is Rotated.LOG:
        name = f"log-{len(state.periods.now.retired_logs) + 2}"
        body: Mapping[str, Any] = {"action": "add", "kind": "log", "name": name, "key": str(new), "from_lsn": lsn}
        record_type = "key"
    else:
        changed = {"identity": new.public} if kind is Rotated.IDENTITY else {"cosigner": str(new)}
        body, record_type = member_body("add", replace(member, **changed), lsn), "member"
    seq = decide(config, record_type, operator.sign(record_type, body, cluster_id(config)))
    return {"schema": "witnz.rotation/1", "kind": kind.value, "public": str(new), "file": None, "journal_seq": seq}


def _waiting_key(config: Config, kind: Rotated) -> VerifierKey:
    """The key that is to follow, as a file beside the one in force; one that an interrupted rotation left is used."""
    from witnz.core.keys import COSIGNATURE, ED25519, format_private_key, parse_private_key
    from witnz.node.keyring import cosigner_name, identity_name, next_file
    from witnz.store.datadir import DataDir, load_key_file, save_key_file

    names = {
        Rotated.IDENTITY: (identity_name(config.cluster, config.node_id), ED25519),
        Rotated.COSIGNER: (cosigner_name(config.cluster, config.node_id), COSIGNATURE),
        Rotated.LOG: (config.cluster, ED25519),
    }
    path = next_file(DataDir(config.data_dir).keys_dir / f"{kind.value}.key")
    if not path.exists():
        save_key_file(path, format_private_key(*names[kind], os.urandom(32)))
    return parse_private_key(load_key_file(path)).verifier()


# -- keys of people and programs ----------------------------------------------------------------------------------------------


def _rotate_person(
    config: Config, state: JournalState, operator: Operator, kind: Rotated, name: str | None, output: Path | None
) -> dict[str, Any]:
    from witnz.cli.keys import Kind, create_key
    from witnz.node.keyring import next_file
    from witnz.report import key as report_key

    in_force = state.keys_in_force(kind.value)
    if name is None or name not in in_force:
        raise UsageError(
            f"there is no {kind.value} key in force under {name!r}" if name else f"whose {kind.value} key?",
            hint="`witnz keys show` lists them; witnz keys rotate KIND NAME",
        )
    if kind is Rotated.OPERATOR:
        _use_authorisation_of(config, name)
    new_name = _next_name(name, in_force)
    own = _own_report_key(config, in_force[name]) if kind is Rotated.REPORT and output is None else None
    path = output or Path(f"{kind.value}-{new_name}.key") if own is None else next_file(own)
    if own is not None and path.exists():  # of a rotation that was interrupted
        public = b64encode(report_key.load(path).public_der).decode()
    else:
        public = create_key(Kind(kind.value), new_name, path, config)
    lsn, cluster = _lsn_behind_all(config), cluster_id(config)
    added = {"action": "add", "kind": kind.value, "name": new_name, "key": public, "from_lsn": lsn}
    seq = decide(config, "key", operator.sign("key", added, cluster))
    if own is not None:
        path = path.replace(own)
    removed = {**added, "action": "remove", "name": name, "key": b64encode(in_force[name]).decode()}
    signer = operator
    if kind is Rotated.OPERATOR and operator.name == name:
        signer = Operator.load(path)  # the old key may still sign, but the new one shows that it works
    ended = decide(config, "key", signer.sign("key", removed, cluster))
    return {
        "schema": "witnz.rotation/1",
        "kind": kind.value,
        "name": new_name,
        "public": public,
        "file": str(path),
        "journal_seq": seq,
        "ended_seq": ended,
    }


def _use_authorisation_of(config: Config, operator: str) -> None:
    """Journal this node's report key while the signature of the operator who authorised it at ``witnz init`` still counts.

    Else the first report, which journals it, comes too late.
    """
    from witnz.report.key import AUTHORISATION
    from witnz.store.datadir import DataDir, load_key_file

    path = DataDir(config.data_dir).keys_dir / AUTHORISATION
    if not path.exists():
        return
    body = json.loads(load_key_file(path))
    if body["auth"]["operator"] == operator:
        decide(config, "key", body)
        path.unlink()


def _own_report_key(config: Config, public: bytes) -> Path | None:
    """The file of this node's report key, if that is the one: the node goes on with what takes its place."""
    from witnz.report import key as report_key
    from witnz.store.datadir import DataDir

    path = DataDir(config.data_dir).keys_dir / report_key.FILE
    return path if path.exists() and report_key.load(path).public_der == public else None


def _next_name(name: str, in_force: Mapping[str, bytes]) -> str:
    """alice, alice-2, alice-3: the next one that no key in force has."""
    match = _NUMBERED.fullmatch(name)
    stem, number = (match[1], int(match[2] or 1)) if match else (name, 1)
    while True:
        number += 1
        if f"{stem}-{number}" not in in_force:
            return f"{stem}-{number}"
