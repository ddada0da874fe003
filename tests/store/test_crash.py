"""kill -9 in the middle of writing, again and again: what was committed is whole, and the rest never was."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.support.stores import make_columns, make_log
from witnz.core.entry import first_parent
from witnz.core.hashing import chain_hashes, leaf_hashes
from witnz.core.merkle import root_of
from witnz.store import entries, journal, live, meta, tablelog
from witnz.store.database import Database

ROUNDS = 8
WRITER = """
import random, sys
from pathlib import Path
from tests.support.stores import make_columns
from witnz.store import journal, live, meta, tablelog
from witnz.store.database import Database

rng = random.Random(int(sys.argv[2]))
with Database.open(Path(sys.argv[1])) as database:
    with database.read() as conn:
        head, records = tablelog.load_head(conn, 1), journal.load_head(conn)
    while True:
        with database.write() as conn:
            for _ in range(rng.randrange(1, 4)):
                count = rng.choice([1, 1, 3, 40, 255, 256, 257, 600])
                columns = make_columns(count, first=head.size)
                first = columns.append_to(conn, head)
                assert live.insert_fresh(conn, 1, list(zip(columns.keys, range(first, first + count))))
            journal.append_record(conn, records, b"size %d" % head.size)
            meta.save_value(conn, "size", head.size)
        print(head.size, flush=True)
"""


def check_store(path: Path) -> int:
    """Everything in the store against what was written; how many entries it has."""
    with Database.open(path) as database, database.read() as conn:
        head, records = tablelog.load_head(conn, 1), journal.load_head(conn)
        size = head.size
        assert (meta.load_number(conn, "size") or 0) == size
        expected = make_columns(size)
        lines = expected.lines()
        assert list(entries.entries(conn, 1)) == lines
        leaves = leaf_hashes(lines)
        assert head.chain == chain_hashes(first_parent(head.origin).encode(), leaves)
        assert head.root() == entries.root_at(conn, 1, size) == root_of(leaves)
        assert live.count(conn, 1) == size
        assert live.live_flags(conn, 1) == b"\0" + b"\1" * size
        some = expected.keys[:: max(1, size // 50)]
        assert live.accepted_many(conn, 1, some) == {key: int(key) - 99_999 for key in some}
        if records.size:
            assert journal.record_at(conn, records.size) == b"size %d" % size
        assert conn.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return size


def test_a_writer_that_is_killed_leaves_whole_transactions_only(directory: Path) -> None:
    path, rng = directory / "witnz.db", random.Random(11)
    with Database.create(path) as database, database.write() as conn:
        make_log(conn)
        meta.save_value(conn, meta.CLUSTER, "local/app")
    sizes = [0]
    for number in range(ROUNDS):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(path), str(number)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
        )
        with writer:
            assert writer.stdout is not None
            reported = writer.stdout.readline()
            time.sleep(rng.random() * 0.05)
            writer.send_signal(signal.SIGKILL)
            reported = [reported, *writer.stdout.readlines()][-1]
        size = check_store(path)
        assert size >= int(reported) > sizes[-1]  # what was reported was committed; the kill came between the two at most
        sizes.append(size)
    assert len(set(sizes)) == ROUNDS + 1
