"""The alert service on a real store with real receivers: at least once, in order, deduplicated, retried, summarised."""

from __future__ import annotations

import itertools
import json
import random
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.alerts import CLUSTER, NODE, finding
from tests.support.config_files import MINIMAL, loader
from tests.support.receiver import Received, Receiver, answer, hang, in_turn, receiver
from witnz.alert.pace import FIRST_RETRY_S, QUIET_S
from witnz.alert.service import GIVE_UP_AFTER_S, AlertService
from witnz.alert.sink import Sink
from witnz.alert.sinks import LogSink, PagerDutySink, SlackSink, WebhookSink
from witnz.config import Secret
from witnz.core.finding import Finding
from witnz.errors import StoreFull
from witnz.metrics import Metrics
from witnz.store import outbox
from witnz.store.database import Database

START_S = 1_795_284_000.0


class Clock:
    """Time that passes only when told."""

    def __init__(self) -> None:
        self.now_s = START_S

    def __call__(self) -> int:
        return round(self.now_s * 1e6)


@pytest.fixture(autouse=True)
def direct(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Database]:
    with Database.create(tmp_path / "witnz.db") as database:
        yield database


@pytest.fixture
def clock() -> Clock:
    return Clock()


def service(db: Database, clock: Callable[[], int], *sinks: Sink, metrics: Metrics | None = None, **more: Any) -> AlertService:
    return AlertService(db, sinks, clock, metrics, cluster=CLUSTER, node=NODE, chance=random.Random(1), **more)


def hook(there: Receiver, name: str = "hook", **more: Any) -> WebhookSink:
    return WebhookSink(name, Secret(there.url), **{"timeout_s": 60.0, **more})


def queue(db: Database, alerts: AlertService, *findings: Finding) -> None:
    with db.write() as conn:
        for each in findings:
            alerts.enqueue(conn, each)


def counts(db: Database, sink: str | None = None) -> dict[str, int]:
    with db.read() as conn:
        return outbox.counts(conn, sink)


def told(received: Sequence[Received]) -> list[str]:
    """The ids of single findings, and "40 more" for summaries, in the order in which they came."""
    documents = [json.loads(each.body) for each in received]
    return [each["finding"]["id"] if "finding" in each else f"{each['summary']['count']} more" for each in documents]


# --- once and only once ---------------------------------------------------------------------------------------------------


def test_a_finding_reaches_every_sink_once_however_often_it_is_queued(db: Database, clock: Clock) -> None:
    with receiver() as one, receiver() as two:
        alerts = service(db, clock, hook(one, "one"), hook(two, "two"))
        queue(db, alerts, finding(), finding())
        assert alerts.deliver_due() == 2
        queue(db, alerts, finding())
        assert alerts.deliver_due() == 0
    assert told(one.received) == told(two.received) == [finding().id]
    assert counts(db) == {"pending": 0, "delivered": 2, "dead": 0}


def test_a_finding_that_changes_its_state_is_told_again_in_order(db: Database, clock: Clock) -> None:
    with receiver() as there:
        alerts = service(db, clock, hook(there))
        queue(db, alerts, finding(), finding(state="acknowledged"), finding(state="approved"), finding(2))
        alerts.deliver_due()
    states = [json.loads(each.body)["finding"]["state"] for each in there.received]
    assert states == ["open", "acknowledged", "approved", "open"]


def test_what_is_undone_with_the_finding_is_never_told(db: Database, clock: Clock) -> None:
    with receiver() as there:
        alerts = service(db, clock, hook(there))
        with pytest.raises(ZeroDivisionError), db.write() as conn:
            alerts.enqueue(conn, finding())
            _ = 1 // 0
        assert alerts.deliver_due() == 0
    assert there.received == []


def test_the_state_that_is_told_is_that_of_the_moment_of_queuing(db: Database, clock: Clock) -> None:
    with receiver() as there:
        alerts = service(db, clock, hook(there))
        queue(db, alerts, finding(key="as it was"))
        queue(db, alerts, finding(key="as it is now"))
        alerts.deliver_due()
    assert json.loads(there.received[0].body)["finding"]["key"] == "as it was"


