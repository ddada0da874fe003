"""Snapshots and the 32-bit wrap of transaction ids, against the server's own pg_visible_in_snapshot."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.postgres import Database
from witnz.errors import FormatError
from witnz.postgres.xid import Snapshot, format_snapshot, parse_snapshot, widen

WRAP = 1 << 32


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    xmin = draw(st.integers(3, 1 << 62))
    xmax = xmin + draw(st.integers(0, 1 << 33))
    running = draw(st.sets(st.integers(xmin, xmax - 1), max_size=8)) if xmax > xmin else set()
    return Snapshot(xmin, xmax, frozenset(running))


@given(snapshots())
def test_a_snapshot_survives_being_written_and_read(snapshot: Snapshot) -> None:
    assert parse_snapshot(format_snapshot(snapshot)) == snapshot


@pytest.mark.parametrize(
    "text",
    [
        "",
        "10:20",
        "10:20:",
        "10:20:12,15",
        "10:10:",
        "4294967297:4294967300:4294967298",
    ],
)
def test_only_the_text_that_the_server_prints_is_read(text: str) -> None:
    if text.count(":") == 2:
        assert format_snapshot(parse_snapshot(text)) == text
    else:
        with pytest.raises(FormatError, match="snapshot"):
            parse_snapshot(text)


@pytest.mark.parametrize(
    "text",
    [
        "20:10:",  # xmin above xmax
        "10:20:9",  # below xmin
        "10:20:20",  # at xmax
        "10:20:15,12",  # descending
        "10:20:12,12",  # twice
        "10:20:12,",
        "10:20:,12",
        "010:20:",
        "10:20:12 ",
        " 10:20:",
        "-10:20:",
        "10:20:1_2",
        "10:١20:",  # digits that only look like digits
        "0:20:",
        f"10:{1 << 64}:",
        "10:20:" + "1" * (1 << 20),
    ],
)
def test_malformed_snapshots_are_refused(text: str) -> None:
    with pytest.raises(FormatError, match="snapshot"):
        parse_snapshot(text)


def test_visibility_is_below_xmax_and_not_in_progress() -> None:
    snapshot = parse_snapshot("100:110:100,105")
    assert [xid for xid in range(98, 113) if snapshot.visible(xid)] == [98, 99, 101, 102, 103, 104, 106, 107, 108, 109]


def test_visibility_agrees_with_the_server(every_database: Database) -> None:
    watcher = every_database.connect_witnz()
    first = every_database.connect_owner(autocommit=False)
    second = every_database.connect_owner(autocommit=False)
    first.execute("SELECT pg_current_xact_id()")
    every_database.sql("SELECT pg_current_xact_id()")
    second.execute("SELECT pg_current_xact_id()")
    every_database.sql("SELECT pg_current_xact_id()")
    text = watcher.execute("SELECT pg_current_snapshot()::text").fetchone()[0]
    snapshot = parse_snapshot(text)
    assert len(snapshot.xip) >= 2
    assert format_snapshot(snapshot) == text
    around = list(range(max(3, snapshot.xmin - 5), snapshot.xmax + 5))
    query = "SELECT x FROM unnest(%s::bigint[]) x WHERE pg_visible_in_snapshot(x::text::xid8, %s::pg_snapshot) ORDER BY x"
    seen = [row[0] for row in watcher.execute(query, [around, text]).fetchall()]
    assert [xid for xid in around if snapshot.visible(xid)] == seen


@given(st.integers(3, 1 << 63), st.integers(-(1 << 31) + 1, (1 << 31) - 1))
def test_an_id_within_half_a_wrap_is_found_again_from_its_low_bits(near: int, distance: int) -> None:
    wide = near + distance
    if wide < 3 or wide % WRAP < 3:
        return
    assert widen(wide % WRAP, near) == wide


@pytest.mark.parametrize(
    ("xid", "near", "wide"),
    [
        (700, 700, 700),
        (4294967295, WRAP + 5, 4294967295),  # the last of epoch 0, seen from epoch 1
        (5, 4294967290, WRAP + 5),  # the first of epoch 1, seen from epoch 0
        (3, 6 * WRAP - 1, 6 * WRAP + 3),
        (4294967294, 6 * WRAP + 3, 6 * WRAP - 2),
        (1 << 31, 3, 1 << 31),
    ],
)
def test_ids_across_the_wrap_widen_to_the_nearest(xid: int, near: int, wide: int) -> None:
    assert widen(xid, near) == wide


@pytest.mark.parametrize(("xid", "near"), [(0, 700), (2, 700), (WRAP, 700), (-1, 700), (4294967295, 700), (3 + (1 << 31), 3)])
def test_ids_that_no_transaction_near_there_can_have_are_refused(xid: int, near: int) -> None:
    with pytest.raises(FormatError, match="transaction id"):
        widen(xid, near)
