"""D03: an old copy of the whole data directory takes the place of the one in use."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.restoring import keyless, put_in_place
from witnz.core.verdict import Verdict

TABLE = "public.ledger"


def copied(scene: Any, to: Path) -> None:
    """A cold copy of the server's data directory."""
    server = scene.database.server
    server.stop()
    shutil.copytree(server.data_dir, to, symlinks=True, copy_function=shutil.copy2)
    server.start()
    scene.caught_up_again()


def restored(scene: Any, copy: Path) -> None:
    """The copy takes the place of the data directory."""
    server = scene.database.server
    beside = server.data_dir.with_name("copy")
    shutil.copytree(copy, beside, symlinks=True)
    server.stop()
    put_in_place(server, beside, aside="later")
    server.start()


@pytest.mark.slow
def test_the_rows_an_old_copy_lacks_are_one_finding_and_a_row_changed_in_it_another(own_server, own_scene, tmp_path) -> None:  # type: ignore[no-untyped-def]
    scene = own_scene({"name": TABLE, "mode": "append_only"}, server=own_server())
    emptied = scene.protect("append_only")
    bare = keyless(scene)
    copied(scene, tmp_path / "backup")
    scene.database.sql(f"INSERT INTO {TABLE} VALUES (50, 'late', 1, NULL, '2026-02-01'), (51, 'later', 1, NULL, '2026-02-01')")
    scene.database.sql(f"INSERT INTO {bare} VALUES (50, 'late')")
    lost = scene.row_hash(bare, 50)
    scene.dba(f"TRUNCATE {emptied}")
    scene.now("violation.truncate", None, emptied)
    assert [scene.protected.verify(table).verdict for table in (TABLE, bare)] == [Verdict.VERIFIED, Verdict.VERIFIED]
    scene.stop()
    restored(scene, tmp_path / "backup")
    scene.dba_at_once(f"UPDATE {TABLE} SET amount = 0 WHERE id = 7")
    scene.resume()
    (finding,) = (f for f in scene.protected.findings() if f.table is None)
    assert finding.cls == "epoch.restored" and "went back to before what was recorded" in finding.detail
    assert f"{TABLE}: lost 2 (50, 51)" in finding.detail and f"{bare}: lost 1 ({lost})" in finding.detail
    assert f"{emptied}: regained 15 (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15)" in finding.detail
    assert "2 other table(s): nothing" in finding.detail
    scene.caught_up_again()
    assert scene.differences_of(TABLE) == {"7": ("row.modified", False)}
    assert scene.found(TABLE) == [("row.modified", "7")]
    settled = [f.cls for table in (emptied, bare) for f in scene.protected.findings(table) if f.cls != "config.changed"]
    assert settled == [], "what the restore took back is no finding any more"
    assert scene.scan(emptied)[1] == scene.scan(bare)[1] == {}
    untouched = scene.protected.verify("public.untouched")
    assert untouched.result.differences == [] and untouched.verdict is Verdict.INCONCLUSIVE
    scene.protected.approve(finding)
    scene.wait_bridged("public.untouched", "billing.audit_logs", emptied, bare)
    scene.assert_bystanders_verified()
    for table in (emptied, bare):
        assert scene.protected.verify(table).verdict is Verdict.VERIFIED
    assert not scene._is_bridged(TABLE), "somebody has to decide about the row first"
