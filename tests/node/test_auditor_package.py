"""What an auditor package shows of each table, and that the journal is walked once for all of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.evidence import PaperStore
from tests.support.journal_maker import TABLE
from witnz.core.bundle import parse_bundle
from witnz.node import evidence
from witnz.node.evidence import Evidence
from witnz.store import journal

QUIET = "public.settings"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PaperStore:
    """Two tables; one of them is sealed once, long before the end, and verified before the other."""
    made = PaperStore(tmp_path_factory.mktemp("package") / "store").start()
    made.protect(QUIET)
    made.change([(b"insert", b"1")], QUIET)
    made.seal(QUIET)
    made.verify(QUIET)
    for key in range(2, 30):
        made.change([(b"insert", b"%d" % key)])
        made.seal(TABLE)
        made.verify()
    made.checkpoint()
    return made


def test_the_newest_seal_and_the_newest_clean_verifications_of_each_table_are_in_it(
    store: PaperStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence, "MAX_VERIFICATIONS", 3)
    written = Evidence(store.db, lambda: store.at).auditor_package(tmp_path / "package")
    assert {(one["table"], one["size"]) for one in written["logs"]} == {(TABLE, 29), (QUIET, 2)}
    records = [proven.record for proven in parse_bundle((tmp_path / "package/bundle.witnz.json").read_bytes()).records]
    sealed = {head["table"]: head["size"] for one in records if one.type == "seal" for head in one.body["tables"]}
    assert sealed == {TABLE: 29, QUIET: 2}
    assert [(one.body["table"], one.body["size"]) for one in records if one.type == "verify"] == [
        (QUIET, 2), (TABLE, 27), (TABLE, 28), (TABLE, 29),
    ]  # fmt: skip


def test_more_tables_do_not_mean_more_walks_of_the_journal(
    store: PaperStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = PaperStore(tmp_path / "alone").start()
    alone.change([(b"insert", b"1")])
    alone.seal()
    walks, walk = [], journal.records_of
    monkeypatch.setattr(journal, "records_of", lambda *given, **how: (walks.append(given[1:]), walk(*given, **how))[1])
    counts = []
    for number, one in enumerate((alone, store)):
        Evidence(one.db, lambda: store.at).auditor_package(tmp_path / f"package{number}")
        counts.append(len(walks))
        walks.clear()
    assert counts[0] == counts[1]
    alone.close()
