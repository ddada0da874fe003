"""The metrics: what the table says is what is scraped, and nothing else."""

from __future__ import annotations

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families

from witnz.metrics import METRICS, Metric, Metrics

WANTED = """witnz_entries_total{table,op} witnz_findings_total{class} witnz_findings_open{table} witnz_source_lag_bytes{}
witnz_source_connected{} witnz_slot_retained_bytes{} witnz_seal_age_seconds{} witnz_checkpoint_size{}
witnz_verify_runs_total{table,verdict} witnz_verify_seconds{table} witnz_verify_rows{table} witnz_alerts_total{sink,outcome}
witnz_alerts_pending{} witnz_capture_batch_seconds{} witnz_store_bytes{}"""


def use(metrics: Metrics, metric: Metric) -> dict[str, str]:
    labels = {label: f"some {label}" for label in metric.labels}
    {"counter": metrics.count, "gauge": metrics.set, "histogram": metrics.observe}[metric.type](metric.name, 2, **labels)
    return labels


def test_the_table_has_what_the_rest_of_the_project_relies_on() -> None:
    table = {metric.name: set(metric.labels) for metric in METRICS}
    for name, labels in re.findall(r"(\w+)\{([\w,]*)\}", WANTED):
        assert table[name] == set(filter(None, labels.split(",")))


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_each_metric_has_a_name_with_its_unit_and_a_help_text(metric: Metric) -> None:
    assert re.fullmatch(r"witnz(_[a-z]+)+", metric.name)
    assert metric.name.endswith("_total") == (metric.type == "counter")
    assert metric.help.endswith(".")
    assert bool(metric.buckets) == (metric.type == "histogram")


def test_everything_that_was_used_is_rendered_in_prometheus_own_grammar() -> None:
    metrics = Metrics()
    used = {metric.name: use(metrics, metric) for metric in METRICS}
    families = {family.name: family for family in text_string_to_metric_families(metrics.render().decode())}
    assert len(families) == len(METRICS)
    for metric in METRICS:
        family = families[metric.name.removesuffix("_total")]
        assert (family.type, family.documentation) == (metric.type, metric.help)
        sampled = [sample for sample in family.samples if used[metric.name].items() <= sample.labels.items()]
        assert sampled, metric.name
        assert any(sample.value == 2 for sample in sampled)
        assert not any(sample.name.endswith("_created") for sample in family.samples)


def test_a_gauge_that_nobody_set_is_absent_and_not_zero() -> None:
    metrics = Metrics()
    assert b"\nwitnz_seal_age_seconds" not in metrics.render()
    assert metrics.value("witnz_seal_age_seconds") is None
    metrics.set("witnz_seal_age_seconds", 0)
    assert b"\nwitnz_seal_age_seconds 0.0\n" in metrics.render()
    assert metrics.value("witnz_seal_age_seconds") == 0


def test_counters_add_up_per_label() -> None:
    metrics = Metrics()
    metrics.count("witnz_entries_total", 3, table="public.t", op="insert")
    metrics.count("witnz_entries_total", table="public.t", op="insert")
    metrics.count("witnz_entries_total", table="public.t", op="delete")
    assert metrics.value("witnz_entries_total", table="public.t", op="insert") == 4
    assert metrics.value("witnz_entries_total", table="public.t", op="update") is None


def test_two_nodes_in_one_process_do_not_mix() -> None:
    first, second = Metrics(), Metrics()
    first.count("witnz_seals_total")
    assert (first.value("witnz_seals_total"), second.value("witnz_seals_total")) == (1, 0)


def test_a_gauge_can_be_a_function_and_labels_can_be_forgotten() -> None:
    metrics = Metrics()
    metrics.set_function("witnz_store_bytes", lambda: 42)
    assert metrics.value("witnz_store_bytes") == 42
    metrics.set("witnz_findings_open", 1, table="public.gone")
    metrics.clear("witnz_findings_open")
    assert b"public.gone" not in metrics.render()


def test_timed_observes_also_what_failed() -> None:
    metrics = Metrics()
    with pytest.raises(ZeroDivisionError), metrics.timed("witnz_verify_seconds", table="public.t"):
        _ = 1 // 0
    assert metrics.value("witnz_verify_seconds_count", table="public.t") == 1


def test_a_verification_is_noted_in_all_its_metrics() -> None:
    metrics = Metrics()
    metrics.verified("public.t", "VERIFIED", 2.5, 1000)
    assert metrics.value("witnz_verify_runs_total", table="public.t", verdict="VERIFIED") == 1
    assert metrics.value("witnz_verify_seconds_sum", table="public.t") == 2.5
    assert metrics.value("witnz_verify_rows", table="public.t") == 1000
    assert metrics.value("witnz_verify_last_timestamp_seconds", table="public.t")


def test_what_the_table_does_not_have_is_refused() -> None:
    metrics = Metrics()
    with pytest.raises(KeyError):
        metrics.count("witnz_invented_total")
    with pytest.raises(ValueError, match="takes the labels table, op, not table"):
        metrics.count("witnz_entries_total", table="t")
    with pytest.raises(ValueError, match="takes the labels none, not table"):
        metrics.set("witnz_store_bytes", 1, table="t")
    for wrong in (metrics.count, metrics.observe):
        with pytest.raises(TypeError):
            wrong("witnz_store_bytes", 1)
    with pytest.raises(TypeError):
        metrics.set("witnz_seals_total", 1)


def test_hostile_label_values_are_escaped() -> None:
    metrics = Metrics()
    metrics.count("witnz_entries_total", table='a"\n} 1\nwitnz_x 1', op="insert")
    (family,) = [
        family for family in text_string_to_metric_families(metrics.render().decode()) if family.name == "witnz_entries"
    ]
    assert [sample.labels["table"] for sample in family.samples] == ['a"\n} 1\nwitnz_x 1']