def test_a_crash_between_the_answer_and_the_mark_sends_again_with_the_same_delivery_id(db: Database, clock: Clock) -> None:
    """The receiver has answered; then the process is gone before the store knows."""
    with receiver() as there:
        alerts = service(db, clock, hook(there))
        queue(db, alerts, finding())

        class Died(BaseException):
            pass

        sink = hook(there)

        class Dying:
            name, max_per_minute, summarises_closing = sink.name, sink.max_per_minute, True

            def deliver(self, message: Any, now_s: float) -> Any:
                assert sink.deliver(message, now_s).delivered
                raise Died

        with pytest.raises(Died):
            service(db, clock, Dying()).deliver_due()
        assert service(db, clock, sink).deliver_due() == 1
    first, second = there.received
    assert first.headers["witnz-delivery"] == second.headers["witnz-delivery"]
    assert counts(db)["delivered"] == 1


def test_a_store_that_cannot_note_a_delivery_pages_nobody_twice(db: Database, clock: Clock) -> None:
    with receiver() as there:
        alerts = service(db, clock, hook(there))
        queue(db, alerts, finding(1), finding(2))
        with db.write() as conn:  # from now on the store refuses every mark
            conn.execute("CREATE TEMP TRIGGER refuse BEFORE UPDATE ON main.outbox BEGIN SELECT RAISE(ABORT, 'full'); END")
        with capture_logs() as logs:
            assert alerts.deliver_due() == 2
            clock.now_s += 5
            assert alerts.deliver_due() == 0
        assert len(there.received) == 2
        assert {log["event"] for log in logs} == {"alert delivery was not noted"}
        assert counts(db)["pending"] == 2
        with db.write() as conn:
            conn.execute("DROP TRIGGER temp.refuse")
        alerts.deliver_due()
    assert len(there.received) == 2
    assert counts(db) == {"pending": 0, "delivered": 2, "dead": 0}


# --- failures -------------------------------------------------------------------------------------------------------------


def test_a_failure_is_retried_with_growing_delays_until_it_gets_through(db: Database, clock: Clock) -> None:
    metrics = Metrics()
    with receiver(in_turn(answer(500), answer(503), answer(500), answer(200))) as there:
        alerts = service(db, clock, hook(there), metrics=metrics)
        queue(db, alerts, finding())
        tried_at: list[float] = []
        while counts(db)["pending"]:
            before = len(there.received)
            alerts.deliver_due()
            if len(there.received) > before:
                tried_at.append(clock.now_s - START_S)
            clock.now_s += 0.25
    assert len(tried_at) == 4
    gaps = [later - earlier for earlier, later in itertools.pairwise(tried_at)]
    for attempt, gap in enumerate(gaps):
        assert FIRST_RETRY_S * 2**attempt / 2 <= gap <= FIRST_RETRY_S * 2**attempt + 0.5
    assert len({each.headers["witnz-delivery"] for each in there.received}) == 1
    assert metrics.value("witnz_alerts_total", sink="hook", outcome="failed") == 3
    assert metrics.value("witnz_alerts_total", sink="hook", outcome="delivered") == 1


def test_retry_after_is_obeyed(db: Database, clock: Clock) -> None:
    with receiver(in_turn(answer(429, Retry_After="300"), answer(200))) as there:
        alerts = service(db, clock, hook(there))
        queue(db, alerts, finding())
        alerts.deliver_due()
        clock.now_s += 299
        alerts.deliver_due()
        assert len(there.received) == 1
        clock.now_s += 1
        assert alerts.deliver_due() == 1


def test_when_nothing_gets_through_only_one_message_is_tried_and_the_order_is_kept(db: Database, clock: Clock) -> None:
    with receiver(answer(500)) as there:
        alerts = service(db, clock, hook(there))
        queue(db, alerts, *(finding(number) for number in range(1, 6)))
        alerts.deliver_due()
        assert len(there.received) == 1
        queue(db, alerts, finding(1, state="approved"))
        alerts.deliver_due()
        assert len(there.received) == 1, "what came later does not overtake"
        there.behave = answer(200)
        clock.now_s += FIRST_RETRY_S
        assert alerts.deliver_due() == 6
    assert told(there.received[1:]) == [*(finding(number).id for number in range(1, 6)), finding(1).id]


def test_the_order_is_kept_over_a_restart_as_well(db: Database, clock: Clock) -> None:
    with receiver(answer(500)) as there:
        alerts = service(db, clock, hook(there))
        queue(db, alerts, finding())
        alerts.deliver_due()
        restarted = service(db, clock, hook(there))
        queue(db, restarted, finding(state="approved"))
        there.behave = answer(200)
        assert restarted.deliver_due() == 0
        clock.now_s += FIRST_RETRY_S
        assert restarted.deliver_due() == 2
    states = [json.loads(each.body)["finding"]["state"] for each in there.received]
    assert states == ["open", "open", "approved"]


