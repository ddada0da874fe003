"""A whole table offline: exported as verified, held against an auditor package, spoilt, and of another time."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.cli.conftest import Site, running
from tests.support.node import wait

__all__ = ["running"]


@dataclass
class Audit:
    """An auditor package and the table that it is about."""

    site: Site
    folder: Path
    rows: Path
    policy: Path
    seq: int

    def verify(self, rows: Path, *, logs: bool = True, expect: int) -> str:
        words = ["verify", "--checkpoint", self.folder / "bundle.witnz.json", "--policy", self.policy]
        words += ["--log", self.folder] if logs else []
        document = self.site.cli.run(*words, "--table-data", f"audit_logs={rows}", "--json").expect(expect).document
        (found,) = [check for check in document["checks"] if check["name"] == "table-data[public.audit_logs]"]
        return str(found["detail"])

    def spoilt(self, name: str, old: bytes, new: bytes) -> Path:
        data = self.rows.read_bytes()
        assert data.count(old) == 1
        path = self.folder.parent / name
        path.write_bytes(data.replace(old, new))
        return path


@pytest.fixture(scope="module")
def audit(running: Site, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Audit]:
    folder = tmp_path_factory.mktemp("audit")
    # In one transaction: the node verifies by schedule too, and no part of these rows may be a state that it once saw.
    running.database.sql("INSERT INTO audit_logs SELECT 9000 + i, 'action ' || i, 1 FROM generate_series(1, 5) i")
    document = running.cli.run("verify", "audit_logs", "--json").expect(0).document
    seq = document["tables"][0]["journal_seq"]
    rows = folder / "rows.tsv"
    exported = running.cli.run("table", "export", "audit_logs", "-o", rows, "--verify-id", seq, "--json").expect(0).document
    assert exported["verify_id"] == seq
    policy = folder / "policy.txt"
    running.cli.run("keys", "policy", "-o", policy).expect(0)
    numbers = itertools.count()

    def package() -> Path | None:
        """A package whose checkpoint covers the verification, once there is one."""
        target = folder / f"package{next(numbers)}"
        written = running.cli.run("checkpoint", "export", "--with-logs", target, "--json").expect(0).document
        return target if written["size"] >= seq else None

    wait(lambda: package() is not None, "a checkpoint over the verification")
    newest = max(folder.glob("package*"), key=lambda path: int(path.name.removeprefix("package")))
    yield Audit(running, newest, rows, policy, seq)


def test_the_exported_rows_are_the_verified_table(audit: Audit) -> None:
    assert "are the table as verified at" in audit.verify(audit.rows, logs=False, expect=0)
    assert "are the table as verified at" in audit.verify(audit.rows, expect=0)


def test_a_changed_value_is_named(audit: Audit) -> None:
    changed = audit.spoilt("changed.tsv", b"action 3", b"action 9")
    detail = audit.verify(changed, expect=3)
    assert "1 rows are not as they were ever accepted" in detail
    assert "key 9003" in detail
    assert "with the logs" in audit.verify(changed, logs=False, expect=4)


def test_a_missing_row_is_named_and_never_verified(audit: Audit) -> None:
    lines = audit.rows.read_bytes().splitlines(keepends=True)
    path = audit.folder.parent / "missing.tsv"
    path.write_bytes(b"".join(lines[:1] + lines[2:]))
    detail = audit.verify(path, expect=4)
    assert "is missing" in detail


def test_a_row_twice_is_tampering_and_a_cut_file_is_no_table_data(audit: Audit) -> None:
    data = audit.rows.read_bytes()
    path = audit.folder.parent / "twice.tsv"
    path.write_bytes(data + data.splitlines(keepends=True)[0])
    assert "twice" in audit.verify(path, expect=3)
    path.write_bytes(data[:-1])
    words = ["verify", "--checkpoint", audit.folder / "bundle.witnz.json", "--policy", audit.policy]
    audit.site.cli.run(*words, "--table-data", f"audit_logs={path}").expect(2)


def test_an_export_beside_a_running_node_is_of_a_verified_snapshot_whatever_is_written_meanwhile(
    audit: Audit, tmp_path: Path
) -> None:
    """Every export, and what it wrote is the state of the verification that it names, with rows committed all the while."""
    stop, written = threading.Event(), []
    ((first,),) = audit.site.database.sql("SELECT count(*) FROM audit_logs")

    def write() -> None:
        while not stop.is_set():
            audit.site.database.sql("INSERT INTO audit_logs SELECT max(id) + 1, 'meanwhile', 1 FROM audit_logs")
            written.append(time.monotonic())

    ids, paths = [], (tmp_path / f"meanwhile{number}.tsv" for number in itertools.count())

    def exported() -> bool:
        """Whether rows were committed from before to after an export; it is the state of its verification in any case."""
        before, path = len(written), next(paths)
        document = audit.site.cli.run("table", "export", "audit_logs", "-o", path, "--json").expect(0).document
        after = len(written)
        assert document["rows"] == len(path.read_bytes().splitlines())
        assert first + before <= document["rows"] <= first + after + 1, "all that was committed before, and nothing from later"
        ids.append(document["verify_id"])
        return after > before

    writer = threading.Thread(target=write)
    writer.start()
    try:
        for _ in range(3):
            wait(exported, "an export with rows committed all the while")
    finally:
        stop.set()
        writer.join()
    assert ids == sorted(set(ids))


def test_rows_of_another_snapshot_are_inconclusive(audit: Audit, tmp_path: Path) -> None:
    older = tmp_path / "older.tsv"
    older.write_bytes(b"".join(audit.rows.read_bytes().splitlines(keepends=True)[:-1]))
    assert "another snapshot" in audit.verify(older, expect=4)
    audit.site.database.sql("INSERT INTO audit_logs SELECT max(id) + 1, 'later', 1 FROM audit_logs")
    newer = tmp_path / "newer.tsv"
    seq = audit.seq
    audit.site.cli.run("table", "export", "audit_logs", "-o", newer, "--verify-id", seq).expect(4)
    assert "newer or never recorded" in audit.verify(newer, expect=4)


def test_a_changed_tile_of_the_log_is_noticed(audit: Audit) -> None:
    changed = audit.spoilt("changed-again.tsv", b"action 4", b"action 8")
    tile = next(iter(sorted((audit.folder / "logs" / "public.audit_logs").rglob("entries/**/*[0-9]"))))
    data = tile.read_bytes()
    tile.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    words = ["verify", "--checkpoint", audit.folder / "bundle.witnz.json", "--policy", audit.policy, "--log", audit.folder]
    audit.site.cli.run(*words, "--table-data", f"audit_logs={changed}").expect(2)
    tile.write_bytes(data)
    assert "1 rows" in audit.verify(changed, expect=3)


def test_the_printed_psql_command_writes_the_same_bytes(audit: Audit) -> None:
    out = audit.site.cli.run("table", "export", "audit_logs", "-o", audit.folder.parent / "by-psql.tsv", "--psql").expect(0).out
    assert out.startswith("PGCLIENTENCODING=UTF8 ")
    assert "COPY" in out
    assert "--psql" not in out
