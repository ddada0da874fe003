from __future__ import annotations

import pytest

from tests.support.stores import make_columns, make_log
from witnz.store import live
from witnz.store.database import Database

ENTRIES = 40_000


@pytest.mark.parametrize("rows_per_transaction", [1, 1_000])
def test_an_entry_of_a_bigint_table_takes_at_most_110_bytes(database: Database, rows_per_transaction: int) -> None:
    """quality.md P6, before and after VACUUM; even where each row has a transaction of its own."""
    with database.write() as conn:
        head = make_log(conn)
    for first in range(0, ENTRIES, 5_000):
        made = make_columns(5_000, first=first, rows_per_transaction=rows_per_transaction)
        with database.write() as conn:
            seq = made.append_to(conn, head)
            assert live.insert_fresh(conn, head.id, list(zip(made.keys, range(seq, seq + 5_000), strict=True)))
    database.checkpoint()
    before = database.path.stat().st_size / ENTRIES
    with database.read() as conn:
        pages = conn.execute("PRAGMA page_count").fetchone()[0] - conn.execute("PRAGMA freelist_count").fetchone()[0]
        page_bytes = conn.execute("PRAGMA page_size").fetchone()[0]
    print(f"{before:.1f} bytes an entry, {pages * page_bytes / ENTRIES:.1f} of them in use")
    assert before <= 110