def test_a_message_that_is_refused_waits_alone(db: Database, clock: Clock) -> None:
    with receiver(in_turn(answer(400), answer(200))) as there:
        alerts = service(db, clock, hook(there))
        queue(db, alerts, finding(1), finding(2), finding(3))
        assert alerts.deliver_due() == 2
        assert counts(db) == {"pending": 1, "delivered": 2, "dead": 0}
        restarted = service(db, clock, hook(there))
        queue(db, restarted, finding(4))
        assert restarted.deliver_due() == 1, "a refusal does not block the sink after a restart"
        clock.now_s += FIRST_RETRY_S
        assert restarted.deliver_due() == 1
    assert told(there.received) == [finding(number).id for number in (1, 2, 3, 4, 1)]


def test_one_failing_sink_does_not_hold_up_another(db: Database, clock: Clock) -> None:
    with receiver(hang) as slow, receiver(answer(500)) as broken, receiver() as good:
        alerts = service(db, clock, hook(slow, "slow", timeout_s=0.3), hook(broken, "broken"), hook(good, "good"))
        queue(db, alerts, finding(1), finding(2))
        assert alerts.deliver_due() == 2
        assert told(good.received) == [finding(1).id, finding(2).id]
        assert (len(slow.received), len(broken.received)) == (1, 1)
        queue(db, alerts, finding(3))
        alerts.deliver_due()
    assert len(good.received) == 3
    assert counts(db, "broken")["pending"] == 3


def test_after_a_day_of_failing_a_notification_is_dead_and_an_error_in_the_log(db: Database, clock: Clock) -> None:
    metrics = Metrics()
    with receiver(answer(500)) as there:
        alerts = service(db, clock, hook(there), metrics=metrics)
        queue(db, alerts, finding(1))
        alerts.deliver_due()
        clock.now_s += GIVE_UP_AFTER_S - 10
        queue(db, alerts, finding(2))
        alerts.deliver_due()
        assert counts(db)["dead"] == 0
        clock.now_s += 3600
        with capture_logs() as logs:
            alerts.deliver_due()
        assert counts(db) == {"pending": 1, "delivered": 0, "dead": 1}
        (given_up,) = [log for log in logs if log["log_level"] == "error"]
        assert (given_up["event"], given_up["notification"]) == ("alert was given up", f"{finding(1).id}:open")
        assert metrics.value("witnz_alerts_total", sink="hook", outcome="dead") == 1
        there.behave = answer(200)
        clock.now_s += 3600
        assert alerts.deliver_due() == 1
    assert told(there.received)[-1] == finding(2).id


def test_all_that_waited_behind_a_dead_one_die_with_it(db: Database, clock: Clock) -> None:
    with receiver(answer(500)) as there:
        alerts = service(db, clock, hook(there))
        queue(db, alerts, finding(1), finding(2), finding(3))
        clock.now_s += GIVE_UP_AFTER_S
        alerts.deliver_due()
        assert len(there.received) == 1
    assert counts(db)["dead"] == 3


def test_many_retries_fit_into_a_day(db: Database, clock: Clock) -> None:
    with receiver(answer(500)) as there:
        alerts = service(db, clock, hook(there))
        queue(db, alerts, finding())
        while counts(db)["pending"] and clock.now_s - START_S < 2 * GIVE_UP_AFTER_S:
            alerts.deliver_due()
            clock.now_s += 60
    assert 90 < len(there.received) < 220
    assert GIVE_UP_AFTER_S <= clock.now_s - START_S < GIVE_UP_AFTER_S + 1000


def test_what_has_no_sink_any_more_is_told_and_dies_in_the_end(db: Database, clock: Clock) -> None:
    with receiver() as there:
        queue(db, service(db, clock, hook(there, "gone")), finding())
        with capture_logs() as logs:
            assert service(db, clock, hook(there)).deliver_due() == 0
        assert [(log["event"], log["sink"]) for log in logs] == [("alerts have no sink", "gone")]
        assert counts(db)["pending"] == 1
        clock.now_s += GIVE_UP_AFTER_S
        service(db, clock, hook(there)).deliver_due()
    assert counts(db)["dead"] == 1


def test_a_payload_that_somebody_else_wrote_is_not_sent(db: Database, clock: Clock) -> None:
    with receiver() as there:
        alerts = service(db, clock, hook(there))
        with db.write() as conn:
            outbox.enqueue(conn, "x", "hook", '{"evil": true}', now=clock.now_s)
        queue(db, alerts, finding())
        with capture_logs() as logs:
            assert alerts.deliver_due() == 1
    assert told(there.received) == [finding().id]
    assert counts(db)["dead"] == 1
    assert logs[0]["event"] == "alert was unreadable"


