"""``witnz keys approvers``: how many operators have to sign an order to erase or to prune."""

from __future__ import annotations

from typing import Annotated

import typer

from witnz.cli.access import documents
from witnz.cli.command import Reason
from witnz.cli.deciding import Operator, OperatorKey, Yes, check_reason, cluster_id, confirm, decide
from witnz.cli.invocation import invocation
from witnz.errors import UsageError

Number = Annotated[int, typer.Argument(metavar="N", show_default=False, help="How many operators; 1 to 8.")]


def approvers(context: typer.Context, number: Number, *, operator_key: OperatorKey, reason: Reason, yes: Yes = False) -> int:
    """Ask for the signatures of several operators before rows are erased or a generation is pruned.

    The number is journalled.  Raising it takes one operator; lowering it takes as many as it was, each running this command.
    """
    from witnz.core.orders import MAX_APPROVERS

    call = invocation(context)
    config = call.load_config()
    if not 1 <= number <= MAX_APPROVERS:
        raise UsageError(f"expected 1 to {MAX_APPROVERS} approvers, found {number}")
    operator = Operator.load(operator_key)
    confirm(call.output, f"Sign that {number} operators have to sign, as {operator.name}?", yes=yes)
    with documents(config) as source:
        before = int(source.status()["cluster"]["approvers"])
    change = {"from": str(before), "to": str(number)}
    about = {"from": None, "to": check_reason(reason)}
    body = {"changes": {"approvers": change, "reason": about}, "weakens": number < before}
    seq = decide(config, "config", operator.sign("config", body, cluster_id(config)))
    with documents(config) as source:
        now = int(source.status()["cluster"]["approvers"])
    document = {"schema": "witnz.approvers/1", "record": seq, "approvers": now, "wished": number, "operator": operator.name}
    said = f"{now} operator(s) have to sign an order to erase or to prune"
    waits = [] if now == number else [f"signed by {operator.name}; lowering it to {number} takes {before} operators"]
    call.output.answer(document, [said, *waits])
    return 0
