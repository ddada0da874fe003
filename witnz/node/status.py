"""``witnz.status/1`` (interface.md 4): what a node is doing, from its store and, while it runs, from the running parts.

A check is ``{name, status, message, hint, since}``; ``since`` is when it came to that status, where that is known:

    ok        as it should be
    warn      goes on, but somebody should look
    fail      not as it should be
    pending   not known yet
    unknown   cannot be known now (the node is not running)
"""

from __future__ import annotations

import base64
import sqlite3
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from witnz import __version__
from witnz.config import Config
from witnz.core.checkpoint import parse_checkpoint
from witnz.core.finding import CLASSES, FindingState
from witnz.core.journal import JournalState
from witnz.core.note import parse_note
from witnz.core.policy import PolicyResult, evaluate, parse_policy
from witnz.core.timestamp import format_time
from witnz.errors import WitnzError
from witnz.node.anchor_status import anchor_documents, history
from witnz.store import checkpoints, findings, logs, meta, outbox
from witnz.store.checkpoints import StoredCheckpoint

if TYPE_CHECKING:
    from witnz.cluster.engine import EngineStatus
    from witnz.node.capture import SourceStatus
    from witnz.node.opening import Opening
    from witnz.node.peering import Peering

CheckStatus = Literal["ok", "warn", "fail", "pending", "unknown"]
STATUSES: Final[tuple[CheckStatus, ...]] = ("ok", "warn", "fail", "pending", "unknown")
CLOSED: Final = ("approved", "repaired")
OPEN_STATES: Final[tuple[FindingState, ...]] = ("open", "acknowledged")
MAX_LOOKED_AT: Final = 1_000
SEALS_LATE: Final = 3  # intervals; also formats.md 5: a node cosigns nothing while an entry stays unsealed for longer
STOPPED: Final = "the node is not running"
US: Final = 1_000_000
UNREACHABLE_AFTER_S: Final = 5.0  # of silence, then a member is called unreachable


class StoreAudit(Protocol):
    """How far the store's audit of itself is; ``since``: µs since the Unix epoch."""

    @property
    def status(self) -> Literal["pending", "ok", "fail"]: ...

    @property
    def message(self) -> str: ...

    @property
    def since(self) -> int | None: ...


class _Capture(Protocol):
    @property
    def status(self) -> SourceStatus: ...

    @property
    def fatal(self) -> WitnzError | None: ...


class _Engine(Protocol):
    def status(self) -> EngineStatus: ...


class _Generations(Protocol):
    def opening(self) -> list[Opening]: ...


class Live(Protocol):
    """What ``status`` asks of a running node."""

    @property
    def capture(self) -> _Capture: ...

    @property
    def engine(self) -> _Engine: ...

    @property
    def generations(self) -> _Generations: ...

    @property
    def audit(self) -> StoreAudit: ...

    @property
    def peering(self) -> Peering | None: ...


@dataclass(frozen=True, slots=True)
class Moment:
    """One look: the store at one moment, the journal's state, the time (µs since the Unix epoch), the node if it runs."""

    conn: sqlite3.Connection
    state: JournalState
    config: Config | None
    now_us: int
    live: Live | None

    def age_s(self, at_us: int) -> float:
        return round(max(0, self.now_us - at_us) / US, 3)

    def since(self, monotonic_s: float) -> str:
        """The text of a moment that a running part noted on the monotonic clock."""
        return format_time(self.now_us - round((time.monotonic() - monotonic_s) * US))


def vitals_document(moment: Moment) -> dict[str, Any]:
    """The document without its tables: what costs the same however much is recorded."""
    node_id = meta.load_value(moment.conn, "node")
    newest = checkpoints.latest(moment.conn)
    return {
        "schema": "witnz.status/1",
        "at": format_time(moment.now_us),
        "node": _node(moment, node_id),
        "cluster": _cluster(moment, node_id),
        "source": _source(moment),
        "checkpoint": None if newest is None else checkpoint_summary(moment, newest),
        "anchors": anchor_documents(moment.conn, moment.state, moment.config, moment.now_us),
        "history": history(moment.conn, moment.state),
        "findings_open": findings.count_open(moment.conn),
        "alerts_pending": outbox.counts(moment.conn)["pending"],
        "checks": checks(moment),
    }


