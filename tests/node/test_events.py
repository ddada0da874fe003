"""Events: told to all, never in the way of who tells."""

from __future__ import annotations

import threading

from witnz.ending import end_threads
from witnz.node.events import MAX_LISTENERS, QUEUE, Broadcaster


def silent() -> None:
    """A listener that is not woken."""


def test_every_listener_gets_every_event_in_order() -> None:
    events = Broadcaster()
    listeners = [events.subscribe(silent) for _ in range(3)]
    for number in range(5):
        events.publish("seal", {"n": number})
    for listener in listeners:
        assert listener is not None
        waiting, lost = listener.take()
        assert [(event.id, event.document["n"]) for event in waiting] == [(n + 1, n) for n in range(5)]
        assert lost == 0
        assert listener.take() == ([], 0)


def test_a_slow_listener_loses_the_oldest_events_and_learns_how_many() -> None:
    events = Broadcaster()
    slow = events.subscribe(silent)
    assert slow is not None
    for number in range(QUEUE + 10):
        events.publish("finding", {"n": number})
    waiting, lost = slow.take()
    assert (len(waiting), lost) == (QUEUE, 10)
    assert waiting[0].document["n"] == 10


def test_a_listener_whose_loop_has_ended_disturbs_nobody() -> None:
    events = Broadcaster()

    def ended() -> None:
        raise RuntimeError("Event loop is closed")

    assert events.subscribe(ended) is not None
    other = events.subscribe(silent)
    events.publish("seal", {})
    assert other is not None and len(other.take()[0]) == 1


def test_there_are_only_so_many_listeners_and_none_after_the_end() -> None:
    events = Broadcaster()
    listeners = [events.subscribe(silent) for _ in range(MAX_LISTENERS)]
    assert None not in listeners
    assert events.subscribe(silent) is None
    events.unsubscribe(listeners[0])  # type: ignore[arg-type]
    assert events.subscribe(silent) is not None
    events.close()
    assert listeners[1] is not None and listeners[1].closed
    assert events.subscribe(silent) is None
    events.publish("seal", {})


def test_threads_may_publish_at_once() -> None:
    events = Broadcaster()
    woken = threading.Semaphore(0)
    listener = events.subscribe(woken.release)
    assert listener is not None
    threads = [threading.Thread(target=lambda: [events.publish("seal", {}) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        end_threads(thread)
    waiting, lost = listener.take()
    assert [event.id for event in waiting] == list(range(1, 201)) and lost == 0
    assert sum(woken.acquire(blocking=False) for _ in range(201)) == 200
