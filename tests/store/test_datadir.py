from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from witnz.errors import FormatError, KeyProblem, NotInitialised, StoreError, StoreFull, StoreLocked
from witnz.store.database import Database
from witnz.store.datadir import MAX_KEY_FILE_BYTES, DataDir, load_key, load_key_file, save_key_file

NOBODY = 65_534
HOLDER = """
import sys, time
from pathlib import Path
from witnz.store.datadir import DataDir
lock = DataDir(Path(sys.argv[1])).lock()
print("held", flush=True)
time.sleep(60)
"""


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def data_dir(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path / "data")
    made.create()
    Database.create(made.database).close()
    return made


@contextmanager
def ordinary_user(path: Path) -> Iterator[None]:
    """Run as somebody whom permissions bind; root hands the tree below ``path`` over and becomes nobody."""
    if os.geteuid() != 0:
        yield
        return
    for entry in [path, *path.rglob("*")]:
        os.chown(entry, NOBODY, NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def open_place() -> Iterator[Path]:
    """A directory that any user may reach, unlike those of pytest."""
    with tempfile.TemporaryDirectory(prefix="witnz-test-") as name:
        yield Path(name)


def test_create_makes_everything_for_the_owner_only(tmp_path: Path) -> None:
    made = DataDir(tmp_path / "a" / "data")
    old = os.umask(0)
    try:
        made.create()
        Database.create(made.database).close()
    finally:
        os.umask(old)
    assert mode_of(made.path) == mode_of(made.keys_dir) == mode_of(made.evidence_dir) == 0o700
    assert mode_of(made.database) == 0o600
    made.check()


def test_the_write_ahead_log_is_as_private_as_the_store(data_dir: DataDir) -> None:
    old = os.umask(0)
    try:
        with Database.open(data_dir.database) as database, database.write() as conn:
            conn.execute("INSERT INTO meta VALUES ('a', 'b')")
            assert {mode_of(path) for path in data_dir.path.glob("witnz.db*")} == {0o600}
    finally:
        os.umask(old)


def test_create_can_be_run_again(data_dir: DataDir) -> None:
    data_dir.create()
    data_dir.check()


def test_create_takes_an_empty_directory_and_makes_it_private(tmp_path: Path) -> None:
    place = tmp_path / "empty"
    place.mkdir(mode=0o755)
    DataDir(place).create()
    assert mode_of(place) == 0o700


def test_create_refuses_a_directory_with_other_peoples_files_and_leaves_it_alone(tmp_path: Path) -> None:
    place = tmp_path / "home"
    place.mkdir(mode=0o755)
    (place / "thesis.tex").write_text("x")
    with pytest.raises(StoreError, match=r"thesis\.tex"):
        DataDir(place).create()
    assert mode_of(place) == 0o755
    assert [entry.name for entry in place.iterdir()] == ["thesis.tex"]


def test_a_missing_directory_and_one_without_a_store_are_not_initialised(tmp_path: Path) -> None:
    with pytest.raises(NotInitialised) as missing:
        DataDir(tmp_path / "nowhere").check()
    assert missing.value.exit_code == 10
    empty = DataDir(tmp_path / "empty")
    empty.create()
    with pytest.raises(NotInitialised, match=r"witnz\.db"):
        empty.check()
    with pytest.raises(NotInitialised):
        DataDir(tmp_path / "nowhere").lock()


@pytest.mark.parametrize(
    ("name", "mode", "says"), [(".", 0o750, "chmod 700"), ("witnz.db", 0o644, "chmod 600"), ("keys", 0o705, "chmod 700")]
)
def test_what_others_may_enter_is_refused_with_the_command_that_helps(
    data_dir: DataDir, name: str, mode: int, says: str
) -> None:
    (data_dir.path / name).chmod(mode)
    with pytest.raises(KeyProblem) as refused:
        data_dir.check()
    assert says in refused.value.hint
    assert refused.value.exit_code == 12


def test_a_directory_that_cannot_be_written_is_refused_before_anything_is_lost(open_place: Path) -> None:
    data = DataDir(open_place / "data")
    data.create()
    Database.create(data.database).close()
    data.database.chmod(0o400)
    data.path.chmod(0o500)
    open_place.chmod(0o755)
    with ordinary_user(data.path):
        data.check(writable=False)
        with pytest.raises(StoreFull, match="cannot be written"):
            data.check()
        with pytest.raises(StoreFull):
            save_key_file(data.path / "new.key", "secret")
        with Database.open(data.database, read_only=True) as database, database.read() as conn:
            assert conn.execute("SELECT count(*) FROM logs").fetchone() == (0,)
        assert sorted(entry.name for entry in data.path.iterdir()) == ["evidence", "keys", "witnz.db"]


def test_a_second_process_is_refused_and_told_who_holds_the_directory(data_dir: DataDir) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(data_dir.path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(StoreLocked, match=rf"process {holder.pid}\b") as refused:
            data_dir.lock()
        assert refused.value.exit_code == 11
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with data_dir.lock():
        assert data_dir.lock_file.read_text() == f"{os.getpid()}\n"


def test_one_process_cannot_take_the_lock_twice_but_again_after_it_gave_it_back(data_dir: DataDir) -> None:
    lock = data_dir.lock()
    with pytest.raises(StoreLocked):
        data_dir.lock()
    lock.release()
    lock.release()
    data_dir.lock().release()
    assert mode_of(data_dir.lock_file) == 0o600


def test_a_key_file_comes_back_as_it_was_saved_and_is_private(data_dir: DataDir) -> None:
    path = data_dir.keys_dir / "log.key"
    old = os.umask(0)
    try:
        save_key_file(path, "PRIVATE+KEY+x+y\n")
    finally:
        os.umask(old)
    assert load_key_file(path) == "PRIVATE+KEY+x+y"
    assert mode_of(path) == 0o600
    assert [entry.name for entry in data_dir.keys_dir.iterdir()] == ["log.key"]


def test_a_key_is_not_overwritten_unless_that_is_asked_for(data_dir: DataDir) -> None:
    path = data_dir.keys_dir / "log.key"
    save_key_file(path, "one")
    with pytest.raises(KeyProblem, match="exists"):
        save_key_file(path, "two")
    assert load_key_file(path) == "one"
    save_key_file(path, "two", replace=True)
    assert load_key_file(path) == "two"
    assert [entry.name for entry in data_dir.keys_dir.iterdir()] == ["log.key"]


def test_symbolic_links_are_followed_neither_to_read_nor_to_write_a_key(data_dir: DataDir, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    save_key_file(target, "secret")
    link = data_dir.keys_dir / "log.key"
    link.symlink_to(target)
    with pytest.raises(KeyProblem, match="symbolic link"):
        load_key_file(link)
    with pytest.raises(KeyProblem, match="symbolic link"):
        save_key_file(link, "other", replace=True)
    assert load_key_file(target) == "secret"


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o660, 0o601])
def test_a_key_that_others_can_reach_is_refused(data_dir: DataDir, mode: int) -> None:
    path = data_dir.keys_dir / "log.key"
    save_key_file(path, "secret")
    path.chmod(mode)
    with pytest.raises(KeyProblem) as refused:
        load_key_file(path)
    assert refused.value.hint == f"run: chmod 600 {path}"


@pytest.mark.parametrize("content", [b"", b" \n", b"\xff\xfe\x00", b"a" * (MAX_KEY_FILE_BYTES + 1)])
def test_a_damaged_key_file_is_a_key_problem(data_dir: DataDir, content: bytes) -> None:
    path = data_dir.keys_dir / "log.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(KeyProblem) as refused:
        load_key_file(path)
    assert refused.value.exit_code == 12
    assert len(str(refused.value)) < 300


def test_what_is_no_file_is_refused(data_dir: DataDir) -> None:
    with pytest.raises(KeyProblem, match="does not exist"):
        load_key_file(data_dir.keys_dir / "none.key")
    with pytest.raises(KeyProblem):
        load_key_file(data_dir.keys_dir)
    fifo = data_dir.keys_dir / "fifo"
    os.mkfifo(fifo, 0o600)
    with pytest.raises(KeyProblem, match="regular file"):
        load_key_file(fifo)


def test_a_key_that_does_not_parse_names_its_file(data_dir: DataDir) -> None:
    path = data_dir.keys_dir / "log.key"
    save_key_file(path, "garbage")

    def parse(text: str) -> int:
        raise FormatError(f"private key: expected a key, found {len(text)} characters")

    with pytest.raises(KeyProblem, match=r"log\.key is damaged: private key"):
        load_key(path, parse)
    assert load_key(path, len) == 7
