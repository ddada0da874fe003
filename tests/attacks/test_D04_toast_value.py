"""D04: a value stored out of line is edited in the TOAST table's file, also laundered by an honest UPDATE afterwards."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.pages import heap_file, replace_value
from witnz.core.verdict import Verdict

TABLE = "public.documents"
COLUMNS = "id bigint PRIMARY KEY, title text, body text"
ROWS = "SELECT g, 'title ' || g, 'begin-' || g || '-' || repeat('x', 4000) || '-end' FROM generate_series({first}, {last}) g"


def edit_toast(scene: Any, old: bytes, new: bytes) -> None:
    """Overwrite bytes of a chunk in the file of the TOAST table, with the server down."""
    ((toast,),) = scene.database.sql(
        f"SELECT reltoastrelid::regclass::text FROM pg_class WHERE oid = '{TABLE}'::regclass", user="postgres"
    )
    path = heap_file(scene.database, toast)
    scene.database.server.stop()
    replace_value(path, old, new)
    scene.database.server.start()
    scene.caught_up_again()


def test_an_edited_value_is_named_by_the_scan(own_server, own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene(
        {"name": TABLE, "mode": "append_only"},
        server=own_server(checksums=False),
        columns=COLUMNS,
        rows=ROWS,
        external=["body"],
    )
    recorded = scene.row_hash(TABLE, 7)
    good = scene.verified_at(TABLE)
    edit_toast(scene, b"begin-7-", b"begin-8-")
    assert scene.found(TABLE) == []
    assert scene.differences_of(TABLE) == {"7": ("row.modified", False)}
    finding = scene.now("row.modified", 7, TABLE)
    assert (finding.recorded, finding.found, finding.window.last_good) == (recorded, scene.row_hash(TABLE, 7), good)
    scene.assert_bystanders_verified()


@pytest.mark.parametrize("mode", [{"mode": "append_only"}, {"mode": "state_integrity", "on_change": "record"}])
def test_an_honest_update_of_another_column_does_not_launder_it_under_a_full_identity(own_server, own_scene, mode) -> None:  # type: ignore[no-untyped-def]
    server = own_server(checksums=False)
    scene = own_scene({"name": TABLE, **mode}, server=server, columns=COLUMNS, rows=ROWS, external=["body"])
    scene.dba(f"ALTER TABLE {TABLE} REPLICA IDENTITY FULL")
    scene.protected.approve(scene.now("identity.changed", None, TABLE))
    recorded = scene.row_hash(TABLE, 7)
    edit_toast(scene, b"begin-7-", b"begin-8-")
    scene.database.sql(f"UPDATE {TABLE} SET title = 'corrected' WHERE id = 7")
    finding = scene.now("row.modified", 7, TABLE)
    assert finding.recorded == recorded, "the old row that the server wrote to its log is not the recorded one"
    assert scene.protected.verify(TABLE).verdict is Verdict.TAMPERED
    scene.assert_bystanders_verified()


def test_without_a_full_identity_the_laundered_row_is_never_verified(own_server, own_scene) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene(
        {"name": TABLE, "mode": "state_integrity", "on_change": "record"},
        server=own_server(checksums=False),
        columns=COLUMNS,
        rows=ROWS,
        external=["body"],
    )
    edit_toast(scene, b"begin-7-", b"begin-8-")
    scene.database.sql(f"UPDATE {TABLE} SET title = 'corrected' WHERE id = 7")
    scene.protected.caught_up()
    verified, _ = scene.scan(TABLE)
    assert verified.verdict is Verdict.INCONCLUSIVE and verified.result.unresolved == 1
    assert any("no recorded hash" in reason for reason in verified.not_checked)
    scene.assert_bystanders_verified()
