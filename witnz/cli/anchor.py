"""``witnz anchor``: publish checkpoints outside, list what was published, look whether it is still there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from witnz.cli.access import documents, open_store, running_client
from witnz.cli.checks_text import check_lines
from witnz.cli.command import MANAGE, add_command, add_group
from witnz.cli.invocation import Invocation, invocation
from witnz.cli.text import age, columns, count, printable
from witnz.errors import NodeUnreachable

if TYPE_CHECKING:
    from witnz.config import Config

TAMPERED, INCONCLUSIVE = 3, 4
WAIT_S: Final = 60


def register(app: typer.Typer) -> None:
    """Add the group to the program."""
    group = add_group(
        app,
        "anchor",
        "Checkpoints outside: publish, list, look after them.",
        "witnz anchor now",
        "witnz anchor check --all",
        section=MANAGE,
    )
    add_command(group, "now", "witnz anchor now", "witnz anchor now s3 --wait 300")(now)
    add_command(group, "list", "witnz anchor list --limit 5")(list_)
    add_command(group, "check", "witnz anchor check --all")(check)
    add_command(group, "backends", "witnz anchor backends")(backends)


def now(
    context: typer.Context,
    *,
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[BACKEND]...", show_default=False, help="Names of anchors; all, if none.")
    ] = None,
    wait: Annotated[
        int, typer.Option("--wait", min=0, max=3600, metavar="SECONDS", help="How long to wait for receipts.")
    ] = WAIT_S,
) -> int:
    """Publish the newest final checkpoint now.

    Exit code 4 where an anchor has no receipt for it in time; what is under way goes on, and `witnz anchor list` shows it.
    """
    call = invocation(context)
    config = call.load_config()
    with running_client(config) as client:
        if client is None:
            raise NodeUnreachable(
                f"no node answers at {config.socket_path}", hint="start it with `witnz start`: a node publishes"
            )
        outcomes = client.anchor_now(names or [], wait)
    done = all(outcome["status"] in ("published", "unchanged") for outcome in outcomes)
    call.output.answer({"schema": "witnz.anchor-now/1", "anchors": outcomes}, [_outcome(one) for one in outcomes])
    return 0 if done else INCONCLUSIVE


def _outcome(outcome: Mapping[str, Any]) -> str:
    line = f"{outcome['anchor']}: {outcome['status']}"
    if outcome["status"] == "published":
        return f"{line}, checkpoint of {count(outcome['size'], 'record')}, journalled as record {outcome['journal_seq']}"
    hint = f"\n  {printable(outcome['hint'])}" if outcome.get("hint") else ""
    return f"{line}: {printable(outcome['reason'])}{hint}"


def list_(
    context: typer.Context,
    *,
    limit: Annotated[int, typer.Option("--limit", min=1, max=1000, metavar="N", help="At most so many receipts.")] = 20,
) -> int:
    """List the anchors, their newest receipts, and who would have to collude to rewrite what they cover."""
    call = invocation(context)
    with documents(call.load_config()) as source:
        document = source.anchors(limit)
    call.output.answer(document, _list_lines(document))
    return 0


def _list_lines(document: Mapping[str, Any]) -> Iterator[str]:
    yield from anchor_lines(document["anchors"])
    if document["receipts"]:
        rows = [["  SIZE", "TYPE", "JOURNALLED", "RECORD", "LAST LOOK"]]
        for one in document["receipts"]:
            look = one["looked"]
            seen = "-" if look is None else f"{look['status']} {look['at']}"
            rows.append([f"  {one['size']:,}", one["type"], one["at"], str(one["journal_seq"]), seen])
        yield "receipts"
        yield from columns(rows, right=(0, 3))
    yield from history_lines(document["history"])


def anchor_lines(anchors: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The anchors, one a line; also in ``status``."""
    if not anchors:
        yield "anchors      none is configured"
        return
    rows = [["  ANCHOR", "STATUS", "COVERS", "WHEN", "PLACE"]]
    for one in anchors:
        covers = "nothing" if one["last_size"] is None else f"{one['last_size']:,} records"
        rows.append([f"  {one['name']}", one["status"], covers, age(one["last_ok_s"]), printable(one["place"] or one["type"])])
    yield "anchors"
    yield from columns(rows)
    yield from (f"    {one['name']}: {printable(one['error'])}" for one in anchors if one["error"])


