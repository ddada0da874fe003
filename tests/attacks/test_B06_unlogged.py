"""B06: the table leaves the publication, is set unlogged, updated, set logged and published again."""

from __future__ import annotations

import psycopg
import pytest


def test_a_published_table_cannot_become_unlogged(scene) -> None:  # type: ignore[no-untyped-def]
    table = scene.protect("append_only")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        scene.dba(f"ALTER TABLE {table} SET UNLOGGED")


def test_what_was_updated_without_wal_is_named_by_the_scan(own_scene) -> None:  # type: ignore[no-untyped-def]
    table = "public.ledger"
    scene = own_scene({"name": table, "mode": "append_only"})
    good = scene.verified_at(table)
    recorded = {key: scene.row_hash(table, key) for key in (1, 15)}
    publication = scene.protected.config.publication
    scene.dba(
        f"ALTER PUBLICATION {publication} DROP TABLE {table}",
        f"ALTER TABLE {table} SET UNLOGGED",
        f"UPDATE {table} SET actor = 'mallory' WHERE id = 1",
        f"DELETE FROM {table} WHERE id = 15",
        f"ALTER TABLE {table} SET LOGGED",
        f"ALTER PUBLICATION {publication} ADD TABLE {table}",
    )
    assert scene.now("publication.changed", None, table).window.last_good == good
    assert scene.differences_of(table) == {"1": ("row.modified", False), "15": ("row.deleted", False)}
    modified = scene.now("row.modified", 1, table)
    assert (modified.recorded, modified.found) == (recorded[1], scene.row_hash(table, 1))
    assert scene.now("row.deleted", 15, table).recorded == recorded[15]
    scene.assert_bystanders_verified()


def test_a_table_that_stays_unlogged_is_found(own_scene) -> None:  # type: ignore[no-untyped-def]
    table = "public.ledger"
    scene = own_scene({"name": table, "mode": "append_only"})
    scene.dba(f"ALTER PUBLICATION {scene.protected.config.publication} DROP TABLE {table}", f"ALTER TABLE {table} SET UNLOGGED")
    scene.now("publication.changed", None, table)
    assert "unlogged" in scene.now("table.replaced", None, table).detail
    scene.assert_bystanders_verified()
