"""Editing a heap file: the server reads what was written, with checksums and without, and refuses nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from witnz.demo.heapfile import PAGE_BYTES, RowPlace, find_row, page_checksum, replace_value
from witnz.errors import DatabaseError, UsageError


@pytest.mark.parametrize(("version", "checksums"), [(16, False), (16, True), (18, True)])
def test_the_server_serves_the_edited_row_and_its_checksums_still_fit(own_server, version: int, checksums: bool) -> None:  # type: ignore[no-untyped-def]
    server = own_server(version=version, initdb_args=("-k",) if checksums and version < 18 else ())
    assert server.sql("SHOW data_checksums") == [("on" if checksums else "off",)]
    server.sql("CREATE TABLE notes AS SELECT g AS id, 'note number ' || g AS note FROM generate_series(1, 3000) g")
    place = find_row(server, "postgres", "notes", "id = %s", [2345])
    assert place.page > 0
    server.stop()
    offset = replace_value(place, b"note number 2345", b"note number 9999")
    assert place.segment.read_bytes()[offset : offset + 16] == b"note number 9999"
    if checksums:
        server.run("pg_checksums", "--check", "-D", server.data_dir)
    server.start()
    assert server.sql("SELECT note FROM notes WHERE id = 2345") == [("note number 9999",)]
    assert server.sql("SELECT count(*) FROM notes WHERE note = 'note number ' || id") == [(2999,)]


def test_a_value_that_is_not_in_the_row_or_of_another_length_is_refused(own_server) -> None:  # type: ignore[no-untyped-def]
    server = own_server()
    server.sql("CREATE TABLE notes AS SELECT 1 AS id, 'twice twice' AS note")
    with pytest.raises(DatabaseError, match="expected one row, found 0"):
        find_row(server, "postgres", "notes", "id = 2")
    place = find_row(server, "postgres", "notes", "id = 1")
    before = place.segment.read_bytes()
    for old, new in ((b"twice", b"once"), (b"twice", b"twice")):
        with pytest.raises(UsageError, match="same length"):
            replace_value(place, old, new)
    for old, found in ((b"twice", 2), (b"never", 0)):
        with pytest.raises(DatabaseError, match=f"found it {found} times"):
            replace_value(place, old, b"other")
    for wrong in (RowPlace(place.path, 0, 2), RowPlace(place.path, 1, 1)):
        with pytest.raises(DatabaseError):
            replace_value(wrong, b"twice twice", b"other other")
    assert place.segment.read_bytes() == before


def test_pages_beyond_a_gibibyte_are_in_the_next_file() -> None:
    place = RowPlace(Path("base/5/16384"), 131_072 * 2 + 3, 1)
    assert (place.segment, place.offset) == (Path("base/5/16384.2"), 3 * PAGE_BYTES)


def test_a_checksum_depends_on_every_byte_but_itself_and_on_the_place() -> None:
    page = bytes(range(256)) * 32
    checksum = page_checksum(page, 7)
    assert 1 <= checksum <= 65_535
    assert page_checksum(page[:8] + b"\xff\xff" + page[10:], 7) == checksum
    assert page_checksum(page, 8) != checksum
    assert page_checksum(page[:-1] + b"\0", 7) != checksum
