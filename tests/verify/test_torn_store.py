"""Torn and bit-flipped store files: the audit names the damage, or nothing that is evidence is other than it was.

The store is a real node's, once after a clean end, and once as kill -9 leaves it, with what came last in the write-ahead log.
What SQLite finds by itself (a page that is none, a frame with a wrong checksum) counts like what only the hashes find.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.node import Protected, wait
from tests.support.postgres import create_database
from witnz.core.verdict import CheckStatus, Verdict
from witnz.errors import StoreCorrupt, WitnzError
from witnz.store.database import PAGE_BYTES
from witnz.store.database import Database as Store
from witnz.verify.store import audit_store

EVIDENCE = {
    "logs": "id, table_name, generation, origin, secret, status, keyed <> 0, key_columns, size, chain",
    "checkpoints": "size, note",
    "cosigned": "size, root",
    **dict.fromkeys(("bundles", "tail", "tiles", "journal", "live", "runs", "overlay", "granted", "departed", "findings"), "*"),
}
"""What a verdict is about.  The rest of the register says how recording goes on: bounds of the snapshot, numbers of columns."""
FLIPS = 6
"""Bits flipped in each region, one at a time."""

Content = dict[str, list[tuple[Any, ...]]]


@dataclass(frozen=True, slots=True)
class Killed:
    """``whole``: the store after a clean end.  ``crashed``: file and write-ahead log as a kill -9 leaves them."""

    node: Protected
    whole: Path
    crashed: Path


@pytest.fixture(scope="module")
def killed(pg_server, tmp_path_factory) -> Iterator[Killed]:
    directory = tmp_path_factory.mktemp("torn")
    database = create_database(pg_server)
    database.sql(
        "CREATE TABLE price (id int PRIMARY KEY, cents int); INSERT INTO price SELECT g, g FROM generate_series(1, 600) g"
    )
    node = Protected.start(directory, database, [{"name": "price", "on_change": "record"}])
    database.sql("UPDATE price SET cents = 0 WHERE id IN (7, 8); DELETE FROM price WHERE id = 9")
    database.sql("INSERT INTO price SELECT g, g FROM generate_series(601, 640) g")
    node.caught_up()
    node.node.seal_now()
    wait(node.node.db.checkpoint, "an empty write-ahead log")
    for first in (1001, 2001, 3001):
        database.sql(
            f"INSERT INTO price SELECT g, g FROM generate_series({first}, {first + 30}) g; DELETE FROM price WHERE id = 10"
        )
        node.caught_up()
        node.node.seal_now()
    crashed, whole = directory / "crashed", directory / "whole"
    copy_store(directory / "data", crashed)
    assert (crashed / "witnz.db-wal").stat().st_size > 4 * PAGE_BYTES
    node.stop()
    copy_store(directory / "data", whole)
    yield Killed(node, whole, crashed)
    database.drop()


def copy_store(source: Path, target: Path) -> None:
    target.mkdir()
    for file in source.glob("witnz.db*"):
        if not file.name.endswith("-shm"):  # an index, which SQLite makes anew
            shutil.copy(file, target / file.name)


def content(path: Path) -> Content:
    with closing(sqlite3.connect(path)) as conn:
        return {name: sorted(conn.execute(f"SELECT {what} FROM {name}"), key=repr) for name, what in EVIDENCE.items()}


def judged(path: Path) -> tuple[Verdict | None, str]:
    """What the audit says, None where it refuses; and the first thing that it names.  Any other error is a test that failed."""
    try:
        audit = audit_store(path)
    except WitnzError as error:
        return None, error.message
    return audit.verdict, next((f"{c.name}: {c.detail}" for c in audit.checks if c.status is CheckStatus.FAIL), "")


def assert_never_green_over_damage(path: Path, undamaged: Content, what: str) -> bool:
    """Whether the damage was noticed; if not, there must be none to what counts."""
    verdict, said = judged(path)
    if verdict is Verdict.VERIFIED:
        assert content(path) == undamaged, f"{what}: VERIFIED, and the evidence is another"
        return False
    assert said, f"{what}: {verdict} without a reason"
    return True


def pages_of(path: Path, *tables: str) -> list[int]:
    """Numbers from 1 of the pages that hold these tables."""
    with closing(sqlite3.connect(path)) as conn:
        roots = f"SELECT rootpage FROM sqlite_master WHERE tbl_name IN ({', '.join('?' * len(tables))})"
        return [int(page) for (page,) in conn.execute(f"{roots} AND rootpage ORDER BY 1", tables)]


def region(path: Path, tables: tuple[str, ...]) -> list[range]:
    """Where those tables stand in the file; for none: its header."""
    return [range((page - 1) * PAGE_BYTES, page * PAGE_BYTES) for page in pages_of(path, *tables)] if tables else [range(100)]


@pytest.mark.parametrize(
    ("name", "tables", "at_least"),
    [
        ("the header", (), 0),
        ("the schema", ("sqlite_master",), 0),
        ("entries", ("bundles",), 1),
        ("tiles", ("tiles",), 0),
        ("the journal", ("journal",), 3),
        ("checkpoints", ("checkpoints", "cosigned"), 0),
        ("the live state", ("live", "runs", "overlay"), 0),
        ("the register of logs", ("logs",), 0),
        ("findings", ("findings",), 0),
    ],
)
def test_a_flipped_bit_is_named_or_changes_nothing_that_counts(
    killed: Killed, tmp_path: Path, name: str, tables: tuple[str, ...], at_least: int
) -> None:
    source, path = killed.whole / "witnz.db", tmp_path / "witnz.db"
    undamaged, data, rng = content(source), source.read_bytes(), random.Random(name)
    areas = [range(100, PAGE_BYTES)] if tables == ("sqlite_master",) else region(source, tables)
    noticed = 0
    for _ in range(FLIPS):
        at = rng.choice([at for at in rng.choice(areas) if data[at]])  # not in what a page has free
        damaged = bytearray(data)
        damaged[at] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        noticed += assert_never_green_over_damage(path, undamaged, f"{name}, byte {at}")
    assert noticed >= at_least, f"{name}: {noticed} of {FLIPS} noticed; the flips hit nothing"


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("logs", "origin", b"caf\xe9"),
        ("logs", "key_columns", '["ie"]'),
        ("journal", "chain", bytes(32)),
        ("cosigned", "root", bytes(32)),
        ("checkpoints", "note", b"caf\xe9"),
    ],
)
def test_a_value_that_only_the_audit_can_doubt_is_named(
    killed: Killed, tmp_path: Path, table: str, column: str, value: object
) -> None:
    path = tmp_path / "witnz.db"
    shutil.copy(killed.whole / "witnz.db", path)
    with closing(sqlite3.connect(path)) as conn, conn:
        taken = "CAST(? AS TEXT)" if value == b"caf\xe9" else "?"  # SQLite keeps text that is none, and Python refuses it
        conn.execute(f"UPDATE {table} SET {column} = {taken} WHERE rowid = (SELECT min(rowid) FROM {table})", [value])
    verdict, said = judged(path)
    assert verdict is Verdict.TAMPERED and said


def test_a_schema_that_is_no_text_any_more_is_a_damaged_store(killed: Killed, tmp_path: Path) -> None:
    data = (killed.whole / "witnz.db").read_bytes()
    (tmp_path / "witnz.db").write_bytes(data.replace(b"bundles (log INTEGER NOT NU", b"bundles (log INTEGER NOT N\xd5"))
    verdict, said = judged(tmp_path / "witnz.db")
    assert verdict is Verdict.TAMPERED and "damaged" in said
    for read_only in (True, False):
        with pytest.raises(StoreCorrupt, match="damaged"):
            Store.open(tmp_path / "witnz.db", read_only=read_only)


@pytest.mark.parametrize("left", [0, 1, 512, PAGE_BYTES, -PAGE_BYTES, -512, -1])
def test_a_file_cut_short_is_never_green(killed: Killed, tmp_path: Path, left: int) -> None:
    source = killed.whole / "witnz.db"
    data = source.read_bytes()
    path = tmp_path / "witnz.db"
    path.write_bytes(data[:left])
    if left <= PAGE_BYTES and left >= 0:
        verdict, said = judged(path)
        assert verdict is not Verdict.VERIFIED and said
    else:
        assert_never_green_over_damage(path, content(source), f"cut to {left}")


def test_a_write_ahead_log_that_is_whole_is_recovered_to_the_last_commit(killed: Killed, tmp_path: Path) -> None:
    path = copied(killed.crashed, tmp_path)
    assert judged(path) == (Verdict.VERIFIED, "")
    recovered, whole = content(path), content(killed.whole / "witnz.db")
    assert recovered["journal"] == whole["journal"] and recovered["tail"] == whole["tail"]


@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.9])
@pytest.mark.parametrize("how", ["flipped", "cut"])
def test_a_torn_write_ahead_log_gives_an_earlier_moment_as_a_whole(
    killed: Killed, tmp_path: Path, how: str, part: float
) -> None:
    path = copied(killed.crashed, tmp_path)
    wal = path.with_name("witnz.db-wal")
    data = bytearray(wal.read_bytes())
    at = 32 + int(part * (len(data) - 32)) + 100
    if how == "flipped":
        data[at] ^= 4
    wal.write_bytes(data[:at] if how == "cut" else data)
    assert judged(path) == (Verdict.VERIFIED, "")
    recovered, whole = content(path), content(killed.whole / "witnz.db")
    assert recovered["journal"] and set(recovered["journal"]) <= set(whole["journal"])
    assert recovered["journal"] == whole["journal"][: len(recovered["journal"])]


def test_a_node_that_lost_commits_with_its_write_ahead_log_says_what_it_does_not_know(killed: Killed) -> None:
    """The slot was acknowledged further than the store now goes: PostgreSQL will not send that again, so it is a gap."""
    data = killed.node.directory / "data"
    for file in data.glob("witnz.db*"):
        file.unlink()
    shutil.copy(killed.crashed / "witnz.db", data / "witnz.db")  # and nothing of the write-ahead log
    killed.node.resume()
    try:
        assert "moved past what this node recorded" in killed.node.wait_for("coverage.gap").detail
        verified = killed.node.verify_soon("public.price")
        assert verified.verdict is not Verdict.VERIFIED
    finally:
        killed.node.stop()


def copied(source: Path, target: Path) -> Path:
    copy_store(source, target / "store")
    return target / "store" / "witnz.db"
