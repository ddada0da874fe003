"""A database that witnz reaches through another port, and everybody else directly."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.postgres import Database


@dataclass(slots=True, eq=False)
class FarDatabase(Database):
    """Only the node's own way to the database leads through the cutter."""

    port: int = 0

    @property
    def witnz_dsn(self) -> str:
        return f"{Database.witnz_dsn.fget(self)} port={self.port}"  # type: ignore[attr-defined]
