"""The metrics of a node: one table of what there is, one registry per node, the text that Prometheus scrapes.

:data:`METRICS` is the whole truth: the reference is generated from it, and a name, type or set of labels that is not in it is
an error at the place that uses it.  Names carry base units, counters end in ``_total``, and labels hold only what the
configuration bounds (tables, sinks) or what is enumerated here; never keys, users or messages.  A gauge that nobody has set yet
is absent: an age or a lag of 0 would say that all is well.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client import Metric as Family
from prometheus_client.registry import Collector

from witnz import __version__

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_FAST_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW_S: Final = (0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14400.0)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.  ``buckets`` are the upper bounds of a histogram, in the metric's unit."""

    name: str
    type: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str
    buckets: tuple[float, ...] = ()


METRICS: Final[tuple[Metric, ...]] = (
    Metric("witnz_build_info", "gauge", ("version", "python"), "Always 1; the labels say what runs."),
    Metric("witnz_check_status", "gauge", ("check", "status"), "1 for the status that a named check has, 0 for the others."),
    Metric("witnz_entries_total", "counter", ("table", "op"), "Entries recorded."),
    Metric("witnz_transactions_total", "counter", (), "Transactions of the stream that were recorded."),
    Metric("witnz_capture_batch_seconds", "histogram", (), "Time from a batch's arrival until it was durable.", _FAST_S),
    Metric("witnz_source_connected", "gauge", (), "1 while the replication stream is connected."),
    Metric("witnz_source_connects_total", "counter", ("outcome",), "Attempts to connect to the replication stream."),
    Metric(
        "witnz_source_lag_bytes", "gauge", (), "Write-ahead log that the server has written and this node has not recorded."
    ),
    Metric("witnz_source_last_event_timestamp_seconds", "gauge", (), "When the last message of the stream arrived."),
    Metric("witnz_slot_retained_bytes", "gauge", (), "Write-ahead log that the server keeps for this node's slot."),
    Metric("witnz_seals_total", "counter", (), "Seals in the journal."),
    Metric("witnz_seal_age_seconds", "gauge", (), "Time since the newest seal."),
    Metric("witnz_checkpoint_size", "gauge", (), "Journal records that the newest final checkpoint covers."),
    Metric("witnz_checkpoint_timestamp_seconds", "gauge", (), "When the newest final checkpoint was cosigned."),
    Metric("witnz_verify_runs_total", "counter", ("table", "verdict"), "Verifications by verdict."),
    Metric("witnz_verify_seconds", "histogram", ("table",), "Duration of a verification.", _SLOW_S),
    Metric("witnz_verify_rows", "gauge", ("table",), "Rows that the last verification read."),
    Metric("witnz_verify_last_timestamp_seconds", "gauge", ("table",), "When the last verification finished."),
    Metric("witnz_findings_total", "counter", ("class",), "Findings raised."),
    Metric("witnz_findings_open", "gauge", ("table",), "Findings that are open; table is empty for those of no table."),
    Metric(
        "witnz_alerts_total", "counter", ("sink", "outcome"), "Messages by outcome: delivered, failed (will be retried), dead."
    ),
    Metric("witnz_alerts_pending", "gauge", (), "Notifications that wait for delivery."),
    Metric("witnz_anchor_published_total", "counter", ("anchor",), "Checkpoints anchored, their receipts in the journal."),
    Metric("witnz_anchor_failures_total", "counter", ("anchor", "code"), "Attempts to anchor that failed, by error code."),
    Metric("witnz_anchor_publish_seconds", "histogram", ("anchor",), "Duration of an attempt to publish.", _SLOW_S),
    Metric("witnz_anchor_size", "gauge", ("anchor",), "Journal records that the newest checkpoint there covers."),
    Metric("witnz_anchor_timestamp_seconds", "gauge", ("anchor",), "When the newest checkpoint there was journalled."),
    Metric("witnz_anchor_looks_total", "counter", ("anchor", "status"), "Looks at receipts: ok, fail, skip (not checked)."),
    Metric("witnz_store_bytes", "gauge", (), "Size of this node's store."),
    Metric("witnz_store_free_bytes", "gauge", (), "Free space on the store's file system."),
)

_Instrument = Counter | Gauge | Histogram


