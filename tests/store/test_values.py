"""The small tables: values, texts, nonces, images, the spool, verified states."""

from __future__ import annotations

import hashlib
import sqlite3

import pytest

from witnz.errors import StoreCorrupt, StoreError
from witnz.store import images, meta, nonces, spool, verified_states
from witnz.store.verified_states import VerifiedState


def test_values_are_kept_replaced_and_forgotten(conn: sqlite3.Connection) -> None:
    assert meta.load_value(conn, "a") is meta.load_number(conn, "a") is None
    meta.save_value(conn, "a", "x")
    meta.save_value(conn, "n", 1 << 60)
    assert (meta.load_value(conn, "a"), meta.load_number(conn, "n")) == ("x", 1 << 60)
    with pytest.raises(StoreCorrupt, match="whole number as a"):
        meta.load_number(conn, "a")
    meta.save_value(conn, "a", None)
    assert meta.load_value(conn, "a") is None


def test_the_store_of_another_cluster_is_refused(conn: sqlite3.Connection) -> None:
    meta.check_cluster(conn, "local/app", "0" * 32)
    meta.save_value(conn, meta.CLUSTER, "local/app")
    meta.save_value(conn, meta.CLUSTER_ID, "0" * 32)
    meta.check_cluster(conn, "local/app")
    meta.check_cluster(conn, "local/app", "0" * 32)
    for name, cluster_id in [("local/other", None), ("local/app", "1" * 32)]:
        with pytest.raises(StoreError, match="another cluster") as refused:
            meta.check_cluster(conn, name, cluster_id)
        assert refused.value.code == "store.foreign"


def test_long_texts_are_found_by_their_hash(conn: sqlite3.Connection) -> None:
    text = '{"columns":[' + "1," * 40_000 + "ü]}"
    digest = meta.save_text(conn, text)
    assert digest == meta.save_text(conn, text) == hashlib.sha256(text.encode()).hexdigest()
    assert meta.load_text(conn, digest) == text
    assert meta.load_text(conn, "0" * 64) is None
    conn.execute("UPDATE texts SET text = 'forged'")
    with pytest.raises(StoreCorrupt):
        meta.load_text(conn, digest)


def test_a_nonce_counts_for_one_transaction(conn: sqlite3.Connection) -> None:
    assert nonces.count(conn, "a" * 32, 100)
    assert nonces.count(conn, "a" * 32, 100)
    assert not nonces.count(conn, "a" * 32, 101)
    assert nonces.count(conn, "b" * 32, 101)


def test_images_are_kept_by_entry(conn: sqlite3.Connection) -> None:
    images.put(conn, 1, 5, b"five")
    images.put_many(conn, 1, [(6, b"six"), (7, b"x" * 100_000)])
    images.put(conn, 2, 5, b"other log")
    assert images.get(conn, 1, 5) == b"five"
    assert images.get(conn, 1, 7) == b"x" * 100_000
    images.drop(conn, 1, [5, 7, 99])
    assert images.get(conn, 1, 5) is images.get(conn, 1, 7) is None
    assert (images.get(conn, 1, 6), images.get(conn, 2, 5)) == (b"six", b"other log")


def test_the_spool_gives_back_in_order_and_only_once(conn: sqlite3.Connection) -> None:
    rows = [(1_000 + n, b"line %d" % n, b"k" if n % 2 else None, None, b"image" if n % 3 else None) for n in range(3_000)]
    spool.add_many(conn, 1, rows[:10])
    spool.add_many(conn, 2, rows[:5])
    spool.add_many(conn, 1, rows[10:])
    assert spool.count(conn, 1) == 3_000
    assert list(spool.take(conn, 1)) == rows
    assert list(spool.take(conn, 1)) == []
    assert spool.count(conn, 2) == 5
    spool.clear(conn, 2)
    assert spool.count(conn, 2) == 0


def test_the_newest_verified_state_of_a_log_is_kept(conn: sqlite3.Connection) -> None:
    assert verified_states.get(conn, 1) is None
    verified_states.save(conn, 1, VerifiedState(5, b"alive", (-7, -6)))
    verified_states.save(conn, 1, VerifiedState(9, b"alive!", ()))
    assert verified_states.get(conn, 1) == VerifiedState(9, b"alive!", ())
