"""Whose turn a scheduled verification is: members rotate, and the turn of one that is gone is taken over."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from witnz.node.turns import MAX_GRACE_S, Turns

IDS = ("node1", "node2", "node3")
TABLE = "public.ledger"
INTERVAL_S = 300.0
START_S = 300.0 * 5_000_000


def three(under_way: dict[str, bool] | None = None) -> dict[str, Turns]:
    return {node: Turns(node, lambda: IDS, lambda table: bool((under_way or {}).get(table))) for node in IDS}


def run(turns: dict[str, Turns], seconds: float, *, step_s: float = 0.5, journalled: bool = True) -> list[tuple[float, str]]:
    """Who verified when, in seconds since the start; each verification is journalled at once."""
    found = []
    for tick in range(int(seconds / step_s)):
        now = START_S + tick * step_s
        for node, one in turns.items():
            if one.take(TABLE, INTERVAL_S, now):
                found.append((now - START_S, node))
                if journalled:
                    for other in turns.values():
                        other.verified(TABLE, now)
    return found


def test_members_take_turns_one_a_slot() -> None:
    found = run(three(), 6 * INTERVAL_S)
    assert [at for at, _ in found] == [slot * INTERVAL_S for slot in range(6)]
    first = [node for _, node in found[:3]]
    assert sorted(first) == sorted(IDS)
    assert [node for _, node in found[3:]] == first


def test_the_turn_of_a_dead_member_is_taken_over_within_a_grace() -> None:
    alive = three()
    dead = run(three(), 1)[0][1]
    del alive[dead]
    found = run(alive, 3 * INTERVAL_S)
    assert [int(at // INTERVAL_S) for at, _ in found] == [0, 1, 2], "no slot goes by without a verification"
    assert 0 < found[0][0] <= INTERVAL_S / 6
    assert [at % INTERVAL_S for at, _ in found[1:]] == [0.0, 0.0]


def test_the_last_member_takes_every_turn() -> None:
    alone = {"node2": three()["node2"]}
    found = run(alone, 3 * INTERVAL_S)
    assert [int(at // INTERVAL_S) for at, _ in found] == [0, 1, 2]
    assert max(at % INTERVAL_S for at, _ in found) <= 2 * MAX_GRACE_S


def test_a_verification_that_is_under_way_is_not_taken_over() -> None:
    under_way: dict[str, bool] = {}
    turns = three(under_way)
    first = run(turns, 1, journalled=False)[0][1]
    under_way[TABLE] = True
    rest = {node: one for node, one in turns.items() if node != first}
    assert run(rest, INTERVAL_S, journalled=False) == []
    under_way[TABLE] = False  # it ended without a result
    assert [node for _, node in run(rest, INTERVAL_S)][:1], "then somebody else does it"


def test_nobody_elses_word_keeps_the_first_in_line_from_looking_itself() -> None:
    turns = three()
    for one in turns.values():
        one.verified(TABLE, START_S + 10**9)  # a liar's record, far in the future
    found = run(turns, 6 * INTERVAL_S, journalled=False)
    assert [at for at, _ in found] == [slot * INTERVAL_S for slot in range(6)]
    assert {node for _, node in found} == set(IDS)


def test_who_is_no_member_any_more_verifies_nothing() -> None:
    assert not any(Turns("node9", lambda: IDS).take(TABLE, INTERVAL_S, START_S + at) for at in range(900))


@given(st.sets(st.sampled_from(IDS), min_size=1), st.integers(0, 10**6), st.text(min_size=1, max_size=20))
def test_whoever_is_left_one_of_them_verifies_in_every_slot_and_only_once(alive: set[str], slot: int, table: str) -> None:
    turns = {node: Turns(node, lambda: IDS) for node in alive}
    began, taken = slot * INTERVAL_S, 0
    for offset in range(0, int(INTERVAL_S), 5):
        for one in turns.values():
            if one.take(table, INTERVAL_S, began + offset):
                taken += 1
                for other in turns.values():
                    other.verified(table, began + offset)
    assert taken == 1
