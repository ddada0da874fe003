"""``witnz keys``: whose keys count here, the policy for verifiers, and new keys for people and programs."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from witnz.cli.access import open_store, running_client
from witnz.cli.approvers import approvers
from witnz.cli.command import MANAGE, OutputFile, add_command, add_group
from witnz.cli.deciding import Operator, Yes, cluster_id, confirm, decide
from witnz.cli.files import STANDARD, write_output
from witnz.cli.invocation import invocation
from witnz.cli.rotation import rotate
from witnz.cli.text import printable
from witnz.errors import FormatError, UsageError, WitnzError

if TYPE_CHECKING:
    from witnz.config import Config
    from witnz.core.journal import JournalState


class Kind(StrEnum):
    """What a key is for."""

    OPERATOR = "operator"
    INTENT = "intent"
    REPORT = "report"


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    group = add_group(
        app, "keys", "Keys and trust: show, policy, new, rotate.", "witnz keys policy -o policy.txt", section=MANAGE
    )
    add_command(group, "show", "witnz keys show", "witnz keys show --json")(show)
    add_command(group, "policy", "witnz keys policy -o policy.txt")(policy)
    add_command(
        group, "approvers", 'witnz keys approvers 2 --operator-key operator-alice.key --reason "four eyes for erasures"'
    )(approvers)
    add_command(
        group,
        "new",
        "witnz keys new intent billing-service --operator-key operator-alice.key",
        "witnz keys new operator bob -o operator-bob.key",
    )(new)
    add_command(
        group,
        "rotate",
        "witnz keys rotate cosigner --operator-key operator-alice.key",
        "witnz keys rotate operator alice --operator-key operator-alice.key",
    )(rotate)


# -- what is in force ---------------------------------------------------------------------------------------------------------


def show(context: typer.Context) -> int:
    """Show the keys in force: the log's, each member's identity and cosigner, operators, intent keys."""
    call = invocation(context)
    document = {"schema": "witnz.keys/1", **_keys_in_force(call.load_config())}
    call.output.answer(document, _lines(document))
    return 0


def policy(
    context: typer.Context,
    *,
    output: OutputFile,
    checkpoint: Annotated[
        int | None, typer.Option("--checkpoint", metavar="SIZE", help="The policy of the time of that checkpoint.")
    ] = None,
    current_only: Annotated[
        bool, typer.Option("--current-only", help="Leave out keys that were replaced: nothing they signed counts any more.")
    ] = False,
) -> int:
    """Write the policy file with which anybody verifies what this cluster signs; keep it where nobody here can change it.

    It lists the present members with the keys that they have and had, so that older bundles of theirs stay verifiable.  What
    was signed under other members has the policy of its own time (--checkpoint).
    """
    call = invocation(context)
    text = _policy_text(call.load_config(), checkpoint, retired=not current_only)
    if output == STANDARD and call.output.as_json:
        raise UsageError("the policy and --json cannot both go to stdout", hint="name a file with -o")
    write_output(output, text.encode())
    if output != STANDARD:
        document = {"schema": "witnz.policy/1", "file": output, "policy": text}
        call.output.answer(document, [f"wrote {output}", *(f"  {line}" for line in text.rstrip("\n").splitlines())])
    return 0


def _policy_text(config: Config, checkpoint: int | None, *, retired: bool) -> str:
    """From the store; for those who may only use the socket, what the newest bundle claims."""
    from witnz.core.bundle import parse_bundle
    from witnz.node.view import load_journal_state

    try:
        with open_store(config) as db:
            periods = load_journal_state(db).periods
    except WitnzError:
        with running_client(config) as client:
            if client is None or not retired:
                raise
            return parse_bundle(client.checkpoint_bundle(checkpoint)).policy.text
    return (periods.now if checkpoint is None else periods.at(checkpoint)).policy(retired=retired)


def _keys_in_force(config: Config) -> dict[str, Any]:
    """From the store; for those who may only use the socket, from the genesis record that a bundle shows."""
    from witnz.node.joining import stored_genesis_digest
    from witnz.node.view import load_journal_state

    try:
        with open_store(config) as db:
            return _of_state(load_journal_state(db), stored_genesis_digest(db))
    except WitnzError as error:
        with running_client(config) as client:
            if client is None:
                raise
            return _of_bundle(client.checkpoint_bundle(), error)


def _of_state(state: JournalState, genesis: str | None) -> dict[str, Any]:
    return {
        "cluster": state.cluster,
        "cluster_id": state.cluster_id,
        "quorum": state.quorum,
        "log": state.log_key,
        "genesis": genesis,
        "members": [
            {"id": member.id, "addr": member.addr, "identity": _b64(member.identity), "cosigner": member.cosigner}
            for member in state.members.values()
        ],
        "operators": _named(state.keys_in_force("operator")),
        "intents": _named(state.keys_in_force("intent")),
        "reports": _named(state.keys_in_force("report")),
    }


def _of_bundle(data: bytes, error: WitnzError) -> dict[str, Any]:
    from witnz.core.bundle import parse_bundle
    from witnz.node.joining import genesis_digest

    for proven in parse_bundle(data).records:
        if proven.record.type == "genesis":
            body = proven.record.body
            operators = [{"name": one["name"], "key": one["key"]} for one in body["operators"]]
            return {
                "cluster": body["cluster"],
                "cluster_id": proven.record.cluster,
                "quorum": body["quorum"],
                "log": body["log_key"],
                "genesis": genesis_digest(proven.record),
                "members": [dict(member) for member in body["members"]],
                "operators": operators,
                "intents": [],
                "reports": [],
            }
    raise FormatError(f"the node's checkpoint bundle shows no genesis record, and the store was not read: {error.message}")


def _named(keys: Mapping[str, bytes]) -> list[dict[str, str]]:
    return [{"name": name, "key": _b64(key)} for name, key in sorted(keys.items())]


def _lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"cluster    {document['cluster']} ({document['cluster_id']})"
    yield f"genesis    {document['genesis']}"
    yield f"log        {document['log']}"
    for member in document["members"]:
        yield f"member     {member['id']}"
        yield f"  identity {member['identity']}"
        yield f"  cosigner {member['cosigner']}"
    yield f"quorum     {document['quorum']} of {len(document['members'])}"
    for kind in ("operators", "intents", "reports"):
        for key in document[kind]:
            yield f"{kind[:-1]:<9}  {printable(key['name'])}  {key['key']}"


# -- new ----------------------------------------------------------------------------------------------------------------------


def new(
    context: typer.Context,
    kind: Annotated[Kind, typer.Argument(help="operator: decides; intent: signs changes beforehand; report: signs reports.")],
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the journal calls the key.")],
    *,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="The key file; KIND-NAME.key here, if not given.")
    ] = None,
    operator_key: Annotated[
        Path | None, typer.Option("--operator-key", metavar="FILE", help="Journal the new key, signed with this one.")
    ] = None,
    yes: Yes = False,
) -> int:
    """Make a key for a person or a program, and with --operator-key put it into force.

    A key counts only once it is journalled.  The file never overwrites another, and its private part is shown nowhere.
    """
    call = invocation(context)
    path = output or Path(f"{kind.value}-{_check_name(name)}.key")
    operator = None if operator_key is None else Operator.load(operator_key)
    config = call.load_config() if operator is not None else None
    public = create_key(kind, name, path, config)
    seq = None
    if operator is not None and config is not None:
        confirm(call.output, f"Put the {kind.value} key {name} into force, signed by {operator.name}?", yes=yes)
        seq = _journal(config, operator, kind, name, public)
    document = {
        "schema": "witnz.key/1",
        "kind": kind.value,
        "name": name,
        "public": public,
        "file": str(path),
        "journal_seq": seq,
    }
    in_force = (
        f"in force from record {seq} on" if seq is not None else "not in force: no operator signed for it (--operator-key)"
    )
    call.output.answer(document, [f"created  {path}", f"public   {public}", in_force])
    return 0


def _check_name(name: str) -> str:
    if not name or len(name) > 64 or not all(char.isalnum() or char in "._-" for char in name):
        raise UsageError(f"name of a key: expected 1 to 64 letters, digits, . _ or -, found {name[:70]!r}")
    return name


def create_key(kind: Kind, name: str, path: Path, config: Config | None) -> str:
    """Write the key file; the public key as its ``key`` record holds it: 32 bytes in base64, of a report key its DER."""
    if kind is Kind.REPORT:
        from witnz.node.view import now_us
        from witnz.report import key as report_key

        made = report_key.create("witnz" if config is None else config.cluster, name, now_us())
        report_key.save(path, made)
        return _b64(made.public_der)
    from witnz.node.keyring import create_person_key

    return _b64(create_person_key(path, kind.value, name).public)


def _journal(config: Config, operator: Operator, kind: Kind, name: str, public: str) -> int:
    """In force for everything that happens from the newest recorded position on."""
    from witnz.cli.access import documents
    from witnz.core.lsn import format_lsn, parse_lsn

    with documents(config) as source:
        positions = [parse_lsn(table["lsn"]) for table in source.tables()]
    body = {
        "action": "add",
        "kind": kind.value,
        "name": name,
        "key": public,
        "from_lsn": format_lsn(max(positions, default=0)),
    }
    return decide(config, "key", operator.sign("key", body, cluster_id(config)))


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()
