"""The folders of `report` and `report sample`: whichever file fails, they are whole or gone, and can be asked for again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.evidence import PaperStore, day_text, eventful
from tests.support.faulty_files import FAILED, KINDS, PERSISTED, faulty_files, faulty_writes
from witnz.cli.report import _save
from witnz.errors import StoreFull, UsageError
from witnz.node.reporting import Asked, Reports
from witnz.report import key as report_key

SUMS = "SHA256SUMS"
DAYS = 2


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaperStore]:
    made = eventful(tmp_path_factory.mktemp("faulty") / "store", days=DAYS)
    yield made
    made.close()


def reports(store: PaperStore, place: Path) -> Reports:
    """The reports of a node with this store; what it journals, the paper cluster signs."""
    keys = place / "keys"
    keys.mkdir(parents=True)
    report_key.save(keys / report_key.FILE, store.key)
    journal: Any = SimpleNamespace(state=store.cluster.state, propose=lambda kind, body: store.add(kind, body).seq)
    config: Any = SimpleNamespace(node_id="node1", anchors=())
    return Reports(store.db, journal, config, place, keys, lambda: store.at, store.checkpoint)


def a_report(one: Reports) -> dict[str, Any]:
    return one.make(Asked("soc2", day_text(0), day_text(DAYS), "en"))


def a_sample(one: Reports) -> dict[str, Any]:
    return one.sample("changes", 2, "seed", day_text(0), day_text(DAYS))


def faults(place: Path, make: Callable[[Reports], dict[str, Any]], store: PaperStore, kind: str, steps: list[int]) -> list[str]:
    """Make with each of these files failing; the names of those that failed."""
    seen = []
    for nth in steps:
        here = place / f"{kind}-{nth}"
        one = reports(store, here)
        with faulty_writes(here / "tmp", nth, kind) as files, pytest.raises(StoreFull, match="cannot be written below"):
            make(one)
        seen.append(files.files[nth - 1])
        assert list((here / "tmp" / "reports").iterdir()) == [], f"something is left where {seen[-1]} failed"
    return seen


def written(place: Path, make: Callable[[Reports], dict[str, Any]], store: PaperStore) -> list[str]:
    """Every file that is written, in order, where nothing fails; all of them can then be fetched."""
    one = reports(store, place)
    with faulty_writes(place / "tmp", 0, FAILED) as files:
        made = make(one)
    assert {one.file(made["id"], file["name"]).stat().st_size > 0 for file in made["files"]} == {True}
    assert {Path(file["name"]).name for file in made["files"]} == set(files.files)
    assert files.files[-1] == SUMS, "what is cut off is never mistaken for whole"
    return files.files


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_is_whole_or_gone_whichever_file_fails(store: PaperStore, tmp_path: Path, kind: str) -> None:
    every = written(tmp_path / "whole", a_sample, store)
    assert len(every) >= 5  # two bundles, the list, a README and the sums
    assert faults(tmp_path, a_sample, store, kind, [*range(1, len(every) + 1)]) == every


def test_a_report_is_whole_or_gone_whichever_file_fails(store: PaperStore, tmp_path: Path) -> None:
    every = written(tmp_path / "whole", a_report, store)
    assert {"report.pdf", "report.json", "MANIFEST.json", SUMS} <= set(every)
    steps = [*range(1, len(every) + 1)]
    assert faults(tmp_path, a_report, store, FAILED, steps[::4]) == every[::4]  # the pages are set anew each time: a quarter of
    assert faults(tmp_path, a_report, store, PERSISTED, steps[::-4]) == every[::-4]  # them each way, the last file among them


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_that_could_not_be_filled_is_empty_again_and_the_same_can_be_asked_once_more(
    tmp_path: Path, kind: str
) -> None:
    contents = {"README.txt": b"what it is", "bundles/one.json": b"{}", SUMS: b"sums"}
    made = {"files": [{"name": name} for name in contents]}
    nth, fired, steps = 0, True, []
    while fired:
        nth += 1
        folder = tmp_path / str(nth)
        folder.mkdir()
        with faulty_files(folder, nth, kind) as files:
            try:
                _save(folder, made, contents.__getitem__)
            except UsageError as error:
                assert files.fired and "cannot be written" in error.message and error.exit_code == 2
                assert list(folder.iterdir()) == []
            fired = files.fired
        steps = files.steps
        if fired:
            _save(folder, made, contents.__getitem__)
        there = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        assert there == contents
    assert len(steps) == nth - 1 >= 3 * len(contents)  # of each file: its sync, its name, its folder
