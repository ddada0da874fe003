"""The whole job on data that nobody here made up: every flight that left New York in 2013, with its NULLs."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from tests.support.flights import NULLS, ROWS, load_flights
from tests.support.node import Protected
from tests.support.postgres import Database
from witnz.core.entry import parse_entry
from witnz.core.verdict import Verdict
from witnz.store import entries

pytestmark = pytest.mark.slow

TABLE = "public.flights"
LATER = 1_000  # flights that depart once the table is protected

# It was cancelled: no departure, no arrival, no delay, no time in the air.
CANCELLED = "time_hour = '2013-01-01 21:00:00+00' AND carrier = 'EV' AND flight = 4308"
CANCELLED_KEY = "EV\\t4308\\t2013-01-01 21:00:00+00"
THEY_ARE = "(f.time_hour, f.carrier, f.flight) = (h.time_hour, h.carrier, h.flight)"


def test_one_cancelled_flight_that_suddenly_departed_is_found_among_336776(database: Database, tmp_path: Path) -> None:
    with psycopg.connect(database.owner_dsn, autocommit=True) as owner:
        assert load_flights(owner) == ROWS
        owner.execute(f"CREATE TABLE held_back AS SELECT * FROM flights WHERE month = 12 LIMIT {LATER}")
        owner.execute(f"DELETE FROM flights f USING held_back h WHERE {THEY_ARE}")
    protected = Protected.start(tmp_path, database, [{"name": "flights", "mode": "append_only"}])
    try:
        verified = protected.verify(TABLE)
        assert (verified.verdict, verified.result.rows) == (Verdict.VERIFIED, ROWS - LATER)
        database.sql("INSERT INTO flights SELECT * FROM held_back")
        protected.caught_up()
        verified = protected.verify(TABLE)
        assert (verified.verdict, verified.result.rows) == (Verdict.VERIFIED, ROWS)
        assert protected.findings(state=None) == []
        for column, count in NULLS.items():
            assert database.sql(f"SELECT count(*) FROM flights WHERE {column} IS NULL") == [(count,)]

        assert database.sql(f"SELECT dep_time, air_time FROM flights WHERE {CANCELLED}") == [(None, None)]
        departed = f"UPDATE flights SET dep_time = 1638, dep_delay = 8 WHERE {CANCELLED}"
        change_unseen(database, protected.config.publication, departed)
        verified = protected.verify(TABLE)
        assert verified.verdict is Verdict.TAMPERED and verified.result.rows == ROWS
        (difference,) = verified.result.differences
        assert (difference.cls, difference.key, difference.explained) == ("row.modified", CANCELLED_KEY, False)
        finding = protected.wait_for("row.modified", CANCELLED_KEY)
        state = protected.node.state(TABLE)
        with protected.node.db.read() as conn:
            newest = [parse_entry(line) for line in entries.entries_with_key(conn, state.head.id, CANCELLED_KEY.encode())][-1]
        assert newest.row is not None and finding.recorded == newest.row.hex() != finding.found
    finally:
        protected.stop()


def change_unseen(database: Database, publication: str, statement: str) -> None:
    """As the superuser, with the table out of the publication for the length of the transaction."""
    with psycopg.connect(database.admin_dsn) as dba:
        dba.execute(f'ALTER PUBLICATION "{publication}" DROP TABLE flights')
        assert dba.execute(statement).rowcount == 1
        dba.execute(f'ALTER PUBLICATION "{publication}" ADD TABLE ONLY flights')