# --- floods ---------------------------------------------------------------------------------------------------------------


def test_in_a_flood_each_finding_is_in_exactly_one_delivered_message(db: Database, clock: Clock) -> None:
    with receiver() as there:
        alerts = service(db, clock, hook(there))
        queue(db, alerts, *(finding(number) for number in range(1, 501)))
        queue(db, alerts, *(finding(number, cls="row.modified", table="billing.prices") for number in range(1, 11)))
        alerts.deliver_due()
        assert told(there.received) == [finding(number).id for number in range(1, 16)]
        clock.now_s += 1
        alerts.deliver_due()
        assert len(there.received) == 15, "the surplus is delayed"
        clock.now_s += QUIET_S
        alerts.deliver_due()
        assert told(there.received[15:]) == ["485 more", "10 more"]
        summary = json.loads(there.received[15].body)["summary"]
        assert (summary["class"], summary["table"], summary["state"]) == ("violation.update", "public.audit_logs", "open")
        assert counts(db) == {"pending": 0, "delivered": 510, "dead": 0}
        clock.now_s += 60
        queue(db, alerts, finding(501))
        alerts.deliver_due()
    assert told(there.received)[-1] == finding(501).id, "after the flood each has a message of its own again"


def test_no_minute_of_a_long_flood_has_more_messages_than_allowed(db: Database, clock: Clock) -> None:
    sent_at: list[float] = []
    with receiver() as there:
        alerts = service(db, clock, hook(there, max_per_minute=10))
        number = 0
        for _ in range(150):  # 150 seconds, three findings each
            queue(db, alerts, *(finding(number + offset) for offset in range(3)))
            number += 3
            before = len(there.received)
            alerts.deliver_due()
            sent_at += [clock.now_s] * (len(there.received) - before)
            clock.now_s += 1
        while counts(db)["pending"]:
            before = len(there.received)
            alerts.deliver_due()
            sent_at += [clock.now_s] * (len(there.received) - before)
            clock.now_s += 0.5
    assert counts(db)["delivered"] == 450
    for start in sent_at:
        assert sum(start <= moment < start + 60 for moment in sent_at) <= 10
    singles = [each for each in told(there.received) if each.startswith("F-")]
    covered = sum(int(each.split()[0]) for each in told(there.received) if not each.startswith("F-"))
    assert len(singles) + covered == 450


def test_a_summary_that_fails_is_sent_again_with_everything_in_it(db: Database, clock: Clock) -> None:
    with receiver() as there:
        alerts = service(db, clock, hook(there))
        queue(db, alerts, *(finding(number) for number in range(1, 101)))
        alerts.deliver_due()
        there.behave = in_turn(answer(500), answer(200))
        for _ in range(200):
            clock.now_s += 0.5
            alerts.deliver_due()
    assert told(there.received[:15]) == [finding(number).id for number in range(1, 16)]
    assert told(there.received[15:])[0] == "85 more"
    delivered = told(there.received[16:])
    assert sum(1 if each.startswith("F-") else int(each.split()[0]) for each in delivered) == 85
    assert counts(db)["delivered"] == 100


def test_pagerduty_incidents_are_closed_one_by_one_even_in_a_flood(db: Database, clock: Clock) -> None:
    with receiver(answer(202)) as there:
        alerts = service(db, clock, PagerDutySink(Secret("key"), there.url, max_per_minute=20))
        queue(db, alerts, *(finding(number) for number in range(1, 11)))
        alerts.deliver_due()
        queue(db, alerts, *(finding(number, state="approved") for number in range(1, 31)))
        queue(db, alerts, *(finding(number) for number in range(11, 61)))
        for _ in range(1000):
            clock.now_s += 1
            alerts.deliver_due()
    events = [json.loads(each.body) for each in there.received]
    actions = Counter((event["event_action"], event["dedup_key"].startswith("F-")) for event in events)
    assert actions[("resolve", True)] == 30
    assert actions[("resolve", False)] == 0
    assert actions[("trigger", False)] == 1
    assert counts(db)["pending"] == 0


