"""How messages are paced: every notification in exactly one message, and never more messages than allowed."""

from __future__ import annotations

import random
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from witnz.alert.pace import FIRST_RETRY_S, FLOOD_S, MAX_RETRY_S, QUIET_S, Allowance, Flood, plan, retry_delay_s


@dataclass(frozen=True)
class Item:
    id: int
    group: tuple[str, str, str] = ("open", "violation.update", "public.t")
    may_share: bool = True


def ids(messages: list[list[Item]]) -> list[list[int]]:
    return [[item.id for item in message] for message in messages]


def test_no_minute_has_more_messages_than_are_allowed() -> None:
    allowance = Allowance(30)
    assert allowance.available(0) == 30
    for second in range(30):
        allowance.take(second)
    assert allowance.available(29) == 0
    assert allowance.available(59.9) == 0
    assert allowance.available(60) == 1
    assert allowance.available(89) == 30


def test_a_clock_that_is_set_back_neither_floods_nor_blocks() -> None:
    allowance = Allowance(2)
    allowance.take(1000)
    allowance.take(1001)
    assert allowance.available(1002) == 0
    assert allowance.available(500) == 2


def test_what_fits_goes_one_by_one() -> None:
    assert ids(plan([Item(1), Item(2)], 2, None, 0)[0]) == [[1], [2]]
    assert plan([], 30, Flood(0, 1, 0), 0) == ([], None)


def test_a_flood_sends_the_first_at_once_then_waits_then_summarises() -> None:
    due = [Item(number) for number in range(1, 101)]
    sent, flood = plan(due, 30, None, 0)
    assert ids(sent) == [[number] for number in range(1, 16)]
    rest = due[15:]
    sent, flood = plan(rest, 15, flood, QUIET_S - 1)
    assert sent == []
    rest.append(Item(101))
    sent, flood = plan(rest, 15, flood, QUIET_S)
    assert sent == [], "one more has come: it is not over"
    sent, flood = plan(rest, 15, flood, 2 * QUIET_S)
    assert ids(sent) == [list(range(16, 102))]
    assert flood is None


def test_a_flood_that_does_not_end_is_summarised_after_a_minute() -> None:
    flood: Flood | None = Flood(0, 1, 0)
    due = [Item(1)]
    at = 0.0
    sent: list[list[Item]] = []
    while not sent:
        at += 1
        due.append(Item(len(due) + 1))
        sent, flood = plan(due, 15, flood, at)
    assert at == FLOOD_S
    assert len(sent[0]) == len(due)


def test_more_groups_than_allowed_messages_follow_in_turn() -> None:
    due = [Item(number, ("open", f"class {number % 4}", "public.t")) for number in range(20)]
    sent, flood = plan(due, 3, Flood(0, 19, 0), QUIET_S)
    assert len(sent) == 3
    assert flood is not None
    left = [item for item in due if not any(item in message for message in sent)]
    assert plan(left, 0, flood, QUIET_S + 1)[0] == []
    last, flood = plan(left, 1, flood, QUIET_S + 2)
    assert [item for message in last for item in message] == left
    assert flood is None


def test_openings_go_before_closings_and_what_must_arrive_goes_alone() -> None:
    closing = ("approved", "violation.update", "public.t")
    due = [Item(1, closing, may_share=False), Item(2, closing, may_share=False), Item(3), Item(4)]
    sent, _ = plan(due, 10, Flood(0, 4, 0), QUIET_S)
    assert ids(sent) == [[3, 4], [1], [2]]
    shared = [Item(1, closing), Item(2), Item(3, closing), Item(4)]
    assert ids(plan(shared, 10, Flood(0, 4, 0), QUIET_S)[0]) == [[2, 4], [1, 3]]


def test_while_the_outbox_holds_more_the_flood_goes_on() -> None:
    due = [Item(number) for number in range(10)]
    sent, flood = plan(due, 30, None, 0, more=True)
    assert ids(sent) == [[number] for number in range(10)]
    sent, flood = plan(due, 30, flood, QUIET_S, more=True)
    assert ids(sent) == [list(range(10))]
    assert flood is not None
    sent, flood = plan([Item(99)], 30, flood, QUIET_S)
    assert ids(sent) == [[99]]
    assert flood is None


@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 3), st.booleans()), max_size=40),
    st.integers(1, 40),
    st.integers(0, 2**32),
)
def test_everything_is_sent_exactly_once_in_order_and_within_the_limit(
    arrivals: list[tuple[int, int, bool]], per_minute: int, seed: int
) -> None:
    """A simulated sink: rows arrive over time, rounds come at random moments, everything succeeds."""
    chance = random.Random(seed)
    allowance, flood, at, made = Allowance(per_minute), None, 0.0, 0
    waiting: list[Item] = []
    sent_at: list[float] = []
    sent: list[int] = []
    coming = list(arrivals)
    for _ in range(5000):
        while coming and chance.random() < 0.5:
            burst, kind, share = coming.pop()
            for _ in range(burst):
                made += 1
                waiting.append(Item(made, ("open" if kind else "approved", f"class {kind}", "t"), share))
        messages, flood = plan(waiting, allowance.available(at), flood, at)
        for message in messages:
            allowance.take(at)
            sent_at.append(at)
            sent += [item.id for item in message]
            assert len({item.group for item in message}) == 1
            assert len(message) == 1 or all(item.may_share for item in message)
            assert [item.id for item in message] == sorted(item.id for item in message)
        waiting = [item for item in waiting if item.id not in set(sent)]
        if not coming and not waiting:
            break
        at += chance.uniform(0.1, 20)
    assert sorted(sent) == list(range(1, made + 1))
    for start in sent_at:
        assert sum(start <= moment < start + 60 for moment in sent_at) <= per_minute


def test_retries_wait_longer_and_longer_with_jitter() -> None:
    chance = random.Random(1)
    for failures in range(1, 40):
        longest = min(MAX_RETRY_S, FIRST_RETRY_S * 2 ** (failures - 1))
        delays = [retry_delay_s(failures, chance) for _ in range(50)]
        assert longest / 2 <= min(delays) < max(delays) <= longest
