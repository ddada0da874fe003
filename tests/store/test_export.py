from __future__ import annotations

import hashlib
import json
import sqlite3
from pathlib import Path

import pytest

from tests.support.stores import make_columns, make_log
from witnz.core import merkle
from witnz.core.entry import first_parent
from witnz.core.tiles import parse_entry_bundle, root_at
from witnz.errors import StoreError
from witnz.store import entries, export, journal, meta


@pytest.mark.parametrize("size", [1, 256, 700])
def test_a_stranger_derives_the_log_from_the_exported_files_alone(conn: sqlite3.Connection, tmp_path: Path, size: int) -> None:
    head = make_log(conn)
    make_columns(700).append_to(conn, head)
    written = export.export_tiles(conn, head.id, tmp_path / "log", size)
    files = [path for path in (tmp_path / "log").rglob("*") if path.is_file()]
    assert written == len(files)
    bundles = sorted(path for path in files if "entries" in path.parts)
    lines = [line for path in bundles for line in parse_entry_bundle(path.read_bytes())]
    assert lines == make_columns(size).lines()
    leaves = [hashlib.sha256(b"\0" + line).digest() for line in lines]
    tiles = sorted(path for path in files if path.relative_to(tmp_path).parts[2] == "0")
    assert b"".join(path.read_bytes() for path in tiles) == b"".join(leaves)

    def read(level: int, n: int, width: int) -> bytes:
        name = f"{n:03}" + (f".p/{width}" if width < 256 else "")
        return (tmp_path / "log" / "tile" / str(level) / name).read_bytes()

    assert root_at(read, size) == merkle.root_of(leaves) == entries.root_at(conn, head.id, size)


def test_the_journal_is_exported_alike(conn: sqlite3.Connection, tmp_path: Path) -> None:
    meta.save_value(conn, meta.CLUSTER, "local/app")
    head = journal.load_head(conn)
    leaves = [b'{"n":%d}' % n for n in range(300)]
    for leaf in leaves:
        journal.append_record(conn, head, leaf)
    assert export.export_journal(conn, tmp_path / "journal") == 5
    root = tmp_path / "journal" / "tile" / "entries"
    assert parse_entry_bundle((root / "000").read_bytes()) + parse_entry_bundle((root / "001.p" / "44").read_bytes()) == leaves


def test_an_export_never_mixes_with_what_is_there(conn: sqlite3.Connection, tmp_path: Path) -> None:
    head = make_log(conn)
    make_columns(3).append_to(conn, head)
    (tmp_path / "mine").write_text("x")
    with pytest.raises(StoreError, match="empty directory"):
        export.export_tiles(conn, head.id, tmp_path)
    with pytest.raises(StoreError):
        export.export_tiles(conn, head.id, tmp_path / "more", 4)


def test_sql_alone_finds_a_gap_a_fork_and_a_duplicate_in_the_audit_log(conn: sqlite3.Connection) -> None:
    head = make_log(conn)
    make_columns(600).append_to(conn, head)
    rows = list(export.audit_rows(conn, head.id))
    assert (rows[0]["parent_hash"], rows[-1]["chain_hash"]) == (first_parent(head.origin), head.chain.decode())
    assert list(export.audit_rows(conn, head.id, 300, 310)) == rows[299:310]
    for row in rows[::97]:
        assert row["content_hash"] == hashlib.sha256(b"\0" + row["entry"].encode()).hexdigest()
        assert row["chain_hash"] == hashlib.sha256((row["parent_hash"] + row["content_hash"]).encode()).hexdigest()
        assert row["audit_id"] == row["chain_hash"][:16]
        assert json.loads(json.dumps(row)) == row
    broken = (
        "SELECT count(*) FROM (SELECT parent_hash, seq, LAG(chain_hash) OVER (ORDER BY seq) AS before,"
        " LAG(seq) OVER (ORDER BY seq) AS seq_before FROM audit) WHERE before IS NOT NULL"
        " AND (parent_hash <> before OR seq <> seq_before + 1)"
    )
    for change, faults in [
        ("SELECT 1", 0),
        ("DELETE FROM audit WHERE seq = 50", 1),
        ("UPDATE audit SET chain_hash = 'x' WHERE seq = 60", 1),
        ("INSERT INTO audit SELECT * FROM audit WHERE seq = 70", 1),
    ]:
        conn.execute("DROP TABLE IF EXISTS audit")
        conn.execute("CREATE TEMP TABLE audit (seq, parent_hash, chain_hash)")
        conn.executemany("INSERT INTO audit VALUES (:seq, :parent_hash, :chain_hash)", rows)
        conn.execute(change)
        assert conn.execute(broken).fetchone() == (faults,), change
