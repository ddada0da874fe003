"""D01: values in the heap file of the stopped server are overwritten, with data checksums off and on."""

from __future__ import annotations

from typing import Any

from tests.support.pages import heap_file, hide_tuple, replace_value
from witnz.core.verdict import Verdict

TABLE = "public.ledger"


def edit_stopped(scene: Any, *edits: Any) -> None:
    """Each edit is applied to the table's file while the server is down; the node goes on trying to connect meanwhile."""
    server = scene.database.server
    path = heap_file(scene.database, TABLE)
    server.stop()
    for edit in edits:
        edit(path)
    server.start()


def test_an_overwritten_value_and_a_hidden_row_are_named_by_the_scan(own_server, own_scene) -> None:  # type: ignore[no-untyped-def]
    server = own_server(checksums=False)
    scene = own_scene({"name": TABLE, "mode": "append_only"}, server=server)
    assert server.sql("SHOW data_checksums") == [("off",)]
    good = scene.verified_at(TABLE)
    recorded = {key: scene.row_hash(TABLE, key) for key in (7, 9, 12)}
    edit_stopped(
        scene,
        lambda path: replace_value(path, b"user7", b"user1"),
        lambda path: replace_value(path, b"user12", b"root12"),
        lambda path: hide_tuple(path, b"user9"),
    )
    scene.caught_up_again()
    assert scene.found(TABLE) == scene.found(None) == [], "no event in the stream tells of it"

    assert scene.differences_of(TABLE) == {
        "7": ("row.modified", False),
        "9": ("row.deleted", False),
        "12": ("row.modified", False),
    }
    for key in (7, 12):
        finding = scene.now("row.modified", key, TABLE)
        assert (finding.recorded, finding.found) == (recorded[key], scene.row_hash(TABLE, key))
        assert finding.window.last_good == good < (finding.window.first_bad or "")
        assert finding.explained_by is None and finding.xid is None
    deleted = scene.now("row.deleted", 9, TABLE)
    assert (deleted.recorded, deleted.found) == (recorded[9], None)
    scene.assert_bystanders_verified()


def test_checksums_make_the_scan_fail_with_the_reason_until_the_intruder_makes_them_anew(own_server, own_scene) -> None:  # type: ignore[no-untyped-def]
    server = own_server(version=16, initdb_args=["--data-checksums"])  # not every release of `make test-all` has a pg_checksums
    scene = own_scene({"name": TABLE, "mode": "append_only"}, server=server)
    assert server.sql("SHOW data_checksums") == [("on",)]
    recorded = scene.row_hash(TABLE, 7)
    edit_stopped(scene, lambda path: replace_value(path, b"user7", b"user1"))
    scene.caught_up_again()
    verified, differences = scene.scan(TABLE)
    assert verified.verdict is Verdict.INCONCLUSIVE and differences == {}
    assert any("invalid page in block 0 of relation" in reason for reason in verified.not_checked), verified.not_checked
    assert scene.found(TABLE) == []
    scene.assert_bystanders_verified()

    server.stop()
    server.run("pg_checksums", "--disable", "-D", server.data_dir)
    server.run("pg_checksums", "--enable", "-D", server.data_dir)
    server.start()
    scene.caught_up_again()
    assert scene.differences_of(TABLE) == {"7": ("row.modified", False)}
    finding = scene.now("row.modified", 7, TABLE)
    assert (finding.recorded, finding.found) == (recorded, scene.row_hash(TABLE, 7))
    scene.assert_bystanders_verified()


def test_an_edit_while_server_and_node_are_both_down_is_found_after_the_start(own_server, own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"}, server=own_server(checksums=False))
    scene.stop()
    edit_stopped(scene, lambda path: replace_value(path, b"user3", b"root!"))
    scene.resume()
    assert scene.differences_of(TABLE) == {"3": ("row.modified", False)}
    scene.assert_bystanders_verified()
