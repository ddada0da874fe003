"""Which earlier generation says what a table was where a restored database left, and where none does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.evidence import PaperStore
from tests.support.journal_cases import epoch_body, gap_body
from tests.support.journal_maker import TABLE, head_body
from witnz.core.lsn import format_lsn
from witnz.node.looking_back import NOT_PROTECTED, UNSEEN, Past, past_of
from witnz.store import logs

BEGAN = 0x1949850


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PaperStore]:
    """Generation 1 of a table: its schema, three rows, and an update of one of them."""
    made = PaperStore(tmp_path / "store", nodes=1).start()
    made.change([(b"insert", b"1"), (b"insert", b"2"), (b"insert", b"3")])
    made.change([(b"update", b"2")])
    yield made
    made.close()


def look(store: PaperStore, switch_lsn: int, generation: int = 2) -> tuple[Past | None, str]:
    with store.db.read() as conn:
        row = replace(logs.require_log(conn, TABLE, 1), generation=generation)
        return past_of(conn, row, store.cluster.records, store.cluster.state, switch_lsn)


def test_the_generation_that_was_recorded_then_is_taken_up_to_there(store: PaperStore) -> None:
    past, why = look(store, store.lsn - 1)
    assert past is not None and (past.row.generation, past.held, why) == (1, 1 + 3, "")
    past, _ = look(store, store.lsn)
    assert past is not None and past.held == 1 + 3 + 1


def test_before_the_table_was_protected_there_is_none(store: PaperStore) -> None:
    assert look(store, BEGAN - 1) == (None, NOT_PROTECTED)
    assert look(store, store.lsn, generation=1) == (None, NOT_PROTECTED), "the present one is no earlier one"


def test_what_nobody_saw_before_the_place_makes_it_uncertain_and_what_came_behind_it_does_not(store: PaperStore) -> None:
    store.add("gap", gap_body(from_lsn=format_lsn(store.lsn - 10), to_lsn=format_lsn(store.lsn + 10), tables=[TABLE]))
    assert look(store, store.lsn) == (None, UNSEEN)
    past, why = look(store, store.lsn - 10)
    assert past is not None and why == ""


def test_another_restore_before_the_place_makes_it_uncertain_and_another_system_leaves_none(store: PaperStore) -> None:
    system = store.cluster.state.system
    store.add("epoch", epoch_body(head_body(5), system=system, timeline=2, switch_lsn=format_lsn(store.lsn - 10)))
    assert look(store, store.lsn) == (None, UNSEEN)
    past, why = look(store, store.lsn - 20)
    assert past is not None and (past.held, why) == (1 + 3, "")
    store.add("epoch", epoch_body(head_body(5), system="7000000000000000001", timeline=1, switch_lsn="0/0"))
    assert look(store, store.lsn - 20) == (None, NOT_PROTECTED)


def test_a_pruned_generation_says_nothing(store: PaperStore) -> None:
    with store.db.write() as conn:
        logs.set_status(conn, logs.require_log(conn, TABLE, 1).id, "pruned")
    assert look(store, store.lsn) == (None, NOT_PROTECTED)
