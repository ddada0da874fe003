"""Finding seals: the same answers as reading the whole journal gives, whatever it holds."""

from __future__ import annotations

import json
import random
import sqlite3
from typing import Any

import pytest

from witnz.store import journal, meta, seals
from witnz.store.schema import migrate
from witnz.store.seals import Sealed, first_covering, newest_sealed

LOGS = [("public.a", 1), ("public.a", 2), ("public.ab", 1), ('s."p""q"', 1), ("public.never", 1)]
RECORDS = 900


@pytest.fixture(scope="module", params=["often", "seldom"])
def filled(request: pytest.FixtureRequest) -> tuple[sqlite3.Connection, list[tuple[int, tuple[str, int], int]]]:
    """A journal, and (seq, log, size) of every head in its seals."""
    chance, dice = {"often": 0.9, "seldom": 0.03}[request.param], random.Random(7)
    conn = sqlite3.connect(":memory:", isolation_level=None)
    migrate(conn)
    meta.save_value(conn, meta.CLUSTER, "local/app")
    head, sizes, heads = journal.load_head(conn), dict.fromkeys(LOGS, 0), []
    for seq in range(1, RECORDS + 1):
        named = [log for log in LOGS[:-1] if dice.random() < 0.4] if dice.random() < chance else []
        for log in named:
            sizes[log] += dice.randint(1, 5)
            heads.append((seq, log, sizes[log]))
        tables = [{"generation": generation, "size": sizes[table, generation], "table": table} for table, generation in named]
        body = {"tables": tables} if named else {"detail": '"table":"public.a"'}
        text = json.dumps({"body": body, "type": "seal" if named else "operator"}, separators=(",", ":"))
        journal.append_record(conn, head, text.encode())
    return conn, heads


@pytest.mark.parametrize("to_seq", [RECORDS, RECORDS // 2, 40, 1])
def test_the_newest_seal_of_each_log_is_found(
    filled: tuple[sqlite3.Connection, list[tuple[int, tuple[str, int], int]]], to_seq: int
) -> None:
    conn, heads = filled
    expected = {log: Sealed(seq, size) for seq, log, size in heads if seq <= to_seq}
    assert newest_sealed(conn, LOGS, to_seq) == expected
    one = LOGS[2]
    assert newest_sealed(conn, [one], to_seq) == {log: sealed for log, sealed in expected.items() if log == one}
    assert newest_sealed(conn, [], to_seq) == {}


def test_the_first_seal_that_covers_an_entry_is_found(
    filled: tuple[sqlite3.Connection, list[tuple[int, tuple[str, int], int]]],
) -> None:
    conn, heads = filled
    looked = 0
    for log in LOGS:
        covering = [Sealed(seq, size) for seq, of, size in heads if of == log]
        most = covering[-1].size if covering else 0
        for entry in {
            1,
            2,
            most // 3,
            most // 2,
            most - 1,
            most,
            *(sealed.size for sealed in covering[:: max(1, len(covering) // 9)]),
        }:
            if entry < 1:
                continue
            for to_seq in (RECORDS, RECORDS // 3, 10**9):
                expected = next((one for one in covering if one.size >= entry and one.seq <= to_seq), None)
                assert first_covering(conn, log, entry, to_seq) == expected
                looked += expected is not None
        assert first_covering(conn, log, most + 1, RECORDS) is None
    assert looked > 20


def test_a_search_reads_a_small_part_of_a_long_journal(
    filled: tuple[sqlite3.Connection, list[tuple[int, tuple[str, int], int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    conn, heads = filled
    parsed = steps = 0

    def counted(leaf: bytes) -> list[dict[str, Any]]:
        nonlocal parsed
        parsed += 1
        found: list[dict[str, Any]] = json.loads(leaf)["body"]["tables"]
        return found

    def stepped() -> int:
        nonlocal steps
        steps += 1
        return 0

    monkeypatch.setattr(seals, "heads_of", counted)
    seq, log, size = heads[len(heads) // 2]
    conn.set_progress_handler(stepped, 1)  # each instruction of SQLite's machine; a record that is passed over takes some
    try:
        whole = len(conn.execute("SELECT seq, leaf FROM journal WHERE seq BETWEEN ? AND ?", (1, RECORDS)).fetchall())
        walk, steps = steps, 0
        found = first_covering(conn, log, size, RECORDS)
    finally:
        conn.set_progress_handler(None, 1)
    assert whole == RECORDS
    assert found is not None and found.seq == seq
    assert parsed < 40
    parsed = 0
    assert seals._newest_at(conn, LOGS[-1], RECORDS, 0) is None
    assert parsed == 0  # of a log that no seal names nothing is parsed
    if len(heads) > RECORDS:  # sealed often: a search by halves; what it costs besides is the first look from the end on
        assert steps < 2 * walk
