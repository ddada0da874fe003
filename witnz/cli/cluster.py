"""``witnz cluster``: who the members are, and how one is added or taken away.

Membership is what the journal says; each change is one record that an operator signs, and the next one waits until the members
have come to it.  The file's ``nodes`` is where a new member's address and keys are read from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from witnz.cli.access import documents, open_store, running_client
from witnz.cli.command import MANAGE, add_command, add_group
from witnz.cli.deciding import Operator, OperatorKey, Yes, cluster_id, confirm, decide
from witnz.cli.invocation import Invocation, invocation
from witnz.cli.text import age, columns, count
from witnz.errors import ConfigError, FormatError, ReplicationImpossible, UsageError

if TYPE_CHECKING:
    from witnz.config import Config
    from witnz.core.journal import JournalState
    from witnz.core.journal_facts import Member

NodeName = Annotated[str, typer.Argument(metavar="ID", help="The member's node.id.")]


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    group = add_group(app, "cluster", "Members: status, add, remove.", "witnz cluster status", section=MANAGE)
    add_command(group, "status", "witnz cluster status", "witnz cluster status --json")(status)
    add_command(
        group,
        "add",
        "witnz cluster add node2 --operator-key operator-alice.key",
        "witnz cluster add node2 node2.internal:7000 0qf3… --cosigner prod.example.com/app/nodes/node2+… --operator-key FILE",
    )(add)
    add_command(group, "remove", "witnz cluster remove node3 --operator-key operator-alice.key")(remove)


# -- status -------------------------------------------------------------------------------------------------------------------


def status(context: typer.Context) -> int:
    """Show the members in force, what is known of each, who leads, and where the file wishes something else."""
    call = invocation(context)
    config = call.load_config()
    with documents(config) as source:
        cluster = source.status()["cluster"]
    state = _journal(config)
    document = {
        "schema": "witnz.cluster/1",
        **cluster,
        "members": [_member_document(member, state) for member in cluster["members"]],
        "differing": _differing(config, state),
    }
    call.output.answer(document, _status_lines(document))
    return 0


def _journal(config: Config) -> JournalState | None:
    """The journal in the store, for those who may read it."""
    from witnz.errors import KeyProblem
    from witnz.node.view import load_journal_state

    try:
        with open_store(config) as db:
            return load_journal_state(db)
    except KeyProblem:
        return None


def _member_document(member: Mapping[str, Any], state: JournalState | None) -> dict[str, Any]:
    known = None if state is None else state.members.get(member["id"])
    if known is None:
        return dict(member)
    from witnz.core.lsn import format_lsn

    return {**member, "addr": known.addr, "from_lsn": format_lsn(known.from_lsn)}


def _differing(config: Config, state: JournalState | None) -> list[str]:
    from witnz.node.membership import wishes_of

    return [] if state is None else wishes_of(config, state)


def _status_lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield f"cluster      {document['origin']} ({document['id']})"
    leader = document["leader"] or ("unknown" if document["term"] is not None else "the node is not running")
    yield f"leader       {leader}"
    yield f"quorum       {document['quorum']} of {count(len(document['members']), 'member')}"
    rows = [["  MEMBER", "STATE", "RECORDS", "SEEN", "ADDRESS", "WITNESS FROM"]]
    for member in document["members"]:
        rows.append(
            [
                f"  {member['id']}",
                member["state"] or "-",
                "-" if member["size"] is None else f"{member['size']:,}",
                age(member["last_seen_s"]),
                member.get("addr", "-"),
                member.get("from_lsn", "-"),
            ]
        )
    yield from columns(rows, right=(2,))
    yield from (f"note: {line}" for line in document["differing"])


# -- changes ------------------------------------------------------------------------------------------------------------------


def add(
    context: typer.Context,
    node: NodeName,
    address: Annotated[str | None, typer.Argument(metavar="ADDR", help="host:port; from the file if not given.")] = None,
    key: Annotated[str | None, typer.Argument(metavar="KEY", help="Its identity key; from the file if not given.")] = None,
    *,
    operator_key: OperatorKey,
    cosigner: Annotated[
        str | None, typer.Option("--cosigner", metavar="VKEY", help="Its cosigner's verifier key; from the file if not given.")
    ] = None,
    slot: Annotated[
        str | None, typer.Option("--slot", metavar="NAME", help="Its replication slot, where it is not named by default.")
    ] = None,
    yes: Yes = False,
) -> int:
    """Add a member, signed by an operator.

    On the new machine run `witnz init` first: it makes the node's keys and its slot, from whose position on the node is a
    witness.  One member is added at a time.
    """
    call = invocation(context)
    config = call.load_config()
    operator = Operator.load(operator_key)
    member = _new_member(config, node, address, key, cosigner)
    state = _journal(config)
    known = None if state is None else state.members.get(node)
    if known is not None:
        raise UsageError(
            f"{node} is a member already", hint="`witnz keys rotate` changes its keys; `witnz cluster status` lists it"
        )
    _check_settled(config, state)
    from_lsn = _witness_from(config, node, slot)
    confirm(call.output, f"Add {node} at {member.addr} to the members, signed by {operator.name}?", yes=yes)
    return _decide(call, config, operator, "add", member, from_lsn)


def remove(context: typer.Context, node: NodeName, *, operator_key: OperatorKey, yes: Yes = False) -> int:
    """Take a member away, signed by an operator.  What it signed stays valid; its id should not be used again."""
    call = invocation(context)
    config = call.load_config()
    operator = Operator.load(operator_key)
    state = _journal(config)
    if state is None or node not in state.members:
        raise UsageError(f"{node} is no member", hint="`witnz cluster status` lists the members")
    member = state.members[node]
    from witnz.core.lsn import format_lsn

    confirm(call.output, f"Remove {node} from the members, signed by {operator.name}?", yes=yes)
    return _decide(call, config, operator, "remove", member, format_lsn(state.last_seal_lsn))


def _new_member(config: Config, node: str, address: str | None, key: str | None, cosigner: str | None) -> Member:
    """From the words, and what they leave out from the file.  Raises UsageError for what neither says."""
    from witnz.config import MemberConfig

    entry = config.member(node)
    given = {
        "id": node,
        "addr": address or (entry.address if entry else None),
        "key": key or (entry.key if entry else None),
        "cosigner": cosigner or (entry.cosigner if entry else None),
    }
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise UsageError(
            f"{node}: {', '.join(missing)} not given, and nodes of {config.path} does not list it",
            hint="`witnz init` on the new machine prints its line; put it under nodes, or give ADDR KEY --cosigner VKEY",
        )
    try:
        member = MemberConfig.model_validate(given).member()
    except (ValueError, FormatError, ConfigError) as error:
        raise UsageError(f"{node}: its address or a key is none: {str(error).splitlines()[0]}") from None
    if not member.cosigner.startswith(f"{config.cluster}/nodes/{node}+"):
        raise UsageError(
            f"the cosigner key is not one of {config.cluster}/nodes/{node}", hint="copy the line that its `witnz init` printed"
        )
    return member


def _check_settled(config: Config, state: JournalState | None) -> None:
    """One change at a time, and none while a generation is being opened.  Raises UsageError."""
    if state is not None and state.opened:
        raise UsageError(
            f"a generation of {', '.join(sorted(state.opened))} is being opened",
            hint="try again when `witnz status` shows none",
        )
    with documents(config) as source:
        members = source.status()["cluster"]["members"]
    down = [member["id"] for member in members if member["state"] not in ("up", None)]
    if len(members) > 1 and down:
        raise UsageError(
            f"not all members are up: {', '.join(down)}",
            hint="members change one at a time, when all have come to the last change",
        )


def _witness_from(config: Config, node: str, slot: str | None) -> str:
    """The position of the new node's slot, from which on it sees everything itself."""
    from witnz.config import default_slot
    from witnz.core.lsn import format_lsn
    from witnz.node.setup import conninfo_of
    from witnz.postgres.session import connect
    from witnz.postgres.slot import slot_state

    name = slot or default_slot(config.cluster, node)
    with connect(conninfo_of(config), application_name="witnz cluster") as conn:
        found = slot_state(conn, name)
    if found is None or found.confirmed_flush_lsn is None:
        raise ReplicationImpossible(
            f"there is no replication slot {name} of {node}",
            hint="run `witnz init` on the new machine first; it makes the slot (--slot NAME if its file names another)",
        )
    return format_lsn(found.confirmed_flush_lsn)