def checkpoint_summary(moment: Moment, stored: StoredCheckpoint) -> dict[str, Any]:
    """size, root, final, age_s, at, cosigned_by of a checkpoint; who cosigned is verified, under the cluster's own keys."""
    checkpoint = parse_checkpoint(parse_note(stored.note).text)
    return {
        "size": stored.size,
        "root": base64.b64encode(checkpoint.root).decode(),
        "final": stored.final,
        "at": format_time(stored.at),
        "age_s": moment.age_s(stored.at),
        "cosigned_by": judged(moment.state, stored).cosigned_by,
    }


def judged(state: JournalState, stored: StoredCheckpoint) -> PolicyResult:
    """A checkpoint under the policy that the cluster claimed for itself at its size."""
    return evaluate(parse_policy(state.periods.at(stored.size).policy(retired=False)), parse_note(stored.note))


# -- sections -----------------------------------------------------------------------------------------------------------------


def _node(moment: Moment, node_id: str | None) -> dict[str, Any]:
    live = moment.live
    role = None
    if live is not None:
        role = "leader" if live.engine.status().leader == node_id else "follower"
    return {"id": node_id, "role": role, "state": _state(live), "version": __version__}


def _state(live: Live | None) -> str:
    if live is None:
        return "stopped"
    if live.capture.fatal is not None:
        return "failed"
    if not live.capture.status.connected:
        return "connecting"
    return "opening" if live.generations.opening() else "running"


def _cluster(moment: Moment, node_id: str | None) -> dict[str, Any]:
    engine = None if moment.live is None else moment.live.engine.status()
    members = [_member(moment, member.id, own=member.id == node_id) for member in moment.state.members.values()]
    return {
        "origin": moment.state.cluster,
        "id": moment.state.cluster_id,
        "leader": None if engine is None else engine.leader,
        "term": None if engine is None else engine.term,
        "quorum": moment.state.quorum,
        "approvers": moment.state.orders.approvers,
        "members": members,
    }


def _member(moment: Moment, name: str, *, own: bool) -> dict[str, Any]:
    """Whether a member was heard of lately, and how many records it has, as it said itself."""
    peering = None if moment.live is None else moment.live.peering
    if moment.live is None:
        return {"id": name, "state": None, "size": moment.state.size if own else None, "last_seen_s": None}
    if own:
        return {"id": name, "state": "up", "size": moment.state.size, "last_seen_s": 0.0}
    seen = None if peering is None else peering.peers.last_seen_s().get(name)
    head = None if peering is None else peering.gossip.heads.get(name)
    state = "unknown" if seen is None else "up" if seen < UNREACHABLE_AFTER_S else "unreachable"
    return {
        "id": name,
        "state": state,
        "size": None if head is None else head.journal_size,
        "last_seen_s": None if seen is None else round(seen, 3),
    }


def _source(moment: Moment) -> dict[str, Any]:
    source = None if moment.live is None else moment.live.capture.status
    last = None if source is None or source.last_event is None else round(time.monotonic() - source.last_event, 3)
    return {
        "connected": None if source is None else source.connected,
        "slot": None if moment.config is None or moment.config.node.id is None else moment.config.slot_name,
        "lag_bytes": None if source is None else source.lag_bytes,
        "last_event_s": last,
        "retained_bytes": None if source is None else source.retained_bytes,
        "system": moment.state.system,
    }


# -- checks -------------------------------------------------------------------------------------------------------------------


