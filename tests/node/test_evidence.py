"""Which checkpoint a bundle is made under."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.served import TABLE, StandingNode
from witnz.errors import UsageError
from witnz.node.evidence import Evidence
from witnz.web.tiles import read_checkpoint


@pytest.fixture
def node(tmp_path: Path) -> Iterator[StandingNode]:
    """Two checkpoints, of 3 records and of 4."""
    tmp_path.chmod(0o700)
    standing = StandingNode(tmp_path)
    standing.add_table(rows=3)
    standing.seal()
    standing.add_rows(TABLE, [b"7\tx"])
    standing.now_us += 5_000_000
    standing.seal()
    yield standing
    standing.close()


def size_of(note: str) -> int:
    return int(note.split("\n")[1])


def test_a_bundle_is_of_the_newest_checkpoint_that_has_its_quorum(node: StandingNode, tmp_path: Path) -> None:
    """Of several nodes, the others' cosignatures come a moment after the note; what leaves the house has them."""
    evidence = Evidence(node.db, node.clock)
    assert size_of(json.loads(evidence.checkpoint_bundle())["checkpoint"]) == 4
    with node.db.write() as conn:
        conn.execute("UPDATE checkpoints SET final = 0 WHERE size = 4")
    assert size_of(json.loads(evidence.checkpoint_bundle())["checkpoint"]) == 3
    assert size_of(json.loads(evidence.checkpoint_bundle(4))["checkpoint"]) == 4, "the one that was asked for"
    assert evidence.auditor_package(tmp_path / "package")["size"] == 3
    with node.db.read() as conn:
        assert size_of(read_checkpoint(conn, node.journal.state, node.journal.state.cluster).decode()) == 3


def test_where_no_checkpoint_has_its_quorum_yet_none_is_exported_unasked(node: StandingNode) -> None:
    with node.db.write() as conn:
        conn.execute("UPDATE checkpoints SET final = 0")
    with pytest.raises(UsageError, match="no checkpoint that has its quorum"):
        Evidence(node.db, node.clock).checkpoint_bundle()
