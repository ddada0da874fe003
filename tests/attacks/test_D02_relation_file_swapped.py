"""D02: the table's file is swapped for an older or an edited copy of it while the server is stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.support.pages import heap_file, replace_value
from witnz.core.verdict import Verdict

TABLE = "public.ledger"


def swap_stopped(scene: Any, copy: Path, edit: Callable[[Path], object] = lambda path: None) -> None:
    """The server is stopped, the copy takes the place of the table's file, and it starts again."""
    server = scene.database.server
    path = heap_file(scene.database, TABLE)
    server.stop()
    edit(copy)
    for fork in path.parent.glob(f"{path.name}_*"):  # free space and visibility map of the other file
        fork.unlink()
    path.write_bytes(copy.read_bytes())
    server.start()


def test_an_older_copy_of_the_file_lacks_rows_that_the_scan_names(own_server, own_scene, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"}, server=own_server(checksums=False))
    copy = tmp_path / "older"
    shutil.copyfile(heap_file(scene.database, TABLE), copy)
    scene.database.sql(f"INSERT INTO {TABLE} VALUES (50, 'late', 1, NULL, '2026-02-01'), (51, 'later', 1, NULL, '2026-02-01')")
    scene.protected.caught_up()
    recorded = scene.row_hash(TABLE, 50)
    good = scene.verified_at(TABLE)
    swap_stopped(scene, copy)
    scene.caught_up_again()
    assert scene.found(TABLE) == [], "no event in the stream tells of it"
    assert scene.differences_of(TABLE) == {"50": ("row.deleted", False), "51": ("row.deleted", False)}
    finding = scene.now("row.deleted", 50, TABLE)
    assert (finding.recorded, finding.found, finding.window.last_good) == (recorded, None, good)
    scene.assert_bystanders_verified()


def test_an_edited_copy_in_its_place_is_named_and_the_honest_file_back_verifies(own_server, own_scene, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"}, server=own_server(checksums=False))
    honest, edited = tmp_path / "honest", tmp_path / "edited"
    path = heap_file(scene.database, TABLE)
    shutil.copyfile(path, honest)
    shutil.copyfile(path, edited)
    swap_stopped(scene, edited, lambda copy: replace_value(copy, b"user7", b"user1"))
    scene.caught_up_again()
    assert scene.differences_of(TABLE) == {"7": ("row.modified", False)}
    finding = scene.now("row.modified", 7, TABLE)
    swap_stopped(scene, honest)
    scene.caught_up_again()
    verified, differences = scene.scan(TABLE)
    assert differences == {} and verified.verdict is Verdict.TAMPERED, "changed and changed back is not undone in silence"
    assert scene.found(TABLE) == [("row.modified", "7")] and finding.state == "open"
    scene.assert_bystanders_verified()
