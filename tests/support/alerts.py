"""Findings and documents for the tests of alerts."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from witnz.alert.message import finding_payload
from witnz.core.finding import CLASSES, Finding, FindingState, Window

CLUSTER, NODE = "prod.example.com/app", "node1"


def finding(
    number: int = 1,
    *,
    cls: str = "violation.update",
    table: str | None = "public.audit_logs",
    key: str | None = "42",
    state: FindingState = "open",
) -> Finding:
    digest = hashlib.sha256(f"{cls} {table} {number}".encode()).hexdigest()
    return Finding(
        id=f"F-{digest[:12]}",
        cls=cls,
        severity=CLASSES[cls].severity,
        table=table,
        generation=1,
        key=key,
        detected_at=f"2026-11-21T18:{number // 60 % 60:02d}:{number % 60:02d}.123456Z",
        window=Window("2026-11-21T18:00:00.000000Z", "2026-11-21T18:09:40.123456Z"),
        recorded=digest,
        found=digest[::-1],
        entry_seq=number,
        lsn="0/1949850",
        xid="731",
        explained_by=f"entry {number}",
        state=state,
    )


def document(number: int = 1, **changes: Any) -> dict[str, Any]:
    loaded = json.loads(finding_payload(finding(number, **changes), CLUSTER, NODE))
    assert isinstance(loaded, dict)
    return loaded
