"""What is sent about findings: one message for one change of one finding, or one for many alike.

A message is made from the payload that :func:`finding_payload` put into the outbox, so what leaves is what was true when the
finding was recorded, also after a restart.  It holds keys, hashes and positions, never the contents of a row.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from witnz.core.canonical import canonical
from witnz.core.finding import SEVERITIES, Finding
from witnz.errors import FormatError

SCHEMA: Final = "witnz.alert/1"
MAX_LISTED: Final = 20
MAX_SHOWN: Final = 200

_PHRASES: Final = {"open": "found", "acknowledged": "acknowledged", "approved": "approved", "repaired": "repaired"}


@dataclass(frozen=True, slots=True)
class Message:
    """One message to one place.

    ``document`` is the machine's form, ``title`` and ``facts`` the reader's; ``state`` that of the finding; ``subject`` is what
    messages on one matter have in common (the finding's id), ``delivery_id`` what all attempts to deliver this one have.
    """

    delivery_id: str
    subject: str
    state: str
    severity: str
    title: str
    facts: tuple[tuple[str, str], ...]
    document: dict[str, Any]

    def body(self) -> bytes:
        """The document as RFC 8785 JSON."""
        return canonical(self.document)


def finding_payload(finding: Finding, cluster: str, node: str) -> str:
    """The payload of the outbox for the state that ``finding`` has now."""
    document = {
        "schema": SCHEMA,
        "event": f"finding.{finding.state}",
        "cluster": cluster,
        "node": node,
        "finding": finding.to_json(),
    }
    return canonical(document).decode()


def dedup_key(finding: Finding) -> str:
    """One notification per finding and state: ``F-0123456789ab:open``."""
    return f"{finding.id}:{finding.state}"


def parse_payload(payload: str) -> dict[str, Any]:
    """The document of a payload.  Raises :class:`FormatError` for one that :func:`finding_payload` did not write."""
    try:
        document = json.loads(payload)
        finding = document["finding"]
        texts = [document[name] for name in ("schema", "event", "cluster", "node")]
        texts += [finding[name] for name in ("id", "class", "severity", "state", "detected_at")]
    except (ValueError, KeyError, TypeError):
        raise FormatError("outbox payload: expected the document of a finding") from None
    if document["schema"] != SCHEMA or not all(isinstance(text, str) for text in texts):
        raise FormatError(f"outbox payload: expected a document of {SCHEMA}")
    return dict(document)


def group_of(document: Mapping[str, Any]) -> tuple[str, str, str]:
    """``(state, class, table)``: findings alike in these may share a message; the table is empty where there is none."""
    finding = document["finding"]
    return finding["state"], finding["class"], finding["table"] or ""


def finding_message(document: dict[str, Any]) -> Message:
    """The message about one finding."""
    finding = document["finding"]
    where = f" on {finding['table']}" if finding["table"] else ""
    key = f", key {finding['key']}" if finding["key"] else ""
    title = f"witnz {document['cluster']}: {finding['class']}{where}{key} {_PHRASES.get(finding['state'], finding['state'])}"
    names = (
        *("id", "class", "severity", "state", "table", "key", "detected_at", "lsn", "xid"),
        *("entry_seq", "recorded", "found", "explained_by", "detail"),
    )
    facts = [(name.replace("_", " "), printable(finding[name])) for name in names if finding.get(name) not in (None, "")]
    facts.append(("node", document["node"]))
    return Message(
        delivery_id=_delivery_id(document, finding["id"], finding["state"]),
        subject=finding["id"],
        state=finding["state"],
        severity=finding["severity"],
        title=printable(title),
        facts=tuple(facts),
        document=document,
    )


def summary_message(documents: Sequence[dict[str, Any]]) -> Message:
    """The message that stands for all ``documents`` of one :func:`group_of`; it says how many, which first, and when."""
    first = documents[0]
    state, cls, table = group_of(first)
    findings = [document["finding"] for document in documents]
    ids = [finding["id"] for finding in findings]
    times = sorted(finding["detected_at"] for finding in findings)
    severity = min((finding["severity"] for finding in findings), key=_severity_rank)
    verb = "more findings of" if state == "open" else f"findings {_PHRASES.get(state, state)} of"
    title = f"witnz {first['cluster']}: {len(documents)} {verb} class {cls}" + (f" on table {table}" if table else "")
    summary = {
        "count": len(documents),
        "class": cls,
        "severity": severity,
        "state": state,
        "table": table or None,
        "first_detected_at": times[0],
        "last_detected_at": times[-1],
        "findings": ids[:MAX_LISTED],
    }
    listed = ", ".join(ids[:MAX_LISTED]) + (", …" if len(ids) > MAX_LISTED else "")
    return Message(
        delivery_id=_delivery_id(first, *ids, state),
        subject=f"witnz:{first['cluster']}:{cls}:{table}"[:255],
        state=state,
        severity=severity,
        title=printable(title),
        facts=(("first", times[0]), ("last", times[-1]), ("findings", listed), ("node", first["node"])),
        document={
            "schema": SCHEMA,
            "event": "findings.summary",
            "cluster": first["cluster"],
            "node": first["node"],
            "summary": summary,
        },
    )


def printable(value: object) -> str:
    """``value`` as one short line: what a terminal or chat would interpret (control, direction marks) is escaped."""
    text = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in str(value))
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"


def _severity_rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else len(SEVERITIES)


def _delivery_id(document: Mapping[str, Any], *parts: str) -> str:
    return hashlib.sha256("\n".join((document["cluster"], document["node"], *parts)).encode()).hexdigest()[:32]
