"""The anchor basic: bundles in folders and git work trees, complete or not there, and what is done to them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.anchors import CLUSTER, Kept, publication, published
from witnz.anchor.base import Surroundings
from witnz.anchor.basic import BACKEND, DirectoryAnchor
from witnz.anchor.registry import backend, named, open_anchor, party, types
from witnz.config import AnchorConfig
from witnz.core.bundle import parse_bundle
from witnz.core.finding import FindingClass
from witnz.core.note import parse_note
from witnz.core.receipt import parse_receipt
from witnz.core.verdict import CheckStatus
from witnz.errors import AnchorRefused, AnchorUnreachable, ConfigError


def anchor_of(**section: str) -> DirectoryAnchor:
    config = AnchorConfig.model_validate({"type": "basic", "timeout": "20s", **section})
    return BACKEND.open(config, Surroundings(CLUSTER, lambda: 0))


def git(directory: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", directory, *arguments], capture_output=True, text=True, check=True).stdout


@pytest.fixture(params=["directory", "git"])
def anchor(request: pytest.FixtureRequest, tmp_path: Path) -> DirectoryAnchor:
    return anchor_of(**{request.param: str(tmp_path / "copies")})


def failed(anchor: DirectoryAnchor, receipt: object) -> list[FindingClass | None]:
    return [look.finding for look in anchor.look(receipt) if look.check.status is CheckStatus.FAIL]  # type: ignore[arg-type]


def test_a_bundle_lies_there_whole_and_the_receipt_is_the_note(anchor: DirectoryAnchor) -> None:
    receipt = published(anchor, publication(9))
    (path,) = anchor.directory.glob("*.witnz.json")
    assert path.name == f"0000000000000009-{receipt.digest.hex()[:16]}.witnz.json"
    assert parse_bundle(path.read_bytes()).head.note == parse_note(receipt.members["note"])
    assert (anchor.directory / "latest").read_text() == publication(9).note
    assert receipt.members["note"] == publication(9).note
    assert failed(anchor, receipt) == []
    assert anchor.is_own(receipt)
    assert {path.name for path in anchor.directory.iterdir()} - {".git"} == {path.name, "latest"}


def test_publishing_again_changes_nothing(anchor: DirectoryAnchor) -> None:
    first = published(anchor)
    (path,) = anchor.directory.glob("*.witnz.json")
    before = path.stat().st_mtime_ns
    assert published(anchor) == first
    assert path.stat().st_mtime_ns == before


def test_the_newest_is_found_and_an_older_one_does_not_become_latest(anchor: DirectoryAnchor) -> None:
    for size in (9, 3):
        published(anchor, publication(size))
    assert (anchor.directory / "latest").read_text() == publication(9).note
    (anchor.directory / "0000000000000099-0000000000000000.witnz.json").write_text("rubbish")
    assert anchor.newest(CLUSTER, 0) == publication(9).note
    assert anchor.newest(CLUSTER, 9) is None
    assert anchor.newest("example.com/other", 0) is None


def test_what_is_done_to_the_file_has_a_name(anchor: DirectoryAnchor) -> None:
    receipt = published(anchor)
    (path,) = anchor.directory.glob("*.witnz.json")
    kept = path.read_bytes()
    path.write_bytes(b"another history")
    assert FindingClass.ANCHOR_ALTERED in failed(anchor, receipt)
    path.write_bytes(publication(3).bundle())
    assert FindingClass.ANCHOR_ALTERED in failed(anchor, receipt)
    path.unlink()
    assert FindingClass.ANCHOR_MISSING in failed(anchor, receipt)
    path.write_bytes(kept)
    assert failed(anchor, receipt) == []


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AnchorRefused, match="cannot be written"):
        published(anchor_of(directory=str(tmp_path / "file" / "below")))
    assert anchor_of(directory=str(tmp_path / "file" / "below")).rehearse()[0].status is CheckStatus.FAIL
    assert anchor_of(directory=str(tmp_path / "new")).rehearse()[0].status is CheckStatus.OK


# -- git ----------------------------------------------------------------------------------------------------------------------


def test_each_checkpoint_is_a_commit_and_is_pushed(tmp_path: Path) -> None:
    remote, copies = tmp_path / "remote.git", tmp_path / "copies"
    subprocess.run(["git", "init", "--quiet", "--bare", remote], check=True)
    anchor = anchor_of(git=str(copies))
    published(anchor, publication(3))
    git(copies, "remote", "add", "origin", str(remote))
    published(anchor, publication(9))
    assert git(remote, "log", "--all", "--format=%s").splitlines() == ["checkpoint of 9 records", "checkpoint of 3 records"]
    published(anchor, publication(9))
    assert len(git(copies, "log", "--format=%H").splitlines()) == 2
    git(copies, "remote", "set-url", "origin", str(tmp_path / "gone.git"))
    with pytest.raises(AnchorUnreachable, match="git push failed"):
        published(anchor, publication(5))
    assert len(git(copies, "log", "--format=%H").splitlines()) == 3, "it is pushed with the next one"


def test_a_commit_taken_back_is_missing(tmp_path: Path) -> None:
    anchor = anchor_of(git=str(tmp_path / "copies"))
    published(anchor, publication(3))
    receipt = published(anchor, publication(9))
    git(tmp_path / "copies", "reset", "--quiet", "--hard", "HEAD~1")
    assert failed(anchor, receipt) == [FindingClass.ANCHOR_MISSING] * 2


# -- the registry -------------------------------------------------------------------------------------------------------------


def test_our_own_types_are_there_and_an_unknown_one_is_refused(tmp_path: Path) -> None:
    assert types()[:3] == ["basic", "witness", "s3"]
    assert {backend(kind).type for kind in ("basic", "witness", "s3")} == {"basic", "witness", "s3"}
    with pytest.raises(ConfigError, match="'carrier-pigeon' is not known"):
        open_anchor(AnchorConfig.model_validate({"type": "carrier-pigeon"}), Surroundings(CLUSTER, lambda: 0))
    assert "does not know" in party(parse_receipt({"type": "rekor", "digest": "0" * 64, "size": 1}))
    receipt = published(anchor_of(directory=str(tmp_path)), memory=Kept())
    assert "taken a copy" in party(receipt)


def test_anchors_have_names_of_their_own() -> None:
    sections = [AnchorConfig.model_validate({"type": "s3", "bucket": "b"}) for _ in range(3)]
    sections.append(AnchorConfig.model_validate({"type": "basic", "directory": "d", "name": "s3-2"}))
    assert list(named(sections)) == ["s3", "s3-2", "s3-3", "s3-2-2"]


def test_another_package_brings_a_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry point, as an installed package has it."""
    from witnz.anchor import registry

    (tmp_path / "pigeon.py").write_text("from witnz.anchor.basic import BACKEND\n")
    info = tmp_path / "pigeon-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pigeon\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[witnz.anchors]\npigeon = pigeon:BACKEND\ns3 = pigeon:BACKEND\n")
    monkeypatch.syspath_prepend(tmp_path)
    registry._others.cache_clear()
    try:
        assert types()[-1] == "pigeon"
        assert backend("pigeon") is BACKEND
        assert backend("s3").type == "s3", "nobody replaces our own"
    finally:
        registry._others.cache_clear()
