"""What a killed process leaves in the data directory is gone after the next start, and nothing else is."""

from __future__ import annotations

import os
import re
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from structlog.testing import capture_logs

from tests.support.dying import run_until_it_dies
from tests.support.node import write_config
from tests.support.postgres import Database
from witnz.config import load_config
from witnz.core.classify import Rules
from witnz.core.journal import JournalState
from witnz.node.leftovers import remove_leftovers
from witnz.node.node import Node, now_us
from witnz.node.reporting import Reports
from witnz.node.setup import initialise
from witnz.postgres.session import Conninfo
from witnz.store import scratch
from witnz.store.datadir import DataDir
from witnz.store.logs import LogRow
from witnz.store.scratch import scratch_folder
from witnz.store.tally import tally
from witnz.verify.partition import Partitions
from witnz.verify.replay import Decisions, Intents
from witnz.verify.scratch import replayed

ROW = LogRow(1, "public.t", 1, "", 0, None, b"", "ended", True, ("id",), "", 1, None, 0, None, 0, "0" * 64)


def now(*_: object, **__: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("the kill came too late")


def die_counting(data: DataDir) -> None:
    Path.unlink = now  # type: ignore[method-assign,assignment]  # the file is about to lose its name
    with tally(data.path):
        pass


def die_deriving(data: DataDir) -> None:
    def lines() -> Iterator[bytes]:
        yield now()

    decided = Decisions()
    with replayed(ROW, Rules("append_only"), Intents(JournalState(), {}), decided, lines(), data.path):
        pass


def die_spilling(data: DataDir) -> None:
    tempfile._O_TMPFILE_WORKS = False  # type: ignore[attr-defined]  # as on a file system that can not make nameless files
    os.unlink = now  # type: ignore[assignment]
    Partitions(data.spill_dir, max_held=1).add(bytes(64))


def die_reporting(data: DataDir) -> None:
    nothing: Any = None
    reports = Reports(nothing, nothing, nothing, data.path, data.keys_dir, now_us, now)
    with reports._new_folder() as (_, folder):
        (folder / "bundles").mkdir()
        (folder / "bundles" / "0001.witnz.json").write_bytes(bytes(3_000))
        now()


DEATHS = {death.__name__: death for death in (die_counting, die_deriving, die_spilling, die_reporting)}


def killed(death: str, path: str) -> None:
    DEATHS[death](DataDir(Path(path)))


@pytest.fixture
def data(tmp_path: Path) -> DataDir:
    data = DataDir(tmp_path / "data")
    data.create()
    data.spill_dir.mkdir(mode=0o700)
    return data


def standing(data: DataDir) -> dict[str, bytes | None]:
    """Every name below the data directory, and what a file says."""
    every = data.path.rglob("*")
    return {str(p.relative_to(data.path)): p.read_bytes() if p.is_file() else None for p in every}


def removed(data: DataDir) -> tuple[list[str], int]:
    """Names and bytes that the log tells of."""
    with capture_logs() as told:
        remove_leftovers(data)
    said = [line for line in told if line["event"] == "scratch of an earlier process was removed"]
    assert [line for line in told if line not in said] == []
    assert all(line["count"] == len(line["names"]) for line in said)
    return [name for line in said for name in line["names"]], sum(line["bytes"] for line in said)


@pytest.mark.parametrize(
    ("death", "name"),
    [
        ("die_counting", r"\.tally-\w{8}"),
        ("die_deriving", r"\.scratch-\w{8}"),
        ("die_spilling", r"tmp/tmp\w{8}"),
        ("die_reporting", r"tmp/reports/[0-9a-f]{32}"),
    ],
)
def test_what_a_killed_process_leaves_is_removed_and_its_bytes_are_told(data: DataDir, death: str, name: str) -> None:
    before = standing(data)
    run_until_it_dies(killed, (death, str(data.path)), death, 60)
    left = standing(data)
    size = sum(len(content) for path, content in left.items() if path not in before and content is not None)
    names, freed = removed(data)
    assert [bool(re.fullmatch(name, each)) for each in names] == [True], f"{names} of {sorted(left)}"
    assert freed == size
    assert standing(data).keys() - before.keys() <= {"tmp/reports"}
    assert removed(data) == ([], 0)


def test_what_a_version_before_left_is_removed_too(data: DataDir) -> None:
    with tempfile.TemporaryDirectory(dir=data.path) as older:
        for name in ("scratch.db", "scratch.db-wal", "scratch.db-shm"):
            Path(older, name).write_bytes(bytes(100))
        assert removed(data) == ([Path(older).name], 300)
        assert not Path(older).exists()
        Path(older).mkdir()


def test_nothing_that_is_or_could_be_something_else_is_touched(data: DataDir, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "scratch.db").write_bytes(b"somebody's")
    whole, unfinished = data.spill_dir / "reports" / ("a" * 32), data.spill_dir / "reports" / ("b" * 32)
    for folder in (
        whole,
        unfinished,
        data.path / "tmpabcdefgh",
        data.path / ".scratch-abcdefgh" / "scratch.db",
        data.path / "raft",
    ):
        folder.mkdir(parents=True)
    for name in (
        *(
            "witnz.db",
            "witnz.db-wal",
            "witnz.db-shm",
            "witnz.db-journal",
            "lock",
            "witnz.sock",
            ".tally-abc",
            ".tally-abcdefgh.db",
        ),
        *("keys/.identity.key.0123456789abcdef", "keys/.tally-abcdefgh", "evidence/.fork-1.json.0123456789abcdef"),
        *(
            "evidence/tmpabcdefgh",
            "raft/raft.log",
            "raft/raft.new",
            "tmpabcdefgh/scratch.db",
            "tmpabcdefgh/mine",
            "tmpaaaaaaaa",
        ),
        *("tmp/tally-abcdefgh", f"tmp/reports/{'a' * 32}/SHA256SUMS", "tmp/reports/tmpabcdefgh", "tmp/ttmpabcdefgh"),
    ):
        (data.path / name).write_bytes(name.encode())
    for place, target in (
        (".tally-aaaaaaaa", outside / "scratch.db"), (".scratch-aaaaaaaa", outside), ("tmpbbbbbbbb", outside),
        ("tmp/tmpcccccccc", outside / "scratch.db"), (f"tmp/reports/{'c' * 32}", outside),
    ):  # fmt: skip
        (data.path / place).symlink_to(target)
    (unfinished / "link").symlink_to(outside)
    before = standing(data)
    assert removed(data)[0] == [f"tmp/reports/{'b' * 32}"]
    after = standing(data)
    assert before.items() - after.items() == {(f"tmp/reports/{'b' * 32}", None), (f"tmp/reports/{'b' * 32}/link", None)}
    assert after.items() <= before.items()
    assert (outside / "scratch.db").read_bytes() == b"somebody's"


def test_folders_behind_a_link_are_not_looked_into(data: DataDir, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "reports" / ("a" * 32)).mkdir(parents=True)
    (elsewhere / "tmpabcdefgh").write_bytes(b"somebody's")
    data.spill_dir.rmdir()
    data.spill_dir.symlink_to(elsewhere)
    assert removed(data) == ([], 0)
    data.spill_dir.unlink()
    data.spill_dir.mkdir()
    (data.spill_dir / "reports").symlink_to(elsewhere / "reports")
    assert removed(data) == ([], 0)
    assert sorted(path.name for path in elsewhere.rglob("*")) == ["a" * 32, "reports", "tmpabcdefgh"]


def test_a_folder_that_somebody_works_in_stays_and_one_lost_before_it_was_held_is_made_anew(
    data: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scratch_folder(data.path) as place:
        (place / "scratch.db").write_bytes(b"in use")
        assert removed(data) == ([], 0)
        assert (place / "scratch.db").read_bytes() == b"in use"
    assert not place.exists()
    lost: list[Path] = []
    take = scratch.take

    def too_late(place: Path) -> int:
        if not lost:
            lost.append(place)
            remove_leftovers(data)
        return take(place)

    monkeypatch.setattr(scratch, "take", too_late)
    with scratch_folder(data.path) as place:
        assert place.is_dir() and place not in lost
        assert not lost[0].exists()


def test_a_node_that_starts_removes_what_the_one_before_left(database: Database, tmp_path: Path) -> None:
    config = load_config(write_config(tmp_path, database, []), {})
    initialise(config, admin=Conninfo.from_conninfo(database.owner_dsn), clock=now_us)
    data = DataDir(config.data_dir)
    Node(config).close()
    before = standing(data).keys()
    run_until_it_dies(killed, ("die_deriving", str(data.path)), "die_deriving", 60)
    assert standing(data).keys() > before
    with capture_logs() as told:
        Node(config).close()
    assert standing(data).keys() == before
    assert any(line["event"] == "scratch of an earlier process was removed" and line["bytes"] > 0 for line in told)
