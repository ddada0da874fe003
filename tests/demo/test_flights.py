"""The sample data are the ones published, complete, with their NULLs."""

from tests.support.flights import NULLS, ROWS, flights_lines, load_flights
from tests.support.postgres import Database


def test_all_flights_load_with_their_nulls_and_key(database: Database) -> None:
    connection = database.connect_owner()
    assert load_flights(connection) == ROWS
    for column, count in NULLS.items():
        assert connection.execute(f"SELECT count(*) FROM flights WHERE {column} IS NULL").fetchone() == (count,)


def test_a_part_of_the_flights_is_the_first_rows() -> None:
    lines = list(flights_lines(2))
    assert len(lines) == 3
    assert lines[0].startswith(b"year,month,day,dep_time")
    assert lines[1].startswith(b"2013,1,1,517,515,2,830,819,11,UA,1545,N14228,EWR,IAH")
