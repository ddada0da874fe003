"""Taking many messages of a COPY at once: the compiled loop gives what the plain one gives, message for message."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
import pytest
from psycopg import pq

from tests.support.postgres import Database
from witnz.postgres import copydata

COPIED = [
    copydata.copied_plainly,
    pytest.param(copydata.copied, id="chosen"),
    pytest.param(partial(copydata.drained_plainly, wait_ms=1000), id="drained_plainly"),
    pytest.param(partial(copydata.drained, wait_ms=1000), id="drained, chosen"),
]
RECEIVED = [copydata.received_plainly, pytest.param(copydata.received, id="chosen")]
ROWS = r"SELECT g, repeat(E'a\t\n\\', g % 40), NULL FROM generate_series(1, 5000) g"

Copied = Callable[[Any, int], tuple[bytes, int]]


def copying(database: Database, query: str) -> Any:
    """The libpq connection of a COPY that has begun."""
    pgconn = database.connect_witnz().pgconn
    pgconn.send_query(f"COPY ({query}) TO STDOUT".encode())
    while pgconn.is_busy():
        select.select([pgconn.socket], [], [], 60)
        pgconn.consume_input()
    result = pgconn.get_result()
    assert result is not None
    assert result.status == pq.ExecStatus.COPY_OUT
    return pgconn


def whole(copied: Copied, pgconn: Any, max_bytes: int) -> tuple[bytes, list[int]]:
    data, told, pieces = b"", 0, []
    while told >= 0:
        part, told = copied(pgconn, max_bytes)
        data += part
        pieces.append(len(part))
        if told == 0:
            select.select([pgconn.socket], [], [], 60)
            pgconn.consume_input()
    return data, pieces


@pytest.mark.parametrize("copied", COPIED)
def test_a_copy_arrives_as_the_server_wrote_it_in_pieces_of_the_size_asked_for(database: Database, copied: Copied) -> None:
    with database.connect_witnz().cursor().copy(f"COPY ({ROWS}) TO STDOUT") as copy:
        expected = b"".join(bytes(row) for row in copy)
    data, _ = whole(copied, copying(database, ROWS), 1 << 20)
    assert data == expected
    data, pieces = whole(copied, copying(database, ROWS), 1000)
    assert data == expected
    assert max(pieces) < 1000 + 300, "one row more than fits, at most"
    assert whole(copied, copying(database, "SELECT 1 WHERE false"), 1000)[0] == b""


@pytest.mark.parametrize("copied", COPIED)
def test_an_error_in_the_middle_of_a_copy_ends_it_with_the_servers_words(database: Database, copied: Copied) -> None:
    pgconn = copying(database, "SELECT 1 / (3000 - g) FROM generate_series(1, 5000) g")
    data, _ = whole(copied, pgconn, 1 << 20)
    assert data.count(b"\n") == 2999
    result = pgconn.get_result()
    assert result.error_field(pq.DiagnosticField.SQLSTATE) == b"22012"


@pytest.mark.parametrize("copied", COPIED)
def test_outside_a_copy_and_on_a_closed_connection_there_is_an_error(database: Database, copied: Copied) -> None:
    connection = database.connect_witnz()
    with pytest.raises(psycopg.OperationalError, match="no COPY in progress"):
        copied(connection.pgconn, 1000)
    connection.close()
    with pytest.raises(psycopg.OperationalError, match=r"closed|NULL"):
        copied(connection.pgconn, 1000)


@pytest.mark.parametrize("received", RECEIVED)
def test_the_messages_of_a_stream_come_without_headers_up_to_the_first_that_is_none(
    database: Database, received: Callable[..., tuple[int, int, bytes | None]]
) -> None:
    """Row lines of a COPY stand in for the stream: libpq does not look into them."""
    header = "w" + "h" * 24
    rows = [f"{header}{number:04d}" for number in range(200)]
    rows[100] = "k and no more"
    rows[150] = header[:-1]  # with the newline as long as a header and nothing in it
    values = ", ".join(f"({number}, '{row}')" for number, row in enumerate(rows))
    pgconn = copying(database, f"SELECT text FROM (VALUES {values}) v (number, text) ORDER BY number")
    payloads: list[bytes] = []
    others, told, taken = [], 1, 0
    while told >= 0:
        more, told, other = received(pgconn, payloads, len(payloads) + 30, 500)
        taken += more
        if other is not None:
            others.append(other)
        elif told == 0:
            select.select([pgconn.socket], [], [], 60)
            pgconn.consume_input()
    assert others == [b"k and no more\n", header[:-1].encode() + b"\n"]
    assert payloads == [b"%04d\n" % number for number in range(200) if number not in (100, 150)]
    assert taken == sum(len(payload) + 25 for payload in payloads)


@pytest.mark.parametrize("drained", [copydata.drained_plainly, pytest.param(copydata.drained, id="chosen")])
def test_what_comes_within_the_time_one_waits_is_in_one_piece_and_silence_is_told(database: Database, drained: Any) -> None:
    pgconn = copying(database, ROWS)
    data, told = drained(pgconn, 1 << 30, 60_000)
    assert told == -1
    assert data == whole(copydata.copied_plainly, copying(database, ROWS), 1 << 20)[0]
    slow = copying(database, "SELECT g FROM generate_series(1, 99999) g WHERE g < 99999 OR pg_sleep(60) IS NOT NULL")
    started = time.monotonic()
    data, told = drained(slow, 1 << 30, 50)
    assert told == 0
    assert data.startswith(b"1\n2\n")
    assert time.monotonic() - started < 50
    slow.get_cancel().cancel()


@pytest.mark.parametrize("data", [b"", b"\n", b"1", b"1\n2", b"\n\n1\n", b"x" * 5000 + b"\n" * 77])
def test_newlines_are_counted(data: bytes) -> None:
    assert copydata.lines_in(data) == copydata.lines_in_plainly(data) == len(data.split(b"\n")) - 1
