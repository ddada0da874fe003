"""The store of an older version: each command that only reads says so, in one error, until something has written to it."""

from __future__ import annotations

from tests.cli.conftest import Site
from tests.support.stores import as_before_the_last_migration
from witnz.store.schema import MIGRATIONS

READING = [
    ("status",),
    ("verify", "--store"),
    ("checkpoint", "list"),
    ("checkpoint", "export", "-o", "checkpoint.json"),
    ("prove", "audit_logs", "--key", "3", "-o", "proof.json"),
    ("findings", "list"),
    ("log", "show", "audit_logs"),
    ("log", "export", "audit_logs", "-o", "log"),
    ("table", "export", "audit_logs", "-o", "table.csv"),
    ("anchor", "list"),
    ("keys", "show"),
    ("keys", "policy", "-o", "policy.txt"),
    ("cluster", "status"),
]


def test_each_command_that_reads_refuses_the_store_of_an_older_version_until_one_writes(site: Site) -> None:
    as_before_the_last_migration(site.folder / "witnz-data" / "witnz.db")
    for words in READING:
        error = site.cli.run("--json", *words).expect(1).error
        assert (error["code"], f"needs {len(MIGRATIONS)}" in error["message"]) == ("store", True), (words, error)
        assert error["hint"] == "start the node once with this version: it brings the store up to date"
    period = ("--from", "2026-01-01", "--to", "2027-01-01")
    site.cli.run("report", "--standard", "iso27001", *period, "-o", "package").expect(0)  # what writes brings it up to date
    for words in (("status",), ("findings", "list"), ("verify", "--store")):
        site.cli.run(*words).expect(0)
