"""The compiled twin of the fast way of :mod:`witnz.postgres.tuples`; not there where nothing could be compiled at install."""

from collections.abc import Sequence

def read_lines(run: Sequence[bytes], columns: int, start: int) -> list[bytes | None]: ...