def test_a_flood_on_one_sink_does_not_starve_another(db: Database, clock: Clock) -> None:
    with receiver() as busy, receiver() as calm:
        alerts = service(
            db,
            clock,
            hook(busy, "busy", max_per_minute=10),
            hook(calm, "calm"),
            routes={"public.quiet": ["calm"], "public.loud": ["busy"]},
        )
        queue(db, alerts, *(finding(number, table="public.loud") for number in range(6_000)))
        queue(db, alerts, finding(1, table="public.quiet"))
        alerts.deliver_due()
        assert told(calm.received) == [finding(1, table="public.quiet").id]
        assert len(busy.received) == 5
        for _ in range(30):
            clock.now_s += 5
            alerts.deliver_due()
    assert len(told(busy.received)) == 7
    assert told(busy.received)[5:] == ["5000 more", "995 more"]
    assert counts(db) == {"pending": 0, "delivered": 6_001, "dead": 0}


# --- routing --------------------------------------------------------------------------------------------------------------


def test_findings_go_where_their_table_says_and_always_to_the_log(db: Database, clock: Clock) -> None:
    with receiver() as slack, receiver() as there:
        alerts = service(
            db, clock, LogSink(), SlackSink(Secret(slack.url)), hook(there),
            routes={"public.audit_logs": ["slack"], "public.unset": ["pagerduty"], "public.free": []},
        )  # fmt: skip
        queue(db, alerts, finding(1), finding(2, table="public.other"), finding(3, table=None, key=None, cls="slot.lost"))
        queue(db, alerts, finding(4, table="public.unset"), finding(5, table="public.free"))
        with capture_logs() as logs:
            alerts.deliver_due()
    assert len(slack.received) == 5
    assert told(there.received) == [
        finding(2, table="public.other").id,
        finding(3, table=None, cls="slot.lost").id,
        finding(4, table="public.unset").id,
        finding(5, table="public.free").id,
    ]
    assert len([log for log in logs if log["event"] == "finding changed"]) == 5


def test_the_service_of_a_configuration_routes_as_it_says(db: Database, clock: Clock, tmp_path: Path) -> None:
    with receiver() as one, receiver() as two:
        config = loader(tmp_path)(
            MINIMAL
            + f"alerts: {{webhooks: [{{name: one, url: '{one.url}'}}, {{name: two, url: '{two.url}', secret: whsec-12345}}]}}\n"
            + "protected_tables: [{name: audit_logs, alert: two}]\n"
        )
        alerts = AlertService.from_config(config, db, clock)
        queue(db, alerts, finding(1), finding(2, table="public.other"))
        alerts.deliver_due()
    assert told(one.received) == [finding(2, table="public.other").id]
    assert told(two.received) == [finding(1).id, finding(2, table="public.other").id]
    assert json.loads(two.received[0].body)["cluster"] == "local/app"


# --- running --------------------------------------------------------------------------------------------------------------


def run_in_thread(alerts: AlertService) -> tuple[threading.Event, threading.Thread]:
    stop = threading.Event()
    thread = threading.Thread(target=alerts.run, args=(stop,))
    thread.start()
    return stop, thread


def stop_running(stop: threading.Event, thread: threading.Thread) -> None:
    stop.set()
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_the_running_service_delivers_and_a_restart_keeps_what_was_pending(db: Database, tmp_path: Path) -> None:
    metrics = Metrics()
    with receiver(answer(500)) as there:
        alerts = AlertService(db, [hook(there)], metrics=metrics, cluster=CLUSTER, node=NODE)
        stop, thread = run_in_thread(alerts)
        queue(db, alerts, finding(1))
        alerts.wake()
        there.wait_for(1)
        stop_running(stop, thread)
        assert counts(db)["pending"] == 1
        there.behave = answer(200)
        db.close()
        with Database.open(tmp_path / "witnz.db") as reopened:
            again = AlertService(reopened, [hook(there)], metrics=metrics, cluster=CLUSTER, node=NODE)
            stop, thread = run_in_thread(again)
            queue(reopened, again, finding(2))
            again.wake()
            there.wait_for(3)
            deadline = time.monotonic() + 10
            while counts(reopened)["delivered"] < 2 and time.monotonic() < deadline:
                time.sleep(0.02)
            stop_running(stop, thread)
            assert counts(reopened) == {"pending": 0, "delivered": 2, "dead": 0}
    assert told(there.received) == [finding(1).id, finding(1).id, finding(2).id]


def test_waking_delivers_sooner_than_the_next_poll(db: Database) -> None:
    with receiver() as there:
        alerts = AlertService(db, [hook(there)], cluster=CLUSTER, node=NODE)
        stop, thread = run_in_thread(alerts)
        queue(db, alerts, finding())
        alerts.wake()
        assert len(there.wait_for(1)) == 1
        stop_running(stop, thread)