def history_lines(history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Who would have to take part to rewrite each stretch."""
    if history:
        yield "to rewrite unnoticed, all of these would have to take part:"
    for one in history:
        yield f"  records {one['from_seq']:,} to {one['to_seq']:,}: {printable(' + '.join(one['parties']))}"


# -- looking ------------------------------------------------------------------------------------------------------------------


def check(
    context: typer.Context,
    *,
    everything: Annotated[bool, typer.Option("--all", help="Every receipt, not only the newest of each anchor.")] = False,
) -> int:
    """Look whether what was anchored is still there, unchanged, locked and in sight.

    Exit code 3: something is missing, altered or hidden; 4: something could not be looked at.
    """
    call = invocation(context)
    config = call.load_config()
    with running_client(config) as client:
        found = _own_look(config, everything=everything) if client is None else client.check_anchors(everything=everything)
    statuses = {one["status"] for one in found}
    verdict = "TAMPERED" if "fail" in statuses else "VERIFIED" if statuses == {"ok"} else "INCONCLUSIVE"
    document = {"schema": "witnz.anchor-check/1", "verdict": verdict, "receipts": found}
    call.output.answer(document, _check_lines(call, found, verdict))
    return {"TAMPERED": TAMPERED, "INCONCLUSIVE": INCONCLUSIVE}.get(verdict, 0)


def _check_lines(call: Invocation, found: Sequence[Mapping[str, Any]], verdict: str) -> Iterator[str]:
    for one in found:
        yield f"{one['anchor']}: checkpoint of {count(one['size'], 'record')}, record {one['journal_seq']}"
        yield from check_lines(call.output, one["checks"], indent="  ")
    if not found:
        yield "nothing was anchored yet, so nothing was checked"
    yield f"{call.output.word(verdict)}: {count(len(found), 'receipt')} looked at"


def _own_look(config: Config, *, everything: bool) -> list[dict[str, Any]]:
    """The same without a running node: from its store, with the configured anchors; no finding is recorded."""
    from witnz.anchor.base import Surroundings
    from witnz.anchor.registry import named, open_anchor
    from witnz.node.anchor_status import receipt_of
    from witnz.node.anchoring import Looked
    from witnz.node.view import load_journal_state, now_us

    found = []
    with open_store(config) as db:
        state = load_journal_state(db)
        for name, section in named(config.anchors).items():
            anchor = open_anchor(section, Surroundings(config.cluster, now_us))
            with db.read() as conn:
                receipts = [(one, receipt_of(conn, one)) for one in state.anchored() if one.type == anchor.type]
            own = [(one, receipt) for one, receipt in receipts if anchor.is_own(receipt)]
            for one, receipt in own if everything else own[-1:]:
                found.append(Looked(name, one, tuple(anchor.look(receipt)), ()).to_json())
    return found


def backends(context: typer.Context) -> int:
    """List the kinds of anchors, what each is worth, and whether it can be used here."""
    from witnz.anchor.registry import backend, types
    from witnz.cli.main import EXTRA_OF

    call = invocation(context)
    found: list[dict[str, Any]] = []
    for kind in types():
        try:
            one = backend(kind)
        except ImportError as error:
            extra = EXTRA_OF.get((error.name or "").partition(".")[0])
            found.append({"type": kind, "about": "", "latency": "", "extra": extra, "installed": False, "missing": error.name})
            continue
        found.append(
            {"type": kind, "about": one.about, "latency": one.latency, "extra": one.extra, "installed": True, "missing": None}
        )
    rows = [["TYPE", "TAKES", "EXTRA", "ABOUT"]]
    for one_kind in found:
        remedy = f'pip install "witnz[{one_kind["extra"]}]"' if one_kind["extra"] else one_kind["missing"]
        missing = f"not installed: {remedy}" if not one_kind["installed"] else ""
        rows.append([one_kind["type"], one_kind["latency"] or "-", one_kind["extra"] or "-", one_kind["about"] or missing])
    call.output.answer({"schema": "witnz.anchor-backends/1", "backends": found}, columns(rows))
    return 0
