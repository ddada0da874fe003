"""What an operator has to sign to have rows erased or generations pruned, and how far such orders have come.

Nothing is changed here: the signed bodies go to ``POST /decisions``.  They are asked for with POST because keys of rows are
nobody's business in a URL.
"""

from __future__ import annotations

from typing import Any, Final

from witnz.errors import FormatError
from witnz.node.pruning import parse_before, plan
from witnz.web.asked import Asked, check_members, reason_of
from witnz.web.reads import Answer, Site

_MEMBERS: Final = {"erasure": frozenset({"keys", "reason"}), "pruning": frozenset({"before", "reason"})}


def erasure(site: Site, asked: Asked) -> Answer:
    """``{"keys": [key, …], "reason": …}``: the body of the ``erase`` record, without nonce and auth."""
    check_members(asked.body, _MEMBERS["erasure"])
    keys = asked.body["keys"]
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise FormatError("keys: expected a list of texts")
    body = site.node.erasing.body(asked.table(), keys, reason_of(asked.body["reason"]))
    return {"schema": "witnz.to-sign/1", "type": "erase", "cluster": _cluster(site), "bodies": [body]}


def pruning(site: Site, asked: Asked) -> Answer:
    """``{"before": …, "reason": …}``: the bodies of the ``prune`` records, and the generations that they name."""
    check_members(asked.body, _MEMBERS["pruning"])
    before, reason, table = asked.body["before"], reason_of(asked.body["reason"]), asked.table()
    if not isinstance(before, str):
        raise FormatError("before: expected text")
    now = site.node.clock()
    planned = plan(site.node.db, site.node.journal.state, table, parse_before(before, now), now)
    bodies = prune_bodies(planned, reason)
    return {"schema": "witnz.to-sign/1", "type": "prune", "cluster": _cluster(site), "bodies": bodies, "plan": planned}


def prune_bodies(planned: dict[str, Any], reason: str) -> list[dict[str, Any]]:
    """One body a generation that a plan names."""
    return [{"table": planned["table"], "generation": one["generation"], "reason": reason} for one in planned["prune"]]


def listed(site: Site, asked: Asked) -> Answer:
    return site.view.orders(asked.table())


def _cluster(site: Site) -> str:
    return site.node.journal.state.cluster_id
