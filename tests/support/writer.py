"""An application that writes all the time: inserts into ``events``, updates of ``prices``, each in a transaction of its own."""

from __future__ import annotations

import threading

from tests.support.postgres import Database
from witnz.ending import end_threads

WRITTEN = [
    {"name": "events", "mode": "append_only", "verify_interval": "0s"},
    {"name": "prices", "mode": "state_integrity", "on_change": "record", "verify_interval": "0s"},
]
PRICES = 10


class Writer:
    """Commits a row a time to one table, and a change a time to the other, until it is stopped."""

    def __init__(self, database: Database) -> None:
        self._connection = database.connect_owner()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="writer")
        self.inserted = self.updated = 0

    def __enter__(self) -> Writer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        end_threads(self._thread)
        self._connection.close()

    def _run(self) -> None:
        while not self._stop.wait(0.01):
            self._connection.execute("INSERT INTO events (what) VALUES ('it happened')")
            self.inserted += 1
            self._connection.execute("UPDATE prices SET cents = cents + 1 WHERE id = %s", [self.updated % PRICES + 1])
            self.updated += 1


def make_written(database: Database) -> None:
    """The two tables, the second one with rows."""
    database.sql("CREATE TABLE events (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, what text)")
    database.sql("CREATE TABLE prices (id int PRIMARY KEY, cents int)")
    database.sql(f"INSERT INTO prices SELECT g, g FROM generate_series(1, {PRICES}) g")


def written(database: Database) -> dict[str, int]:
    """How many entries each log must have: schema, baseline, and what the tables themselves say was committed."""
    (events,) = database.sql("SELECT count(*) FROM events")[0]
    (changes,) = database.sql(f"SELECT sum(cents) - {PRICES * (PRICES + 1) // 2} FROM prices")[0]
    return {"public.events": 1 + events, "public.prices": 1 + PRICES + changes}