def test_a_store_that_fails_does_not_end_the_running_service(db: Database, tmp_path: Path) -> None:
    class Flaky(Database):
        broken = True

        def read(self) -> Any:
            if self.broken:
                raise StoreFull("store cannot be read: disk I/O error")
            return super().read()

    db.close()
    flaky = Flaky.open(tmp_path / "witnz.db")
    with receiver() as there:
        alerts = AlertService(flaky, [hook(there)], cluster=CLUSTER, node=NODE)
        queue(flaky, alerts, finding())
        with capture_logs() as logs:
            stop, thread = run_in_thread(alerts)
            time.sleep(0.1)
            Flaky.broken = False
            there.wait_for(1, timeout_s=20)
            stop_running(stop, thread)
    flaky.close()
    assert told(there.received) == [finding().id]
    assert logs[0]["event"] == "alert delivery was interrupted"


def test_stopping_leaves_the_rest_for_later(db: Database, clock: Clock) -> None:
    stop = threading.Event()
    with receiver() as there:
        normal = there.behave

        def stop_then_answer(handler: Any) -> None:
            stop.set()
            normal(handler)

        there.behave = stop_then_answer
        alerts = service(db, clock, hook(there))
        queue(db, alerts, *(finding(number) for number in range(1, 11)))
        alerts.run(stop)
    assert len(there.received) == 1
    assert counts(db) == {"pending": 9, "delivered": 1, "dead": 0}


def test_pending_alerts_are_a_metric(db: Database, clock: Clock) -> None:
    metrics = Metrics()
    with receiver(answer(500)) as there:
        alerts = service(db, clock, hook(there), metrics=metrics)
        alerts.deliver_due()
        assert metrics.value("witnz_alerts_pending") == 0
        queue(db, alerts, finding(1), finding(2))
        alerts.deliver_due()
        assert metrics.value("witnz_alerts_pending") == 2


def test_no_secret_is_in_the_log_the_store_or_an_error(db: Database, clock: Clock, tmp_path: Path) -> None:
    with receiver(answer(500, b"secret-path whsec-12345 key-98765")) as there:
        alerts = service(
            db, clock, hook(there, secret=Secret("whsec-12345")), SlackSink(Secret(there.url)),
            PagerDutySink(Secret("key-98765"), there.url), WebhookSink("nowhere", Secret("http://nowhere.invalid/secret-path")),
        )  # fmt: skip
        queue(db, alerts, finding())
        with capture_logs() as logs:
            alerts.deliver_due()
    assert len(logs) == 4
    with db.read() as conn:
        conn.row_factory = None
        rows = [tuple(row) for row in conn.execute("SELECT * FROM outbox")]
    for secret in ("secret-path", "whsec-12345", "key-98765"):
        assert secret not in str(logs)
        assert secret not in str(rows)


def test_enqueue_needs_only_the_callers_transaction(db: Database, clock: Clock) -> None:
    with receiver() as there:
        alerts = service(db, clock, hook(there))
        conn: sqlite3.Connection
        with db.write() as conn:
            alerts.enqueue(conn, finding())
            assert conn.in_transaction
    assert there.received == []


# --- the clock ------------------------------------------------------------------------------------------------------------


def test_a_clock_that_is_set_back_holds_nothing_back(db: Database, clock: Clock) -> None:
    with receiver(in_turn(answer(503), answer(503), answer(200))) as there:
        alerts = service(db, clock, hook(there))
        alerts.deliver_due()
        queue(db, alerts, finding(1))
        alerts.deliver_due()
        assert counts(db)["pending"] == 1  # and it waits for the next attempt
        clock.now_s -= 7200
        alerts.deliver_due()
        clock.now_s += FIRST_RETRY_S
        alerts.deliver_due()
        clock.now_s += 2 * FIRST_RETRY_S
        alerts.deliver_due()
        assert counts(db) == {"pending": 0, "delivered": 1, "dead": 0}
    assert told(there.received) == [finding(1).id] * 3


def test_what_was_queued_before_a_restart_and_a_clock_set_back_goes_out_at_once(db: Database, clock: Clock) -> None:
    with receiver() as there:
        queue(db, service(db, clock, hook(there)), finding())
        clock.now_s -= 7200
        assert service(db, clock, hook(there)).deliver_due() == 1
    assert told(there.received) == [finding().id]
