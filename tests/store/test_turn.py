"""Writers take turns: who records goes first, nobody waits for ever, and no turn is lost."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.support.node import wait
from witnz.ending import end_threads
from witnz.store.turn import Turn


@contextmanager
def queued(turn: Turn, *wishes: tuple[str, bool]) -> Iterator[list[str]]:
    """The names of those who wait, in the order in which they get the turn that is held until the ``with`` ends."""
    order: list[str] = []

    def work(name: str, urgent: bool) -> None:
        with turn.taken(urgent=urgent):
            order.append(name)

    threads = [threading.Thread(target=work, args=wish, name=wish[0]) for wish in wishes]
    with turn.taken():
        for before, thread in enumerate(threads):
            thread.start()
            wait(lambda wanted=before + 1: turn.waiting == wanted, "one more to wait")  # type: ignore[misc]
        yield order
    end_threads(*threads)


def test_an_urgent_one_goes_before_those_who_came_earlier() -> None:
    with queued(Turn(), ("journal", False), ("alerts", False), ("recorder", True)) as order:
        assert order == []
    assert order == ["recorder", "journal", "alerts"]


def test_urgent_ones_do_not_keep_the_others_out() -> None:
    with queued(Turn(), ("a", True), ("b", True), ("journal", False), ("c", True), ("alerts", False)) as order:
        pass
    assert order == ["a", "journal", "b", "alerts", "c"]


def test_who_stops_waiting_leaves_the_queue_and_loses_no_turn() -> None:
    order = list[str]()

    class Stopped(Exception):
        pass

    class Gate:
        """A lock whose second taker, the one who waits, is interrupted; ``handed``: the turn is handed over meanwhile."""

        def __init__(self) -> None:
            self.takers = 0

        def acquire(self) -> None:
            self.takers += 1
            if self.takers == 2:
                if handed:
                    turn._give()
                raise Stopped

        def release(self) -> None:
            order.append("handed over")

    turn = Turn(Gate)  # type: ignore[arg-type]
    for handed in (False, True):
        turn._take(urgent=False)
        with pytest.raises(Stopped):
            turn._take(urgent=True)
        assert turn.waiting == 0
        if not handed:
            turn._give()
        assert not turn._taken
    assert order == ["handed over"]


def test_only_one_has_the_turn_whoever_comes_and_goes() -> None:
    turn = Turn()
    inside, most, done = 0, 0, 0

    def work(seed: int) -> None:
        nonlocal inside, most, done
        chance = random.Random(seed)
        for _ in range(200):
            with turn.taken(urgent=chance.random() < 0.3):
                inside += 1
                most = max(most, inside)
                done += 1
                time.sleep(0)  # the others may come
                inside -= 1

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    end_threads(*threads)
    assert (most, done, inside, turn.waiting) == (1, 1200, 0, 0)
