"""Gauges that are read off the status when somebody scrapes: what a node *is*, beside what it has done."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from witnz.core.timestamp import parse_time
from witnz.metrics import Metrics
from witnz.node.status import STATUSES

US = 1_000_000


def refresh(metrics: Metrics, vitals: Mapping[str, Any], store: Path) -> None:
    """Set the gauges from ``StoreView.vitals`` and from the file system of the store."""
    source, checkpoint, now = vitals["source"], vitals["checkpoint"], parse_time(vitals["at"])
    _set(metrics, "witnz_source_connected", None if source["connected"] is None else int(source["connected"]))
    _set(metrics, "witnz_source_lag_bytes", source["lag_bytes"])
    _set(metrics, "witnz_slot_retained_bytes", source["retained_bytes"])
    if source["last_event_s"] is not None:
        metrics.set("witnz_source_last_event_timestamp_seconds", now / US - source["last_event_s"])
    if checkpoint is not None:
        metrics.set("witnz_checkpoint_size", checkpoint["size"])
        metrics.set("witnz_checkpoint_timestamp_seconds", parse_time(checkpoint["at"]) / US)
        metrics.set("witnz_seal_age_seconds", checkpoint["age_s"])
    metrics.clear("witnz_anchor_size")
    metrics.clear("witnz_anchor_timestamp_seconds")
    for anchor in vitals["anchors"]:
        if anchor["last_at"] is not None:
            metrics.set("witnz_anchor_size", anchor["last_size"], anchor=anchor["name"])
            metrics.set("witnz_anchor_timestamp_seconds", parse_time(anchor["last_at"]) / US, anchor=anchor["name"])
    metrics.set("witnz_alerts_pending", vitals["alerts_pending"])
    metrics.clear("witnz_findings_open")
    for table, count in vitals["findings_open_by_table"].items():
        metrics.set("witnz_findings_open", count, table=table)
    metrics.clear("witnz_check_status")
    for check in vitals["checks"]:
        for status in STATUSES:
            metrics.set("witnz_check_status", int(check["status"] == status), check=check["name"], status=status)
    _disk(metrics, store)


def _disk(metrics: Metrics, store: Path) -> None:
    files = [store, *(store.with_name(store.name + suffix) for suffix in ("-wal", "-shm"))]
    metrics.set("witnz_store_bytes", sum(file.stat().st_size for file in files if file.exists()))
    found = os.statvfs(store.parent)
    metrics.set("witnz_store_free_bytes", found.f_bavail * found.f_frsize)


def _set(metrics: Metrics, name: str, value: float | None) -> None:
    if value is not None:
        metrics.set(name, value)
