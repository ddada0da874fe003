"""``witnz config apply``: what the file wishes, brought into force with an operator's signature.

The journal holds the protected set and its rules.  What the file adds or asks for more often needs nobody; what takes something
away, or judges a table by other rules, is decided here.  The order keeps every step safe to stop after and to run again: the
publication holds what it must -> the journal has the decisions -> a running node is told -> the findings that said so are
closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import typer

from witnz.cli.access import Documents, documents
from witnz.cli.deciding import Operator, OperatorKey, Yes, check_reason, cluster_id, confirm, decide
from witnz.cli.findings import approve_finding
from witnz.cli.invocation import Invocation, invocation
from witnz.cli.protect import AdminUrl, publish, tell
from witnz.cli.text import printable
from witnz.cli.unprotect import end_protection, leaves_of, unpublish

if TYPE_CHECKING:
    from psycopg import Connection

    from witnz.config import Config, TableConfig

RULES = ("mode", "on_change", "inserts_only", "require_intent", "retain")
Why = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; journalled with the decision.")]


@dataclass(slots=True)
class Wish:
    """How the file differs from what is in force.

    ``gone``: protected and no longer named; ``ruled``: protected by other rules, by table the rules that change; ``rarer``:
    verified less often from now on, by table from and to (seconds, 0: only when asked); ``fresh``: named and not protected yet.
    A partition stands under its own name; ``begin``: the items of the file that it or other tables follow, and that begin anew.
    """

    gone: list[str] = field(default_factory=list)
    ruled: dict[str, dict[str, dict[str, Any]]] = field(default_factory=dict)
    rarer: dict[str, tuple[float, float]] = field(default_factory=dict)
    fresh: list[str] = field(default_factory=list)
    begin: set[str] = field(default_factory=set)

    @property
    def moves(self) -> bool:
        """Whether a table goes from one publication to the other."""
        return any("inserts_only" in changes for changes in self.ruled.values())

    @property
    def tables(self) -> list[str]:
        """All whose protection changes."""
        return sorted({*self.gone, *self.ruled, *self.rarer})

    def lines(self) -> Iterator[str]:
        """What will be signed, in words."""
        for name in self.gone:
            yield f"{printable(name)}: no longer protected"
        for name, changes in self.ruled.items():
            said = ", ".join(f"{rule} {_word(change['from'])} -> {_word(change['to'])}" for rule, change in changes.items())
            yield f"{printable(name)}: {said}; a new generation begins with the rows of that moment"
        for name, (known, wished) in self.rarer.items():
            yield (
                f"{printable(name)}: verified every {wished:g} s instead of every {known:g} s"
                if wished
                else (f"{printable(name)}: verified only when asked instead of every {known:g} s")
            )


def apply(
    context: typer.Context,
    *,
    operator_key: OperatorKey,
    reason: Why = "the configuration was applied",
    admin_url: AdminUrl = None,
    yes: Yes = False,
) -> int:
    """Bring into force what the file asks for and the journal does not allow without an operator.

    Tables that the file names no longer, other rules of protected tables, longer verification intervals: each is shown, signed
    with the operator's key, and journalled; the `config.changed` findings about them are approved.  Other rules begin a new
    generation, so verify the table first.  Where nothing differs, nothing is signed.
    """
    from witnz.node.setup import conninfo_of
    from witnz.postgres.session import connect

    call = invocation(context)
    config = call.startable_config()
    check_reason(reason)
    operator = Operator.load(operator_key)
    statements: list[str] = []
    approved: list[str] = []
    with connect(conninfo_of(config), application_name="witnz config apply") as conn:
        wish = _differences(conn, config)
        if wish.tables:
            question = "\n".join([*wish.lines(), f"Sign this as {operator.name}?"])
            confirm(call.output, question, yes=yes)
        if wish.begin and not wish.moves:
            publish(call, config, admin_url)  # first: nothing is signed where the owner has to act before
        if wish.tables:
            _sign(call, config, operator, wish, reason)
        if wish.moves:
            publish(call, config, admin_url)  # last: what is taken out of a publication must not be protected by it any more
        told = tell(config, [table for table in config.protected_tables if table.name in wish.begin]) if wish.begin else False
        if wish.gone:
            statements = unpublish(conn, config, wish.gone, admin_url)
    for finding in _said(config, wish.tables):
        approve_finding(call, config, finding, reason, operator, yes=True)
        approved.append(finding)
    document = {
        "schema": "witnz.config-apply/1",
        "ended": wish.gone,
        "rules": wish.ruled,
        "intervals": {name: {"from": known, "to": wished} for name, (known, wished) in wish.rarer.items()},
        "added": wish.fresh,
        "approved": approved,
        "operator": operator.name,
        "sql": statements,
    }
    call.output.answer(document, _told(wish, operator, statements, told=told))
    return 0


def _told(wish: Wish, operator: Operator, statements: Sequence[str], *, told: bool) -> Iterator[str]:
    yield from wish.lines()
    when = "from now on" if told else "from the next `witnz start` on"
    yield from (f"{printable(name)}: recorded {when}" for name in (*wish.ruled, *wish.fresh))
    yield f"signed by {operator.name}" if wish.tables else "what is in force is what the file asks for; nothing was signed"
    if statements:
        yield "the publication still holds more than it must; its owner may run:"
        yield from (f"  {text};" for text in statements)


def _differences(conn: Connection[Any], config: Config) -> Wish:
    """What the file wishes otherwise than the journal has it."""
    roots = {leaf: table.name for table in config.protected_tables for leaf in leaves_of(conn, table.name)}
    wish = Wish()
    with documents(config) as source:
        in_force = [table for table in source.tables() if table["protected"]]
        for table in in_force:
            wished = config.table(roots.get(table["name"], table["name"]))
            if wished is None:
                wish.gone.append(table["name"])
            elif changes := _other_rules(table["rules"], wished):
                wish.ruled[table["name"]] = changes
                wish.begin.add(wished.name)
            else:
                _compare_interval(source, table["name"], wished, wish)
    known = {table["name"] for table in in_force} | {roots.get(table["name"]) for table in in_force}
    wish.fresh = [table.name for table in config.protected_tables if table.name not in known]
    wish.begin.update(wish.fresh)
    return wish


def _other_rules(recorded: dict[str, Any], wished: TableConfig) -> dict[str, dict[str, Any]]:
    asked = {
        "mode": wished.mode,
        "on_change": wished.on_change,
        "inserts_only": wished.inserts_only,
        "require_intent": wished.require_intent,
        "retain": wished.retain == "rows",
    }
    if recorded["mode"] == asked["mode"] == "append_only":  # where every change is a violation, it says nothing
        asked["on_change"] = recorded["on_change"]
    return {rule: {"from": recorded[rule], "to": asked[rule]} for rule in RULES if recorded[rule] != asked[rule]}


def _compare_interval(source: Documents, name: str, wished: TableConfig, wish: Wish) -> None:
    from witnz.node.wishes import spacing

    known = source.table(name)["verify_interval_s"]
    if known is not None and spacing(wished.verify_interval_s) > spacing(known):
        wish.rarer[name] = (known, wished.verify_interval_s)


def _sign(call: Invocation, config: Config, operator: Operator, wish: Wish, reason: str) -> None:
    """Journal the decisions."""
    from witnz.node.wishes import INTERVAL

    if wish.rarer:
        changes = {f"{INTERVAL}{name}": {"from": f"{a:g}", "to": f"{b:g}"} for name, (a, b) in wish.rarer.items()}
        body = {"changes": {**changes, "reason": {"from": None, "to": reason}}, "weakens": True}
        decide(config, "config", operator.sign("config", body, cluster_id(config)))
    if ending := [*wish.gone, *wish.ruled]:
        end_protection(call, config, operator, ending, reason)


def _said(config: Config, tables: Sequence[str]) -> list[str]:
    """The open findings that said so."""
    with documents(config) as source:
        found = [finding for finding in source.findings() if finding["class"] == "config.changed"]
    return [f["id"] for f in found if f["table"] in tables and f["state"] in ("open", "acknowledged")]


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
