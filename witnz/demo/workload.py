"""The application of the demo: it writes all the time, and everything it does is legitimate, so nothing it does may be found.

What it does, in turn, each in a transaction: entries into the append-only table, several at once, with a savepoint rolled back,
a whole transaction rolled back, and a change of a price that carries an intent signed with the application's key
(formats.md 2, "Messages").  It has the application's role, not the owner's.  When the server goes away it connects again.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from witnz.core.keys import Signer
from witnz.core.message import CLAIM_PREFIX, format_intent, sign_intent

PAUSE_S: Final = 0.02
RECONNECT_S: Final = 0.1

_INSERT = "INSERT INTO audit_logs (actor, action, detail) VALUES (%s, %s, %s)"


@dataclass(frozen=True, slots=True)
class IntentSigner:
    """Who signs changes of prices: ``key`` is the name under which the journal knows the signer."""

    key: str
    signer: Signer
    cluster_id: str

    def intent(self, xid: int, hint: str, tables: Sequence[str]) -> str:
        """The message that authorises transaction ``xid`` to write to ``tables``."""
        nonce = secrets.token_hex(16)
        signed = sign_intent(
            self.signer, self.cluster_id, by="price-desk", hint=hint, key=self.key, nonce=nonce, tables=tables, xid=xid
        )
        return format_intent(signed)


class Workload:
    """Runs in a thread between :meth:`start` and :meth:`stop`; the counters may be read at any time.

    ``rows``: written and committed.  ``signed``: changes that carried an intent.  ``rolled_back``: transactions that did not
    commit, on purpose.  ``interrupted``: how often the server went away.  ``failure``: why it gave up, if it did.
    """

    def __init__(self, dsn: str, skus: Sequence[str], sign: IntentSigner) -> None:
        self._dsn, self._skus, self._sign = dsn, skus, sign
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)
        self.rows = self.signed = self.rolled_back = self.interrupted = self.transactions = 0
        self.failure = ""

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self) -> None:
        """Finish the transaction at hand and stop."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

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
            rows = steps[self.transactions % len(steps)](conn)
            if rows:
                conn.commit()
                self.rows += rows
            else:
                conn.rollback()
                self.rolled_back += 1
            self.transactions += 1

    def _signed_price(self, conn: Any) -> int:
        sku = self._skus[self.signed % len(self._skus)]
        (xid,) = conn.execute("SELECT pg_current_xact_id()::text").fetchone()
        message = self._sign.intent(int(xid), f"weekly price review of {sku}", ["billing.prices"])
        conn.execute("SELECT pg_logical_emit_message(true, %s, %s::text)", [CLAIM_PREFIX, message])
        conn.execute("UPDATE billing.prices SET cents = cents + 1, changed_at = now() WHERE sku = %s", [sku])
        self.signed += 1
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