class Metrics:
    """The metrics of one node, all of :data:`METRICS`, in a registry of their own.  Used by any number of threads."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._by_name = {metric.name: metric for metric in METRICS}
        self._unset = {metric.name for metric in METRICS if metric.type == "gauge" and not metric.labels}
        self._instruments: dict[str, _Instrument] = {metric.name: self._make(metric) for metric in METRICS}
        self.set("witnz_build_info", 1, version=__version__, python=platform.python_version())

    def _make(self, metric: Metric) -> _Instrument:
        if metric.type == "counter":
            return Counter(metric.name, metric.help, metric.labels, registry=self.registry)
        if metric.type == "gauge":
            return Gauge(metric.name, metric.help, metric.labels, registry=self.registry)
        return Histogram(metric.name, metric.help, metric.labels, registry=self.registry, buckets=metric.buckets)

    def count(self, name: str, amount: float = 1, **labels: str) -> None:
        """Add to a counter.  KeyError for an unknown name, ValueError for wrong labels, TypeError for a wrong type."""
        counter = self._labelled(name, labels)
        if not isinstance(counter, Counter):
            raise TypeError(f"{name} is no counter")
        counter.inc(amount)

    def set(self, name: str, value: float, **labels: str) -> None:
        """Set a gauge."""
        gauge = self._labelled(name, labels)
        if not isinstance(gauge, Gauge):
            raise TypeError(f"{name} is no gauge")
        gauge.set(value)
        self._unset.discard(name)

    def set_function(self, name: str, function: Callable[[], float], **labels: str) -> None:
        """Let a gauge be what ``function`` returns whenever it is read; ``function`` is called by the scraping thread."""
        gauge = self._labelled(name, labels)
        if not isinstance(gauge, Gauge):
            raise TypeError(f"{name} is no gauge")
        gauge.set_function(function)
        self._unset.discard(name)

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Add an observation to a histogram."""
        histogram = self._labelled(name, labels)
        if not isinstance(histogram, Histogram):
            raise TypeError(f"{name} is no histogram")
        histogram.observe(value)

    @contextmanager
    def timed(self, name: str, **labels: str) -> Iterator[None]:
        """Observe how long the body took, in seconds, however it ended."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.observe(name, time.perf_counter() - started, **labels)

    def verified(self, table: str, verdict: str, seconds: float, rows: int) -> None:
        """Note one verification of a table in the four metrics about that."""
        self.count("witnz_verify_runs_total", table=table, verdict=verdict)
        self.observe("witnz_verify_seconds", seconds, table=table)
        self.set("witnz_verify_rows", rows, table=table)
        self.set("witnz_verify_last_timestamp_seconds", time.time(), table=table)

    def clear(self, name: str) -> None:
        """Forget every labelled value of a metric: before setting those that still exist."""
        if self._by_name[name].labels:
            self._instruments[name].clear()

    def value(self, name: str, **labels: str) -> float | None:
        """The present value of a counter or gauge, or None where it has none yet; for ``status``."""
        return None if name in self._unset else self.registry.get_sample_value(name, labels)

    def render(self) -> bytes:
        """All metrics in Prometheus' text format (:data:`CONTENT_TYPE`)."""
        return generate_latest(_Shown(self.registry, frozenset(self._unset)))

    def _labelled(self, name: str, labels: dict[str, str]) -> _Instrument:
        instrument, metric = self._instruments[name], self._by_name[name]
        if set(labels) != set(metric.labels):
            raise ValueError(f"{name} takes the labels {', '.join(metric.labels) or 'none'}, not {', '.join(labels) or 'none'}")
        return instrument.labels(**labels) if labels else instrument


class _Shown(Collector):
    """A registry without gauges that nobody has set, and without the ``_created`` series, which double every counter unread."""

    def __init__(self, registry: CollectorRegistry, unset: frozenset[str]) -> None:
        self._registry = registry
        self._unset = unset

    def collect(self) -> Iterator[Family]:
        for family in self._registry.collect():
            if family.name in self._unset:
                continue
            kept = Family(family.name, family.documentation, family.type, family.unit)
            kept.samples = [sample for sample in family.samples if not sample.name.endswith("_created")]
            yield kept
