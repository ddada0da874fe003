"""E01: the node's own store is edited: an entry, the live state, the journal, a checkpoint, a finding."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from witnz.core.verdict import Verdict
from witnz.verify.store import audit_store

TABLE = "public.ledger"
Edit = Callable[[sqlite3.Connection], int]


def change_entry(conn: sqlite3.Connection) -> int:
    """The row hash of one entry that is not packed yet."""
    query = (
        "SELECT t.log, t.seq, t.entry FROM tail t JOIN logs l ON l.id = t.log"
        " WHERE l.table_name = ? AND instr(t.entry, CAST('insert' AS BLOB)) LIMIT 1"
    )
    log, seq, entry = conn.execute(query, (TABLE,)).fetchone()
    cells = entry.split(b"\t")
    cells[4] = bytes(reversed(cells[4]))
    return conn.execute("UPDATE tail SET entry = ? WHERE log = ? AND seq = ?", (b"\t".join(cells), log, seq)).rowcount


def change_live_state(conn: sqlite3.Connection) -> int:
    """The updated row becomes an accepted one."""
    return conn.execute("DELETE FROM overlay WHERE k = CAST('4' AS BLOB)").rowcount


def change_journal(conn: sqlite3.Connection) -> int:
    """A verification that found tampering says that it found none."""
    rows = conn.execute("SELECT seq, leaf FROM journal").fetchall()
    seq, leaf = next((seq, leaf) for seq, leaf in reversed(rows) if b'"verdict":"TAMPERED"' in leaf)
    return conn.execute(
        "UPDATE journal SET leaf = ? WHERE seq = ?", (leaf.replace(b'"verdict":"TAMPERED"', b'"verdict":"VERIFIED"'), seq)
    ).rowcount


def newest_note(conn: sqlite3.Connection) -> tuple[int, list[str]]:
    size, note = conn.execute("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
    return size, note.split("\n")


def save_note(conn: sqlite3.Connection, size: int, lines: list[str]) -> int:
    return conn.execute("UPDATE checkpoints SET note = ? WHERE size = ?", ("\n".join(lines), size)).rowcount


def change_checkpoint(conn: sqlite3.Connection) -> int:
    """The newest checkpoint names another root."""
    size, lines = newest_note(conn)
    lines[2] = ("B" if lines[2][0] == "A" else "A") + lines[2][1:]
    return save_note(conn, size, lines)


def change_cosignature(conn: sqlite3.Connection) -> int:
    """The newest checkpoint carries another cosignature."""
    size, lines = newest_note(conn)
    lines[-2] = lines[-2][:-6] + ("B" if lines[-2][-6] == "A" else "A") + lines[-2][-5:]
    return save_note(conn, size, lines)


def hide_finding(conn: sqlite3.Connection) -> int:
    return conn.execute("DELETE FROM findings WHERE class = 'violation.update'").rowcount


EDITS: dict[str, tuple[Edit, str]] = {
    "entry": (change_entry, f"log {TABLE}/1"),
    "live state": (change_live_state, f"state {TABLE}/1"),
    "journal": (change_journal, "journal"),
    "checkpoint": (change_checkpoint, "journal"),  # the root that it names is not the journal's
    "cosignature": (change_cosignature, "checkpoints"),
    "finding": (hide_finding, "findings"),
}


def edit(data: Path, change: Edit) -> None:
    with closing(sqlite3.connect(data / "witnz.db")) as conn, conn:
        assert change(conn) > 0, "the edit must change something"


@pytest.fixture(scope="module")
def guarded(pg_server, tmp_path_factory, begin_scene) -> Path:  # type: ignore[no-untyped-def]
    """The directory of a node that recorded an update, found it, and stopped."""
    directory = tmp_path_factory.mktemp("e01")
    with ExitStack() as stack:
        scene = begin_scene(stack, directory, pg_server, [{"name": TABLE, "mode": "append_only"}])
        scene.dba(f"UPDATE {TABLE} SET amount = 0 WHERE id = 4")
        scene.now("violation.update", 4, TABLE)
        assert scene.protected.verify(TABLE).verdict is Verdict.TAMPERED
    return directory


@pytest.fixture
def copy(guarded: Path, tmp_path: Path) -> Path:
    """A copy of that directory, whose configuration names the copied store."""
    shutil.copytree(guarded, tmp_path / "node", ignore=shutil.ignore_patterns("*.sock"))
    path = tmp_path / "node" / "witnz.yaml"
    document = yaml.safe_load(path.read_text())
    document["node"]["data_dir"] = str(tmp_path / "node" / "data")
    path.write_text(yaml.safe_dump(document))
    return tmp_path / "node"


def verify_store(directory: Path) -> tuple[int, dict[str, Any]]:
    """(exit code, document) of the command, run as an auditor would."""
    command = [sys.executable, "-m", "witnz", "--config", str(directory / "witnz.yaml"), "--json", "verify", "--store"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def test_the_store_as_the_node_left_it_is_verified(copy: Path) -> None:
    code, document = verify_store(copy)
    assert (code, document["verdict"]) == (0, "VERIFIED"), document


@pytest.mark.parametrize("kind", EDITS)
def test_an_edited_store_is_tampered_and_the_edited_part_is_named(copy: Path, kind: str) -> None:
    change, part = EDITS[kind]
    edit(copy / "data", change)
    code, document = verify_store(copy)
    assert (code, document["verdict"]) == (3, "TAMPERED")
    failed = [check["name"] for check in document["checks"] if check["status"] == "fail"]
    assert failed[0] == part
    untouched = {"log public.untouched/1", "log billing.audit_logs/1"} & {c["name"] for c in document["checks"]}
    assert not untouched & set(failed)
    assert part == "journal" or len(untouched) == 2, "only without its journal nothing of a store can be judged"


def test_a_node_that_starts_on_an_edited_store_finds_it_by_itself(own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"})
    scene.dba(f"UPDATE {TABLE} SET amount = 0 WHERE id = 4")
    scene.now("violation.update", 4, TABLE)
    scene.stop()
    data = scene.protected.directory / "data"
    edit(data, change_live_state)
    assert audit_store(data / "witnz.db").verdict is Verdict.TAMPERED
    scene.resume()
    finding = scene.now("node.store-tampered", None, None)
    assert f"state {TABLE}/1" in finding.detail
