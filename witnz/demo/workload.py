"""The application of the demo: it writes all the time, and everything it does is legitimate, so nothing it does may be found.

What it does, in turn, each in a transaction: entries into the append-only table, several at once, with a savepoint rolled back,
a whole transaction rolled back, and a change of a price that carries an intent signed with the application's key
(formats.md 2, "Messages").  It has the application's role, not the owner's.  When the server goes away it connects again.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from witnz.core.keys import Signer
from witnz.core.message import CLAIM_PREFIX, format_intent, sign_intent
from witnz.ending import end_threads

PAUSE_S: Final = 0.04
RECONNECT_S: Final = 0.1

_INSERT = "INSERT INTO audit_logs (actor, action, detail) VALUES (%s, %s, %s)"


@dataclass(frozen=True, slots=True)
class IntentSigner:
    """Who signs changes of prices: ``key`` is the name under which the journal knows the signer."""

    key: str
    signer: Signer
    cluster_id: str

    @classmethod
    def load(cls, path: Path, cluster_id: str) -> IntentSigner:
        """From the file that ``witnz keys new intent`` made.  Raises KeyProblem."""
        from witnz.node.keyring import load_person_key

        return cls(*load_person_key(path, "intent"), cluster_id)

    def intent(self, xid: int, hint: str, tables: Sequence[str]) -> str:
        """The message that authorises transaction ``xid`` to write to ``tables``."""
        nonce = secrets.token_hex(16)
        signed = sign_intent(
            self.signer, self.cluster_id, by="price-desk", hint=hint, key=self.key, nonce=nonce, tables=tables, xid=xid
        )
        return format_intent(signed)


class Workload:
    """Runs in a thread between :meth:`start` and :meth:`stop`; the counters may be read at any time.

    ``skus``: the prices that it changes, once there is somebody to ``sign`` for it; until then it leaves them alone.
    ``rows``: written and committed.  ``signed``: changes that carried an intent.  ``rolled_back``: transactions taken back on
    purpose.  ``interrupted``: how often the server went away.  ``failure``: why it gave up, if it did.
    """

    def __init__(self, dsn: str, skus: Sequence[str]) -> None:
        self._dsn, self._skus = dsn, skus
        self.sign: IntentSigner | None = None
        self._stopping, self._paused = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)
        self.rows = self.signed = self.rolled_back = self.interrupted = self.transactions = 0
        self.failure = ""

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the transaction at hand and stop."""
        self._stopping.set()
        end_threads(self._thread)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It writes nothing more meanwhile, once the transaction at hand is done."""
        self._paused.set()
        try:
            yield
        finally:
            self._paused.clear()

    def counts(self) -> dict[str, int]:
        """The counters by name."""
        names = ("transactions", "rows", "signed", "rolled_back", "interrupted")
        return {name: int(getattr(self, name)) for name in names}

    def _run(self) -> None:
        import psycopg

        connected = False
        while not self._stopping.is_set():
            try:
                with psycopg.connect(self._dsn) as conn:
                    connected = True
                    self._write(conn)
            except psycopg.OperationalError:
                self.interrupted += connected
                connected = False
                self._stopping.wait(RECONNECT_S)
            except psycopg.Error as error:
                self.failure = str(error).strip()
                return

    def _write(self, conn: Any) -> None:
        steps: tuple[Callable[[Any], int], ...] = (_one, _several, self._signed_price, _with_savepoint, _taken_back)
        while not self._stopping.wait(PAUSE_S):
            if self._paused.is_set():
                continue
            step = steps[self.transactions % len(steps)]
            rows = step(conn)
            if rows:
                conn.commit()
            else:
                conn.rollback()
            self.transactions += 1
            self.rows += rows
            self.signed += step == self._signed_price and rows
            self.rolled_back += step == _taken_back

    def _signed_price(self, conn: Any) -> int:
        if self.sign is None:
            return 0
        sku = self._skus[self.signed % len(self._skus)]
        (xid,) = conn.execute("SELECT pg_current_xact_id()::text").fetchone()
        message = self.sign.intent(int(xid), f"weekly price review of {sku}", ["billing.prices"])
        conn.execute("SELECT pg_logical_emit_message(true, %s, %s::text)", [CLAIM_PREFIX, message])
        conn.execute("UPDATE billing.prices SET cents = cents + 1, changed_at = now() WHERE sku = %s", [sku])
        return 1


def _one(conn: Any) -> int:
    conn.execute(_INSERT, ["shop", "order.placed", f"order {secrets.randbelow(100_000)}"])
    return 1


def _several(conn: Any) -> int:
    conn.cursor().executemany(_INSERT, [["shop", "stock.moved", f"shelf {shelf}"] for shelf in range(5)])
    return 5


def _with_savepoint(conn: Any) -> int:
    conn.execute(_INSERT, ["shop", "invoice.sent", "kept"])
    with conn.transaction(force_rollback=True):
        conn.execute(_INSERT, ["shop", "invoice.sent", "rolled back to the savepoint"])
    return 1


def _taken_back(conn: Any) -> int:
    conn.execute(_INSERT, ["shop", "order.placed", "never committed"])
    return 0