def _decide(call: Invocation, config: Config, operator: Operator, action: str, member: Member, from_lsn: str) -> int:
    from witnz.core.periods import member_body

    body = member_body(action, member, from_lsn)
    seq = decide(config, "member", operator.sign("member", body, cluster_id(config)))
    with running_client(config) as client:
        running = client is not None
    state = _journal(config)
    document = {
        "schema": "witnz.member/1",
        "action": action,
        "id": member.id,
        "journal_seq": seq,
        "members": sorted(state.members) if state is not None else [],
        "genesis": _genesis(config),
    }
    call.output.answer(document, _decided_lines(document, running=running))
    return 0


def _genesis(config: Config) -> str | None:
    from witnz.errors import KeyProblem
    from witnz.node.joining import stored_genesis_digest

    try:
        with open_store(config) as db:
            return stored_genesis_digest(db)
    except KeyProblem:
        return None


def _decided_lines(document: Mapping[str, Any], *, running: bool) -> Iterator[str]:
    done = "added to" if document["action"] == "add" else "removed from"
    yield f"{document['id']} was {done} the members by record {document['journal_seq']}: {', '.join(document['members'])}"
    if document["action"] == "add":
        yield ""
        yield f"In the file of {document['id']}, beside the list of members:"
        yield ""
        yield f"  genesis: {document['genesis']}"
        yield ""
        yield f"next:  `witnz start` on {document['id']}"
    if running and len(document["members"]) == (2 if document["action"] == "add" else 1):
        yield "and restart this node: a cluster that grows from one, or shrinks to it, changes how records are ordered"
