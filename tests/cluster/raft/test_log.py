"""The engine's journal on disk: what survives, what is cut off, what is refused."""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.raft_world import Disk
from witnz.cluster.raft.file import DiskFile
from witnz.cluster.raft.log import FORGOTTEN, MAGIC, VOTER, RaftLog, Snapshot
from witnz.cluster.raft.messages import NO_OP, format_command
from witnz.errors import StoreCorrupt, StoreError, StoreFull

ROOT = Path(__file__).parents[3]


def command(k: int) -> bytes:
    return format_command(0, f"k{k}", b"x" * k)


def written(file: DiskFile | Disk, entries: int = 20) -> RaftLog:
    """A log with entries, a vote, a cut and somebody it knows; all of it durable."""
    log = RaftLog(file, 3)
    log.add(NO_OP, 1, 0)
    for k in range(2, entries + 1):
        log.add(command(k), k, 1)
    log.setCurrentTerm(2, "node2")
    log.deleteEntriesFrom(entries - 2)
    log.add(command(99), entries - 1, 2)
    log.remember("node2", b"i" * 16)
    log.set_standing(VOTER)
    log.sync()
    return log


def same(one: RaftLog, other: RaftLog) -> bool:
    def state(log: RaftLog) -> tuple[object, ...]:
        vote = log.getVotedForNodeId()
        return (log[:], log.getCurrentTerm(), vote, log.incarnation, log.standing, log.known, log.snapshot, log.bytes_after(1))

    return state(one) == state(other)


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    log = written(DiskFile(tmp_path / "raft.log"))
    log.close()
    again = RaftLog(DiskFile(tmp_path / "raft.log"), 3)
    assert same(log, again)
    assert again.last == 19
    assert again[-1] == (command(99), 19, 2)
    assert oct((tmp_path / "raft.log").stat().st_mode)[-3:] == "600"


def test_compaction_keeps_the_end_and_the_snapshot(tmp_path: Path) -> None:
    log = written(DiskFile(tmp_path / "raft.log"))
    log.compact(Snapshot(10, b"state at 10"))
    log.add(command(1), 20, 2)
    log.sync()
    again = RaftLog(DiskFile(tmp_path / "raft.log"), 3)
    assert same(log, again)
    assert (again.first, again.last, again.snapshot) == (9, 20, Snapshot(10, b"state at 10"))
    assert again[0] == (NO_OP, 9, 1)
    for wrong in (9, 21, 1):
        with pytest.raises(StoreError):
            again.compact(Snapshot(wrong, b""))


def test_an_installed_snapshot_replaces_everything(tmp_path: Path) -> None:
    log = written(DiskFile(tmp_path / "raft.log"))
    log.install(Snapshot(500, b"far"), 4, (command(7), 500, 5))
    again = RaftLog(DiskFile(tmp_path / "raft.log"), 3)
    assert same(log, again)
    assert again[:] == [(NO_OP, 499, 4), (command(7), 500, 5)]


def test_a_file_of_an_earlier_epoch_is_replaced_and_one_of_a_later_epoch_refused(tmp_path: Path) -> None:
    written(DiskFile(tmp_path / "raft.log")).close()
    with pytest.raises(StoreCorrupt, match="membership 3"):
        RaftLog(DiskFile(tmp_path / "raft.log"), 2)
    fresh = RaftLog(DiskFile(tmp_path / "raft.log"), 4)
    assert len(fresh) == 0
    assert fresh.getCurrentTerm() == 0
    assert fresh.known == {}


def test_a_write_cut_short_anywhere_is_cut_off() -> None:
    disk = Disk(random.Random(1))
    before = written(disk)
    durable = disk.read() or b""
    before.add(command(50), 20, 2)
    before.add(command(51), 21, 2)
    whole = disk.read() or b""
    for length in range(len(durable), len(whole)):
        disk.durable, disk.cached = whole[:length], b""
        log = RaftLog(disk, 3)
        assert log.last in (19, 20)
        assert log[:19] == before[:19]
        assert (disk.read() or b"") in (durable, whole[: len(disk.read() or b"")])


def test_pages_that_came_out_of_order_are_cut_off() -> None:
    """The power went while two writes were under way; the second reached the disk, the first did not."""
    disk = Disk(random.Random(1))
    log = written(disk)
    size = len(disk.read() or b"")
    log.add(command(50), 20, 2)
    middle = len(disk.read() or b"")
    log.add(command(51), 21, 2)
    whole = bytearray(disk.read() or b"")
    whole[size:middle] = bytes(middle - size)
    disk.durable, disk.cached = bytes(whole), b""
    assert RaftLog(disk, 3).last == 19


def test_every_damaged_byte_of_what_was_durable_before_the_end_is_refused() -> None:
    disk = Disk(random.Random(1))
    log = written(disk, entries=8)
    durable = len(disk.read() or b"")
    log.add(command(50), 8, 2)  # says that what is before it was durable
    log.sync()
    whole = disk.read() or b""
    for at in range(durable):
        broken = bytearray(whole)
        broken[at] ^= 0x41
        disk.durable, disk.cached = bytes(broken), b""
        with pytest.raises(StoreCorrupt) as caught:
            RaftLog(disk, 3)
        assert "remove this node from the cluster" in caught.value.hint


def test_other_files_are_refused(tmp_path: Path) -> None:
    for data in (b"", b"x", MAGIC, MAGIC[:-1], b"\x80\x02}q\x00." * 10, os.urandom(5000)):
        (tmp_path / "raft.log").write_bytes(data)
        with pytest.raises(StoreCorrupt):
            RaftLog(DiskFile(tmp_path / "raft.log"), 0)


def test_entries_follow_each_other() -> None:
    log = written(Disk(random.Random(1)))
    for wrong in (1, 18, 19, 21):
        with pytest.raises(StoreError):
            log.add(command(1), wrong, 2)


def test_pysyncobjs_own_ways_to_drop_entries_are_closed() -> None:
    log = written(Disk(random.Random(1)))
    with pytest.raises(StoreError):
        log.clear()
    with pytest.raises(StoreError):
        log.deleteEntriesTo(5)


def test_bytes_after_counts_what_waits() -> None:
    log = written(Disk(random.Random(1)))
    assert log.bytes_after(log.last) == 0
    assert log.bytes_after(17) == len(command(18)) + len(command(99))
    log.set_standing(FORGOTTEN)
    assert log.bytes_after(1) == sum(len(entry[0]) for entry in log[1:])


def test_a_full_disk_is_said_to_be_one(tmp_path: Path) -> None:
    """A real limit of the file's size, in a process of its own."""
    program = f"""
import resource, signal
from pathlib import Path
from witnz.cluster.raft.file import DiskFile
from witnz.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = DiskFile(Path({str(tmp_path / "raft.log")!r}))
file.replace(b"x" * 1000)
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    file.append(b"y" * 5000)
except StoreError as error:
    print(type(error).__name__, error.message)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith("StoreError"), done.stderr
    assert "raft.log" in done.stdout


def test_a_missing_directory_is_an_error_of_the_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError) as caught:
        RaftLog(DiskFile(tmp_path / "gone" / "raft.log"), 0)
    assert not isinstance(caught.value, StoreFull)
    assert caught.value.__cause__ is not None
    assert getattr(caught.value.__cause__, "errno", 0) == errno.ENOENT
