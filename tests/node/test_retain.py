"""Row images: encrypted at rest, bound to their place, and refused when they are not what was recorded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.node import wait
from tests.support.postgres import create_database
from tests.support.repairs import Bench, running
from witnz.core.entry import parse_entry
from witnz.core.rowline import row_hash
from witnz.demo.server import PostgresServer
from witnz.errors import KeyProblem, StoreCorrupt
from witnz.node.images import ImageBox
from witnz.node.keyring import load_keyring
from witnz.store import entries, images, logs
from witnz.store.database import Database as Store
from witnz.store.logs import LogRow

SECRET_TEXTS = ("baseline-plaintext", "streamed-plaintext", "tampered-plaintext", "spooled-plaintext")
KEY_TEXT = "key-in-the-clear"  # keys are readable by whoever reads the log (formats.md 2)


@pytest.fixture(scope="module")
def bench(pg_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    database = create_database(pg_server)
    for name in ("kept", "other", "moving", "bare", "renewed"):
        database.sql(f"CREATE TABLE {name} (id text PRIMARY KEY, note text)")
        database.sql(
            f"INSERT INTO {name} VALUES ('{KEY_TEXT}', 'baseline-plaintext'), ('b', 'y'), ('c', E'tab\\t \\\\'), ('d', NULL)"
        )
    tables = [
        {"name": "kept", "mode": "append_only", "retain": "rows"},
        {"name": "other", "mode": "append_only", "retain": "rows"},
        {"name": "renewed", "mode": "append_only", "retain": "rows"},
        {"name": "moving", "mode": "state_integrity", "on_change": "record", "retain": "rows"},
        {"name": "bare", "mode": "append_only"},
    ]
    with running(Bench.start(tmp_path_factory.mktemp("retain"), database, tables)) as bench:
        yield bench
    database.drop()


def log_of(bench: Bench, table: str) -> LogRow:
    with bench.node.db.read() as conn:
        log = logs.find_log(conn, f"public.{table}")
    assert log is not None
    return log


def images_of(bench: Bench, table: str) -> dict[int, bytes]:
    """Seq and sealed image of all that is kept for a table."""
    log = log_of(bench, table)
    with bench.node.db.read() as conn:
        return dict(conn.execute("SELECT seq, sealed FROM images WHERE log = ? ORDER BY seq", (log.id,)).fetchall())


def put(bench: Bench, table: str, seq: int, sealed: bytes) -> None:
    with bench.node.db.write() as conn:
        images.put(conn, log_of(bench, table).id, seq, sealed)


@pytest.mark.since(14, "logical messages in the stream, so intents and repairs,")
def test_no_row_content_stands_in_any_file_of_the_node(bench: Bench) -> None:
    bench.sql("INSERT INTO kept VALUES ('e', 'streamed-plaintext')")
    bench.sql("UPDATE kept SET note = 'tampered-plaintext' WHERE id = 'b'")
    finding = bench.found("violation.update", "b", table="kept")
    assert any(s.after is not None for s in bench.plan(finding).statements)  # so the images are there
    bench.repair_well(finding)
    assert_no_plaintext(bench)


def assert_no_plaintext(bench: Bench) -> None:
    """Of a stopped node: keys are to be found in its files, so the search works, and contents of rows are not."""
    bench.protected.stop()
    try:
        files = [path for path in (bench.protected.directory / "data").rglob("*") if path.is_file()]
        everything = b"".join(path.read_bytes() for path in files)
        with Store.open(bench.node.data.database, read_only=True) as store, store.read() as conn:
            log = logs.find_log(conn, "public.kept")
            assert log is not None
            keys = [parse_entry(line).key for line in entries.entries(conn, log.id, 2)]
        assert KEY_TEXT.encode() in keys and len(everything) > 100_000
        for text in SECRET_TEXTS:
            for encoded in (text.encode(), text.encode().hex().encode(), text.encode("utf-16-le")):
                assert encoded not in everything, text
    finally:
        bench.protected.resume()


def test_every_image_is_the_recorded_row_under_a_nonce_of_its_own(bench: Bench) -> None:
    log, kept = log_of(bench, "kept"), images_of(bench, "kept")
    copied = bench.sql("SELECT id, note FROM kept")
    assert len(kept) >= len(copied) >= 4
    assert len({sealed[:12] for sealed in kept.values()}) == len(kept)
    with bench.node.db.read() as conn:
        for seq, sealed in kept.items():
            entry = parse_entry(entries.entry_at(conn, log.id, seq))
            assert entry.row is not None
            line = bench.node.box.open(log.origin, log.secret, entry.row, sealed)
            assert row_hash(log.secret, line) == entry.row


def test_a_table_that_does_not_retain_keeps_nothing(bench: Bench) -> None:
    bench.sql("INSERT INTO bare VALUES ('z', 'w'); UPDATE bare SET note = 'v' WHERE id = 'z'")
    bench.protected.caught_up()
    assert images_of(bench, "bare") == {}


def test_only_the_accepted_version_of_a_row_is_kept_however_often_it_changes(bench: Bench) -> None:
    for number in range(30):
        bench.sql(f"UPDATE moving SET note = 'version {number}' WHERE id = 'b'")
    bench.sql("BEGIN; INSERT INTO moving VALUES ('x', '1'); UPDATE moving SET note = '2' WHERE id = 'x'; COMMIT")
    bench.sql("DELETE FROM moving WHERE id = 'd'")
    bench.protected.caught_up()
    kept = images_of(bench, "moving")
    log = log_of(bench, "moving")
    with bench.node.db.read() as conn:
        keys = sorted(str(parse_entry(entries.entry_at(conn, log.id, seq)).key, "utf-8") for seq in kept)
    assert keys == sorted([KEY_TEXT, "b", "c", "x"])


# -- images that are not what was recorded ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finding(bench: Bench) -> str:
    bench.sql("UPDATE other SET note = 'mallory' WHERE id = 'c'")
    return bench.found("violation.update", "c", table="other").id


@pytest.mark.parametrize("damage", ["flip", "nonce", "cut", "short", "empty", "other row", "other table", "older", "own"])
def test_a_tampered_image_is_refused_and_nothing_is_written(bench: Bench, finding: str, damage: str) -> None:
    kept, rows = images_of(bench, "other"), bench.rows("other")
    log = log_of(bench, "other")
    with bench.node.db.read() as conn:
        seqs = {parse_entry(entries.entry_at(conn, log.id, seq)).key: seq for seq in sorted(kept, reverse=True)}
        entry = parse_entry(entries.entry_at(conn, log.id, seqs[b"c"]))
    seq, assumed = seqs[b"c"], entry.row or b""
    good = kept[seq]
    foreign = next(iter(images_of(bench, "kept").values()))
    bad = {
        "flip": good[:-1] + bytes([good[-1] ^ 1]),
        "nonce": bytes([good[0] ^ 1]) + good[1:],
        "cut": good[:-1],
        "short": good[:5],
        "empty": b"",
        "other row": kept[seqs[b"b"]],
        "other table": foreign,
        "older": bench.node.box.seal(log.origin, assumed, b"c\tmallory"),  # by somebody who has the key, but not the hash
        "own": ImageBox(os.urandom(32)).seal(log.origin, assumed, b"c\ttab\\t \\\\"),
    }[damage]
    put(bench, "other", seq, bad)
    try:
        with pytest.raises(StoreCorrupt, match=r"a retained row image of .*public\.other/1") as refused:
            bench.node.repairs.apply(finding, bench.admin, bench.name, bench.signer, "because")
        assert refused.value.exit_code == 3
        assert bench.rows("other") == rows
        assert finding in {f.id for f in bench.open("other")}
    finally:
        put(bench, "other", seq, good)


@pytest.mark.since(14, "logical messages in the stream, so intents and repairs,")
def test_a_row_whose_image_is_gone_is_refused_with_its_key(bench: Bench) -> None:
    bench.sql("UPDATE other SET note = 'mallory' WHERE id = 'd'")
    finding = bench.found("violation.update", "d", table="other").id
    kept, log = images_of(bench, "other"), log_of(bench, "other")
    with bench.node.db.write() as conn:
        images.drop(conn, log.id, kept)
    try:
        plan = bench.node.repairs.plan(finding)
        assert (plan.statements, plan.refused) == ((), ("key d: no image of the recorded row is kept",))
        result = bench.node.repairs.apply(finding, bench.admin, bench.name, bench.signer, "because")
        assert not result.repaired and result.left == plan.refused and result.restored == ()
    finally:
        with bench.node.db.write() as conn:
            images.put_many(conn, log.id, kept.items())
    assert bench.node.repairs.apply(finding, bench.admin, bench.name, bench.signer, "because").repaired


def test_a_key_file_that_is_damaged_or_another_nodes_is_told_apart(bench: Bench, tmp_path: Path) -> None:
    box = ImageBox(os.urandom(32))
    sealed = box.seal("o", bytes(32), b"line")
    with pytest.raises(StoreCorrupt, match=r"does not open") as refused:
        ImageBox(os.urandom(32)).open("o", b"secret", bytes(32), sealed)
    assert "retain.key" in refused.value.hint
    config, keys = bench.protected.config, bench.node.data.keys_dir
    for name in ("identity.key", "cosigner.key", "log.key"):
        (tmp_path / name).write_bytes((keys / name).read_bytes())
        (tmp_path / name).chmod(0o600)
    for text in ("", "witnz-retain-key-1 AAAA", "witnz-retain-key-1 !!!", "nonsense"):
        (tmp_path / "retain.key").write_text(text)
        (tmp_path / "retain.key").chmod(0o600)
        with pytest.raises(KeyProblem, match=r"retain\.key"):
            load_keyring(tmp_path, config.cluster, config.node_id)


# -- generations --------------------------------------------------------------------------------------------------------------


@pytest.mark.since(14, "logical messages in the stream, so intents and repairs,")
def test_a_new_generation_has_images_of_its_own_and_its_rows_can_be_repaired(bench: Bench) -> None:
    first = log_of(bench, "renewed")
    bench.sql("ALTER TABLE renewed ADD added int DEFAULT 7")
    bench.sql("INSERT INTO renewed VALUES ('spooled', 'spooled-plaintext', 8)")
    wait(lambda: log_of(bench, "renewed").generation == 2 and log_of(bench, "renewed").status == "active", "generation 2")
    bench.protected.caught_up()
    assert log_of(bench, "renewed").id != first.id and len(images_of(bench, "renewed")) == 5
    before = bench.texts("renewed")
    bench.sql("UPDATE renewed SET added = 0; DELETE FROM renewed WHERE id = 'spooled'")
    bench.protected.caught_up()
    for finding in bench.open("renewed"):
        if bench.node.approvals.get(finding.id).state == "open":
            assert bench.repair(finding).repaired
    assert bench.texts("renewed") == before
    assert bench.verify("renewed") == "VERIFIED" and bench.open("renewed") == []
    assert_no_plaintext(bench)
