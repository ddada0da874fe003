"""What ``status`` and ``GET /anchors`` say of anchors, from the store and the journal alone.

    anchors   each configured anchor: what it covers, since when, and how its last attempt went
    history   for each stretch of the journal, who would have to take part to rewrite it unnoticed: a quorum of the members, and
              everybody behind an anchor whose newest checkpoint covers it

``status`` of an anchor: ok; pending (under way); failing (tried again); refused (somebody has to change something); late (two
intervals without a checkpoint); never (nothing was published yet).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from witnz.core.journal import JournalState
from witnz.core.journal_facts import Anchored
from witnz.core.receipt import Receipt, parse_receipt
from witnz.core.record import parse_record
from witnz.core.timestamp import format_time
from witnz.store import anchors, checkpoints
from witnz.store import journal as stored

if TYPE_CHECKING:
    from witnz.config import AnchorConfig, Config

US: Final = 1_000_000
LATE_AFTER: Final = 2


def anchor_documents(conn: sqlite3.Connection, state: JournalState, config: Config | None, now_us: int) -> list[dict[str, Any]]:
    """One document for each configured anchor."""
    from witnz.anchor.registry import named

    sections = {} if config is None else named(config.anchors)
    known = {one.name: one for one in anchors.list_anchors(conn)}
    return [_document(conn, state, name, section, known.get(name), now_us) for name, section in sections.items()]


def _document(
    conn: sqlite3.Connection,
    state: JournalState,
    name: str,
    section: AnchorConfig,
    saved: anchors.StoredAnchor | None,
    now_us: int,
) -> dict[str, Any]:
    newest = _newest(conn, state, section)
    since = 0 if saved is None else saved.since
    age_s = None if newest is None else round(max(0, now_us - newest.at) / US, 3)
    silent_s = (now_us - max(since, 0 if newest is None else newest.at)) / US
    uncovered = max(0, state.newest_worth_anchoring - (0 if newest is None else newest.size))
    late = saved is not None and uncovered > 0 and silent_s > LATE_AFTER * section.every_s
    look = None if newest is None else anchors.load_look(conn, newest.seq)
    return {
        "name": name,
        "type": section.type,
        "place": None if saved is None else saved.place,
        "every_s": section.every_s,
        "status": _status(newest, saved, late=late),
        "last_size": None if newest is None else newest.size,
        "last_ok_s": age_s,
        "last_at": None if newest is None else format_time(newest.at),
        "uncovered": uncovered,
        "pending": None if saved is None or saved.note is None else saved.reason or "under way",
        "error": None if saved is None else saved.error,
        "hint": None if saved is None else saved.hint,
        "attempts": 0 if saved is None else saved.attempts,
        "looked": None if look is None else {"at": format_time(look.at), "status": look.status},
    }


def _status(newest: Anchored | None, saved: anchors.StoredAnchor | None, *, late: bool) -> str:
    if late:
        return "late"
    if saved is not None and saved.error is not None:
        return "refused" if saved.refused else "failing"
    if saved is not None and (saved.note is not None or saved.receipt is not None):
        return "pending"
    return "never" if newest is None else "ok"


def _newest(conn: sqlite3.Connection, state: JournalState, section: AnchorConfig) -> Anchored | None:
    """The newest receipt that fits what the section says of its place."""
    for one in reversed(_anchored(conn, state)):
        if one.type == _RECEIPT_TYPE.get(section.type, section.type) and _fits(section, receipt_of(conn, one)):
            return one
    return None


_RECEIPT_TYPE: Final[Mapping[str, str]] = {"witness": "basic"}


def _fits(section: AnchorConfig, receipt: Receipt) -> bool:
    members = receipt.members
    if section.type == "s3":
        return bool(members["bucket"] == section.bucket and section.endpoint in (None, members["endpoint"]))
    if section.type == "evm":
        return bool(members["chain_id"] == section.chain_id)
    if section.type == "rfc3161":
        return section.url is not None and bool(members["url"] == section.url.reveal())
    if section.type == "witness":
        return f"— {(section.witness_key or '').split('+')[0]} " in members["note"]
    return True


def _anchored(conn: sqlite3.Connection, state: JournalState) -> list[Anchored]:
    """The ``anchor`` records that ``conn`` sees: the running node's journal may be further by now."""
    size = stored.journal_size(conn)
    return [one for one in state.anchored() if one.seq <= size]


def receipt_of(conn: sqlite3.Connection, one: Anchored) -> Receipt:
    """The receipt of an ``anchor`` record."""
    return parse_receipt(parse_record(stored.record_at(conn, one.seq)).body["receipt"])


# -- who would have to collude ------------------------------------------------------------------------------------------------


def history(conn: sqlite3.Connection, state: JournalState) -> list[dict[str, Any]]:
    """The stretches of the journal, oldest first; ``at``: when the checkpoint that ends one was made."""
    newest = {(one.type, one.place): one for one in _anchored(conn, state)}
    final = checkpoints.latest(conn, final=True)
    sizes = sorted({one.size for one in newest.values()} | ({final.size} if final is not None else set()))
    stretches, first = [], 1
    for size in sizes:
        behind = [one for one in newest.values() if one.size >= size]
        stretches.append(
            {
                "from_seq": first,
                "to_seq": size,
                "at": _at(conn, size),
                "parties": [_quorum(state), *(_party(conn, one) for one in behind)],
                "anchors": [one.type for one in behind],
            }
        )
        first = size + 1
    return stretches


def _at(conn: sqlite3.Connection, size: int) -> str | None:
    saved = checkpoints.get(conn, size)
    return None if saved is None else format_time(saved.at)


def _quorum(state: JournalState) -> str:
    members = list(state.members)
    if len(members) == 1:
        return f"the administrator of {members[0]}"
    return f"{state.quorum} of the members {', '.join(members)}"


def _party(conn: sqlite3.Connection, one: Anchored) -> str:
    """Who stands behind an anchor; in general words where the extra of its type is not installed."""
    from witnz.anchor.registry import party

    try:
        return party(receipt_of(conn, one))
    except ImportError:
        return f"whoever stands behind {one.type} {one.place}".strip()


def receipt_documents(conn: sqlite3.Connection, state: JournalState, limit: int) -> Iterator[dict[str, Any]]:
    """The newest ``anchor`` records, newest first, with their receipts and what the last look found."""
    for one in list(reversed(_anchored(conn, state)))[:limit]:
        look = anchors.load_look(conn, one.seq)
        seen = None if look is None else {"at": format_time(look.at), "status": look.status, "checks": list(look.checks)}
        yield {
            "journal_seq": one.seq,
            "at": format_time(one.at),
            "type": one.type,
            "size": one.size,
            "digest": one.digest.hex(),
            "receipt": dict(receipt_of(conn, one).members),
            "looked": seen,
        }
