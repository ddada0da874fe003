"""A fixed part of the fuzzing: the same worlds every time.  ``make fuzz`` runs thousands of others."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from tests.support.raft_world import SCENARIOS, Host, Violation, World, run_scenario
from witnz.cluster.raft import log
from witnz.cluster.raft.member import Agreed

SEEDS = range(2)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_no_storm_loses_or_reorders_anything(scenario: str, seed: int) -> None:
    happened = run_scenario(scenario, seed)
    assert happened["commands"] > 20
    assert happened["acked"] > 20


def test_the_same_seed_is_the_same_world() -> None:
    assert run_scenario("three", 7) == run_scenario("three", 7)


class Forgetful(World):
    """A world whose disks lie: what was synced is gone after a loss of power."""

    def stop(self, host: Host, *, power: bool) -> None:
        super().stop(host, power=power)
        if power and host.disk.durable is not None:
            host.disk.durable = host.disk.durable[: len(log.MAGIC) + 200]


class Careless(World):
    """A world whose application takes commands in another order now and then."""

    def take(self, host: Host, agreed: Agreed) -> bool:
        if host.name == "n1" and len(host.store.history) == 40 and host.member is not None and host.member.agreed:
            agreed = host.member.agreed[0]
        return super().take(host, agreed)


@pytest.mark.parametrize("world", [Forgetful, Careless])
def test_the_worlds_notice_what_is_wrong(world: type[World]) -> None:
    """A fuzzer that finds nothing is believed only if it can find something."""
    with pytest.raises((Violation, log.StoreCorrupt, AssertionError)):
        for seed in range(12):
            world(seed, kill=0.006).run()


def test_the_worlds_notice_a_guard_that_lets_acknowledgements_out_before_they_are_durable() -> None:
    class NeverSynced(log.RaftLog):
        def sync(self) -> None:
            return

    class Hasty(World):
        def boot(self, name: str) -> None:
            super().boot(name)
            member = self.hosts[name].member
            if member is not None:
                member.log.__class__ = NeverSynced

    with pytest.raises((Violation, AssertionError)):
        for seed in range(12):
            Hasty(seed, kill=0.008).run()
