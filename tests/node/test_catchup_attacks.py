"""A member that lies to a node which catches up: it is found out by what was signed, named, and another one is asked."""

from __future__ import annotations

import shutil
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.test_joining import MORE, as_copied, make_history
from tests.support.joining import Growth, Lie
from tests.support.postgres import create_database
from witnz.core.canonical import canonical, parse_json
from witnz.core.record import parse_record
from witnz.core.tiles import format_entry_bundle, parse_entry_bundle
from witnz.demo.server import PostgresServer
from witnz.errors import ConfigError
from witnz.node.sources import NotFetched, WrongAnswer
from witnz.store import journal, logs
from witnz.store.database import Database


@pytest.fixture(scope="module")
def standing(tmp_path_factory: pytest.TempPathFactory, pg_server: PostgresServer) -> Iterator[Growth]:
    """A cluster that node2 is about to join; a seal covers its slot's position."""
    database = create_database(pg_server)
    grown = Growth.begin(tmp_path_factory.mktemp("growth"), database)
    make_history(grown)
    grown.prepare()
    database.sql(MORE)
    grown.first.caught_up()
    grown.first.node.seal_now()
    grown.add_members()
    grown.stand()
    shutil.copytree(grown.folder / "node2", grown.folder / "untouched")
    yield grown
    grown.close()
    database.drop()


@pytest.fixture
def growth(standing: Growth) -> Iterator[Growth]:
    """Everybody is honest, and node2 has nothing yet."""
    shutil.rmtree(standing.folder / "node2")
    shutil.copytree(standing.folder / "untouched", standing.folder / "node2")
    yield standing
    for fellow in standing.fellows.values():
        fellow.lie, fellow.asked = None, []


def only(method: str, bend: Callable[[bytes], bytes]) -> Lie:
    return lambda asked, request, answer: bend(answer) if asked == method else answer


def bend_json(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes], bytes]:
    def bend(answer: bytes) -> bytes:
        document = parse_json(answer, what="an answer", max_bytes=1 << 24)
        change(document)
        return canonical(document)

    return bend


def bend_items(change: Callable[[list[bytes]], list[bytes]]) -> Callable[[bytes], bytes]:
    return lambda answer: format_entry_bundle(change(parse_entry_bundle(answer)))


def flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def forged_record(answer: bytes) -> bytes:
    """A record of the journal with another body, as whoever has no key but its own would have to make it."""
    leaves = parse_entry_bundle(answer)
    place = next(i for i, leaf in enumerate(leaves) if parse_record(leaf).type == "finding")
    leaves[place] = leaves[place].replace(b'"severity":"high"', b'"severity":"info"').replace(b"critical", b"medium")
    return format_entry_bundle(leaves)


def other_secret(growth: Growth) -> Callable[[bytes], bytes]:
    """What is sealed is not opened by the liar; so it seals other things, with its own key, in the right form."""
    from witnz.node import handover
    from witnz.node.handover import Handed

    fellow = growth.fellows["node1"]
    lines = tuple(fellow.keys.log.lines())

    def bend(request: bytes) -> bytes:
        wanted = [tuple(log) for log in parse_json(request, what="a request", max_bytes=1 << 20)["wanted"]]
        secrets = {log: bytes(32) for log in wanted}
        return handover.seal(request, Handed(lines, secrets), fellow.keys.identity, "node1", "node2")

    return bend


