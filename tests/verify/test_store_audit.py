"""The store's audit on a real node's store: clean after everything a node does, and every edit is named."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.disk import reason_for_none, small_disk
from tests.support.node import Protected, wait
from tests.support.postgres import Database
from witnz.core.periods import periods_of
from witnz.core.record import parse_record
from witnz.core.verdict import CheckStatus, Verdict
from witnz.errors import ProofError, StoreCorrupt
from witnz.node.findings import FindingBook
from witnz.node.selfaudit import SelfAudit
from witnz.store import findings, journal
from witnz.store.database import Database as Store
from witnz.store.schema import RARE_RECORDS
from witnz.verify.checkpoints import check_checkpoints
from witnz.verify.store import StoreAudit, audit_store


@pytest.fixture(scope="module")
def store(pg_server, tmp_path_factory) -> Path:
    """A store with history: two modes, violations, approvals, a truncate, a table without a key, verifications."""
    from tests.support.postgres import create_database

    directory = tmp_path_factory.mktemp("audited")
    database: Database = create_database(pg_server)
    database.sql("CREATE TABLE audit (id bigint PRIMARY KEY, what text)")
    database.sql("INSERT INTO audit SELECT g, 'was ' || g FROM generate_series(1, 700) g")
    database.sql("CREATE TABLE price (id int PRIMARY KEY, cents int)")
    database.sql("INSERT INTO price SELECT g, g * 100 FROM generate_series(1, 40) g")
    database.sql("CREATE TABLE heap (a int, b text); ALTER TABLE heap REPLICA IDENTITY FULL")
    database.sql("INSERT INTO heap SELECT g % 5, 'same' FROM generate_series(1, 20) g")
    node = Protected.start(
        directory,
        database,
        [
            {"name": "audit", "mode": "append_only"},
            {"name": "price", "on_change": "alert"},
            {"name": "heap", "on_change": "record"},
        ],
    )
    database.sql("INSERT INTO audit SELECT g, 'new ' || g FROM generate_series(701, 1400) g")
    database.sql("UPDATE audit SET what = 'forged' WHERE id = 3")
    database.sql("DELETE FROM audit WHERE id = 4")
    database.sql("UPDATE price SET cents = 1 WHERE id IN (7, 8)")
    database.sql("UPDATE price SET id = 99 WHERE id = 9")
    database.sql("DELETE FROM heap WHERE a = 2; UPDATE heap SET b = 'other' WHERE a = 3")
    node.approve(node.wait_for("change.unapproved", "7"))
    node.approve(node.wait_for("violation.delete", "4"))
    node.wait_for("change.unapproved", "99")
    for table in ("public.audit", "public.price", "public.heap"):
        node.verify(table)
    node.stop()
    database.drop()
    return directory / "data"


@pytest.fixture
def copy(store: Path, tmp_path: Path) -> Path:
    shutil.copytree(store, tmp_path / "data", ignore=shutil.ignore_patterns("witnz.sock"))
    return tmp_path / "data" / "witnz.db"


def failed(audit: StoreAudit) -> dict[str, str]:
    return {check.name: check.detail for check in audit.checks if check.status is CheckStatus.FAIL}


def edit(path: Path, statement: str, *values: object) -> None:
    with sqlite3.connect(path) as conn:
        assert conn.execute(statement, values).rowcount > 0, "the edit must change something"
    conn.close()


def test_an_untouched_store_is_verified_to_the_last_part(copy: Path) -> None:
    audit = audit_store(copy)
    assert failed(audit) == {}
    assert audit.verdict is Verdict.VERIFIED
    names = {check.name for check in audit.checks}
    assert {"pages", "journal", "checkpoints", "findings", "log public.audit/1", "state public.heap/1"} <= names


def test_a_changed_entry_of_a_bundle_is_named(copy: Path) -> None:
    with sqlite3.connect(copy) as conn:
        (hashes,) = conn.execute("SELECT hashes FROM bundles WHERE log = 1 AND n = 0").fetchone()
    changed = bytearray(hashes)
    changed[32 * 9] ^= 1  # the row hash of entry 10
    edit(copy, "UPDATE bundles SET hashes = ? WHERE log = 1 AND n = 0", bytes(changed))
    wrong = failed(audit_store(copy))
    assert any("entry 10 and its leaf hash differ" in detail for detail in wrong.values()), wrong


def test_a_changed_tail_entry_contradicts_the_seal(copy: Path) -> None:
    with sqlite3.connect(copy) as conn:
        log, seq, entry = conn.execute(
            "SELECT log, seq, entry FROM tail WHERE instr(entry, CAST('update' AS BLOB)) LIMIT 1"
        ).fetchone()
    edit(copy, "UPDATE tail SET entry = ? WHERE log = ? AND seq = ?", entry.replace(b"update", b"insert"), log, seq)
    wrong = failed(audit_store(copy))
    assert any("sealed at that size" in detail or "do not lead" in detail for detail in wrong.values()), wrong


def test_a_changed_tile_is_named_to_the_byte(copy: Path) -> None:
    with sqlite3.connect(copy) as conn:
        (hashes,) = conn.execute("SELECT hashes FROM tiles WHERE log = 1 AND level = 0 AND n = 1").fetchone()
    edit(
        copy,
        "UPDATE tiles SET hashes = ? WHERE log = 1 AND level = 0 AND n = 1",
        hashes[:77] + bytes([hashes[77] ^ 4]) + hashes[78:],
    )
    wrong = failed(audit_store(copy))
    assert any("tile 0/1, byte 77" in detail for detail in wrong.values()), wrong


def test_a_live_row_that_nobody_accepted_is_named(copy: Path) -> None:
    edit(copy, "DELETE FROM overlay WHERE k = CAST('8' AS BLOB)")
    assert any("nobody accepted" in detail for detail in failed(audit_store(copy)).values())


def test_a_live_row_that_was_taken_away_is_named(copy: Path) -> None:
    edit(
        copy,
        "UPDATE live SET seq = NULL WHERE k = CAST('7' AS BLOB)"
        " AND log IN (SELECT id FROM logs WHERE table_name = 'public.price')",
    )
    assert any("its entries and decisions say otherwise" in detail for detail in failed(audit_store(copy)).values())


def test_a_changed_journal_record_is_refused(copy: Path) -> None:
    with sqlite3.connect(copy) as conn:
        rows = conn.execute("SELECT seq, leaf FROM journal").fetchall()
    seq, leaf = next((seq, leaf) for seq, leaf in rows if b"approved by the test" in leaf)
    edit(copy, "UPDATE journal SET leaf = ? WHERE seq = ?", leaf.replace(b"by the test", b"by the boss"), seq)
    assert "journal" in failed(audit_store(copy))


def test_a_cut_off_journal_contradicts_its_checkpoint(copy: Path) -> None:
    edit(copy, "DELETE FROM journal WHERE seq = (SELECT max(seq) FROM journal)")
    assert "journal" in failed(audit_store(copy))


def test_a_forged_checkpoint_is_refused(copy: Path) -> None:
    with sqlite3.connect(copy) as conn:
        size, note = conn.execute("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
    lines = note.split("\n")
    lines[-2] = lines[-2][:-6] + ("A" if lines[-2][-6] != "A" else "B") + lines[-2][-5:]
    edit(copy, "UPDATE checkpoints SET note = ? WHERE size = ?", "\n".join(lines), size)
    assert "checkpoints" in failed(audit_store(copy))


NOTE = "mode = json_set(mode, '$.{}', json({}))"
REGISTER = [
    ("oid = oid + 1", "another OID than its table record"),
    ("lsn = lsn + 8", "another LSN than its table record"),
    ("snapshot = '900000:900000:'", "another snapshot than its table record"),
    ("snapshot = NULL", "another snapshot than its table record"),
    ("keyed = 1 - keyed", "contradicts itself on whether its rows have a key"),
    ("""columns = replace(columns, '"typmod":-1', '"typmod":7')""", "describes other columns"),
    ("schema_seq = 2", "describes other columns (entry 2)"),
    ("origin = origin || '0'", "gives it the origin"),
    ("status = 'ended'", "in the journal it is the current generation"),
    ("status = 'pruned'", "in the journal it is the current generation"),
    (NOTE.format("skip_until", "9000000000"), "other members gave its entries, and there never were any"),
    (NOTE.format("settled_xid", "9000000000"), "other members gave its entries, and there never were any"),
    (NOTE.format("excluded", "json_array(json_extract(columns, '$.columns[1].name'))"), "leaves out column"),
    (NOTE.format("attnums", "'[1]'"), "numbers 1 columns, its first entry describes 2"),
    (NOTE.format("attnums", "'[2, 1]'"), "not in the order in which a table has them"),
    (NOTE.format("attnums", '\'["a", "b"]\''), "numbers of columns are none"),
    (NOTE.format("root", "'\"public.other\"'"), "which the journal does not know"),
    ("mode = 'x'", "do not read back"),
]
TABLES = ("public.audit", "public.price", "public.heap")


@pytest.mark.parametrize("first", range(0, len(REGISTER), len(TABLES)))
def test_each_column_of_the_register_that_was_edited_is_named(copy: Path, first: int) -> None:
    edits = dict(zip(TABLES, REGISTER[first : first + len(TABLES)], strict=True))
    for table, (change, _) in edits.items():
        edit(copy, f"UPDATE logs SET {change} WHERE table_name = ?", table)
    wrong = failed(audit_store(copy))
    assert set(wrong) == {f"log {table}/1" for table in TABLES}
    for table, (_, words) in edits.items():
        assert words in wrong[f"log {table}/1"], wrong


def test_a_log_that_was_taken_out_of_the_register_is_named(copy: Path) -> None:
    edit(copy, "DELETE FROM logs WHERE table_name = ?", "public.audit")
    assert failed(audit_store(copy)) == {
        "register": "the log of public.audit, generation 1, is in the journal and not in the store"
    }


def test_a_generation_that_is_said_to_end_elsewhere_than_the_next_begins_is_named(tmp_path: Path, database: Database) -> None:
    database.sql("CREATE TABLE audit (id bigint PRIMARY KEY, what text); INSERT INTO audit VALUES (1, 'one')")
    node = Protected.start(tmp_path, database, [{"name": "audit", "mode": "append_only"}])
    try:
        database.sql("ALTER TABLE audit ADD COLUMN more text")
        wait(lambda: [s.generation for s in node.node.states() if s.status == "active"] == [2], "the next generation")
    finally:
        node.stop()
    path = tmp_path / "data" / "witnz.db"
    assert failed(audit_store(path)) == {}
    edit(path, "UPDATE logs SET final_lsn = final_lsn - 8 WHERE generation = 1")
    assert "the generation that followed begins at" in failed(audit_store(path))["log public.audit/1"]


KEPT = [
    ("final = 0", "has its quorum, and the store says that it is not final"),
    ("at = at - 86400000000", "before it was signed"),
    ("at = at + 86400000000", "long after it was signed"),
]


def test_a_checkpoint_that_is_kept_as_another_than_it_is_is_named(copy: Path) -> None:
    with sqlite3.connect(copy) as conn:
        records = [parse_record(leaf) for (leaf,) in conn.execute("SELECT leaf FROM journal ORDER BY seq")]
        periods, times = periods_of(records), [record.at for record in records]
        assert "carry the log's signature" in check_checkpoints(conn, periods, times)
        for change, words in KEPT:
            conn.execute(f"UPDATE checkpoints SET {change} WHERE size = (SELECT max(size) FROM checkpoints)")
            with pytest.raises(ProofError, match=words):
                check_checkpoints(conn, periods, times)
            conn.rollback()


def test_a_checkpoint_of_no_journal_at_all_is_named(copy: Path) -> None:
    edit(copy, "INSERT INTO checkpoints SELECT 0, note, at, final FROM checkpoints ORDER BY size LIMIT 1")
    assert failed(audit_store(copy)) == {"journal": "there is a checkpoint of size 0, which no journal has"}


def set_index(path: Path, condition: str, *, rebuild: bool = False) -> None:
    """Have the file say that its index of records is one of other records, and make it that."""
    with sqlite3.connect(path) as conn:
        conn.execute("PRAGMA writable_schema = ON")
        statement = "UPDATE sqlite_master SET sql = substr(sql, 1, instr(sql, 'WHERE') + 5) || ? WHERE name = 'journal_rare'"
        assert conn.execute(statement, (condition,)).rowcount == 1
    conn.close()
    if rebuild:
        with sqlite3.connect(path) as conn:
            conn.execute("REINDEX journal_rare")
        conn.close()


def test_a_record_that_is_left_out_of_the_index_alone_is_named(copy: Path) -> None:
    """Whoever edits the file need not touch a record to have the node and its reports look past it."""
    with Store.open(copy, read_only=True) as db, db.read() as conn:
        seqs = [seq for seq, _ in journal.records_of(conn, "accept")]
    set_index(copy, f"{RARE_RECORDS} AND seq <> {seqs[0]}", rebuild=True)
    set_index(copy, RARE_RECORDS)
    with Store.open(copy, read_only=True) as db, db.read() as conn:
        assert [seq for seq, _ in journal.records_of(conn, "accept")] == seqs[1:]
    wrong = failed(audit_store(copy))
    assert wrong == {"pages": f"SQLite finds the file damaged: row {seqs[0]} missing from index journal_rare"}


def test_an_index_that_is_of_other_records_or_gone_is_damage_to_whoever_needs_it_and_named(copy: Path) -> None:
    set_index(copy, f"{RARE_RECORDS} AND seq <> 7", rebuild=True)
    for statement in ("SELECT 1", "DROP INDEX journal_rare"):
        with sqlite3.connect(copy) as edited:
            edited.execute(statement)
        edited.close()
        with Store.open(copy, read_only=True) as db, pytest.raises(StoreCorrupt, match="is damaged"), db.read() as conn:
            list(journal.records_of(conn, "accept"))
        assert list(failed(audit_store(copy))) == ["pages"]


def test_a_trigger_that_somebody_put_into_the_file_is_named(copy: Path) -> None:
    with sqlite3.connect(copy) as conn:
        conn.execute("CREATE TRIGGER quiet AFTER INSERT ON outbox BEGIN DELETE FROM outbox; END")
    conn.close()
    assert failed(audit_store(copy)) == {"pages": "the file has a trigger 'quiet', and witnz makes none"}


def test_a_hidden_finding_is_named(copy: Path) -> None:
    edit(copy, "DELETE FROM findings WHERE class = 'violation.update'")
    assert "hidden in the store" in failed(audit_store(copy))["findings"]


def test_a_finding_approved_without_an_operator_is_named(copy: Path) -> None:
    edit(
        copy,
        """UPDATE findings SET state = 'approved', doc = replace(doc, '"state": "open"', '"state": "approved"')
           WHERE class = 'violation.update'""",
    )
    assert "no operator's accept" in failed(audit_store(copy))["findings"]


def test_a_damaged_file_is_a_failed_check_and_no_crash(copy: Path) -> None:
    size = copy.stat().st_size
    with copy.open("r+b") as file:
        file.seek(size // 2)
        file.write(b"\xa5" * 20_000)
    assert audit_store(copy).verdict is Verdict.TAMPERED


def audit_process(store: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "witnz.verify.audit_process", str(store)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_the_audit_of_a_killed_node_ends_with_the_pipe_that_the_node_held_open(copy: Path) -> None:
    orphan = audit_process(copy)
    orphan.send_signal(signal.SIGSTOP)  # before its interpreter is up: its node dies before it has looked at anything
    assert orphan.stdin is not None
    orphan.stdin.close()
    orphan.send_signal(signal.SIGCONT)
    assert orphan.stdout is not None
    with orphan.stdout as pipe:
        assert pipe.read() == ""
    assert orphan.wait(60) == 1


def test_the_audit_in_a_process_of_its_own_prints_what_it_checked(copy: Path) -> None:
    audited = audit_process(copy)
    assert audited.stdout is not None and audited.stdin is not None
    with audited.stdin, audited.stdout as pipe:
        document = json.loads(pipe.read())
    assert audited.wait(60) == 0
    assert document["verdict"] == "VERIFIED"
    assert "pages" in {check["name"] for check in document["checks"]}


def test_without_room_to_derive_the_state_the_audit_is_inconclusive_and_no_finding(store: Path, tmp_path: Path) -> None:
    """A full disk is no tampering: what could not be checked is said, and looked at again once there is room."""
    if reason := reason_for_none(tmp_path):
        pytest.skip(reason)
    with small_disk(tmp_path / "disk", 16) as disk:
        path = disk.path / "data" / "witnz.db"
        shutil.copytree(store, path.parent, ignore=shutil.ignore_patterns("witnz.sock"))
        with Store.open(path) as db:
            audit = SelfAudit(db, path, FindingBook("c", lambda: 7, lambda conn, finding: None), lambda: 7, again_s=0.2)
            disk.fill()
            found = audit_store(path)
            assert found.verdict is Verdict.INCONCLUSIVE
            assert failed(found) == {}
            skipped = {check.name: check.detail for check in found.checks if check.status is CheckStatus.SKIP}
            assert set(skipped) == {"state public.audit/1", "state public.heap/1", "state public.price/1"}
            assert all("could not be checked" in detail for detail in skipped.values())
            stop = threading.Event()
            thread = threading.Thread(target=audit.run, args=(stop,))
            thread.start()
            try:
                wait(lambda: "could not be checked" in audit.message, "an audit that says what it could not look at")
                assert (audit.status, audit.since) == ("pending", None)
                disk.free()
                wait(lambda: audit.status == "ok", "the audit that has room")
                assert (audit.message, audit.since) == ("", 7)
            finally:
                stop.set()
                thread.join(60)
            with db.read() as conn:
                assert findings.list_findings(conn, classes=["node.store-tampered"]) == []
