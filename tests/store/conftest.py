"""A store of its own for each test."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from witnz.store.database import Database


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path


@pytest.fixture
def database(directory: Path) -> Iterator[Database]:
    with Database.create(directory / "witnz.db") as made:
        yield made


@pytest.fixture
def conn(database: Database) -> Iterator[sqlite3.Connection]:
    """One open write transaction."""
    with database.write() as connection:
        yield connection
