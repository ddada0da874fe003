"""What is no attack: maintenance of a table raises nothing, and begins a new generation only for new columns (threats.md 3)."""

from __future__ import annotations

from typing import Any

from tests.support.node import wait
from witnz.core.verdict import Verdict


def test_maintenance_raises_nothing(scene: Any) -> None:
    table = scene.protect("append_only")
    bare = table.partition(".")[2]
    scene.dba(
        f"VACUUM (FREEZE, ANALYZE) {table}",
        f"VACUUM FULL {table}",
        f"CLUSTER {table} USING {bare}_pkey",
        f"REINDEX TABLE {table}",
        f"REINDEX TABLE CONCURRENTLY {table}",
        f"CREATE INDEX CONCURRENTLY {bare}_amount ON {table} (amount)",
        f"ALTER TABLE {table} SET (fillfactor = 70)",
        f"ALTER TABLE {table} ALTER COLUMN amount SET STATISTICS 500",
        f"ALTER TABLE {table} ADD CONSTRAINT {bare}_positive CHECK (amount > -1000000)",
        f"COMMENT ON TABLE {table} IS 'kept for ten years'",
        f"DROP INDEX {bare}_amount",
        f"INSERT INTO {table} VALUES (70, 'between', 1, NULL, '2026-03-01')",
        f"VACUUM FULL {table}",
        f"ALTER TABLE {table} ADD COLUMN remark text DEFAULT 'none'",
    )
    wait(lambda: scene.node.state(table).generation == 2, "the generation with the new column")
    scene.dba(f"CLUSTER {table}", "CHECKPOINT", f"INSERT INTO {table} VALUES (71, 'after', 1, NULL, '2026-03-01', 'new')")
    scene.now_watched()
    assert scene.found(table) == [] and scene.open_without_table() == []
    verified = scene.protected.verify(table)
    assert verified.verdict is Verdict.VERIFIED, verified
    assert scene.node.state(table).generation == 2, "one new generation for the column, none for what left the rows alone"
    scene.dba(f"UPDATE {table} SET amount = 0 WHERE id = 70")
    scene.now("violation.update", 70, table)
    scene.assert_bystanders_verified()
    for finding in scene.protected.findings(table):
        scene.protected.approve(finding)
