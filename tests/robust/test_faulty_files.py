"""Every file that witnz makes durable, each step of the writing failing in turn: whole or as before, told, and repeatable."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.robust import fault_table
from tests.robust.fault_table import FILES, TABLE
from tests.support.anchors import Kept, publication
from tests.support.disk import reason_for_none, small_disk
from tests.support.faulty_files import FAILED, KINDS, PERSISTED, faulty_files
from witnz.anchor.base import Published
from witnz.anchor.basic import DirectoryAnchor
from witnz.cli.configfile import replace_file
from witnz.cli.files import write_output
from witnz.cluster.raft.file import DiskFile
from witnz.cluster.raft.log import VOTER, RaftLog, Snapshot
from witnz.cluster.raft.messages import NO_OP, format_command
from witnz.core.bundle import parse_bundle
from witnz.core.keys import ED25519, format_private_key
from witnz.errors import KeyProblem, StoreCorrupt, WitnzError
from witnz.node.keyring import KeptSigner, next_file
from witnz.store.database import Database
from witnz.store.datadir import load_key_file, save_file, save_key_file

ROOT = Path(__file__).parents[2]
WRITES = re.compile(
    r"os\.(?:write|fsync|fdatasync|replace|rename|link|ftruncate)\(|\.(?:write_bytes|write_text|hardlink_to)\(|new\.replace\("
    r"|next_path\.replace\(|\.open\(\"(?:w|x|a)"
)


@dataclass(frozen=True)
class File:
    """``write`` puts a content ("old", then "new") under ``name`` of a folder; ``read`` gives what is there back."""

    name: str
    write: Callable[[Path, str], None]
    read: Callable[[Path], str]
    begins_with_old: bool = True


def _store(path: Path, text: str) -> None:
    with Database.create(path) as db, db.write() as conn:
        conn.execute("INSERT INTO meta VALUES ('k', ?)", (text,))


def _store_read(path: Path) -> str:
    with Database.open(path) as db, db.read() as conn:  # sound, with its schema
        return "new" if conn.execute("SELECT count(*) FROM meta").fetchone()[0] <= 1 else "damaged"


KEPT = {
    "A key file that is made (`init`, `keys new`, `keys rotate`)": File("a.key", save_key_file, load_key_file, False),
    "A key file in the place of another": File(
        "a.key", lambda path, text: save_key_file(path, text, replace=True), load_key_file
    ),
    "`witnz.yaml`": File("witnz.yaml", replace_file, Path.read_text),
    "What a command writes for a person (`-o`): bundles, proofs, policies, report packages file by file": File(
        "out.json", lambda path, text: write_output(str(path), text.encode()), Path.read_text
    ),
    "What is set aside in `evidence/`: divergent tails, entries beyond an epoch, forks": File(
        "tail.tsv", lambda path, text: save_file(path, iter([text[:1].encode(), text[1:].encode()])), Path.read_text
    ),
    "A new store": File("witnz.db", _store, _store_read, False),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", KEPT.values(), ids=KEPT)
def test_a_file_is_whole_or_as_before_whichever_step_fails(tmp_path: Path, file: File, kind: str) -> None:
    nth, fired, seen = 0, True, set()
    while fired:
        nth += 1
        folder = tmp_path / str(nth)
        folder.mkdir()
        path = folder / file.name
        if file.begins_with_old:
            file.write(path, "old")
        with faulty_files(folder, nth, kind) as faults:
            try:
                file.write(path, "new")
            except WitnzError as error:
                assert faults.fired and error.exit_code != 0 and str(path.name) in error.message
            else:
                assert not faults.fired, faults.steps
            fired = faults.fired
        there = file.read(path) if path.exists() else None
        seen.add(there)
        assert there in ({"old", "new"} if file.begins_with_old else {None, "new"})
        assert fired or there == "new"
        assert [entry.name for entry in folder.iterdir() if entry.name != file.name and "witnz.db" not in entry.name] == []
        if there != "new" or file.begins_with_old:
            file.write(path, "new")  # the fault is over: the same again is all it takes
        assert file.read(path) == "new"
    assert nth > 2 and "new" in seen and (len(seen) == 2 or kind == PERSISTED)  # own sync, name, folder


@pytest.mark.parametrize("kind", KINDS)
def test_a_waiting_key_comes_into_force_or_waits_on(tmp_path: Path, kind: str) -> None:
    for nth in (1, 2, 3):
        folder = tmp_path / str(nth)
        folder.mkdir()
        path = folder / "identity.key"
        for place, seed in ((path, b"1" * 32), (next_file(path), b"2" * 32)):
            save_key_file(place, format_private_key("c/identity/node1", ED25519, seed))
        signer = KeptSigner(path, "c/identity/node1")
        waiting = KeptSigner(next_file(path), "c/identity/node1").public
        with faulty_files(folder, nth, kind) as faults:
            promoted = signer.promote(waiting)
        assert faults.fired == (nth < 3)
        in_file = KeptSigner(path, "c/identity/node1").public
        if nth > 1:  # only a name that is not durable yet: the next start gives it again, if the power takes it
            assert promoted and signer.public == in_file == waiting
        elif kind == FAILED:
            assert not promoted and signer.public == in_file != waiting
            assert signer.promote(waiting) and signer.public == waiting
        else:  # renamed all the same: what is in the file is in use, or is at the next look
            assert in_file == waiting
            assert signer.promote(waiting) and signer.public == waiting


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_in_a_folder_is_whole_or_not_there_and_gets_one_receipt(tmp_path: Path, kind: str) -> None:
    nth, fired = 0, True
    while fired:
        nth += 1
        anchor = DirectoryAnchor(tmp_path / str(nth))
        anchor.directory.mkdir()
        with faulty_files(anchor.directory, nth, kind) as faults:
            try:
                told = anchor.publish(publication(9), Kept())
            except WitnzError as error:
                assert faults.fired and "cannot be written" in error.message
            else:
                assert not faults.fired and isinstance(told, Published)
            fired = faults.fired
        for path in anchor.directory.glob("*.witnz.json"):
            parse_bundle(path.read_bytes())  # whole
        again = anchor.publish(publication(9), Kept())
        assert isinstance(again, Published)
        assert [look.check.status.value for look in anchor.look(again.receipt)] == ["ok"]
        assert len(list(anchor.directory.iterdir())) == 2  # the one bundle, and latest
    assert nth > 6


def _promise(log: RaftLog, promised: list[int]) -> None:
    """Every kind of write, with what was promised after each sync."""
    log.add(NO_OP, 1, 0)
    log.sync()
    promised.append(1)
    for k in range(2, 8):
        log.add(format_command(0, f"k{k}", b"x" * k), k, 1)
        log.setCurrentTerm(k, f"node{k}")
        log.sync()
        promised.append(k)
    log.remember("node2", b"i" * 16)
    log.set_standing(VOTER)
    log.compact(Snapshot(5, b"state"))
    log.add(format_command(0, "k8", b"x"), 8, 7)
    log.sync()
    promised.append(8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_engines_journal_keeps_what_it_promised_and_nothing_twice(tmp_path: Path, kind: str) -> None:
    nth, fired = 0, True
    while fired:
        nth += 1
        path = tmp_path / f"raft-{nth}" / "raft.log"
        path.parent.mkdir()
        promised: list[int] = []
        with faulty_files(path.parent, nth, kind) as faults:
            try:
                log = RaftLog(DiskFile(path), 3)
                _promise(log, promised)
            except WitnzError as error:
                assert faults.fired and not isinstance(error, StoreCorrupt)
            else:
                log.close()
                assert not faults.fired
            fired = faults.fired
        again = RaftLog(DiskFile(path), 3)  # sound: it starts
        kept = [index for _, index, _ in again[:]]
        assert kept == list(range(kept[0], kept[0] + len(kept))) if kept else not promised
        if promised:
            newest = promised[-1]
            assert newest <= again.last <= newest + 1
            assert newest == 8 or again.getCurrentTerm() in ({newest, newest + 1} if newest > 1 else {0, 2})
            if again.getCurrentTerm() > 1:
                assert again.getVotedForNodeId() == f"node{again.getCurrentTerm()}"
        again.close()
    assert nth > 20


def test_a_disk_that_is_full_in_the_midst_of_a_file_leaves_what_was_there(tmp_path: Path) -> None:
    if reason := reason_for_none(tmp_path):
        pytest.skip(reason)
    with small_disk(tmp_path / "disk", 4) as disk:
        for number, file in enumerate(KEPT.values()):
            folder = disk.path / str(number)
            folder.mkdir()
            path = folder / file.name
            if file.begins_with_old:
                file.write(path, "old")
            disk.fill()
            with pytest.raises(WitnzError) as refused:
                file.write(path, "new" * 20_000)
            assert refused.value.exit_code != 0
            disk.free()
            assert (file.read(path) if path.exists() else None) == ("old" if file.begins_with_old else None)
            assert all(entry.name == file.name or entry.name.startswith("witnz.db") for entry in folder.iterdir())
            file.write(path, "new")
            assert file.read(path) == "new"


def test_a_key_that_persisted_is_not_overwritten(tmp_path: Path) -> None:
    with faulty_files(tmp_path, 3, PERSISTED) as faults, pytest.raises(WitnzError, match="cannot be written"):
        save_key_file(tmp_path / "a.key", "first")
    assert faults.fired
    with pytest.raises(KeyProblem, match="exists already"):
        save_key_file(tmp_path / "a.key", "second")
    assert load_key_file(tmp_path / "a.key") == "first"


# -- the table itself ---------------------------------------------------------------------------------------------------------


def test_the_page_shows_the_table_and_the_table_names_every_module_that_writes_files() -> None:
    assert fault_table.markdown() in (ROOT / "docs" / "faults.md").read_text()
    listed = {path for row in TABLE for path in row.where} | set(fault_table.NO_EVIDENCE)
    assert all((ROOT / path).is_file() for path in listed)
    passing = {"witnz/verify", "witnz/demo"}  # files of one run: partitions of a scan, a throw-away cluster
    writing = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "witnz").rglob("*.py")
        if WRITES.search(path.read_text()) and path.relative_to(ROOT).as_posix().rsplit("/", 1)[0] not in passing
    }
    assert writing - listed == set()
    assert {row.name for row in TABLE if row.test == FILES} >= set(KEPT)
    assert all((ROOT / row.test).is_file() for row in TABLE)