def checks(moment: Moment) -> list[dict[str, Any]]:
    """Every named check, always all of them and in this order."""
    among = [_check_quorum(moment)] if len(moment.state.members) > 1 else []
    return [
        *among,
        _check_capture(moment),
        _check_slot(moment),
        _check_seals(moment),
        _check_store(moment),
        _check_alerts(moment),
        _check_openings(moment),
        _check_findings(moment),
        _check_gaps(moment),
        _check_anchors(moment),
    ]


def check(name: str, status: CheckStatus, message: str, hint: str = "", since: str | None = None) -> dict[str, Any]:
    return {"name": name, "status": status, "message": message, "hint": hint, "since": since}


def _check_quorum(moment: Moment) -> dict[str, Any]:
    """Of several members only: without a quorum nothing is sealed or cosigned, and everything else goes on."""
    if moment.live is None:
        return check("quorum", "unknown", STOPPED)
    engine, needed = moment.live.engine.status(), moment.state.quorum
    if meta.load_value(moment.conn, "node") not in moment.state.members:
        return check("quorum", "fail", "this node is no member any more", "stop it, and drop its replication slot")
    if engine.has_quorum and engine.voiceless:
        lost = ", ".join(engine.voiceless)
        message = f"a quorum of {needed} answers; {lost} lost its part of the ordered journal, and does not count"
        hint = "take it out with `witnz cluster remove`, and put one with a new id in its place"
        return check("quorum", "warn", message, hint)
    if engine.has_quorum:
        return check("quorum", "ok", f"a quorum of {needed} answers; {engine.leader} leads")
    message = f"fewer than {needed} members answer: recording, detection and alerts go on, seals and checkpoints wait"
    return check("quorum", "fail", message, "bring the other members back; `witnz cluster status` shows who answers")


def _check_capture(moment: Moment) -> dict[str, Any]:
    if moment.live is None:
        return check("capture", "unknown", STOPPED, "start it with `witnz start`")
    fatal, source = moment.live.capture.fatal, moment.live.capture.status
    since = moment.since(source.since)
    if fatal is not None:
        return check("capture", "fail", f"recording stopped: {fatal.message}", fatal.hint, since)
    if not source.connected:
        reason, hint = source.error or "not connected yet", source.hint or "witnz doctor says more"
        if source.code.startswith("store"):
            return check("capture", "fail", f"recording waits until the store can be written: {reason}", hint, since)
        return check("capture", "fail", f"the replication stream is not connected: {reason}", hint, since)
    return check("capture", "ok", "the replication stream is connected", since=since)


def _check_slot(moment: Moment) -> dict[str, Any]:
    retained = None if moment.live is None else moment.live.capture.status.retained_bytes
    if retained is None:
        return check("slot", "unknown", STOPPED if moment.live is None else "how much WAL the slot retains is not known yet")
    limit = moment.config.max_retained_wal_bytes if moment.config is not None else None
    message = f"the slot retains {retained} bytes of WAL" + (f" of at most {limit}" if limit is not None else "")
    if limit is None or retained < limit // 2:
        return check("slot", "ok", message)
    hint = "the node does not keep up, or was away for long; free WAL space, or raise max_retained_wal"
    return check("slot", "warn" if retained < limit else "fail", message, hint)


def _check_seals(moment: Moment) -> dict[str, Any]:
    """Entries that no seal covers are late once they could have been sealed three times."""
    unsealed = sum(_unsealed(moment, row) for row in logs.list_logs(moment.conn, "active"))
    newest = checkpoints.latest(moment.conn)
    if newest is None:
        return check("seals", "pending", "no checkpoint was made yet")
    age, since = moment.age_s(newest.at), format_time(newest.at)
    interval_s = moment.config.seal_interval_s if moment.config is not None else 5.0
    if not unsealed:
        return check("seals", "ok", "everything recorded is sealed", since=since)
    message = f"{unsealed} entries are not sealed yet; the newest checkpoint is {age:.0f} s old"
    if moment.live is None:
        return check("seals", "unknown", message, "they are sealed when the node runs", since)
    late = age > SEALS_LATE * interval_s + 1
    return check("seals", "warn" if late else "ok", message, "is there a quorum? see the log" if late else "", since)


