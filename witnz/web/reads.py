"""What is asked with GET: documents, bundles, tiles, metrics.  Every function runs in a worker thread and changes nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

from witnz.core.keyplan import key_text
from witnz.core.rowline import escape
from witnz.errors import UsageError
from witnz.metrics import CONTENT_TYPE
from witnz.node.evidence import Evidence
from witnz.node.view import MAX_ENTRIES, StoreView
from witnz.web import gauges, tiles
from witnz.web.asked import Asked, reason_of
from witnz.web.problems import not_found
from witnz.web.served import Served

BUNDLE_TYPE: Final = "application/vnd.witnz.bundle.v1+json"


@dataclass(frozen=True, slots=True)
class Raw:
    """An answer that is no JSON document, or has another status than 200."""

    data: bytes | dict[str, Any]
    media_type: str = "application/json"
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


Answer = dict[str, Any] | Raw


@dataclass(frozen=True, slots=True)
class Site:
    """What handlers work on: the node, and the one view of its store."""

    node: Served
    view: StoreView

    @classmethod
    def of(cls, node: Served) -> Site:
        return cls(node, StoreView(node.db, node.journal.state, node.config, clock=node.clock))


# -- health, status, metrics --------------------------------------------------------------------------------------------------


def live(site: Site, asked: Asked) -> Answer:
    return {"status": "ok"}


def ready(site: Site, asked: Asked) -> Answer:
    """200 while the node records: the stream is connected and nothing has stopped it."""
    fatal, source = site.node.capture.fatal, site.node.capture.status
    if fatal is None and source.connected:
        return {"status": "ready"}
    reason = fatal.message if fatal is not None else source.error or "the replication stream is not connected yet"
    return Raw({"status": "not ready", "reason": reason}, status=503)


def health(site: Site, asked: Asked) -> Answer:
    """All checks; 503 where one has failed."""
    found = site.view.vitals(site.node)["checks"]
    failed = any(check["status"] == "fail" for check in found)
    document = {"schema": "witnz.health/1", "status": "failing" if failed else "ok", "checks": found}
    return Raw(document, status=503 if failed else 200)


def status(site: Site, asked: Asked) -> Answer:
    return site.view.status(site.node)


def metrics(site: Site, asked: Asked) -> Answer:
    gauges.refresh(site.node.metrics, site.view.vitals(site.node), site.node.db.path)
    return Raw(site.node.metrics.render(), CONTENT_TYPE)


# -- documents ----------------------------------------------------------------------------------------------------------------


def tables(site: Site, asked: Asked) -> Answer:
    return {"schema": "witnz.tables/1", "tables": site.view.tables(site.node)}


def table(site: Site, asked: Asked) -> Answer:
    return {"schema": "witnz.table/1", **site.view.table(asked.table())}


def log_entries(site: Site, asked: Asked) -> Answer:
    limit, first = asked.number("limit"), asked.number("from")
    return site.view.log_entries(
        asked.table(),
        from_seq=1 if first is None else first,
        to_seq=asked.number("to"),
        key=asked.text("key"),
        limit=100 if limit is None else min(limit, MAX_ENTRIES),
        generation=asked.number("generation"),
    )


def findings(site: Site, asked: Asked) -> Answer:
    table_of = asked.table() if asked.text("table") else None
    found = site.view.findings(state=asked.text("state"), table=table_of)
    return {"schema": "witnz.findings/1", "findings": found}


def finding(site: Site, asked: Asked) -> Answer:
    return {"schema": "witnz.finding/1", **site.view.finding(asked.path["finding"])}


def approval(site: Site, asked: Asked) -> Answer:
    """The body of the ``accept`` record that an operator has to sign, without nonce and auth."""
    site.view.finding(asked.path["finding"])
    body = site.node.approvals.accept_body(asked.path["finding"], reason_of(asked.needed("reason")))
    return {"schema": "witnz.approval/1", "type": "accept", "cluster": site.node.journal.state.cluster_id, "body": body}


def repair_plan(site: Site, asked: Asked) -> Answer:
    """What would restore the rows of a finding; the values of those rows are in it."""
    site.view.finding(asked.path["finding"])
    return site.node.repairs.plan(asked.path["finding"]).to_json()


def checkpoints(site: Site, asked: Asked) -> Answer:
    limit = asked.number("limit")
    return {"schema": "witnz.checkpoints/1", "checkpoints": site.view.checkpoints(100 if limit is None else limit)}


def checkpoint(site: Site, asked: Asked) -> Answer:
    text = asked.path["size"]
    if text != "latest" and not (text.isascii() and text.isdigit() and len(text) <= 16):
        raise UsageError(f"checkpoint: expected a size or latest, found {text[:40]!r}")
    size = None if text == "latest" else int(text)
    return {"schema": "witnz.checkpoint/1", **site.view.checkpoint(size)}


def anchors(site: Site, asked: Asked) -> Answer:
    limit = asked.number("limit")
    return site.view.anchors(100 if limit is None else limit)


def verifications(site: Site, asked: Asked) -> Answer:
    limit = asked.number("limit")
    table_of = asked.table() if asked.text("table") else None
    found = site.view.verifications(table_of, 100 if limit is None else limit)
    return {"schema": "witnz.verifications/1", "verifications": found}


# -- bundles and tiles --------------------------------------------------------------------------------------------------------


def checkpoint_bundle(site: Site, asked: Asked) -> Answer:
    return Raw(
        Evidence(site.node.db, site.node.clock, site.node.journal.state).checkpoint_bundle(asked.number("size")), BUNDLE_TYPE
    )


def row_bundle(site: Site, asked: Asked) -> Answer:
    """The bundle of a row by key, of an entry by seq, or of the entry of that key with that seq."""
    name, key, seq = asked.table(), asked.text("key"), asked.number("seq")
    if key is None and seq is None:
        raise UsageError("expected the key of a row or the seq of an entry", hint="add ?key=… or ?seq=…")
    with_row = asked.flag("with_row")
    if with_row:
        asked.operator_only("a bundle that shows the row itself")
    state_key = b"" if key is None else site.view.key_of(name, key)
    if seq is not None:
        shown = site.view.log_entries(name, from_seq=seq, to_seq=seq, limit=1)["entries"]
        if not shown:
            raise not_found(f"the log of {name} has no entry {seq}", "`witnz log show` lists them")
        if key is not None and shown[0]["key"] != key_text(state_key if state_key[:2] == b"\\H" else escape(state_key)):
            raise UsageError(f"entry {seq} of {name} is not of key {key[:80]!r}", hint=f"its key is {shown[0]['key']}")
    row_line = site.node.row_line if with_row else None
    evidence = Evidence(site.node.db, site.node.clock, site.node.journal.state)
    return Raw(evidence.row_bundle(name, state_key, seq=seq, row_line=row_line), BUNDLE_TYPE)


def log_checkpoint(site: Site, asked: Asked) -> Answer:
    with site.node.db.read() as conn:
        data = tiles.read_checkpoint(conn, site.node.journal.state, asked.path["log"])
    return Raw(data, tiles.NOTE_TYPE)


def log_tile(site: Site, asked: Asked) -> Answer:
    with site.node.db.read() as conn:
        data = tiles.read_tile(conn, site.node.journal.state, asked.path["log"], f"tile/{asked.path['tile']}")
    return Raw(data, tiles.TILE_TYPE, headers={"cache-control": tiles.FOR_EVER})