LIES: dict[str, Lie] = {
    "an entry changed": only("join.entries", bend_items(lambda lines: [flip(lines[0], 9), *lines[1:]])),
    "an entry left out": only("join.entries", bend_items(lambda lines: lines[1:] or lines)),
    "a bundle cut off": only("join.entries", lambda answer: answer[:-3]),
    "nothing at all": only("join.entries", lambda answer: b""),
    "more entries than a block has": only("join.entries", lambda answer: b"\0\1x" * 300),
    "one entry again and again": only("join.entries", lambda answer: b"\0\1x"),
    "a tile changed": only("join.tile", lambda answer: flip(answer, 5)),
    "a tile too short": only("join.tile", lambda answer: answer[:-32]),
    "a tile too long": only("join.tile", lambda answer: answer + bytes(32)),
    "a record changed": only("join.journal", forged_record),
    "a record left out": only("join.journal", bend_items(lambda leaves: leaves[1:] or leaves)),
    "records in another order": only("join.journal", bend_items(lambda leaves: leaves[::-1])),
    "records that are none": only("join.journal", lambda answer: b"\0\2{}" * 20),
    "a checkpoint of another root": only(
        "join.head", bend_json(lambda head: head.update(checkpoint=_other_root(head["checkpoint"])))
    ),
    "a head that is none": only("join.head", lambda answer: b"[" * 5000),
    "keys sealed by nobody": only("join.keys", lambda answer: flip(answer, len(answer) // 2)),
}


def _other_root(note: str) -> str:
    origin, size, root, rest = note.split("\n", 3)
    return "\n".join([origin, size, b64encode(flip(b64decode(root), 0)).decode(), rest])


@pytest.mark.parametrize("lie", LIES)
def test_a_member_that_lies_is_not_believed_and_another_is_asked(growth: Growth, lie: str) -> None:
    growth.fellows["node1"].lie = LIES[lie]
    growth.join()
    assert growth.lines("node2") == growth.lines("node1")
    assert growth.fellows["node3"].asked != []


@pytest.mark.parametrize("lie", ["an entry changed", "a record changed", "a tile changed", "a bundle cut off"])
def test_where_all_members_lie_nothing_is_believed(growth: Growth, lie: str) -> None:
    for fellow in growth.fellows.values():
        fellow.lie = LIES[lie]
    with pytest.raises(WrongAnswer) as refused:
        growth.try_join()
    assert "node1" in refused.value.message
    assert "node3" in refused.value.message
    with growth.store("node2") as conn:
        assert [row.status for row in logs.list_logs(conn) if row.status != "fetching"] == []
        if lie == "a record changed":
            assert journal.journal_size(conn) == 1


def test_a_secret_that_the_journal_does_not_commit_to_is_refused(growth: Growth) -> None:
    bend = other_secret(growth)
    growth.fellows["node1"].lie = lambda method, request, answer: bend(request) if method == "join.keys" else answer
    growth.fellows["node3"].lie = only("join.keys", lambda answer: b"{}")
    with pytest.raises(WrongAnswer, match="is not the one that was committed to"):
        growth.try_join()


def test_one_member_alone_cannot_say_what_nobody_has_sealed(tmp_path: Path, pg_server: PostgresServer) -> None:
    database = create_database(pg_server)
    growth = Growth.begin(tmp_path, database)
    make_history(growth)
    growth.seal_no_more()
    database.sql("INSERT INTO marks VALUES ('never sealed')")
    growth.first.caught_up()
    growth.prepare()
    growth.first.caught_up()
    growth.add_members()
    growth.stand()
    try:
        growth.fellows["node1"].lie = only("join.tail", bend_json(lambda document: document.update(entries=[])))
        with pytest.raises(NotFetched, match="too few members tell it alike"):
            growth.try_join(unsealed_wait_s=0.2)
        growth.fellows["node1"].lie = None
        growth.join()
        as_copied(growth)
    finally:
        growth.close()
        database.drop()


def test_a_genesis_of_another_digest_is_refused_with_the_reason(growth: Growth) -> None:
    path = growth.folder / "node2/witnz.yaml"
    text = path.read_text()
    digest = growth.config.genesis or ""
    from witnz.config import load_config

    path.write_text(text.replace(digest, "0" * 64))
    try:
        growth.config = load_config(path, {})
        with pytest.raises(ConfigError, match=f"its digest is {digest}"):
            growth.try_join()
        path.write_text(text.replace(f"genesis: {digest}\n", ""))
        growth.config = load_config(path, {})
        with pytest.raises(ConfigError, match="must hold its digest"):
            growth.try_join()
    finally:
        path.write_text(text)
        growth.config = load_config(path, {})


def test_an_interrupted_join_goes_on_where_it_was(growth: Growth) -> None:
    given = 0

    def tire(method: str, request: bytes, answer: bytes) -> bytes:
        nonlocal given
        given += method == "join.entries"
        return b"" if given > 2 else answer

    for fellow in growth.fellows.values():
        fellow.lie = tire
    with pytest.raises(WrongAnswer):
        growth.try_join()
    with growth.store("node2") as conn:
        assert sum(row.size for row in logs.list_logs(conn)) >= 512
    for fellow in growth.fellows.values():
        fellow.lie = None
    growth.join()
    as_copied(growth)


def test_a_beginning_that_differs_is_set_aside_and_fetched_anew(growth: Growth) -> None:
    from witnz.node.catchup import CatchUp
    from witnz.node.membership import peers_of
    from witnz.node.sources import Sources
    from witnz.node.view import load_journal_state
    from witnz.store import meta

    growth.join()
    joining = growth.joining()
    with Database.open(growth.folder / "node2/data/witnz.db") as db:
        with db.write() as conn:
            row = logs.find_log(conn, "public.ledger")
            assert row is not None
            _forge_block(conn, row.id, 1)
            position = meta.load_number(conn, "acked") or 0
        sources = Sources(joining._channel, ["node1", "node3"])
        joining._channel.update_members(peers_of(load_journal_state(db)))
        catch_up = CatchUp(joining._home(db), sources, joining._connect)
        evidence = catch_up.restore("public.ledger", 1, position)
        assert evidence is not None
        assert evidence.read_bytes().split(b"\n")[0].split(b"\t")[1] == b"257"
        assert evidence.name.endswith("-public.ledger-1-from-257.tsv")
        assert catch_up.restore("public.prices", 1, position) is None
    as_copied(growth)


def _forge_block(conn: Any, log: int, n: int) -> None:
    """As root of the node would: another entry in block n, and everything that follows from it made to fit."""
    from witnz.store import entries, importing, tablelog

    lines = list(entries.entries(conn, log))
    head = importing.truncate_log(conn, log, n)
    first = lines[n * 256]
    lines[n * 256] = first.replace(b"\tbaseline\t", b"\tinsert\t")
    importing.append_lines(conn, head, lines[n * 256 :])
    assert tablelog.load_head(conn, log).size == len(lines)