def _unsealed(moment: Moment, row: logs.LogRow) -> int:
    sealed = moment.state.last_sealed(row.table, row.generation)
    return max(0, row.size - (sealed.size if sealed is not None else 0))


def _check_store(moment: Moment) -> dict[str, Any]:
    if moment.live is None:
        return check("store", "unknown", "the store was not audited", "`witnz verify --store` does it")
    audit = moment.live.audit
    since = None if audit.since is None else format_time(audit.since)
    messages = {
        "pending": "the audit of the store is under way",
        "ok": "the store is what was written",
        "fail": "the store is not what was written",
    }
    hint = "keep a copy of the data directory, and run `witnz verify --store`" if audit.status == "fail" else ""
    return check("store", audit.status, audit.message or messages[audit.status], hint, since)


def _check_alerts(moment: Moment) -> dict[str, Any]:
    counts = outbox.counts(moment.conn)
    waiting, dead = counts["pending"], counts["dead"]
    if dead:
        return check("alerts", "fail", f"{dead} notifications were given up", "is the receiver configured as it should be?")
    if waiting:
        return check("alerts", "warn", f"{waiting} notifications wait for delivery")
    return check("alerts", "ok", "every notification was delivered")


def _check_openings(moment: Moment) -> dict[str, Any]:
    if moment.live is None:
        return check("openings", "unknown", STOPPED)
    openings = moment.live.generations.opening()
    if not openings:
        return check("openings", "ok", "no generation is being opened")
    described = [f"{o.plan.name}: {o.phase}, {o.rows} rows" + (f" ({o.error})" if o.error else "") for o in openings[:10]]
    return check("openings", "pending", "; ".join(described))


def _check_findings(moment: Moment) -> dict[str, Any]:
    counts = findings.count_by_state(moment.conn)
    waiting, seen = counts.get("open", 0), counts.get("acknowledged", 0)
    if not waiting and not seen:
        return check("findings", "ok", "no finding is open")
    newest = findings.list_findings(moment.conn, states=OPEN_STATES, limit=MAX_LOOKED_AT)
    grave = any(CLASSES[finding.cls].severity in ("critical", "high") for finding in newest)
    # Only where all of them were looked at is the oldest among them known.
    since = min(finding.detected_at for finding in newest) if len(newest) < MAX_LOOKED_AT else None
    message = f"{waiting} {'finding is' if waiting == 1 else 'findings are'} open, {seen} more acknowledged and not closed"
    return check("findings", "fail" if grave else "warn", message, "`witnz findings list` shows them", since)


def _check_gaps(moment: Moment) -> dict[str, Any]:
    gaps = moment.state.open_gaps()
    if not gaps:
        return check("coverage", "ok", "no gap is open")
    names = ", ".join(_few(sorted(gaps)))
    hint = "verify the tables, then approve the finding about the gap with an operator key"
    return check("coverage", "fail", f"changes may not have been recorded of {names}", hint)


def _check_anchors(moment: Moment) -> dict[str, Any]:
    documents = anchor_documents(moment.conn, moment.state, moment.config, moment.now_us)
    bad = [one for one in documents if one["status"] in ("late", "refused", "failing")]
    if not documents:
        return check("anchors", "ok", "no anchor is configured, so nothing is kept outside")
    if not bad:
        return check("anchors", "ok", f"{', '.join(one['name'] for one in documents)}: in time")
    reasons = [f"{one['name']}: {one['status']}" + (f" ({one['error']})" if one["error"] else "") for one in bad]
    late = any(one["status"] != "failing" for one in bad)
    hint = next((one["hint"] for one in bad if one["hint"]), "") or "`witnz anchor list` says more"
    return check("anchors", "fail" if late else "warn", "; ".join(reasons), hint)


def _few(names: Iterable[str], limit: int = 10) -> list[str]:
    listed = list(names)
    return listed if len(listed) <= limit else [*listed[:limit], f"{len(listed) - limit} more"]
